"""How the tests share workers, where scripts/test has them run side by side.

What needs LXD counts the containers there, so each worker has an LXD of its own. The tests of a file stay together, and
those of the folders whose tests share their images.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests import summary

TOGETHER = ("runtime", "parity")  # folders
# What takes longest must not begin last.
FIRST = (*TOGETHER, "tests/lxd/test_sync.py", "tests/unit/tree/test_changes.py", "tests/unit/tree/test_mirror.py")


def group(nodeid: str) -> str:
    """What a test is run together with."""
    path = nodeid.partition("::")[0]
    folder = path.split("/")[1]
    return folder if folder in TOGETHER else path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        its = group(item.nodeid)
        return FIRST.index(its) if its in FIRST else len(FIRST)

    items.sort(key=turn)


@pytest.fixture(autouse=True)
def _nothing_is_known(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what registries sent in other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}"))


def pytest_configure() -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    number = int(worker.removeprefix("gw"))
    if number and "LXD_DIR" in os.environ:
        for variable in ("LXD_DIR", "LXD_CONF"):
            os.environ[variable] += f"-{number + 1}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    summary.take_over(node.config, node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    summary.show(config, terminalreporter)
    path = os.environ.get("LXDOCKER_TEST_RESULTS")
    if path and not hasattr(config, "workerinput"):  # a worker knows its own tests only
        counted = with_lxd(terminalreporter)
        if counted.keys() - {"skipped"}:
            told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items()))
            with Path(path).open("a") as results:
                results.write(f"{which_lxd()}: {told} of the tests that talk to LXD\n")


def with_lxd(reporter: pytest.TerminalReporter) -> Counter[str]:
    """How many of the tests that talk to LXD came to which end."""
    return Counter(
        outcome
        for outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
        for report in reporter.stats.get(outcome, [])
        if "lxd" in report.keywords
    )


def which_lxd() -> str:
    """What the LXD of this run says that it is; Debian's two differ in their liblxc only."""
    said = subprocess.run(["lxc", "query", "/1.0"], capture_output=True, text=True, timeout=30, check=True).stdout
    server = json.loads(said)["environment"]
    version = f"LXD {server['server_version']}, liblxc {server['driver_version']}"
    return f"{os.environ['LXDOCKER_TEST_LXD']} ({version})"
