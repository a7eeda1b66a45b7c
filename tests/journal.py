"""Records in which order the code under test changes files. Every change is really made."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# What mkstemp and mkdtemp add to a name. An image's file ends in as many letters.
_RANDOM = re.compile(r"\.(?!squashfs)[a-z0-9_]{8}(?=/|$)")


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[list[str]]:
    """The changes below ``root`` as lines such as ``sync a``, ``rename a b``, ``unlink a``; random parts of names are
    ``.*``.
    """
    journal: list[str] = []

    def note(action: str, *paths: Any) -> None:
        absolute = [Path(path).absolute() for path in paths]
        if all(path.is_relative_to(root) for path in absolute):
            names = [path.relative_to(root).as_posix() for path in absolute]
            journal.append(" ".join([action, *(_RANDOM.sub(".*", name) for name in names)]))

    def watched(action: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            paths = arguments[: 2 if action in {"rename", "link"} else 1]
            if (folder := keywords.get("dir_fd")) is not None:
                paths = (f"{_path_of(folder)}/{paths[0]}",)
            elif isinstance(paths[0], int):
                paths = (_path_of(paths[0]),)
            result = real(*arguments, **keywords)
            note(action, *paths)
            return result

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name in ("fsync", "rename", "link", "unlink", "rmdir", "utime"):
            patched.setattr(os, name, watched(name.removeprefix("f"), getattr(os, name)))
        yield journal


def _path_of(handle: int) -> str:
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def in_order(journal: list[str], *wanted: str) -> None:
    """Each of these changes was made, and in this order; others may be between them."""
    at = -1
    for line in wanted:
        assert line in journal[at + 1 :], f"no {line!r} after {wanted[: wanted.index(line)]} in {journal}"
        at = journal.index(line, at + 1)
