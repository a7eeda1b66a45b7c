"""Folders with the right mode whatever the umask is, where only this user and root may write.

Folders for others to read (the tree) have mode 0755, private ones (work in progress, keys) 0700.

A write, above all one by root, must not go to a folder where another user could place a link: the link would redirect
it to another file. So every folder from ``/`` down is checked first, as sshd does for its keys (StrictModes): it must
belong to this user or to root, and be writable by nobody else. Then nobody can interfere, neither before the write nor
during it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from lxdocker.files import durable
from lxdocker.files.seen import exists

PUBLIC, PRIVATE = 0o755, 0o700
_MOST_LINKS = 40  # the kernel's limit


class UnsafeError(OSError):
    """A place where another user may write."""

    def __init__(self, path: str | Path, why: str, remedy: str) -> None:
        super().__init__(errno.EPERM, why, str(path))
        self.path = Path(path)
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def check(path: Path) -> None:
    """Checks every existing folder on the way to ``path``, also behind links. Raises UnsafeError."""
    left = list(reversed(path.absolute().parts[1:]))
    at, links = "/", 0
    _check_folder(at, os.stat(at), within=False)  # noqa: PTH116 - as below
    while left:
        part = left.pop()
        if part == "..":
            at = os.path.dirname(at)  # noqa: PTH120 - of what is no link any more
            continue
        inner = os.path.join(at, part)  # noqa: PTH118 - Path's own way takes several times as long
        try:
            status = os.lstat(inner)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(status.st_mode):
            _check_owner(inner, status)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = Path(os.readlink(inner))  # noqa: PTH115 - as above
            if target.is_absolute():
                at = "/"
            left += [part for part in reversed(target.parts) if part != "/"]
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), inner)
        _check_folder(inner, status, within=not left)
        at = inner


def check_below(root: Path, path: Path) -> None:
    """Checks the folders from ``root``, which is known to be safe, down to ``path``: none of them may be a link."""
    at = str(root)
    for part in path.relative_to(root).parts:
        at = f"{at}/{part}"
        _check_own(at, os.lstat(at))


def may_exist(path: Path) -> bool:
    """Whether something is there, also where this user may not look."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def make_folder(path: Path, mode: int = PUBLIC) -> None:
    """Makes a folder, and its parents with mode 0755. Raises UnsafeError where it would not be safe."""
    check(path)
    missing = [folder for folder in (path, *path.parents) if not exists(folder)]
    for folder in reversed(missing):
        _make(folder, mode if folder == path else PUBLIC)
    path.mkdir(exist_ok=True)  # fails if something else has that name
    check(path)


def make_below(root: Path, path: Path, mode: int = PUBLIC) -> None:
    """Makes a folder below ``root``, and the folders between."""
    at = root
    for part in path.relative_to(root).parts:
        at /= part
        try:
            _check_own(str(at), at.lstat())
        except FileNotFoundError:
            _make(at, mode)
            _check_own(str(at), at.lstat())  # another process may have been faster


def _make(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=mode)
    except FileExistsError:  # by another thread or process, meanwhile
        return
    folder.chmod(mode)
    durable.sync(folder.parent)


# ---- who may write

LOOK_AT = "check what it is and who made it, then remove it; or choose another folder"


def _check_own(path: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UnsafeError(path, "it is a link", LOOK_AT)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    _check_folder(path, status, within=True)


def _check_folder(path: str, status: os.stat_result, *, within: bool) -> None:
    """``within``: others must not even add to it. A folder with the sticky bit (/tmp) is fine on the way to ours, since
    nobody can replace another user's entries there.
    """
    _check_owner(path, status)
    mode = status.st_mode
    if mode & stat.S_ISVTX and not within:
        return
    by_group = mode & stat.S_IWGRP and not _is_owners_alone(status.st_gid, status.st_uid)
    if mode & stat.S_IWOTH or by_group:
        who = "everybody" if mode & stat.S_IWOTH else f"the group {_group(status.st_gid)}"
        raise UnsafeError(
            path,
            f"{who} may write in it (mode {stat.S_IMODE(mode):04o})",
            f"check that its contents are yours, then run: chmod go-w {path}; or choose another folder",
        )


def _check_owner(path: str, status: os.stat_result) -> None:
    us = os.geteuid()
    if status.st_uid not in {0, us}:
        raise UnsafeError(
            path,
            f"it belongs to the user {_user(status.st_uid)}, who can change it at any moment",
            f"run as that user; or chown it to {_user(us)} if its contents are yours; or choose another folder",
        )


def _is_owners_alone(gid: int, uid: int) -> bool:
    """Whether only this user (and root) is in the group: Debian gives each user such a group."""
    if gid == 0:
        return True
    try:
        names = grp.getgrgid(gid).gr_mem
        members = {pwd.getpwnam(name).pw_uid for name in names}
    except KeyError:  # unknown group or member: not known to be safe
        return False
    members |= {user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid}
    return members <= {0, uid}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
