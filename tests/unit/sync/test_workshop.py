"""Which builder image a run's builds begin with, and what comes of it where that can't be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lxdocker.builder import image as builder_image
from lxdocker.builder.instance import Workshop
from lxdocker.errors import BuildError, HostError, LxdError, LxdockerError
from lxdocker.lxd.api import Cancelled
from lxdocker.sync import run
from lxdocker.sync.run import SyncOptions
from tests.unit.sync.place import Place, place

FAILURE = LxdError("making it failed", "no network")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    """An LXD that was set up, with lxdocker's project in it."""
    with place(tmp_path) as made:
        daemon = made.daemon
        root = {"type": "disk", "path": "/", "pool": "default"}
        daemon.say("GET /1.0/profiles/default", {"config": {}, "devices": {"root": root}})
        daemon.say("GET /1.0/storage-pools", ["/1.0/storage-pools/default"])
        daemon.say("GET /1.0/networks", [])
        daemon.say("GET /1.0/projects/lxdocker", {})
        daemon.say("GET /1.0/profiles/builder", {})
        daemon.change("PUT /1.0/profiles/builder", "change profile")
        daemon.say("GET /1.0/storage-pools/default/volumes/custom/cache", {})
        yield made


def builder(here: Place, *, days: int) -> None:
    """A builder image that is so many days old."""
    recorded = {
        "built_at": (datetime.now(UTC) - timedelta(days=days)).isoformat(),
        "base": "Debian",
        "recipe": builder_image.scripts_hash(),
    }
    properties = {f"{builder_image.PREFIX}{key}": value for key, value in recorded.items()}
    fingerprint = here.daemon.keep("lxdocker", (b"metadata", b"builder"), properties)
    here.daemon.images["lxdocker", fingerprint].aliases.append(builder_image.ALIAS)


def making(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[None]:
    """What making the builder image comes to; grows with each try."""
    tries: list[None] = []

    def build(*_: object) -> Any:
        tries.append(None)
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(builder_image, "build", build)
    return tries


def opened(here: Place) -> Workshop | LxdockerError:
    with ExitStack() as cleanup:
        return run._open_workshop(here.context, SyncOptions(), cleanup, here.told, here.said.append)


def test_a_current_builder_image_is_used(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(here, days=1)
    tries = making(monkeypatch, FAILURE)
    assert isinstance(opened(here), Workshop)
    assert (tries, here.said) == ([], [])


def test_an_old_one_is_used_where_it_can_t_be_made_again(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    builder(here, days=1000)
    tries = making(monkeypatch, FAILURE)
    assert isinstance(opened(here), Workshop)
    assert len(tries) == 1
    assert here.said[0].startswith("building the builder image: it is 1000 days old")
    assert here.said[1] == (
        "warning: rebuilding the builder image failed; continuing with the old one (making it failed: no network)"
    )


def test_where_there_is_none_builds_fail_and_nothing_else(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    making(monkeypatch, FAILURE)
    assert opened(here) is FAILURE
    assert here.said == ["building the builder image: none exists"]


def test_making_it_tells_its_phases(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person would look at one line for 40 s."""

    def build(_lxd: object, _settings: object, say: Callable[[str], None]) -> None:
        say("installing packages")
        say("collecting files")
        raise FAILURE

    monkeypatch.setattr(builder_image, "build", build)
    assert opened(here) is FAILURE
    phases = ["builder: installing packages", "builder: collecting files"]
    assert here.told.steps == ["building the builder image", *phases]


@pytest.mark.parametrize("days", [None, 1000])
@pytest.mark.parametrize(
    ("error", "ends"), [(HostError("mmdebstrap needs root here"), True), (BuildError("x"), False), (Cancelled(), False)]
)
def test_what_ends_the_whole_run(
    here: Place, monkeypatch: pytest.MonkeyPatch, error: LxdockerError, ends: bool, days: int | None
) -> None:
    """Not what another run may do better, as long as there is something to build in."""
    if days:
        builder(here, days=days)
    making(monkeypatch, error)
    if ends:
        with pytest.raises(HostError, match="mmdebstrap needs root"):
            opened(here)
    elif days and not isinstance(error, Cancelled):
        assert isinstance(opened(here), Workshop)
    else:
        assert opened(here) is error
