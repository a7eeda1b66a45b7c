"""Specs: a folder of small YAML files, one per image, made into ImageSpecs.

``schema/image.schema.json`` says which keys there are and what they hold; what a schema can't say
(references, names, who claims an alias) is checked here. Scalars follow YAML 1.2: see
:mod:`lxdocker.config.yamlfile`.

A new key takes its entry in the schema and a field of Behaviour, or of ImageSpec with a line in ``_spec``:
CONTRIBUTING.md lists the rest. What changes the image itself is in :mod:`lxdocker.config.changes`, keys taken over from
other files are in :mod:`lxdocker.config.inherit`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lxdocker.config import changes, elsewhere, inherit, yamlfile
from lxdocker.config.changes import NO_CHANGES, Changes
from lxdocker.config.settings import checkout
from lxdocker.config.yamlfile import Advice, Document, Place
from lxdocker.errors import Mistake, SpecError, UsageError
from lxdocker.reasons import in_words
from lxdocker.values import ImageName, ImageRef, parse_image_ref

SCHEMA = "image.schema.json"
SUFFIXES = (".yaml", ".yml")
_ADVICE = Advice(elsewhere.KEYS, elsewhere.VALUES)
_CORRECT_ONE = "correct it; 'lxdocker validate' checks it again"
_CORRECT_ALL = "correct these lines; 'lxdocker validate' checks them again"


# Whether the image's command is to be PID 1; auto: if it is an init of its own (see runtime/own_init.py).
Supervision = bool | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the image runs; an instance can say otherwise (``user.lxdocker.*``)."""

    restart: str = "no"  # no, on-failure, on-failure:N or always
    restart_unhealthy: bool = False
    stop_grace: int = 30  # seconds between the stop signal and SIGKILL
    prelaunch: str = "optional"  # or required
    tmpfs: tuple[tuple[str, str], ...] = ()  # path -> off, on or a size as in tmpfs(5), sorted by path
    fill_volumes: bool = True  # with what the image has in their place, where they are empty
    umask: str = "0022"  # of the application, octal


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image somebody wants to have, as written in its file."""

    name: ImageName  # the file's name without extension
    image: ImageRef
    path: Path  # of the file; absolute
    disable_supervisor: Supervision
    aliases: tuple[str, ...]  # LXD aliases beside the name, as written
    properties: tuple[tuple[str, str], ...]  # LXD image properties, sorted by name
    behaviour: Behaviour = Behaviour()
    changes: Changes = NO_CHANGES


@dataclass(frozen=True, slots=True)
class BrokenSpec:
    """A file that can't be used. The image that was made from it stays as it is."""

    path: Path
    name: ImageName | None  # None: the file's name is no image's, so nobody can tell which one is meant
    error: SpecError

    @property
    def label(self) -> str:
        if self.name:
            return self.name.value
        return self.path.name if self.path.name.isprintable() else repr(self.path.name)


@dataclass(frozen=True, slots=True)
class SpecFolder:
    """What a folder of specs holds."""

    specs: tuple[ImageSpec, ...]  # sorted by name
    broken: tuple[BrokenSpec, ...] = ()  # sorted by file


def load_specs(folder: Path, places: Sequence[Path] = ()) -> tuple[ImageSpec, ...]:
    """The specs in ``folder``, sorted by name; none for an empty folder.

    Every ``*.yaml`` and ``*.yml`` counts, except dotfiles and files that others only extend; folders in it are not
    searched. ``places``: where the folder was looked for.
    Raises SpecError with all mistakes of all files, or for a folder that can't be read.
    """
    return _load(_files(folder, places), f"the specs in {folder}")


def read_specs(folder: Path, places: Sequence[Path] = ()) -> SpecFolder:
    """As load_specs(), but a file with mistakes stops only itself, and those that extend it. Of two that claim the same
    alias, both are broken: nobody can tell which one is right.

    Raises SpecError for a folder that can't be read.
    """
    files = _Files(_files(folder, places))
    good, broken = [], []
    flawed = files.mistakes()
    for label, mistake in files.disputed:
        flawed.setdefault(label, []).append(mistake)
    for path, document in files.specs:
        if found := flawed.get(document.label):
            error = yamlfile.spec_error(document.label, found, _CORRECT_ONE, files.paths)
            broken.append(BrokenSpec(path, _name_of(path), error))
        else:
            good.append(files.spec(path, document))
    return SpecFolder(tuple(sorted(good, key=lambda spec: spec.name)), tuple(broken))


def _name_of(path: Path) -> ImageName | None:
    try:
        return ImageName.parse(path.stem)
    except ValueError:
        return None


def _files(folder: Path, places: Sequence[Path] = ()) -> list[tuple[Path, str]]:
    try:
        names = sorted(path.name for path in folder.iterdir() if is_yaml(path.name))
    except OSError as error:
        do = "create it with 'lxdocker init', or choose another one with --specs DIR"
        if folder == checkout(os.environ):
            do = "fetch them with 'lxdocker sync', or choose a folder with --specs DIR"
        raise SpecError(
            f"cannot read the folder of specs: {folder}", f"{error.strerror or in_words(error)}{looked_in(places)}", do
        ) from error
    return [(folder / name, name) for name in names]


