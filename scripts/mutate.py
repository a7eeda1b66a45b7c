#!/usr/bin/env python3
"""Mutation testing: changes the code in small ways, one at a time, and sees whether the tests notice.

The mutants are in tests/mutants/*.toml; see the README there. Each is applied in a temporary copy of the checkout,
never in place. Only tests that need neither LXD nor a browser are run. Exit status: 0 if enough mutants were killed,
1 if not, 2 if a mutant cannot be tried (its text no longer occurs, its tests fail without it, ...).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = Path("tests/mutants")
REQUIRED_PERCENT = 90
PASSED, FAILED, INTERRUPTED = 0, 1, 2  # exit statuses of pytest: 2 is what a module that cannot be imported leads to


class MutantError(Exception):
    """A mutant that cannot be tried as it is written."""


@dataclass(frozen=True)
class Mutant:
    room: str
    number: int
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.room}/{self.number}"


@dataclass(frozen=True)
class Result:
    mutant: Mutant
    killed: bool


@dataclass(frozen=True)
class Ended:
    """One run of pytest. The status is None if it took too long."""

    status: int | None
    output: str
    seconds: float


# ---- the mutants


def load(folder: Path) -> list[Mutant]:
    """Every mutant of every file. Raises MutantError."""
    return [mutant for path in sorted(folder.glob("*.toml")) for mutant in _parse(path)]


def _parse(path: Path) -> Iterator[Mutant]:
    try:
        document = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise MutantError(f"{path.name}: not TOML: {error}") from error
    if document.keys() - {"mutant"}:
        raise MutantError(f"{path.name}: expected [[mutant]] tables only")
    for number, table in enumerate(document.get("mutant", []), 1):
        name = f"{path.stem}/{number}"
        if table.keys() != {"file", "old", "new", "tests"}:
            raise MutantError(f"{name}: expected the keys file, old, new and tests")
        if not all(isinstance(table[key], str) for key in ("file", "old", "new")):
            raise MutantError(f"{name}: file, old and new must be text")
        tests = table["tests"]
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise MutantError(f"{name}: tests must be a list with at least one path")
        yield Mutant(path.stem, number, table["file"], table["old"], table["new"], tuple(tests))


def mutated(mutant: Mutant, root: Path) -> str:
    """The text of the mutant's file with the change in it. Raises MutantError."""
    path = root / mutant.file
    if not path.is_file():
        raise MutantError(f"{mutant.name}: no file {mutant.file}")
    for test in mutant.tests:
        if not (root / test.partition("::")[0]).exists():
            raise MutantError(f"{mutant.name}: no test {test}")
    text = path.read_text()
    if mutant.old == mutant.new:
        raise MutantError(f"{mutant.name}: old and new are the same")
    if (times := text.count(mutant.old)) != 1:
        raise MutantError(f"{mutant.name}: old must occur exactly once in {mutant.file}, found it {times} times")
    changed = text.replace(mutant.old, mutant.new)
    if path.suffix == ".py":
        # Code that cannot be parsed says nothing about the tests: any of them would fail.
        try:
            compile(changed, mutant.file, "exec")
        except SyntaxError as error:
            raise MutantError(f"{mutant.name}: new is not valid Python: {error}") from error
    return changed


def selected(mutants: Sequence[Mutant], only: Sequence[str]) -> list[Mutant]:
    """The mutants that --only names, by room or by room and number; all without it. Raises MutantError."""
    unknown = set(only) - {mutant.room for mutant in mutants} - {mutant.name for mutant in mutants}
    if unknown:
        raise MutantError(f"no such mutant: {', '.join(sorted(unknown))}")
    return [mutant for mutant in mutants if not only or {mutant.room, mutant.name} & set(only)]


# ---- running


