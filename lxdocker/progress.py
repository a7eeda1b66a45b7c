"""What long work tells while it goes on, and to whom: the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lxdocker.values import ImageName

Say = Callable[[str], None]  # is told a line for people, without its end


class Progress:
    """How each image is coming along. Safe to call from several threads."""

    def expect(self, names: Sequence[ImageName]) -> None:
        """These images will be worked on, in about this order."""

    @contextmanager
    def step(self, what: str) -> Iterator[Say]:
        """Something that the whole run waits for while the block runs, such as registries. The block may tell what it
        is doing now.
        """
        yield lambda _: None

    def phase(self, name: ImageName, phase: str, total: int | None = None) -> None:
        """The image entered a phase; ``total`` bytes are expected in it."""

    def count(self, name: ImageName, amount: int) -> None:
        """``amount`` more bytes have come."""

    def output(self, name: ImageName, line: str) -> None:
        """A command that is run in the image has printed a line."""

    def done(self, name: ImageName, outcome: str) -> None:
        """The image is finished."""


def human_size(size: float) -> str:
    """``68.3 MB``: decimal units, as LXD and registries count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
