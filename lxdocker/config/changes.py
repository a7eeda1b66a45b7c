"""What a spec changes in its image: values, made of keys that the schema has checked.

Only ``packages`` and ``run`` execute anything of the image, and only in a builder. A key of the image's configuration
(``environment``, ``cmd``, ...) is a field of Overrides with the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lxdocker.config import sources
from lxdocker.config.sources import Source
from lxdocker.config.yamlfile import Document, Place
from lxdocker.errors import Mistake
from lxdocker.files.seen import is_file
from lxdocker.text import one_line

if TYPE_CHECKING:
    import jinja2  # which few specs need

# What lxdocker itself gives to templates.
GIVEN = ("name", "image", "version")
# LXD writes these into every instance.
_LXD_WRITES = ("/etc/hostname", "/etc/hosts")

_SMALL = 4 << 20  # bytes

Words = tuple[str, ...]
Command = str | Words  # text for a shell, or arguments


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file, folder or link to be put into the image, or removed from it. One of the first six is set."""

    path: str
    content: str | None = None
    template: str | None = None
    source: Source | None = None
    folder: bool = False
    symlink: str | None = None
    absent: bool = False
    append: bool = False
    mode: str = ""  # octal; "" for the default
    owner: str = ""  # a name or number; "" for the default
    group: str = ""
    place: str = field(default="", compare=False)  # for messages: nginx.yaml:12: files['/etc/x']


@dataclass(frozen=True, slots=True)
class Packages:
    """What the image's own package manager installs and removes."""

    install: Words = ()
    remove: Words = ()
    place: str = field(default="", compare=False)

    def __bool__(self) -> bool:
        return bool(self.install or self.remove)


@dataclass(frozen=True, slots=True)
class Step:
    """A command that is run in the image."""

    command: Command
    user: str = ""
    network: bool = False
    timeout: int = 600  # seconds
    secrets: tuple[tuple[str, Path], ...] = ()  # name -> file of this host; its content is no input of the image
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A layer on this host's disk."""

    path: Path  # absolute, without links
    sha256: str  # hex
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Template:
    """A file that LXD writes into instances (LXD's doc/image_format.md)."""

    path: str
    content: str
    when: Words
    create_only: bool = False
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HealthOverride:
    """None: as the image has it. Times in seconds."""

    test: Words | None = None  # as in Docker's HealthConfig
    interval: float | None = None
    timeout: float | None = None
    start_period: float | None = None
    start_interval: float | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """Of the image's configuration. None, or nothing: as the image has it."""

    environment: tuple[tuple[str, str | None], ...] = ()  # None removes a variable
    entrypoint: Command | None = None
    cmd: Command | None = None
    user: str | None = None
    working_dir: str | None = None
    volumes: Words | None = None
    ports: Words | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    stop_signal: str | None = None
    healthcheck: HealthOverride | str | None = None  # "none": no check


@dataclass(frozen=True, slots=True)
class Changes:
    """All of them, in the order in which they are made."""

    files: tuple[FileChange, ...] = ()
    packages: Packages = Packages()
    run: tuple[Step, ...] = ()
    overrides: Overrides = Overrides()
    layers: tuple[LayerFile, ...] = ()
    templates: tuple[Template, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def needs_network(self) -> bool:
        return bool(self.packages) or any(step.network for step in self.run)

    @property
    def is_small(self) -> bool:
        """Whether the image will hardly be larger than it was."""
        sizes = [file.source.size for file in self.files if file.source]
        return not self.executes and not self.layers and sum(sizes) <= _SMALL

    @property
    def executes(self) -> bool:
        """Whether anything of the image is run."""
        return bool(self.packages or self.run)


NO_CHANGES = Changes()


# The sources of a spec, as it writes them: each is read once.
Found = dict[str, Source]


def mistakes(document: Document, folder: Path, found: Found) -> Iterator[Mistake]:
    """What no schema can say of keys that fit it: sources, templates, what would have no effect. Adds the sources to
    ``found``.
    """
    values = document.value
    variables = frozenset(values.get("variables", {}))
    for path, entry in values.get("files", {}).items():
        place: Place = ("files", path)
        if path in _LXD_WRITES:
            why = f"expected another path, found {path!r}, which LXD writes in every instance; use templates"
            yield document.mistake(place, why)
        if "source" in entry:
            yield from _bad_source(document, (*place, "source"), entry, folder, found)
        if "template" in entry:
            yield from _bad_template(document, (*place, "template"), entry["template"], variables)
    for path, entry in values.get("templates", {}).items():
        if "source" in entry:
            yield from _bad_text(document, ("templates", path, "source"), entry["source"], folder)
    for index, entry in enumerate(values.get("layers", ())):
        try:
            sources.find_file(entry["path"], folder)
        except ValueError as error:
            yield document.mistake(("layers", index, "path"), f"{error}: {entry['path']!r}")
    for index, entry in enumerate(values.get("run", ())):
        for name, text in entry.get("secrets", {}).items() if isinstance(entry, dict) else ():
            if not is_file(folder / text):
                # Cut, since it may be the secret itself.
                why = f"expected a file, found none: {one_line(str(folder / text), 200)}"
                yield document.mistake(("run", index, "secrets", name), why)


def _bad_source(
    document: Document, place: Place, entry: Mapping[str, Any], folder: Path, found: Found
) -> Iterator[Mistake]:
    text = entry["source"]
    try:
        if "append" in entry:
            sources.find_file(text, folder)
        if text not in found:
            found[text] = sources.find(text, folder)
    except ValueError as error:
        yield document.mistake(place, f"{error}: {text!r}")


def _bad_text(document: Document, place: Place, text: str, folder: Path) -> Iterator[Mistake]:
    try:
        sources.find_file(text, folder).read_text("utf-8")
    except UnicodeDecodeError:
        yield document.mistake(place, f"expected UTF-8 text, found another kind of file: {text!r}")
    except ValueError as error:
        yield document.mistake(place, f"{error}: {text!r}")


def _bad_template(document: Document, place: Place, text: str, variables: frozenset[str]) -> Iterator[Mistake]:
    import jinja2.meta

    try:
        used = jinja2.meta.find_undeclared_variables(_environment().parse(text))
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None)
        yield document.mistake(place, f"expected a Jinja template, found in its line {line}: {error}")
        return
    known = {*variables, *GIVEN}
    for name in sorted(used - known):
        text = f"expected variables that the spec has ({', '.join(sorted(known))}), found {name!r}"
        yield document.mistake(place, text)


