"""What differs between two versions of an image, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lxdocker.cli import contrast
from lxdocker.image import difference
from lxdocker.image.difference import Difference, Entry, FileChange, Files, FileType, Package, Side
from lxdocker.source.oci import Layer
from lxdocker.values import Arch
from tests.examples import digest, provenance, spec

FILE = Entry(b"/a", FileType.FILE, 0o644, 0, 0, 1000, 1_600_000_000, None, "0" * 64, None, ())
MADE = provenance(spec("web", "web:1"))


def file(path: str, size: int = 1000, **changes: object) -> Entry:
    return replace(FILE, path=path.encode(), size=size, **changes)  # type: ignore[arg-type]


def folder(path: str) -> Entry:
    return replace(FILE, path=path.encode(), type=FileType.FOLDER, mode=0o755, size=None, sha256=None)


def changed(path: str, size: int = 1000, **changes: object) -> FileChange:
    before = file(path)
    after = replace(before, size=size, **{"sha256": "1" * 64, **changes})  # type: ignore[arg-type]
    return FileChange(before, after, difference.differing(before, after, times=True))


def lines(
    *changes: FileChange,
    old: dict[str, str] | None = None,
    new: dict[str, str] | None = None,
    packages: Sequence[difference.PackageChange] = (),
    notes: tuple[str, ...] = (),
    everything: bool = False,
) -> list[str]:
    files = Files(changes, tuple(packages), 900, 901, notes)
    first = Side("20260101_0101", MADE, old or {}, size=60_000_000)
    second = Side("20260102_0304", MADE, new or {}, size=61_000_000)
    found = Difference.of(MADE.name, Arch.X86_64, first, second, files)
    return list(contrast.lines(found, everything=everything))


def test_a_screen() -> None:
    packages = difference.packages([Package("dpkg", "a", "1", "all")], [Package("dpkg", "a", "2", "all")])
    assert lines(
        changed("/etc/app.conf", 1200),
        FileChange(None, file("/usr/bin/new", mode=0o4755)),
        FileChange(replace(FILE, type=FileType.SYMLINK, target=b"x"), FILE, ("type",)),
        old={"oci.user": "app", "oci.env.A": "1"},
        new={"oci.user": "root", "oci.label.b": "x"},
        packages=list(packages),
        notes=("no devices",),
    ) == [
        "web for x86_64: 20260101_0101 -> 20260102_0304",
        "size          60.0 MB -> 61.0 MB",
        "configuration 1 added, 1 removed, 1 changed",
        "  ~ user: app -> root",
        "  - environment A: 1",
        "  + label b: x",
        "packages      1 changed",
        "  ~ a 1 -> 2",
        "files         1 added, 2 changed of 900",
        "  + /usr/bin/new (1.0 kB, mode 4755)",
        "  ~ /a (symlink -> file)",
        "  ~ /etc/app.conf (content, 1.0 kB -> 1.2 kB)",
        "note: no devices",
    ]


def test_nothing() -> None:
    assert lines() == ["web for x86_64: 20260101_0101 -> 20260102_0304", "nothing differs"]


def test_what_the_registry_has() -> None:
    layers = tuple(Layer(digest(text), 1_500_000, "") for text in "ab")
    second = replace(MADE, source_digest=digest("other"))
    new = Side("registry", second, {}, layers=layers)
    found = Difference.of(MADE.name, Arch.X86_64, Side("20260101_0101", MADE, {}, size=1), new, None)
    assert list(contrast.lines(found)) == [
        "web for x86_64: 20260101_0101 -> registry",
        f"digest        {MADE.source_digest.short} -> {second.source_digest.short}",
        "layers        2, 3.0 MB to download",
        "configuration no difference",
        "packages and files are not compared: the registry's image is not built",
    ]


def test_it_stays_a_screen_and_all_shows_all() -> None:
    changes = [changed(f"/srv/{number}") for number in range(100)]
    values = {f"oci.env.V{number:03}": "x" * 500 for number in range(100)}
    packages = list(difference.packages([], [Package("apk", f"p{number}", "1", "") for number in range(100)]))
    some = lines(*changes, new=values, packages=packages)
    assert len(some) <= 40
    assert some[-1] == "  … 86 more: --all shows them"
    assert max(map(len, some)) < 120
    every = lines(*changes, new=values, packages=packages, everything=True)
    assert sum("/srv/" in line for line in every) == 100
    assert sum("x" * 500 in line for line in every) == 100
    builds = list(contrast.of_builds(Files(tuple(changes), (), 1, 1, ())))
    assert builds[-1] == "  … 86 more: --json has all"


def test_a_folder_is_one_line_but_not_what_has_special_rights() -> None:
    shown = lines(
        FileChange(None, folder("/opt/app")),
        FileChange(None, file("/opt/app/a", 1_000_000)),
        FileChange(None, file("/opt/app/sub", 1_000_000)),
        FileChange(None, file("/opt/app/su", mode=0o4755)),
        FileChange(None, file("/opt/app/z", 1_000_000)),
        FileChange(None, file("/opt/app.conf")),
        FileChange(folder("/opt/gone"), None),
    )
    assert shown[4:] == [
        "files         6 added, 1 removed of 900",
        "  + /opt/app/su (1.0 kB, mode 4755)",
        "  + /opt/app/ (3 paths, 3.0 MB)",
        "  + /opt/app.conf (1.0 kB)",
        "  - /opt/gone/",
    ]


def test_the_most_telling_comes_first() -> None:
    capable = ("security.capability=0x01",)
    shown = lines(
        changed("/usr/share/doc", 900_000_000),
        changed("/usr/lib/data", 2000),
        changed("/usr/bin/tool", 2000, mode=0o755),
        changed("/etc/conf", 2000),
        changed("/opt/own", uid=7),
        changed("/usr/bin/ping", attributes=capable),
        changed("/now", sha256="0" * 64, time=1),
    )
    assert [line.split()[1] for line in shown if line.startswith("  ~")] == [
        "/usr/bin/ping",
        "/usr/bin/tool",
        "/opt/own",
        "/etc/conf",
        "/usr/lib/data",
        "/usr/share/doc",
        "/now",
    ]
    assert "  ~ /opt/own (owner 0 -> 7, content)" in shown
    assert "  ~ /now (time)" in shown


def test_hostile_names_are_one_line() -> None:
    evil = replace(FILE, path=b"/a\n\x1b[31m\xff", type=FileType.SYMLINK, target=b"x\ny")
    (shown,) = [line for line in lines(FileChange(None, evil)) if line.startswith("  +")]
    assert shown == "  + /a [31m\\xff -> x y (1.0 kB)"


def test_builds_that_only_pack_differently() -> None:
    assert next(contrast.of_builds(Files((), (), 1, 1, ()))) == "the files are the same, but packed differently"
