"""Completion: what may stand at the cursor, and in real shells what stands there after a tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from lxdocker.cli import completion
from lxdocker.cli.app import app
from lxdocker.cli.completion import SHELLS, VALUES, complete, script
from tests.examples import provenance, publish, spec
from tests.terminal import Terminal, environment, terminal
from tests.unit.cli.test_commands import Program, commands, lxdocker, place

__all__ = ["lxdocker", "place"]  # fixtures

ROOT = Path(__file__).parents[3]
COMMANDS = commands()


@pytest.fixture
def published(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A tree with two versions of one image; their keys, newest first."""
    from lxdocker.tree.tree import Tree

    tree = Tree(place / "tree")
    monkeypatch.chdir(place)
    with tree.lock(print, threading.Event()):
        for content in ("one", "two"):
            publish(tree, provenance(spec("web", "web:1")), content)
    return sorted((path.name for path in (place / "tree/images/web").glob("*/*")), reverse=True)


def values(line: str, **environ: str) -> list[str]:
    found = complete(get_command(app), line, {"HOME": "/nowhere", **environ})
    return [value for value, _ in found.values]


def also(line: str) -> str:
    return complete(get_command(app), line, {"HOME": "/nowhere"}).also


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lxdocker val", ["validate"]),
        ("lxdocker publish roll", ["rollback"]),
        ("lxdocker -v --specs elsewhere publish roll", ["rollback"]),
        ("lxdocker sync ", ["db", "web"]),
        ("lxdocker sync w", ["web"]),
        ("lxdocker sync 'w", ["web"]),
        ("lxdocker sync web ", ["db"]),
        ("lxdocker sync -j 2 --force d", ["db"]),
        ("lxdocker sync -- d", ["db"]),
        ("lxdocker sync --adopt ", ["db", "web", "*"]),
        ("lxdocker sync --adopt=w", ["web"]),
        ("lxdocker --specs other sync ", ["third"]),
        ("lxdocker sync --specs=other ", ["third"]),
        ("lxdocker sync --specs nowhere ", []),
        ("lxdocker sync --dry", ["--dry-run"]),
        ("lxdocker inspect ", ["db", "web"]),
        ("lxdocker new ", []),
        ("lxdocker sync --jobs ", []),
        ("lxdocker builder build --from ", ["image", "mmdebstrap"]),
        ("lxdocker builder build --from=mm", ["mmdebstrap"]),
        ("lxdocker completion ", ["bash", "zsh", "fish"]),
        ("lxdocker builder input web ", []),
        ("lxdocker nosuch ", sorted(get_command(app).commands, key=list(get_command(app).commands).index)),  # type: ignore[attr-defined]
        ("lxdocker sync --nosuch=", []),
    ],
)
def test_what_may_stand_at_the_cursor(
    place: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: list[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "other").mkdir()
    (place / "other/third.yaml").write_text("not even: [a spec")
    (place / "images.d/.hidden.yaml").touch()
    (place / "images.d/notes.txt").touch()
    hidden = {name for name, command in get_command(app).commands.items() if command.hidden}  # type: ignore[attr-defined]
    assert values(line) == [value for value in expected if value not in hidden]


def test_images_and_versions_in_the_tree(published: list[str]) -> None:
    assert len(published) == 2
    assert values("lxdocker publish rollback --tree tree ") == ["web"]
    assert values("lxdocker publish rollback ", LXDOCKER_TREE="tree") == ["web"]
    assert values("lxdocker publish rollback --tree tree web ") == published
    assert values(f"lxdocker publish rollback --tree tree web {published[1]}") == [published[1]]
    assert values("lxdocker publish rollback --tree tree nosuch ") == []
    assert values("lxdocker publish list --tree tree ") == ["web"]
    assert values("lxdocker log --tree tree ") == ["db", "web"]
    assert values("lxdocker diff --tree tree ") == ["web"]
    assert values("lxdocker diff --tree tree web ") == [*published, "registry"]
    assert values(f"lxdocker diff --tree tree web {published[1]} ") == [published[0], "registry"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lxdocker sync --specs ", "dirs"),
        ("lxdocker sync --specs=", "dirs"),
        ("lxdocker --config ", "files"),
        ("lxdocker validate ", "files"),
        ("lxdocker serve --tls-cert x", "files"),
        ("lxdocker publish rollback ", "none"),
        ("lxdocker ", "none"),
    ],
)
def test_where_files_and_folders_may_stand(line: str, expected: str) -> None:
    assert also(line) == expected


