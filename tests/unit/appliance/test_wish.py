"""What an appliance is to be like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lxdocker.appliance import health, host, inside
from lxdocker.appliance import wish as wishes_module
from lxdocker.appliance.host import Bridge, Endpoint, Place
from lxdocker.appliance.wish import SERVED, Names, Repository, Wish, listen_port, read_settings
from lxdocker.config.settings import load
from lxdocker.config.signers import Signers
from lxdocker.errors import HostError, SpecError, UsageError

WISH = Wish(Names("lxdocker"), "https://server.example", "debian/13")
PLACE = Place("default", Bridge("lxdbr0", "10.0.0.1", "lxd"))
ENDPOINT = Endpoint("10.0.0.1", 8443, "PEM")
SIGNERS = Signers("ssh", b"* ssh-ed25519 AAAA\n")


@pytest.mark.parametrize("name", ["", "a_b", "-a", "a-", "1a", "a.b", "x" * 43, "a/b", "a b", "é"])
def test_what_no_container_can_be_called(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be an appliance's name"):
        Names.of(name)


def test_all_names_are_those_of_containers_and_differ() -> None:
    names = Names.of("x" * 42)
    found = [names.appliance, names.new, names.old, names.project, names.state, names.config]
    assert len(set(found)) == len(found)
    assert max(map(len, found)) <= 63


@pytest.mark.parametrize(
    ("text", "port"),
    [("192.0.2.1:8444", 8444), (":443", 443), ("[2001:db8::1]:1", 1), ("8444", 0), ("host:1", 0), (":65536", 0)],
)
def test_where_the_host_can_listen(text: str, port: int) -> None:
    assert listen_port(text) == port


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        (None, None),
        ("tcp:192.0.2.1:8444", "https://192.0.2.1:8444"),
        ("tcp:[2001:db8::1]:443", "https://[2001:db8::1]:443"),
        ("tcp:0.0.0.0:8444", "https://198.51.100.7:8444"),
        ("tcp:127.0.0.1:8444", None),
        ("tcp:[::1]:8444", None),
    ],
)
def test_what_other_hosts_call_it(monkeypatch: pytest.MonkeyPatch, listen: str | None, url: str | None) -> None:
    """Not by its address on LXD's bridge, which they do not reach, nor by a name that only this host may know."""
    monkeypatch.setattr(wishes_module, "main_address", lambda: "198.51.100.7")
    devices = {SERVED: {"type": "proxy", "listen": listen}} if listen else {"root": {"type": "disk"}}
    assert health.elsewhere({"devices": devices}) == url


def test_an_appliance_that_goes_on_keeps_its_names_and_so_its_certificate() -> None:
    goes_on = replace(WISH, listen=":8444", goes_on=True)
    own = inside.settings(goes_on, PLACE, ENDPOINT, "10.0.0.2")
    before = [*own["tls_names"][:2], "203.0.113.9", "given.by.hand"]
    assert inside.with_former_names(own, {"tls_names": before}, goes_on)["tls_names"] == before
    moved = {"tls_names": ["lxdocker.lxd", "10.0.0.3"]}
    assert inside.with_former_names(own, moved, goes_on) == own
    assert inside.with_former_names(own, {"tls_names": before}, replace(WISH, listen=":8444")) == own


def test_what_systemd_would_take_for_something_else_is_refused() -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"calendar": "hourly\nOnBootSec=1"},
        {"delay": "1s\n[Service]"},
        {"calendar": ""},
        {"listen": "x:1"},
    )
    for change in changes:
        with pytest.raises(UsageError):
            replace(WISH, **change)
    with pytest.raises(UsageError, match="exclude each other"):
        replace(WISH, specs=Path("/srv"), repository=Repository("https://git.example/x"))


