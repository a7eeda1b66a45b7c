"""The table of images and checks: at the end of a test run, and as docs/parity.md.

python -m tests.parity.table > docs/parity.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.parity.cases import CASES, Case
from tests.parity.compare import CHECKS, KNOWN, Difference, Known, expected, known
from tests.parity.run import LIMITS

INTRODUCTION = f"""\
# What an application sees: LXD and Docker compared

An application that ships as a Docker image should find in its LXD instance what it would have found under Docker. The
suite in `tests/parity` proves it: it makes small images with umoci, each about one thing, runs each of them with
podman and runc, which do what Docker does, and as an LXD instance that lxdocker made of it, and compares what a small
static program in the image sees. This page is made by `python -m tests.parity.table`, and the suite fails where it is
not what comes out.

Both sides are run without a network, under the same host name, and with the limits
{", ".join(f"{name} {value}" for name, value in LIMITS.items())}.
"""


def document() -> str:
    """docs/parity.md: what is expected, which is what the tests see to."""
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
            "| check | what |",
            "|---|---|",
            *compared,
            "",
            "## Known differences",
            "",
            "There are no others.",
            "",
            *differences,
            "",
            "## Image and check",
            "",
            "`=`: the same. A number: the same but for that known difference. Empty: nothing to compare, since both",
            "refuse to run the image.",
            "",
            f"| image | {' | '.join(CHECKS)} |",
            f"|---|{'---|' * len(CHECKS)}",
            *rows,
            "",
            "## The images",
            "",
            "| image | what it is about |",
            "|---|---|",
            *(f"| {case.name} | {case.about} |" for case in CASES),
        ]
    )


def lines(results: Mapping[str, Sequence[Difference]]) -> Iterator[str]:
    """The table for a terminal, of the cases that were run: name -> what differed."""
    width = max(len(name) for name in results)
    for depth in range(max(map(len, CHECKS))):  # the names of the checks, written downwards
        yield " " * width + "".join(f"  {check[depth : depth + 1] or ' '}" for check in CHECKS).rstrip()
    for case in CASES:
        if case.name in results:
            cells = "".join(f"{_outcome(case, check, results[case.name]):>3}" for check in CHECKS)
            yield f"{case.name:<{width}}{cells}".rstrip()
    yield ""
    yield "=: the same; a number: a known difference; !: another one. docs/parity.md explains them."


def _outcome(case: Case, check: str, differences: Sequence[Difference]) -> str:
    if check not in expected(case):
        return ""
    found = [known(case, one) for one in differences if one.check == check]
    return "!" if None in found else _mark([one for one in found if one], ",")


def _mark(differences: Sequence[Known], separator: str = ", ") -> str:
    return separator.join(str(KNOWN.index(one) + 1) for one in differences) or "="


def _value(value: Any) -> str:
    return "not there" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _where(difference: Known) -> str:
    return "" if len(difference.cases) > 1 else f" ({', '.join(difference.cases)})"


if __name__ == "__main__":
    sys.stdout.write(document() + "\n")
