from __future__ import annotations

import inspect

import pytest

from lxdocker import errors
from lxdocker.errors import LxdockerError, UsageError


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


def kinds() -> list[type[LxdockerError]]:
    found = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, LxdockerError)]
    assert len(found) > 5
    return found


@pytest.mark.parametrize("kind", kinds())
def test_the_exit_status_tells_whose_fault_it_was(kind: type[LxdockerError]) -> None:
    assert kind("x").exit_code == (2 if issubclass(kind, UsageError) else 1)
    # What the tree in the module's docstring says of each.
    assert errors.__doc__ is not None
    assert f" {kind.__name__} " in errors.__doc__.replace("\n", " ")
