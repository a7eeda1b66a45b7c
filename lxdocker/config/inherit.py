"""Specs that take over keys of other files: ``extends``, and ``defaults.yaml`` for all of a folder.

A mapping of the spec is merged with the inherited one by its keys, whose values are replaced whole; anything else is
replaced. ``null`` instead of an inherited value removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lxdocker.config import yamlfile
from lxdocker.config.yamlfile import Document, Place
from lxdocker.errors import Mistake
from lxdocker.files.seen import is_file

DEFAULTS = ("defaults.yaml", "defaults.yml")
_KEY = "extends"
# Whose null means something else: that the image's own variable or label is removed.
_WITH_NULLS = frozenset({"environment", "labels"})

Read = Callable[[Path, str], Document]


def is_base(file_name: str) -> bool:
    """Whether a file is only for other files to extend."""
    return file_name.startswith("_") or file_name in DEFAULTS


def with_bases(path: Path, document: Document, read: Read) -> Document:
    """The spec with all that it takes over. What is wrong with ``extends`` becomes a mistake in it.

    ``read`` gives the file at a path, by the label for messages.
    """
    chain = [(path, document)]
    mistakes = list(document.mistakes)
    for base in _chain(path, document, read, mistakes):
        chain.append(base)
    merged = chain.pop()[1]
    while chain:
        own = chain.pop()[1]
        conflicts = dict(_conflicts(merged, own))
        mistakes += conflicts.values()
        merged = _merged(merged, own)
        merged = replace(merged, flawed=merged.flawed | {(key,) for key in conflicts})
    return replace(merged, label=document.label, mistakes=tuple(mistakes))


def _chain(path: Path, document: Document, read: Read, mistakes: list[Any]) -> Iterator[tuple[Path, Document]]:
    """The files that a spec extends, nearest first, and then the folder's defaults."""
    seen = {path.name: document}
    while (name := _extended(document)) is not None:
        if name in seen:
            other = seen[name]
            line = other.mistake((_KEY,), "").line
            where = "itself" if other is document else f"a circle: {other.label}:{line} extends it, too"
            mistakes.append(document.mistake((_KEY,), f"expected another file, found {where}"))
            return
        path = path.with_name(name)
        if not is_file(path):
            known = sorted(one.name for one in path.parent.glob("[!.]*.y*ml") if one.name not in seen)
            hint = yamlfile.did_you_mean(yamlfile.closest(name, known))
            text = f"expected a file in {path.parent}, found no {yamlfile.quoted(name)}{hint}"
            mistakes.append(document.mistake((_KEY,), text))
            return
        document = read(path, str(Path(document.label).with_name(name)))
        seen[name] = document
        mistakes += document.mistakes
        yield path, document
    for name in DEFAULTS:
        if name not in seen and is_file(path.with_name(name)):
            document = read(path.with_name(name), str(Path(document.label).with_name(name)))
            mistakes += document.mistakes
            if _extended(document) is not None:
                mistakes.append(document.mistake((_KEY,), "expected no 'extends' in the defaults, found one"))
            yield path, document
            return


def _extended(document: Document) -> str | None:
    name = document.value.get(_KEY) if isinstance(document.value, dict) else None
    return name if isinstance(name, str) and "/" not in name and name.endswith((".yaml", ".yml")) else None


def _conflicts(base: Document, own: Document) -> Iterator[tuple[str, Mistake]]:
    """Where one file has a mapping, and the other something that can't be merged with it."""
    if not isinstance(base.value, dict) or not isinstance(own.value, dict):
        return
    for key, value in own.value.items():
        inherited = base.value.get(key)
        is_either = key == "healthcheck"  # a mapping or "none"
        if inherited is None or value is None or is_either or isinstance(inherited, dict) == isinstance(value, dict):
            continue
        there = base.mistake((key,), "")
        kind = "a mapping" if isinstance(inherited, dict) else "no mapping"
        text = f"expected {kind} as in {there.where}:{there.line}, found another kind of value"
        yield key, own.mistake((key,), text)


def _merged(base: Document, own: Document) -> Document:
    """``own``, with the keys of ``base`` that it does not have itself."""
    if own.value is None:
        own = replace(own, value={})  # an empty file
    if not isinstance(base.value, dict) or not isinstance(own.value, dict):
        return own
    value: dict[str, Any] = {}
    taken: set[Place] = set()
    for key in dict.fromkeys([*base.value, *own.value]):
        inherited = base.value.get(key)
        if key == _KEY:
            if key in own.value:
                value[key] = own.value[key]
        elif key not in own.value:
            value[key] = inherited
            taken.add((key,))
        elif own.value[key] is None and key in base.value:
            continue
        elif isinstance(own.value[key], dict) and isinstance(inherited, dict):
            value[key] = _merged_mapping(key, inherited, own.value[key], taken)
        else:
            value[key] = own.value[key]
    return Document(
        own.label,
        value,
        _both(base.lines, own.lines, taken),
        _both(base.written, own.written, taken),
        flawed=frozenset(place for place in base.flawed if _is_taken(place, taken)) | own.flawed,
        names=own.names,
        labels=_both(dict.fromkeys(base.lines, base.label) | dict(base.labels), own.labels, taken),
    )


def _merged_mapping(key: str, base: Mapping[str, Any], own: Mapping[str, Any], taken: set[Place]) -> dict[str, Any]:
    merged = {**base, **own}
    taken.update((key, inner) for inner in base if inner not in own)
    if key in _WITH_NULLS:
        return merged
    return {inner: value for inner, value in merged.items() if value is not None or inner not in base}


def _both(base: Mapping[Place, Any], own: Mapping[Place, Any], taken: set[Place]) -> dict[Place, Any]:
    return {place: value for place, value in base.items() if _is_taken(place, taken)} | dict(own)


def _is_taken(place: Place, taken: set[Place]) -> bool:
    return place[:1] in taken or place[:2] in taken
