"""The log of a run: commands, requests and background operations, on stderr with -v and -vv, and in a file.

A line that begins with `+ ` can be pasted into a shell; `++ ` marks a command that the one before it runs itself. What
follows a ` # ` is for people. -v shows what is done: programs, commands in instances, requests that change something
and operations (INFO). -vv also shows what is asked (DEBUG).

A module logs to ``lxdocker.NAME``, as it pleases: nothing is shown, or even put together, unless main() opened a log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from lxdocker.errors import UsageError

VARIABLE = "LXDOCKER_LOG"  # names the file
ROOT = logging.getLogger("lxdocker")
ROOT.addHandler(logging.NullHandler())  # or Python would print warnings that nobody asked for
COMMANDS = logging.getLogger("lxdocker.command")
RUN = logging.getLogger("lxdocker.run")  # the run itself, for the file: a person sees it anyway
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)  # by how often -v was given

# The last line of defence: who logs something takes care that there is no secret in it.
_SECRETS = (
    # The user, too, which may be a token, except for the one that all of git over ssh has.
    (re.compile(r"(://)(?!git@)[^\s/@'\"]+@"), r"\1***@"),
    (re.compile(r"([?&][\w-]*(?:secret|token|password|signature|credential|sig)=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(\bauthorization['\"]?\s*[:=]\s*)[^\n]+", re.IGNORECASE), r"\1***"),
)


class FileText(str):
    """A file's text as an argument. It is logged as what reads the file: nobody wants to read all of it there."""

    by_hand: str

    @classmethod
    def of(cls, path: Path) -> FileText:
        text = cls(path.read_text())
        text.by_hand = f'"$(cat {shlex.quote(str(path))})"'
        return text


def shell(argv: Sequence[str]) -> str:
    """A command as a shell reads it."""
    return " ".join(word.by_hand if isinstance(word, FileText) else shlex.quote(word) for word in argv)


def command(argv: Sequence[str], stdin: Path | None = None, output: str = "") -> None:
    """Logs a command that is about to run on this host. ``stdin``, ``output``: files that it reads and writes."""
    if COMMANDS.isEnabledFor(logging.INFO):
        files = f" <{shlex.quote(str(stdin))}" if stdin else ""
        COMMANDS.info("+ %s%s", shell(argv), files + (f" >{shlex.quote(output)}" if output else ""))


def took(began: float) -> str:
    """How long something took that began at a time of time.monotonic()."""
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def hidden(text: str) -> str:
    """``text`` without what looks like a password or a token."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))


class _Shown(logging.Handler):
    """Shows records as a command shows its other lines, also above a live view."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show
        self.setFormatter(_Formatter("%(message)s"))
        self.addFilter(lambda record: record.name != RUN.name)

    def emit(self, record: logging.LogRecord) -> None:
        self._show(self.format(record))


class _File(logging.StreamHandler[TextIO]):
    """Appends records to a file. That it can't be written hinders nothing else."""

    def __init__(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        except OSError as error:
            why = error.strerror or "it cannot be opened"
            raise UsageError(f"cannot write the log {path}", why, f"correct {VARIABLE}, or unset it") from None
        super().__init__(os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace"))
        self.setFormatter(
            _Formatter(
                "%(asctime)s.%(msecs)03d %(levelname)s %(threadName)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
            )
        )

    def handleError(self, record: logging.LogRecord) -> None:
        """Silent."""

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):  # what could not be written is lost
            self.stream.close()


class Log:
    """The log of one run, which is kept while this is entered."""

    def __init__(self, show: Callable[[str], None], environ: Mapping[str, str]) -> None:
        """Raises UsageError where there is a file to be written and that can't be."""
        self._shown = _Shown(show)
        self._shown.setLevel(LEVELS[0])
        path = environ.get(VARIABLE)
        self._handlers: list[logging.Handler] = [self._shown, *([_File(path)] if path else [])]

    def __enter__(self) -> Log:
        for handler in self._handlers:
            ROOT.addHandler(handler)
        self.be_verbose(0)
        return self

    def __exit__(self, *_: object) -> None:
        for handler in self._handlers:
            ROOT.removeHandler(handler)
            handler.close()
        ROOT.setLevel(logging.NOTSET)

    def be_verbose(self, count: int) -> None:
        """Shows as much as so many -v ask for."""
        self._shown.setLevel(LEVELS[min(count, len(LEVELS) - 1)])
        ROOT.setLevel(min(handler.level or logging.DEBUG for handler in self._handlers))
