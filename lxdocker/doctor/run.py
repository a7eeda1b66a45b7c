"""All examinations, side by side, each with a deadline."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from lxdocker.doctor import (
    builders,
    certificate,
    daemon,
    network,
    proxies,
    published,
    reach,
    registries,
    specs,
    timer,
)
from lxdocker.doctor.finding import Finding, NotExamined, Severity
from lxdocker.doctor.subject import Subject
from lxdocker.errors import LxdockerError
from lxdocker.progress import Say
from lxdocker.reasons import in_words

LOGGER = logging.getLogger("lxdocker.doctor")
SECONDS = 15.0
TIDYING_SECONDS = 20.0  # what an examination that holds a builder has to remove it
_ORDER = tuple(Severity)

Examine = Callable[[Subject], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Examination:
    """One look at one thing."""

    name: str
    examine: Examine
    seconds: float = SECONDS
    holds: bool = False  # something that has to be removed, however it ends


EXAMINATIONS = (
    Examination("lxd", daemon.lxd),
    Examination("pool and network", daemon.setup),
    Examination("bridge", network.bridge),
    Examination("forwarding", network.forwarding),
    Examination("id map", daemon.id_map),
    Examination("proxy of lxd", proxies.in_lxd),
    Examination("proxy of the timer", proxies.in_timer),
    Examination("builder image", builders.builder_image),
    Examination("builders", builders.left),
    Examination("registries", registries.registries),
    Examination("registries from a builder", reach.reach, 45.0, holds=True),
    Examination("specs", specs.specs),
    Examination("tree", published.damage),
    Examination("modes of the tree", published.modes),
    Examination("certificate", certificate.certificate),
    Examination("port 80", network.port_80),
    Examination("timer", timer.timer),
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What all of them came to, the worst first."""

    findings: tuple[Finding, ...]
    seconds: tuple[tuple[str, float], ...]  # of each examination

    @property
    def is_healthy(self) -> bool:
        """Whether there is no error left."""
        return all(one.severity is not Severity.ERROR or one.is_fixed for one in self.findings)


@dataclass(slots=True)
class _Course:
    """One examination under way."""

    examination: Examination
    findings: list[Finding] = field(default_factory=list)
    why_not: str = ""
    seconds: float = 0.0
    thread: threading.Thread | None = None

    def run(self, subject: Subject) -> None:
        began = time.monotonic()
        try:
            for finding in self.examination.examine(subject):
                self.findings.append(finding)
        except NotExamined as error:
            self.why_not = str(error)
        except LxdockerError as error:
            self.why_not = str(error)
        except Exception as error:
            LOGGER.debug("%s", self.examination.name, exc_info=True)
            self.why_not = in_words(error)
        self.seconds = time.monotonic() - began


def examine(subject: Subject, examinations: Sequence[Examination] = EXAMINATIONS) -> Diagnosis:
    """Runs them all. One that can't run, or not in time, is a note."""
    began = time.monotonic()
    courses = [_Course(one) for one in examinations]
    for course in courses:
        # Daemons: one that hangs must not keep the program from ending.
        course.thread = threading.Thread(target=course.run, args=(subject,), name=course.examination.name, daemon=True)
        course.thread.start()
    try:
        for course in courses:
            _join(course, began + course.examination.seconds - time.monotonic())
    finally:
        subject.stop.set()
        for course in courses:
            if course.examination.holds:
                _join(course, TIDYING_SECONDS)
    late = {course.examination.name: _is_late(course) for course in courses}
    found = [finding for course in courses for finding in list(course.findings)]
    found += _notes([(one.examination.name, late[one.examination.name] or one.why_not) for one in courses])
    order = sorted(found, key=lambda finding: _ORDER.index(finding.severity))
    return Diagnosis(tuple(order), tuple((one.examination.name, one.seconds) for one in courses))


def _join(course: _Course, seconds: float) -> None:
    if course.thread is not None:
        course.thread.join(max(0.0, seconds))


def _is_late(course: _Course) -> str:
    alive = course.thread is not None and course.thread.is_alive()
    return f"no result within {course.examination.seconds:.0f} s" if alive else ""


def _notes(reasons: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """One for all that could not run for the same reason."""
    for reason in dict.fromkeys(why for _, why in reasons if why):
        names = ", ".join(name for name, why in reasons if why == reason)
        yield Finding("not-examined", f"not examined: {names}", reason)


def fix(diagnosis: Diagnosis, say: Say) -> Diagnosis:
    """Mends what is safe to mend. What can't be mended is said, and stays a finding."""
    findings = []
    for finding in diagnosis.findings:
        if finding.fix is not None:
            try:
                finding.fix.apply()
                finding = replace(finding, is_fixed=True)
            except (LxdockerError, OSError) as error:
                say(f"warning: {finding.id} can't be fixed: {in_words(error)}")
        findings.append(finding)
    return replace(diagnosis, findings=tuple(findings))
