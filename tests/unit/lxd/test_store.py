"""The image store: the same over each LXD that people run, as recorded, and over what stands in for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxdocker.lxd.store import Store
from tests import contracts, recorded
from tests.recorded import Recorded
from tests.stand_ins import FolderLxd, client_of, image_daemon


@pytest.fixture(params=[None, *recorded.every()], ids=lambda lxd: str(lxd or "a folder"))
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param is None:
        yield Store(FolderLxd(tmp_path / "lxd"), "default")
        return
    with image_daemon(tmp_path, request.param):
        yield Store(client_of(tmp_path), "default")


@pytest.mark.parametrize("contract", contracts.STORE, ids=lambda contract: contract.__name__)
def test_contract(contract: Callable[[Store, Path], None], store: Store, tmp_path: Path) -> None:
    contract(store, tmp_path)


@pytest.mark.parametrize("lxd", recorded.every(), ids=str)
def test_a_project_that_is_not_there(tmp_path: Path, lxd: Recorded) -> None:
    with image_daemon(tmp_path, lxd):
        contracts.a_project_that_is_not_there(Store(client_of(tmp_path), "none"))
