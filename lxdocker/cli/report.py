"""Results, as tables and sentences for people; ``documents`` has them for programs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lxdocker.builder.image import BuilderImage
from lxdocker.cli import documents
from lxdocker.cli.console import Console
from lxdocker.config.settings import Settings
from lxdocker.config.spec import BrokenSpec, ImageSpec
from lxdocker.progress import human_size
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.outcome import Outcome, Report, Status
from lxdocker.sync.plan import Build, Fail, Keep, PerSpec, Reimport, Remove, Republish, Touch
from lxdocker.text import counted
from lxdocker.tree.rollback import Rollback
from lxdocker.tree.verify import Kind, Verified
from lxdocker.tree.version import Published, Withheld

if TYPE_CHECKING:
    from lxdocker.follow.run import Followed  # which load what only they need
    from lxdocker.tree.mirror import Failure, Mirrored


FAILS = "fail at"  # the action in JSON, where programs expect it


def print_sync(console: Console, result: Report, *, json: bool) -> None:
    """The one summary at the end of a sync."""
    if json:
        console.json(documents.synced(result))
        return
    if console.is_quiet and not _is_news(result):
        return
    for text in result.pruned:
        console.print(text)
    for outcome in result.outcomes:
        if outcome.status in {Status.UNCHANGED, Status.FAILED}:
            continue
        fingerprint = f"  {outcome.fingerprint.short}" if outcome.fingerprint else ""
        console.print(f"{outcome.status.value:9} {outcome.name}{fingerprint}  ({outcome.reason})")
    for outcome in result.outcomes:
        if outcome.error is not None:
            console.print(f"failed    {outcome.name}: {outcome.error.brief}")
            for line in outcome.error.details.splitlines():
                console.print(f"            {line}")
            if outcome.error.resolution:
                console.print(f"            -> {outcome.error.resolution}")
    for name in result.kept_builders:
        console.print(
            f"kept {name}: lxc exec --project {result.builder_project} {name} -- /bin/sh (removed by the next sync)"
        )
    console.print(_counts(result.outcomes))


def _is_news(result: Report) -> bool:
    """Whether something changed or failed."""
    return bool(result.pruned or result.kept_builders) or any(
        outcome.status is not Status.UNCHANGED for outcome in result.outcomes
    )


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = [(status, sum(outcome.status is status for outcome in outcomes)) for status in Status]
    return ", ".join(f"{count} {status.value}" for status, count in counts if count) or "nothing to do"


def print_plan(
    console: Console,
    actions: Sequence[PerSpec],
    removals: Sequence[Remove],
    broken: Sequence[BrokenSpec] = (),
    *,
    json: bool,
) -> None:
    """The planned actions of a sync, in words."""
    lines = [(str(action.spec.name), *_in_words(action)) for action in actions]
    lines += [(spec.label, FAILS, _on_one_line(spec)) for spec in broken]
    lines += [(str(removal.name), "remove", "no spec names it") for removal in removals]
    if json:
        console.json(documents.planned(lines))
        return
    if console.is_quiet and all(verb == "keep" for _, verb, _ in lines):
        return
    for name, verb, why in lines:
        if verb != "keep":
            console.print(f"would {'fail on' if verb == FAILS else verb} {name}: {why}")
    kept = sum(verb == "keep" for _, verb, _ in lines)
    console.print(f"{kept} up to date, {len(lines) - kept} to do")


def plan_status(actions: Sequence[PerSpec], broken: Collection[BrokenSpec] = ()) -> int:
    """The expected exit status of a sync, according to the plan."""
    return 1 if broken or any(isinstance(action, Fail) for action in actions) else 0


def _on_one_line(broken: BrokenSpec) -> str:
    return f"{broken.error.brief}: {'; '.join(broken.error.details.splitlines())}"


def _in_words(action: PerSpec) -> tuple[str, str]:
    match action:
        case Build():
            return "build", action.reason
        case Reimport() | Republish():
            return "restore", action.reason
        case Touch():
            return "update", action.reason
        case Keep():
            return "keep", action.reason
        case Fail():
            return FAILS, str(action.error)


def print_specs(console: Console, specs: Sequence[ImageSpec], *, json: bool) -> None:
    """Valid specs."""
    if json:
        console.json(documents.specs(specs))
        return
    if console.is_quiet:
        return
    valid = counted(len(specs), "spec is valid", "specs are valid")
    console.print(valid if specs else "no specs found")


def print_status(
    console: Console,
    actions: Sequence[PerSpec],
    removals: Sequence[Remove],
    holdings: Holdings,
    broken: Sequence[BrokenSpec] = (),
    *,
    json: bool,
) -> None:
    """One row per image."""
    rows: list[dict[str, str | None]] = []
    for action in actions:
        held = holdings.stored(action.spec.name) or holdings.published(action.spec.name)
        verb, why = _in_words(action)
        state = why if isinstance(action, Keep) else f"{'failed' if verb == FAILS else verb}: {why}"
        rows.append(
            {
                "name": action.spec.name.value,
                "source": action.source,
                "digest": held.provenance.source_digest.value if held else None,
                "fingerprint": held.fingerprint.value if held else None,
                "built_at": held.provenance.built_at if held else None,
                "state": state,
            }
        )
    for spec in broken:
        kept = (holdings.stored(spec.name) or holdings.published(spec.name)) if spec.name else None
        rows.append(
            {
                "name": spec.label,
                "source": kept.provenance.source if kept else None,
                "digest": kept.provenance.source_digest.value if kept else None,
                "fingerprint": kept.fingerprint.value if kept else None,
                "built_at": kept.provenance.built_at if kept else None,
                "state": f"failed: {_on_one_line(spec)}",
            }
        )
    for removal in removals:
        gone = removal.stored[0] if removal.stored else removal.published[0]
        rows.append(
            {
                "name": removal.name.value,
                "source": gone.provenance.source,
                "digest": gone.provenance.source_digest.value,
                "fingerprint": gone.fingerprint.value,
                "built_at": gone.provenance.built_at,
                "state": "remove: no spec names it",
            }
        )
    if json:
        console.json(documents.status(rows))
        return
    console.table(
        ["NAME", "SOURCE", "DIGEST", "FINGERPRINT", "BUILT", "STATE"],
        [
            [
                row["name"] or "",
                row["source"] or "-",
                (row["digest"] or "-").removeprefix("sha256:")[:12],
                (row["fingerprint"] or "-")[:12],
                (row["built_at"] or "-")[:16].replace("T", " "),
                row["state"] or "",
            ]
            for row in rows
        ],
    )


def print_builder(console: Console, image: BuilderImage, settings: Settings, *, json: bool) -> None:
    """The contents of the builder image."""
    stale = image.stale_reason(settings.builder_max_age_days)
    if json:
        console.json(documents.builder(image, stale))
        return
    rows = [
        ["fingerprint", image.fingerprint.short],
        ["size", human_size(image.size)],
        ["built", image.built_at.isoformat(sep=" ", timespec="minutes")],
        ["from", image.base],
        *[[tool, version[:20]] for tool, version in sorted(image.versions.items())],
        ["state", f"stale: {stale}" if stale else "current"],
    ]
    console.table(["BUILDER", ""], rows)


def print_rollback(console: Console, done: Sequence[Rollback], *, json: bool) -> None:
    """The versions that clients get now, and those withheld."""
    if json:
        console.json(documents.rolled_back(done))
        return
    for rollback in done:
        instead = f" instead of {', '.join(gone.key for gone in rollback.withheld)}" if rollback.withheld else ""
        console.print(
            f"{rollback.current.name} for {rollback.current.arch.value} is now {rollback.current.key} "
            f"({rollback.current.fingerprint.short}){instead}"
        )
    name = done[0].current.name
    console.print(f"the next sync updates the local LXD; to undo: lxdocker publish rollback {name} --undo")


def print_undone(console: Console, undone: Sequence[Withheld], listed: Sequence[Published], *, json: bool) -> None:
    """The versions that may be published again, and those that are."""
    keys = {(version.arch, version.key) for version in listed}
    again = [version for version in undone if (version.arch, version.key) in keys]
    if json:
        console.json(documents.undone(undone, again))
        return
    for version in undone:
        how = "is published again" if version in again else "is gone; the next sync rebuilds it if it is still wanted"
        console.print(f"{version.provenance.name} {version.key} for {version.arch.value} {how}")


def print_verified(console: Console, found: Verified, tree: Path, *, json: bool) -> None:
    """Problems in the tree, and the repairs."""
    if json:
        console.json(documents.verified(found))
        return
    for finding in found.findings:
        console.print(f"{finding.path}: {finding.problem}" + (f" ({finding.repaired})" if finding.repaired else ""))
    left = [finding for finding in found.findings if not finding.repaired]
    if any(finding.kind is not Kind.STRAY for finding in left):
        console.print("to withdraw damaged versions and rewrite the index: lxdocker publish verify --repair")
    if any(finding.kind is Kind.STRAY for finding in left):
        console.print("lxdocker leaves unknown files alone: move or delete them yourself")
    if console.is_quiet and not found.findings:
        return
    amount = f"{counted(found.versions, 'version')}, {human_size(found.size)}"
    console.print(f"{tree}: {amount}, {counted(len(left), 'problem') if left else 'OK'}")


def print_mirrored(console: Console, result: Mirrored, *, json: bool) -> None:
    """Copied versions and failures."""
    if json:
        console.json(documents.mirrored(result))
        return
    for verb, versions in (
        ("fetched", result.fetched),
        ("updated", result.updated),
        ("withdrew", result.withdrawn),
        ("deleted", result.deleted),
    ):
        for version in versions:
            console.print(f"{verb:9} {version.name} {version.key} for {version.arch.value}")
    _print_failures(console, result.failed)
    counts = [("fetched", len(result.fetched)), ("updated", len(result.updated)), ("unchanged", result.unchanged)]
    counts += [("withdrawn", len(result.withdrawn)), ("failed", len(result.failed))]
    _print_counts(console, counts, result.size)


def print_followed(console: Console, result: Followed, *, json: bool) -> None:
    """Imported images and failures."""
    if json:
        console.json(documents.followed(result))
        return
    for verb, listed in (("imported", result.imported), ("updated", result.updated)):
        for image in listed:
            console.print(f"{verb:9} {image.name} {image.key}  {image.fingerprint.short}")
    _print_failures(console, result.failed)
    counts = [("imported", len(result.imported)), ("updated", len(result.updated)), ("unchanged", result.unchanged)]
    counts += [("no longer on the server", len(result.left)), ("failed", len(result.failed))]
    _print_counts(console, counts, result.size)


def _print_failures(console: Console, failed: Sequence[Failure]) -> None:
    for failure in failed:
        console.print(f"failed    {failure.name}{failure.key and ' '}{failure.key}: {failure.error}")
        if failure.error.resolution:
            console.print(f"            -> {failure.error.resolution}")


def _print_counts(console: Console, counts: Sequence[tuple[str, int]], size: int) -> None:
    if console.is_quiet and not any(count for what, count in counts if what != "unchanged"):
        return
    words = ", ".join(f"{count} {what}" for what, count in counts if count)
    console.print(f"{words or 'nothing to do'}; {human_size(size)} downloaded")
