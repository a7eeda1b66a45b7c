"""The pipeline: specs -> resolved images -> plan -> builds -> store and tree."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lxdocker import artifact, deltas, plan, prune
from lxdocker.artifact import Artifact
from lxdocker.builder import image as builder_image
from lxdocker.builder import placement, recipe
from lxdocker.builder.instance import Builder, Workshop
from lxdocker.console import Progress
from lxdocker.context import Context
from lxdocker.errors import HostError, LxdockerError, TreeError
from lxdocker.lxd import Cancelled
from lxdocker.oci import OciConfig
from lxdocker.outcome import Outcome, Report, Status
from lxdocker.plan import Build, Fail, Holdings, Keep, PerSpec, Remove, Restore, Touch
from lxdocker.provenance import Provenance, folder_id, inputs_hash, source_label
from lxdocker.published import Delta, Published
from lxdocker.registry import certs_dir
from lxdocker.runtime.render import parse_healthcheck
from lxdocker.simplestreams import METADATA_FILE, ROOTFS_FILE
from lxdocker.spec import ImageSpec
from lxdocker.store import Stored
from lxdocker.values import Fingerprint, RegistryRef

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
MOST_LABELS = 50
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to sync."""

    force: bool = False
    keep_builder: bool = False


def make_plan(
    context: Context, specs: Sequence[ImageSpec], *, whole: bool, force: bool
) -> tuple[Holdings, list[PerSpec], list[Remove]]:
    """Looks at everything and decides; changes nothing. ``whole``: the specs are all of their folder."""
    holdings = context.look()
    resolutions = context.resolve(specs, holdings)
    actions = plan.plan(specs, resolutions, holdings, context.settings, context.arch, force=force)
    removals = plan.plan_removals(specs, holdings, context.settings) if whole else []
    return holdings, actions, removals


def sync(
    context: Context,
    specs: Sequence[ImageSpec],
    options: Options,
    progress: Progress,
    say: Say,
    *,
    whole: bool,
) -> Report:
    """Makes every spec true. Failures of single images are in the report; the others are done.

    Raises HostError or TreeError where nothing can be done at all, UsageError where all images would be removed.
    """
    with context.tree.lock(say, context.cancelled):
        was_killed = prune.builders(context, say)
        holdings, actions, removals = make_plan(context, specs, whole=whole, force=options.force)
        plan.refuse_to_empty(specs, removals, context.settings)
        with contextlib.ExitStack() as cleanup:
            run = _Run(context, holdings, progress, say, lambda: _open_workshop(context, options, cleanup, say))
            if any(isinstance(action, Build) for action in actions):
                run.need_workshop()
            outcomes = run.all(actions)
            outcomes += [prune.remove(context, removal) for removal in removals]
            pruned = prune.versions(context)
            workshop = run.workshop if isinstance(run.workshop, Workshop) else None
            if was_killed or any(_may_free_layers(holdings, outcome) for outcome in outcomes):
                _tidy(lambda: prune.layers(context, workshop), say)
            kept = tuple(workshop.kept) if workshop else ()
    return Report(tuple(outcomes), tuple(pruned), kept, context.settings.builder_project)


def _tidy(task: Callable[[], None], say: Say) -> None:
    """Does what the next sync can do as well: that it fails must not hide what has been achieved."""
    try:
        task()
    except Cancelled:
        raise
    except LxdockerError as error:
        say(f"{error}" + (f" -> {error.resolution}" if error.resolution else ""))


def _may_free_layers(holdings: Holdings, outcome: Outcome) -> bool:
    """Whether layers may have lost their last user."""
    if outcome.status is Status.REMOVED:
        return True
    return outcome.status is Status.BUILT and holdings.stored(outcome.name) is not None


