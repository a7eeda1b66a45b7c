"""Imports another lxdocker server's images into this host's LXD or Incus, and updates them when run again from a timer.

The daemon's own auto-update does that, too, but from 6.10 on LXD takes neither a login nor a certificate that its
system does not trust. This goes through the daemon's socket, where every LXD and Incus takes an image.

The store is the state: the properties of each imported image record its ``origin``. So a run needs only the server's
index and the store, and completes a run that was cut short. The folder has only files that can be fetched again::

    .lock                            held by a run
    index.json, images.json          as the server last sent them
    server.crt                       its certificate, if --fingerprint named it
    left                             images whose absence from the index was reported
    work/FINGERPRINT/                an image that is being fetched
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

from lxdocker.errors import HostError, LxdockerError, MirrorError, UsageError
from lxdocker.files import lock, rights
from lxdocker.files.seen import exists
from lxdocker.follow.upstream import Upstream
from lxdocker.image import artifact
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE, Artifact
from lxdocker.image.origin import SERVER, Origin
from lxdocker.image.provenance import Provenance
from lxdocker.lxd.api import Lxd, StoredImage
from lxdocker.lxd.daemon import Daemon
from lxdocker.lxd.restart import Watch
from lxdocker.lxd.store import Store, given_by_hand
from lxdocker.progress import Progress, Say, human_size
from lxdocker.reasons import in_words
from lxdocker.tree.mirror import Failure
from lxdocker.tree.server import Listed, Server
from lxdocker.values import Arch, Fingerprint, ImageName


@dataclass(slots=True)
class Followed:
    """What a run has done so far."""

    imported: list[Listed] = field(default_factory=list)
    updated: list[Listed] = field(default_factory=list)  # the same image; its aliases or its record were corrected
    unchanged: int = 0
    removed: list[Fingerprint] = field(default_factory=list)  # replaced by others
    left: list[Imported] = field(default_factory=list)  # here, and no longer on the server
    left_now: int = 0  # how many of them were still there at the last run
    failed: list[Failure] = field(default_factory=list)
    size: int = 0  # bytes fetched


@dataclass(frozen=True, slots=True)
class Imported:
    """An image in the store that was imported from the server to this host."""

    image: StoredImage
    origin: Origin


def follow(
    upstream: Upstream, lxd: Lxd, project: str, names: Sequence[str], base: Path, progress: Progress, say: Say
) -> Followed:
    """Makes this host's images of these names, or all, the same as the server's. ``base``: a folder to work in.

    Raises UsageError for invalid names, HostError for a missing project, MirrorError if the server has no usable index.
    """
    wanted = [_image_name(name) for name in dict.fromkeys(names)]
    try:
        arch = Arch.host()
    except ValueError as error:
        raise HostError("no images for this host", str(error)) from error
    folder = base / _place(upstream.name, lxd.daemon, project)
    with _explained("working in", folder):
        rights.make_folder(folder, rights.PRIVATE)
    with _locked(folder, say, lxd.cancelled), upstream.opened(folder, lxd.cancelled) as (server, listed):
        return _Importing(server, Store(lxd, project), lxd, folder, arch, progress, say).all(listed, wanted)


def _image_name(text: str) -> ImageName:
    try:
        return ImageName.parse(text)
    except ValueError as error:
        raise UsageError("no such image", str(error), "name images as the server's catalogue does") from None


def _place(server: str, daemon: Daemon, project: str) -> str:
    """The name of a folder for this server and this store."""
    digest = hashlib.sha256(f"{server}\n{daemon.address}\n{project}".encode("utf-8", "surrogateescape")).hexdigest()
    host = server.partition("://")[2].partition("/")[0].replace(":", "_")
    return f"{host}.{digest[:8]}"


# ---- deciding


@dataclass(frozen=True, slots=True)
class Held:
    """What the store holds."""

    images: Mapping[Fingerprint, StoredImage]
    aliases: Mapping[str, Fingerprint]
    brought: Mapping[Fingerprint, Imported]  # from the server to this host

    @classmethod
    def of(cls, images: Iterable[StoredImage], server: str) -> Held:
        found = {image.fingerprint: image for image in images}
        origins = {image.fingerprint: Origin.from_properties(image.properties) for image in found.values()}
        return cls(
            found,
            {alias: image.fingerprint for image in found.values() for alias in image.aliases},
            {
                key: Imported(found[key], origin)
                for key, origin in origins.items()
                if origin and origin.server == server
            },
        )


@dataclass(frozen=True, slots=True)
class Todo:
    """The work to do for an image."""

    listed: Listed
    origin: Origin  # to be recorded
    here: StoredImage | None
    brought: bool  # by this command, from this server
    point: tuple[str, ...]  # aliases that do not yet point to it
    drop: tuple[str, ...]  # aliases that it had on the server before, and no longer has
    describe: bool
    older: tuple[Imported, ...]  # that it replaces

    @property
    def is_cached(self) -> bool:
        """Whether it is only in the daemon's cache, because somebody launched it from a remote."""
        return self.here is not None and self.here.cached and not self.brought and not self.here.aliases

    @property
    def is_done(self) -> bool:
        return self.here is not None and not (self.is_cached or self.point or self.drop or self.describe or self.older)


