"""A copy of another server's tree, for distant hosts: files first, the index last, never half a version.

Only the files of versions are fetched, as lxdocker lays them out, to a path that we choose.

``.mirror`` holds the URL of the other server, and ``partial/SHA256``, the part of a file that was fetched so far.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from lxdocker.errors import LxdockerError, MirrorError, UsageError
from lxdocker.files import durable, rights
from lxdocker.files.lock import NOTE
from lxdocker.files.seen import exists, is_dir
from lxdocker.progress import Progress, Say, human_size
from lxdocker.text import one_line
from lxdocker.tree import retention
from lxdocker.tree.server import Listed, Server, ServerOptions, hash_of, read_index, size_of
from lxdocker.tree.simplestreams import File
from lxdocker.tree.tree import MIRROR, Tree
from lxdocker.tree.version import SIDECAR, Published, parse_sidecar
from lxdocker.tree.workspace import LOCK, STAGING
from lxdocker.values import ImageName, parse_alias

MAX_SIDECAR = 1 << 20
# What a run that was killed before its first step leaves, and what a new filesystem has.
_LEFT_BY_A_FIRST_RUN = {LOCK, f"{LOCK}{NOTE}", STAGING, MIRROR, "lost+found"}


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that could not be copied."""

    name: ImageName
    key: str
    error: LxdockerError


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The result of a run."""

    fetched: tuple[Published, ...]  # new here, or repaired
    updated: tuple[Published, ...]  # the same files with a new description
    unchanged: int
    withdrawn: tuple[Published, ...]
    deleted: tuple[Published, ...]
    failed: tuple[Failure, ...]
    size: int  # bytes fetched


def mirror(
    url: str,
    tree: Tree,
    options: ServerOptions,
    grace_seconds: float,
    progress: Progress,
    say: Say,
    cancelled: threading.Event,
) -> Mirrored:
    """Makes ``tree`` the copy of the tree at ``url``, continuing a run that was killed.

    Raises UsageError for an invalid URL or folder, MirrorError if the other server has no usable index.
    """
    with (
        closing(Server(url, options, cancelled)) as server,
        tree.explained("mirroring into"),
    ):
        # Before anything is written: locking the tree would make its folders.
        _check_folder(tree, server.url)
        with tree.lock(say, cancelled):
            _claim(tree, server.url)
            return _Mirroring(server, tree, options.jobs, progress, cancelled).all(grace_seconds)


def _check_folder(tree: Tree, url: str) -> None:
    """Raises UsageError unless the folder is this server's mirror, or may become it. Writes nothing."""
    source = tree.root / MIRROR / "source"
    if exists(source):
        before = source.read_text(encoding="utf-8").strip()
        if before != url:
            raise UsageError(
                f"{tree.root} is a mirror of {before}",
                f"it cannot also be a mirror of {url}",
                f"choose another folder; if the server only has a new address, delete {source}",
            )
        return
    if tree.versions():
        raise UsageError(
            f"{tree.root} has images that were published there",
            "a mirror would withdraw all images that the other server lacks",
            "choose another folder, for the mirror alone",
        )
    if not is_dir(tree.root):
        if os.path.lexists(tree.root):
            raise UsageError(f"cannot mirror into {tree.root}", "not a folder", "choose another folder")
        return
    found = {entry.name for entry in tree.root.iterdir()}
    if found <= _LEFT_BY_A_FIRST_RUN or tree.is_one():
        return
    shown = ", ".join(sorted(found - _LEFT_BY_A_FIRST_RUN)[:5])
    raise UsageError(
        f"{tree.root} is neither empty nor a tree",
        f"it contains {one_line(shown, 200)}",
        "choose an empty folder, or one that does not exist yet",
    )


def _claim(tree: Tree, url: str) -> None:
    """Makes the folder this server's mirror."""
    _check_folder(tree, url)  # again, under the lock
    source = tree.root / MIRROR / "source"
    if not exists(source):
        rights.make_below(tree.root, source.parent / "partial", rights.PRIVATE)
        durable.write_file(source, f"{url}\n".encode(), 0o644)


