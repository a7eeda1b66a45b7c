"""Tests of the published tree with a real LXD as its client, which scripts/test starts beside any that is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lxd)


@pytest.fixture(scope="session", autouse=True)
def parts() -> None:
    """Fails, instead of skipping in silence or touching a user's own LXD."""
    if not os.environ.get("LXD_DIR"):
        pytest.fail("these tests need a private LXD (LXD_DIR is not set): run scripts/test")
