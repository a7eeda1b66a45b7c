"""The records of a version, which may come from a broken disk or another server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lxdocker.tree.version import (
    WITHHELD,
    Delta,
    Withheld,
    parse_sidecar,
    read_withheld,
    sidecar_document,
    withheld_document,
)
from lxdocker.values import Arch
from tests.examples import fingerprint, lay_down, provenance, published, resolved, spec

DELTA = Delta("20260101_0000", 5, "2" * 64)
VERSION = replace(published(Path("/tree")), aliases=("www",), properties={"description": "text"}, deltas=(DELTA,))


def parsed(**changes: Any) -> Any:
    return parse_sidecar(VERSION.folder, json.dumps({**sidecar_document(VERSION), **changes}).encode())


def test_a_record_is_read_as_it_was_written() -> None:
    assert parsed() == VERSION


@pytest.mark.parametrize("size", ["1e999", "-1e999", "NaN", '"x"', "[]"])
def test_a_size_that_is_none_makes_no_version(size: str) -> None:
    text = json.dumps(sidecar_document(VERSION)).replace(f'"size": {VERSION.rootfs_size}', f'"size": {size}')
    assert size in text
    assert parse_sidecar(VERSION.folder, text.encode()) is None


@pytest.mark.parametrize("base", ["../../../etc/passwd", "", "20260101_000", "20261301_0000", "/"])
def test_a_delta_whose_base_is_no_version_is_left_out(base: str) -> None:
    """It would become a file name."""
    assert parsed(deltas={base: {"size": 5, "sha256": ""}}).deltas == ()


def test_a_delta_is_listed_with_its_base_and_if_it_is_whole(tmp_path: Path) -> None:
    version = lay_down(replace(VERSION, folder=tmp_path / "images/web/x86_64" / VERSION.key))
    path = version.folder / DELTA.file
    assert version.version([DELTA.base]).deltas == ()
    path.write_bytes(bytes(DELTA.size - 1))
    assert version.version([DELTA.base]).deltas == ()
    path.write_bytes(bytes(DELTA.size))
    assert [delta.base for delta in version.version([DELTA.base]).deltas] == [DELTA.base]
    assert version.version(["20260101_0001"]).deltas == ()


@pytest.mark.parametrize("damage", ["metadata", "rootfs"])
def test_a_version_is_whole_if_both_files_are(tmp_path: Path, damage: str) -> None:
    version = lay_down(published(tmp_path))
    assert version.is_whole()
    assert version.is_listed()
    assert not replace(version, withdrawn=1.0).is_listed()
    damaged = replace(version, metadata_size=7) if damage == "metadata" else replace(version, rootfs_size=7)
    assert not damaged.is_whole()
    assert not damaged.is_listed()


def test_withheld_versions_are_read_as_they_were_written(tmp_path: Path) -> None:
    product = tmp_path / "web/x86_64"
    product.mkdir(parents=True)
    withheld = [
        Withheld(f"2026010{day}_0000", fingerprint(str(day)), provenance(at=resolved(str(day))), Arch.X86_64, 7.5)
        for day in (1, 2)
    ]
    (product / WITHHELD).write_text(json.dumps(withheld_document(withheld)))
    assert read_withheld(product) == withheld


def test_a_list_of_another_image_s_withholds_nothing(tmp_path: Path) -> None:
    product = tmp_path / "web/x86_64"
    product.mkdir(parents=True)
    of_other = Withheld("20260101_0000", fingerprint("1"), provenance(spec("other")), Arch.X86_64, 1.0)
    (product / WITHHELD).write_text(json.dumps(withheld_document([of_other])))
    assert read_withheld(product) == []


@pytest.mark.parametrize("since", ["1e20", "1e999", "NaN", "null"])
def test_a_time_that_is_none_withholds_nothing(tmp_path: Path, since: str) -> None:
    product = tmp_path / "web/x86_64"
    product.mkdir(parents=True)
    withheld = Withheld("20260101_0000", fingerprint("1"), provenance(), Arch.X86_64, 7.5)
    (product / WITHHELD).write_text(json.dumps(withheld_document([withheld])).replace("7.5", since))
    assert read_withheld(product) == []
