"""Every change of the tree that takes more than one step, and what a kill or a power cut between two steps leaves.

The order of the steps is the promise; each function states what it guarantees. Each step is on stable storage before
the next one begins, because a disk may otherwise do the second one first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lxdocker.files import durable, rights
from lxdocker.files.seen import exists
from lxdocker.tree import page, simplestreams
from lxdocker.tree.index import Index, without_times
from lxdocker.tree.version import (
    SIDECAR,
    WITHDRAWN,
    WITHHELD,
    Published,
    Withheld,
    sidecar_document,
    withheld_document,
)
from lxdocker.tree.workspace import Workspace


def add_version(space: Workspace, version: Published, files: Mapping[str, Path]) -> None:
    """A new version appears with all of its files at once: the last step renames its complete folder."""
    folder = space.new_folder(".publish")
    for name, source in files.items():
        durable.link(source, folder / name, 0o644)
    durable.write_new(folder / SIDECAR, _readable(sidecar_document(version)), 0o644)
    folder.chmod(rights.PUBLIC)
    durable.sync(folder)
    durable.move(folder, version.folder)


def mend_version(space: Workspace, version: Published, files: Mapping[str, Path]) -> None:
    """A version that was withdrawn is not listed again before its files, and then its sidecar, are right."""
    space.check(version.folder)
    for name, source in files.items():
        temporary = space.temporary(name)
        durable.link(source, temporary, 0o644)
        temporary.rename(version.folder / name)
    durable.sync(version.folder)
    record(space, version)
    unmark(space, version.folder)


def record(space: Workspace, version: Published) -> None:
    """Replaces a version's sidecar."""
    space.replace(version.folder / SIDECAR, _readable(sidecar_document(version)))


def drop_deltas(space: Workspace, version: Published, files: Iterable[str]) -> None:
    """Deltas that ``version`` no longer has go before the sidecar forgets them: nothing else would ever delete them. A
    delta that is recorded but missing is not listed, and dropped by the next sweep.
    """
    space.check(version.folder)
    for name in files:
        (version.folder / name).unlink(missing_ok=True)
    durable.sync(version.folder)
    record(space, version)


def delete_version(space: Workspace, folder: Path) -> None:
    """A version disappears as it came, all at once: it is moved into the staging area first."""
    space.check(folder)
    doomed = space.new_folder(".gone") / folder.name
    folder.rename(doomed)
    shutil.rmtree(doomed.parent)


def mark(space: Workspace, folder: Path) -> None:
    """A version leaves the index now. Its grace period begins with the time of this mark."""
    space.check(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(folder / WITHDRAWN, flags, 0o644)
    try:
        os.fchmod(handle, 0o644)
        if space.clock_behind:
            os.write(handle, b"by a clock that was behind\n")
        os.utime(handle)
        os.fsync(handle)
    finally:
        os.close(handle)
    durable.sync(folder)


def unmark(space: Workspace, folder: Path) -> None:
    """A version may be listed again."""
    space.check(folder)
    with contextlib.suppress(FileNotFoundError):
        (folder / WITHDRAWN).unlink()
        durable.sync(folder)


def roll_back(space: Workspace, target: Published, withheld: Collection[Withheld]) -> None:
    """Clients get the newer versions or the target at every moment, never nothing: the target becomes listed before the
    newer versions are withheld. In the other order, a target that had been withdrawn would leave the image without a
    version.
    """
    unmark(space, target.folder)
    space.replace(target.folder.parent / WITHHELD, _readable(withheld_document(withheld)))


def undo_rollback(space: Workspace, product: Path, withheld: Collection[Withheld]) -> None:
    """The list of withheld versions goes last: it is what an interrupted undo continues from."""
    for version in withheld:
        if exists(product / version.key):
            unmark(space, product / version.key)
    space.check(product)
    (product / WITHHELD).unlink(missing_ok=True)
    durable.sync(product)


def write_index(space: Workspace, leaving: Iterable[Path], new: Index, catalogue: str) -> None:
    """The index names existing files only, and nothing leaves it without a full grace period.

    Versions that leave are marked before the index forgets them, or an old mark would let them be deleted while clients
    still download them. images.json is replaced before index.json, which names its products. The page is for people
    alone, so it is last. Files that would not change are left alone.
    """
    for folder in leaving:
        mark(space, folder)
    space.make_folder((space.root / simplestreams.IMAGES_PATH).parent)
    _replace_document(space, simplestreams.IMAGES_PATH, new.images)
    _replace_document(space, simplestreams.INDEX_PATH, new.index)
    _replace_page(space, catalogue.encode())


def _replace_document(space: Workspace, relative: str, document: Mapping[str, Any]) -> None:
    path = space.root / relative
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if without_times(json.loads(path.read_bytes())) == without_times(document):
            return
    # On one line: several times faster to write for a large tree, and smaller for every client.
    space.replace(path, json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def _replace_page(space: Workspace, text: bytes) -> None:
    path = space.root / page.PAGE_FILE
    with contextlib.suppress(OSError):
        if path.read_bytes() == text:
            return
    space.replace(path, text)


def _readable(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