def _open_workshop(
    context: Context, options: Options, cleanup: contextlib.ExitStack, say: Say
) -> Workshop | LxdockerError:
    """Where builds happen; or why there can be none."""
    settings = context.settings
    placed = placement.prepare(context.lxd, settings)
    image = builder_image.find(context.lxd, placed.project)
    stale = image.stale_reason(settings.builder_max_age_days) if image else "there is none"
    if stale:
        say(f"making the builder image: {stale}")
        try:
            image = builder_image.build(context.lxd, settings, lambda text: say(f"builder: {text}"))
        except HostError:
            raise
        except LxdockerError as error:
            if image is None or isinstance(error, Cancelled):
                return error
            say(f"the builder image could not be made again; going on with the old one ({error})")
    assert image is not None  # noqa: S101 - for the type checker: there was one or there is now
    workshop = Workshop(context.lxd, placed, image.fingerprint, keep=options.keep_builder)
    cleanup.callback(_tidy, workshop.close, say)
    return workshop


class _Run:
    """Carries out one plan."""

    def __init__(
        self,
        context: Context,
        holdings: Holdings,
        progress: Progress,
        say: Say,
        open_workshop: Callable[[], Workshop | LxdockerError],
    ) -> None:
        self._context = context
        self._holdings = holdings
        self._progress = progress
        self._say = say
        self._open_workshop = open_workshop
        self._opening = threading.Lock()
        self.workshop: Workshop | LxdockerError | None = None
        self._folder = folder_id(context.settings.specs)
        self._environment = {name: os.environ[name] for name in PROXY_VARIABLES if os.environ.get(name)}

    def need_workshop(self) -> Workshop | LxdockerError:
        """Opens the workshop unless it is open."""
        with self._opening:
            if self.workshop is None:
                self.workshop = self._open_workshop()
            return self.workshop

    def all(self, actions: Sequence[PerSpec]) -> list[Outcome]:
        """Every action, ``jobs`` at a time; one outcome each, in the same order."""
        pool = ThreadPoolExecutor(max_workers=self._context.settings.jobs, thread_name_prefix="job")
        futures: list[Future[Outcome]] = []
        try:
            futures = [pool.submit(self._one, action) for action in actions]
            return [future.result() for future in futures]
        except BaseException:
            self._context.cancelled.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, action: PerSpec) -> Outcome:
        name = action.spec.name
        began = time.monotonic()
        try:
            outcome = self._carry_out(action)
        except Cancelled:
            raise
        except LxdockerError as error:
            outcome = Outcome(name, Status.FAILED, error.brief, error=error)
        outcome = replace(outcome, seconds=time.monotonic() - began)
        if outcome.status is not Status.UNCHANGED:
            self._progress.done(name, outcome.status.value)
        return outcome

    def _carry_out(self, action: PerSpec) -> Outcome:
        match action:
            case Keep():
                return Outcome(action.spec.name, Status.UNCHANGED, action.reason, action.stored.fingerprint)
            case Fail():
                raise action.error
            case Touch():
                return self._touch(action)
            case Restore():
                return self._restore(action)
            case Build():
                return self._build(action)

    def _touch(self, action: Touch) -> Outcome:
        spec, stored = action.spec, action.stored
        if action.provenance != stored.provenance:
            self._context.store.describe(stored, action.provenance)
        self._point_aliases(spec, stored.fingerprint)
        for alias in action.surplus:
            self._context.store.drop_alias(alias)
        self._context.tree.update(action.published, action.provenance, spec.aliases)
        for older in plan.superseded(spec, stored.fingerprint, self._holdings):
            self._context.store.remove(older)
        return Outcome(spec.name, Status.UPDATED, action.reason, stored.fingerprint)

    def _restore(self, action: Restore) -> Outcome:
        spec = action.spec
        with self._context.tree.staging(spec.name) as folder:
            self._progress.phase(spec.name, f"restore: {action.reason}")
            if action.published is not None:
                provenance, properties = action.published.provenance, action.published.properties
                source = action.published.folder
                finished = self._copy(source / METADATA_FILE, source / ROOTFS_FILE, folder)
                expected = action.published.fingerprint
            elif action.stored is not None:
                provenance, properties = action.stored.provenance, action.stored.image.properties
                exported = self._context.lxd.export_image(
                    self._context.store.project, action.stored.fingerprint, folder
                )
                finished = self._copy(*exported, folder)
                expected = action.stored.fingerprint
            else:
                raise AssertionError("a restore has one side")
            if finished.fingerprint != expected:
                # The one copy there is has been damaged: nothing to restore from, and nothing to offer to others.
                if action.rolled_back and action.published is not None:
                    self._context.tree.withdraw([action.published])
                    raise TreeError(
                        f"the version of {spec.name} that was rolled back to is damaged",
                        f"{action.published.folder}: its files are not those that were published",
                        f"lxdocker publish rollback {spec.name} VERSION names another one, --undo ends the rollback",
                    )
                self._progress.phase(spec.name, "the copy is damaged; building again")
                resolved = self._context.resolver.resolve(spec.image, None)
                if action.published is not None:
                    self._context.tree.withdraw([action.published])
                build = Build(spec, resolved, "the only copy was damaged")
                return self._build(build, republish=True, damaged=action.stored)
            self._deliver(spec, finished, provenance, properties)
        return Outcome(spec.name, Status.RESTORED, action.reason, expected)

    @staticmethod
    def _copy(metadata: Path, rootfs: Path, folder: Path) -> Artifact:
        return artifact.write(folder, metadata.read_bytes(), artifact.read(rootfs))

    def _build(self, action: Build, *, republish: bool = False, damaged: Stored | None = None) -> Outcome:
        spec, resolved = action.spec, action.resolved
        workshop = self.need_workshop()
        if not isinstance(workshop, Workshop):
            raise workshop
        settings = self._context.settings
        config = self._context.resolver.config(spec.image, resolved)
        provenance = Provenance(
            name=spec.name,
            source=source_label(spec.image),
            source_digest=resolved.source_digest,
            manifest_digest=resolved.manifest_digest,
            config_digest=resolved.config_digest,
            inputs=inputs_hash(spec, resolved, self._context.arch, settings.compression_level),
            folder=self._folder,
            built_at=datetime.now(UTC).replace(microsecond=0).isoformat(),
        )
        properties = image_properties(spec, config, provenance, self._context)
        registry = spec.image if isinstance(spec.image, RegistryRef) else None
        download = sum(layer.size for layer in resolved.layers) if resolved.layers else None
        work = recipe.Recipe(
            name=spec.name,
            source=spec.image.at(resolved.manifest_digest) if isinstance(spec.image, RegistryRef) else spec.image,
            config=config,
            supervise=not spec.disable_supervisor,
            behaviour=spec.behaviour,
            arch=self._context.arch,
            properties=tuple(sorted(properties.items())),
            compression_level=settings.compression_level,
            timeout=settings.build_timeout,
            verify_tls=registry is None or self._context.registry.verifies(registry.registry),
            authfile=self._context.credentials.authfile_json(registry) if registry else None,
            layers=tuple(layer.digest.hex for layer in resolved.layers or ()),
            certificates=certs_dir(registry.registry) if registry else None,
            gzip_layers=any(layer.media_type.endswith("zstd") for layer in resolved.layers or ()),
            environment=self._environment,
            in_memory=settings.builder_memory is None,
        )

        def phase(text: str) -> None:
            self._progress.phase(spec.name, text, download if text == "fetch" else None)

        def open_builder() -> contextlib.AbstractContextManager[Builder]:
            phase("start a builder")
            return workshop.builder(registry, network=registry is not None)

        with self._context.tree.staging(spec.name) as folder:
            finished = recipe.build_image(
                open_builder, work, folder, phase, lambda amount: self._progress.count(spec.name, amount)
            )
            phase("import")
            self._deliver(spec, finished, provenance, properties, republish=republish, damaged=damaged)
        return Outcome(spec.name, Status.BUILT, action.reason, finished.fingerprint)

    def _deliver(
        self,
        spec: ImageSpec,
        finished: Artifact,
        provenance: Provenance,
        properties: Mapping[str, str],
        *,
        republish: bool = False,
        damaged: Stored | None = None,
    ) -> None:
        """Into the store, under its aliases, into the tree; then what it replaces goes. Safe to be killed anywhere.

        ``republish``: also where the tree has this very image, whose files turned out to be damaged. ``damaged``: what
        the store has, if its files did.
        """
        context = self._context
        replaced = damaged if damaged and damaged.fingerprint == finished.fingerprint else None
        if replaced:
            context.store.remove(replaced)  # else LXD would keep it, since it has an image of that fingerprint
        context.store.add(finished, provenance, lambda amount: self._progress.count(spec.name, amount))
        self._point_aliases(spec, finished.fingerprint, replaced)
        current = self._holdings.published(spec.name, context.arch)
        if current is not None and current.fingerprint == finished.fingerprint and not republish:
            context.tree.update(current, provenance, spec.aliases)
        else:
            delta = self._delta(current, finished)
            self._progress.phase(spec.name, "publish")
            context.tree.publish(
                finished, provenance, context.arch, spec.aliases, properties, dict([delta] if delta else [])
            )
        for older in plan.superseded(spec, finished.fingerprint, self._holdings):
            context.store.remove(older)

    def _delta(self, base: Published | None, finished: Artifact) -> tuple[Delta, Path] | None:
        """The way from what clients have to what is about to be published, if that is wanted and short."""
        settings = self._context.settings
        # With one version in the index a delta would have lost its base at once.
        if base is None or not settings.deltas or (settings.keep_versions == 1 and not settings.keep_days):
            return None
        self._progress.phase(base.name, f"delta from {base.key}")
        return deltas.make(base, finished, finished.folder, self._context.cancelled, self._say)

    def _point_aliases(self, spec: ImageSpec, fingerprint: Fingerprint, replaced: Stored | None = None) -> None:
        """The spec's aliases; and those that a user gave to the image before follow it, or that ``replaced`` lost."""
        before = self._holdings.published(spec.name, self._context.arch)
        named_before = before.aliases if before else ()
        followers = {
            alias
            for stored in plan.superseded(spec, fingerprint, self._holdings)
            for alias in stored.image.aliases
            if alias not in named_before
        }
        lost = replaced.image.aliases if replaced else ()
        aliases = dict.fromkeys([*plan.all_aliases(spec), *sorted(followers), *lost])
        there = {alias: target for alias, target in self._holdings.store.aliases.items() if alias not in lost}
        self._context.store.point(tuple(aliases), fingerprint, there)


