"""Temporary folders on this host. If this process is killed, the next run removes them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lxdocker.files import lock

PREFIX = "lxdocker-scratch."
_UNNAMED = ".lxdocker-scratch."  # until it is locked
_STALE_SECONDS = 3600


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new private folder, removed at the end of the block. It is locked while this process lives; without a lock it
    is a leftover.
    """
    unnamed = made = Path(tempfile.mkdtemp(prefix=_UNNAMED))
    try:
        with lock.folder(unnamed):
            # Locked before it has the name by which sweep() knows such folders: no other run removes it in between.
            made = unnamed.with_name(PREFIX + unnamed.name.removeprefix(_UNNAMED))
            unnamed.rename(made)
            try:
                yield made
            finally:
                shutil.rmtree(made, ignore_errors=True)
    finally:
        shutil.rmtree(unnamed, ignore_errors=True)


def sweep(say: Callable[[str], None]) -> None:
    """Removes this user's folders whose process is gone. One that can't be removed is skipped."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith((PREFIX, _UNNAMED)):
                with contextlib.suppress(OSError):
                    if _is_left(entry):
                        shutil.rmtree(entry.path)
                        say(f"removed {entry.path}, left over from an earlier run")


def _is_left(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    if status.st_uid != os.geteuid() or not entry.is_dir(follow_symlinks=False):
        return False
    if entry.name.startswith(_UNNAMED):
        return time.time() - status.st_mtime > _STALE_SECONDS
    return not lock.is_held(entry.path)
