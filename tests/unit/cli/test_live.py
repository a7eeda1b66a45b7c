"""The live view, line by line; on a real terminal: test_terminal.py."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lxdocker.cli.live import Board
from lxdocker.values import ImageName

SIZES = [(80, 24), (200, 50), (40, 10), (20, 3), (20, 1)]


@dataclass
class Shown:
    """A board whose clock stands still unless it is moved."""

    now: float = 100.0
    above: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board = Board(lambda text, failed: self.above.append((text, failed)), lambda: self.now, spinner="*")


def names(count: int) -> list[ImageName]:
    return [ImageName(f"image-{number}") for number in range(count)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3, 60])
@pytest.mark.parametrize("jobs", [1, 4, 64])
def test_it_fits_its_terminal_and_running_images_stay_in_sight(size: tuple[int, int], count: int, jobs: int) -> None:
    shown = Shown()
    images = names(count)
    shown.board.expect(images)
    for image in images[:jobs]:
        shown.board.phase(image, "the image's own init /sbin/init will be PID 1 (disable_supervisor: auto)", 10**9)
        shown.board.count(image, 999_900_000)
    lines = shown.board.lines(*size)
    assert 1 <= len(lines) <= size[1]
    assert all(len(line) <= size[0] for line in lines)
    rows = [line for line in lines if line.startswith("* i")]
    running = min(jobs, count)
    if running + 2 <= size[1]:
        assert len(rows) == running
        assert rows[0].split()[1].startswith("image")
    elif size[1] > 5:
        assert f"  and {running - len(rows)} more at work" in lines
    assert lines[-1].startswith(f"* 0 of {count}, 0 failed"[: size[0] - 8])


def test_what_waits_is_named_and_counted() -> None:
    shown = Shown()
    shown.board.expect(names(60))
    shown.board.phase(ImageName("image-0"), "fetch")
    waiting = shown.board.lines(80, 24)[1]
    assert waiting.startswith("  waiting: image-1, image-2, ")
    assert waiting.endswith(f" and {59 - waiting.count('image-')} more")
    assert shown.board.lines(200, 50)[1].count("image-") > waiting.count("image-")
    assert shown.board.lines(24, 24)[1] == "  waiting: 59"
    few = Shown()
    few.board.expect(names(3))
    few.board.phase(ImageName("image-1"), "fetch")
    assert few.board.lines(80, 24)[1] == "  waiting: image-0, image-2"


def test_the_last_line_counts_what_is_done_and_what_failed() -> None:
    shown = Shown()
    shown.board.expect(names(61))
    for number, name in enumerate(names(23)):
        shown.board.phase(name, "fetch")
        shown.now += 1
        shown.board.done(name, "failed" if number == 7 else "built")
    assert shown.board.lines(80, 24)[-1] == "* 23 of 61, 1 failed  0:23"
    assert shown.above[7] == ("image-7: failed in 1.0 s", True)
    assert shown.above[8] == ("image-8: built in 1.0 s", False)


def test_no_column_moves() -> None:
    """Whatever the phases, sizes and names of those at work are."""
    shown = Shown()
    shown.board.expect([ImageName("a"), ImageName("b"), ImageName("a-longer-name")])
    places = set()
    for phase, total, seen in (("fetch", None, 0), ("fetch", 10**9, 5), ("p" * 200, 999_900_000, 999_900_000)):
        shown.board.phase(ImageName("a"), phase, total)
        shown.board.count(ImageName("a"), seen)
        for seconds in (0, 59, 3000):
            shown.now = 100.0 + seconds
            row = shown.board.lines(80, 24)[0]
            places.add((row.index(phase[:5]), row.rindex(":"), len(row)))
    assert len(places) == 1


def test_a_step_of_the_whole_run_is_shown_once_it_takes_its_time() -> None:
    shown = Shown()
    assert shown.board.lines(80, 24) == []
    with shown.board.step("building the builder image") as tell:
        assert shown.board.lines(80, 24) == []
        shown.now += 1
        assert shown.board.lines(80, 24) == ["* building the builder image  0:01"]
        tell("builder: installing packages")
        shown.now += 40
        assert shown.board.lines(80, 24) == ["* builder: installing packages  0:41"]
        shown.board.expect(names(3))
        assert shown.board.lines(80, 24)[-1] == "* builder: installing packages  0:41"
    tell("nobody listens any more")
    assert shown.board.lines(80, 24)[-1] == "* 0 of 3, 0 failed  0:41"


def test_where_nobody_said_how_many_there_are_it_counts() -> None:
    shown = Shown()
    for name in names(3):
        shown.board.phase(name, "reading 20260102_0304", 100)
    shown.board.done(ImageName("image-0"), "verified")
    assert shown.board.lines(80, 24)[-1] == "* 1 done, 0 failed  0:00"
    shown.board.done(ImageName("never-begun"), "failed")
    assert shown.board.lines(80, 24)[-1] == "* 2 done, 1 failed  0:00"
    shown.board.count(ImageName("unknown"), 5)
