"""What prune removes, and what it leaves."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.builder.instance import OWNER_KEY
from lxdocker.config.spec import BrokenSpec, SpecFolder
from lxdocker.errors import SpecError, UsageError
from lxdocker.sync import prune
from lxdocker.sync.outcome import Status
from tests.stand_ins import builder_of_a_killed_one, builder_of_another
from tests.unit.sync.place import Place, place, words


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with place(tmp_path) as made:
        yield made


def test_it_removes_what_a_sync_would(here: Place) -> None:
    web, other = here.image("web"), here.image("other")
    here.sync(web, other)
    done = prune.prune_all(here.context, SpecFolder((other,)), here.said.append)
    assert words(done) == ["web removed: no spec names it"]
    assert [image.aliases for image in here.daemon.images.values()] == [["other"]]
    assert here.versions("web") == []
    assert prune.prune_all(here.context, SpecFolder((other,)), here.said.append).outcomes == ()


def test_what_would_be_removed_is_known_before_and_looking_changes_nothing(here: Place) -> None:
    here.with_settings(keep_versions=1, keep_days=0, grace_hours=0)
    web, other = here.image("web"), here.image("other")
    here.sync(web, other)
    here.with_settings(keep_versions=3)
    here.sync(here.image("web", "newer"), other)
    here.with_settings(keep_versions=1)
    here.daemon.instances["lxdocker", "builder-1-1"] = {OWNER_KEY: builder_of_a_killed_one()[OWNER_KEY]}
    before = here.state()
    looked = prune.look(here.context, SpecFolder((other,)))
    assert here.state() == before
    assert [removal.name.value for removal in looked.removals] == ["web"]
    assert (looked.reason, looked.builders, looked.is_empty) == ("no spec names it", ("builder-1-1",), False)
    old = min(version.key for version in here.versions("web"))
    assert [version.planned for version in looked.versions] == [
        f"withdraw web {old} from the tree: 1 newer version is listed (keep_versions)"
    ]
    done = prune.prune_all(here.context, SpecFolder((other,)), here.said.append)
    assert words(done) == ["web removed: no spec names it"]
    assert prune.look(here.context, SpecFolder((other,))).is_empty
    with pytest.raises(UsageError, match="no specs in"):
        prune.look(here.context, SpecFolder(()))


def test_an_emptied_folder_is_asked_about_unless_all_is_to_go(here: Place) -> None:
    here.sync(here.image("web"), here.image("other"))
    with pytest.raises(UsageError, match="no specs in"):
        prune.prune_all(here.context, SpecFolder(()), here.said.append)
    assert len(here.daemon.images) == 2
    done = prune.prune_all(here.context, None, here.said.append)
    assert words(done) == ["other removed: --all was given", "web removed: --all was given"]
    assert here.daemon.images == {}


def test_the_image_of_a_broken_spec_stays(here: Place) -> None:
    web, other = here.image("web"), here.image("other")
    here.sync(web, other)
    broken = BrokenSpec(web.path, web.name, SpecError("a mistake"))
    done = prune.prune_all(here.context, SpecFolder((other,), (broken,)), here.said.append)
    assert words(done) == ["web failed: a mistake"]
    assert here.stored("web")


def test_a_removal_that_fails_hinders_no_other(here: Place) -> None:
    here.sync(here.image("a"), here.image("b"))
    fingerprint, _ = here.stored("a")
    here.daemon.refuse(f"DELETE /1.0/images/{fingerprint}", "the database is sad")
    done = prune.prune_all(here.context, None, here.said.append)
    assert [(str(outcome.name), outcome.status) for outcome in done.outcomes] == [
        ("a", Status.FAILED),
        ("b", Status.REMOVED),
    ]
    assert str(done.outcomes[0].error).endswith("the database is sad")
    assert [version.name.value for version in here.versions("a")] == ["a"]  # what LXD has, clients may have


def test_surplus_versions_are_withdrawn_and_go_when_their_grace_is_over(here: Place) -> None:
    here.with_settings(keep_versions=1, grace_hours=1)
    here.sync(here.image("web", "old"))
    (old,) = here.versions("web")
    done = here.sync(here.image("web", "new"))
    assert [version.done for version in done.pruned] == [
        f"withdrew web {old.key} from the tree: 1 newer version is listed (keep_versions)"
    ]
    assert old.folder.exists()
    here.with_settings(grace_hours=0)
    looked = prune.look(here.context, None)
    (deleted,) = prune.versions(here.context)
    assert re.fullmatch(
        rf"deleted web {old.key} from the tree: it left the index at \d{{4}}-\d\d-\d\d \d\d:\d\d UTC,"
        r" at least 0 hours ago \(grace_hours\)",
        deleted.done,
    )
    assert looked.versions == (deleted,)
    assert not old.folder.exists()


def test_only_builders_of_a_killed_run_are_removed(here: Place) -> None:
    here.daemon.instances["lxdocker", "left"] = builder_of_a_killed_one()
    here.daemon.instances["lxdocker", "busy"] = builder_of_another()
    here.daemon.instances["lxdocker", "somebody's"] = {}
    assert prune.builders(here.context, here.said.append)
    assert [name for _, name in here.daemon.instances] == ["busy", "somebody's"]
    assert here.said == ["removed left, left over from an earlier run"]
    assert not prune.builders(here.context, here.said.append)


def test_a_builder_that_lxd_is_removing_is_not_left_over(here: Place) -> None:
    """The run before asked for that, and did not wait."""
    here.daemon.instances["lxdocker", "going"] = builder_of_a_killed_one()
    here.daemon.going = {"going"}
    assert not prune.builders(here.context, here.said.append)
    assert prune.look(here.context, None).builders == ()
    assert here.said == []
    here.daemon.going = set()  # LXD could not do it
    assert prune.look(here.context, None).builders == ("going",)
    assert prune.builders(here.context, here.said.append)
    assert here.said == ["removed going, left over from an earlier run"]


def test_a_builder_that_goes_while_lxd_is_asked_is_not_left_over(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    here.daemon.instances["lxdocker", "going"] = builder_of_a_killed_one()

    def removed_instances(project: str) -> set[str]:
        here.daemon.instances.clear()
        return set()

    monkeypatch.setattr(here.context.lxd, "removed_instances", removed_instances)
    assert not prune.builders(here.context, here.said.append)
    assert here.said == []


def test_layers_of_the_images_in_the_store_stay(here: Place) -> None:
    here.sync(here.image("web"), here.image("other"))
    prune.layers(here.context, here.builders)
    assert here.builders.cached == [("other", "web")]
    assert here.builders.open == 0


def test_while_another_lxdocker_builds_no_layer_is_dropped(here: Place) -> None:
    """They may not be recorded yet."""
    here.daemon.instances["lxdocker", "busy"] = builder_of_another()
    prune.layers(here.context, here.builders)
    assert (here.builders.cached, here.builders.made) == ([], 0)


def test_a_builder_that_is_going_away_keeps_no_layer(here: Place) -> None:
    here.daemon.instances["lxdocker", "going"] = builder_of_a_killed_one()
    here.daemon.going = {"going"}
    prune.layers(here.context, here.builders)
    assert here.builders.made == 1


def test_without_a_builder_image_there_is_no_cache_to_tidy(here: Place) -> None:
    prune.layers(here.context, None)
    here.daemon.projects.discard("lxdocker")  # which the first build makes
    prune.layers(here.context, None)
    assert not any(request.startswith("POST") for request in here.daemon.asked)


def test_after_a_killed_run_layers_are_dropped_though_nothing_changed(here: Place) -> None:
    web = here.image("web")
    here.sync(web)
    here.daemon.instances["lxdocker", "left"] = builder_of_a_killed_one()
    here.daemon.refuse("GET /1.0/projects/lxdocker", "the database is sad")  # so a workshop of its own is wanted
    assert words(here.sync(web)) == ["web unchanged: up to date"]
    assert here.said == ["removed left, left over from an earlier run"]
