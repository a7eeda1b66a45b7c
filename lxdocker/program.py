"""Programs of this host, each in a session of its own, which ends with all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lxdocker import log

_TERM_SECONDS = 5
_GONE_SECONDS = 5
_LOOK_SECONDS = 0.1


class StoppedError(Exception):
    """The user asked to stop."""


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    seconds: float,
    cancelled: threading.Event,
    given: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end, with ``given`` on its stdin. If that takes longer than so many ``seconds``, or is
    ``cancelled``, it is ended. Raises OSError, subprocess.TimeoutExpired or StoppedError.
    """
    log.command(argv)
    pipe, deadline = subprocess.PIPE, time.monotonic() + seconds
    with subprocess.Popen(
        argv, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        try:
            while True:
                try:
                    out, err = process.communicate(given, timeout=_LOOK_SECONDS)
                    return subprocess.CompletedProcess(argv, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    given = b""
                    if time.monotonic() > deadline:
                        raise subprocess.TimeoutExpired(argv, seconds) from None
                    if cancelled.is_set():
                        raise StoppedError from None
        except BaseException:
            end(process)
            raise


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program that was started with a session of its own, and its children. They are gone when this returns,
    but for what the kernel holds up longer than five seconds.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TERM_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + _GONE_SECONDS
    while _runs(process.pid) and time.monotonic() < deadline:
        time.sleep(0.005)


def _runs(group: int) -> bool:
    """Whether a process of this group is more than a zombie, which its new parent, and not we, can wait for."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            state, _, of_group = path.read_bytes().rpartition(b")")[2].split()[:3]
            if int(of_group) == group and state not in b"ZX":
                return True
    return False
