"""Locks between processes. The kernel releases them when the file is closed, so a killed process holds none.

A lock that several hosts may want has a note beside it (``holder``): whoever waits learns for whom.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lxdocker.files import holder
from lxdocker.files.holder import Holder
from lxdocker.files.rights import LOOK_AT, UnsafeError
from lxdocker.program import StoppedError

POLL_SECONDS = 0.2
NOTE = ".holder"  # the end of a note's name
UNREADABLE_SECONDS = 2  # how long a note may be about to be written
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_file(path: Path, mode: int = 0o600) -> int:
    """Opens a lock file, which is made if it is missing: never through a link, and never a pipe that would block."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeError(path, "it is a link", LOOK_AT) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnsafeError(path, "it is not a regular file", LOOK_AT)
    return handle


def wait(handle: int, busy: Callable[[], None], cancelled: threading.Event, *, shared: bool = False) -> bool:
    """Locks an open file; calls ``busy`` once if another process holds it. False if cancelled while waiting."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    told = False
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not told:
                busy()
                told = True
            if cancelled.wait(POLL_SECONDS):
                return False


@contextlib.contextmanager
def noted(
    path: Path, handle: int, busy: Callable[[str], None], cancelled: threading.Event, *, shared: bool = False
) -> Iterator[None]:
    """Holds the lock file ``path``, open as ``handle``, for the block, with a note that names this process. Whoever
    only reads (``shared``) writes none. ``busy`` is told once by whom it is held, if that is known.

    A note that was left behind is replaced: by then the kernel has given us the lock. Only where locks do not reach all
    hosts, one of another host counts. Raises StoppedError.
    """
    note = path.with_name(path.name + NOTE)
    if not wait(handle, lambda: busy(str(holder.read(note) or "")), cancelled, shared=shared):
        raise StoppedError
    _wait_for_note(note, busy, cancelled, shared=shared)
    try:
        yield
    finally:
        if not shared:
            with contextlib.suppress(OSError):
                note.unlink()
        fcntl.flock(handle, fcntl.LOCK_UN)


def _wait_for_note(note: Path, busy: Callable[[str], None], cancelled: threading.Event, *, shared: bool) -> None:
    """Until the note is ours, or for readers, until it is no other host's. Raises StoppedError."""
    if holder.reaches_all(note.parent):
        if not shared:
            # It tells others for whom they wait, nothing else: a full disk must not keep anybody from making room.
            with contextlib.suppress(OSError):
                _claim(note, force=True)
        return
    told, deadline = False, time.monotonic() + UNREADABLE_SECONDS
    while True:
        found = holder.read(note)
        if found is None or not found.is_elsewhere:
            force = found is not None or time.monotonic() > deadline
            if shared or _claim(note, force=force):
                return
        elif not told:
            busy(f"{found}; if that host is gone for good: rm {note}")
            told = True
        if cancelled.wait(POLL_SECONDS):
            raise StoppedError


def _claim(note: Path, *, force: bool) -> bool:
    """Writes our note, in the place of a dead process's if ``force``. False if there is another."""
    if force:
        note.unlink(missing_ok=True)
    try:
        handle = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        os.fchmod(handle, 0o644)
        file.write(Holder.this().note())
    return True


@contextlib.contextmanager
def file(path: Path) -> Iterator[None]:
    """Holds a lock file for as long as the block takes; waits for it without a word."""
    handle = open_file(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def folder(
    path: Path | str, busy: Callable[[], None] = lambda: None, cancelled: threading.Event | None = None
) -> Iterator[None]:
    """Locks a folder itself, as a sign that the process working in it lives. A rename does not release it. ``busy`` is
    called once if another process holds it. Raises StoppedError if ``cancelled`` while it waits.
    """
    handle = os.open(path, _FOLDER)
    try:
        if not wait(handle, busy, cancelled or threading.Event()):
            raise StoppedError
        yield
    finally:
        os.close(handle)


def is_held(path: Path | str) -> bool:
    """Whether a living process has locked this folder."""
    handle = os.open(path, _FOLDER)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