def spec_names(folder: Path) -> frozenset[str]:
    """The names that the files in ``folder`` give to images, right or wrong, without reading them.

    Raises SpecError for a folder that can't be read.
    """
    return frozenset(path.stem for path, _ in _files(folder) if is_spec(path.name))


def looked_in(places: Sequence[Path]) -> str:
    """The places that were searched for a folder of specs, as the end of a sentence."""
    return f"; looked for it in {', '.join(map(str, places))}" if len(places) > 1 else ""


def merged(errors: Sequence[SpecError]) -> SpecError:
    """The mistakes of several errors as one."""
    if len(errors) == 1:
        return errors[0]
    mistakes = dict.fromkeys(mistake for error in errors for mistake in error.mistakes)
    details = dict.fromkeys(line for error in errors for line in error.details.splitlines())
    return SpecError(f"{len(details)} mistakes in the specs", "\n".join(details), _CORRECT_ALL, mistakes)


def load_files(paths: Sequence[Path]) -> tuple[ImageSpec, ...]:
    """The specs in these files, sorted by name; what they claim is compared among them only.

    Raises SpecError with all mistakes of all files.
    """
    files = {path.absolute(): str(path) for path in paths}
    return _load(list(files.items()), "the specs")


def select(
    specs: Sequence[ImageSpec],
    names: Sequence[str],
    broken: Collection[BrokenSpec] = (),
    searched: Path | None = None,
) -> tuple[ImageSpec, ...]:
    """The specs of these names, in the specs' order; all of them without names. Those of broken files are known, too.

    Raises UsageError for names that no spec has. ``searched``: the folder of specs.
    """
    if not names:
        return tuple(specs)
    by_name = {spec.name.value: spec for spec in specs}
    known = {*by_name, *(spec.label for spec in broken)}
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if unknown:
        place = specs[0].path.parent if specs else searched
        folder = f"in {place}" if place else "at all"
        raise UsageError(
            f"no such spec: {', '.join(yamlfile.quoted(name) for name in unknown)}",
            "\n".join(_why_unknown(name, specs, folder) for name in unknown),
            f"available specs: {', '.join(by_name)}" if by_name else "write one: lxdocker add IMAGE",
        )
    return tuple(spec for spec in specs if spec.name.value in names)


def select_one(found: SpecFolder, name: str, searched: Path | None = None) -> ImageSpec:
    """The spec of this name. Raises UsageError if there is none, and SpecError for a broken one."""
    chosen = select(found.specs, [name], found.broken, searched)
    for spec in found.broken:
        if not chosen and spec.label == name:
            raise spec.error
    return chosen[0]


def _why_unknown(name: str, specs: Sequence[ImageSpec], folder: str) -> str:
    if inherit.is_base(f"{name.removesuffix('.yaml').removesuffix('.yml')}.yaml"):
        return f"{yamlfile.quoted(name)} makes no image: other specs extend it"
    owners = [spec.name.value for spec in specs if name in spec.aliases]
    hint = f"; it is an alias of {owners[0]}" if owners else ""
    wanted = Path(name).stem if name.endswith(SUFFIXES) else name
    guess = [] if owners else yamlfile.closest(wanted, [spec.name.value for spec in specs])
    return f"no {yamlfile.quoted(f'{name}.yaml')} {folder}{hint}{yamlfile.did_you_mean(guess)}"


def is_yaml(file_name: str) -> bool:
    """Whether a file of that name in a folder of specs is a spec, or something that specs extend."""
    return file_name.endswith(SUFFIXES) and not file_name.startswith(".")


def is_spec(file_name: str) -> bool:
    """Whether a file of that name in a folder of specs is one."""
    return is_yaml(file_name) and not inherit.is_base(file_name)


def _load(files: Sequence[tuple[Path, str]], what: str) -> tuple[ImageSpec, ...]:
    """``files``: paths and how messages call them."""
    read = _Files(files)
    mistakes = [mistake for found in read.mistakes().values() for mistake in found]
    if mistakes:
        resolution = _CORRECT_ONE if len(set(mistakes)) == 1 else _CORRECT_ALL
        raise yamlfile.spec_error(what, mistakes, resolution, read.paths)
    return tuple(sorted((read.spec(path, document) for path, document in read.specs), key=lambda spec: spec.name))


