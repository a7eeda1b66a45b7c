"""A finished image as two files on this host, ready for the store and the tree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lxdocker.values import Fingerprint

CHUNK = 1 << 20  # bytes

METADATA_FILE = "lxd.tar.xz"
ROOTFS_FILE = "rootfs.squashfs"


@dataclass(frozen=True, slots=True)
class Artifact:
    """``lxd.tar.xz`` and ``rootfs.squashfs`` in one folder, with what is known of them."""

    folder: Path
    fingerprint: Fingerprint
    metadata_size: int  # bytes
    metadata_sha256: str
    rootfs_size: int
    rootfs_sha256: str

    @property
    def metadata(self) -> Path:
        return self.folder / METADATA_FILE

    @property
    def rootfs(self) -> Path:
        return self.folder / ROOTFS_FILE


def write(
    folder: Path, metadata: bytes, rootfs: Iterable[bytes], progress: Callable[[int], None] | None = None
) -> Artifact:
    """Streams both halves into ``folder``, hashing on the way. The files are not yet on stable storage."""
    (folder / METADATA_FILE).write_bytes(metadata)
    combined = hashlib.sha256(metadata)
    alone = hashlib.sha256()
    size = 0
    with (folder / ROOTFS_FILE).open("wb") as output:
        for chunk in rootfs:
            output.write(chunk)
            combined.update(chunk)
            alone.update(chunk)
            size += len(chunk)
            if progress:
                progress(len(chunk))
    return Artifact(
        folder=folder,
        fingerprint=Fingerprint(combined.hexdigest()),
        metadata_size=len(metadata),
        metadata_sha256=hashlib.sha256(metadata).hexdigest(),
        rootfs_size=size,
        rootfs_sha256=alone.hexdigest(),
    )


def hashed(pieces: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """The pieces, each of which goes into ``digest`` on the way."""
    for piece in pieces:
        digest.update(piece)
        yield piece


def read(path: Path) -> Iterable[bytes]:
    """A file in chunks of a MiB."""
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            yield chunk
