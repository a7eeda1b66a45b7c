"""What an imported image says of where it came from, and who believes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.image import provenance as module
from lxdocker.image.origin import Origin
from lxdocker.lxd.api import StoredImage
from lxdocker.lxd.store import given_by_hand
from lxdocker.values import ImageName
from tests.examples import fingerprint, provenance

ORIGIN = Origin("https://shop.example:8444", ImageName("web"), "20260102_0304", ("web", "www"))


def test_what_is_recorded_is_read_again() -> None:
    # Beside what the image itself says.
    properties = {**provenance().to_properties(), "description": "web", **ORIGIN.to_properties()}
    assert Origin.from_properties(properties) == ORIGIN


@pytest.mark.parametrize(
    "change",
    [
        {"lxdocker.server": "https://other.example"},
        {"lxdocker.follower": "0" * 16},
        {"lxdocker.name": "../web"},
        {"lxdocker.version": "latest"},
    ],
    ids=str,
)
def test_what_others_made_up_is_not_believed(change: dict[str, str]) -> None:
    assert Origin.from_properties({**ORIGIN.to_properties(), **change}) is None


@pytest.mark.parametrize("lost", sorted(ORIGIN.to_properties()))
def test_half_of_it_is_none(lost: str) -> None:
    properties = ORIGIN.to_properties()
    del properties[lost]
    assert Origin.from_properties(properties) is None


def test_an_image_that_was_copied_to_another_host_was_not_brought_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "machine-id"
    monkeypatch.setattr(module, "MACHINE_ID", machine)
    machine.write_text("one\n")
    properties = ORIGIN.to_properties()
    assert Origin.from_properties(properties) == ORIGIN
    machine.write_text("two\n")
    assert Origin.from_properties(properties) is None


def test_aliases_that_a_user_gave() -> None:
    first = StoredImage(fingerprint("1"), {}, ("web", "prod"), 1, "")
    second = StoredImage(fingerprint("2"), {}, ("www", "blue"), 1, "")
    assert given_by_hand([first, second], {"web", "www"}) == ["blue", "prod"]
    assert given_by_hand([], {"web"}) == []
