"""What to do: specs compared with what store and tree hold. Pure: nothing is asked, read or changed here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lxdocker.config.settings import Settings
from lxdocker.config.spec import BrokenSpec, ImageSpec
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.image.provenance import Folder, Provenance, changed_parts
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.store import Stored
from lxdocker.sync.holdings import Holdings
from lxdocker.text import one_line
from lxdocker.tree.version import Published
from lxdocker.values import Arch, Digest, Fingerprint, ImageName


@dataclass(frozen=True, slots=True)
class _ForWanted:
    """An action for a spec whose image could be resolved."""

    wanted: Wanted

    @property
    def spec(self) -> ImageSpec:
        return self.wanted.spec

    @property
    def source(self) -> str:
        return self.wanted.source


@dataclass(frozen=True, slots=True)
class Build(_ForWanted):
    """Neither place has the image: make it."""

    reason: str
    damaged: Stored | Published | None = None  # the only copy there was, which the new image replaces
    base: Stored | Published | None = None  # an image with the root filesystem that it is to have


@dataclass(frozen=True, slots=True)
class Reimport(_ForWanted):
    """The tree has the image, the store has not: copy it into the store."""

    published: Published
    rolled_back: bool = False

    @property
    def reason(self) -> str:
        return "rolled back in the published tree" if self.rolled_back else "missing from the local store"

    @property
    def fingerprint(self) -> Fingerprint:
        return self.published.fingerprint


@dataclass(frozen=True, slots=True)
class Republish(_ForWanted):
    """The store has the image, the tree has not: publish it once more."""

    stored: Stored
    rolled_back: bool = False

    @property
    def reason(self) -> str:
        return "missing from the published tree"

    @property
    def fingerprint(self) -> Fingerprint:
        return self.stored.fingerprint


Restore = Reimport | Republish


@dataclass(frozen=True, slots=True)
class Touch(_ForWanted):
    """Both have the image; its aliases or its records are out of date."""

    stored: Stored
    published: Published
    provenance: Provenance
    surplus: tuple[str, ...]  # aliases from an older version of the spec, which no spec asks for now
    reason: str
    rolled_back: bool = False


@dataclass(frozen=True, slots=True)
class Keep(_ForWanted):
    """Both have the image, and everything about it is up to date."""

    stored: Stored
    rolled_back: bool = False

    @property
    def reason(self) -> str:
        return "rolled back; the registry still has the withdrawn image" if self.rolled_back else "up to date"


@dataclass(frozen=True, slots=True)
class Fail:
    """The image can't be had now. Whatever exists of it stays."""

    spec: ImageSpec
    source: str  # source_label()
    error: LxdockerError


@dataclass(frozen=True, slots=True)
class Remove:
    """An image that no spec of this folder names any more."""

    name: ImageName
    stored: tuple[Stored, ...]
    published: tuple[Published, ...]


PerSpec = Build | Restore | Touch | Keep | Fail
Action = PerSpec | Remove


def is_rolled_back(action: PerSpec) -> bool:
    """Whether the registry still has the image that was rolled back, so that an older version is kept."""
    return isinstance(action, Reimport | Republish | Touch | Keep) and action.rolled_back


def plan(
    resolved: Sequence[Wanted | Fail],
    holdings: Holdings,
    folder: Folder,
    arch: Arch,
    *,
    force: bool,
    adopt: Collection[ImageName] = (),
    broken: Collection[BrokenSpec] = (),
) -> list[PerSpec]:
    """One action per spec, in their order. ``resolved``: the specs, each with its image, or why that can't be had.
    ``adopt``: images that may belong to another folder. ``broken``: the other specs of the folder.
    """
    planner = Planner(
        holdings=holdings,
        folder=folder,
        arch=arch,
        force=force,
        adopted=frozenset(adopt),
        claimed=frozenset(alias for item in resolved for alias in all_aliases(item.spec)),
        unreadable=frozenset(spec.name for spec in broken if spec.name),
    )
    return [planner.action(item) for item in resolved]


def plan_removals(
    specs: Sequence[ImageSpec], holdings: Holdings, folder: Folder, broken: Collection[BrokenSpec] = ()
) -> list[Remove]:
    """The images of this folder that none of its specs names now. ``specs`` and ``broken`` must be the whole folder.

    The image of a broken spec is not removed. If the name of that image is unknown, no image is: it may be any of them.
    """
    if any(spec.name is None for spec in broken) or (broken and not specs):
        return []
    named = {*(spec.name for spec in specs), *(spec.name for spec in broken)}
    names = {image.provenance.name for image in holdings.store.ours} | {version.name for version in holdings.tree}
    removals = []
    for name in sorted(names - named):
        current = holdings.stored(name)
        stored = holdings.made_for(name) if current and current.provenance.folder == folder.id else ()
        # The folder that has the newest version has the older ones, too, even if another folder published them.
        ours = {version.arch for version in holdings.newest(name) if version.provenance.folder == folder.id}
        published = [version for version in holdings.listed(name) if version.arch in ours]
        if stored or published:
            removals.append(Remove(name, tuple(stored), tuple(published)))
    return removals


