"""A command in an instance, connected with its streams: LXD's exec, and a websocket for each stream.

POST /1.0/instances/NAME/exec of https://documentation.ubuntu.com/lxd/latest/rest-api/. A binary message is a piece of a
stream, an empty text message its end.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module

from lxdocker.errors import LxdError
from lxdocker.lxd import websocket
from lxdocker.lxd.api import Cancelled, Lxd
from lxdocker.lxd.connection import SOON
from lxdocker.lxd.operation import SLICE_SECONDS, Operation
from lxdocker.lxd.websocket import BrokenError, Websocket

MOST_SAID = 1 << 16  # bytes of a stream that are kept of what a command says


class OutOfTimeError(LxdError):
    """A command took longer than it may."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and the last that it said."""

    status: int
    stdout: str = ""
    stderr: str = ""


class Command:
    """A running command, as running() gives it."""

    def __init__(
        self, what: str, stdout: Websocket, stderr: Websocket, cancelled: threading.Event, seconds: float
    ) -> None:
        self._what = what
        self._stdout = stdout
        self._stderr = stderr
        self._cancelled = cancelled
        self._left = threading.Event()
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """From now it may take so long."""
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def output(self) -> Iterator[bytes]:
        """What it writes to stdout, as it comes. Raises OutOfTimeError if it takes longer than it may, LxdError if LXD
        goes away, and Cancelled when the user asked to stop.
        """
        return self._pieces(self._stdout)

    def check(self) -> None:
        """Raises what output() does."""
        if self._cancelled.is_set():
            raise Cancelled
        if self._left.is_set():
            raise LxdError(f"{self._what} failed", "nobody waits for its end any more")
        if time.monotonic() > self._deadline:
            raise OutOfTimeError(f"{self._what} failed", f"it took longer than {self._seconds:.0f} s")

    def leave(self) -> None:
        """Lets nothing wait for its end any more."""
        self._left.set()

    def said(self) -> bytes:
        """The last of stderr, once that is at its end."""
        return last(self._pieces(self._stderr))

    def _pieces(self, stream: Websocket) -> Iterator[bytes]:
        for piece in stream.pieces(SLICE_SECONDS):
            self.check()
            if piece:
                yield piece


def exec_command(lxd: Lxd, project: str, instance: str, argv: Sequence[str]) -> str:
    """How a shell runs a command in an instance."""
    return lxd.client_command("exec", lxd.named(instance), "--project", project, "--", *argv)


@contextlib.contextmanager
def running(
    lxd: Lxd,
    project: str,
    instance: str,
    argv: Sequence[str],
    *,
    what: str,
    seconds: float,
    stdin: bytes = b"",
    by_hand: Callable[[str], str] = str,
    cancellable: bool = True,
) -> Iterator[tuple[Command, Callable[[], Result]]]:
    """Starts a command that may take so many ``seconds``. Gives it, and what waits for its end, when all its output has
    been read; one that is left before is ended by LXD, or goes on alone. Raises LxdError.

    ``what`` fails where this does. ``by_hand``, for the log: completes the client's command that does the same with a
    shell's redirections. ``cancellable``: not for cleaning up, which goes on when the user asked to stop.
    """
    body = {"command": list(argv), "wait-for-websocket": True, "interactive": False}
    import_module(websocket.PROTOCOL)  # before LXD waits for it, for 5 s
    path = ("instances", instance, "exec")
    told = by_hand(exec_command(lxd, project, instance, argv))
    operation = lxd.begin("post", path, what, project=project, json=body, timeout=SOON, by_hand=told)
    if operation is None:
        raise LxdError(f"{what} failed", "LXD started no operation for it")
    try:
        with _connected(lxd, operation, what) as streams:
            cancelled = lxd.cancelled if cancellable else threading.Event()
            command = Command(what, streams["1"], streams["2"], cancelled, seconds)
            with ThreadPoolExecutor(3, thread_name_prefix="command") as helpers, _leaving(command, streams.values()):
                # Beside the reading of stdout: a command may write before it has read all of stdin, LXD blocks one
                # whose stderr nobody reads, and 5 s after its end forgets it.
                helpers.submit(streams["0"].send, stdin)
                said = helpers.submit(command.said)
                ended = helpers.submit(lxd.wait, operation, what, math.inf, command.check, cancellable)

                def end() -> Result:
                    status = int(ended.result().metadata["return"])
                    return Result(status, stderr=said.result().decode("utf-8", "replace"))

                yield command, end
    except BrokenError as broken:
        # What LXD itself could not do it says of the operation, not in a stream.
        raise lxd.why_failed(operation, what) or broken from broken


@contextlib.contextmanager
def _connected(lxd: Lxd, operation: Operation, what: str) -> Iterator[Mapping[str, Websocket]]:
    """All streams. `control` first: LXD starts the command once it has the others, which then may be over before this
    comes.
    """
    secrets = operation.metadata["fds"]
    resource = f"/1.0/operations/{operation.identifier}/websocket?secret="
    with contextlib.ExitStack() as cleanup:
        yield {
            name: cleanup.enter_context(closing(Websocket(lxd.daemon.address, resource + secrets[name], what)))
            for name in ("control", "0", "1", "2")
        }


@contextlib.contextmanager
def _leaving(command: Command, streams: Iterable[Websocket]) -> Iterator[None]:
    """At the end, however it comes, nothing waits for the command any more."""
    try:
        yield
    finally:
        command.leave()
        for stream in streams:
            stream.shut_down()


def last(pieces: Iterator[bytes]) -> bytes:
    """As much of the end of a stream as is kept of what commands say."""
    kept = b""
    for piece in pieces:
        kept = (kept + piece)[-MOST_SAID:]
    return kept
