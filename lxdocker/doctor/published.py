"""The published tree."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxdocker.doctor.finding import Finding, Fix, NotExamined
from lxdocker.doctor.subject import Subject
from lxdocker.errors import TreeError
from lxdocker.files import rights
from lxdocker.files.seen import is_dir
from lxdocker.progress import Progress
from lxdocker.reasons import in_words
from lxdocker.tree import verify
from lxdocker.tree.tree import Tree
from lxdocker.tree.verify import Kind
from lxdocker.values import home_folder

SERVER = "lxdocker-serve"  # the user that the unit runs as
_MOST = 5  # that are named in a finding


def damage(subject: Subject) -> Iterator[Finding]:
    """Files that are missing or cut short, and an index that does not fit; without reading all of them."""
    tree = Tree(subject.settings.tree)
    if not tree.is_one():
        return
    try:
        found = verify.verify(
            tree, deep=False, repair=False, jobs=1, progress=Progress(), say=lambda _: None, cancelled=subject.stop
        )
    except TreeError as error:
        raise NotExamined(f"{error.brief}: {error.details}") from error
    bad = [one for one in found.findings if one.kind is not Kind.STRAY]
    if bad:
        yield Finding(
            "tree-damaged",
            f"the tree {tree.root} is damaged",
            _some([f"{one.path} {one.problem}" for one in bad]),
            "lxdocker publish verify --deep --repair, then lxdocker sync",
        )


def _some(words: list[str]) -> str:
    more = len(words) - _MOST
    return "; ".join(words[:_MOST]) + (f"; and {more} more" if more > 0 else "")


# ---- modes


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file or a folder of the tree, or a folder above it."""

    path: Path
    status: os.stat_result
    is_inside: bool

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


def modes(subject: Subject) -> Iterator[Finding]:
    """Whether the web server's user can read it, and nobody else write in it."""
    root = subject.settings.tree
    if not is_dir(root):
        return
    root = root.resolve()
    entries = list(_entries(root, subject))
    # A user's own tree at home is served by that user.
    at_home = os.geteuid() != 0 and root.is_relative_to(home_folder(subject.environ))
    closed = [one for one in entries if not _is_readable(one, *_server()) and (one.is_inside or not at_home)]
    if closed:
        inside = [one for one in closed if one.is_inside]
        commands = tuple(f"chmod {'a+rx' if one.is_folder else 'a+r'} {shlex.quote(str(one.path))}" for one in inside)
        yield Finding(
            "tree-unreadable",
            f"web servers can't read the tree {root}",
            _some([f"{one.path} has mode {stat.S_IMODE(one.status.st_mode):04o}" for one in closed]),
            "lxdocker doctor --fix" if len(inside) == len(closed) else f"chmod a+x {closed[0].path}, or move the tree",
            Fix(commands, lambda: _open(inside)) if inside else None,
        )
    yield from _writable(root, [one for one in entries if one.is_inside])


def _writable(root: Path, entries: list[_Entry]) -> Iterator[Finding]:
    open_ones = [one for one in entries if one.status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    try:
        rights.check(root)
    except rights.UnsafeError as error:
        if error.path not in {one.path for one in open_ones}:  # above the tree, or of another owner
            yield Finding("tree-writable", f"others can write in the tree {root}", str(error), error.remedy)
            return
    except OSError as error:
        raise NotExamined(in_words(error)) from error
    if open_ones:
        commands = tuple(f"chmod go-w {shlex.quote(str(one.path))}" for one in open_ones)
        yield Finding(
            "tree-writable",
            f"others can write in the tree {root}",
            _some([f"{one.path} has mode {stat.S_IMODE(one.status.st_mode):04o}" for one in open_ones]),
            "check what they have written (lxdocker publish verify --deep), then: lxdocker doctor --fix",
            Fix(commands, lambda: _close(open_ones)),
        )


def _entries(root: Path, subject: Subject) -> Iterator[_Entry]:
    """The folders above the tree, and all in it that a server gives out."""
    for path in reversed(root.parents):
        yield _Entry(path, path.stat(), is_inside=False)
    yield _Entry(root, root.stat(), is_inside=True)
    left = [str(root)]
    while left and not subject.stop.is_set():
        try:
            with os.scandir(left.pop()) as found:
                for entry in found:
                    if entry.name.startswith(".") or entry.is_symlink():
                        continue
                    yield _Entry(Path(entry.path), entry.stat(follow_symlinks=False), is_inside=True)
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
        except OSError:
            continue  # which the folder's own mode explains


def _server() -> tuple[int, int]:
    """The user and the group of the server; nobody's where the unit is not installed."""
    try:
        user = pwd.getpwnam(SERVER)
    except KeyError:
        return -1, -1
    return user.pw_uid, user.pw_gid


def _is_readable(one: _Entry, uid: int, gid: int) -> bool:
    mode = one.status.st_mode
    shift = 6 if one.status.st_uid == uid else 3 if one.status.st_gid == gid else 0
    needed = 0o1 if one.is_folder and not one.is_inside else 0o5 if one.is_folder else 0o4
    return (mode >> shift) & needed == needed


def _open(entries: list[_Entry]) -> None:
    for one in entries:
        _change(one, one.status.st_mode | (0o555 if one.is_folder else 0o444))


def _close(entries: list[_Entry]) -> None:
    for one in entries:
        _change(one, one.status.st_mode & ~0o022)


def _change(one: _Entry, mode: int) -> None:
    """Of that very file, should it have become a link to another one meanwhile."""
    handle = os.open(one.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        now = os.fstat(handle)
        if (now.st_dev, now.st_ino) == (one.status.st_dev, one.status.st_ino):
            os.fchmod(handle, stat.S_IMODE(mode))
    finally:
        os.close(handle)
