"""Are lxdocker's JSON documents what the schemas in ``schema/output/`` say?"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

FOLDER = Path(__file__).parents[1] / "schema/output"
NAMES = sorted(path.name.removesuffix(".schema.json") for path in FOLDER.glob("*.schema.json"))

_FORMATS = FormatChecker()
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@_FORMATS.checks("date-time")
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or bool(_RFC_3339.fullmatch(value))


@cache
def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text())
    return found


def check(document: Any, name: str) -> Any:
    """Raises AssertionError with what is wrong; else returns the document."""
    validator = Draft202012Validator(schema(name), format_checker=_FORMATS)
    wrong = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    assert not wrong, wrong
    return document
