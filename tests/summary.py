"""What a suite has to say at the end of a run, from whichever worker it was in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

SECTIONS = pytest.StashKey[dict[str, list[str]]]()  # title -> lines


def add(config: pytest.Config, title: str, lines: Iterable[str]) -> None:
    """For the end of the run."""
    sections = config.stash.setdefault(SECTIONS, {})
    sections[title] = list(lines)
    if hasattr(config, "workeroutput"):  # one of several workers, which only speak to the process that started them
        config.workeroutput["sections"] = sections


def take_over(config: pytest.Config, worker: Any) -> None:
    """What a worker that has ended had to say."""
    config.stash.setdefault(SECTIONS, {}).update(getattr(worker, "workeroutput", {}).get("sections", {}))


def show(config: pytest.Config, reporter: pytest.TerminalReporter) -> None:
    for title, lines in config.stash.get(SECTIONS, {}).items():
        reporter.section(title)
        for line in lines:
            reporter.line(line)
