"""Options: each has an effect, and those that commands share may also stand before the command."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxdocker import serve
from lxdocker.cli import app, hosts
from lxdocker.config.settings import Settings
from lxdocker.config.settings import load as load_settings
from lxdocker.tree.tree import Tree
from tests import recorded
from tests.examples import provenance, publish, spec
from tests.stand_ins import ImageDaemon, image_daemon
from tests.unit.cli.test_commands import Done, Program, commands, lxdocker, place

__all__ = ["lxdocker", "place"]  # fixtures

# What the settings are called that options are for, where that is not the option's parameter.
SETTINGS = {"insecure_registry": "insecure_registries", "source": "builder_from"}
BUILDER = {
    "lxdocker.builder.built_at": "2026-01-02T03:04:05+00:00",
    "lxdocker.builder.base": "server debian/13",
    "lxdocker.builder.recipe": "abc",
}


COMMANDS = commands()


@pytest.fixture
def lxd(place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageDaemon]:
    """An LXD where LXD_DIR says, set up as after `lxd init --minimal`, with a builder image."""
    (place / "lxd").mkdir()
    monkeypatch.setenv("LXDOCKER_TREE", str(place / "tree"))
    with image_daemon(place / "lxd", recorded.every()[-1]) as daemon:
        daemon.say("GET /1.0/profiles/default", {"devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}})
        daemon.say("GET /1.0/profiles/builder", {})
        daemon.answer("PUT /1.0/profiles/builder", "look at a success")
        daemon.say("GET /1.0/storage-pools", ["/1.0/storage-pools/default"])
        daemon.say("GET /1.0/networks", [])
        for project in ("lxdocker", "elsewhere"):
            daemon.say(f"GET /1.0/projects/{project}", {})
        daemon.say("GET /1.0/storage-pools/default/volumes/custom/cache", {})
        yield daemon


def with_builder_image(lxd: ImageDaemon, project: str) -> str:
    fingerprint = lxd.keep(project, (f"metadata of {project}".encode(), b"rootfs"), BUILDER)
    lxd.images[project, fingerprint].aliases.append("builder")
    return fingerprint


# ---- each has an effect


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_used_by_its_command(name: str) -> None:
    function = inspect.unwrap(COMMANDS[name].callback)
    (tree,) = ast.parse(inspect.getsource(function)).body
    assert isinstance(tree, ast.FunctionDef)
    used = {node.id for part in tree.body for node in ast.walk(part) if isinstance(node, ast.Name)}
    options = {parameter.name for parameter in COMMANDS[name].params} - {"verbose", "quiet"}  # with callbacks
    assert options <= used


class Watched(Settings):
    """Settings that know what was read of them."""

    read: set[str]

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "read").add(name)
        return super().__getattribute__(name)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which settings the commands have read."""
    found: set[str] = set()

    def load(*arguments: Any) -> Settings:
        settings = load_settings(*arguments)
        watched = type("Watching", (Watched,), {"read": found})
        made: Settings = watched(**{one.name: getattr(settings, one.name) for one in dataclasses.fields(Settings)})
        found.clear()
        return made

    monkeypatch.setattr(app, "load", load)
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "web"),
        ("new", "app", "oci:/nowhere"),
        ("add", "oci:/nowhere"),
        ("sync",),
        ("diff", "web", "registry"),
        ("validate",),
        ("status",),
        ("prune",),
        ("builder build", "--from", "image"),
        ("builder show",),
        ("builder delete",),
        ("builder input", "web"),
        ("list",),
        ("doctor",),
        ("log",),
        ("publish list",),
        ("publish verify",),
        ("publish rollback", "web"),
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_each_setting_that_a_command_takes_is_one_that_it_reads(
    place: Path,
    lxd: ImageDaemon,
    lxdocker: Program,
    read: set[str],
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LXDOCKER_BUILDER_SERVER", "local")
    name, *rest = arguments
    for file in (place / "images.d").iterdir():
        file.unlink()
    if "web" in rest:
        (place / "images.d/web.yaml").write_text("image: oci:/nowhere\n")
    if name == "diff":  # which reads nothing else where there is nothing to compare
        published = Tree(place / "tree")
        with published.lock(print, threading.Event()):
            publish(published, provenance(spec("web", "web:1")))
    with_builder_image(lxd, "lxdocker")
    lxdocker(*name.split(), *rest)
    known = {one.name for one in dataclasses.fields(Settings)} - {"config"}  # which load() itself reads
    taken = {SETTINGS.get(parameter.name, parameter.name) for parameter in COMMANDS[name].params} & known
    assert taken <= read


def test_each_setting_that_the_others_take_is_read_somewhere() -> None:
    """A server and a mirror would have to be there to run these."""
    known = {one.name for one in dataclasses.fields(Settings)}
    files = [*Path(serve.__file__).parent.glob("*.py"), Path(hosts.__file__)]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "settings"
    }
    for name in ("serve", "mirror"):
        taken = {SETTINGS.get(parameter.name, parameter.name) for parameter in COMMANDS[name].params} & known
        assert taken - {"config"} <= read
    assert "tls_names" in read  # serve's --name


