"""The JSON documents are what their schemas and docs/json.md promise, whichever command prints them."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from lxdocker.cli import documents
from lxdocker.files import lock
from lxdocker.follow.remote import Added
from lxdocker.sync import run as pipeline
from lxdocker.tree.tree import Tree
from lxdocker.values import ImageName
from tests import schemas
from tests.registry_server import make_image, write_layout
from tests.stand_ins import SUCCESS, ImageDaemon, ScriptedBuilders
from tests.unit.cli.test_commands import Program, commands, lxdocker, place
from tests.unit.cli.test_options import lxd, with_builder_image

__all__ = ["lxd", "lxdocker", "place"]  # fixtures

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/json.md").read_text()


@dataclass
class World:
    """A folder of specs with images on disk, builders, an LXD and a tree."""

    place: Path
    program: Program
    daemon: ImageDaemon
    builders: ScriptedBuilders = field(default_factory=ScriptedBuilders)

    @property
    def tree(self) -> Path:
        return self.place / "tree"

    def image(self, name: str, text: str) -> None:
        """The image that the spec ``name`` asks for."""
        folder = self.place / f"images/{name}-{text}"
        made = make_image(text=f"{name} {text}")
        write_layout(folder, [made], [(made.manifest, "1")], [])
        (self.place / f"images.d/{name}.yaml").write_text(f"image: oci:{folder}:1\n")

    def run(self, schema: str, *words: str, status: int = 0) -> Any:
        """The document of a command, which fits its schema."""
        done = self.program(*words, "--json")
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return schemas.check(json.loads(done.stdout), schema)

    def states(self, *words: str, status: int = 0) -> dict[str, str]:
        return {image["name"]: image["state"] for image in self.run("images", *words, status=status)["images"]}


@pytest.fixture
def world(place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(place, lxdocker, lxd)
    with_builder_image(lxd, "lxdocker")
    monkeypatch.setattr(pipeline, "_open_workshop", lambda *_: made.builders)
    for spec in (place / "images.d").iterdir():
        spec.unlink()
    return made


@pytest.fixture
def mixed(world: World) -> World:
    """An image in each state, as far as no registry is needed."""
    for name in ("good", "back", "gone", "bad"):
        world.image(name, "1")
    world.run("images", "sync")
    world.image("back", "2")
    world.run("images", "sync")
    world.run("rollback", "publish", "rollback", "back")
    world.run("images", "sync")
    (world.place / "images.d/gone.yaml").unlink()
    (world.place / "images.d/bad.yaml").write_text("image: nginx\nrestart: never\n")
    world.image("new", "1")
    return world


# ---- schemas


@pytest.mark.parametrize("name", schemas.NAMES)
def test_each_schema_is_one_and_describes_every_key(name: str) -> None:
    schema = schemas.schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:lxdocker:schema:output:{name}"
    assert schema["properties"]["schema"]["const"] == documents.SCHEMA
    assert "schema" in schema["required"]

    def keys(part: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(part, dict):
            yield from part.get("properties", {}).items()
            part = list(part.values())
        if isinstance(part, list):
            for inner in part:
                yield from keys(inner)

    assert [key for key, value in keys(schema) if not value.get("description")] == []


def test_what_several_schemas_have_is_the_same_in_all() -> None:
    for name in ("error", "image"):
        found = [defs[name] for one in schemas.NAMES if name in (defs := schemas.schema(one).get("$defs", {}))]
        assert len(found) > 1
        for one in found:  # a hook is also told since when an image fails
            keys = {key: value for key, value in one["properties"].items() if key != "since"}
            assert keys == found[-1]["properties"]


def documented() -> dict[str, str]:
    """Command -> schema, as the table says."""
    rows = re.findall(r"^\| (.*`.*`.*) \| `([a-z-]+)` \|$", PAGE, re.MULTILINE)
    return {command: schema for cells, schema in rows for command in re.findall(r"`([^`]+)`", cells)}


def test_the_page_has_every_command_and_every_schema() -> None:
    table = documented()
    with_json = {
        name
        for name, command in commands().items()
        if "--json" in {option for parameter in command.params for option in parameter.opts}
    }
    without_options = {re.sub(r" --.*", "", command) for command in table}
    assert with_json <= without_options
    assert {*table.values(), "error"} == set(schemas.NAMES)


def test_the_page_has_every_key_and_state_of_an_image() -> None:
    image = schemas.schema("images")["$defs"]["image"]["properties"]
    example = PAGE.partition("## Images")[2].partition("| state |")[0]
    assert re.findall(r'^      "([a-z_]+)":', example, re.MULTILINE) == list(image)
    assert sorted(re.findall(r"^\| `([a-z]+)` \| .* \| [012] \|$", PAGE, re.MULTILINE)) == sorted(
        image["state"]["enum"]
    )
    for key in ("action", "outcome"):
        assert set(filter(None, image[key]["enum"])) <= set(re.findall(r"[a-z]+", example))


# ---- documents of images


def test_every_document_about_images(mixed: World) -> None:
    expected = {"good": "current", "back": "withheld", "bad": "failed", "new": "pending", "gone": "orphan"}
    planned = mixed.run("images", "sync", "--dry-run", status=1)["images"]
    found = mixed.run("images", "status")["images"]
    assert found == planned
    assert {image["name"]: image["state"] for image in found} == expected
    by_name = {image["name"]: image for image in found}
    assert [by_name[name]["action"] for name in expected] == ["keep", "keep", None, "build", "remove"]
    good, back, bad = by_name["good"], by_name["back"], by_name["bad"]
    assert good["size"] == len(b"".join(mixed.daemon.image("default", "good")[1].parts))
    assert good["fingerprint"] == mixed.daemon.image("default", "good")[0]
    assert good["aliases"] == ["good"]
    assert good["published_at"][:16].replace("-", "").replace("T", "_").replace(":", "") == good["version"]
    assert back["withheld_at"] is not None
    assert bad["fingerprint"] == mixed.daemon.image("default", "bad")[0]
    assert bad["error"]["mistakes"][0] | {"text": ""} == {
        "file": str(mixed.place / "images.d/bad.yaml"),
        "line": 2,
        "key": "restart",
        "text": "",
    }
    assert mixed.states("list") == {**expected, "bad": "current"}  # no sync has failed at it yet
    after = mixed.run("images", "sync", status=1)["images"]
    assert {image["name"]: (image["state"], image["outcome"]) for image in after} == {
        "good": ("current", "unchanged"),
        "back": ("withheld", "unchanged"),
        "bad": ("failed", "failed"),
        "new": ("current", "built"),
        "gone": ("orphan", "removed"),
    }
    assert {image["name"]: set(image) for image in after} == {name: set(good) for name in expected}
    assert mixed.states("list") == {"good": "current", "back": "withheld", "bad": "failed", "new": "current"}
    assert mixed.states("list", "back") == {"back": "withheld"}
    mixed.run("builder-delete", "builder", "delete")  # or unused layers would have to be removed in a builder
    assert mixed.states("prune", status=1) == {"bad": "failed"}


def test_versions_that_leave_the_tree(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.image("web", "1")
    first = world.run("images", "sync")["images"][0]["version"]
    monkeypatch.setenv("LXDOCKER_KEEP_VERSIONS", "1")
    world.image("web", "2")
    (withdrawn,) = world.run("images", "sync")["pruned"]
    assert (withdrawn["name"], withdrawn["version"], withdrawn["change"]) == ("web", first, "withdrawn")
    monkeypatch.setenv("LXDOCKER_GRACE_HOURS", "0")
    planned = world.run("images", "prune", "--dry-run", "--all")
    assert [(image["name"], image["action"], image["outcome"]) for image in planned["images"]] == [
        ("web", "remove", None)
    ]
    assert [(version["version"], version["change"]) for version in planned["pruned"]] == [(first, "deleted")]


def test_times_that_are_none_are_left_out(mixed: World) -> None:
    for image in mixed.daemon.images.values():
        image.properties["lxdocker.built_at"] = "yesterday"
    assert {image["built_at"] for image in mixed.run("images", "list")["images"]} == {None}
    assert "built" not in {event["event"] for event in mixed.run("log", "log")["events"]}


def test_a_build_that_fails(world: World) -> None:
    world.image("web", "1")
    world.builders.answers["web"] = [replace(SUCCESS, status=1, stderr="unpacking failed")]
    (image,) = world.run("images", "sync", status=1)["images"]
    assert (image["state"], image["action"], image["outcome"]) == ("failed", "build", "failed")
    assert image["error"]["exit"] == 1
    assert world.states("list") == {"web": "failed"}
    assert world.states("status") == {"web": "failed"}  # although the next sync tries again


# ---- the other documents


def test_the_documents_of_the_tree(mixed: World) -> None:
    versions = mixed.run("versions", "publish", "list", "back")["versions"]
    assert [version["state"] for version in versions] == ["withheld", "current"]
    assert versions[0]["withheld_at"]
    assert versions[0]["kept_until"] > versions[0]["withdrawn_at"]
    names = {version["name"] for version in mixed.run("versions", "publish", "list")["versions"]}
    assert names == {"good", "back", "gone", "bad"}
    events = mixed.run("log", "log")["events"]
    assert [event["at"] for event in events] == sorted((event["at"] for event in events), reverse=True)
    assert {event["event"] for event in events} == {"built", "published", "withheld"}
    assert {event["name"] for event in mixed.run("log", "log", "back")["events"]} == {"back"}
    assert mixed.run("verify", "publish", "verify", "--deep")["read"] > 0
    assert mixed.run("rollback-undo", "publish", "rollback", "back", "--undo")["published"]


def test_the_documents_of_what_differs(world: World) -> None:
    for text in ("1", "2"):
        world.image("web", text)
        world.run("images", "sync")
    found = world.run("diff", "diff", "web")
    assert [(file["path"], file["differs"]) for file in found["files"]] == [("/content", ["sha256"])]
    assert "manifest_digest" in {value["key"] for value in found["values"]}
    world.builders.listing = lambda _: "F l 777 0 0 - - - - /%FF %0A -\nR /var/lib/rpm/Packages\nE 1\n"
    odd = world.run("diff", "diff", "web")
    assert (odd["files"], odd["notes"]) == (
        [],
        ["packages in /var/lib/rpm/Packages are not compared: this database of rpm cannot be read"],
    )
    world.builders.listing = lambda content: (
        f"F l 777 0 0 - - - - /%FF {len(content)}{content[:1].hex()}{content[-4:].hex()} -\nE 1\n"
    )
    assert [file["path"] for file in world.run("diff", "diff", "web")["files"]] == ["/\udcff"]
    world.image("web", "3")
    now = world.run("diff", "diff", "web", "registry")
    assert (now["new"]["version"], now["files"], len(now["new"]["layers"])) == ("registry", None, 1)
    assert world.run("reproducible", "sync", "--check-reproducible", "web")["images"][0]["reproducible"] is True
    world.builders.answers["web"] = [b"one", b"other", replace(SUCCESS, status=1)]
    (other,) = world.run("reproducible", "sync", "--check-reproducible", "web", status=1)["images"]
    assert (other["reproducible"], len(other["files"])) == (False, 1)
    (failed,) = world.run("reproducible", "sync", "--check-reproducible", "web", status=1)["images"]
    assert (failed["reproducible"], failed["error"]["exit"]) == (None, 1)


def test_the_documents_about_builders_and_settings(world: World) -> None:
    world.image("web", "1")
    world.run("builder", "builder", "show")
    world.run("builder-delete", "builder", "delete")
    world.run("builder-delete", "builder", "delete")
    world.run("settings", "config")
    assert [spec["name"] for spec in world.run("specs", "validate")["specs"]] == ["web"]
    added = Added("lxdocker", "https://host:8444", "lxc", 3, Path("/root/x.crt"), existed=False, registry=True)
    schemas.check(documents.remote_added(added), "remote")  # which would need a server with TLS


def test_the_documents_about_single_images(world: World) -> None:
    world.image("web", "1")
    spec = world.place / "images.d/web.yaml"
    spec.write_text(f"{spec.read_text()}user: app\nhealthcheck: {{test: x, interval: 3s}}\n")
    found = world.run("inspect", "inspect", "web")
    assert found["spec"]["values"] == ["user", "healthcheck.test", "healthcheck.interval"]
    ref = found["image"]
    assert world.run("inspect", "inspect", ref)["spec"] is None
    made = world.run("add", "new", "other", ref)
    assert (made["spec"]["name"], made["lost"]) == ("other", [])
    lost = world.run("add", "new", "third", "--dry-run", "--from-run", f"docker run --privileged {ref}", status=1)
    assert [one["what"] for one in lost["lost"]] == ["--privileged"]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
            """Silent."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_documents_of_copies(mixed: World) -> None:
    copy = mixed.place / "copy"
    with serving(mixed.tree) as url:
        assert mixed.run("mirror", "mirror", url, str(copy))["fetched"]
        assert mixed.run("mirror", "mirror", url, str(copy))["unchanged"]
        mixed.daemon.images = {}
        imported = mixed.run("mirror-import", "mirror", "--import", url, "--client", "lxc", "good", "nosuch", status=1)
    assert ([image["name"] for image in imported["imported"]], len(imported["failed"])) == (["good"], 1)
    found = {image["source"]: image for image in mixed.run("images", "list")["images"]}
    assert (found[url]["name"], found[url]["state"], found[url]["aliases"]) == ("good", "current", ["good"])
    assert "imported" in {event["event"] for event in mixed.run("log", "log")["events"]}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("status", "nosuch"), 2),
        (("validate", "--config", "nosuch.yaml"), 2),
        (("list", "nosuch"), 2),
        (("publish", "list", "--tree", "nosuch"), 1),
        (("publish", "list", "nosuch"), 2),
        (("publish", "rollback", "nosuch"), 2),
        (("log", "nosuch"), 2),
        (("log", "W@B"), 2),
        (("builder", "show"), 1),
        (("mirror", "ftp://x", "copy"), 2),
    ],
)
def test_errors_are_documents_too(world: World, words: tuple[str, ...], status: int) -> None:
    world.image("web", "1")
    world.run("images", "sync")
    world.run("builder-delete", "builder", "delete")
    assert world.run("error", *words, status=status)["error"]["exit"] == status


