"""What an image expects of its instance, by its configuration: for whoever adds it."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lxdocker.runtime.own_init import own_init
from lxdocker.runtime.render import parse_healthcheck
from lxdocker.source.oci import OciConfig
from lxdocker.text import one_line
from lxdocker.values import ImageName, ImageRef, RegistryRef

if TYPE_CHECKING:
    from lxdocker.docker.service import Service

_MOST = 50  # ports, volumes, variables
RELAYS = frozenset({"tini", "tini-static", "dumb-init", "docker-init", "catatonit"})
_INITS: Mapping[str, str] = {
    "systemd": "systemd",
    "s6-svscan": "s6",
    "s6-linux-init": "s6",
    "openrc-init": "OpenRC",
    "runit": "runit",
    "runit-init": "runit",
}
# They read commands from a terminal, and end at once without one.
_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "python", "python3", "node", "irb", "jshell", "julia", "php"})
# Variables without which an image does not start, which its configuration does not tell. By repository.
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "library/postgres": ("POSTGRES_PASSWORD",),
    "postgis/postgis": ("POSTGRES_PASSWORD",),
    "timescale/timescaledb": ("POSTGRES_PASSWORD",),
    "pgvector/pgvector": ("POSTGRES_PASSWORD",),
    "library/mysql": ("MYSQL_ROOT_PASSWORD",),
    "library/mariadb": ("MARIADB_ROOT_PASSWORD",),
    "library/percona": ("MYSQL_ROOT_PASSWORD",),
    "mssql/server": ("ACCEPT_EULA", "MSSQL_SA_PASSWORD"),
    "minio/minio": ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    "dpage/pgadmin4": ("PGADMIN_DEFAULT_EMAIL", "PGADMIN_DEFAULT_PASSWORD"),
    "library/couchdb": ("COUCHDB_USER", "COUCHDB_PASSWORD"),
}
# Images of linuxserver.io run as root unless these say otherwise.
_LINUXSERVER = ("PUID", "PGID")


@dataclass(frozen=True, slots=True)
class Expectations:
    """Text of the image is cleaned. ``init``: what its own init is, "" for none; ``must_be_pid_1``: whether that init
    works in no other place; ``ends_at_once``: whether its command is a shell that has no terminal.
    """

    command: str
    ports: tuple[str, ...]
    volumes: tuple[str, ...]
    variables: tuple[str, ...]  # that need a value
    user: str
    health: str
    init: str
    must_be_pid_1: bool
    ends_at_once: bool

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each, for people."""
        return [
            ("command", self.command or "none"),
            ("ports", " ".join(self.ports) or "none"),
            ("volumes", " ".join(self.volumes) or "none"),
            ("variables to set", " ".join(self.variables) or "none known"),
            ("user", self.user),
            ("health check", self.health or "none"),
            ("init", (f"{self.init}, as PID 1" if self.must_be_pid_1 else self.init) or "none"),
        ]


def expectations(ref: ImageRef, config: OciConfig) -> Expectations:
    """What an image expects."""
    health = parse_healthcheck(config.healthcheck, config.shell)
    init, must_be_pid_1 = _init(config)
    return Expectations(
        command=one_line(shlex.join(config.argv), 200),
        ports=_cleaned(config.exposed_ports),
        volumes=_cleaned(config.volumes),
        variables=_cleaned(_variables(ref, config)),
        user=one_line(config.user, 100) or "root",
        health=one_line(f"{shlex.join(health.command)} every {health.interval:g} s", 200) if health else "",
        init=init,
        must_be_pid_1=must_be_pid_1,
        ends_at_once=_ends_at_once(config),
    )


def comments(name: ImageName, found: Expectations) -> list[str]:
    """What a spec says before its keys."""
    lines = [f"{name}: written by 'lxdocker new'"]
    if found.command:
        lines.append(f"Runs: {found.command}")
    if found.ports:
        lines.append(f"Ports: {' '.join(found.ports)}")
    if found.volumes:
        lines.append(f"Data: {' '.join(found.volumes)}")
    if found.variables:
        lines.append(f"Needs {', '.join(f'environment.{variable}' for variable in found.variables)}")
    if found.health:
        lines.append(f"Health check: {found.health}")
    return [*lines, f"User: {found.user}"]


def keys(found: Expectations, own: Sequence[str] = (), given: Collection[str] = ()) -> list[str]:
    """Lines of a spec behind its image: what it needs, lines of its ``own``, and, as comments, what many want, except
    for keys that are ``given``.
    """
    lines = []
    if found.must_be_pid_1:
        lines += [f"# Its init has to be PID 1: {found.init}", "disable_supervisor: true"]
    elif found.init:
        lines.append(f"# Its init needs nothing: {found.init}")
    lines += [*own, "", "# More keys: docs/specs.md. Ports, volumes and secrets belong to the instance."]
    examples = {"environment": "{ TZ: Europe/Vienna }"}
    if not found.must_be_pid_1:
        examples = {"restart": "always", **({"restart_unhealthy": "true"} if found.health else {}), **examples}
    if found.ends_at_once:
        examples["cmd"] = "[sleep, infinity]"
    return [*lines, *(f"#{key}: {value}" for key, value in examples.items() if key not in given)]


def service(name: str, ref: ImageRef, found: Expectations, config: OciConfig, pool: str) -> Service:
    """An instance with all that the image expects: its ports on the same ports of the host, a volume for each."""
    from lxdocker.docker.draft import Draft  # which inspect doesn't need

    draft = Draft(name, Path("/"), Path("/"), pool)
    draft.image = str(ref)
    for text in found.variables:
        draft.variable("env", text)  # a value from where the commands are run
    for text in config.exposed_ports[:_MOST]:
        number, _, protocol = text.partition("/")
        draft.port("expose", f"{number}:{number}/{protocol or 'tcp'}")
    for path in config.volumes[:_MOST]:
        draft.volume("volume", "", path)
    return draft.done()


def _cleaned(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one_line(text, 200) for text in texts[:_MOST])


def _variables(ref: ImageRef, config: OciConfig) -> tuple[str, ...]:
    empty = [name for name, value in config.env if not value and _is_name(name)]
    known: list[str] = []
    if isinstance(ref, RegistryRef):
        known += _REQUIRED.get(ref.repository, ())
        if ref.repository.startswith("linuxserver/"):
            known += _LINUXSERVER
    set_already = {name for name, value in config.env if value}
    return tuple(name for name in dict.fromkeys([*known, *empty]) if name not in set_already)


def _is_name(text: str) -> bool:
    return text.isascii() and text.isidentifier()


def _init(config: OciConfig) -> tuple[str, bool]:
    """The name of the image's init, and whether it must be PID 1."""
    program = own_init(config)
    if program is None:
        # Behind a shell, as in ["/bin/sh", "-c", "exec /init"].
        words = [word for text in config.argv[1:] for word in text.split()]
        if "/init" in words and any(name.startswith("S6_") for name, _ in config.env):
            return "s6-overlay (/init)", True
        first = posixpath.basename(config.argv[0]) if config.argv else ""
        return (f"{first}, under lxdocker's own", False) if first in RELAYS else ("", False)
    name = _INITS.get(posixpath.basename(program), "")
    if not name and program == "/init":
        name = "s6-overlay" if any(key.startswith("S6_") for key, _ in config.env) else "its own init"
    return f"{name or 'systemd or alike'} ({program})", True


def _ends_at_once(config: OciConfig) -> bool:
    program = posixpath.basename(config.argv[0]) if config.argv else ""
    return program in _SHELLS and len(config.argv) == 1
