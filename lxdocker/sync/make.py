"""An image as an artifact in the staging area: built, or copied from the one place that has it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from lxdocker import log
from lxdocker.builder.instance import Builder, MemberLostError
from lxdocker.builder.recipe import BuildRequest, Listener, build_image, image_metadata
from lxdocker.errors import LxdError
from lxdocker.http.route import Route
from lxdocker.image import artifact
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE, Artifact, hashed
from lxdocker.image.overrides import overridden
from lxdocker.image.properties import image_properties
from lxdocker.image.provenance import NOTES, Provenance
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.api import Cancelled
from lxdocker.lxd.store import Stored
from lxdocker.progress import Progress, Say
from lxdocker.reasons import in_words
from lxdocker.runtime.own_init import own_init
from lxdocker.sync.context import Context
from lxdocker.sync.plan import Reimport, Republish, Restore
from lxdocker.sync.request import build_request
from lxdocker.tree.version import Published


class Builders(Protocol):
    """Where builders come from: a Workshop."""

    @property
    def kept(self) -> list[str]:
        """The names of builders that were left running, for debugging."""

    @property
    def members(self) -> Sequence[str | None]:
        """The hosts that have a layer cache; None for LXD's only one."""

    def builder(self, route: Route, *, cache: bool = True, on: str | None = None) -> AbstractContextManager[Builder]:
        """A fresh builder that can use the ``route``; with the layer cache, unless it needs none; ``on`` a member of a
        cluster, if one is named.
        """


@dataclass(frozen=True, slots=True)
class Finished:
    """An artifact, and what is recorded with it."""

    artifact: Artifact
    provenance: Provenance
    properties: Mapping[str, str]  # of the image itself


def copied(context: Context, action: Restore, folder: Path) -> Finished:
    """The image from the place that has it. Its fingerprint is not the action's if that copy is damaged."""
    match action:
        case Reimport(published=version):
            held: Stored | Published = version
            properties = dict(version.properties)
        case Republish(stored=stored):
            held = stored
            properties = {key: value for key, value in stored.image.properties.items() if key not in NOTES}
    metadata, rootfs = _files(context, held, folder)
    finished = artifact.write(folder, metadata.read_bytes(), artifact.read(rootfs))
    return Finished(finished, replace(held.provenance, folder=action.wanted.folder), properties)


def _files(context: Context, held: Stored | Published, folder: Path) -> tuple[Path, Path]:
    """Metadata and root filesystem; those of the store's image are written into ``folder`` first."""
    if isinstance(held, Published):
        return held.folder / METADATA_FILE, held.folder / ROOTFS_FILE
    return context.lxd.export_image(context.store.project, held.fingerprint, folder)


@dataclass(frozen=True, slots=True)
class Making:
    """One image that is about to be built."""

    request: BuildRequest
    provenance: Provenance
    properties: Mapping[str, str]
    own_init: str | None  # the image's own, if that will be PID 1

    @classmethod
    def of(cls, context: Context, wanted: Wanted, *, anew: bool = False) -> Making:
        """Asks the registry for the image's configuration, and how to reach it; where this is not ``anew``, only for
        what is not known of the image. Raises LxdockerError.
        """
        spec = wanted.spec
        config = overridden(context.resolver.config(spec.image, wanted.resolved, anew=anew), spec.changes.overrides)
        provenance = wanted.provenance(datetime.now(UTC))
        properties = image_properties(spec, config, provenance, wanted.arch)
        request = build_request(context, wanted, config, properties, anew=anew)
        pid1 = own_init(config) if spec.disable_supervisor == "auto" else None
        return cls(request, provenance, properties, pid1)

    def upon(
        self, context: Context, base: Stored | Published, folder: Path, progress: Progress, say: Say
    ) -> Finished | None:
        """With the root filesystem of an image that there is: only what LXD writes into instances is new. None if that
        image turns out to be damaged.
        """
        name = self.request.name
        progress.phase(name, "new metadata")
        self._tell_own_init(say)
        try:
            metadata, rootfs = _files(context, base, folder)
            log.command([*self.request.by_hand, "--metadata"], output=METADATA_FILE)
            log.command(["cp", str(rootfs), ROOTFS_FILE])
            before = hashlib.sha256(metadata.read_bytes())
            pieces = hashed(artifact.read(rootfs), before)
            finished = artifact.write(folder, image_metadata(self.request), pieces)
        except Cancelled:
            raise
        except (LxdError, OSError) as error:
            say(f"{name}: the image that it is to be made of can't be read ({in_words(error)}); building it")
            return None
        if before.hexdigest() != base.fingerprint.value:
            say(f"{name}: the image that it is to be made of is damaged; building it")
            return None
        return Finished(finished, self.provenance, self.properties)

    def _tell_own_init(self, say: Say) -> None:
        if self.own_init:
            say(f"{self.request.name}: the image's own init {self.own_init} will be PID 1 (disable_supervisor: auto)")

    def run(self, builders: Builders, folder: Path, progress: Progress, say: Say) -> Finished:
        """Builds it into ``folder``. Raises BuildError."""
        name, request = self.request.name, self.request

        def phase(text: str) -> None:
            progress.phase(name, text, request.size if text == "fetch" else None)

        def lost(count: int) -> None:
            what = "device nodes or file attributes that only the host's root can create"
            say(f"warning: {name} lacks {count} {what}: see /lxd-lost in an instance, or its console")

        def open_builder() -> AbstractContextManager[Builder]:
            phase("starting builder")
            return builders.builder(request.route)

        self._tell_own_init(say)
        listener = Listener(
            phase, lambda amount: progress.count(name, amount), lost, lambda line: progress.output(name, line)
        )
        try:
            finished = build_image(open_builder, request, folder, listener)
        except MemberLostError as away:
            say(f"warning: {away.brief}; building {name} on another one")
            finished = build_image(open_builder, request, folder, listener)
        return Finished(finished, self.provenance, self.properties)
