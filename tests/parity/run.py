"""Runs an image as a container of podman's and as an instance of LXD's, and brings back what the probe saw."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lxd.rig import Lxc
from tests.parity.cases import Case
from tests.parity.images import Layout
from tests.parity.volumes import told
from tests.waiting import wait_until

SECONDS = 60
PATIENCE_SECONDS = 60  # for an instance whose only work is to say what it sees, and to fill its volumes on a busy disk
MARKER = "PARITY:"
# What both set, whatever the host has.
LIMITS = {"nofile": "1024:1024", "nproc": "1024:1024", "core": "0:0"}
MEMORY = 1 << 30
POOL = "default"
BY_NAME = re.compile(r"^BY-NAME:(\S+)\r?$", re.MULTILINE)

# What Docker's daemon does, and podman 4.3 does not by itself.
CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
SYSCTLS = ("net.ipv4.ip_unprivileged_port_start=0", "net.ipv4.ping_group_range=0 2147483647")
DOCKERS = f"""\
[containers]
default_capabilities = {json.dumps(CAPABILITIES)}
default_sysctls = {json.dumps(SYSCTLS)}
base_hosts_file = "none"
shm_size = "{64 << 20}"
[network]
network_backend = "cni"
"""
# A pair of interfaces, which go with the container. The addresses (RFC 2544) are nobody's.
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "parity",
    "plugins": [
        {
            "type": "ptp",
            "ipam": {
                "type": "static",
                "addresses": [{"address": "198.18.77.2/24", "gateway": "198.18.77.1"}],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}


@dataclass(frozen=True)
class Seen:
    """What came of a run: the probe's report, or None where it did not start; and all that was printed."""

    report: dict[str, Any] | None
    output: str

    def with_volumes(self, case: Case, folders: Mapping[str, Path], owner: int = 0) -> Seen:
        """What is in them afterwards as a part of the report: path -> where the host has it."""
        if self.report:
            self.report["volumes"] = {
                f"{path}: {inner}": what
                for path, folder in folders.items()
                for inner, what in told(folder, owner, of_image=case.has(path)).items()
            }
        return self


def parse(output: str) -> Seen:
    """The report in what was printed: by a console with its own line ends, and with other lines around it."""
    _, marker, rest = output.partition(MARKER)
    report = json.JSONDecoder().raw_decode(rest)[0] if marker else None
    if report:
        report["arrived"] = BY_NAME.findall(output)
    return Seen(report, output.replace("\r\n", "\n"))


class Podman:
    """podman with runc and a storage of its own."""

    def __init__(self, folder: Path) -> None:
        """``folder``: a short path, since podman takes no longer one for its sockets."""
        self._folder = folder
        self._command = ["podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run"),
                         "--tmpdir", str(folder / "tmp"), "--storage-driver=vfs", "--runtime=runc",
                         "--cgroup-manager=cgroupfs", "--events-backend=none",
                         "--network-config-dir", str(folder / "networks")]  # fmt: skip
        (folder / "networks").mkdir()
        (folder / "networks/parity.conflist").write_text(json.dumps(NETWORK))
        (folder / "containers.conf").write_text(DOCKERS)
        self._environment = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}

    def run(self, case: Case, layout: Layout) -> Seen:
        limits = [f"--ulimit={name}={value}" for name, value in LIMITS.items()]
        # One that is PID 1 has the console, a terminal.
        terminal = [] if case.supervised else ["--tty"]
        # These two it sets by itself, Docker only the one for a terminal.
        unwanted = ["container", "TERM"] if case.supervised else ["container"]
        unset = [f"--unsetenv={name}" for name in unwanted if not case.sets(name)]
        volumes = [f"--volume={name}:{path}" for name, path in case.named_volumes().items()]
        command = [*self._command, "run", "--rm", "--quiet", "--pull=always", "--network=parity",
                   "--systemd=false", f"--hostname={hostname(case)}", f"--memory={MEMORY}", *limits, *unset, *terminal,
                   *volumes, *case.podman,
                   f"oci:{layout.reference(case)}", *case.arguments]  # fmt: skip
        for _ in range(3):  # podman sometimes loses what a container prints that ends at once
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False, text=True,
                env=self._environment,
            )  # fmt: skip
            if done.returncode != 0 or done.stdout:
                break
        found = parse(done.stdout + done.stderr)
        return found.with_volumes(case, {path: self._volume(name) for name, path in case.named_volumes().items()})

    def _volume(self, name: str) -> Path:
        return self._folder / "storage/volumes" / name / "_data"

    def volumes(self, reference: str, places: Mapping[str, str]) -> dict[str, Path]:
        """Fresh volumes at these places of an image in a registry, filled by a container's start: name -> folder."""
        mounts = [f"--volume={name}:{place}" for name, place in places.items()]
        limits = [f"--ulimit={name}={value}" for name, value in LIMITS.items()]
        command = [*self._command, "run", "--rm", "--quiet", "--tls-verify=false", "--network=none",
                   "--entrypoint=/bin/true", *limits, *mounts, reference]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, timeout=SECONDS, check=False, text=True, env=self._environment
        )
        assert done.returncode == 0, done.stderr
        return {name: self._volume(name) for name in places}

    def close(self) -> None:
        """Nothing may stay mounted below the folder, which goes, too."""
        subprocess.run(
            [*self._command, "system", "reset", "--force"], capture_output=True, timeout=SECONDS, check=False,
            env=self._environment,
        )  # fmt: skip
        shutil.rmtree(self._folder, ignore_errors=True)


