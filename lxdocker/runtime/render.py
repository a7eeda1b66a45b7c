"""OCI config -> the files that make an unpacked image an LXD instance.

Two tarballs come out of here, both the same bytes for the same inputs: the runtime, which the builder
injects into the root filesystem, and LXD's image metadata (metadata.yaml and templates, as in LXD's
doc/image_format.md). How an image runs is in the latter alone: LXD writes it into each new instance, so
that a change of it needs no other root filesystem.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import posixpath
import re
import shlex
import signal
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lxdocker.config.changes import Template
from lxdocker.config.spec import Behaviour
from lxdocker.errors import BuildError
from lxdocker.source.oci import OciConfig
from lxdocker.values import Arch

# Raised whenever what a build does changes in a way that images made before should be made again.
RECIPE_VERSION = 3

HERE = Path(__file__).parent
INIT = HERE / "init.sh"
LIB = HERE / "lib"
HEALTH = HERE / "health.sh"
EXEC = HERE / "exec.sh"
LOG = HERE / "log.sh"
INJECT = HERE / "inject.sh"
CHECK = HERE / "check.sh"
UDHCPC = HERE / "udhcpc.sh"
UDHCPC_WRAPPER = HERE / "udhcpc-wrapper.sh"
TEMPLATES = HERE / "templates"
IMAGE_TEMPLATE = "image.tpl"
# What begins something in a template (pongo2, whose language is Django's).
_TAG = re.compile(rb"\{(?=[{%#])")


@dataclass(frozen=True, slots=True)
class Health:
    """The image's health check; times in seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    start_period: float
    start_interval: float  # between checks while it may still be starting
    retries: int

    def settings(self) -> list[str]:
        """As health.sh reads them."""
        return [
            f"_health_interval={_decimal(self.interval)}",
            f"_health_timeout={math.ceil(self.timeout) or 1}",  # busybox's timeout knows no fractions
            f"_health_start_period={math.ceil(self.start_period)}",
            f"_health_start_interval={_decimal(self.start_interval)}",
            f"_health_retries={self.retries}",
        ]


def _decimal(seconds: float) -> str:
    """As busybox's shell reads it: to the millisecond, at least one, and never with an exponent."""
    return f"{max(seconds, 0.001):.3f}".rstrip("0").rstrip(".")


