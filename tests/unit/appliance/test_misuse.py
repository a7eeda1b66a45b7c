"""What is wrong with a command line is said before LXD is asked for anything."""

from __future__ import annotations

import pytest

from tests.unit.cli.test_commands import Program, lxdocker, place

__all__ = ["lxdocker", "place"]  # fixtures


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["create", "--name", "a_b"], "cannot be an appliance's name"),
        (["create", "--specs", "nowhere"], "no folder nowhere"),
        (["create", "--branch", "main"], "are about a repository"),
        (["create", "--specs", "images.d", "--specs-repository", "https://git.example/x"], "exclude each other"),
        (["create", "--specs-repository", "https://git.example/x", "--signed-by", "nowhere"], "cannot read nowhere"),
        (["create", "--settings", "nowhere"], "nowhere: expected a readable file"),
        (["create", "--listen", "8444"], "not an address"),
        (["create", "--calendar", "a\nb"], "not a time for systemd"),
        (["create", "--delay", "soon"], "not a time span"),
        (["delete", "--name", "-x"], "cannot be an appliance's name"),
        *(
            ([command], "cannot connect to LXD")
            for command in ("create", "upgrade", "status", "logs", "edit", "delete")
        ),
    ],
)
def test_misuse(lxdocker: Program, arguments: list[str], complaint: str) -> None:
    done = lxdocker("appliance", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "->" in done.stderr or "exclude" in complaint
    assert done.stdout == ""
