"""What was under way when LXD was restarted is done once more: an update of LXD must cost nobody an image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lxdocker.errors import LxdockerError
from lxdocker.lxd.api import Cancelled, Lxd
from lxdocker.lxd.operation import SLICE_SECONDS, NoAnswerError
from lxdocker.progress import Say

T = TypeVar("T")

AWAY_SECONDS = 60  # how long LXD may take to come back
LEAVING_SECONDS = 5  # and how long it may go on answering when it has begun to end
# What it says while it goes away, and still answers.
GOING = ("shutting down", "shutdown", "database is closed")


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
        this looked like: an operation that nobody knows, a builder that was stopped. So it is if only the connection
        broke off, as one over a network may.
        """
        before = self._process
        try:
            return attempt()
        except Cancelled:
            raise
        except LxdockerError as error:
            if not self._may_try_again(before, error):
                raise
        return attempt()

    def _may_try_again(self, before: int, error: LxdockerError) -> bool:
        product, began = self._lxd.daemon.product, time.monotonic()
        broke_off = isinstance(error, NoAnswerError)
        is_going = broke_off or any(words in str(error).lower() for words in GOING)
        with self._lock:  # the others learn what the first has found out
            while not self._is_gone:
                try:
                    now = self._lxd.process(anew=True)
                except Cancelled:
                    return False
                except LxdockerError:
                    self._is_gone = time.monotonic() > began + AWAY_SECONDS
                else:
                    if now != before:
                        if now != self._process:
                            self._say(f"{product} was restarted: doing once more what it has interrupted")
                        self._process = now
                        return True
                    if not is_going or time.monotonic() > began + LEAVING_SECONDS:
                        return broke_off
                if self._lxd.cancelled.wait(SLICE_SECONDS):
                    return False
        return False
