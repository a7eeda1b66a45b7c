"""Compose files: https://github.com/compose-spec/compose-spec/blob/main/spec.md, as far as LXD has an equal.

Read by the same parser as specs: anchors and aliases are refused, since ten lines of them can become gigabytes.
`docker compose config` writes a file without.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lxdocker.config import yamlfile
from lxdocker.config.yamlfile import Document, Place
from lxdocker.docker import quantities
from lxdocker.docker.draft import Draft, unused
from lxdocker.docker.interpolate import Lookup, expand
from lxdocker.docker.service import Lost, Service
from lxdocker.errors import UsageError
from lxdocker.files.seen import exists
from lxdocker.text import one_line

_MOST_SERVICES = 500
_HARDENING = "an unprivileged instance is confined by LXD in its own way"
_TERMINAL = "an application has no terminal; for a shell: lxc exec NAME -- /lxd-exec sh"

# Keys of services that are lost, and whether that is essential.
_LOST: Mapping[str, tuple[str, bool]] = {
    "build": ("lxdocker builds from images, not from a Dockerfile; build it elsewhere: image: oci-archive:FILE", True),
    "extends": ("docker compose config writes a file with everything in its place", True),
    "profiles": ("the service is converted whatever the profile", False),
    "configs": ("lxc file push puts a file into an instance", True),
    "secrets": ("lxc file push --mode 0600 puts a file into an instance", True),
    "volumes_from": ("attach each volume by its name", True),
    "group_add": ("the image's /etc/group decides it", True),
    "pid": ("an instance has processes of its own", True),
    "ipc": ("an instance has its own", True),
    "uts": ("an instance has a name of its own", True),
    "external_links": ("instances on one network are found by their names", True),
    "scale": ("launch as many instances as you need", True),
    "provider": ("no equal", True),
    "models": ("no equal", True),
    "device_cgroup_rules": ("add each device by its path", True),
    "post_start": ("let user.lxdocker_init_script run it before the application", True),
    "pre_stop": ("no equal", True),
    "credential_spec": ("it is for Windows", True),
    "userns_mode": ("an unprivileged instance always has a user namespace", False),
    "cap_drop": (_HARDENING, False),
    "security_opt": (_HARDENING, False),
    "read_only": ("the root disk of an instance is writable", False),
    "tty": (_TERMINAL, False),
    "stdin_open": (_TERMINAL, False),
    "logging": ("output is kept in the instance: /lxd-log", False),
    "pull_policy": ("sync asks the registry each time", False),
    "platform": ("images are built for the processor of this host", False),
    "domainname": ("LXD's network decides it", False),
    "dns_opt": ("user.lxdocker.dns has servers and domains only", False),
    "develop": ("no equal", False),
    "annotations": ("no equal", False),
    "cgroup_parent": ("LXD decides it", False),
    "cgroup": ("an instance always has its own", False),
    "isolation": ("it is for Windows", False),
    "blkio_config": ("limits.read and limits.write of a disk are alike", False),
    "mem_reservation": ("limits.memory.enforce=soft is alike", False),
    "mem_swappiness": ("limits.memory.swap is alike", False),
    "memswap_limit": ("limits.memory.swap is alike", False),
    "oom_score_adj": ("LXD decides it", False),
    "label_file": ("no equal", False),
    **dict.fromkeys(
        ("cpu_shares", "cpu_period", "cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_percent", "cpu_count"),
        ("limits.cpu.allowance is alike", False),
    ),
}
# Nothing of theirs is missing.
_SILENT = {"init", "attach", "oom_kill_disable", "container_name", "image"}
_LOST_TOP: Mapping[str, tuple[str, bool]] = {
    "secrets": ("lxc file push --mode 0600 puts a file into an instance", True),
    "configs": ("lxc file push puts a file into an instance", True),
    "include": ("docker compose config writes one file", True),
    "models": ("no equal", True),
}


def read(text: str, label: str, folder: Path, home: Path, pool: str, lookup: Lookup) -> tuple[Service, ...]:
    """The services of a compose file. ``label``: how messages call the file; ``folder``: where it is.

    ``lookup``: the values of its variables. Raises SpecError for what is no YAML, or no mapping of services; and
    UsageError for a file without any.
    """
    document = yamlfile.parse(text, label)
    if document.mistakes:
        raise yamlfile.spec_error(
            label, document.mistakes, "correct these lines; docker compose config writes a file without anchors"
        )
    top = document.value
    if not isinstance(top, dict) or not isinstance(top.get("services"), dict) or not top["services"]:
        raise UsageError(f"no services in {label}", "a compose file has a mapping called services", "name another file")
    if len(top["services"]) > _MOST_SERVICES:
        raise UsageError(f"too many services in {label}", f"at most {_MOST_SERVICES} are converted", "split the file")
    reader = _Reader(document, folder, home, pool, lookup)
    services = [reader.service(name, content) for name, content in top["services"].items()]
    return (*services, *reader.rest(top))


class _Reader:
    def __init__(self, document: Document, folder: Path, home: Path, pool: str, lookup: Lookup) -> None:
        self._document = document
        self._folder, self._home, self._pool, self._lookup = folder, home, pool, lookup
        top = document.value
        self._volumes: Mapping[str, Any] = _mapping(top.get("volumes"))
        self._networks: Mapping[str, Any] = _mapping(top.get("networks"))
        self._instances: dict[str, str] = {}
        self._draft = Draft("", folder, home, pool)
        for name, content in _mapping(top.get("services")).items():
            wanted = self._container_name(name, _mapping(content)) or name
            instance = quantities.instance_name(wanted) or "instance"
            self._instances[name] = unused(instance, set(self._instances.values()))

    # ---- values

    def text(self, value: Any, place: Place) -> str:
        """A scalar as it is written, its variables replaced."""
        if value is None:
            return ""
        written = value if isinstance(value, str) else self._document.written.get(place, str(value))
        try:
            return expand(written, self._lookup, self._missing)
        except ValueError as error:
            self._draft.lose(yamlfile.field_text(place[2:]), str(error))
            return ""

    def flag(self, value: Any, place: Place) -> bool:
        """A boolean, which may be text: that of a variable."""
        return self.text(value, place).lower() in {"true", "yes", "y", "on"}

    def _missing(self, name: str) -> None:
        self._draft.lose(f"${{{name}}}", "the variable is not set, so it is empty")

    def items(self, value: Any, place: Place) -> Iterator[tuple[str, Place]]:
        """A list of scalars, or a single one."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, (dict, list)):
                    self._odd((*place, index))
                else:
                    yield self.text(item, (*place, index)), (*place, index)
        elif isinstance(value, dict):
            self._odd(place)
        elif value is not None:
            yield self.text(value, place), place

    def pairs(self, value: Any, place: Place) -> Iterator[str]:
        """``NAME=VALUE`` of a list or a mapping; a name alone for what has no value."""
        if isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, (dict, list)):
                    self._odd((*place, key))
                else:
                    yield key if item is None else f"{key}={self.text(item, (*place, key))}"
        else:
            yield from (text for text, _ in self.items(value, place))

    def _odd(self, place: Place) -> None:
        self._draft.lose(yamlfile.field_text(place[2:]) or "the service", "not what a compose file has there")

    def words(self, value: Any, place: Place) -> tuple[str, ...] | None:
        """A command: a list, or a text that a shell would split."""
        if value is None:
            return None
        if isinstance(value, list):
            return tuple(text for text, _ in self.items(value, place))
        try:
            return tuple(shlex.split(self.text(value, place)))
        except ValueError as error:
            self._draft.lose(yamlfile.field_text(place[2:]), str(error))
            return None

    # ---- services

    def service(self, name: str, content: Any) -> Service:
        place: Place = ("services", name)
        draft = self._draft = Draft(self._instances[name], self._folder, self._home, self._pool)
        draft.key = name
        if not isinstance(content, dict):
            self._odd(place)
            return draft.done()
        draft.image = self.text(content.get("image"), (*place, "image"))
        named = self._container_name(name, content)
        if draft.name != (named or name):
            draft.lose("name", f"instances have names of letters, digits and '-': {draft.name} is used")
        elif named and draft.name != name:
            draft.lose("container_name", f"other services find it as {draft.name}, not as {name[:60]}", essential=False)
        if not draft.image and "build" not in content:
            draft.lose("image", "the service has none")
        for key, value in content.items():
            if key in _HANDLERS:
                _HANDLERS[key](self, value, (*place, key))
            elif key in _LOST:
                if value not in (None, False, [], {}):
                    why, essential = _LOST[key]
                    draft.lose(key, why, essential=essential)
            elif key not in _SILENT and not key.startswith("x-"):
                draft.lose(key, "unknown key of a service")
        default = _mapping(self._networks.get("default"))
        if content.keys().isdisjoint({"networks", "network_mode"}) and (default.get("name") or default.get("external")):
            self.networks(["default"], (*place, "networks"))
        return draft.done()

    def _container_name(self, name: str, content: Mapping[str, Any]) -> str:
        wanted = content.get("container_name")
        if isinstance(wanted, (dict, list)):
            return ""
        return self.text(wanted, ("services", name, "container_name"))

    def rest(self, top: Mapping[str, Any]) -> Iterator[Service]:
        """What is lost of the file's other parts, as a service without an image."""
        lost = [Lost("", key, *_LOST_TOP[key]) for key in top if key in _LOST_TOP]
        known = {"services", "volumes", "networks", "version", "name", *_LOST_TOP}
        lost += [
            Lost("", one_line(key, 100), "unknown key of a compose file", True)
            for key in top
            if key not in known and not key.startswith("x-")
        ]
        for kind, found, harmless in (
            ("volumes", self._volumes, {"name", "external", "labels"}),
            ("networks", self._networks, {"name", "external", "labels", "driver", "attachable", "enable_ipv4"}),
        ):
            for name, content in found.items():
                odd = sorted(key for key in _mapping(content).keys() - harmless if not key.startswith("x-"))
                if kind == "networks" and _mapping(content).get("driver") not in (None, "bridge", "default", "overlay"):
                    odd.append("driver")
                if odd:
                    what = one_line(f"{kind}.{name}: {', '.join(odd)}", 100)
                    lost.append(Lost("", what, "set it with lxc storage volume set, or lxc network set", True))
        if lost:
            yield Service("", "", lost=tuple(lost))

    # ---- keys

    def command(self, value: Any, place: Place) -> None:
        self._draft.command = self.words(value, place)

    def entrypoint(self, value: Any, place: Place) -> None:
        self._draft.entrypoint = self.words(value, place)

    def environment(self, value: Any, place: Place) -> None:
        for text in self.pairs(value, place):
            self._draft.variable("environment", text)

    def env_file(self, value: Any, place: Place) -> None:
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            here: Place = (*place, index)
            options = _mapping(item)
            path = self.text(options.get("path"), (*here, "path")) if options else self.text(item, here)
            required = options.get("required") is None or self.flag(options["required"], (*here, "required"))
            if not required and not exists(self._folder / path):
                self._draft.lose("env_file", f"there is no {path[:60]}, which is not required", essential=False)
                continue
            self._draft.env_file("env_file", path)
        self._draft.lose("env_file", "quotes and variables in the file stay as they are written", essential=False)

    def ports(self, value: Any, place: Place) -> None:
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            here = (*place, index)
            if not isinstance(item, dict):
                self._draft.port("ports", self.text(item, here))
                continue
            target, published, address, protocol = (
                self.text(item.get(key), (*here, key)) for key in ("target", "published", "host_ip", "protocol")
            )
            try:
                found = quantities.make_port(target, published, address, protocol or "tcp", f"{published}:{target}")
                self._draft.publish("ports", found)
            except ValueError as error:
                self._draft.lose("ports", str(error))

    def volumes(self, value: Any, place: Place) -> None:
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            here = (*place, index)
            if isinstance(item, dict):
                self._long_volume(item, here)
                continue
            text = self.text(item, here)
            source, colon, rest = text.partition(":")
            if colon and not source.startswith(("/", ".", "~")):
                target, _, options = rest.partition(":")
                flags = self._draft.mount_flags("volumes", options)
                self._named_volume(source, target, read_only="ro" in flags)
            else:
                self._draft.mount("volumes", text)

    def _named_volume(self, key: str, target: str, *, read_only: bool) -> None:
        name, exists = self._declared("volumes", key)
        self._draft.volume("volumes", name, target, read_only=read_only, exists=exists)

    def _declared(self, kind: str, key: str) -> tuple[str, bool]:
        """The name of a volume or network, and whether it exists already, without the file."""
        place: Place = (kind, key)
        declared = _mapping(_mapping(self._document.value).get(kind)).get(key)
        options = _mapping(declared)
        external = options.get("external")
        name = self.text(options.get("name"), (*place, "name"))
        if isinstance(external, dict):  # of files before 2018
            return name or self.text(external.get("name"), (*place, "external", "name")) or key, True
        return name or key, self.flag(external, (*place, "external"))

    def _long_volume(self, item: Mapping[str, Any], place: Place) -> None:
        source, target = (self.text(item.get(key), (*place, key)) for key in ("source", "target"))
        read_only = self.flag(item.get("read_only"), (*place, "read_only"))
        match self.text(item.get("type"), (*place, "type")):
            case "bind":
                options = _mapping(item.get("bind"))
                propagation = self.text(options.get("propagation"), (*place, "bind", "propagation"))
                self._draft.bind("volumes", source, target, read_only=read_only, propagation=propagation)
                if odd := sorted(options.keys() - {"create_host_path", "selinux", "propagation"}):
                    self._draft.lose(f"volumes.bind: {', '.join(odd)}", "no counterpart in LXD", essential=False)
            case "tmpfs":
                options = _mapping(item.get("tmpfs"))
                self._draft.tmpfs("volumes", target, self.text(options.get("size"), (*place, "tmpfs", "size")))
                self._draft.tmpfs_options("volumes.tmpfs", set(options) - {"size"})
            case "volume":
                options = _mapping(item.get("volume"))
                if self.flag(options.get("nocopy"), (*place, "volume", "nocopy")):
                    self._draft.fill_volumes = False
                if options.get("subpath"):
                    self._draft.lose("volumes.subpath", "LXD mounts whole volumes")
                if source:
                    self._named_volume(source, target, read_only=read_only)
                else:
                    self._draft.volume("volumes", "", target, read_only=read_only)
            case kind:
                self._draft.lose("volumes", f"LXD has no mounts of type {kind[:20]!r}")

    def tmpfs(self, value: Any, place: Place) -> None:
        for text, _ in self.items(value, place):
            self._draft.tmpfs_mount("tmpfs", text)

    def networks(self, value: Any, place: Place) -> None:
        names = value if isinstance(value, dict) else dict.fromkeys(text for text, _ in self.items(value, place))
        for key, options in names.items():
            name, exists = self._declared("networks", key)
            settings = _mapping(options)
            addresses = {"ipv4_address": "ipv4.address", "ipv6_address": "ipv6.address", "mac_address": "hwaddr"}
            given = [
                (addresses[one], self.text(text, (*place, key, one)))
                for one, text in settings.items()
                if one in addresses
            ]
            self._draft.network("networks", name, exists=exists, options=given)
            if odd := sorted(settings.keys() - addresses.keys() - {"priority", "gw_priority"}):
                self._draft.lose(f"networks.{key}: {', '.join(odd)}", "an instance is found by its own name only")

    def network_mode(self, value: Any, place: Place) -> None:
        self._draft.network("network_mode", self.text(value, place))

    def depends_on(self, value: Any, place: Place) -> None:
        names = value if isinstance(value, dict) else [text for text, _ in self.items(value, place)]
        self._draft.after += [self._instances[name] for name in names if name in self._instances]
        conditions = (
            {
                self.text(_mapping(options).get("condition"), (*place, name, "condition"))
                for name, options in names.items()
            }
            if isinstance(names, dict)
            else set()
        )
        if conditions - {"", "service_started"}:
            self._draft.lose(
                "depends_on.condition", "the commands start it after the others, and wait for none", essential=False
            )
        self._draft.lose("depends_on", "at a boot, boot.autostart.priority orders instances", essential=False)

    def links(self, value: Any, place: Place) -> None:
        for text, _ in self.items(value, place):
            name, _, alias = text.partition(":")
            if alias and alias != name:
                self._draft.lose("links", f"the other instance is found by its own name: {name[:60]}")

    def hostname(self, value: Any, place: Place) -> None:
        if self.text(value, place) != self._draft.name:
            why = f"the hostname of an instance is its name, {self._draft.name}"
            self._draft.lose("hostname", why, essential=False)

    def ulimits(self, value: Any, place: Place) -> None:
        for name, limit in _mapping(value).items():
            here = (*place, name)
            if isinstance(limit, dict):
                soft, hard = (self.text(limit.get(key), (*here, key)) for key in ("soft", "hard"))
                self._draft.ulimit("ulimits", f"{name}={soft}:{hard or soft}")
            else:
                self._draft.ulimit("ulimits", f"{name}={self.text(limit, here)}")

    def devices(self, value: Any, place: Place) -> None:
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            here = (*place, index)
            if isinstance(item, dict):
                source, target = (self.text(item.get(key), (*here, key)) for key in ("source", "target"))
                self._draft.device("devices", f"{source}:{target}" if target else source)
            else:
                self._draft.device("devices", self.text(item, here))

    def healthcheck(self, value: Any, place: Place) -> None:
        what = "healthcheck"
        if not isinstance(value, dict):
            if value is not None:
                self._odd(place)
            return
        for key, content in value.items():
            here = (*place, key)
            if key == "disable":
                if self.flag(content, here):
                    self._draft.no_health(what)
            elif key == "test":
                test = content if isinstance(content, list) else None
                self._draft.health_test(
                    what, self.text(content, here) if test is None else self.words(test, here) or ()
                )
            elif key in {"interval", "timeout", "start_period", "start_interval", "retries"}:
                self._draft.health(what, key, self.text(content, here))
            elif not key.startswith("x-"):
                self._draft.lose(f"{what}.{one_line(key, 60)}", "unknown key of a health check", essential=False)

    def extra_hosts(self, value: Any, place: Place) -> None:
        for text in self.pairs(value, place):
            self._draft.host("extra_hosts", text)

    def gpus(self, value: Any, place: Place) -> None:
        self._draft.gpu("gpus")
        if value != "all":
            self._draft.lose(
                "gpus", "all GPUs are given; lxc config device set NAME gpu id=0 chooses one", essential=False
            )

    def runtime(self, value: Any, place: Place) -> None:
        if self.text(value, place) == "nvidia":
            self._draft.config["nvidia.runtime"] = "true"
        else:
            self._draft.lose("runtime", "LXD has a runtime of its own", essential=False)

    def privileged(self, value: Any, place: Place) -> None:
        if self.flag(value, place):
            self._draft.privileged("privileged")

    def storage_opt(self, value: Any, place: Place) -> None:
        for text in self.pairs(value, place):
            key, _, size = text.partition("=")
            if key == "size":
                self._draft.disk_size("storage_opt", size)
            else:
                self._draft.lose("storage_opt", "LXD's storage pools decide it", essential=False)

    def deploy(self, value: Any, place: Place) -> None:
        draft = self._draft
        for key, content in _mapping(value).items():
            here = (*place, key)
            match key:
                case "resources":
                    self._resources(_mapping(content), here)
                case "restart_policy":
                    policy = _mapping(content)
                    condition = self.text(policy.get("condition"), (*here, "condition")) or "any"
                    most = self.text(policy.get("max_attempts"), (*here, "max_attempts"))
                    draft.restarting("deploy.restart_policy", f"{condition}:{most}" if most else condition)
                    if odd := sorted(policy.keys() - {"condition", "max_attempts"}):
                        draft.lose(
                            f"deploy.restart_policy: {', '.join(odd)}",
                            "the pause doubles up to a minute",
                            essential=False,
                        )
                case "replicas":
                    if self.text(content, here) != "1":
                        draft.lose("deploy.replicas", "launch as many instances as you need")
                case "labels":
                    draft.lose("deploy.labels", "they belong to a swarm", essential=False)
                case _:
                    draft.lose(f"deploy.{key}", "it belongs to a swarm", essential=False)

    def _resources(self, resources: Mapping[str, Any], place: Place) -> None:
        limits = _mapping(resources.get("limits"))
        handlers: Mapping[str, Callable[[Draft, str, str], None]] = {
            "cpus": Draft.cpus,
            "memory": Draft.memory,
            "pids": Draft.processes,
        }
        for key, value in limits.items():
            what = f"deploy.resources.limits.{key}"
            if key in handlers:
                handlers[key](self._draft, what, self.text(value, (*place, "limits", key)))
            else:
                self._draft.lose(what, "no equal", essential=False)
        reserved = _mapping(resources.get("reservations"))
        for key, value in reserved.items():
            what = f"deploy.resources.reservations.{key}"
            if key != "devices":
                self._draft.lose(what, "LXD reserves nothing", essential=False)
                continue
            here = (*place, "reservations", key)
            for index, item in enumerate(value if isinstance(value, list) else []):
                capabilities = _mapping(item).get("capabilities")
                if isinstance(capabilities, list) and "gpu" in capabilities:
                    identifiers = _mapping(item).get("device_ids") or [""]
                    for identifier, _ in self.items(identifiers, (*here, index, "device_ids")):
                        self._draft.gpu(what, identifier)
                else:
                    self._draft.lose(what, "LXD has no such driver")

    def each(self, method: Callable[[Draft, str, str], None], value: Any, place: Place) -> None:
        """One of Draft's methods for a scalar, or each of a list."""
        for text, _ in self.items(value, place):
            method(self._draft, str(place[-1]), text)

    def each_pair(self, method: Callable[[Draft, str, str], None], value: Any, place: Place) -> None:
        for text in self.pairs(value, place):
            method(self._draft, str(place[-1]), text)


