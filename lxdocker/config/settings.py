"""Settings: flags before the environment before a configuration file before defaults.

``schema/config.schema.json`` says which settings there are and what they hold, whichever way they are given.
A new setting takes its entry there and a field of Settings.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lxdocker.config import yamlfile
from lxdocker.config.yamlfile import Document
from lxdocker.errors import Mistake
from lxdocker.files.seen import exists, is_dir
from lxdocker.values import home_folder, parse_registry_host

SCHEMA = "config.schema.json"
SYSTEM_CONFIG = Path("/etc/lxdocker/config.yaml")
SYSTEM_SPECS = Path("/etc/lxdocker/images.d")
SYSTEM_TREE = Path("/var/lib/lxdocker/tree")
SYSTEM_TLS = Path("/var/lib/lxdocker/tls")
SYSTEM_IMPORT = Path("/var/lib/lxdocker/import")
SYSTEM_CHECKOUT = Path("/var/lib/lxdocker/specs")
SYSTEM_CLIENT = Path("/var/lib/lxdocker/client")

_PREFIX = "LXDOCKER_"
_CONFIG_VARIABLE = "LXDOCKER_CONFIG"
# For the project's own tests; and in instances that lxdocker made (it may run in one).
_NOT_SETTINGS = ("LXDOCKER_TEST_", "LXDOCKER_ENVFILE")
# Flags that are not just the setting's name.
_FLAGS = {
    "insecure_registries": "--insecure-registry",
    "builder_from": "--from",
    "tls_names": "--name",
    "lxd": "--remote",
}


_LOGIN = re.compile(r"(://)[^/@\s]*@")
_SERVER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*")


def _default_jobs() -> int:
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command works with. Paths are absolute; None leaves the choice to LXD's profiles."""

    specs: Path  # folder of specs
    tree: Path  # folder of the published simplestreams tree
    config: Path | None = None  # the configuration file that was read
    specs_repository: str | None = None  # URL of a git repository
    specs_branch: str | None = None
    specs_signers: Path | None = None  # keys, one of which has to have signed the commit
    lxd: str | None = None  # URL of an LXD, or a remote of lxc; None for this host's
    client_dir: Path | None = None  # the certificate that another host's LXD knows this one by, and LXDs' own
    target: str | None = None  # member of a cluster, or @GROUP, for builders
    project: str = "default"  # LXD project the images go to
    builder_project: str = "lxdocker"  # LXD project the builders live in
    pool: str | None = None  # LXD storage pool of builders and layer cache
    network: str | None = None  # LXD network of builders
    jobs: int = field(default_factory=_default_jobs)  # images built side by side
    compression_level: int = 3  # zstd, 1 to 22
    insecure_registries: tuple[str, ...] = ()  # HOST or HOST:PORT
    keep_versions: int = 3  # per image, in the published tree
    keep_days: float = 0  # younger versions stay, too
    grace_hours: float = 48
    deltas: bool = False  # publish differences between versions
    builder_from: Literal["image", "mmdebstrap"] = "image"
    builder_server: str = "https://images.lxd.canonical.com"
    builder_base: str = "debian/13"  # alias on builder_server
    builder_max_age_days: int = 30
    build_timeout: int = 1800  # seconds
    stall_timeout: int = 60  # seconds
    image_size_limit: str | None = None  # as LXD takes sizes
    builder_memory: str | None = None  # LXD's limits.memory
    listen: str = ":8444"  # ADDRESS:PORT of the server
    tls_dir: Path | None = None  # folder of the certificate that the server makes itself
    tls_cert: Path | None = None  # the user's own certificate (chain), PEM
    tls_key: Path | None = None
    tls_names: tuple[str, ...] = ()  # more names and addresses of this host
    users: Path | None = None  # who may read the tree; everybody, if there is none
    stop_timeout: int = 60  # seconds that running downloads have to finish
    connections_per_client: int = 250  # of the server, for each address
    import_dir: Path | None = None  # what a follower fetches lies there until it is in the store
    on_change: str | None = field(default=None, repr=False)  # a command or a URL, which may hold a login
    on_failure: str | None = field(default=None, repr=False)
    hook_timeout: int = 60  # seconds
    metrics_file: Path | None = None  # each sync writes its figures there, for node-exporter


def size_in_bytes(text: str) -> int:
    """A size that fits the schema, such as ``20GiB``."""
    number = text.rstrip("kKMGTPiB")
    unit = text[len(number) : -1]
    return int(number) * int((1024 if unit.endswith("i") else 1000) ** " KMGTP".index((unit[:1] or " ").upper()))


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings in force. ``flags`` are named like the fields, ``config`` among them.

    A flag that is None or an empty list was not given, nor was a variable that is empty. Lists are
    not merged: the first source that has one decides. Relative paths are relative to the working
    folder, those in a configuration file to that file; ``~`` is the user's home folder.
    Raises SpecError with all mistakes of all sources.
    """
    return _gathered(flags, environ)[0]


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting in force, and where it comes from."""

    name: str
    value: object  # as Settings has it
    origin: Literal["flag", "variable", "file", "default"]
    where: str  # --jobs, LXDOCKER_JOBS or FILE:LINE; empty for a default


