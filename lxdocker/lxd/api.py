"""LXD, or Incus in its place, as the rest of lxdocker sees it."""

from __future__ import annotations

import os
import threading

from lxdocker.config.settings import Settings
from lxdocker.errors import HostError
from lxdocker.lxd.connection import Cancelled, NotFoundError
from lxdocker.lxd.daemon import Daemon
from lxdocker.lxd.images import Images, StoredImage
from lxdocker.lxd.instances import Instances
from lxdocker.lxd.places import Member, Places
from lxdocker.values import Arch

__all__ = ["Cancelled", "Lxd", "Member", "NotFoundError", "StoredImage"]


class Lxd(Images, Places, Instances):
    """One daemon, safe to use from several threads."""

    @classmethod
    def of(cls, settings: Settings, cancelled: threading.Event | None = None) -> Lxd:
        """The one that the settings name. Raises UsageError or HostError."""
        assert settings.client_dir is not None  # noqa: S101 - for the type checker: load() always gives one
        return cls(cancelled, Daemon.at(settings.lxd, settings.client_dir, os.environ))

    @property
    def arch(self) -> Arch:
        """Its own architecture. Raises HostError for one without images."""
        try:
            return Arch(self.dialect.architecture) if self.dialect.architecture else Arch.host()
        except ValueError as error:
            raise HostError(f"no images for this {self.daemon.product}", str(error)) from None
