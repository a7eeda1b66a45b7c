"""Fixtures for the tests of the runtime: one sync builds all the tiny images, for all modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lxd.conftest import builder_image, layouts, parts, registry  # noqa: F401 - fixtures
from tests.lxd.rig import World
from tests.runtime.boxes import IMAGES, Box


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lxd)


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory, registry: str, builder_image: str) -> Iterator[World]:  # noqa: F811 - pytest
    """A world with all of IMAGES, synced."""
    world = World(tmp_path_factory.mktemp("boxes") / "world", registry)
    try:
        for name, wanted in IMAGES.items():
            world.wants(name, wanted.image, **wanted.keys)
        done = world.sync("--jobs", "2")
        assert set(done.statuses.values()) == {"built"}
        assert "warning: jail lacks 1 device nodes or file attributes" in done.err
        yield world
    finally:
        world.close()


@pytest.fixture
def launch(boxes: World) -> Iterator[Callable[..., Box]]:
    """Makes instances, and deletes them afterwards."""
    launched: list[Box] = []

    def launch(image: str = "box", script: str | None = None, **options: object) -> Box:
        made = Box(boxes.lxc, image, script, **options)  # type: ignore[arg-type]  # passed on
        launched.append(made)
        return made

    yield launch
    for one in launched:
        one.delete()
