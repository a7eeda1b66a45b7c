"""A server for all tests of a module that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.rig import Served, make_tree, serve


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("served"), tree) as found:
        yield found
