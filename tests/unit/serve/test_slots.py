"""Who keeps a connection to the server, and who has to go for a newcomer."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lxdocker.serve.slots import FAIR_SECONDS, GOOD_RATE, LOOPBACK, Slot, Slots, client_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("127.0.0.1", "::1", True),
        ("127.0.0.1", "::ffff:127.0.0.2", True),
        ("127.0.0.1", "192.0.2.1", False),
    ],
)
def test_whose_an_address_is(one: str, other: str, same: bool) -> None:
    assert (client_of(one) == client_of(other)) is same


def test_a_proxy_on_this_host_is_many_clients() -> None:
    assert client_of("127.0.0.1") == LOOPBACK
    slots = Slots(100, 2)
    for _ in range(10):
        assert slots.admits(LOOPBACK)
        slots.add(Slot(LOOPBACK))


@pytest.fixture
def ended() -> list[Slot]:
    return []


def taken(slots: Slots, ended: list[Slot], client: str, how: Callable[[Slot], None] = lambda _: None) -> Slot:
    """A connection, some time later."""
    slot = Slot(client)
    slot.end = lambda: ended.append(slot)
    how(slot)
    slots.add(slot)
    return slot


def resting(slot: Slot) -> None:
    slot.begin()
    slot.rest()


def downloading(rate: float, seconds: float = 10) -> Callable[[Slot], None]:
    def begin(slot: Slot) -> None:
        slot.begin()
        slot.since = time.monotonic() - seconds
        slot.count(int(rate * seconds))

    return begin


def test_who_asks_for_nothing_goes_first(ended: list[Slot]) -> None:
    slots = Slots(100, 6)
    order = [
        taken(slots, ended, "a", downloading(GOOD_RATE * 2, FAIR_SECONDS / 2)),  # nobody can tell yet
        taken(slots, ended, "a", downloading(GOOD_RATE / 2)),
        taken(slots, ended, "a", downloading(GOOD_RATE / 3)),
        taken(slots, ended, "a", resting),
        taken(slots, ended, "a"),
    ][::-1]
    good = taken(slots, ended, "a", downloading(GOOD_RATE * 2))
    for count in range(1, 6):
        assert slots.admits("a")
        assert ended == order[:count]
        slots.remove(ended[-1])
        taken(slots, ended, "a", downloading(GOOD_RATE * 2))
    # All are served well: there is no reason to end anybody.
    assert not slots.admits("a")
    assert good not in ended
    assert slots.admits("b")


def test_a_client_with_many_does_not_cost_another_its_own(ended: list[Slot]) -> None:
    slots = Slots(40, 40)
    lone = taken(slots, ended, "good")
    many = [taken(slots, ended, "bad", downloading(1000)) for _ in range(39)]
    assert slots.is_full
    slots.make_room()
    assert ended
    assert lone not in ended
    assert set(ended) <= set(many)
    before = len(ended)
    slots.make_room()  # as long as these are not gone yet, there is no need for more
    assert len(ended) == before
    for one in ended:
        slots.remove(one)
    assert not slots.is_full


def test_where_each_client_has_one_the_least_of_all_goes(ended: list[Slot]) -> None:
    slots = Slots(5, 5)
    for number in range(4):
        taken(slots, ended, f"client {number}", downloading(GOOD_RATE * 2))
    idle = taken(slots, ended, "idle")
    slots.make_room()
    assert ended == [idle]
    slots.remove(idle)
    taken(slots, ended, "one more", downloading(GOOD_RATE * 2))
    slots.make_room()
    assert ended == [idle]
