"""How work goes, as it goes: lines that are redrawn in place on a terminal, plain lines elsewhere.

::

    db: built in 3.2 s                                           finished images scroll away
    ⠋ web       fetch          12.3 MB of 68.3 MB     0:04       running ones stay in sight
    ⠋ redis     unpack                                0:01
      waiting: postgres, registry, whoami and 34 more
    ⠋ 23 of 61, 0 failed                              1:07       or what the whole run waits for
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from lxdocker.cli.table import RED, coloured
from lxdocker.progress import Progress, Say, human_size
from lxdocker.text import printable
from lxdocker.values import ImageName

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_PER_SECOND = 5
STEP_DELAY_SECONDS = 0.3  # what is over by then needs no line
NAME_WIDTH = 30  # of the longest name that gets a column as wide as it is
PHASE_WIDTH = 40
BYTES_WIDTH = len("999.9 MB of 999.9 MB")
CLOCK_WIDTH = len("00:00")
LEAST_WIDTH = 20  # of what is shown at all
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINNER_ASCII = "-\\|/"
FAILED = "failed"


@dataclass(slots=True)
class _Running:
    phase: str
    began: float
    seen: int = 0
    total: int | None = None

    @property
    def bytes(self) -> str:
        if not self.seen and not self.total:
            return ""
        return human_size(self.seen) + (f" of {human_size(self.total)}" if self.total else "")


class Board(Progress):
    """What is going on, and the lines that show it. Safe to call from several threads."""

    def __init__(
        self, above: Callable[[str, bool], None], clock: Callable[[], float] = time.monotonic, spinner: str = SPINNER
    ) -> None:
        """``above`` takes a line about an image that is finished, and whether it failed."""
        self._above = above
        self._clock = clock
        self._spinner = spinner
        self._lock = threading.RLock()
        self._began = clock()
        self._names: list[ImageName] = []  # all that are expected or were seen
        self._running: dict[ImageName, _Running] = {}
        self._done: dict[ImageName, bool] = {}  # whether it failed
        self._expected = 0
        self._steps: list[tuple[object, str, float]] = []

    def expect(self, names: Sequence[ImageName]) -> None:
        with self._lock:
            self._names += [name for name in names if name not in self._names]
            self._expected = len(self._names)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Say]:
        key = object()

        def tell(text: str) -> None:
            with self._lock:
                self._steps[:] = [(one, text if one is key else old, began) for one, old, began in self._steps]

        with self._lock:
            self._steps.append((key, what, self._clock()))
        try:
            yield tell
        finally:
            with self._lock:
                self._steps[:] = [step for step in self._steps if step[0] is not key]

    def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
        with self._lock:
            if name not in self._names:
                self._names.append(name)
            began = self._running[name].began if name in self._running else self._clock()
            self._running[name] = _Running(phase, began, total=total)

    def count(self, name: ImageName, amount: int) -> None:
        with self._lock:
            if name in self._running:
                self._running[name].seen += amount

    def output(self, name: ImageName, line: str) -> None:
        with self._lock:
            if name in self._running:
                self._running[name].phase = line

    def done(self, name: ImageName, outcome: str) -> None:
        with self._lock:
            running = self._running.pop(name, None)
            if name not in self._names:
                self._names.append(name)
            self._done[name] = self._done.get(name, False) or outcome == FAILED
            took = f" in {self._clock() - running.began:.1f} s" if running else ""
        self._above(f"{name}: {outcome}{took}", outcome == FAILED)

    def lines(self, width: int, height: int) -> list[str]:
        """At most ``height`` lines of at most ``width`` characters: as many running images as fit, then the rest."""
        with self._lock:
            now = self._clock()
            summary = self._summary(now, width)
            if not self._running and not summary:
                return []
            running = [(name, self._running[name]) for name in self._running]
            waiting = [
                name for name in self._names[: self._expected] if name not in self._running and name not in self._done
            ]
            spinner = self._frame(now)
            below = [self._waiting(waiting, width), summary] if waiting else [summary]
            room = max(height - len(below), 0)
            if len(running) > room:
                shown = max(room - 1, 0)
                hidden = f"  and {len(running) - shown} more at work"
                below.insert(0, hidden[:width])
                running = running[:shown]
            rows = [self._row(name, work, now, width, spinner) for name, work in running]
            return [line for line in (*rows, *below) if line][-height:]

    def _frame(self, now: float) -> str:
        return self._spinner[int((now - self._began) * REFRESH_PER_SECOND) % len(self._spinner)]

    def _row(self, name: ImageName, work: _Running, now: float, width: int, spinner: str) -> str:
        """The widths depend only on the terminal and the names, so that no column moves."""
        longest = max(len(known.value) for known in self._names)
        names = min(longest, NAME_WIDTH, max(width // 3, 8))
        clock = f"{_clock(now - work.began):>{CLOCK_WIDTH}}"
        fixed = 2 + names + 2 + len(clock)
        room = width - fixed - 2
        line = f"{spinner} {_cut(name.value, names)}  "
        if room - 2 - BYTES_WIDTH >= 12:
            phase = min(room - 2 - BYTES_WIDTH, PHASE_WIDTH)
            return f"{line}{_cut(printable(work.phase), phase)}  {work.bytes:>{BYTES_WIDTH}}  {clock}"
        if room >= 6:
            return f"{line}{_cut(printable(work.phase), min(room, PHASE_WIDTH))}  {clock}"
        return f"{line}{_cut(printable(work.phase), max(width - len(line), 0))}"[:width]

    def _waiting(self, names: Sequence[ImageName], width: int) -> str:
        text = "  waiting: "
        for index, name in enumerate(names):
            more = len(names) - index
            following = f"{', ' if index else ''}{name}"
            ending = f" and {more - 1} more" if more > 1 else ""
            if len(text) + len(following) + len(ending) > width:
                return (f"{text} and {more} more" if index else f"  waiting: {more}")[:width]
            text += following
        return text

    def _summary(self, now: float, width: int) -> str:
        steps = [(text, began) for _, text, began in self._steps if now - began >= STEP_DELAY_SECONDS]
        failed = sum(self._done.values())
        if self._expected:
            text = f"{len(self._done)} of {max(self._expected, len(self._done))}, {failed} failed"
        elif self._done or self._running:
            text = f"{len(self._done)} done, {failed} failed"
        elif steps:
            text = ""
        else:
            return ""
        began = self._began
        if steps:
            what, began = steps[-1]
            text = f"{text}; {what}" if self._done else what
        text = printable(text).replace("\n", " ")
        return f"{self._frame(now)} {text[: max(width - 2 - 2 - CLOCK_WIDTH, 0)]}  {_clock(now - began)}"[:width]


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: max(width - 1, 0)]}…"[:width]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


class Live(Board):
    """The board on a terminal, redrawn in place. Nothing of it stays at the end but the lines above it."""

    def __init__(self, stream: TextIO, width: Callable[[], int]) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live as RichLive

        encoding = (getattr(stream, "encoding", None) or "ascii").lower()
        super().__init__(self._finished, spinner=SPINNER if encoding.startswith("utf") else SPINNER_ASCII)
        self._width = width
        # Colours are put in here, by one rule for all output.
        self._screen = RichConsole(file=stream, highlight=False, emoji=False, markup=False)
        self._live = RichLive(
            console=self._screen,
            get_renderable=self._render,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._has_colours = False

    def enter(self, *, colours: bool) -> None:
        """Begins to draw."""
        self._has_colours = colours
        self._live.start()

    def leave(self) -> None:
        """Takes the lines away, and shows the cursor again."""
        self._live.stop()

    def refresh(self) -> None:
        """Draws now."""
        self._live.refresh()

    def above(self, text: str) -> None:
        """Prints a line above the live ones. ``text`` may have colours."""
        from rich.text import Text

        self._screen.print(Text.from_ansi(text) if "\x1b" in text else Text(text), soft_wrap=True)

    def _finished(self, text: str, is_failure: bool) -> None:
        self.above(coloured(text, RED if is_failure and self._has_colours else 0))

    def _render(self) -> RenderableType:
        from rich.text import Text

        height = max(self._screen.size.height - 1, 1)
        # The last column stays free: some terminals wrap there.
        lines = self.lines(max(self._width() - 1, LEAST_WIDTH), height)
        return Text("\n".join(lines), no_wrap=True, overflow="crop")


class Lines(Progress):
    """One plain line per image; with ``phases``, also one for each of its phases."""

    def __init__(self, say: Say, *, phases: bool) -> None:
        self._say = say
        self._phases = phases
        self._began: dict[ImageName, float] = {}

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[Say]:
        yield self._say if self._phases else lambda _: None

    def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
        self._began.setdefault(name, time.monotonic())
        if self._phases:
            size = f" ({human_size(total)})" if total else ""
            self._say(f"{name}: {phase}{size}")

    def done(self, name: ImageName, outcome: str) -> None:
        began: Any = self._began.get(name)
        took = f" in {time.monotonic() - began:.1f} s" if began is not None else ""
        self._say(f"{name}: {outcome}{took}")