def test_its_settings_are_some_that_lxdocker_takes(tmp_path: Path) -> None:
    wishes = (
        WISH,
        replace(WISH, listen="192.0.2.1:8444"),
        replace(WISH, specs=Path("/srv")),
        replace(WISH, repository=Repository("https://git.example/x", "main", SIGNERS)),
    )
    for number, wish in enumerate(wishes):
        for endpoint in (ENDPOINT, None):
            file = tmp_path / f"{number}.yaml"
            file.write_text(yaml.safe_dump(dict(inside.settings(wish, PLACE, endpoint, "10.0.0.2"))))
            found = load({"config": file}, {"HOME": str(tmp_path)})
            assert found.lxd == ("https://10.0.0.1:8443" if endpoint else None)
            assert found.project == ("lxdocker-appliance" if endpoint else "default")
            assert found.listen == ":443"
            assert found.tls_names[:2] == ("lxdocker.lxd", "10.0.0.2")


def test_other_options_take_the_place_of_the_former_ones() -> None:
    former = inside.settings(replace(WISH, repository=Repository("https://git.example/x")), PLACE, ENDPOINT, "10.0.0.2")
    by_hand = {"jobs": 2, "project": "mine"}
    kept = inside.without_former({**former, "jobs": 2}, WISH)
    assert kept.keys() & {*inside.SPECS_SETTINGS, "lxd", "client_dir", "project", "builder_project"} == set()
    assert kept["jobs"] == 2
    assert inside.without_former(by_hand, WISH) == by_hand
    assert "specs_repository" in inside.without_former(former, replace(WISH, goes_on=True))


def test_an_upgrade_leaves_where_its_specs_are() -> None:
    found = inside.settings(replace(WISH, goes_on=True), PLACE, ENDPOINT, "10.0.0.2")
    assert not [key for key in found if key.startswith("specs")]


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        (":8443", ("10.0.0.1", 8443)),
        ("[::]:9443", ("10.0.0.1", 9443)),
        ("0.0.0.0", ("10.0.0.1", 8443)),  # noqa: S104 - asked about
        ("192.0.2.1:8443", ("192.0.2.1", 8443)),
        ("192.0.2.1", ("192.0.2.1", 8443)),
        ("[2001:db8::1]:8443", ("[2001:db8::1]", 8443)),
        ("[2001:db8::1]", ("[2001:db8::1]", 8443)),
        ("host.example:8443", ("host.example", 8443)),
    ],
)
def test_where_an_lxd_is_reached_that_listens_already(address: str, reached: tuple[str, int]) -> None:
    assert host._reached(address, PLACE.bridge) == reached


@pytest.mark.parametrize("address", ["127.0.0.1:8443", "[::1]:8443"])
def test_an_lxd_that_listens_for_its_host_alone(address: str) -> None:
    with pytest.raises(HostError, match="cannot reach LXD"):
        host._reached(address, PLACE.bridge)


def test_a_configuration_file_to_start_with(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for text, problem in (
        ("- a\n", "expected"),
        ("a: [\n", "YAML"),
        ("job: 3\n", "did you mean 'jobs'"),
        ("jobs: x\n", "jobs"),
    ):
        file.write_text(text)
        with pytest.raises(SpecError) as caught:
            read_settings(file)
        assert problem in str(caught.value)
    file.write_text("")
    assert read_settings(file) == {}


def test_the_packages_that_a_repository_needs() -> None:
    url = "https://ann:secret@git.example"
    assert Repository(url).packages == ("git",)
    assert Repository(url, None, Signers("openpgp", b"")).packages == ("git", "gpg")
    assert Repository(url, None, SIGNERS).packages == ("git", "openssh-client")
    assert "secret" not in repr(Repository(url))


@pytest.mark.parametrize("url", ["git@git.example:specs", "ssh://git@git.example/x", "file:///srv/x", "/srv/x", "x"])
def test_a_repository_that_a_container_cannot_fetch(url: str) -> None:
    with pytest.raises(UsageError, match="cannot fetch it") as caught:
        Repository(url)
    assert "https://" in caught.value.resolution