def image_properties(spec: ImageSpec, config: OciConfig, provenance: Provenance, context: Context) -> Mapping[str, str]:
    """What ``lxc image info`` shows: what the image is, and what it expects of its instance."""
    expects = {
        "entrypoint": " ".join(config.argv),
        "user": config.user,
        "workdir": config.working_dir,
        "ports": " ".join(config.exposed_ports),
        "volumes": " ".join(config.volumes),
        "stop_signal": config.stop_signal,
        "healthcheck": _healthcheck_words(config),
    }
    return {
        "description": f"{spec.name} ({provenance.source})",
        "os": spec.name.value,
        "release": "current",
        "variant": "default",
        "type": "squashfs",
        **{f"oci.{key}": one_line(value) for key, value in expects.items() if value},
        **{f"oci.label.{key}": one_line(value) for key, value in sorted(config.labels.items())[:MOST_LABELS]},
        **dict(spec.properties),
        "architecture": context.arch.value,
        **provenance.sealed_properties(),
    }


def _healthcheck_words(config: OciConfig) -> str:
    health = parse_healthcheck(config.healthcheck)
    return f"{shlex.join(health.command)} every {health.interval:g} s" if health else ""


def one_line(text: str) -> str:
    """What an image says of itself, fit for a table: no control characters, and not endless."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)[:1000]
