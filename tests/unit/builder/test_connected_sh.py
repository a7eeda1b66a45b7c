"""Commands that wait for a builder's way to its image."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lxdocker.builder.recipe import CONNECTED, NOT_CONNECTED
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces
COMMAND = ("/bin/busybox", "sh", "-c", "echo ran >/ran; echo failed >&2; exit 3")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root.make(tmp_path / "builder", "/bin/busybox")
    made.write("/etc/placeholder")
    return made


def connected(
    root: Root, way: str, *, seconds: int = 0, inside: str = ":", outside: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the script; ``inside`` goes on beside it, in the builder, and ``outside`` in its namespaces only."""
    waiting = ("/bin/busybox", "sh", "-c", CONNECTED.read_text(), "connected", str(seconds), way, *COMMAND)
    return root.run("/bin/busybox", "sh", "-c", f'{{ {inside}; }} & exec "$@"', "sh", *waiting, before=outside)


def ran(root: Root, done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the command ran, and then its status and words have come through."""
    if not (root / "ran").exists():
        assert done.returncode == NOT_CONNECTED
        return False
    assert (done.returncode, done.stderr) == (3, "failed\n")
    return True


def test_nothing_is_waited_for_where_nothing_is_needed(root: Root) -> None:
    assert ran(root, connected(root, "none"))


def test_a_lease_that_is_there(root: Root) -> None:
    root.write("/etc/resolv.conf", "nameserver 10.0.0.1\n")
    assert ran(root, connected(root, "lease"))


def test_a_lease_that_comes_in_time(root: Root) -> None:
    later = "/bin/busybox usleep 300000; echo nameserver >/etc/resolv.conf"
    assert ran(root, connected(root, "lease", seconds=10, inside=later))


@pytest.mark.parametrize("content", [None, ""])
def test_a_lease_that_never_comes(root: Root, content: str | None) -> None:
    if content is not None:
        root.write("/etc/resolv.conf", content)
    assert not ran(root, connected(root, "lease", seconds=1))


def listener(address: str, seconds: float = 0) -> str:
    """For the host's shell: something that listens at port 5000, 0x1388."""
    script = f"import socket, time; time.sleep({seconds}); "
    script += f"s = socket.create_server(({address!r}, 5000), family=socket.AF_INET{'6' if ':' in address else ''}); "
    return f"ip link set lo up; {sys.executable} -c {shlex.quote(script + 'time.sleep(60)')} &"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_where_something_listens_soon(root: Root, address: str) -> None:
    assert ran(root, connected(root, "port:1388", seconds=10, outside=listener(address, 0.3)))


@pytest.mark.parametrize("way", ["lease,port:1388", "port:1388,lease"])
def test_all_parts_of_a_way_are_waited_for(root: Root, way: str) -> None:
    assert not ran(root, connected(root, way, seconds=1, outside=listener("127.0.0.1")))
    later = "/bin/busybox usleep 300000; echo nameserver >/etc/resolv.conf"
    assert ran(root, connected(root, way, seconds=10, inside=later, outside=listener("127.0.0.1")))


@pytest.mark.parametrize("port", ["1389", "138", "388"])
def test_another_port_is_none(root: Root, port: str) -> None:
    assert not ran(root, connected(root, f"port:{port}", seconds=1, outside=listener("127.0.0.1")))
