"""Fixtures of the parity suite: every selected image is made, run under podman and run by LXD once, for all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import summary
from tests.lxd.rig import Lxc, World
from tests.parity import images, run, table
from tests.parity.cases import CASES, Case
from tests.parity.compare import Difference
from tests.parity.images import Layout
from tests.parity.run import Seen

REPOSITORY = "parity"
SYNC_SECONDS = 400
RESULTS = pytest.StashKey[dict[str, list[Difference]]]()


@dataclass(frozen=True)
class Pair:
    """What was seen under podman and under LXD."""

    docker: Seen
    lxd: Seen


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> dict[str, list[Difference]]:
    """Case -> all that differed; becomes the table at the end of the run."""
    return request.config.stash.setdefault(RESULTS, {})


@pytest.fixture(scope="session")
def observations(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """Case -> what was seen of it."""
    missing = [name for name in ("LXD_DIR", "LXDOCKER_TEST_REGISTRY") if not os.environ.get(name)]
    if missing:
        pytest.fail(f"these tests need a private LXD and a registry ({', '.join(missing)} not set): run scripts/test")
    registry = os.environ["LXDOCKER_TEST_REGISTRY"]
    wanted = [item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")]
    cases = [case for case in CASES if case in wanted]
    folder = tmp_path_factory.mktemp("parity")
    sources = {case.image for case in cases}
    layout = images.make(folder, [case for case in CASES if case.name in sources])
    layout.push(registry, REPOSITORY)
    world = World(folder / "world", registry, settings={"builder_from": "mmdebstrap", "jobs": 2})
    podman = run.Podman(Path(tempfile.mkdtemp(prefix="podman.")))
    try:
        with ThreadPoolExecutor(2) as pool:
            docker = pool.submit(_run_by_podman, podman, cases, layout)
            _sync(world, [case for case in CASES if case.name in sources], registry)
            interface = Lxc().query("/1.0/profiles/default")["devices"]["eth0"]
            lxd = pool.map(lambda case: run.launch(case, world.lxc, interface), cases)
            yield _pairs(cases, docker, lxd)
    finally:
        podman.close()
        world.close()


def _pairs(cases: list[Case], docker: Future[dict[str, Seen]], lxd: Iterator[Seen]) -> dict[str, Pair]:
    seen = dict(zip([case.name for case in cases], lxd, strict=True))
    return {name: Pair(one, seen[name]) for name, one in docker.result().items()}


def _run_by_podman(podman: run.Podman, cases: list[Case], layout: Layout) -> dict[str, Seen]:
    return {case.name: podman.run(case, layout) for case in cases}


def _sync(world: World, cases: list[Case], registry: str) -> None:
    for case in cases:
        world.spec(case.name, f"{registry}/{REPOSITORY}:{case.name}", **case.spec)
    with world.start("sync", "--json") as running:
        done = running.end(SYNC_SECONDS)
    if done.status != 0:  # once for each case, so no more than what tells why
        pytest.fail(f"lxdocker sync ended with status {done.status}:\n{(done.out + done.err)[-1500:]}", pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if results := session.config.stash.get(RESULTS, None):
        summary.add(session.config, "what an application sees: podman and LXD", table.lines(results))
