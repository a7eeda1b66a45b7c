"""Documents as gzip, for clients that take it: LXD and Incus do, and read the whole index every hour.

An index of a thousand images is megabytes of repetition. Each version of a document is packed once and kept.
"""

from __future__ import annotations

import gzip
import os
import threading

from lxdocker.serve.files import Served

# Not worth it below; too much to keep in memory above.
MIN_SIZE, MAX_SIZE = 1000, 32 << 20
MAX_KEPT = 4
LEVEL = 6
_TYPES = ("application/json", "text/")


def can_be_packed(served: Served) -> bool:
    """Whether it is a document, and not what is packed already."""
    return MIN_SIZE <= served.size <= MAX_SIZE and not served.immutable and served.content_type.startswith(_TYPES)


class Packer:
    """Packs documents, and keeps the last few."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}  # the one used last is the last
        self._lock = threading.Lock()

    def kept(self, served: Served) -> bytes | None:
        """The packed document, if it has been packed before."""
        return self._kept.get(served.etag)

    def pack(self, served: Served) -> bytes:
        """Packs a document, unless another thread has just done so. Takes its time: not for an event loop."""
        with self._lock:
            found = self._kept.pop(served.etag, None)
            if found is None:
                found = gzip.compress(_read(served), LEVEL, mtime=0)
            while len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[served.etag] = found
            return found


def _read(served: Served) -> bytes:
    found = bytearray()
    while part := os.pread(served.handle, served.size - len(found), len(found)):
        found += part
    if len(found) != served.size:
        raise OSError("the file has become shorter")
    return bytes(found)