def refuse_to_empty(specs: Sequence[ImageSpec], removals: Sequence[Remove], settings: Settings) -> None:
    """Raises UsageError where a folder has lost all of its specs. So does a folder whose path is mistyped or whose
    filesystem is not mounted, and that must not cost anybody their images.
    """
    if removals and not specs:
        names = ", ".join(removal.name.value for removal in removals)
        raise UsageError(
            f"no specs in {settings.specs}",
            f"all images built from this folder would be removed: {names}",
            "check that the folder is right and mounted; to remove the images: lxdocker prune --all",
        )


def held_elsewhere(spec: ImageSpec, holdings: Holdings, folder: Folder, arch: Arch) -> LxdockerError | None:
    """Why a spec must not touch the image of its name: it belongs to another folder of specs, in the store or in the
    tree.
    """
    for held in (holdings.stored(spec.name), holdings.published(spec.name, arch)):
        if held is None or held.provenance.folder == folder.id:
            continue
        where = "LXD" if isinstance(held, Stored) else "the published tree"
        path = holdings.path_of(held.provenance.folder)
        theirs = f"the specs in {path}" if path else "other specs (their folder was not recorded)"
        return UsageError(
            "the image belongs to another folder of specs",
            f"the one in {where} was built from {theirs}, these are in {folder.path}",
            f"if that folder was moved here, or should give the image up: lxdocker sync --adopt {spec.name};"
            f" otherwise rename {spec.path.name}, or use another --project and --tree",
        )
    return None


def all_aliases(spec: ImageSpec) -> tuple[str, ...]:
    """The image's name and its further aliases."""
    return (spec.name.value, *spec.aliases)


