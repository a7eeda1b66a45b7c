"""The pipeline: specs -> resolved images -> plan -> made images -> store and tree."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lxdocker.builder import image as builder_image
from lxdocker.builder import placement
from lxdocker.builder.instance import Workshop
from lxdocker.builder.recipe import NotCachedError
from lxdocker.config.spec import BrokenSpec, ImageSpec
from lxdocker.errors import HostError, LxdockerError, TreeError
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.api import Cancelled
from lxdocker.lxd.restart import Watch
from lxdocker.progress import Progress, Say
from lxdocker.sync import plan, prune
from lxdocker.sync.context import Context
from lxdocker.sync.deliver import Delivery, tidy
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.make import Builders, Finished, Making, copied
from lxdocker.sync.outcome import Outcome, Report, Status
from lxdocker.sync.plan import Build, Fail, Keep, PerSpec, Reimport, Remove, Republish, Restore, Touch
from lxdocker.sync.state import concluded
from lxdocker.text import counted
from lxdocker.values import ImageName, RegistryRef


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How to sync."""

    force: bool = False
    keep_builder: bool = False
    adopt: frozenset[ImageName] = frozenset()  # images that may belong to another folder of specs


OpenBuilders = Callable[[Context, SyncOptions, contextlib.ExitStack, Progress, Say], Builders | LxdockerError]


def make_plan(
    context: Context,
    specs: Sequence[ImageSpec],
    broken: Collection[BrokenSpec] = (),
    *,
    whole: bool,
    force: bool,
    adopt: Collection[ImageName] = (),
    progress: Progress | None = None,
) -> tuple[Holdings, list[PerSpec], list[Remove]]:
    """Looks at everything and decides; changes nothing. ``whole``: the specs are all of their folder, but for the
    ``broken`` ones.
    """
    with (progress or Progress()).step("looking at images and the published tree") as tell:
        holdings = context.look()
        tell(_looking_up(specs))
        resolved = context.resolve(specs, holdings)
    actions = plan.plan(resolved, holdings, context.folder, context.arch, force=force, adopt=adopt, broken=broken)
    removals = plan.plan_removals(specs, holdings, context.folder, broken) if whole else []
    return holdings, actions, removals


def _looking_up(specs: Sequence[ImageSpec]) -> str:
    registries = {spec.image.registry for spec in specs if isinstance(spec.image, RegistryRef)}
    where = next(iter(registries)) if len(registries) == 1 else counted(len(registries), "registry", "registries")
    return f"looking up {counted(len(specs), 'image')}" + (f" at {where}" if registries else "")


def hold_tree(context: Context, progress: Progress, say: Say) -> contextlib.ExitStack:
    """The session of this run, already entered: a context manager. While another lxdocker is in it, the run waits."""
    held = contextlib.ExitStack()
    with progress.step("opening the published tree") as tell:

        def waiting(text: str) -> None:
            say(text)
            tell(text)

        held.enter_context(context.tree.session(context.folder.id, waiting, context.cancelled))
    return held