# ---- while others are at work


def test_an_image_that_another_sync_builds_is_building(world: World) -> None:
    world.image("web", "1")
    world.image("web.2", "1")
    tree = Tree(world.tree)
    cancelled = threading.Event()
    with tree.session("other", print, cancelled):
        with tree.staging(ImageName("web.2")):
            assert world.states("status") == {"web": "pending", "web.2": "building"}
            assert world.states("list") == {"web": "pending", "web.2": "building"}
            assert world.program("status", "--check").returncode == 1
        assert world.states("status") == {"web": "pending", "web.2": "pending"}
        leftover = Path(world.tree / ".staging/run.killed/web.x")
        leftover.mkdir(parents=True)
        assert world.states("status")["web"] == "pending"  # nobody is at work there


@pytest.mark.parametrize("command", ["status", "list", "log", "publish list"])
def test_nobody_waits_for_a_locked_tree(world: World, command: str) -> None:
    world.image("web", "1")
    world.run("images", "sync")
    handles = [lock.open_file(path) for path in world.tree.glob(".lock*")]
    assert len(handles) == 2
    never = threading.Event()
    for handle in handles:
        assert lock.wait(handle, lambda: None, never)
    try:
        assert world.program(*command.split()).returncode == 0
    finally:
        for handle in handles:
            os.close(handle)


