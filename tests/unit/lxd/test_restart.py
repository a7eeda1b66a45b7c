"""What was under way when LXD was restarted is done once more, and only that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lxdocker.errors import BuildError, HostError, LxdError, LxdockerError
from lxdocker.lxd import restart
from lxdocker.lxd.api import Cancelled, Lxd
from lxdocker.lxd.restart import Watch
from lxdocker.lxd.websocket import BrokenError

BROKEN = BrokenError("building web failed", "LXD broke off: closed before its end")
REFUSED = LxdError("creating builder failed", "no such pool")


class Restarting:
    """An LXD as a watch sees it. ``looks``: its process ids, one for each look; None while it does not answer."""

    def __init__(self, *looks: int | None) -> None:
        self.looks = list(looks)
        self.cancelled = threading.Event()
        self.daemon = SimpleNamespace(product="LXD")

    def process(self, *, anew: bool = False) -> int:
        found = (self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]) if anew else 1
        if found is None:
            raise HostError("LXD is not running")
        return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "SLICE_SECONDS", 0.01)
    monkeypatch.setattr(restart, "AWAY_SECONDS", 0.1)
    monkeypatch.setattr(restart, "LEAVING_SECONDS", 0.1)


def watch(lxd: Restarting) -> tuple[Watch, list[str]]:
    said: list[str] = []
    return Watch(cast("Lxd", lxd), said.append), said


def failing(*errors: LxdockerError) -> tuple[Callable[[], str], list[int]]:
    """What fails so often, and a list of how often it was tried."""
    left, tried = list(errors), list[int]()

    def attempt() -> str:
        tried.append(1)
        if left:
            raise left.pop(0)
        return "done"

    return attempt, tried


@pytest.mark.parametrize("looks", [(2,), (None, None, 2)])
@pytest.mark.parametrize("error", [BROKEN, BuildError("it was killed"), HostError("LXD is not running")])
def test_after_a_restart_it_is_done_once_more(looks: tuple[int | None, ...], error: LxdockerError) -> None:
    watching, said = watch(Restarting(*looks))
    attempt, tried = failing(error)
    assert watching.outlived(attempt) == "done"
    assert len(tried) == 2
    assert said == ["LXD was restarted: doing once more what it has interrupted"]


def test_an_lxd_that_is_about_to_go_is_waited_for() -> None:
    watching, _ = watch(Restarting(1, 1, None, 2))
    assert watching.outlived(failing(LxdError("starting", "LXD is shutting down"))[0]) == "done"


@pytest.mark.parametrize("looks", [(1,), (None, 1)])
def test_other_failures_are_final(looks: tuple[int | None, ...]) -> None:
    watching, said = watch(Restarting(*looks))
    attempt, tried = failing(REFUSED)
    with pytest.raises(LxdError) as caught:
        watching.outlived(attempt)
    assert caught.value is REFUSED
    assert len(tried) == 1
    assert said == []


@pytest.mark.parametrize("looks", [(1,), (1, 1, None, 2)])
def test_a_connection_that_breaks_off_is_tried_again(looks: tuple[int | None, ...]) -> None:
    """LXD may only be about to end."""
    watching, said = watch(Restarting(*looks))
    assert watching.outlived(failing(BROKEN)[0]) == "done"
    assert bool(said) == (len(looks) > 1)


def test_what_fails_again_is_not_tried_a_third_time() -> None:
    watching, _ = watch(Restarting(2))
    attempt, tried = failing(BROKEN, LxdError("again"))
    with pytest.raises(LxdError, match="again"):
        watching.outlived(attempt)
    assert len(tried) == 2


def test_an_lxd_that_stays_away_is_waited_for_once() -> None:
    lxd = Restarting(None)
    watching, _ = watch(lxd)
    for _ in range(2):
        with pytest.raises(LxdError):
            watching.outlived(failing(BROKEN)[0])
    lxd.looks = [2]
    with pytest.raises(LxdError):
        watching.outlived(failing(BROKEN)[0])


def test_each_of_several_threads_does_its_own_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    watching, said = watch(Restarting(2))
    both = threading.Barrier(2)
    results: list[Any] = []

    def work() -> None:
        again, _ = failing(BROKEN)

        def attempt() -> str:
            if not results:
                both.wait(5)
            return again()

        results.append(watching.outlived(attempt))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == ["done", "done"]
    assert len(said) == 1


def test_whoever_asked_to_stop_waits_for_nothing() -> None:
    lxd = Restarting(None)
    watching, _ = watch(lxd)
    lxd.cancelled.set()
    with pytest.raises(LxdError):
        watching.outlived(failing(BROKEN)[0])
    with pytest.raises(Cancelled):
        watching.outlived(failing(Cancelled())[0])
