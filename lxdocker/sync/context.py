"""What a command works with, opened once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lxdocker.config.settings import Settings
from lxdocker.config.spec import ImageSpec
from lxdocker.errors import LxdockerError
from lxdocker.image.provenance import Folder, source_label
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.api import Lxd
from lxdocker.lxd.store import Store
from lxdocker.source.credentials import Credentials
from lxdocker.source.known import Known
from lxdocker.source.registry import RegistryClient
from lxdocker.source.resolve import ResolvedImage, Resolver
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.plan import Fail
from lxdocker.sync.state import Survey
from lxdocker.tree.tree import Tree
from lxdocker.values import Arch


@dataclass(frozen=True, slots=True)
class Context:
    """The settings and what they lead to: LXD, its image store, the published tree, registries."""

    settings: Settings
    folder: Folder
    arch: Arch
    lxd: Lxd
    store: Store
    tree: Tree
    credentials: Credentials
    registry: RegistryClient
    resolver: Resolver
    cancelled: threading.Event

    def look(self) -> Holdings:
        """What the store and the tree hold now."""
        return Holdings.look(self.store.view(), self.tree.versions(), self.tree.withheld())

    def survey(self, holdings: Holdings | None = None) -> Survey:
        """The states of images are made from this. Without ``holdings``, from a new look."""
        return Survey(holdings or self.look(), self.arch, self.tree.at_work())

    def resolve(self, specs: Sequence[ImageSpec], holdings: Holdings) -> list[Wanted | Fail]:
        """The image that each spec names now, in their order. Costs one HEAD for each that has not changed."""
        sources = [source_label(spec.image) for spec in specs]
        known = [holdings.known(spec.name, source, self.arch) for spec, source in zip(specs, sources, strict=True)]
        results = self.resolver.resolve_all([(spec.image, image) for spec, image in zip(specs, known, strict=True)])
        return [
            Fail(spec, source, result) if isinstance(result, LxdockerError) else self.wanted(spec, source, result)
            for spec, source, result in zip(specs, sources, results, strict=True)
        ]

    def wanted(self, spec: ImageSpec, source: str, resolved: ResolvedImage) -> Wanted:
        """A spec whose reference was resolved, under these settings. ``source``: its source_label()."""
        return Wanted.of(spec, resolved, source, self.folder.id, self.arch, self.settings.compression_level)


@contextmanager
def open_context(settings: Settings, cancelled: threading.Event) -> Iterator[Context]:
    """Raises HostError when LXD can't be used."""
    lxd = Lxd.of(settings, cancelled)
    lxd.require_project(settings.project)
    arch = lxd.arch
    credentials = Credentials()
    with RegistryClient(credentials, settings.insecure_registries) as registry:
        yield Context(
            settings=settings,
            folder=Folder.of(settings.specs),
            arch=arch,
            lxd=lxd,
            store=Store(lxd, settings.project),
            tree=Tree(settings.tree),
            credentials=credentials,
            registry=registry,
            resolver=Resolver(registry, arch, Known.of(os.environ)),
            cancelled=cancelled,
        )
