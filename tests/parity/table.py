"""The table of images and checks: at the end of a test run, and as docs/parity.md.

python -m tests.parity.table > docs/parity.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.parity.cases import CASES, Case
from tests.parity.compare import CHECKS, KNOWN, Difference, Known, expected, known
from tests.parity.run import CAPABILITIES, LIMITS, MEMORY, SYSCTLS

INTRODUCTION = f"""\
# What an application sees: LXD and Docker compared

An application that ships as a Docker image should see the same environment in an LXD instance as under Docker. The
suite in `tests/parity` verifies this. It builds small images with umoci, each of which tests one aspect, and runs each
image twice: with podman and runc, which behave like Docker, and as an LXD instance created by lxdocker. A small static
program in the image reports its environment, and the suite compares the two reports. `python -m tests.parity.table`
generates this page, and the suite fails if the page is out of date.

Both sides have the same host name, {MEMORY >> 20} MiB of memory and the limits
{", ".join(f"{name} {value}" for name, value in LIMITS.items())}. Each has an interface with an address: LXD's is on its
bridge and uses DHCP, podman's is one end of a pair. Options give podman the defaults of Docker's
daemon: the sysctls {" and ".join(f"`{value}`" for value in SYSCTLS)},
Docker's {len(CAPABILITIES)} capabilities, 64 MiB for `/dev/shm`, and neither `TERM` nor `container` in the
environment. If the application is PID 1 of its instance, which gives it the console, podman runs with `--tty`.
"""


def document() -> str:
    """docs/parity.md: the expected results, which the tests enforce."""
    compared = [f"| {name} | {what} |" for name, what in CHECKS.items()]
    rows = []
    for case in CASES:
        found = expected(case)
        cells = [_mark(found[check]) if check in found else "" for check in CHECKS]
        rows.append(f"| {case.name} | {' | '.join(cells)} |")
    differences = [
        f"{number}. **{one.check}**, {one.item}: {_value(one.docker)} under podman, {_value(one.lxd)} under LXD"
        f"{_where(one)}. {one.reason}"
        for number, one in enumerate(KNOWN, 1)
    ]
    return "\n".join(
        [
            INTRODUCTION,
            "## What is compared",
            "",
            "| check | compared values |",
            "|---|---|",
            *compared,
            "",
            "## Known differences",
            "",
            "This list is complete.",
            "",
            *differences,
            "",
            "## Image and check",
            "",
            "`=`: the same. A number: the same except for that known difference. Empty: nothing to compare, since both",
            "sides refuse to run the image, or there are no volumes.",
            "",
            f"| image | {' | '.join(CHECKS)} |",
            f"|---|{'---|' * len(CHECKS)}",
            *rows,
            "",
            "## The images",
            "",
            "| image | tested aspect |",
            "|---|---|",
            *(f"| {case.name} | {case.about} |" for case in CASES),
        ]
    )


def lines(results: Mapping[str, Sequence[Difference]]) -> Iterator[str]:
    """The table for a terminal, of the cases that were run: name -> differences."""
    width = max(len(name) for name in results)
    cases = [case for case in CASES if case.name in results]
    cells = {case.name: [_outcome(case, check, results[case.name]) for check in CHECKS] for case in cases}
    widths = [max(3, 1 + max(map(len, column))) for column in zip(*cells.values(), strict=True)]

    def row(name: str, words: Iterable[str]) -> str:
        return (
            f"{name:<{width}}" + "".join(f"{word:>{size}}" for word, size in zip(words, widths, strict=True))
        ).rstrip()

    for depth in range(max(map(len, CHECKS))):  # the names of the checks, written downwards
        yield row("", (check[depth : depth + 1] for check in CHECKS))
    for name, outcomes in cells.items():
        yield row(name, outcomes)
    yield ""
    yield "=: the same; a number: a known difference; !: a new difference. See docs/parity.md."


def _outcome(case: Case, check: str, differences: Sequence[Difference]) -> str:
    if check not in expected(case):
        return ""
    found = [known(case, one) for one in differences if one.check == check]
    return "!" if None in found else _mark([one for one in found if one], ",")


def _mark(differences: Sequence[Known], separator: str = ", ") -> str:
    return separator.join(str(KNOWN.index(one) + 1) for one in differences) or "="


def _value(value: Any) -> str:
    return "absent" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _where(difference: Known) -> str:
    return "" if len(difference.cases) > 1 else f" ({', '.join(difference.cases)})"


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
