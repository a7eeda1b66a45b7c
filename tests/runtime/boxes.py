"""What the runtime's tests are made of: tiny images, and instances of them that each test gives its own command.

``Box`` is an instance; ``IMAGES`` are the images, all of busybox and a few files, which one sync builds.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import tarfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.lxd.rig import Instance, Lxc, entry, image, layer, symlink
from tests.registry_server import Image
from tests.waiting import wait_until

BUSYBOX = Path("/bin/busybox")
APP_UID = 1000
CAPABILITY = b"\x01\0\0\x02\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".decode("latin-1")  # cap_net_bind_service
SECOND = 1_000_000_000  # Docker's durations are in nanoseconds

# ---- images


def box(*more: Any, **config: Any) -> Image:
    """An image of busybox, with two users, and things in /tmp and /run that a tmpfs could hide."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    base = layer(
        entry("bin"),
        entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(symlink(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
        entry("etc"),
        entry("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"),
        entry("etc/group", "root:x:0:\napp:x:1000:\n"),
        entry("root", mode=0o700),
        entry("tmp", mode=0o1777),
        entry("tmp/kept", "from the image", uid=APP_UID, gid=APP_UID, mode=0o640),
        entry("run"),
        entry("run/app", uid=APP_UID, gid=APP_UID, mode=0o750),
        entry("run/app/socket.d", uid=APP_UID, gid=APP_UID, mode=0o700),
    )
    change = [layer(*more)] if more else []
    return image(base, *change, **{"Cmd": ["/bin/sleep", "1000000"], **config})


def healthcheck(*test: str, **times: Any) -> dict[str, Any]:
    """In Docker's format; times in seconds."""
    durations = {key: int(value * SECOND) if key != "Retries" else value for key, value in times.items()}
    return {"Healthcheck": {"Test": list(test), **durations}}


@dataclass(frozen=True)
class Wanted:
    """An image and its spec's keys."""

    image: Image
    keys: Mapping[str, Any] = field(default_factory=dict)


BRACES = {
    "EXPRESSION": "{{ config.x }}{{{ instance.name }}}",
    "BLOCK": "{% include 'x' %}{% endautoescape %}{%%}",
    "COMMENT": "{# unclosed",
    "ESCAPED": '{{ "{" }} & <b> \'"\\',
    "UNICODE": "caf\u00e9 \u2713",
}
QUICK = {"Interval": 0.3, "Timeout": 1, "StartPeriod": 0.1, "StartInterval": 0.3, "Retries": 2}
IMAGES = {
    "box": Wanted(box()),
    "settled": Wanted(
        box(Entrypoint=["/bin/sh", "-c", "echo a run; exit 3"], Cmd=[]),
        {
            "restart": "on-failure:2",
            "stop_grace": 1,
            "prelaunch": "required",
            "tmpfs": {"/dev/shm": "3m", "/tmp": "off", "/run": "2m", "/var/cache/app": "on", "/var/cache": "1m"},
        },
    ),
    # Volumes with data that Docker would keep, by all names that lead to /run, and one that the image does not have.
    "volumes": Wanted(
        box(symlink("var/run", "/run"), Volumes={"/var/run/state": {}, "/tmp/keep/": {}, "/data/db": {}}),
    ),
    # Files as images made by hand have them: without a last line's end.
    "last-line": Wanted(
        box(
            entry("etc/passwd", "root:x:0:0::/root:/bin/sh\nlast:x:1500:1500::/home/last:/bin/sh"),
            entry("etc/group", "root:x:0:\nlast:x:1500:"),
            User="last:last",
        ),
    ),
    # More attributes than an instance's /dev has room for.
    "noted": Wanted(
        box(
            entry("noted"),
            *(entry(f"noted/{number}", pax_headers={"SCHILY.xattr.user.note": "x" * 60}) for number in range(6000)),
        ),
    ),
    # All that can be copied into a volume.
    "filling": Wanted(
        box(
            entry("data", uid=APP_UID, gid=50, mode=0o2770, mtime=1_500_000_000),
            entry("data/file", "x" * 100_000, uid=APP_UID, gid=APP_UID, mode=0o640, mtime=1_500_000_001),
            entry("data/.hidden", "", mode=0, mtime=1_500_000_002),
            entry("data/set id", "x", uid=7, gid=8, mode=0o6755),
            entry(
                "data/same",
                b"",
                type=tarfile.LNKTYPE,
                linkname="data/file",
                uid=APP_UID,
                gid=APP_UID,
                mode=0o640,
                mtime=1_500_000_001,
            ),
            symlink("data/link", "/nowhere"),
            entry("data/to-etc", b"", type=tarfile.SYMTYPE, linkname="../etc", uid=3, gid=4, mtime=1_400_000_000),
            entry("data/fifo", b"", type=tarfile.FIFOTYPE, uid=5, mode=0o620),
            entry("data/deep", mode=0o1777, mtime=1_300_000_000),
            entry("data/deep/er", uid=9, mode=0o500, mtime=1_200_000_000),
            entry("data/deep/er/é\n'b", "x", mtime=0),
            entry("data/noted", "x", pax_headers={"SCHILY.xattr.user.note": "a note\n"}),
            entry("data/noted-folder", pax_headers={"SCHILY.xattr.user.note": "x"}),
            entry("data/capable", "x", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": CAPABILITY}),
            entry("opt/app", gid=20, mode=0o711),
            entry("opt/app/file", "of the image"),
            entry("opt/app/nested", gid=21, mode=0o750),
            entry("opt/app/nested/file", "of the image, too"),
            symlink("var/run", "/run"),
            entry("empty", uid=11, gid=12, mode=0o700),
            Volumes={"/data": {}},
        ),
    ),
    # Device nodes, as what is made for chroot has; and a root folder of its own.
    "jail": Wanted(
        image(
            layer(
                entry("./", mode=0o700, uid=APP_UID),
                entry("bin"),
                entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
                entry("jail/dev/null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
                entry("jail/dev/urandom", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=9, mode=0o444, gid=7),
                entry("jail/dev/sda", b"", type=tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o660),
            ),
            Cmd=["/bin/busybox", "sh", "-c", "echo x >/jail/dev/null && echo written; exec /bin/busybox sleep 100000"],
            User=str(APP_UID),
        ),
    ),
    # Empty folders, which are not root's alone.
    "empty": Wanted(
        box(
            *(entry(f"{folder}/.wh..wh..opq", b"") for folder in ("run", "tmp")),
            entry("run", uid=APP_UID, gid=APP_UID, mode=0o770),
            entry("tmp", gid=APP_UID, mode=0o1770),
        ),
    ),
    "healthy": Wanted(box(**healthcheck("CMD", "/bin/cat", "/dev/shm/fine", **QUICK), User="app")),
    "healthy-shell": Wanted(box(**healthcheck("CMD-SHELL", 'echo $((20 + 3)) "$(id -u)"', **QUICK), User="app")),
    "hanging": Wanted(
        box(**healthcheck("CMD-SHELL", "echo stuck; sleep 7654; true", **QUICK)), {"restart_unhealthy": True}
    ),
    "slow-start": Wanted(box(**healthcheck("CMD", "/bin/cat", "/dev/shm/fine", **{**QUICK, "StartPeriod": 60}))),
    "unchecked": Wanted(box(**healthcheck("NONE"))),
    # An image's own shell for its checks, and no /bin/sh.
    "own-shell": Wanted(
        box(
            entry("bin/.wh.sh", b""),
            entry("opt"),
            symlink("opt/sh", "/bin/busybox"),
            **healthcheck("CMD-SHELL", "echo by $0", **QUICK),
            Shell=["/opt/sh", "-eu", "-c"],
        )
    ),
    # Checked every minute, but every 0.3 s for as long as it is starting.
    "eager": Wanted(
        box(**healthcheck("CMD", "/bin/cat", "/dev/shm/fine", Interval=60, StartPeriod=60, StartInterval=0.3))
    ),
    "chatty": Wanted(box(**healthcheck("CMD-SHELL", "setsid yes left behind & yes | head -c 3000000", **QUICK))),
    # What would mean something in a template, through which LXD writes it into instances.
    "braces": Wanted(
        box(
            Env=[f"{name}={value}" for name, value in BRACES.items()],
            Cmd=["/bin/sh", "-c", ": {{ x }}; exec sleep 1000000"],
        )
    ),
    "user": Wanted(box(User="app", Env=["GREETING=hello world", "PATH=/opt/bin:/bin"], WorkingDir="/srv")),
    "first": Wanted(box(User="app"), {"disable_supervisor": True}),
    # Known by its entrypoint, as s6-overlay is.
    "own-init": Wanted(
        box(entry("init", "#!/bin/sh\necho init is $$\nexec sleep 1000000\n", mode=0o755), Entrypoint=["/init"])
    ),
    "own-init-supervised": Wanted(
        box(entry("init", "#!/bin/sh\necho init is $$\n", mode=0o755), Entrypoint=["/init"]),
        {"disable_supervisor": False},
    ),
    "nobody": Wanted(box(User="ghost")),
    "no-program": Wanted(box(Entrypoint=["/opt/missing", "x"])),
    "linked-resolver": Wanted(box(symlink("etc/resolv.conf", "../run/resolve/stub.conf"))),
}


# ---- instances


def shell(script: str) -> dict[str, str]:
    """Configuration of an instance whose command is ``script``."""
    return {"user.lxdocker.entrypoint": json.dumps(["/bin/sh", "-c", script])}


class Box(Instance):
    """An instance with the configuration and devices of its test; without any profile, so also without network."""

    def __init__(
        self,
        lxc: Lxc,
        image: str,
        script: str | None = None,
        *,
        config: Mapping[str, str] | None = None,
        devices: Mapping[str, Mapping[str, str]] | None = None,
        start: bool = True,
    ) -> None:
        self._lxc = lxc
        self._said = self._console = b""
        self.name = f"t-{uuid.uuid4().hex[:8]}"
        body = {
            "name": self.name,
            "source": {"type": "image", "alias": image},
            "profiles": [],
            "config": {**(shell(script) if script is not None else {}), **(config or {})},
            "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}, **(devices or {})},
        }
        lxc.query("/1.0/instances", "-X", "POST", "--wait", "-d", json.dumps(body))
        if start:
            self.start()

    @classmethod
    def imported(cls, other: Box, archive: str, name: str) -> Box:
        """What ``lxc export`` made of another."""
        made = copy.copy(other)
        other._lxc("import", archive, name)
        made._called(name)
        return made

    def rename(self, name: str) -> None:
        self("rename", name)
        self._called(name)

    def _called(self, name: str) -> None:
        self.name = name
        self._said = self._console = b""  # the console's file has the name, too

    def __call__(self, *arguments: str, timeout: float = 60) -> str:
        """``lxc VERB NAME ARGUMENT…``"""
        return self._lxc(arguments[0], self.name, *arguments[1:], timeout=timeout)

    def set(self, **config: str) -> None:
        """Configuration keys; ``__`` is a dot."""
        for key, value in config.items():
            self._lxc("config", "set", self.name, f"{key.replace('__', '.')}={value}")

    def device(self, *arguments: str) -> None:
        self._lxc("config", "device", arguments[0], self.name, *arguments[1:])

    @property
    def pid(self) -> int:
        """PID 1, as the host numbers it."""
        return int(self.state()["pid"])

    def ended(self, seconds: float = 30) -> str:
        """The console log once the instance has stopped by itself."""

        def probe() -> bool:
            # LXD says so a little before it has done with it.
            return self.status == "Stopped" and self._idle()

        try:
            wait_until(f"the end of {self.name}", probe, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        return self.log()

    def _idle(self) -> bool:
        try:
            self.set(user__touched="1")
        except AssertionError:
            return False
        return True

    def ready(self) -> Self:
        """Once the application runs."""
        wait_until(f"the application of {self.name}", self.app_pid)
        return self

    def delete(self) -> None:
        command = ["lxc", "--project", self._lxc.project, "delete", "--force", self.name]

        def probe() -> bool:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            gone = done.returncode == 0 or "not found" in done.stderr  # by its test
            # It may be busy, or just ending by itself.
            assert gone or "busy" in done.stderr or "not running" in done.stderr, done.stderr
            return gone

        wait_until(f"the end of {self.name}", probe)

    def exec(self, *command: str) -> tuple[int, str]:
        """Exit status and output of a command in the instance."""
        done = self._lxc.exec(self.name, *command)
        return done.returncode, done.stdout + done.stderr

    def runs(self, script: str) -> bool:
        """Whether a script with LXD's busybox in the instance succeeds, which may end all processes but its own."""
        command = ["lxc", "--project", self._lxc.project, "exec", self.name, "--", "/busybox-lxd", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
        return done.returncode == 0

    def file(self, path: str) -> str:
        return self.shell(f"cat '{path}'")

    def host_status(self, pid: int | None = None) -> dict[str, str]:
        """/proc/PID/status, read from outside."""
        text = Path(f"/proc/{pid or self.pid}/status").read_text()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}

    def tmpfs(self) -> dict[str, str]:
        """Mount point -> options of what is a tmpfs; below /dev only what is there for the application."""
        found = {}
        for line in self.file("/proc/self/mountinfo").splitlines():
            words = line.split()
            kind = words[words.index("-") + 1]
            if kind == "tmpfs" and (words[4] == "/dev/shm" or not re.match("/(dev|proc|sys)", words[4])):
                found[words[4]] = words[5] + "," + words[-1]
        return found

    def address_on(self, interface: str = "eth0") -> str | None:
        """Its IPv4 address there now, if it has one."""
        state = (self.state()["network"] or {}).get(interface) or {"addresses": []}
        found = [one["address"] for one in state["addresses"] if one["family"] == "inet"]
        return str(found[0]) if found else None

    def app_pid(self) -> int | None:
        """The application's process, inside: the child of PID 1 that is none of the runtime's."""
        script = 'for p in /proc/[0-9]*; do echo ${p#/proc/} $(cut -d" " -f4 $p/stat) $(tr "\\0" " " <$p/cmdline); done'
        for line in self.shell(f"{{ {script}; }} 2>/dev/null").splitlines():
            pid, parent, command = [*line.split(" ", 2), "", ""][:3]
            if parent == "1" and command and not re.search("busybox-lxd|lxd-gosu", command):
                return int(pid)
        return None

    def app_pid_on_host(self) -> int:
        """The same process, as the host numbers it."""
        inside = str(wait_until("the application", self.app_pid))
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            if self.host_status(int(child))["NSpid"].split()[-1] == inside:
                return int(child)
        raise AssertionError(f"no process {inside}")


class Volumes:
    """Custom volumes in the pool of the tests."""

    def __init__(self, lxc: Lxc) -> None:
        self._lxc = lxc
        self.names: list[str] = []

    def make(self, path: str, **more: str) -> dict[str, str]:
        """A fresh one, as the device that attaches it."""
        name = f"v{len(self.names)}"
        self._lxc("storage", "volume", "create", "default", name)
        self.names.append(name)
        return {"type": "disk", "pool": "default", "source": name, "path": path, **more}

    def folder(self, device: Mapping[str, str]) -> Path:
        """Where the host has it."""
        return Path(os.environ["LXD_DIR"], "storage-pools/default/custom", f"{self._lxc.project}_{device['source']}")

    def close(self) -> None:
        for name in self.names:
            self._lxc("storage", "volume", "delete", "default", name)


def lines(log: str, pattern: str) -> list[str]:
    """The log's lines that match."""
    return [line for line in log.splitlines() if re.search(pattern, line)]


def all_of(boxes: Sequence[Box], text: str) -> list[str]:
    return [one.log_with(text) for one in boxes]


class Stopwatch:
    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
