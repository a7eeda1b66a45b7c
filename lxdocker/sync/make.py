"""An image as an artifact in the staging area: built, or copied from the one place that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from lxdocker.builder.instance import Builder, MemberLostError
from lxdocker.builder.recipe import BuildRequest, Listener, build_image
from lxdocker.http.route import Route
from lxdocker.image import artifact
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE, Artifact
from lxdocker.image.overrides import overridden
from lxdocker.image.properties import image_properties
from lxdocker.image.provenance import NOTES, Provenance
from lxdocker.image.wanted import Wanted
from lxdocker.progress import Progress, Say
from lxdocker.runtime.own_init import own_init
from lxdocker.sync.context import Context
from lxdocker.sync.plan import Reimport, Republish, Restore
from lxdocker.sync.request import build_request


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
            files = (version.folder / METADATA_FILE, version.folder / ROOTFS_FILE)
            provenance, properties = version.provenance, dict(version.properties)
        case Republish(stored=stored):
            files = context.lxd.export_image(context.store.project, stored.fingerprint, folder)
            provenance = stored.provenance
            properties = {key: value for key, value in stored.image.properties.items() if key not in NOTES}
    metadata, rootfs = files
    finished = artifact.write(folder, metadata.read_bytes(), artifact.read(rootfs))
    return Finished(finished, replace(provenance, folder=action.wanted.folder), properties)


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

        if self.own_init:
            say(f"{name}: the image's own init {self.own_init} will be PID 1 (disable_supervisor: auto)")
        listener = Listener(
            phase, lambda amount: progress.count(name, amount), lost, lambda line: progress.output(name, line)
        )
        try:
            finished = build_image(open_builder, request, folder, listener)
        except MemberLostError as away:
            say(f"warning: {away.brief}; building {name} on another one")
            finished = build_image(open_builder, request, folder, listener)
        return Finished(finished, self.provenance, self.properties)
