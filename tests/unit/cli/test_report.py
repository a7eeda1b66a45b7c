"""Results as a person reads them and as a program does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lxdocker.builder.image import BuilderImage, scripts_hash
from lxdocker.cli import report
from lxdocker.cli.console import Console
from lxdocker.errors import ImageMissingError, LxdockerError
from lxdocker.lxd.store import StoreView
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.outcome import Outcome, Report, Status
from lxdocker.sync.plan import Build, Fail, Keep, PerSpec, Remove, Republish, Touch
from lxdocker.values import ImageName
from tests.examples import SETTINGS, fingerprint, provenance, published, resolved, spec, stored, wanted

Show = Callable[[Console, bool], None]
NAMES = {name: ImageName(name) for name in ("a", "b", "c", "d", "e", "f")}
ERROR = LxdockerError("pulling nope failed", "line one\nline two", "correct the name")


def as_text(show: Show) -> list[str]:
    out, err = io.StringIO(), io.StringIO()
    show(Console(out, err), False)
    assert err.getvalue() == ""
    return out.getvalue().splitlines()


def as_json(show: Show) -> Any:
    out = io.StringIO()
    show(Console(out, io.StringIO()), True)
    return json.loads(out.getvalue())


# ---- sync and prune

OUTCOMES = (
    Outcome(NAMES["a"], Status.BUILT, "new", fingerprint("a"), seconds=1.23456),
    Outcome(NAMES["b"], Status.FAILED, ERROR.brief, error=ERROR),
    Outcome(NAMES["c"], Status.UNCHANGED, "up to date", fingerprint("c")),
    Outcome(NAMES["d"], Status.RESTORED, "missing from the local store", fingerprint("d")),
    Outcome(NAMES["e"], Status.UPDATED, "aliases to correct: www", fingerprint("e")),
    Outcome(NAMES["f"], Status.REMOVED, "no spec names it"),
)
RESULT = Report(OUTCOMES, ("deleted a 20260102_0304 from the tree",), ("builder-1",))


def show_sync(result: Report) -> Show:
    return lambda console, json: report.print_sync(console, result, json=json)


def test_a_sync_in_words() -> None:
    assert as_text(show_sync(RESULT)) == [
        "deleted a 20260102_0304 from the tree",
        f"built     a  {fingerprint('a').short}  (new)",
        f"restored  d  {fingerprint('d').short}  (missing from the local store)",
        f"updated   e  {fingerprint('e').short}  (aliases to correct: www)",
        "removed   f  (no spec names it)",
        "failed    b: pulling nope failed",
        "            line one",
        "            line two",
        "            -> correct the name",
        "kept builder-1: lxc exec --project lxdocker builder-1 -- /bin/sh (removed by the next sync)",
        "1 built, 1 restored, 1 updated, 1 unchanged, 1 removed, 1 failed",
    ]


def test_a_sync_as_json() -> None:
    document = as_json(show_sync(RESULT))
    assert set(document) == {"images", "pruned", "kept_builders"}
    assert document["pruned"] == ["deleted a 20260102_0304 from the tree"]
    assert document["kept_builders"] == ["builder-1"]
    assert [image["name"] for image in document["images"]] == list(NAMES)
    assert document["images"][0] == {
        "name": "a",
        "status": "built",
        "reason": "new",
        "fingerprint": fingerprint("a").value,
        "seconds": 1.235,
        "error": None,
    }
    assert document["images"][1]["fingerprint"] is None
    assert document["images"][1]["error"] == {
        "what": "pulling nope failed",
        "why": "line one\nline two",
        "do": "correct the name",
    }


def test_a_sync_with_nothing_to_do() -> None:
    assert as_text(show_sync(Report((), (), ()))) == ["nothing to do"]
    assert as_text(show_sync(Report((OUTCOMES[2],) * 3, (), ()))) == ["3 unchanged"]
    assert as_json(show_sync(Report((), (), ()))) == {"images": [], "pruned": [], "kept_builders": []}


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.status.value)
def test_only_a_failure_makes_a_run_fail(outcome: Outcome) -> None:
    assert Report((OUTCOMES[0], outcome), (), ()).failed == (outcome.status is Status.FAILED)


# ---- plan and status


SPECS = {name: spec(name, f"{name}:1") for name in NAMES}
STORED = {name: stored(provenance(SPECS[name]), content=name, aliases=(name,)) for name in NAMES}
TREE = {name: published(Path("/tree"), provenance(SPECS[name]), name) for name in NAMES}
ACTIONS: list[PerSpec] = [
    Build(wanted(SPECS["a"]), "new"),
    Keep(wanted(SPECS["b"]), STORED["b"]),
    Republish(wanted(SPECS["c"]), STORED["c"]),
    Touch(wanted(SPECS["d"]), STORED["d"], TREE["d"], provenance(), (), "published aliases to correct"),
    Fail(SPECS["e"], "docker.io/library/e:1", ImageMissingError("no image e:1", "the registry has none")),
]
REMOVALS = [Remove(NAMES["f"], (), (TREE["f"],))]
HOLDINGS = Holdings(
    StoreView(tuple(STORED[name] for name in "bcd"), {name: fingerprint(name) for name in "bcd"}), (TREE["d"],)
)


def show_plan(actions: list[PerSpec], removals: list[Remove]) -> Show:
    return lambda console, json: report.print_plan(console, actions, removals, json=json)


def test_a_plan_in_words() -> None:
    assert as_text(show_plan(ACTIONS, REMOVALS)) == [
        "would build a: new",
        "would restore c: missing from the published tree",
        "would update d: published aliases to correct",
        "would fail on e: no image e:1: the registry has none",
        "would remove f: no spec names it",
        "1 up to date, 5 to do",
    ]


def test_a_plan_as_json_has_what_stays_too() -> None:
    document = as_json(show_plan(ACTIONS, REMOVALS))
    assert [(entry["name"], entry["action"]) for entry in document["plan"]] == [
        ("a", "build"),
        ("b", "keep"),
        ("c", "restore"),
        ("d", "update"),
        ("e", "fail at"),
        ("f", "remove"),
    ]
    assert document["plan"][0]["reason"] == "new"


def test_a_dry_run_fails_as_the_sync_would() -> None:
    assert report.plan_status(ACTIONS) == 1
    assert report.plan_status(ACTIONS[:4]) == 0
    assert report.plan_status([]) == 0


def show_status(console: Console, json: bool) -> None:
    report.print_status(console, ACTIONS, REMOVALS, HOLDINGS, json=json)


def test_a_status_table() -> None:
    lines = as_text(show_status)
    digest = resolved().source_digest.hex[:12]
    rows = [line.split(None, 6) for line in lines]
    assert rows[0] == ["NAME", "SOURCE", "DIGEST", "FINGERPRINT", "BUILT", "STATE"]
    assert rows[1] == ["a", "docker.io/library/a:1", "-", "-", "-", "build:", "new"]
    made = ["2026-01-02", "03:04"]
    held = {name: [f"docker.io/library/{name}:1", digest, fingerprint(name).short, *made] for name in NAMES}
    assert rows[2] == ["b", *held["b"], "up to date"]
    assert rows[3] == ["c", *held["c"], "restore: missing from the published tree"]
    assert rows[4] == ["d", *held["d"], "update: published aliases to correct"]
    assert lines[5].endswith("failed: no image e:1: the registry has none")
    assert rows[6] == ["f", *held["f"], "remove: no spec names it"]
    assert len(rows) == 7


def test_a_status_as_json() -> None:
    images = as_json(show_status)["images"]
    assert [image["name"] for image in images] == list(NAMES)
    assert images[0] == {
        "name": "a",
        "source": "docker.io/library/a:1",
        "digest": None,
        "fingerprint": None,
        "built_at": None,
        "state": "build: new",
    }
    assert images[1] == {
        "name": "b",
        "source": "docker.io/library/b:1",
        "digest": resolved().source_digest.value,
        "fingerprint": fingerprint("b").value,
        "built_at": "2026-01-02T03:04:05+00:00",
        "state": "up to date",
    }


# ---- specs


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "no specs found"), (1, "1 spec is valid"), (2, "2 specs are valid")]
)
def test_valid_specs(count: int, expected: str) -> None:
    found = list(SPECS.values())[:count]

    def show(console: Console, json: bool) -> None:
        report.print_specs(console, found, json=json)

    assert as_text(show) == [expected]
    document = as_json(show)
    assert [entry["name"] for entry in document["specs"]] == list(NAMES)[:count]
    if count:
        assert document["specs"][0] == {"name": "a", "image": "docker.io/library/a:1", "file": "/specs/a.yaml"}


# ---- the builder image

BUILDER = BuilderImage(
    fingerprint=fingerprint("builder"),
    built_at=datetime.now(UTC).replace(microsecond=0),
    base="https://images.example debian/13",
    scripts_hash=scripts_hash(),
    versions={"skopeo": "1.18.0", "busybox_sha256": "f" * 64},
    size=12_300_000,
)


def show_builder(image: BuilderImage) -> Show:
    return lambda console, json: report.print_builder(console, image, SETTINGS, json=json)


def test_a_builder_in_words() -> None:
    rows = dict(line.split(None, 1) for line in as_text(show_builder(BUILDER))[1:])
    assert rows["fingerprint"] == fingerprint("builder").short
    assert rows["size"] == "12.3 MB"
    assert rows["from"] == "https://images.example debian/13"
    assert rows["skopeo"] == "1.18.0"
    assert rows["busybox_sha256"] == "f" * 20
    assert rows["state"] == "current"


def test_a_builder_as_json() -> None:
    document = as_json(show_builder(BUILDER))
    assert datetime.fromisoformat(document.pop("built_at")) == BUILDER.built_at
    assert document == {
        "fingerprint": fingerprint("builder").value,
        "size": 12_300_000,
        "base": "https://images.example debian/13",
        "versions": {"skopeo": "1.18.0", "busybox_sha256": "f" * 64},
        "stale": None,
    }


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            replace(BUILDER, built_at=BUILDER.built_at - timedelta(days=31)),
            "it is 31 days old, older than builder_max_age_days (30)",
        ),
        (replace(BUILDER, scripts_hash="other"), "another version of lxdocker made it"),
    ],
    ids=["old", "other scripts"],
)
def test_a_stale_builder_says_why(image: BuilderImage, reason: str) -> None:
    assert as_text(show_builder(image))[-1].split(None, 1) == ["state", f"stale: {reason}"]
    assert as_json(show_builder(image))["stale"] == reason


# ---- words of strangers


def test_what_a_registry_said_can_t_steer_the_terminal() -> None:
    hostile = LxdockerError("no \x1b[31mimage", "said \x1b]0;x\x07", "do \x9b1m")
    lines = as_text(show_sync(Report((Outcome(NAMES["a"], Status.FAILED, "", error=hostile),), (), ())))
    assert lines[:3] == ["failed    a: no �[31mimage", "            said �]0;x�", "            -> do �1m"]
