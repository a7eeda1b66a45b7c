"""What stands in for LXD and its builders in the unit tests, compared with the real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lxdocker.builder import image, placement
from lxdocker.builder.instance import Workshop
from lxdocker.config.settings import Settings
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.store import Store
from lxdocker.sync.context import Context, open_context
from lxdocker.sync.make import Making
from tests import contracts
from tests.examples import spec
from tests.lxd.rig import World, end_of_builders, tiny


@pytest.fixture
def context(world: World) -> Iterator[Context]:
    client_dir = world.folder / "client"
    settings = Settings(specs=world.specs, tree=world.tree, project=world.project, client_dir=client_dir)
    with open_context(settings, threading.Event()) as opened:
        yield opened


@pytest.mark.parametrize("contract", contracts.STORE, ids=lambda contract: contract.__name__)
def test_the_store(contract: Callable[[Store, Path], None], context: Context, tmp_path: Path) -> None:
    contract(context.store, tmp_path)


def test_a_project_that_is_not_there(context: Context) -> None:
    contracts.a_project_that_is_not_there(Store(context.lxd, "t-none"))


def test_builders(world: World, context: Context, tmp_path: Path) -> None:
    (item,) = context.resolve([spec("web", world.push("web", tiny("web")))], context.look())
    assert isinstance(item, Wanted)
    builder_image = image.find(context.lxd, context.settings.builder_project)
    assert builder_image
    placed = placement.prepare(context.lxd, context.settings)
    with closing(Workshop(context.lxd, placed, builder_image.fingerprint)) as workshop:
        contracts.a_build_tells_its_steps_and_gives_the_same_each_time(
            Making.of(context, item), workshop, tmp_path / "builds"
        )
        contracts.a_builder_drops_layers_when_it_is_told_which_stay(workshop)
    end_of_builders()