def test_the_tree_is_shown_where_lxd_can_not_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.image("web", "1")
    world.run("images", "sync")
    monkeypatch.setenv("LXD_DIR", str(world.place / "nowhere"))
    for command in ("list", "log"):
        done = world.program(command)
        assert (done.returncode, "web" in done.stdout) == (0, True)
        assert done.stderr.startswith("warning: only the published tree is shown")
    assert world.program("list", "--tree", "nowhere").returncode == 2


# ---- tables


def rows(text: str) -> list[list[str]]:
    return [re.split(r"  +", line) for line in text.splitlines()]


def test_the_tables(mixed: World) -> None:
    header, *lines = rows(mixed.program("list").stdout)
    assert header == ["NAME", "STATE", "SIZE", "SOURCE", "BUILT", "VERSION", "REASON"]
    assert [line[:2] for line in lines] == [
        ["back", "withheld"],
        ["bad", "current"],
        ["gone", "orphan"],
        ["good", "current"],
        ["new", "pending"],
    ]
    header, *lines = rows(mixed.program("publish", "list", "back").stdout)
    assert header[:5] == ["NAME", "STATE", "VERSION", "PUBLISHED (UTC)", "SIZE"]
    assert header[5:] == ["DIGEST", "FINGERPRINT", "KEPT UNTIL", "ARCHITECTURE"]
    assert [line[3].translate({ord("-"): "", ord(" "): "_", ord(":"): ""}) == line[2] for line in lines] == [True, True]
    assert [line[:2] for line in lines] == [["back", "withheld"], ["back", "current"]]
    header, *lines = rows(mixed.program("log", "back").stdout)
    assert header[:4] == ["NAME", "EVENT", "TIME (UTC)", "VERSION"]
    assert sorted(line[1] for line in lines) == ["built", "published", "published", "withheld"]


