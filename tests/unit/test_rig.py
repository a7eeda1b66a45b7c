"""What is told where lxdocker fails under a test against a real LXD: a fixture has nobody who asks for more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lxd.rig import Done

ERROR = {"what": "unpacking app failed", "why": "no space left\non device", "do": "free space"}
OTHER = {"what": "fetching other failed", "why": "connection refused", "do": "check the network"}


def image(name: str, error: Any) -> dict[str, Any]:
    return {"name": name, "status": "failed" if error else "built", "error": error, "reason": "x" * 1000}


def test_each_image_that_failed_is_named_with_the_reason() -> None:
    images = [image("good", None), image("app", ERROR), image("other", OTHER)]
    lines = Done(1, json.dumps({"images": images}), "warning: slow\n").complaint().split("\n")
    assert lines[:3] == [
        "status 1: app failed: unpacking app failed: no space left",
        "on device -> free space",
        "other failed: fetching other failed: connection refused -> check the network",
    ]
    assert "warning: slow" in lines
    assert "good failed" not in "\n".join(lines[:3])


def test_a_run_that_failed_altogether_says_why() -> None:
    said = Done(1, json.dumps({"error": ERROR}), "").complaint()
    assert said.startswith("status 1: the run failed: unpacking app failed: no space left")


@pytest.mark.parametrize("out", ["", "would build app", "[]", "{", '{"images": [1]}'])
def test_without_a_document_the_last_line_on_stderr_is_told_first(out: str) -> None:
    lines = Done(2, out, "Traceback\nKeyError: 'x'\n").complaint().split("\n")
    assert lines[0] == "status 2: KeyError: 'x'"
    assert "Traceback" in lines
