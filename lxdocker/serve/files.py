"""From a request's path to an open file of the tree, and to nothing else.

Every folder on the way is opened relative to the one before and no link is ever followed, so that there is no moment
in which something outside the tree could be put in the place of what was checked.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from lxdocker.tree.page import PAGE_FILE
from lxdocker.tree.version import SIDECAR, WITHDRAWN, WITHHELD

# Longer ones are not in any tree of ours.
MAX_DEPTH = 16
# How many bytes of a sidecar are read.
MAX_SIDECAR = 1 << 20
# Notes of the publisher's to itself.
_HIDDEN = frozenset({WITHDRAWN.encode(), WITHHELD.encode()})
_IMAGE_DEPTH = 5  # images/NAME/ARCH/VERSION/FILE
_TYPES = {
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".xz": "application/x-xz",
}
# Not the same as: there is no such file.
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Served:
    """An open file, and what to say about it. Whoever gets one closes ``handle``."""

    handle: int
    size: int
    modified: float  # seconds since the epoch
    etag: str  # without quotes
    content_type: str
    immutable: bool  # never changes under this name
    is_page: bool


def open_served(tree: Path, raw_path: str) -> Served | None:
    """The file that a request's path (as it came, without the query) names; None where there is no such file."""
    parts = split(raw_path)
    if parts is None:
        return None
    if not parts:
        parts = [PAGE_FILE.encode()]
    handle = _open(tree, parts)
    if handle is None:
        return None
    try:
        found = os.fstat(handle)
        # A FIFO would never end, and a device is nobody's business.
        if not stat.S_ISREG(found.st_mode):
            os.close(handle)
            return None
        in_version = len(parts) == _IMAGE_DEPTH and parts[0] == b"images"
        immutable = in_version and parts[-1] != SIDECAR.encode()
        name = parts[-1].decode()
        return Served(
            handle=handle,
            size=found.st_size,
            modified=found.st_mtime,
            etag=(_recorded_hash(tree, parts, found.st_size) if immutable else None) or _stat_tag(found),
            content_type=_TYPES.get(Path(name).suffix, "application/octet-stream"),
            immutable=immutable,
            is_page=name.endswith(".html"),
        )
    except BaseException:
        os.close(handle)
        raise


def split(raw_path: str) -> list[bytes] | None:
    """The names in a path, decoded once, after splitting: an encoded slash never separates. None for a bad path."""
    if not raw_path.startswith("/"):
        return None
    names = []
    parts = raw_path.split("/")
    for part in parts:
        if not part:
            continue  # a client's base URL may end in a slash
        name = unquote_to_bytes(part)
        if name.startswith(b".") or name in _HIDDEN or b"/" in name or b"\\" in name or not _is_printable(name):
            return None
        names.append(name)
    if len(names) > MAX_DEPTH or (names and not parts[-1]):
        return None
    return names


def _is_printable(name: bytes) -> bool:
    """Every name in a tree is printable ASCII."""
    return all(0x20 < byte < 0x7F for byte in name) and len(name) <= 255


def _open(tree: Path, parts: list[bytes]) -> int | None:
    """A descriptor of the file below the tree; None if it is not there, or not to be had."""
    folder = None
    try:
        # The tree itself may be a link: its owner has put it there.
        folder = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts[:-1]:
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        return None
    finally:
        if folder is not None:
            os.close(folder)


def _stat_tag(found: os.stat_result) -> str:
    """Every new content of such a file is a new inode, renamed into place."""
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


def _recorded_hash(tree: Path, parts: list[bytes], size: int) -> str | None:
    """The file's SHA-256 as its publisher wrote it down: the same on every mirror and after every restart."""
    handle = _open(tree, [*parts[:-1], SIDECAR.encode()])
    if handle is None:
        return None
    try:
        document: Any = json.loads(os.read(handle, MAX_SIDECAR))
        name = parts[-1].decode()
        recorded = document["files"].get(name) or document["deltas"][name.removesuffix(".vcdiff")]
        sha256 = recorded["sha256"]
        return sha256 if recorded["size"] == size and _SHA256.fullmatch(sha256) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    finally:
        os.close(handle)
