"""What differs between two versions of an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lxdocker.image import difference
from lxdocker.image.difference import (
    Change,
    Difference,
    Entry,
    FileType,
    Group,
    Package,
    PackageChange,
    Side,
    ValueChange,
)
from lxdocker.values import Arch
from tests.examples import provenance, spec

FILE = Entry(b"/a", FileType.FILE, 0o644, 0, 0, 1, 1_600_000_000, None, "0" * 64, None, ())


def entries(*paths: bytes) -> list[Entry]:
    return sorted((replace(FILE, path=path) for path in paths), key=lambda entry: entry.order)


def compared(old: list[Entry], new: list[Entry], *, times: bool = False) -> list[tuple[str, bytes, tuple[str, ...]]]:
    found = difference.files(iter(old), iter(new), times=times)
    return [(one.change.value, one.path, one.fields) for one in found]


def test_files_of_two_listings_side_by_side() -> None:
    old = entries(b"/", b"/a", b"/a/b", b"/a/z", b"/a.b", b"/gone")
    new = entries(b"/", b"/a", b"/a/b", b"/a/new", b"/a/zz", b"/a.b", b"/z")
    assert compared(old, new) == [
        ("added", b"/a/new", ()),
        ("removed", b"/a/z", ()),
        ("added", b"/a/zz", ()),
        ("removed", b"/gone", ()),
        ("added", b"/z", ()),
    ]
    assert compared(old, []) == [("removed", entry.path, ()) for entry in old]
    assert compared([], new) == [("added", entry.path, ()) for entry in new]
    assert compared(old, old) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", 0o4755),
        ("uid", 1),
        ("gid", 1),
        ("size", 2),
        ("device", "1:3"),
        ("sha256", "1" * 64),
        ("target", b"/b"),
        ("attributes", ("user.a=0x61",)),
    ],
)
def test_each_field_of_a_file_counts(field: str, value: object) -> None:
    changed = replace(FILE, **{field: value})  # type: ignore[arg-type]
    assert compared([FILE], [changed]) == [("changed", b"/a", (field,))]


def test_a_type_says_it_all() -> None:
    folder = replace(FILE, type=FileType.FOLDER, size=None, sha256=None, mode=0o755)
    assert compared([FILE], [folder]) == [("changed", b"/a", ("type",))]


def test_times_count_only_where_bytes_are_compared() -> None:
    later = replace(FILE, time=1_700_000_000)
    assert compared([FILE], [later]) == []
    assert compared([FILE], [later], times=True) == [("changed", b"/a", ("time",))]
    assert compared([FILE], [replace(FILE, time=None)], times=True) == []  # a device that could not be made


def test_listings_are_not_kept() -> None:
    """A million files that do not differ are never all there at once."""
    alive = 0

    class Counted(Entry):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def many() -> Iterator[Entry]:
        nonlocal alive
        for number in range(1000):
            alive += 1
            assert alive < 10
            yield Counted(b"/%04d" % number, *(getattr(FILE, name) for name in Entry.__slots__[1:]))

    assert list(difference.files(many(), many())) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mode": 0o4755}, True),
        ({"mode": 0o2755}, True),
        ({"mode": 0o2755, "type": FileType.FOLDER}, False),  # whose files only inherit its group
        ({"attributes": ("security.capability=0x01",)}, True),
        ({"attributes": ("user.note=0x01",)}, False),
        ({}, False),
    ],
)
def test_what_gives_rights_to_whoever_runs_it(changes: dict[str, object], expected: bool) -> None:
    assert replace(FILE, **changes).is_privileged is expected  # type: ignore[arg-type]


def test_packages_by_manager_name_and_architecture() -> None:
    old = [Package("dpkg", "a", "1", "amd64"), Package("dpkg", "a", "1", "i386"), Package("dpkg", "gone", "1", "all")]
    new = [Package("dpkg", "a", "2", "amd64"), Package("dpkg", "a", "1", "i386"), Package("apk", "new", "1", "x")]
    assert list(difference.packages(old, new)) == [
        PackageChange("apk", "new", "x", None, "1"),
        PackageChange("dpkg", "a", "amd64", "1", "2"),
        PackageChange("dpkg", "gone", "all", "1", None),
    ]
    both = [Package("dpkg", "kernel", "2", "x"), Package("dpkg", "kernel", "1", "x")]
    assert list(difference.packages(both, both[:1])) == [PackageChange("dpkg", "kernel", "x", "1, 2", "2")]


def test_configuration_by_group() -> None:
    first = provenance(spec("web", "web:1"))
    old = Side("1", first, {"oci.user": "app", "oci.env.A": "1", "oci.label.b": "x", "oci.ports": "80", "release": "1"})
    second = replace(first, inputs="other", folder="0" * 16, built_at="2030-01-01T00:00:00+00:00")
    new = Side("2", second, {"oci.user": "root", "oci.env.C": "", "oci.label.b": "y", "oci.ports": "80"})
    found = Difference.of(first.name, Arch.X86_64, old, new, None)
    assert found.values == (
        ValueChange(Group.CONFIGURATION, "user", "app", "root"),
        ValueChange(Group.ENVIRONMENT, "A", "1", None),
        ValueChange(Group.ENVIRONMENT, "C", None, ""),
        ValueChange(Group.LABEL, "b", "x", "y"),
        ValueChange(Group.PROVENANCE, "inputs", first.inputs, "other"),
        ValueChange(Group.PROPERTY, "release", "1", None),
    )
    assert [value.change for value in found.values][1:3] == [Change.REMOVED, Change.ADDED]
    assert not found.is_empty
    assert Difference.of(first.name, Arch.X86_64, old, replace(old, version="2"), None).is_empty


def test_keys_of_the_spec_that_differ() -> None:
    first = replace(provenance(spec("web", "web:1")), parts="lxdocker=1 user=2")
    second = replace(first, parts="lxdocker=1 user=3 run=4")
    found = Difference.of(first.name, Arch.X86_64, Side("1", first, {}), Side("2", second, {}), None)
    assert found.parts == ("run", "user")
