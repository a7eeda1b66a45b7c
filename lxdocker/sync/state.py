"""The state of each image, in one shape: before a sync (what it would do), and after it (what it did)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum

from lxdocker.config.spec import BrokenSpec
from lxdocker.errors import LxdockerError
from lxdocker.image.origin import Origin
from lxdocker.image.version_key import version_time
from lxdocker.lxd.api import StoredImage
from lxdocker.lxd.store import Stored
from lxdocker.sync.holdings import Holdings
from lxdocker.sync.outcome import Outcome, Status, Verb
from lxdocker.sync.plan import Build, Fail, Keep, PerSpec, Reimport, Remove, Republish, Touch, is_rolled_back
from lxdocker.tree.version import Published, Withheld
from lxdocker.values import Arch, Digest, Fingerprint, ImageName


class State(Enum):
    """Whether an image is as its spec wants it."""

    CURRENT = "current"  # nothing to do
    PENDING = "pending"  # the next sync changes something about it
    BUILDING = "building"  # another sync is at work on it now
    FAILED = "failed"  # a sync can't or could not do it; an existing image stays
    WITHHELD = "withheld"  # rolled back: an older version is kept until the registry or the spec changes
    ORPHAN = "orphan"  # no spec names it: the next sync removes it


@dataclass(frozen=True, slots=True)
class Imported:
    """An image that ``mirror --import`` brought."""

    image: StoredImage
    origin: Origin


# The worst first, in the order in which monitoring cares.
_CHECKED = (
    (2, (State.FAILED,)),
    (1, (State.PENDING, State.BUILDING, State.ORPHAN)),
)


@dataclass(frozen=True, slots=True)
class ImageState:
    """An image, what store and tree have of it, and what a sync does about it."""

    name: ImageName | str  # the file's name if that is not an image name
    state: State
    verb: Verb | None  # what a sync does or did; None if it can do nothing
    reason: str
    arch: Arch
    source: str | None = None  # source_label()
    stored: Stored | None = None
    published: Published | None = None  # the newest listed version
    withheld: Withheld | None = None  # the version that was rolled back last, unless a newer one is published
    imported: Imported | None = None  # from another server; then neither stored nor published here
    outcome: Status | None = None  # after a sync
    seconds: float | None = None  # after a sync
    error: LxdockerError | None = None

    @property
    def held(self) -> Stored | Published | None:
        """Where the image is: what instances here are launched from, else what other hosts get."""
        return self.stored or self.published

    @property
    def digest(self) -> Digest | None:
        """Of the tag, when it was last looked at."""
        return self.held.provenance.source_digest if self.held else None

    @property
    def fingerprint(self) -> Fingerprint | None:
        if self.imported:
            return self.imported.image.fingerprint
        return self.held.fingerprint if self.held else None

    @property
    def version(self) -> str | None:
        """Its key in the tree, or on the server it was imported from."""
        if self.imported:
            return self.imported.origin.version
        return self.published.key if self.published else None

    @property
    def built_at(self) -> datetime | None:
        return self.held.provenance.built if self.held else None

    @property
    def size(self) -> int | None:
        """Bytes of its two files, as a client downloads them."""
        if self.imported:
            return self.imported.image.size
        if self.published and (not self.stored or self.stored.fingerprint == self.published.fingerprint):
            return self.published.size
        return self.stored.image.size if self.stored else None

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names it has in LXD, or else in the tree."""
        image = self.imported.image if self.imported else self.stored.image if self.stored else None
        if image:
            return tuple(sorted(image.aliases))
        return (self.published.name.value, *self.published.aliases) if self.published else ()

    @property
    def published_at(self) -> datetime | None:
        """To the minute, as versions are named."""
        return version_time(self.version) if self.version else None

    @property
    def withheld_at(self) -> datetime | None:
        return datetime.fromtimestamp(self.withheld.since, UTC) if self.withheld else None


def exit_status(states: Collection[ImageState]) -> int:
    """For monitoring: 0 if all images are current (or withheld, which somebody decided), 1 if the next sync changes
    something, 2 if an image failed.
    """
    found = {image.state for image in states}
    return next((status for status, which in _CHECKED if found.intersection(which)), 0)


def with_failed(states: Sequence[ImageState], failed: Collection[str]) -> list[ImageState]:
    """Before a sync: an image that the last one ``failed`` at, and that is still to be made, has not only to wait."""
    return [
        replace(image, state=State.FAILED, reason=f"the last sync failed at it: {image.reason}")
        if image.state is State.PENDING and str(image.name) in failed
        else image
        for image in states
    ]


