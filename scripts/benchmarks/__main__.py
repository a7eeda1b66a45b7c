"""The measuring part of scripts/bench; the script itself starts the measured services."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.figures import FIGURES, Figure
from benchmarks.place import Measured, MeasurementError, Place, say
from lxdocker.errors import LxdockerError

LISTED = 100  # exit status of --check: the figures were listed, nothing is left to do


def main() -> int:
    """Measures the requested figures. Returns the exit status."""
    arguments = _parse()
    if arguments.list:
        _table([[one.name, _show(one, one.target), one.what] for one in FIGURES.values()])
        return LISTED
    if arguments.check:
        return 0
    signal.signal(signal.SIGTERM, _stop)
    place = Place(arguments.run, arguments.registry, arguments.layouts, arguments.rounds)
    results = []
    for name, one in FIGURES.items():
        if name in arguments.figures or not arguments.figures:
            say(f"{name}: {one.what}")
            results.append(_measure(one, place))
    if arguments.json:
        json.dump({"figures": results}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _table([["FIGURE", "VALUE", "TARGET", ""], *(_row(FIGURES[one["figure"]], one) for one in results)])
    return 1 if any(one["verdict"] == "failed" for one in results) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", usage="bench [--json] [--rounds N] [--list] [FIGURE...]", add_help=False
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--check", action="store_true")
    for name in ("run", "layouts"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--registry")
    parser.add_argument("figures", nargs="*", metavar="FIGURE")
    arguments = parser.parse_args()
    for name in arguments.figures:
        if name not in FIGURES:
            parser.error(f"there is no figure {name}; there are: {', '.join(FIGURES)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds takes a number from 1")
    return arguments


def _measure(one: Figure, place: Place) -> dict[str, Any]:
    result: dict[str, Any] = {"figure": one.name, "what": one.what, "unit": one.unit, "target": one.target}
    try:
        measured: Measured = one.measure(place)
    except (MeasurementError, LxdockerError, OSError) as error:
        say(f"  could not be measured: {error}")
        return {**result, "verdict": "failed", "error": str(error)}
    return {
        **result,
        "value": measured.value,
        "min": min(measured.samples),
        "max": max(measured.samples),
        "samples": list(measured.samples),
        "note": measured.note,
        "verdict": "ok" if measured.value <= one.target else "short",
    }


def _row(one: Figure, result: dict[str, Any]) -> list[str]:
    if "value" not in result:
        return [one.name, "-", f"<= {_show(one, one.target)}", result["verdict"]]
    value = _show(one, result["value"])
    if len(result["samples"]) > 1:
        value += f" ({_show(one, result['min'], bare=True)} to {_show(one, result['max'], bare=True)})"
    if result["note"]:
        value += f", {result['note']}"
    return [one.name, value, f"<= {_show(one, one.target)}", result["verdict"]]


def _show(one: Figure, value: float, *, bare: bool = False) -> str:
    digits = 2 if one.unit in {"s", "ms", "x"} else 0
    return f"{value:.{digits}f}" + ("" if bare or not one.unit else f" {one.unit}")


def _table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


def _stop(*_: object) -> NoReturn:
    raise SystemExit(143)


sys.exit(main())
