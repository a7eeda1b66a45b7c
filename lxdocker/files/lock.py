"""Locks between processes. The kernel releases them when the file is closed, so a killed process holds none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from lxdocker.files.rights import LOOK_AT, UnsafeError

POLL_SECONDS = 0.2
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
def file(path: Path) -> Iterator[None]:
    """Holds a lock file for as long as the block takes; waits for it without a word."""
    handle = open_file(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def folder(path: Path | str) -> Iterator[None]:
    """Locks a folder itself, as a sign that the process working in it lives. A rename does not release it."""
    handle = os.open(path, _FOLDER)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
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
