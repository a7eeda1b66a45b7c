"""The tables of keys that people read name every key there is, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from lxdocker.config import settings, spec, yamlfile
from lxdocker.config.spec import Behaviour

ROOT = Path(__file__).parents[3]


def first_column(document: str, header: str) -> list[str]:
    """Each `name` in the first column of the table that begins with this header."""
    lines = (ROOT / document).read_text().partition(f"\n| {header} |")[2].split("\n\n")[0].splitlines()
    assert lines, f"no table in {document} begins with {header}"
    return [name for line in lines[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


def test_the_page_of_specs_has_every_key() -> None:
    assert sorted(first_column("docs/specs.md", "key")) == sorted(yamlfile.schema(spec.SCHEMA)["properties"])


def test_the_page_of_settings_has_every_setting() -> None:
    assert sorted(first_column("docs/settings.md", "setting")) == sorted(yamlfile.schema(settings.SCHEMA)["properties"])


def test_the_page_of_the_runtime_has_every_key_that_decides_how_an_image_runs() -> None:
    fields = [field.name for field in dataclasses.fields(Behaviour)]
    assert sorted(first_column("docs/runtime.md", "for the image (spec)")) == sorted([*fields, "disable_supervisor"])
