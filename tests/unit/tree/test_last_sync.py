"""How long images and syncs have been failing."""

from __future__ import annotations

from pathlib import Path

from lxdocker.tree import last_sync
from lxdocker.tree.last_sync import LastSync


def after(root: Path, moment: float, *failed: str, status: int = 1, named: list[str] | None = None) -> LastSync:
    last_sync.record(root, "a", LastSync(moment, 1, status, frozenset(failed)), named)
    found = last_sync.read(root, "a")
    assert found
    return found


def test_a_failure_keeps_the_time_at_which_it_began(tmp_path: Path) -> None:
    first = after(tmp_path, 100, "web")
    assert (first.since, first.failing_since) == ({"web": 100}, 100)
    # LXD is down: nothing is known of the images.
    down = after(tmp_path, 150, status=2, named=[])
    assert (down.since, down.failing_since) == ({"web": 100}, 100)
    second = after(tmp_path, 200, "web", "db")
    assert (second.since, second.failing_since) == ({"web": 100, "db": 200}, 100)
    third = after(tmp_path, 300, "db")
    assert (third.since, third.failing_since) == ({"db": 200}, 100)
    good = after(tmp_path, 400, status=0)
    assert (good.since, good.failing_since) == ({}, None)
    assert after(tmp_path, 500, "db").since == {"db": 500}


def test_a_record_of_an_older_version_has_no_times(tmp_path: Path) -> None:
    (tmp_path / ".sync.a.json").write_text('{"finished": 1, "seconds": 1, "exit": 1, "failed": ["web"]}')
    found = last_sync.read(tmp_path, "a")
    assert found == LastSync(1, 1, 1, frozenset({"web"}))
    assert after(tmp_path, 200, "web").since == {"web": 200}
