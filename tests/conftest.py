"""How the tests share two workers, where scripts/test has them run side by side.

What needs LXD counts the containers there, so each worker has an LXD of its own, and these tests stay together.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOGETHER = {"lxd": "lxd", "parity": "instances", "runtime": "instances"}  # folder -> group


def pytest_configure() -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    number = int(worker.removeprefix("gw"))
    if number and "LXD_DIR" in os.environ:
        for variable in ("LXD_DIR", "LXD_CONF"):
            os.environ[variable] += f"-{number + 1}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        item.add_marker(pytest.mark.xdist_group(TOGETHER.get(folder, item.path.name)))
