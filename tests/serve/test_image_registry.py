"""Joining from an LXD with image registries (6.10 and later).

That LXD is in no Debian, so ``lxc`` is a script here, which answers as one of its development did: the same commands,
the same words. ``scripts/test --lxd DIR tests/lxd/test_registries.py`` joins from a real one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from lxdocker.errors import LxdockerError, UsageError
from lxdocker.follow import remote
from lxdocker.follow.client import Client
from lxdocker.follow.remote import Added, Address, Questions
from tests.serve.rig import Served, serve

# State in a file: remotes, registries, what was asked, and what goes wrong.
LXC = """#!{python}
import json, pathlib, sys
path = pathlib.Path({state!r})
state = json.loads(path.read_text())
arguments = sys.argv[1:]
state["asked"].append(arguments)
path.write_text(json.dumps(state))
def say(document):
    path.write_text(json.dumps(state))
    print(json.dumps(document))
    sys.exit()
def refuse(words):
    path.write_text(json.dumps(state))
    sys.exit("Error: " + words)
match arguments:
    case ["query", "--wait", "--request", method, *content, url]:
        for prefix, words in state["refused"].items():
            if f"{{method}} {{url}}".startswith(prefix):
                refuse(words)
        body = json.loads(content[1]) if content else None
        name = url.removeprefix("/1.0/image-registries/").removesuffix("/images")
        match method, url:
            case "GET", "/1.0":
                say({{"api_extensions": ["image_registries"], "environment": {{"server_version": "6.10"}}}})
            case "GET", "/1.0/image-registries?recursion=1":
                say(list(state["registries"].values()))
            case "POST", "/1.0/image-registries":
                state["registries"][body["name"]] = body
                say({{"status_code": 200}})
            case "DELETE", _:
                del state["registries"][name]
                say({{"status_code": 200}})
            case "GET", _:
                say([{{"fingerprint": "f"}}])
    case ["remote", "list", *_]:
        say({{name: {{"Addr": address}} for name, address in state["remotes"].items()}})
    case ["remote", "add", name, address, *_]:
        state["remotes"][name] = address
    case ["remote", "remove", name]:
        del state["remotes"][name]
    case ["image", "list", *_]:
        pass
    case _:
        refuse("what is " + " ".join(arguments))
path.write_text(json.dumps(state))
"""
BUILTIN = {
    "name": "ubuntu",
    "protocol": "simplestreams",
    "config": {"url": "https://cloud-images.ubuntu.com/releases/"},
}


class Lxc:
    """The script, and what has come of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._state = folder / "state"
        self._write({"remotes": {}, "registries": {"ubuntu": BUILTIN}, "refused": {}, "asked": []})
        program = folder / "lxc"
        program.write_text(LXC.format(python=sys.executable, state=str(self._state)))
        program.chmod(0o755)
        self.client = Client(str(program), folder / "conf")

    def _read(self) -> Any:
        return json.loads(self._state.read_text())

    def _write(self, state: Any) -> None:
        self._state.write_text(json.dumps(state))

    def refuse(self, request: str, words: str) -> None:
        state = self._read()
        self._write({**state, "refused": {request: words}})

    @property
    def remotes(self) -> dict[str, str]:
        return dict(self._read()["remotes"])

    @property
    def registries(self) -> dict[str, str]:
        """Those that are not LXD's own: name -> address."""
        return {name: one["config"]["url"] for name, one in self._read()["registries"].items() if name != "ubuntu"}

    @property
    def untouched(self) -> bool:
        pinned = [path for path in self.client.folder.rglob("*") if path.is_file()]
        return not (self.remotes or self.registries or pinned)


@pytest.fixture
def lxc(tmp_path: Path) -> Lxc:
    return Lxc(tmp_path / "lxc")


