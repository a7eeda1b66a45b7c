"""Fixtures for the tests of the Ansible collection, which ansible-core runs on this very machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lxd.conftest import builder_image, parts, registry, seed  # noqa: F401 - fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lxd)
            item.add_marker(pytest.mark.any_lxd)
