"""What came of a run, image by image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lxdocker.errors import LxdockerError
from lxdocker.values import Fingerprint, ImageName


class Status(Enum):
    """How it went for one image."""

    BUILT = "built"
    RESTORED = "restored"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one action."""

    name: ImageName
    status: Status
    reason: str
    fingerprint: Fingerprint | None = None
    error: LxdockerError | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a sync did."""

    outcomes: tuple[Outcome, ...]
    pruned: tuple[str, ...]  # in words
    kept_builders: tuple[str, ...]
    builder_project: str = "lxdocker"  # where they are

    @property
    def failed(self) -> bool:
        return any(outcome.status is Status.FAILED for outcome in self.outcomes)
