"""The systemd units, sysusers.d and tmpfiles.d snippets, and the line for cron, as this host needs them.

The files themselves are in ``profiles/systemd``, ready for a package that installs lxdocker into /usr/bin. Rendering
replaces the program by its absolute path, and adapts the sandbox to folders and ports that the settings name.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lxdocker import log
from lxdocker.config.resources import resource
from lxdocker.config.settings import SYSTEM_CONFIG, SYSTEM_TLS, SYSTEM_TREE, Settings
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.files import durable, rights
from lxdocker.files.seen import exists, is_dir, is_file
from lxdocker.reasons import in_words

SYNC, TIMER, SERVE = "lxdocker-sync.service", "lxdocker-sync.timer", "lxdocker-serve.service"
UNIT_FOLDER = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/lxdocker.conf")
TMPFILES = Path("/etc/tmpfiles.d/lxdocker.conf")
# Where lxdocker's Debian package has the units.
PACKAGED = Path("/usr/lib/systemd/system")
# The first line of each file that install() writes, and may therefore replace.
MARK = "# Written by lxdocker."

_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_STATE = SYSTEM_TREE.parent
_COMMAND_SECONDS = 60
_ELSEWHERE = (
    "install it for all users: python3 -m venv /opt/lxdocker && /opt/lxdocker/bin/pip install 'lxdocker[serve]'"
)


@dataclass(frozen=True, slots=True)
class File:
    """A file to install: its absolute path, and its text."""

    path: Path
    text: str


def program(argv: Sequence[str] = sys.argv, executable: str = sys.executable) -> Path:
    """The absolute path of the ``lxdocker`` that runs. Links are kept: a package manager's survive updates.

    Raises LxdockerError where there is none, as with ``python -m lxdocker`` in a checkout.
    """
    called = shutil.which(argv[0]) if argv and Path(argv[0]).name == "lxdocker" else None
    for found in (called, str(Path(executable).parent / "lxdocker"), shutil.which("lxdocker")):
        if found and os.access(found, os.X_OK):
            return Path(found).absolute()
    raise LxdockerError("no program lxdocker", f"neither beside {executable} nor in PATH", "install lxdocker with pip")


def check_program(path: Path) -> None:
    """Raises UsageError for a program that other users could replace: root runs it."""
    for place in {path, path.resolve()}:
        try:
            rights.check(place.parent)
        except rights.UnsafeError as error:
            raise UsageError(f"root cannot run {path} from a timer", str(error), _ELSEWHERE) from error


def serve_obstacle(path: Path) -> str | None:
    """Why the server's own user can't run the program; None if it can."""
    for place in (path, path.resolve()):
        if home := next((home for home in _HOMES if place.is_relative_to(home)), None):
            return f"its user cannot run {place}, which is below {home}: {_ELSEWHERE}"
        closed = next((part for part in (place, *place.parents) if not part.stat().st_mode & 0o001), None)
        if closed:
            return f"its user cannot run {place}, since {closed} is closed to it: {_ELSEWHERE}"
    return None


def files(path: Path, settings: Settings) -> tuple[File, ...]:
    """All files for the program at ``path``, in the order in which they are needed."""
    config = settings.config if settings.config != SYSTEM_CONFIG else None
    own_tree = None if settings.tree.is_relative_to(_STATE) else settings.tree
    sync = _replace(_text(SYNC), "ExecStart", f"{_quoted(path)} sync -q")
    serve = _replace(_text(SERVE), "ExecStart", f"{_quoted(path)} serve")
    if config:
        sync = _add(sync, "WorkingDirectory", f"Environment={_quoted(f'LXDOCKER_CONFIG={config}')}")
    if config and not any(config.is_relative_to(home) for home in _HOMES):
        serve = _add(serve, "WorkingDirectory", f"Environment={_quoted(f'LXDOCKER_CONFIG={config}')}")
    tmpfiles = _text("tmpfiles.conf")
    if settings.metrics_file and not settings.metrics_file.is_relative_to(_STATE):
        sync = _add(sync, "StateDirectory", f"ReadWritePaths={_quoted(f'-{settings.metrics_file.parent}')}")
    if own_tree:
        sync = _add(sync, "StateDirectory", f"ReadWritePaths={_quoted(f'-{own_tree}')}")
        tmpfiles += f"d     {_quoted(own_tree)} - - -\n"
    if settings.tls_dir and settings.tls_dir != SYSTEM_TLS and not settings.tls_cert:
        serve = _add(serve, "StateDirectory", f"ReadWritePaths={_quoted(f'-{settings.tls_dir}')}")
        tmpfiles += f"d     {_quoted(settings.tls_dir)} 0700 lxdocker-serve lxdocker-serve\n"
    if 0 < int(settings.listen.rpartition(":")[2]) < 1024:
        serve = _replace(
            serve, "CapabilityBoundingSet", "CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE"
        )
        serve = _replace(serve, "PrivateUsers", "no")  # or the capability would not apply to this host's ports
    return (
        File(SYSUSERS, _text("sysusers.conf")),
        File(TMPFILES, tmpfiles),
        File(UNIT_FOLDER / SYNC, sync),
        File(UNIT_FOLDER / TIMER, _text(TIMER)),
        File(UNIT_FOLDER / SERVE, serve),
    )


def install(found: Sequence[File], root: Path = Path("/")) -> list[Path]:
    """Writes the files below ``root``; returns the paths (below /) of those that have changed.

    Raises UsageError for an existing file that lxdocker did not write, before anything is written, and for a folder
    that can't be written.
    """
    targets = [(root / file.path.relative_to("/"), file) for file in found]
    foreign = [target for target, _ in targets if exists(target) and not target.read_text().startswith(MARK)]
    if foreign:
        raise UsageError(
            "files of another origin are in the way",
            "\n".join(map(str, foreign)),
            "move them away; changes belong in drop-ins: systemctl edit UNIT",
        )
    changed = []
    for target, file in targets:
        text = f"{MARK}\n{file.text}"
        if exists(target) and target.read_text() == text:
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            durable.write_file(target, text.encode(), 0o644)
        except OSError as error:
            why = error.strerror or in_words(error)
            raise UsageError(f"cannot write {target}", why, "run this command as root") from error
        changed.append(file.path)
    return changed


def packaged(found: Sequence[File], folder: Path = PACKAGED) -> bool:
    """Whether the package's units are the same, so that they need not be written."""

    def is_there(file: File) -> bool:
        text = file.text.replace("\nExecStart=/usr/bin/lxdocker ", "\nExecStart=lxdocker ")
        return is_file(folder / file.path.name) and (folder / file.path.name).read_text() == text

    return all(is_there(file) for file in found if file.path.parent == UNIT_FOLDER)


