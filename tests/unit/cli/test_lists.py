"""config, and what sync records: the parts that the contract's documents do not show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lxdocker.config import settings
from lxdocker.tree import last_sync
from tests.stand_ins import ImageDaemon
from tests.unit.cli.test_commands import Program, environment, lxdocker, place
from tests.unit.cli.test_contract import World, world
from tests.unit.cli.test_options import lxd

__all__ = ["lxd", "lxdocker", "place", "world"]  # fixtures


# ---- config


def explained(lxdocker: Program, *words: str) -> dict[str, tuple[Any, str, str | None]]:
    document = json.loads(lxdocker("config", "--json", *words).stdout)
    return {found["name"]: (found["value"], found["origin"], found["where"]) for found in document["settings"]}


def test_config_says_where_each_setting_comes_from(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "config.yaml").write_text("# mine\nkeep_versions: 5\njobs: 2\ninsecure_registries: [a.lan]\n")
    monkeypatch.setenv("LXDOCKER_JOBS", "3")
    monkeypatch.setenv("LXDOCKER_CONFIG", "config.yaml")
    found = explained(lxdocker, "--tree", "mine")
    path = str(place / "config.yaml")
    assert found["config"] == (path, "variable", "LXDOCKER_CONFIG")
    assert found["keep_versions"] == (5, "file", f"{path}:2")
    assert found["insecure_registries"] == (["a.lan"], "file", f"{path}:4")
    assert found["jobs"] == (3, "variable", "LXDOCKER_JOBS")
    assert found["tree"] == (str(place / "mine"), "flag", "--tree")
    assert found["specs"] == (str(place / "images.d"), "default", None)
    assert found["pool"] == (None, "default", None)
    assert found["deltas"] == (False, "default", None)
    assert list(found) == ["config", *settings._properties()]
    assert explained(lxdocker, "--config", "config.yaml")["config"] == (path, "flag", "--config")
    monkeypatch.setenv("LXDOCKER_CONFIG", "")
    assert explained(lxdocker)["config"] == (None, "default", None)
    lines = [line.split() for line in lxdocker("config").stdout.splitlines()]
    assert lines[0] == ["NAME", "VALUE", "FROM"]
    assert ["jobs", "3", "LXDOCKER_JOBS"] in lines
    assert ["deltas", "false", "default"] in lines


def test_config_shows_no_secrets(lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXDOCKER_BUILDER_SERVER", "https://me:hunter2@images.lan/path")
    monkeypatch.setenv("LXDOCKER_ON_FAILURE", "https://user:hunter2@hooks.lan/services/hunter2?token=hunter2")
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", "notify --password hunter2")
    found = explained(lxdocker)
    assert found["builder_server"][0] == "https://***@images.lan/path"
    assert found["on_failure"][0] == "https://***@hooks.lan/***"
    assert found["on_change"][0] == "***"
    assert "hunter2" not in lxdocker("config").stdout + lxdocker("config", "--json").stdout


def test_mistakes_in_settings_are_said_by_config_too(lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXDOCKER_JOBS", "many")
    done = lxdocker("config")
    assert (done.returncode, done.stdout) == (2, "")
    assert "LXDOCKER_JOBS" in done.stderr


# ---- list


HEAVY = ("jsonschema", "rich", "websockets", "sh", "lxdocker.builder", "lxdocker.cli.report", "lxdocker.http.wire")


def test_list_loads_nothing_that_it_does_not_need(place: Path, lxd: ImageDaemon) -> None:
    script = (
        "import sys; from lxdocker.cli.main import main\n"
        "sys.argv[1:] = ['list']\n"
        "try: main()\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    variables = environment(place, PYTHONPATH=str(Path(settings.__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert not [asked for asked in lxd.asked if "images" not in asked and asked != "GET /1.0"]


def test_list_works_without_a_folder_of_specs(world: World) -> None:
    world.image("web", "1")
    world.run("images", "sync")
    (world.place / "images.d").rename(world.place / "moved")
    assert world.states("list") == {"web": "current"}  # of another folder, as far as can be told
    (world.place / "moved/web.yaml").unlink()
    (world.place / "moved").rename(world.place / "images.d")
    assert world.states("list") == {"web": "orphan"}


@pytest.mark.parametrize("words", ["list", "log", "publish list"])
def test_nothing_is_said_to_be_nothing(world: World, words: str) -> None:
    world.tree.mkdir()
    done = world.program(*words.split())
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("no ")
    assert list(world.run({"list": "images", "log": "log"}.get(words, "versions"), *words.split()).values())[1] == []


def test_list_says_what_is_missing(world: World) -> None:
    for name in ("a", "b", "c"):
        world.image(name, "1")
    world.run("images", "sync", "a", "b")
    fingerprint, _ = world.daemon.image("default", "a")
    del world.daemon.images["default", fingerprint]
    found = {image["name"]: (image["state"], image["reason"]) for image in world.run("images", "list")["images"]}
    assert found == {
        "a": ("pending", "missing from the local store"),
        "b": ("current", ""),
        "c": ("pending", "not built yet"),
    }


# ---- what sync records


def records(world: World) -> list[last_sync.LastSync]:
    return list(last_sync.read_all(world.tree).values())


def test_each_sync_leaves_its_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.image("good", "1")
    (world.place / "images.d/bad.yaml").write_text("image: oci:/nowhere\n")
    prom = world.place / "lxdocker.prom"
    world.run("images", "sync", "--dry-run", status=1)
    assert records(world) == []
    world.run("images", "sync", "--metrics-file", str(prom), status=1)
    (record,) = records(world)
    assert (record.exit, record.failed) == (1, frozenset({"bad"}))
    assert "lxdocker_failed_images 1.0\n" in prom.read_text()
    world.run("images", "sync", "good")
    (record,) = records(world)
    assert (record.exit, record.failed) == (0, frozenset({"bad"}))  # which was not tried
    world.run("error", "sync", "nosuch", status=2)
    assert records(world) == [record]  # a person's mistake
    monkeypatch.setenv("LXD_DIR", str(world.place / "nowhere"))
    monkeypatch.setenv("LXDOCKER_METRICS_FILE", str(prom))
    world.run("error", "sync", status=2)
    (record,) = records(world)
    assert (record.exit, record.failed) == (2, frozenset({"bad"}))
    assert "lxdocker_last_sync_success 0.0\n" in prom.read_text()


def test_a_result_that_can_not_be_recorded_is_a_warning(world: World) -> None:
    world.image("good", "1")
    done = world.program("sync", "--metrics-file", "/proc/nowhere/x.prom")
    assert done.returncode == 0
    assert "warning: cannot write the metrics file /proc/nowhere/x.prom: No such file or directory" in done.stderr


@pytest.mark.parametrize("words", [("sync", "--bogus"), ("sync", "--jobs=many"), ("nosuch",)])
def test_wrong_options_are_an_error_document_too(world: World, words: tuple[str, ...]) -> None:
    document = world.run("error", *words, status=2)
    assert document["error"]["exit"] == 2
    what = document["error"]["what"]
    assert words[-1].partition("=")[0] in what
    assert what[0].islower()
    assert not what.endswith(".")