def join(lxc: Lxc, served: Served, name: str = "shop", *, may_register: bool = True, login: str = "") -> Added:
    address = Address.parse(served.url.replace("https://", f"https://{login}"))
    questions = Questions(lambda _: True, lambda: may_register)
    return remote.add(lxc.client, name, address, remote.look_at(address), None, questions)


def test_a_server_becomes_a_remote_and_a_registry(lxc: Lxc, served: Served) -> None:
    added = join(lxc, served)
    assert added.registry
    assert lxc.remotes == {"shop": served.url}
    assert lxc.registries == {"shop": served.url}
    asked = lxc._read()["asked"]
    assert any("/1.0/image-registries/shop/images" in one for one in asked)  # the daemon has looked
    assert join(lxc, served).existed  # again: nothing new
    assert [one[3] for one in lxc._read()["asked"] if "/1.0/image-registries" in one] == ["POST"]


def test_nothing_is_made_without_asking(lxc: Lxc, served: Served) -> None:
    with pytest.raises(UsageError, match="nothing was changed"):
        join(lxc, served, may_register=False)
    assert lxc.untouched


def test_who_may_not_make_registries_hears_what_an_administrator_has_to_type(lxc: Lxc, served: Served) -> None:
    lxc.refuse("POST /1.0/image-registries", "not authorized")
    with pytest.raises(LxdockerError, match="cannot add the image registry shop to LXD: not authorized") as caught:
        join(lxc, served)
    assert f"lxc image registry create shop --protocol simplestreams url={served.url}" in caught.value.resolution
    assert lxc.untouched


def test_a_daemon_that_does_not_trust_the_certificate(lxc: Lxc, served: Served) -> None:
    words = "Failed loading images: tls: failed to verify certificate: x509: certificate signed by unknown authority"
    lxc.refuse("GET /1.0/image-registries/shop/images", words)
    with pytest.raises(LxdockerError, match="LXD itself cannot use") as caught:
        join(lxc, served)
    assert caught.value.details == words
    # The one command that serve prints, too.
    command = [line for line in served.said.splitlines() if "sha256sum -c" in line or "curl" in line]
    assert len(command) == 2
    assert all(line.strip() in caught.value.resolution for line in command)
    assert "restart LXD" in caught.value.resolution
    assert lxc.untouched


def test_a_daemon_that_can_t_reach_the_server(lxc: Lxc, served: Served) -> None:
    lxc.refuse("GET /1.0/image-registries/shop/images", "dial tcp: lookup shop: no such host")
    with pytest.raises(LxdockerError, match="no such host") as caught:
        join(lxc, served)
    assert "check that LXD reaches the server" in caught.value.resolution
    assert lxc.untouched


def test_another_registry_of_that_name_is_left_alone(lxc: Lxc, served: Served) -> None:
    with pytest.raises(UsageError, match="already has an image registry ubuntu") as caught:
        join(lxc, served, "ubuntu")
    assert "cloud-images.ubuntu.com" in caught.value.details
    assert lxc.untouched


def test_a_registry_that_was_there_stays_where_joining_fails(lxc: Lxc, served: Served) -> None:
    join(lxc, served)
    lxc.refuse("GET /1.0/image-registries/shop/images", "the daemon is sad")
    with pytest.raises(LxdockerError, match="the daemon is sad"):
        join(lxc, served)
    assert lxc.remotes == lxc.registries == {"shop": served.url}


def test_a_server_with_logins_is_followed_in_another_way(lxc: Lxc, tree: Path, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{bcrypt.hashpw(b'word', bcrypt.gensalt(5)).decode()}\n")
    with serve(tmp_path / "guarded", tree, "--users", str(users)) as guarded:
        with pytest.raises(UsageError, match="take no login") as caught:
            join(lxc, guarded, login="ann:word@")
        assert f"lxdocker mirror --import {guarded.url.replace('//', '//ann@')}" in caught.value.resolution
        assert "word" not in str(caught.value) + caught.value.resolution
        assert lxc.untouched
        assert "does not support logins" in guarded.said
