"""What a command works with, opened once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lxdocker.credentials import Credentials
from lxdocker.errors import LxdockerError
from lxdocker.lxd import Lxd
from lxdocker.plan import Holdings
from lxdocker.provenance import source_label
from lxdocker.publish import Tree
from lxdocker.registry import RegistryClient
from lxdocker.resolve import ResolvedImage, Resolver
from lxdocker.settings import Settings
from lxdocker.spec import ImageSpec
from lxdocker.store import Store
from lxdocker.values import Arch, ImageName


@dataclass(frozen=True, slots=True)
class Context:
    """Settings and what they lead to: LXD, its image store, the published tree, registries."""

    settings: Settings
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
        return Holdings(self.store.view(), tuple(self.tree.versions()), tuple(self.tree.withheld()))

    def resolve(self, specs: Sequence[ImageSpec], holdings: Holdings) -> dict[ImageName, ResolvedImage | LxdockerError]:
        """Which image each spec names now: one HEAD for each that has not changed."""
        wanted = [(spec.image, holdings.known(spec.name, source_label(spec.image), self.arch)) for spec in specs]
        results = self.resolver.resolve_all(wanted)
        return {spec.name: result for spec, result in zip(specs, results, strict=True)}


@contextmanager
def open_context(settings: Settings, cancelled: threading.Event) -> Iterator[Context]:
    """Raises HostError when LXD can't be used."""
    lxd = Lxd(cancelled)
    arch = Arch.host()
    credentials = Credentials()
    with RegistryClient(credentials, settings.insecure_registries) as registry:
        yield Context(
            settings=settings,
            arch=arch,
            lxd=lxd,
            store=Store(lxd, settings.project),
            tree=Tree(settings.tree),
            credentials=credentials,
            registry=registry,
            resolver=Resolver(registry, arch),
            cancelled=cancelled,
        )
