"""The end of a builder, with an LXD that removes it, cannot yet, or refuses to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lxdocker.builder import instance
from lxdocker.builder.instance import Workshop
from lxdocker.builder.placement import Placement
from lxdocker.errors import LxdError
from lxdocker.http.route import NOWHERE
from lxdocker.lxd import instances
from tests import recorded
from tests.examples import fingerprint
from tests.stand_ins import client_of
from tests.unit.lxd.test_api import Daemon, at_work
from tests.waiting import wait_until

STATE = "PUT /1.0/instances/builder-1/state"
DELETE = "DELETE /1.0/instances/builder-1"
Open = Callable[..., Workshop]


@pytest.fixture(params=recorded.every(), ids=str)
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """One that creates and starts the builder `builder-1`."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "1")
    monkeypatch.setattr(instance, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(instances, "REMOVAL_SECONDS", 0)
    with Daemon(tmp_path / "unix.socket", request.param) as server, at_work(server):
        server.start("POST /1.0/instances", "create")
        server.start(STATE, "start")
        server.say("GET /1.0/operations", {})
        yield server


@pytest.fixture
def opened(daemon: Daemon, tmp_path: Path) -> Open:
    def open_workshop(*, keep: bool = False) -> Workshop:
        return Workshop(client_of(tmp_path), Placement("lxdocker", "p", None), fingerprint("builder"), keep=keep)

    return open_workshop


def removal(daemon: Daemon) -> str:
    return DELETE if "instance_force_delete" in daemon.lxd.server["api_extensions"] else STATE


def changes(daemon: Daemon) -> list[str]:
    """What the daemon was asked to do, since it started the builder."""
    asked = [one.partition("?")[0] for one in daemon.asked if not one.startswith("GET")]
    return asked[1 if "instance_create_start" in daemon.lxd.server["api_extensions"] else 2 :]


def test_nobody_waits_until_a_builder_is_gone(daemon: Daemon, opened: Open) -> None:
    with closing(opened()) as workshop, workshop.builder(NOWHERE, cache=False):
        going = daemon.start(removal(daemon), "remove", status_code=103)
    assert not going.over.is_set()
    assert changes(daemon) == [removal(daemon)]


def test_who_wants_to_waits_until_a_builder_is_gone(daemon: Daemon, opened: Open) -> None:
    workshop = opened()
    with workshop.builder(NOWHERE, cache=False):
        going = daemon.start(removal(daemon), "remove", status_code=103)
    closing = threading.Thread(target=lambda: workshop.close(until_gone=True))
    closing.start()
    wait_until("a second look", lambda: daemon.asked.count("GET /1.0/operations/remove") > 1)
    assert closing.is_alive()
    going.end()
    closing.join()


def test_a_removal_that_fails_is_tried_again_while_builds_go_on(daemon: Daemon, opened: Open) -> None:
    with closing(opened()) as workshop:
        with workshop.builder(NOWHERE, cache=False):
            going = daemon.start(removal(daemon), "remove", status_code=103)
        wait_until("a first look", lambda: "GET /1.0/operations/remove" in daemon.asked)
        daemon.start(STATE, "stop")
        daemon.start(DELETE, "delete")
        going.end(400, "it is busy")
        wait_until("the second try", lambda: DELETE in changes(daemon)[1:])


def test_a_builder_that_lxd_refuses_to_remove_is_told_of(daemon: Daemon, opened: Open) -> None:
    workshop = opened()
    with workshop.builder(NOWHERE, cache=False):
        daemon.refuse(STATE, "it is busy")
        daemon.refuse(DELETE, "it is busy")
    with pytest.raises(LxdError, match="removing builder builder-1 failed: it is busy") as caught:
        workshop.close()
    assert caught.value.resolution == "lxc delete --project lxdocker --force builder-1"


def test_what_lxd_could_not_start_is_deleted_before_the_end(daemon: Daemon, opened: Open) -> None:
    """It has never run, so it would not delete itself."""
    daemon.start("POST /1.0/instances", "create", status_code=400, err="no space")
    daemon.start(DELETE, "delete")
    workshop = opened()
    with pytest.raises(LxdError, match="no space"), workshop.builder(NOWHERE, cache=False):
        pass
    workshop.close()
    assert "GET /1.0/operations/delete/wait" in daemon.asked


def test_where_there_is_no_room_a_builder_waits_for_those_that_are_going(daemon: Daemon, opened: Open) -> None:
    """The sync before did not wait for them, and a project may be limited to one instance."""
    daemon.refuse("POST /1.0/instances", "reached maximum number of instances")
    with closing(opened()) as workshop:
        with pytest.raises(LxdError, match="maximum number"), workshop.builder(NOWHERE, cache=False):
            pass
        daemon.say("GET /1.0/operations", {"running": [daemon.removal("builder-2")]})
        made = threading.Event()

        def make() -> None:
            with workshop.builder(NOWHERE, cache=False):
                made.set()

        second = threading.Thread(target=make)
        second.start()
        wait_until("a look", lambda: sum(one.startswith("GET /1.0/operations?") for one in daemon.asked) > 3)
        assert not made.is_set()
        daemon.start("POST /1.0/instances", "create")
        daemon.say("GET /1.0/operations", {"running": [daemon.removal("builder-3")]})
        second.join()
        assert made.is_set()


def test_a_kept_builder_stays(daemon: Daemon, opened: Open) -> None:
    with closing(opened(keep=True)) as workshop:
        with pytest.raises(LxdError, match="failed"), workshop.builder(NOWHERE, cache=False):
            raise LxdError("it failed")
        assert workshop.kept == ["builder-1"]
    assert changes(daemon) == []
