"""The way to an image's registry that a builder is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.http import route as module
from lxdocker.http.route import NOWHERE, Place, Route

HERE = Place("registry.example", 5000, "127.0.0.1")
BY_ADDRESS = Place("127.0.0.1", 5000, "127.0.0.1")
BY_IPV6 = Place("::1", 443, "::1")
LOCALHOST = Place("localhost", 5001, "127.0.0.1")
ELSEWHERE = Place("elsewhere.example", 443, "192.0.2.1")
KNOWN = Place("known.example", 443, "192.0.2.2")  # in /etc/hosts


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "hosts"
    file.write_text("192.0.2.2 other Known.example # elsewhere.example\n192.0.2.9 elsewhere.example\n")
    monkeypatch.setattr(module, "HOSTS", file)
    return file


def over(*places: Place) -> Route:
    return Route.over(places, verify=True, proxies={}, authorities=b"", certificates={})


@pytest.mark.parametrize(
    ("places", "network", "local", "names"),
    [
        ([ELSEWHERE], True, [], []),
        ([BY_ADDRESS], False, [("127.0.0.1", 5000)], []),
        ([LOCALHOST, BY_IPV6], False, [("127.0.0.1", 5001), ("::1", 443)], []),
        # Whether or not the host's own file has it: it may be the host's DNS that leads there.
        ([HERE], False, [("127.0.0.1", 5000)], [("127.0.0.1", "registry.example")]),
        ([HERE, BY_ADDRESS, HERE], False, [("127.0.0.1", 5000)], [("127.0.0.1", "registry.example")]),
        ([KNOWN], True, [], [("192.0.2.2", "known.example")]),
        ([HERE, ELSEWHERE], True, [("127.0.0.1", 5000)], [("127.0.0.1", "registry.example")]),
    ],
)
def test_the_way_leads_to_all_places(
    places: list[Place], network: bool, local: list[tuple[str, int]], names: list[tuple[str, str]]
) -> None:
    route = over(*places)
    assert (route.network, list(route.local), list(route.names)) == (network, local, names)


def test_without_a_file_of_hosts_only_the_dns_knows_names(hosts: Path) -> None:
    hosts.unlink()
    assert over(KNOWN).names == ()
    assert over(HERE).names == (("127.0.0.1", "registry.example"),)


def test_the_default_leads_nowhere() -> None:
    assert (NOWHERE.network, NOWHERE.local, NOWHERE.names, NOWHERE.verify) == (False, (), (), True)


def test_no_secret_is_in_a_repr() -> None:
    route = Route.over(
        [ELSEWHERE],
        verify=False,
        proxies={"HTTP_PROXY": "http://ann:s3cret@proxy"},
        authorities=b"s3cret",
        certificates={"client.key": b"s3cret"},
    )
    assert "s3cret" not in repr(route)
    assert not route.verify
