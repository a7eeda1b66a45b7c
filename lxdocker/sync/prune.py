"""Removing what is no longer needed, and only what lxdocker itself made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from lxdocker.builder import image as builder_image
from lxdocker.builder import instance, placement, recipe
from lxdocker.builder.instance import Workshop
from lxdocker.config.settings import Settings
from lxdocker.config.spec import BrokenSpec, SpecFolder
from lxdocker.errors import LxdockerError
from lxdocker.files import scratch
from lxdocker.http.route import NOWHERE
from lxdocker.lxd.api import Cancelled
from lxdocker.progress import Say
from lxdocker.sync import plan
from lxdocker.sync.context import Context
from lxdocker.sync.make import Builders
from lxdocker.sync.outcome import Dropped, Outcome, Report, Status, Verb
from lxdocker.sync.plan import Remove
from lxdocker.text import counted
from lxdocker.tree import retention
from lxdocker.tree.version import Published

_NO_SPEC = "no spec names it"
_ALL = "--all was given"


@dataclass(frozen=True, slots=True)
class Pruning:
    """What prune_all() would remove now, and why. Unused layers are not known until a builder looks at them."""

    removals: tuple[Remove, ...]
    reason: str  # of the removals
    versions: tuple[Dropped, ...]
    builders: tuple[str, ...]  # names

    @property
    def is_empty(self) -> bool:
        return not (self.removals or self.versions or self.builders)


def look(context: Context, found: SpecFolder | None) -> Pruning:
    """What prune_all() would remove. Changes nothing, and raises what that would raise."""
    settings, tree = context.settings, context.tree
    removals = _removals(context, found)
    surplus = retention.to_retire(tree, settings.keep_versions, settings.keep_days * 86400)
    expired = retention.to_delete(tree, settings.grace_hours * 3600)
    return Pruning(
        removals=tuple(removals),
        reason=_ALL if found is None else _NO_SPEC,
        versions=(
            *(_surplus(version, settings) for version in surplus),
            *(_expired(version, settings) for version in expired),
        ),
        builders=tuple(instance.left_over(context.lxd, settings.builder_project)),
    )


def _removals(context: Context, found: SpecFolder | None) -> list[Remove]:
    specs, broken = (found.specs, found.broken) if found else ((), ())
    removals = plan.plan_removals(specs, context.look(), context.folder, broken)
    if found is not None:
        plan.refuse_to_empty(specs, removals, context.settings)
    return removals


def prune_all(context: Context, found: SpecFolder | None, say: Say) -> Report:
    """Removes everything that a sync would remove, and always unused layers. Builds nothing.

    ``found``: the whole folder; None removes every image that came from it. Raises UsageError if the folder has no
    spec left, which alone would remove them all.
    """
    with context.tree.session(context.folder.id, say, context.cancelled):
        builders(context, say)
        reason = _ALL if found is None else _NO_SPEC
        outcomes = [remove(context, removal, reason) for removal in _removals(context, found)]
        outcomes += [left_alone(spec) for spec in (found.broken if found else ())]
        pruned = versions(context)
        layers(context, None)
    return Report(tuple(outcomes), tuple(pruned), ())


def builders(context: Context, say: Say) -> bool:
    """Removes builders and temporary folders that a killed lxdocker left. Returns whether there was any builder: the
    layer cache then still has what that was fetching.
    """
    scratch.sweep(say)
    return instance.sweep(context.lxd, context.settings.builder_project, say)


def remove(context: Context, removal: Remove, reason: str = _NO_SPEC) -> Outcome:
    """Removes an image, such as one that no spec names any more, from store and tree."""
    try:
        for stored in removal.stored:
            context.store.remove(stored)
        context.tree.withdraw(list(removal.published))
    except Cancelled:
        raise
    except LxdockerError as error:
        return Outcome(removal.name, Status.FAILED, "removal failed", error=error, verb=Verb.REMOVE)
    return Outcome(removal.name, Status.REMOVED, reason, verb=Verb.REMOVE)


def left_alone(broken: BrokenSpec) -> Outcome:
    """The outcome for a spec with mistakes: its image stays as it is."""
    return Outcome(broken.name or broken.label, Status.FAILED, broken.error.brief, error=broken.error)


def versions(context: Context) -> list[Dropped]:
    """Withdraws surplus versions and deletes those whose grace period is over; then the index matches the tree.
    Returns what it did.
    """
    settings = context.settings
    surplus = retention.retire(context.tree, settings.keep_versions, settings.keep_days * 86400)
    expired = retention.sweep(context.tree, settings.grace_hours * 3600)
    return [
        *(_surplus(version, settings) for version in surplus),
        *(_expired(version, settings) for version in expired),
    ]


def _surplus(version: Published, settings: Settings) -> Dropped:
    newer = counted(settings.keep_versions, "newer version is", "newer versions are")
    old = f", and it is older than {counted(settings.keep_days, 'day')} (keep_days)" if settings.keep_days else ""
    reason = f"{newer} listed (keep_versions){old}"
    return Dropped(version.name, version.arch, version.key, is_deleted=False, reason=reason)


def _expired(version: Published, settings: Settings) -> Dropped:
    left = datetime.fromtimestamp(version.withdrawn or 0, UTC)
    grace = counted(settings.grace_hours, "hour")
    reason = f"it left the index at {left:%Y-%m-%d %H:%M} UTC, at least {grace} ago (grace_hours)"
    return Dropped(version.name, version.arch, version.key, is_deleted=True, reason=reason)


def layers(context: Context, builders: Builders | None) -> None:
    """Drops layers that no image needs, in a builder from ``builders``, or else from a workshop of its own.

    Never while another lxdocker builds: its layers may not be recorded yet.
    """
    if builders is not None:
        _drop_layers(context, builders)
        return
    lxd, settings = context.lxd, context.settings
    image = builder_image.find(lxd, settings.builder_project)
    if image is not None:
        workshop = Workshop(lxd, placement.prepare(lxd, settings), image.fingerprint)
        try:
            _drop_layers(context, workshop)
        finally:
            # Who tidies up may be about to remove the cache, or LXD itself.
            workshop.close(until_gone=True)


def _drop_layers(context: Context, builders: Builders) -> None:
    if instance.others_at_work(context.lxd, context.settings.builder_project):
        return
    names = sorted({stored.provenance.name for stored in context.store.view().ours})
    for member in builders.members:
        with builders.builder(NOWHERE, on=member) as builder:
            recipe.keep_only(builder, names)
