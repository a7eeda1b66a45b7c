"""What an examination finds: how bad it is, why, and the way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from lxdocker.errors import LxdockerError

PAGE = "docs/doctor.md"


class Severity(Enum):
    """How much a finding matters; the worst first."""

    ERROR = "error"  # something does not work
    WARNING = "warning"  # it will not, or not everywhere
    NOTE = "note"  # worth knowing


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
# Everything that can be found. docs/doctor.md has a heading for each, and a test compares.
SEVERITIES: Mapping[str, Severity] = {
    "lxd-missing": _E,
    "lxd-not-running": _E,
    "lxd-permission": _E,
    "lxd-unreachable": _E,
    "lxd-too-old": _E,
    "lxd-vulnerable": _W,
    "lxd-not-initialised": _E,
    "pool-missing": _E,
    "pool-full": _E,
    "pool-nearly-full": _W,
    "network-missing": _E,
    "bridge-without-dhcp": _E,
    "bridge-without-nat": _W,
    "bridge-blocked": _E,
    "id-map-small": _E,
    "proxy-not-in-lxd": _W,
    "proxy-not-in-timer": _W,
    "builder-image-missing": _N,
    "builder-image-stale": _W,
    "builder-image-architecture": _E,
    "builders-left": _W,
    "builder-without-network": _E,
    "builder-dns": _E,
    "builder-route": _E,
    "builder-authority": _E,
    "registry-unreachable": _E,
    "registry-refused": _W,
    "login-refused": _E,
    "rate-limit": _W,
    "clock-off": _W,
    "specs-missing": _N,
    "specs-outdated": _E,
    "specs-invalid": _E,
    "tree-damaged": _E,
    "tree-unreadable": _E,
    "tree-writable": _E,
    "certificate-unusable": _E,
    "certificate-ending": _W,
    "certificate-name": _W,
    "port-80-dropped": _W,
    "timer-missing": _N,
    "timer-late": _W,
    "last-sync-failed": _W,
    "not-examined": _N,
}


@dataclass(frozen=True, slots=True)
class Fix:
    """What is safe to do about a finding."""

    commands: tuple[str, ...]  # the same by hand, as a shell reads it
    apply: Callable[[], None]  # raises LxdockerError or OSError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    id: str
    what: str
    why: str = ""
    do: str = ""
    fix: Fix | None = None
    is_fixed: bool = False

    def __post_init__(self) -> None:
        assert self.id in SEVERITIES, self.id  # noqa: S101 - a mistake in this room

    @classmethod
    def of(cls, id: str, error: LxdockerError) -> Finding:  # noqa: A002 - as the field
        """What an error says."""
        return cls(id, error.brief, error.details, error.resolution)

    @property
    def severity(self) -> Severity:
        return SEVERITIES[self.id]

    @property
    def page(self) -> str:
        """Where the documentation explains it."""
        return f"{PAGE}#{self.id}"


class NotExamined(Exception):
    """An examination can't run here, and why."""