@dataclass(frozen=True, slots=True)
class Survey:
    """What states are made from. ``building``: names of images that another sync is at work on."""

    holdings: Holdings
    arch: Arch
    building: Collection[str] = ()

    def planned(
        self, actions: Sequence[PerSpec], removals: Sequence[Remove] = (), broken: Collection[BrokenSpec] = ()
    ) -> list[ImageState]:
        """Before a sync: one for each spec in their order, then the broken ones, then those without a spec."""
        states = [self._of_action(action) for action in actions]
        states += [self._of_broken(spec) for spec in broken]
        states += [self._image(removal.name, State.ORPHAN, Verb.REMOVE, "no spec names it") for removal in removals]
        return states

    def done(self, outcomes: Sequence[Outcome]) -> list[ImageState]:
        """After a sync; ``holdings`` are those it left."""
        return [self._of_outcome(outcome) for outcome in outcomes]

    def listed(self, specs: Collection[str] | None, folder: str, failed: Collection[str] = ()) -> list[ImageState]:
        """Without asking a registry: every image of store, tree and specs, by name, in the state that the last sync
        left it in. ``specs``: the names that specs have, None if the folder can't be read; ``folder``: its id;
        ``failed``: the images that the last sync failed at.
        """
        holdings = self.holdings
        held = {made.provenance.name for made in holdings.store.ours}
        held |= {version.name for version in holdings.tree if version.withdrawn is None}
        named = {name for text in specs or () if (name := _parsed(text))}
        states = [self._as_left(name, specs, folder, failed) for name in held | named]
        for image in holdings.store.imported:
            if origin := Origin.from_properties(image.properties):
                brought = Imported(image, origin)
                state = ImageState(origin.name, State.CURRENT, None, "imported", self.arch, origin.server)
                states.append(replace(state, imported=brought))
        return sorted(states, key=lambda state: (str(state.name), state.source or ""))

    def _as_left(
        self, name: ImageName, specs: Collection[str] | None, folder: str, failed: Collection[str]
    ) -> ImageState:
        image = self._image(name, State.CURRENT, None, "")
        ours = image.held is None or image.held.provenance.folder == folder
        if not ours:
            path = self.holdings.path_of(image.held.provenance.folder) if image.held else ""
            return replace(image, reason=f"of the specs in {path}" if path else "of another folder of specs")
        if specs is not None and name.value not in specs:
            return replace(image, state=State.ORPHAN, reason="no spec names it")
        if name.value in failed:
            return replace(image, state=State.FAILED, reason="the last sync failed")
        missing = ""
        if not image.held:
            missing = "not built yet"
        elif not image.stored:
            missing = "missing from the local store"
        elif not image.published:
            missing = "missing from the published tree"
        elif image.published.arch == self.arch and image.stored.fingerprint != image.published.fingerprint:
            missing = "the store and the tree differ"
        if missing:
            state = State.BUILDING if name.value in self.building else State.PENDING
            return replace(image, state=state, reason=missing)
        return replace(image, state=State.WITHHELD, reason="rolled back") if image.withheld else image

    def _of_action(self, action: PerSpec) -> ImageState:
        name = action.spec.name
        state, reason, error = State.PENDING, "", None
        match action:
            case Fail():
                state, reason, error = State.FAILED, str(action.error), action.error
            case Keep():
                state = State.WITHHELD if action.rolled_back else State.CURRENT
                reason = action.reason
            case _:
                state = State.BUILDING if name.value in self.building else State.PENDING
                reason = action.reason
        return self._image(name, state, verb_of(action), reason, source=action.source, error=error)

    def _of_broken(self, spec: BrokenSpec) -> ImageState:
        reason = f"{spec.error.brief}: {'; '.join(spec.error.details.splitlines())}"
        return self._image(spec.name or spec.label, State.FAILED, None, reason, error=spec.error)

    def _of_outcome(self, outcome: Outcome) -> ImageState:
        match outcome.status:
            case Status.FAILED:
                state = State.FAILED
            case Status.REMOVED:
                state = State.ORPHAN
            case _:
                state = State.WITHHELD if outcome.rolled_back else State.CURRENT
        return self._image(
            outcome.name,
            state,
            outcome.verb,
            outcome.reason,
            source=outcome.source,
            error=outcome.error,
            outcome=outcome.status,
            seconds=outcome.seconds,
        )

    def _image(
        self,
        name: ImageName | str,
        state: State,
        verb: Verb | None,
        reason: str,
        *,
        source: str | None = None,
        error: LxdockerError | None = None,
        outcome: Status | None = None,
        seconds: float | None = None,
    ) -> ImageState:
        stored, published, withheld = None, None, None
        if isinstance(name, ImageName):
            stored = self.holdings.stored(name)
            published = self.holdings.published(name, self.arch) or self.holdings.published(name)
            withheld = self.holdings.rolled_back(name, self.arch)
        held = stored or published
        return ImageState(
            name=name,
            state=state,
            verb=verb,
            reason=reason,
            arch=published.arch if published and not stored else self.arch,
            source=source or (held.provenance.source if held else None),
            stored=stored,
            published=published,
            withheld=withheld,
            outcome=outcome,
            seconds=seconds,
            error=error,
        )


def _parsed(text: str) -> ImageName | None:
    try:
        return ImageName.parse(text)
    except ValueError:
        return None


def verb_of(action: PerSpec) -> Verb | None:
    """What a sync does; None if it can do nothing."""
    match action:
        case Build():
            return Verb.BUILD
        case Reimport() | Republish():
            return Verb.RESTORE
        case Touch():
            return Verb.UPDATE
        case Keep():
            return Verb.KEEP
        case Fail():
            return None


def concluded(outcome: Outcome, action: PerSpec) -> Outcome:
    """An outcome, with what its action says about the image."""
    return replace(outcome, verb=verb_of(action), source=action.source, rolled_back=is_rolled_back(action))
