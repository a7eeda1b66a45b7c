"""The published tree: plain files that any web server can serve, and LXD can trust at any moment.

::

    streams/v1/index.json, images.json         derived from what lies below images/
    images/NAME/ARCH/VERSION/lxd.tar.xz        immutable once there
                             rootfs.squashfs
                             BASE.vcdiff       rootfs.squashfs as a difference from version BASE's (optional)
                             lxdocker.json     what the version is (the sidecar)
                             withdrawn         there once it has left the index; its age is the grace period's
    images/NAME/ARCH/withheld.json             versions that were rolled back, never to be published again
    .mirror/                                   there if the tree is another server's mirror, which nobody publishes in
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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lxdocker import page, simplestreams
from lxdocker.artifact import Artifact
from lxdocker.errors import TreeError, UsageError
from lxdocker.provenance import Provenance
from lxdocker.published import (
    IMAGES,
    SIDECAR,
    WITHDRAWN,
    WITHHELD,
    Delta,
    Published,
    Withheld,
    read_sidecar,
    read_withheld,
    sidecar_document,
    withheld_document,
)
from lxdocker.simplestreams import METADATA_FILE, ROOTFS_FILE, Product
from lxdocker.values import Arch, ImageName

LOCK = ".lock"
MIRROR = ".mirror"
RELEASE = "current"
LOCK_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Rollback:
    """One product's way back."""

    current: Published  # what clients get from now on
    withheld: tuple[Withheld, ...]  # what they got instead


