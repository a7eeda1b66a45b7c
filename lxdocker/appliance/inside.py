"""What is put into an appliance's container: lxdocker, its configuration, and what starts both."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lxdocker.appliance import bundle, schedule
from lxdocker.appliance.host import Endpoint, Place
from lxdocker.appliance.machine import Machine
from lxdocker.appliance.wish import ETC, PORT, SIGNERS, SPECS, SPECS_OF_HOST, STATE, Wish, names_of_host
from lxdocker.config import yamlfile
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.files.seen import exists
from lxdocker.log import FileText
from lxdocker.progress import Say
from lxdocker.reasons import in_words

SETUP = Path(__file__).parent / "setup.sh"
BASIC = ("ca-certificates", "openssl", "python3", "tar", "util-linux")
INSTALL_SECONDS = 1800
READY_SECONDS = 60  # for an init to get so far that services can be started
CLIENT = f"{STATE}/client"
SPECS_SETTINGS = ("specs", "specs_repository", "specs_branch", "specs_signers")
CERTIFICATE = f"{STATE}/tls/server.crt"
_DEBS = "/var/tmp/lxdocker-packages"  # noqa: S108 - in a container where nobody else is
_ARCHIVE = "/var/tmp/lxdocker.tar.gz"  # noqa: S108 - as above
_NO_MIRROR = "see that LXD's network reaches a Debian mirror, give the packages with --packages DIR, or another --base"


def step(machine: Machine, what: str, *arguments: str, seconds: float = 60, otherwise: str = "") -> str:
    """Runs a step of setup.sh. Returns its output."""
    argv = ["/bin/sh", "-c", FileText.of(SETUP), "setup", *arguments]
    return machine.run(argv, what, seconds, otherwise=otherwise)


def wait_for_init(machine: Machine) -> None:
    """Until commands can be run, and systemd, if there is one, can be asked for services."""
    script = (
        "case $(readlink /proc/1/exe) in */systemd) ;; *) exit ;; esac;"
        " until case $(systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) false ;; esac; do"
        " sleep 0.2; done"
    )
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            machine.try_run(["/bin/sh", "-c", script], seconds=READY_SECONDS)
        except LxdockerError:
            if time.monotonic() > deadline or machine.lxd.cancelled.wait(0.5):
                raise
        else:
            return


# ---- lxdocker and what it needs


def install(machine: Machine, wish: Wish, say: Say) -> None:
    """A base that has this very version already is taken as it is."""
    if wish.package is None and _version(machine) == bundle.version_line():
        return
    packages = [*BASIC, *wish.more]
    if wish.packages is not None:
        _push_packages(machine, wish.packages)
    if wish.package is not None and wish.package.suffix == ".deb":
        say("installing lxdocker's package")
        target = f"/var/tmp/{wish.package.name}"  # noqa: S108 - as above
        machine.push(target, _read(wish.package), 0o644)
        what = f"installing {wish.package.name}"
        step(machine, what, "packages", _DEBS, *packages, seconds=INSTALL_SECONDS, otherwise=_NO_MIRROR)
        step(machine, what, "deb", target, _DEBS, seconds=INSTALL_SECONDS, otherwise=_NO_MIRROR)
        return
    say("installing packages")
    what = "installing Debian packages"
    step(machine, what, "packages", _DEBS, *packages, seconds=INSTALL_SECONDS, otherwise=_NO_MIRROR)
    tag = step(machine, "asking for the version of Python", "python").strip()
    if tag != bundle.own_tag():
        step(machine, what, "packages", _DEBS, *bundle.DEBIAN, seconds=INSTALL_SECONDS, otherwise=_NO_MIRROR)
    say("installing lxdocker")
    machine.push(_ARCHIVE, bundle.make(tag, wish.package))
    step(machine, "installing lxdocker", "unpack", _ARCHIVE, seconds=300)
    said = machine.run(["lxdocker", "--version"], "starting lxdocker", 60)
    if not said.startswith("lxdocker "):
        raise LxdockerError("installing lxdocker failed", f"it says {said[:200]!r}", "name another package: --package")


def _version(machine: Machine) -> str:
    done = machine.try_run(["/bin/sh", "-c", "! command -v lxdocker >/dev/null || lxdocker --version"])
    return done.stdout.partition("\n")[0] if done.status == 0 else ""


def _push_packages(machine: Machine, folder: Path) -> None:
    found = sorted(folder.glob("*.deb"))
    if not found:
        raise UsageError(f"no packages in {folder}", "it has no *.deb", "correct --packages, or leave it out")
    machine.run(["mkdir", "-p", _DEBS], "making a folder for packages")
    for path in found:
        machine.push(f"{_DEBS}/{path.name}", _read(path), 0o644)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}", in_words(error), "name another file") from error


def check_calendar(machine: Machine, wish: Wish) -> None:
    """Raises LxdockerError where its init can't keep the calendar, before anything is installed."""
    otherwise = f"choose one that cron keeps, too ({schedule.WHAT_CRON_KEEPS}), or a base with systemd"
    arguments = (wish.calendar, schedule.for_cron(wish.calendar) or "")
    step(machine, "checking the calendar", "calendar", *arguments, otherwise=otherwise)


def start(machine: Machine, wish: Wish) -> None:
    """Starts its timer and its server."""
    delay = str(int(schedule.seconds(wish.delay) or 0))
    arguments = (wish.calendar, wish.delay, schedule.for_cron(wish.calendar) or "", delay)
    step(machine, "starting the services", "start", *arguments, seconds=120)


# ---- its configuration


