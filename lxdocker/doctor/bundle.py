"""What a report of a bug needs, in one file without secrets."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from lxdocker import __version__, log
from lxdocker.config.units import SERVE, SYNC
from lxdocker.doctor import scrub
from lxdocker.doctor.finding import NotExamined
from lxdocker.doctor.proxies import ENVIRONMENT
from lxdocker.doctor.scrub import Scrubber
from lxdocker.doctor.subject import Subject
from lxdocker.errors import AuthError, LxdError, LxdockerError, UsageError
from lxdocker.files import durable
from lxdocker.files.seen import is_dir
from lxdocker.lxd.address import UnixSocket
from lxdocker.lxd.daemon import lxc_folders
from lxdocker.reasons import in_words
from lxdocker.source.credentials import Credentials

SUFFIXES = (".tar.xz", ".zip")
TAIL = 256 * 1024  # bytes of a log
COMMAND_SECONDS = 20
ENVIRONMENTS = (Path("/etc/environment"), ENVIRONMENT)  # of people, and of the services
PACKAGES = ("pylxd", "requests", "urllib3", "typer", "PyYAML", "jsonschema", "cryptography", "aiohttp")


def check_name(path: Path) -> None:
    """Raises UsageError for a file that can't be made, before anything is collected."""
    if not path.name.endswith(SUFFIXES):
        raise UsageError(f"not the name of a bundle: {path.name}", "", "end it in .tar.xz or .zip")
    if os.path.lexists(path):
        raise UsageError(f"{path} exists", "", "name a new file, or remove this one")
    if not is_dir(path.absolute().parent):
        raise UsageError(f"no folder {path.absolute().parent}", "", "make it, or name another")


def collect(subject: Subject, results: Mapping[str, object], status: Callable[[], str]) -> dict[str, str]:
    """Name -> text, without secrets. ``results``: documents by the names of their files. ``status``: asks the
    registries.
    """
    scrubber = Scrubber.of(_secrets(subject))
    members = {name: _json(document) for name, document in results.items()}
    members["versions.txt"] = "".join(f"{name} {version}\n" for name, version in _versions(subject))
    members["status.json"] = status()
    members |= _of_lxd(subject)
    members |= dict(_logs(subject))
    return {name: scrubber.clean(text) for name, text in members.items()}


def write(path: Path, members: Mapping[str, str]) -> None:
    """For this user alone to read. Raises UsageError."""
    content = io.BytesIO()
    folder = path.name.removesuffix(".tar.xz").removesuffix(".zip")
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in members.items():
                archive.writestr(f"{folder}/{name}", text.encode("utf-8", "replace"))
    else:
        with tarfile.open(fileobj=content, mode="w:xz") as tar:
            for name, text in members.items():
                encoded = text.encode("utf-8", "replace")
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size, member.mtime, member.mode = len(encoded), int(time.time()), 0o644
                tar.addfile(member, io.BytesIO(encoded))
    try:
        durable.write_file(path.absolute(), content.getvalue(), 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {path}", in_words(error), "name another file") from error


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"


# ---- secrets


def _secrets(subject: Subject) -> Iterator[str]:
    """Every secret of this user's that lxdocker could come across."""
    settings = subject.settings
    for hook in (settings.on_change, settings.on_failure):
        yield from scrub.in_hook(hook)
    for environ in (subject.environ, *map(_variables, ENVIRONMENTS)):
        yield from scrub.in_variables(environ)
        for name in ("LXDOCKER_ON_CHANGE", "LXDOCKER_ON_FAILURE"):
            yield from scrub.in_hook(environ.get(name))
    credentials = Credentials(subject.environ)
    for path in (
        *map(Path, credentials.looked_at),
        *(folder / "config.yml" for folder in lxc_folders(subject.environ)),
        settings.config,
    ):
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace") if path else ""
            yield from scrub.in_auth_file(text)
            yield from scrub.in_url(text)
    for ref in subject.registries():
        with suppress(AuthError):
            if login := credentials.for_ref(ref):  # of a helper, perhaps
                yield from (login.password, login.identity_token, f"{login.username}:{login.password}")
    with suppress(NotExamined, LxdError):
        yield from scrub.in_url(json.dumps(subject.lxd().get(what="reading LXD's configuration"), default=str))


def _variables(file: Path) -> dict[str, str]:
    """The lines NAME=VALUE of a file; none where it can't be read."""
    with suppress(OSError):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = (line.strip().removeprefix("export ").partition("=") for line in lines if "=" in line)
        return {name.strip(): value.strip(" \"'") for name, _, value in pairs}
    return {}


# ---- what is collected


def _versions(subject: Subject) -> Iterator[tuple[str, str]]:
    yield "lxdocker", __version__
    with suppress(LxdockerError):
        lxd = subject.connection()
        yield str(lxd.dialect).partition(" ")[0], f"{lxd.dialect.version} at {lxd.daemon.address}"
    yield "Python", platform.python_version()
    yield "Linux", f"{platform.release()} {platform.machine()}"
    with suppress(OSError):
        yield "host", platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def _of_lxd(subject: Subject) -> dict[str, str]:
    """LXD's own configuration, as far as it concerns lxdocker."""
    try:
        lxd, settings = subject.lxd(), subject.settings
    except NotExamined:
        return {}
    whole = {"recursion": "1"}
    asked: dict[str, tuple[tuple[str, ...], str | None]] = {
        "server": ((), None),
        "networks": (("networks",), None),
        "pools": (("storage-pools",), None),
        "profiles-default": (("profiles",), "default"),
        f"profiles-{settings.builder_project}": (("profiles",), settings.builder_project),
        f"project-{settings.builder_project}": (("projects", settings.builder_project), None),
    }
    found = {}
    for name, (path, project) in asked.items():
        document: Any
        try:
            document = lxd.get(*path, what=f"reading {name}", project=project, params=whole if path else None)
        except LxdError as error:
            document = {"error": str(error)}
        found[f"lxd/{name}.json"] = _json(scrub.without_values(document))
    return found


def _logs(subject: Subject) -> Iterator[tuple[str, str]]:
    """The ends of logs."""
    files = {"lxdocker.log": subject.environ.get(log.VARIABLE)}
    with suppress(NotExamined):
        address = subject.lxd().daemon.address
        if isinstance(address, UnixSocket):
            files["lxd.log"] = str(address.path.parent / "logs/lxd.log")
    for name, path in files.items():
        with suppress(OSError):
            if path:
                yield f"logs/{name}", _tail(Path(path))
    argv = ["journalctl", "--no-pager", "--quiet", "--lines=500", f"--unit={SYNC}", f"--unit={SERVE}"]
    log.command(argv)
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        if done.stdout:
            yield "logs/journal.log", done.stdout[-TAIL:]


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        left_out = max(0, file.seek(0, os.SEEK_END) - TAIL)
        file.seek(left_out)
        text = file.read(TAIL).decode("utf-8", "replace")
    return text.partition("\n")[2] if left_out else text  # half a secret could not be recognized
