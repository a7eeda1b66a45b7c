"""The images that the store and the tree hold, as one look found them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from lxdocker.image.provenance import FOLDER_PATH
from lxdocker.lxd.store import Stored, StoreView
from lxdocker.source.resolve import ResolvedImage
from lxdocker.tree.version import Published, Withheld
from lxdocker.values import Arch, Fingerprint, ImageName

T = TypeVar("T")


@dataclass(frozen=True)
class Holdings:
    """Nothing here looks at LXD or the disk again: two looks could differ."""

    store: StoreView
    tree: tuple[Published, ...]
    withheld: tuple[Withheld, ...] = ()
    damaged: frozenset[Path] = frozenset()  # folders of versions newer than the newest whole one, see look()

    @classmethod
    def look(cls, store: StoreView, tree: Iterable[Published], withheld: Iterable[Withheld] = ()) -> Holdings:
        """Looks at files of listed versions: of each image and architecture, from the newest to the first whole one.

        A version is damaged if files are missing or cut short.
        """
        versions = tuple(tree)
        damaged: set[Path] = set()
        found: set[tuple[ImageName, Arch]] = set()
        for version in reversed(versions):  # the newest of each image and architecture comes last
            if version.withdrawn is None and (version.name, version.arch) not in found:
                if version.is_whole():
                    found.add((version.name, version.arch))
                else:
                    damaged.add(version.folder)
        return cls(store, versions, tuple(withheld), frozenset(damaged))

    def known(self, name: ImageName, source: str, arch: Arch) -> ResolvedImage | None:
        """What was recorded when this source was last resolved for this image and architecture."""
        for record in (self.rolled_back(name, arch), self.stored(name), self.published(name, arch)):
            if record is not None and record.provenance.source == source:
                return record.provenance.resolved
        return None

    def rolled_back(self, name: ImageName, arch: Arch) -> Withheld | None:
        """The newest version that was rolled back, as long as nothing newer has been published."""
        versions = [version for version in self._withheld.get(name, ()) if version.arch == arch]
        newest = max(versions, key=lambda version: version.key, default=None)
        current = self.published(name, arch) if newest else None
        return None if newest and current and current.key > newest.key else newest

    def withholds(self, name: ImageName, arch: Arch, inputs: str) -> bool:
        """Whether an image made from these inputs was rolled back."""
        versions = self._withheld.get(name, ())
        return any((version.arch, version.provenance.inputs) == (arch, inputs) for version in versions)

    def stored(self, name: ImageName) -> Stored | None:
        """The image that the alias ``name`` points to, or the newest one made for it."""
        images = self.made_for(name)
        current = self.store.aliases.get(name.value)
        return next((image for image in images if image.fingerprint == current), images[-1] if images else None)

    def made_for(self, name: ImageName) -> Sequence[Stored]:
        """Every image in the store that was made for this name, the newest last."""
        return self._stored.get(name, ())

    def superseded(self, name: ImageName, fingerprint: Fingerprint) -> list[Stored]:
        """Images in the store that were made for this name, except the one with this fingerprint."""
        return [image for image in self.made_for(name) if image.fingerprint != fingerprint]

    def with_fingerprint(self, fingerprint: Fingerprint) -> Stored | None:
        """The image of lxdocker's in the store that has this fingerprint."""
        return self._by_fingerprint.get(fingerprint)

    def owner(self, alias: str) -> Stored | None:
        """The image of lxdocker's that an alias points to."""
        target = self.store.aliases.get(alias)
        return self.with_fingerprint(target) if target else None

    def listed(self, name: ImageName) -> Sequence[Published]:
        """Every listed version, damaged or not, the newest of each architecture last."""
        return self._published.get(name, ())

    def published(self, name: ImageName, arch: Arch | None = None) -> Published | None:
        """The newest listed version that is whole."""
        for version in reversed(self.listed(name)):
            if arch in {None, version.arch} and version.folder not in self.damaged:
                return version
        return None

    def newest(self, name: ImageName) -> Sequence[Published]:
        """The newest listed version for each architecture, damaged or not."""
        return tuple({version.arch: version for version in self.listed(name)}.values())

    def listed_under(self, alias: str) -> Sequence[Published]:
        """The newest versions in the tree, by architecture, of every image with this name or alias."""
        return self._listed_under.get(alias, ())

    def path_of(self, folder: str) -> str:
        """The path of a folder of specs; empty if no image in the store has it."""
        return self._paths.get(folder, "")

    # Indexes, since there may be a thousand images.

    @cached_property
    def _listed_under(self) -> Mapping[str, Sequence[Published]]:
        versions: dict[str, list[Published]] = {}
        for name in self._published:
            for version in self.newest(name):
                for alias in (name.value, *version.aliases):
                    versions.setdefault(alias, []).append(version)
        return versions

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        recorded = ((image.provenance.folder, image.image.properties.get(FOLDER_PATH)) for image in self.store.ours)
        return {folder: path for folder, path in recorded if path}

    @cached_property
    def _stored(self) -> Mapping[ImageName, Sequence[Stored]]:
        return _grouped(self.store.ours, lambda image: image.provenance.name)

    @cached_property
    def _by_fingerprint(self) -> Mapping[Fingerprint, Stored]:
        return {image.fingerprint: image for image in self.store.ours}

    @cached_property
    def _published(self) -> Mapping[ImageName, Sequence[Published]]:
        return _grouped((version for version in self.tree if version.withdrawn is None), lambda version: version.name)

    @cached_property
    def _withheld(self) -> Mapping[ImageName, Sequence[Withheld]]:
        return _grouped(self.withheld, lambda version: version.provenance.name)


def _grouped(items: Iterable[T], name: Callable[[T], ImageName]) -> Mapping[ImageName, Sequence[T]]:
    groups: dict[ImageName, list[T]] = {}
    for item in items:
        groups.setdefault(name(item), []).append(item)
    return groups
