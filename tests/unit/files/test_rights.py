"""Folders and files have the rights they should have, wherever and by whomever they are made."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.errors import UsageError
from lxdocker.files import durable, lock, rights
from lxdocker.serve import certs
from tests.forked import NOBODY, in_child

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_what_is_for_others_and_what_is_ours_alone(tmp_path: Path) -> None:
    rights.make_folder(tmp_path / "lib/lxdocker/tree")
    rights.make_folder(tmp_path / "lib/lxdocker/tls", rights.PRIVATE)
    rights.make_below(tmp_path, tmp_path / "lib/lxdocker/tree/a/b", rights.PRIVATE)
    durable.write_file(tmp_path / "public", b"x", 0o644)
    durable.write_new(tmp_path / "private", b"x", 0o600)
    os.close(lock.open_file(tmp_path / "lock"))
    found = {path.name: mode(path) for path in tmp_path.rglob("*")}
    public = dict.fromkeys(["lib", "lxdocker", "tree"], 0o755)
    private = dict.fromkeys(["tls", "a", "b"], 0o700)
    assert found == {**public, **private, "public": 0o644, "private": 0o600, "lock": 0o600}


@pytest.mark.usefixtures("umask")
def test_the_servers_key_is_its_own_and_lies_where_others_may_pass(tmp_path: Path) -> None:
    pair = certs.make(tmp_path / "lxdocker/tls")
    assert mode(tmp_path / "lxdocker") == 0o755
    assert mode(tmp_path / "lxdocker/tls") == 0o700
    assert mode(pair.key) == 0o600


def test_a_key_is_not_kept_where_others_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    certs.make(folder)
    certs.make(folder)
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="not safe for the server's key") as caught:
        certs.make(folder)
    assert f"chmod go-w {folder}" in caught.value.resolution


@needs_root
def test_a_user_trusts_root_and_itself(tmp_path: Path) -> None:
    """Not the other way round: see test_publish for root in a user's folder."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "theirs").mkdir(mode=0o755)
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)

    def work() -> int:
        rights.make_folder(tmp_path / "theirs/a")
        return mode(tmp_path / "theirs/a")

    os.chown(tmp_path, 0, 0)
    owners = {folder.stat().st_uid for folder in (tmp_path, *tmp_path.parents)}
    assert owners == {0}
    assert in_child(work, uid=NOBODY) == 0o755


@needs_root
def test_a_group_of_one_user_is_that_user(tmp_path: Path) -> None:
    """As Debian gives each one. A group with other members is not."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    user = pwd.getpwnam("daemon")
    assert user.pw_uid == user.pw_gid, "in_child() takes one for the other"
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o775)

    def look() -> str:
        try:
            rights.check(folder)
        except rights.UnsafeError as error:
            return error.why
        return "safe"

    assert in_child(look, uid=user.pw_uid) == "safe"
    os.chown(folder, user.pw_uid, NOBODY)
    assert "may write in it (mode 0775)" in in_child(look, uid=user.pw_uid)


def test_a_folder_like_tmp_may_lead_to_ours_but_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "shared/ours").mkdir(parents=True, mode=0o755)
    (tmp_path / "shared").chmod(0o1777)
    rights.check(tmp_path / "shared/ours")
    rights.check(tmp_path / "shared/not there yet")
    with pytest.raises(rights.UnsafeError, match="everybody may write"):
        rights.check(tmp_path / "shared")


def test_links_may_lead_there_and_back_but_not_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real/inner").mkdir(parents=True, mode=0o755)
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("real/../absolute/inner")
    (tmp_path / "loop").symlink_to("loop")
    rights.check(tmp_path / "absolute/inner/nothing/there/yet")
    rights.check(tmp_path / "relative/..")
    with pytest.raises(OSError, match="symbolic links"):
        rights.check(tmp_path / "loop/x")
    (tmp_path / "real").chmod(0o777)
    for name in ("absolute/inner", "relative", "real/inner"):
        with pytest.raises(rights.UnsafeError, match="everybody may write"):
            rights.check(tmp_path / name)
