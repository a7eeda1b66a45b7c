from __future__ import annotations

from pathlib import Path

import pytest

from tests.instance import Instance


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(tmp_path / "root")
