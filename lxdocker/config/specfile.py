"""New files in the folder of specs, and the configuration file; nothing is ever overwritten."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from lxdocker.config import inherit, yamlfile
from lxdocker.config.resources import resource
from lxdocker.config.settings import SCHEMA as SETTINGS_SCHEMA
from lxdocker.config.spec import SCHEMA, SUFFIXES, read_specs
from lxdocker.errors import SpecError, UsageError
from lxdocker.files import durable
from lxdocker.files.seen import exists
from lxdocker.values import ImageName


def schema_path() -> Path:
    """Where editors find the schema of specs."""
    return resource("schema", SCHEMA)


def path_for(folder: Path, name: ImageName, instead: str = "give another name: lxdocker new NAME IMAGE") -> Path:
    """Where the spec of a new image goes. ``instead``: what to do if it can't go there.

    Raises UsageError if there is one already, if another image has that name as an alias, or if it is no image's.
    """
    if inherit.is_base(f"{name}.yaml"):
        raise UsageError(
            f"name is taken: {name}",
            f"{name}.yaml holds keys that other specs extend, and makes no image",
            "give another name: lxdocker new NAME IMAGE",
        )
    for suffix in SUFFIXES:
        there = folder / f"{name}{suffix}"
        if there.is_symlink() or exists(there):
            raise UsageError(f"spec exists already: {name}", str(there), f"edit it, or {instead}")
    try:
        owners = [spec.name for spec in read_specs(folder).specs if name.value in spec.aliases]
    except SpecError:  # no folder yet
        owners = []
    if owners:
        raise UsageError(
            f"name is taken: {name}",
            f"it is an alias of {owners[0]}, in {folder}",
            instead,
        )
    return folder / f"{name}.yaml"


def make_folder(folder: Path) -> bool:
    """Makes a folder that everybody can read, and its parents. Returns whether it was not there.

    Raises UsageError where that can't be.
    """
    missing = [one for one in (folder, *folder.parents) if not exists(one)]
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            one.chmod(0o755)
        folder.mkdir(exist_ok=True)  # fails if something else has that name
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return bool(missing)


def write_new(path: Path, text: str) -> None:
    """Writes a file that is not there. Raises UsageError where it can't be written, or is there."""
    try:
        durable.write_new(path, text.encode(), 0o644)
        durable.sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {path}", error.strerror or str(error), "run this as root, or choose a folder with --specs DIR"
    )


def configuration() -> str:
    """A configuration file that names every setting and sets none."""
    return "\n".join(
        [
            "# Settings of lxdocker: 'lxdocker config' shows those in force, docs/settings.md describes them.",
            f"# yaml-language-server: $schema={resource('schema', SETTINGS_SCHEMA)}",
            *_settings(),
            "",
        ]
    )


def _settings() -> Iterator[str]:
    for key, described in yamlfile.schema(SETTINGS_SCHEMA)["properties"].items():
        yield ""
        yield from (f"# {line}" for line in textwrap.wrap(described["description"], 100))
        example = described["default"] if "default" in described else described["examples"][0]
        yield f"#{key}: {_written(example)}"


def _written(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_written, value))}]"
        case str() if not value.replace("/", "").replace(".", "").replace("-", "").isalnum():
            return "'" + value.replace("'", "''") + "'"
    return str(value)
