"""What is around instances in LXD: projects, profiles, volumes, pools, networks, and the members of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lxdocker.errors import HostError, LxdError
from lxdocker.lxd.address import UnixSocket
from lxdocker.lxd.connection import HURRY, WHOLE, Cancelled, Connection, NotFoundError


@dataclass(frozen=True, slots=True)
class Member:
    """One LXD of a cluster."""

    name: str
    architecture: str
    is_online: bool  # neither away nor evacuated, as far as the cluster knows: it takes 20 s to notice
    groups: tuple[str, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Member:
        """As GET cluster/members has it."""
        return cls(
            name=document["server_name"],
            architecture=document.get("architecture") or "",
            is_online=document.get("status") == "Online",
            groups=tuple(document.get("groups") or ()),
        )


class Places(Connection):
    """What a connection does with these."""

    def ensure_project(self, name: str, description: str, config: Mapping[str, str]) -> None:
        """Creates a project unless it is there."""
        self._create_missing(("projects",), name, {"description": description, "config": dict(config)})

    def ensure_profile(self, project: str, name: str, profile: Mapping[str, Any]) -> None:
        """Creates a profile, or makes the one there the same."""
        there = self._create_missing(("profiles",), name, dict(profile), project=project)
        if there and any(there.get(key) != value for key, value in profile.items()):
            what = f"updating profile {name}"
            self.change("put", ("profiles", name), what, project=project, json=dict(profile))

    def ensure_volume(self, project: str, pool: str, name: str, description: str, member: str | None = None) -> None:
        """Creates a custom storage volume unless it is there: in a cluster, on a member."""
        path = ("storage-pools", pool, "volumes", "custom")
        where = {"target": member} if member else {}
        self._create_missing(path, name, {"description": description}, project=project, params=where)

    def _create_missing(
        self,
        path: tuple[str, ...],
        name: str,
        body: Mapping[str, Any],
        project: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any] | None:
        """Returns what was there, even if another client was faster; None when it was created."""
        what = f"creating {path[-1].rstrip('s')} {name}"

        def look() -> Mapping[str, Any]:
            found: Mapping[str, Any] = self.get(*path, name, what=what, project=project, params=params)
            return found

        with contextlib.suppress(NotFoundError):
            return look()
        try:
            self.change("post", path, what, project=project, params=params, json={"name": name, **body})
        except Cancelled:
            raise
        except LxdError as error:
            try:
                return look()
            except NotFoundError:
                raise error from None
        return None

    def require_project(self, name: str) -> None:
        """Raises HostError for a project that this client may not use: LXD shows an empty one then."""
        if isinstance(self.daemon.address, UnixSocket):
            return
        what = f"reading project {name}"
        try:
            self.get("projects", name, what=what)
        except LxdError as error:
            raise HostError(
                f"project {name} of LXD at {self.daemon.address} cannot be used",
                f"it does not exist, or this client's certificate is not for it ({error.details})",
                "name another in the setting `project`, or on that host: lxc config trust edit FINGERPRINT",
            ) from error

    def profile(self, project: str, name: str) -> Mapping[str, Any]:
        """A profile's config and devices."""
        found: Mapping[str, Any] = self.get("profiles", name, what=f"reading profile {name}", project=project)
        return found

    def pools(self) -> list[str]:
        """Names of the storage pools."""
        return [url.rsplit("/", 1)[-1] for url in self.get("storage-pools", what="listing storage pools")]

    def bridges(self, project: str) -> list[str]:
        """Names of the networks that LXD manages and a project's instances can join; if it is yet to be made, those of
        the default project.
        """
        what = "listing networks"
        try:
            found = self.get("networks", what=what, project=project, params=WHOLE)
        except LxdError:
            found = self.get("networks", what=what, params=WHOLE)
        return [network["name"] for network in found if network["managed"] and network["type"] in {"bridge", "ovn"}]

    def members(self) -> list[Member]:
        """A cluster's members; none of a daemon that is in no cluster."""
        if self.dialect.member is None:
            return []
        return [Member.of(one) for one in self.get("cluster", "members", what="listing the cluster", params=WHOLE)]

    def answers(self, member: str) -> bool:
        """Whether a member of the cluster answers, through the one that is asked."""
        try:
            self.get(what=f"asking member {member}", params={"target": member}, timeout=HURRY)
        except LxdError:
            return False
        return True
