"""What the arguments of a command stand for: names of specs, files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxdocker.config.spec import (
    SUFFIXES,
    BrokenSpec,
    ImageSpec,
    SpecFolder,
    load_files,
    load_specs,
    merged,
    read_specs,
    select,
)
from lxdocker.config.yamlfile import quoted
from lxdocker.errors import SpecError, UsageError
from lxdocker.files.seen import exists, is_dir
from lxdocker.values import ImageName


def is_whole(arguments: Sequence[str], folder: Path) -> bool:
    """Whether the arguments name the whole ``folder`` of specs: none do, or one is the folder itself."""
    return not arguments or any(_same(Path(argument), folder) for argument in arguments)


def choose(found: SpecFolder, arguments: Sequence[str], folder: Path) -> tuple[ImageSpec, ...]:
    """The specs that the arguments name, in the specs' order.

    An argument is the name of a spec, a spec's file, or the ``folder`` of specs itself. Raises UsageError for unknown
    names, and for files and folders elsewhere, as an image belongs to the folder of its spec.
    """
    names = [
        _name_in(argument, folder) if _is_path(argument, found) else argument
        for argument in arguments
        if not _same(Path(argument), folder)
    ]
    chosen = select(found.specs, names, found.broken, folder)
    return found.specs if is_whole(arguments, folder) else chosen


def named(argument: str, folder: Path) -> ImageSpec | None:
    """The spec that an argument names, if one does: by its name, or by its file in ``folder``. No other is read.

    Raises SpecError for its mistakes, UsageError for a file elsewhere.
    """
    name = _name_in(argument, folder) if argument.endswith(SUFFIXES) else argument
    try:
        ImageName.parse(name)
    except ValueError:
        return None
    files = [path for path in (folder / f"{name}{suffix}" for suffix in SUFFIXES) if exists(path)]
    return load_files(files)[0] if files else None


def load_all(arguments: Sequence[str], folder: Path, places: Sequence[Path] = ()) -> tuple[ImageSpec, ...]:
    """The specs that the arguments name: those of ``folder`` by name, and any files and folders, wherever they are.

    The files are compared with each other, and those of each folder; without arguments, those of ``folder``. Raises
    SpecError with all mistakes, UsageError for an unknown name.
    """
    if not arguments:
        return load_specs(folder, places)
    files: list[Path] = []
    specs: list[ImageSpec] = []
    errors: list[SpecError] = []
    names: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if not _looks_like_path(argument) and not is_dir(path):
            names.append(argument)
        elif is_dir(path) and not argument.endswith(SUFFIXES):
            try:
                specs += load_specs(path)
            except SpecError as error:
                errors.append(error)
        else:
            files.append(path)
    if names:
        # By their names in the folder of specs: its other files may have mistakes.
        known = read_specs(folder, places)
        specs += select(known.specs, names, known.broken, folder)
        errors += [broken.error for broken in known.broken if broken.label in names]
    try:
        specs += load_files(files)
    except SpecError as error:
        errors.append(error)
    if errors:
        raise merged(errors)
    # The same file may have been named twice.
    return tuple(sorted({spec.path: spec for spec in specs}.values(), key=lambda spec: (spec.name, spec.path)))


def _is_path(argument: str, found: SpecFolder) -> bool:
    if _looks_like_path(argument):
        return True
    known = {*(spec.name.value for spec in found.specs), *map(_label, found.broken)}
    return argument not in known and is_dir(Path(argument))


def _label(broken: BrokenSpec) -> str:
    return broken.label


def _looks_like_path(argument: str) -> bool:
    return "/" in argument or argument in {".", ".."} or argument.endswith(SUFFIXES)


def _name_in(argument: str, folder: Path) -> str:
    """The name of the spec that a file of ``folder`` is."""
    path = Path(argument)
    name = path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES else path.name
    if _same(path.parent, folder) and not is_dir(path):
        return name
    if "/" not in argument and not os.path.lexists(path):
        return name  # nginx.yaml, seen from elsewhere
    if not os.path.lexists(path):
        there = ", ".join(_names(folder))
        raise UsageError(
            f"no such file or folder: {quoted(argument)}",
            f"the folder of specs is {folder}",
            f"available specs: {there}" if there else "name a spec, its file, or the folder of specs",
        )
    if is_dir(path):
        advice = f"to use that folder: --specs {argument}"
    else:
        advice = f"to use its folder: --specs {path.parent} {name}"
    raise UsageError(
        f"not in the folder of specs: {quoted(argument)}",
        f"the folder of specs is {folder}, and an image belongs to the folder of its spec",
        f"{advice}; or move the spec to {folder}",
    )


def _names(folder: Path) -> Iterator[str]:
    for spec in read_specs(folder).specs:
        yield spec.name.value


def _same(path: Path, folder: Path) -> bool:
    return path.resolve() == folder.resolve()
