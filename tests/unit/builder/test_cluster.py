"""Where builders are placed: members of a cluster, and this host's loopback. The rest is tested with a real cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lxdocker.builder import placement
from lxdocker.builder.instance import MemberLostError, Workshop
from lxdocker.builder.placement import Placement
from lxdocker.config.settings import Settings
from lxdocker.errors import BuildError, HostError, LxdError
from lxdocker.http.route import NOWHERE, Route
from lxdocker.lxd.address import Https
from lxdocker.lxd.api import Lxd
from tests import recorded
from tests.examples import fingerprint
from tests.stand_ins import client_of
from tests.unit.lxd.test_api import Daemon, at_work

STATE = "PUT /1.0/instances/builder-1/state"


def member(name: str, status: str = "Online", architecture: str = "x86_64", *groups: str) -> Mapping[str, Any]:
    return {"server_name": name, "status": status, "architecture": architecture, "groups": ["default", *groups]}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """The member ``one`` of a cluster."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "1")
    with Daemon(tmp_path / "unix.socket", recorded.every()[0]) as server, at_work(server):
        environment = {**server.lxd.server["environment"], "server_clustered": True, "server_name": "one"}
        environment["architectures"] = ["x86_64"]
        server.say("GET /1.0", {**server.lxd.server, "environment": environment})
        server.say(
            "GET /1.0/cluster/members",
            [
                member("one"),
                member("two", "Online", "x86_64", "fast"),
                member("three", "Offline"),
                member("four", "Evacuated"),
                member("five", "Online", "aarch64"),
            ],
        )
        server.say("GET /1.0/profiles/default", {"devices": {"root": {"type": "disk", "path": "/", "pool": "p"}}})
        server.say("GET /1.0/storage-pools", ["/1.0/storage-pools/p"])
        server.say("GET /1.0/networks", [])
        server.start("POST /1.0/instances", "create")
        server.start(STATE, "start")
        server.say("GET /1.0/operations", {})
        yield server


def found(tmp_path: Path, target: str | None) -> Placement:
    return placement.find(client_of(tmp_path), Settings(tmp_path, tmp_path, target=target))


def test_members_that_can_have_builders(cluster: Daemon, tmp_path: Path) -> None:
    assert found(tmp_path, None).members == ("one", "two")
    assert found(tmp_path, "two").members == ("two",)
    assert found(tmp_path, "@fast").members == ("two",)
    for target in ("three", "four", "five", "six", "@slow", "fast"):
        with pytest.raises(HostError, match=f"no cluster member for builders in {target}") as caught:
            found(tmp_path, target)
        assert "one, two" in caught.value.details


def created(cluster: Daemon) -> str:
    return next(one for one in reversed(cluster.asked) if one.startswith("POST /1.0/instances?"))


def workshop(tmp_path: Path, target: str | None = None) -> Workshop:
    return Workshop(client_of(tmp_path), found(tmp_path, target), fingerprint("builder"))


def test_lxd_places_a_builder_unless_the_way_leads_to_this_host(cluster: Daemon, tmp_path: Path) -> None:
    cluster.start(STATE, "remove")
    with closing(workshop(tmp_path)) as here:
        with here.builder(NOWHERE):
            pass
        assert "target=" not in created(cluster)
        with here.builder(NOWHERE, on="two"):
            pass
        assert "target=two" in created(cluster)
        cluster.start("PATCH /1.0/instances/builder-1", "devices")
        with here.builder(Route(local=(("127.0.0.1", 5000),))):
            pass
        assert "target=one" in created(cluster)
    with closing(workshop(tmp_path, "@fast")) as fast, fast.builder(NOWHERE):
        pass
    assert "target=%40fast" in created(cluster)


def test_a_member_that_does_not_answer_is_left_out(
    cluster: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start(STATE, "remove")
    with closing(workshop(tmp_path)) as here:
        with pytest.raises(LxdError, match="broke off") as answering, here.builder(NOWHERE, on="two"):
            raise LxdError("building failed", "LXD broke off")
        assert not isinstance(answering.value, MemberLostError)
        monkeypatch.setattr(Lxd, "answers", lambda _, name: name != "two")
        with (
            pytest.raises(MemberLostError, match="member two of the cluster does not answer"),
            here.builder(NOWHERE, on="two"),
        ):
            raise LxdError("building failed", "LXD broke off")
        assert here.members == ["one"]
        with here.builder(NOWHERE):
            pass
        assert "target=one" in created(cluster)


def test_a_registry_on_the_loopback_is_not_another_hosts(cluster: Daemon, tmp_path: Path) -> None:
    client = client_of(tmp_path)
    far = Https("lxd.example", 8443, tmp_path / "crt", tmp_path / "key", tmp_path / "pinned")
    client.daemon = replace(client.daemon, address=far)
    away = Workshop(client, Placement("lxdocker", "p", None), fingerprint("builder"))
    with (
        closing(away),
        pytest.raises(BuildError, match="cannot reach its image") as caught,
        away.builder(Route(local=(("127.0.0.1", 5000),))),
    ):
        pass
    assert "127.0.0.1:5000 is the loopback of this host" in caught.value.details
    assert "https://lxd.example:8443" in caught.value.details