def sync(
    context: Context,
    specs: Sequence[ImageSpec],
    options: SyncOptions,
    progress: Progress,
    say: Say,
    broken: Collection[BrokenSpec] = (),
    *,
    whole: bool,
    open_builders: OpenBuilders | None = None,
) -> Report:
    """Builds and updates the image of every spec. Failures of single images are in the report; the others are done.

    The tree is locked while something is published in it, not while images are fetched and built.

    Raises HostError or TreeError where nothing can be done at all, UsageError where all images would be removed.
    ``open_builders``: builders from somewhere else than a workshop.
    """
    opening = open_builders or _open_workshop
    with hold_tree(context, progress, say):
        if weakness := context.lxd.dialect.weakness:
            say(f"warning: {weakness}")
        watch = Watch(context.lxd, say)
        was_killed = prune.builders(context, say)
        holdings, actions, removals = watch.outlived(
            lambda: make_plan(
                context, specs, broken, whole=whole, force=options.force, adopt=options.adopt, progress=progress
            )
        )
        plan.refuse_to_empty(specs, removals, context.settings)
        with contextlib.ExitStack() as cleanup:
            delivery = Delivery(context, holdings, options.adopt, progress, say)
            run = Run(
                delivery, watch, lambda: watch.outlived(lambda: opening(context, options, cleanup, progress, say))
            )
            progress.expect([action.spec.name for action in actions if not isinstance(action, Keep)])
            if any(isinstance(action, Build) and action.base is None for action in actions):
                run.need_builders()
            outcomes = run.all(actions) + [prune.left_alone(spec) for spec in broken]
            outcomes += [prune.remove(context, removal) for removal in removals]
            with progress.step("removing what is no longer needed"):
                pruned = prune.versions(context)
                if was_killed or _may_free_layers(holdings, actions, outcomes):
                    tidy(lambda: prune.layers(context, run.opened), say)
            kept = tuple(run.opened.kept) if run.opened else ()
    return Report(tuple(outcomes), tuple(pruned), kept, context.settings.builder_project)


def _may_free_layers(holdings: Holdings, actions: Sequence[PerSpec], outcomes: Sequence[Outcome]) -> bool:
    """Whether layers may have lost their last user: those of a removed image, or of one that was made of others now."""
    if any(outcome.status is Status.REMOVED for outcome in outcomes):
        return True
    for action, outcome in zip(actions, outcomes, strict=False):
        if outcome.status is Status.BUILT and not isinstance(action, Fail):
            manifest = action.wanted.resolved.manifest_digest
            before = holdings.made_for(action.spec.name)
            if any(stored.provenance.manifest_digest != manifest for stored in before):
                return True
    return False


def _open_workshop(
    context: Context, options: SyncOptions, cleanup: contextlib.ExitStack, progress: Progress, say: Say
) -> Workshop | LxdockerError:
    """The workshop for all builds, or why there can be none."""
    settings = context.settings
    placed = placement.prepare(context.lxd, settings)
    image = builder_image.find(context.lxd, placed.project)
    stale = image.stale_reason(settings.builder_max_age_days) if image else "none exists"
    if stale:
        say(f"building the builder image: {stale}")
        try:
            with progress.step("building the builder image") as tell:
                image = builder_image.build(context.lxd, settings, lambda text: tell(f"builder: {text}"))
        except HostError:
            raise
        except LxdockerError as error:
            if image is None or isinstance(error, Cancelled):
                return error
            say(f"warning: rebuilding the builder image failed; continuing with the old one ({error})")
    assert image is not None  # noqa: S101 - for the type checker: there was one or there is now
    workshop = Workshop(context.lxd, placed, image.fingerprint, keep=options.keep_builder)
    cleanup.callback(tidy, workshop.close, say)
    return workshop


def open_builders(context: Context, cleanup: contextlib.ExitStack, progress: Progress, say: Say) -> Builders:
    """Builders for work that publishes nothing, until ``cleanup``. Raises LxdockerError if there can be none."""
    prune.builders(context, say)
    opened = _open_workshop(context, SyncOptions(), cleanup, progress, say)
    if isinstance(opened, LxdockerError):
        raise opened
    return opened