def explain(flags: Mapping[str, object], environ: Mapping[str, str]) -> list[Effective]:
    """Every setting, in the order of the schema; before them ``config``, the file that was read. What a value has of
    secrets is left out. As load() otherwise.
    """
    settings, sources = _gathered(flags, environ)
    nothing: _Source = ("default", "")
    if flags.get("config"):
        sources["config"] = ("flag", "--config")
    elif environ.get(_CONFIG_VARIABLE):
        sources["config"] = ("variable", _CONFIG_VARIABLE)
    return [
        Effective(name, _without_secrets(name, getattr(settings, name)), *sources.get(name, nothing))
        for name in ("config", *_properties())
    ]


def _without_secrets(name: str, value: object) -> object:
    """URLs without their logins; of a setting that is ``writeOnly`` in the schema, no more than its URL's server."""
    if not isinstance(value, str):
        return value
    value = _LOGIN.sub(r"\1***@", value)
    if not _properties().get(name, {}).get("writeOnly"):
        return value
    return f"{server[0]}/***" if (server := _SERVER.match(value)) else "***"


_Source = tuple[Literal["flag", "variable", "file", "default"], str]


def _gathered(flags: Mapping[str, object], environ: Mapping[str, str]) -> tuple[Settings, dict[str, _Source]]:
    """The settings in force, and where those come from that are not defaults."""
    home = home_folder(environ)
    config = _config_file(flags, environ, home)
    values: dict[str, Any] = {}
    sources: dict[str, _Source] = {}
    mistakes: list[Mistake] = list(_unknown_variables(environ))
    layers: list[tuple[Literal["flag", "variable", "file"], Document, Path]] = [
        ("variable", _from_environment(environ), Path.cwd()),
        ("flag", _from_flags(flags), Path.cwd()),
    ]
    if config:
        layers.insert(0, ("file", _from_file(config), config.parent))
    for origin, document, folder in layers:
        if document.value == {} and not document.mistakes:
            continue  # the usual case, which needs no schema checker to be loaded
        found = [*yamlfile.check(document, SCHEMA), *_bad_registries(document), *_bad_hooks(document)]
        mistakes += found
        if not found:
            values |= {key: _typed(key, value, folder, home) for key, value in document.value.items()}
            sources |= {key: (origin, _where(document, key)) for key in document.value}
    if mistakes:
        raise yamlfile.spec_error("the settings", mistakes, "docs/settings.md describes every setting")
    settings = Settings(
        **{
            "specs": checkout(environ) if "specs_repository" in values else _default_specs(environ, home),
            "tree": _default_data(environ, home, SYSTEM_TREE),
            "tls_dir": _default_data(environ, home, SYSTEM_TLS),
            "import_dir": _default_data(environ, home, SYSTEM_IMPORT),
            "client_dir": _default_data(environ, home, SYSTEM_CLIENT),
            "config": config,
            **values,
        },
    )
    return settings, sources


def _where(document: Document, key: str) -> str:
    """How a person finds it."""
    return document.names.get(key) or f"{document.label}:{document.lines[key,]}"


def closed_files(flags: Mapping[str, object], environ: Mapping[str, str]) -> list[Path]:
    """Configuration files in the usual places that would count if this user could read them."""
    if flags.get("config") or environ.get(_CONFIG_VARIABLE):
        return []
    closed: list[Path] = []
    for path in _usual_files(environ, home_folder(environ)):
        if os.access(path, os.R_OK):
            break
        closed.append(path)
    return closed


