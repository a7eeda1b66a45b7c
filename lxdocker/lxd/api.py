"""LXD, as the rest of lxdocker sees it. The only importer of pylxd.

Every wait here is in short slices and asks ``cancelled`` in between, so that Ctrl-C is answered at once, and what a
daemon that hangs holds up is given up: in a minute as a rule, sooner after Ctrl-C, an import in a quarter of an hour.
LXD's REST API: https://documentation.ubuntu.com/lxd/latest/rest-api/.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lxdocker.errors import HostError, LxdError
from lxdocker.values import Fingerprint

if TYPE_CHECKING:
    import pylxd

CHUNK = 1 << 20  # bytes; one read or write of streamed content
REMOVAL_SECONDS = 30  # how long removing an instance is tried
SLICE_SECONDS = 1  # how long one wait for an operation lasts before cancellation is looked at
# Time to connect, and to hear something: an import hashes and stores the whole image before it answers.
TIMEOUT = (10, 900)
SOON = (10, 60)  # the same for what LXD answers at once and then does in the background
HURRY = (10, 15)  # and for cleaning up, where the user asked to stop: what is left the next run removes

Progress = Callable[[int], None]  # called with the number of bytes moved since the last call


class Cancelled(LxdError):
    """The user asked to stop."""

    def __init__(self) -> None:
        super().__init__("stopped", "interrupted", "run the same command again: it takes up where this one ended")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in an LXD project's store."""

    fingerprint: Fingerprint
    properties: Mapping[str, str]
    aliases: tuple[str, ...]
    size: int  # bytes
    uploaded_at: str  # RFC 3339


