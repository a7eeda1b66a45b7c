"""The tree's folder on disk: one writer at a time, unfinished work set aside, files replaced as a whole.

::

    .staging/       unfinished work; whoever gets the lock removes what no living run holds
    .lock           held while the tree is changed; its time is the latest ever seen here
    .lock.FOLDER    held by a run for this folder of specs, from its plan to its end
    .lock….holder   which process holds it

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
from lxdocker.files import durable, holder, lock, rights
from lxdocker.files.seen import is_dir
from lxdocker.program import StoppedError
from lxdocker.reasons import in_words
from lxdocker.values import ImageName

LOCK = ".lock"
STAGING = ".staging"
RUN = "run."  # how the folders of runs in it begin; the host's mark follows
UNSEEN_SECONDS = 86400  # how long a run of another host is taken to live
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
                path = self.root / f"{LOCK}.{key}"
                own = lock.open_file(path)
            cleanup.callback(os.close, own)
            cleanup.enter_context(self._holding(path, own))
            with self.changing(), self.explained("preparing"):
                # The folder's own lock shows that this run lives. The tree is still locked until the folder is, so no
                # other process takes it for a leftover.
                self._work = Path(tempfile.mkdtemp(prefix=f"{RUN}{holder.host_id()}.", dir=self._staging))
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
                cleanup.enter_context(self._holding(self.root / LOCK, handle, shared=True))
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as cleanup:
            with self.explained("preparing"):
                rights.make_folder(self.root)
                handle = lock.open_file(self.root / LOCK, 0o644)
            cleanup.callback(os.close, handle)
            cleanup.enter_context(self._holding(self.root / LOCK, handle))
            try:
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

    @contextlib.contextmanager
    def _holding(self, path: Path, handle: int, *, shared: bool = False) -> Iterator[None]:
        """Waits for a lock file, and holds it."""

        def busy(whom: str) -> None:
            self._say(f"waiting: another lxdocker is using {self.root}" + (f" ({whom})" if whom else ""))

        with contextlib.ExitStack() as held:
            try:
                with self.explained("locking"):
                    held.enter_context(lock.noted(path, handle, busy, self._cancelled, shared=shared))
            except StoppedError:
                raise TreeError("stopped", "interrupted while waiting for the tree") from None
            yield

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
            for run in self._staging.glob(f"{RUN}*/"):
                with contextlib.suppress(OSError):  # it has just ended
                    if run != self._work and _lives(run):
                        names = {entry.name.rpartition(".")[0] for entry in run.iterdir() if is_dir(entry)}
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
                    elif not _may_live(Path(entry.path)):
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
    if error.errno in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS} and doing == "locking":
        resolution = "its filesystem has no locks: mount it with NFS 4, or choose another folder with --tree DIR"
    elif error.errno in {errno.ENOSPC, errno.EDQUOT}:
        resolution = "free space on that filesystem, then run the same command again"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        resolution = "run as a user who may write there, or choose another folder with --tree DIR"
    elif error.errno == errno.ENOENT and doing == "preparing":
        resolution = "the folder cannot be created there: choose another one with --tree DIR"
    elif error.errno == errno.ENOENT and not os.path.lexists(root):
        resolution = "the first sync creates it; or choose another folder with --tree DIR"
    return TreeError(f"{doing} the tree {root} failed", in_words(error), resolution)


def _lives(folder: Path) -> bool:
    """Whether the process that works in a folder of the staging area lives. What another host's does can't be seen
    where locks do not reach it: it is taken to for a day after its last change there.
    """
    if lock.is_held(folder):
        return True
    is_ours = not folder.name.startswith(RUN) or folder.name.startswith(f"{RUN}{holder.host_id()}.")
    if is_ours or holder.reaches_all(folder, folder=True):
        return False
    return time.time() - folder.stat().st_mtime < UNSEEN_SECONDS


def _may_live(folder: Path) -> bool:
    try:
        return _lives(folder)
    except OSError:
        return False
