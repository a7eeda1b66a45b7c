"""`docker run ...`: the words of a command line into a Service."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lxdocker.docker import quantities
from lxdocker.docker.draft import Draft
from lxdocker.docker.service import Lost, Service
from lxdocker.errors import UsageError
from lxdocker.text import one_line

_COMMAND = re.compile(r"\s*(?:#[^\n]*\n\s*)*(?:\$ )?(?:[A-Za-z_][A-Za-z0-9_]*=\S*\s+)*([A-Za-z0-9_/.-]+)\s")
_PROGRAMS = {"docker", "podman", "nerdctl"}
_SHORT = {
    "-a": "--attach",
    "-c": "--cpu-shares",
    "-d": "--detach",
    "-e": "--env",
    "-h": "--hostname",
    "-i": "--interactive",
    "-l": "--label",
    "-m": "--memory",
    "-p": "--publish",
    "-P": "--publish-all",
    "-q": "--quiet",
    "-t": "--tty",
    "-u": "--user",
    "-v": "--volume",
    "-w": "--workdir",
}
_ALIASES = {"--net": "--network", "--net-alias": "--network-alias", "--dns-opt": "--dns-option", "--gpu": "--gpus"}
# Flags without a value that change nothing here: an instance runs in the background and has an init of its own.
_SILENT = {"--detach", "--init", "--sig-proxy", "--quiet", "--disable-content-trust", "--oom-kill-disable"}
_NO_TERMINAL = "an application has no terminal; for a shell: lxc exec NAME -- /lxd-exec sh"
_HARDENING = "an unprivileged instance is confined by LXD in its own way"

# What is lost, and whether that is essential. Flags with a value.
_LOST: Mapping[str, tuple[str, bool]] = {
    "--group-add": ("the image's /etc/group decides it", True),
    "--volumes-from": ("attach each volume by its name", True),
    "--pid": ("an instance has processes of its own", True),
    "--ipc": ("an instance has its own", True),
    "--uts": ("an instance has a name of its own", True),
    "--userns": ("an unprivileged instance always has a user namespace", False),
    "--cgroupns": ("an instance always has its own", False),
    "--network-alias": ("an instance is found by its own name only", True),
    "--device-cgroup-rule": ("add each device by its path", True),
    "--volume-driver": ("LXD's storage pools decide it", True),
    "--cgroup-parent": ("LXD decides it", False),
    "--cap-drop": (_HARDENING, False),
    "--security-opt": (_HARDENING, False),
    **dict.fromkeys(("--log-driver", "--log-opt"), ("output is kept in the instance: /lxd-log", False)),
    "--pull": ("sync asks the registry each time", False),
    "--platform": ("images are built for the processor of this host", False),
    "--domainname": ("LXD's network decides it", False),
    "--dns-option": ("user.lxdocker.dns has servers and domains only", False),
    "--cpu-shares": ("limits.cpu.allowance=50% is alike", False),
    **dict.fromkeys(
        ("--cpu-period", "--cpu-quota", "--cpu-rt-period", "--cpu-rt-runtime"),
        ("limits.cpu.allowance=50ms/100ms is alike", False),
    ),
    "--cpuset-mems": ("limits.cpu.nodes is alike", False),
    **dict.fromkeys(
        ("--memory-swap", "--memory-swappiness", "--kernel-memory"), ("limits.memory.swap is alike", False)
    ),
    "--memory-reservation": ("limits.memory.enforce=soft is alike", False),
    **dict.fromkeys(
        ("--blkio-weight", "--blkio-weight-device", "--device-read-bps", "--device-read-iops", "--device-write-bps"),
        ("limits.read and limits.write of a disk are alike", False),
    ),
    "--device-write-iops": ("limits.write of a disk is alike", False),
    "--oom-score-adj": ("LXD decides it", False),
    **dict.fromkeys(("--cidfile", "--detach-keys", "--attach", "--annotation", "--label-file"), ("no equal", False)),
    "--isolation": ("it is for Windows", False),
    "--link-local-ip": ("no equal", True),
}
_LOST_SWITCHES: Mapping[str, tuple[str, bool]] = {
    "--tty": (_NO_TERMINAL, False),
    "--interactive": (_NO_TERMINAL, False),
    "--read-only": ("the root disk of an instance is writable", False),
    "--publish-all": ("lxdocker inspect IMAGE shows the ports of the image; publish them by -p HOST:PORT", True),
    "--use-api-socket": ("there is no Docker behind it", True),
}


def read(words: Sequence[str], folder: Path, home: Path, pool: str, name: str = "") -> Service:
    """The container that a command line starts. ``folder``: the working folder; ``name``: of the instance, where the
    command has none.

    Raises UsageError for anything but one `docker run`, and for flags that Docker does not have.
    """
    rest = _after_run(words)
    draft = Draft("", folder, home, pool)
    given: list[tuple[str, str]] = []
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        given += _flags(word, rest)
    if not rest:
        raise UsageError("no image in the command", "docker run [FLAG]... IMAGE [ARGUMENT]...", "name the image")
    draft.image = rest.pop(0)
    # The name first, since volumes are named after it.
    names = [value for flag, value in given if flag == "--name"]
    _name(draft, names[-1] if names else "", name)
    for flag, value in given:
        if flag != "--name":
            _apply(draft, flag, value)
    if rest:
        draft.command = tuple(rest)
    return draft.done()


def is_command(text: str) -> bool:
    """Whether a text looks like a command, and not like a compose file."""
    first = _COMMAND.match(text)
    return first is not None and (first[1].rpartition("/")[2] in {*_PROGRAMS, "sudo"})


def without_variables(service: Service, missing: Sequence[str]) -> Service:
    """With the variables of the command line that are not set on the list of what is lost."""
    why = "the variable is not set, so it is empty"
    lost = [Lost(service.name, one_line(f"${name}", 100), why, True) for name in dict.fromkeys(missing)]
    return replace(service, lost=(*lost, *service.lost))


def _after_run(words: Sequence[str]) -> list[str]:
    rest = list(words)
    while rest and (rest[0] in {"sudo", "$"} or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", rest[0])):
        rest.pop(0)
    if rest and rest[0].rpartition("/")[2] in _PROGRAMS:
        rest.pop(0)
        if rest[:1] == ["container"]:
            rest.pop(0)
        if rest[:1] in (["run"], ["create"]):
            return rest[1:]
    found = one_line(" ".join(words[:3]), 60)
    raise UsageError(
        "not a docker run command",
        f"it begins with: {found}",
        "convert 'docker run [FLAG]... IMAGE', or a compose file",
    )


def _flags(word: str, rest: list[str]) -> list[tuple[str, str]]:
    """The flags in one word, and their values, which may be the next word. A switch has "true"."""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        flag = _ALIASES.get(flag, flag)
        if flag in _SWITCHES:
            return [(flag, value or "true")]
        _require(flag)
        return [(flag, value if equals else _next(word, rest))]
    found = []
    letters = word[1:]
    while letters:
        flag = _SHORT.get(f"-{letters[0]}", "")
        if not flag:
            raise _unknown(f"-{letters[0]}")
        letters = letters[1:]
        if flag in _SWITCHES:
            found.append((flag, "true"))
            continue
        found.append((flag, letters.removeprefix("=") if letters else _next(word, rest)))
        break
    return found


def _next(flag: str, rest: list[str]) -> str:
    if not rest:
        raise UsageError(
            f"flag without a value: {one_line(flag, 60)}", "the command ends there", "complete the command"
        )
    return rest.pop(0)


def _require(flag: str) -> None:
    if flag not in _VALUES and flag not in _LOST and flag != "--name":
        raise _unknown(flag)


def _unknown(flag: str) -> UsageError:
    # Whether a value follows is unknown too, so nothing after it can be read.
    return UsageError(f"unknown flag of docker run: {one_line(flag, 60)}", "", "correct it, or leave it out")


def _name(draft: Draft, name: str, otherwise: str) -> None:
    wanted = name or otherwise or re.sub(r"[@:].*", "", draft.image.rpartition("/")[2])
    draft.name = quantities.instance_name(wanted) or "instance"
    if name and draft.name != name:
        draft.lose("--name", f"instances have names of letters, digits and '-': {draft.name} is used", essential=False)


def _apply(draft: Draft, flag: str, value: str) -> None:
    if flag in _SWITCHES:
        if value in {"false", "0"} or flag in _SILENT:
            return
        if flag == "--rm":
            draft.ephemeral = True
        elif flag == "--privileged":
            draft.privileged(flag)
        elif flag == "--no-healthcheck":
            draft.no_health(flag)
        else:
            why, essential = _LOST_SWITCHES[flag]
            draft.lose(flag, why, essential=essential)
    elif flag in _VALUES:
        _VALUES[flag](draft, flag, value)
    else:
        why, essential = _LOST[flag]
        draft.lose(flag, why, essential=essential)


def _entrypoint(draft: Draft, _flag: str, value: str) -> None:
    draft.entrypoint = (value,) if value else ()


def _health(part: str) -> Callable[[Draft, str, str], None]:
    return lambda draft, flag, value: draft.health(flag, part, value)


def _hostname(draft: Draft, flag: str, value: str) -> None:
    if value != draft.name:
        draft.lose(flag, f"the hostname of an instance is its name, {draft.name}", essential=False)


def _mount(draft: Draft, flag: str, value: str) -> None:
    """--mount type=...,source=...,target=..."""
    fields: dict[str, str] = {}
    for part in value.split(","):
        key, equals, text = part.partition("=")
        key = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}.get(key, key)
        fields[key] = text if equals else "true"
    kind, target = fields.pop("type", "volume"), fields.pop("target", "")
    source, read_only = fields.pop("source", ""), fields.pop("readonly", "false") in {"true", "1"}
    match kind:
        case "bind":
            propagation = fields.pop("bind-propagation", "")
            draft.bind(flag, source, target, read_only=read_only, propagation=propagation)
        case "volume":
            draft.volume(flag, source, target, read_only=read_only)
            if fields.pop("volume-nocopy", "false") in {"true", "1"}:
                draft.fill_volumes = False
        case "tmpfs":
            draft.tmpfs(flag, target, fields.pop("tmpfs-size", ""))
            if mode := fields.pop("tmpfs-mode", ""):
                draft.tmpfs_options(flag, {f"mode={mode}"})
        case _:
            draft.lose(flag, f"LXD has no mounts of type {kind[:20]!r}")
    if fields:
        draft.lose(f"{flag} {','.join(fields)}", "no equal", essential=False)


def _network(draft: Draft, flag: str, value: str) -> None:
    """A name, or name=NAME,ip=ADDRESS,..."""
    if "=" not in value:
        draft.network(flag, value)
        return
    fields = dict(part.partition("=")[::2] for part in value.split(","))
    keys = {"ip": "ipv4.address", "ip6": "ipv6.address", "mac-address": "hwaddr"}
    options = [(keys[key], text) for key, text in fields.items() if key in keys]
    draft.network(flag, fields.pop("name", ""), options=options)
    if odd := sorted(fields.keys() - keys.keys()):
        draft.lose(f"{flag} {','.join(odd)}", "an instance is found by its own name only")


def _link(draft: Draft, flag: str, value: str) -> None:
    name, _, alias = value.partition(":")
    if alias and alias != name:
        draft.lose(flag, f"the other instance is found by its own name: {name[:60]}")


def _gpus(draft: Draft, flag: str, value: str) -> None:
    if value.startswith("device=") or '"' in value:
        for identifier in value.strip("\"'").removeprefix("device=").split(","):
            draft.gpu(flag, identifier)
    else:
        draft.gpu(flag)


def _runtime(draft: Draft, flag: str, value: str) -> None:
    if value == "nvidia":
        draft.config["nvidia.runtime"] = "true"
    else:
        draft.lose(flag, "LXD has a runtime of its own", essential=False)


def _storage(draft: Draft, flag: str, value: str) -> None:
    key, _, size = value.partition("=")
    if key == "size":
        draft.disk_size(flag, size)
    else:
        draft.lose(flag, "LXD's storage pools decide it", essential=False)


_VALUES: Mapping[str, Callable[[Draft, str, str], None]] = {
    "--publish": Draft.port,
    "--volume": Draft.mount,
    "--mount": _mount,
    "--tmpfs": Draft.tmpfs_mount,
    "--env": Draft.variable,
    "--env-file": Draft.env_file,
    "--user": Draft.user,
    "--workdir": Draft.working_dir,
    "--stop-signal": Draft.stop_signal,
    "--health-cmd": Draft.health_test,
    "--health-interval": _health("interval"),
    "--health-timeout": _health("timeout"),
    "--health-retries": _health("retries"),
    "--health-start-period": _health("start_period"),
    "--health-start-interval": _health("start_interval"),
    "--entrypoint": _entrypoint,
    "--restart": Draft.restarting,
    "--stop-timeout": Draft.grace,
    "--network": _network,
    "--ip": lambda draft, flag, value: draft.address(flag, "ipv4.address", value),
    "--ip6": lambda draft, flag, value: draft.address(flag, "ipv6.address", value),
    "--mac-address": lambda draft, flag, value: draft.address(flag, "hwaddr", value),
    "--hostname": _hostname,
    "--memory": Draft.memory,
    "--cpus": Draft.cpus,
    "--cpuset-cpus": Draft.cpu_set,
    "--pids-limit": Draft.processes,
    "--device": Draft.device,
    "--gpus": _gpus,
    "--runtime": _runtime,
    "--cap-add": Draft.capability,
    "--label": Draft.label,
    "--link": _link,
    "--add-host": Draft.host,
    "--dns": Draft.dns,
    "--dns-search": Draft.search,
    "--ulimit": Draft.ulimit,
    "--sysctl": Draft.sysctl,
    "--shm-size": lambda draft, flag, value: draft.tmpfs(flag, "/dev/shm", value),  # noqa: S108 - in the instance
    "--storage-opt": _storage,
    "--expose": Draft.expose,
}
_SWITCHES = {"--rm", "--privileged", "--no-healthcheck", *_SILENT, *_LOST_SWITCHES}
