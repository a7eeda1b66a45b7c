"""A DHCP server (RFC 2131) that says what a test wants it to say, or nothing, for as long as it wants."""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Self

SO_NO_CHECK = 11
NONE = "0.0.0.0"  # noqa: S104 - no address
MAGIC = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK, NAK, RELEASE = 1, 2, 3, 5, 6, 7
MASK, ROUTER, DNS, HOSTNAME, DOMAIN, BROADCAST = 1, 3, 6, 12, 15, 28
REQUESTED, LEASE, KIND, SERVER, SEARCH, ROUTES = 50, 51, 53, 54, 119, 121


def addresses(*texts: str) -> bytes:
    return b"".join(socket.inet_aton(text) for text in texts)


def routes(*pairs: tuple[str, str]) -> bytes:
    """RFC 3442: destinations with their gateways."""
    found = b""
    for destination, gateway in pairs:
        network = ipaddress.ip_network(destination)
        found += bytes([network.prefixlen]) + network.network_address.packed[: (network.prefixlen + 7) // 8]
        found += addresses(gateway)
    return found


def domains(*names: str) -> bytes:
    """RFC 3397, without compression."""
    return b"".join(b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0" for name in names)


@dataclass
class Dhcp:
    """On one bridge. ``lease`` is in seconds; busybox takes 16 for anything less."""

    bridge: str
    own: str  # the server's address
    offered: str
    lease: int = 3600
    options: dict[int, bytes] = field(default_factory=dict)
    answers: bool = True
    heard: list[tuple[int, dict[int, bytes]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.bridge.encode())
        self._socket.bind(("", 67))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join(10)
        self._socket.close()

    def kinds(self) -> list[int]:
        """The kinds of messages it was sent."""
        return [kind for kind, _ in self.heard]

    def _serve(self) -> None:
        while not self._ending.is_set():
            if select.select([self._socket], [], [], 0.1)[0]:
                packet, _ = self._socket.recvfrom(4096)
                self._take(packet)

    def _take(self, packet: bytes) -> None:
        if len(packet) < 240 or packet[236:240] != MAGIC:
            return
        options = {}
        at = 240
        while at < len(packet) and packet[at] != 255:
            if packet[at] == 0:
                at += 1
                continue
            options[packet[at]] = packet[at + 2 : at + 2 + packet[at + 1]]
            at += 2 + packet[at + 1]
        kind = options.get(KIND, b"\0")[0]
        self.heard.append((kind, options))
        if not self.answers or kind not in (DISCOVER, REQUEST):
            return
        client = packet[12:16]  # what it already uses, when it renews
        wanted = options.get(REQUESTED, client)
        if kind == REQUEST and wanted != addresses(self.offered):
            self._send(packet, NAK, {}, NONE, "255.255.255.255")
            return
        answer = {LEASE: struct.pack(">I", self.lease), MASK: addresses("255.255.255.0"), **self.options}
        to = socket.inet_ntoa(client) if client != b"\0\0\0\0" else "255.255.255.255"
        self._send(packet, OFFER if kind == DISCOVER else ACK, answer, self.offered, to)

    def _send(self, packet: bytes, kind: int, options: dict[int, bytes], yours: str, to: str) -> None:
        body = b"\2" + packet[1:4] + packet[4:8] + packet[8:12] + packet[12:16]
        body += addresses(yours, self.own) + packet[24:28] + packet[28:44] + bytes(192) + MAGIC
        for code, value in {KIND: bytes([kind]), SERVER: addresses(self.own), **options}.items():
            body += bytes([code, len(value)]) + value
        self._socket.sendto(body + b"\xff", (to, 68))
