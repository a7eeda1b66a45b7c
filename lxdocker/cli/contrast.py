"""A difference between two versions of an image, as lines that a person reads on a screen. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lxdocker.image.difference import (
    Change,
    Difference,
    FileChange,
    Files,
    FileType,
    Group,
    PackageChange,
    ValueChange,
)
from lxdocker.progress import human_size
from lxdocker.text import counted, one_line

MARKS = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~"}
MOST_VALUES = 8  # lines of each section
MOST_PACKAGES = 7
MOST_FILES = 14
MOST_CHARACTERS = 60  # of a value
ALL = "--all shows them"
# What is said of a field of a file that differs.
_WORDS = {"sha256": "content", "uid": "owner", "gid": "group"}
# Of the provenance, what is said by the first lines or by others.
_IN_HEAD = {"source", "source_digest", "inputs"}


def lines(found: Difference, *, everything: bool = False) -> Iterator[str]:
    """``everything``: each file that differs, and every value whole."""
    old, new = found.old, found.new
    yield f"{found.name} for {found.arch.value}: {old.version} -> {new.version}"
    if found.is_empty and found.files is not None:
        yield "nothing differs"
        return
    for title, before, after in (
        ("source", old.provenance.source, new.provenance.source),
        ("digest", old.provenance.source_digest.short, new.provenance.source_digest.short),
        ("size", _size(old.size), _size(new.size)),
    ):
        if before != after and after:
            yield f"{title:13} {before} -> {after}"
    if new.layers is not None:
        yield f"{'layers':13} {len(new.layers)}, {human_size(sum(layer.size for layer in new.layers))} to download"
    if found.parts:
        yield f"{'changed keys':13} {_cut(', '.join(found.parts), 1000 if everything else 200)}"
    shown = [value for value in found.values if value.group is not Group.PROVENANCE or value.key not in _IN_HEAD]
    texts = [_value(one, whole=everything) for one in shown]
    yield from _section("configuration", shown, texts, None if everything else MOST_VALUES)
    if found.files is None:
        yield "packages and files are not compared: the registry's image is not built"
        return
    yield from _contents(found.files, everything=everything)


def of_builds(found: Files) -> Iterator[str]:
    """What differs between two builds of the same image."""
    if not (found.changes or found.packages):
        yield "the files are the same, but packed differently"
    yield from _contents(found, everything=False, more="--json has all")


def _contents(found: Files, *, everything: bool, more: str = ALL) -> Iterator[str]:
    packages = found.packages
    texts = [_package(one) for one in packages]
    yield from _section("packages", packages, texts, None if everything else MOST_PACKAGES, more)
    groups = _by_weight(_grouped(found.changes)) if not everything else [_Group(one) for one in found.changes]
    of = f" of {found.before}" if found.before is not None else ""
    texts = [_file(one) for one in groups]
    yield from _section("files", found.changes, texts, None if everything else MOST_FILES, more, of)
    yield from (f"note: {note}" for note in found.notes)


def _section(
    title: str,
    changes: Sequence[ValueChange | PackageChange | FileChange],
    texts: Sequence[str],
    most: int | None,
    more: str = ALL,
    of: str = "",
) -> Iterator[str]:
    """A line with counts, and as many as ``most`` below it; ``more``: where the others are."""
    counts = Counter(change.change for change in changes)
    words = [f"{counts[kind]} {kind.value}" for kind in Change if counts[kind]]
    yield f"{title:13} {', '.join(words)}{of}" if words else f"{title:13} no difference"
    shown = texts if most is None or len(texts) <= most + 1 else texts[:most]
    yield from (f"  {text}" for text in shown)
    if len(shown) < len(texts):
        yield f"  … {len(texts) - len(shown)} more: {more}"


def _size(size: int | None) -> str:
    return "" if size is None else human_size(size)


def _value(value: ValueChange, *, whole: bool) -> str:
    name = value.key if value.group is Group.CONFIGURATION else f"{value.group.value} {value.key}"
    most = 1000 if whole else MOST_CHARACTERS
    texts = [_cut(text, most) for text in (value.before, value.after) if text is not None]
    return f"{MARKS[value.change]} {one_line(name, 100)}: {' -> '.join(texts)}"


def _cut(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _package(package: PackageChange) -> str:
    versions = [
        one_line(version, MOST_CHARACTERS) for version in (package.before, package.after) if version is not None
    ]
    return f"{MARKS[package.change]} {one_line(package.name, MOST_CHARACTERS)} {' -> '.join(versions)}"


# ---- files


@dataclass(frozen=True, slots=True)
class _Group:
    """A file that differs; or a folder that is in only one version, with all that is in it."""

    top: FileChange
    count: int = 1
    size: int = 0  # bytes of its files


def _grouped(changes: Sequence[FileChange]) -> Iterator[_Group]:
    """What is added or removed with its folder is one line. The changes are in the order of their paths."""
    group: _Group | None = None
    for change in changes:
        if group and change.change is group.top.change and change.path.startswith(group.top.path + b"/"):
            # A privileged file shows, wherever it is.
            if not change.entry.is_privileged:
                group = replace(group, count=group.count + 1, size=group.size + (change.entry.size or 0))
                continue
            yield _Group(change)
            continue
        if group:
            yield group
        group = None
        if change.change is not Change.CHANGED and change.entry.type is FileType.FOLDER:
            group = _Group(change)
        else:
            yield _Group(change)
    if group:
        yield group


def _by_weight(groups: Iterator[_Group]) -> list[_Group]:
    """The most telling first: what could harm, then what is configured, then what is run, then by size."""
    return sorted(groups, key=_weight)


def _weight(group: _Group) -> tuple[int, int, bytes]:
    change = group.top
    before, after = change.before, change.after
    moved = abs((after.size or 0 if after else 0) - (before.size or 0 if before else 0)) + group.size
    if any(one is not None and one.is_privileged for one in (before, after)) or "attributes" in change.fields:
        rank = 0
    elif "type" in change.fields or {"mode", "uid", "gid"} & set(change.fields):
        rank = 1
    elif change.path.startswith(b"/etc/") and change.entry.type is not FileType.FOLDER:
        rank = 2
    elif change.entry.type is FileType.FILE and change.entry.mode & 0o111:
        rank = 3
    else:
        # Of caches and the like nobody wants to know first; nor that only a time differs.
        rank = 5 if change.fields == ("time",) or change.path.startswith((b"/var/", b"/tmp/", b"/usr/share/")) else 4
    return rank, -moved, change.path


def _file(group: _Group) -> str:
    change = group.top
    before, after = change.before, change.after
    path = one_line(change.path.decode("utf-8", "backslashreplace"))
    if change.entry.type is FileType.FOLDER:
        path = f"{path}/"
    start = f"{MARKS[change.change]} {path}"
    if before is None or after is None:
        entry = change.entry
        words = [
            counted(group.count - 1, "path") if group.count > 1 else "",
            _size(group.size if group.count > 1 else entry.size),
        ]
        if entry.is_privileged:
            words.append(f"mode {entry.mode:04o}" + "".join(f", {text.partition('=')[0]}" for text in entry.attributes))
        if entry.target is not None:
            start += f" -> {one_line(entry.target.decode('utf-8', 'backslashreplace'), 200)}"
    elif "type" in change.fields:
        words = [f"{before.type.name.lower().replace('_', ' ')} -> {after.type.name.lower().replace('_', ' ')}"]
    else:
        words = [_field(name, change) for name in change.fields if not (name == "size" and "sha256" in change.fields)]
        if "size" in change.fields:
            words.append(f"{_size(before.size)} -> {_size(after.size)}")
    said = ", ".join(filter(None, words))
    return f"{start} ({said})" if said else start


def _field(name: str, change: FileChange) -> str:
    before, after = change.before, change.after
    if name == "mode" and before and after:
        return f"mode {before.mode:04o} -> {after.mode:04o}"
    if name in {"uid", "gid"}:
        return f"{_WORDS[name]} {getattr(before, name)} -> {getattr(after, name)}"
    if name == "target" and before and after:
        texts = [(one.target or b"").decode("utf-8", "backslashreplace") for one in (before, after)]
        return one_line(f"-> {texts[0]}, then -> {texts[1]}", 200)
    return _WORDS.get(name, name)
