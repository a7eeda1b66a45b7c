"""Telling systemd how far the server is (sd_notify(3)), where a unit of Type=notify runs it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

READY = "READY=1"


def stopping(seconds: float) -> str:
    """The state of a server that stops within ``seconds``: systemd waits so long, and a little more."""
    return f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int((seconds + 10) * 1e6)}"


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Sends ``state`` to whoever started this process and wants to know. Never fails: nothing depends on it."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path  # a name in the abstract namespace
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.sendto(state.encode(), address)
