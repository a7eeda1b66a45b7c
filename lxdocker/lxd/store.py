"""The local LXD image store, as far as lxdocker made what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lxdocker.artifact import Artifact
from lxdocker.errors import HostError
from lxdocker.lxd import Lxd, NotFoundError, Progress, StoredImage
from lxdocker.provenance import Provenance
from lxdocker.values import Fingerprint


@dataclass(frozen=True, slots=True)
class Stored:
    """An image in the store that lxdocker made."""

    image: StoredImage
    provenance: Provenance

    @property
    def fingerprint(self) -> Fingerprint:
        return self.image.fingerprint


@dataclass(frozen=True, slots=True)
class StoreView:
    """One look at a project's images: what is ours, and every alias there is."""

    ours: tuple[Stored, ...]
    aliases: Mapping[str, Fingerprint]  # of all images, also those that others made


class Store:
    """The images of one LXD project."""

    def __init__(self, lxd: Lxd, project: str) -> None:
        self._lxd = lxd
        self.project = project

    def view(self) -> StoreView:
        """What is there now, in one request. Raises HostError where there is no such project."""
        ours = []
        aliases: dict[str, Fingerprint] = {}
        for image in self._images():
            aliases.update(dict.fromkeys(image.aliases, image.fingerprint))
            if provenance := Provenance.from_properties(image.properties):
                ours.append(Stored(image, provenance))
        ours.sort(key=lambda one: (one.provenance.name, one.image.uploaded_at))
        return StoreView(tuple(ours), aliases)

    def _images(self) -> list[StoredImage]:
        try:
            return self._lxd.images(self.project)
        except NotFoundError as error:
            raise HostError(
                f"LXD has no project {self.project}",
                error.details,
                f"make it (lxc project create {self.project}), or name another with --project",
            ) from error

    def add(self, artifact: Artifact, provenance: Provenance, progress: Progress | None = None) -> None:
        """Imports an artifact; no alias points to it yet."""
        self._lxd.import_image(
            self.project,
            artifact.fingerprint,
            artifact.metadata,
            artifact.rootfs,
            provenance.to_properties(),
            progress,
        )

    def point(self, aliases: tuple[str, ...], fingerprint: Fingerprint, there: Mapping[str, Fingerprint]) -> None:
        """Points aliases at an image; ``there`` is where they pointed when last looked at."""
        for alias in aliases:
            if there.get(alias) != fingerprint:
                self._lxd.set_alias(self.project, alias, fingerprint)

    def drop_alias(self, alias: str) -> None:
        """Deletes an alias that a spec no longer names."""
        self._lxd.delete_alias(self.project, alias)

    def describe(self, stored: Stored, provenance: Provenance) -> None:
        """Records something new about an image that stays the same."""
        properties = {**stored.image.properties, **provenance.to_properties()}
        self._lxd.set_image_properties(self.project, stored.fingerprint, properties)

    def remove(self, stored: Stored) -> None:
        """Deletes an image that lxdocker made, with its aliases."""
        self._lxd.delete_image(self.project, stored.fingerprint)
