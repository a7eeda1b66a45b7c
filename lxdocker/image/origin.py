"""Where an image comes from that ``mirror --import`` brought: kept as image properties, over those in the image itself,
so that nobody's image can pass for one that this host brought.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from lxdocker.image.provenance import PREFIX, machine_id
from lxdocker.image.version_key import is_version_key
from lxdocker.values import ImageName

SERVER = f"{PREFIX}server"
_FOLLOWER = f"{PREFIX}follower"


@dataclass(frozen=True, slots=True)
class Origin:
    """Which server had an image, and as what."""

    server: str  # its address, without a login
    name: ImageName
    version: str  # its key there
    aliases: tuple[str, ...]  # all that the server gave it, the name among them

    def to_properties(self) -> dict[str, str]:
        return {
            SERVER: self.server,
            _FOLLOWER: _follower(self.server),
            f"{PREFIX}name": self.name.value,
            f"{PREFIX}version": self.version,
            f"{PREFIX}aliases": ",".join(self.aliases),
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Origin | None:
        """None for an image that did not come to this host so."""
        try:
            server, version = properties[SERVER], properties[f"{PREFIX}version"]
            if properties[_FOLLOWER] != _follower(server) or not is_version_key(version):
                return None
            aliases = tuple(filter(None, properties[f"{PREFIX}aliases"].split(",")))
            return cls(server, ImageName.parse(properties[f"{PREFIX}name"]), version, aliases)
        except (KeyError, ValueError):
            return None


def _follower(server: str) -> str:
    """Names this host as the follower of a server. LXD copies an image's properties with it, and on the host it gets to
    that way nobody has brought it from there.
    """
    return hashlib.sha256(machine_id() + b"\0follows\0" + server.encode()).hexdigest()[:16]
