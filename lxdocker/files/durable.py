"""Files that survive a kill and a power cut: each is there whole or not at all, on stable storage when a call returns.

Three steps, in this order, which is the whole promise:

1. The content is written under a temporary name and synced. A rename may reach the disk before the data does, and a
   power cut in between would leave an empty file under the final name.
2. It is renamed to its final name. Readers see the old file or the new one, never half of one.
3. The folder is synced, since the new name is part of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

# What os.link says where a filesystem has no hard links, a file has too many, or the two names are on two filesystems.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV})


def write_file(path: Path, data: bytes, mode: int, work: Path | None = None) -> None:
    """Writes or replaces a file; nobody can read it before it has its mode.

    ``work``: a private folder on the same filesystem for the unfinished file; by default the file's own folder.
    """
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=work or path.parent)
    temporary = Path(name)
    try:
        _fill(handle, data, mode)
        move(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Writes a file that must not exist yet. The folder is for the caller to sync, once everything in it is written."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _fill(handle, data, mode)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def link(source: Path, target: Path, mode: int) -> None:
    """Gives a file's content a second name, by a hard link or else by a copy. The folder is for the caller to sync."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)
    target.chmod(mode)
    sync(target)


def move(source: Path, target: Path) -> None:
    """Renames a file or a folder, whose content is on stable storage already, on one filesystem."""
    source.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on stable storage."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fill(handle: int, data: bytes, mode: int) -> None:
    with os.fdopen(handle, "wb") as output:
        output.write(data)
        os.fchmod(output.fileno(), mode)
        output.flush()
        os.fsync(output.fileno())
