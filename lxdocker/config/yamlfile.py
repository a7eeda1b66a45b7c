"""YAML that people write: read with line numbers, checked against one of our JSON Schemas.

Scalars follow the YAML 1.2 core schema, not the 1.1 rules PyYAML's own loaders apply: ``on``, ``yes``
and ``2024-01-31`` are text, ``true`` and ``1.10`` are not. Keys are always text, as written. Anchors,
aliases, tags, duplicate keys and second documents are refused: a spec should say what it means in one
place, and an alias inside an alias is how ten lines become gigabytes.

What is wrong becomes a :class:`Mistake`, one line each; nothing here raises for what a file says.
Where a value doesn't fit, the ``title`` of the schema it failed completes "expected ...".
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from lxdocker.config.resources import resource
from lxdocker.errors import Mistake, SpecError
from lxdocker.reasons import in_words

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

MAX_BYTES = 256 * 1024
_MAX_DEPTH = 16  # ours need three; a parser's stack should not be up to the file
_MAX_DIGITS = 30  # int() refuses thousands of digits, and no number of ours comes near

# The C parser is ten times faster and is missing only where PyYAML was built without libyaml.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Where a value is: ("aliases", 1) is the second item of aliases.
Place = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    form: word == "true" for word in ("true", "false") for form in (word, word.title(), word.upper())
}
_YES = {"yes", "on", "y", "true", "1"}
_NO = {"no", "off", "n", "false", "0"}
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Document:
    """What a file (or the environment, or the flags) says, and where it says it."""

    label: str
    value: Any  # made of dict, list, str, int, float, bool and None
    lines: Mapping[Place, int] = field(default_factory=dict)
    written: Mapping[Place, str] = field(default_factory=dict)  # unquoted scalars that are not text
    mistakes: tuple[Mistake, ...] = ()
    # Places with a mistake of their own: what is found there is not worth another one.
    flawed: frozenset[Place] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)  # top-level key -> how the user knows it
    labels: Mapping[Place, str] = field(default_factory=dict)  # of the other files that places were taken over from

    def mistake(self, place: Place, text: str) -> Mistake:
        at = place
        while at and at not in self.lines:
            at = at[:-1]
        return Mistake(self.labels.get(at, self.label), self.lines.get(at, 0), self._field(place), text)

    def is_flawed(self, place: Place) -> bool:
        return any(place[:length] in self.flawed for length in range(len(place) + 1))

    def _field(self, place: Place) -> str:
        if place and place[0] in self.names:
            return self.names[str(place[0])] + field_text(place[1:])
        return field_text(place)


def read(path: Path, label: str) -> Document:
    """The YAML file at ``path``, which messages call ``label``; an empty file's value is None.

    Never raises for what is (or is not) there: see the result's ``mistakes``.
    """
    # File names can hold anything but '/': line breaks, escape sequences, bytes no terminal can print.
    label = label if label.isprintable() else repr(label)
    try:
        data = _read_regular_file(path)
    except OSError as error:
        return _unreadable(label, 0, f"expected a readable file, found: {error.strerror or in_words(error)}")
    if len(data) > MAX_BYTES:
        return _unreadable(label, 0, f"expected at most {MAX_BYTES // 1024} KiB, found a larger file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _unreadable(
            label,
            data.count(b"\n", 0, error.start) + 1,
            f"expected UTF-8 text, found the byte 0x{data[error.start]:02x}",
        )
    return parse(text, label)


def parse(text: str, label: str) -> Document:
    """YAML that is no file; as read()."""
    composer = _Composer(label)
    try:
        value = composer.compose(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        value = None
        composer.refuse((), *_syntax_error(error, text))
    except _TooDeepError as error:
        value = None
        composer.refuse((), error.line, f"expected plain keys and lists, found more than {_MAX_DEPTH} levels of them")
    return Document(
        label, value, composer.lines, composer.written, tuple(composer.mistakes), frozenset(composer.flawed)
    )


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about mistakes that are as good as always the same one, at the top level of a document."""

    keys: Mapping[str, str] = field(default_factory=dict)  # that the schema does not know
    values: Mapping[tuple[str, str], str] = field(default_factory=dict)  # key and value, as written


_NO_ADVICE = Advice()


def check(document: Document, schema_name: str, advice: Advice = _NO_ADVICE, *, partial: bool = False) -> list[Mistake]:
    """All mistakes in ``document``: those of reading it and those the schema finds; sorted.

    ``partial``: other documents complete it, so no key has to be there, and it may be empty.
    """
    found = set(document.mistakes)
    if not document.is_flawed(()) and not (partial and document.value is None):
        guessed: set[str] = set()
        missing: list[tuple[str, Mistake]] = []
        misspelt: set[Place] = set()  # mappings with an unknown key
        choices: list[tuple[Place, Mistake]] = []
        for error in _validator(schema_name).iter_errors(document.value):
            place = tuple(error.absolute_path)
            if error.validator == "additionalProperties":
                known = error.schema["properties"]
                misspelt.add(place)
                for key in (key for key in error.instance if key not in known):
                    if not place and key in advice.keys:
                        found.add(document.mistake((key,), f"unknown key; {advice.keys[key]}"))
                        continue
                    guess = closest(key, known)
                    guessed.update(guess)
                    found.add(_unknown_key(document, (*place, key), known, guess))
            elif error.validator == "required" and partial and not place:
                continue
            elif error.validator == "required":
                missing += _missing_keys(document, place, error)
            elif error.validator == "oneOf":
                choices += ((place, mistake) for mistake in _misfits(document, place, error, advice))
            else:
                found.update(_misfits(document, place, error, advice))
        found.update(mistake for place, mistake in choices if place not in misspelt)
        # "imgae: nginx" is one mistake, not an unknown key and a missing one.
        found.update(mistake for key, mistake in missing if key not in guessed)
    return sorted(found)


