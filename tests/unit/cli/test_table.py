"""Tables on terminals of any width, and where a program reads."""

from __future__ import annotations

import pytest

from lxdocker.cli.table import NAME, SOURCE, STATE, Column, digest_column, lay_out

HEADER = [NAME, STATE, SOURCE, Column("BUILT", least=16), digest_column(), digest_column("FINGERPRINT")]
ROWS = [
    ["web", "current", "docker.io/library/nginx:1.27-alpine", "2026-01-02 03:04", "a" * 64, "b" * 64],
    ["a-name-of-thirty-characters-ab", "failed", f"registry.example:5000/{'x' * 60}:1", "-", "-", "-"],
]
LONG = "n" * 63


def test_a_program_gets_every_value_in_stable_columns() -> None:
    lines = lay_out(HEADER, ROWS, None)
    assert [line.split() for line in lines[1:]] == [
        ["web", "current", ROWS[0][2], "2026-01-02", "03:04", "a" * 64, "b" * 64],
        [ROWS[1][0], "failed", ROWS[1][2], "-", "-", "-"],
    ]
    assert lines[0].split() == ["NAME", "STATE", "SOURCE", "BUILT", "DIGEST", "FINGERPRINT"]


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 100, 132, 200, 400])
def test_a_row_fits_its_terminal_and_keeps_name_and_state(width: int) -> None:
    lines = lay_out(HEADER, ROWS, width)
    for line, row in zip(lines[1:], ROWS, strict=True):
        assert line.split()[:2] == row[:2]
    if width >= 40:
        assert max(map(len, lines)) <= width
    starts = {line.index(state) for line, state in zip(lines, ["STATE", "current", "failed"], strict=True)}
    assert len(starts) == 1


def test_80_columns_have_the_tags_end_and_200_more() -> None:
    narrow, wide = lay_out(HEADER, ROWS[:1], 80), lay_out(HEADER, ROWS[:1], 200)
    assert narrow[1] == "web   current  …ker.io/library/nginx:1.27-alpine  2026-01-02 03:04  " + "a" * 12
    assert "a" * 64 in wide[1]
    assert wide[1].endswith("b" * 64)
    cut = lay_out(HEADER, ROWS, 80)
    assert cut[2].split()[2].startswith("…x")
    assert cut[2].split()[2].endswith("x:1")


def test_a_hash_has_twelve_digits_or_all() -> None:
    for width in range(20, 200):
        for word in lay_out([NAME, digest_column()], [["web", "a" * 64]], width)[1].split()[1:]:
            assert len(word) in (12, 64)


def test_name_and_state_are_never_cut() -> None:
    (_, line) = lay_out(HEADER, [[LONG, "current", "x" * 50, "-", "-", "-"]], 30)
    assert line == f"{LONG}  current"


def test_a_plain_title_is_a_column_that_is_never_cut() -> None:
    assert lay_out(["A", "B"], [["x" * 50, "y" * 50]], 20)[1] == "x" * 50 + "  " + "y" * 50


def test_states_have_colours_that_do_not_move_the_columns() -> None:
    coloured = lay_out(HEADER, ROWS, 80, colour=True)
    assert "\x1b[32mcurrent\x1b[0m  " in coloured[1]
    assert "\x1b[31mfailed\x1b[0m   " in coloured[2]
    plain = [line.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "") for line in coloured]
    assert plain == lay_out(HEADER, ROWS, 80)
