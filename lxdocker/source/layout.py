"""Images on this host's disk in OCI layouts (image spec, image-layout.md): a folder, or a tar of one.

Not read by skopeo, which shows only one level of an index. A builder then gets a layout with just the chosen image.
"""

from __future__ import annotations

import json
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO

from lxdocker.errors import ImageMissingError, RegistryError
from lxdocker.files.seen import exists
from lxdocker.reasons import in_words
from lxdocker.source.oci import OCI_MANIFEST, Index, IndexEntry, Manifest, named_entries, parse_manifest
from lxdocker.values import ArchiveKind, Digest, DiskRef

CHUNK = 1 << 20
_INDEX = "index.json"
_MARK = "oci-layout"
_MAX_BLOB = 4 * 1024 * 1024  # of a parsed blob, as from a registry


class UnknownFormatError(Exception):
    """A file that Python cannot open as a tar; skopeo may know its compression."""


@dataclass(frozen=True, slots=True)
class Top:
    """The target of a reference to a layout."""

    digest: Digest  # of the only manifest or index; of several, that of an index made of them
    raw: bytes  # a manifest or an index


class Layout:
    """A layout that is open for reading. A context manager."""

    def __init__(self, ref: DiskRef) -> None:
        """Raises ImageMissingError for a missing one, and UnknownFormatError."""
        self._ref = ref
        self._tar: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo] = {}
        with self._explained():
            if not exists(ref.path):
                raise ImageMissingError(f"no image {ref}", f"{ref.path} does not exist", "correct the path")
            if ref.kind is ArchiveKind.OCI_ARCHIVE:
                self._open_tar()

    def __enter__(self) -> Layout:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tar:
            self._tar.close()

    def top(self) -> Top:
        """The image or index that the reference names. Raises ImageMissingError and RegistryError."""
        index = parse_manifest(self._read(_INDEX), what=str(self._ref))
        if not isinstance(index, Index):
            raise self._not_one(f"its {_INDEX} is not an index")
        entries = self._named(index)
        if len({entry.digest for entry in entries}) == 1:
            return Top(entries[0].digest, self.blob(entries[0].digest))
        # One image for several platforms, without an index of them.
        raw = json.dumps({"schemaVersion": 2, "manifests": [entry.descriptor for entry in entries]}).encode()
        return Top(Digest.of(raw), raw)

    def _named(self, index: Index) -> list[IndexEntry]:
        ref = self._ref
        by_name = named_entries(index)
        if ref.tag:
            found = by_name.get(ref.tag)
            if not found:
                # Some write the whole reference there.
                whole = [name for name in by_name if name.endswith(f":{ref.tag}")]
                found = by_name[whole[0]] if len(whole) == 1 else None
            if not found:
                names = ", ".join(sorted(filter(None, by_name))) or "none"
                raise ImageMissingError(f"no image {ref}", f"its tags are: {names}", "check the tag")
            return found
        groups = {frozenset(entry.digest for entry in entries) for entries in by_name.values()}
        if len(groups) > 1:
            raise ImageMissingError(
                f"{ref} has more than one image",
                f"its tags are: {', '.join(sorted(filter(None, by_name)))}",
                f"name one by its tag: {ref.kind.value}:{ref.path}:TAG",
            )
        if not groups:
            raise ImageMissingError(f"no image {ref}", f"its {_INDEX} is empty", "check the path")
        return next(iter(by_name.values()))

    def blob(self, digest: Digest) -> bytes:
        """A manifest, an index or a configuration; up to 4 MiB; matches its digest."""
        content = self._read(_path(digest))
        if Digest.of(content) != digest:
            raise RegistryError(
                f"{self._ref} cannot be used",
                f"the digest of its blob {digest} is {Digest.of(content)}",
                "make it again: it is damaged, or being written",
            )
        return content

    def pack(self, manifest: Digest) -> Iterator[bytes]:
        """A layout with nothing but this one image, as a tar in pieces. Raises ImageMissingError and RegistryError.

        Its blobs are checked by whoever unpacks them.
        """
        raw = self.blob(manifest)
        parsed = parse_manifest(raw, what=str(self._ref))
        if not isinstance(parsed, Manifest):
            raise self._not_one(f"{manifest} is not a manifest")
        entry = {"mediaType": parsed.media_type or OCI_MANIFEST, "digest": manifest.value, "size": len(raw)}
        index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        yield from _member(_MARK, b'{"imageLayoutVersion": "1.0.0"}')
        yield from _member(_INDEX, index)
        yield from _member(_path(manifest), raw)
        for digest in dict.fromkeys((parsed.config, *(layer.digest for layer in parsed.layers))):
            with self._explained(), self._open(_path(digest)) as (file, size):
                yield _header(_path(digest), size)
                left = size
                while left and (piece := file.read(min(CHUNK, left))):
                    left -= len(piece)
                    yield piece
                if left:
                    raise self._not_one(f"{_path(digest)} became shorter while it was read")
                yield bytes(-size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _read(self, name: str) -> bytes:
        with self._explained(), self._open(name) as (file, _):
            content = file.read(_MAX_BLOB + 1)
        if len(content) > _MAX_BLOB:
            raise self._not_one(f"{name} is larger than {_MAX_BLOB // 1024} KiB")
        return content

    def _open(self, name: str) -> AbstractContextManager[tuple[IO[bytes], int]]:
        return self._open_member(name) if self._tar else self._open_file(name)

    @contextmanager
    def _open_file(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        # Non-blocking, so as not to wait for the writer of a pipe.
        handle = os.open(self._ref.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise self._not_one(f"{name} is not a file")
        with os.fdopen(handle, "rb") as file:
            yield file, status.st_size

    @contextmanager
    def _open_member(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        member = self._members.get(name)
        file = self._tar.extractfile(member) if self._tar and member and member.isreg() else None
        if file is None or member is None:
            raise FileNotFoundError(2, "not found", name)
        with file:
            yield file, member.size

    def _open_tar(self) -> None:
        try:
            self._tar = tarfile.open(self._ref.path)  # noqa: SIM115 - closed by __exit__
            self._members = {posixpath.normpath(member.name): member for member in self._tar}
        except (tarfile.TarError, EOFError) as error:
            if self._tar is None:
                raise UnknownFormatError from error
            self._tar.close()
            raise self._not_one(f"it is cut off or damaged: {in_words(error)}") from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            name = str(error.filename or self._ref.path).removeprefix(f"{self._ref.path}/")
            raise ImageMissingError(
                f"no image {self._ref}",
                f"it has no {name}",
                "check the path, the tag and the kind (oci, oci-archive, docker-archive)",
            ) from error
        except PermissionError as error:
            raise ImageMissingError(
                f"cannot read {self._ref}", in_words(error), "let this user read it, or run as one who may"
            ) from error
        except (OSError, tarfile.TarError, EOFError) as error:
            raise self._not_one(in_words(error)) from error

    def _not_one(self, why: str) -> RegistryError:
        return RegistryError(f"cannot read {self._ref}", why, "is it complete, and of the kind that was named?")


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _member(name: str, content: bytes) -> Iterator[bytes]:
    yield _header(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    made = tarfile.TarInfo(name)
    made.size = size
    return made.tobuf(tarfile.GNU_FORMAT)  # its sizes have no limit that matters
