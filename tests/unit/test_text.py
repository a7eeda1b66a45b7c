"""Foreign text made fit for people."""

from __future__ import annotations

import pytest

from lxdocker.text import counted, one_line, printable


def test_words_of_every_language_stay_as_they_are() -> None:
    text = "naïve 漢字 🐳 שלום\u200f"
    assert printable(text) == one_line(text) == text


@pytest.mark.parametrize(
    "hostile", ["\x1b", "\x00", "\r", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\udc80"], ids=ascii
)
def test_what_a_terminal_would_obey_goes(hostile: str) -> None:
    assert printable(f"a{hostile}b\tc\nd") == "a\ufffdb\tc\nd"
    assert one_line(f"a{hostile}{hostile}b\tc\r\nd") == "a b c d"


def test_a_line_is_no_longer_than_its_limit() -> None:
    assert one_line("x" * 2000) == "x" * 1000
    assert one_line("\n" * 500 + "abc", 3) == " ab"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 days"), (1, "1 day"), (1.0, "1 day"), (2, "2 days"), (0.5, "0.5 days"), (1_234_567, "1234567 days")],
)
def test_one_is_not_many(count: float, text: str) -> None:
    assert counted(count, "day") == text
    assert counted(count, "registry", "registries") == text.replace("days", "registries").replace("day", "registry")
