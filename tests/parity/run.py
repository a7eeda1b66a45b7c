"""Runs an image as a container of podman's and as an instance of LXD's, and brings back what the probe saw."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lxd.rig import Lxc
from tests.parity.cases import Case
from tests.parity.images import Layout
from tests.waiting import wait_until

SECONDS = 60
PATIENCE_SECONDS = 20  # for an instance whose only work is to say what it sees
MARKER = "PARITY:"
# What both set, whatever the host has.
LIMITS = {"nofile": "1024:1024", "nproc": "1024:1024", "core": "0:0"}


@dataclass(frozen=True)
class Seen:
    """What came of a run: the probe's report, or None where it did not start; and all that was printed."""

    report: dict[str, Any] | None
    output: str


def parse(output: str) -> Seen:
    """The report in what was printed: by a console with its own line ends, and with other lines around it."""
    _, marker, rest = output.partition(MARKER)
    return Seen(json.JSONDecoder().raw_decode(rest)[0] if marker else None, output.replace("\r\n", "\n"))


class Podman:
    """podman with runc and a storage of its own."""

    def __init__(self, folder: Path) -> None:
        """``folder``: a short path, since podman takes no longer one for its sockets."""
        self._folder = folder
        self._command = ["podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run"),
                         "--tmpdir", str(folder / "tmp"), "--storage-driver=vfs", "--runtime=runc",
                         "--cgroup-manager=cgroupfs", "--events-backend=none"]  # fmt: skip

    def run(self, case: Case, layout: Layout) -> Seen:
        limits = [f"--ulimit={name}={value}" for name, value in LIMITS.items()]
        command = [*self._command, "run", "--rm", "--quiet", "--pull=always", "--network=none",
                   "--systemd=false",
                   f"--hostname={hostname(case)}", *limits, *case.podman,
                   f"oci:{layout.reference(case)}", *case.arguments]  # fmt: skip
        for _ in range(3):  # podman sometimes loses what a container prints that ends at once
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False, text=True
            )
            if done.returncode != 0 or done.stdout:
                break
        return parse(done.stdout + done.stderr)

    def close(self) -> None:
        """Nothing may stay mounted below the folder, which goes, too."""
        subprocess.run(
            [*self._command, "system", "reset", "--force"], capture_output=True, timeout=SECONDS, check=False
        )
        shutil.rmtree(self._folder, ignore_errors=True)


def launch(case: Case, lxc: Lxc) -> Seen:
    """Launches the case's image, waits for the instance to end by itself and deletes it."""
    name = hostname(case)
    limits = {f"limits.kernel.{key}": value for key, value in LIMITS.items()}
    config = [f"--config={key}={value}" for key, value in {**limits, **case.instance}.items()]
    # No profile, so no network either.
    lxc("launch", case.image, name, "--no-profiles", "--storage=default", *config, timeout=SECONDS)
    stopped = False
    try:
        wait_until(f"the end of {name}", lambda: _status(lxc, name) == "Stopped", PATIENCE_SECONDS)
        stopped = True
    except AssertionError:
        pass  # what it has printed by now tells why
    seen = parse(_log(lxc, name))
    # LXD calls an instance stopped while it is still busy with that.
    wait_until(f"the removal of {name}", lambda: _deleted(lxc, name, force=not stopped), SECONDS)
    return seen


def _status(lxc: Lxc, name: str) -> str:
    return str(lxc.query(f"/1.0/instances/{name}/state")["status"])


def _log(lxc: Lxc, name: str) -> str:
    try:
        return lxc("console", name, "--show-log", timeout=SECONDS)
    except AssertionError as error:
        if "open :" in str(error):  # what LXD makes of a running instance that has printed nothing
            return ""
        raise


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