@pytest.mark.parametrize(
    "arguments",
    [
        "validate --project x",
        "validate --tree x",
        *(f"builder {name} --{option} x" for name in ("build", "show", "delete") for option in ("tree", "project")),
        *(f"builder {name} --specs x" for name in ("build", "show", "delete")),
        "publish verify --specs x",
        "publish rollback --specs x web",
        "publish verify --project x",
        "diff web --project x",
        "--project x builder delete",
        "--tree x validate",
        "--specs x publish verify",
        "--config x remote add https://host",
    ],
)
def test_options_without_an_effect_are_refused(lxdocker: Program, arguments: str) -> None:
    done = lxdocker(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such option: --" in done.stderr


def test_the_builder_of_a_project_is_that_of_builder_project(lxd: ImageDaemon, lxdocker: Program) -> None:
    ours, theirs = (with_builder_image(lxd, project) for project in ("lxdocker", "elsewhere"))
    lxd.projects.add("elsewhere")
    for where, fingerprint in ((("--builder-project", "elsewhere"), theirs), ((), ours)):
        shown = lxdocker("builder", "show", "--json", *where)
        assert json.loads(shown.stdout)["fingerprint"] == fingerprint
        done = lxdocker("builder", "delete", "--json", *where)
        assert json.loads(done.stdout) == {"schema": 1, "deleted": fingerprint}
        assert fingerprint not in {key for _, key in lxd.images}
        assert json.loads(lxdocker("builder", "delete", "--json", *where).stdout) == {"schema": 1, "deleted": None}
    assert lxdocker("builder", "delete").stdout == "no builder image to delete\n"


# ---- before the command


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("--json validate --specs images.d", "validate --json --specs images.d"),
        ("--specs images.d --json validate", "validate --json --specs images.d"),
        ("--specs nowhere validate --specs images.d", "validate --specs images.d"),  # the nearest counts
        ("--specs images.d validate images.d/web.yaml", "validate images.d/web.yaml"),
        ("--json --tree tree publish verify", "publish verify --tree tree --json"),
        ("--json publish --tree tree verify", "publish verify --tree tree --json"),
        ("builder --builder-project elsewhere show", "builder show --builder-project elsewhere"),
        ("--json status", "status --json"),
        ("--config nowhere.yaml builder show", "builder show --config nowhere.yaml"),
    ],
)
def test_shared_options_may_stand_before_the_command(
    place: Path, lxd: ImageDaemon, lxdocker: Program, before: str, after: str
) -> None:
    for file in (place / "images.d").iterdir():
        file.write_text("image: oci:/nowhere\n")
    assert lxdocker(*before.split()) == lxdocker(*after.split())


def test_they_are_in_the_help_of_the_program(lxdocker: Program) -> None:
    for option in ("--config", "--specs", "--tree", "--project", "--json", "-v, --verbose"):
        assert option in lxdocker("--help").stdout


@pytest.mark.parametrize("arguments", [["-v"], ["--json"], ["builder", "-v"]])
def test_options_alone_are_no_command(lxdocker: Program, arguments: list[str]) -> None:
    done = lxdocker(*arguments)
    assert (done.returncode, bool(done.stdout)) == (2, "--json" in arguments)  # an error document
    assert "Missing command" in done.stderr


# ---- -v


def shown(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("+ ")]


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ("builder delete", 0),
        ("builder delete -v", 1),
        ("-v builder delete", 1),
        ("builder delete --verbose", 1),
        ("builder -v delete", 1),
        ("-v builder delete -v", 2),
        ("builder delete -vv", 2),
        ("-vv builder delete", 2),
        ("-v builder -v delete -v", 2),
    ],
)
def test_v_may_stand_anywhere_and_changes_nothing_else(
    lxd: ImageDaemon, lxdocker: Program, arguments: str, level: int
) -> None:
    fingerprint = with_builder_image(lxd, "lxdocker")
    done = lxdocker(*arguments.split())
    assert (done.returncode, done.stdout) == (0, f"deleted builder image {fingerprint[:12]}\n")
    lines = shown(done)
    assert len([line for line in lines if "--request DELETE" in line]) == min(level, 1)
    assert bool([line for line in lines if line.startswith("+ lxc query /1.0")]) == (level == 2)
    assert level or not done.stderr


