"""Differences between two versions of an image, for clients that have the older one: VCDIFF files made by xdelta3.

LXD applies a delta with ``xdelta3 -d``, and the whole download fails if that fails. So each delta is applied here, in
the same way, before it is published.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lxdocker import log
from lxdocker.image.artifact import ROOTFS_FILE, Artifact, read
from lxdocker.tree.version import Delta, Published

XDELTA = "xdelta3"
# The largest useful delta, as a share of the whole file: applying it costs the client time, too.
MOST = 0.7
# How much of the older file is searched at once, in bytes. xdelta3 needs that plus about 80 MB of memory.
SMALLEST_WINDOW = 1 << 26  # its default
LARGEST_WINDOW = 1 << 28
TIMEOUT_SECONDS = 900.0
POLL_SECONDS = 0.1


def make(
    base: Published, artifact: Artifact, folder: Path, cancelled: threading.Event, say: Callable[[str], None]
) -> tuple[Delta, Path] | None:
    """Makes a delta from a version to an image that is about to be published, as a file in ``folder``. None if there is
    no useful delta: publishing never fails for lack of one.
    """
    if shutil.which(XDELTA) is None:
        say(f"no delta for {base.name}: xdelta3 is not installed")
        return None
    if base.fingerprint == artifact.fingerprint:
        return None
    source, target = base.folder / ROOTFS_FILE, folder / f"{base.key}.vcdiff"
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(target.unlink, missing_ok=True)
        # -S none: the data is compressed already, and not every xdelta3 can undo a second compression.
        window = min(max(SMALLEST_WINDOW, base.rootfs_size), LARGEST_WINDOW)
        encode = [
            "-e",
            "-f",
            "-1",
            "-S",
            "none",
            "-B",
            str(window),
            "-s",
            str(source),
            str(artifact.rootfs),
            str(target),
        ]
        problem = _run(encode, cancelled)
        if problem is None and target.stat().st_size <= MOST * artifact.rootfs_size:
            problem = _try(source, target, artifact, folder / f"{base.key}.applied", cancelled)
            if problem is None:
                cleanup.pop_all()
                hashed = hashlib.sha256()
                for chunk in read(target):
                    hashed.update(chunk)
                return Delta(base.key, target.stat().st_size, hashed.hexdigest()), target
        if problem is not None:
            say(f"no delta for {base.name}: {problem}")
    return None


def _try(source: Path, delta: Path, artifact: Artifact, applied: Path, cancelled: threading.Event) -> str | None:
    """Applies a delta as LXD does; returns what is wrong with it."""
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(applied.unlink, missing_ok=True)
        if problem := _run(["-f", "-d", "-s", str(source), str(delta), str(applied)], cancelled):
            return problem
        hashed = hashlib.sha256()
        for chunk in read(applied):
            hashed.update(chunk)
        return None if hashed.hexdigest() == artifact.rootfs_sha256 else "applying it gives a different file"


def _run(arguments: Sequence[str], cancelled: threading.Event) -> str | None:
    """Runs xdelta3; returns what went wrong."""
    with _started([XDELTA, *arguments]) as process:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while process.poll() is None:
            if cancelled.wait(POLL_SECONDS):
                return "interrupted"
            if time.monotonic() > deadline:
                return f"xdelta3 took more than {TIMEOUT_SECONDS:g} s"
        if process.returncode:
            _, words = process.communicate()
            return f"xdelta3 failed: {words.decode(errors='replace').strip()[-300:]}"
    return None


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    log.command(command)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process:
        try:
            yield process
        finally:
            process.kill()
