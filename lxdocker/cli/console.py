"""What a person sees: live lines on a terminal, plain log lines elsewhere, tables, JSON, errors.

Results go to stdout, everything about how it goes to stderr.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lxdocker.cli.table import RED, YELLOW, Column, coloured, lay_out
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.progress import Progress, human_size
from lxdocker.text import printable
from lxdocker.values import ImageName

# More would say nothing about the image and hide the rest.
REFRESH_PER_SECOND = 5


def has_colours(stream: TextIO) -> bool:
    """Whether colours may be sent there: https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def terminal_width(stream: TextIO) -> int:
    """Columns of the terminal that ``stream`` is. COLUMNS comes first, as in shells; 80 where nothing is known."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


def _marked(text: str, colour: int) -> str:
    """``text`` with its first word in a colour."""
    word, space, rest = text.partition(" ")
    return f"{coloured(word, colour)}{space}{rest}"


class OutputError(LxdockerError):
    """The result could not be written to its end."""

    def __init__(self, error: OSError) -> None:
        super().__init__("the result can't be written", str(error), "let it go elsewhere, or free space there")
        self.reader_left = isinstance(error, BrokenPipeError)  # which is no fault: `| head` does


class Console:
    """Where a command's words go."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        # Python has none where the caller closed them.
        self._out = out or sys.stdout or io.StringIO()
        self._err = err or sys.stderr or io.StringIO()
        self._lock = threading.Lock()
        self.live: Live | None = None
        self._is_quiet = False
        self._is_verbose = False
        self._held: list[str] = []

    @property
    def is_quiet(self) -> bool:
        """Whether nothing should be printed unless something changed or failed."""
        return self._is_quiet

    def be_quiet(self) -> None:
        """No remarks and no progress. Warnings wait for a result or an error, and are lost if there is none."""
        self._is_quiet = True

    def be_verbose(self) -> None:
        """Each phase of an image, also where there is no terminal."""
        self._is_verbose = True

    def print(self, text: str = "", colour: int = 0) -> None:
        """A line of the result. ``colour``: of its first word, on a terminal."""
        self._write(_marked(printable(text), colour if has_colours(self._out) else 0))

    def json(self, document: Any) -> None:
        """The result as JSON."""
        text = json.dumps(document, indent=2, ensure_ascii=False)
        # JSON itself leaves DEL and the upper control characters as they are.
        self._write(re.sub(r"[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text))

    def write(self, content: bytes) -> None:
        """The result as bytes. Raises UsageError for a terminal, which would obey some of them."""
        if self._out.isatty():
            raise UsageError("refusing to write to a terminal", "the output is binary", "redirect it: > FILE, or | ...")
        try:
            self._out.flush()
            stream = getattr(self._out, "buffer", None)
            if stream is not None:  # None where the caller closed stdout
                stream.write(content)
                stream.flush()
        except OSError as error:
            raise OutputError(error) from error

    def note(self, text: str) -> None:
        """A line on how it goes."""
        if not self._is_quiet:
            self.log(text, YELLOW if text.startswith("warning: ") else 0)
        elif text.startswith("warning: "):
            self._held.append(text)

    def log(self, text: str, colour: int = 0) -> None:
        """A line on how it goes that was asked for, or is about a failure: also when quiet."""
        shown = _marked(printable(text), colour if has_colours(self._err) else 0)
        with self._lock:
            if self.live is not None:
                self.live.above(shown)
                return
            # Nobody may be reading it any more, which is no reason to stop in the middle of the work.
            with suppress(OSError):
                print(shown, file=self._err, flush=True)

    def error(self, error: LxdockerError) -> None:
        """What failed, why, and what to do now."""
        self._release()
        self.log(f"error: {error.brief}", RED)
        for line in error.details.splitlines():
            self.log(f"  {line}")
        if error.resolution:
            self.log(f"  -> {error.resolution}")

    def _release(self) -> None:
        held, self._held = self._held, []
        for text in held:
            self.log(text, YELLOW)

    def table(self, header: Sequence[str | Column], rows: Sequence[Sequence[str]]) -> None:
        """Columns, as wide as they need to be; on a terminal, cut so that they fit (see Column)."""
        width = terminal_width(self._out) if self._out.isatty() else None
        for line in lay_out(header, rows, width, colour=has_colours(self._out)):
            self._write(line)

    def _write(self, text: str) -> None:
        """At once, so that what goes wrong goes wrong here and not when the program ends."""
        self._release()
        try:
            print(text, file=self._out, flush=True)
        except OSError as error:
            raise OutputError(error) from error

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Live lines where stderr is a terminal, log lines elsewhere."""
        if self._err.isatty():
            with Live(self._err) as live:
                self.live = live
                try:
                    yield live
                finally:
                    self.live = None
        else:
            yield Lines(self)


class Lines(Progress):
    """One plain line per phase."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[ImageName, float] = {}

    def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
        self._began.setdefault(name, time.monotonic())
        size = f" ({human_size(total)})" if total else ""
        self._console.note(f"{name}: {phase}{size}")

    def done(self, name: ImageName, outcome: str) -> None:
        began = self._began.get(name)
        took = f" in {time.monotonic() - began:.1f} s" if began is not None else ""
        self._console.note(f"{name}: {outcome}{took}")


class Live(Progress):
    """A line per image with its phase and bytes, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import Progress as RichProgress
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = RichProgress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[name]}", markup=False),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[bytes]}", markup=False),
            TimeElapsedColumn(),
            console=RichConsole(file=stream, highlight=False, emoji=False),
            refresh_per_second=REFRESH_PER_SECOND,
        )
        self._tasks: dict[ImageName, Any] = {}
        self._counts: dict[ImageName, tuple[int, int | None]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def above(self, text: str) -> None:
        """Prints a line above the live ones."""
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
        with self._lock:
            self._counts[name] = (0, total)
            shown = human_size(total) if total else ""
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(phase, total=1, name=name.value, bytes=shown)
            self._progress.update(self._tasks[name], description=phase, bytes=shown)

    def count(self, name: ImageName, amount: int) -> None:
        with self._lock:
            seen, total = self._counts.get(name, (0, None))
            seen += amount
            self._counts[name] = (seen, total)
            shown = human_size(seen) + (f" of {human_size(total)}" if total else "")
            self._progress.update(self._tasks[name], bytes=shown)

    def done(self, name: ImageName, outcome: str) -> None:
        with self._lock:
            if name in self._tasks:
                self._progress.update(self._tasks[name], description=outcome, completed=1)
