"""A real terminal: a program on a pty, and what a person sees of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pyte

from tests.waiting import PATIENCE_SECONDS, wait_until


class Terminal:
    """A terminal of some size, in which a program runs."""

    def __init__(self, process: pexpect.spawn, columns: int, rows: int) -> None:
        self.process = process
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without what has scrolled away."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def scrolled(self) -> list[str]:
        """What has scrolled away."""
        top = self.screen.history.top
        return ["".join(row[column].data for column in range(self.screen.columns)).rstrip() for row in top]

    @property
    def everything(self) -> str:
        return "\n".join([*self.scrolled, *self.lines]).rstrip()

    def _read(self) -> bool:
        try:
            piece = self.process.read_nonblocking(65536, timeout=0.05)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += piece
        self._stream.feed(piece)
        return True

    def wait_for(self, what: str, seen: Callable[[list[str]], bool]) -> list[str]:
        """The screen, as soon as ``seen`` holds for it."""

        def probe() -> list[str] | None:
            alive = self._read()
            if seen(self.lines):
                return self.lines
            assert alive, f"ended before {what}:\n{self.everything}"
            return None

        try:
            return wait_until(what, probe)
        except AssertionError as error:
            raise AssertionError(f"{error}; on the screen:\n{self.everything}") from None

    def end(self) -> int | None:
        """Its exit status, once it has ended by itself."""
        wait_until("its end", lambda: not self._read())
        self.process.close()
        status: int | None = self.process.exitstatus
        return status


@contextmanager
def terminal(
    argv: list[str], columns: int, rows: int, *, cwd: Path, environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """Runs a program on a terminal until the block ends."""
    size, seconds = (rows, columns), PATIENCE_SECONDS
    process = pexpect.spawn(argv[0], argv[1:], dimensions=size, cwd=str(cwd), env=environment, timeout=seconds)
    try:
        yield Terminal(process, columns, rows)
    finally:
        process.close(force=True)


def program(*arguments: str) -> list[str]:
    """lxdocker, as a command line."""
    return [sys.executable, "-m", "lxdocker", *arguments]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Without the caller's own settings."""
    dropped = ("LXDOCKER_", "XDG_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {
        **kept,
        "HOME": str(home),
        "LXD_DIR": str(home / "lxd"),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        **more,
    }
