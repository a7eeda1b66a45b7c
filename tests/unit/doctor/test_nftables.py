"""What nftables certainly stop, with rulesets that the kernel has taken, in a network namespace of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from lxdocker.doctor import network
from lxdocker.doctor.nftables import Packet, Ruleset

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")

HTTPS = Packet("tcp", 443, "lxdbr0")
# What a chain forward holds, and whether it certainly stops what builders send.
FORWARD = {
    "policy accept;": False,
    "policy drop;": True,
    "policy drop; iifname lxdbr0 accept": False,
    'policy drop; iifname "lxd*" accept': False,
    "policy drop; iifname eth0 accept": True,
    "policy drop; iifname != eth0 accept": False,
    "policy drop; iifname { eth0, lxdbr0 } accept": False,
    "policy drop; iifname { eth0, eth1 } accept": True,
    "policy drop; ct state established,related accept": True,
    "policy drop; ct state { new, established } accept": False,
    "policy drop; iifname lxdbr0 tcp dport { 80, 443 } accept": False,
    "policy drop; iifname lxdbr0 tcp dport 400-500 accept": False,
    "policy drop; iifname lxdbr0 tcp dport 22 accept": True,
    "policy drop; iifname lxdbr0 udp dport 443 accept": True,
    "policy drop; ip protocol icmp accept": True,
    "policy drop; meta l4proto tcp accept": False,
    "policy drop; ip saddr 10.0.0.0/8 accept": False,  # which may be the bridge's
    "policy accept; iifname lxdbr0 drop": True,
    "policy accept; iifname lxdbr0 counter log reject": True,
    "policy accept; iifname lxdbr0 limit rate 1/second drop": False,
    "policy accept; ip daddr 10.0.0.0/8 drop": False,
    "policy accept; iifname lxdbr0 jump other": True,
    "policy drop; iifname lxdbr0 jump other; accept": True,
    "policy accept; udp dport != 53 drop": False,
    "policy accept; tcp dport != 53 drop": True,
    "policy drop; jump own": False,
    "policy drop; jump back": True,
    "policy drop; jump back; accept": False,
    "policy drop; goto back; accept": True,
    "policy drop; iifname vmap { lxdbr0 : accept }": False,
    # As firewalld has it: zones by interface, and a default one that rejects.
    "policy accept; ct state established accept; iifname eth0 goto own; goto other": True,
    "policy accept; ct state established accept; iifname lxdbr0 goto own; goto other": False,
}
OTHERS = """
table inet filter {
    chain other {
        reject
    }
    chain own {
        iifname lxdbr0 accept
    }
    chain back {
        return
    }
}
"""


def hooked(hook: str, rules: str, table: str = "inet filter", chain: str = "forward") -> str:
    """A table with one base chain. ``rules``: after its type and hook, each behind a semicolon."""
    body = rules.replace("; ", ";\n").removesuffix(";")
    return f"table {table} {{\nchain {chain} {{\ntype filter hook {hook} priority 0;\n{body};\n}}\n}}\n"


LXDS = hooked("forward", "policy accept; iifname lxdbr0 accept", "inet lxd", "fwd.lxdbr0")


def loaded(rules: str) -> Ruleset:
    """A ruleset as the kernel gives it back."""
    script = "ip link set lo up; nft -f -; exec nft --json list ruleset"
    done = subprocess.run(
        ["unshare", "-n", "sh", "-euc", script], input=rules, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return Ruleset.parse(done.stdout)


@pytest.mark.parametrize(("rules", "blocked"), FORWARD.items())
def test_what_is_forwarded(rules: str, blocked: bool) -> None:
    found = loaded(OTHERS + LXDS + hooked("forward", rules)).stops("forward", HTTPS)
    assert (str(found) if found else None) == ("inet filter forward" if blocked else None)


@pytest.mark.parametrize(
    ("hook", "rules", "where"),
    [
        ("forward", "policy drop", "to registries"),
        ("input", "policy drop", "to LXD's DHCP"),
        ("input", "policy drop; udp dport 67 accept", "to LXD's DNS"),
        ("input", "policy drop; iifname lxdbr0 udp dport { 53, 67 } accept", ""),
        ("output", "policy drop", ""),
    ],
)
def test_what_builders_need(hook: str, rules: str, where: str) -> None:
    found = list(network.by_nftables(loaded(hooked(hook, rules, "ip own", "mine")), "lxdbr0"))
    assert [one.id for one in found] == (["bridge-blocked"] if where else [])
    for one in found:
        assert where in one.what
        assert "nft insert rule ip own mine iifname lxdbr0 accept" in one.do


def test_the_advice_is_right() -> None:
    chain = hooked("forward", "policy drop", "inet own", "mine")
    (finding,) = network.by_nftables(loaded(chain), "lxdbr0")
    advice = finding.do.replace("nft insert", "insert").replace(" && ", "\n")
    assert list(network.by_nftables(loaded(chain + advice + "\n"), "lxdbr0")) == []


@pytest.mark.parametrize(
    ("rules", "dropped"),
    [
        ("policy drop; iifname lo accept", True),
        ("policy drop; iifname lo accept; tcp dport 80 reject", False),
        ("policy drop; tcp dport { 80, 443 } accept", False),
        ("policy drop; tcp dport 443 accept", True),
        ("policy accept; tcp dport 80 drop", True),
        ("policy drop; iifname eth0 accept", False),  # perhaps
    ],
)
def test_a_port_that_others_reach(rules: str, dropped: bool) -> None:
    found = loaded(hooked("input", rules, "inet own", "mine"))
    assert bool(found.stops("input", Packet("tcp", 80), ("drop",))) is dropped


@pytest.mark.parametrize("statement", [{"xt": None}, {"queue": None}])
def test_what_may_be_a_verdict_leaves_nothing_certain(statement: dict[str, None]) -> None:
    """What iptables has made, which nft does not understand; a queue, which not every kernel has."""
    text = json.dumps(
        {
            "nftables": [
                {
                    "chain": {
                        "family": "ip",
                        "table": "filter",
                        "name": "FORWARD",
                        "type": "filter",
                        "hook": "forward",
                        "policy": "drop",
                    }
                },
                {
                    "rule": {
                        "family": "ip",
                        "table": "filter",
                        "chain": "FORWARD",
                        "expr": [statement],
                    }
                },
            ]
        }
    )
    assert Ruleset.parse(text).stops("forward", HTTPS) is None
