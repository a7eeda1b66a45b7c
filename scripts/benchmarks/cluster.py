"""A cluster of two LXDs on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.place import SCRIPTS, Place

POOL = {"name": "default", "driver": "dir"}
PROFILE = {"name": "default", "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}}


@contextmanager
def clustered(place: Place) -> Iterator[None]:
    """Commands go to the first member, ``one``, while this is open; the other is ``two``."""
    before = {name: os.environ[name] for name in ("LXD_DIR", "LXD_CONF")}
    with ExitStack() as cleanup:
        one, two = (cleanup.enter_context(_daemon(place, name)) for name in ("one", "two"))
        cleanup.callback(os.environ.update, before)
        _enter(one)
        address, other = _free_address(), _free_address()
        first = {
            "config": {"core.https_address": address},
            "cluster": {"enabled": True, "server_name": "one"},
            "storage_pools": [POOL],
            "profiles": [PROFILE],
        }
        _preseed(first)
        token = place.command("lxc", "cluster", "add", "two").split()[-1]
        _enter(two)
        source = {"entity": "storage-pool", "name": POOL["name"], "key": "source", "value": ""}
        joining = {"enabled": True, "server_name": "two", "server_address": other, "cluster_token": token}
        _preseed({"cluster": {**joining, "member_config": [source]}})
        _enter(one)
        yield


@contextmanager
def _daemon(place: Place, name: str) -> Iterator[Path]:
    folder = place.run / f"lxd-{name}"
    try:
        place.command(SCRIPTS / "lxd-up", "--bare", "--dir", folder)
        yield folder
    finally:
        place.command(SCRIPTS / "lxd-up", "--down", "--dir", folder)


def _enter(member: Path) -> None:
    os.environ.update(LXD_DIR=str(member), LXD_CONF=str(member / "client"))


def _preseed(document: object) -> None:
    subprocess.run(["lxd", "init", "--preseed"], input=json.dumps(document), text=True, check=True, capture_output=True)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
