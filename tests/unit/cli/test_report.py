"""Results as a person reads them and as a program does."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lxdocker.builder.image import BuilderImage, scripts_hash
from lxdocker.cli import report
from lxdocker.cli.console import Console
from lxdocker.errors import ImageMissingError, LxdockerError, UnreachableError
from lxdocker.image.difference import Difference, Entry, FileChange, Files, FileType, Side
from lxdocker.lxd.store import StoreView
from lxdocker.sync.compare import Rebuilt
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.outcome import Dropped, Outcome, Report, Status
from lxdocker.sync.plan import Build, Fail, Keep, PerSpec, Remove, Republish, Touch
from lxdocker.sync.state import ImageState, State, Survey, exit_status
from lxdocker.tree.mirror import Failure, Mirrored
from lxdocker.values import Arch, ImageName
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
DROPPED = Dropped(NAMES["a"], Arch.X86_64, "20260102_0304", is_deleted=True, reason="its grace period is over")
RESULT = Report(OUTCOMES, (DROPPED,), ("builder-1",))


def show_sync(result: Report) -> Show:
    return lambda console, json: report.print_sync(console, result, Survey(HOLDINGS, Arch.X86_64) if json else None)


def test_a_sync_in_words() -> None:
    assert as_text(show_sync(RESULT)) == [
        "deleted a 20260102_0304 from the tree: its grace period is over",
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
    assert set(document) == {"schema", "images", "pruned", "kept_builders", "outdated"}
    assert document["outdated"] is None
    assert document["schema"] == 1
    assert document["pruned"] == [
        {
            "name": "a",
            "architecture": "x86_64",
            "version": "20260102_0304",
            "change": "deleted",
            "reason": "its grace period is over",
        }
    ]
    assert document["kept_builders"] == ["builder-1"]
    assert [(image["name"], image["state"], image["outcome"]) for image in document["images"]] == [
        ("a", "current", "built"),
        ("b", "failed", "failed"),
        ("c", "current", "unchanged"),
        ("d", "current", "restored"),
        ("e", "current", "updated"),
        ("f", "orphan", "removed"),
    ]
    assert document["images"][0]["seconds"] == 1.235
    assert document["images"][1]["error"] == {
        "what": "pulling nope failed",
        "why": "line one\nline two",
        "do": "correct the name",
        "exit": 1,
    }


def test_a_sync_with_nothing_to_do() -> None:
    assert as_text(show_sync(Report((), (), ()))) == ["nothing to do"]
    assert as_text(show_sync(Report((OUTCOMES[2],) * 3, (), ()))) == ["3 unchanged"]
    assert as_json(show_sync(Report((), (), ()))) == {
        "schema": 1,
        "images": [],
        "pruned": [],
        "kept_builders": [],
        "outdated": None,
    }


def test_specs_that_are_not_the_newest() -> None:
    result = Report((OUTCOMES[2],), (), (), outdated=ERROR)
    assert result.failed
    assert as_text(show_sync(result)) == [
        "outdated  specs: pulling nope failed",
        "            line one",
        "            line two",
        "            -> correct the name",
        "1 unchanged",
    ]
    told = {"what": "pulling nope failed", "why": "line one\nline two", "do": "correct the name", "exit": 1}
    assert as_json(show_sync(result))["outdated"] == told
    current = Survey(HOLDINGS, Arch.X86_64).done((OUTCOMES[2],))
    assert as_json(lambda console, json: report.print_status(console, current, ERROR, json=json))["outdated"] == told
    assert as_json(lambda console, json: report.print_plan(console, current, ERROR, json=json))["outdated"] == told
    assert as_text(lambda console, json: report.print_status(console, current, ERROR, json=json))[:4] == [
        "outdated  specs: pulling nope failed",
        "            line one",
        "            line two",
        "            -> correct the name",
    ]
    (line,) = as_text(lambda console, _: report.print_check(console, current, ERROR))
    assert line.startswith("LXDOCKER CRITICAL - specs are outdated: pulling nope failed, ")


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
    StoreView(tuple(STORED[name] for name in "bcd"), {name: fingerprint(name) for name in "bcd"}),
    (TREE["d"], TREE["f"]),
)


def images(actions: Sequence[PerSpec] = ACTIONS, removals: Sequence[Remove] = (), **more: Any) -> list[ImageState]:
    return Survey(HOLDINGS, Arch.X86_64, **more).planned(actions, removals)


def show_plan(console: Console, json: bool) -> None:
    report.print_plan(console, images(ACTIONS, REMOVALS), json=json)


def test_a_plan_in_words() -> None:
    assert as_text(show_plan) == [
        "would build a: new",
        "would restore c: missing from the published tree",
        "would update d: published aliases to correct",
        "would remove f: no spec names it",
        "would fail on e: no image e:1",
        "            the registry has none",
        "1 up to date, 5 to do",
    ]


def test_a_plan_as_json_has_what_stays_too() -> None:
    document = as_json(show_plan)
    assert [(entry["name"], entry["state"], entry["action"]) for entry in document["images"]] == [
        ("a", "pending", "build"),
        ("b", "current", "keep"),
        ("c", "pending", "restore"),
        ("d", "pending", "update"),
        ("e", "failed", None),
        ("f", "orphan", "remove"),
    ]
    assert document["images"][0]["reason"] == "new"
    assert {image["outcome"] for image in document["images"]} == {None}


def show_status(console: Console, json: bool) -> None:
    report.print_status(console, images(ACTIONS, REMOVALS), json=json)


def test_a_status_table() -> None:
    lines = as_text(show_status)
    digest = resolved().source_digest.hex
    rows = [re.split(r"  +", line) for line in lines]
    assert rows[0] == ["NAME", "STATE", "REASON", "SOURCE", "BUILT", "DIGEST", "FINGERPRINT"]
    assert rows[1] == ["a", "pending", "build: new", "docker.io/library/a:1", "-", "-", "-"]
    made = "2026-01-02 03:04"
    held = {name: [f"docker.io/library/{name}:1", made, digest, fingerprint(name).value] for name in NAMES}
    assert rows[2] == ["b", "current", "up to date", *held["b"]]
    assert rows[3] == ["c", "pending", "restore: missing from the published tree", *held["c"]]
    assert rows[4] == ["d", "pending", "update: published aliases to correct", *held["d"]]
    assert rows[5][:4] == ["e", "failed", "no image e:1", "docker.io/library/e:1"]
    assert rows[6] == ["f", "orphan", "remove: no spec names it", *held["f"]]
    assert lines[7:] == ["failed    e: no image e:1", "            the registry has none"]


def test_a_quiet_status_has_only_what_is_not_current() -> None:
    def show(found: Sequence[ImageState]) -> list[str]:
        out = io.StringIO()
        console = Console(out, io.StringIO())
        console.be_quiet()
        report.print_status(console, found, json=False)
        return out.getvalue().splitlines()

    assert show(images(ACTIONS[1:2])) == []
    assert [line.split()[0] for line in show(images(ACTIONS[:2]))] == ["NAME", "a"]


# ---- one outage


def unreachable(registry: str, image: str) -> UnreachableError:
    error = UnreachableError(f"cannot reach {registry} to look up {image}", f"cannot resolve {registry}", "check it")
    error.registry = registry
    return error


OUTAGE = [
    Fail(SPECS[name], f"{registry}/library/{name}:1", unreachable(registry, name))
    for name, registry in zip("abcd", ["docker.io", "quay.io", "docker.io", "docker.io"], strict=True)
]
ONCE = [
    "3 images: cannot reach docker.io",
    "            cannot resolve docker.io",
    "            a, c, d",
    "            -> check it",
    "b: cannot reach quay.io",
    "            cannot resolve quay.io",
    "            -> check it",
]


def test_an_outage_is_said_once_for_each_registry() -> None:
    outcomes = tuple(Outcome(one.spec.name, Status.FAILED, one.error.brief, error=one.error) for one in OUTAGE)
    shown = as_text(lambda console, _: report.print_sync(console, Report(outcomes, (), ())))
    assert shown == [*(line if line[0] == " " else f"failed    {line}" for line in ONCE), "4 failed"]
    shown = as_text(lambda console, json: report.print_status(console, images(OUTAGE), json=json))
    assert shown[5:] == [line if line[0] == " " else f"failed    {line}" for line in ONCE]
    assert re.split(r"  +", shown[1])[:3] == ["a", "failed", "cannot reach docker.io"]
    shown = as_text(lambda console, json: report.print_plan(console, images(OUTAGE), json=json))
    assert shown[:-1] == [line if line[0] == " " else f"would fail on {line}" for line in ONCE]


def test_what_several_builds_fail_for_is_said_once() -> None:
    error = LxdockerError("making the builder image failed", "no network", "check it")
    outcomes = tuple(Outcome(name, Status.FAILED, error.brief, error=error) for name in NAMES.values())
    shown = as_text(lambda console, _: report.print_sync(console, Report(outcomes, (), ())))
    assert shown == [
        "failed    6 images: making the builder image failed",
        "            no network",
        "            a, b, c, d, e, f",
        "            -> check it",
        "6 failed",
    ]


NOTHING = {"outcome": None, "seconds": None, "error": None}


def test_a_status_as_json() -> None:
    found = {image["name"]: image for image in as_json(show_status)["images"]}
    assert list(found) == list(NAMES)
    assert found["a"] == {
        "name": "a",
        "state": "pending",
        "action": "build",
        "reason": "new",
        "source": "docker.io/library/a:1",
        "architecture": "x86_64",
        "aliases": [],
        "version": None,
        "digest": None,
        "fingerprint": None,
        "size": None,
        "built_at": None,
        "published_at": None,
        "withheld_at": None,
        **NOTHING,
    }
    assert found["d"] == {
        "name": "d",
        "state": "pending",
        "action": "update",
        "reason": "published aliases to correct",
        "source": "docker.io/library/d:1",
        "architecture": "x86_64",
        "aliases": ["d"],
        "version": "20260102_0304",
        "digest": resolved().source_digest.value,
        "fingerprint": fingerprint("d").value,
        "size": 30,
        "built_at": "2026-01-02T03:04:05+00:00",
        "published_at": "2026-01-02T03:04:00+00:00",
        "withheld_at": None,
        **NOTHING,
    }
    assert found["e"]["error"] == {"what": "no image e:1", "why": "the registry has none", "do": "", "exit": 1}


def test_only_what_is_to_be_done_can_be_at_work() -> None:
    states = {str(image.name): image.state for image in images(building={"a", "b", "e"})}
    assert (states["a"], states["b"], states["c"]) == (State.BUILDING, State.CURRENT, State.PENDING)
    assert states["e"] is State.FAILED


ROLLED_BACK = Keep(wanted(SPECS["b"]), STORED["b"], rolled_back=True)


@pytest.mark.parametrize(
    ("actions", "removals", "status", "line"),
    [
        ([], [], 0, "OK - 0 of 0 current"),
        ([ACTIONS[1]], [], 0, "OK - 1 of 1 current"),
        ([ACTIONS[1], ROLLED_BACK], [], 0, "OK - 1 withheld (b), 1 of 2 current"),
        (ACTIONS[:2], [], 1, "WARNING - 1 pending (a), 1 of 2 current"),
        ([ACTIONS[1]], REMOVALS, 1, "WARNING - 1 orphan (f), 1 of 2 current"),
        (ACTIONS, REMOVALS, 2, "CRITICAL - 1 failed (e), 3 pending (a, c, d), 1 orphan (f), 1 of 6 current"),
        ([ACTIONS[0]] * 12, [], 1, f"WARNING - 12 pending ({', '.join('a' * 10)} and 2 more), 0 of 12 current"),
    ],
)
def test_the_check_is_one_line_and_a_status(
    actions: list[PerSpec], removals: list[Remove], status: int, line: str
) -> None:
    found = images(actions, removals)
    assert exit_status(found) == status
    (shown,) = as_text(lambda console, _: report.print_check(console, found))
    said, figures = shown.split(" | ")
    assert said == f"LXDOCKER {line}"
    assert [figure.partition("=")[0] for figure in figures.split()] == [state.value for state in State]
    assert sum(int(figure.partition("=")[2]) for figure in figures.split()) == len(found)


def test_a_check_that_failed_is_one_line_too() -> None:
    error = LxdockerError("cannot connect", "first | line\nsecond line")
    (line,) = as_text(lambda console, _: report.print_check_failed(console, error))
    assert line == "LXDOCKER CRITICAL - cannot connect: first / line second line"


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
        "schema": 1,
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


def mirrored(fetched: int = 0, unchanged: int = 0, failed: int = 0, size: int = 0) -> Mirrored:
    versions = tuple(published(Path("/tree"), key=f"20260102_000{number}") for number in range(fetched))
    failure = Failure(ImageName("web"), "20260102_0009", LxdockerError("no answer"))
    return Mirrored(versions, (), unchanged, (), (), (failure,) * failed, size)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (mirrored(), "the server has no images"),
        (mirrored(unchanged=1), "1 version unchanged"),
        (mirrored(unchanged=7), "7 versions unchanged"),
        (mirrored(1, 1, size=68_300_000), "1 version fetched, 1 unchanged, 68.3 MB downloaded"),
        (mirrored(2, size=10), "2 versions fetched, 10 B downloaded"),
        (mirrored(0, 3, 1), "3 versions unchanged, 1 failed"),
    ],
)
def test_a_mirror_counts_what_it_says(result: Mirrored, expected: str) -> None:
    assert as_text(lambda console, json: report.print_mirrored(console, result, json=json))[-1] == expected


def test_what_a_registry_said_can_t_steer_the_terminal() -> None:
    hostile = LxdockerError("no \x1b[31mimage", "said \x1b]0;x\x07", "do \x9b1m")
    lines = as_text(show_sync(Report((Outcome(NAMES["a"], Status.FAILED, "", error=hostile),), (), ())))
    assert lines[:3] == ["failed    a: no �[31mimage", "            said �]0;x�", "            -> do �1m"]


# ---- diff and sync --check-reproducible


def test_nothing_differs_quietly() -> None:
    side = Side("20260102_0304", provenance(spec("a", "a:1")), {})
    same = Difference.of(NAMES["a"], Arch.X86_64, side, side, Files((), (), None, None, ()))
    out = io.StringIO()
    console = Console(out, io.StringIO())
    report.print_difference(console, same, json=False, everything=False)
    assert out.getvalue().splitlines()[-1] == "nothing differs"
    out.truncate(0)
    console.be_quiet()
    report.print_difference(console, same, json=False, everything=False)
    report.print_rebuilt(console, [Rebuilt(NAMES["a"], fingerprints=(fingerprint("a"),) * 2)], json=False)
    assert out.getvalue().strip("\0") == ""


def test_builds_of_the_same_image() -> None:
    entry = Entry(b"/etc/id", FileType.FILE, 0o644, 0, 0, 1, 1, None, "0" * 64, None, ())
    files = Files((FileChange(entry, replace(entry, sha256="1" * 64), ("sha256",)),), (), 9, 9, ())
    found = [
        Rebuilt(NAMES["a"], fingerprints=(fingerprint("a"),) * 2),
        Rebuilt(NAMES["b"], fingerprints=(fingerprint("b"), fingerprint("c")), files=files),
        Rebuilt(NAMES["c"], error=ERROR),
    ]
    assert [one.is_reproducible for one in found] == [True, False, False]
    assert as_text(lambda console, json: report.print_rebuilt(console, found, json=json)) == [
        f"a is reproducible: both builds have the fingerprint {fingerprint('a')}",
        f"b is not reproducible: {fingerprint('b').short}, then {fingerprint('c').short}",
        "  packages      no difference",
        "  files         1 changed of 9",
        "    ~ /etc/id (content)",
        "failed    c: pulling nope failed",
        "            line one",
        "            line two",
        "            -> correct the name",
    ]