def changes(document: Document, folder: Path, found: Found) -> Changes:
    """From a document without mistakes, whose sources mistakes() has found."""
    values = document.value
    return Changes(
        files=tuple(_file(document, path, entry, found) for path, entry in sorted(values.get("files", {}).items())),
        packages=_packages(document),
        run=tuple(_step(document, index, entry, folder) for index, entry in enumerate(values.get("run", ()))),
        overrides=overrides(values),
        layers=tuple(
            LayerFile(sources.find_file(entry["path"], folder), entry["sha256"], _placed(document, ("layers", index)))
            for index, entry in enumerate(values.get("layers", ()))
        ),
        templates=tuple(_template(path, entry, folder) for path, entry in sorted(values.get("templates", {}).items())),
        variables=tuple(sorted(values.get("variables", {}).items())),
    )


def _placed(document: Document, place: Place) -> str:
    return str(document.mistake(place, "")).rstrip(": ")


def _file(document: Document, path: str, entry: Mapping[str, Any], found: Found) -> FileChange:
    values = {**entry, "owner": str(entry.get("owner", "")), "group": str(entry.get("group", ""))}
    if "source" in entry:
        values["source"] = found[entry["source"]]
    return FileChange(path, **values, place=_placed(document, ("files", path)))


def _packages(document: Document) -> Packages:
    values = document.value.get("packages", {})
    lists = {key: tuple(values.get(key, ())) for key in ("install", "remove")}
    return Packages(**lists, place=_placed(document, ("packages",)))


def _step(document: Document, index: int, entry: Any, folder: Path) -> Step:
    values = entry if isinstance(entry, dict) else {"command": entry}
    secrets = tuple(sorted((name, folder.absolute() / text) for name, text in values.get("secrets", {}).items()))
    named = {key: values[key] for key in ("network", "timeout") if key in values}
    place = _placed(document, ("run", index))
    return Step(_command(values["command"]), str(values.get("user", "")), secrets=secrets, place=place, **named)


def _template(path: str, entry: Mapping[str, Any], folder: Path) -> Template:
    content = entry.get("content")
    if content is None:
        content = sources.find_file(entry["source"], folder).read_text("utf-8")
    properties = tuple(sorted(entry.get("properties", {}).items()))
    return Template(path, content, tuple(sorted(entry["when"])), entry.get("create_only", False), properties)


def overrides(values: Mapping[str, Any]) -> Overrides:
    """From a spec's keys, without mistakes."""
    named: dict[str, Any] = {one.name: values[one.name] for one in fields(Overrides) if one.name in values}
    for key in ("environment", "labels"):
        if key in named:
            named[key] = tuple(sorted(named[key].items()))
    for key in ("entrypoint", "cmd"):
        if key in named:
            named[key] = _command(named[key])
    for key in ("user", "stop_signal"):
        if key in named:
            named[key] = str(named[key])
    if "volumes" in named:
        named["volumes"] = tuple(sorted(named["volumes"]))
    if "ports" in named:
        named["ports"] = tuple(sorted(port if "/" in port else f"{port}/tcp" for port in map(str, named["ports"])))
    if isinstance(named.get("healthcheck"), dict):
        named["healthcheck"] = _health(named["healthcheck"])
    return Overrides(**named)


def _command(value: str | list[str]) -> Command:
    return value if isinstance(value, str) else tuple(value)


def _health(values: Mapping[str, Any]) -> HealthOverride:
    named = {key: _seconds(value) for key, value in values.items() if key not in {"test", "retries"}}
    test = values.get("test")
    words = ("CMD-SHELL", test) if isinstance(test, str) else tuple(test) if test else None
    return HealthOverride(test=words, retries=values.get("retries"), **named)


def _seconds(value: str | float) -> float:
    """``1m30s`` or a number of seconds, as the schema has them."""
    if not isinstance(value, str):
        return float(value)
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|h|m|s)", value))


def rendered(template: str, variables: Mapping[str, str]) -> str:
    """A file's text. Raises ValueError with the template's own reason."""
    import jinja2

    try:
        return _environment().from_string(template).render(variables)
    except (jinja2.TemplateError, ArithmeticError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _environment() -> jinja2.Environment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # Only text is made of a template: nothing that it says reaches Python's own objects.
    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
