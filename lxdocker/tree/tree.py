"""The published tree: plain files that any web server can serve, and that LXD can trust at any moment.

::

    streams/v1/index.json, images.json         derived from what is below images/
    index.html                                 the same, for people
    images/NAME/ARCH/VERSION/lxd.tar.xz        immutable once it is there
                             rootfs.squashfs
                             BASE.vcdiff       rootfs.squashfs as a difference from version BASE's (optional)
                             lxdocker.json     what the version is (the sidecar)
                             withdrawn         present once it has left the index; its time starts the grace period
    images/NAME/ARCH/withheld.json             versions that were rolled back, never to be published again
    .sync.FOLDER.json                          how the last sync of a folder of specs ended, for monitoring
    .mirror/                                   present if the tree is a mirror of another server's

``workspace`` has the locks and the staging area, ``changes`` the steps of each change and what their order guarantees,
``index`` the documents. ``retention`` removes old versions, ``rollback`` bad ones.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lxdocker.errors import TreeError
from lxdocker.files.seen import exists, is_dir, is_file
from lxdocker.image import version_key
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE, Artifact
from lxdocker.image.provenance import Provenance
from lxdocker.tree import changes, index, last_sync
from lxdocker.tree.version import (
    IMAGES,
    SIDECAR,
    WITHDRAWN,
    WITHHELD,
    Delta,
    Published,
    Withheld,
    read_sidecar,
    read_withheld,
)
from lxdocker.tree.workspace import LOCK, STAGING, Workspace
from lxdocker.values import Arch

MIRROR = ".mirror"


@dataclass(frozen=True, slots=True)
class ProductFolder:
    """The folder of an image for one architecture."""

    path: Path
    folders: tuple[str, ...]  # in it, versions or not
    has_withheld: bool

    def withheld(self) -> list[Withheld]:
        """What was rolled back of it."""
        return read_withheld(self.path) if self.has_withheld else []


class Tree(Workspace):
    """The versions in the tree at ``root``: reads, adds, changes and withdraws them, and keeps the index up to date."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._sidecars: dict[str, tuple[tuple[int, int, int], Published | None]] = {}  # as last read

    def is_one(self) -> bool:
        """Whether the folder is a tree that lxdocker made, perhaps without a version."""
        return is_file(self.root / LOCK) and is_dir(self.root / STAGING)

    # ---- reading

    def versions(self) -> list[Published]:
        """Every version in the tree that has a readable sidecar, by name, architecture and key."""
        with self._changing:
            found = []
            for product in self.products():
                withheld = {version.key: version.since for version in product.withheld()}
                for folder in product.folders:
                    version = self._read(folder)
                    if version:
                        withdrawn = _withdrawn_at(folder)
                        # A process that rolled it back may have been killed before marking it.
                        since = withheld.get(version.key) if withdrawn is None else withdrawn
                        found.append(version if since is None else replace(version, withdrawn=since))
            return sorted(found, key=lambda version: (version.name, version.arch.value, version.key))

    def listed(self) -> list[Published]:
        """The versions that belong in the index."""
        return [version for version in self.versions() if version.is_listed()]

    def withheld(self) -> list[Withheld]:
        """Every version that was rolled back, by name, architecture and key."""
        found = [version for product in self.products() for version in product.withheld()]
        return sorted(found, key=lambda version: (version.provenance.name, version.arch.value, version.key))

    def products(self, name: str = "") -> Iterator[ProductFolder]:
        """The folders of all products, or of one image's."""
        names = [f"{self.root}/{IMAGES}/{name}"] if name else [at.path for at in _listing(f"{self.root}/{IMAGES}")]
        for path in names:
            for product in _listing(path):
                entries = _listing(product.path, folders_only=False)
                folders = tuple(entry.path for entry in entries if _is_folder(entry))
                yield ProductFolder(Path(product.path), folders, any(entry.name == WITHHELD for entry in entries))

    def _read(self, folder: str) -> Published | None:
        """A folder's sidecar, parsed only if it has changed."""
        sidecar = f"{folder}/{SIDECAR}"
        try:
            status = os.stat(sidecar)  # noqa: PTH116 - pathlib takes several times as long
        except OSError:
            return None
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        known = self._sidecars.get(folder)
        if known is None or known[0] != signature:
            known = self._sidecars[folder] = (signature, read_sidecar(Path(sidecar)))
        return known[1]

    # ---- changing

    def publish(
        self,
        artifact: Artifact,
        provenance: Provenance,
        arch: Arch,
        aliases: tuple[str, ...],
        properties: Mapping[str, str] = MappingProxyType({}),
        deltas: Mapping[Delta, Path] = MappingProxyType({}),
        *,
        after: Collection[str] = (),
    ) -> Published:
        """Makes the artifact the newest version of its product. It and the deltas are in this tree's staging area.
        ``after``: keys that it once had versions under.
        """
        with self.changing(), self.explained(f"publishing {provenance.name} in"):
            self.refuse_mirror()
            product = self.root / IMAGES / provenance.name.value / arch.value
            self.make_folder(product)
            key = self._next_key(product, after)
            version = Published(
                folder=product / key,
                provenance=provenance,
                arch=arch,
                key=key,
                fingerprint=artifact.fingerprint,
                aliases=aliases,
                properties=properties,
                metadata_size=artifact.metadata_size,
                metadata_sha256=artifact.metadata_sha256,
                rootfs_size=artifact.rootfs_size,
                rootfs_sha256=artifact.rootfs_sha256,
                withdrawn=None,
                deltas=tuple(deltas),
            )
            sources = {METADATA_FILE: artifact.metadata, ROOTFS_FILE: artifact.rootfs}
            changes.add_version(self, version, {**sources, **{delta.file: path for delta, path in deltas.items()}})
            self.write_index()
            return version

    def _next_key(self, product: Path, after: Collection[str]) -> str:
        taken = [*after]
        taken += [entry.name for entry in product.iterdir() if version_key.is_version_key(entry.name)]
        # Withheld versions count even if they are deleted: the new one must not sort before them.
        taken += [version.key for version in read_withheld(product)]
        return version_key.next_version_key(taken, datetime.now(UTC))

    def adopt(self, version: Published, files: Mapping[str, Path]) -> None:
        """Puts a version of another tree into this one, or mends it. The caller writes the index afterwards.

        ``files``: by name, complete and on this tree's filesystem. A file that is not among them is right already.
        """
        with self.changing(), self.explained(f"putting {version.name} into"):
            self.make_folder(version.folder.parent)
            if os.path.lexists(version.folder):
                changes.mend_version(self, version, files)
            else:
                changes.add_version(self, version, files)

    def update(self, version: Published, provenance: Provenance, aliases: tuple[str, ...]) -> None:
        """Records a new provenance and aliases of a version whose files stay the same."""
        with self.changing(), self.explained(f"updating {version.name} in"):
            changes.record(self, replace(version, provenance=provenance, aliases=aliases))
            self.write_index()

    def withdraw(self, versions: Sequence[Published]) -> None:
        """Takes versions out of the index; their files stay for the grace period."""
        with self.changing(), self.explained("withdrawing versions from"):
            for version in versions:
                changes.mark(self, version.folder)
            if versions:
                self.write_index()

    def drop_deltas(self, version: Published, deltas: Collection[Delta]) -> None:
        """Removes deltas of a version: damaged ones, or those whose base is gone."""
        with self.changing(), self.explained("removing a delta from"):
            left = replace(version, deltas=tuple(delta for delta in version.deltas if delta not in deltas))
            changes.drop_deltas(self, left, [delta.file for delta in deltas])

    def write_index(self) -> None:
        """Brings the index and the page up to date with what is in the tree."""
        with self.changing(), self.explained("writing the index of"):
            versions = self.versions()
            listed = [version for version in versions if version.is_listed()]
            now = datetime.now(UTC)
            new = index.build(listed, now)
            changes.write_index(self, self._leaving(versions, listed), new, index.catalogue(listed, self._synced(now)))

    def _synced(self, now: datetime) -> datetime:
        """When the tree was last synced, for the page: now, unless only a rollback or a repair is at work."""
        if self.in_session or exists(self.root / MIRROR):
            return now
        finished = max((last.finished for last in last_sync.read_all(self.root).values()), default=None)
        try:
            return now if finished is None else min(now, datetime.fromtimestamp(finished, UTC))
        except (ValueError, OverflowError, OSError):  # no time that a clock can show
            return now

    def _leaving(self, versions: Sequence[Published], listed: Sequence[Published]) -> list[Path]:
        """What leaves the index now, withdrawn, damaged or rolled back: it is still in it, or has no mark yet."""
        if len(listed) == len(versions):
            return []
        stays = {version.folder for version in listed}
        indexed = index.indexed_paths(self.root)
        return [
            version.folder
            for version in versions
            if version.folder not in stays
            and (_withdrawn_at(str(version.folder)) is None or version.version().rootfs.path in indexed)
        ]

    def documents(self) -> dict[str, Mapping[str, Any]]:
        """What the index should contain, by path."""
        return index.build(self.listed(), datetime.now(UTC)).documents

    def refuse_mirror(self) -> None:
        """Raises TreeError if this tree is a mirror."""
        if exists(self.root / MIRROR):
            raise TreeError(
                f"the tree {self.root} is a mirror",
                "the next mirror run would withdraw what is published in it",
                "publish in another folder: --tree DIR",
            )


def _withdrawn_at(folder: str) -> float | None:
    try:
        return os.stat(f"{folder}/{WITHDRAWN}").st_mtime  # noqa: PTH116 - pathlib takes several times as long
    except OSError:
        return None


def _listing(path: str, *, folders_only: bool = True) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it can't be read."""
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not folders_only or _is_folder(entry)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)  # what a link leads to is not part of the tree