def spec_error(
    what: str,
    mistakes: Iterable[Mistake],
    resolution: str,
    paths: Mapping[str, Path] = MappingProxyType({}),
) -> SpecError:
    """The error that reports these mistakes in ``what``, one line each. ``paths``: of the files, by what messages call
    them, where that is not the path.
    """
    found = sorted(set(mistakes))
    count = "a mistake" if len(found) == 1 else f"{len(found)} mistakes"
    placed = [replace(one, where=str(paths.get(one.where, one.where))) for one in found]
    return SpecError(f"{count} in {what}", "\n".join(map(str, found)), resolution, placed)


@cache
def schema(name: str) -> dict[str, Any]:
    """One of our own schemas, as in ``schema("image.schema.json")``."""
    content: dict[str, Any] = json.loads(resource("schema", name).read_text(encoding="utf-8"))
    return content


def resolve_plain(text: str) -> object:
    """What an unquoted scalar means: None, a bool, an int, a float or the text itself (YAML 1.2 core schema).

    Infinity and "not a number" stay text: JSON, and so our schemas, know no such numbers.
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text)
        if _BASED_INT.fullmatch(text):
            return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def closest(word: str, known: Collection[str]) -> list[str]:
    """The one of ``known`` that ``word`` was probably meant to be, or nothing."""
    by_case = {name.casefold(): name for name in known}
    return [by_case[match] for match in difflib.get_close_matches(word.casefold(), by_case, 1, 0.7)]


def did_you_mean(guess: Collection[str]) -> str:
    """A hint to append to a message; empty without a guess."""
    return "".join(f"; did you mean {name!r}?" for name in guess)


def quoted(text: str) -> str:
    """``text`` as it can stand in a message: quoted, control characters escaped, no longer than a line."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def field_text(place: Place) -> str:
    """``("aliases", 1)`` as people write it: ``aliases[1]``."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part) and len(part) <= 60:
            text += f".{part}" if text else part
        else:
            text += f"[{quoted(part)}]" if text else quoted(part)
    return text


class _TooDeepError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Composer:
    """Builds the value from the parser's events, noting lines and refusing what we don't take."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._events: Iterator[Any] = iter(())
        self.lines: dict[Place, int] = {}
        self.written: dict[Place, str] = {}
        self.mistakes: list[Mistake] = []
        self.flawed: set[Place] = set()

    def refuse(self, place: Place, line: int, text: str, *, flawed: bool = True) -> None:
        self.mistakes.append(Mistake(self._label, line, field_text(place), text))
        if flawed:
            self.flawed.add(place)

    def compose(self, events: Iterable[Any]) -> Any:
        self._events = iter(events)
        value = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse((), _line(event), "expected one YAML document, found a second one")
                    break
            elif isinstance(event, yaml.NodeEvent):
                value = self._node(event, ())
        return value

    def _node(self, event: Any, place: Place) -> Any:
        self.lines.setdefault(place, _line(event))
        if len(place) > _MAX_DEPTH:
            raise _TooDeepError(_line(event))
        self._refuse_decoration(event, place)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, place)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(place)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(place)
        return None  # an alias, refused above

    def _refuse_decoration(self, event: Any, place: Place) -> None:
        if isinstance(event, yaml.AliasEvent):
            self.refuse(place, _line(event), f"expected a value, found the YAML alias '*{event.anchor}'; write it out")
            return
        if event.anchor is not None:
            # The value itself is fine, and worth checking.
            text = f"expected a value, found the YAML anchor '&{event.anchor}' before it; leave it out"
            self.refuse(place, _line(event), text, flawed=False)
        if event.tag is not None:
            self.refuse(place, _line(event), f"expected a value, found the YAML tag {quoted(event.tag)}; leave it out")

    def _scalar(self, event: Any, place: Place) -> object:
        is_plain = event.implicit[0]
        value = resolve_plain(event.value) if is_plain else event.value
        if not isinstance(value, str):
            self.written[place] = event.value
        return value

    def _sequence(self, place: Place) -> list[Any]:
        items: list[Any] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, (*place, len(items))))
        return items

    def _mapping(self, place: Place) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, place)
            # What belongs to a key that is no text gets a place no key has.
            below = (*place, 0 if key is None else key)
            if key is None or key in mapping:
                self._node(next(self._events), below)  # read past it
                continue
            self.lines[below] = _line(event)
            mapping[key] = self._node(next(self._events), below)
        return mapping

    def _key(self, event: Any, place: Place) -> str | None:
        if not isinstance(event, yaml.ScalarEvent):
            self.refuse(place, _line(event), "expected text as a key, found something else", flawed=False)
            self._node(event, (*place, 0))
            return None
        key: str = event.value
        below = (*place, key)
        self._refuse_decoration(event, below)
        # Asked of the lines, since a first one that failed is in no mapping.
        if below in self.lines:
            first = self.lines[below]
            self.refuse(
                below,
                _line(event),
                f"expected each key once, found it again (first on line {first})",
                flawed=False,
            )
        return key