def test_every_name_of_a_spec_or_an_image_can_be_completed() -> None:
    named = {
        (name, parameter.name)
        for name, command in COMMANDS.items()
        for parameter in command.params
        if parameter.param_type_name == "argument" and "NAME" in (parameter.metavar or "")
    }
    strange = {("remote add", "name"), ("mirror", "rest"), ("add", "name"), ("new", "name")}  # known elsewhere, or new
    assert named - strange == {key for key in VALUES if key[1] not in ("adopt", "version", "old", "new")}


def test_each_option_has_help_and_each_line_is_one() -> None:
    for name in COMMANDS:
        found = complete(get_command(app), f"lxdocker {name} --", {})
        assert "--help" in [value for value, _ in found.values]
        assert all(help_ and "\t" not in help_ for _, help_ in found.values), name


@pytest.mark.parametrize("line", ["lxdocker sync ", "lxdocker publish rollback x ", "", "'", "lxdocker \\", "\udcff"])
def test_whatever_is_wrong_nothing_is_said(place: Path, line: str) -> None:
    (place / "config.yaml").write_text("[[[")
    done = subprocess.run(
        [sys.executable, "-m", "lxdocker"],
        env={
            **environment(place),
            "PYTHONPATH": str(ROOT),
            "LXDOCKER_CONFIG": "config.yaml",
            "_LXDOCKER_COMPLETE": line,
        },
        cwd=place,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == b""
    assert done.stdout.split(b"\n")[0] in (b"none", b"files", b"")


def test_neither_lxd_nor_a_registry_is_asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: asked.append(arguments))
    monkeypatch.chdir(place)
    for name in COMMANDS:
        for rest in ("", "--", "x "):
            complete(get_command(app), f"lxdocker {name} {rest}", os.environ)
    assert asked == []
    assert completion.VARIABLE == "_LXDOCKER_COMPLETE"


# ---- shells


def test_a_script_for_each_shell(lxdocker: Program) -> None:
    for shell in SHELLS:
        done = lxdocker("completion", shell)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == script(shell)
    done = lxdocker("completion", "tcsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "bash, zsh, fish" in done.stderr


START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'PS1="ready> "; source <(lxdocker completion bash)'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'PROMPT="ready> "; autoload -Uz compinit; compinit -u -D; source <(lxdocker completion zsh)',
    ),
    "fish": (
        ["fish", "--no-config", "--interactive"],
        'function fish_prompt; echo -n "ready> "; end; lxdocker completion fish | source; clear',
    ),
}


@contextmanager
def shell(name: str, place: Path) -> Iterator[Terminal]:
    folder = place / "bin"
    folder.mkdir()
    (folder / "lxdocker").write_text(f'#!/bin/sh\nexec {sys.executable} -m lxdocker "$@"\n')
    (folder / "lxdocker").chmod(0o755)
    own = environment(place, PYTHONPATH=str(ROOT), LXDOCKER_TREE=str(place / "tree"))
    own["PATH"] = f"{folder}:{own['PATH']}"
    argv, setup = START[name]
    with terminal(argv, 100, 30, cwd=place, environment=own) as shown:
        shown.process.sendline(setup)
        shown.wait_for("the prompt", lambda lines: any(line.startswith("ready>") for line in lines))
        yield shown


def has(text: str) -> Any:
    return lambda lines: any(line.rstrip() == text or line.startswith(f"{text} ") for line in lines)


@pytest.mark.parametrize("name", SHELLS)
def test_a_tab_in_a_real_shell(name: str, place: Path, published: list[str]) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    (place / "folder-of-specs").mkdir()
    with shell(name, place) as shown:
        for typed, expected in (
            ("lxdocker vali\t", "ready> lxdocker validate"),
            ("lxdocker publish rollb\t", "ready> lxdocker publish rollback"),
            ("lxdocker sync w\t", "ready> lxdocker sync web"),
            ("lxdocker sync --dry\t", "ready> lxdocker sync --dry-run"),
            ("lxdocker builder build --from mm\t", "ready> lxdocker builder build --from mmdebstrap"),
            ("lxdocker publish rollback w\t", "ready> lxdocker publish rollback web"),
            ("lxdocker sync --specs folder-o\t", "ready> lxdocker sync --specs folder-of-specs/"),
            ("lxdocker sync --adopt=d\t", "ready> lxdocker sync --adopt=db"),
        ):
            shown.process.send(typed)
            shown.wait_for(expected, has(expected))
            shown.process.send("\x15")  # Ctrl-U: the line is gone
            shown.wait_for("an empty line", lambda lines: [line for line in lines if line][-1].rstrip() == "ready>")
        shown.process.send("lxdocker publish rollback web \t\t\t")
        # fish leaves out how they begin.
        shown.wait_for("both versions", lambda lines: all(any(key[3:] in line for line in lines) for key in published))
        assert "rror" not in shown.everything
        assert "Traceback" not in shown.everything
