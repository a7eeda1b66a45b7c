"""LXD, or Incus in its place, as the rest of lxdocker sees it. The only importer of pylxd.

Every wait here asks ``cancelled`` twice a second, so that Ctrl-C is answered at once. A daemon that hangs is given up:
in a minute as a rule, sooner after Ctrl-C, an import in a quarter of an hour.
LXD's REST API: https://documentation.ubuntu.com/lxd/latest/rest-api/.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lxdocker import log
from lxdocker.config.settings import Settings
from lxdocker.errors import HostError, LxdError
from lxdocker.lxd import operation as operations
from lxdocker.lxd.address import Https, UnixSocket
from lxdocker.lxd.daemon import Daemon
from lxdocker.lxd.dialect import Dialect
from lxdocker.lxd.operation import CONNECT_SECONDS, Ended, NoAnswerError, Operation
from lxdocker.reasons import in_words
from lxdocker.values import Arch, Fingerprint

if TYPE_CHECKING:
    import pylxd

CHUNK = 1 << 20  # bytes; one read or write of streamed content
REMOVAL_SECONDS = 30  # how long removing an instance is tried
# Time to connect, and to hear something: an import hashes and stores the whole image before it answers.
TIMEOUT = (10, 900)
SOON = (10, 60)  # the same for what LXD answers at once and then does in the background
HURRY = (10, 15)  # and for cleaning up, where the user asked to stop: what is left the next run removes

WHOLE = {"recursion": "1"}  # a list of things with what is known of them, not of their addresses

LOGGER = logging.getLogger("lxdocker.lxd")
TOLD = "told"

Count = Callable[[int], None]  # called with the number of bytes moved since the last call


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
    cached: bool = False  # LXD keeps it for a while because an instance was made from a remote's


class Lxd:
    """One daemon on its unix socket, safe to use from several threads."""

    def __init__(self, cancelled: threading.Event | None = None, daemon: Daemon | None = None) -> None:
        """This host's LXD, unless another ``daemon`` is wanted. Raises HostError when it does not answer, or not to
        this user.
        """
        self.cancelled = cancelled or threading.Event()
        self.daemon = daemon or Daemon.lxd(os.environ)
        self._local = threading.local()
        server = self._client().host_info
        if server.get("auth", "trusted") != "trusted":
            raise HostError(
                f"{self.daemon.product} at {self.daemon.address} does not trust this client",
                "the client's certificate has not been added there",
                "on that host: lxc config trust add --name lxdocker; then here: lxdocker trust TOKEN",
            )
        self.dialect = Dialect.of(server)

    @classmethod
    def of(cls, settings: Settings, cancelled: threading.Event | None = None) -> Lxd:
        """The one that the settings name. Raises UsageError or HostError."""
        assert settings.client_dir is not None  # noqa: S101 - for the type checker: load() always gives one
        return cls(cancelled, Daemon.at(settings.lxd, settings.client_dir, os.environ))

    @property
    def arch(self) -> Arch:
        """Its own architecture. Raises HostError for one without images."""
        try:
            return Arch(self.dialect.architecture) if self.dialect.architecture else Arch.host()
        except ValueError as error:
            raise HostError(f"no images for this {self.daemon.product}", str(error)) from None

    # ---- connection

    def _client(self) -> pylxd.Client:
        """A client of this thread's own: pylxd's session is not made for several."""
        client = getattr(self._local, "client", None)
        if client is None:
            began = time.monotonic()
            client = self._local.client = _connect(self.daemon, self._patience(SOON))
            LOGGER.debug("+ %s # GET /1.0: 200, %s", self.client_command("query", self.named("/1.0")), log.took(began))
        return client

    def _patience(self, timeout: tuple[float, float]) -> tuple[float, float]:
        return HURRY if self.cancelled.is_set() else timeout

    def process(self, *, anew: bool = False) -> int:
        """The daemon's process id, which a restart changes: as this thread first saw it, or ``anew``."""
        server = self.get(what="looking for a restart", timeout=SOON) if anew else self._client().host_info
        return int(server["environment"].get("server_pid") or 0)

    def _request(
        self,
        method: str,
        path: Sequence[str],
        what: str,
        *,
        project: str | None = None,
        timeout: tuple[float, float] = TIMEOUT,
        params: Mapping[str, str] | None = None,
        by_hand: str = "",
        **arguments: Any,
    ) -> Any:
        """One API request. ``what`` names the attempt in error messages, ``by_hand`` is for the log: see _tell().
        Returns the response.

        Raises LxdError with LXD's own words.
        """
        from pylxd import exceptions
        from requests import RequestException

        node = self._client().api
        for part in path:
            node = node[urllib.parse.quote(part, safe="")]
        query = {**({"project": project} if project else {}), **(params or {})}
        command = self._tell(method, path, query, arguments.get("json"), by_hand)
        began, status = time.monotonic(), "no answer"
        try:
            response = getattr(node, method)(params=query, timeout=self._patience(timeout), **arguments)
            status = str(response.status_code)
            return response
        except exceptions.LXDAPIException as error:
            status = str(error.response.status_code)
            if isinstance(error, exceptions.NotFound):
                raise NotFoundError(f"{what} failed", str(error)) from error
            raise self._translated(what, str(error)) from error
        except (RequestException, OSError) as error:
            product = self.daemon.product
            raise NoAnswerError(
                f"{what} failed", f"no answer from {product}: {in_words(error)}", f"is {product} still running?"
            ) from error
        finally:
            LOGGER.debug("%s# %s %s: %s, %s", command, method.upper(), _resource(path), status, log.took(began))

    def client_command(self, *arguments: str) -> str:
        """A command of the daemon's own client, as a shell reads it, for the log."""
        return log.shell([self.daemon.client, *arguments])

    def named(self, text: str) -> str:
        """What a command of the client is about, where that is on a remote."""
        name = self.daemon.address.name
        return f"{name}:{text}" if name else text

    def _tell(self, method: str, path: Sequence[str], query: Mapping[str, str], body: Any, by_hand: str = "") -> str:
        """Logs a request that changes something before it is made, as the client's command that does the same; or
        ``by_hand``, where its ``query`` can't; TOLD is for one that was logged earlier. Returns the command for what is
        only asked, since that is logged with its answer.
        """
        if by_hand == TOLD or not LOGGER.isEnabledFor(logging.DEBUG if method == "get" else logging.INFO):
            return ""
        how = [] if method == "get" else ["--wait", "--request", method.upper()]
        content = [] if body is None else ["--data", json.dumps(body)]
        command = by_hand or self.client_command("query", *how, *content, self.named(_resource(path, query)))
        if method == "get":
            return f"+ {command} "
        LOGGER.info("+ %s", command)
        return ""

    def get(
        self,
        *path: str,
        what: str,
        project: str | None = None,
        timeout: tuple[float, float] = TIMEOUT,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """The ``metadata`` of a GET."""
        return self._request("get", path, what, project=project, timeout=timeout, params=params).json()["metadata"]

    def begin(self, method: str, path: Sequence[str], what: str, **arguments: Any) -> Operation | None:
        """A request that changes something; the operation that it started, or None where it is done already. Which of
        them it is depends on the LXD. Arguments as for _request().
        """
        return Operation.of(self._request(method, path, what, **arguments).json())

    def change(
        self,
        method: str,
        path: Sequence[str],
        what: str,
        *,
        seconds: float = 300,
        cancellable: bool = True,
        **arguments: Any,
    ) -> None:
        """A request that changes something, until it is done."""
        operation = self.begin(method, path, what, **arguments)
        if operation is not None:
            self.wait(operation, what, seconds, cancellable=cancellable)

    def wait(
        self,
        operation: Operation,
        what: str,
        seconds: float = 300,
        check: Callable[[], None] | None = None,
        cancellable: bool = True,
    ) -> Ended:
        """Waits for the end of a background operation.

        Calls ``check`` about twice a second. Raises LxdError with LXD's own reason when it fails or takes longer than
        so many ``seconds``, Cancelled when the user asked to stop.
        """
        began, came_to = time.monotonic(), "nobody waits for it any more"
        deadline = began + seconds

        def look() -> None:
            if cancellable and self.cancelled.is_set():
                raise Cancelled
            if time.monotonic() > deadline:
                raise _TooLongError
            if check:
                check()

        resource = f"/1.0/operations/{urllib.parse.quote(operation.identifier, safe='')}/wait"
        try:
            while True:
                answer = operations.answer_of(self.daemon, resource, what, look)
                ended = self._ended(operation, answer, what)
                if ended is not None:
                    came_to = ended.in_words
                    break
                time.sleep(operations.SLICE_SECONDS)  # it came before the end
        except _TooLongError:
            with contextlib.suppress(LxdError):
                self.begin("delete", operation.path, what, timeout=SOON)
            raise LxdError(f"{what} failed", f"it took longer than {seconds:.0f} s") from None
        finally:
            LOGGER.info("# operation %s, %s: %s, %s", operation.identifier, what, came_to, log.took(began))
        if ended.error:
            raise self._translated(what, ended.error)
        return ended

    def _ended(self, operation: Operation, answer: Any, what: str) -> Ended | None:
        """How an operation ended, by what the waiting was answered; None if it goes on."""
        try:
            if answer["type"] == "sync":
                return Ended.of(answer["metadata"])
            words = str(answer["error"])
        except (KeyError, TypeError, ValueError):
            product = self.daemon.product
            raise LxdError(f"{what} failed", f"unexpected answer from {product}: {answer!r:.200}") from None
        # Either the operation failed or the waiting did: the operation itself says which, for as long as LXD keeps it.
        try:
            return self.look_at(operation, what)
        except NotFoundError:
            return Ended(words, {})

    def look_at(self, operation: Operation, what: str) -> Ended | None:
        """How an operation ended; None if it goes on. Raises NotFoundError once LXD has forgotten it."""
        return Ended.of(self.get(*operation.path, what=what, timeout=SOON))

    def why_failed(self, operation: Operation, what: str) -> LxdError | None:
        """Why a background operation failed; None if it did not, or nobody knows."""
        with contextlib.suppress(LxdError):
            ended = self.look_at(operation, what)
            if ended and ended.error:
                return self._translated(what, ended.error)
        return None

    def _translated(self, what: str, message: str) -> LxdError:
        resolution = ""
        if any(words in message.lower() for words in ("no space left", "disk quota exceeded", "out of disk space")):
            product = self.daemon.product
            resolution = (
                f"free space in {product}'s storage pool or below {product}'s folder, then run the same command again"
            )
        return LxdError(f"{what} failed", message, resolution)

    # ---- images and aliases

    def images(self, project: str) -> list[StoredImage]:
        """All images of a project, in one request. Raises NotFoundError where there is no such project."""
        found = self.get("images", what=f"listing images of project {project}", project=project, params=WHOLE)
        return [_stored_image(image) for image in found]

    def image(self, project: str, fingerprint: Fingerprint) -> StoredImage | None:
        """One image, or None."""
        try:
            return _stored_image(self.get("images", fingerprint.value, what="looking up an image", project=project))
        except NotFoundError:
            return None

    def aliases(self, project: str) -> dict[str, Fingerprint]:
        """Every alias of a project and what it points to."""
        found = self.get("images", "aliases", what="listing aliases", project=project, params=WHOLE)
        return {alias["name"]: Fingerprint(alias["target"]) for alias in found}

    def import_image(
        self,
        project: str,
        fingerprint: Fingerprint,
        metadata: Path,
        rootfs: Path,
        properties: Mapping[str, str],
        progress: Count | None = None,
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
                self.dialect.header("fingerprint"): fingerprint.value,
                self.dialect.header("properties"): urllib.parse.urlencode(properties),
            }
            words = [f"{key}={value}" for key, value in properties.items()]
            how: dict[str, Any] = {
                "data": _Blocks(monitored),
                "headers": headers,
                "by_hand": self.client_command(
                    *("image", "import", str(metadata), str(rootfs), *([self.named("")] if self.named("") else [])),
                    *("--project", project, *words),
                ),
            }
            try:
                self.change("post", ("images",), what, seconds=900, project=project, **how)
            except Cancelled:
                raise
            except LxdError:
                if not self.image(project, fingerprint):  # another may have been faster
                    raise

    def export_image(self, project: str, fingerprint: Fingerprint, folder: Path) -> tuple[Path, Path]:
        """Streams a split image's metadata and rootfs into ``folder``; raises LxdError for a unified one."""
        from python_multipart.multipart import MultipartParser, parse_options_header

        what = f"exporting image {fingerprint.short}"
        path = ("images", fingerprint.value, "export")
        named = self.named(fingerprint.value)
        by_hand = self.client_command("image", "export", named, str(folder), "--project", project)
        response = self._request("get", path, what, project=project, by_hand=by_hand, stream=True, is_api=False)
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
                    raise LxdError(f"{what} failed", f"{self.daemon.product} sent more than two parts")
                current[:] = [files.enter_context(path.open("wb"))]

            def data(chunk: bytes, start: int, end: int) -> None:
                current[0].write(chunk[start:end])

            parser = MultipartParser(options[b"boundary"], {"on_part_begin": begin, "on_part_data": data})
            for chunk in self._chunks(response, what):
                if self.cancelled.is_set():
                    raise Cancelled
                parser.write(chunk)
            parser.finalize()
        if next(pending, None) is not None:
            raise LxdError(f"{what} failed", f"{self.daemon.product} sent fewer than two parts")
        return outputs[0], outputs[1]

    def _chunks(self, response: Any, what: str) -> Iterator[bytes]:
        """A streamed answer's body. requests' own exceptions are OSErrors, which would pass for those of a file."""
        from requests import RequestException

        try:
            yield from response.iter_content(CHUNK)
        except RequestException as error:
            product = self.daemon.product
            why = f"{product}'s answer broke off: {in_words(error)}"
            raise NoAnswerError(f"{what} failed", why, f"is {product} still running?") from error

    def set_image_properties(self, project: str, fingerprint: Fingerprint, properties: Mapping[str, str]) -> None:
        """Replaces an image's properties, and nothing else of it."""
        self.change(
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
            self.change("delete", ("images", fingerprint.value), what, project=project)

    def set_alias(self, project: str, alias: str, fingerprint: Fingerprint) -> None:
        """Points an alias at an image, moving it in one step if it exists."""
        what = f"setting alias {alias}"
        body = {"name": alias, "target": fingerprint.value, "description": ""}
        try:
            self.change("put", ("images", "aliases", alias), what, project=project, json=body)
        except NotFoundError:
            self.change("post", ("images", "aliases"), what, project=project, json=body)

    def delete_alias(self, project: str, alias: str) -> None:
        """Deletes an alias; one that is gone already is fine."""
        with contextlib.suppress(NotFoundError):
            self.change("delete", ("images", "aliases", alias), f"deleting alias {alias}", project=project)

    def image_registries(self) -> dict[str, str]:
        """The simplestreams servers that the daemon knows: name -> address. None where it needs not know them."""
        if not self.dialect.knows_registries:
            return {}
        found = self.get("image-registries", what="listing image registries", params=WHOLE)
        return {
            remote["name"]: remote["config"].get("url", "") for remote in found if remote["protocol"] == "simplestreams"
        }

    # ---- projects, profiles, volumes, pools, networks

    def ensure_project(self, name: str, description: str, config: Mapping[str, str]) -> None:
        """Creates a project unless it is there."""
        self._create_missing(("projects",), name, {"description": description, "config": dict(config)})

    def ensure_profile(self, project: str, name: str, profile: Mapping[str, Any]) -> None:
        """Creates a profile, or makes the one there the same."""
        there = self._create_missing(("profiles",), name, dict(profile), project=project)
        if there and any(there.get(key) != value for key, value in profile.items()):
            what = f"updating profile {name}"
            self.change("put", ("profiles", name), what, project=project, json=dict(profile))

    def ensure_volume(self, project: str, pool: str, name: str, description: str, member: str | None = None) -> None:
        """Creates a custom storage volume unless it is there: in a cluster, on a member."""
        path = ("storage-pools", pool, "volumes", "custom")
        where = {"target": member} if member else {}
        self._create_missing(path, name, {"description": description}, project=project, params=where)

    def _create_missing(
        self,
        path: tuple[str, ...],
        name: str,
        body: Mapping[str, Any],
        project: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any] | None:
        """Returns what was there, even if another client was faster; None when it was created."""
        what = f"creating {path[-1].rstrip('s')} {name}"

        def look() -> Mapping[str, Any]:
            found: Mapping[str, Any] = self.get(*path, name, what=what, project=project, params=params)
            return found

        with contextlib.suppress(NotFoundError):
            return look()
        try:
            self.change("post", path, what, project=project, params=params, json={"name": name, **body})
        except Cancelled:
            raise
        except LxdError as error:
            try:
                return look()
            except NotFoundError:
                raise error from None
        return None

    def require_project(self, name: str) -> None:
        """Raises HostError for a project that this client may not use: LXD shows an empty one then."""
        if isinstance(self.daemon.address, UnixSocket):
            return
        what = f"reading project {name}"
        try:
            self.get("projects", name, what=what)
        except LxdError as error:
            raise HostError(
                f"project {name} of LXD at {self.daemon.address} cannot be used",
                f"it does not exist, or this client's certificate is not for it ({error.details})",
                "name another in the setting `project`, or on that host: lxc config trust edit FINGERPRINT",
            ) from error

    def profile(self, project: str, name: str) -> Mapping[str, Any]:
        """A profile's config and devices."""
        found: Mapping[str, Any] = self.get("profiles", name, what=f"reading profile {name}", project=project)
        return found

    def pools(self) -> list[str]:
        """Names of the storage pools."""
        return [url.rsplit("/", 1)[-1] for url in self.get("storage-pools", what="listing storage pools")]

    def bridges(self, project: str) -> list[str]:
        """Names of the networks that LXD manages and a project's instances can join; if it is yet to be made, those of
        the default project.
        """
        what = "listing networks"
        try:
            found = self.get("networks", what=what, project=project, params=WHOLE)
        except LxdError:
            found = self.get("networks", what=what, params=WHOLE)
        return [network["name"] for network in found if network["managed"] and network["type"] in {"bridge", "ovn"}]

    # ---- instances

    def instances(self, project: str) -> list[Mapping[str, Any]]:
        """All instances of a project with their config; none where there is no such project."""
        found: list[Mapping[str, Any]] = self.get("instances", what="listing builders", project=project, params=WHOLE)
        return found

    def members(self) -> list[Member]:
        """A cluster's members; none of a daemon that is in no cluster."""
        if self.dialect.member is None:
            return []
        return [Member.of(one) for one in self.get("cluster", "members", what="listing the cluster", params=WHOLE)]

    def answers(self, member: str) -> bool:
        """Whether a member of the cluster answers, through the one that is asked."""
        try:
            self.get(what=f"asking member {member}", params={"target": member}, timeout=HURRY)
        except LxdError:
            return False
        return True

    def create_instance(self, project: str, body: Mapping[str, Any], target: str | None = None) -> str | None:
        """Creates an instance and starts it: in a cluster, where LXD places it, unless a ``target`` is named. Returns
        the member that it is on.
        """
        name = body["name"]
        starting = f"starting builder {name}"
        what = starting if self.dialect.starts_what_it_creates else f"creating builder {name}"
        wanted = {**body, "start": True} if self.dialect.starts_what_it_creates else dict(body)
        where = {"target": target} if target else {}
        operation = self.begin("post", ("instances",), what, project=project, params=where, json=wanted)
        if operation is not None:
            try:
                self.wait(operation, what)
            except (Cancelled, KeyboardInterrupt):
                # Until LXD has made it there is nothing that could be deleted, and afterwards nobody would. A download
                # of its image can be ended.
                with contextlib.suppress(LxdError):
                    self.begin("delete", operation.path, what, timeout=SOON)
                with contextlib.suppress(LxdError):
                    self.wait(operation, what, REMOVAL_SECONDS, cancellable=False)
                raise
        if not self.dialect.starts_what_it_creates:
            start = {"action": "start", "timeout": 60}
            self.change("put", ("instances", name, "state"), starting, project=project, json=start)
        return operation.location if operation and self.dialect.member else None

    def adding_devices(self, project: str, name: str, devices: Mapping[str, Mapping[str, str]]) -> Callable[[], None]:
        """Returns what adds devices to a running instance, for another thread to call: it takes LXD a second. It is
        logged now, since what happens meanwhile may need them.
        """
        what, path = f"adding {', '.join(devices)} to {name}", ("instances", name)
        body = {"devices": {device: dict(config) for device, config in devices.items()}}
        self._tell("patch", path, {"project": project}, body)
        return partial(self.change, "patch", path, what, project=project, json=body, timeout=SOON, by_hand=TOLD)

    def removed_instances(self, project: str) -> set[str]:
        """The names of a project's instances that LXD is stopping or deleting just now."""
        found = self.get("operations", what="listing operations", project=project, params=WHOLE)
        return operations.removed_by(found)

    def begin_removal(self, project: str, name: str) -> Operation | None:
        """Has a running ephemeral instance stopped and deleted, which LXD does without anybody who waits: the operation
        that it started, or None for an instance that is gone already.
        """
        what, path = f"removing builder {name}", ("instances", name)
        try:
            if self.dialect.deletes_what_runs:
                return self.begin("delete", path, what, project=project, params={"force": "1"}, timeout=SOON)
            # An ephemeral instance is deleted by its stop.
            stop = {"action": "stop", "force": True, "timeout": 30}
            return self.begin("put", (*path, "state"), what, project=project, json=stop, timeout=SOON)
        except NotFoundError:
            return None

    def delete_instance(self, project: str, name: str) -> None:
        """Stops and deletes an instance, whatever state it is in; one that is gone already is fine.

        Goes on when the user asked to stop: this is the cleaning up.
        """
        what = f"removing builder {name}"
        # An ephemeral instance deletes itself while it stops; a half-made one is not running; and one that a killed
        # lxdocker left may be busy for a while with what that had asked for last.
        deadline = time.monotonic() + REMOVAL_SECONDS
        while True:
            try:
                self._delete_instance(project, name, what)
            except NotFoundError:
                return
            except LxdError as error:
                if time.monotonic() > deadline:
                    by_hand = f"lxc delete --project {project} --force {name}"
                    raise LxdError(f"{what} failed", error.details, by_hand) from error
                time.sleep(0.2)
            else:
                return

    def _delete_instance(self, project: str, name: str, what: str) -> None:
        path = ("instances", name)
        how: dict[str, Any] = {"project": project, "timeout": SOON, "seconds": 60, "cancellable": False}
        if self.dialect.deletes_what_runs:
            self.change("delete", path, what, params={"force": "1"}, **how)
            return
        stop = {"action": "stop", "force": True, "timeout": 30}
        with contextlib.suppress(LxdError):
            self.change("put", (*path, "state"), what, json=stop, **how)
        self.change("delete", path, what, **how)

    def push(
        self,
        project: str,
        name: str,
        path: str,
        content: bytes | Iterator[bytes],
        mode: int = 0o600,
        *,
        source: str = "",
    ) -> None:
        """Writes a file into an instance, streaming when given an iterator, until the user asks to stop: Cancelled.

        ``source``, for the log: how a shell gives it to the client, as ``COMMAND |`` or ``<FILE``.
        """
        if not isinstance(content, bytes):
            content = self._until_cancelled(content)
        kind = {"mode": f"{mode:04o}", "uid": "0", "gid": "0", "type": "file"}
        by_hand = self.client_command("file", "push", "--project", project, "-", self.named(f"{name}{path}"))
        self.change(
            "post",
            ("instances", name, "files"),
            f"writing {path} to {name}",
            project=project,
            params={"path": path},
            by_hand=f"{source} {by_hand}" if source.endswith("|") else f"{by_hand} {source}".rstrip(),
            data=content,
            headers={self.dialect.header(key): value for key, value in kind.items()},
        )

    def _until_cancelled(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.cancelled.is_set():
                raise Cancelled
            yield chunk


def _resource(path: Sequence[str], query: Mapping[str, str] | None = None) -> str:
    words = "".join(f"/{urllib.parse.quote(part, safe='')}" for part in ("1.0", *path))
    return f"{words}?{urllib.parse.urlencode(query)}" if query else words


@dataclass(frozen=True, slots=True)
class Member:
    """One LXD of a cluster."""

    name: str
    architecture: str
    is_online: bool  # neither away nor evacuated, as far as the cluster knows: it takes 20 s to notice
    groups: tuple[str, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Member:
        """As GET cluster/members has it."""
        return cls(
            name=document["server_name"],
            architecture=document.get("architecture") or "",
            is_online=document.get("status") == "Online",
            groups=tuple(document.get("groups") or ()),
        )


class NotFoundError(LxdError):
    """LXD has no such thing."""


class _TooLongError(Exception):
    """The time for an operation is over."""


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
        cached=bool(image.get("cached")),
    )


def _connect(daemon: Daemon, timeout: tuple[float, float]) -> pylxd.Client:
    import pylxd
    from pylxd import exceptions
    from requests import RequestException

    product, address = daemon.product, daemon.address
    try:
        if isinstance(address, UnixSocket):
            address.path.stat()
            if not os.access(address.path, os.R_OK | os.W_OK):
                raise PermissionError
        session = address.session()
        # Each request on a connection of its own: newer LXDs hang up on an idle one, perhaps just as it is used again.
        session.headers["Connection"] = "close"
        return pylxd.Client(endpoint=address.endpoint, timeout=timeout, session=session)
    except FileNotFoundError:
        raise HostError(
            f"cannot connect to {product}", f"no socket at {address}", f"start it, or {daemon.install}"
        ) from None
    except PermissionError:
        raise HostError(
            f"cannot connect to {product}",
            f"permission denied: {address}",
            f"run as root, or join {product}'s group: sudo usermod -aG {daemon.group} $USER, then log in again",
        ) from None
    except exceptions.ClientConnectionFailed:
        if isinstance(address, UnixSocket):
            why = f"no answer on {address}"
            raise HostError(f"{product} is not running", why, f"start it: {daemon.start}") from None
        raise _why_not(product, address) from None
    except (exceptions.LXDAPIException, RequestException, ValueError, KeyError, TypeError) as error:
        where = f"whether {daemon.folder} names {product}'s folder" if isinstance(address, UnixSocket) else "its URL"
        raise HostError(
            f"unexpected answer from {product}", f"{address}: {in_words(error)}", f"check its log, and {where}"
        ) from error


def _why_not(product: str, address: Https) -> HostError:
    """Why there was no answer, by another try."""
    what = f"cannot connect to {product} at {address}"
    listening = "see that it listens there (lxc config get core.https_address), and the way there"
    try:
        address.connect(CONNECT_SECONDS).close()
    except HostError as error:
        return error
    except ssl.SSLCertVerificationError as error:
        why = f"nobody vouches for its certificate: {error.verify_message}"
        return HostError(what, why, f"trust it: lxdocker trust {address}")
    except OSError as error:
        return HostError(what, in_words(error), listening)
    return HostError(what, "it hung up", listening)
