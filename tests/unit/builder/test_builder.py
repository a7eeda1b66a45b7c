"""Builders, as far as they can be tested without one: failures explained, owners told apart, devices, versions."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lxdocker.builder import image, instance
from lxdocker.builder.placement import Placement
from lxdocker.errors import BuildError, HostError
from lxdocker.lxd.api import StoredImage
from lxdocker.lxd.command import Result
from tests.chroots import needs_namespaces
from tests.examples import fingerprint

# ---- what a failed command means


@pytest.mark.parametrize(
    ("stderr", "advice"),
    [
        ("write /build/rootfs/x: no space left on device", "the builder's storage pool is full"),
        ("Disk quota exceeded", "the builder's storage pool is full"),
        ("unpack: layer digest mismatch: sha256:…", "the image is damaged at its source"),
        ("unexpected EOF", "the image is damaged at its source"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", "could not reach the registry"),
        ("lookup registry.example: no such host", "could not reach the registry"),
        ("unauthorized: authentication required", "skopeo login"),
        ("requested access to the resource is denied", "skopeo login"),
        ("lchown /etc/shadow: invalid argument", "/etc/subuid"),
        ("something else", "--keep-builder"),
    ],
)
def test_the_usual_failures_come_with_advice(stderr: str, advice: str) -> None:
    error = instance.explain("fetching nginx", Result(1, "", f"time=… level=fatal msg={stderr!r}\n"))
    assert isinstance(error, BuildError)
    assert error.brief == "fetching nginx failed"
    assert stderr in error.details
    assert advice in error.resolution


@pytest.mark.parametrize("status", [137, -9])
@pytest.mark.parametrize(
    ("said", "details"), [("", "it was killed"), ("half a sentence", "half a sentence (it was killed)")]
)
def test_a_killed_command_wants_memory(status: int, said: str, details: str) -> None:
    error = instance.explain("packing nginx", Result(status, "", said))
    assert error.details == details
    assert "builder_memory" in error.resolution


def test_the_last_words_are_kept() -> None:
    error = instance.explain("x", Result(1, "", "first words " + "x" * 5000 + " last words"))
    assert error.details.endswith("last words")
    assert len(error.details) <= 2000
    assert instance.explain("x", Result(1, "on stdout", "")).details == "on stdout"
    assert instance.explain("x", Result(3, "", "")).details == "exit status 3"


# ---- whose builder it is


def test_our_own_builders_are_alive() -> None:
    assert instance.owner() == instance.owner()
    assert instance.is_alive(instance.owner())


def test_the_builders_of_another_running_process_are_alive_until_it_ends() -> None:
    script = "from lxdocker.builder.instance import owner; print(owner(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        mark = other.stdout.readline().strip()
        assert mark != instance.owner()
        assert instance.is_alive(mark)
        other.kill()
    assert not instance.is_alive(mark)


def test_a_process_id_that_came_again_or_another_boot_is_somebody_else() -> None:
    boot, pid, start, namespace, host = instance.owner().split()
    assert instance.is_alive(f"{boot} {pid} {start} {namespace} {host}")
    assert instance.is_alive(f"{boot} {pid} {start} {namespace}")  # as it was written before there were other hosts
    assert not instance.is_alive(f"{boot} {pid} {int(start) - 1} {namespace}")
    assert not instance.is_alive(f"00000000-0000-0000-0000-000000000000 {pid} {start} {namespace}")
    assert not instance.is_alive(f"{boot} {2**30} {start} {namespace}")
    assert not instance.is_alive(f"{boot} {2**70} {start} {namespace}")


IS_ALIVE = "import os, sys; from lxdocker.builder.instance import is_alive, owner; "


@needs_namespaces
@pytest.mark.parametrize(
    ("way", "before"),
    [
        (["--pid", "--fork", "--mount-proc"], ""),
        (["--mount"], "os.system('mount -t proc -o hidepid=2 proc /proc'); os.setgid(65534); os.setuid(65534); "),
    ],
    ids=["another PID namespace", "hidepid"],
)
def test_a_process_that_can_not_be_seen_may_be_alive(way: list[str], before: str) -> None:
    def seen(mark: str) -> str:
        script = f"{IS_ALIVE}{before}print(is_alive(sys.argv[1]))"
        argv = ["unshare", *way, sys.executable, "-c", script, mark]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    mark = instance.owner()
    boot, pid, start, namespace, _host = mark.split()
    assert seen(mark) == "True"
    # Not for ever: no build takes a day.
    day = instance.DAY_SECONDS * os.sysconf("SC_CLK_TCK")
    assert seen(f"{boot} {pid} {int(start) - day} {namespace}") == "False"
    assert seen(f"00000000-0000-0000-0000-000000000000 {pid} {start} {namespace}") == "False"


def test_a_process_of_another_host_may_be_alive_for_a_day() -> None:
    boot, pid, start, namespace, host = instance.owner().split()
    mark = f"{boot} {pid} {int(start) - 1} {namespace} of-another-{host}"
    now = datetime.now(UTC)
    assert instance.is_alive(mark)
    assert instance.is_alive(mark, now - timedelta(hours=23))
    assert not instance.is_alive(mark, now - timedelta(hours=25))


@pytest.mark.parametrize("mark", ["", "x", "a b", "a b c", "a b c d", "a b c d e", "a 1 2 3 b c", "- - - -"])
def test_a_mark_that_says_nothing_is_nobody_s(mark: str) -> None:
    assert not instance.is_alive(mark)


def test_programs_may_be_called_anything(tmp_path: Path) -> None:
    """Field 2 of /proc/PID/stat is the program's name, with whatever is in it."""
    odd = tmp_path / "a) b (c"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "60"]) as process:
        start = instance._start_time(process.pid)
        assert int(start) >= int(instance._start_time(os.getpid()))
        process.kill()