def newest(listed: Iterable[Listed], arch: Arch) -> dict[ImageName, Listed]:
    """The version of each image that clients with this architecture get."""
    ours = sorted((version for version in listed if version.arch == arch), key=lambda version: version.key)
    return {version.name: version for version in ours}


def alias_owners(newest: Mapping[ImageName, Listed]) -> dict[str, ImageName]:
    """The image that each alias is to point to. In a tree each has one; if not, the image of that name comes first."""
    owners = {version.name.value: version.name for version in newest.values()}
    for _, version in sorted(newest.items()):
        for alias in version.aliases:
            owners.setdefault(alias, version.name)
    return owners


def decide(listed: Listed, owners: Mapping[str, ImageName], held: Held, server: str, by_hand: str) -> Todo:
    """The work to do for an image. ``by_hand``: the command that deletes an alias. Raises MirrorError for an alias with
    another owner.
    """
    aliases = tuple(
        alias for alias in dict.fromkeys((listed.name.value, *listed.aliases)) if owners[alias] == listed.name
    )
    for alias in aliases:
        _refuse_taken(alias, listed, held, server, by_hand)
    here, brought = held.images.get(listed.fingerprint), held.brought.get(listed.fingerprint)
    older = [
        imported
        for fingerprint, imported in held.brought.items()
        if imported.origin.name == listed.name and fingerprint != listed.fingerprint
    ]
    ours = [*older, *([brought] if brought else [])]
    before = [alias for imported in ours for alias in imported.origin.aliases]
    pointing_here = {alias for imported in ours for alias in imported.image.aliases}
    # An alias that moves to another image stays here until that image is here, too.
    lent = [alias for alias in before if owners.get(alias, listed.name) != listed.name and alias in pointing_here]
    recorded = tuple(dict.fromkeys([*aliases, *lent]))
    pointing = (*recorded, *given_by_hand([imported.image for imported in older], before))
    given_before = brought.origin.aliases if brought else ()
    return Todo(
        listed,
        Origin(server, listed.name, listed.key, recorded),
        here,
        brought is not None,
        point=tuple(alias for alias in pointing if held.aliases.get(alias) != listed.fingerprint),
        drop=tuple(
            alias for alias in given_before if alias not in owners and held.aliases.get(alias) == listed.fingerprint
        ),
        describe=brought is not None and (brought.origin.version, given_before) != (listed.key, recorded),
        older=tuple(older),
    )


def _refuse_taken(alias: str, listed: Listed, held: Held, server: str, by_hand: str) -> None:
    target = held.aliases.get(alias)
    if target is None or target == listed.fingerprint:
        return
    owner = held.brought.get(target)
    if owner and (owner.origin.name == listed.name or alias in owner.origin.aliases):
        return
    if owner:
        whose = f"the image {owner.origin.name}, which somebody called so"
    elif elsewhere := held.images[target].properties.get(SERVER):
        whose = f"an image that came from {elsewhere}" + (" to another host" if elsewhere == server else "")
    else:
        whose = f"an image that did not come from {server} by this command"
    raise MirrorError(
        f"{listed.name}: the alias {alias} is taken",
        f"it points to {whose} ({target.short})",
        f"delete that alias ({by_hand} {alias}), then run this again",
    )


# ---- doing


