"""The builders' network, as LXD and this host's firewall have it."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence

from lxdocker import log
from lxdocker.doctor import nftables
from lxdocker.doctor.finding import Finding, NotExamined
from lxdocker.doctor.nftables import Packet, Ruleset
from lxdocker.doctor.subject import Subject
from lxdocker.files.seen import exists
from lxdocker.http import url as urls
from lxdocker.lxd.connection import WHOLE
from lxdocker.serve import hostnames

CONNECT_SECONDS = 1.5
DHCP_PORT, DNS_PORT = 67, 53
_COMMAND_SECONDS = 5


def bridge(subject: Subject) -> Iterator[Finding]:
    """DHCP and NAT of the bridge that builders join."""
    lxd, name = subject.lxd(), _bridge_name(subject)
    if not name or not subject.needs_network():
        return
    found = lxd.get("networks", name, what=f"reading network {name}")
    if not found["managed"] or found["type"] != "bridge":
        return  # somebody else's to configure
    config = found["config"]
    if config.get("ipv4.address", "none") == "none" or config.get("ipv4.dhcp") == "false":
        yield Finding(
            "bridge-without-dhcp",
            f"network {name} gives no addresses to builders",
            "it has no IPv4 address, or its DHCP is off",
            f"lxc network set {name} ipv4.address=auto ipv4.dhcp=true, or name another in the setting `network`",
        )
    elif config.get("ipv4.nat") != "true":
        yield Finding(
            "bridge-without-nat",
            f"network {name} has no NAT",
            "builders reach registries only if your router knows the way back to it",
            f"lxc network set {name} ipv4.nat=true, unless its addresses are routed",
        )


def _bridge_name(subject: Subject) -> str:
    nic = subject.placement().nic or {}
    return nic.get("network") or nic.get("parent") or ""


# ---- firewalls


def _rules() -> list[list[str]]:
    """This host's iptables rules, as words. Raises NotExamined."""
    if os.geteuid() != 0:
        raise NotExamined("only root sees the rules of iptables: run lxdocker doctor as root")
    argv = ["iptables", "-S"]
    log.command(argv)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotExamined("iptables does not answer") from error
    if done.returncode:
        raise NotExamined(f"iptables -S: {done.stderr.strip()[:200]}")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def forwarding(subject: Subject) -> Iterator[Finding]:
    """Whether this host's firewall lets through what comes from the bridge. Docker's does not."""
    subject.local_lxd()
    name = _bridge_name(subject)
    if not name or not subject.needs_network():
        return
    rules = _rules()
    if is_blocked(rules, name):
        yield _by_iptables(rules, name)
    else:
        yield from by_nftables(nftables.read(), name)


def by_nftables(ruleset: Ruleset, bridge: str) -> Iterator[Finding]:
    """Whether a chain certainly stops what builders send to registries, or to LXD's DHCP and DNS on this host."""
    packets = (
        ("forward", Packet("tcp", urls.PORTS["https"], bridge), "to registries"),
        ("input", Packet("udp", DHCP_PORT, bridge), "to LXD's DHCP"),
        ("input", Packet("udp", DNS_PORT, bridge), "to LXD's DNS"),
    )
    for hook, packet, where in packets:
        if chain := ruleset.stops(hook, packet):
            do = f"nft insert rule {chain} iifname {bridge} accept"
            if hook == "forward":
                do += f" && nft insert rule {chain} oifname {bridge} ct state established,related accept"
            if chain.table == "firewalld":
                do = f"firewall-cmd --permanent --zone=trusted --change-interface={bridge} && firewall-cmd --reload"
            what = f"this host's firewall drops what builders on {bridge} send {where}"
            yield Finding("bridge-blocked", what, f"nftables' chain {chain} lets nothing from the bridge through", do)
            return


