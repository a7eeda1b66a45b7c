"""What a DHCP lease does to a machine: the script on a real interface, in a network namespace of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lxdocker.runtime import render
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces

SCRIPT = "/lxd-udhcpc-default.script"
LEASE = {
    "interface": "eth0",
    "ip": "10.1.2.3",
    "mask": "24",
    "broadcast": "10.1.2.255",
    "router": "10.1.2.1",
    "dns": "10.1.2.1",
    "domain": "lan",
}
INTERFACES = """
ip link set lo up
ip link add eth0 type veth peer name peer0
ip link add eth1 type veth peer name peer1
for one in peer0 peer1 eth1; do ip link set $one up; done
{more}
"""
# Each change of a route, from when the first of these is seen until the last one is.
MONITOR = """
ip -4 -o monitor route >monitored &
until [ -s monitored ]; do ip route add blackhole 192.0.2.1; ip route del blackhole 192.0.2.1; sleep 0.1; done
"""
MONITORED = """
ip route add blackhole 192.0.2.2
until grep -q 192.0.2.2 monitored; do sleep 0.1; done
ip route del blackhole 192.0.2.2
"""
LOOK = """
printf '\\n--- state\\n'
ip -j -4 addr show
ip -j -4 route show
ip -j link show eth0
"""


@dataclass
class After:
    """The machine after a lease."""

    status: int
    said: str
    links: list[dict[str, Any]]
    routes: list[dict[str, Any]]
    eth0: dict[str, Any]

    def addresses(self, interface: str = "eth0") -> list[str]:
        return [
            f"{address['local']}/{address['prefixlen']}"
            for link in self.links
            if link.get("ifname") == interface
            for address in link["addr_info"]
        ]

    @property
    def defaults(self) -> list[str]:
        """Default routes, best first."""
        found = [route for route in self.routes if route["dst"] == "default"]
        found.sort(key=lambda route: route.get("metric", 0))
        return [f"{route['gateway']} {route['dev']}" for route in found]

    @property
    def others(self) -> set[str]:
        return {f"{one['dst']} {one.get('gateway', '-')}" for one in self.routes if one["dst"] != "default"}


class Machine:
    """A root filesystem with the script, whose /etc stays between leases."""

    def __init__(self, path: Path) -> None:
        self.root = Root.make(path)
        self.root.write(SCRIPT, render.UDHCPC_WRAPPER.read_bytes(), 0o755)
        self.root.write(f"{SCRIPT}.real", render.UDHCPC.read_bytes())
        for part in render.LIB.iterdir():
            self.root.write(f"/lxd-lib/{part.name}", part.read_bytes())

    def lease(self, *events: str, before: str = "", **variables: str) -> After:
        """Calls the script with one event after the other (bound, if none is named), as udhcpc would."""
        return self.leases(*((event, {**LEASE, **variables}) for event in events or ("bound",)), before=before)

    def leases(self, *calls: tuple[str, Mapping[str, str]], before: str = "", after: str = "") -> After:
        script = "status=0\n"
        arguments: list[str] = []
        for event, variables in calls:
            words = [f"{name}={value}" for name, value in variables.items() if value]
            numbers = range(len(arguments) + 1, len(arguments) + len(words) + 1)
            arguments += words
            quoted = " ".join(f'"${{{number}}}"' for number in numbers)
            script += f"/busybox-lxd env -i {quoted} {SCRIPT} {event} </dev/null || status=$?\n"
        done = self.root.run(
            *("/busybox-lxd", "sh", "-c", script + "exit $status", "sh", *arguments),
            before=INTERFACES.format(more=before),
            after=after + LOOK,
        )
        said, _, state = done.stdout.partition("\n--- state\n")
        links, routes, (eth0,) = map(json.loads, state.splitlines())
        return After(done.returncode, said + done.stderr, links, routes, eth0)

    @property
    def changed_defaults(self) -> list[str]:
        """What has happened to default routes, between MONITOR and MONITORED."""
        lines = [" ".join(line.split()) for line in (self.root / "monitored").read_text().splitlines()]
        return [line.removesuffix(" scope link") for line in lines if "default" in line]

    @property
    def resolver(self) -> list[str]:
        return (self.root / "etc/resolv.conf").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


# ---- address


def test_a_lease_sets_address_route_and_resolver(machine: Machine) -> None:
    after = machine.lease("deconfig", "bound")
    assert (after.status, after.said) == (0, "")
    assert after.addresses() == ["10.1.2.3/24"]
    assert after.defaults == ["10.1.2.1 eth0"]
    assert after.others == {"10.1.2.0/24 -"}
    assert "UP" in after.eth0["flags"]
    assert machine.resolver == ["search lan", "nameserver 10.1.2.1"]


def test_a_renewal_leaves_everything_as_it_is(machine: Machine) -> None:
    before, after = machine.lease("deconfig", "bound"), machine.lease("deconfig", "bound", "renew")
    assert (after.status, after.said) == (0, "")
    assert after.routes == before.routes
    assert after.addresses() == before.addresses() == ["10.1.2.3/24"]


def test_another_address_replaces_the_one_before(machine: Machine) -> None:
    moved = {**LEASE, "ip": "10.1.9.9", "router": "10.1.9.1"}
    after = machine.leases(("deconfig", LEASE), ("bound", LEASE), ("renew", moved))
    assert after.addresses() == ["10.1.9.9/24"]
    assert after.defaults == ["10.1.9.1 eth0"]


def test_without_a_lease_there_is_no_address(machine: Machine) -> None:
    after = machine.lease("deconfig", "bound", "deconfig")
    assert after.addresses() == []
    assert after.defaults == []
    assert "UP" in after.eth0["flags"]


@pytest.mark.parametrize("event", ["leasefail", "nak", "unheard-of", ""])
def test_other_events_change_nothing(machine: Machine, event: str) -> None:
    after = machine.lease("deconfig", "bound", event or '""')
    assert after.status == 0
    assert after.addresses() == ["10.1.2.3/24"]


def test_the_servers_mtu_is_used(machine: Machine) -> None:
    assert machine.lease("deconfig", "bound", mtu="1400").eth0["mtu"] == 1400
    assert machine.lease("deconfig", "bound").eth0["mtu"] == 1500


def test_no_route_to_the_subnet_where_the_user_wants_none(machine: Machine) -> None:
    after = machine.lease("deconfig", "bound", LXDOCKER_UDHCPC_NOPREFIXROUTE="1", router="")
    assert after.addresses() == ["10.1.2.3/24"]
    assert after.others == set()


# ---- routes


def test_several_routers_are_tried_in_their_order(machine: Machine) -> None:
    assert machine.lease("deconfig", "bound", router="10.1.2.1 10.1.2.254").defaults == [
        "10.1.2.1 eth0",
        "10.1.2.254 eth0",
    ]


def test_a_router_outside_of_the_subnet_can_be_reached(machine: Machine) -> None:
    """As hosting providers have it: a /32 and a gateway elsewhere."""
    after = machine.lease("deconfig", "bound", mask="32", router="10.9.9.9")
    assert after.defaults == ["10.9.9.9 eth0"]
    assert "10.9.9.9 -" in after.others


def test_static_routes_come_instead_of_the_router(machine: Machine) -> None:
    """RFC 3442."""
    routes = "0.0.0.0/0 10.1.2.200 192.168.0.0/16 10.1.2.201 172.16.5.0/24 0.0.0.0"
    after = machine.lease("deconfig", "bound", staticroutes=routes)
    assert after.defaults == ["10.1.2.200 eth0"]
    assert after.others == {"10.1.2.0/24 -", "192.168.0.0/16 10.1.2.201", "172.16.5.0/24 -"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask": "32", "router": "10.9.9.9"},
        {"router": "10.1.2.1 10.1.2.254"},
        {"staticroutes": "0.0.0.0/0 10.1.2.200 192.168.0.0/16 10.1.2.201"},
        {"staticroutes": "0.0.0.0/0 0.0.0.0"},
        {"interface": "eth1"},
    ],
)
def test_a_renewal_interrupts_nothing(machine: Machine, options: dict[str, str]) -> None:
    lease = {**LEASE, **options}
    after = machine.leases(("deconfig", lease), ("bound", lease), ("renew", lease), before=MONITOR, after=MONITORED)
    assert len(machine.changed_defaults) == len([one for one in after.routes if one["dst"] == "default"]) > 0


def test_other_routers_take_the_place_of_those_before(machine: Machine) -> None:
    """At no moment is there no route."""
    leases = [{**LEASE, "router": routers} for routers in ("10.1.2.1 10.1.2.2", "10.1.2.3", "10.1.2.4 10.1.2.5", "")]
    machine.leases(("deconfig", LEASE), *(("renew", lease) for lease in leases), before=MONITOR, after=MONITORED)
    assert machine.changed_defaults == [
        "default via 10.1.2.1 dev eth0",
        "default via 10.1.2.2 dev eth0 metric 1",
        "default via 10.1.2.3 dev eth0",
        "Deleted default via 10.1.2.2 dev eth0 metric 1",
        "default via 10.1.2.4 dev eth0",
        "default via 10.1.2.5 dev eth0 metric 1",
        "Deleted default via 10.1.2.4 dev eth0",
        "Deleted default via 10.1.2.5 dev eth0 metric 1",
    ]


def test_no_default_route_where_the_user_wants_none(machine: Machine) -> None:
    after = machine.lease("deconfig", "bound", UDHCPC_NO_DEFAULT_ROUTE="1")
    assert after.defaults == []
    assert after.others == {"10.1.2.0/24 -"}
    assert machine.resolver == ["search lan", "nameserver 10.1.2.1"]


def test_the_first_interface_is_the_way_out(machine: Machine) -> None:
    second = {**LEASE, "interface": "eth1", "ip": "10.5.5.5", "router": "10.5.5.1", "dns": "10.5.5.1"}
    for calls in ((("bound", second), ("bound", LEASE)), (("bound", LEASE), ("bound", second))):
        after = machine.leases(("deconfig", LEASE), *calls)
        assert after.defaults == ["10.1.2.1 eth0", "10.5.5.1 eth1"]
        assert after.addresses("eth1") == ["10.5.5.5/24"]


# ---- resolver


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"dns": "1.1.1.1 9.9.9.9"}, ["search lan", "nameserver 1.1.1.1", "nameserver 9.9.9.9"]),
        ({"search": "a.example b.example"}, ["search a.example b.example", "nameserver 10.1.2.1"]),
        ({"domain": ""}, ["nameserver 10.1.2.1"]),
        ({"dns": "fd00::1"}, ["search lan", "nameserver fd00::1"]),
    ],
)
def test_servers_and_domains(machine: Machine, variables: dict[str, str], expected: list[str]) -> None:
    machine.lease("deconfig", "bound", **variables)
    assert machine.resolver == expected
    assert (machine.root / "etc/resolv.conf").stat().st_mode & 0o777 == 0o644


def test_every_interfaces_servers_are_there_once(machine: Machine) -> None:
    second = {**LEASE, "interface": "eth1", "ip": "10.5.5.5", "dns": "10.5.5.1 10.1.2.1", "domain": "other"}
    machine.leases(("deconfig", LEASE), ("bound", LEASE), ("bound", second), ("renew", LEASE))
    assert machine.resolver == ["search lan other", "nameserver 10.1.2.1", "nameserver 10.5.5.1"]


def test_the_instances_own_servers_need_no_lease(machine: Machine) -> None:
    machine.leases(("dns", {"interface": "static", "dns": "9.9.9.9", "search": "mine"}), ("bound", LEASE))
    assert machine.resolver == ["search mine", "nameserver 9.9.9.9"]  # and not those of the lease beside them


@pytest.mark.parametrize("variables", [{"UDHCPC_NO_DNS": "1"}, {"dns": ""}])
def test_the_images_resolver_stays_where_there_is_no_other(machine: Machine, variables: dict[str, str]) -> None:
    machine.root.write("etc/resolv.conf", "nameserver 8.8.8.8\n")
    after = machine.lease("deconfig", "bound", **variables)
    assert machine.resolver == ["nameserver 8.8.8.8"]
    assert after.addresses() == ["10.1.2.3/24"]


@pytest.mark.parametrize("target", ["/run/systemd/resolve/stub-resolv.conf", "../outside", "/etc/other"])
def test_a_link_is_replaced_and_not_followed(machine: Machine, target: str) -> None:
    other = machine.root.write("etc/other", "untouched")
    (machine.root / "etc/resolv.conf").symlink_to(target)
    machine.lease("deconfig", "bound")
    assert machine.resolver == ["search lan", "nameserver 10.1.2.1"]
    assert not (machine.root / "etc/resolv.conf").is_symlink()
    assert other.read_text() == "untouched"


def test_a_mounted_resolver_is_written_into(machine: Machine) -> None:
    mounted = machine.root.write("mounted", "nameserver 8.8.8.8\nand a long line more\n")
    machine.root.write("etc/resolv.conf")
    after = machine.lease("deconfig", "bound", before="mount --bind mounted etc/resolv.conf")
    assert (after.status, after.said) == (0, "")
    assert mounted.read_text().splitlines() == ["search lan", "nameserver 10.1.2.1"]
    assert [path.name for path in (machine.root / "etc").iterdir()] == ["resolv.conf"]


@pytest.mark.parametrize(
    ("events", "expected"),
    [(["deconfig", "bound"], ["search lan", "nameserver 10.1.2.1"]), ([], ["nameserver 8.8.8.8"])],
    ids=["lease", "none"],
)
def test_what_was_hidden_is_written_again(machine: Machine, events: list[str], expected: list[str]) -> None:
    """By a tmpfs that was filled before the lease came; and where none came there is nothing to write."""
    words = " ".join(f"{name}='{value}'" for name, value in LEASE.items())
    script = "; ".join([
        *(f"{words} {SCRIPT} {event}" for event in events),
        "/busybox-lxd mkdir -p /etc; echo nameserver 8.8.8.8 >/etc/resolv.conf",
        f"{SCRIPT} refresh",
    ])  # fmt: skip
    done = machine.root.run("/busybox-lxd", "sh", "-c", script, before=INTERFACES.format(more=""))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert machine.resolver == expected


def test_a_resolver_that_can_t_be_written_is_named_and_the_rest_is_done(machine: Machine) -> None:
    machine.root.write("etc/resolv.conf", "nameserver 8.8.8.8\n")
    after = machine.lease(
        *("deconfig", "bound"),
        before="mount --bind etc/resolv.conf etc/resolv.conf; mount -o remount,ro,bind etc/resolv.conf",
    )
    assert after.status == 0
    assert after.said.strip() == "lxdocker: /etc/resolv.conf can't be written; DNS is as the image has it"
    assert machine.resolver == ["nameserver 8.8.8.8"]
    assert after.addresses() == ["10.1.2.3/24"]
    assert after.defaults == ["10.1.2.1 eth0"]


def test_an_image_without_etc(machine: Machine) -> None:
    machine.lease("deconfig", "bound")
    assert machine.resolver == ["search lan", "nameserver 10.1.2.1"]


# ---- a hostile server


@pytest.mark.parametrize(
    "word",
    ["$(touch /canary)", "`touch /canary`", ";touch${IFS}/canary", "x\nnameserver 6.6.6.6", "'\"", "x;y&z|", "\x1b[2J"],
)
def test_nothing_a_server_says_is_run_or_written_as_it_is(machine: Machine, word: str) -> None:
    after = machine.lease("deconfig", "bound", dns=f"10.1.2.1 {word}", search=f"good {word}", domain=word)
    assert not (machine.root / "canary").exists()
    assert after.addresses() == ["10.1.2.3/24"]
    text = (machine.root / "etc/resolv.conf").read_text()
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._: \n-")
    assert "nameserver 10.1.2.1" in text.splitlines()
    assert text.splitlines()[0].split()[:2] == ["search", "good"]
    assert all(line.split()[0] in {"search", "nameserver"} for line in text.splitlines())


@pytest.mark.parametrize("variable", ["ip", "mask", "broadcast", "router", "staticroutes", "mtu"])
def test_nonsense_instead_of_addresses_does_no_harm(machine: Machine, variable: str) -> None:
    nonsense = ["$(touch /canary)", "`touch /canary`", "1 dev lo; touch /canary", "*", "-h", "10.1.2.3\n"]
    machine.leases(*(("bound", {**LEASE, variable: value}) for value in nonsense))
    assert not (machine.root / "canary").exists()
    assert machine.resolver == ["search lan", "nameserver 10.1.2.1"]


def test_file_names_are_not_taken_for_words(machine: Machine) -> None:
    """udhcpc runs in the root, and a lease may hold a star."""
    machine.root.write("10.1.2.66")
    after = machine.lease("deconfig", "bound", dns="10.* 10.1.2.1", search="?us* lan")
    assert machine.resolver == ["search us lan", "nameserver 10.", "nameserver 10.1.2.1"]
    assert after.defaults == ["10.1.2.1 eth0"]
