"""What to do: what the specs want against what the store and the tree hold. Pure; nothing is asked or changed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from lxdocker.errors import LxdockerError, UsageError
from lxdocker.provenance import Provenance, folder_id, inputs_hash
from lxdocker.published import Published, Withheld
from lxdocker.resolve import ResolvedImage
from lxdocker.settings import Settings
from lxdocker.spec import ImageSpec
from lxdocker.store import Stored, StoreView
from lxdocker.values import Arch, Digest, Fingerprint, ImageName

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Build:
    """Nobody has this image: make it."""

    spec: ImageSpec
    resolved: ResolvedImage
    reason: str


@dataclass(frozen=True, slots=True)
class Restore:
    """One of the two places has it: copy it to the other. Exactly one of the two is None."""

    spec: ImageSpec
    stored: Stored | None
    published: Published | None

    rolled_back: bool = False

    @property
    def reason(self) -> str:
        if self.rolled_back:
            return "rolled back in the published tree"
        return "missing in the local store" if self.stored is None else "missing in the published tree"


@dataclass(frozen=True, slots=True)
class Touch:
    """Both have it; aliases or what is recorded about it are out of date."""

    spec: ImageSpec
    stored: Stored
    published: Published
    provenance: Provenance
    surplus: tuple[str, ...]  # aliases that an earlier form of the spec asked for, and no spec does now
    reason: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Both have it, and all is as it should be."""

    spec: ImageSpec
    stored: Stored
    rolled_back: bool = False

    @property
    def reason(self) -> str:
        return "rolled back; the registry still has what was withdrawn" if self.rolled_back else "up to date"


@dataclass(frozen=True, slots=True)
class Fail:
    """It can't be had now; what there is of it stays."""

    spec: ImageSpec
    error: LxdockerError


@dataclass(frozen=True, slots=True)
class Remove:
    """No spec of this folder names it any more."""

    name: ImageName
    stored: tuple[Stored, ...]
    published: tuple[Published, ...]


PerSpec = Build | Restore | Touch | Keep | Fail
Action = PerSpec | Remove


@dataclass(frozen=True)
class Holdings:
    """What there is already, looked at once."""

    store: StoreView
    tree: tuple[Published, ...]
    withheld: tuple[Withheld, ...] = ()

    def known(self, name: ImageName, source: str, arch: Arch) -> ResolvedImage | None:
        """What was recorded when this source was last resolved for this image and architecture."""
        for one in (self.rolled_back(name, arch), self.stored(name), self.published(name, arch)):
            if one is not None and one.provenance.source == source:
                return one.provenance.resolved
        return None

    def rolled_back(self, name: ImageName, arch: Arch) -> Withheld | None:
        """The newest version that was rolled back, as long as nothing newer than it has been published."""
        newest = max(
            (one for one in self._withheld.get(name, ()) if one.arch == arch), key=lambda one: one.key, default=None
        )
        current = self.published(name, arch) if newest else None
        return None if newest and current and current.key > newest.key else newest

    def withholds(self, name: ImageName, arch: Arch, inputs: str) -> bool:
        """Whether what is made from these inputs was rolled back."""
        return any((one.arch, one.provenance.inputs) == (arch, inputs) for one in self._withheld.get(name, ()))

    def stored(self, name: ImageName) -> Stored | None:
        """The image that the alias ``name`` points to, or the newest one made for it."""
        ours = self.made_for(name)
        current = self.store.aliases.get(name.value)
        return next((one for one in ours if one.fingerprint == current), ours[-1] if ours else None)

    def made_for(self, name: ImageName) -> Sequence[Stored]:
        """Every image in the store that was made for this name, the newest last."""
        return self._stored.get(name, ())

    def owner(self, alias: str) -> Stored | None:
        """The image of lxdocker's that an alias points to."""
        target = self.store.aliases.get(alias)
        return self._by_fingerprint.get(target) if target else None

    def published(self, name: ImageName, arch: Arch | None = None) -> Published | None:
        """The newest listed version."""
        versions = reversed(self._published.get(name, ()))
        return next((one for one in versions if arch in {None, one.arch} and one.is_whole()), None)

    # By name, since there may be a thousand of each.

    @cached_property
    def _stored(self) -> Mapping[ImageName, Sequence[Stored]]:
        return _grouped(self.store.ours, lambda one: one.provenance.name)

    @cached_property
    def _by_fingerprint(self) -> Mapping[Fingerprint, Stored]:
        return {one.fingerprint: one for one in self.store.ours}

    @cached_property
    def _published(self) -> Mapping[ImageName, Sequence[Published]]:
        return _grouped((one for one in self.tree if one.withdrawn is None), lambda one: one.name)

    @cached_property
    def _withheld(self) -> Mapping[ImageName, Sequence[Withheld]]:
        return _grouped(self.withheld, lambda one: one.provenance.name)