def _by_iptables(rules: Sequence[Sequence[str]], name: str) -> Finding:
    if ["-N", "DOCKER-USER"] in rules:
        do = (
            f"iptables -I DOCKER-USER -i {name} -j ACCEPT && iptables -I DOCKER-USER -o {name} -m conntrack"
            " --ctstate RELATED,ESTABLISHED -j ACCEPT"
        )
        why = "Docker has set the policy of iptables' chain FORWARD to DROP, and DOCKER-USER does not accept the bridge"
    else:
        do = f"with ufw: ufw route allow in on {name} && ufw route allow out on {name}; else accept it in FORWARD"
        why = "the policy of iptables' chain FORWARD is DROP, and no rule accepts the bridge"
    return Finding("bridge-blocked", f"this host's firewall drops what builders on {name} send", why, do)


def is_blocked(rules: Sequence[Sequence[str]], bridge: str) -> bool:
    """Whether iptables' rules (``-S``, as words) forward nothing from a bridge."""
    if ["-P", "FORWARD", "DROP"] not in [list(rule) for rule in rules]:
        return False
    chains, seen = ["FORWARD"], set()
    while chains:
        chain = chains.pop()
        if chain in seen:
            continue
        seen.add(chain)
        for rule in rules:
            if list(rule[:2]) != ["-A", chain] or not _is_about(rule, bridge) or "-j" not in rule:
                continue
            target = rule[rule.index("-j") + 1]
            if target == "ACCEPT" and not {"--ctstate", "-d", "-s", "-p"} & set(rule):
                return False
            chains.append(target)
    return True


def _is_about(rule: Sequence[str], bridge: str) -> bool:
    if "-i" not in rule:
        return "-o" not in rule
    at = rule.index("-i")
    return fnmatch.fnmatchcase(bridge, re.sub(r"\+$", "*", rule[at + 1])) != (rule[at - 1] == "!")


def port_80(subject: Subject) -> Iterator[Finding]:
    """Whether plain HTTP, which LXD tries first for each file, is refused at once; or dropped, and LXD hangs."""
    settings = subject.settings
    http, https = urls.PORTS["http"], urls.PORTS["https"]
    is_server = settings.tls_cert or (settings.tls_dir and exists(settings.tls_dir / "server.crt"))
    # At any other port, it is the server itself that refuses plain HTTP.
    if is_server and int(settings.listen.rpartition(":")[2]) == https:
        address = next((one for one in hostnames.host_addresses() if not one.is_loopback), None)
        if address and (_hangs(str(address), http) or _is_dropped(http)):
            do = f"iptables -I INPUT -p tcp --dport {http} -j REJECT, or the same in your firewall's own words"
            yield _dropped(f"this host ({address})", do)
    for host in _followed(subject):
        if _hangs(host, http):
            yield _dropped(host, "on its firewall, reject port 80 instead of dropping it")


def _dropped(where: str, do: str) -> Finding:
    what = f"{where} drops connections to port 80"
    why = "LXD tries plain HTTP first for each file of an image, and waits for minutes"
    return Finding("port-80-dropped", what, why, do)


def _followed(subject: Subject) -> set[str]:
    """The servers on port 443 that this host's LXD gets images from."""
    try:
        images = subject.lxd().get("images", what="listing images", project=subject.settings.project, params=WHOLE)
    except NotExamined:
        return set()
    sources = (image.get("update_source") or {} for image in images)
    parsed = (urls.parse(str(one.get("server"))) for one in sources if one.get("protocol") == "simplestreams")
    return {str(url.host) for url in parsed if url and url.host and url.port in {None, 443}}


def _hangs(host: str, port: int) -> bool:
    try:
        socket.create_connection((host.strip("[]"), port), CONNECT_SECONDS).close()
    except TimeoutError:
        return True
    except OSError:
        pass
    return False


def _is_dropped(port: int) -> bool:
    """Whether the firewall drops what comes to a port from elsewhere: from here, everything is let through."""
    try:
        rules, ruleset = _rules(), nftables.read()
    except NotExamined:
        return False
    if ruleset.stops("input", Packet("tcp", port), ("drop",)):
        return True
    if ["-P", "INPUT", "DROP"] not in rules:
        return False
    about = [rule for rule in rules if rule[0] == "-A" and str(port) in rule]
    return not any(rule[-1] == "ACCEPT" or "REJECT" in rule for rule in about) and not any(
        rule[:2] == ["-A", "INPUT"] and "REJECT" in rule and "--dport" not in rule for rule in rules
    )
