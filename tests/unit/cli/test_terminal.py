"""What a person sees on a real terminal: 80x24 and 200x50, with 3 and with 60 images, without colours, and without a
reader.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.terminal import Terminal, environment, terminal

ROOT = Path(__file__).parents[3]
AT_WORK = Path(__file__).with_name("at_work.py")
JOBS = 4
SIZES = [(80, 24), (200, 50)]


def variables(place: Path, **more: str) -> dict[str, str]:
    return environment(place, PYTHONPATH=str(ROOT), **more)


def argv(place: Path, count: int, *options: str) -> list[str]:
    return [sys.executable, str(AT_WORK), str(place), str(count), "--jobs", str(JOBS), *options]


@contextmanager
def syncing(place: Path, count: int, columns: int, rows: int, *options: str, **more: str) -> Iterator[Terminal]:
    with terminal(argv(place, count, *options), columns, rows, cwd=place, environment=variables(place, **more)) as made:
        yield made


def running(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"\S image-\d+ +\w", line)]


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize("count", [3, 60])
def test_a_sync_from_its_builder_to_its_summary(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    (tmp_path / "hold-builder").touch()
    (tmp_path / "hold").touch()
    with syncing(tmp_path, count, columns, rows) as shown:
        shown.wait_for(
            "the builder's phase",
            lambda lines: any(re.match(r"\S builder: installing packages +0:0\d$", line) for line in lines),
        )
        (tmp_path / "hold-builder").unlink()
        at_work = min(JOBS, count)
        lines = shown.wait_for(
            "all jobs and the count",
            lambda lines: (
                len(running(lines)) == at_work
                and any(re.match(rf"\S 0 of {count}, 0 failed +0:\d\d$", line) for line in lines)
            ),
        )
        assert len({re.search(r"\d+:\d\d$", line).start() for line in running(lines)}) == 1  # type: ignore[union-attr]
        if count > JOBS:
            (waiting,) = (line for line in lines if line.startswith("  waiting: image-"))
            assert waiting.endswith(" more") or columns > 80
        (tmp_path / "hold").unlink()
        assert shown.end() == 1
    text = shown.everything
    assert f"{count - 1} built, 1 failed" in text.splitlines()[-1]
    assert len(re.findall(r"^built +image-\d+  [0-9a-f]{12}  \(new\)$", text, re.MULTILINE)) == count - 1
    assert re.search(r"^image-0: failed in \d+\.\d s$", text, re.MULTILINE)
    assert "waiting:" not in text
    assert "installing packages" not in text
    assert b"\x1b[31mimage-0:" in shown.raw
    assert b"\x1b[?25h" in shown.raw  # the cursor is back
    assert "Traceback" not in text


@pytest.mark.parametrize(("count", "more"), [(3, {"TERM": "dumb"}), (60, {"NO_COLOR": "1"})], ids=["dumb", "no colour"])
def test_a_terminal_that_wants_less_gets_less(tmp_path: Path, count: int, more: dict[str, str]) -> None:
    with syncing(tmp_path, count, 80, 24, **more) as shown:
        assert shown.end() == 1
    text, raw = shown.everything, shown.raw.decode()
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", raw), "no colour"
    assert ("\x1b" in raw) == ("NO_COLOR" in more)
    assert f"{count - 1} built, 1 failed" in text
    assert len(re.findall(r"^image-\d+: built in", text, re.MULTILINE)) == count - 1


@pytest.mark.parametrize("columns", [30])
def test_a_narrow_terminal_is_redrawn_without_leftovers(tmp_path: Path, columns: int) -> None:
    (tmp_path / "hold").touch()
    with syncing(tmp_path, 60, columns, 12) as shown:
        lines = shown.wait_for("the jobs", lambda lines: len([line for line in lines if "image-" in line]) >= JOBS)
        assert len([line for line in lines if line]) <= 12
        (tmp_path / "hold").unlink()
        assert shown.end() == 1
    assert "waiting" not in shown.everything


@pytest.mark.parametrize("count", [60])
def test_a_reader_that_leaves_is_no_reason_to_complain(tmp_path: Path, count: int) -> None:
    command = f"{' '.join(argv(tmp_path, count))} | head -n 1"
    with terminal(["/bin/sh", "-c", command], 80, 24, cwd=tmp_path, environment=variables(tmp_path)) as shown:
        assert shown.end() == 0
    text = shown.everything
    assert len(re.findall(r"^built +image-", text, re.MULTILINE)) == 1
    assert "Traceback" not in text
    assert "rror:" not in text


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_hinders_nothing(tmp_path: Path, closed: str) -> None:
    command = f"{' '.join(argv(tmp_path, 3))} {closed}>&-"
    with terminal(["/bin/sh", "-c", command], 80, 24, cwd=tmp_path, environment=variables(tmp_path)) as shown:
        assert shown.end() == 1
    text = shown.everything
    assert "Traceback" not in text
    assert ("2 built, 1 failed" in text) == (closed == "2")
    assert ("image-1: built in" in text) == (closed == "1")


@pytest.mark.parametrize(("columns", "rows", "count"), [(80, 24, 60), (200, 50, 3)])
def test_the_table_of_status_fits(tmp_path: Path, columns: int, rows: int, count: int) -> None:
    with syncing(tmp_path, count, columns, rows, "--", "status") as shown:
        assert shown.end() == 0
    lines = shown.everything.splitlines()
    table = lines[next(index for index, line in enumerate(lines) if line.startswith("NAME ")) :]
    assert all(len(line) <= columns for line in table[: count + 1])
    images = [line.split() for line in table[1 : count + 1]]
    assert len({row[0] for row in images}) == count
    # image-0 failed; image-1 has no spec any more.
    states = {row[0]: row[1] for row in images}
    assert (states["image-0"], states["image-1"]) == ("failed", "orphan")
    assert {state for name, state in states.items() if name not in ("image-0", "image-1")} == {"current"}
    places = {line.index(row[1]) for line, row in zip(table[1:], images, strict=False)}
    assert places == {table[0].index("STATE")}
    assert ("FINGERPRINT" in table[0]) == (columns > 80)
    assert b"\x1b[32mcurrent" in shown.raw
    assert b"\x1b[33morphan" in shown.raw


WOULD = ["would remove image-1: no spec names it", "would drop cached layers that no image needs"]


@pytest.mark.parametrize(("answer", "removed"), [("y", True), ("", False)])
def test_prune_shows_what_goes_and_asks(tmp_path: Path, answer: str, removed: bool) -> None:
    with syncing(tmp_path, 3, 80, 24, "--", "prune") as shown:
        lines = shown.wait_for("the question", lambda lines: any("Remove this? [y/N]:" in line for line in lines))
        assert [line for line in lines if line.startswith("would ")] == WOULD
        shown.process.sendline(answer)
        assert shown.end() == 0
    text = shown.everything
    assert ("nothing was removed" in text) != removed
    assert ("removed   image-1  (no spec names it)" in text) == removed


def test_the_question_is_no_part_of_a_result(tmp_path: Path) -> None:
    command = f"{' '.join(argv(tmp_path, 3, '--', 'prune', '--json'))} >result"
    with terminal(["/bin/sh", "-c", command], 80, 24, cwd=tmp_path, environment=variables(tmp_path)) as shown:
        shown.wait_for("the question", lambda lines: any("Remove this? [y/N]:" in line for line in lines))
        assert [line for line in shown.lines if line.startswith("would ")] == WOULD
        shown.process.sendline("y")
        assert shown.end() == 0
    result = (tmp_path / "result").read_text()
    images = json.loads(result[result.index("{") :])["images"]  # after what the sync before it said
    assert [(image["name"], image["outcome"]) for image in images] == [("image-1", "removed")]


@pytest.mark.parametrize("arguments", [["prune", "-y"], ["prune", "--dry-run"]])
def test_prune_asks_only_if_it_has_to(tmp_path: Path, arguments: list[str]) -> None:
    with syncing(tmp_path, 3, 80, 24, "--", *arguments) as shown:
        assert shown.end() == 0
    lines = shown.everything.splitlines()
    assert not any("[y/N]" in line for line in lines)
    dry = "--dry-run" in arguments
    assert (lines[-2:] == WOULD) == dry
    assert ("removed   image-1  (no spec names it)" in lines) != dry


def test_prune_without_a_terminal_goes_on_as_cron_needs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        argv(tmp_path, 3, "--", "prune"),
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        env=variables(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "removed   image-1  (no spec names it)" in done.stdout
    assert "would" not in done.stdout


def test_without_a_terminal_there_is_a_line_for_each_image(tmp_path: Path) -> None:
    done = subprocess.run(
        argv(tmp_path, 60),
        cwd=tmp_path,
        env=variables(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 60
    assert all(re.fullmatch(r"image-\d+: (built|failed) in \d+\.\d s", line) for line in lines)
    assert "\x1b" not in done.stdout + done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "lxdocker", "validate", "-q"],
        cwd=tmp_path,
        env=variables(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
