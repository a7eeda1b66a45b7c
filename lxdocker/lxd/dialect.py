"""What differs between the LXDs that people run, and Incus: known here alone, and by API extension, never by version.

But for ``weakness``: no extension tells of a security fix.

https://documentation.ubuntu.com/lxd/latest/api-extensions/. The forms that the answers of operations take are in
``operation``. docs/lxd.md lists which LXD has what.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def register_command(name: str, url: str) -> str:
    """What to type for an image registry, where the daemon knows image servers as these."""
    return f"lxc image registry create {name} --protocol simplestreams url={url}"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One daemon's, as GET /1.0 describes it."""

    product: str  # 'LXD' or 'Incus'
    version: str  # for people to read; decides nothing
    extensions: frozenset[str]
    member: str | None = None  # which member of a cluster it is; None for a daemon of its own
    architecture: str = ""  # by LXD's name

    @classmethod
    def of(cls, server: Mapping[str, Any]) -> Dialect:
        """From the metadata of GET /1.0, whatever it lacks."""
        environment = server.get("environment") or {}
        incus = environment.get("server") == "incus"
        architectures = environment.get("architectures") or [""]
        clustered = bool(environment.get("server_clustered"))
        return cls(
            product="Incus" if incus else "LXD",
            version=str(environment.get("server_version") or "of an unknown version"),
            extensions=frozenset(server.get("api_extensions") or ()),
            member=str(environment["server_name"]) if clustered and environment.get("server_name") else None,
            architecture=str(architectures[0]),
        )

    def __str__(self) -> str:
        return f"{self.product} {self.version}"

    def header(self, name: str) -> str:
        """The name of one of the daemon's own request headers: ``fingerprint``, ``properties``, ``mode``, ..."""
        return f"X-{self.product}-{name}"

    @property
    def weakness(self) -> str:
        """What this LXD is known to lack that lxdocker's images rely on, and what to do about it; empty if nothing is.

        CVE-2026-23954 was fixed in 5.0.6, 5.21.5 and 6.7. Builds of the last version before each may have the fix, too,
        as the snap's had; and Debian has it in its 5.0.2, so that version says nothing.
        """
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", self.version)
        if self.product != "LXD" or not found:
            return ""
        major, minor, patch = (int(part or 0) for part in found.groups())
        if (major, minor) == (5, 0):
            fixed, last, lacks = "5.0.6", patch == 5, patch <= 5 and patch != 2
        elif major == 5:
            fixed, last, lacks = "5.21.5", (minor, patch) == (21, 4), (minor, patch) <= (21, 4)
        else:
            fixed, last, lacks = "6.7", minor == 6, major == 6 and minor <= 6
        if not lacks:
            return ""
        return (
            f"{self} {'may lack' if last else 'lacks'} the fix of CVE-2026-23954: root in a running instance"
            f" can make it write to files of this host -> update it: {fixed} has the fix (docs/lxd.md)"
        )

    @property
    def starts_what_it_creates(self) -> bool:
        """POST of an instance takes ``start``: one operation for both. LXD 5.21.3 and later."""
        return "instance_create_start" in self.extensions

    @property
    def deletes_what_runs(self) -> bool:
        """DELETE of an instance takes ``force``: one operation for stopping and deleting. LXD 6.7 and later."""
        return "instance_force_delete" in self.extensions

    @property
    def knows_registries(self) -> bool:
        """Image servers are registries that the daemon knows, and only these can be downloaded from. LXD 6.10 and
        later.
        """
        return "image_registries" in self.extensions
