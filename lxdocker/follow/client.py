"""The user's ``lxc`` or ``incus``: the program, its configuration, and through it the daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxdocker import log
from lxdocker.errors import LxdockerError, UsageError, remedy
from lxdocker.lxd.dialect import Dialect
from lxdocker.reasons import in_words
from lxdocker.serve.joining import FLAVOURS, Flavour

COMMAND_SECONDS = 60
# Failures to run a client or reach its daemon, by the client's words, and the way out.
_USUAL_FAILURES = (
    (
        ("is not a snap cgroup", "cannot track application process"),
        "snaps need a login session: log in as that user (ssh, sudo --login, machinectl shell), or for cron and systemd"
        " run once: loginctl enable-linger USER, and set XDG_RUNTIME_DIR=/run/user/UID",
    ),
    (
        ("connect: permission denied", "socket not accessible"),
        "run as root, or join the daemon's group (lxd or incus-admin), then log in again",
    ),
)

_PROGRAMS = ("lxc", "incus")


@dataclass(frozen=True, slots=True)
class Client:
    """The user's ``lxc`` or ``incus``."""

    program: str
    folder: Path  # of its configuration

    @classmethod
    def find(cls, wanted: str | None, environ: Mapping[str, str]) -> Client:
        """The client of that name, or the only one installed. Raises UsageError."""
        if wanted not in {None, *_PROGRAMS}:
            raise UsageError(f"no such client: {wanted}", "", "--client takes lxc or incus")
        found = [name for name in _PROGRAMS if shutil.which(name)]
        if wanted is not None and wanted not in found:
            raise UsageError(f"no {wanted} on this host", "", "install it, or name the other with --client")
        if wanted is None and len(found) != 1:
            raise UsageError(
                "this host has both lxc and incus" if found else "this host has neither lxc nor incus",
                "",
                "choose with --client lxc or --client incus" if found else "install LXD or Incus first",
            )
        program = wanted or found[0]
        path = shutil.which(program) or program
        named = environ.get("INCUS_CONF" if program == "incus" else "LXD_CONF")
        flavour = _flavour(program, path)
        return cls(path, Path(named) if named else Path(environ.get("HOME", "/")) / flavour.folder)

    @property
    def name(self) -> str:
        return Path(self.program).name

    def run(self, *arguments: str) -> str:
        """Raises LxdockerError with the client's own words."""
        argv = [self.program, *arguments]
        log.command(argv)
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LxdockerError(f"{self.name} {' '.join(arguments)} failed", in_words(error)) from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip().removeprefix("Error: ")
            raise LxdockerError(f"{self.name} {' '.join(arguments)} failed", said, remedy(said, _USUAL_FAILURES))
        return done.stdout

    def query(self, method: str, path: str, body: Any = None) -> Any:
        """The daemon's answer, once it has finished. Raises LxdockerError with its own words."""
        content = [] if body is None else ["--data", json.dumps(body)]
        what = f"{self.name} query --request {method} {path}"
        try:
            # Its commands differ between versions; the API's requests do not.
            said = self.run("query", "--wait", "--request", method, *content, path)
            return json.loads(said) if said.strip() else None
        except ValueError as error:
            raise LxdockerError(f"no JSON from {what}", in_words(error)) from error

    def dialect(self) -> Dialect | None:
        """Of the daemon that commands go to; None where none answers, as on a host with only a client."""
        try:
            return Dialect.of(self.query("GET", "/1.0"))
        except (LxdockerError, AttributeError):
            return None

    def address_of(self, remote: str) -> str | None:
        """The URL of a remote; None for no such remote."""
        try:
            remotes: dict[str, dict[str, Any]] = json.loads(self.run("remote", "list", "--format", "json"))
            # LXD writes Addr, Incus addr.
            return next((str(v) for k, v in remotes.get(remote, {}).items() if k.lower() == "addr"), None)
        except (ValueError, AttributeError) as error:
            raise LxdockerError(f"no list of remotes from {self.name} remote list", in_words(error)) from error


def _flavour(program: str, path: str) -> Flavour:
    snap = "/snap/" in path or "/snap/" in os.path.realpath(path)
    fitting = [flavour for flavour in FLAVOURS if flavour.program == program]
    return next((flavour for flavour in fitting if flavour.folder.startswith("snap/") == snap), fitting[0])