class _Files:
    """Specs, each with what it takes over from other files; those are read once."""

    def __init__(self, files: Sequence[tuple[Path, str]]) -> None:
        """``files``: paths and how messages call them."""
        self._read: dict[Path, Document] = {}
        self._sources: dict[str, changes.Found] = {}  # by the spec's label
        self.paths: dict[str, Path] = {}  # by label
        self.disputed: list[tuple[str, Mistake]] = []  # by the label of the other spec that makes the same claim
        self.bases = [self._document(path, label) for path, label in files if inherit.is_base(path.name)]
        self.specs = [
            (path, inherit.with_bases(path, self._document(path, label), self._document))
            for path, label in files
            if not inherit.is_base(path.name)
        ]

    def _document(self, path: Path, label: str) -> Document:
        key = path.absolute()
        if key not in self._read:
            self._read[key] = yamlfile.read(path, label)
            self.paths[self._read[key].label] = key
        return self._read[key]

    def spec(self, path: Path, document: Document) -> ImageSpec:
        """One of the specs, which has no mistakes."""
        return _spec(path, document, self._sources.get(document.label, {}))

    def mistakes(self) -> dict[str, list[Mistake]]:
        """All mistakes, by the label of the spec that they break, or of the file that specs extend."""
        claims = _Claims()
        found: dict[str, list[Mistake]] = {}
        for document in self.bases:
            found[document.label] = yamlfile.check(document, SCHEMA, _ADVICE, partial=True)
        # Names first: an alias that is some image's name is the alias's mistake, whichever file comes first.
        for path, document in self.specs:
            found[document.label] = list(claims.name(path, document))
        for path, document in self.specs:
            wrong = yamlfile.check(document, SCHEMA, _ADVICE)
            if not any(mistake.field == "image" for mistake in wrong):
                wrong += _bad_reference(path, document)
            if not wrong:
                wrong += changes.mistakes(
                    document, path.absolute().parent, self._sources.setdefault(document.label, {})
                )
            found[document.label] += wrong
            found[document.label] += claims.aliases(path.stem, document)
        self.disputed = claims.disputed
        return {label: mistakes for label, mistakes in found.items() if mistakes}


def _spec(path: Path, document: Document, found: changes.Found) -> ImageSpec:
    """From a file without mistakes. ``found``: its sources."""
    values = document.value
    return ImageSpec(
        name=ImageName.parse(path.stem),
        image=parse_image_ref(values["image"], relative_to=path.parent),
        path=path.absolute(),
        disable_supervisor=values.get("disable_supervisor", "auto"),
        aliases=tuple(values.get("aliases", ())),
        properties=tuple(sorted(values.get("properties", {}).items())),
        behaviour=_behaviour(values),
        changes=changes.changes(document, path.absolute().parent, found),
    )


def _behaviour(values: dict[str, Any]) -> Behaviour:
    named = {field.name: values[field.name] for field in fields(Behaviour) if field.name in values}
    if "tmpfs" in named:
        named["tmpfs"] = tuple(sorted(named["tmpfs"].items()))
    return Behaviour(**named)


def _bad_reference(path: Path, document: Document) -> Iterator[Mistake]:
    text = document.value.get("image") if isinstance(document.value, dict) else None
    if isinstance(text, str):
        try:
            parse_image_ref(text, relative_to=path.parent)
        except ValueError as error:
            yield document.mistake(("image",), str(error))


def _of_file(document: Document, text: str) -> Mistake:
    return Mistake(document.label, 0, "", text)


class _Claims:
    """Who has which name or alias: one image each, over all specs."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[Document, str]] = {}  # and the owner as messages say it
        self._places: dict[str, Place] = {}  # where the owner of an alias claims it
        self.disputed: list[tuple[str, Mistake]] = []  # an owner's label, and what another file claims, too

    def name(self, path: Path, document: Document) -> Iterator[Mistake]:
        if path.suffix not in SUFFIXES:
            if document.is_flawed(()):
                return  # a folder, or the name of an image: what is wrong with it has been said
            yield _of_file(document, f"expected a file called NAME.yaml, found {yamlfile.quoted(path.name)}")
            return
        try:
            ImageName.parse(path.stem)
        except ValueError as error:
            yield _of_file(document, str(error))
            return
        other, _ = self._owners.setdefault(path.stem, (document, f"the name of {document.label}"))
        if other is not document:
            found = f"found {other.label} for {path.stem!r} too; keep one of them"
            yield _of_file(document, f"expected one file for each image, {found}")
            found = f"found {document.label} for {path.stem!r} too; keep one of them"
            self.disputed.append((other.label, _of_file(other, f"expected one file for each image, {found}")))

    def aliases(self, name: str, document: Document) -> Iterator[Mistake]:
        aliases = document.value.get("aliases") if isinstance(document.value, dict) else None
        for index, alias in enumerate(aliases if isinstance(aliases, list) else []):
            if not isinstance(alias, str):
                continue  # which the schema has said
            place: Place = ("aliases", index)
            line = document.mistake(place, "").line
            owner, role = self._owners.setdefault(alias, (document, f"an alias in {document.label}:{line}"))
            claimed = self._places.setdefault(alias, place) if role.startswith("an alias") else None
            if owner is not document:
                text = f"expected an alias no other image has, found {yamlfile.quoted(alias)}, {role}"
                yield document.mistake(place, text)
                if claimed is not None:
                    other = f"an alias in {document.label}:{line}"
                    text = f"expected an alias no other image has, found {yamlfile.quoted(alias)}, {other}"
                    self.disputed.append((owner.label, owner.mistake(claimed, text)))
            elif alias == name:
                yield document.mistake(place, f"expected aliases beside the name, found the name {alias!r} itself")
