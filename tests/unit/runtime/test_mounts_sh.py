"""What the kernel is told for the instance, and how large its temporary filesystems are."""

from __future__ import annotations

import subprocess
import urllib.parse
from pathlib import Path

import pytest

from lxdocker.config.spec import Behaviour
from lxdocker.runtime import render
from lxdocker.source.oci import OciConfig
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces

SOURCE = "LXDOCKER_SOURCE_ONLY=1\n. /sbin/init\n. /lxd-image\nread_instance_settings /lxd-instance\n"
FORWARDING = "net/ipv4/ip_forward"
FORWARDING6 = "net/ipv6/conf/all/forwarding"
PORTS = "net/ipv4/ip_unprivileged_port_start"
PING = "net/ipv4/ping_group_range"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root.make(tmp_path / "root")
    subprocess.run(["tar", "-xpC", made.path], input=render.runtime_tar(0), check=True, timeout=30)
    (made / "lxd-image").write_bytes(render.render_config(OciConfig(), Behaviour()))
    (made / "sbin").mkdir()
    (made / "init").rename(made / "sbin/init")
    made.write("/lxd-instance")
    return made


def out(root: Root, script: str, before: str = "") -> str:
    done = root.run("/busybox-lxd", "sh", "-c", SOURCE + script, before=before)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- sysctls


def sysctls(root: Root, before: str = "", **settings: str) -> dict[str, str]:
    root.write("/lxd-instance", "".join(f"{key}={urllib.parse.quote(value)}\n" for key, value in settings.items()))
    names = (FORWARDING, FORWARDING6, PORTS, PING)
    found = out(root, "set_sysctls; cd /proc/sys; cat " + " ".join(names).replace("cat ", '"$_bb" cat '), before)
    return dict(zip(names, (line.replace("\t", " ") for line in found.splitlines()), strict=True))


FORWARDS = f"echo 1 >proc/sys/{FORWARDING}; echo 1 >proc/sys/{FORWARDING6}"
DOCKERS = {FORWARDING: "0", FORWARDING6: "0", PORTS: "0", PING: "0 2147483647"}


def test_what_docker_sets_is_set(root: Root) -> None:
    assert sysctls(root, FORWARDS) == DOCKERS


@pytest.mark.parametrize("setting", ["sysctls", "raw_sysctls"])
@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["net.ipv4.ip_forward"], {FORWARDING: "1"}),
        (["kernel.x", "net/ipv4/ip_forward"], {FORWARDING: "1"}),
        (["net.ipv4.conf.all.forwarding"], {FORWARDING: "1"}),
        (["net.ipv4.conf.eth0/1.forwarding", "net.ipv6.conf.all.forwarding"], {FORWARDING: "1", FORWARDING6: "1"}),
        (["net.ipv6.conf.default.forwarding"], {FORWARDING6: "1"}),
        (["net.ipv4.ip_unprivileged_port_start"], {PORTS: "1024"}),
        (["net.ipv4.ping_group_range"], {PING: "1 0"}),
        (["net.ipv4.ip_forward_use_pmtu", "*", "net.ipv6.conf.all.disable_ipv6"], {}),
    ],
)
def test_what_a_person_has_set_stays(root: Root, setting: str, names: list[str], kept: dict[str, str]) -> None:
    """Also where it is what the kernel has anyway."""
    assert sysctls(root, FORWARDS, **{setting: "".join(f"{name}\n" for name in names)}) == {**DOCKERS, **kept}


def test_the_highest_group_is_the_maps(root: Root) -> None:
    """With holes, in any order."""
    root.write("/map", "      5000     105000      10\n         0     100000       1000\n")
    assert out(root, "highest_group", "mount --bind map proc/1/gid_map") == "5009\n"


# ---- tmpfs

SIZE = '"$_bb" df -k "$1" | "$_bb" awk \'NR == 2 { print $2 }\''
LIMITS = "mount -t tmpfs tmpfs sys/fs/cgroup"


def size(root: Root, options: str, before: str) -> int:
    return int(out(root, f"mount_tmpfs /run {options}; set -- /run; {SIZE}", before))


@pytest.mark.parametrize(
    ("limit", "kib"),
    [
        ("echo 104857600 >sys/fs/cgroup/memory.max", 25600),
        ("echo max >sys/fs/cgroup/memory.max; echo 52428800 >sys/fs/cgroup/memory.high", 12800),
        ("mkdir sys/fs/cgroup/memory; echo 209715200 >sys/fs/cgroup/memory/memory.limit_in_bytes", 51200),
        ("echo MemTotal: 4096 kB >meminfo; mount --bind meminfo proc/meminfo", 1024),
        ("echo MemTotal: 4096 kB >meminfo; mount --bind meminfo proc/meminfo; mkdir sys/fs/cgroup/memory; "
         "echo 9223372036854771712 >sys/fs/cgroup/memory/memory.limit_in_bytes", 1024),
    ],
)  # fmt: skip
def test_percent_are_of_what_the_instance_may_use(root: Root, limit: str, kib: int) -> None:
    assert size(root, "mode=755,size=25%", f"{LIMITS}; {limit}") == kib


def test_a_size_is_a_size(root: Root) -> None:
    assert size(root, "mode=755,size=3m", LIMITS) == 3072


def test_many_empty_files_are_no_way_around_it(root: Root) -> None:
    script = "mount_tmpfs /run mode=755,size=25%; cd /run; i=0\n"
    script += "while command : >f$i; do i=$((i + 1)); done 2>/dev/null; echo $i"
    assert 1000 < int(out(root, script, f"{LIMITS}; echo 8388608 >sys/fs/cgroup/memory.max")) < 2000