def timer() -> Path | None:
    """This host's timer: what was written to /etc, or the link by which the package's is enabled."""
    found = (UNIT_FOLDER / TIMER, UNIT_FOLDER / "timers.target.wants" / TIMER)
    return next((path for path in found if exists(path)), None)


def activation(*units: str) -> list[list[str]]:
    """The commands that make the users and folders, and enable and start ``units``."""
    return [
        # By name: they are in /etc, or in /usr/lib by the package.
        ["systemd-sysusers", SYSUSERS.name],
        ["systemd-tmpfiles", "--create", TMPFILES.name],
        ["systemctl", "daemon-reload"],
        *([["systemctl", "enable", "--now", *units]] if units else []),
    ]


def activate(*units: str) -> None:
    """Runs these commands. Raises LxdockerError with what the one that failed says."""
    for argv in activation(*units):
        log.command(argv)
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LxdockerError(f"{argv[0]} failed", in_words(error), f"run by hand: {' '.join(argv)}") from error
        if done.returncode:
            raise LxdockerError(f"{argv[0]} failed", done.stderr.strip(), f"run by hand: {' '.join(argv)}")


def has_systemd() -> bool:
    """Whether systemd runs this host (sd_booted(3))."""
    return is_dir(Path("/run/systemd/system"))


def cron_line(path: Path, user: str | None = None, config: Path | None = None) -> str:
    """The line that syncs hourly, in a minute that depends on the host: for ``user`` in a file of /etc/cron.d, or
    without a user for `crontab -e`. ``config``: the configuration file, if it is not at its usual place.
    """
    minute = zlib.crc32(os.uname().nodename.encode()) % 60
    # cron turns a % into a newline.
    named = f"LXDOCKER_CONFIG={shlex.quote(str(config))} " if config else ""
    command = f"{named}{path} sync -q".replace("%", r"\%")
    return " ".join(filter(None, (f"{minute} * * * *", user, command)))


def _text(name: str) -> str:
    return resource("profiles", f"systemd/{name}").read_text()


def _replace(text: str, key: str, value: str) -> str:
    """The line ``key=...`` with another value."""
    changed, count = re.subn(rf"^{key}=.*$", lambda _: f"{key}={value}", text, flags=re.MULTILINE)
    assert count == 1, key  # noqa: S101 - the files are ours
    return changed


def _add(text: str, after: str, line: str) -> str:
    """With a line after the one that sets ``after``."""
    changed, count = re.subn(rf"^{after}=.*$", lambda found: f"{found[0]}\n{line}", text, flags=re.MULTILINE)
    assert count == 1, after  # noqa: S101 - as above
    return changed


def _quoted(value: object) -> str:
    """As a unit file or tmpfiles.d has it: a word, with specifiers (%) escaped."""
    text = str(value).replace("%", "%%")
    if re.search(r"[\s\"'\\;$]", text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text
