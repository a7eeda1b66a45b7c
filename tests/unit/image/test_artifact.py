from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.image import artifact


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("chunks", [[], [b""], [b"abc"], [b"a", b"", b"bc" * 1000], [b"x" * (artifact.CHUNK + 1)]])
def test_sizes_and_hashes_are_those_of_the_files(tmp_path: Path, chunks: list[bytes]) -> None:
    progress: list[int] = []
    made = artifact.write(tmp_path, b"metadata", chunks, progress.append)
    rootfs = b"".join(chunks)
    assert made.metadata == tmp_path / "lxd.tar.xz"
    assert made.rootfs == tmp_path / "rootfs.squashfs"
    assert (made.metadata.read_bytes(), made.rootfs.read_bytes()) == (b"metadata", rootfs)
    assert (made.metadata_size, made.rootfs_size) == (8, len(rootfs))
    assert (made.metadata_sha256, made.rootfs_sha256) == (sha256(b"metadata"), sha256(rootfs))
    # How LXD names a split image, imported or from a simplestreams server.
    assert made.fingerprint.value == sha256(b"metadata" + rootfs)
    assert progress == [len(chunk) for chunk in chunks]
    assert b"".join(artifact.read(made.rootfs)) == rootfs


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    size = 64 * artifact.CHUNK

    def chunks() -> Iterator[bytes]:
        for _ in range(size // artifact.CHUNK):
            yield bytes(artifact.CHUNK)

    tracemalloc.start()
    try:
        made = artifact.write(tmp_path, b"", chunks())
        assert sum(len(chunk) for chunk in artifact.read(made.rootfs)) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 8


def test_a_source_that_breaks_off_leaves_its_error(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        artifact.write(tmp_path, b"", broken())
