"""What changed when, from what store and tree record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from lxdocker.image.origin import Origin
from lxdocker.image.provenance import parse_time
from lxdocker.image.version_key import version_time
from lxdocker.lxd.api import StoredImage
from lxdocker.lxd.store import StoreView
from lxdocker.sync.holdings import Holdings
from lxdocker.tree.version import Published, Withheld
from lxdocker.values import Arch, Digest, Fingerprint, ImageName


class EventKind(Enum):
    """A change."""

    BUILT = "built"  # an image that is in LXD's store
    PUBLISHED = "published"  # a version in the tree
    WITHDRAWN = "withdrawn"  # a version left the index
    WITHHELD = "withheld"  # a version was rolled back
    IMPORTED = "imported"  # from another server


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one image."""

    at: datetime  # UTC; of a publication to the minute
    kind: EventKind
    name: ImageName
    fingerprint: Fingerprint
    version: str | None = None  # its key in a tree
    arch: Arch | None = None
    digest: Digest | None = None  # of the tag, when it was built
    source: str | None = None  # source_label(), or the server's address


def events(holdings: Holdings, name: ImageName | None = None) -> list[Event]:
    """All changes that can be told from these, or those of one image; the newest first."""
    tree, withheld = holdings.tree, holdings.withheld
    found: list[Event] = [*_of_store(holdings.store), *_of_imported(holdings.store.imported)]
    found += [*_of_tree(tree, withheld), *_of_withheld(withheld)]
    found = [event for event in found if name in {None, event.name}]
    found.sort(key=lambda event: event.name)
    return sorted(found, key=lambda event: event.at, reverse=True)


def _of_store(store: StoreView) -> Iterator[Event]:
    for image in store.ours:
        made = image.provenance
        if at := made.built:
            yield Event(
                at, EventKind.BUILT, made.name, image.fingerprint, digest=made.source_digest, source=made.source
            )


def _of_imported(images: Iterable[StoredImage]) -> Iterator[Event]:
    for image in images:
        origin, at = Origin.from_properties(image.properties), parse_time(image.uploaded_at)
        if origin and at:
            yield Event(at, EventKind.IMPORTED, origin.name, image.fingerprint, origin.version, source=origin.server)


def _of_tree(tree: Iterable[Published], withheld: Iterable[Withheld]) -> Iterator[Event]:
    rolled_back = {(version.provenance.name, version.arch, version.key) for version in withheld}
    for version in tree:
        made = version.provenance
        what = (made.name, version.fingerprint, version.key, version.arch, made.source_digest, made.source)
        yield Event(version_time(version.key), EventKind.PUBLISHED, *what)
        if version.withdrawn is not None and (*version.product, version.key) not in rolled_back:
            yield Event(datetime.fromtimestamp(version.withdrawn, UTC), EventKind.WITHDRAWN, *what)


def _of_withheld(withheld: Iterable[Withheld]) -> Iterator[Event]:
    for version in withheld:
        made = version.provenance
        what = (made.name, version.fingerprint, version.key, version.arch, made.source_digest, made.source)
        yield Event(datetime.fromtimestamp(version.since, UTC), EventKind.WITHHELD, *what)