@dataclass(frozen=True)
class Planner:
    """Everything that the decision about one spec depends on."""

    holdings: Holdings
    folder: Folder
    arch: Arch
    force: bool
    adopted: frozenset[ImageName]  # images that may belong to another folder
    claimed: frozenset[str]  # aliases that the specs ask for
    unreadable: frozenset[ImageName]  # images of this folder whose specs are broken: nobody knows their aliases

    def action(self, item: Wanted | Fail) -> PerSpec:
        """The one action for a spec."""
        spec = item.spec
        held = None if spec.name in self.adopted else held_elsewhere(spec, self.holdings, self.folder, self.arch)
        if held is not None:
            return Fail(spec, item.source, held)
        if isinstance(item, Fail):
            return item
        if taken := self._taken_alias(spec):
            return Fail(spec, item.source, taken)
        return self._available(item)

    def _available(self, wanted: Wanted) -> PerSpec:
        """The action for a spec whose name and aliases nobody else has."""
        name = wanted.name
        stored, published = self.holdings.stored(name), self.holdings.published(name, self.arch)
        current_stored = stored if stored and stored.provenance.inputs == wanted.inputs else None
        current_published = published if published and published.provenance.inputs == wanted.inputs else None
        if current_published is None and self._withholds(name, wanted.inputs):
            return self._rolled_back(wanted, stored, published)
        if self.force:
            return Build(wanted, "forced")
        match current_stored, current_published:
            case Stored(), Published():
                if current_stored.fingerprint != current_published.fingerprint:
                    return _newer_half(wanted, current_stored, current_published)
                return self._touch_or_keep(wanted, wanted.resolved.source_digest, current_stored, current_published)
            case Stored(), None:
                return Republish(wanted, current_stored)
            case None, Published():
                return Reimport(wanted, current_published)
        held = (one for one in (published, stored) if one and one.provenance.rootfs == wanted.rootfs)
        return Build(wanted, _build_reason(wanted, stored or published), base=next(held, None))

    def _withholds(self, name: ImageName, inputs: str) -> bool:
        return self.holdings.withholds(name, self.arch, inputs)

    def _rolled_back(self, wanted: Wanted, stored: Stored | None, published: Published | None) -> PerSpec:
        """The registry still has the image that was rolled back. The store follows the tree, and nothing is built, not
        even with --force.
        """
        if published is not None:
            if stored is None or stored.fingerprint != published.fingerprint:
                return Reimport(wanted, published, rolled_back=True)
            action = self._touch_or_keep(wanted, published.provenance.source_digest, stored, published)
            return replace(action, rolled_back=True)
        if stored is not None and not self._withholds(wanted.name, stored.provenance.inputs):
            return Republish(wanted, stored, rolled_back=True)
        spec = wanted.spec
        error = UsageError(
            f"{spec.name}: the image was rolled back and has no other version",
            "the registry still has the version that was rolled back",
            f"lxdocker publish rollback {spec.name} --undo, or name another image in {spec.path.name}",
        )
        return Fail(spec, wanted.source, error)

    def _touch_or_keep(
        self, wanted: Wanted, source_digest: Digest, stored: Stored, published: Published
    ) -> Touch | Keep:
        """``source_digest``: of the image that both have."""
        spec, folder = wanted.spec, self.folder.id
        aliases = self.holdings.store.aliases
        surplus = self._surplus_aliases(stored, published)
        missing = tuple(alias for alias in all_aliases(spec) if aliases.get(alias) != stored.fingerprint)
        recorded = (stored.provenance, published.provenance)
        if missing or surplus:
            reason = f"aliases to correct: {', '.join(missing + surplus)}"
        elif published.aliases != spec.aliases:
            reason = "published aliases to correct"
        elif self.holdings.superseded(spec.name, stored.fingerprint):
            reason = "an older image to remove"  # a run that was cut short just before its end
        elif any(provenance.source_digest != source_digest for provenance in recorded):
            reason = "the tag points to a new index with the same image for this host"
        elif any(provenance.folder != folder for provenance in recorded):
            reason = "it belonged to another folder of specs"
        else:
            return Keep(wanted, stored)
        return Touch(wanted, stored, published, stored.provenance.seen_as(source_digest, folder), surplus, reason)

    def _surplus_aliases(self, stored: Stored, published: Published) -> tuple[str, ...]:
        """Aliases from an older version of the spec. Aliases that a user added are not among them, nor are those that
        another spec asks for now: its image takes them over.
        """
        aliases = stored.image.aliases
        return tuple(alias for alias in published.aliases if alias not in self.claimed and alias in aliases)

    def _taken_alias(self, spec: ImageSpec) -> LxdockerError | None:
        """Why a spec can't have one of its aliases."""
        for alias in all_aliases(spec):
            target, owner = self.holdings.store.aliases.get(alias), self.holdings.owner(alias)
            if target is None or (owner is not None and self._may_have(spec, alias, owner)):
                continue
            whose = f"the image {owner.provenance.name}" if owner else "an image that lxdocker did not make"
            return UsageError(
                f"{spec.name}: the alias {alias} is taken",
                f"it points to {whose} ({target.short})",
                f"delete or rename that alias ({self.holdings.store.deleting}{alias}), or rename {spec.path.name}",
            )
        for alias in all_aliases(spec):
            for version in self.holdings.listed_under(alias):
                if version.name != spec.name and version.provenance.folder != self.folder.id:
                    return UsageError(
                        f"{spec.name}: the alias {alias} is taken",
                        f"in the published tree it belongs to the image {version.name}, which another folder of specs"
                        " made",
                        "rename one of them, or publish in another folder: --tree DIR",
                    )
        return None

    def _may_have(self, spec: ImageSpec, alias: str, owner: Stored) -> bool:
        """Whether a spec may have an alias that points to the image ``owner`` now.

        An alias belongs to at most one spec of a folder. So a spec may claim one that another image of the folder has
        only from its own spec: that spec was renamed, or no longer asks for it.
        """
        name = owner.provenance.name
        if name == spec.name:
            return True
        published = self.holdings.published(name, self.arch)
        from_spec = (name.value, *(published.aliases if published else ()))
        ours = owner.provenance.folder == self.folder.id
        return ours and alias in from_spec and name not in self.unreadable


def _newer_half(wanted: Wanted, stored: Stored, published: Published) -> Restore:
    """Of two builds of the same image the newer one: in the store after a forced build that was cut short, in the tree
    after the store was restored from a backup. Clients never go back to the older one.
    """
    in_store, in_tree = stored.provenance.built, published.provenance.built
    if in_store is not None and in_tree is not None and in_tree > in_store:
        return Reimport(wanted, published)
    return Republish(wanted, stored)


def _build_reason(wanted: Wanted, before: Stored | Published | None) -> str:
    if before is None:
        return "new"
    if before.provenance.manifest_digest != wanted.resolved.manifest_digest:
        old, new = before.provenance.manifest_digest.hex[:12], wanted.resolved.manifest_digest.hex[:12]
        return f"image changed: {old} -> {new}"
    changed = changed_parts(before.provenance.parts, wanted.parts)
    shown = ", ".join(one_line(name, 80) for name in changed[:5]) + (", ..." if len(changed) > 5 else "")
    return f"changed: {shown}" if changed else "spec or lxdocker changed"
