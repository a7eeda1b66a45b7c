"""Who holds a lock, as a note beside it says; and how far locks reach.

On a disk of this host the kernel knows every holder. Over the network it depends: NFS 4 keeps the locks on its server,
NFS 3 with ``nolock``, and most filesystems of FUSE and of virtual machines, keep them on each host. There the note
itself is the lock between hosts, since all of them can make a file exclusively (O_EXCL).
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOUNTS = Path("/proc/self/mountinfo")
MOST = 1000  # bytes of a note

# Filesystems whose server keeps the locks of files, but none of folders.
_BY_SERVER = frozenset({"nfs", "nfs4", "cifs", "smb3"})
# Mount options with which they stay on this host.
_KEPT_HERE = re.compile(r"nolock|local_lock=(all|flock)|nobrl|localflock")
# Filesystems that other hosts may see, but whose locks they don't.
_HERE_ALONE = re.compile(r"fuse\..*|9p|virtiofs|afs|coda")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock."""

    pid: int
    host: str
    machine: str  # machine-id(5)
    boot: str

    @classmethod
    def this(cls) -> Holder:
        return cls(os.getpid(), *_here())

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """None for a note that was not written to its end."""
        words = text.split(" ")
        if len(words) != 4 or not text.endswith("\n") or not words[0].isascii() or not words[0].isdigit():
            return None
        return cls(int(words[0]), words[1], words[2], words[3].strip())

    def note(self) -> str:
        return f"{self.pid} {self.host} {self.machine} {self.boot}\n"

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is on another host; one of an earlier boot of this host is not."""
        host, machine, boot = _here()
        return self.boot != boot and (self.host, self.machine) != (host, machine)

    def __str__(self) -> str:
        return f"process {self.pid}" + ("" if self.host == _here()[0] else f" on {self.host}")


@cache
def _here() -> tuple[str, str, str]:
    """This host's name, machine-id and boot; no spaces in any of them."""
    name = re.sub(r"\s", "", os.uname().nodename)[:200]
    return name or "-", _line(MACHINE_ID) or "-", _line(BOOT_ID) or "-"


def _line(path: Path) -> str:
    try:
        return re.sub(r"\s", "", path.read_text()[:MOST])
    except (OSError, UnicodeDecodeError):
        return ""


def host_id() -> str:
    """8 hex digits that tell hosts apart, for names of files; the same after a boot."""
    host, machine, _ = _here()
    return hashlib.sha256(f"{host} {machine}".encode()).hexdigest()[:8]


def read(path: Path) -> Holder | None:
    """The holder that a note names. None for no note, and for one that makes no sense (yet)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        try:
            return Holder.parse(file.read(MOST).decode())
        except (OSError, UnicodeDecodeError):
            return None


def reaches_all(path: Path, *, folder: bool = False) -> bool:
    """Whether a lock on a file here, or on a ``folder``, binds every host that can see it."""
    try:
        mounts = MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return True
    kind, options = mounted(mounts, path.resolve())
    if kind in _BY_SERVER:
        return not folder and not _KEPT_HERE.search(options)
    return not _HERE_ALONE.fullmatch(kind) and not _KEPT_HERE.search(options)


def mounted(mounts: str, path: Path) -> tuple[str, str]:
    """The type and the options of the filesystem of ``path``, from /proc/self/mountinfo (proc(5))."""
    found, depth = ("", ""), -1
    for line in mounts.splitlines():
        words, _, rest = line.partition(" - ")
        fields, kinds = words.split(" "), rest.split(" ")
        if len(fields) < 6 or len(kinds) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        # Of two at the same place the later one hides the first.
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = (kinds[0], f"{fields[5]},{kinds[2]}"), len(point.parts)
    return found
