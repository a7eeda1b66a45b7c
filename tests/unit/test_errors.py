from __future__ import annotations

import inspect
import re

import pytest

from lxdocker import errors
from lxdocker.errors import LxdockerError

# By whom something has to be mended: 2 if the command line, the settings, the specs or this host are wrong.
EXIT_STATUSES = {
    "LxdockerError": 1,
    "UsageError": 2,
    "SpecError": 2,
    "HostError": 2,
    "RegistryError": 1,
    "UnreachableError": 1,
    "AuthError": 1,
    "ImageMissingError": 1,
    "ArchMissingError": 1,
    "BuildError": 1,
    "LxdError": 1,
    "TreeError": 1,
    "MirrorError": 1,
}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LxdockerError("it failed", "because", "do this"), "it failed: because"),
        (LxdockerError("it failed"), "it failed"),
        (LxdockerError("it failed", resolution="do this"), "it failed"),
    ],
)
def test_in_one_line_an_error_says_what_and_why(error: LxdockerError, text: str) -> None:
    assert str(error) == text


def kinds() -> dict[str, type[LxdockerError]]:
    members = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in members if issubclass(kind, LxdockerError)}


def test_the_exit_status_tells_whose_fault_it_was() -> None:
    assert {name: kind("x").exit_code for name, kind in kinds().items()} == EXIT_STATUSES


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    lines = re.findall(r"^ {4}((?:[│ ] {3})*(?:[├└]── )?)(\w+Error) +", errors.__doc__ or "", re.MULTILINE)
    parents: dict[str, str] = {}
    path: list[str] = []
    for indent, name in lines:
        del path[len(indent) // 4 :]
        if path:
            parents[name] = path[-1]
        path.append(name)
    assert len(lines) == len(kinds())
    above = {name: kind.__mro__[1] for name, kind in kinds().items()}
    assert parents == {name: parent.__name__ for name, parent in above.items() if parent is not Exception}
