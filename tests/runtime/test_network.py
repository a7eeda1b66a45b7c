"""The network: every kind of interface and address, servers that are slow, gone, or change their mind."""

from __future__ import annotations

import ipaddress
import random
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lxd.rig import Lxc, World
from tests.runtime import dhcp
from tests.runtime.boxes import Box, Stopwatch, lines
from tests.waiting import wait_until

Launch = Callable[..., Box]


@dataclass(frozen=True)
class Bridge:
    """A bridge of LXD's on which nothing answers but the server a test starts."""

    name: str
    own: str

    def address(self, number: int) -> str:
        return str(ipaddress.ip_interface(self.own + "/24").network[number])

    def nic(self, name: str = "eth0", **more: str) -> dict[str, str]:
        return {"type": "nic", "network": self.name, "name": name, **more}

    def server(self, number: int = 50, **fields: object) -> dhcp.Dhcp:
        """Offers address ``number``, a router and DNS."""
        options = {dhcp.ROUTER: dhcp.addresses(self.own), dhcp.DNS: dhcp.addresses(self.own)}
        given: dict[str, Any] = {"options": options, **fields}
        return dhcp.Dhcp(self.name, self.own, self.address(number), **given)


def make_bridge(*config: str) -> Bridge:
    """In the range for measurements between networks (RFC 2544), which nobody's machine is in."""
    name = f"lxdt{uuid.uuid4().hex[:8]}"
    third = next(number for number in random.sample(range(256), 256) if not is_routed(f"198.18.{number}.0/24"))
    Lxc()("network", "create", name, f"ipv4.address=198.18.{third}.1/24", "ipv4.nat=false", *config)
    return Bridge(name, f"198.18.{third}.1")


