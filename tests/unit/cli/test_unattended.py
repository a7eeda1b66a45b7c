"""lxdocker without a person: units, cron, and hooks."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from lxdocker.builder.instance import Workshop
from lxdocker.cli.main import complete
from lxdocker.config import repository, settings, spec, units
from lxdocker.config.resources import resource
from lxdocker.config.units import File
from lxdocker.errors import LxdockerError
from lxdocker.follow import run as follow_run
from lxdocker.follow.run import Followed
from lxdocker.sync import run as sync_run
from lxdocker.tree import mirror as tree_mirror
from lxdocker.tree.mirror import Failure, Mirrored
from lxdocker.tree.server import Listed
from lxdocker.values import Arch, Fingerprint, ImageName
from tests import recorded
from tests.registry_server import ScriptedServer, make_image, write_layout
from tests.stand_ins import ImageDaemon, ScriptedBuilders, image_daemon
from tests.unit.cli.test_commands import Done, Program, lxdocker, place

__all__ = ["lxdocker", "place"]  # fixtures


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin/lxdocker"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(units, "program", lambda: path)
    return path


def test_units_are_printed_for_this_program_and_its_settings(
    place: Path, lxdocker: Program, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_LISTEN", ":443")
    done = lxdocker("units")
    assert (done.returncode, done.stderr) == (0, "")
    assert "# /etc/systemd/system/lxdocker-sync.timer\n[Unit]" in done.stdout
    assert f"ExecStart={program} sync -q\n" in done.stdout
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in done.stdout
    # The services' folders, also where root does not run this.
    assert "ReadWritePaths" not in done.stdout


def test_printed_units_and_cron_lines_are_whole(
    place: Path, lxdocker: Program, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options of the command that prints them are not repeated: a relative path means another file there."""
    (place / "c.yaml").write_text("jobs: 2\n")
    monkeypatch.chdir(place)
    printed = lxdocker("units", "--config", "c.yaml").stdout
    assert f"ExecStart={program} sync -q\n" in printed
    assert "--config" not in printed
    monkeypatch.setattr(units, "has_systemd", lambda: False)
    said = lxdocker("init", "--auto", "--config", "c.yaml").stdout
    (line,) = [line for line in said.splitlines() if "sync" in line and "* * * *" in line]
    assert line.endswith(f"LXDOCKER_CONFIG={place}/c.yaml {program} sync -q")


def test_units_are_installed_but_not_enabled(lxdocker: Program, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "check_program", lambda _: None)
    monkeypatch.setattr(units, "serve_obstacle", lambda _: None)
    asked: list[str] = []

    def install(files: tuple[File, ...]) -> list[Path]:
        asked.extend(file.path.name for file in files)
        return [files[0].path]

    monkeypatch.setattr(units, "install", install)
    done = lxdocker("units", "--install")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "wrote /etc/sysusers.d/lxdocker.conf",
        "to enable the hourly sync:",
        "  systemd-sysusers lxdocker.conf",
        "  systemd-tmpfiles --create lxdocker.conf",
        "  systemctl daemon-reload",
        "  systemctl enable --now lxdocker-sync.timer",
        "to serve the images to other hosts: systemctl enable --now lxdocker-serve.service",
    ]
    assert "lxdocker-serve.service" in asked
    asked.clear()
    monkeypatch.setattr(units, "serve_obstacle", lambda _: "its user cannot run it")
    done = lxdocker("units", "--install")
    assert "not installing lxdocker-serve.service: its user cannot run it" in done.stderr
    assert "lxdocker-serve.service" not in {*asked, *done.stdout.split()}
    assert "lxdocker-sync.timer" in asked


# ---- what cron and systemd leave out


def test_the_usual_folders_of_programs_and_the_home_folder_are_known() -> None:
    cron = {"PATH": "/usr/bin:/bin", "HOME": "/home/ann"}
    complete(cron)
    assert cron["PATH"] == "/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/snap/bin"
    assert cron["HOME"] == "/home/ann"
    nothing: dict[str, str] = {}
    complete(nothing)
    assert nothing["HOME"] == str(Path("~").expanduser()) or "HOME" in os.environ
    assert "/snap/bin" in nothing["PATH"].split(":")
    chosen = {"PATH": "/opt/incus/bin", "HOME": "/"}
    complete(chosen)
    assert chosen["PATH"] == "/opt/incus/bin"