def configure(machine: Machine, wish: Wish, place: Place, endpoint: Endpoint | None, address: str) -> None:
    """Settings that make it what it is. What else a person has set is left as it is."""
    there = machine.pull(f"{ETC}/config.yaml")
    known = _parsed(there, machine)
    own = with_former_names(settings(wish, place, endpoint, address), known, wish)
    wanted = {**without_former(known, wish), **wish.settings, **own}
    if wanted != known or not there:
        text = "# lxdocker appliance sets: " + ", ".join(own) + "\n" + yaml.safe_dump(wanted, sort_keys=False)
        _write(machine, f"{ETC}/config.yaml", text.encode(), "600")
    script = '[ -e "$1" ] || [ ! -e "$1.old" ] || mv "$1.old" "$1"; mkdir -p "$1"'  # as push_changes() may leave it
    machine.run(["/bin/sh", "-c", script, "make", SPECS], "making the folder of specs")
    if wish.repository and wish.repository.signers:
        _write(machine, SIGNERS, wish.repository.signers.content, "644")
    if endpoint:
        folder = f"{CLIENT}/servercerts"
        machine.run(["mkdir", "-p", folder], "making a folder for LXD's certificate")
        _write(machine, f"{folder}/{endpoint.host}:{endpoint.port}.crt", endpoint.certificate.encode(), "644")


def _parsed(text: bytes | None, machine: Machine) -> Mapping[str, Any]:
    """Its configuration file, read as lxdocker itself reads it. Raises UsageError."""
    document = yamlfile.parse((text or b"").decode("utf-8", "replace"), "config.yaml")
    if document.mistakes or not isinstance(document.value, dict | None):
        why = str(document.mistakes[0]) if document.mistakes else "it is no mapping"
        raise UsageError(f"cannot use {ETC}/config.yaml of {machine.name}", why, "correct it there")
    return document.value or {}


def without_former(known: Mapping[str, Any], wish: Wish) -> Mapping[str, Any]:
    """The configuration that is there, but for what an appliance with other options has set."""
    gone = {"lxd", "client_dir", *(() if wish.goes_on else SPECS_SETTINGS)}
    gone |= {key for key in ("project", "builder_project") if known.get(key) == wish.names.project}
    return {key: value for key, value in known.items() if key not in gone}


def with_former_names(own: Mapping[str, Any], known: Mapping[str, Any], wish: Wish) -> Mapping[str, Any]:
    """The settings, but with the names that an appliance which goes on had, as long as they include its own: this
    host may have another address now, and other names would mean another certificate.
    """
    names = known.get("tls_names")
    if wish.goes_on and isinstance(names, list) and set(own["tls_names"][:2]) <= set(names):
        return {**own, "tls_names": names}
    return own


def settings(wish: Wish, place: Place, endpoint: Endpoint | None, address: str) -> Mapping[str, Any]:
    """Of lxdocker in the appliance."""
    bridge, names = place.bridge, wish.names
    found: dict[str, Any] = {"pool": place.pool, "network": bridge.name}
    if endpoint:
        found |= {"lxd": endpoint.url, "client_dir": CLIENT}
        found |= {"project": names.project, "builder_project": names.project}
    of_host = names_of_host(wish.listen) if wish.listen else []
    found |= {"listen": f":{PORT}", "tls_names": [f"{names.appliance}.{bridge.domain}", address, *of_host]}
    if wish.goes_on:
        return found
    if wish.repository is None:
        found["specs"] = SPECS_OF_HOST if wish.specs else SPECS
    else:
        found["specs_repository"] = wish.repository.url
        if wish.repository.branch:
            found["specs_branch"] = wish.repository.branch
        if wish.repository.signers:
            found["specs_signers"] = SIGNERS
    return found


def _write(machine: Machine, path: str, content: bytes, mode: str) -> None:
    """In one step, whatever interrupts it."""
    script = 'umask 077 && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
    machine.run(["/bin/sh", "-c", script, "write", path, mode], f"writing {path} of {machine.name}", stdin=content)


# ---- folders of specs


def pull_folder(machine: Machine, path: str, target: Path, most: int = 64 << 20) -> None:
    """Copies a folder out, with files only. Raises LxdockerError."""
    argv = ["tar", "-C", path, "-chf", "-", "."]  # with what links lead to
    what = f"reading {path} of {machine.name}"
    done = machine.try_run(argv, what, 120, keep=most)
    if done.status:
        raise LxdockerError(f"{what} failed", done.stderr.strip()[-500:], "is the appliance's volume there?")
    with tarfile.open(fileobj=io.BytesIO(done.stdout.encode("utf-8", "surrogateescape"))) as archive:
        for member in archive:
            place = target / member.name
            if member.isfile() and ".." not in place.parts and place.is_relative_to(target):
                place.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                place.write_bytes(content.read() if content else b"")
                place.chmod(member.mode & 0o777)


def push_changes(machine: Machine, source: Path, names: Sequence[str], path: str) -> None:
    """Puts the files of these names into a folder, or removes from it those that ``source`` lacks; all in one step. The
    rest of the folder stays as it is.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            if exists(source / name):
                archive.add(source / name, arcname=name, filter=_owned_by_root)
    gone = [name for name in names if not exists(source / name)]
    script = (
        'folder=$1; shift; rm -rf "$folder.new" "$folder.old" && cp -a "$folder" "$folder.new" && cd "$folder.new" &&'
        ' for name; do rm -f "./$name" || exit; done && tar -xf - && cd / && mv "$folder" "$folder.old" &&'
        ' mv "$folder.new" "$folder" && rm -rf "$folder.old"'
    )
    argv = ["/bin/sh", "-c", script, "put", path, *gone]
    machine.run(argv, f"writing {path} of {machine.name}", 120, buffer.getvalue())


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
