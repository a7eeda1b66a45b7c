"""Files beside a spec that go into its image: found in the folder of specs, never outside it, and known by a hash."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxdocker.errors import BuildError
from lxdocker.files.seen import exists, is_dir, is_file
from lxdocker.reasons import in_words

CHUNK = 1 << 20
_MOST_ENTRIES = 100_000
# Of a checkout. It may hold logins, and no two clones have the same.
_GIT = ".git"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link of a source. Of its mode, only whether it can be run counts, as in git."""

    name: str  # relative to the source; "" for the source itself
    kind: str  # file, folder or link
    path: Path
    executable: bool = False  # of a file
    size: int = 0  # bytes, of a file
    target: str = ""  # of a link


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder as it was when the spec was read."""

    path: Path  # absolute, without links
    digest: str  # hex sha256 of names, kinds, executable bits, targets and contents
    size: int  # bytes of all files

    def read(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """The source itself, and whatever is in it but ``.git``, in the order of names, each with its content; this
        has exactly as many bytes as the entry says, and is to be read to its end.

        Raises OSError, and BuildError at the latest at the end if the source is not what it was.
        """
        digest = hashlib.sha256()
        for entry in _entries(self.path, ""):
            _add(entry, digest)
            yield entry, self._content(entry, digest)
        if digest.hexdigest() != self.digest:
            raise self._changed()

    def _content(self, entry: Entry, digest: hashlib._Hash) -> Iterator[bytes]:
        if entry.kind != "file":
            return
        left = entry.size
        for piece in pieces(entry.path):
            left -= len(piece)
            if left < 0:
                break
            digest.update(piece)
            yield piece
        if left:
            raise self._changed()

    def _changed(self) -> BuildError:
        why = "it is not what it was when the spec was read"
        return BuildError(f"reading {self.path} failed", why, "run the same command again")


def find(text: str, folder: Path) -> Source:
    """The source that a spec in ``folder`` names. Raises ValueError with what is expected, and what was found."""
    path = _inside(text, folder)
    try:
        return Source(path, *_hashed(path))
    except OSError as error:
        found = error.strerror or in_words(error)
        raise ValueError(f"expected a file or folder that can be read, found: {found}") from error


def find_file(text: str, folder: Path) -> Path:
    """The file that a spec in ``folder`` names, without reading it. Raises ValueError as find() does."""
    path = _inside(text, folder)
    if is_dir(path):
        raise ValueError("expected a file, found a folder")
    if not is_file(path):
        what = "a device, socket or pipe" if exists(path) else "none"
        raise ValueError(f"expected a file, found {what}")
    return path


def _inside(text: str, folder: Path) -> Path:
    root = folder.resolve()
    path = (root / text).resolve()
    if not path.is_relative_to(root) or path == root:
        raise ValueError(f"expected a file or folder in {folder}, found one outside it")
    return path


def _add(entry: Entry, digest: hashlib._Hash) -> None:
    """Adds what is known of an entry without its content."""
    words = (entry.name, entry.kind, "x" if entry.executable else "", str(entry.size), entry.target)
    digest.update("\0".join(words).encode("utf-8", "surrogateescape") + b"\0\n")


def _hashed(path: Path) -> tuple[str, int]:
    """The digest and the size of a source."""
    digest = hashlib.sha256()
    size = 0
    for entry in _entries(path, ""):
        _add(entry, digest)
        if entry.kind == "file":
            size += entry.size
            for piece in pieces(entry.path):
                digest.update(piece)
    return digest.hexdigest(), size


def _entries(top: Path, name: str) -> Iterator[Entry]:
    """Without recursion, since a folder may be as deep as paths can be."""
    count = 0
    waiting = [(top, name)]
    while waiting:
        path, name = waiting.pop()
        count += 1
        if count > _MOST_ENTRIES:
            raise OSError(f"more than {_MOST_ENTRIES} files")
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            yield Entry(name, "folder", path)
            inner = sorted((one for one in path.iterdir() if one.name != _GIT), reverse=True)
            waiting += [(one, f"{name}/{one.name}" if name else one.name) for one in inner]
        elif stat.S_ISLNK(found.st_mode):
            yield Entry(name, "link", path, target=str(path.readlink()))
        elif stat.S_ISREG(found.st_mode):
            yield Entry(name, "file", path, bool(found.st_mode & 0o111), found.st_size)
        else:
            raise OSError(f"a device, socket or pipe: {path}")


def pieces(path: Path) -> Iterator[bytes]:
    """A file's content. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while piece := file.read(CHUNK):
            yield piece