def _config_file(flags: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Path | None:
    """The file to read: one that is named must be there and readable, the usual ones need not."""
    named = flags.get("config") or environ.get(_CONFIG_VARIABLE)
    if named:
        return _absolute(str(named), Path.cwd(), home)
    return next((path for path in _usual_files(environ, home) if os.access(path, os.R_OK)), None)


def _usual_files(environ: Mapping[str, str], home: Path) -> list[Path]:
    candidates = (user_folder(environ, home) / SYSTEM_CONFIG.name, SYSTEM_CONFIG)
    return [path for path in candidates if exists(path)]


def _from_file(path: Path) -> Document:
    document = yamlfile.read(path, str(path))
    # A file with nothing but comments sets nothing.
    return replace(document, value={}) if document.value is None and not document.mistakes else document


def _from_environment(environ: Mapping[str, str]) -> Document:
    keys = {key: f"{_PREFIX}{key.upper()}" for key in _properties()}
    values = {key: _from_text(key, environ[name]) for key, name in keys.items() if environ.get(name)}
    return Document("", values, names=keys)


def _from_flags(flags: Mapping[str, object]) -> Document:
    keys = {key: _FLAGS.get(key, f"--{key.replace('_', '-')}") for key in _properties()}
    if strangers := flags.keys() - keys.keys() - {"config"}:
        raise ValueError(f"not settings: {', '.join(sorted(strangers))}")  # the caller's mistake, not the user's
    values = {}
    for key in keys:
        value = flags.get(key)
        if isinstance(value, Path):
            value = str(value)
        elif isinstance(value, (list, tuple)):
            value = list(value) or None
        if value is not None:
            values[key] = value
    return Document("", values, names=keys)


def _from_text(key: str, text: str) -> object:
    """A variable's text as the value a file would have."""
    kind = _properties()[key]["type"]
    if kind == "array":
        return [item.strip() for item in text.split(",") if item.strip()]
    return text if kind == "string" else yamlfile.resolve_plain(text.strip())


def _typed(key: str, value: Any, folder: Path, home: Path) -> object:
    """A value that fits the schema, as Settings holds it."""
    described = _properties()[key]
    if described.get("format") == "path":
        return _absolute(value, folder, home)
    if described["type"] == "array":
        return tuple(map(parse_registry_host, value) if key == "insecure_registries" else value)
    return int(value) if described["type"] == "integer" else value  # 3.0 is an integer to JSON


def _properties() -> dict[str, dict[str, Any]]:
    properties: dict[str, dict[str, Any]] = yamlfile.schema(SCHEMA)["properties"]
    return properties


def _bad_registries(document: Document) -> Iterator[Mistake]:
    key = "insecure_registries"
    registries = document.value.get(key) if isinstance(document.value, dict) else None
    for index, registry in enumerate(registries if isinstance(registries, list) else []):
        if isinstance(registry, str):
            try:
                parse_registry_host(registry)
            except ValueError as error:
                yield document.mistake((key, index), str(error))


def _bad_hooks(document: Document) -> Iterator[Mistake]:
    """Commands that can't be split into words, and URLs without a host. Their text is not quoted: it may be secret."""
    for key in ("on_change", "on_failure"):
        hook = document.value.get(key) if isinstance(document.value, dict) else None
        if not isinstance(hook, str):
            continue
        if "\0" in hook:
            yield document.mistake((key,), "a command has no NUL characters")
            continue
        if re.match("https?:/", hook.strip(), re.IGNORECASE):
            if not re.fullmatch(r"https?://[^\s/]\S*", hook.strip(), re.IGNORECASE):
                yield document.mistake((key,), "not a URL such as https://HOST/PATH")
            continue
        try:
            words = shlex.split(hook)
        except ValueError as error:
            yield document.mistake((key,), f"cannot split the command: {str(error).lower()}")
        else:
            if not words or not words[0]:
                yield document.mistake((key,), "the command is empty")


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[Mistake]:
    """A misspelt variable would silently do nothing."""
    known = {"CONFIG", "LOG", *(key.upper() for key in _properties())}
    for name in environ:
        # Guessed without the prefix, which would make any two names look alike.
        word = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and word not in known and not name.startswith(_NOT_SETTINGS):
            hint = yamlfile.did_you_mean([f"{_PREFIX}{guess}" for guess in yamlfile.closest(word, known)])
            yield Mistake("", 0, name, f"unknown variable{hint}")


def _absolute(text: str, folder: Path, home: Path) -> Path:
    if text == "~" or text.startswith("~/"):
        text = f"{home}{text[1:]}"
    return (folder / text).absolute()


def spec_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the folder of specs is looked for, unless it is named: the first one that is there."""
    return _spec_folders(environ, home_folder(environ))


def _spec_folders(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    return (Path.cwd() / SYSTEM_SPECS.name, user_folder(environ, home) / SYSTEM_SPECS.name, SYSTEM_SPECS)


def user_folder(environ: Mapping[str, str], home: Path) -> Path:
    """Where a user's own configuration and specs are."""
    return _xdg(environ, "XDG_CONFIG_HOME", home / ".config") / "lxdocker"


def _default_specs(environ: Mapping[str, str], home: Path) -> Path:
    """Where there is none, the folder that `lxdocker init` would make."""
    folders = _spec_folders(environ, home)
    there = next((folder for folder in folders if is_dir(folder)), None)
    return there or folders[-1 if os.geteuid() == 0 else -2]


def checkout(environ: Mapping[str, str]) -> Path:
    """The specs of ``specs_repository``."""
    return _default_data(environ, home_folder(environ), SYSTEM_CHECKOUT) / "current"


def _default_data(environ: Mapping[str, str], home: Path, system: Path) -> Path:
    """Root's place for data, and the same name among the data of another user."""
    if os.geteuid() == 0:
        return system
    return _xdg(environ, "XDG_DATA_HOME", home / ".local/share") / "lxdocker" / system.name


def _xdg(environ: Mapping[str, str], name: str, default: Path) -> Path:
    """XDG's base folders; the specification has relative ones ignored."""
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else default
