"""The user's ``lxc`` or ``incus``: which there is, what it says, and how it is asked for the daemon's answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.errors import LxdockerError, UsageError
from lxdocker.follow.client import Client


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_client_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = {"HOME": "/home/ann"}
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UsageError, match="neither lxc nor incus"):
        Client.find(None, home)
    program(tmp_path / "bin", "lxc")
    assert Client.find(None, home).folder == Path("/home/ann/.config/lxc")
    assert Client.find("lxc", {**home, "LXD_CONF": "/srv/conf"}).folder == Path("/srv/conf")
    with pytest.raises(UsageError, match="no incus"):
        Client.find("incus", home)
    with pytest.raises(UsageError, match="no such client: docker"):
        Client.find("docker", home)
    program(tmp_path / "bin", "incus")
    with pytest.raises(UsageError, match="both lxc and incus"):
        Client.find(None, home)
    assert Client.find("incus", home).folder == Path("/home/ann/.config/incus")
    assert Client.find("incus", {**home, "LXD_CONF": "/x", "INCUS_CONF": "/srv/i"}).folder == Path("/srv/i")


def test_the_snap_has_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "snap/bin", "lxc")
    monkeypatch.setenv("PATH", str(tmp_path / "snap/bin"))
    assert Client.find(None, {"HOME": "/home/ann"}).folder == Path("/home/ann/snap/lxd/common/config")


def test_what_a_client_says_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "lxc").write_text("#!/bin/sh\necho it broke >&2; exit 3\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LxdockerError, match="lxc remote list --format json failed: it broke"):
        Client.find("lxc", {}).address_of("x")
    program(tmp_path, "lxc").write_text("#!/bin/sh\necho '[1]'\n")
    with pytest.raises(LxdockerError, match="no list of remotes"):
        Client.find("lxc", {}).address_of("x")


@pytest.fixture
def lxc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program(tmp_path, "lxc")


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("/user.slice/user-0.slice/session-c1.scope is not a snap cgroup", "loginctl enable-linger"),
        ("internal error, please report: cannot track application process", "XDG_RUNTIME_DIR"),
        ('Error: Get "http://unix.socket/1.0": dial unix /x: connect: permission denied', "join the daemon's group"),
        ("Error: the database is sad", ""),
    ],
)
def test_the_way_out_of_what_a_client_says(lxc: Path, said: str, way_out: str) -> None:
    lxc.write_text(f"#!/bin/sh\ncat >&2 <<'TEXT'\n{said}\nTEXT\nexit 1\n")
    with pytest.raises(LxdockerError) as caught:
        Client.find("lxc", {}).run("remote", "list")
    assert caught.value.details == said.removeprefix("Error: ")
    assert (way_out in caught.value.resolution) if way_out else caught.value.resolution == ""


def test_the_daemon_is_asked_as_the_user_would(lxc: Path, tmp_path: Path) -> None:
    lxc.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/asked; echo '{{\"a\": 1}}'\n")
    assert Client.find("lxc", {}).query("POST", "/1.0/x", {"name": "y"}) == {"a": 1}
    asked = (tmp_path / "asked").read_text().split("\n")[:-1]
    assert asked == ["query", "--wait", "--request", "POST", "--data", '{"name": "y"}', "/1.0/x"]


def test_a_daemon_that_can_t_be_asked_has_no_dialect(lxc: Path) -> None:
    client = Client.find("lxc", {})
    for script in ("exit 1", "echo nonsense", "echo '[]'", "echo null"):
        lxc.write_text(f"#!/bin/sh\n{script}\n")
        assert client.dialect() is None
    lxc.write_text('#!/bin/sh\necho \'{"api_extensions": ["image_registries"], "environment": {}}\'\n')
    dialect = client.dialect()
    assert dialect is not None
    assert dialect.knows_registries
