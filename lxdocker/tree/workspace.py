"""The tree's folder on disk: one writer at a time, unfinished work set aside, files replaced as a whole.

::

    .staging/       unfinished work; whoever gets the lock removes what no living run holds
    .lock           held while the tree is changed; its time is the latest ever seen here
    .lock.FOLDER    held by a run for this folder of specs, from its plan to its end

Nothing is written where another user may write (``rights``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lxdocker.errors import TreeError
from lxdocker.files import durable, lock, rights
from lxdocker.reasons import in_words
from lxdocker.values import ImageName

LOCK = ".lock"
STAGING = ".staging"
# How far a clock may be set back without consequences: the clocks of a network differ by a little.
CLOCK_SLACK = 60


class Workspace:
    """The folder ``root``. Every change is made under its lock: ``lock`` holds it for a whole block, ``session`` only
    during each change. Threads of one process may change the tree in parallel; each change waits for the others.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock_behind = False  # the clock is behind the latest time seen here
        self.in_session = False
        self._changing = threading.RLock()
        self._is_locked = False
        self._work: Path | None = None  # the folder for this run's unfinished work
        self._say: Callable[[str], None] = lambda _: None
        self._cancelled = threading.Event()

    # ---- who may change the tree

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None], cancelled: threading.Event) -> Iterator[None]:
        """Locks the tree for this process, and removes what killed processes left in the staging area.

        Tells ``say`` if another process has to be waited for. Raises TreeError if the folder can't be used.
        """
        self._say, self._cancelled = say, cancelled
        with self._locked():
            yield

    @contextlib.contextmanager
    def session(self, key: str, say: Callable[[str], None], cancelled: threading.Event) -> Iterator[None]:
        """A run that changes the tree from time to time; in between, others may. Runs with the same ``key`` wait for
        each other. Removes what killed processes left, too.
        """
        self._say, self._cancelled = say, cancelled
        with contextlib.ExitStack() as cleanup:
            with self.explained("preparing"):
                rights.make_folder(self.root)
                own = lock.open_file(self.root / f"{LOCK}.{key}")
            cleanup.callback(os.close, own)
            self._wait_for(own)
            with self.changing(), self.explained("preparing"):
                # The folder's own lock shows that this run lives. The tree is still locked until the folder is, so no
                # other process takes it for a leftover.
                self._work = Path(tempfile.mkdtemp(prefix="run.", dir=self._staging))
                cleanup.callback(shutil.rmtree, self._work, ignore_errors=True)
                cleanup.enter_context(lock.folder(self._work))
            self.in_session = True
            try:
                yield
            finally:
                self.in_session = False
                self._work = None

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Gives the tree to this thread alone, to look at it and change it."""
        with self._changing:
            if self._is_locked:
                yield
                return
            with self._locked():
                yield

    @contextlib.contextmanager
    def reading(self, say: Callable[[str], None], cancelled: threading.Event) -> Iterator[None]:
        """Keeps others from changing the tree. Needs no permission to write in it."""
        with self.explained("reading"), contextlib.ExitStack() as cleanup:
            os.stat(self.root)  # noqa: PTH116 - a missing tree is an error, an empty one is not
            with contextlib.suppress(FileNotFoundError):  # a copy of a tree, which nobody publishes in
                handle = os.open(self.root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
                cleanup.callback(os.close, handle)
                self._say, self._cancelled = say, cancelled
                self._wait_for(handle, shared=True)
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.explained("preparing"):
            rights.make_folder(self.root)
            handle = lock.open_file(self.root / LOCK, 0o644)
        try:
            self._wait_for(handle)
            with self.explained("preparing"):
                self._check_clock(handle)
            self._is_locked = True
            if self._work is None:
                self._clear_staging()
                self._work = self._staging  # which no other process clears while we hold the lock
            yield
        finally:
            if self._work == self._staging:
                self._work = None
            self._is_locked = False
            os.close(handle)

    def _wait_for(self, handle: int, *, shared: bool = False) -> None:
        def busy() -> None:
            self._say(f"waiting: another lxdocker is using {self.root}")

        if not lock.wait(handle, busy, self._cancelled, shared=shared):
            raise TreeError("stopped", "interrupted while waiting for the tree")

    def _check_clock(self, handle: int) -> None:
        """Compares the clock with the latest time ever seen here, which the lock file keeps as its own."""
        latest, now = os.fstat(handle).st_mtime, time.time()
        self.clock_behind = now < latest - CLOCK_SLACK
        with contextlib.suppress(PermissionError):  # another user made it
            os.utime(handle, (max(latest, now),) * 2)
            os.fchmod(handle, 0o644)  # readers lock it, too

    # ---- unfinished work

    @contextlib.contextmanager
    def staging(self, name: ImageName) -> Iterator[Path]:
        """A folder for unfinished work on the tree's own filesystem, removed afterwards."""
        with self.explained("writing to"):
            folder = self.new_folder(name.value)
        try:
            with self.explained("writing to"):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def at_work(self) -> frozenset[str]:
        """The images that other runs are making now: those in the staging folders of processes that live. Empty for a
        user who may not look there. Waits for no lock.
        """
        found: set[str] = set()
        with contextlib.suppress(OSError):
            for run in self._staging.glob("run.*/"):
                with contextlib.suppress(OSError):  # it has just ended
                    if run != self._work and lock.is_held(run):
                        names = {entry.name.rpartition(".")[0] for entry in run.iterdir() if entry.is_dir()}
                        found |= {name for name in names if not name.startswith(".")}  # others are no images
        return frozenset(found)

    def new_folder(self, name: str) -> Path:
        """A new private folder for unfinished work."""
        return Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._here()))

    def temporary(self, name: str) -> Path:
        """The path for an unfinished file, which no other thread uses."""
        return self._here() / f"{name}.{os.getpid()}.{threading.get_ident()}"

    def _here(self) -> Path:
        if self._work is None:
            raise RuntimeError("the tree is written to only under its lock or in a session")
        return self._work

    @property
    def _staging(self) -> Path:
        return self.root / STAGING

    def _clear_staging(self) -> None:
        with self.explained("clearing the staging area of"):
            rights.make_below(self.root, self._staging, rights.PRIVATE)
            self._staging.chmod(rights.PRIVATE)
            with os.scandir(self._staging) as entries:
                for entry in list(entries):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)  # noqa: PTH108 - an entry has no Path
                    elif not _is_held(entry.path):
                        shutil.rmtree(entry.path, ignore_errors=True)

    # ---- writing

    def make_folder(self, path: Path) -> None:
        """Makes a folder of the tree and its parents, readable by everybody whatever the umask is."""
        rights.make_below(self.root, path)

    def check(self, folder: Path) -> None:
        """Raises an error, as everything that writes here does, if another user may write in this folder."""
        rights.check_below(self.root, folder)

    def replace(self, path: Path, data: bytes) -> None:
        """Writes a file as a whole, readable by everybody."""
        self.check(path.parent)
        durable.write_file(path, data, 0o644, self._here())

    @contextlib.contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """Turns an OSError about the tree's files into a TreeError."""
        try:
            yield
        except rights.UnsafeError as error:
            raise TreeError(f"the tree {self.root} is not safe to write in", in_words(error), error.remedy) from error
        except OSError as error:
            raise _tree_error(doing, self.root, error) from error


def _tree_error(doing: str, root: Path, error: OSError) -> TreeError:
    resolution = "choose another folder with --tree DIR"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        resolution = "free space on that filesystem, then run the same command again"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        resolution = "run as a user who may write there, or choose another folder with --tree DIR"
    elif error.errno == errno.ENOENT and doing == "preparing":
        resolution = "the folder cannot be created there: choose another one with --tree DIR"
    elif error.errno == errno.ENOENT and not os.path.lexists(root):
        resolution = "the first sync creates it; or choose another folder with --tree DIR"
    return TreeError(f"{doing} the tree {root} failed", in_words(error), resolution)


def _is_held(folder: str) -> bool:
    try:
        return lock.is_held(folder)
    except OSError:
        return False
