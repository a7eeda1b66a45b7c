"""Typed bindings to skopeo: argument lists for a builder, and questions to skopeo on this host.

skopeo(1), skopeo-copy(1), skopeo-inspect(1), containers-transports(5); checked with 1.9.3 and meant for all
later ones. Logins go through auth files only, never through arguments, which every user of a host can read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lxdocker import log
from lxdocker.errors import HostError, ImageMissingError, RegistryError
from lxdocker.files.seen import exists
from lxdocker.reasons import in_words
from lxdocker.text import one_line
from lxdocker.values import Arch, ArchiveKind, Digest, DiskRef, ImageRef, RegistryRef

_MAX_OUTPUT = 4 * 1024 * 1024  # the most skopeo itself reads of a manifest or configuration
_MAX_STDERR = 64 * 1024
# An archive is unpacked by skopeo before it is looked at.
_INSPECT_SECONDS = 600.0
_VERSION_SECONDS = 20.0

# What skopeo calls the processor's version; without it, it would take the host's.
_VARIANTS = {Arch.ARMV7L: "v7", Arch.AARCH64: "v8"}


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How a copy reaches its source. Paths are those where skopeo runs, so mostly in a builder."""

    authfile: PurePath | None = None
    cert_dir: PurePath | None = None
    tls_verify: bool = True  # False allows plain http, and https with any certificate
    digestfile: PurePath | None = None  # where the digest of the copy's manifest is written
    policy: PurePath | None = None  # a containers-policy.json(5); None for skopeo's default one
    tmpdir: PurePath | None = None  # where archives are unpacked; None for skopeo's default


def source_name(ref: ImageRef, digest: Digest | None = None) -> str:
    """How skopeo calls ``ref`` as a source; for an image in a registry ``digest`` says which one.

    Raises ImageMissingError for a path that skopeo cannot take.
    """
    if isinstance(ref, RegistryRef):
        exact = ref.at(digest) if digest else ref
        return f"docker://{exact}"
    return disk_name(ref.kind, ref.path, ref.tag)