def _grouped(items: Iterable[T], name: Callable[[T], ImageName]) -> Mapping[ImageName, Sequence[T]]:
    groups: dict[ImageName, list[T]] = {}
    for item in items:
        groups.setdefault(name(item), []).append(item)
    return groups


def plan(
    specs: Sequence[ImageSpec],
    resolutions: Mapping[ImageName, ResolvedImage | LxdockerError],
    holdings: Holdings,
    settings: Settings,
    arch: Arch,
    *,
    force: bool,
) -> list[PerSpec]:
    """One action per spec, in their order."""
    folder = folder_id(settings.specs)
    claimed = frozenset(alias for spec in specs for alias in all_aliases(spec))
    return [_for_spec(spec, resolutions[spec.name], holdings, settings, arch, folder, claimed, force) for spec in specs]


def plan_removals(specs: Sequence[ImageSpec], holdings: Holdings, settings: Settings) -> list[Remove]:
    """What came from this folder of specs and is in none of them now. ``specs`` must be the whole folder."""
    folder = folder_id(settings.specs)
    wanted = {spec.name for spec in specs}
    stored = [one for one in holdings.store.ours if _is_orphan(one.provenance, folder, wanted)]
    published = [one for one in holdings.tree if one.withdrawn is None and _is_orphan(one.provenance, folder, wanted)]
    names = sorted({one.provenance.name for one in stored} | {one.name for one in published})
    return [
        Remove(
            name,
            tuple(one for one in stored if one.provenance.name == name),
            tuple(one for one in published if one.name == name),
        )
        for name in names
    ]


def refuse_to_empty(specs: Sequence[ImageSpec], removals: Sequence[Remove], settings: Settings) -> None:
    """Raises UsageError where a folder has lost all of its specs: a wrong path, or a mount that is not there, looks
    like that too, and must not cost anybody their images.
    """
    if removals and not specs:
        names = ", ".join(removal.name.value for removal in removals)
        raise UsageError(
            f"there is no spec in {settings.specs}",
            f"but there are images that were made from it, which would all be removed: {names}",
            "is it the right folder, and is it mounted? To really remove them: lxdocker prune --all",
        )


def _is_orphan(provenance: Provenance, folder: str, wanted: set[ImageName]) -> bool:
    return provenance.folder == folder and provenance.name not in wanted


def _for_spec(
    spec: ImageSpec,
    resolution: ResolvedImage | LxdockerError,
    holdings: Holdings,
    settings: Settings,
    arch: Arch,
    folder: str,
    claimed: frozenset[str],
    force: bool,
) -> PerSpec:
    if isinstance(resolution, LxdockerError):
        return Fail(spec, resolution)
    if taken := _taken_alias(spec, holdings, folder, arch):
        return Fail(spec, taken)
    wanted = inputs_hash(spec, resolution, arch, settings.compression_level)
    stored = holdings.stored(spec.name)
    published = holdings.published(spec.name, arch)
    if holdings.withholds(spec.name, arch, wanted) and (published is None or published.provenance.inputs != wanted):
        return _rolled_back(spec, stored, published, holdings, arch, folder, claimed)
    if force:
        return Build(spec, resolution, "forced")
    has_stored = stored is not None and stored.provenance.inputs == wanted
    has_published = published is not None and published.provenance.inputs == wanted
    if has_stored and has_published and stored and published:
        if stored.fingerprint != published.fingerprint:
            return Restore(spec, stored, None)  # a forced build that was cut short: the store is the newer one
        return _touch_or_keep(spec, resolution.source_digest, stored, published, holdings, folder, claimed)
    if has_stored and stored:
        return Restore(spec, stored, None)
    if has_published and published:
        return Restore(spec, None, published)
    return Build(spec, resolution, _build_reason(resolution, stored or published))


