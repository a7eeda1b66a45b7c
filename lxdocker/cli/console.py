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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lxdocker.cli.again import in_document
from lxdocker.cli.live import Lines, Live
from lxdocker.cli.table import RED, YELLOW, Column, coloured, lay_out
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.progress import Progress
from lxdocker.reasons import in_words
from lxdocker.text import printable


def has_colours(stream: TextIO) -> bool:
    """Whether colours may be sent there: https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def can_redraw(stream: TextIO) -> bool:
    """Whether it is a terminal whose cursor moves."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


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
        super().__init__("the result can't be written", in_words(error), "write it elsewhere, or free some space")
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
        self._again: Callable[[str], str] | None = None
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

    def repeat(self, again: Callable[[str], str] | None) -> None:
        """Commands that are printed get options by ``again``, from now on."""
        self._again = again

    def print(self, text: str = "", colour: int = 0, *, whole: bool = False) -> None:
        """A line of the result. ``colour``: of its first word, on a terminal; ``whole``: its commands have all options
        that they need.
        """
        text = text if whole else self._with_options(text)
        self._write(_marked(printable(text), colour if has_colours(self._out) else 0))

    def _with_options(self, text: str) -> str:
        return self._again(text) if self._again else text

    def json(self, document: Any) -> None:
        """The result as JSON."""
        if self._again:
            document = in_document(document, self._again)
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
        self._log(self._with_options(text), colour)

    def _log(self, text: str, colour: int = 0) -> None:
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
        self._log(f"error: {error.brief}", RED)
        for line in error.details.splitlines():
            self._log(f"  {line}")
        if error.resolution:
            self.log(f"  -> {error.resolution}")

    def _release(self) -> None:
        held, self._held = self._held, []
        for text in held:
            self.log(text, YELLOW)

    @property
    def can_ask(self) -> bool:
        """Whether there is a person to ask: stdin and stderr are a terminal."""
        return sys.stdin is not None and sys.stdin.isatty() and self._err.isatty()

    def confirm(self, question: str, *, default: bool = False) -> bool:
        """Asks on stderr."""
        import typer

        self._release()
        return bool(typer.confirm(printable(question), default=default, err=True))

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
        """Live lines where stderr is a terminal, log lines elsewhere, nothing when quiet."""
        if self._is_quiet:
            yield Progress()
        elif not can_redraw(self._err):
            yield Lines(self.note, phases=self._is_verbose)
        else:
            live = Live(self._err, lambda: terminal_width(self._err))
            live.enter(colours=has_colours(self._err))
            self.live = live
            try:
                yield live
            finally:
                self.live = None
                live.leave()
