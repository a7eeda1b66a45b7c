"""Checks the published tree: every listed file is present and unchanged, and nothing else is in the tree."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby
from pathlib import Path

from lxdocker.files.seen import exists, is_dir
from lxdocker.image.artifact import read
from lxdocker.progress import Progress, Say
from lxdocker.reasons import in_words
from lxdocker.text import counted
from lxdocker.tree import simplestreams
from lxdocker.tree.index import without_times
from lxdocker.tree.simplestreams import File
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import IMAGES, SIDECAR, WITHDRAWN, WITHHELD, Delta, Published, read_withheld
from lxdocker.values import ImageName

STREAMS = Path(simplestreams.INDEX_PATH).parent


class Kind(Enum):
    """What is wrong."""

    DAMAGED = "damaged"  # a file of a version differs from what was published
    INDEX = "index"  # the index does not match the tree
    STRAY = "stray"  # not written by lxdocker, or not recognizable any more


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem in the tree."""

    kind: Kind
    path: str  # relative to the tree
    problem: str
    repaired: str = ""  # how it was repaired
    version: Published | None = None  # that the file belongs to
    delta: Delta | None = None  # set if only this delta is damaged


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a check."""

    versions: int  # the listed ones; others are not checked
    size: int  # of their files, bytes
    read: int  # bytes of them that were read; 0 unless deep
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether there is no problem left."""
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
    """Checks the size of every listed file; ``deep`` also reads them all. Raises TreeError if the tree can't be read.

    ``repair`` withdraws damaged versions, removes damaged deltas and rewrites the index. Only then are others kept from
    publishing while files are read.
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
    size = sum(file.size for version in listed for file in version.files())
    return Verified(len(listed), size, reader.count, tuple(sorted(findings, key=lambda finding: finding.path)))


def _not_in(findings: Sequence[Finding], versions: Sequence[Published]) -> list[Published]:
    known = {finding.version.folder for finding in findings if finding.version}
    return [version for version in versions if version.folder not in known]


# ---- presence and size


def _look(tree: Tree) -> tuple[list[Published], list[Finding]]:
    """The listed versions, and the problems that can be found without reading their files."""
    versions = tree.versions()
    listed = [version for version in versions if version.withdrawn is None]
    findings = [
        Finding(Kind.DAMAGED, _relative(tree.root, version.folder / file.path), problem, version=version, delta=delta)
        for version in listed
        for file, delta in _files(version)
        if (problem := _size_problem(version.folder / file.path, file.size))
    ]
    findings += _index_findings(tree)
    findings += _strays(tree.root, versions)
    return listed, findings


def _files(published: Published) -> Iterator[tuple[File, Delta | None]]:
    for file, delta in zip(published.files(), (None, None, *published.deltas), strict=True):
        # A delta whose base is gone is not listed, and the next sweep removes it.
        if delta is None or exists(published.folder.parent / delta.base):
            yield file, delta


def _size_problem(path: Path, size: int) -> str:
    try:
        status = path.lstat()
    except OSError as error:
        return "is missing" if isinstance(error, FileNotFoundError) else f"can't be accessed: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    return f"has {status.st_size} bytes instead of {size}" if status.st_size != size else ""


def _index_findings(tree: Tree) -> Iterator[Finding]:
    for path, document in tree.documents().items():
        try:
            present = json.loads((tree.root / path).read_bytes())
        except FileNotFoundError:
            yield Finding(Kind.INDEX, path, "is missing")
            continue
        except (OSError, ValueError, RecursionError) as error:
            yield Finding(Kind.INDEX, path, f"can't be read: {in_words(error)}")
            continue
        if without_times(present) != without_times(document):
            yield Finding(Kind.INDEX, path, "does not match the tree")


@dataclass(frozen=True, slots=True)
class _Level:
    """Folders that have the same kind of entries, what belongs in them, and what is wrong with anything else."""

    folders: Iterable[Path]
    known: Collection[Path]
    problem: Callable[[Path], str]  # empty if nothing is wrong


def _strays(root: Path, versions: Sequence[Published]) -> Iterator[Finding]:
    """Whatever belongs neither to a version nor to the index; a folder of such things is named once."""
    for level in _levels(root, versions):
        for path in (path for folder in sorted(level.folders) for path in _entries(folder)):
            if path not in level.known and (problem := level.problem(path)):
                yield Finding(Kind.STRAY, _relative(root, path), problem)


def _levels(root: Path, versions: Sequence[Published]) -> list[_Level]:
    folders = {version.folder for version in versions}
    products = {folder.parent for folder in folders}
    names = {product.parent for product in products}
    files = {
        version.folder / name
        for version in versions
        for name in (SIDECAR, WITHDRAWN, *(file.path for file in version.files()))
    }
    index = {root / simplestreams.INDEX_PATH, root / simplestreams.IMAGES_PATH}
    return [
        _Level([root / IMAGES], names, _no_version),
        _Level(names, products, _no_version),
        _Level(products, folders, _unknown_in_product),
        _Level(folders, files, lambda _: "belongs to no version"),
        _Level([root / STREAMS.parts[0]], {root / STREAMS}, lambda _: "is not part of the index"),
        _Level([root / STREAMS], index, lambda _: "is not part of the index"),
    ]


def _no_version(path: Path) -> str:
    # A killed run may leave empty folders. Clients never see them.
    return "" if _is_empty(path) else "contains no version of an image"


def _unknown_in_product(path: Path) -> str:
    if path.name == WITHHELD:
        return "" if read_withheld(path.parent) else "is not a list of rolled-back versions"
    return f"has no readable {SIDECAR}" if is_dir(path) else "belongs to no version"


def _is_empty(path: Path) -> bool:
    return is_dir(path) and not path.is_symlink() and all(_is_empty(entry) for entry in _entries(path))


def _entries(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


# ---- content


class _Reader:
    """Reads files in several threads and compares their hashes."""

    def __init__(self, jobs: int, progress: Progress, cancelled: threading.Event) -> None:
        self._jobs = jobs
        self._progress = progress
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._waiting: dict[ImageName, int] = {}  # versions of each image that are not read yet
        self._damaged: set[ImageName] = set()
        self.count = 0  # bytes that were read

    def read(self, root: Path, versions: Sequence[Published]) -> list[Finding]:
        """The problems of these versions' files. Versions of one image may be read at the same time, so its progress is
        that of all of them.
        """
        for name, group in groupby(versions, key=lambda version: version.name):
            every = list(group)
            self._waiting[name] = len(every)
            total = sum(file.size for version in every for file, _ in _files(version))
            self._progress.phase(name, f"reading {counted(len(every), 'version')}", total)
        pool = ThreadPoolExecutor(max_workers=self._jobs, thread_name_prefix="read")
        try:
            futures = [pool.submit(self._version, root, version) for version in versions]
            return [finding for future in futures for finding in future.result()]
        except BaseException:
            self._cancelled.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _version(self, root: Path, published: Published) -> list[Finding]:
        findings = self._read(root, published)
        with self._lock:
            self._damaged |= {published.name} if findings else set()
            self._waiting[published.name] -= 1
            is_last = not self._waiting[published.name]
        if is_last:
            self._progress.done(published.name, "damaged" if published.name in self._damaged else "verified")
        return findings

    def _read(self, root: Path, published: Published) -> list[Finding]:
        findings = []
        combined = hashlib.sha256()
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
                    with self._lock:
                        self.count += len(chunk)
                    self._progress.count(published.name, len(chunk))
            except OSError as error:
                if not exists(published.folder):
                    return []  # deleted meanwhile, as old versions are
                problem = f"can't be read: {error.strerror}"
            else:
                problem = "does not have the published hash" if alone.hexdigest() != file.sha256 else ""
            if problem:
                findings.append(Finding(Kind.DAMAGED, _relative(root, path), problem, version=published, delta=delta))
        if not findings and combined.hexdigest() != published.fingerprint.value:
            problem = "has a fingerprint that does not match the files"
            sidecar = _relative(root, published.folder / SIDECAR)
            findings.append(Finding(Kind.DAMAGED, sidecar, problem, version=published))
        return findings


# ---- repair


def _repair(tree: Tree, findings: Sequence[Finding]) -> list[Finding]:
    damaged = {finding.version.folder: finding.version for finding in findings if finding.version and not finding.delta}
    tree.withdraw(list(damaged.values()))
    for version, deltas in _damaged_deltas(findings):
        if version.folder not in damaged:
            tree.drop_deltas(version, deltas)
    tree.write_index()
    return [_repaired(finding) for finding in findings]


def _damaged_deltas(findings: Sequence[Finding]) -> Iterator[tuple[Published, set[Delta]]]:
    """Each version with its damaged deltas, together: what is left of them is recorded once."""
    deltas: dict[Path, set[Delta]] = {}
    versions = {finding.version.folder: finding.version for finding in findings if finding.version and finding.delta}
    for finding in findings:
        if finding.version and finding.delta:
            deltas.setdefault(finding.version.folder, set()).add(finding.delta)
    for folder, version in versions.items():
        yield version, deltas[folder]


def _repaired(finding: Finding) -> Finding:
    match finding.kind:
        case Kind.DAMAGED if finding.delta:
            return replace(finding, repaired="removed; clients download the whole file instead")
        case Kind.DAMAGED:
            return replace(finding, repaired="version withdrawn; the next sync or mirror run publishes it again")
        case Kind.INDEX:
            return replace(finding, repaired="rewritten")
        case Kind.STRAY:
            return finding  # left to the person who put it there
