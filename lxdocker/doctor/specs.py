"""The specs themselves."""

from __future__ import annotations

from collections.abc import Iterator

from lxdocker.config import repository
from lxdocker.doctor.finding import Finding
from lxdocker.doctor.subject import Subject
from lxdocker.errors import SpecError
from lxdocker.files.seen import is_dir


def specs(subject: Subject) -> Iterator[Finding]:
    """Whether there are any, and all are valid."""
    settings, folder = subject.settings, subject.settings.specs
    outdated = repository.outdated(settings)
    if outdated:
        yield Finding.of("specs-outdated", outdated)
    if not is_dir(folder):
        if not outdated:
            do = "lxdocker sync fetches its repository" if repository.is_source(settings) else "lxdocker init makes it"
            yield Finding("specs-missing", f"no folder of specs {folder}", "", do)
        return
    try:
        found = subject.folder()
    except SpecError as error:
        yield Finding.of("specs-invalid", error)
        return
    if not found.specs and not found.broken:
        yield Finding("specs-missing", f"no specs in {folder}", "", "lxdocker add IMAGE writes one")
    for broken in found.broken:
        yield Finding.of("specs-invalid", broken.error)
