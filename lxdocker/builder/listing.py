"""What is in a root filesystem, as a builder lists it: nothing of it is unpacked on this host."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from lxdocker import log
from lxdocker.builder.instance import Builder, explain, with_command
from lxdocker.errors import BuildError, TreeError
from lxdocker.image import artifact, difference
from lxdocker.image.difference import Entry, FileChange, FileType, Package
from lxdocker.lxd.command import OutOfTimeError
from lxdocker.reasons import in_words

HERE = Path(__file__).parent
LISTING = HERE / "listing.sh"
LIST = HERE / "listing.pl"
RPM = HERE / "rpm.pl"
BUSYBOX = "/bin/busybox"
SQUASHFS = "/build/listing.squashfs"
# listing.sh's exit statuses.
TOO_MANY = 80
TOO_LARGE = 81

MOST_FILES = 1_000_000  # that are listed of an image; the largest images have a tenth of that
MOST_PACKAGES = 200_000  # twice those of rpm that rpm.pl lists
MOST_IN_A_LINE = 1 << 16  # bytes; a path and a target of 4096 each, three times as long in the worst case, and the rest
MOST_BYTES = 1 << 30  # of all lines, which are on this host's disk
ALLOWED = 20  # times the squashfs may become unpacked, as large as an image may be that is built
SMALL_KIB = 1 << 20  # that every image may have

_FILE = re.compile(
    rb"F ([-dlbcps]) ([0-7]{1,4}) ([0-9]{1,10}) ([0-9]{1,10}) ([0-9]{1,18}|-) (-?[0-9]{1,18}|-)"
    rb" ([0-9]{1,9}:[0-9]{1,9}|-) ([0-9a-f]{64}|-) (/[!-~]*) ([!-~]+) ([!-~]+)"
)
_PACKAGE = re.compile(rb"P (dpkg|apk|rpm) ([!-~]{1,3000}) ([!-~]{1,3000}) ([!-~]{1,3000})")
_DATABASE = re.compile(rb"R (/[!-~]{1,3000})")
_END = re.compile(rb"E ([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in an image. The lines about its files are in ``file``, as the builder printed them."""

    file: Path
    count: int  # of files, folders and all else
    packages: tuple[Package, ...]
    unread: tuple[str, ...]  # paths of databases of rpm that could not be read
    lacks_devices: bool  # whether there may be device nodes that are not listed

    def entries(self) -> Generator[Entry, None, None]:
        """All of them, in the order of their paths."""
        with self.file.open("rb") as lines:
            for line in lines:
                yield _entry(line.rstrip(b"\n"))


@dataclass(frozen=True, slots=True)
class Squashfs:
    """A root filesystem on this host."""

    path: Path
    size: int  # bytes
    sha256: str


def list_files(
    builder: Builder, squashfs: Squashfs, folder: Path, *, seconds: float, size_limit: int | None
) -> Listing:
    """Unpacks a root filesystem in a fresh builder, and writes what is in it to a file in ``folder``.

    ``size_limit``: bytes that it may take unpacked; None for the default. Raises BuildError, or TreeError if the file
    is not what it should be.
    """
    what = f"listing the files of {squashfs.path}"
    builder.push(SQUASHFS, _verified(squashfs))
    limit = size_limit >> 10 if size_limit else max(squashfs.size * ALLOWED >> 10, SMALL_KIB)
    script, *parts = map(log.FileText.of, (LISTING, LIST, RPM))
    argv = [BUSYBOX, "sh", "-c", script, "listing", *parts, str(limit), str(MOST_FILES)]
    try:
        with builder.running(argv, what=what, seconds=seconds) as (command, end):
            listing = _Reader(what, folder).read(command.output())
            result = end()
    except OutOfTimeError as error:
        why = with_command(error.details, argv)
        raise BuildError(f"{what} failed", why, "give it more: setting build_timeout") from error
    if result.status == TOO_MANY:
        raise BuildError(f"{what} failed", f"it has more than {MOST_FILES:,} files", "compare smaller images")
    if result.status == TOO_LARGE:
        why = f"unpacked, it would take more than {limit >> 10} MiB, or most of what the builder's pool has free"
        raise BuildError(f"{what} failed", why, "raise the setting image_size_limit, or free space on the pool")
    if result.status != 0:
        again = "run the same command again; lxdocker publish verify --deep shows whether the tree is damaged"
        raise explain(what, result, otherwise=again)
    if listing is None:
        raise _nonsense(what)
    return listing