def disk_name(kind: ArchiveKind, path: PurePath, tag: str | None = None) -> str:
    """``oci:/path:tag``. Raises ImageMissingError for paths that skopeo cannot take: those with a colon."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ImageMissingError(
            f"cannot read {kind.value}:{text!r}", "the path is not UTF-8", "rename the folder or file"
        ) from None
    if ":" in text or "\0" in text:
        raise ImageMissingError(
            f"cannot read {kind.value}:{text!r}",
            "skopeo takes the text after a colon for the image's tag, so no path may have one",
            "rename the folder or file, or reach it through a symlink without a colon",
        )
    return f"{kind.value}:{text}" + (f":{tag}" if tag else "")


def copy_argv(source: str, dest: str, arch: Arch, options: CopyOptions | None = None) -> list[str]:
    """The command that copies one image, that for ``arch``, from ``source`` to ``dest``.

    ``source``: see source_name(); ``dest``: see disk_name(). Layers and manifest are verified by skopeo.
    """
    options = options or CopyOptions()
    return [
        "skopeo",
        *_flag("--policy", options.policy),
        *_flag("--tmpdir", options.tmpdir),
        *_platform(arch),
        "copy",
        *_flag("--src-authfile", options.authfile),
        *_flag("--src-cert-dir", options.cert_dir),
        *_flag("--digestfile", options.digestfile),
        *([] if options.tls_verify else ["--src-tls-verify=false"]),
        # Otherwise the layer cache would not know them by these digests the next time.
        *(["--dest-oci-accept-uncompressed-layers"] if dest.startswith(f"{ArchiveKind.OCI_LAYOUT.value}:") else []),
        source,
        dest,
    ]


def inspect_raw(ref: DiskRef, arch: Arch) -> bytes:
    """The manifest of an image on disk, or its index where it is for several architectures.

    For a ``docker-archive``, which has none, skopeo makes one, the same each time. Raises ImageMissingError,
    HostError (no skopeo) or RegistryError.
    """
    return _run_on(ref, [*_platform(arch), "inspect", "--raw", source_name(ref)])


def inspect_config(ref: DiskRef, arch: Arch) -> bytes:
    """The configuration blob, unchanged, of the image on disk for ``arch``. Raises as inspect_raw() does."""
    return _run_on(ref, [*_platform(arch), "inspect", "--config", "--raw", source_name(ref)])


def version() -> str:
    """``1.9.3``. Raises HostError if skopeo does not run."""
    result = _run(["--version"], _VERSION_SECONDS)
    words = result.stdout.decode("utf-8", "replace").split()
    if result.failed or len(words) < 3 or not re.fullmatch(r"[0-9]+\.[0-9.]+[0-9A-Za-z.+~-]*", words[2]):
        raise HostError(
            "skopeo does not work on this host", result.message or "it prints no version", "reinstall skopeo"
        )
    return words[2]


def _flag(name: str, value: PurePath | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _platform(arch: Arch) -> list[str]:
    variant = _VARIANTS.get(arch)
    return [
        "--override-os",
        "linux",
        "--override-arch",
        arch.oci,
        *(["--override-variant", variant] if variant else []),
    ]


@dataclass(frozen=True, slots=True)
class _Result:
    stdout: bytes
    message: str  # skopeo's complaint
    failed: bool


def _run_on(ref: DiskRef, arguments: list[str]) -> bytes:
    if not exists(ref.path):
        raise ImageMissingError(f"no image {ref}", f"{ref.path} does not exist", "correct the path")
    result = _run(arguments, _INSPECT_SECONDS)
    if not result.failed:
        return result.stdout
    said = result.message
    if "permission denied" in said:
        raise ImageMissingError(f"cannot read {ref}", said, "let this user read it, or run as one who may")
    if "more than one image" in said:
        raise ImageMissingError(
            f"{ref} has more than one image",
            said,
            f"name one by its tag: {ref.kind.value}:{ref.path}:TAG",
        )
    missing = ("no descriptor found", "not found", "no such file", "file does not exist", "no image found")
    if any(words in said for words in missing):
        raise ImageMissingError(
            f"no image {ref}",
            said,
            "check the path, the tag and the kind (oci, oci-archive, docker-archive)",
        )
    raise RegistryError(f"cannot read {ref}", said, "is it complete, and of the kind that was named?")


def _run(arguments: list[str], seconds: float) -> _Result:
    """Runs skopeo on this host. Raises HostError where there is none, RegistryError if it takes too long."""
    import sh  # 20 to 50 ms, and most runs never need it

    stdout = _Sink(_MAX_OUTPUT)
    stderr = _Sink(_MAX_STDERR)
    try:
        command = sh.Command("skopeo")
    except sh.CommandNotFound:
        raise HostError(
            "skopeo is not installed on this host",
            "lxdocker reads images on disk with it",
            "install it: apt-get install skopeo",
        ) from None
    log.command(["skopeo", *arguments])
    process: Any = None
    try:
        process = command(
            *arguments,
            # By size instead of by line, so that endless lines are bounded, too.
            _out=stdout.take,
            _err=stderr.take,
            _out_bufsize=65536,
            _err_bufsize=65536,
            # With this, any bytes, split anywhere, come back unchanged.
            _encoding="utf-8",
            _decode_errors="surrogateescape",
            _tty_out=False,
            _no_out=True,
            _no_err=True,
            _timeout=seconds,
            _bg=True,
            _bg_exc=False,
        )
        process.wait()
    except sh.TimeoutException:
        raise RegistryError(
            "skopeo did not end",
            f"no result within {seconds:g} s",
            "is the disk, or the share, that it reads from busy?",
        ) from None
    except sh.ErrorReturnCode:
        return _Result(b"", _complaint(stderr.content), failed=True)
    except sh.ForkException as error:
        raise HostError("cannot start skopeo", in_words(error), "check this host's limits and its skopeo") from None
    except BaseException:
        # Ctrl-C: skopeo runs in a session of its own and would not get the signal.
        if process is not None and process.is_alive():
            process.kill()
        raise
    if stdout.overflowed:
        return _Result(b"", f"it printed more than {_MAX_OUTPUT // 1024} KiB", failed=True)
    return _Result(stdout.content, _complaint(stderr.content), failed=False)


class _Sink:
    """Takes output up to a limit, and drops the rest, so that the process can still end by itself."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts = bytearray()
        self.overflowed = False

    def take(self, chunk: str) -> None:
        if len(self._parts) + len(chunk) > self._limit:
            self.overflowed = True
            return
        self._parts += chunk.encode("utf-8", "surrogateescape")

    @property
    def content(self) -> bytes:
        return bytes(self._parts)


_FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')


def _complaint(stderr: bytes) -> str:
    """The fatal message out of skopeo's log lines (logrus), or its last line; one line, fit to print."""
    text = stderr.decode("utf-8", "replace")
    found = _FATAL.findall(text)
    lines = text.strip().splitlines()
    message = re.sub(r"\\(.)", r"\1", found[-1]) if found else (lines[-1] if lines else "")
    message = re.sub(r'^Error [a-z ]+(?:"[^"]*")?: ', "", message)  # our own messages name the image
    return one_line(message)
