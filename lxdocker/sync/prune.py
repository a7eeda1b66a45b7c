"""Removing what is no longer needed, and only what lxdocker itself made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from lxdocker import plan
from lxdocker.builder import image as builder_image
from lxdocker.builder import instance, placement, recipe
from lxdocker.builder.instance import Workshop
from lxdocker.context import Context
from lxdocker.errors import LxdockerError
from lxdocker.lxd import Cancelled
from lxdocker.outcome import Outcome, Report, Status
from lxdocker.plan import Remove
from lxdocker.spec import ImageSpec

Say = Callable[[str], None]


def prune_all(context: Context, specs: Sequence[ImageSpec] | None, say: Say) -> Report:
    """Everything that a sync would remove, without building anything; and the layer cache each time.

    ``specs`` must be the whole folder; None removes every image that came from it. Raises UsageError where the
    folder has no spec left and only that would remove them all.
    """
    with context.tree.lock(say, context.cancelled):
        builders(context, say)
        removals = plan.plan_removals(specs or (), context.look(), context.settings)
        if specs is not None:
            plan.refuse_to_empty(specs, removals, context.settings)
        outcomes = [remove(context, removal) for removal in removals]
        pruned = versions(context)
        layers(context, None)
    return Report(tuple(outcomes), tuple(pruned), ())


def builders(context: Context, say: Say) -> bool:
    """Removes builders that a killed lxdocker left. Returns whether there was any: what it was fetching is still in the
    layer cache then.
    """
    return instance.sweep(context.lxd, context.settings.builder_project, say)


def remove(context: Context, removal: Remove) -> Outcome:
    """Takes an image that no spec names any more out of store and tree."""
    try:
        for stored in removal.stored:
            context.store.remove(stored)
        context.tree.withdraw(list(removal.published))
    except Cancelled:
        raise
    except LxdockerError as error:
        return Outcome(removal.name, Status.FAILED, "removal failed", error=error)
    return Outcome(removal.name, Status.REMOVED, "no spec names it any more")


def versions(context: Context) -> list[str]:
    """Withdraws surplus versions and deletes what has been withdrawn long enough; then the index says what there is.
    Returns what it did, in words.
    """
    settings = context.settings
    done = [
        f"withdrew {one.name} {one.key} from the tree: there are {settings.keep_versions} newer versions"
        for one in context.tree.retire(settings.keep_versions, settings.keep_days * 86400)
    ]
    done += [f"deleted {one.name} {one.key} from the tree" for one in context.tree.sweep(settings.grace_hours * 3600)]
    return done


def layers(context: Context, workshop: Workshop | None) -> None:
    """Drops layers that no image needs, in a builder of ``workshop``, or of an own one.

    Never while another lxdocker builds: its layers may not be recorded yet.
    """
    lxd, project = context.lxd, context.settings.builder_project
    if workshop is None:
        image = builder_image.find(lxd, project)
        if image is not None:
            own = Workshop(lxd, placement.prepare(lxd, context.settings), image.fingerprint)
            with contextlib.closing(own):
                layers(context, own)
        return
    if any(one["config"].get(instance.OWNER_KEY) != instance.owner() for one in lxd.instances(project)):
        return
    names = sorted({stored.provenance.name for stored in context.store.view().ours})
    with workshop.builder(None, network=False) as builder:
        recipe.keep_only(builder, names)
