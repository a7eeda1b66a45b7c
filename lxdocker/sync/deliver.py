"""Into the store and the tree: images that were made, and what is new about those that are there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lxdocker.config.spec import ImageSpec
from lxdocker.errors import LxdockerError, TreeError
from lxdocker.image.artifact import Artifact
from lxdocker.image.provenance import FOLDER_PATH, PUBLISHED_AS, Provenance
from lxdocker.image.version_key import is_version_key
from lxdocker.lxd.api import Cancelled
from lxdocker.lxd.store import Stored, given_by_hand
from lxdocker.progress import Progress, Say
from lxdocker.sync.context import Context
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.make import Finished
from lxdocker.sync.plan import Touch, all_aliases, held_elsewhere
from lxdocker.tree import deltas
from lxdocker.tree.version import Delta, Published
from lxdocker.values import Fingerprint, ImageName


def tidy(task: Callable[[], None], say: Say) -> None:
    """Does what the next run can do as well: its failure must not hide what was achieved."""
    try:
        task()
    except Cancelled:
        raise
    except LxdockerError as error:
        say(f"{error}" + (f" -> {error.resolution}" if error.resolution else ""))


@dataclass(frozen=True)
class Delivery:
    """The store and the tree, as they were when the run began. Used by several threads, one for each image."""

    context: Context
    holdings: Holdings
    adopted: Collection[ImageName]
    progress: Progress
    say: Say

    def touch(self, action: Touch) -> None:
        """Brings aliases and records up to date; the image stays."""
        context, spec, stored = self.context, action.spec, action.stored
        if action.provenance != stored.provenance:
            context.store.describe(stored.image, action.provenance, self._notes)
        self._point_aliases(spec, stored.fingerprint)
        for alias in action.surplus:
            context.store.drop_alias(alias)
        context.tree.update(action.published, action.provenance, spec.aliases)
        self._remove_superseded(spec, stored.fingerprint)

    def deliver(self, spec: ImageSpec, finished: Finished, damaged: Stored | Published | None = None) -> None:
        """The image into the store and under its aliases; then the images that it replaces go; then it is published.
        Safe to be killed anywhere.

        The old image leaves the store before the new one is published: a tree can stay full for weeks, and each run
        would leave one more image in the store. ``damaged``: a copy that has to be replaced even if the new image
        turns out to be the same.
        """
        context, made = self.context, finished.artifact
        replaced = damaged if isinstance(damaged, Stored) and damaged.fingerprint == made.fingerprint else None
        if replaced:
            context.store.remove(replaced)  # else LXD would keep it, since it has an image of that fingerprint
        before = self.holdings.with_fingerprint(made.fingerprint)
        context.store.add(made, finished.provenance, lambda amount: self.progress.count(spec.name, amount), self._notes)
        current = self.holdings.published(spec.name, context.arch)
        same = current if current and current.fingerprint == made.fingerprint and damaged is None else None
        delta = None if same else self._delta(current, made)
        with self._discarding(made.fingerprint, unless=before) as keep, context.tree.changing():
            self._refuse_what_changed(spec, finished.provenance)
            if before is not None and before.provenance.folder != finished.provenance.folder:
                context.store.describe(before.image, finished.provenance, self._notes)
            self._point_aliases(spec, made.fingerprint, replaced)
            keep()
            self._remove_superseded(spec, made.fingerprint)
            self.progress.phase(spec.name, "publish")
            if same:
                context.tree.update(same, finished.provenance, spec.aliases)
                return
            version = context.tree.publish(
                made,
                finished.provenance,
                context.arch,
                spec.aliases,
                finished.properties,
                delta or {},
                after=self._keys(spec),
            )
        tidy(lambda: context.store.note(made.fingerprint, {PUBLISHED_AS: version.key}), self.say)

    def _keys(self, spec: ImageSpec) -> list[str]:
        """The keys under which the store's images of this name were published. A tree from a backup may lack them, but
        clients, caches and mirrors do not.
        """
        found = (stored.image.properties.get(PUBLISHED_AS, "") for stored in self.holdings.made_for(spec.name))
        return [key for key in found if is_version_key(key)]

    @property
    def _notes(self) -> Mapping[str, str]:
        """What is recorded in this host's store alone."""
        return {FOLDER_PATH: str(self.context.folder.path)}

    @contextlib.contextmanager
    def _discarding(self, fingerprint: Fingerprint, unless: Stored | None) -> Iterator[Callable[[], object]]:
        """Deletes an image that was just added if the block fails before it calls what it is given. Until an alias
        points to the image no run would look for it. One that was in the store before stays.
        """
        with contextlib.ExitStack() as undo:
            if unless is None:
                undo.callback(tidy, lambda: self.context.store.discard(fingerprint), self.say)
            yield undo.pop_all

    def _refuse_what_changed(self, spec: ImageSpec, provenance: Provenance) -> None:
        """Others may have been at work while this image was built."""
        context = self.context
        now, arch = context.look(), context.arch
        if spec.name not in self.adopted and (held := held_elsewhere(spec, now, context.folder, arch)):
            raise held
        current = now.published(spec.name, arch)
        is_current = current is not None and current.provenance.inputs == provenance.inputs
        if now.withholds(spec.name, arch, provenance.inputs) and not is_current:
            raise TreeError(
                f"{spec.name} was rolled back while it was being built",
                "the image just built is not published",
                "run the same command again: the local store follows the tree",
            )

    def _remove_superseded(self, spec: ImageSpec, fingerprint: Fingerprint) -> None:
        for older in self.holdings.superseded(spec.name, fingerprint):
            self.context.store.remove(older)

    def _delta(self, base: Published | None, made: Artifact) -> Mapping[Delta, Path] | None:
        """The difference from the version that clients have, if deltas are wanted and this one is small."""
        settings = self.context.settings
        # With one version in the index, a delta would lose its base at once.
        if base is None or not settings.deltas or (settings.keep_versions == 1 and not settings.keep_days):
            return None
        self.progress.phase(base.name, f"delta from {base.key}")
        delta = deltas.make(base, made, made.folder, self.context.cancelled, self.say)
        return dict([delta]) if delta else None

    def _point_aliases(self, spec: ImageSpec, fingerprint: Fingerprint, replaced: Stored | None = None) -> None:
        """The spec's aliases, those that a user gave to the image before, and those that ``replaced`` had."""
        before = self.holdings.published(spec.name, self.context.arch)
        superseded = [stored.image for stored in self.holdings.superseded(spec.name, fingerprint)]
        followers = given_by_hand(superseded, before.aliases if before else ())
        lost = replaced.image.aliases if replaced else ()
        aliases = dict.fromkeys([*all_aliases(spec), *followers, *lost])
        pointing = {alias: target for alias, target in self.holdings.store.aliases.items() if alias not in lost}
        self.context.store.point(tuple(aliases), fingerprint, pointing)
