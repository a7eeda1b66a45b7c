"""The network: every kind of interface and address, servers that are slow, gone, or change their mind."""

from __future__ import annotations

import ipaddress
import random
import re
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
    number: int

    @property
    def own(self) -> str:
        return f"198.18.{self.number}.1"

    @property
    def prefix(self) -> str:
        """Of its IPv6 addresses, if it has any."""
        return f"fd42:4c58:4454:{self.number:x}:"

    def address(self, number: int) -> str:
        return str(ipaddress.ip_interface(self.own + "/24").network[number])

    def nic(self, name: str = "eth0", **more: str) -> dict[str, str]:
        return {"type": "nic", "network": self.name, "name": name, **more}

    def server(self, number: int = 50, **fields: object) -> dhcp.Dhcp:
        """Offers address ``number``, a router and DNS."""
        options = {dhcp.ROUTER: dhcp.addresses(self.own), dhcp.DNS: dhcp.addresses(self.own)}
        given: dict[str, Any] = {"options": options, **fields}
        return dhcp.Dhcp(self.name, self.own, self.address(number), **given)


def make_bridge(*config: str, ipv6: bool = False) -> Bridge:
    """In the range for measurements between networks (RFC 2544), which nobody's machine is in."""
    unused = (number for number in random.sample(range(1, 256), 255) if not is_routed(f"198.18.{number}.0/24"))
    made = Bridge(f"lxdt{uuid.uuid4().hex[:8]}", next(unused))
    config += (f"ipv6.address={made.prefix}:1/64", "ipv6.nat=false") if ipv6 else ("ipv6.address=none",)
    config = ("ipv4.nat=false", *([] if "ipv4.address=none" in config else [f"ipv4.address={made.own}/24"]), *config)
    Lxc()("network", "create", made.name, *config)
    return made


