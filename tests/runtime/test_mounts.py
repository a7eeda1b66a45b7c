"""Temporary filesystems, volumes, disks that users attach, and a root that can't be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.boxes import Box
from tests.waiting import wait_until

Launch = Callable[..., Box]


def owners(one: Box, *paths: str) -> list[str]:
    return one.shell("stat -c '%U:%G %a %n' " + " ".join(paths)).splitlines()


def disk(folder: Path, path: str, **more: str) -> dict[str, str]:
    return {"type": "disk", "source": str(folder), "path": path, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the host's, for everyone to read."""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    (tmp_path / "mine").write_text("attached")
    return tmp_path


@pytest.mark.any_lxd
def test_what_the_image_has_shows_on_the_fresh_tmpfs(launch: Launch) -> None:
    one = launch().ready()
    assert set(one.tmpfs()) == {"/dev/shm", "/tmp", "/run"}
    assert all("nosuid,nodev" in options for options in one.tmpfs().values())
    assert one.file("/tmp/kept") == "from the image"
    assert owners(one, "/dev/shm", "/tmp", "/tmp/kept", "/run", "/run/app", "/run/app/socket.d") == [
        "root:root 1777 /dev/shm", "root:root 1777 /tmp", "app:app 640 /tmp/kept",
        "root:root 755 /run", "app:app 750 /run/app", "app:app 700 /run/app/socket.d",
    ]  # fmt: skip
    # What is written there is gone with the next start, what the image has is there again.
    assert one.runs("echo x >/tmp/new && rm -r /tmp/kept /run/app && echo x >/dev/shm/new")
    one.stop()
    one.start()
    one.ready()
    assert one.file("/tmp/kept") == "from the image"
    assert owners(one, "/run/app/socket.d") == ["app:app 700 /run/app/socket.d"]
    assert not one.runs("[ -e /tmp/new ]")
    assert not one.runs("[ -e /dev/shm/new ]")


@pytest.mark.any_lxd
def test_an_empty_folder_keeps_its_owner_and_mode(launch: Launch) -> None:
    one = launch("empty").ready()
    assert {"/tmp", "/run"} <= set(one.tmpfs())
    assert owners(one, "/run", "/tmp") == ["app:app 770 /run", "root:app 1770 /tmp"]


@pytest.mark.any_lxd
def test_off_sizes_and_more_from_the_spec(launch: Launch) -> None:
    one = launch("settled", script="exec sleep 100000", config={"limits.memory": "64MiB"}).ready()
    found = one.tmpfs()
    assert set(found) == {"/dev/shm", "/run", "/var/cache", "/var/cache/app"}
    assert "size=3072k" in found["/dev/shm"]
    assert "size=2048k" in found["/run"]
    assert "size=1024k" in found["/var/cache"]
    assert "size=32768k" in found["/var/cache/app"]
    assert one.file("/tmp/kept") == "from the image"
    assert owners(one, "/run/app", "/var/cache/app") == ["app:app 750 /run/app", "root:root 1777 /var/cache/app"]
    assert one.runs("dd if=/dev/zero of=/dev/shm/x bs=1M count=2")
    assert not one.runs("dd if=/dev/zero of=/dev/shm/x bs=1M count=4")
    # Off means on the disk.
    assert one.runs("echo still here >/tmp/new")
    one.stop()
    one.start()
    assert one.file("/tmp/new") == "still here\n"


@pytest.mark.any_lxd
def test_volumes_are_hidden_by_no_tmpfs_and_keep_their_data(launch: Launch) -> None:
    one = launch("volumes").ready()
    assert set(one.tmpfs()) == {"/dev/shm"}
    assert owners(one, "/data/db", "/tmp/keep", "/run/state") == [
        "root:root 755 /data/db", "root:root 755 /tmp/keep", "root:root 755 /run/state",
    ]  # fmt: skip
    assert one.runs("for f in /data/db /tmp/keep /run/state; do echo kept >$f/x; done")
    one.stop()
    one.start()
    assert one.shell("cat /data/db/x /tmp/keep/x /var/run/state/x") == "kept\n" * 3


def test_disks_attached_at_or_below_stay_visible(launch: Launch, folder: Path) -> None:
    one = launch(
        devices={"a": disk(folder, "/tmp/x"), "b": disk(folder, "/run"), "c": disk(folder, "/srv/deep/er")}
    ).ready()
    for path in ("/tmp/x/mine", "/run/mine", "/srv/deep/er/mine"):
        assert one.file(path) == "attached"
    assert one.file("/tmp/kept") == "from the image"
    assert one.runs("echo x >/tmp/new && echo x >/dev/shm/new")


def test_a_disk_attached_later_is_visible(launch: Launch, folder: Path) -> None:
    one = launch().ready()
    one.device("add", "late", "disk", f"source={folder}", "path=/tmp/late")
    assert one.file("/tmp/late/mine") == "attached"
    one.stop()
    one.start()
    assert one.file("/tmp/late/mine") == "attached"


