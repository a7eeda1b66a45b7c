"""A tree to work on, a clock to set, a disk to mount."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lxdocker.tree.tree import Tree
from tests.trees import (
    locked,
)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    with locked(Tree(tmp_path / "tree")) as held:
        yield held


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock of this process; the kernel's times of files are set by it, too, as far as the tree reads them."""
    real, utime = time.time, os.utime
    offset = 0.0

    def at(path: Any, times: tuple[float, float] | None = None) -> None:
        utime(path, times or (time.time(),) * 2)

    def move(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    monkeypatch.setattr(time, "time", lambda: real() + offset)
    monkeypatch.setattr(os, "utime", at)
    return move


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small tmpfs with these options."""
    points: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk{len(points)}"
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], check=True)
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)