class Lxd:
    """One LXD daemon on its unix socket, safe to use from several threads."""

    def __init__(self, cancelled: threading.Event | None = None) -> None:
        """Raises HostError when no daemon answers, or not to this user."""
        self.cancelled = cancelled or threading.Event()
        self._local = threading.local()
        self._client()

    # ---- connection

    @staticmethod
    def socket_path() -> Path:
        """Where pylxd and ``lxc`` look for the daemon."""
        if folder := os.environ.get("LXD_DIR"):
            return Path(folder) / "unix.socket"
        snap = Path("/var/snap/lxd/common/lxd/unix.socket")
        return snap if snap.exists() else Path("/var/lib/lxd/unix.socket")

    def _client(self) -> pylxd.Client:
        """A client of this thread's own: pylxd's session keeps one connection per address."""
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = _connect(self.socket_path(), self._patience(SOON))
        return client

    def _patience(self, timeout: tuple[float, float]) -> tuple[float, float]:
        return HURRY if self.cancelled.is_set() else timeout

    def _api(self, *path: str) -> Any:
        node = self._client().api
        for part in path:
            node = node[urllib.parse.quote(part, safe="")]
        return node

    def request(
        self,
        method: str,
        path: Sequence[str],
        what: str,
        *,
        project: str | None = None,
        timeout: tuple[float, float] = TIMEOUT,
        **arguments: Any,
    ) -> Any:
        """One API request; ``what`` says in an error message what was attempted. Returns the response.

        Raises LxdError with LXD's own words.
        """
        from pylxd import exceptions
        from requests import RequestException

        params = {**({"project": project} if project else {}), **arguments.pop("params", {})}
        try:
            return getattr(self._api(*path), method)(params=params, timeout=self._patience(timeout), **arguments)
        except exceptions.NotFound as error:
            raise NotFoundError(f"{what} failed", str(error)) from error
        except exceptions.LXDAPIException as error:
            raise _translate(what, str(error)) from error
        except (RequestException, OSError) as error:
            raise LxdError(f"{what} failed", f"no answer from LXD: {error}", "is LXD still running?") from error

    def get(self, *path: str, what: str, project: str | None = None, **params: str) -> Any:
        """The ``metadata`` of a GET."""
        return self.request("get", path, what, project=project, params=params).json()["metadata"]

    def wait(
        self,
        response: Any,
        what: str,
        timeout: float = 300,
        tick: Callable[[], None] | None = None,
        cancellable: bool = True,
    ) -> Any:
        """Waits for the background operation that ``response`` started; returns the operation.

        Calls ``tick`` about once a second. Raises LxdError when it fails or takes longer than ``timeout`` seconds,
        Cancelled when the user asked to stop.
        """
        body = response.json()
        if body.get("type") != "async":
            return body.get("metadata")
        identifier = _operation_id(response)
        deadline = time.monotonic() + timeout
        while True:
            if cancellable and self.cancelled.is_set():
                raise Cancelled
            operation = self._operation(identifier, what)
            if operation["status_code"] >= 200:
                break
            if time.monotonic() > deadline:
                with contextlib.suppress(LxdError):
                    self.request("delete", ("operations", identifier), what, timeout=SOON)
                raise LxdError(f"{what} failed", f"it took longer than {timeout:.0f} s")
            if tick:
                tick()
        if operation["status_code"] != 200:
            raise _translate(what, operation.get("err") or operation["status"])
        return operation

    def why_failed(self, response: Any, what: str) -> LxdError | None:
        """Why the background operation that ``response`` started failed; None if it did not, or nobody knows."""
        with contextlib.suppress(LxdError):
            operation = self._operation(_operation_id(response), what)
            if operation["status_code"] >= 400:
                return _translate(what, operation.get("err") or operation["status"])
        return None

    def _operation(self, identifier: str, what: str) -> Any:
        """The operation once it has ended, or after a slice of time."""
        path, params = ("operations", identifier, "wait"), {"timeout": str(SLICE_SECONDS)}
        return self.request("get", path, what, params=params, timeout=SOON).json()["metadata"]

    @property
    def server(self) -> Mapping[str, Any]:
        """What GET /1.0 says: environment, extensions, configuration."""
        info: Mapping[str, Any] = self._client().host_info
        return info

    # ---- images and aliases

    def images(self, project: str) -> list[StoredImage]:
        """All images of a project, in one request. Raises NotFoundError where there is no such project."""
        found = self.get("images", what=f"listing images of project {project}", project=project, recursion="1")
        return [_stored_image(image) for image in found]

    def image(self, project: str, fingerprint: Fingerprint) -> StoredImage | None:
        """One image, or None."""
        try:
            return _stored_image(self.get("images", fingerprint.value, what="looking up an image", project=project))
        except NotFoundError:
            return None

    def aliases(self, project: str) -> dict[str, Fingerprint]:
        """Every alias of a project and what it points to."""
        found = self.get("images", "aliases", what="listing aliases", project=project, recursion="1")
        return {alias["name"]: Fingerprint(alias["target"]) for alias in found}

    def import_image(
        self,
        project: str,
        fingerprint: Fingerprint,
        metadata: Path,
        rootfs: Path,
        properties: Mapping[str, str],
        progress: Progress | None = None,
    ) -> None:
        """Streams a split image into the store; an image already there is left as it is.

        LXD checks the content against ``fingerprint``.
        """
        from requests_toolbelt import MultipartEncoder, MultipartEncoderMonitor

        what = f"importing image {fingerprint.short}"
        if self.image(project, fingerprint):
            return
        with metadata.open("rb") as metadata_file, rootfs.open("rb") as rootfs_file:
            body = MultipartEncoder(
                [
                    ("metadata", (metadata.name, metadata_file, "application/octet-stream")),
                    ("rootfs", (rootfs.name, rootfs_file, "application/octet-stream")),
                ]
            )
            seen = 0

            def on_read(monitor: Any) -> None:
                nonlocal seen
                if self.cancelled.is_set():
                    raise Cancelled
                if progress:
                    progress(monitor.bytes_read - seen)
                seen = monitor.bytes_read

            monitored = MultipartEncoderMonitor(body, on_read)
            headers = {
                "Content-Type": body.content_type,
                "X-LXD-fingerprint": fingerprint.value,
                "X-LXD-properties": urllib.parse.urlencode(properties),
            }
            response = self.request(
                "post", ("images",), what, project=project, data=_Blocks(monitored), headers=headers
            )
        self.wait(response, what, timeout=900)

    def export_image(self, project: str, fingerprint: Fingerprint, folder: Path) -> tuple[Path, Path]:
        """Streams a split image's metadata and rootfs into ``folder``; raises LxdError for a unified one."""
        from python_multipart.multipart import MultipartParser, parse_options_header

        what = f"exporting image {fingerprint.short}"
        response = self.request(
            "get", ("images", fingerprint.value, "export"), what, project=project, stream=True, is_api=False
        )
        with contextlib.closing(response), contextlib.ExitStack() as files:
            kind, options = parse_options_header(response.headers.get("Content-Type", ""))
            if kind != b"multipart/form-data" or b"boundary" not in options:
                raise LxdError(f"{what} failed", "it is not a split image")
            outputs = [folder / "metadata", folder / "rootfs"]
            pending = iter(outputs)
            current: list[IO[bytes]] = []

            def begin() -> None:
                path = next(pending, None)
                if path is None:
                    raise LxdError(f"{what} failed", "LXD sent more than two parts")
                current[:] = [files.enter_context(path.open("wb"))]

            def data(chunk: bytes, start: int, end: int) -> None:
                current[0].write(chunk[start:end])

            parser = MultipartParser(options[b"boundary"], {"on_part_begin": begin, "on_part_data": data})
            for chunk in _chunks(response, what):
                if self.cancelled.is_set():
                    raise Cancelled
                parser.write(chunk)
            parser.finalize()
        if next(pending, None) is not None:
            raise LxdError(f"{what} failed", "LXD sent fewer than two parts")
        return outputs[0], outputs[1]

    def set_image_properties(self, project: str, fingerprint: Fingerprint, properties: Mapping[str, str]) -> None:
        """Replaces an image's properties, and nothing else of it."""
        self.request(
            "patch",
            ("images", fingerprint.value),
            f"setting properties of image {fingerprint.short}",
            project=project,
            json={"properties": dict(properties)},
        )

    def delete_image(self, project: str, fingerprint: Fingerprint) -> None:
        """Deletes an image and the aliases that point to it; one that is gone already is fine."""
        what = f"deleting image {fingerprint.short}"
        with contextlib.suppress(NotFoundError):
            self.wait(self.request("delete", ("images", fingerprint.value), what, project=project), what)

    def set_alias(self, project: str, alias: str, fingerprint: Fingerprint) -> None:
        """Points an alias at an image, moving it in one step if it exists."""
        what = f"setting alias {alias}"
        body = {"name": alias, "target": fingerprint.value, "description": ""}
        try:
            self.request("put", ("images", "aliases", alias), what, project=project, json=body)
        except NotFoundError:
            self.request("post", ("images", "aliases"), what, project=project, json=body)

    def delete_alias(self, project: str, alias: str) -> None:
        """Deletes an alias; one that is gone already is fine."""
        with contextlib.suppress(NotFoundError):
            self.request("delete", ("images", "aliases", alias), f"deleting alias {alias}", project=project)

    # ---- projects, profiles, volumes, pools, networks

    def ensure_project(self, name: str, description: str, config: Mapping[str, str]) -> None:
        """Creates a project unless it is there."""
        self._create_missing(("projects",), name, {"description": description, "config": dict(config)})

    def ensure_profile(self, project: str, name: str, profile: Mapping[str, Any]) -> None:
        """Creates a profile, or makes the one there the same."""
        there = self._create_missing(("profiles",), name, dict(profile), project=project)
        if there and any(there.get(key) != value for key, value in profile.items()):
            what = f"updating profile {name}"
            self.request("put", ("profiles", name), what, project=project, json=dict(profile))

    def ensure_volume(self, project: str, pool: str, name: str, description: str) -> None:
        """Creates a custom storage volume unless it is there."""
        self._create_missing(
            ("storage-pools", pool, "volumes", "custom"), name, {"description": description}, project=project
        )

    def _create_missing(
        self, path: tuple[str, ...], name: str, body: Mapping[str, Any], project: str | None = None
    ) -> Mapping[str, Any] | None:
        """Returns what was there, even if another client was faster; None when it was created."""
        what = f"creating {path[-1].rstrip('s')} {name}"
        with contextlib.suppress(NotFoundError):
            return self._one(path, name, what, project)
        try:
            self.wait(self.request("post", path, what, project=project, json={"name": name, **body}), what)
        except LxdError as error:
            if "already exists" in error.details:
                return self._one(path, name, what, project)
            raise
        return None

    def _one(self, path: tuple[str, ...], name: str, what: str, project: str | None) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.get(*path, name, what=what, project=project)
        return found

    def profile(self, project: str, name: str) -> Mapping[str, Any]:
        """A profile's config and devices."""
        found: Mapping[str, Any] = self.get("profiles", name, what=f"reading profile {name}", project=project)
        return found

    def pools(self) -> list[str]:
        """Names of the storage pools."""
        return [url.rsplit("/", 1)[-1] for url in self.get("storage-pools", what="listing storage pools")]

    def bridges(self) -> list[str]:
        """Names of the networks that LXD manages and instances can join."""
        found = self.get("networks", what="listing networks", recursion="1")
        return [network["name"] for network in found if network["managed"] and network["type"] in {"bridge", "ovn"}]

    # ---- instances

    def instances(self, project: str) -> list[Mapping[str, Any]]:
        """All instances of a project with their config; none where there is no such project."""
        found: list[Mapping[str, Any]] = self.get("instances", what="listing builders", project=project, recursion="1")
        return found

    def create_instance(self, project: str, body: Mapping[str, Any]) -> None:
        """Creates an instance and starts it."""
        name = body["name"]
        what = f"starting builder {name}"
        response = self.request("post", ("instances",), what, project=project, json=dict(body))
        try:
            self.wait(response, what)
        except (Cancelled, KeyboardInterrupt):
            # Until LXD has made it there is nothing that could be deleted, and afterwards nobody would. A download of
            # its image can be ended.
            with contextlib.suppress(LxdError):
                self.request("delete", ("operations", _operation_id(response)), what, timeout=SOON)
            with contextlib.suppress(LxdError):
                self.wait(response, what, timeout=REMOVAL_SECONDS, cancellable=False)
            raise
        start = {"action": "start", "timeout": 60}
        self.wait(self.request("put", ("instances", name, "state"), what, project=project, json=start), what)

    def add_device(self, project: str, name: str, device: str, config: Mapping[str, str]) -> None:
        """Adds a device to a running instance."""
        what = f"adding device {device} to {name}"
        body = {"devices": {device: dict(config)}}
        self.wait(self.request("patch", ("instances", name), what, project=project, json=body, timeout=SOON), what)

    def delete_instance(self, project: str, name: str) -> None:
        """Stops and deletes an instance, whatever state it is in; one that is gone already is fine.

        Goes on when the user asked to stop: this is the cleaning up.
        """
        what = f"removing builder {name}"
        path = ("instances", name)
        stop = {"action": "stop", "force": True, "timeout": 30}
        # An ephemeral instance deletes itself while it stops; a half-made one is not running; and one that a killed
        # lxdocker left may be busy for a while with what that had asked for last.
        deadline = time.monotonic() + REMOVAL_SECONDS
        while True:
            with contextlib.suppress(LxdError):
                response = self.request("put", (*path, "state"), what, project=project, json=stop, timeout=SOON)
                self.wait(response, what, timeout=60, cancellable=False)
            try:
                response = self.request("delete", path, what, project=project, timeout=SOON)
                self.wait(response, what, timeout=60, cancellable=False)
            except NotFoundError:
                return
            except LxdError as error:
                if time.monotonic() > deadline:
                    by_hand = f"lxc delete --project {project} --force {name}"
                    raise LxdError(f"{what} failed", error.details, by_hand) from error
                time.sleep(0.2)
            else:
                return

    def push(self, project: str, name: str, path: str, content: bytes | Iterator[bytes], mode: int = 0o600) -> None:
        """Writes a file into an instance, streaming when given an iterator, until the user asks to stop: Cancelled."""
        if not isinstance(content, bytes):
            content = self._until_cancelled(content)
        self.request(
            "post",
            ("instances", name, "files"),
            f"writing {path} to {name}",
            project=project,
            params={"path": path},
            data=content,
            headers={"X-LXD-mode": f"{mode:04o}", "X-LXD-uid": "0", "X-LXD-gid": "0", "X-LXD-type": "file"},
        )

    def _until_cancelled(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.cancelled.is_set():
                raise Cancelled
            yield chunk


def _chunks(response: Any, what: str) -> Iterator[bytes]:
    """A streamed answer's body. requests' own exceptions are OSErrors, which would pass for those of a file."""
    from requests import RequestException

    try:
        yield from response.iter_content(CHUNK)
    except RequestException as error:
        raise LxdError(f"{what} failed", f"LXD's answer broke off: {error}", "is LXD still running?") from error


def _operation_id(response: Any) -> str:
    return str(response.json()["operation"]).rsplit("/", 1)[-1].split("?")[0]


class NotFoundError(LxdError):
    """LXD has no such thing."""


class _Blocks:
    """A request body that hands out a MiB at a time; http.client alone would ask for 16 KiB."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.len = body.len

    def __len__(self) -> int:
        return int(self.len)

    def read(self, size: int = -1) -> bytes:
        return bytes(self._body.read(CHUNK if 0 <= size < CHUNK else size))


def _stored_image(image: Mapping[str, Any]) -> StoredImage:
    return StoredImage(
        fingerprint=Fingerprint(image["fingerprint"]),
        properties=dict(image.get("properties") or {}),
        aliases=tuple(alias["name"] for alias in image.get("aliases") or ()),
        size=int(image.get("size", 0)),
        uploaded_at=image.get("uploaded_at", ""),
    )


def _connect(socket: Path, timeout: tuple[float, float]) -> pylxd.Client:
    import pylxd
    from pylxd import exceptions
    from requests import RequestException

    install = "install LXD (snap install lxd, or apt install lxd), then run: lxd init --minimal"
    try:
        socket.stat()
        if not os.access(socket, os.R_OK | os.W_OK):
            raise PermissionError
        return pylxd.Client(endpoint=str(socket), timeout=timeout)
    except FileNotFoundError:
        raise HostError("LXD is not there", f"no socket at {socket}", f"start it, or {install}") from None
    except PermissionError:
        raise HostError(
            "LXD does not let you in",
            f"no permission on {socket}",
            "run as root, or join LXD's group: sudo usermod -aG lxd $USER, then log in again",
        ) from None
    except exceptions.ClientConnectionFailed:
        raise HostError(
            "LXD is not running",
            f"nothing answers on {socket}",
            "start it: systemctl start lxd, or snap start lxd",
        ) from None
    except (exceptions.LXDAPIException, RequestException, ValueError, KeyError, TypeError) as error:
        raise HostError(
            "LXD does not answer as LXD does",
            f"{socket}: {error!r}",
            "see what its log says, and whether LXD_DIR names LXD's folder",
        ) from error


def _translate(what: str, message: str) -> LxdError:
    resolution = ""
    if any(words in message.lower() for words in ("no space left", "disk quota exceeded", "out of disk space")):
        resolution = "free space in LXD's storage pool or below LXD's folder, then run the same command again"
    return LxdError(f"{what} failed", message, resolution)