@pytest.mark.any_lxd
def test_a_full_tmp_does_not_break_the_rest(launch: Launch) -> None:
    one = launch("settled", script="trap 'echo ended well; exit 0' TERM; echo up; while :; do sleep 0.1; done",
                 config={"user.lxdocker.restart": "always"})  # fmt: skip
    one.log_with("up")
    assert not one.runs("dd if=/dev/zero of=/run/full bs=64k")
    assert not one.runs("dd if=/dev/zero of=/dev/shm/full bs=64k")
    assert not one.runs("dd if=/dev/zero of=/dev/full-too bs=64k")  # where the runtime has its own state
    assert one.runs(f"kill -KILL {wait_until('the application', one.app_pid)}")
    one.log_with("(restart 1)")
    wait_until("the next run", lambda: one.log().count("up\n") == 2)
    one.stop()
    assert "ended well" in one.log()


def test_what_fills_a_tmpfs_hurts_nobody_else(launch: Launch) -> None:
    one = launch(config={"limits.memory": "64MiB"}).ready()
    app = one.app_pid()
    for folder in ("/tmp", "/run", "/dev/shm"):
        done, said = one.exec("/busybox-lxd", "dd", "if=/dev/zero", f"of={folder}/full", "bs=64k", "count=3200")
        assert (done, "No space left on device" in said) == (1, True), said
    assert one.app_pid() == app


def test_what_docker_mounts_is_there(launch: Launch) -> None:
    """Also where the host has control groups of version 1, which LXD leaves to the instance's init."""
    one = launch(config={"limits.memory": "64MiB"}).ready()
    assert one.runs(
        "[ $(stat -f -c %T /dev/mqueue) = UNKNOWN ] && mkdir /dev/mqueue/x; grep -q ' /dev/mqueue mqueue ' /proc/mounts"
    )
    limits = "memory.max memory/memory.limit_in_bytes"
    assert one.shell(f"cd /sys/fs/cgroup; cat {limits} 2>/dev/null; true").split() == [str(64 << 20)]
    assert one.file("/etc/mtab") == one.file("/proc/mounts")


def test_sysctls_are_dockers_or_what_the_instance_says(launch: Launch) -> None:
    names = "net/ipv4/ip_forward net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range"
    one = launch().ready()
    highest = one.shell("awk '{ print $1 + $3 - 1 }' /proc/self/gid_map | sort -n | tail -n 1").strip()
    assert one.shell(f"cd /proc/sys; cat {names}").split() == ["0", "0", "0", highest]
    command = "/lxd-gosu", "1000", "/busybox-lxd", "timeout", "0.2", "nc", "-l", "-p", "80"
    assert one.exec(*command)[0] in {124, 143}
    wanted = {"net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "5 6"}
    raw = ["lxc.sysctl.net.ipv4.ip_unprivileged_port_start = 1024"]
    try:
        one = launch(
            config={f"linux.sysctl.{name}": value for name, value in wanted.items()} | {"raw.lxc": "\n".join(raw)}
        )
    except AssertionError as error:
        if "LXC config: linux.sysctl" not in str(error):  # a fault of 5.21.4 and 6.5, and later ones
            raise
        raw += [f"lxc.sysctl.{name} = {value}" for name, value in wanted.items()]
        one = launch(config={"raw.lxc": "\n".join(raw)})
    one.ready()
    assert one.shell(f"cd /proc/sys; cat {names}").split() == ["1", "1024", "5", "6"]


def test_device_nodes_of_the_image(launch: Launch) -> None:
    one = launch("jail")
    log = one.log_with("written")
    assert "lxdocker: /jail/dev/sda is an empty file here: the image has device 8:0 there" in log
    assert one.shell("cd /jail/dev; stat -c '%F %t:%T %a %u:%g %n' *").splitlines() == [
        "character special file 1:3 666 0:0 null", "regular empty file 0:0 660 0:0 sda",
        "character special file 1:9 444 0:7 urandom",
    ]  # fmt: skip
    assert one.shell("stat -c '%a %u:%g' /") == "755 0:0\n"
    assert one.runs("[ $(head -c 99 /jail/dev/urandom | wc -c) = 99 ] && [ ! -s /jail/dev/null ]")


@pytest.mark.any_lxd
def test_a_read_only_root(launch: Launch) -> None:
    """What the application writes must be below a tmpfs or a disk; all of the runtime works without."""
    root = {"root": {"type": "disk", "path": "/", "pool": "default", "readonly": "true"}}
    one = launch(script="touch /x; echo x >/tmp/new && cat /tmp/kept /tmp/new; exec sleep 100000", devices=root)
    log = one.log_with("from the image")
    assert "touch: /x: Read-only file system" in log
    assert set(one.tmpfs()) == {"/dev/shm", "/tmp", "/run"}
    assert not [line for line in log.splitlines() if line.startswith("lxdocker: ")]
    one.stop()
