"""The runner of the mutants, with a checkout of two functions and their tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[2] / "scripts/mutate.py"
CODE = """\
def larger(a, b):
    return a if a > b else b


def count(limit):
    done = 0
    while done < limit:
        done += 1
    return done
"""
TESTS = """\
import code_under_test


def test_larger():
    assert code_under_test.larger(1, 2) == 2


def test_count():
    assert code_under_test.count(3) == 3
"""


@dataclass(frozen=True)
class Checkout:
    path: Path

    def mutant(self, old: str, new: str, *tests: str, file: str = "code_under_test.py", room: str = "room") -> None:
        chosen = ", ".join(f'"{test}"' for test in tests or ("test_code.py",))
        with (self.path / f"tests/mutants/{room}.toml").open("a") as out:
            out.write(f"[[mutant]]\nfile = '{file}'\nold = '''{old}'''\nnew = '''{new}'''\ntests = [{chosen}]\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.path / "scripts/mutate.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    for folder in ("scripts", "tests/mutants"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(RUNNER, tmp_path / "scripts")
    (tmp_path / "code_under_test.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:hypothesispytest -p no:xdist\nmarkers =\n  lxd\n  browser\n"
    )
    subprocess.run(["git", "init", "-q", tmp_path], check=True, timeout=30)
    return Checkout(tmp_path)


def test_a_mutant_that_the_tests_notice_is_killed(checkout: Checkout) -> None:
    checkout.mutant("a > b", "a < b")
    done = checkout.run()
    assert (done.returncode, done.stdout.splitlines()[2:]) == (
        0,
        ["| room | 1 | 1 (100 %) |  |", "| all | 1 | 1 (100 %) |  |"],
    )
    assert (checkout.path / "code_under_test.py").read_text() == CODE


def test_a_mutant_that_hangs_is_killed(checkout: Checkout) -> None:
    checkout.mutant("done += 1", "done += 0")
    done = checkout.run("--timeout", "8")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "| all | 1 | 1 (100 %) |  |")
    assert "room/1 timed out" in done.stderr


def test_survivors_are_named_and_below_90_percent_it_fails(checkout: Checkout) -> None:
    checkout.mutant("a > b", "a >= b")
    checkout.mutant("a > b", "a < b")
    checkout.mutant("a > b", "a < b", room="other")
    done = checkout.run("-j", "2")
    assert done.returncode == 1
    assert done.stdout.splitlines()[2:] == [
        "| other | 1 | 1 (100 %) |  |",
        "| room | 2 | 1 (50 %) | room/1 |",
        "| all | 3 | 2 (66 %) |  |",
    ]


def test_one_survivor_of_ten_is_enough(checkout: Checkout) -> None:
    for _ in range(9):
        checkout.mutant("a > b", "a < b", "test_code.py::test_larger")
    checkout.mutant("a > b", "a >= b", "test_code.py::test_larger")
    done = checkout.run("-j", "4")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "| all | 10 | 9 (90 %) |  |")


def test_each_mutant_is_tried_alone(checkout: Checkout) -> None:
    checkout.mutant("a > b", "a < b", "test_code.py::test_larger")
    checkout.mutant("done < limit", "done < limit - 0", "test_code.py")
    done = checkout.run("-j", "1")
    assert done.stdout.splitlines()[2] == "| room | 2 | 1 (50 %) | room/2 |"


@pytest.mark.parametrize(
    ("only", "tried"),
    [(["room/2"], ["room/2"]), (["room"], ["room/1", "room/2"]), (["other", "room/1"], ["other/1", "room/1"])],
)
def test_some_of_them(checkout: Checkout, only: list[str], tried: list[str]) -> None:
    for room in ("room", "room", "other"):
        checkout.mutant("a > b", "a < b", "test_code.py::test_larger", room=room)
    done = checkout.run(*(word for name in only for word in ("--only", name)))
    assert done.returncode == 0
    assert sorted(line.split()[0] for line in done.stderr.splitlines() if " killed in " in line) == tried
    assert "1 failed" in done.stderr


def broken_toml(checkout: Checkout) -> None:
    (checkout.path / "tests/mutants/room.toml").write_text("[[mutant")


def other_key(checkout: Checkout) -> None:
    checkout.mutant("a > b", "a < b")
    with (checkout.path / "tests/mutants/room.toml").open("a") as out:
        out.write("test = 'a'\n")


def failing_test(checkout: Checkout) -> None:
    (checkout.path / "test_code.py").write_text("def test_larger():\n    assert False\n")
    checkout.mutant("a > b", "a < b")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda checkout: None, "no mutants in tests/mutants"),
        (
            lambda checkout: checkout.mutant("a >= b", "a < b"),
            "room/1: old must occur exactly once in code_under_test.py, found it 0 times",
        ),
        (
            lambda checkout: checkout.mutant("done", "a"),
            "room/1: old must occur exactly once in code_under_test.py, found it 4 times",
        ),
        (lambda checkout: checkout.mutant("a > b", "a > b"), "room/1: old and new are the same"),
        (lambda checkout: checkout.mutant("a > b", "a >"), "room/1: new is not valid Python"),
        (lambda checkout: checkout.mutant("a > b", "a < b", file="gone.py"), "room/1: no file gone.py"),
        (lambda checkout: checkout.mutant("a > b", "a < b", "test_gone.py"), "room/1: no test test_gone.py"),
        (
            lambda checkout: checkout.mutant("a > b", "a < b", "test_code.py::test_gone"),
            "the tests fail without any mutant: test_code.py::test_gone",
        ),
        (failing_test, "the tests fail without any mutant: test_code.py"),
        (broken_toml, "room.toml: not TOML"),
        (other_key, "room/1: expected the keys file, old, new and tests"),
    ],
)
def test_what_cannot_be_tried(checkout: Checkout, prepare: Callable[[Checkout], None], said: str) -> None:
    prepare(checkout)
    done = checkout.run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")


def test_a_name_that_no_mutant_has(checkout: Checkout) -> None:
    checkout.mutant("a > b", "a < b")
    done = checkout.run("--only", "room/2", "--only", "moon")
    assert (done.returncode, done.stderr) == (2, "error: no such mutant: moon, room/2\n")


def test_the_mutants_of_this_project_fit_its_code() -> None:
    done = subprocess.run([sys.executable, RUNNER, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
