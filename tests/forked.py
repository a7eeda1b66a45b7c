"""Runs a function in a child process: one that may be killed in the middle, or that is another user."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

KILLED = 99  # the exit status of a child that die() ended
NOBODY = 65534


def die() -> None:
    """Ends the child on the spot: nothing is flushed, no ``finally`` is run, as if it had been killed."""
    os._exit(KILLED)


def in_child(work: Callable[[], Any], *, uid: int | None = None) -> Any:
    """What ``work`` returns, run in a child. None if the child was ended by die(); an error in it fails the test."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn where there are other threads; the child uses nothing that they could have locked.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            result = work()
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(result, pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, KILLED}, f"the child failed with status {status}"
    return pickle.loads(answer) if status == 0 else None  # noqa: S301 - our own child's