def test_a_working_folder_that_is_gone(place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "gone").mkdir()
    monkeypatch.chdir(place / "gone")
    (place / "gone").rmdir()
    done = lxdocker("validate")
    monkeypatch.chdir(place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cannot use the working folder\n  No such file or directory\n")


# ---- hooks, and -q


@pytest.fixture
def lxd(place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageDaemon]:
    """An LXD, and builders that make something of two images on disk."""
    (place / "lxd").mkdir()
    monkeypatch.setenv("LXDOCKER_TREE", str(place / "tree"))
    for name in ("web", "db"):
        change(place, name, "first")
    builders = cast("Workshop", ScriptedBuilders())
    monkeypatch.setattr(sync_run, "_open_workshop", lambda *_: builders)
    with image_daemon(place / "lxd", recorded.every()[-1]) as daemon:
        yield daemon


def change(place: Path, name: str, text: str) -> None:
    folder = place / "images" / f"{name}-{text}"
    made = make_image(text=text)
    write_layout(folder, [made], [(made.manifest, "1")], [])
    (place / f"images.d/{name}.yaml").write_text(f"image: oci:{folder}:1\n")


def hook(place: Path, name: str, text: str = "") -> str:
    """A command that keeps each document it is given."""
    path = place / name
    path.write_text(f"#!/bin/sh\n{text}\ncat >>{place}/{name}.told\n")
    path.chmod(0o755)
    return str(path)


def told(place: Path, name: str) -> list[dict[str, Any]]:
    """What a hook was given, since the last look."""
    path = place / f"{name}.told"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    documents = [json.loads(line) for line in lines]
    schema = json.loads(resource("schema", "output/event.schema.json").read_text())
    for document in documents:
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)
    return documents


