"""Manifests and image configurations that registries have sent, by their digests, in a folder that only this user can
read. Optional: what can't be read or written here is asked for again.

A digest says what something is, not who may have it. Before anything known is used, the registry therefore has said in
this run that this user may read the image; see Resolver.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from lxdocker.files import durable, rights
from lxdocker.values import Digest, home_folder

SYSTEM = Path("/var/cache/lxdocker")  # root's
MOST_BYTES = 64 << 20
MOST_FILES = 2000
_OFTEN = 100  # puts, from one look at the size of it all to the next
_MOST_IN_ONE = 4 << 20  # bytes, as registries and skopeo have it


class Known:
    """What is known, in ``folder``; nothing without one. Thread-safe, and used by several processes at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self._path = folder
        self._put = 0  # how many files, about

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Known:
        """This user's."""
        base = environ.get("XDG_CACHE_HOME", "")
        if base.startswith("/"):
            return cls(Path(base) / "lxdocker")
        return cls(SYSTEM if os.geteuid() == 0 else home_folder(environ) / ".cache/lxdocker")

    def get(self, digest: Digest) -> bytes | None:
        """The content with this digest, if it is known."""
        if self._folder is None:
            return None
        path = self._folder / digest.hex
        with suppress(OSError):
            with path.open("rb") as file:
                content = file.read(_MOST_IN_ONE + 1)
            if Digest.of(content) == digest:
                os.utime(path)  # what is used stays
                return content
            path.unlink()
        return None

    def put(self, digest: Digest, content: bytes) -> None:
        """Keeps a content, whose digest was checked."""
        if self._folder is None or len(content) > _MOST_IN_ONE:
            return
        with suppress(OSError):
            durable.write_file(self._folder / digest.hex, content, 0o600)
            self._put += 1
            if self._put % _OFTEN == 1:
                self._make_room(self._folder)

    @cached_property
    def _folder(self) -> Path | None:
        """The folder, made unless it is there; None where it can't be, or where others could write."""
        if self._path is None:
            return None
        with suppress(OSError):
            rights.make_folder(self._path, rights.PRIVATE)
            self._path.chmod(rights.PRIVATE)
            return self._path
        return None

    def _make_room(self, folder: Path) -> None:
        """Deletes the files that were not used for longest, until few enough are left."""
        with os.scandir(folder) as entries:
            found = [(entry.stat(follow_symlinks=False), Path(entry.path)) for entry in entries]
        total, number = sum(status.st_size for status, _ in found), len(found)
        for status, path in sorted(found, key=lambda one: one[0].st_mtime):
            if total <= MOST_BYTES and number <= MOST_FILES:
                break
            with suppress(OSError):  # another process may have been faster
                path.unlink()
            total, number = total - status.st_size, number - 1
