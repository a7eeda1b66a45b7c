"""Text from registries, images, servers and tools, made fit for a terminal, a table or a log."""

from __future__ import annotations

import re

# Control characters, which terminals obey; line separators; overrides of the direction of writing, which show a reader
# another order than there is; and halves of surrogate pairs, which can't be encoded.
_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_LINES = re.compile(f"[{_CONTROL}]")
_LINE = re.compile(f"[{_CONTROL}\t\n]+")


def printable(text: str) -> str:
    """``text`` without control characters but newline and tab."""
    return _LINES.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, limit: int = 1000) -> str:
    """``text`` on one line, a space for each run of control characters, and of at most ``limit`` characters."""
    return _LINE.sub(" ", text)[:limit]


def counted(count: float, noun: str, plural: str = "") -> str:
    """``1 version``, ``2 versions``, ``0.5 hours``."""
    return f"{int(count) if count == int(count) else count} {noun if count == 1 else plural or f'{noun}s'}"
