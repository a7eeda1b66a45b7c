"""Fixtures for the tests against a real LXD, which scripts/test starts beside any that is there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxdocker.builder.placement import PROJECT_CONFIG
from tests.lxd.rig import BUILDER_PROJECT, COMMAND_SECONDS, LXDOCKER, Instance, Lxc, World, tiny
from tests.serve.rig import Served, serve

NEEDED = (
    "LXD_DIR",
    "LXDOCKER_TEST_LXD",
    "LXDOCKER_TEST_REGISTRY",
    "LXDOCKER_TEST_IMAGES",
    "LXDOCKER_TEST_INCUS",
    "LXDOCKER_TEST_BASE",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lxd)


@pytest.fixture(scope="session", autouse=True)
def parts() -> None:
    """Fails, instead of skipping in silence or touching a user's own LXD."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        pytest.fail(f"these tests need a private LXD and a registry ({', '.join(missing)} not set): run scripts/test")


@pytest.fixture(scope="session")
def builder_image(parts: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The builder image that all tests share, as ``builder show --json`` has it; made by whoever needs it first."""
    folder = tmp_path_factory.mktemp("builder")

    def lxdocker(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LXDOCKER_")}
        return subprocess.run(
            [*LXDOCKER, "builder", *command],
            env={**environment, "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    with shared_builder() as shared:
        if '"stale": null' not in lxdocker("show", "--json").stdout and not import_builder(shared):
            made = lxdocker("build", "--from", "mmdebstrap")
            assert made.returncode == 0, made.stderr
            if shared:
                fingerprint = json.loads(lxdocker("show", "--json").stdout)["fingerprint"]
                Lxc(BUILDER_PROJECT)("image", "export", fingerprint, str(shared / "builder"))
    shown = lxdocker("show", "--json")
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@contextmanager
def shared_builder() -> Iterator[Path | None]:
    """Where the LXDs of one run of scripts/test share it, while this process may change what is there."""
    results = os.environ.get("LXDOCKER_TEST_RESULTS")
    if not results:
        yield None
        return
    folder = Path(results).with_name("builder")
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def import_builder(shared: Path | None) -> bool:
    """Takes over the image that another LXD's tests have made, if there is one."""
    files = sorted(map(str, shared.glob("builder*"))) if shared else []
    if len(files) != 2:
        return False
    if BUILDER_PROJECT not in {one["name"] for one in Lxc().query("/1.0/projects?recursion=1")}:
        config = [word for key, value in PROJECT_CONFIG.items() for word in ("-c", f"{key}={value}")]
        Lxc()("project", "create", BUILDER_PROJECT, *config)
    Lxc(BUILDER_PROJECT)("image", "import", *files, "--alias", "builder")
    return True


@pytest.fixture(scope="session")
def registry(parts: None) -> str:
    """HOST:PORT of an open registry."""
    return os.environ["LXDOCKER_TEST_REGISTRY"]


@pytest.fixture(scope="session")
def layouts(parts: None) -> Path:
    """The folder with OCI layouts of real applications."""
    return Path(os.environ["LXDOCKER_TEST_IMAGES"])


@pytest.fixture
def world(tmp_path: Path, registry: str, builder_image: str) -> Iterator[World]:
    """An empty world with an LXD project of its own."""
    made = World(tmp_path / "world", registry)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory, registry: str, builder_image: str) -> Iterator[World]:
    """A world with the images ``app`` and ``other``, to fill others from."""
    made = World(tmp_path_factory.mktemp("seed") / "world", registry)
    try:
        made.wants("app", tiny("app"))
        made.wants("other", tiny("other"))
        made.sync()
        yield made
    finally:
        made.close()


@pytest.fixture
def filled(tmp_path: Path, seed: World) -> Iterator[World]:
    """A world with the image ``app``."""
    made = World(tmp_path / "world", seed.registry, namespace=seed.namespace)
    try:
        made.fill(seed, "app")
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(tmp_path: Path, seed: World) -> Iterator[World]:
    """A world with the images ``app`` and ``other``."""
    made = World(tmp_path / "world", seed.registry, namespace=seed.namespace)
    try:
        made.fill(seed, "app", "other")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, registry: str, builder_image: str) -> Iterator[World]:
    """A world for a whole module."""
    made = World(tmp_path_factory.mktemp("module") / "world", registry)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def published(shared_world: World, registry: str) -> World:
    """A world with the image ``nginx``, for a whole module."""
    shared_world.spec("nginx", f"{registry}/nginx")
    shared_world.sync()
    return shared_world


@pytest.fixture
def served(published: World, tmp_path: Path) -> Iterator[Served]:
    """A server of that world's tree."""
    with serve(tmp_path / "served", published.tree) as found:
        yield found


@pytest.fixture
def launch() -> Iterator[Callable[..., Instance]]:
    """Launches instances of a world's images, and deletes them afterwards."""
    launched: list[Instance] = []

    def launch(world: World, image: str, *options: str) -> Instance:
        instance = Instance(world.lxc, image, *options)
        launched.append(instance)
        return instance

    yield launch
    for instance in launched:
        instance.delete()
