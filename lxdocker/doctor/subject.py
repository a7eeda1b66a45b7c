"""What is examined, found out once and shared by the examinations, which run side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from lxdocker.builder import placement as placing
from lxdocker.builder.placement import Placement
from lxdocker.config.settings import Settings
from lxdocker.config.spec import ImageSpec, SpecFolder, read_specs
from lxdocker.doctor.asking import Registries, ask
from lxdocker.doctor.finding import NotExamined
from lxdocker.errors import LxdockerError
from lxdocker.lxd.api import Lxd
from lxdocker.values import RegistryRef

Value = TypeVar("Value")


class Shared(Generic[Value]):
    """Made by the first thread that asks, while the others wait. An error is remembered, too."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[Value] = []
        self._error: Exception | None = None

    def __call__(self) -> Value:
        with self._lock:
            if self._error is not None:
                raise self._error
            if not self._made:
                try:
                    self._made.append(self._make())
                except Exception as error:
                    self._error = error
                    raise
            return self._made[0]


@dataclass(frozen=True)
class Subject:
    """This host, and the LXD that it works with."""

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    places: tuple[Path, ...] = ()  # where the folder of specs was looked for
    stop: threading.Event = field(default_factory=threading.Event)  # set when time is up

    connection: Shared[Lxd] = field(init=False)
    folder: Shared[SpecFolder] = field(init=False)
    placement: Shared[Placement] = field(init=False)
    asked: Shared[Registries] = field(init=False)

    def __post_init__(self) -> None:
        shared: dict[str, Callable[[], object]] = {
            "connection": Shared(lambda: Lxd.of(self.settings, self.stop)),
            "folder": Shared(lambda: read_specs(self.settings.specs, self.places)),
            "placement": Shared(lambda: placing.find(self.lxd(), self.settings)),
            "asked": Shared(lambda: ask(self.registries(), self.settings.insecure_registries, self.environ)),
        }
        for name, value in shared.items():
            object.__setattr__(self, name, value)

    def lxd(self) -> Lxd:
        """Raises NotExamined where it can't be used; that itself is another examination's finding."""
        try:
            return self.connection()
        except LxdockerError as error:
            raise NotExamined(f"LXD can't be used ({error.brief})") from error

    def local_lxd(self) -> Lxd:
        """An LXD on this host. Raises NotExamined."""
        lxd = self.lxd()
        if lxd.daemon.address.is_elsewhere:
            raise NotExamined(f"LXD is on another host ({lxd.daemon.address}): run lxdocker doctor there")
        return lxd

    def specs(self) -> tuple[ImageSpec, ...]:
        """The valid ones; none where there is no folder."""
        try:
            return self.folder().specs
        except LxdockerError:
            return ()

    def registries(self) -> list[RegistryRef]:
        """An image of each registry that specs name."""
        found: dict[str, RegistryRef] = {}
        for spec in self.specs():
            if isinstance(spec.image, RegistryRef):
                found.setdefault(spec.image.registry, spec.image)
        return list(found.values())

    def needs_network(self) -> bool:
        """Whether any builder needs more than this host's loopback; without specs, the builder image's would."""
        specs = self.specs()
        outside = (not ref.is_loopback for ref in self.registries())
        return not specs or any(outside) or any(spec.changes.needs_network for spec in specs)
