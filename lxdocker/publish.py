"""The published tree: plain files that any web server can serve, and LXD can trust at any moment.

::

    streams/v1/index.json, images.json         derived from what lies below images/
    images/NAME/ARCH/VERSION/lxd.tar.xz        immutable once there
                             rootfs.squashfs
                             lxdocker.json     what the version is (the sidecar)
                             withdrawn         there once it has left the index; its age is the grace period's
    .staging/                                  work in progress; whoever holds the lock empties it
    .lock

A version appears by one rename of its whole folder, then images.json, then index.json: a client never sees
an index that names a missing file, whenever we are killed. What leaves the index stays for a grace period.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lxdocker import page, simplestreams
from lxdocker.artifact import Artifact
from lxdocker.errors import TreeError
from lxdocker.provenance import Provenance
from lxdocker.simplestreams import METADATA_FILE, ROOTFS_FILE, File, Product, Version
from lxdocker.values import Arch, Fingerprint, ImageName

SIDECAR = "lxdocker.json"
WITHDRAWN = "withdrawn"
RELEASE = "current"
LOCK_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Published:
    """A version in the tree, listed or withdrawn."""

    folder: Path
    provenance: Provenance
    arch: Arch
    key: str
    fingerprint: Fingerprint
    aliases: tuple[str, ...]
    properties: Mapping[str, str]  # the image's own, for the catalogue page
    metadata_size: int  # bytes
    metadata_sha256: str
    rootfs_size: int
    rootfs_sha256: str
    withdrawn: float | None  # when it left the index, seconds since the epoch

    @property
    def name(self) -> ImageName:
        return self.provenance.name

    @property
    def size(self) -> int:
        """Bytes a client downloads."""
        return self.metadata_size + self.rootfs_size

    def is_whole(self) -> bool:
        """Whether both files are there with their sizes (hashes are not read: that is what clients do)."""
        try:
            return (self.folder / METADATA_FILE).stat().st_size == self.metadata_size and (
                self.folder / ROOTFS_FILE
            ).stat().st_size == self.rootfs_size
        except OSError:
            return False

    def version(self, tree: Path) -> Version:
        """As the index lists it."""
        relative = self.folder.relative_to(tree).as_posix()
        return Version(
            key=self.key,
            metadata=File(f"{relative}/{METADATA_FILE}", self.metadata_size, self.metadata_sha256),
            rootfs=File(f"{relative}/{ROOTFS_FILE}", self.rootfs_size, self.rootfs_sha256),
            fingerprint=self.fingerprint,
        )


class Tree:
    """The tree at ``root``. Changes are for the holder of the lock; its threads may make them side by side."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._changing = threading.RLock()

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None], cancelled: threading.Event) -> Iterator[None]:
        """Holds the tree for this process, and clears what a killed one left in the staging area.

        Says so if it has to wait for another process. Raises TreeError when the folder can't be used.
        """
        with self._explained("preparing"):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self._make_folder(self.root)
            handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            told = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        say(f"another lxdocker is at work on {self.root}; waiting for it")
                        told = True
                    if cancelled.wait(LOCK_POLL_SECONDS):
                        raise TreeError("stopped", "interrupted while waiting for the tree") from None
            with self._explained("clearing the staging area of"):
                shutil.rmtree(self._staging, ignore_errors=True)
                self._staging.mkdir(exist_ok=True)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def staging(self, name: ImageName) -> Iterator[Path]:
        """A folder for work in progress on the tree's own filesystem, removed afterwards."""
        with self._explained("writing to"):
            folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._staging))
        try:
            with self._explained("writing to"):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # ---- reading

    def versions(self) -> list[Published]:
        """Every version that lies in the tree with a readable sidecar, by name, architecture and key."""
        found = []
        for sidecar in self.root.glob(f"images/*/*/*/{SIDECAR}"):
            published = _read_sidecar(sidecar)
            if published:
                found.append(published)
        return sorted(found, key=lambda one: (one.name, one.arch.value, one.key))

    # ---- changing

    def publish(
        self,
        artifact: Artifact,
        provenance: Provenance,
        arch: Arch,
        aliases: tuple[str, ...],
        properties: Mapping[str, str] = MappingProxyType({}),
    ) -> Published:
        """Makes the artifact (staged in this tree) the newest version of its product."""
        with self._changing, self._explained(f"publishing {provenance.name} in"):
            parent = self.root / "images" / provenance.name.value / arch.value
            self._make_folder(parent)
            taken = [entry.name for entry in parent.iterdir() if simplestreams.is_version_key(entry.name)]
            key = simplestreams.next_version_key(taken, datetime.now(UTC))
            published = Published(
                folder=parent / key,
                provenance=provenance,
                arch=arch,
                key=key,
                fingerprint=artifact.fingerprint,
                aliases=aliases,
                properties=properties,
                metadata_size=artifact.metadata_size,
                metadata_sha256=artifact.metadata_sha256,
                rootfs_size=artifact.rootfs_size,
                rootfs_sha256=artifact.rootfs_sha256,
                withdrawn=None,
            )
            # mkdtemp's folders are private; this one is about to be served.
            folder = Path(tempfile.mkdtemp(prefix="publish.", dir=self._staging))
            for source in (artifact.metadata, artifact.rootfs):
                target = folder / source.name
                os.link(source, target)
                target.chmod(0o644)
                _sync(target)
            _write_file(folder / SIDECAR, _sidecar_document(published))
            folder.chmod(0o755)
            _sync(folder)
            folder.rename(published.folder)
            _sync(parent)
            self.write_index()
            return published

    def update(self, published: Published, provenance: Provenance, aliases: tuple[str, ...]) -> None:
        """Records something new about a version whose files stay the same."""
        with self._changing, self._explained(f"updating {published.name} in"):
            document = {
                **_sidecar_document(published),
                "provenance": provenance.to_properties(),
                "aliases": list(aliases),
            }
            self._replace(published.folder / SIDECAR, document)
            self.write_index()

    def withdraw(self, versions: list[Published]) -> None:
        """Takes versions out of the index; their files stay for the grace period."""
        with self._changing, self._explained("withdrawing versions from"):
            for published in versions:
                (published.folder / WITHDRAWN).touch()
            if versions:
                self.write_index()

    def retire(self, keep: int) -> list[Published]:
        """Withdraws all but the newest ``keep`` versions of each product."""
        with self._changing:
            surplus = []
            for _, group in groupby(self._listed(), key=lambda one: (one.name, one.arch)):
                surplus += list(group)[:-keep]
            self.withdraw(surplus)
            return surplus

    def sweep(self, grace_seconds: float) -> list[Published]:
        """Deletes versions that left the index at least ``grace_seconds`` ago. Returns them."""
        with self._changing, self._explained("deleting withdrawn versions from"):
            self._begin_grace()
            now = time.time()
            gone = [
                one for one in self.versions() if one.withdrawn is not None and now - one.withdrawn >= grace_seconds
            ]
            for published in gone:
                doomed = self._staging / f"{published.name}.{published.arch.value}.{published.key}"
                published.folder.rename(doomed)  # whole or not at all, also for whoever reads the tree meanwhile
                shutil.rmtree(doomed)
                for parent in (published.folder.parent, published.folder.parent.parent):
                    with contextlib.suppress(OSError):
                        parent.rmdir()
            return gone

    def _begin_grace(self) -> None:
        """Marks what leaves the index only now: damaged versions, and those whose withdrawal was cut short."""
        indexed = self._indexed_paths()
        for one in self.versions():
            if (one.withdrawn is None and not one.is_whole()) or (
                one.withdrawn is not None and one.version(self.root).rootfs.path in indexed
            ):
                (one.folder / WITHDRAWN).touch()
        self.write_index()

    def _indexed_paths(self) -> set[str]:
        """Every file that images.json names at this moment."""
        try:
            products = json.loads((self.root / simplestreams.IMAGES_PATH).read_bytes())["products"].values()
            versions = [version for product in products for version in product["versions"].values()]
            return {item["path"] for version in versions for item in version["items"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or it is not ours
            return set()

    def write_index(self) -> None:
        """images.json and index.json from what lies in the tree; untouched when nothing changed."""
        with self._changing, self._explained("writing the index of"):
            products = self._products()
            now = datetime.now(UTC)
            self._make_folder(self.root / "streams/v1")
            self._replace_json(simplestreams.IMAGES_PATH, simplestreams.images_document(products, now))
            self._replace_json(simplestreams.INDEX_PATH, simplestreams.index_document(products, now))
            self._write_page()

    def _write_page(self) -> None:
        """The catalogue; last, because it is only for people."""
        newest: dict[ImageName, list[Published]] = {}
        for (name, _), group in groupby(self._listed(), key=lambda one: (one.name, one.arch)):
            newest.setdefault(name, []).append(list(group)[-1])
        text = page.render([_page_entry(versions) for versions in newest.values()]).encode()
        path = self.root / page.PAGE_FILE
        with contextlib.suppress(OSError):
            if path.read_bytes() == text:
                return
        temporary = self._staging / f"{page.PAGE_FILE}.{os.getpid()}.{threading.get_ident()}"
        temporary.write_bytes(text)
        temporary.chmod(0o644)
        temporary.rename(path)

    def _products(self) -> list[Product]:
        products = []
        for (name, arch), group in groupby(self._listed(), key=lambda one: (one.name, one.arch)):
            versions = list(group)
            products.append(
                Product(
                    name=name,
                    arch=arch,
                    aliases=(name.value, *versions[-1].aliases),
                    title=versions[-1].provenance.source,
                    release=RELEASE,
                    versions=tuple(one.version(self.root) for one in versions),
                )
            )
        return products

    def _listed(self) -> list[Published]:
        return [one for one in self.versions() if one.withdrawn is None and one.is_whole()]

    @property
    def _staging(self) -> Path:
        return self.root / ".staging"

    def _make_folder(self, path: Path) -> None:
        """Makes a folder of the tree and those it lies in, for everybody to read whatever our umask is."""
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            _sync(folder.parent)

    def _replace_json(self, relative: str, document: Mapping[str, Any]) -> None:
        """Writes a document unless only its time of writing would differ."""
        path = self.root / relative
        with contextlib.suppress(OSError, ValueError):
            if _without_times(json.loads(path.read_bytes())) == _without_times(document):
                return
        self._replace(path, document)

    def _replace(self, path: Path, document: Mapping[str, Any]) -> None:
        temporary = self._staging / f"{path.name}.{os.getpid()}.{threading.get_ident()}"
        _write_file(temporary, document)
        temporary.rename(path)
        _sync(path.parent)

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _tree_error(doing, self.root, error) from error


def _tree_error(doing: str, root: Path, error: OSError) -> TreeError:
    resolution = "choose another folder with --tree DIR"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        resolution = "free space on that filesystem, then run the same command again"
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        resolution = "run as a user who may write there, or choose another folder with --tree DIR"
    return TreeError(f"{doing} the tree {root} failed", str(error), resolution)


def _sidecar_document(published: Published) -> dict[str, Any]:
    return {
        "provenance": published.provenance.to_properties(),
        "arch": published.arch.value,
        "fingerprint": published.fingerprint.value,
        "aliases": list(published.aliases),
        "properties": dict(published.properties),
        "files": {
            METADATA_FILE: {"size": published.metadata_size, "sha256": published.metadata_sha256},
            ROOTFS_FILE: {"size": published.rootfs_size, "sha256": published.rootfs_sha256},
        },
    }


def _read_sidecar(path: Path) -> Published | None:
    """None for a folder that lxdocker did not write: such are left alone."""
    folder = path.parent
    try:
        document = json.loads(path.read_bytes())
        provenance = Provenance.from_properties(document["provenance"])
        if provenance is None or not simplestreams.is_version_key(folder.name):
            return None
        if (folder.parent.parent.name, folder.parent.name) != (provenance.name.value, document["arch"]):
            return None  # a copy of another one
        files = document["files"]
        try:
            withdrawn: float | None = (folder / WITHDRAWN).stat().st_mtime
        except FileNotFoundError:
            withdrawn = None
        return Published(
            folder=folder,
            provenance=provenance,
            arch=Arch(document["arch"]),
            key=folder.name,
            fingerprint=Fingerprint.parse(document["fingerprint"]),
            aliases=tuple(map(str, document["aliases"])),
            properties={str(key): str(value) for key, value in document.get("properties", {}).items()},
            metadata_size=int(files[METADATA_FILE]["size"]),
            metadata_sha256=str(files[METADATA_FILE]["sha256"]),
            rootfs_size=int(files[ROOTFS_FILE]["size"]),
            rootfs_sha256=str(files[ROOTFS_FILE]["sha256"]),
            withdrawn=withdrawn,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _page_entry(versions: Sequence[Published]) -> page.Entry:
    """The newest version of an image for each architecture, as the catalogue shows it."""
    latest = max(versions, key=lambda one: one.key)
    description = latest.properties.get("description", "")
    return page.Entry(
        name=latest.name.value,
        aliases=latest.aliases,
        # What sync itself puts there says nothing that the other lines don't.
        description="" if description.endswith(f"({latest.provenance.source})") else description,
        source=latest.provenance.source,
        digest=latest.provenance.source_digest.value,
        version=latest.key,
        built_at=latest.provenance.built_at,
        size=latest.size,
        architectures=tuple(sorted(one.arch.debian for one in versions)),
        ports=latest.properties.get("oci.ports", ""),
        volumes=latest.properties.get("oci.volumes", ""),
    )


def _without_times(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    stripped = {key: value for key, value in document.items() if key != "updated"}
    index = stripped.get("index")
    if isinstance(index, dict):
        stripped["index"] = {name: _without_times(entry) for name, entry in index.items()}
    return stripped


def _write_file(path: Path, document: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as output:
        json.dump(document, output, indent=1, sort_keys=True)
        output.write("\n")
        output.flush()
        os.fchmod(output.fileno(), 0o644)
        os.fsync(output.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
