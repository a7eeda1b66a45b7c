"""The images of LXD's store, and their aliases."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lxdocker.errors import LxdError
from lxdocker.lxd.connection import CHUNK, WHOLE, Cancelled, Connection, NotFoundError
from lxdocker.values import Fingerprint

Count = Callable[[int], None]  # called with the number of bytes moved since the last call


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in an LXD project's store."""

    fingerprint: Fingerprint
    properties: Mapping[str, str]
    aliases: tuple[str, ...]
    size: int  # bytes
    uploaded_at: str  # RFC 3339
    cached: bool = False  # LXD keeps it for a while because an instance was made from a remote's


class Images(Connection):
    """What a connection does with images."""

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