class Tree:
    """The tree at ``root``. Changes are for the holder of the lock; its threads may make them side by side."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._changing = threading.RLock()
        self._sidecars: dict[str, tuple[tuple[int, int, int], Published | None]] = {}  # as last read

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None], cancelled: threading.Event) -> Iterator[None]:
        """Holds the tree for this process, and clears what a killed one left in the staging area.

        Says so if it has to wait for another process. Raises TreeError when the folder can't be used.
        """
        with self.explained("preparing"):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self._make_folder(self.root)
            handle = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._wait_for(handle, fcntl.LOCK_EX, say, cancelled)
            with self.explained("clearing the staging area of"):
                shutil.rmtree(self._staging, ignore_errors=True)
                self._staging.mkdir(exist_ok=True)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def reading(self, say: Callable[[str], None], cancelled: threading.Event) -> Iterator[None]:
        """Keeps others from changing the tree meanwhile; needs no right to write in it."""
        with self.explained("reading"), contextlib.ExitStack() as cleanup:
            os.stat(self.root)  # noqa: PTH116 - a tree that is not there is not the same as an empty one
            with contextlib.suppress(FileNotFoundError):  # a copy of a tree, which nobody publishes in
                handle = os.open(self.root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
                cleanup.callback(os.close, handle)
                self._wait_for(handle, fcntl.LOCK_SH, say, cancelled)
            yield

    def _wait_for(self, handle: int, kind: int, say: Callable[[str], None], cancelled: threading.Event) -> None:
        told = False
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not told:
                    say(f"another lxdocker is at work on {self.root}; waiting for it")
                    told = True
                if cancelled.wait(LOCK_POLL_SECONDS):
                    raise TreeError("stopped", "interrupted while waiting for the tree") from None

    @contextlib.contextmanager
    def staging(self, name: ImageName) -> Iterator[Path]:
        """A folder for work in progress on the tree's own filesystem, removed afterwards."""
        with self.explained("writing to"):
            folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._staging))
        try:
            with self.explained("writing to"):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # ---- reading

    def versions(self) -> list[Published]:
        """Every version that lies in the tree with a readable sidecar, by name, architecture and key."""
        with self._changing:
            found = []
            for product, folders, withholds in self._products_there():
                withheld = {one.key: one.since for one in read_withheld(Path(product))} if withholds else {}
                for folder in folders:
                    published = self._read(folder)
                    if published:
                        withdrawn = _withdrawn_at(folder)
                        # Whoever rolled it back may have been killed before marking it.
                        since = withheld.get(published.key) if withdrawn is None else withdrawn
                        found.append(published if since is None else replace(published, withdrawn=since))
            return sorted(found, key=lambda one: (one.name, one.arch.value, one.key))

    def withheld(self) -> list[Withheld]:
        """Every version that was rolled back, by name, architecture and key."""
        found = [
            one for product, _, withholds in self._products_there() if withholds for one in read_withheld(Path(product))
        ]
        return sorted(found, key=lambda one: (one.provenance.name, one.arch.value, one.key))

    def _products_there(self) -> Iterator[tuple[str, list[str], bool]]:
        """Each product's folder, the folders in it, and whether a version of it is withheld."""
        for name in _listing(f"{self.root}/{IMAGES}"):
            for product in _listing(name.path):
                entries = _listing(product.path, folders_only=False)
                folders = [entry.path for entry in entries if _is_folder(entry)]
                yield product.path, folders, any(entry.name == WITHHELD for entry in entries)

    def _read(self, folder: str) -> Published | None:
        """A folder's sidecar; parsed only when it has changed."""
        sidecar = f"{folder}/{SIDECAR}"
        try:
            status = os.stat(sidecar)  # noqa: PTH116 - Path's own way takes several times as long
        except OSError:
            return None
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        known = self._sidecars.get(folder)
        if known is None or known[0] != signature:
            known = self._sidecars[folder] = (signature, read_sidecar(Path(sidecar)))
        return known[1]

    # ---- changing

    def publish(
        self,
        artifact: Artifact,
        provenance: Provenance,
        arch: Arch,
        aliases: tuple[str, ...],
        properties: Mapping[str, str] = MappingProxyType({}),
        deltas: Mapping[Delta, Path] = MappingProxyType({}),
    ) -> Published:
        """Makes the artifact (staged in this tree, as the deltas are) the newest version of its product."""
        with self._changing, self.explained(f"publishing {provenance.name} in"):
            self._refuse_mirror()
            parent = self.root / IMAGES / provenance.name.value / arch.value
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
                deltas=tuple(deltas),
            )
            sources = {METADATA_FILE: artifact.metadata, ROOTFS_FILE: artifact.rootfs}
            self._put(published, {**sources, **{delta.file: path for delta, path in deltas.items()}})
            self.write_index()
            return published

    def adopt(self, published: Published, files: Mapping[str, Path]) -> None:
        """Puts a version of another tree into this one, or mends it; the index is for the caller to write.

        ``files``: by name, whole and on this tree's filesystem; what is not among them is right where it is.
        """
        with self._changing, self.explained(f"putting {published.name} into"):
            self._make_folder(published.folder.parent)
            if not published.folder.exists():
                self._put(published, files)
                return
            for name, source in files.items():
                temporary = self._temporary(name)
                _link(source, temporary)
                temporary.rename(published.folder / name)
            _sync(published.folder)
            self._replace(published.folder / SIDECAR, _readable(sidecar_document(published)))
            (published.folder / WITHDRAWN).unlink(missing_ok=True)

    def _put(self, published: Published, files: Mapping[str, Path]) -> None:
        """Makes a version appear with all its files at once."""
        # mkdtemp's folders are private; this one is about to be served.
        folder = Path(tempfile.mkdtemp(prefix="publish.", dir=self._staging))
        for name, source in files.items():
            _link(source, folder / name)
        _write_file(folder / SIDECAR, sidecar_document(published))
        folder.chmod(0o755)
        _sync(folder)
        folder.rename(published.folder)
        _sync(published.folder.parent)

    def update(self, published: Published, provenance: Provenance, aliases: tuple[str, ...]) -> None:
        """Records something new about a version whose files stay the same."""
        with self._changing, self.explained(f"updating {published.name} in"):
            document = {
                **sidecar_document(published),
                "provenance": provenance.to_properties(),
                "aliases": list(aliases),
            }
            self._replace(published.folder / SIDECAR, _readable(document))
            self.write_index()

    def withdraw(self, versions: list[Published]) -> None:
        """Takes versions out of the index; their files stay for the grace period."""
        with self._changing, self.explained("withdrawing versions from"):
            for published in versions:
                (published.folder / WITHDRAWN).touch()
            if versions:
                self.write_index()

    def drop_delta(self, published: Published, delta: Delta) -> None:
        """Takes a delta that is not what it should be away from its version."""
        with self._changing, self.explained("removing a delta from"):
            self._drop_deltas_of(published, {delta})

    def retire(self, keep: int, younger_than: float = 0) -> list[Published]:
        """Withdraws all but the newest ``keep`` versions of each product and those of the last ``younger_than``
        seconds.
        """
        with self._changing:
            surplus = []
            for _, group in groupby(self._listed(), key=_product_key):
                surplus += [one for one in list(group)[:-keep] if not younger_than or _age(one) >= younger_than]
            self.withdraw(surplus)
            return surplus

    def rollback(self, name: ImageName, key: str | None = None) -> list[Rollback]:
        """Makes an older version of each of the image's products the newest that is listed: ``key``, or else the one
        before. What was newer is withdrawn, and withheld from being published again. Raises UsageError if there
        is no such version.
        """
        with self._changing, self.explained(f"rolling back {name} in"):
            self._refuse_mirror()
            done = []
            for target, newer in self._ways_back(name, key):
                product = target.folder.parent
                now = time.time()
                withheld = {one.key: one for one in read_withheld(product) if one.key != target.key}
                for one in newer:
                    withheld[one.key] = Withheld(one.key, one.fingerprint, one.provenance, one.arch, now)
                # In this order a kill leaves the newer versions listed, or the older one: never neither.
                (target.folder / WITHDRAWN).unlink(missing_ok=True)
                self._replace(product / WITHHELD, _readable(withheld_document(withheld.values())))
                done.append(Rollback(replace(target, withdrawn=None), tuple(withheld[one.key] for one in newer)))
            self.write_index()
            return done

    def _ways_back(self, name: ImageName, key: str | None) -> list[tuple[Published, list[Published]]]:
        """For each product that can go back: where to, and what is listed of newer versions."""
        ours = [one for one in self.versions() if one.name == name]
        if not ours:
            raise UsageError(f"there is no image {name} in the tree {self.root}", "", "lxdocker status shows what is")
        ways = []
        for _, group in groupby(ours, key=_product_key):
            versions = [one for one in group if one.is_whole()]
            listed = [one for one in versions if one.withdrawn is None]
            if key is not None:
                target = next((one for one in versions if one.key == key), None)
            elif listed:
                withheld = {one.key for one in read_withheld(listed[0].folder.parent)}
                older = [one for one in versions if one.key < listed[-1].key and one.key not in withheld]
                older = [one for one in older if one.fingerprint != listed[-1].fingerprint]
                # What retention has withdrawn is only second best: it may hold what is wrong, too.
                best = [one for one in older if one.withdrawn is None] or older
                target = best[-1] if best else None
            else:
                target = None
            if target:
                ways.append((target, [one for one in listed if one.key > target.key]))
        if not ways:
            there = ", ".join(one.key + (" (damaged)" if not one.is_whole() else "") for one in ours)
            what = f"no version {key}" if key else "no older version"
            raise UsageError(
                f"{name} can't be rolled back: the tree has {what}",
                f"its versions: {there}",
                "name one of these; keep_versions and grace_hours say how long old ones stay",
            )
        return ways

    def undo_rollback(self, name: ImageName) -> list[Withheld]:
        """Withholds nothing of this image any more, and lists again what there still is of it."""
        with self._changing, self.explained(f"undoing the rollback of {name} in"):
            undone = []
            for product in [Path(entry.path) for entry in _listing(f"{self.root}/{IMAGES}/{name}")]:
                withheld = read_withheld(product)
                for one in withheld:
                    (product / one.key / WITHDRAWN).unlink(missing_ok=True)
                (product / WITHHELD).unlink(missing_ok=True)  # only from here on they count as listed
                _sync(product)
                undone += withheld
            if not undone:
                raise UsageError(f"{name} is not rolled back", f"the tree {self.root} withholds no version of it")
            self.write_index()
            return undone

    def sweep(self, grace_seconds: float) -> list[Published]:
        """Deletes versions that left the index at least ``grace_seconds`` ago. Returns them."""
        with self._changing, self.explained("deleting withdrawn versions from"):
            self.write_index()  # what leaves the index only now has all of its grace period before it
            now = time.time()
            gone: list[Published] = []
            staying: list[Published] = []
            for one in self.versions():
                due = one.withdrawn is not None and now - one.withdrawn >= grace_seconds
                (gone if due else staying).append(one)
            for published in gone:
                doomed = self._staging / f"{published.name}.{published.arch.value}.{published.key}"
                published.folder.rename(doomed)  # whole or not at all, also for whoever reads the tree meanwhile
                shutil.rmtree(doomed)
            # Deltas whose base is gone left the index with it.
            for published in staying:
                lost = {delta for delta in published.deltas if not (published.folder.parent / delta.base).exists()}
                self._drop_deltas_of(published, lost)
            for product, folders, _ in self._products_there():
                if not folders:
                    _remove_empty(Path(product))
            return gone

    def _drop_deltas_of(self, published: Published, gone: Collection[Delta]) -> None:
        if not gone:
            return
        for delta in gone:
            (published.folder / delta.file).unlink(missing_ok=True)
        left = replace(published, deltas=tuple(delta for delta in published.deltas if delta not in gone))
        self._replace(published.folder / SIDECAR, _readable(sidecar_document(left)))

    def _indexed_paths(self) -> set[str]:
        """Every file that images.json names at this moment."""
        try:
            products = json.loads((self.root / simplestreams.IMAGES_PATH).read_bytes())["products"].values()
            versions = [version for product in products for version in product["versions"].values()]
            return {item["path"] for version in versions for item in version["items"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # none yet, or not ours
            return set()

    def write_index(self) -> None:
        """images.json and index.json from what lies in the tree; untouched when nothing changed."""
        with self._changing, self.explained("writing the index of"):
            listed = self._begin_grace()
            products = self._products(listed)
            now = datetime.now(UTC)
            self._make_folder(self.root / "streams/v1")
            self._replace_json(self.root / simplestreams.IMAGES_PATH, simplestreams.images_document(products, now))
            self._replace_json(self.root / simplestreams.INDEX_PATH, simplestreams.index_document(products, now))
            self._write_page(listed)

    def documents(self) -> dict[str, Mapping[str, Any]]:
        """What the index should say, by path."""
        products = self._products(self._listed())
        now = datetime.now(UTC)
        return {
            simplestreams.IMAGES_PATH: simplestreams.images_document(products, now),
            simplestreams.INDEX_PATH: simplestreams.index_document(products, now),
        }

    def _begin_grace(self) -> list[Published]:
        """Marks what is about to leave the index: withdrawn, damaged, or rolled back. Returns what is listed."""
        versions = self.versions()
        listed = [one for one in versions if one.withdrawn is None and one.is_whole()]
        if len(listed) < len(versions):
            indexed = self._indexed_paths()
            stays = {one.folder for one in listed}
            for one in versions:
                if one.folder in stays:
                    continue
                if _withdrawn_at(str(one.folder)) is None or one.version().rootfs.path in indexed:
                    (one.folder / WITHDRAWN).touch()
        return listed

    def _write_page(self, listed: Sequence[Published]) -> None:
        """The catalogue; last, because it is only for people."""
        newest: dict[ImageName, list[Published]] = {}
        for _, group in groupby(listed, key=_product_key):
            latest = list(group)[-1]
            newest.setdefault(latest.name, []).append(latest)
        text = page.render([_page_entry(versions) for versions in newest.values()]).encode()
        path = self.root / page.PAGE_FILE
        with contextlib.suppress(OSError):
            if path.read_bytes() == text:
                return
        temporary = self._temporary(page.PAGE_FILE)
        temporary.write_bytes(text)
        temporary.chmod(0o644)
        temporary.rename(path)

    def _products(self, listed: Sequence[Published]) -> list[Product]:
        groups = [list(group) for _, group in groupby(listed, key=_product_key)]
        owners = _alias_owners([versions[-1] for versions in groups])
        products = []
        for versions in groups:
            latest = versions[-1]
            keys = {one.key for one in versions}
            products.append(
                Product(
                    name=latest.name,
                    arch=latest.arch,
                    aliases=(latest.name.value, *(one for one in latest.aliases if owners[one] == latest.name)),
                    title=latest.provenance.source,
                    release=RELEASE,
                    versions=tuple(one.version(keys) for one in versions),
                )
            )
        return products

    def _listed(self) -> list[Published]:
        return [one for one in self.versions() if one.withdrawn is None and one.is_whole()]

    def _refuse_mirror(self) -> None:
        if (self.root / MIRROR).exists():
            raise TreeError(
                f"the tree {self.root} is a mirror",
                "what is published in it would be withdrawn when it is mirrored again",
                "publish in another folder: --tree DIR",
            )

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

    def _temporary(self, name: str) -> Path:
        return self._staging / f"{name}.{os.getpid()}.{threading.get_ident()}"

    def _replace_json(self, path: Path, document: Mapping[str, Any]) -> None:
        """Writes a document unless only its time of writing would differ."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if without_times(json.loads(path.read_bytes())) == without_times(document):
                return
        # On one line: that is several times faster for a large tree, and smaller for every client.
        self._replace(path, json.dumps(document, sort_keys=True, separators=(",", ":")))

    def _replace(self, path: Path, text: str) -> None:
        temporary = self._temporary(path.name)
        _write_text(temporary, text)
        temporary.rename(path)
        _sync(path.parent)

    @contextlib.contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """Says what went wrong with the tree's files: raises TreeError instead of OSError."""
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


def _alias_owners(latest: Sequence[Published]) -> dict[str, ImageName]:
    """Which image gets an alias that several claim, as they may while one moves from one spec to another: the one with
    that name, else the newest. LXD would take whichever it reads first.
    """
    owners = {alias: one.name for one in sorted(latest, key=lambda one: one.key) for alias in one.aliases}
    return owners | {one.name.value: one.name for one in latest}


def _product_key(published: Published) -> tuple[ImageName, Arch]:
    return published.name, published.arch


def _age(published: Published) -> float:
    """Seconds since it was published."""
    return (datetime.now(UTC) - simplestreams.version_time(published.key)).total_seconds()


def _withdrawn_at(folder: str) -> float | None:
    try:
        return os.stat(f"{folder}/{WITHDRAWN}").st_mtime  # noqa: PTH116 - Path's own way takes several times as long
    except OSError:
        return None


def _listing(path: str, *, folders_only: bool = True) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it can't be read."""
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not folders_only or _is_folder(entry)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _remove_empty(product: Path) -> None:
    """Removes the folders of a product that has no version left, and what is withheld of it."""
    with contextlib.suppress(OSError):
        if [entry.name for entry in product.iterdir()] == [WITHHELD]:
            (product / WITHHELD).unlink()
        product.rmdir()
        product.parent.rmdir()


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


def without_times(document: Any) -> Any:
    """A document of the index as far as it says what there is."""
    if not isinstance(document, dict):
        return document
    stripped = {key: value for key, value in document.items() if key != "updated"}
    index = stripped.get("index")
    if isinstance(index, dict):
        stripped["index"] = {name: without_times(entry) for name, entry in index.items()}
    return stripped


def _readable(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _write_file(path: Path, document: Mapping[str, Any]) -> None:
    _write_text(path, _readable(document))


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fchmod(output.fileno(), 0o644)
        os.fsync(output.fileno())


def _link(source: Path, target: Path) -> None:
    """A file's content under another name, on stable storage, for everybody to read."""
    try:
        os.link(source, target)
    except OSError as error:
        # Not every filesystem has hard links.
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}:
            raise
        shutil.copyfile(source, target)
    target.chmod(0o644)
    _sync(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