# ---- monitoring


def script() -> str:
    """The one on the page."""
    (found,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = [line for line in found.splitlines() if line and not line.startswith(("#!", "import "))]
    assert len(code) <= 10
    return str(found)


@pytest.fixture
def monitored(mixed: World) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a script with a ``lxdocker`` that prints what the real one would."""
    program = mixed.place / "bin/lxdocker"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m lxdocker "$@"\n')
    program.chmod(0o755)

    def run(text: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", text]
        path = f"{program.parent}:{os.environ['PATH']}"
        return subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PATH": path}
        )

    return run


def test_the_script_on_the_page_finds_a_failed_a_pending_and_a_withheld_image(
    monitored: Callable[[str], subprocess.CompletedProcess[str]], mixed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = monitored(script())
    assert sorted(done.stdout.splitlines()) == ["back withheld", "bad failed", "new pending"]
    assert done.returncode == 1
    (mixed.place / "images.d/bad.yaml").unlink()
    assert monitored(script()).returncode == 0
    monkeypatch.setenv("LXD_DIR", "/nonexistent")
    done = monitored(script())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("cannot connect to LXD\n")


def test_the_check(mixed: World) -> None:
    done = mixed.program("status", "--check")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == (
        "LXDOCKER CRITICAL - 1 failed (bad), 1 pending (new), 1 withheld (back), 1 orphan (gone), 1 of 5 current"
        " | current=1 pending=1 building=0 failed=1 withheld=1 orphan=1\n"
    )
    assert mixed.program("status", "--check", "new").returncode == 2  # the broken spec counts
    (mixed.place / "images.d/bad.yaml").unlink()
    assert mixed.program("status", "--check", "new").returncode == 1
    assert mixed.program("status", "--check", "back").returncode == 0
    assert mixed.program("status", "--check", "back", "-q").stdout == ""
    assert mixed.program("status", "--check", "--json", "new").returncode == 1


def test_a_check_that_can_not_be_made_is_critical(place: Path, lxdocker: Program) -> None:
    done = lxdocker("status", "--check")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == f"LXDOCKER CRITICAL - cannot connect to LXD: no socket at {place}/lxd/unix.socket\n"