def test_every_command_has_it_and_the_other_short_options() -> None:
    for name, command in COMMANDS.items():
        if command.hidden:
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--verbose", "-v", "--quiet", "-q"} <= options, name
        assert ("--jobs" in options) == ("-j" in options), name
        assert ("--force" in options) == ("-f" in options), name


# ---- -h


@pytest.mark.parametrize("command", ["", "builder", "publish", "remote", *COMMANDS])
def test_h_is_help_and_nothing_in_it_is_cut(lxdocker: Program, command: str) -> None:
    done = lxdocker(*command.split(), "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert done == lxdocker(*command.split(), "--help")
    assert re.search(r"^  -h, --help +Show this message and exit\.$", done.stdout, re.MULTILINE)
    assert "..." not in re.sub(r"\[[A-Z|]+\]\.\.\.|COMMAND \[ARGS\]\.\.\.", "", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "{" not in done.stdout


def test_long_summaries_are_wrapped_and_not_cut(monkeypatch: pytest.MonkeyPatch, lxdocker: Program) -> None:
    words = " ".join(f"word{number}" for number in range(40))
    monkeypatch.setattr(app.app.registered_commands[0], "help", f"{words}.\n\nDetails.")
    shown = lxdocker("--help").stdout
    assert f"{words}." in " ".join(shown.split())
    assert "Details." not in shown


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("sync", "sync [OPTIONS] [NAME]..."),
        ("validate", "validate [OPTIONS] [NAME|FILE|DIR]..."),
        ("inspect", "inspect [OPTIONS] IMAGE|NAME"),
        ("new", "new [OPTIONS] NAME [IMAGE|SERVICE]"),
        ("mirror", "mirror [OPTIONS] URL [DIR|NAME]..."),
        ("publish rollback", "publish rollback [OPTIONS] NAME [VERSION]"),
        ("diff", "diff [OPTIONS] NAME [OLD] [NEW]"),
        ("remote add", "remote add [OPTIONS] URL [NAME]"),
    ],
)
def test_arguments_look_as_in_a_manual(lxdocker: Program, command: str, usage: str) -> None:
    assert lxdocker(*command.split(), "-h").stdout.splitlines()[0].endswith(f" {usage}")


# ---- -q


@pytest.mark.parametrize("arguments", ["validate -q", "-q validate", "publish verify -q --tree tree", "prune -q"])
def test_q_is_silent_where_nothing_changed_or_failed(
    place: Path, lxd: ImageDaemon, lxdocker: Program, arguments: str
) -> None:
    Tree(place / "tree").write_index()
    done = lxdocker(*arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_q_leaves_failures_results_and_what_was_asked_for(place: Path, lxd: ImageDaemon, lxdocker: Program) -> None:
    (place / "images.d/db.yaml").unlink()
    (place / "images.d/web.yaml").write_text("image: oci:/nowhere\n")
    loud, quiet = lxdocker("sync"), lxdocker("sync", "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (1, loud.stdout, "")
    assert lxdocker("publish", "verify", "-q", "--tree", "/nowhere/tree").stderr.startswith("error: ")
    assert json.loads(lxdocker("status", "-q", "--json").stdout)["images"]
    with_builder_image(lxd, "lxdocker")
    assert shown(lxdocker("builder", "delete", "-qv"))


def test_a_file_has_the_log_of_each_run(
    place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_LOG", "log")
    assert lxdocker("validate").stderr == ""
    assert lxdocker("builder", "show").returncode == 1
    assert lxdocker("mirror", "https://user:secret@127.0.0.1:1").returncode == 2
    log = (place / "log").read_text()
    assert [line.split(": ", 1)[1] for line in log.splitlines() if " lxdocker.run: exit status" in line] == [
        "exit status 0"
    ]
    assert "lxdocker.run: error: no builder image" in log
    assert "lxdocker.lxd: + lxc query /1.0" in log
    assert "https://***@127.0.0.1:1" in log
    assert "secret" not in log
    assert (place / "log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_can_t_be_written_stops_the_run_at_once(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_LOG", str(place / "nosuch/log"))
    done = lxdocker("validate", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["what"] == f"cannot write the log {place}/nosuch/log"
