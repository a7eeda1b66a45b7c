"""What a builder lists of a squashfs: all that is in it, told safely, with limits; and how that is read here."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from lxdocker.builder import listing
from lxdocker.builder.listing import Listing, _Reader
from lxdocker.errors import BuildError
from lxdocker.image.difference import Entry, FileType, Package
from tests import rpm_databases
from tests.chroots import SECONDS, Root, needs_namespaces

TOOLS = ("unsquashfs", "mksquashfs", "perl", "getfattr", "setpriv")
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"this host has not all of {', '.join(TOOLS)}"
)
ODD = [b"new\nline", b"sp ace", b'back\\slash"', b"\xff\xfe", b"-", b"--help", b"per%cent", b"tab\tcr\r"]
# As an unprivileged container has it: root that can make no device.
CONFINED = ("/usr/bin/setpriv", "--bounding-set", "-mknod", "--inh-caps", "-mknod")


@pytest.fixture
def builder(tmp_path: Path) -> Root:
    """A root with the programs of a builder."""
    root = Root.make(tmp_path / "builder", "/bin/busybox")
    for tool in ("unsquashfs", "perl", "setpriv"):
        root.install(tool)
    tools = root / "usr/lib/attributes"
    tools.mkdir(parents=True)
    linked = subprocess.run(["ldd", shutil.which("getfattr") or ""], capture_output=True, text=True, check=True).stdout
    for line in linked.splitlines():
        if "/" in line:
            path = line.split()[-2]
            shutil.copy(path, tools / ("ld.so" if "=>" not in line else Path(path).name))
    shutil.copy(shutil.which("getfattr") or "", tools)
    (root / "build").mkdir()
    return root


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The root of an image, to be filled."""
    folder = tmp_path / "image"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def pack(builder: Root, image: Path) -> None:
    squashfs = builder / "build/listing.squashfs"
    argv = ["mksquashfs", str(image), str(squashfs), "-noappend", "-comp", "zstd", "-quiet", "-no-progress"]
    subprocess.run(argv, check=True, capture_output=True, timeout=SECONDS)


def run(
    builder: Root, *, limit: int = 1 << 20, most: int = 10_000, before: str = ""
) -> subprocess.CompletedProcess[str]:
    parts = [listing.LIST.read_text(), listing.RPM.read_text()]
    words = [listing.LISTING.read_text(), "listing", *parts, str(limit), str(most)]
    return builder.run(*CONFINED, "/bin/busybox", "sh", "-c", *words, env={"PATH": "/usr/bin:/bin"}, before=before)


def listed(builder: Root, image: Path, folder: Path) -> Listing:
    pack(builder, image)
    done = run(builder)
    assert (done.returncode, done.stderr) == (0, "")
    found = read([done.stdout.encode()], folder)
    assert found is not None
    return found


def read(pieces: Iterable[bytes], folder: Path) -> Listing | None:
    return _Reader("listing", folder).read(pieces)


def by_path(found: Listing) -> dict[bytes, Entry]:
    return {entry.path: entry for entry in found.entries()}