def changes(old: Listing, new: Listing, *, times: bool = False) -> difference.Files:
    """What differs between the files and the packages of two images."""
    with closing(old.entries()) as before, closing(new.entries()) as after:
        found: tuple[FileChange, ...] = tuple(difference.files(before, after, times=times))
    unread = sorted({*old.unread, *new.unread})
    notes = [f"packages in {path} are not compared: this database of rpm cannot be read" for path in unread]
    if old.lacks_devices or new.lacks_devices:
        notes.append("device nodes are not compared: a name in the image has a line break")
    # All would pass for added where only the old database cannot be read.
    read = ([one for one in side.packages if not unread or one.manager != "rpm"] for side in (old, new))
    packages = tuple(difference.packages(*read))
    return difference.Files(found, packages, old.count, new.count, tuple(notes))


def _verified(squashfs: Squashfs) -> Iterator[bytes]:
    """The file's content. Raises TreeError at its end if that is not what its hash says."""
    seen = hashlib.sha256()
    try:
        for piece in artifact.read(squashfs.path):
            seen.update(piece)
            yield piece
    except OSError as error:
        raise TreeError(f"reading {squashfs.path} failed", in_words(error), "run the same command again") from error
    if seen.hexdigest() != squashfs.sha256:
        raise TreeError(
            f"{squashfs.path} is damaged",
            f"its SHA-256 is {seen.hexdigest()}, not {squashfs.sha256}",
            "lxdocker publish verify --repair withdraws damaged versions",
        )


class _Reader:
    """Reads what listing.pl prints. What it lists may be hostile, and so may be the builder by now: every line has the
    form that it should have, and there are not too many.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self._what = what
        self._path = folder / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.listing"
        self._count = 0
        self._bytes = 0
        self._last: list[bytes] | None = None
        self._packages: list[Package] = []
        self._unread: list[str] = []
        self._lacks_devices = False
        self._said: int | None = None  # how many lines of files there were to be, at the end

    def read(self, pieces: Iterable[bytes]) -> Listing | None:
        """None if it ends too early, as after a failure."""
        with self._path.open("wb") as file:
            for line in _lines(pieces, self._what):
                if self._take(line):
                    file.write(line + b"\n")
        if self._said != self._count:
            return None
        return Listing(self._path, self._count, tuple(self._packages), tuple(self._unread), self._lacks_devices)

    def _take(self, line: bytes) -> bool:
        """Whether it is about a file."""
        self._bytes += len(line) + 1
        if self._said is not None or self._bytes > MOST_BYTES:
            raise _nonsense(self._what)
        if line.startswith(b"F "):
            order = _entry(line, self._what).order
            self._count += 1
            if self._count > MOST_FILES or (self._last is not None and order <= self._last):
                raise _nonsense(self._what)
            self._last = order
            return True
        if package := _PACKAGE.fullmatch(line):
            self._packages.append(Package(*(_text(one) for one in package.groups())))
        elif database := _DATABASE.fullmatch(line):
            self._unread.append(_text(database[1]))
        elif end := _END.fullmatch(line):
            self._said = int(end[1])
        elif line == b"N":
            self._lacks_devices = True
        else:
            raise _nonsense(self._what)
        if len(self._packages) > MOST_PACKAGES or len(self._unread) > MOST_PACKAGES:
            raise _nonsense(self._what)
        return False


def _lines(pieces: Iterable[bytes], what: str) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if max(map(len, [*lines, rest])) > MOST_IN_A_LINE:
            raise _nonsense(what)
        yield from lines
    if rest:
        raise _nonsense(what)


_TYPES: Mapping[bytes, FileType] = {kind.value.encode(): kind for kind in FileType}


def _entry(line: bytes, what: str = "listing files") -> Entry:
    found = _FILE.fullmatch(line)
    if not found:
        raise _nonsense(what)
    kind, mode, uid, gid, size, time, device, sha256, path, target, attributes = found.groups()
    return Entry(
        path=unquote_to_bytes(path),
        type=_TYPES[kind],
        mode=int(mode, 8),
        uid=int(uid),
        gid=int(gid),
        size=_number(size),
        time=_number(time),
        device=None if device == b"-" else device.decode(),
        sha256=None if sha256 == b"-" else sha256.decode(),
        target=None if target == b"-" else unquote_to_bytes(target),
        attributes=() if attributes == b"-" else tuple(attributes.decode().split(",")),
    )


def _number(text: bytes) -> int | None:
    return None if text == b"-" else int(text)


def _text(field: bytes) -> str:
    return "" if field == b"-" else unquote_to_bytes(field).decode("utf-8", "replace")


def _nonsense(what: str) -> BuildError:
    return BuildError(f"{what} failed", "unexpected output from the builder (possibly tampered with)")
