"""Which daemon a host has, and where its socket is."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from lxdocker.errors import HostError, UsageError
from lxdocker.lxd import daemon as module
from lxdocker.lxd.daemon import Daemon


def listening(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(path))
    return path


def test_the_one_that_is_there(tmp_path: Path) -> None:
    environ = {"LXD_DIR": str(tmp_path / "lxd"), "INCUS_DIR": str(tmp_path / "incus")}
    with pytest.raises(HostError, match="neither LXD nor Incus") as none:
        Daemon.find(None, environ)
    assert f"{tmp_path}/lxd/unix.socket and {tmp_path}/incus/unix.socket" in none.value.details
    listening(tmp_path / "incus/unix.socket")
    assert Daemon.find(None, environ).client == "incus"
    listening(tmp_path / "lxd/unix.socket")
    with pytest.raises(UsageError, match="both LXD and Incus") as both:
        Daemon.find(None, environ)
    assert "--client" in both.value.resolution
    assert str(Daemon.find("lxc", environ).address) == f"{tmp_path}/lxd/unix.socket"
    assert str(Daemon.find("incus", environ).address) == f"{tmp_path}/incus/unix.socket"
    with pytest.raises(UsageError, match="no such client: lxd"):
        Daemon.find("lxd", environ)


def test_incus_is_where_its_client_looks() -> None:
    assert str(Daemon.incus({}).address) in {"/run/incus/unix.socket", "/var/lib/incus/unix.socket"}
    assert str(Daemon.incus({"INCUS_DIR": "/srv/incus"}).address) == "/srv/incus/unix.socket"
    assert str(Daemon.incus({"INCUS_DIR": "/srv/incus", "INCUS_SOCKET": "/srv/s"}).address) == "/srv/s"


def test_the_snap_goes_before_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAP", tmp_path)
    assert str(Daemon.lxd({}).address) == "/var/lib/lxd/unix.socket"
    listening(tmp_path / "unix.socket")
    assert str(Daemon.lxd({}).address) == f"{tmp_path}/unix.socket"
    assert str(Daemon.lxd({"LXD_DIR": "/srv/lxd"}).address) == "/srv/lxd/unix.socket"