def copy_checkout(target: Path) -> None:
    """Copies what git tracks, or would track, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(root: Path, tests: Sequence[str], timeout: float) -> Ended:
    """Runs pytest in a copy. What is started there ends with it."""
    pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not lxd and not browser"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LXD", "PYTEST"))}
    # Before the checkout that an editable install names.
    environment |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*pytest, *tests],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return Ended(status, output.read().decode(errors="replace"), time.monotonic() - began)


class Runner:
    """Tries mutants side by side, each in one of the copies."""

    def __init__(self, copies: Sequence[Path], timeout: float, show: bool) -> None:
        self._timeout = timeout
        self._show = show
        self._pool = ThreadPoolExecutor(len(copies))
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for copy in copies:
            self._free.put(copy)

    def check_tests(self, mutants: Sequence[Mutant]) -> None:
        """Every test must pass as long as nothing is changed. Raises MutantError."""
        list(self._pool.map(self._check, sorted({mutant.tests for mutant in mutants})))

    def try_all(self, mutants: Sequence[Mutant]) -> list[Result]:
        return list(self._pool.map(self._try, mutants))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        copy = self._free.get()
        try:
            yield copy
        finally:
            self._free.put(copy)

    def _check(self, tests: tuple[str, ...]) -> None:
        with self._copy() as root:
            ended = run_tests(root, tests, self._timeout)
        if ended.status != PASSED:
            why = "take too long" if ended.status is None else "fail"
            raise MutantError(f"the tests {why} without any mutant: {' '.join(tests)}\n{ended.output}")

    def _try(self, mutant: Mutant) -> Result:
        with self._copy() as root:
            path = root / mutant.file
            original = path.read_bytes()
            try:
                path.write_text(mutated(mutant, root))
                ended = run_tests(root, mutant.tests, self._timeout)
            finally:
                path.write_bytes(original)
        if ended.status not in (PASSED, FAILED, INTERRUPTED, None):
            raise MutantError(f"{mutant.name}: pytest ended with status {ended.status}\n{ended.output}")
        killed = ended.status != PASSED
        how = ("timed out" if ended.status is None else "killed") if killed else "SURVIVED"
        print(f"{mutant.name} {how} in {ended.seconds:.1f} s", file=sys.stderr)
        if self._show:
            print(ended.output, file=sys.stderr)
        return Result(mutant, killed)


# ---- the table


def table(results: Sequence[Result]) -> str:
    """A Markdown table, a line for each room and one for all."""
    lines = ["| room | mutants | killed | survivors |", "| --- | --- | --- | --- |"]
    for room in sorted({result.mutant.room for result in results}):
        lines.append(_line(room, [result for result in results if result.mutant.room == room]))
    return "\n".join([*lines, _line("all", results)])


def _line(title: str, results: Sequence[Result]) -> str:
    killed = sum(result.killed for result in results)
    survivors = "" if title == "all" else ", ".join(result.mutant.name for result in results if not result.killed)
    return f"| {title} | {len(results)} | {killed} ({100 * killed // len(results)} %) | {survivors} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="FILE[/NUMBER]",
        help="try the mutants of one file of tests/mutants, or one of them, and show pytest's output; may be repeated",
    )
    parser.add_argument(
        "-j", dest="jobs", type=int, default=1, metavar="N", help="number of mutants to try in parallel"
    )
    parser.add_argument("--check", action="store_true", help="only see whether every mutant still fits the code")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="kills a mutant that hangs [120]")
    options = parser.parse_args()
    try:
        mutants = selected(load(ROOT / MUTANTS), options.only)
        if not mutants:
            raise MutantError(f"no mutants in {MUTANTS}")
        for mutant in mutants:
            mutated(mutant, ROOT)
        if options.check:
            return 0
        results = _run(mutants, max(1, options.jobs), options.timeout, bool(options.only))
    except MutantError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(results))
    killed = sum(result.killed for result in results)
    return 0 if 100 * killed >= REQUIRED_PERCENT * len(results) else 1


def _run(mutants: Sequence[Mutant], jobs: int, timeout: float, show: bool) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Path(folder) / str(number) for number in range(jobs)]
        for copy in copies:
            copy_checkout(copy)
        runner = Runner(copies, timeout, show)
        try:
            runner.check_tests(mutants)
            return runner.try_all(mutants)
        finally:
            runner.close()


if __name__ == "__main__":
    sys.exit(main())
