"""Results, as tables and sentences for people; ``documents`` has them for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lxdocker.builder.image import BuilderImage
from lxdocker.cli import documents
from lxdocker.cli.console import Console
from lxdocker.cli.table import NAME, RED, SOURCE, STATE, Column, digest_column
from lxdocker.config.settings import Settings
from lxdocker.config.spec import ImageSpec
from lxdocker.errors import LxdockerError, UnreachableError
from lxdocker.progress import human_size
from lxdocker.sync.outcome import Outcome, Report, Status, Verb
from lxdocker.sync.state import ImageState, State, Survey, exit_status
from lxdocker.text import counted, one_line
from lxdocker.tree.rollback import Rollback
from lxdocker.tree.verify import Kind, Verified
from lxdocker.tree.version import Published, Withheld

if TYPE_CHECKING:
    from lxdocker.follow.run import Followed  # which load what only they need
    from lxdocker.image.difference import Difference
    from lxdocker.sync.compare import Rebuilt
    from lxdocker.sync.prune import Pruning
    from lxdocker.tree.mirror import Failure, Mirrored


MOST_NAMES = 10  # in one line
_REASON = Column("REASON", least=20)
_BUILT = Column("BUILT", least=10)  # the day, at least


def print_sync(console: Console, result: Report, survey: Survey | None = None) -> None:
    """The one summary at the end of a sync; as JSON, if there is a ``survey`` of what it left."""
    if survey is not None:
        console.json(documents.images(survey.done(result.outcomes), result))
        return
    if console.is_quiet and not _is_news(result):
        return
    for version in result.pruned:
        console.print(version.done)
    for outcome in result.outcomes:
        if outcome.status in {Status.UNCHANGED, Status.FAILED}:
            continue
        fingerprint = f"  {outcome.fingerprint.short}" if outcome.fingerprint else ""
        console.print(f"{outcome.status.value:9} {outcome.name}{fingerprint}  ({outcome.reason})")
    _print_errors(
        console, "failed   ", "image", [(str(one.name), one.error) for one in result.outcomes if one.error is not None]
    )
    _print_outdated(console, result.outdated)
    for name in result.kept_builders:
        console.print(
            f"kept {name}: lxc exec --project {result.builder_project} {name} -- /bin/sh (removed by the next sync)"
        )
    console.print(_counts(result.outcomes))


def _is_news(result: Report) -> bool:
    """Whether something changed or failed."""
    return bool(result.pruned or result.kept_builders or result.outdated) or any(
        outcome.status is not Status.UNCHANGED for outcome in result.outcomes
    )


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = [(status, sum(outcome.status is status for outcome in outcomes)) for status in Status]
    return ", ".join(f"{count} {status.value}" for status, count in counts if count) or "nothing to do"


def print_pruning(
    console: Console, pruning: Pruning, survey: Survey | None = None, say: Callable[[str], None] | None = None
) -> None:
    """What prune would remove and why; as JSON, if there is a ``survey`` of what there is. ``say``: where lines go that
    are not the result.
    """
    if survey is not None:
        images = survey.planned([], pruning.removals)
        console.json(documents.images(images, Report((), pruning.versions, ())))
        return
    say = say or console.print
    for removal in pruning.removals:
        say(f"would remove {removal.name}: {pruning.reason}")
    for version in pruning.versions:
        say(f"would {version.planned}")
    for name in pruning.builders:
        say(f"would remove builder {name}: its lxdocker has ended without removing it")
    if not console.is_quiet or not pruning.is_empty:
        say("would drop cached layers that no image needs" if not pruning.is_empty else "nothing to remove")


def print_plan(
    console: Console, images: Sequence[ImageState], outdated: LxdockerError | None = None, *, json: bool
) -> None:
    """The planned actions of a sync, in words."""
    if json:
        console.json(documents.images(images, outdated=outdated))
        return
    _print_outdated(console, outdated)
    if console.is_quiet and all(image.verb is Verb.KEEP for image in images):
        return
    for image in images:
        if image.verb is not Verb.KEEP and not image.error:
            console.print(f"would {image.verb.value if image.verb else 'fail on'} {image.name}: {image.reason}")
    _print_errors(console, "would fail on", "image", _failed(images))
    kept = sum(image.verb is Verb.KEEP for image in images)
    console.print(f"{kept} up to date, {len(images) - kept} to do")


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
    console: Console, images: Sequence[ImageState], outdated: LxdockerError | None = None, *, json: bool
) -> None:
    """One row per image."""
    if json:
        console.json(documents.images(images, outdated=outdated))
        return
    _print_outdated(console, outdated)
    if console.is_quiet:
        images = [image for image in images if image.state not in {State.CURRENT, State.WITHHELD}]
        if not images:
            return
    console.table(
        [NAME, STATE, _REASON, SOURCE, _BUILT, digest_column(), digest_column("FINGERPRINT")],
        [
            [
                str(image.name),
                image.state.value,
                _reason(image),
                image.source or "-",
                f"{image.built_at:%Y-%m-%d %H:%M}" if image.built_at else "-",
                image.held.provenance.source_digest.hex if image.held else "-",
                image.held.fingerprint.value if image.held else "-",
            ]
            for image in images
        ],
    )
    _print_errors(console, "failed   ", "image", _failed(images))


def _failed(images: Sequence[ImageState]) -> list[tuple[str, LxdockerError]]:
    return [(str(image.name), image.error) for image in images if image.error]


def _reason(image: ImageState) -> str:
    """In a table: more about errors stands below it."""
    if image.error:
        return _brief(image.error)
    return f"{image.verb.value}: {image.reason}" if image.verb not in {None, Verb.KEEP} else image.reason


def print_check(console: Console, images: Sequence[ImageState], outdated: LxdockerError | None = None) -> None:
    """One line for Nagios and its kin."""
    status = 2 if outdated else exit_status(images)
    if console.is_quiet and not status:
        return
    word = ("OK", "WARNING", "CRITICAL")[status]
    counts = {state: [str(image.name) for image in images if image.state is state] for state in State}
    noteworthy = [
        f"{len(names)} {state.value} ({_cut(names)})"
        for state, names in counts.items()
        if names and state is not State.CURRENT
    ]
    # Worst first, since pagers cut lines.
    noteworthy.sort(key=lambda text: f" {State.FAILED.value} " not in text)
    if outdated:
        noteworthy.insert(0, f"specs are outdated: {one_line(outdated.brief, 200)}")
    summary = ", ".join([*noteworthy, f"{len(counts[State.CURRENT])} of {len(images)} current"])
    figures = " ".join(f"{state.value}={len(names)}" for state, names in counts.items())
    console.print(f"LXDOCKER {word} - {summary.replace('|', '/')} | {figures}")


def print_check_failed(console: Console, error: LxdockerError) -> None:
    """The same where nothing could be checked."""
    console.print(f"LXDOCKER CRITICAL - {' '.join(str(error).split()).replace('|', '/')}")


def _cut(names: Sequence[str]) -> str:
    """The names in a line that is not too long."""
    shown = ", ".join(names[:MOST_NAMES])
    return f"{shown} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else shown


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
    checked = f"{human_size(found.read)} read" if found.read else f"{human_size(found.size)} (--deep reads the files)"
    result = counted(len(left), "problem") if left else "OK"
    console.print(f"{tree}: {counted(found.versions, 'version')}, {checked}: {result}")


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
    counts += [("withdrawn", len(result.withdrawn)), ("deleted", len(result.deleted)), ("failed", len(result.failed))]
    _print_counts(console, "version", counts, result.size)


def print_followed(console: Console, result: Followed, *, json: bool) -> None:
    """Imported images and failures."""
    if json:
        console.json(documents.followed(result))
        return
    for verb, listed in (("imported", result.imported), ("updated", result.updated)):
        for image in listed:
            console.print(f"{verb:9} {image.name} {image.key}  {image.fingerprint.short}")
    _print_failures(console, result.failed)
    if console.is_quiet and not (result.imported or result.updated or result.left_now or result.failed):
        return
    counts = [("imported", len(result.imported)), ("updated", len(result.updated)), ("unchanged", result.unchanged)]
    counts += [("no longer on the server", len(result.left)), ("failed", len(result.failed))]
    _print_counts(console, "image", counts, result.size)


def print_difference(console: Console, found: Difference, *, json: bool, everything: bool) -> None:
    """What differs between two versions, on a screen; ``everything``: with all files."""
    if json:
        console.json(documents.difference(found))
        return
    if console.is_quiet and found.is_empty:
        return
    from lxdocker.cli import contrast

    for line in contrast.lines(found, everything=everything):
        console.print(line)


def print_rebuilt(console: Console, found: Sequence[Rebuilt], *, json: bool) -> None:
    """Whether two builds of an image are the same, and what differs."""
    if json:
        console.json(documents.rebuilt(found))
        return
    from lxdocker.cli import contrast

    for image in found:
        if image.is_reproducible and not console.is_quiet:
            console.print(f"{image.name} is reproducible: both builds have the fingerprint {image.fingerprints[0]}")
        if image.files is not None:
            first, second = image.fingerprints
            console.print(f"{image.name} is not reproducible: {first.short}, then {second.short}", RED)
            for line in contrast.of_builds(image.files):
                console.print(f"  {line}")
    _print_errors(console, "failed   ", "image", [(str(one.name), one.error) for one in found if one.error])


def _print_failures(console: Console, failed: Sequence[Failure]) -> None:
    named = [(f"{failure.name} {failure.key}".rstrip(), failure.error) for failure in failed]
    _print_errors(console, "failed   ", "image", named)


def _print_errors(console: Console, verb: str, noun: str, failed: Sequence[tuple[str, LxdockerError]]) -> None:
    """What failed, why, and what to do: once for all that failed for the same reason, such as a registry's outage."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, error in failed:
        groups.setdefault((_brief(error), error.details, error.resolution), []).append(name)
    for (brief, details, resolution), names in groups.items():
        whom = names[0] if len(names) == 1 else counted(len(names), noun)
        console.print(f"{verb} {whom}: {brief}", RED)
        for line in details.splitlines():
            console.print(f"            {line}")
        if len(names) > 1:
            console.print(f"            {', '.join(names)}")
        if resolution:
            console.print(f"            -> {resolution}")


def _print_outdated(console: Console, error: LxdockerError | None) -> None:
    """Why specs of a repository stay those of an older commit."""
    if error is not None:
        _print_errors(console, "outdated ", "", [("specs", error)])


def _brief(error: LxdockerError) -> str:
    """What failed, without the image: many may have failed for it."""
    return f"cannot reach {error.registry}" if isinstance(error, UnreachableError) else error.brief


def _print_counts(console: Console, noun: str, counts: Sequence[tuple[str, int]], size: int) -> None:
    """``2 versions fetched, 5 unchanged, 68.3 MB downloaded``."""
    if console.is_quiet and not any(count for what, count in counts if what != "unchanged"):
        return
    found = [(count, what) for what, count in counts if count]
    words = [f"{count} {what}" for count, what in found]
    if found:
        count, what = found[0]
        words[0] = f"{count} {noun if count == 1 else f'{noun}s'} {what}"
    words += [f"{human_size(size)} downloaded"] if size else []
    console.print(", ".join(words) or "the server has no images")
