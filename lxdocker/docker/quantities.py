"""Sizes, durations, ports and names as Docker writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv6Address, ip_address

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmgtKMGT]?)(?:[iI]?[bB])?")
_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})(?:\.[0-9]+)?s)?(?:[0-9]+ms)?")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

_MOST_PORTS = 100  # that are exposed

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def size(text: str) -> str:
    """``512m`` -> ``512MiB``, as LXD takes it: Docker's units are powers of 1024. Raises ValueError."""
    number = _bytes(text)
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while number % 1024 == 0 and len(units) > 1:
        number //= 1024
        del units[0]
    return f"{number}{units[0]}"


def tmpfs_size(text: str) -> str:
    """``64m``, ``67108864``, ``50%`` -> as specs have it. Raises ValueError."""
    if re.fullmatch(r"[1-9][0-9]?%", text):
        return text
    number = _bytes(text)
    units = ["", "k", "m", "g"]
    while number % 1024 == 0 and len(units) > 1:
        number //= 1024
        del units[0]
    return f"{number}{units[0]}" if number < 10**10 else f"{number >> 10}k"


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    number = int(Decimal(found[1]) * 1024 ** " KMGT".index((found[2] or " ").upper())) if found else 0
    if not 0 < number < 1 << 60:
        raise ValueError(f"not a size: {text[:40]!r}")
    return number


def seconds(text: str) -> int:
    """``90``, ``1m30s`` -> seconds, at most a day. Raises ValueError."""
    if re.fullmatch(r"[0-9]{1,6}", text):
        return min(int(text), 86400)
    found = _DURATION.fullmatch(text)
    if not text or not found:
        raise ValueError(f"not a duration: {text[:40]!r}")
    hours, minutes, rest = (int(part or 0) for part in found.groups())
    return min(hours * 3600 + minutes * 60 + rest, 86400)


def duration(text: str) -> float:
    """``1m30s``, ``1.5s``, ``500ms`` -> seconds; 0 where Docker takes its default. Raises ValueError."""
    if not text or not re.fullmatch(r"([0-9]{1,9}(\.[0-9]{1,9})?(h|m|s|ms|us|µs|ns))+|0", text):
        raise ValueError(f"not a duration: {text[:40]!r}")
    parts = re.findall(r"([0-9.]+)(h|ms|us|µs|ns|m|s)", text)
    return min(round(sum(float(number) * _UNITS[unit] for number, unit in parts), 3), 86400.0)


def exposed(text: str) -> list[str]:
    """``80``, ``53/udp``, ``3000-3005`` -> each port with its protocol, as images have them. Raises ValueError."""
    numbers, _, protocol = text.lower().partition("/")
    found = _PORTS.fullmatch(numbers)
    ports = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
    if len(ports) > _MOST_PORTS:
        raise ValueError(f"a spec has no more than {_MOST_PORTS} ports")
    if not ports or ports[0] < 1 or ports[-1] > 65535 or protocol not in {"", "tcp", "udp", "sctp"}:
        raise ValueError(f"not a port: {text[:40]!r}")
    return [f"{number}/{protocol or 'tcp'}" for number in ports]


@dataclass(frozen=True, slots=True)
class Port:
    """A published port, or a range of them."""

    address: str  # of this host
    host: str  # "8080" or "8000-8010"
    container: str
    protocol: str  # tcp or udp
    chosen: bool = True  # False: Docker would have chosen the host's port


def port(text: str) -> Port:
    """``[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]``. Raises ValueError."""
    rest, _, protocol = text.partition("/")
    rest, _, container = rest.rpartition(":")
    address, _, host = rest.rpartition(":") if rest else ("", "", "")
    return make_port(container, host, address, protocol or "tcp", text)


def make_port(container: str, host: str, address: str, protocol: str, text: str) -> Port:
    """Of parts; ``text`` is what messages quote. Raises ValueError."""
    wrong = ValueError(f"not a port: {text[:60]!r}")
    protocol = protocol.lower()
    if protocol not in {"tcp", "udp"}:
        raise ValueError(f"LXD forwards tcp and udp only, not {protocol[:20]!r}")
    first, last = _range(container, wrong)
    if host:
        low, high = _range(host, wrong)
        if high - low != last - first:
            raise wrong
    try:
        found = ip_address(address.strip("[]")) if address else None
    except ValueError:
        raise wrong from None
    where = f"[{found}]" if isinstance(found, IPv6Address) else str(found or "0.0.0.0")  # noqa: S104 - as Docker's
    return Port(where, host or container, container, protocol, bool(host))


def _range(text: str, wrong: ValueError) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    if not found:
        raise wrong
    first = int(found[1])
    last = int(found[2] or first)
    if not 0 < first <= last < 65536:
        raise wrong
    return first, last


def instance_name(text: str) -> str:
    """The name that an instance can have: letters, digits and hyphens, no digit first. "" if nothing is left."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
    return (f"c-{name}" if name[:1].isdigit() else name)[:63].rstrip("-")


def device_name(text: str) -> str:
    """A name for a device, after a path or a port."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "device"