def _rolled_back(
    spec: ImageSpec,
    stored: Stored | None,
    published: Published | None,
    holdings: Holdings,
    arch: Arch,
    folder: str,
    claimed: frozenset[str],
) -> PerSpec:
    """The registry still has what was rolled back: the store follows the tree, and nothing is built, forced or not."""
    if published is not None:
        if stored is None or stored.fingerprint != published.fingerprint:
            return Restore(spec, None, published, rolled_back=True)
        action = _touch_or_keep(spec, published.provenance.source_digest, stored, published, holdings, folder, claimed)
        return replace(action, rolled_back=True) if isinstance(action, Keep) else action
    if stored is not None and not holdings.withholds(spec.name, arch, stored.provenance.inputs):
        return Restore(spec, stored, None)
    return Fail(
        spec,
        UsageError(
            f"{spec.name}: the image was rolled back, and no other version of it is left",
            "the registry still has the one that is not to be published again",
            f"lxdocker publish rollback {spec.name} --undo, or name another image in {spec.path.name}",
        ),
    )


def _touch_or_keep(
    spec: ImageSpec,
    source_digest: Digest,
    stored: Stored,
    published: Published,
    holdings: Holdings,
    folder: str,
    claimed: frozenset[str],
) -> Touch | Keep:
    provenance = stored.provenance.seen_as(source_digest, folder)
    surplus = _surplus_aliases(stored, published, claimed)
    missing = tuple(alias for alias in all_aliases(spec) if holdings.store.aliases.get(alias) != stored.fingerprint)
    before = (stored.provenance, published.provenance)
    if missing or surplus:
        reason = f"aliases to set right: {', '.join(missing + surplus)}"
    elif published.aliases != spec.aliases:
        reason = "published aliases to set right"
    elif superseded(spec, stored.fingerprint, holdings):
        reason = "an older image to remove"  # a run that was cut short just before its end
    elif any(one.source_digest != source_digest for one in before):
        reason = "the tag names a new index with the same image for this host"
    elif any(one.folder != folder for one in before):
        reason = "another folder of specs has it now"
    else:
        return Keep(spec, stored)
    return Touch(spec, stored, published, provenance, surplus, reason)


def all_aliases(spec: ImageSpec) -> tuple[str, ...]:
    """The image's name and its further aliases."""
    return (spec.name.value, *spec.aliases)


def superseded(spec: ImageSpec, fingerprint: Fingerprint, holdings: Holdings) -> list[Stored]:
    """Images in the store that were made for this name before the one with this fingerprint."""
    return [one for one in holdings.made_for(spec.name) if one.fingerprint != fingerprint]


def _surplus_aliases(stored: Stored, published: Published, claimed: frozenset[str]) -> tuple[str, ...]:
    """Aliases that an earlier form of the spec asked for. What a user added by hand is not among them, nor what another
    spec asks for now: that one's image takes it over.
    """
    return tuple(alias for alias in published.aliases if alias not in claimed and alias in stored.image.aliases)


def _taken_alias(spec: ImageSpec, holdings: Holdings, folder: str, arch: Arch) -> LxdockerError | None:
    for alias in all_aliases(spec):
        target, owner = holdings.store.aliases.get(alias), holdings.owner(alias)
        if target is None or (
            owner and (owner.provenance.name == spec.name or _gave_up(owner, alias, holdings, folder, arch))
        ):
            continue
        whose = f"the image {owner.provenance.name}" if owner else "an image that lxdocker did not make"
        return UsageError(
            f"{spec.name}: the alias {alias} is taken",
            f"it points to {whose} ({target.short})",
            f"delete or rename that alias (lxc image alias delete {alias}), or rename {spec.path.name}",
        )
    return None


def _gave_up(owner: Stored, alias: str, holdings: Holdings, folder: str, arch: Arch) -> bool:
    """Whether an image has an alias only because a spec of this folder once said so. No two specs of a folder have one
    alias, so another one that asks for it now has the right to it: the first was renamed, or has let go of it.
    """
    name = owner.provenance.name
    published = holdings.published(name, arch)
    named = (name.value, *(published.aliases if published else ()))
    return owner.provenance.folder == folder and alias in named


def _build_reason(resolution: ResolvedImage, before: Stored | Published | None) -> str:
    if before is None:
        return "new"
    if before.provenance.manifest_digest != resolution.manifest_digest:
        old, new = before.provenance.manifest_digest.hex[:12], resolution.manifest_digest.hex[:12]
        return f"image changed: {old} -> {new}"
    return "spec or lxdocker changed"
