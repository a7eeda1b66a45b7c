"""Results, as tables and sentences for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxdocker.builder.image import BuilderImage
from lxdocker.console import Console, error_document, human_size
from lxdocker.outcome import Outcome, Report, Status
from lxdocker.plan import Build, Fail, Holdings, Keep, PerSpec, Remove, Restore, Touch
from lxdocker.provenance import source_label
from lxdocker.publish import Rollback
from lxdocker.published import Published, Withheld
from lxdocker.settings import Settings
from lxdocker.spec import ImageSpec
from lxdocker.verify import Kind, Verified

if TYPE_CHECKING:
    from lxdocker.mirror import Mirrored  # which loads what only it needs


def print_sync(console: Console, result: Report, *, json: bool) -> None:
    """The one summary at the end of a sync."""
    if json:
        console.json(
            {
                "images": [_outcome_document(outcome) for outcome in result.outcomes],
                "pruned": list(result.pruned),
                "kept_builders": list(result.kept_builders),
            }
        )
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
            f"kept {name}: lxc exec --project {result.builder_project} {name} -- /bin/sh (the next sync removes it)"
        )
    console.print(_counts(result.outcomes))


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = [(status, sum(outcome.status is status for outcome in outcomes)) for status in Status]
    return ", ".join(f"{count} {status.value}" for status, count in counts if count) or "nothing to do"


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name.value,
        "status": outcome.status.value,
        "reason": outcome.reason,
        "fingerprint": outcome.fingerprint.value if outcome.fingerprint else None,
        "seconds": round(outcome.seconds, 3),
        "error": error_document(outcome.error) if outcome.error else None,
    }


def print_plan(console: Console, actions: Sequence[PerSpec], removals: Sequence[Remove], *, json: bool) -> None:
    """What a sync would do, in words."""
    lines = [(str(action.spec.name), *_in_words(action)) for action in actions]
    lines += [(str(removal.name), "remove", "no spec names it any more") for removal in removals]
    if json:
        console.json({"plan": [{"name": name, "action": verb, "reason": why} for name, verb, why in lines]})
        return
    for name, verb, why in lines:
        if verb != "keep":
            console.print(f"would {verb} {name}: {why}")
    kept = sum(verb == "keep" for _, verb, _ in lines)
    console.print(f"{kept} up to date, {len(lines) - kept} to do")


def plan_status(actions: Sequence[PerSpec]) -> int:
    """The exit status that a sync would have, as far as the plan can tell."""
    return 1 if any(isinstance(action, Fail) for action in actions) else 0


def _in_words(action: PerSpec) -> tuple[str, str]:
    match action:
        case Build():
            return "build", action.reason
        case Restore():
            return "restore", action.reason
        case Touch():
            return "update", action.reason
        case Keep():
            return "keep", action.reason
        case Fail():
            return "fail at", str(action.error)


def print_specs(console: Console, specs: Sequence[ImageSpec], *, json: bool) -> None:
    """Specs that are valid."""
    if json:
        console.json(
            {"specs": [{"name": spec.name.value, "image": str(spec.image), "file": str(spec.path)} for spec in specs]}
        )
        return
    console.print(f"{len(specs)} {'spec is' if len(specs) == 1 else 'specs are'} valid")


def print_status(
    console: Console,
    actions: Sequence[PerSpec],
    removals: Sequence[Remove],
    holdings: Holdings,
    *,
    json: bool,
) -> None:
    """One row per image."""
    rows: list[dict[str, str | None]] = []
    for action in actions:
        held = holdings.stored(action.spec.name) or holdings.published(action.spec.name)
        state = action.reason if isinstance(action, Keep) else ": ".join(_in_words(action))
        rows.append(
            {
                "name": action.spec.name.value,
                "source": source_label(action.spec.image),
                "digest": held.provenance.source_digest.value if held else None,
                "fingerprint": held.fingerprint.value if held else None,
                "built_at": held.provenance.built_at if held else None,
                "state": state,
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
                "state": "remove: no spec names it any more",
            }
        )
    if json:
        console.json({"images": rows})
        return
    console.table(
        ["NAME", "SOURCE", "DIGEST", "FINGERPRINT", "BUILT", "STATE"],
        [
            [
                row["name"] or "",
                row["source"] or "",
                (row["digest"] or "-").removeprefix("sha256:")[:12],
                (row["fingerprint"] or "-")[:12],
                (row["built_at"] or "-")[:16].replace("T", " "),
                row["state"] or "",
            ]
            for row in rows
        ],
    )


def print_builder(console: Console, image: BuilderImage, settings: Settings, *, json: bool) -> None:
    """What the builder image holds."""
    stale = image.stale_reason(settings.builder_max_age_days)
    if json:
        console.json(
            {
                "fingerprint": image.fingerprint.value,
                "size": image.size,
                "built_at": image.built_at.isoformat(),
                "base": image.base,
                "versions": dict(image.versions),
                "stale": stale,
            }
        )
        return
    rows = [
        ["fingerprint", image.fingerprint.short],
        ["size", human_size(image.size)],
        ["made", image.built_at.isoformat(sep=" ", timespec="minutes")],
        ["from", image.base],
        *[[tool, version[:20]] for tool, version in sorted(image.versions.items())],
        ["state", f"stale: {stale}" if stale else "current"],
    ]
    console.table(["BUILDER", ""], rows)


def print_rollback(console: Console, done: Sequence[Rollback], *, json: bool) -> None:
    """What clients get from now on, and what no more."""
    if json:
        console.json(
            {
                "rolled_back": [
                    {
                        "name": one.current.name.value,
                        "arch": one.current.arch.value,
                        "version": one.current.key,
                        "fingerprint": one.current.fingerprint.value,
                        "withheld": [gone.key for gone in one.withheld],
                    }
                    for one in done
                ]
            }
        )
        return
    for one in done:
        instead = f" instead of {', '.join(gone.key for gone in one.withheld)}" if one.withheld else ""
        console.print(
            f"{one.current.name} for {one.current.arch.value} is now {one.current.key} "
            f"({one.current.fingerprint.short}){instead}"
        )
    name = done[0].current.name
    console.print(f"the local LXD follows with the next sync; to undo: lxdocker publish rollback {name} --undo")


def print_undone(console: Console, undone: Sequence[Withheld], listed: Sequence[Published], *, json: bool) -> None:
    """What may be published again, and what of it is."""
    keys = {(one.arch, one.key) for one in listed}
    again = [one for one in undone if (one.arch, one.key) in keys]
    if json:
        console.json({"undone": [one.key for one in undone], "published": [one.key for one in again]})
        return
    for one in undone:
        how = "is published again" if one in again else "is gone; the next sync makes it again if it is still wanted"
        console.print(f"{one.provenance.name} {one.key} for {one.arch.value} {how}")


def print_verified(console: Console, found: Verified, tree: Path, *, json: bool) -> None:
    """What is wrong in the tree, and what has been done about it."""
    if json:
        findings = [
            {"kind": one.kind.value, "path": one.path, "problem": one.problem, "repaired": one.repaired or None}
            for one in found.findings
        ]
        console.json({"clean": found.clean, "versions": found.versions, "size": found.size, "findings": findings})
        return
    for one in found.findings:
        console.print(f"{one.path}: {one.problem}" + (f" ({one.repaired})" if one.repaired else ""))
    left = [one for one in found.findings if not one.repaired]
    if any(one.kind is not Kind.STRAY for one in left):
        console.print("to withdraw what is damaged and write the index anew: lxdocker publish verify --repair")
    if any(one.kind is Kind.STRAY for one in left):
        console.print("what lxdocker does not know it leaves alone: move or delete it yourself")
    amount = f"{found.versions} versions, {human_size(found.size)}"
    console.print(f"{tree}: {amount}, {_problems(len(left))}")


def _problems(count: int) -> str:
    return {0: "all well", 1: "1 problem"}.get(count, f"{count} problems")


def print_mirrored(console: Console, result: Mirrored, *, json: bool) -> None:
    """What was copied, and what could not be."""

    def keys(versions: Sequence[Published]) -> list[dict[str, str]]:
        return [{"name": one.name.value, "arch": one.arch.value, "version": one.key} for one in versions]

    if json:
        console.json(
            {
                "fetched": keys(result.fetched),
                "updated": keys(result.updated),
                "unchanged": result.unchanged,
                "withdrawn": keys(result.withdrawn),
                "deleted": keys(result.deleted),
                "failed": [
                    {"name": one.name.value, "version": one.key, "error": error_document(one.error)}
                    for one in result.failed
                ],
                "bytes": result.size,
            }
        )
        return
    for verb, versions in (
        ("fetched", result.fetched),
        ("updated", result.updated),
        ("withdrew", result.withdrawn),
        ("deleted", result.deleted),
    ):
        for one in versions:
            console.print(f"{verb:9} {one.name} {one.key} for {one.arch.value}")
    for failure in result.failed:
        console.print(f"failed    {failure.name} {failure.key}: {failure.error}")
        if failure.error.resolution:
            console.print(f"            -> {failure.error.resolution}")
    counts = [("fetched", len(result.fetched)), ("updated", len(result.updated)), ("unchanged", result.unchanged)]
    counts += [("withdrawn", len(result.withdrawn)), ("failed", len(result.failed))]
    console.print(
        (", ".join(f"{count} {what}" for what, count in counts if count) or "nothing to do")
        + f"; {human_size(result.size)} came"
    )