def test_hooks_are_told_what_changed_and_what_failed(
    place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", hook(place, "changed"))
    monkeypatch.setenv("LXDOCKER_ON_FAILURE", hook(place, "failed"))
    assert lxdocker("sync", "--dry-run").returncode == 0
    assert (told(place, "changed"), told(place, "failed")) == ([], [])
    assert lxdocker("sync").returncode == 0
    (document,) = told(place, "changed")
    assert {**document, "images": [], "time": ""} == {
        "since": None,
        "schema": 1,
        "event": "change",
        "command": "sync",
        "host": os.uname().nodename,
        "time": "",
        "images": [],
        "error": None,
    }
    assert document["time"].endswith("+00:00")
    assert [image["name"] for image in document["images"]] == ["db", "web"]
    assert told(place, "failed") == []
    # Nothing new, nothing told.
    assert lxdocker("sync").returncode == 0
    assert (told(place, "changed"), told(place, "failed")) == ([], [])
    # One of each.
    change(place, "web", "second")
    (place / "images.d/db.yaml").write_text("image: oci:/nowhere\n")
    first = ""
    for changes in (["web"], []):  # a failure is told each time, and since when
        assert lxdocker("sync").returncode == 1
        assert [image["name"] for found in told(place, "changed") for image in found["images"]] == changes
        (document,) = told(place, "failed")
        assert document["event"] == "failure"
        (image,) = document["images"]
        assert image["name"] == "db"
        assert image["error"].keys() >= {"what", "why", "do"}
        first = first or image["since"]
        assert (image["since"], document["since"]) == (first, first)
    assert first <= document["time"]


def test_specs_of_a_repository_that_cannot_be_fetched_are_a_failure(
    place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last good commit, everything is done nevertheless."""
    monkeypatch.setenv("LXDOCKER_ON_FAILURE", hook(place, "failed"))
    origin, checkout = place / "origin", place / "specs/current"
    monkeypatch.setattr(settings, "checkout", lambda _: checkout)
    monkeypatch.setattr(repository, "checkout", lambda _: checkout)
    monkeypatch.setattr(spec, "checkout", lambda _: checkout)
    monkeypatch.setenv("LXDOCKER_SPECS_REPOSITORY", f"file://{origin}")
    own = [option for key in ("user.name", "user.email") for option in ("-c", f"{key}=x")]
    git = ["git", "-C", str(place / "images.d"), *own]
    done = lxdocker("status")
    assert (done.returncode, "fetch them with 'lxdocker sync'" in done.stderr) == (2, True)
    # A first fetch that fails is a run that fails as a whole.
    done = lxdocker("sync")
    assert done.returncode == 1
    (document,) = told(place, "failed")
    assert "fetching specs from file://" in document["error"]["what"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "specs"], check=True)
    (place / "images.d").rename(origin)
    done = lxdocker("sync", "--json")
    assert (done.returncode, json.loads(done.stdout)["outdated"]) == (0, None)
    assert {image["outcome"] for image in json.loads(done.stdout)["images"]} == {"built"}
    assert lxdocker("status", "--check").returncode == 0
    assert told(place, "failed") == []
    origin.rename(place / "away")
    for quiet in ([], ["-q"]):
        done = lxdocker("sync", *quiet)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "2 unchanged")
        assert f"outdated  specs: fetching specs from file://{origin} failed" in done.stdout
        (document,) = told(place, "failed")
        assert (document["images"], document["error"]["exit"]) == ([], 1)
        assert document["since"] is not None
    assert lxdocker("status").returncode == 0
    done = lxdocker("status", "--check")
    assert (done.returncode, done.stdout.partition(":")[0]) == (2, "LXDOCKER CRITICAL - specs are outdated")
    for command in (["status"], ["list"], ["sync", "--dry-run"]):
        assert json.loads(lxdocker(*command, "--json").stdout)["outdated"]["exit"] == 1
    (place / "away").rename(origin)
    assert lxdocker("sync").returncode == 0
    assert lxdocker("status", "--check").returncode == 0


def test_a_metrics_file_replaces_no_device(
    place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(place / "pipe")
    (place / "link").symlink_to("/dev/null")
    for path in (place / "pipe", place / "link", place):
        monkeypatch.setenv("LXDOCKER_METRICS_FILE", str(path))
        done = lxdocker("sync")
        assert f"warning: cannot write the metrics file {path}: not a regular file" in done.stderr
    assert (place / "pipe").is_fifo()
    assert (place / "link").is_symlink()


def test_a_log_that_is_a_pipe_without_a_reader_is_refused(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(place / "pipe")
    monkeypatch.setenv("LXDOCKER_LOG", str(place / "pipe"))
    done = lxdocker("validate")
    assert (done.returncode, f"cannot write the log {place / 'pipe'}" in done.stderr) == (2, True)


def test_without_stdin_there_is_nobody_to_ask(lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = lxdocker("mirror", "https://ann@127.0.0.1:1", "copy")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: no password for ann")


def test_a_run_that_fails_as_a_whole_is_a_failure(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here without LXD."""
    monkeypatch.setenv("LXDOCKER_ON_FAILURE", hook(place, "failed"))
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", hook(place, "changed"))
    monkeypatch.setenv("LXDOCKER_TREE", str(place / "tree"))
    for arguments in (["sync", "-q"], ["mirror", "--import", "https://127.0.0.1:1", "--client", "lxc"]):
        done = lxdocker(*arguments)
        assert done.returncode != 0
        (document,) = told(place, "failed")
        assert (document["command"], document["images"]) == (" ".join(arguments[:2]).removesuffix(" -q"), [])
        assert document["error"]["what"] in done.stderr
        assert document["since"] is None  # there is no tree yet
    assert told(place, "changed") == []
    assert lxdocker("sync", "--dry-run").returncode == 2
    assert lxdocker("sync", "wbe").returncode == 2  # a person's typing mistake
    assert lxdocker("status").returncode == 2
    assert told(place, "failed") == []


def listed(name: str) -> Listed:
    return Listed(ImageName(name), Arch.X86_64, "20260102_0304", Fingerprint("a" * 64), {}, frozenset(), (name,))


def test_an_import_calls_them_too_and_is_quiet_without_news(
    place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", hook(place, "changed"))
    monkeypatch.setenv("LXDOCKER_ON_FAILURE", hook(place, "failed"))
    monkeypatch.setenv("LXDOCKER_IMPORT_DIR", str(place / "import"))
    result = Followed(unchanged=2)
    monkeypatch.setattr(follow_run, "follow", lambda *_: result)
    command = ("mirror", "--import", "https://127.0.0.1:1", "--client", "lxc", "-q")
    assert lxdocker(*command) == Done(0, "", "")
    assert (told(place, "changed"), told(place, "failed")) == ([], [])
    result.imported.append(listed("web"))
    result.updated.append(listed("db"))
    result.failed.append(Failure(ImageName("old"), "20260102_0304", LxdockerError("no space", "on /", "free some")))
    done = lxdocker(*command)
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[:3]] == [
        ["imported", "web"],
        ["updated", "db"],
        ["failed", "old"],
    ]
    (changed,), (failed,) = told(place, "changed"), told(place, "failed")
    assert [(image["name"], image["outcome"]) for image in changed["images"]] == [
        ("web", "imported"),
        ("db", "updated"),
    ]
    assert [(image["name"], image["outcome"], image["error"]["do"]) for image in failed["images"]] == [
        ("old", "failed", "free some")
    ]


def test_a_mirror_is_quiet_without_news(place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Mirrored((), (), 3, (), (), (), 0)
    monkeypatch.setattr(tree_mirror, "mirror", lambda *_: result)
    assert lxdocker("mirror", "https://127.0.0.1:1", "copy", "-q") == Done(0, "", "")
    failure = Failure(ImageName("old"), "20260102_0304", LxdockerError("no space", "on /"))
    result = Mirrored((), (), 3, (), (), (failure,), 0)
    done = lxdocker("mirror", "https://127.0.0.1:1", "copy", "-q")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[:2] == ["failed    old 20260102_0304: no space", "            on /"]


def test_a_hook_that_fails_changes_nothing_else(
    place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", hook(place, "changed", "echo no >&2; exit 3"))
    done = lxdocker("sync", "-q", "--json")
    assert (done.returncode, len(json.loads(done.stdout)["images"])) == (0, 2)
    assert f"warning: on_change: {place}/changed failed\n  exit status 3\n  no\n" in done.stderr
    # One that hangs, and is ended.
    change(place, "web", "second")
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", shlex.join(["sleep", "1000"]))
    monkeypatch.setenv("LXDOCKER_HOOK_TIMEOUT", "1")
    done = lxdocker("sync", "-q")
    assert done.returncode == 0
    assert "warning: on_change: sleep was stopped\n  it ran longer than 1 s\n" in done.stderr


def test_a_hook_may_be_a_url(place: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda handler: handler.reply(200 if handler.path == "/ok" else 404)) as server:
        monkeypatch.setenv("LXDOCKER_ON_CHANGE", f"{server.url}/ok")
        assert lxdocker("sync", "-q").stderr == ""
        assert [image["name"] for image in json.loads(server.seen[0].body)["images"]] == ["db", "web"]
        change(place, "web", "second")
        monkeypatch.setenv("LXDOCKER_ON_CHANGE", f"http://ann:s3cret@{server.address}/s3cret")
        done = lxdocker("sync", "-q")
    assert done.returncode == 0
    assert f"warning: on_change: {server.url} refused the POST\n  status 404\n" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


def test_settings_show_no_secret_of_a_hook(place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", "notify --token s3cret")
    monkeypatch.setenv("LXDOCKER_ON_FAILURE", "https://ann:s3cret@hooks.example/s3cret")
    for arguments in (["config"], ["config", "--json"]):
        done = lxdocker(*arguments)
        assert done.returncode == 0
        assert "hooks.example" in done.stdout
        assert "s3cret" not in done.stdout + done.stderr


def test_quiet_says_nothing_but_news(place: Path, lxd: ImageDaemon, lxdocker: Program) -> None:
    """What cron would mail: each line of either stream."""
    done = lxdocker("sync", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [["built", "db"], ["built", "web"]]
    for arguments in ("sync -q", "prune -q", "publish verify -q", "sync -q --dry-run", "sync -q web"):
        assert lxdocker(*arguments.split()) == Done(0, "", ""), arguments
    (place / "images.d/db.yaml").write_text("image: oci:/nowhere\n")
    done = lxdocker("sync", "-q")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.split()[:2] == ["failed", "db:"]
    assert "web" not in done.stdout
    (place / "images.d/db.yaml").unlink()
    done = lxdocker("prune", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("removed   db")