def _line(event: Any) -> int:
    line: int = event.start_mark.line + 1
    return line


def _read_regular_file(path: Path) -> bytes:
    """At most a byte more than we take. Non-blocking, since opening a named pipe would wait for a writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError("a folder" if stat.S_ISDIR(mode) else "a device, socket or pipe")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _unreadable(label: str, line: int, text: str) -> Document:
    return Document(label, None, mistakes=(Mistake(label, line, "", text),), flawed=frozenset({()}))


def _syntax_error(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """The line and the message for what the YAML parser refused."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.encode().count(b"\n", 0, error.position) + 1
        return line, "expected valid YAML, found a control character"
    problem = getattr(error, "problem", None) or "something else"
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return 0, f"expected valid YAML: {problem}"
    lines = text.splitlines()
    tabbed = mark.line < len(lines) and re.match(r" *\t", lines[mark.line])
    hint = "; indent with spaces, not tabs" if tabbed else ""
    return mark.line + 1, f"expected valid YAML: {problem}{hint}"


@cache
def _validator(name: str) -> Draft202012Validator:
    # Imported here: it takes longer than reading a hundred specs, and --help needs none.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))


def _unknown_key(document: Document, place: Place, known: Collection[str], guess: Collection[str]) -> Mistake:
    hint = did_you_mean(guess) or f"; the keys are {', '.join(known)}"
    return document.mistake(place, f"unknown key{hint}")


def _missing_keys(document: Document, place: Place, error: Any) -> Iterator[tuple[str, Mistake]]:
    for key in error.validator_value:
        if key not in error.instance:
            expected = error.schema["properties"][key]["title"]
            yield key, document.mistake((*place, key), f"expected {expected}, found nothing")


def _misfits(document: Document, place: Place, error: Any, advice: Advice) -> Iterator[Mistake]:
    if error.validator == "uniqueItems":
        items = error.instance
        for index, item in enumerate(items):
            # Of what is no text at all, it is enough to say that.
            if isinstance(item, str) and item in items[:index]:
                yield document.mistake((*place, index), f"expected each only once, found {quoted(item)} again")
        return
    expected = error.schema["title"]
    if "propertyNames" in error.absolute_schema_path:
        yield document.mistake((*place, error.instance), f"expected {expected}, found that key")
    elif error.validator == "not" and isinstance(
        error.instance, dict
    ):  # keys that exclude each other; the title says which
        yield document.mistake(place, f"expected {expected}")
    elif error.validator == "oneOf" and isinstance(error.instance, dict):
        yield document.mistake(place, f"expected {expected}, found {_keys_of(error.instance)}")
    elif not document.is_flawed(place):
        written = document.written.get(place, "")
        found = "an empty file" if place == () and error.instance is None else _describe(error.instance, written)
        types = "boolean" if True in error.schema.get("enum", ()) else error.schema.get("type", ())
        wanted = frozenset([types] if isinstance(types, str) else types)
        hint = _hint(error.instance, written, wanted, error.schema.get("pattern", ""))
        if len(place) == 1 and (known := advice.values.get((str(place[0]), written or str(error.instance)))):
            hint = f"; {known}"
        yield document.mistake(place, f"expected {expected}, found {found}{hint}")


def _keys_of(mapping: Mapping[str, object]) -> str:
    return f"one with {', '.join(map(quoted, list(mapping)[:10]))}" if mapping else "an empty one"


def _describe(value: object, written: str) -> str:
    match value:
        case str():
            return quoted(value)
        case bool():
            return f"the boolean {written or str(value).lower()}"
        case int() | float():
            return f"the number {written or value}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return "nothing"


def _hint(value: object, written: str, wanted: frozenset[str], pattern: str) -> str:
    """How to write it instead, where what was meant is clear."""
    if "string" in wanted and isinstance(value, (bool, int, float)) and written and re.search(pattern, written):
        return f"; quote it: '{written}'"
    if "array" in wanted and "string" not in wanted and isinstance(value, str):
        return f"; write [{value}]" if _PLAIN_KEY.fullmatch(value) else "; write a list"
    if isinstance(value, str):
        if "boolean" in wanted and value.casefold() in _YES | _NO:
            return f"; write {'true' if value.casefold() in _YES else 'false'}"
        if "string" not in wanted and wanted & {"integer", "number"} and isinstance(resolve_plain(value), (int, float)):
            return f"; write {value} without quotes"
    return ""
