"""Whether the published tree is what it says: every file there, whole, and nothing beside it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from lxdocker import simplestreams
from lxdocker.artifact import read
from lxdocker.console import Progress
from lxdocker.publish import Tree, without_times
from lxdocker.published import SIDECAR, WITHDRAWN, WITHHELD, Delta, Published, read_withheld
from lxdocker.simplestreams import File

Say = Callable[[str], None]
STREAMS = Path(simplestreams.INDEX_PATH).parent


class Kind(Enum):
    """What is wrong."""

    DAMAGED = "damaged"  # a file of a version is not what was published
    INDEX = "index"  # the index does not say what the tree holds
    STRAY = "stray"  # not lxdocker's, or no longer known to be


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in the tree."""

    kind: Kind
    path: str  # relative to the tree
    problem: str
    repaired: str = ""  # what has been done about it
    version: Published | None = None  # whose file it is
    delta: Delta | None = None  # if it is only that


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at the tree has shown."""

    versions: int  # listed ones, which are what is checked
    size: int  # bytes of their files
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, or no longer is."""
        return all(finding.repaired for finding in self.findings)


def verify(
    tree: Tree,
    *,
    deep: bool,
    repair: bool,
    jobs: int,
    progress: Progress,
    say: Say,
    cancelled: threading.Event,
) -> Verified:
    """Looks at everything that is listed; ``deep`` also reads it all. Raises TreeError if the tree can't be read.

    ``repair`` withdraws what is damaged and writes the index anew; it deletes nothing. Only then does it keep others
    from publishing while files are read.
    """
    reader = _Reader(jobs, progress, cancelled)
    if repair:
        with tree.lock(say, cancelled):
            listed, findings = _look(tree)
            if deep:
                findings += reader.read(tree.root, _not_in(findings, listed))
            findings = _repair(tree, findings)
    else:
        with tree.reading(say, cancelled):
            listed, findings = _look(tree)
        if deep:
            findings += reader.read(tree.root, _not_in(findings, listed))
    size = sum(file.size for one in listed for file in one.files())
    return Verified(len(listed), size, tuple(sorted(findings, key=lambda one: one.path)))


def _not_in(findings: Sequence[Finding], versions: Sequence[Published]) -> list[Published]:
    known = {finding.version.folder for finding in findings if finding.version}
    return [one for one in versions if one.folder not in known]


# ---- what is there


def _look(tree: Tree) -> tuple[list[Published], list[Finding]]:
    """The listed versions, and what is wrong without reading their files."""
    versions = tree.versions()
    listed = [one for one in versions if one.withdrawn is None]
    findings = [
        Finding(Kind.DAMAGED, _relative(tree.root, one.folder / file.path), problem, version=one, delta=delta)
        for one in listed
        for file, delta in _files(one)
        if (problem := _size_problem(one.folder / file.path, file.size))
    ]
    findings += _index_findings(tree)
    findings += _strays(tree.root, versions)
    return listed, findings


def _files(published: Published) -> Iterator[tuple[File, Delta | None]]:
    for file, delta in zip(published.files(), (None, None, *published.deltas), strict=True):
        # Those whose base is gone are not listed, and soon gone as well.
        if delta is None or (published.folder.parent / delta.base).exists():
            yield file, delta


def _size_problem(path: Path, size: int) -> str:
    try:
        status = path.lstat()
    except OSError as error:
        return "is missing" if isinstance(error, FileNotFoundError) else f"can't be looked at: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file, as servers want it"
    return f"has {status.st_size} bytes instead of {size}" if status.st_size != size else ""


def _index_findings(tree: Tree) -> Iterator[Finding]:
    for path, document in tree.documents().items():
        try:
            there = json.loads((tree.root / path).read_bytes())
        except FileNotFoundError:
            yield Finding(Kind.INDEX, path, "is missing")
            continue
        except (OSError, ValueError, RecursionError) as error:
            yield Finding(Kind.INDEX, path, f"can't be read: {error}")
            continue
        if without_times(there) != without_times(document):
            yield Finding(Kind.INDEX, path, "does not say what the tree holds")