@needs_namespaces
@needs_tools
def test_everything_in_an_image_is_listed(builder: Root, image: Path, tmp_path: Path) -> None:
    top = os.fsencode(image)
    for folder in (b"a", b"a.b", b"a/deep", b"z"):
        os.mkdir(os.path.join(top, folder))  # noqa: PTH102, PTH118 - bytes
    for name in ODD:
        Path(os.fsdecode(top + b"/a/" + name)).write_bytes(b"content of " + name)
    (image / "a/link").symlink_to("tar get\n")
    (image / "a/other").hardlink_to(image / "a/sp ace")
    (image / "setuid").write_bytes(b"")
    os.chown(image / "setuid", 33, 44)
    (image / "setuid").chmod(0o4751)
    (image / "z").chmod(0o1777)
    os.mkfifo(image / "z/pipe")
    os.utime(image / "setuid", (1_600_000_000, 1_600_000_000))
    found = listed(builder, image, tmp_path)
    entries = by_path(found)
    expected = {b"/", *(path[len(top) :] for path in walked(top))}
    assert set(entries) == expected
    assert found.count == len(expected)
    assert [entry.order for entry in found.entries()] == sorted(entry.order for entry in found.entries())
    for path, entry in entries.items():
        status = os.lstat(top + path)
        assert (entry.mode, entry.uid, entry.gid) == (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        assert entry.type.value == stat.filemode(status.st_mode)[0]
        if entry.type is FileType.FILE:
            content = Path(os.fsdecode(top + path)).read_bytes()
            assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        else:
            assert (entry.size, entry.sha256) == (None, None)
    assert entries[b"/a/link"].target == b"tar get\n"
    assert entries[b"/setuid"].time == 1_600_000_000
    assert entries[b"/setuid"].is_privileged
    assert not found.lacks_devices


def walked(top: bytes) -> list[bytes]:
    return [
        os.path.join(folder, name)  # noqa: PTH118 - bytes
        for folder, folders, files in os.walk(top)
        for name in folders + files
    ]


@needs_namespaces
@needs_tools
def test_devices_that_can_not_be_made_are_listed(builder: Root, image: Path, tmp_path: Path) -> None:
    (image / "dev").mkdir()
    os.mknod(image / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(image / "dev/disk", 0o640 | stat.S_IFBLK, os.makedev(259, 300))
    (image / "dev/null").chmod(0o666)
    (image / "dev/tty").write_text("")
    entries = by_path(listed(builder, image, tmp_path))
    assert list(entries) == [b"/", b"/dev", b"/dev/disk", b"/dev/null", b"/dev/tty"]
    assert (entries[b"/dev/null"].type, entries[b"/dev/null"].device) == (FileType.CHARACTER_DEVICE, "1:3")
    assert entries[b"/dev/null"].mode == 0o666
    assert (entries[b"/dev/disk"].type, entries[b"/dev/disk"].device) == (FileType.BLOCK_DEVICE, "259:300")


@needs_namespaces
@needs_tools
def test_a_name_that_looks_like_lines_forges_no_device(builder: Root, image: Path, tmp_path: Path) -> None:
    (image / "etc").mkdir()
    line = "crw-rw-rw- 0/0  1,  3 2020-01-01 00:00 squashfs-root"
    hostile = f"x\n{line}"
    (image / hostile).mkdir(parents=True)
    (image / hostile / "..evil").write_text("")
    os.mknod(image / "real", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    found = listed(builder, image, tmp_path)
    assert not [path for path, entry in by_path(found).items() if entry.device]
    assert found.lacks_devices  # which is what is told


@needs_namespaces
@needs_tools
def test_attributes_are_listed(builder: Root, image: Path, tmp_path: Path) -> None:
    (image / "cap").write_text("x")
    os.setxattr(image / "cap", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
    (image / "us er").write_text("y")
    os.setxattr(image / "us er", "user.note", b"a\nb")
    (image / "large").write_text("z")
    os.setxattr(image / "large", "user.note", b"x" * 3000)
    entries = by_path(listed(builder, image, tmp_path))
    assert entries[b"/cap"].attributes == ("security.capability=0x0100000200040000000000000000000000000000",)
    assert entries[b"/cap"].is_privileged
    assert entries[b"/us er"].attributes == ("user.note=0x610a62",)
    (large,) = entries[b"/large"].attributes
    assert large.startswith("sha256:")
    assert entries[b"/"].attributes == ()


@needs_namespaces
@needs_tools
def test_packages_are_listed_and_no_link_is_followed(builder: Root, image: Path, tmp_path: Path) -> None:
    paragraph = "Package: {}\nStatus: {}\nArchitecture: amd64\nVersion: 1:2-3\nDescription: x\n y\n\n"
    status = paragraph.format("bash", "install ok installed") + paragraph.format("gone", "deinstall ok config-files")
    for path, text in {
        "var/lib/dpkg/status": status,
        "var/lib/dpkg/status.d/tzdata": "Package: tzdata\nVersion: 2025a\nArchitecture: all\n",
        "var/lib/dpkg/status.d/tzdata.md5sums": "Package: no\n",
        "lib/apk/db/installed": "C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nP:busybox\nV:1.37\nA:x86_64\n\n",
        "usr/lib/sysimage/rpm/rpmdb.sqlite": "SQLite",
        "secret/db/installed": "P:followed\nV:1\n\n",
    }.items():
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).write_text(text)
    (image / "usr/lib/apk").symlink_to("../../secret")
    found = listed(builder, image, tmp_path)
    assert found.packages == (
        Package("dpkg", "bash", "1:2-3", "amd64"),
        Package("dpkg", "tzdata", "2025a", "all"),
        Package("apk", "musl", "1.2.5-r0", "x86_64"),
        Package("apk", "busybox", "1.37", "x86_64"),
    )
    assert found.unread == ("/usr/lib/sysimage/rpm/rpmdb.sqlite",)


RPM = "usr/lib/sysimage/rpm"
DATABASES: dict[str, Callable[[], bytes]] = {
    "rpmdb.sqlite": lambda: of_sqlite(),
    "Packages.db": rpm_databases.ndb,
    "Packages": lambda: rpm_databases.bdb("little"),
}


def of_sqlite(page_size: int = 4096, headers: Sequence[bytes] = rpm_databases.HEADERS) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rpmdb.sqlite")
        rpm_databases.sqlite(path, headers, page_size=page_size)
        return path.read_bytes()


def database(image: Path, name: str, content: bytes) -> Path:
    (image / RPM).mkdir(parents=True)
    path = image / RPM / name
    path.write_bytes(content)
    return path


@needs_namespaces
@needs_tools
@pytest.mark.parametrize(
    ("name", "made"),
    [
        *DATABASES.items(),
        ("rpmdb.sqlite", lambda: of_sqlite(512)),
        ("rpmdb.sqlite", lambda: of_sqlite(65536)),
        ("Packages", lambda: rpm_databases.bdb("big")),
    ],
    ids=["sqlite", "ndb", "bdb", "sqlite-small-pages", "sqlite-large-pages", "bdb-big-endian"],
)
def test_packages_of_rpm(builder: Root, image: Path, tmp_path: Path, name: str, made: Callable[[], bytes]) -> None:
    database(image, name, made())
    (image / RPM / "Packages").touch()  # as some leave it
    found = listed(builder, image, tmp_path)
    assert sorted(found.packages, key=str) == sorted(rpm_databases.PACKAGES, key=str)
    assert found.unread == ()


@needs_namespaces
@needs_tools
def test_what_rpm_has_not_yet_written_into_its_database(builder: Root, image: Path, tmp_path: Path) -> None:
    """An image of a container that was killed. What was not committed does not count."""
    path = database(image, "rpmdb.sqlite", b"")
    path.unlink()
    rpm_databases.sqlite(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size=1")
        connection.execute("DELETE FROM Packages WHERE hnum > 3")
        connection.execute("BEGIN")
        connection.execute("UPDATE Packages SET blob = zeroblob(100000)")
        listing_of = listed(builder, image, tmp_path)
    assert (path.parent / "rpmdb.sqlite-wal").exists() is False  # but it was
    assert listing_of.packages == rpm_databases.PACKAGES[:3]


@needs_namespaces
@needs_tools
@pytest.mark.parametrize("name", DATABASES)
def test_a_damaged_database_of_rpm_harms_nothing(builder: Root, image: Path, tmp_path: Path, name: str) -> None:
    """Neither a program that runs for ever nor half of the packages."""
    whole = DATABASES[name]()
    path = database(image, name, b"")
    damage = random.Random(1)
    for number in range(12):
        content = bytearray(whole[: damage.randrange(1, len(whole))] if number % 3 == 0 else whole)
        for _ in range(number):
            content[damage.randrange(min(len(content), 8192))] = damage.randrange(256)
        path.write_bytes(content)
        found = listed(builder, image, tmp_path)
        shutil.rmtree(builder / "build/listing")
        assert found.unread == (f"/{RPM}/{name}",) or found.packages
        assert not (found.unread and found.packages)
        if number == 0:
            assert found.unread


@needs_namespaces
@needs_tools
def test_a_database_of_rpm_that_leads_in_a_circle(builder: Root, image: Path, tmp_path: Path) -> None:
    content = bytearray(rpm_databases.bdb("little"))
    for page in range(1, len(content) // 4096):
        start = page * 4096
        if content[start + 25] == 7:  # of an entry with more pages: the next is itself
            content[start + 16 : start + 20] = page.to_bytes(4, "little")
    database(image, "Packages", bytes(content))
    assert listed(builder, image, tmp_path).unread == (f"/{RPM}/Packages",)


def endless_row() -> bytes:
    """One says that its columns are described in 2**56 bytes."""
    content, row = bytearray(of_sqlite()), rpm_databases.HEADERS[1]
    at = content.index(row) - 4
    content[at : at + 8] = b"\xff" * 7 + b"\x7f"
    return bytes(content)


def many_times_one() -> bytes:
    """All entries of a page are the same large one, and so is their key, which follows it."""
    size, entry = 32768, b"\1" + rpm_databases.header("a", "1", "1", more=6000)
    key = size - 5
    page = bytearray((entry + b"\1\0\0\0\1").rjust(size, b"\0"))
    page[20:22], page[25] = struct.pack("<H", 4000), 13
    page[26 : 26 + 8000] = struct.pack("<HH", key, key - len(entry)) * 2000
    head = bytearray(rpm_databases.bdb("little")[:512].ljust(size, b"\0"))
    head[20:24], head[32:36] = struct.pack("<I", size), struct.pack("<I", 1)
    return bytes(head + page)


@needs_namespaces
@needs_tools
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("rpmdb.sqlite", endless_row),
        ("Packages", many_times_one),
        ("rpmdb.sqlite", lambda: of_sqlite(headers=[rpm_databases.header("a", "1" * 950, "1")])),
    ],
    ids=["endless", "again and again", "a long version"],
)
def test_a_database_of_rpm_that_would_take_for_ever(
    builder: Root, image: Path, tmp_path: Path, name: str, made: Callable[[], bytes]
) -> None:
    database(image, name, made())
    found = listed(builder, image, tmp_path)
    assert (found.unread, found.packages) == ((f"/{RPM}/{name}",), ())


@pytest.mark.parametrize("unread", [0, 1])
def test_half_of_rpms_packages_are_not_compared(tmp_path: Path, unread: int) -> None:
    lines = [b"P dpkg a 1 x\nP rpm b 1 x\n", b"R /rpm\nP dpkg a 2 x\n"]
    sides = [read([line, b"E 0\n"], tmp_path) for line in (lines if unread else reversed(lines))]
    old, new = (side for side in sides if side)
    found = listing.changes(old, new)
    assert [(one.manager, one.name) for one in found.packages] == [("dpkg", "a")]
    assert found.notes == ("packages in /rpm are not compared: this database of rpm cannot be read",)


@needs_namespaces
@needs_tools
def test_too_many_or_too_large_files_are_refused_before_they_are_unpacked(builder: Root, image: Path) -> None:
    for number in range(20):
        (image / str(number)).write_text("")
    with (image / "huge").open("wb") as file:
        file.truncate(2 << 20)
    pack(builder, image)
    many = run(builder, most=21)
    assert (many.returncode, many.stdout) == (listing.TOO_MANY, "")
    large = run(builder, limit=2048)
    assert (large.returncode, large.stdout) == (listing.TOO_LARGE, "")
    assert not (builder / "build/listing").exists()


@needs_namespaces
@needs_tools
def test_what_is_no_squashfs_fails(builder: Root) -> None:
    (builder / "build/listing.squashfs").write_bytes(b"hsqs" + bytes(5000))
    done = run(builder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the squashfs cannot be read" in done.stderr


@needs_namespaces
@needs_tools
def test_files_that_find_no_room_are_a_failure(builder: Root, image: Path) -> None:
    for number in range(20):
        (image / str(number)).write_text("x")
    pack(builder, image)
    small = "cp build/listing.squashfs dev; mount -t tmpfs -o nr_inodes=12 tmpfs build; cp dev/listing.squashfs build"
    done = run(builder, before=small)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr


@needs_namespaces
@needs_tools
def test_many_files_are_hashed_in_order(builder: Root, image: Path, tmp_path: Path) -> None:
    for number in range(2600):
        (image / f"{number}").write_text(f"content {number}")
    (image / "7").unlink()
    (image / "7").hardlink_to(image / "2000")
    entries = by_path(listed(builder, image, tmp_path))
    for number in (0, 1, 2000, 2599):
        assert entries[b"/%d" % number].sha256 == hashlib.sha256(b"content %d" % number).hexdigest()
    assert entries[b"/7"].sha256 == entries[b"/2000"].sha256


# ---- reading it here

ROOT_LINE = b"F d 755 0 0 - 1600000000 - - / - -\n"
FILE_LINE = b"F - 644 0 0 1 1600000000 - " + b"0" * 64 + b" /%s - -\n"


def test_a_listing_is_read_in_whatever_pieces_it_comes(tmp_path: Path) -> None:
    text = ROOT_LINE + FILE_LINE % b"a%0Ab" + b"P dpkg bash 1 -\nE 2\n"
    for size in (1, 7, 1000):
        found = read((text[at : at + size] for at in range(0, len(text), size)), tmp_path)
        assert found is not None
        assert [entry.path for entry in found.entries()] == [b"/", b"/a\nb"]
        assert found.packages == (Package("dpkg", "bash", "1", ""),)


def test_one_that_ends_too_early_is_none(tmp_path: Path) -> None:
    assert read([ROOT_LINE], tmp_path) is None
    assert read([ROOT_LINE + b"E 2\n"], tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\n",
        b"F d 755 0 0 - 1600000000 - - relative - -\n",
        b"F d 9 0 0 - 1600000000 - - / - -\n",
        b"F - 644 0 0 " + b"9" * 19 + b" 1 - " + b"0" * 64 + b" / - -\n",
        ROOT_LINE + ROOT_LINE,  # twice
        FILE_LINE % b"b" + FILE_LINE % b"a",  # in another order
        ROOT_LINE + b"E 1\nE 1\n",
        b"x" * (listing.MOST_IN_A_LINE + 1),
        ROOT_LINE + b"E 1",  # without its end
    ],
)
def test_what_a_listing_never_says_is_refused(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="unexpected output from the builder"):
        read([text], tmp_path)


@pytest.mark.parametrize(("limit", "most"), [("MOST_FILES", 1), ("MOST_BYTES", 60), ("MOST_PACKAGES", 0)])
def test_there_are_limits(limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ROOT_LINE + FILE_LINE % b"a" + b"P apk musl 1 x86_64\nE 2\n"
    assert read([text], tmp_path) is not None
    monkeypatch.setattr(listing, limit, most)
    with pytest.raises(BuildError, match="unexpected output"):
        read([text], tmp_path)
