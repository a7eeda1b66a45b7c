"""A place to sync in: images on disk, an LXD that keeps images, a real tree, and builders that speak as build.sh."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lxdocker.config.settings import Settings
from lxdocker.config.spec import BrokenSpec, ImageSpec
from lxdocker.errors import LxdockerError
from lxdocker.image.provenance import Folder
from lxdocker.lxd.store import Store
from lxdocker.source.credentials import Credentials
from lxdocker.source.registry import RegistryClient
from lxdocker.source.resolve import Resolver
from lxdocker.sync.context import Context
from lxdocker.sync.make import Builders
from lxdocker.sync.outcome import Outcome, Report
from lxdocker.sync.run import SyncOptions, sync
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Published
from lxdocker.values import Arch
from tests import recorded
from tests.contracts import Told
from tests.examples import spec
from tests.recorded import Recorded
from tests.registry_server import make_image, write_layout
from tests.stand_ins import ImageDaemon, KeptImage, ScriptedBuilders, client_of, image_daemon

NEWEST = recorded.every()[-1]


@dataclass
class Place:
    """Everything that a sync works with, and what it said."""

    root: Path
    daemon: ImageDaemon
    context: Context
    builders: ScriptedBuilders = field(default_factory=ScriptedBuilders)
    unopened: LxdockerError | None = None  # why there are no builders
    opened: int = 0
    told: Told = field(default_factory=Told)
    said: list[str] = field(default_factory=list)

    def image(self, name: str, text: str = "hello", *, aliases: tuple[str, ...] = (), **config: Any) -> ImageSpec:
        """A spec, and the image on disk that it names."""
        folder = self.root / "images" / name
        shutil.rmtree(folder, ignore_errors=True)
        made = make_image(text=text, **config)
        write_layout(folder, [made], [(made.manifest, "1")], [])
        return spec(name, f"oci:{folder}:1", aliases=aliases)

    def sync(self, *specs: ImageSpec, broken: Sequence[BrokenSpec] = (), whole: bool = True, **options: Any) -> Report:
        self.told, self.said = Told(), []

        def open_builders(*_: object) -> Builders | LxdockerError:
            self.opened += 1
            return self.unopened or self.builders

        return sync(
            self.context,
            specs,
            SyncOptions(**options),
            self.told,
            self.said.append,
            broken,
            whole=whole,
            open_builders=open_builders,
        )

    def with_settings(self, **changes: Any) -> None:
        self.context = replace(self.context, settings=replace(self.context.settings, **changes))

    def stored(self, alias: str) -> tuple[str, KeptImage]:
        return self.daemon.image("default", alias)

    def versions(self, name: str) -> list[Published]:
        """All that is listed."""
        return [
            version
            for version in self.context.tree.versions()
            if version.name.value == name and version.withdrawn is None
        ]

    def state(self) -> tuple[Any, Any]:
        """All that a sync could change."""
        kept = self.daemon.images
        images = {key: (dict(image.properties), list(image.aliases), image.parts) for key, image in kept.items()}
        files = {
            str(path): (path.stat().st_mtime_ns, path.read_bytes())
            for path in self.context.tree.root.rglob("*")
            if path.is_file() and not path.name.startswith(".lock")
        }
        return images, files

    def staged(self) -> list[str]:
        """What is in the staging area of the run."""
        return sorted(path.name.partition(".")[0] for path in self.context.tree.root.glob(".staging/run.*/*"))


@contextmanager
def place(root: Path, lxd: Recorded = NEWEST) -> Iterator[Place]:
    (root / "specs").mkdir()
    cancelled = threading.Event()
    settings = Settings(specs=root / "specs", tree=root / "tree", jobs=2)
    credentials = Credentials({"XDG_RUNTIME_DIR": str(root)}, root)
    with image_daemon(root, lxd) as daemon, RegistryClient(credentials) as registry:
        client = client_of(root, cancelled)
        yield Place(
            root,
            daemon,
            Context(
                settings=settings,
                folder=Folder.of(settings.specs),
                arch=Arch.X86_64,
                lxd=client,
                store=Store(client, settings.project),
                tree=Tree(settings.tree),
                credentials=credentials,
                registry=registry,
                resolver=Resolver(registry, Arch.X86_64),
                cancelled=cancelled,
            ),
        )


def words(report: Report) -> list[str]:
    """What came of each image, a line each."""
    return [in_words(outcome) for outcome in report.outcomes]


def in_words(outcome: Outcome) -> str:
    return f"{outcome.name} {outcome.status.value}: {outcome.error or outcome.reason}"
