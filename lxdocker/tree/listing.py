"""Every version that the tree has, and what becomes of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from lxdocker.errors import UsageError
from lxdocker.image.provenance import Provenance
from lxdocker.image.version_key import version_time
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Published, Withheld
from lxdocker.values import Arch, Fingerprint, ImageName


class VersionState(Enum):
    """What clients get of a version."""

    CURRENT = "current"  # the newest in the index: what clients get
    LISTED = "listed"  # an older one in the index
    GRACE = "grace"  # out of the index; its files stay for a while
    WITHHELD = "withheld"  # rolled back, and not published again
    DAMAGED = "damaged"  # files are missing or cut short, so it is not in the index


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version, or what is recorded of one that was rolled back."""

    provenance: Provenance
    arch: Arch
    key: str
    state: VersionState
    fingerprint: Fingerprint
    size: int | None  # bytes that a client downloads; None if its files are gone
    withdrawn_at: datetime | None = None  # when it left the index
    withheld_at: datetime | None = None  # when it was rolled back
    kept_until: datetime | None = None  # when the next sync or prune deletes its files

    @property
    def name(self) -> ImageName:
        return self.provenance.name

    @property
    def published_at(self) -> datetime:
        """To the minute, as versions are named."""
        return version_time(self.key)


def versions(tree: Tree, grace_seconds: float, name: ImageName | None = None) -> list[ListedVersion]:
    """All versions, or those of one image: by name and architecture, the newest first. Waits for no lock.

    Raises TreeError if there is no tree, UsageError if it has no such image.
    """
    with tree.explained("reading"):
        os.stat(tree.root)  # noqa: PTH116 - a missing tree is an error, an empty one is not
    present = [version for version in tree.versions() if name in {None, version.name}]
    withheld = {
        (version.provenance.name, version.arch, version.key): version
        for version in tree.withheld()
        if name in {None, version.provenance.name}
    }
    if name is not None and not present and not withheld:
        raise UsageError(f"no image {name} in the tree {tree.root}", "", "lxdocker publish list shows its images")
    current = {version.product: version.key for version in present if version.is_listed()}  # the newest comes last
    found = [
        _present(
            version, current.get(version.product), withheld.pop((*version.product, version.key), None), grace_seconds
        )
        for version in present
    ]
    found += [_gone(version) for version in withheld.values()]
    found.sort(key=lambda version: version.key, reverse=True)
    return sorted(found, key=lambda version: (version.name, version.arch.value))


def _present(version: Published, current: str | None, withheld: Withheld | None, grace: float) -> ListedVersion:
    if withheld is not None:
        state = VersionState.WITHHELD
    elif version.withdrawn is not None:
        state = VersionState.GRACE
    elif not version.is_whole():
        state = VersionState.DAMAGED
    else:
        state = VersionState.CURRENT if version.key == current else VersionState.LISTED
    withdrawn = None if version.withdrawn is None else _moment(version.withdrawn)
    return ListedVersion(
        provenance=version.provenance,
        arch=version.arch,
        key=version.key,
        state=state,
        fingerprint=version.fingerprint,
        size=version.size,
        withdrawn_at=withdrawn,
        withheld_at=_moment(withheld.since) if withheld else None,
        kept_until=withdrawn + timedelta(seconds=grace) if withdrawn else None,
    )


def _gone(version: Withheld) -> ListedVersion:
    return ListedVersion(
        provenance=version.provenance,
        arch=version.arch,
        key=version.key,
        state=VersionState.WITHHELD,
        fingerprint=version.fingerprint,
        size=None,
        withheld_at=_moment(version.since),
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
