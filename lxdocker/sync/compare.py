"""Two versions of an image compared: of the published tree, or of the tree and a registry. Changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lxdocker.builder import listing
from lxdocker.builder.listing import Listing, Squashfs
from lxdocker.config.settings import size_in_bytes
from lxdocker.config.spec import ImageSpec
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.files import scratch
from lxdocker.http.route import NOWHERE
from lxdocker.image.artifact import ROOTFS_FILE
from lxdocker.image.difference import Difference, Files, Side
from lxdocker.image.overrides import overridden
from lxdocker.image.properties import image_properties
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.api import Cancelled
from lxdocker.progress import Progress, Say
from lxdocker.sync.context import Context
from lxdocker.sync.make import Builders, Finished, Making
from lxdocker.sync.request import wanted_again
from lxdocker.sync.run import open_builders
from lxdocker.text import counted
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Published
from lxdocker.values import Arch, Digest, Fingerprint, ImageName

REGISTRY = "registry"  # in place of a version: what the registry has now


@dataclass(frozen=True, slots=True)
class Pair:
    """The versions to compare. ``new``: None for what the registry has."""

    old: Published
    new: Published | None


def choose(tree: Tree, name: ImageName, arch: Arch, old: str | None, new: str | None) -> Pair:
    """The versions that were asked for; by default, the newest one and the one before, or, if only ``old`` is named,
    that one and the newest. Raises UsageError if there is none such.
    """
    every = [version for version in tree.versions() if version.name == name]
    if not every:
        raise UsageError(f"no image {name} in the tree {tree.root}", "", "lxdocker publish list shows its images")
    archs = {version.arch for version in every}
    wanted = arch if arch in archs else min(archs, key=lambda one: one.value)
    found = {version.key: version for version in every if version.arch is wanted}
    listed = [version for version in found.values() if version.is_listed()]
    if old == REGISTRY and new is None:
        old, new = None, REGISTRY
    if old == REGISTRY:
        raise UsageError("registry can only be the newer version", "", f"lxdocker diff {name} VERSION {REGISTRY}")
    if new == REGISTRY:
        return Pair(_version(found, name, old) if old else _newest(listed, name), None)
    if old and new:
        return Pair(_version(found, name, old), _version(found, name, new))
    if old:
        return Pair(_version(found, name, old), _newest(listed, name))
    if len(listed) < 2:
        raise UsageError(
            f"the tree {tree.root} lists {counted(len(listed), 'version')} of {name}",
            "to compare, it takes two",
            f"lxdocker publish list {name} shows all; lxdocker diff {name} {REGISTRY} compares with the registry",
        )
    return Pair(listed[-2], listed[-1])


def _newest(listed: Sequence[Published], name: ImageName) -> Published:
    if not listed:
        raise UsageError(f"no version of {name} is listed", "", f"lxdocker publish list {name} shows all versions")
    return listed[-1]


def _version(found: dict[str, Published], name: ImageName, key: str) -> Published:
    version = found.get(key)
    if version is None:
        raise UsageError(f"no version {key} of {name}", "", f"lxdocker publish list {name} shows its versions")
    if not version.is_whole():
        raise UsageError(
            f"version {key} of {name} cannot be compared",
            "its files are missing or cut short",
            "lxdocker publish verify shows what is damaged",
        )
    return version


def published(context: Context, pair: tuple[Published, Published], progress: Progress, say: Say) -> Difference:
    """Two versions of the tree. Their files are listed in builders."""
    old, new = pair
    files = Files((), (), None, None, ()) if old.rootfs_sha256 == new.rootfs_sha256 else None
    if files is None:
        with contextlib.ExitStack() as cleanup:
            folder = cleanup.enter_context(scratch.folder())
            builders = open_builders(context, cleanup, progress, say)
            with progress.step(f"listing the files of {old.name}") as tell:
                listings: list[Listing] = []
                for version in pair:
                    tell(f"listing the files of {old.name} {version.key}")
                    rootfs = Squashfs(version.folder / ROOTFS_FILE, version.rootfs_size, version.rootfs_sha256)
                    listings.append(_listed(context, builders, rootfs, folder))
            files = listing.changes(*listings)
    return Difference.of(old.name, old.arch, _side(old), _side(new), files)


def with_registry(context: Context, old: Published, spec: ImageSpec) -> Difference:
    """A version of the tree, and the image that the spec names now. Only its configuration is fetched. Raises
    RegistryError.
    """
    wanted = wanted_again(context, spec, None)
    config = overridden(context.resolver.config(spec.image, wanted.resolved), spec.changes.overrides)
    provenance = wanted.provenance(datetime.now(UTC))
    properties = image_properties(spec, config, provenance, wanted.arch)
    new = Side(REGISTRY, provenance, properties, layers=wanted.resolved.layers)
    return Difference.of(old.name, old.arch, _side(old), new, None)


def _side(version: Published) -> Side:
    return Side(version.key, version.provenance, version.properties, version.fingerprint, version.size)


def _listed(context: Context, builders: Builders, squashfs: Squashfs, folder: Path) -> Listing:
    settings = context.settings
    limit = None if settings.image_size_limit is None else size_in_bytes(settings.image_size_limit)
    with builders.builder(NOWHERE, cache=False) as builder:
        return listing.list_files(builder, squashfs, folder, seconds=settings.build_timeout, size_limit=limit)


# ---- the same image, built twice


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """An image that was built twice from the same inputs."""

    name: ImageName
    manifest: Digest | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    files: Files | None = None  # what differs; None if the fingerprints are the same
    error: LxdockerError | None = None  # why there is no result

    @property
    def is_reproducible(self) -> bool:
        return self.error is None and len(set(self.fingerprints)) == 1


def build_twice(context: Context, specs: Sequence[ImageSpec], progress: Progress, say: Say) -> list[Rebuilt]:
    """Builds each image twice, and compares. Publishes and imports nothing. Failures are in the result; raises
    LxdockerError only if nothing can be built.
    """
    with contextlib.ExitStack() as cleanup:
        builders = open_builders(context, cleanup, progress, say)
        progress.expect([spec.name for spec in specs])
        return [_rebuilt(context, builders, spec, progress, say) for spec in specs]


def _rebuilt(context: Context, builders: Builders, spec: ImageSpec, progress: Progress, say: Say) -> Rebuilt:
    try:
        wanted = wanted_again(context, spec, None)
        with scratch.folder() as folder:
            found = _twice(context, builders, wanted, folder, progress, say)
    except Cancelled:
        raise
    except LxdockerError as error:
        found = Rebuilt(spec.name, error=error)
    progress.done(spec.name, "failed" if found.error else "reproducible" if found.is_reproducible else "different")
    return found


def _twice(context: Context, builders: Builders, wanted: Wanted, folder: Path, progress: Progress, say: Say) -> Rebuilt:
    making = Making.of(context, wanted)
    built: list[Finished] = []
    for number in ("1", "2"):
        (folder / number).mkdir()
        built.append(making.run(builders, folder / number, progress, say))
    first, second = (one.artifact for one in built)
    fingerprints = (first.fingerprint, second.fingerprint)
    files: Files | None = None
    if first.fingerprint != second.fingerprint:
        progress.phase(wanted.name, "listing files")
        squashfs = [Squashfs(one.rootfs, one.rootfs_size, one.rootfs_sha256) for one in (first, second)]
        files = listing.changes(*(_listed(context, builders, one, folder) for one in squashfs), times=True)
    return Rebuilt(wanted.name, wanted.resolved.manifest_digest, fingerprints, files)
