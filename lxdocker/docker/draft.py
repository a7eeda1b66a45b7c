"""What Docker's options mean in LXD, whichever way they are written; `run` and `compose` only read the two forms.

Every method takes the flag or key as it is written, for the list of what is lost, and a value. What can't be translated
is put on that list; nothing raises for it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence, Set
from pathlib import Path

from lxdocker.docker import quantities
from lxdocker.docker.quantities import Port, device_name
from lxdocker.docker.service import Device, HealthValue, Lost, Service, Volume
from lxdocker.text import one_line

_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock")
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
# Those of the kernel, which LXD has, too.
_PROPAGATIONS = {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
# What listens there in Docker's official images, and may let 127.0.0.1 in without a password.
_TRUSTING = {"5432": "PostgreSQL", "27017": "MongoDB"}
_VARIABLE = re.compile(r"[^=\0\n]+")
_SHELL_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TMPFS_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_NETWORK = re.compile(r"[a-z][a-z0-9-]{0,14}")
_BLOCK = re.compile(r"/dev/(sd|nvme|vd|xvd|mmcblk|loop|md|dm-|mapper/|disk/)")
_FOLDERS_OF_DEVICES = ("/dev/snd", "/dev/bus/usb", "/dev/input", "/dev/serial", "/dev/shm", "/dev")  # noqa: S108
# What root in an unprivileged instance can't do, whatever it is given: these reach beyond its namespaces.
_OF_THE_HOST = {
    *("ALL", "SYS_MODULE", "SYS_TIME", "SYS_RAWIO", "SYS_BOOT", "SYS_ADMIN", "SYSLOG", "MKNOD"),
    *("BPF", "PERFMON", "WAKE_ALARM", "BLOCK_SUSPEND", "MAC_ADMIN", "MAC_OVERRIDE", "AUDIT_CONTROL", "SYS_NICE"),
}


class Draft:
    """A service while it is being read. ``folder``: what relative paths are relative to, absolute; ``pool``: the
    storage pool of its volumes.
    """

    def __init__(self, name: str, folder: Path, home: Path, pool: str) -> None:
        self.name = name
        self.image = ""
        self.key = ""  # in a compose file
        self.entrypoint: tuple[str, ...] | None = None
        self.command: tuple[str, ...] | None = None
        self.restart = "no"
        self.stop_grace: int | None = None
        self.fill_volumes = True
        self.ephemeral = False
        self.root_size = ""
        self._user = self._working_dir = self._stop_signal = ""
        self._labels: dict[str, str] = {}
        self._exposed: dict[str, None] = {}
        self._health: dict[str, HealthValue] = {}
        self._has_health = True
        self.config: dict[str, str] = {}
        self.environment: dict[str, str | None] = {}
        self.networks: list[str] = []
        self.after: list[str] = []
        self._folder, self._home, self._pool = folder, home, pool
        self._env_files: list[str] = []
        self._tmpfs: dict[str, str] = {}
        self._volumes: list[Volume] = []
        self._devices: dict[str, Device] = {}
        self._overrides: dict[str, str] = {}
        self._dns: list[str] = []
        self._search: list[str] = []
        self._raw_lxc: list[str] = []
        self._lost: list[Lost] = []

    def done(self) -> Service:
        """The service, as it has been read."""
        if self._dns or self._search:
            words = [*self._dns, *(["search", *self._search] if self._search else [])]
            self.config["user.lxdocker.dns"] = " ".join(words)
        return Service(
            name=self.name,
            image=self.image,
            entrypoint=self.entrypoint,
            command=self.command,
            environment=tuple(self.environment.items()),
            env_files=tuple(self._env_files),
            tmpfs=tuple(sorted(self._tmpfs.items())),
            restart=self.restart,
            stop_grace=self.stop_grace,
            fill_volumes=self.fill_volumes,
            user=self._user,
            working_dir=self._working_dir,
            stop_signal=self._stop_signal,
            labels=tuple(self._labels.items()),
            exposed=tuple(self._exposed),
            healthcheck=tuple(self._health.items()) if self._has_health else "none",
            config=tuple(self.config.items()),
            raw_lxc=tuple(self._raw_lxc),
            volumes=tuple(self._volumes),
            devices=tuple(self._devices.values()),
            overrides=tuple(self._overrides.items()),
            root_size=self.root_size,
            networks=tuple(self.networks),
            ephemeral=self.ephemeral,
            after=tuple(self.after),
            key=self.key,
            lost=tuple(dict.fromkeys(self._lost)),
        )

    def lose(self, what: str, why: str, *, essential: bool = True, key: str = "") -> None:
        """Notes that ``what`` has no equal in an instance; ``key``: of a spec that has it."""
        self._lost.append(Lost(self.name, one_line(what, 100), one_line(why, 300), essential, key))

    # ---- what is run

    def variable(self, what: str, text: str) -> None:
        """``NAME=VALUE``, or ``NAME`` for the value where the commands are run."""
        name, equals, value = text.partition("=")
        readable = _VARIABLE if equals else _SHELL_VARIABLE
        if not readable.fullmatch(name) or "\0" in value:
            self.lose(what, f"not a variable: {text[:60]!r}")
            return
        self.environment[name] = value if equals else None

    def env_file(self, what: str, path: str) -> None:
        """A file of this host with NAME=VALUE lines."""
        found = self._path(path)
        if found is None:
            self.lose(what, f"not a path: {path[:60]!r}")
        else:
            self._env_files.append(found)

    def restarting(self, what: str, policy: str) -> None:
        """Docker's restart policy."""
        name, _, most = policy.partition(":")
        match name:
            case "" | "no" | "none" | "false":
                self.restart = "no"
            case "always" | "any" | "true":
                self.restart = "always"
                self.config["boot.autostart"] = "true"
                if most:
                    self.lose(what, "it is started again without end; on-failure:N has one", essential=False)
            case "unless-stopped":  # LXD starts again what ran when the host went down
                self.restart = "always"
            case "on-failure" if not most or re.fullmatch(r"[0-9]{1,4}", most):
                self.restart = f"on-failure:{int(most)}" if int(most or 0) else "on-failure"
            case _:
                self.lose(what, f"unknown policy {policy[:40]!r}; a spec takes no, on-failure, on-failure:N or always")

    def grace(self, what: str, text: str) -> None:
        """The time to stop."""
        try:
            self.stop_grace = quantities.seconds(text)
        except ValueError as error:
            self.lose(what, str(error))

    # ---- what only an image has, and so its spec

    def user(self, what: str, name: str) -> None:
        """Who runs the application."""
        if not name:
            return
        self._user = name
        why = f"an instance has no such setting; its spec has: user: {name[:40]!r}"
        self.lose(what, why, essential=name not in {"0", "root", "0:0", "root:root"}, key="user")

    def working_dir(self, what: str, path: str) -> None:
        """The folder in which the application starts."""
        inside = self._inside(path)
        if inside is None:
            self.lose(what, f"not an absolute path: {path[:60]!r}")
            return
        self._working_dir = inside
        why = f"an instance has no such setting; its spec has: working_dir: {inside[:60]}"
        self.lose(what, why, key="working_dir")

    def stop_signal(self, what: str, name: str) -> None:
        """The signal that ends the application."""
        self._stop_signal = name
        why = f"an instance has no such setting; its spec has: stop_signal: {name[:40]}"
        self.lose(what, why, key="stop_signal")

    def health_test(self, what: str, test: str | tuple[str, ...]) -> None:
        """The health check: text for a shell, or Docker's list."""
        if test == ("NONE",):
            self.no_health(what)
            return
        if test and (isinstance(test, str) or len(test) > 1):
            self._health["test"] = test
        self._lose_health(what)

    def health(self, what: str, part: str, text: str) -> None:
        """``interval``, ``timeout``, ``start_period``, ``start_interval`` or ``retries``."""
        try:
            if part != "retries":
                value = quantities.duration(text)
            elif re.fullmatch(r"[0-9]{1,3}", text):
                value = int(text)
            else:
                raise ValueError(f"not a number up to 999: {text[:40]!r}")
        except ValueError as error:
            self.lose(what, str(error), essential=False)
            return
        if value:
            self._health[part] = value
        self._lose_health(what)

    def no_health(self, what: str) -> None:
        """No health check, whatever the image has."""
        self._has_health = False
        self._lose_health(what)

    def _lose_health(self, what: str) -> None:
        why = "an instance has no such setting, and the image's own health check is used; its spec has: healthcheck"
        self.lose(what, why, essential=False, key="healthcheck")

    # ---- what it can be reached by

    def expose(self, what: str, text: str) -> None:
        """A port at which the application listens. Between instances all are open anyway."""
        try:
            self._exposed |= dict.fromkeys(quantities.exposed(text))
        except ValueError as error:
            self.lose(what, str(error), essential=False)

    def port(self, what: str, text: str) -> None:
        """A port to publish, in its short form."""
        try:
            self.publish(what, quantities.port(text))
        except ValueError as error:
            self.lose(what, str(error))

    def publish(self, what: str, port: Port) -> None:
        """A port to publish."""
        if not port.chosen:
            self.lose(what, f"LXD chooses no port of the host: {port.container} is used", essential=False)
        suffix = "" if port.protocol == "tcp" else f"-{port.protocol}"
        options = (
            ("listen", f"{port.protocol}:{port.address}:{port.host}"),
            ("connect", f"{port.protocol}:127.0.0.1:{port.container}"),
        )
        self._add(f"port-{port.host}{suffix}", "proxy", options)
        if port.container in _TRUSTING and port.address not in {"127.0.0.1", "[::1]"}:
            server = _TRUSTING[port.container]
            self.lose(what, f"through the proxy, clients are 127.0.0.1, which {server} may trust", essential=False)

    def network(self, what: str, name: str, *, exists: bool = False, options: Sequence[tuple[str, str]] = ()) -> None:
        """A network to join; the first one is eth0."""
        if name in {"default", "bridge"}:
            self._overrides |= dict(options)
        elif name == "none":
            self._devices["eth0"] = Device("eth0", "none")
        elif name == "host":
            self.lose(what, "an instance has a network of its own: forward its ports by proxy devices (-p HOST:PORT)")
        elif ":" in name:
            self.lose(what, "instances can't share a network namespace: run both applications on one network")
        elif not _NETWORK.fullmatch(name):
            self.lose(what, f"LXD's networks have names of up to 15 of a-z, 0-9 and '-': {name[:40]!r}")
        else:
            number = sum(device.kind == "nic" for device in self._devices.values())
            device = Device(f"eth{number}", "nic", (("network", name), ("name", f"eth{number}"), *options))
            self._devices[device.name] = device
            if not exists:
                self.networks.append(name)

    def address(self, what: str, key: str, value: str) -> None:
        """An address of eth0: ``hwaddr``, ``ipv4.address``, ``ipv6.address``."""
        if not re.fullmatch(r"[0-9A-Fa-f:.]{3,45}", value):
            self.lose(what, f"not an address: {value[:40]!r}")
        elif (first := self._devices.get("eth0")) and first.kind == "nic":
            self._devices["eth0"] = Device("eth0", "nic", (*first.options, (key, value)))
        else:
            self._overrides[key] = value

    def dns(self, what: str, text: str) -> None:
        """A name server."""
        if re.fullmatch(r"[0-9A-Fa-f:.]{3,45}", text):
            self._dns.append(text)
        else:
            self.lose(what, f"not an address: {text[:40]!r}")

    def search(self, what: str, text: str) -> None:
        """A domain to search."""
        if re.fullmatch(r"[A-Za-z0-9._-]{1,253}", text):
            self._search.append(text)
        else:
            self.lose(what, f"not a domain: {text[:40]!r}")

    def host(self, what: str, text: str) -> None:
        """A line of /etc/hosts."""
        self.lose(what, f"let user.lxdocker_init_script add it to /etc/hosts: {text[:60]}")

    # ---- what it keeps

    def mount(self, what: str, text: str) -> None:
        """``[SOURCE:]TARGET[:OPTIONS]``."""
        parts = text.split(":")
        if len(parts) > 3:
            self.lose(what, f"not a volume: {text[:60]!r}")
            return
        source, target, options = ("", parts[0], "") if len(parts) == 1 else (parts[0], parts[1], ":".join(parts[2:]))
        is_bind = source.startswith(("/", ".", "~"))
        flags = self.mount_flags(what, options, _PROPAGATIONS if is_bind else set())
        if is_bind:
            propagation = next(iter(flags & _PROPAGATIONS), "")
            self.bind(what, source, target, read_only="ro" in flags, propagation=propagation)
        else:
            self.volume(what, source, target, read_only="ro" in flags)

    def mount_flags(self, what: str, options: str, more: Set[str] = frozenset()) -> set[str]:
        """Those of ``SOURCE:TARGET:OPTIONS``. ``more``: further ones that are known."""
        flags = set(filter(None, options.split(",")))
        if "nocopy" in flags:
            self.fill_volumes = False
        if odd := sorted(flags - {"ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent"} - more):
            self.lose(what, f"LXD has no mount option {', '.join(odd)}"[:100], essential=False)
        return flags

    def bind(self, what: str, source: str, target: str, *, read_only: bool = False, propagation: str = "") -> None:
        """A file or folder of the host."""
        path, inside = self._path(source), self._inside(target)
        if path is None or inside is None:
            self.lose(what, f"not a path: {(target if path else source)[:60]!r}")
        elif path in _SOCKETS:
            self.lose(what, f"there is no Docker behind {path}; what manages containers can't manage instances")
        elif path == "/dev" or path.startswith("/dev/"):
            self.device(what, f"{path}:{inside}")
        else:
            # shift: users in the instance own what users of the same number own on the host, as under Docker.
            options = [("source", path), ("path", inside), ("shift", "true")]
            if read_only:
                options.append(("readonly", "true"))
            if propagation in _PROPAGATIONS:
                options.append(("propagation", propagation))
            elif propagation:
                self.lose(what, f"LXD has no propagation {propagation[:40]!r}")
            self._add(device_name(inside), "disk", options)

    def volume(self, what: str, name: str, target: str, *, read_only: bool = False, exists: bool = False) -> None:
        """A volume; without a name one of its own."""
        inside = self._inside(target)
        if inside is None:
            self.lose(what, f"not a path: {target[:60]!r}")
            return
        name = name or f"{self.name}-{device_name(inside)}"[:63].rstrip("-")
        if not _VOLUME_NAME.fullmatch(name):
            self.lose(what, f"not a volume's name: {name[:60]!r}")
            return
        taken = {volume.device for volume in self._volumes}
        device = unused(device_name(name), {*taken, *self._devices, "root", "eth0"})
        self._volumes.append(Volume(name, device, inside, read_only, exists))

    def tmpfs(self, what: str, path: str, size: str = "") -> None:
        """A temporary filesystem."""
        inside = self._inside(path)
        if inside is None or not _TMPFS_PATH.fullmatch(inside) or len(inside) > 200:
            self.lose(what, f"not a folder that a spec's tmpfs takes: {path[:60]!r}")
            return
        try:
            self._tmpfs[inside] = quantities.tmpfs_size(size) if size else "on"
        except ValueError as error:
            self.lose(what, str(error))

    def tmpfs_mount(self, what: str, text: str) -> None:
        """``PATH[:OPTIONS]``."""
        path, _, options = text.partition(":")
        sizes = [option.removeprefix("size=") for option in options.split(",") if option.startswith("size=")]
        self.tmpfs(what, path, sizes[-1] if sizes else "")
        self.tmpfs_options(what, {option for option in options.split(",") if not option.startswith("size=")})

    def tmpfs_options(self, what: str, options: set[str]) -> None:
        """Those that a spec has no place for: ``NAME`` or ``NAME=VALUE``."""
        if odd := sorted(options - {"", "rw"}):
            # An application without root may be unable to write there.
            rights = any(option.partition("=")[0] in {"uid", "gid", "mode"} for option in odd)
            why = "the folder's owner and mode are those of the image" if rights else "a spec has sizes only"
            self.lose(f"{what}: {', '.join(odd)}"[:100], why, essential=rights)

    def disk_size(self, what: str, text: str) -> None:
        """The most that the instance may write."""
        try:
            self.root_size = quantities.size(text)
        except ValueError as error:
            self.lose(what, str(error))

    # ---- what it may use

    def memory(self, what: str, text: str) -> None:
        """The limit of memory."""
        try:
            self.config["limits.memory"] = quantities.size(text)
        except ValueError as error:
            self.lose(what, str(error))

    def cpus(self, what: str, text: str) -> None:
        """How much of the processors."""
        if not re.fullmatch(r"[0-9]{0,4}(\.[0-9]{1,3})?", text) or not text.strip("0."):
            self.lose(what, f"not a number of processors: {text[:40]!r}")
        elif float(text) == int(float(text)):
            self.config["limits.cpu"] = str(int(float(text)))
        else:
            self.config["limits.cpu.allowance"] = f"{round(float(text) * 100)}ms/100ms"

    def cpu_set(self, what: str, text: str) -> None:
        """Which processors."""
        if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", text):
            self.lose(what, f"not a set of processors: {text[:40]!r}")
        else:
            self.config["limits.cpu"] = f"{text}-{text}" if text.isdigit() else text  # a number would be an amount

    def processes(self, what: str, text: str) -> None:
        """The most processes."""
        if re.fullmatch(r"[1-9][0-9]{0,8}", text):
            self.config["limits.processes"] = text
        elif text not in {"0", "-1"}:
            self.lose(what, f"not a number: {text[:40]!r}")

    def ulimit(self, what: str, text: str) -> None:
        """``NAME=SOFT[:HARD]``."""
        found = re.fullmatch(r"([a-z]+)=(-?[0-9]{1,19})(?::(-?[0-9]{1,19}))?", text)
        if not found:
            self.lose(what, f"not a limit: {text[:40]!r}")
            return
        soft, hard = ("unlimited" if number == "-1" else number for number in (found[2], found[3] or found[2]))
        self.config[f"limits.kernel.{found[1]}"] = soft if soft == hard else f"{soft}:{hard}"

    def sysctl(self, what: str, text: str) -> None:
        """``NAME=VALUE``."""
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_./-]{1,100}", name) or not value.isprintable():
            self.lose(what, f"not a sysctl: {text[:40]!r}")
        else:
            # Not linux.sysctl.*, with which some LXDs don't start an instance: docs/lxd.md.
            self._raw_lxc.append(f"lxc.sysctl.{name} = {value}")

    def device(self, what: str, text: str) -> None:
        """``/dev/NAME[:/dev/OTHER[:rwm]]``."""
        source, _, rest = text.partition(":")
        target = rest.partition(":")[0] or source
        path, inside = self._path(source), self._inside(target)
        if path is None or inside is None or not path.startswith("/dev"):
            self.lose(what, f"not a device: {text[:60]!r}")
        elif path == "/dev/dri" or path.startswith("/dev/dri/"):
            self._devices["gpu"] = Device("gpu", "gpu")
        elif path in _FOLDERS_OF_DEVICES:
            advice = (
                "lxc config device add NAME usb usb vendorid=ID" if "usb" in path else "add each device by its path"
            )
            self.lose(what, f"{path} is a folder: {advice}")
        else:
            options = [("source", path), *([("path", inside)] if inside != path else [])]
            kind = "unix-block" if _BLOCK.match(path) else "unix-char"
            self._add(device_name(path.removeprefix("/dev/")), kind, options)

    def gpu(self, what: str, identifier: str = "") -> None:
        """A graphics processor, or all of them; by NVIDIA's runtime."""
        if identifier and not re.fullmatch(r"[0-9]{1,3}", identifier):
            self.lose(what, f"not the number of a GPU: {identifier[:40]!r}; see lxc info --resources")
            return
        name = f"gpu{identifier}"
        self._devices[name] = Device(name, "gpu", (("id", identifier),) if identifier else ())
        self.config["nvidia.runtime"] = "true"

    def privileged(self, what: str) -> None:
        """All that the host's root may do."""
        self.lose(
            what,
            "security.privileged=true would make root in the instance root of this host; add the devices that it needs,"
            " or set security.nesting=true for containers in it",
        )

    def capability(self, what: str, name: str) -> None:
        """A capability beyond Docker's defaults."""
        name = name.upper().removeprefix("CAP_")
        # All others root has anyway, over what is the instance's own.
        if name in _OF_THE_HOST:
            self.lose(what, f"root in an unprivileged instance can't have {name} over the host")

    def label(self, what: str, text: str) -> None:
        """``NAME=VALUE``."""
        name, _, value = text.partition("=")
        self._labels[name] = value
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,150}", name) or name.startswith("lxdocker"):
            self.lose(what, f"not a name that LXD takes: {name[:60]!r}", essential=False, key="labels")
            return
        self.config[f"user.{name}"] = value
        why = "kept as user.*; programs that look for Docker's labels don't see them"
        self.lose(what, why, essential=False, key="labels")

    # ---- help

    def _add(self, name: str, kind: str, options: Sequence[tuple[str, str]]) -> None:
        name = unused(name, {*self._devices, *(volume.device for volume in self._volumes), "root", "eth0"})
        self._devices[name] = Device(name, kind, tuple(options))

    def _path(self, text: str) -> str | None:
        """A path of the host, absolute."""
        if "\0" in text or "\n" in text or not text:
            return None
        if text == "~" or text.startswith("~/"):
            text = f"{self._home}{text[1:]}"
        return os.path.normpath(self._folder / text)

    def _inside(self, text: str) -> str | None:
        """A path in the instance."""
        if not text.startswith("/") or "\0" in text or "\n" in text:
            return None
        return "/" + posixpath.normpath(text).lstrip("/")


def unused(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken."""
    number = 2
    found = name
    while found in taken:
        found = f"{name[:58]}-{number}"
        number += 1
    return found
