"""What this host's nftables do with a packet, as far as that is certain; libnftables-json(5).

Every base chain of a hook has to let a packet through, so one that drops it decides, whatever LXD's own table says.
Whether a rule fits may depend on what is not known here, such as addresses: then both is possible, and nothing certain.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lxdocker import log
from lxdocker.doctor.finding import NotExamined

_COMMAND_SECONDS = 5
_FAMILIES = ("ip", "inet")
_ENDS = ("accept", "drop", "reject", "return")
NOT_OF_IT = ""  # the value of what a packet does not have: no comparison with it is true, not even !=
_HARMLESS = ("counter", "log", "comment", "mangle", "notrack")


@dataclass(frozen=True, slots=True)
class Packet:
    """The first of a connection."""

    protocol: str  # 'tcp' or 'udp'
    port: int  # that it goes to
    came_in: str | None = None  # by this interface; None for any but the loopback


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain, or one that others jump to."""

    family: str
    table: str
    name: str
    hook: str | None
    policy: str
    rules: tuple[Sequence[Mapping[str, Any]], ...]  # of each rule, its statements

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All tables."""

    chains: Mapping[tuple[str, str, str], Chain] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Ruleset:
        """What ``nft --json list ruleset`` prints. Raises ValueError."""
        items = json.loads(text)["nftables"]
        rules: dict[tuple[str, str, str], list[Sequence[Mapping[str, Any]]]] = {}
        for rule in (item["rule"] for item in items if "rule" in item):
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule["expr"])
        chains = {}
        for one in (item["chain"] for item in items if "chain" in item):
            key = (one["family"], one["table"], one["name"])
            hook = one.get("hook") if one.get("type") == "filter" else None
            chains[key] = Chain(*key, hook, one.get("policy", "accept"), tuple(rules.get(key, ())))
        return cls(chains)

    def stops(self, hook: str, packet: Packet, how: Sequence[str] = ("drop", "reject")) -> Chain | None:
        """The base chain that certainly stops a packet in one of these ways."""
        for chain in self.chains.values():
            if chain.hook == hook and chain.family in _FAMILIES:
                ends = {chain.policy if end == "return" else end for end in self._ends(chain, packet)}
                if ends <= set(how):
                    return chain
        return None

    def _ends(self, chain: Chain, packet: Packet) -> set[str]:
        """All that may happen to a packet in a chain: verdicts, or ``return``."""
        possible: set[str] = set()
        for statements in chain.rules:
            ends, goes_on = self._rule(chain, statements, packet)
            possible |= ends
            if not goes_on:
                return possible
        return possible | {"return"}

    def _rule(self, chain: Chain, statements: Sequence[Mapping[str, Any]], packet: Packet) -> tuple[set[str], bool]:
        """The verdicts that a rule may give, and whether the next rule may be reached."""
        certain, unknown = True, False
        for statement in statements:
            for kind, value in statement.items():
                if kind == "match":
                    fits = _fits(value, packet)
                    if fits is False:
                        return set(), True
                    certain = certain and fits is True
                elif kind in _ENDS:
                    return {kind}, not certain
                elif kind in {"jump", "goto"}:
                    ends = self._ends(self.chains[chain.family, chain.table, value["target"]], packet)
                    if kind == "jump":
                        return ends - {"return"}, not certain or "return" in ends
                    return ends, not certain
                elif kind == "vmap":  # where to is not followed
                    return {"accept", "drop", "return"}, True
                elif kind not in _HARMLESS:
                    certain = False
                    # A verdict, perhaps: of iptables, which nft does not understand, or of a queue.
                    unknown = unknown or kind != "limit"
        return (set(_ENDS) - {"return"} if unknown else set()), True


def _fits(match: Mapping[str, Any], packet: Packet) -> bool | None:
    """Whether a packet fits; None if that is not known."""
    known = _value(match["left"], packet)
    if not known:
        return None if known is None else False
    wanted = list(_alternatives(match["right"]))
    if None in wanted:
        return None
    if known == "?" and wanted != ["lo"]:  # any interface but the loopback
        return None
    found = any(_is_one(known, str(one)) for one in wanted)
    return found if match["op"] in {"==", "in"} else not found


def _value(left: Mapping[str, Any], packet: Packet) -> str | None:
    if "meta" in left:
        key = left["meta"]["key"]
        if key in {"iifname", "iif"}:
            return packet.came_in or "?"
        return {"l4proto": packet.protocol, "nfproto": "ipv4"}.get(key)
    if "ct" in left:
        return "new" if left["ct"]["key"] == "state" else None
    if "payload" in left:
        payload = left["payload"]
        if payload.get("field") == "dport" and payload.get("protocol") in {"tcp", "udp", "th"}:
            return str(packet.port) if payload["protocol"] in {packet.protocol, "th"} else NOT_OF_IT
        if payload.get("protocol") == "ip" and payload.get("field") == "protocol":
            return packet.protocol
        if payload.get("protocol") in {"icmp", "icmpv6", "ip6", "udp", "tcp"} - {packet.protocol}:
            return NOT_OF_IT
    return None


def _alternatives(right: object) -> Iterator[object]:
    """Of which one has to fit; None for what is not understood."""
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    for one in right if isinstance(right, list) else [right]:
        if isinstance(one, dict) and "range" in one:
            low, high = one["range"]
            yield f"{low}-{high}" if str(low).isdigit() and str(high).isdigit() else None
        else:
            yield one if isinstance(one, str | int) and not str(one).startswith("@") else None


def _is_one(known: str, wanted: str) -> bool:
    low, dash, high = wanted.partition("-")
    if dash and low.isdigit() and high.isdigit():
        return known.isdigit() and int(low) <= int(known) <= int(high)
    return fnmatch.fnmatchcase(known, wanted)


def read() -> Ruleset:
    """This host's; an empty one where it has no nftables. Raises NotExamined."""
    if os.geteuid() != 0:
        raise NotExamined("only root sees the rules of nftables: run lxdocker doctor as root")
    argv = ["nft", "--json", "list", "ruleset"]
    log.command(argv)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except FileNotFoundError:
        return Ruleset()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotExamined("nft does not answer") from error
    if done.returncode:
        raise NotExamined(f"nft list ruleset: {done.stderr.strip()[:200]}")
    try:
        return Ruleset.parse(done.stdout)
    except (ValueError, KeyError, TypeError) as error:
        raise NotExamined("what nft says is not understood") from error