def launch(case: Case, lxc: Lxc, interface: Mapping[str, str]) -> Seen:
    """Launches the case's image, waits for the instance to end by itself and deletes it."""
    name = hostname(case)
    limits = {f"limits.kernel.{key}": value for key, value in LIMITS.items()}
    volumes = case.named_volumes()
    instance = {
        "config": {**limits, "limits.memory": str(MEMORY), **case.instance},
        "devices": {
            "root": {"type": "disk", "path": "/", "pool": POOL},
            "eth0": interface,
            **{name: {"type": "disk", "pool": POOL, "source": name, "path": path} for name, path in volumes.items()},
        },
    }
    for volume in volumes:
        lxc("storage", "volume", "create", POOL, volume)
    lxc("launch", case.image, name, "--no-profiles", stdin=yaml.safe_dump(instance), timeout=SECONDS)
    stopped = False
    try:
        wait_until(f"the end of {name}", lambda: _status(lxc, name) == "Stopped", PATIENCE_SECONDS)
        stopped = True
    except AssertionError:
        pass  # what it has printed by now tells why
    lxc.has_ended(name)
    said = lxc.console(name).read_text(errors="replace")
    found = parse(said if stopped else f"{said}\n(it did not end within {PATIENCE_SECONDS} s)")
    if volumes:
        owner = _owner(lxc, next(iter(volumes)))
        folder = Path(os.environ["LXD_DIR"], "storage-pools", POOL, "custom")
        found.with_volumes(case, {path: folder / f"{lxc.project}_{name}" for name, path in volumes.items()}, owner)
    # LXD calls an instance stopped while it is still busy with that.
    wait_until(f"the removal of {name}", lambda: _deleted(lxc, name, force=not stopped), SECONDS)
    for volume in volumes:
        lxc("storage", "volume", "delete", POOL, volume)
    return found


def _owner(lxc: Lxc, volume: str) -> int:
    """The host's id of the root that owns a volume: LXD may let the kernel map the instance's disk, and not this."""
    idmap = json.loads(lxc("storage", "volume", "get", POOL, volume, "volatile.idmap.last"))
    return next((int(one["Hostid"]) for one in idmap if one["Isuid"]), 0)


def _status(lxc: Lxc, name: str) -> str:
    return str(lxc.query(f"/1.0/instances/{name}")["status"])


def _deleted(lxc: Lxc, name: str, *, force: bool) -> bool:
    try:
        # Not by force where it has stopped: LXD may then wait for minutes for the end of a stop that is over.
        lxc("delete", *(["--force"] if force else []), name, timeout=SECONDS)
    except AssertionError as error:
        if "busy running" in str(error) or "currently running" in str(error):
            return False
        raise
    except subprocess.TimeoutExpired:
        # LXD waits for a stop that is long over. What this instance saw is known; it goes with the project.
        return True
    return True


def hostname(case: Case) -> str:
    """The host name in both, and the instance's name."""
    return f"p-{case.name}"