class Run:
    """Carries out one plan."""

    def __init__(self, delivery: Delivery, watch: Watch, open_builders: Callable[[], Builders | LxdockerError]) -> None:
        self._delivery = delivery
        self._watch = watch
        self._context = delivery.context
        self._progress = delivery.progress
        self._open_builders = open_builders
        self._opening = threading.Lock()
        self._builders: Builders | LxdockerError | None = None

    @property
    def opened(self) -> Builders | None:
        """Where builders come from, if any was needed and could be had."""
        return None if isinstance(self._builders, LxdockerError) else self._builders

    def need_builders(self) -> Builders | LxdockerError:
        """Opens the workshop unless it is open."""
        with self._opening:
            if self._builders is None:
                self._builders = self._open_builders()
            return self._builders

    def all(self, actions: Sequence[PerSpec]) -> list[Outcome]:
        """Every action, ``jobs`` at a time; one outcome each, in the same order."""
        pool = ThreadPoolExecutor(max_workers=self._context.settings.jobs, thread_name_prefix="job")
        futures: list[Future[Outcome]] = []
        try:
            futures = [pool.submit(self.one, action) for action in actions]
            return [future.result() for future in futures]
        except BaseException:
            self._context.cancelled.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def one(self, action: PerSpec) -> Outcome:
        """One action. Its failure is an outcome, too; raises only Cancelled."""
        name = action.spec.name
        began = time.monotonic()
        try:
            outcome = self._watch.outlived(lambda: self._carry_out(action))
        except Cancelled:
            raise
        except LxdockerError as error:
            outcome = Outcome(name, Status.FAILED, error.brief, error=error)
        outcome = replace(concluded(outcome, action), seconds=time.monotonic() - began)
        if outcome.status is not Status.UNCHANGED:
            self._progress.done(name, outcome.status.value)
        return outcome

    def _carry_out(self, action: PerSpec) -> Outcome:
        name = action.spec.name
        match action:
            case Keep():
                return Outcome(name, Status.UNCHANGED, action.reason, action.stored.fingerprint)
            case Fail():
                raise action.error
            case Touch():
                self._delivery.touch(action)
                return Outcome(name, Status.UPDATED, action.reason, action.stored.fingerprint)
            case Reimport() | Republish():
                instead = self._restore(action)
                if instead is not None:
                    return self._build(instead)
                return Outcome(name, Status.RESTORED, action.reason, action.fingerprint)
            case Build():
                return self._build(action)

    def _restore(self, action: Restore) -> Build | None:
        """Copies an image to the place that lacks it. Returns the build that is needed instead if the only copy turns
        out to be damaged: there is nothing to restore from then, and nothing to offer to others.
        """
        spec = action.spec
        with self._context.tree.staging(spec.name) as folder:
            self._progress.phase(spec.name, f"restore: {action.reason}")
            finished = copied(self._context, action, folder)
            if finished.artifact.fingerprint == action.fingerprint:
                self._delivery.deliver(spec, finished)
                return None
        if isinstance(action, Republish):
            return Build(self._wanted_again(action), "the only copy was damaged", damaged=action.stored)
        version = action.published
        if action.rolled_back:
            self._context.tree.withdraw([version])
            raise TreeError(
                f"the version that {spec.name} was rolled back to is damaged",
                f"{version.folder}: its files differ from those that were published",
                f"lxdocker publish rollback {spec.name} VERSION chooses another one, --undo ends the rollback",
            )
        wanted = self._wanted_again(action)
        self._context.tree.withdraw([version])
        return Build(wanted, "the only copy was damaged", damaged=version)

    def _wanted_again(self, action: Restore) -> Wanted:
        """With the layers, which nobody asked for as long as no build was expected."""
        self._progress.phase(action.spec.name, "the copy is damaged; rebuilding")
        return action.wanted.at(self._context.resolver.resolve(action.spec.image, None))

    def _build(self, action: Build) -> Outcome:
        spec, say = action.spec, self._delivery.say
        making = Making.of(self._context, action.wanted)
        with self._context.tree.staging(spec.name) as folder:
            finished = making.upon(self._context, action.base, folder, self._progress, say) if action.base else None
            if finished is None:
                finished = self._in_builder(making, action.wanted, folder)
            self._progress.phase(spec.name, "import")
            self._delivery.deliver(spec, finished, action.damaged)
        return Outcome(spec.name, Status.BUILT, action.reason, finished.artifact.fingerprint)

    def _in_builder(self, making: Making, wanted: Wanted, folder: Path) -> Finished:
        builders = self.need_builders()
        if isinstance(builders, LxdockerError):
            raise builders
        try:
            return making.run(builders, folder, self._progress, self._delivery.say)
        except NotCachedError:  # as after a prune
            making = Making.of(self._context, wanted, anew=True)
            return making.run(builders, folder, self._progress, self._delivery.say)
