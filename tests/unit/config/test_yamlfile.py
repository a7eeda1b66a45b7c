from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lxdocker.config import resources, yamlfile
from lxdocker.errors import LxdockerError, Mistake

SCHEMAS = ("image.schema.json", "config.schema.json")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("0", 0),
        ("-17", -17),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.10", 1.1),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("9" * 5000, float("inf")),
        # Not in YAML 1.2, or not in JSON.
        ("yes", "yes"),
        ("On", "On"),
        ("tRue", "tRue"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1.2.3", "1.2.3"),
        ("0b1", "0b1"),
        ("<<", "<<"),
        ("=", "="),
        ("٣", "٣"),
    ],
)
def test_unquoted_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = yamlfile.resolve_plain(text)
    assert found == value
    assert type(found) is type(value)


def subschemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those a value can fail to fit."""
    yield schema
    below = [
        *schema.get("properties", {}).values(),
        *schema.get("$defs", {}).values(),
        *schema.get("allOf", []),
    ]
    below += [schema[key] for key in ("items", "propertyNames", "additionalProperties") if key in schema]
    for child in below:
        if isinstance(child, dict) and "$ref" not in child:
            yield from subschemas(child)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_has_a_name_of_its_own(name: str) -> None:
    """By which tools tell schemas apart, wherever the file is."""
    assert yamlfile.schema(name)["$id"] == f"urn:lxdocker:schema:{name.removesuffix('.schema.json')}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_describes_each_key_with_examples_that_fit(name: str) -> None:
    schema = yamlfile.schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    for key, described in schema["properties"].items():
        assert described["description"].endswith("."), key
        for example in [*described["examples"], *([described["default"]] if "default" in described else [])]:
            jsonschema.Draft202012Validator({**schema, "required": []}).validate({key: example})


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_part_of_a_schema_says_what_it_expects(name: str) -> None:
    for part in subschemas(yamlfile.schema(name)):
        assert part.get("title"), part


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_pattern_lets_a_last_line_break_pass(name: str) -> None:
    for part in subschemas(yamlfile.schema(name)):
        assert part.get("pattern", "$(?!\n)").replace("\\n", "\n").endswith("$(?!\n)"), part


def test_mistakes_are_sorted_as_one_reads() -> None:
    lines = [("a", 2, "x"), ("a", 10, "b"), ("a", 10, "c"), ("b", 1, "a")]
    mistakes = [Mistake(where, line, field, "expected y") for where, line, field in lines]
    for permutation in itertools.permutations(mistakes):
        error = yamlfile.spec_error("these", permutation, "do so")
        assert error.details.splitlines() == [
            "a:2: x: expected y",
            "a:10: b: expected y",
            "a:10: c: expected y",
            "b:1: a: expected y",
        ]


def test_resources_are_in_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lxdocker"
    monkeypatch.setattr(resources, "_PACKAGE", package)
    with pytest.raises(LxdockerError, match=r"missing file of lxdocker: schema/x\.json"):
        resources.resource("schema", "x.json")
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema/x.json").touch()
    assert resources.resource("schema", "x.json") == tmp_path / "schema/x.json"
    # In an installation, whatever lies beside the package is not ours.
    (package / "schema").mkdir(parents=True)
    (package / "schema/x.json").touch()
    assert resources.resource("schema", "x.json") == package / "schema/x.json"
