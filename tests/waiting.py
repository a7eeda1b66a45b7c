"""Waiting for what other programs do, by looking until it is so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 30


def wait_until(what: str, probe: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    """What ``probe`` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while True:
        began = time.monotonic()
        if found := probe():
            return found
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        # Looking takes the processor from what is waited for: an `lxc exec` takes a tenth of a second, LXD itself some.
        time.sleep(min(max(pause, now - began), 0.5))
        pause = min(pause * 1.5, 0.15)


@contextmanager
def looking(look: Callable[[], object], at_least: int) -> Iterator[None]:
    """Looks again and again beside the block, ``at_least`` so many times; what a look raises is raised at its end."""
    faults: list[BaseException] = []
    looks = 0
    stop = threading.Event()

    def again() -> None:
        nonlocal looks
        while not stop.is_set():
            try:
                look()
            except BaseException as error:
                faults.append(error)
                return
            looks += 1

    reader = threading.Thread(target=again)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join()
    if faults:
        raise faults[0]
    assert looks >= at_least
