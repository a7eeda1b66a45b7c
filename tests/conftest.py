"""How the tests share two workers, where scripts/test has them run side by side.

What needs LXD counts the containers there, so each worker has an LXD of its own, and these tests stay together.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests import summary

TOGETHER = {"lxd": "lxd", "parity": "instances", "runtime": "instances"}  # folder -> group; elsewhere it is the file


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
            path = nodeid.partition("::")[0]
            return TOGETHER.get(path.split("/")[1], path)

    return Groups(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    summary.take_over(node.config, node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    summary.show(config, terminalreporter)
