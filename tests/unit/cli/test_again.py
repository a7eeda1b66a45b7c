"""Commands in messages are about the same folder, tree and LXD as the command that prints them."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from lxdocker.cli import main  # noqa: F401 - has all commands
from lxdocker.cli.again import in_document, repeating
from lxdocker.cli.app import app


def context(*words: str) -> Any:
    root: Any = typer.main.get_command(app)
    ctx: Any = typer.Context(root, info_name="lxdocker")
    command, rest = root, list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command.make_context(words[0], rest, parent=ctx)


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (
            "sync --specs /mnt/x --project p -v",
            "to remove the images: lxdocker prune --all",
            "to remove the images: lxdocker prune --specs /mnt/x --project p --all",
        ),
        (
            "publish list --tree /t",
            "lxdocker publish rollback web --undo; lxdocker sync",
            "lxdocker publish rollback --tree /t web --undo; lxdocker sync --tree /t",
        ),
        # Only what a command takes, and what it has not already.
        ("sync --specs /x --tree /t", "lxdocker builder build", "lxdocker builder build"),
        ("sync --config /c", "see lxdocker builder build", "see lxdocker builder build --config /c"),
        ("sync --specs /x", "lxdocker sync --specs /y web", "lxdocker sync --specs /y web"),
        # Neither a group, nor a unit, nor a word.
        ("sync --specs /x", "lxdocker publish, lxdocker-sync.timer, lxdocker itself", None),
        ("sync --jobs 3", "lxdocker prune --all", None),
    ],
)
def test_options_that_say_where_are_repeated(words: str, text: str, expected: str | None) -> None:
    repeat = repeating(context(*words.split()))
    assert (repeat(text) if repeat else text) == (expected or text)


def test_they_are_quoted() -> None:
    repeat = repeating(context("sync", "--specs", "/my specs"))
    assert repeat is not None
    assert repeat("lxdocker validate") == "lxdocker validate --specs '/my specs'"


def test_in_a_document_only_texts_for_people_have_them() -> None:
    repeat = repeating(context("sync", "--specs", "/x"))
    assert repeat is not None
    document = {
        "do": "lxdocker sync",
        "name": "lxdocker sync",
        "more": [{"commands": ["lxdocker sync a", "lxc start a"]}],
    }
    assert in_document(document, repeat) == {
        "do": "lxdocker sync --specs /x",
        "name": "lxdocker sync",
        "more": [{"commands": ["lxdocker sync --specs /x a", "lxc start a"]}],
    }
