"""OCI config -> the files that make an unpacked image an LXD instance.

Two tarballs come out of here, both the same bytes for the same inputs: the runtime, which the builder
injects into the root filesystem, and LXD's image metadata (metadata.yaml and templates, as in LXD's
doc/image_format.md).
"""

from __future__ import annotations

import hashlib
import io
import lzma
import shlex
import tarfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from lxdocker.errors import BuildError
from lxdocker.oci import OciConfig
from lxdocker.values import Arch

# Raised whenever what a build does changes in a way that images made before should be made again.
RECIPE_VERSION = 1

HERE = Path(__file__).parent
INIT = HERE / "init.sh"
INJECT = HERE / "inject.sh"
UDHCPC = HERE / "udhcpc.sh"
UDHCPC_WRAPPER = HERE / "udhcpc-wrapper.sh"
TEMPLATES = HERE / "templates"

# signal(7), the numbers shared by all architectures that LXD runs on.
_SIGNALS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU "
    "URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()


def runtime_hash() -> str:
    """Hex sha256 over every file that is injected or put into the metadata."""
    digest = hashlib.sha256()
    for path in sorted([INIT, INJECT, UDHCPC, UDHCPC_WRAPPER, *TEMPLATES.iterdir()]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def signal_name(text: str | None) -> str:
    """``SIGQUIT``, ``QUIT``, ``3`` or ``SIGRTMIN+3`` -> what ``kill -s`` takes; the default is TERM.

    Raises BuildError for what is no signal (OCI image spec, config.md, StopSignal).
    """
    if not text:
        return "TERM"
    name = text.upper().removeprefix("SIG")
    if name.isascii() and name.isdigit():
        number = int(name)
        if 1 <= number <= len(_SIGNALS):
            return _SIGNALS[number - 1]
        if 34 <= number <= 64:
            return str(number)
    elif name in _SIGNALS:
        return name
    elif name.startswith("RTMIN"):
        offset = name.removeprefix("RTMIN").removeprefix("+") or "0"
        if offset.isascii() and offset.isdigit() and int(offset) <= 30:
            return str(34 + int(offset))  # glibc's SIGRTMIN, which is what image authors mean
    raise BuildError(f"the image's stop signal {text[:40]!r} is no signal", resolution="tell the image's author")


def render_config(config: OciConfig, *, supervise: bool) -> bytes:
    """``/lxd-image``: the OCI config as shell that defines data and functions, and runs nothing."""
    plain = [(name, value) for name, value in config.env if _is_shell_name(name)]
    odd = [(name, value) for name, value in config.env if not _is_shell_name(name)]
    lines = [
        "# Made by lxdocker from the image's OCI config; read by /sbin/init.",
        f"supervise={'yes' if supervise else 'no'}",
        f"stop_signal={signal_name(config.stop_signal)}",
        f"user={shlex.quote(config.user if needs_gosu(config) else '')}",
        f"working_dir={shlex.quote(config.working_dir or '/')}",
        f"odd_environment={'yes' if odd else 'no'}",
        "image_environment() {",
        "\t:",
        *(f"\tfrom_image {name} {shlex.quote(value)}" for name, value in plain),
        "}",
        "exec_in_odd_environment() {",
        "\t" + " ".join(['exec "$bb" env', *(shlex.quote(f"{k}={v}") for k, v in odd), '"$@"']),
        "}",
        "with_image_command() {",
        "\t" + " ".join(['"$@"', *(shlex.quote(word) for word in config.argv)]),
        "}",
        "",
    ]
    # Bytes that are not UTF-8 come through JSON as lone surrogates at most.
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def runtime_tar(config: OciConfig, *, supervise: bool) -> bytes:
    """The tar that inject.sh unpacks; ``init`` goes to /sbin/init, the rest to /."""
    entries = [
        ("init", INIT.read_bytes(), 0o755),
        ("lxd-image", render_config(config, supervise=supervise), 0o644),
        ("lxd-udhcpc-default.script", UDHCPC_WRAPPER.read_bytes(), 0o755),
        ("lxd-udhcpc-default.script.real", UDHCPC.read_bytes(), 0o755),
    ]
    return _tar(entries, config.created)


def image_metadata(arch: Arch, created: int, properties: Mapping[str, str], *, templates: bool = True) -> bytes:
    """``lxd.tar.xz``, the first half of an LXD split image; ``created`` is in seconds since the epoch."""
    document: dict[str, object] = {
        "architecture": arch.value,
        "creation_date": created,
        "expiry_date": 0,
        "properties": dict(properties),
    }
    entries = []
    if templates:
        document["templates"] = {
            "/etc/hostname": {"when": ["create", "copy"], "template": "hostname.tpl"},
            "/etc/hosts": {"when": ["create", "copy"], "template": "hosts.tpl"},
            "/lxd-prelaunch": {"when": ["start"], "template": "prelaunch.tpl"},
        }
        entries = [(f"templates/{path.name}", path.read_bytes(), 0o644) for path in sorted(TEMPLATES.iterdir())]
    text = yaml.safe_dump(document, sort_keys=True, allow_unicode=True).encode()
    folders = ("templates",) if templates else ()
    return lzma.compress(_tar([("metadata.yaml", text, 0o644), *entries], created, folders), preset=6)


def _tar(entries: list[tuple[str, bytes, int]], mtime: int, folders: tuple[str, ...] = ()) -> bytes:
    """A tar whose bytes depend on nothing but its arguments. ``mtime`` is in seconds since the epoch."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, mtime
            tar.addfile(info)
        for name, content, mode in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), mode, mtime
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _is_shell_name(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def needs_gosu(config: OciConfig) -> bool:
    """Whether the command runs as somebody else than root, which takes gosu in the image."""
    return config.user not in {"", "0", "root", "0:0", "root:root"}