def _strays(root: Path, versions: Sequence[Published]) -> Iterator[Finding]:
    """What is neither a version's nor the index's; a folder of such things is named once."""
    known = {one.folder: {SIDECAR, WITHDRAWN, *(file.path for file in one.files())} for one in versions}
    products = {folder.parent for folder in known}
    names = {product.parent for product in products}
    # Empty folders, as a killed run may leave them, say nothing to clients and are in nobody's way.
    for path in _entries(root / "images"):
        if path not in names and not _is_empty(path):
            yield Finding(Kind.STRAY, _relative(root, path), "holds no version of an image")
    for path in (path for name in sorted(names) for path in _entries(name)):
        if path not in products and not _is_empty(path):
            yield Finding(Kind.STRAY, _relative(root, path), "holds no version of an image")
    for path in (path for product in sorted(products) for path in _entries(product)):
        if path.name == WITHHELD:
            if not read_withheld(path.parent):
                yield Finding(Kind.STRAY, _relative(root, path), "is no list of what was rolled back")
        elif path not in known:
            what = f"no readable {SIDECAR}, so nobody can tell what it is"
            yield Finding(Kind.STRAY, _relative(root, path), what if path.is_dir() else "belongs to no version")
    for path in (path for folder in known for path in _entries(folder)):
        if path.name not in known[path.parent]:
            yield Finding(Kind.STRAY, _relative(root, path), "belongs to no version")
    for path in _entries(root / STREAMS.parts[0]):
        if path != root / STREAMS:
            yield Finding(Kind.STRAY, _relative(root, path), "is not part of the index")
    for path in _entries(root / STREAMS):
        if _relative(root, path) not in {simplestreams.INDEX_PATH, simplestreams.IMAGES_PATH}:
            yield Finding(Kind.STRAY, _relative(root, path), "is not part of the index")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and all(_is_empty(entry) for entry in _entries(path))


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


# ---- what is in it


class _Reader:
    """Reads files and compares their hashes, several at a time."""

    def __init__(self, jobs: int, progress: Progress, cancelled: threading.Event) -> None:
        self._jobs = jobs
        self._progress = progress
        self._cancelled = cancelled

    def read(self, root: Path, versions: Sequence[Published]) -> list[Finding]:
        """What is wrong in the files of these versions."""
        pool = ThreadPoolExecutor(max_workers=self._jobs, thread_name_prefix="read")
        try:
            futures = [pool.submit(self._one, root, one) for one in versions]
            return [finding for future in futures for finding in future.result()]
        except BaseException:
            self._cancelled.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, root: Path, published: Published) -> list[Finding]:
        findings = []
        combined = hashlib.sha256()
        self._progress.phase(published.name, f"read {published.key}", sum(file.size for file in published.files()))
        for file, delta in _files(published):
            alone = hashlib.sha256()
            path = published.folder / file.path
            try:
                for chunk in read(path):
                    if self._cancelled.is_set():
                        return []
                    alone.update(chunk)
                    if delta is None:
                        combined.update(chunk)
                    self._progress.count(published.name, len(chunk))
            except OSError as error:
                if not published.folder.exists():
                    return []  # deleted by somebody meanwhile, as old versions are
                problem = f"can't be read: {error.strerror}"
            else:
                problem = "has another hash than what was published" if alone.hexdigest() != file.sha256 else ""
            if problem:
                findings.append(Finding(Kind.DAMAGED, _relative(root, path), problem, version=published, delta=delta))
        if not findings and combined.hexdigest() != published.fingerprint.value:
            problem = "names another fingerprint than that of the files"
            sidecar = _relative(root, published.folder / SIDECAR)
            findings.append(Finding(Kind.DAMAGED, sidecar, problem, version=published))
        self._progress.done(published.name, "damaged" if findings else "as published")
        return findings


# ---- mending it


def _repair(tree: Tree, findings: Sequence[Finding]) -> list[Finding]:
    damaged = {one.version.folder: one.version for one in findings if one.version and not one.delta}
    tree.withdraw(list(damaged.values()))
    for one in findings:
        if one.version and one.delta and one.version.folder not in damaged:
            tree.drop_delta(one.version, one.delta)
    tree.write_index()
    return [_repaired(one) for one in findings]


def _repaired(finding: Finding) -> Finding:
    match finding.kind:
        case Kind.DAMAGED if finding.delta:
            return replace(finding, repaired="removed; clients fetch the whole file instead")
        case Kind.DAMAGED:
            return replace(finding, repaired="the version was withdrawn; a sync or mirror run publishes it again")
        case Kind.INDEX:
            return replace(finding, repaired="written anew")
        case Kind.STRAY:
            return finding  # whoever put it there knows what it is for
