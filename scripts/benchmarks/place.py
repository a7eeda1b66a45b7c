"""The environment of the measurements, and the measured commands."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from benchmarks import images
from benchmarks.images import Images
from lxdocker.builder import image as builder_image
from lxdocker.builder.image import BuilderImage
from lxdocker.config.settings import Settings, load
from lxdocker.lxd.api import Lxd

SCRIPTS = Path(__file__).parent.parent
PROJECT = "lxdocker"  # of the builders
POLL_SECONDS = 0.01
MEGABYTE = 1e6


class MeasurementError(Exception):
    """A figure could not be measured: the operation did not do what was expected."""


@dataclass(frozen=True)
class Measured:
    """The samples of one figure; ``note`` adds other useful values."""

    samples: Sequence[float]
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Synced:
    """A finished ``lxdocker sync``."""

    seconds: float
    peak: float  # MB, peak memory of its process
    statuses: Sequence[str]  # one per image


@dataclass(frozen=True)
class Place:
    """A private LXD (pools ``default`` on btrfs and ``plain`` on dir), a registry, and a folder for output."""

    run: Path
    registry: str  # HOST:PORT
    layouts: Path
    rounds: int | None = None

    # ---- preparation

    @cached_property
    def images(self) -> Images:
        """The registry's content."""
        return Images(self.registry, self.layouts, self.folder("images"))

    @cached_property
    def settings(self) -> Settings:
        """The settings of these commands, for measurements without a command."""
        return load({"config": self._config, "tree": self.run / "work/tree"}, {})

    @cached_property
    def builder(self) -> BuilderImage:
        """The builder image, built on first use."""
        return self.make_builder()

    def make_builder(self) -> BuilderImage:
        """The builder image of the LXD that commands go to."""
        say("making the builder image")
        return builder_image.build(Lxd(), self.settings, lambda text: say(f"  {text}"))

    @cached_property
    def _config(self) -> Path:
        path = self.run / "config.yaml"
        path.write_text(f"builder_from: mmdebstrap\nclient_dir: {self.run / 'work' / 'client'}\n")
        return path

    @property
    def _cache(self) -> Path:
        """What lxdocker keeps there is known of images."""
        return self.run / "work/cache"

    @cached_property
    def pool(self) -> Path:
        """The pool ``default`` as seen by LXD, which may have mounted it in its own namespace."""
        server = json.loads(self.command("lxc", "query", "/1.0"))
        return Path(f"/proc/{server['environment']['server_pid']}/root{os.environ['LXD_DIR']}/storage-pools/default")

    def folder(self, name: str) -> Path:
        """An empty folder on the loop-mounted filesystem."""
        folder = self.run / "work" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def specs(self, folder: Path, references: Mapping[str, str], **keys: Any) -> None:
        """Writes specs into ``folder``, each with a name, its image, and the same other keys."""
        (folder / "images.d").mkdir(exist_ok=True)
        for name, reference in references.items():
            (folder / "images.d" / f"{name}.yaml").write_text(yaml.safe_dump({"image": reference, **keys}))

    # ---- commands

    def command(self, *argv: str | Path) -> str:
        """Runs a command that is not measured; returns its output."""
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MeasurementError(f"{' '.join(map(str, argv))}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    @contextmanager
    def trusted(self) -> Iterator[str]:
        """Where the LXD also listens while this is open; it and lxdocker know each other."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.command("lxc", "config", "set", "core.https_address", address)
        token = self.command("lxc", "config", "trust", "add", "--name", "bench").split()[-1]
        program = Path(sys.executable).with_name("lxdocker")
        argv: list[str | Path] = [program, "trust", "-", "--config", self._config]
        subprocess.run(argv, input=token, text=True, check=True, stdout=subprocess.DEVNULL)
        yield f"https://{address}"
        self.command("lxc", "config", "unset", "core.https_address")

    def timed(self, *argv: str | Path) -> float:
        """Runs a command; returns how many seconds it took."""
        began = time.monotonic()
        self.command(*argv)
        return time.monotonic() - began

    def sync(self, folder: Path, project: str = "default", *more: str) -> Synced:
        """Runs ``lxdocker sync`` on ``folder``, and checks that it succeeded."""
        words: list[str | Path] = [
            "--project",
            project,
            "--specs",
            folder / "images.d",
            "--tree",
            folder / "tree",
            *more,
        ]
        seconds, peak = self.lxdocker(folder, "sync", "--json", *words)
        report = json.loads((folder / "out").read_text())
        return Synced(seconds, peak, [image["outcome"] for image in report["images"]])

    def lxdocker(
        self, folder: Path, command: str, *words: str | Path, statuses: Sequence[int] = (0,)
    ) -> tuple[float, float]:
        """Runs a command of lxdocker's, which prints to ``folder``/out, and checks that it succeeded. Returns how many
        seconds it took, and the most memory.
        """
        program = Path(sys.executable).with_name("lxdocker")
        argv: list[str | Path] = [program, command, "--config", self._config, *words]
        environment = {**os.environ, "XDG_CACHE_HOME": str(self._cache)}
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            began = time.monotonic()
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
            peak = 0.0
            try:
                while process.poll() is None:
                    peak = max(peak, _peak(process.pid))
                    time.sleep(POLL_SECONDS)
            except BaseException:
                process.kill()
                process.wait()
                raise
            seconds = time.monotonic() - began
        if process.returncode not in statuses:
            raise MeasurementError(f"lxdocker {command} failed:\n{(folder / 'err').read_text()[-2000:]}")
        return seconds, peak

    def by_hand(self, folder: Path, reference: str, alias: str) -> float:
        """The steps of a build by hand, without a container; returns their duration in seconds."""
        target = folder / alias
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        metadata = images.metadata(target)
        script = f"""set -e; cd {target}
skopeo copy --quiet --src-tls-verify=false docker://{reference} oci:oci:image
umoci raw unpack --image oci:image rootfs
mksquashfs rootfs rootfs.squashfs -comp zstd -Xcompression-level 3 -noappend -no-progress -quiet
lxc image import {metadata.name} rootfs.squashfs --alias {alias}
"""
        return self.timed("/bin/sh", "-c", script)

    # ---- in between

    def forget(self, folder: Path, project: str = "default") -> None:
        """Restores the state before any sync: no images, published files, cached layers or anything known of images;
        then waits for the disks.
        """
        self.settle_builders()
        for path in ("tree", *(path.name for path in folder.glob("hand-*"))):
            shutil.rmtree(folder / path, ignore_errors=True)
        shutil.rmtree(self._cache, ignore_errors=True)
        for url in json.loads(self.command("lxc", "query", f"/1.0/images?project={project}")):
            self.command("lxc", "query", "-X", "DELETE", "--wait", f"{url.split('?')[0]}?project={project}")
        self.forget_layers()
        self.settle()

    def forget_layers(self) -> None:
        """Empties the layer cache."""
        volumes = "/1.0/storage-pools/default/volumes/custom"
        if any("/cache" in url for url in json.loads(self.command("lxc", "query", f"{volumes}?project={PROJECT}"))):
            self.command("lxc", "storage", "volume", "delete", "default", "cache", "--project", PROJECT)
        self.command("lxc", "storage", "volume", "create", "default", "cache", "--project", PROJECT)

    def settle_builders(self) -> None:
        """Waits until LXD has removed all builders, for which lxdocker does not wait."""
        projects = json.loads(self.command("lxc", "query", "/1.0/projects"))
        there = f"/1.0/projects/{PROJECT}" in projects
        while there and json.loads(self.command("lxc", "query", f"/1.0/instances?project={PROJECT}")):
            time.sleep(POLL_SECONDS)

    def settle(self) -> None:
        """Waits until earlier deletions and writes have settled."""
        pool = self.pool
        for mounted in (pool, self.run / "work"):
            self.command("btrfs", "subvolume", "sync", mounted)
        self.command("sync", "--file-system", pool, self.run / "work", self.run / "plain", self.run)

    def repeat(self, usual: int, once: Callable[[int], float]) -> list[float]:
        """Calls ``once`` for the figure's usual number of rounds, or the requested one."""
        return [once(number) for number in range(self.rounds or usual)]


def say(text: str) -> None:
    """Prints a line of progress."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is a program's output


def _peak(pid: int) -> float:
    """VmHWM of a process in MB (proc(5)); 0 for one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines: dict[str, Any] = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 / MEGABYTE if "VmHWM" in lines else 0