class _Importing:
    """One run, one image after the other, so that at most one is on disk besides the daemon's own."""

    def __init__(
        self, server: Server, store: Store, lxd: Lxd, folder: Path, arch: Arch, progress: Progress, say: Say
    ) -> None:
        self._server = server
        self._store = store
        self._lxd = lxd
        self._folder = folder
        self._arch = arch
        self._progress = progress
        self._say = say
        self._owners: Mapping[str, ImageName] = {}
        self._done = Followed()

    def all(self, listed: Sequence[Listed], names: Sequence[ImageName]) -> Followed:
        watch = Watch(self._lxd, self._say)
        held = watch.outlived(self._look)
        there = newest(listed, self._arch)
        if not listed and held.brought:
            raise MirrorError(
                f"{self._server.url} has no images",
                "this host has some from there, so that looks like a mistake there",
                "nothing was changed; delete by hand the images that are no longer wanted",
            )
        if not there and not names:
            self._say(f"{self._server.url} has no image for {self._arch.value}")
        self._owners = alias_owners(there)
        wanted = [there[name] for name in names or sorted(there) if name in there]
        self._clear_work(version.fingerprint for version in wanted if version.fingerprint not in held.images)
        for name in names:
            if name not in there:
                self._done.failed.append(Failure(name, "", self._missing(name, there)))
        for version in wanted:
            try:
                held = watch.outlived(partial(self._image, version, held))
            except LxdockerError as error:
                if self._lxd.cancelled.is_set():
                    raise
                self._done.failed.append(Failure(version.name, version.key, error))
                self._progress.done(version.name, "failed")
        if not names:
            self._note_left(there, held)
        return self._done

    def _look(self) -> Held:
        return Held.of(self._store.images(), self._server.url)

    def _decide(self, listed: Listed, held: Held) -> Todo:
        return decide(listed, self._owners, held, self._server.url, self._client("image alias delete"))

    def _image(self, listed: Listed, held: Held) -> Held:
        """Updates one image. Returns what the store then holds, as far as other images are concerned."""
        todo = self._decide(listed, held)
        fetch = todo.here is None or todo.is_cached
        if todo.is_done:
            self._done.unchanged += 1
        else:
            if fetch:
                with _explained("fetching into", self._folder):
                    self._bring(todo)
            now = self._look()  # it may have taken a long time
            todo = self._decide(listed, now)
            self._finish(todo)
            (self._done.imported if fetch else self._done.updated).append(listed)
            self._progress.done(listed.name, "imported" if fetch else "updated")
            if any(alias in now.aliases for alias in todo.point):
                held = self._look()
        # Images made here by sync are replaced by sync.
        if todo.here and not todo.brought and not Provenance.from_properties(todo.here.properties):
            self._say(
                f"{listed.name}: this command did not bring the image {listed.fingerprint.short}, so no later one takes"
                f" its place; to have it brought: {self._client('image delete')} {listed.fingerprint.short}"
            )
        return held

    def _finish(self, todo: Todo) -> None:
        """Moves the aliases first, then removes older images: if it is killed, they point to one image or the other."""
        fingerprint = todo.listed.fingerprint
        self._store.point(todo.point, fingerprint, {})
        for alias in todo.drop:
            self._store.drop_alias(alias)
        if todo.describe and todo.here:
            self._store.describe(todo.here, todo.origin)
        for older in todo.older:
            self._store.remove(older.image)
            self._done.removed.append(older.image.fingerprint)

    def _bring(self, todo: Todo) -> None:
        """Imports it into the store. Until then, the folder keeps the part that was fetched."""
        listed = todo.listed
        folder = self._work / listed.fingerprint.value
        fetched = self._fetch(listed, folder)
        if todo.is_cached:
            now = self._decide(listed, self._look())
            if now.is_cached and now.here:
                self._store.remove(now.here)
        self._progress.phase(listed.name, "importing", fetched.metadata_size + fetched.rootfs_size)
        self._store.add(fetched, todo.origin, lambda amount: self._progress.count(listed.name, amount))
        shutil.rmtree(folder)

    def _fetch(self, listed: Listed, folder: Path) -> Artifact:
        rights.make_below(self._folder, folder, rights.PRIVATE)
        files = {path: listed.files[path] for path in (METADATA_FILE, ROOTFS_FILE)}
        size = sum(file.size for file in files.values())
        here = sum(path.stat().st_size for path in folder.iterdir())
        if size - here > (free := shutil.disk_usage(folder).free):
            raise MirrorError(
                f"not enough space in {folder} for {listed.name}",
                f"{human_size(size - here)} to fetch, {human_size(free)} free",
                "free space on that filesystem, or name another folder with --import-dir",
            )
        self._progress.phase(listed.name, f"fetching {listed.key}", size)

        def count(amount: int) -> None:
            self._progress.count(listed.name, amount)
            self._done.size += amount

        combined = hashlib.sha256()
        for path, file in files.items():
            self._server.fetch(file, folder / path, count)
            for chunk in artifact.read(folder / path):
                combined.update(chunk)
        if combined.hexdigest() != listed.fingerprint.value:
            shutil.rmtree(folder)
            raise self._server.wrong(f"the files of {listed.folder} do not have the fingerprint in the index")
        return Artifact(
            folder,
            listed.fingerprint,
            files[METADATA_FILE].size,
            files[METADATA_FILE].sha256,
            files[ROOTFS_FILE].size,
            files[ROOTFS_FILE].sha256,
        )

    @property
    def _work(self) -> Path:
        return self._folder / "work"

    def _clear_work(self, missing: Iterable[Fingerprint]) -> None:
        """Keeps the files of an earlier run that this one continues, and removes the others."""
        names = {fingerprint.value for fingerprint in missing}
        with _explained("clearing", self._folder):
            rights.make_below(self._folder, self._work, rights.PRIVATE)
            for path in self._work.iterdir():
                if path.name not in names:
                    shutil.rmtree(path)

    def _note_left(self, there: Mapping[ImageName, Listed], held: Held) -> None:
        """Keeps images that left the index, since there may be no other copy, and reports each once."""
        left = [imported for imported in held.brought.values() if imported.origin.name not in there]
        self._done.left += sorted(left, key=lambda imported: (imported.origin.name, imported.image.fingerprint))
        with _explained("writing in", self._folder):
            file = self._folder / "left"
            told = set(file.read_text().split()) if exists(file) else set()
            for imported in self._done.left:
                if imported.image.fingerprint.value not in told:
                    self._done.left_now += 1
                    by_hand = f"{self._client('image delete')} {imported.image.fingerprint.short}"
                    where = f"{self._server.url} for {self._arch.value}"
                    self._say(f"warning: {imported.origin.name}: no longer at {where}; it stays here until: {by_hand}")
            left_now = {imported.image.fingerprint.value for imported in self._done.left}
            if left_now != told:
                file.write_text("".join(f"{fingerprint}\n" for fingerprint in sorted(left_now)))

    def _missing(self, name: ImageName, there: Mapping[ImageName, Listed]) -> MirrorError:
        names = ", ".join(name.value for name in sorted(there)[:20])
        return MirrorError(
            f"{self._server.url} has no image {name} for {self._arch.value}",
            f"it has {names}{', ...' if len(there) > 20 else ''}" if there else "it has none for that architecture",
            "name one of those; images imported before stay",
        )

    def _client(self, command: str) -> str:
        """A command for people to type."""
        project = "" if self._store.project == "default" else f" --project {self._store.project}"
        return f"{self._lxd.daemon.client}{project} {command}"


# ---- the folder


@contextmanager
def _locked(folder: Path, say: Say, cancelled: Event) -> Iterator[None]:
    """One run at a time; others report that they wait."""
    with _explained("locking", folder):
        handle = lock.open_file(folder / ".lock")
    try:
        if not lock.wait(handle, lambda: say(f"waiting: another lxdocker is using {folder}"), cancelled):
            raise MirrorError("stopped", "interrupted while waiting for another run")
        yield
    finally:
        os.close(handle)


@contextmanager
def _explained(doing: str, folder: Path) -> Iterator[None]:
    """Raises MirrorError instead of OSError for our files."""
    try:
        yield
    except OSError as error:
        resolution = "name another folder with --import-dir"
        if isinstance(error, rights.UnsafeError):
            resolution = error.remedy
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            resolution = "free space on that filesystem, or name another folder with --import-dir"
        raise MirrorError(f"{doing} {folder} failed", in_words(error), resolution) from error
