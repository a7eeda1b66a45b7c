"""Who has the server's connections, and who has to go when there are too many.

A connection costs memory and one of a limited number of slots, and a client that means harm, or knows no better, opens
as many as it can and lets them lie there. So a newcomer is never kept waiting behind such: it gets the slot of whoever
does least with it, of the same client where that has more than its share, else of the one that has most.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from ipaddress import IPv6Address, ip_address

# Whoever takes more than this is well served, and not sent away for a newcomer. Bytes per second.
GOOD_RATE = 64 << 10
# How long a download has to show how fast it is.
FAIR_SECONDS = 5
LOOPBACK = "loopback"
# Of how many slots one is kept free for those to come: ending a connection takes a moment.
SPARE = 20


class Slot:
    """One connection. Its worker's thread writes, the accepting one reads."""

    def __init__(self, client: Hashable) -> None:
        self.client = client
        self.busy = False  # a request is being answered
        self.used = False  # one has been
        self.since = time.monotonic()  # when ``busy`` changed
        self.sent = 0  # bytes of files, since then
        self.leaving = False
        self.end: Callable[[], object] = lambda: None  # ends the connection, soon

    def begin(self) -> None:
        """A request is being answered."""
        self.busy, self.since, self.sent = True, time.monotonic(), 0

    def rest(self) -> None:
        """Nothing is being asked for."""
        self.busy, self.used, self.since = False, True, time.monotonic()

    def count(self, amount: int) -> None:
        """So many more bytes of a file have got away."""
        self.sent += amount

    def worth(self, now: float) -> tuple[int, float]:
        """The least is the first to go: who has asked for nothing yet, then who rests, then the slowest download; the
        longest of them first.
        """
        if not self.busy:
            return (1 if self.used else 0), self.since
        age = now - self.since
        return (3, -age) if age < FAIR_SECONDS else (2, self.sent / age)

    def is_served_well(self, now: float) -> bool:
        age = now - self.since
        return self.busy and age >= FAIR_SECONDS and self.sent / age >= GOOD_RATE


class Slots:
    """All connections there are. ``most``: of all clients; ``per_client``: of each one."""

    def __init__(self, most: int, per_client: int) -> None:
        self.most = most
        self._per_client = per_client
        self._slots: set[Slot] = set()
        self._clients: Counter[Hashable] = Counter()

    def add(self, slot: Slot) -> None:
        self._slots.add(slot)
        self._clients[slot.client] += 1

    def remove(self, slot: Slot) -> None:
        self._slots.discard(slot)
        self._clients[slot.client] -= 1
        if self._clients[slot.client] <= 0:
            del self._clients[slot.client]

    @property
    def is_full(self) -> bool:
        return len(self._slots) >= self.most

    def admits(self, client: Hashable) -> bool:
        """Whether a client may have one more, for which another one of its own may have to go. A proxy on this host is
        many clients.
        """
        if client == LOOPBACK or self._clients[client] < self._per_client:
            return True
        own = [slot for slot in self._slots if slot.client == client]
        staying = sum(not slot.leaving for slot in own)
        return staying < self._per_client or self._end(own, 1) > 0

    def make_room(self) -> None:
        """Ends some connections of the client that has most of them, if newcomers would soon have to wait. Several at
        once, since all of them have to be looked through.
        """
        spare = max(1, self.most // SPARE)
        if len(self._slots) - self._leaving < self.most - spare // 2:
            return
        (client, _), *_ = self._clients.most_common(1)
        own = [slot for slot in self._slots if slot.client == client]
        if not self._end(own, min(spare, len(own) - 1)):
            self._end(self._slots, 1)

    @property
    def _leaving(self) -> int:
        return sum(slot.leaving for slot in self._slots)

    @staticmethod
    def _end(slots: Collection[Slot], count: int) -> int:
        """Ends those who do least with their connections; returns how many."""
        now = time.monotonic()
        idle = [slot for slot in slots if not slot.leaving and not slot.is_served_well(now)]
        victims = heapq.nsmallest(count, idle, key=lambda slot: slot.worth(now))
        for victim in victims:
            victim.leaving = True
            victim.end()
        return len(victims)


def client_of(host: str) -> Hashable:
    """Who an address belongs to: for IPv6 the network, of which one host has all addresses."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return LOOPBACK
    return int(address) >> 64 if isinstance(address, IPv6Address) else str(address)