def is_routed(network: str) -> bool:
    command = ["ip", "-4", "route", "show", "table", "all", "root", network]
    return bool(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    made = make_bridge("ipv4.dhcp=false")
    yield made
    Lxc()("network", "delete", made.name)


@pytest.fixture(scope="module")
def other_bridge() -> Iterator[Bridge]:
    """With LXD's own DHCP, and router advertisements."""
    made = make_bridge("dns.domain=lxd.test", ipv6=True)
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


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_another_name(launch: Launch, bridge: Bridge) -> None:
    with bridge.server():
        one = launch(devices={"nic": bridge.nic("wan-0.1")})
        until_address(one, bridge.address(50), "wan-0.1")


@pytest.mark.any_lxd
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


def test_what_lxd_has_configured_stays(launch: Launch, bridge: Bridge) -> None:
    """No client, no wait, and the instance's name is at that address."""
    script = "hostname -i; ip -4 route; echo up; exec sleep 100000"
    routed = {
        "type": "nic", "nictype": "routed", "name": "eth0",
        "ipv4.address": "198.51.100.7", "ipv6.address": f"{bridge.prefix}:7",
    }  # fmt: skip
    given = bridge.address(77)
    with bridge.server() as server:
        boxes = [
            launch(script=script, devices={"eth0": routed}),
            launch(script=script, devices={"eth0": bridge.nic()},
                   config={"raw.lxc": f"lxc.net.0.ipv4.address = {given}/24"}),
        ]  # fmt: skip
        for one, address, route in zip(boxes, ("198.51.100.7", given), ("default via 169.254.0.1", given), strict=True):
            log = one.log_with("up")
            assert address in lines(log, "^[0-9.]+$")
            assert lines(log, route)
            assert not lines(log, "^lxdocker: ")
            assert "udhcpc" not in one.shell("ps")
        assert f"{bridge.prefix}:7/128" in boxes[0].shell("ip -6 -o addr show eth0 scope global")
        assert server.heard == []


@pytest.mark.any_lxd
def test_what_an_application_makes_of_interfaces_is_its_own(launch: Launch) -> None:
    one = launch().ready()
    assert one.runs("ip link add br7 type bridge && ip addr add 192.0.2.1/24 dev br7 && ip link set br7 up")
    one.device("add", "eth3", "nic", "nictype=p2p", "name=eth3")
    wait_until("a client for the other", lambda: "udhcpc -f" in one.shell("ps"))
    assert "192.0.2.1/24" in one.shell("ip -4 -o addr show br7")
    assert lines(one.shell("ps"), r"udhcpc .* br7") == []


# ---- servers


@pytest.mark.any_lxd
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
    bridge = make_bridge("ipv4.dhcp=false")
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


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_a_router_outside_the_subnet(launch: Launch, bridge: Bridge) -> None:
    """As providers of virtual machines have it: a mask of 32 bits."""
    options = {dhcp.MASK: dhcp.addresses("255.255.255.255"), dhcp.ROUTER: dhcp.addresses(bridge.own)}
    with bridge.server(options=options):
        one = launch(devices={"eth0": bridge.nic()}).ready()
        wait_until("a route", lambda: default_routes(one) == [f"default via {bridge.own} dev eth0"])
        assert one.runs(f"ping -c 1 -W 5 {bridge.own}")


@pytest.mark.any_lxd
@pytest.mark.parametrize("sent", ["TERM", "HUP", "USR2", "KILL"])
def test_signals_to_everything_leave_the_network_as_it_is(launch: Launch, bridge: Bridge, sent: str) -> None:
    """As clean-up traps and health checks send them. What SIGKILL ends, PID 1 or the client's keeper starts again."""
    ignoring = "trap : TERM HUP USR2; echo ready; while :; do sleep 1; done"
    with bridge.server() as server:
        one = launch(script=ignoring, devices={"eth0": bridge.nic()}, config={"user.lxdocker.restart": "always"})
        one.log_with("ready")
        client = "cat /dev/.lxd-udhcpc.eth0 2>/dev/null || true"
        first, address = one.shell(client), one.shell("ip -4 -o addr show eth0; ip -4 route")
        assert bridge.address(50) in address
        if sent == "KILL":
            assert one.runs(f"kill -KILL $({client})")
        else:
            one.exec("/busybox-lxd", "sh", "-c", f"trap '' {sent}; kill -{sent} -1")
        if sent != "HUP":
            wait_until("another client", lambda: one.shell(client) not in {"", first})
        assert one.shell("ip -4 -o addr show eth0; ip -4 route") == address
        # It asks for what it had, and is in charge of it.
        server.options[dhcp.DNS] = dhcp.addresses("192.0.2.9")
        wait_until("another lease", lambda: server.kinds().count(dhcp.REQUEST) >= (1 if sent == "HUP" else 2))
        assert one.runs(f"kill -USR1 $({client})")
        wait_until("the new resolver", lambda: one.file("/etc/resolv.conf") == "nameserver 192.0.2.9\n")
        assert one.shell("ip -4 -o addr show eth0; ip -4 route") == address
        assert (dhcp.RELEASE in server.kinds()) == (sent == "USR2")
        if sent == "HUP":
            # The lease is given back when the instance ends, and the client does not take another.
            assert one.runs("_bb=/busybox-lxd _lib=/lxd-lib; . $_lib/network.sh; release_network; ! has_lease")
            wait_until("the release", lambda: server.kinds()[-1] == dhcp.RELEASE)


# ---- what the instance says


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_several_static_addresses_and_those_that_can_t_be_used(
    launch: Launch, bridge: Bridge, other_bridge: Bridge
) -> None:
    """All can be used at once, also IPv6; what can't be is named, and its interface configured by DHCP."""
    own = f"{other_bridge.prefix}:70"
    config = {
        "user.lxdocker.network": f"eth0 {other_bridge.address(70)}/24; eth0 {own}/64;"
        "eth1 10.0.0.5; eth7 10.0.0.6/24; eth0",
        "user.lxdocker.dns": "192.0.2.53 192.0.2 search example.org",
    }
    with bridge.server():
        one = launch(script=f"httpd -p '[{own}]:8080' && echo bound; ip -4 -o addr; echo up; exec sleep 100000",
                     config=config, devices={"eth0": other_bridge.nic(), "eth1": bridge.nic("eth1")})  # fmt: skip
        log = one.log_with("up")
    assert lines(log, "^bound$")
    assert f"eth0    inet {other_bridge.address(70)}/24" in log
    assert f"eth1    inet {bridge.address(50)}/24" in log
    said = [line.removeprefix("lxdocker: user.lxdocker.") for line in lines(log, "^lxdocker: ")]
    assert [re.split(" is ignored| is not the|: no interface", line)[0] for line in said] == [
        "network: 'eth1 10.0.0.5'", "network: 'eth7 10.0.0.6/24'", "network: 'eth0'", "dns: '192.0.2'"]  # fmt: skip
    assert one.file("/etc/resolv.conf").splitlines() == ["search example.org", "nameserver 192.0.2.53"]


@pytest.mark.any_lxd
def test_the_network_takes_nothing_from_the_environment(launch: Launch, bridge: Bridge) -> None:
    """But the three variables that are meant for it."""
    config = {f"environment.{name}": value for name, value in {
        "mtu": "1000", "search": "bad.example", "staticroutes": "0.0.0.0/0 192.0.2.1", "_net": "/tmp", "family": "6",
    }.items()}  # fmt: skip
    with bridge.server():
        one = launch(config=config, devices={"eth0": bridge.nic()}).ready()
        until_address(one, bridge.address(50))
        wait_until("the resolver", lambda: one.file("/etc/resolv.conf") == f"nameserver {bridge.own}\n")
        assert one.shell("cat /sys/class/net/eth0/mtu").strip() == "1500"
        assert default_routes(one) == [f"default via {bridge.own} dev eth0"]


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
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


# ---- the instance's own name


@pytest.mark.any_lxd
def test_the_own_name_leads_to_the_address(launch: Launch, bridge: Bridge, tmp_path: Path) -> None:
    """Of every lease, and after the instance was renamed, or imported under another name."""
    with bridge.server() as server:
        one = launch(script="hostname -i; echo up; exec sleep 100000", devices={"eth0": bridge.nic()})
        assert lines(one.log_with("up"), "^[0-9.]+$") == [bridge.address(50)]
        assert one.runs("echo '192.0.2.5\tdb' >>/etc/hosts")
        server.offered = bridge.address(51)
        assert one.runs("kill -USR1 $(cat /dev/.lxd-udhcpc.eth0)")
        own = "/lxd-gosu app /busybox-lxd hostname -i"
        wait_until("the new address", lambda: one.shell(own).split() == [bridge.address(51)])
        one.stop()
        archive = tmp_path / "instance.tar"
        one("export", str(archive), "--compression", "none")
        names = [f"{one.name}-renamed", f"{one.name}-imported"]
        one.rename(names[0])
        imported = Box.imported(one, str(archive), names[1])
        imported.set(volatile__eth0__hwaddr="")  # or it has the other's, which newer LXDs refuse
        try:
            for each in (one, imported):
                each.start()
                each.ready()
                until_address(each, bridge.address(51))
                assert each.shell(own).split() == [bridge.address(51)]
                hosts = each.file("/etc/hosts")
                assert lines(hosts, "^[0-9.]+\t(?!localhost)") == [
                    f"{bridge.address(51)}\t{each.name}",
                    "192.0.2.5\tdb",
                ]
                assert each.file("/etc/hostname") == f"{each.name}\n"
                each.stop()
        finally:
            imported.delete()


# ---- IPv6, forwarding


@pytest.mark.any_lxd
@pytest.mark.parametrize("stateful", ["true", "false"])
def test_ipv6_alone(launch: Launch, stateful: str) -> None:
    """Address by DHCPv6 or by router advertisement, and the name server: the application does not start before."""
    bridge = make_bridge(f"ipv6.dhcp.stateful={stateful}", "ipv4.address=none", ipv6=True)
    try:
        nic = bridge.nic(**({"ipv6.address": f"{bridge.prefix}:77"} if stateful == "true" else {}))
        script = "ip -6 -o addr show eth0 scope global; cat /etc/resolv.conf /etc/hosts; echo up; exec sleep 100000"
        one = launch(script=script, devices={"eth0": nic})
        log = one.log_with("up")
        (own,) = re.findall(rf"inet6 ({bridge.prefix}\S*)/", log)
        assert stateful == "false" or own == f"{bridge.prefix}:77"
        assert f"nameserver {bridge.prefix}:1" in log
        assert f"{own}\t{one.name}" in log
        assert not lines(log, "^lxdocker: no address")
        one.device("remove", "eth0")
    finally:
        Lxc()("network", "delete", bridge.name)


@pytest.mark.any_lxd
def test_ipv6_by_router_advertisement(launch: Launch, other_bridge: Bridge) -> None:
    one = launch(devices={"eth0": other_bridge.nic()}).ready()
    found = wait_until(
        "an address", lambda: lines(one.shell("ip -6 -o addr show eth0 scope global"), other_bridge.prefix)
    )
    assert "/64" in found[0]
    wait_until("a route", lambda: "default via fe80::" in one.shell("ip -6 route"))
    wait_until("an answer", lambda: one.runs(f"ping -6 -c 1 -W 2 {other_bridge.prefix}:1"))


@pytest.mark.any_lxd
def test_forwarding_is_off(launch: Launch, other_bridge: Bridge) -> None:
    one = launch(devices={"eth0": other_bridge.nic()}).ready()
    names = "ipv4/ip_forward ipv4/conf/eth0/forwarding ipv6/conf/all/forwarding ipv6/conf/eth0/forwarding"
    assert one.shell(f"cd /proc/sys/net; cat {names}").split() == ["0"] * 4


# ---- the resolver file


@pytest.mark.any_lxd
def test_a_resolver_file_that_is_a_link(launch: Launch, bridge: Bridge) -> None:
    with bridge.server():
        one = launch("linked-resolver", devices={"eth0": bridge.nic()}).ready()
        wait_until("the resolver", lambda: one.file("/etc/resolv.conf") == f"nameserver {bridge.own}\n")


@pytest.mark.any_lxd
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


@pytest.mark.any_lxd
def test_a_lease_is_renewed_lost_and_replaced(hour: Future[None]) -> None:
    hour.result(timeout=120)
