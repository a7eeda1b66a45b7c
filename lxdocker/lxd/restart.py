"""What was under way when LXD was restarted is done once more: an update of LXD must cost nobody an image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lxdocker.errors import LxdockerError
from lxdocker.lxd.api import Cancelled, Lxd
from lxdocker.lxd.operation import SLICE_SECONDS
from lxdocker.progress import Say

T = TypeVar("T")

AWAY_SECONDS = 60  # how long LXD may take to come back
# What it says while it goes away, and still answers.
GOING = ("shutting down", "shutdown")


class Watch:
    """Notices that LXD was restarted. Used by several threads."""

    def __init__(self, lxd: Lxd, say: Say) -> None:
        self._lxd = lxd
        self._say = say
        self._process = lxd.process()
        self._lock = threading.Lock()
        self._is_gone = False  # somebody has waited in vain

    def outlived(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns. It is made twice if LXD was restarted during the first and that failed, whatever
        this looked like: a stream that broke off, an operation that nobody knows, a builder that was stopped.
        """
        before = self._process
        try:
            return attempt()
        except Cancelled:
            raise
        except LxdockerError as error:
            if not self._was_restarted(before, error):
                raise
        return attempt()

    def _was_restarted(self, before: int, error: LxdockerError) -> bool:
        product = self._lxd.daemon.product
        with self._lock:  # the others learn what the first has found out
            deadline = time.monotonic() + AWAY_SECONDS
            is_going = any(words in str(error).lower() for words in GOING)
            while not self._is_gone:
                try:
                    now = self._lxd.process(anew=True)
                except Cancelled:
                    return False
                except LxdockerError:
                    is_going = True
                else:
                    if now != before:
                        if now != self._process:
                            self._say(f"{product} was restarted: doing once more what it has interrupted")
                        self._process = now
                        return True
                    if not is_going:
                        return False
                if self._lxd.cancelled.wait(SLICE_SECONDS):
                    return False
                self._is_gone = time.monotonic() > deadline
        return False
