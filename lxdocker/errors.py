"""What can go wrong, said so that a person can act on it.

::

    LxdockerError               an image, a host or a service failed            exit 1
    ├── UsageError              flags, settings or specs are wrong              exit 2
    │   ├── SpecError           one or more specs or the configuration are invalid
    │   └── HostError           LXD is absent, closed to this user or not set up
    ├── RegistryError           a registry did not give what was asked
    │   ├── UnreachableError    it can't be reached
    │   ├── AuthError           it wants (other) credentials
    │   ├── ImageMissingError   no such repository, tag or digest
    │   └── ArchMissingError    the image exists, but not for this architecture
    ├── BuildError              a step inside the builder failed
    ├── LxdError                LXD refused or failed a request
    ├── TreeError               the published tree can't be read or written
    └── MirrorError             another server's tree can't be copied

Every error has three parts: ``brief`` (what failed, with which input), ``details`` (why)
and ``resolution`` (what to do now). Only the command line prints them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class LxdockerError(Exception):
    """Something failed that a person can understand and act on."""

    exit_code: ClassVar[int] = 1

    def __init__(self, brief: str, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return ": ".join(part for part in (self.brief, self.details) if part)


class UsageError(LxdockerError):
    """The command line, a setting or a spec is wrong; nothing was done."""

    exit_code = 2


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in a file, a flag or a variable; sorts by file and line. ``line`` 0 stands for the whole file."""

    where: str  # the file as the user knows it; "" for flags and variables
    line: int
    field: str  # "aliases[1]"; "" for the file or the document as a whole
    text: str  # "expected ..., found ..."

    def __str__(self) -> str:
        where = f"{self.where}:{self.line}" if self.where and self.line else self.where
        return ": ".join(part for part in (where, self.field, self.text) if part)


class SpecError(UsageError):
    """Specs or the configuration file are invalid; ``details`` has one line per mistake.

    ``mistakes``: the same for programs, with the paths of the files. Empty if nothing could be read at all.
    """

    def __init__(self, brief: str, details: str = "", resolution: str = "", mistakes: Iterable[Mistake] = ()) -> None:
        super().__init__(brief, details, resolution)
        self.mistakes = tuple(mistakes)


class HostError(UsageError):
    """LXD can't be used on this host as it is."""


class RegistryError(LxdockerError):
    """A registry could not be reached or gave an answer that can't be used."""


class UnreachableError(RegistryError):
    """The registry can't be reached, for this image and so for all others there."""

    registry = ""  # its name


class AuthError(RegistryError):
    """The registry refused: no credentials, or the wrong ones."""


class ImageMissingError(RegistryError):
    """The registry (or a folder, or an archive) has no such image."""


class ArchMissingError(RegistryError):
    """The image has no variant for this host's architecture."""


class BuildError(LxdockerError):
    """A step inside the builder failed."""


class LxdError(LxdockerError):
    """LXD refused or failed a request."""


class TreeError(LxdockerError):
    """The simplestreams tree can't be read or written."""


class MirrorError(LxdockerError):
    """Another server's tree can't be copied, or not wholly."""


# What programs and daemons say when they fail, in lower case, and what to do about it.
UsualFailures = Iterable[tuple[tuple[str, ...], str]]


def remedy(said: str, usual: UsualFailures, otherwise: str = "") -> str:
    """What to do about the first of the ``usual`` failures that somebody's words name."""
    low = said.lower()
    return next((what for words, what in usual if any(word in low for word in words)), otherwise)