# ---- devices


@pytest.mark.parametrize(("host", "address"), [("127.0.0.2", "tcp:127.0.0.2:80"), ("::1", "tcp:[::1]:80")])
def test_a_place_on_this_host_is_at_the_same_address_in_the_builder(host: str, address: str) -> None:
    assert instance._loopback_device((host, 80)) == {
        "type": "proxy",
        "bind": "instance",
        "listen": address,
        "connect": address,
    }


NIC = {"type": "nic", "network": "lxdbr0"}


def test_a_builder_has_only_the_devices_it_needs() -> None:
    root = {"type": "disk", "path": "/", "pool": "p"}
    cache = {"type": "disk", "pool": "p", "source": "cache", "path": "/cache"}
    placement = Placement("lxdocker", "p", NIC)
    assert placement.devices(network=False, cache=False) == {"root": root}
    assert placement.devices(network=False, cache=True) == {"root": root, "cache": cache}
    assert placement.devices(network=True, cache=True) == {
        "root": root,
        "cache": cache,
        "eth0": {**NIC, "name": "eth0"},
    }


def test_a_network_is_only_missed_by_who_needs_it() -> None:
    placement = Placement("lxdocker", "p", None)
    assert set(placement.devices(network=False, cache=True)) == {"root", "cache"}
    with pytest.raises(HostError) as caught:
        placement.devices(network=True, cache=True)
    assert "lxc network create" in caught.value.resolution


# ---- the builder image's records


def stored_builder(**properties: str) -> StoredImage:
    return StoredImage(fingerprint("builder"), properties, ("builder",), 12_000_000, "")


def test_a_builder_image_is_read_from_its_properties() -> None:
    found = image._parse(
        stored_builder(
            description="lxdocker builder",
            **{
                "lxdocker.builder.built_at": "2026-01-02T03:04:05+00:00",
                "lxdocker.builder.base": "server debian/13",
                "lxdocker.builder.recipe": "abc",
                "lxdocker.builder.skopeo": "1.18.0",
            },
        )
    )
    assert found is not None
    assert found.built_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (found.base, found.scripts_hash, found.size) == ("server debian/13", "abc", 12_000_000)
    assert found.versions == {"skopeo": "1.18.0"}


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"lxdocker.builder.built_at": "2026-01-02T03:04:05+00:00", "lxdocker.builder.base": "x"},
        {"lxdocker.builder.built_at": "now", "lxdocker.builder.base": "x", "lxdocker.builder.recipe": "y"},
    ],
)
def test_an_image_that_lacks_its_records_is_no_builder(properties: dict[str, str]) -> None:
    assert image._parse(stored_builder(**properties)) is None


@pytest.mark.parametrize(("age", "stale"), [(29.9, False), (31, True)])
def test_a_builder_image_becomes_stale(age: float, stale: bool) -> None:
    made = image.BuilderImage(
        fingerprint("b"), datetime.now(UTC) - timedelta(days=age), "base", image.scripts_hash(), {}, 1
    )
    assert (made.stale_reason(30) is not None) == stale


def test_versions_come_from_a_container_and_are_not_trusted() -> None:
    text = (
        "skopeo=1.18.0+ds1-1\numoci=0.4.7\nevil=$(reboot)\nempty=\nno line\nlong=" + "x" * 200 + "\nbusybox=v1.37.0\n"
    )
    assert image._parse_versions(text) == {"skopeo": "1.18.0+ds1-1", "umoci": "0.4.7", "busybox": "v1.37.0"}
