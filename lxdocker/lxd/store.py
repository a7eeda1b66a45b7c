"""The images and aliases in LXD's store that lxdocker made or imported."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from lxdocker import log
from lxdocker.errors import HostError
from lxdocker.image.artifact import Artifact
from lxdocker.image.origin import SERVER, Origin
from lxdocker.image.provenance import Provenance
from lxdocker.lxd.connection import NotFoundError
from lxdocker.lxd.daemon import Daemon
from lxdocker.lxd.images import Count, StoredImage
from lxdocker.values import Fingerprint


class ImageApi(Protocol):
    """The part of LXD's API that a store needs; see Lxd, which has the rest as well."""

    daemon: Daemon

    def images(self, project: str, /) -> list[StoredImage]: ...

    def image(self, project: str, fingerprint: Fingerprint, /) -> StoredImage | None: ...

    def import_image(
        self,
        project: str,
        fingerprint: Fingerprint,
        metadata: Path,
        rootfs: Path,
        properties: Mapping[str, str],
        progress: Count | None,
        /,
    ) -> None: ...

    def set_image_properties(
        self, project: str, fingerprint: Fingerprint, properties: Mapping[str, str], /
    ) -> None: ...

    def delete_image(self, project: str, fingerprint: Fingerprint, /) -> None: ...

    def set_alias(self, project: str, alias: str, fingerprint: Fingerprint, /) -> None: ...

    def delete_alias(self, project: str, alias: str, /) -> None: ...


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
    """A project's images at one moment."""

    ours: tuple[Stored, ...]  # made by lxdocker; by name, the newest last
    aliases: Mapping[str, Fingerprint]  # of all images, whoever made them
    imported: tuple[StoredImage, ...] = ()  # from another server; see Origin
    deleting: str = "lxc image alias delete "  # the beginning of the command that deletes an alias


class Store:
    """The images of one LXD project."""

    def __init__(self, lxd: ImageApi, project: str) -> None:
        self._lxd = lxd
        self.project = project

    def view(self) -> StoreView:
        """The images now, in one request. Raises HostError if the project does not exist."""
        ours, imported = [], []
        aliases: dict[str, Fingerprint] = {}
        for image in self.images():
            aliases.update(dict.fromkeys(image.aliases, image.fingerprint))
            provenance = Provenance.from_properties(image.properties)
            # An image imported from a server was not made by a spec here, whatever its own properties say.
            if SERVER in image.properties:
                imported.append(image)
            elif provenance:
                ours.append(Stored(image, provenance))
        ours.sort(key=lambda stored: (stored.provenance.name, stored.image.uploaded_at))
        daemon = self._lxd.daemon
        where = [] if self.project == "default" else ["--project", self.project]
        remote = f"{daemon.address.name}:" if daemon.address.name else ""
        deleting = f"{log.shell([daemon.client, 'image', 'alias', 'delete', *where])} {remote}"
        return StoreView(tuple(ours), aliases, tuple(imported), deleting)

    def images(self) -> list[StoredImage]:
        """All images of the project, whoever made them. Raises HostError if the project does not exist."""
        daemon = self._lxd.daemon
        try:
            return self._lxd.images(self.project)
        except NotFoundError as error:
            raise HostError(
                f"{daemon.product} has no project {self.project}",
                error.details,
                f"create it ({daemon.client} project create {self.project}), or name another with --project",
            ) from error

    def add(
        self,
        artifact: Artifact,
        source: Provenance | Origin,
        progress: Count | None = None,
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Imports an artifact, without aliases. ``notes``: properties for this host alone."""
        self._lxd.import_image(
            self.project,
            artifact.fingerprint,
            artifact.metadata,
            artifact.rootfs,
            {**source.to_properties(), **notes},
            progress,
        )

    def point(self, aliases: tuple[str, ...], fingerprint: Fingerprint, before: Mapping[str, Fingerprint]) -> None:
        """Points aliases at an image. ``before``: the targets of all aliases at the last look; one that is right
        already costs no request.
        """
        for alias in aliases:
            if before.get(alias) != fingerprint:
                self._lxd.set_alias(self.project, alias, fingerprint)

    def drop_alias(self, alias: str) -> None:
        """Deletes an alias that a spec no longer names."""
        self._lxd.delete_alias(self.project, alias)

    def describe(
        self, image: StoredImage, source: Provenance | Origin, notes: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Records something new about an image whose content stays."""
        properties = {**image.properties, **source.to_properties(), **notes}
        self._lxd.set_image_properties(self.project, image.fingerprint, properties)

    def note(self, fingerprint: Fingerprint, notes: Mapping[str, str]) -> None:
        """Records properties for this host alone, unless the image is gone."""
        image = self._lxd.image(self.project, fingerprint)
        if image is not None and any(image.properties.get(key) != value for key, value in notes.items()):
            self._lxd.set_image_properties(self.project, fingerprint, {**image.properties, **notes})

    def discard(self, fingerprint: Fingerprint) -> None:
        """Deletes an image that was just added, unless an alias points to it and so it is in use."""
        image = self._lxd.image(self.project, fingerprint)
        if image is not None and not image.aliases:
            self._lxd.delete_image(self.project, fingerprint)

    def remove(self, image: Stored | StoredImage) -> None:
        """Deletes an image that lxdocker made or imported, with its aliases."""
        self._lxd.delete_image(self.project, image.fingerprint)


def given_by_hand(images: Iterable[StoredImage], named: Collection[str]) -> list[str]:
    """The aliases of these images that a user gave them: all but the ``named`` ones. They move to the image that takes
    the place of the old ones.
    """
    return sorted({alias for image in images for alias in image.aliases} - set(named))
