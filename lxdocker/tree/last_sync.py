"""The result of the last sync of each folder of specs, kept in the tree for monitoring.

``.sync.FOLDER.json`` is replaced as a whole: after a kill at any moment it is the old one or the new one. It has names
and times only, no paths and no messages. ``serve`` does not serve it, like all files with a leading dot.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxdocker.errors import LxdockerError
from lxdocker.files import durable, rights
from lxdocker.files.seen import is_dir
from lxdocker.values import ImageName

_FILE = re.compile(r"\.sync\.([0-9a-z]{1,16})\.json")
_MOST_BYTES = 1 << 20
MIRROR = "mirror"  # instead of a folder of specs: the last run of `mirror`
FORGOTTEN_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class LastSync:
    """How the last sync of a folder of specs ended."""

    finished: float  # seconds since the epoch
    seconds: float  # that it took
    exit: int  # its exit status
    failed: frozenset[str] = frozenset()  # names of images that failed, in this sync or in one of others before
    since: Mapping[str, float] = field(default_factory=dict)  # when each of these failed first, in the syncs since then
    failing_since: float | None = None  # the first of the syncs in a row that did not succeed

    @property
    def succeeded(self) -> bool:
        return self.exit == 0


def record(root: Path, folder: str, last: LastSync, named: Collection[ImageName | str] | None = None) -> None:
    """Replaces the record of a folder of specs. ``named``: the images that the sync was for, if not for all: what was
    recorded of the others stays. Does nothing if there is no tree. Raises OSError.
    """
    if not is_dir(root):
        return
    rights.check(root)
    failed = set(last.failed)
    before = read(root, folder)
    known, began = (before.since, before.failing_since) if before else ({}, None)
    if named is not None and before:
        failed |= before.failed - {str(name) for name in named}
    document: dict[str, Any] = {
        "finished": round(last.finished, 3),
        "seconds": round(last.seconds, 3),
        "exit": last.exit,
        "failed": sorted(failed),
        "since": {name: round(known.get(name, last.finished), 3) for name in sorted(failed)},
        "failing_since": None if last.succeeded else round(began or last.finished, 3),
    }
    _tidy(root)
    durable.write_file(root / f".sync.{folder}.json", json.dumps(document).encode(), 0o644)


@contextlib.contextmanager
def of_mirror(root: Path) -> Iterator[Callable[[Collection[str]], None]]:
    """Records the names of images that failed, as told by the block; or that the block failed, if the tree is a mirror.
    A record that can't be written is missed by monitoring alone.
    """
    began = time.time()

    def done(exit_status: int, failed: Collection[str], named: Collection[str] | None) -> None:
        with contextlib.suppress(OSError):
            last = LastSync(time.time(), time.time() - began, exit_status, frozenset(failed))
            record(root, MIRROR, last, named)

    try:
        yield lambda failed: done(1 if failed else 0, failed, None)
    except LxdockerError as error:
        if is_dir(root / ".mirror"):
            done(error.exit_code, (), ())
        raise


def read(root: Path, folder: str) -> LastSync | None:
    """The record of one folder of specs; None if there is none that makes sense."""
    try:
        with open(root / f".sync.{folder}.json", "rb") as file:  # noqa: PTH123 - as elsewhere, a bounded read
            document = json.loads(file.read(_MOST_BYTES))
        return LastSync(
            finished=float(document["finished"]),
            seconds=float(document["seconds"]),
            exit=int(document["exit"]),
            failed=frozenset(map(str, document["failed"])),
            since={str(name): float(moment) for name, moment in document.get("since", {}).items()},
            failing_since=None if (began := document.get("failing_since")) is None else float(began),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_all(root: Path) -> dict[str, LastSync]:
    """All records, by folder of specs."""
    try:
        names = [match[1] for name in os.listdir(root) if (match := _FILE.fullmatch(name))]  # noqa: PTH208
    except OSError:
        return {}
    return {folder: found for folder in names if (found := read(root, folder))}


def forget(root: Path, living: Collection[str]) -> None:
    """Removes records of folders that are not among the ``living`` ones and have not been synced for a day: folders
    that were moved or given up would count for ever.
    """
    for folder, last in read_all(root).items():
        if folder not in living and time.time() - last.finished > FORGOTTEN_SECONDS:
            (root / f".sync.{folder}.json").unlink(missing_ok=True)


def _tidy(root: Path) -> None:
    """Removes what a kill in the middle of record() left."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(".sync.") and not _FILE.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > FORGOTTEN_SECONDS:
                        os.unlink(entry.path)  # noqa: PTH108 - an entry has no Path
