"""What a person sees: on a terminal (a real pty), in a log, as JSON; and what hostile words can't do to it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import pytest

from lxdocker.cli import documents
from lxdocker.cli.console import Console, OutputError
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.log import Log, command, shell
from lxdocker.progress import human_size
from lxdocker.text import printable
from lxdocker.values import ImageName

WEB, DB = ImageName("web"), ImageName("db")
# Clears the screen, sets the title, rings, goes back, and one that needs no escape at all.
HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\rd\x08e\x9b31mf\x7fg\x00h\udcffi"
HARMLESS = "a�[2Jb�]0;title�c�d�e�31mf�g�h�i"


class Captured:
    """A console on two files."""

    def __init__(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.console = Console(self.out, self.err)


@pytest.fixture
def captured() -> Captured:
    return Captured()


# ---- hostile words


def test_nothing_reaches_the_terminal_that_it_would_obey(captured: Captured) -> None:
    console = captured.console
    console.print(HOSTILE)
    console.note(HOSTILE)
    console.error(LxdockerError(HOSTILE, f"two lines\r{HOSTILE[-12:]}", HOSTILE))
    console.table([HOSTILE], [[HOSTILE]])
    assert captured.out.getvalue().splitlines() == [HARMLESS] * 3
    assert captured.err.getvalue().splitlines() == [
        HARMLESS,
        f"error: {HARMLESS}",
        "  two lines",
        f"  {HARMLESS[-12:]}",
        f"  -> {HARMLESS}",
    ]


def test_words_of_every_language_stay_as_they_are() -> None:
    text = "naïve 漢字 🐳\tand\nlines"
    assert printable(text) == text


def test_json_holds_every_word_and_no_control_character(captured: Captured) -> None:
    captured.console.json({"said": HOSTILE, "name": "naïve 漢字"})
    text = captured.out.getvalue()
    assert json.loads(text) == {"said": HOSTILE, "name": "naïve 漢字"}
    assert "naïve 漢字" in text
    text.encode()  # no lone surrogate is left
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


# ---- lines


def test_bytes_are_a_result_but_not_for_a_terminal(tmp_path: Path) -> None:
    content = bytes(range(256))
    with (tmp_path / "out").open("w") as out:
        Console(out, io.StringIO()).write(content)
    assert (tmp_path / "out").read_bytes() == content
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails as well
    with pytest.raises(OutputError):
        Console(full, io.StringIO()).write(content)
    with suppress(OSError):
        full.close()
    with terminal() as (stream, _), pytest.raises(UsageError, match="refusing to write to a terminal"):
        Console(stream, io.StringIO()).write(content)


def test_results_and_remarks_go_separate_ways(captured: Captured) -> None:
    captured.console.print("result")
    captured.console.note("remark")
    assert captured.out.getvalue() == "result\n"
    assert captured.err.getvalue() == "remark\n"


def test_an_error_says_what_why_and_what_to_do(captured: Captured) -> None:
    error = LxdockerError("it failed", "line one\nline two", "do this")
    captured.console.error(error)
    assert captured.err.getvalue() == "error: it failed\n  line one\n  line two\n  -> do this\n"
    assert documents.error(error) == {"what": "it failed", "why": "line one\nline two", "do": "do this", "exit": 1}


def test_an_error_leaves_out_what_it_does_not_know(captured: Captured) -> None:
    captured.console.error(LxdockerError("it failed"))
    assert captured.err.getvalue() == "error: it failed\n"


def test_columns_are_as_wide_as_they_need_to_be(captured: Captured) -> None:
    captured.console.table(["A", "LONG"], [["wide cell", "x"], ["", "two\nlines"]])
    assert captured.out.getvalue() == "A          LONG\nwide cell  x\n           two lines\n"


def test_a_table_may_be_empty(captured: Captured) -> None:
    captured.console.table(["NAME", "STATE"], [])
    assert captured.out.getvalue() == "NAME  STATE\n"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (68_300_000, "68.3 MB"),
        (1_500_000_000, "1.5 GB"),
        (12_345_000_000_000, "12345.0 GB"),
    ],
)
def test_sizes_are_in_decimal_units(size: int, expected: str) -> None:
    assert human_size(size) == expected


# ---- where it can't be written


@pytest.mark.parametrize("write", [lambda c: c.print("x"), lambda c: c.json({}), lambda c: c.table(["x"], [])])
def test_a_result_that_is_lost_is_an_error(write: Callable[[Console], None]) -> None:
    # Closing it would try to write again what is still in its buffer.
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: PTH123, SIM115 - closing it fails
    with pytest.raises(OutputError) as caught:
        write(Console(full, io.StringIO()))
    assert not caught.value.reader_left
    assert "No space left on device" in caught.value.details
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_a_reader_who_has_had_enough_is_told_apart() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w")
    with pytest.raises(OutputError) as caught:
        Console(pipe, io.StringIO()).print("x")
    assert caught.value.reader_left
    with pytest.raises(BrokenPipeError):
        pipe.close()


def test_the_work_goes_on_when_nobody_reads_how_it_goes() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w")
    out = io.StringIO()
    console = Console(out, pipe)
    with console.progress() as progress:
        progress.phase(WEB, "fetch")
    console.note("remark")
    console.print("result")
    assert out.getvalue() == "result\n"
    with pytest.raises(BrokenPipeError):
        pipe.close()


# ---- progress in a log


def tell_of_two(console: Console) -> None:
    with console.progress() as progress:
        progress.expect([WEB, DB])
        with progress.step("looking up 2 images") as tell:
            tell("reading")
        progress.phase(WEB, "fetch", 68_300_000)
        for _ in range(1000):
            progress.count(WEB, 68_300)
        progress.phase(WEB, "unpack")
        console.note("a remark")
        console.note("warning: of a kind")
        progress.done(WEB, "built")
        progress.done(DB, "unchanged")


def told(captured: Captured) -> list[str]:
    assert captured.out.getvalue() == ""
    return re.sub(r"\d+\.\d s", "N s", captured.err.getvalue()).splitlines()


def test_a_log_has_one_line_for_each_image(captured: Captured) -> None:
    tell_of_two(captured.console)
    assert told(captured) == ["a remark", "warning: of a kind", "web: built in N s", "db: unchanged"]


def test_a_log_with_v_has_one_line_for_each_phase(captured: Captured) -> None:
    captured.console.be_verbose()
    tell_of_two(captured.console)
    assert told(captured) == [
        "reading",
        "web: fetch (68.3 MB)",
        "web: unpack",
        "a remark",
        "warning: of a kind",
        "web: built in N s",
        "db: unchanged",
    ]


def test_a_quiet_log_has_nothing_until_something_fails_or_changed(captured: Captured) -> None:
    captured.console.be_quiet()
    tell_of_two(captured.console)
    captured.console.log("+ asked for")
    assert told(captured) == ["+ asked for"]
    captured.console.error(LxdockerError("it failed"))
    assert told(captured) == ["+ asked for", "warning: of a kind", "error: it failed"]


def test_a_quiet_log_has_warnings_before_a_result(captured: Captured) -> None:
    captured.console.be_quiet()
    tell_of_two(captured.console)
    captured.console.print("built web")
    assert captured.err.getvalue() == "warning: of a kind\n"
    assert captured.out.getvalue() == "built web\n"


# ---- progress on a terminal


@contextmanager
def terminal(columns: int = 80) -> Iterator[tuple[TextIO, list[str]]]:
    """A terminal to write to; what came out of it is in the list when it is closed."""
    ours, theirs = pty.openpty()
    os.environ["COLUMNS"] = str(columns)
    shown: list[str] = []

    def read() -> None:
        data = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                chunk = b""
            if not chunk:
                break
            data += chunk
        shown.append(data.decode())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as stream:
            yield stream, shown
    finally:
        reader.join(10)
        os.close(ours)
        del os.environ["COLUMNS"]


def without_control(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


@pytest.fixture
def usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this test run itself runs in."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.usefixtures("usual_terminal")
def test_a_terminal_has_one_line_for_each_image_redrawn_in_place() -> None:
    with terminal() as (stream, shown):
        console = Console(io.StringIO(), stream)
        with console.progress() as progress:
            progress.expect([WEB, DB])
            progress.phase(WEB, "fetch", 2_000_000)
            progress.phase(DB, "unpack")
            progress.count(WEB, 1_000_000)
            live = console.live
            assert live is not None
            live.refresh()
            progress.done(WEB, "built")
            progress.done(DB, "failed")
        assert console.live is None
    text = without_control(shown[0])
    assert re.search(r"web  fetch +1\.0 MB of 2\.0 MB +0:0\d", text)
    last = [line for line in text.splitlines() if re.match(r"(web|db): ", line)]
    assert [line.split()[:2] for line in last] == [["web:", "built"], ["db:", "failed"]]
    assert "\x1b[31mdb:" in shown[0] or "\x1b[31mdb: failed" in shown[0]
    assert "\x1b[1A" in shown[0], "the cursor goes up again to redraw"


@pytest.mark.usefixtures("usual_terminal")
def test_remarks_stand_above_the_live_lines_whole_and_as_they_are() -> None:
    remark = "sha256:key: [bold]not markup[/] " + "x" * 200
    with terminal(columns=40) as (stream, shown):
        console = Console(io.StringIO(), stream)
        with console.progress() as progress:
            progress.phase(WEB, "fetch")
            console.note(remark)
            console.note(HOSTILE)
            progress.done(WEB, "built")
    text = without_control(shown[0])
    assert remark in text
    assert HARMLESS in text
    assert text.index(remark) < text.rindex("built")
    # Only what rich itself uses to redraw.
    assert set(re.findall(r"\x1b\[[0-9;?]*([A-Za-z])", shown[0])) <= set("mAKhl")


@pytest.mark.usefixtures("usual_terminal")
def test_the_log_stands_above_the_live_lines_as_it_can_be_pasted() -> None:
    argv = ["sh", "-c", "echo '[red]' :smile: $HOME", "x" * 100]
    with terminal(columns=40) as (stream, shown):
        console = Console(io.StringIO(), stream)
        with Log(console.note, {}) as opened, console.progress() as progress:
            opened.be_verbose(1)
            progress.phase(WEB, "fetch")
            command(argv)
            progress.done(WEB, "built")
    text = without_control(shown[0])
    assert f"+ {shell(argv)}\n" in text
    assert text.index("+ sh -c") < text.rindex("built")


@pytest.mark.usefixtures("usual_terminal")
def test_the_terminal_is_left_as_it_was_when_the_work_breaks_off() -> None:
    with terminal() as (stream, shown):
        console = Console(io.StringIO(), stream)
        with pytest.raises(KeyboardInterrupt), console.progress():
            raise KeyboardInterrupt
        console.note("stopped")
        assert console.live is None
    assert shown[0].count("\x1b[?25l") == shown[0].count("\x1b[?25h") == 1  # the cursor, hidden and shown
    assert shown[0].endswith("stopped\r\n")


@pytest.mark.usefixtures("usual_terminal")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_many_threads_may_tell_how_they_come_along(is_terminal: bool, captured: Captured) -> None:
    names = [ImageName(f"image-{number}") for number in range(8)]
    failures: list[BaseException] = []

    def work(console: Console, progress: Any, name: ImageName) -> None:
        try:
            for number in range(50):
                progress.phase(name, f"phase {number}", 100)
                progress.count(name, 10)
                if number % 25 == 0:
                    console.note(f"{name} remarks {number}.")
            progress.done(name, "built")
        except BaseException as error:
            failures.append(error)

    def run(console: Console) -> None:
        with console.progress() as progress:
            threads = [threading.Thread(target=work, args=(console, progress, name)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    if is_terminal:
        with terminal() as (stream, shown):
            run(Console(io.StringIO(), stream))
        text = without_control(shown[0])
    else:
        run(captured.console)
        text = captured.err.getvalue()
    assert failures == []
    for name in names:
        assert f"{name} remarks 0.\n" in text
        assert f"{name} remarks 25.\n" in text
        assert re.search(rf"{name}\W+built", text)