def is_routed(network: str) -> bool:
    command = ["ip", "-4", "route", "show", "table", "all", "root", network]
    return bool(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    made = make_bridge("ipv4.dhcp=false", "ipv6.address=none")
    yield made
    Lxc()("network", "delete", made.name)


@pytest.fixture(scope="module")
def other_bridge() -> Iterator[Bridge]:
    """With LXD's own DHCP, and router advertisements."""
    made = make_bridge("ipv6.address=fd42:4c58:4454:1::1/64", "ipv6.nat=false", "dns.domain=lxd.test")
    yield made
    Lxc()("network", "delete", made.name)


def until_address(one: Box, address: str, interface: str = "eth0", seconds: float = 30) -> None:
    try:
        wait_until(f"{address} on {interface}", lambda: one.address_on(interface) == address, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{one.log()}") from None


def default_routes(one: Box) -> list[str]:
    return [line.strip() for line in one.shell("ip -4 route show default").splitlines()]


# ---- interfaces


def test_none_at_all(launch: Launch) -> None:
    watch = Stopwatch()
    one = launch(script="echo up; ip -o addr; exec sleep 100000")
    log = one.log_with("up")
    assert watch.seconds < 5
    assert "127.0.0.1/8" in one.log_with("127.0.0.1/8")
    assert not lines(log, "^lxdocker: ")


def test_the_interface_is_configured_before_the_application_starts(launch: Launch, bridge: Bridge) -> None:
    with bridge.server() as server:
        one = launch(script="ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf; exec sleep 100000",
                     devices={"eth0": bridge.nic()})  # fmt: skip
        log = one.log_with("nameserver")
        assert f"inet {bridge.address(50)}/24" in log
        assert f"default via {bridge.own} dev eth0" in log
        assert f"nameserver {bridge.own}" in log
        assert server.heard[0][1][dhcp.HOSTNAME] == one.name.encode()


def test_another_name(launch: Launch, bridge: Bridge) -> None:
    with bridge.server():
        one = launch(devices={"nic": bridge.nic("wan-0.1")})
        until_address(one, bridge.address(50), "wan-0.1")


def test_several(launch: Launch, bridge: Bridge, other_bridge: Bridge) -> None:
    with bridge.server(options={dhcp.DNS: dhcp.addresses("192.0.2.1"), dhcp.DOMAIN: b"one.test"}) as server:
        server.options[dhcp.ROUTER] = dhcp.addresses(bridge.own)
        one = launch(devices={"eth0": bridge.nic(), "eth1": other_bridge.nic("eth1")})
        one.ready()
        until_address(one, bridge.address(50))
        assert ipaddress.ip_address(one.address_on("eth1") or "127.0.0.1") in ipaddress.ip_network(
            other_bridge.own + "/24", strict=False
        )
        # The first is preferred; the resolver has the servers and domains of both.
        wait_until("two routes", lambda: len(default_routes(one)) == 2)
        assert default_routes(one)[0].startswith(f"default via {bridge.own} dev eth0")
        resolver = one.file("/etc/resolv.conf").splitlines()
        assert resolver == ["search one.test lxd.test", "nameserver 192.0.2.1", f"nameserver {other_bridge.own}"]


def test_one_that_comes_later_and_one_that_goes(launch: Launch, bridge: Bridge) -> None:
    one = launch().ready()
    with bridge.server() as server:
        one.device("add", "eth3", "nic", f"network={bridge.name}", "name=eth3")
        until_address(one, bridge.address(50), "eth3")
        one.device("remove", "eth3")
        wait_until("no client", lambda: "udhcpc" not in one.shell("ps"))
        heard = len(server.heard)
        server.offered = bridge.address(51)
        one.device("add", "eth3", "nic", f"network={bridge.name}", "name=eth3")
        until_address(one, bridge.address(51), "eth3")
        assert len(server.heard) > heard
        assert len(lines(one.shell("ps"), "udhcpc -")) == 1


def test_macvlan(launch: Launch, bridge: Bridge) -> None:
    """On the far end of a cable to the bridge: a host does not talk to its own macvlan interfaces."""
    near, far = (f"t{uuid.uuid4().hex[:8]}" for _ in range(2))
    subprocess.run(["ip", "link", "add", near, "type", "veth", "peer", "name", far], check=True)
    try:
        subprocess.run(["ip", "link", "set", near, "master", bridge.name, "up"], check=True)
        subprocess.run(["ip", "link", "set", far, "up"], check=True)
        with bridge.server():
            one = launch(devices={"eth0": {"type": "nic", "nictype": "macvlan", "parent": far, "name": "eth0"}})
            until_address(one, bridge.address(50))
            assert one.runs(f"ping -c 1 -W 5 {bridge.own}")
            one.stop()
    finally:
        subprocess.run(["ip", "link", "delete", near], check=True)


# ---- servers


def test_no_server_at_first(launch: Launch, bridge: Bridge) -> None:
    """The application starts after a bounded wait, and the lease comes when there is one."""
    one = launch(script="echo up $(cut -d. -f1 /proc/uptime); exec sleep 100000", devices={"eth0": bridge.nic()})
    watch = Stopwatch()
    one.log_with("up ")
    assert watch.seconds < 5
    assert one.address_on() is None
    with bridge.server():
        until_address(one, bridge.address(50))  # it asks every ten seconds
        assert default_routes(one) == [f"default via {bridge.own} dev eth0"]


@pytest.fixture(scope="module", autouse=True)
def hour(request: pytest.FixtureRequest, boxes: World) -> Iterator[Future[None] | None]:
    """The story of a lease, beside the other tests: most of it is waiting."""
    if not any(item.name == test_a_lease_is_renewed_lost_and_replaced.__name__ for item in request.session.items):
        yield None
        return
    bridge = make_bridge("ipv4.dhcp=false", "ipv6.address=none")
    one = Box(boxes.lxc, "box", devices={"eth0": bridge.nic()}, start=False)
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(an_hour_without_a_server, one, bridge)
    one.delete()
    Lxc()("network", "delete", bridge.name)


def an_hour_without_a_server(one: Box, bridge: Bridge) -> None:
    """With a lease of 16 s in place of one of an hour."""
    with bridge.server(lease=16) as server:
        one.start()
        until_address(one, bridge.address(50))
        began = Stopwatch()
        # Renewed at half time, without losing the address for a moment.
        wait_until("a renewal", lambda: server.kinds().count(dhcp.REQUEST) >= 2, 20)
        assert began.seconds > 5
        assert one.address_on() == bridge.address(50)
        # Then the server is gone until after the end of the lease: what it gave is no longer used.
        server.answers = False
        wait_until("the end of the lease", lambda: one.address_on() is None, 40)
        wait_until("no route", lambda: default_routes(one) == [])
        # It is back with another mind.
        server.offered = bridge.address(60)
        server.options[dhcp.DNS] = dhcp.addresses("192.0.2.9")
        server.lease = 3600
        server.answers = True
        until_address(one, bridge.address(60))
        wait_until("the new resolver", lambda: one.file("/etc/resolv.conf") == "nameserver 192.0.2.9\n")
        # On a busy machine an answer to an older question may still come, and be overtaken.
        wait_until("one route", lambda: default_routes(one) == [f"default via {bridge.own} dev eth0"])
        wait_until("one address", lambda: len(lines(one.shell("ip -4 -o addr show eth0"), "inet ")) == 1)


def test_a_lease_that_changes_while_it_is_renewed(launch: Launch, bridge: Bridge) -> None:
    with bridge.server() as server:
        one = launch(devices={"eth0": bridge.nic()}).ready()
        until_address(one, bridge.address(50))
        renew = "kill -USR1 $(cat /dev/.lxd-udhcpc.eth0)"
        server.options = {
            dhcp.ROUTER: dhcp.addresses(bridge.address(2)),
            dhcp.DNS: dhcp.addresses("192.0.2.3", "192.0.2.4"),
            dhcp.SEARCH: dhcp.domains("a.test", "b.c.test"),
        }
        assert one.runs(renew)
        wait_until("the new router", lambda: default_routes(one) == [f"default via {bridge.address(2)} dev eth0"])
        wait_until("the new resolver", lambda: one.file("/etc/resolv.conf").splitlines() == [
            "search a.test b.c.test", "nameserver 192.0.2.3", "nameserver 192.0.2.4"])  # fmt: skip
        # Another address: the server refuses the old one.
        server.offered = bridge.address(51)
        assert one.runs(renew)
        until_address(one, bridge.address(51))
        assert len(lines(one.shell("ip -4 -o addr show eth0"), "inet ")) == 1


def test_classless_routes_in_place_of_the_router(launch: Launch, bridge: Bridge) -> None:
    given = dhcp.routes(
        ("198.51.100.0/24", bridge.address(2)),
        ("0.0.0.0/0", bridge.address(3)),
        ("203.0.113.0/25", dhcp.NONE),
    )
    with bridge.server(options={dhcp.ROUTER: dhcp.addresses(bridge.own), dhcp.ROUTES: given}):
        one = launch(devices={"eth0": bridge.nic()}).ready()
        until_address(one, bridge.address(50))
        wait_until("routes", lambda: default_routes(one) == [f"default via {bridge.address(3)} dev eth0"])
        table = one.shell("ip -4 route")
        assert f"198.51.100.0/24 via {bridge.address(2)} dev eth0" in table
        assert lines(table, r"^203\.0\.113\.0/25 dev eth0")


def test_a_router_outside_the_subnet(launch: Launch, bridge: Bridge) -> None:
    """As providers of virtual machines have it: a mask of 32 bits."""
    options = {dhcp.MASK: dhcp.addresses("255.255.255.255"), dhcp.ROUTER: dhcp.addresses(bridge.own)}
    with bridge.server(options=options):
        one = launch(devices={"eth0": bridge.nic()}).ready()
        wait_until("a route", lambda: default_routes(one) == [f"default via {bridge.own} dev eth0"])
        assert one.runs(f"ping -c 1 -W 5 {bridge.own}")


# ---- what the instance says


def test_static_addresses_need_no_server(launch: Launch, bridge: Bridge, other_bridge: Bridge) -> None:
    address, config = bridge.address(70), {
        "user.lxdocker.network": f"eth0 {bridge.address(70)}/24 {bridge.own}; eth1 {other_bridge.address(71)}/25",
        "user.lxdocker.dns": "192.0.2.53 192.0.2.54 search example.org example.net",
    }  # fmt: skip
    watch = Stopwatch()
    one = launch(script="echo up; exec sleep 100000", config=config,
                 devices={"eth0": bridge.nic(), "eth1": other_bridge.nic("eth1")})  # fmt: skip
    one.log_with("up")
    assert watch.seconds < 5
    assert one.address_on() == address
    assert one.address_on("eth1") == other_bridge.address(71)
    assert default_routes(one) == [f"default via {bridge.own} dev eth0"]
    assert one.file("/etc/resolv.conf").splitlines() == [
        "search example.org example.net", "nameserver 192.0.2.53", "nameserver 192.0.2.54"]  # fmt: skip
    assert "udhcpc" not in one.shell("ps")


def test_dns_of_the_instance_beats_that_of_the_lease(launch: Launch, bridge: Bridge) -> None:
    with bridge.server():
        boxes = [
            launch(config={"user.lxdocker.dns": "192.0.2.53", **more}, devices={"eth0": bridge.nic()}).ready()
            for more in ({}, {"environment.UDHCPC_NO_DNS": "1"})
        ]
        for one in boxes:
            until_address(one, bridge.address(50))
            time.sleep(0.5)  # until the lease's would be there
            assert one.file("/etc/resolv.conf") == "nameserver 192.0.2.53\n"


def test_what_of_the_lease_is_not_wanted(launch: Launch, bridge: Bridge) -> None:
    variables = ("LXDOCKER_UDHCPC_NOPREFIXROUTE", "UDHCPC_NO_DEFAULT_ROUTE", "UDHCPC_NO_DNS")
    for number, variable in enumerate(variables):
        with bridge.server(50 + number):
            one = launch(config={f"environment.{variable}": "1"}, devices={"eth0": bridge.nic()}).ready()
            until_address(one, bridge.address(50 + number))
            time.sleep(0.5)  # until the script has ended
            table, resolver = one.shell("ip -4 route"), one.shell("cat /etc/resolv.conf 2>/dev/null; true")
            prefix = lines(table, r"/24 dev eth0")
            assert bool(prefix) == (variable != "LXDOCKER_UDHCPC_NOPREFIXROUTE"), table
            assert bool(lines(table, "^default")) == (variable != "UDHCPC_NO_DEFAULT_ROUTE"), table
            assert ("nameserver" in resolver) == (variable != "UDHCPC_NO_DNS"), resolver


# ---- IPv6, forwarding


def test_ipv6_by_router_advertisement(launch: Launch, other_bridge: Bridge) -> None:
    one = launch(devices={"eth0": other_bridge.nic()}).ready()
    found = wait_until(
        "an address", lambda: lines(one.shell("ip -6 -o addr show eth0 scope global"), "fd42:4c58:4454:1:")
    )
    assert "/64" in found[0]
    wait_until("a route", lambda: "default via fe80::" in one.shell("ip -6 route"))
    wait_until("an answer", lambda: one.runs("ping -6 -c 1 -W 2 fd42:4c58:4454:1::1"))


def test_forwarding_is_off(launch: Launch, other_bridge: Bridge) -> None:
    one = launch(devices={"eth0": other_bridge.nic()}).ready()
    names = "ipv4/ip_forward ipv4/conf/eth0/forwarding ipv6/conf/all/forwarding ipv6/conf/eth0/forwarding"
    assert one.shell(f"cd /proc/sys/net; cat {names}").split() == ["0"] * 4


# ---- the resolver file


def test_a_resolver_file_that_is_a_link(launch: Launch, bridge: Bridge) -> None:
    with bridge.server():
        one = launch("linked-resolver", devices={"eth0": bridge.nic()}).ready()
        wait_until("the resolver", lambda: one.file("/etc/resolv.conf") == f"nameserver {bridge.own}\n")


def test_a_resolver_file_on_a_read_only_root(launch: Launch, bridge: Bridge) -> None:
    root = {"type": "disk", "path": "/", "pool": "default", "readonly": "true"}
    with bridge.server() as server:
        one = launch(devices={"root": root, "eth0": bridge.nic()}).ready()
        wait_until("the resolver", lambda: one.file("/etc/resolv.conf") == f"nameserver {bridge.own}\n")
        server.options[dhcp.DNS] = dhcp.addresses("192.0.2.7")
        assert one.runs("kill -USR1 $(cat /dev/.lxd-udhcpc.eth0)")
        wait_until("the new resolver", lambda: one.file("/etc/resolv.conf") == "nameserver 192.0.2.7\n")
        assert "can't be written" not in one.log()


@pytest.mark.parametrize("readonly", ["true", "false"])
def test_a_resolver_file_that_the_user_has_mounted(
    launch: Launch, bridge: Bridge, tmp_path: Path, readonly: str
) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    mine = tmp_path / "resolv.conf"
    mine.write_text("nameserver 192.0.2.200\n")
    mine.chmod(0o666)
    mount = {"type": "disk", "source": str(mine), "path": "/etc/resolv.conf", "readonly": readonly}
    with bridge.server():
        one = launch(devices={"eth0": bridge.nic(), "resolver": mount}).ready()
        until_address(one, bridge.address(50))
        if readonly == "true":
            one.log_with("lxdocker: /etc/resolv.conf can't be written; DNS is as the image has it")
            assert one.file("/etc/resolv.conf") == "nameserver 192.0.2.200\n"
        else:
            wait_until("the resolver", lambda: one.file("/etc/resolv.conf") == f"nameserver {bridge.own}\n")


# ---- last, since it began first


def test_a_lease_is_renewed_lost_and_replaced(hour: Future[None]) -> None:
    hour.result(timeout=120)
