"""The results of a run, image by image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lxdocker.errors import LxdockerError
from lxdocker.values import Arch, Fingerprint, ImageName


class Status(Enum):
    """The result for one image."""

    BUILT = "built"
    RESTORED = "restored"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    FAILED = "failed"


class Verb(Enum):
    """What a sync does about one image."""

    BUILD = "build"
    RESTORE = "restore"
    UPDATE = "update"
    KEEP = "keep"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one action."""

    name: ImageName | str  # the file's name if that is not an image name
    status: Status
    reason: str
    fingerprint: Fingerprint | None = None
    error: LxdockerError | None = None
    seconds: float = 0.0
    verb: Verb | None = None  # what was to be done; None if nothing could be
    source: str | None = None  # source_label() of the spec's reference
    rolled_back: bool = False  # an older version is kept, since the registry still has the withdrawn one


@dataclass(frozen=True, slots=True)
class Dropped:
    """A version that leaves the tree's index, or whose files are deleted from it."""

    name: ImageName
    arch: Arch
    key: str
    is_deleted: bool  # or else withdrawn
    reason: str

    @property
    def planned(self) -> str:
        """In words, after "would"."""
        return f"{'delete' if self.is_deleted else 'withdraw'} {self._what}"

    @property
    def done(self) -> str:
        """In words, afterwards."""
        return f"{'deleted' if self.is_deleted else 'withdrew'} {self._what}"

    @property
    def _what(self) -> str:
        return f"{self.name} {self.key} from the tree: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a sync did."""

    outcomes: tuple[Outcome, ...]
    pruned: tuple[Dropped, ...]
    kept_builders: tuple[str, ...]
    builder_project: str = "lxdocker"  # of the kept builders
    outdated: LxdockerError | None = None  # why the specs could not be updated from their repository

    @property
    def failed(self) -> bool:
        return self.outdated is not None or any(outcome.status is Status.FAILED for outcome in self.outcomes)
