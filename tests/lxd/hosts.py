"""Other LXD hosts, which know this one only as an image server over HTTPS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lxd.rig import COMMAND_SECONDS, LXDOCKER, Done
from tests.serve.rig import Served
from tests.waiting import wait_until

SCRIPTS = Path(__file__).parents[2] / "scripts"
LXD_UP = SCRIPTS / "lxd-up"
INCUS_SECONDS = 60  # to start, and to end


@contextmanager
def daemon(name: str, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Path]:
    """One more LXD of the kind that is tested, beside the first. Gives its LXD_DIR. ``options``: lxd-up's."""
    own = Path(os.environ["LXD_DIR"])
    folder = own.with_name(f"{own.name}-{name}")
    try:
        start_lxd(folder, *options, environment=environment)
        yield folder
    finally:
        _lxd_up(folder, "--down", environment=environment)


def start_lxd(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
    """A new one, or one that was stopped or killed. ``options``: lxd-up's."""
    _lxd_up(folder, "--lxd", os.environ["LXDOCKER_TEST_LXD"], *options, environment=environment)


def _lxd_up(folder: Path, *options: str, environment: Mapping[str, str] | None) -> None:
    # timeout(1) ends all that the script has started, which would otherwise keep its lock.
    command: list[str | Path] = ["timeout", str(COMMAND_SECONDS), LXD_UP, "--dir", folder, *options]
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"lxd-up {' '.join(options)}, exit status {done.returncode}: {done.stderr}"


@contextmanager
def incus_daemon() -> Iterator[dict[str, str]]:
    """Debian 13's Incus, on the bridge of the LXD that is tested. Gives what its client needs in its environment."""
    own = Path(os.environ["LXD_DIR"])
    folder = own.with_name(f"incus-{own.name}")  # scripts/test ends what a killed run leaves there
    made = subprocess.run([SCRIPTS / "debian13-lxd"], capture_output=True, text=True, timeout=300, check=True)
    in_root = str(Path(made.stdout.strip()).with_name("in-root"))
    path = f"{os.environ['LXDOCKER_TEST_INCUS']}:{os.environ['PATH']}"
    environment = {"PATH": path, "INCUS_DIR": str(folder), "LXD_DIR": "/nonexistent"}

    def incus(*arguments: str, check: bool = True) -> str:
        env = {**os.environ, **environment, "INCUS_CONF": str(folder / "client")}
        command = ["incus", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=INCUS_SECONDS, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def answers() -> bool:
        assert process.poll() is None, (folder / "out").read_text()
        return "api_extensions" in incus("query", "/1.0", check=False)

    networks = json.loads(
        subprocess.run(["lxc", "network", "list", "--format", "json"], capture_output=True, check=True).stdout
    )
    bridge = next(one["name"] for one in networks if one["managed"])
    folder.mkdir(mode=0o711)
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(
            [in_root, "/usr/libexec/incus/incusd", "--group", "root", "--logfile", str(folder / "incusd.log")],
            env={**os.environ, "INCUS_DIR": str(folder)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_until("Incus", answers)
        incus("storage", "create", "default", "dir")
        incus("profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
        incus("profile", "device", "add", "default", "eth0", "nic", "nictype=bridged", f"parent={bridge}", "name=eth0")
        yield environment
    finally:
        for name in incus("list", "--format", "csv", "--columns", "n", check=False).split():
            incus("delete", "--force", name, check=False)
        process.terminate()
        process.wait(INCUS_SECONDS)
        shutil.rmtree(folder)


class Host:
    """An LXD daemon of its own, and the ``lxc`` of a user there who has no configuration yet."""

    def __init__(self, folder: Path, lxd: Path) -> None:
        self.lxd = lxd
        self.config = folder / "lxc"
        self._folder = folder
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "LXD_DIR": str(self.lxd),
            "LXD_CONF": str(self.config),
            "LC_ALL": "C.UTF-8",
        }

    def lxc(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            ["lxc", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expect, f"lxc {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout if expect == 0 else done.stderr

    def lxdocker(self, *arguments: str, stdin: str = "", expect: int = 0) -> Done:
        done = subprocess.run(
            [*LXDOCKER, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == expect, f"status {done.returncode}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def trust(self, remote: str, certificate: Path) -> None:
        """The certificate step, by hand."""
        folder = self.config / "servercerts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{remote}.crt").write_bytes(certificate.read_bytes())

    def join(self, remote: str, served: Served) -> None:
        self.lxc("remote", "add", remote, served.url, "--protocol", "simplestreams")
        self.trust(remote, served.certificate)

    def remotes(self) -> dict[str, str]:
        found: dict[str, Any] = json.loads(self.lxc("remote", "list", "--format", "json"))
        return {name: one["Addr"] for name, one in found.items()}

    def query(self, path: str) -> Any:
        return json.loads(self.lxc("query", path))

    def aliases(self) -> dict[str, str]:
        """Alias -> fingerprint."""
        return {alias: fingerprint for fingerprint, names in self.images().items() for alias in names}

    def images(self) -> dict[str, list[str]]:
        """Fingerprint -> aliases."""
        found = json.loads(self.lxc("query", "/1.0/images?recursion=1"))
        return {image["fingerprint"]: [alias["name"] for alias in image["aliases"]] for image in found}

    def clear(self) -> None:
        """Without instances, images, and what its daemon knows of servers."""
        for instance in json.loads(self.lxc("list", "--format", "json")):
            self.lxc("delete", "--force", instance["name"])
        for fingerprint in self.images():
            self.lxc("image", "delete", fingerprint)
        if "image_registries" in self.query("/1.0")["api_extensions"]:
            for registry in self.query("/1.0/image-registries?recursion=1"):
                if not registry["builtin"]:
                    self.lxc("image", "registry", "delete", registry["name"])
        self.forget_indexes()

    def forget_indexes(self) -> None:
        """What happens by itself an hour after the daemon has read an index."""
        hours_ago = time.time() - 2 * 3600
        for path in (self.lxd / "cache").glob("*/*.json"):
            os.utime(path, (hours_ago, hours_ago))


def address(host: Host, instance: str) -> str:
    def probe() -> str | None:
        state = json.loads(host.lxc("query", f"/1.0/instances/{instance}/state"))
        addresses = (state["network"] or {}).get("eth0", {}).get("addresses", [])
        return next((one["address"] for one in addresses if one["family"] == "inet"), None)

    return str(wait_until(f"an address of {instance}", probe))
