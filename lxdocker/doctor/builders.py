"""The image of the builders, and builders that nobody removed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lxdocker.builder import image, instance
from lxdocker.builder.image import BuilderImage
from lxdocker.doctor.finding import Finding, Fix
from lxdocker.doctor.subject import Subject
from lxdocker.errors import LxdError

_MADE_BY_SYNC = "the next sync makes it; or at once: lxdocker builder build"


def builder_image(subject: Subject) -> Iterator[Finding]:
    """Whether it is there, new enough, and for this processor."""
    lxd, settings = subject.lxd(), subject.settings
    found = image.find(lxd, settings.builder_project)
    if found is None:
        yield Finding("builder-image-missing", "there is no builder image yet", "", _MADE_BY_SYNC)
        return
    if foreign := foreign_architecture(subject, found):
        yield Finding(
            "builder-image-architecture",
            f"the builder image is for {foreign}",
            f"LXD's host is {lxd.dialect.architecture}",
            "lxdocker builder build",
        )
    elif reason := found.stale_reason(settings.builder_max_age_days):
        yield Finding("builder-image-stale", "the builder image is out of date", reason, _MADE_BY_SYNC)


def foreign_architecture(subject: Subject, found: BuilderImage) -> str:
    """The architecture of the builder image, if it is not LXD's."""
    lxd = subject.lxd()
    project = subject.settings.builder_project
    known = lxd.get("images", found.fingerprint.value, what="reading the builder image", project=project)
    architecture = str(known.get("architecture") or "")
    return architecture if architecture and architecture != lxd.dialect.architecture else ""


def left(subject: Subject) -> Iterator[Finding]:
    """Builders whose lxdocker was killed."""
    lxd, project = subject.lxd(), subject.settings.builder_project
    names = instance.left_over(lxd, project)
    if not names:
        return
    failed: list[str] = []

    def remove() -> None:
        instance.sweep(lxd, project, failed.append)
        if there := set(names) & set(instance.left_over(lxd, project)):
            raise LxdError(f"{', '.join(sorted(there))} can't be removed", "; ".join(failed))

    commands = tuple(
        lxd.client_command("delete", "--force", "--project", project, lxd.named(name)) for name in sorted(names)
    )
    yield Finding(
        "builders-left",
        f"builders are left over: {', '.join(sorted(names))}",
        "their lxdocker was killed",
        f"the next sync removes them; or at once: lxdocker doctor --fix, or {shlex.quote(commands[0])[1:-1]}",
        Fix(commands, remove),
    )