class _Mirroring:
    """One run."""

    def __init__(self, server: Server, tree: Tree, jobs: int, progress: Progress, cancelled: threading.Event) -> None:
        self._server = server
        self._tree = tree
        self._jobs = jobs
        self._progress = progress
        self._cancelled = cancelled
        self._partial = tree.root / MIRROR / "partial"
        rights.make_below(tree.root, self._partial, rights.PRIVATE)
        self._here = {version.folder: version for version in tree.versions()}
        self._fetching: dict[str, threading.Lock] = {}
        self._shared: set[str] = set()  # hashes of files that several versions have
        self._results = _Results()

    def all(self, grace_seconds: float) -> Mirrored:
        there = read_index(self._server)
        if not there and any(version.withdrawn is None for version in self._here.values()):
            raise MirrorError(
                f"{self._server.url} has no images",
                "this mirror has some, so the server is probably misconfigured",
                f"check the server; if it is meant to be empty, delete {self._tree.root}",
            )
        self._check_space(there)
        hashes = Counter(file.sha256 for listed in there for file in listed.files.values())
        self._fetching = {sha256: threading.Lock() for sha256 in hashes}
        self._shared = {sha256 for sha256, count in hashes.items() if count > 1}
        images = [list(group) for _, group in groupby(there, key=lambda listed: listed.name)]
        pool = ThreadPoolExecutor(max_workers=self._jobs, thread_name_prefix="mirror")
        try:
            for future in [pool.submit(self._image, versions) for versions in images]:
                future.result()
        except BaseException:
            self._cancelled.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        withdrawn = self._gone(there)
        self._tree.withdraw(withdrawn)
        self._tree.write_index()
        deleted = retention.sweep(self._tree, grace_seconds)
        self._forget_partials(there)
        done = self._results
        return Mirrored(
            tuple(done.fetched),
            tuple(done.updated),
            done.unchanged,
            tuple(withdrawn),
            tuple(deleted),
            tuple(done.failed),
            done.size,
        )

    def _image(self, versions: Sequence[Listed]) -> None:
        """An image's versions, newest first, as most clients want that one."""
        name = versions[0].name
        failed = False
        for listed in sorted(versions, key=lambda version: version.key, reverse=True):
            if self._cancelled.is_set():
                return
            try:
                self._version(listed)
            except LxdockerError as error:
                failed = True
                self._results.add(failed=Failure(name, listed.key, error))
        self._progress.done(name, "failed" if failed else "mirrored")

    def _version(self, listed: Listed) -> None:
        wanted = self._describe(listed)
        here = self._here.get(wanted.folder)
        needed = [file for file in wanted.files() if not _is_here(file, wanted, here)]
        if not needed and here == wanted:
            self._results.add(unchanged=1)
            return
        if needed:
            self._progress.phase(listed.name, f"fetching {listed.key}", sum(file.size for file in needed))
        fetched: dict[str, Path] = {}
        for file in needed:
            fetched[file.path] = self._fetch(listed.files[file.path], listed.name)
        self._tree.adopt(wanted, fetched)
        for path in fetched.values():
            if path.name not in self._shared:
                path.unlink(missing_ok=True)
        if needed:
            self._results.add(fetched=wanted)
        else:
            self._results.add(updated=wanted)

    def _describe(self, listed: Listed) -> Published:
        """The version's sidecar, which must agree with the index."""
        text = self._server.get(f"{listed.folder}/{SIDECAR}", MAX_SIDECAR)
        found = parse_sidecar(self._tree.root / listed.folder, text)
        if found is None:
            raise self._server.wrong(f"{listed.folder}/{SIDECAR} does not describe that version")
        found = replace(found, deltas=tuple(delta for delta in found.deltas if delta.base in listed.bases))
        files = {file.path: (file.size, file.sha256) for file in found.files()}
        if found.fingerprint != listed.fingerprint or files != {
            name: (file.size, file.sha256) for name, file in listed.files.items()
        }:
            raise self._server.wrong(f"{listed.folder}/{SIDECAR} contradicts the index")
        try:
            for alias in found.aliases:
                parse_alias(alias)
        except ValueError as error:
            raise self._server.wrong(f"{listed.folder}/{SIDECAR}: {error}") from None
        return found

    def _fetch(self, file: File, name: ImageName) -> Path:
        partial = self._partial / file.sha256

        def count(amount: int) -> None:
            self._progress.count(name, amount)
            self._results.add(size=amount)

        with self._fetching[file.sha256]:
            self._server.fetch(file, partial, count)
        return partial

    def _gone(self, there: Sequence[Listed]) -> list[Published]:
        """Versions that the other server no longer lists, except those of images that failed."""
        listed = {self._tree.root / version.folder for version in there}
        kept = {failure.name for failure in self._results.failed}
        return [
            version
            for version in self._tree.versions()
            if version.withdrawn is None and version.folder not in listed and version.name not in kept
        ]

    def _check_space(self, there: Sequence[Listed]) -> None:
        here = {
            version.folder: {file.path: file for file in version.files()}
            for version in self._here.values()
            if version.is_whole()
        }
        needed = 0
        for listed in there:
            known = here.get(self._tree.root / listed.folder, {})
            for name, file in listed.files.items():
                if name not in known or known[name].sha256 != file.sha256:
                    needed += file.size - (size_of(self._partial / file.sha256) or 0)
        free = shutil.disk_usage(self._tree.root).free
        if needed > free:
            raise MirrorError(
                f"not enough space in {self._tree.root} for the images of {self._server.url}",
                f"{human_size(needed)} to download, {human_size(free)} free",
                "free space on that filesystem, or choose another folder",
            )

    def _forget_partials(self, there: Sequence[Listed]) -> None:
        wanted = {file.sha256 for listed in there for file in listed.files.values()} if self._results.failed else set()
        for path in self._partial.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Results:
    """What the threads have done so far."""

    fetched: list[Published] = field(default_factory=list)
    updated: list[Published] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    unchanged: int = 0
    size: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        *,
        fetched: Published | None = None,
        updated: Published | None = None,
        failed: Failure | None = None,
        unchanged: int = 0,
        size: int = 0,
    ) -> None:
        with self.lock:
            self.fetched += [fetched] if fetched else []
            self.updated += [updated] if updated else []
            self.failed += [failed] if failed else []
            self.unchanged += unchanged
            self.size += size


def _is_here(file: File, wanted: Published, here: Published | None) -> bool:
    """Whether a file is in its place. A listed one was checked when it was fetched; a withdrawn one is read again: it
    may have been withdrawn because of damage.
    """
    path = wanted.folder / file.path
    if here is None or file not in here.files() or size_of(path) != file.size:
        return False
    return here.withdrawn is None or hash_of(path) == file.sha256