Handler = Callable[[_Reader, Any, Place], None]


def _scalars(method: Callable[[Draft, str, str], None]) -> Handler:
    return lambda reader, value, place: reader.each(method, value, place)


_HANDLERS: Mapping[str, Handler] = {
    "command": _Reader.command,
    "entrypoint": _Reader.entrypoint,
    "environment": _Reader.environment,
    "env_file": _Reader.env_file,
    "ports": _Reader.ports,
    "expose": _scalars(Draft.expose),
    "volumes": _Reader.volumes,
    "tmpfs": _Reader.tmpfs,
    "networks": _Reader.networks,
    "network_mode": _Reader.network_mode,
    "depends_on": _Reader.depends_on,
    "links": _Reader.links,
    "hostname": _Reader.hostname,
    "ulimits": _Reader.ulimits,
    "devices": _Reader.devices,
    "extra_hosts": _Reader.extra_hosts,
    "gpus": _Reader.gpus,
    "runtime": _Reader.runtime,
    "privileged": _Reader.privileged,
    "storage_opt": _Reader.storage_opt,
    "deploy": _Reader.deploy,
    "restart": _scalars(Draft.restarting),
    "user": _scalars(Draft.user),
    "working_dir": _scalars(Draft.working_dir),
    "stop_signal": _scalars(Draft.stop_signal),
    "healthcheck": _Reader.healthcheck,
    "stop_grace_period": _scalars(Draft.grace),
    "mem_limit": _scalars(Draft.memory),
    "cpus": _scalars(Draft.cpus),
    "cpuset": _scalars(Draft.cpu_set),
    "pids_limit": _scalars(Draft.processes),
    "shm_size": _scalars(lambda draft, what, text: draft.tmpfs(what, "/dev/shm", text)),  # noqa: S108 - in the instance
    "cap_add": _scalars(Draft.capability),
    "dns": _scalars(Draft.dns),
    "dns_search": _scalars(Draft.search),
    "mac_address": _scalars(lambda draft, what, text: draft.address(what, "hwaddr", text)),
    "labels": lambda reader, value, place: reader.each_pair(Draft.label, value, place),
    "sysctls": lambda reader, value, place: reader.each_pair(Draft.sysctl, value, place),
}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