@cache
def runtime_hash() -> str:
    """Hex sha256 over all that is injected, put into the metadata, or checks that. Each image's inputs have it."""
    digest = hashlib.sha256()
    programs = [INIT, EXEC, HEALTH, LOG, UDHCPC, UDHCPC_WRAPPER]
    for path in sorted([*programs, INJECT, CHECK, *LIB.iterdir(), *TEMPLATES.iterdir()]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def signal_name(text: str | None) -> str:
    """``SIGQUIT``, ``QUIT``, ``3`` or ``SIGRTMIN+3`` -> what ``kill -s`` takes; the default is TERM.

    Raises BuildError for what is no signal (OCI image spec, config.md, StopSignal).
    """
    if not text:
        return "TERM"
    name = text.upper().removeprefix("SIG")
    if name.isascii() and name.isdigit() and 1 <= int(name) <= 64:
        number = int(name)
        # busybox knows the standard ones by name, which reads better in messages, and real-time ones by number.
        return signal.Signals(number).name.removeprefix("SIG") if number < 32 else name
    if f"SIG{name}" in signal.Signals.__members__ and not name.startswith("RT"):
        return name
    if name.startswith("RTMIN"):
        offset = name.removeprefix("RTMIN").removeprefix("+") or "0"
        if offset.isascii() and offset.isdigit() and int(offset) <= 30:
            return str(34 + int(offset))  # glibc's SIGRTMIN, which is what image authors mean
    raise BuildError(
        "invalid stop signal of the image", f"not a signal on Linux: {text[:40]!r}", "report it to the image's author"
    )


def render_config(config: OciConfig, behaviour: Behaviour, *, supervise: bool = True) -> bytes:
    """``/lxd-image``: the OCI config and the spec as shell that defines data and functions, and runs nothing."""
    health = parse_healthcheck(config.healthcheck, config.shell)
    lines = [
        "# Made by lxdocker from the image's OCI config and its spec; read by /sbin/init.",
        f"_supervise={'yes' if supervise else 'no'}",
        f"_stop_signal={signal_name(config.stop_signal)}",
        f"_stop_grace={behaviour.stop_grace}",
        f"_restart={shlex.quote(behaviour.restart)}",
        f"_restart_unhealthy={'true' if behaviour.restart_unhealthy else 'false'}",
        f"_prelaunch={shlex.quote(behaviour.prelaunch)}",
        f"_fill_volumes={'true' if behaviour.fill_volumes else 'false'}",
        f"_umask={shlex.quote(behaviour.umask)}",
        f"_user={shlex.quote(config.user or '0')}",
        f"_working_dir={shlex.quote(config.working_dir or '/')}",
        # Words as the shell reads them back, in a string.
        f"_image_environment={shlex.quote(shlex.join(f'{name}={value}' for name, value in config.env))}",
        f"_health={'yes' if health else 'no'}",
        *(health.settings() if health else ()),
        *_function("image_volumes", ["make_volumes", *config.volumes]),
        *_function("image_tmpfs", *(["mount_tmpfs", path, option] for path, option in tmpfs_mounts(config, behaviour))),
        *_appending("with_image_entrypoint", config.entrypoint),
        *_appending("with_image_cmd", config.cmd),
        *_appending("with_health_command", health.command if health else ()),
        "",
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def tmpfs_mounts(config: OciConfig, behaviour: Behaviour) -> list[tuple[str, str]]:
    """Where a tmpfs goes and its mount options; none where a volume of the image would lose its data in it.

    All those that have no size of their own hold no more than half of what the instance may use, together.
    """
    mounts = {"/dev/shm": "mode=1777", "/tmp": "mode=1777", "/run": "mode=755"}  # noqa: S108 - in the image
    sizes = {path: size for path, size in behaviour.tmpfs if size != "on"}
    mounts |= {path: "mode=1777" for path, _ in behaviour.tmpfs if path not in mounts}
    volumes = [without_links(volume) for volume in config.volumes]
    named = {path for path, _ in behaviour.tmpfs}
    wanted = {
        path: options
        for path, options in mounts.items()
        if sizes.get(path) != "off"
        and (path in named or not any(volume == path or volume.startswith(path + "/") for volume in volumes))
    }
    shares = _shares([path for path in wanted if path not in sizes])
    return [(path, f"{options},size={sizes.get(path) or shares[path]}") for path, options in wanted.items()]


def _shares(paths: list[str]) -> dict[str, str]:
    """Sizes in percent of the instance's memory: /tmp gets as much as the others together."""
    whole = 50 if "/tmp" not in paths else 25  # noqa: S108 - in the image
    others = [path for path in paths if path != "/tmp"]  # noqa: S108 - the instance's
    return {"/tmp": "25%"} | {path: f"{max(1, whole // len(others))}%" for path in others}  # noqa: S108 - as above


def without_links(path: str) -> str:
    """``/var/run//app/`` -> ``/run/app``: what nearly every image has as links into /run."""
    path = posixpath.normpath("/" + path.lstrip("/"))
    for link, target in (("/var/run", "/run"), ("/var/lock", "/run/lock")):
        if path == link or path.startswith(link + "/"):
            path = target + path.removeprefix(link)
    return path


def parse_healthcheck(raw: Mapping[str, Any] | None, shell: tuple[str, ...] = ()) -> Health | None:
    """Docker's HealthConfig (durations in nanoseconds); None where the image has none, or says NONE.

    ``shell`` is the config's own, for a check in shell form.
    """
    test = (raw or {}).get("Test")
    if not isinstance(test, list) or not all(isinstance(word, str) for word in test) or len(test) < 2:
        return None
    if test[0] == "CMD":
        command = tuple(test[1:])
    elif test[0] == "CMD-SHELL":
        command = (*(shell or ("/bin/sh", "-c")), test[1])
    else:
        return None

    def seconds(key: str, default: float) -> float:
        value = (raw or {}).get(key)
        return value / 1e9 if isinstance(value, (int, float)) and 0 < value < 1e15 else default

    retries = (raw or {}).get("Retries")
    return Health(
        command=command,
        interval=seconds("Interval", 30),
        timeout=seconds("Timeout", 30),
        start_period=seconds("StartPeriod", 0),
        start_interval=seconds("StartInterval", 5),
        retries=retries if isinstance(retries, int) and 0 < retries < 1000 else 3,
    )


def _function(name: str, *commands: list[str]) -> list[str]:
    """A shell function of these commands, every word quoted."""
    return [f"{name}() {{", "\t:", *("\t" + shlex.join(command) for command in commands), "}"]


def _appending(name: str, words: tuple[str, ...]) -> list[str]:
    """A shell function that calls its arguments with ``words`` behind them."""
    return [f"{name}() {{ " + " ".join(['"$@"', *map(shlex.quote, words)]) + "; }"]


def runtime_tar(created: int) -> bytes:
    """The tar that inject.sh unpacks; ``init`` goes to /sbin/init, the rest to /. It is the same for all images, but
    for the time when they were ``created``, in seconds since the epoch.
    """
    entries = [
        ("init", INIT.read_bytes(), 0o755),
        ("lxd-exec", EXEC.read_bytes(), 0o755),
        ("lxd-health", HEALTH.read_bytes(), 0o755),
        ("lxd-log", LOG.read_bytes(), 0o755),
        ("lxd-udhcpc-default.script", UDHCPC_WRAPPER.read_bytes(), 0o755),
        ("lxd-udhcpc-default.script.real", UDHCPC.read_bytes(), 0o755),
        *((f"lxd-lib/{path.name}", path.read_bytes(), 0o755) for path in sorted(LIB.iterdir())),
    ]
    return tar(entries, created, folders=("lxd-lib",))


# What LXD writes into each instance of an image.
_TEMPLATES = {
    "/etc/hostname": {"when": ["create", "copy"], "template": "hostname.tpl"},
    "/etc/hosts": {"when": ["create", "copy"], "template": "hosts.tpl"},
    "/lxd-image": {"when": ["create"], "template": IMAGE_TEMPLATE},
    "/lxd-instance": {"when": ["start"], "template": "instance.tpl"},
    "/lxd-prelaunch": {"when": ["start"], "template": "prelaunch.tpl"},
}


def image_metadata(
    arch: Arch,
    created: int,
    properties: Mapping[str, str],
    config: bytes | None,
    own: Sequence[Template] = (),
) -> bytes:
    """``lxd.tar.xz``, the first half of an LXD split image; ``created`` is in seconds since the epoch. ``config``: what
    render_config() gives; without it, the image has no templates. ``own``: the spec's templates, which may take the
    place of lxdocker's.
    """
    document: dict[str, object] = {
        "architecture": arch.value,
        "creation_date": created,
        "expiry_date": 0,
        "properties": dict(properties),
    }
    entries = []
    if config is not None:
        written: dict[str, object] = dict(_TEMPLATES)
        entries = [(f"templates/{path.name}", path.read_bytes(), 0o644) for path in sorted(TEMPLATES.iterdir())]
        entries.append((f"templates/{IMAGE_TEMPLATE}", _literal(config), 0o644))
        for number, template in enumerate(own):
            name = f"own{number}.tpl"
            written[template.path] = {
                "when": list(template.when),
                "template": name,
                **({"create_only": True} if template.create_only else {}),
                **({"properties": dict(template.properties)} if template.properties else {}),
            }
            entries.append((f"templates/{name}", template.content.encode("utf-8", "surrogateescape"), 0o644))
        document["templates"] = written
    text = yaml.safe_dump(document, sort_keys=True, allow_unicode=True).encode()
    folders = ("templates",) if config is not None else ()
    return lzma.compress(tar([("metadata.yaml", text, 0o644), *entries], created, folders), preset=6)


def _literal(text: bytes) -> bytes:
    """A template that gives this text, whatever is in it."""
    return _TAG.sub(b'{{ "{" }}', text)


def tar(entries: list[tuple[str, bytes, int]], mtime: int, folders: tuple[str, ...] = ()) -> bytes:
    """A tar whose bytes depend on nothing but its arguments: each file's name, content and mode. ``mtime`` is in
    seconds since the epoch.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, mtime
            archive.addfile(info)
        for name, content, mode in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), mode, mtime
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
