"""The builder image: a handful of static and linked files out of Debian packages, about 30 MB, no distribution.

It is that small because every build gets a fresh container: LXD starts this one in a quarter of a second on any
storage driver.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lxdocker import log
from lxdocker.builder import placement as placing
from lxdocker.builder.instance import OWNER_KEY, Builder, Connection, is_alive, owner, with_command
from lxdocker.builder.placement import Placement
from lxdocker.config.settings import Settings
from lxdocker.errors import BuildError, HostError, LxdError, remedy
from lxdocker.files import scratch
from lxdocker.files.seen import exists
from lxdocker.image import artifact
from lxdocker.log import FileText
from lxdocker.lxd.api import Cancelled, Lxd, NotFoundError, StoredImage
from lxdocker.lxd.dialect import register_command
from lxdocker.progress import Say
from lxdocker.runtime import render
from lxdocker.text import counted
from lxdocker.values import Arch, Fingerprint

ALIAS = "builder"
PREFIX = "lxdocker.builder."
# base-files: the links of a merged /usr, which unpacking alone would lack.
PACKAGES = (
    *("attr", "base-files", "busybox-static", "ca-certificates", "gosu", "perl-base"),
    *("skopeo", "squashfs-tools", "umoci", "zstd"),
)
SUITE = "trixie"  # what mmdebstrap takes; the default base image is the same release
LOCAL_SERVER = "local"  # builder_server that means: the base is an image in LXD's own store
HERE = Path(__file__).parent
INIT = HERE / "init.sh"
INSTALL = HERE / "install.sh"
COLLECT = HERE / "collect.sh"
INSTALL_SECONDS = 900
NO_NETWORK = 69  # install.sh's exit status
NETWORK_SECONDS = 60  # how long a base image's own init may take to get it a network
WITHOUT_BASE = "or make the builder from Debian packages: lxdocker builder build --from mmdebstrap"


@dataclass(frozen=True, slots=True)
class BuilderImage:
    """The builder image there is."""

    fingerprint: Fingerprint
    built_at: datetime
    base: str  # what its files came from
    scripts_hash: str  # hex sha256 of the scripts that made it
    versions: Mapping[str, str]  # tool -> version
    size: int  # bytes

    def stale_reason(self, max_age_days: int) -> str | None:
        """Why it should be made again, or None."""
        if self.scripts_hash != scripts_hash():
            return "another version of lxdocker made it"
        age = datetime.now(UTC) - self.built_at
        if age > timedelta(days=max_age_days):
            return f"it is {counted(age.days, 'day')} old, older than builder_max_age_days ({max_age_days})"
        return None


def find(lxd: Lxd, project: str) -> BuilderImage | None:
    """The current builder image, if there is one: that with the alias, or the newest if somebody has deleted that."""
    found = [(ALIAS in image.aliases, parsed) for image in _images(lxd, project) if (parsed := _parse(image))]
    return max(found, key=lambda one: (one[0], one[1].built_at), default=(False, None))[1]


def build(lxd: Lxd, settings: Settings, say: Say) -> BuilderImage:
    """Makes the builder image, puts it in the place of the old one and returns it.

    Raises BuildError, HostError or LxdError; the old one is then still there.
    """
    placement = placing.prepare(lxd, settings)
    scratch.sweep(say)
    _remove_left_copies(lxd, placement.project)
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(scratch.folder())
        if settings.builder_from == "mmdebstrap":
            base = f"Debian {SUITE} by mmdebstrap"
            versions, rootfs = _from_packages(lxd.arch, folder, say)
        else:
            base = f"{settings.builder_server} {settings.builder_base}"
            versions, rootfs = _from_base_image(lxd, placement, settings, cleanup, say)
        built_at = datetime.now(UTC).replace(microsecond=0)
        details = {**versions, "base": base, "recipe": scripts_hash(), "built_at": built_at.isoformat()}
        properties = {
            "description": "lxdocker builder",
            **{PREFIX + key: value for key, value in details.items()},
        }
        metadata = render.image_metadata(lxd.arch, int(built_at.timestamp()), properties, config=None)
        finished = artifact.write(folder, metadata, rootfs)
        say("importing")
        before = find(lxd, placement.project)
        lxd.import_image(placement.project, finished.fingerprint, finished.metadata, finished.rootfs, properties)
        lxd.set_alias(placement.project, ALIAS, finished.fingerprint)
        # The one before may be what another lxdocker goes on making builders of.
        kept = {finished.fingerprint, *([before.fingerprint] if before else [])}
        for image in lxd.images(placement.project):
            if _parse(image) and image.fingerprint not in kept:
                lxd.delete_image(placement.project, image.fingerprint)
    made = find(lxd, placement.project)
    if made is None:
        raise LxdError("making the builder image failed", "LXD accepted the image but does not list it")
    return made


def delete(lxd: Lxd, project: str) -> BuilderImage | None:
    """Deletes the builder image, and the one before it. Returns what it was."""
    current = find(lxd, project)
    for image in _images(lxd, project):
        if _parse(image):
            lxd.delete_image(project, image.fingerprint)
    return current


def _images(lxd: Lxd, project: str) -> list[StoredImage]:
    with suppress(NotFoundError):
        return lxd.images(project)
    return []  # no builder has ever been asked for


def scripts_hash() -> str:
    """Hex sha256 over the scripts that make the image."""
    return hashlib.sha256(COLLECT.read_bytes() + INIT.read_bytes()).hexdigest()


def _from_packages(arch: Arch, folder: Path, say: Say) -> tuple[dict[str, str], Iterable[bytes]]:
    """With mmdebstrap on this host: packages are unpacked, not installed, and none of their scripts runs."""
    if os.geteuid() != 0:
        raise HostError(
            "mmdebstrap needs root here",
            "it makes a root filesystem and enters it",
            "run 'lxdocker builder build --from mmdebstrap' as root, or do without --from and the setting builder_from",
        )
    if arch is not Arch.host():
        raise HostError(
            f"mmdebstrap makes no builder image for {arch.value} here",
            f"this host is {Arch.host().value}",
            "do without --from and the setting builder_from, which have LXD's host make it",
        )
    root = folder / "root"
    command = [
        *("env", f"TMPDIR={folder}"),  # for what it makes beside the root filesystem
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=extract",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(root),
    ]
    say(f"fetching packages of Debian {SUITE}")
    _require("mmdebstrap", "fetching Debian packages")
    _host(command, "fetching Debian packages")
    say("collecting files")
    busybox = next((path for path in ("/bin/busybox", "/usr/bin/busybox") if exists(root / path[1:])), "/bin/busybox")
    _host(
        # gosu looks at /proc.
        [
            *("sh", "-c", 'mount -t proc proc "$1/proc" && exec chroot "$@"', "sh", str(root)),
            *(busybox, "sh", "-c", FileText.of(COLLECT), "collect", "/out"),
        ],
        "collecting the builder's files",
        INIT.read_bytes(),
        INIT,
    )
    versions = _parse_versions((root / "out/versions").read_text())
    return versions, artifact.read(root / "out/rootfs.squashfs")


# However this process ends, none of the command's goes on, nor stays anything mounted: they have process and mount
# namespaces of their own, and what keeps these is killed with this process.
TOGETHER = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)


def _require(program: str, step: str) -> None:
    if not shutil.which(program):
        raise HostError(
            f"{step} needs {program}", "it is not on this host", f"apt install {program}, or leave out --from"
        )


def _host(command: list[str], step: str, stdin: bytes = b"", source: Path | None = None) -> None:
    """``source``: the file that is on stdin, for the log."""
    argv = [*TOGETHER, *command]
    log.command(argv, source)
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        why = with_command(f"it took longer than {INSTALL_SECONDS} s", argv)
        raise BuildError(f"{step} failed", why) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()[-2000:]
        raise BuildError(f"{step} failed", with_command(said, argv), "check that this host can reach its Debian mirror")


def _from_base_image(
    lxd: Lxd, placement: Placement, settings: Settings, cleanup: ExitStack, say: Say
) -> tuple[dict[str, str], Iterable[bytes]]:
    """In a container of a base image: its own package manager does the fetching."""
    name = f"builder-base-{os.getpid()}"
    say(f"starting {settings.builder_base} from {settings.builder_server}")
    if settings.builder_server == LOCAL_SERVER:
        source = {"type": "image", "fingerprint": _copy_of_local(lxd, placement.project, settings, cleanup).value}
    else:
        source = {"type": "image", "mode": "pull", "alias": settings.builder_base, **_server(lxd, settings)}
    body = {
        "name": name,
        "ephemeral": True,
        "profiles": [placing.PROFILE],
        "config": {OWNER_KEY: owner()},
        "devices": placement.devices(network=True, cache=False),
        "source": source,
    }
    cleanup.callback(lxd.delete_instance, placement.project, name)
    try:
        lxd.create_instance(placement.project, body)
    except Cancelled:
        raise
    except LxdError as error:
        raise LxdError(
            f"starting the base image {settings.builder_base} from {settings.builder_server} failed",
            error.details,
            error.resolution or f"{remedy(error.details, USUAL_FAILURES, ANOTHER_BASE)}, {WITHOUT_BASE}",
        ) from error
    base = Builder(lxd, placement.project, name, Connection("none"))  # install.sh waits for its network
    say("installing packages")
    _install(base)
    say("collecting files")
    collect = ["/bin/busybox", "sh", "-c", FileText.of(COLLECT), "collect", "/out"]
    base.run(
        "collecting the builder's files",
        collect,
        seconds=120,
        stdin=INIT.read_bytes(),
        by_hand=lambda told: f"{told} <{shlex.quote(str(INIT))}",
    )
    versions = _parse_versions(b"".join(base.pull("/out/versions")).decode("utf-8", "replace"))
    return versions, cleanup.enter_context(closing(base.pull("/out/rootfs.squashfs")))


# What LXD says when it can't start a base image, and what to do about it.
ANOTHER_BASE = "name another base (settings builder_server, builder_base)"
USUAL_FAILURES = (
    (("x509", "certificate"), "see that this host's system trusts the certificate of builder_server, then restart LXD"),
    (("not found", "couldn't be found", "doesn't exist"), ANOTHER_BASE),
    (
        ("no such host", "dial tcp", "timeout", "refused", "unreachable", "unable to fetch"),
        "check that LXD reaches builder_server (proxies: lxc config get core.proxy_https)",
    ),
)


def _server(lxd: Lxd, settings: Settings) -> Mapping[str, str]:
    """How LXD is told to use the image server ``builder_server``. Raises HostError where it has to be made known to
    LXD before.
    """
    url = settings.builder_server
    if not lxd.dialect.knows_registries:
        return {"protocol": "simplestreams", "server": url}
    known = lxd.image_registries()
    for name, address in known.items():
        if address.rstrip("/") == url.rstrip("/"):
            return {"image_registry": name}
    raise HostError(
        f"{lxd.dialect} has no image registry for the server of base images {url}",
        f"it knows {', '.join(filter(None, known.values())) or 'no server'}",
        f"make one ({register_command('NAME', url)}), or correct the setting builder_server, {WITHOUT_BASE}",
    )


def _install(base: Builder) -> None:
    """Raises BuildError."""
    step = "installing packages in the base image"
    command = ["/bin/sh", "-c", FileText.of(INSTALL), "install", str(NETWORK_SECONDS), *PACKAGES]
    done = base.try_run(command, seconds=INSTALL_SECONDS)
    if done.status == NO_NETWORK:
        raise BuildError(
            f"{step} failed",
            with_command(f"its init has set up no default route within {NETWORK_SECONDS} s", command),
            f"check LXD's network (lxc network list), name another base (setting builder_base), {WITHOUT_BASE}",
        )
    if done.status != 0:
        said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.status}"
        raise BuildError(
            f"{step} failed",
            with_command(said[-2000:], command),
            f"see that LXD's network reaches a Debian mirror, {WITHOUT_BASE}",
        )


def _copy_of_local(lxd: Lxd, project: str, settings: Settings, cleanup: ExitStack) -> Fingerprint:
    """The base image out of LXD's own store, copied into the builders' project until ``cleanup``, since LXD starts an
    instance only from an image of its own project. Raises HostError, or LxdError for one that is no split image.
    """
    fingerprint = lxd.aliases("default").get(settings.builder_base)
    if fingerprint is None:
        raise HostError(
            f"no such base image: {settings.builder_base}",
            "LXD's default project has no image with this alias",
            "correct the settings builder_server and builder_base",
        )
    if lxd.image(project, fingerprint) is None:
        folder = cleanup.enter_context(scratch.folder())
        cleanup.callback(lxd.delete_image, project, fingerprint)
        metadata, rootfs = lxd.export_image("default", fingerprint, folder)
        properties = {"description": "base of the builder image, there while that is made", OWNER_KEY: owner()}
        lxd.import_image(project, fingerprint, metadata, rootfs, properties)
    return fingerprint


def _remove_left_copies(lxd: Lxd, project: str) -> None:
    """Copies of base images that a killed lxdocker left."""
    for image in lxd.images(project):
        mark = image.properties.get(OWNER_KEY)
        if mark and not is_alive(mark, _uploaded(image)):
            lxd.delete_image(project, image.fingerprint)


def _uploaded(image: StoredImage) -> datetime | None:
    with suppress(ValueError):
        return datetime.fromisoformat(image.uploaded_at)
    return None


def _parse_versions(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: value for key, value in pairs if re.fullmatch(r"[\w.+~:-]{1,100}", value)}


def _parse(image: StoredImage) -> BuilderImage | None:
    found = {key.removeprefix(PREFIX): value for key, value in image.properties.items() if key.startswith(PREFIX)}
    try:
        return BuilderImage(
            fingerprint=image.fingerprint,
            built_at=datetime.fromisoformat(found.pop("built_at")),
            base=found.pop("base"),
            scripts_hash=found.pop("recipe"),
            versions=found,
            size=image.size,
        )
    except (KeyError, ValueError):
        return None
