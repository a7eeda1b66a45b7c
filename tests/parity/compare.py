"""The compared values, and the known differences."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.parity.cases import CASES, Case

# Check -> the compared values, as in docs/parity.md.
CHECKS = {
    "starts": "whether the application runs at all, or is refused",
    "program": "the file that runs",
    "argv": "every argument, `argv[0]` included",
    "environment": "every variable except HOME",
    "HOME": "the variable",
    "uid": "real, effective and saved",
    "gid": "real, effective and saved",
    "groups": "the supplementary groups",
    "cwd": "the working directory; unless it is `/`, its owner and mode, too",
    "umask": "the mask",
    "limits": "soft and hard limits that both sides are configured to set: open files, processes, core files",
    "ignored": "signals ignored at the start of the application",
    "blocked": "signals blocked at the start of the application",
    "stdin": "the file, and the result of a read",
    "descriptors": "the open file descriptors",
    "output": "whether stdout and stderr are terminals, and their size; kind, owner and mode of all three streams",
    "by name": "whether the streams can be opened by name (`/dev/stdout`, `/dev/fd/1`, `/proc/self/fd/1`), and output "
    "written there arrives",
    "session": "whether the application leads its session and its process group and has a controlling terminal",
    "pid": "whether the application is the first process",
    "process": "nice value, dumpable, `oom_score_adj`, setgroups, the control group's memory limit",
    "privilege": "capabilities, Docker's and others; no_new_privs, securebits, a seccomp filter",
    "ports": "listening on ports below 1024",
    "ping": "an ICMP echo socket and its reply; a raw socket",
    "names": "the addresses of the host name and `localhost` in `/etc/hosts`; `/etc/hostname`, a name server",
    "sysctls": "sysctls of the namespaces, and whether they can be set",
    "devices": "the contents of `/dev`: kinds, numbers, modes, targets; owners",
    "mounts": "mounts that applications look for: kind, flags; the size of a tmpfs",
    "files": "kind, owner and mode of `/`, `/etc`, `/tmp`, `/run`; and of `hosts`, `hostname`, `resolv.conf` and "
    "`mtab` in `/etc`",
    "volumes": "the contents of a volume that was empty: owners, modes, times, content, links, attributes",
}

Items = dict[str, Any]
DOCKERS_CAPABILITIES = 0xA80425FB
DOCKERS_DEVICES = frozenset({
    "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
})  # fmt: skip
FILESYSTEMS = {
    0x01021994: "tmpfs", 0x1CD1: "devpts", 0x19800202: "mqueue", 0x9FA0: "proc", 0x62656572: "sysfs",
    0x27E0EB: "cgroup", 0x63677270: "cgroup2",
}  # fmt: skip


def checks(report: Mapping[str, Any] | None) -> dict[str, Items]:
    """Check -> item -> value, from a probe's report. Without a report, only that it did not start."""
    if report is None:
        return {"starts": {"starts": False}}
    variables: Items = {}
    for variable in report["environ"]:
        name, _, value = text(variable).partition("=")
        while name in variables:
            name += " (again)"
        variables[name] = value
    home = variables.pop("HOME", None)
    fds = report["fds"]
    place: Items = {"path": text(report["cwd"])}
    if place["path"] != "/":
        uid, gid, mode = report["cwd_owner"]
        place |= {"owner": f"{uid}:{gid}", "mode": f"{mode:04o}"}
    return {
        "starts": {"starts": True},
        "program": {"program": text(report["program"])},
        "argv": {f"argv[{at}]": text(word) for at, word in enumerate(report["argv"])},
        "environment": variables,
        "HOME": {} if home is None else {"HOME": home},
        "uid": dict(zip(("real", "effective", "saved"), report["uid"], strict=True)),
        "gid": dict(zip(("real", "effective", "saved"), report["gid"], strict=True)),
        "groups": {
            "beside its own": sorted(set(report["groups"]) - {report["gid"][1]}),
            "its own among them": report["gid"][1] in report["groups"],
        },
        "cwd": place,
        "umask": {"umask": f"{report['umask']:04o}"},
        "limits": {name: tuple(report[name]) for name in ("nofile", "nproc", "core")},
        "ignored": {"signals": signals(report["SigIgn"])},
        "blocked": {"signals": signals(report["SigBlk"])},
        "stdin": {"file": fds.get("0"), "read": report["stdin_read"]},
        "descriptors": {"open": sorted(map(int, fds))},
        "output": {
            "terminals": [bool(found) for found in report["terminals"][1:]],
            "size": report["window"],
            **{("stdin", "stdout", "stderr")[fd]: _kind(*one) for fd, one in enumerate(report["stdio"])},
        },
        "by name": {
            **{name: _error(number) for name, number in report["by_name"].items()},
            "arrived": sorted(report["arrived"]),
        },
        "session": {
            "leads its group": report["pgid"] == report["pid"],
            "leads its session": report["sid"] == report["pid"],
            "has a terminal": bool(report["has_terminal"]),
        },
        "pid": {"is the first": report["pid"] == 1},
        "process": _process(report),
        "privilege": _privilege(report),
        "ports": {name: _error(number) for name, number in report["ports"].items()},
        "ping": {name: _error(number) for name, number in report["ping"].items()},
        "names": _names(report),
        "sysctls": {
            **{
                name.removeprefix("/proc/sys/"): text(line)
                for name, line in report["lines"].items()
                if name.startswith("/proc/sys/")
            },
            "can be set": bool(report["sysctl_writable"]),
        },
        "devices": _devices(report["dev"]),
        "mounts": _mounts(report["mounts"]),
        "files": {
            name: one and _kind(*one[:3]) + (f" -> {text(one[5])}" if one[5] else "")
            for name, one in report["files"].items()
        },
        "volumes": dict(report.get("volumes", {})),
    }


def _error(number: int) -> str:
    return errno.errorcode[number] if number else "works"


def _kind(mode: int, uid: int, gid: int) -> str:
    return f"{stat.filemode(mode)} {uid}:{gid}"


def _process(report: Mapping[str, Any]) -> Items:
    lines = report["lines"]
    limits = (lines["/sys/fs/cgroup/memory.max"], lines["/sys/fs/cgroup/memory/memory.limit_in_bytes"])
    return {
        "nice": report["nice"],
        "dumpable": report["dumpable"],
        "oom_score_adj": lines["/proc/self/oom_score_adj"],
        "setgroups": lines["/proc/self/setgroups"],
        "memory": next(filter(None, limits), ""),
    }


def _privilege(report: Mapping[str, Any]) -> Items:
    found: Items = {
        "no_new_privs": report["NoNewPrivs"] != "0",
        "seccomp filter": report["Seccomp"] != "0",
        "securebits": report["securebits"],
    }
    for key, name in {
        "Eff": "effective",
        "Prm": "permitted",
        "Inh": "inheritable",
        "Amb": "ambient",
        "Bnd": "bounding",
    }.items():
        mask = int(report[f"Cap{key}"], 16)
        found[f"{name}: Docker's"] = f"{mask & DOCKERS_CAPABILITIES:x}"
        found[f"{name}: others"] = mask & ~DOCKERS_CAPABILITIES != 0
    return found


def _names(report: Mapping[str, Any]) -> Items:
    address = text(report["address"])
    return {
        "has an address": address != "",
        "own name": ["its address" if text(one) == address else text(one) for one in report["own_name"]],
        "localhost": [text(one) for one in report["localhost"]],
        "/etc/hostname": text(report["lines"]["/etc/hostname"]) == text(report["hostname"]),
        "name server": bool(report["name_server"]),
    }


def text(escaped: str) -> str:
    """The probe's bytes, one character each, as text."""
    return escaped.encode("latin-1").decode("utf-8", "surrogateescape")


def signals(mask: str) -> list[int]:
    """The signals in one of /proc/PID/status's masks."""
    return [number for number in range(1, 65) if int(mask, 16) >> number - 1 & 1]


def _devices(listing: Mapping[str, list[Any]]) -> Items:
    kinds, owners = {}, set()
    for name, (mode, uid, gid, major, minor, target) in listing.items():
        numbers = f" {major}:{minor}" if stat.S_ISCHR(mode) and name != "console" else ""
        if name == "console":
            mode &= ~0o111  # liblxc before 6.0 sets them, to no effect
        kinds[text(name)] = stat.filemode(mode) + numbers + (f" -> {text(target)}" if target else "")
        if numbers and name in DOCKERS_DEVICES - {"ptmx"}:
            owners.add(f"{uid}:{gid}")
    return {
        **{name: kinds.get(name) for name in {*DOCKERS_DEVICES, "console"}},
        "owners": sorted(owners),
        "others": bool(kinds.keys() - DOCKERS_DEVICES - {"console"}),
    }


def _mounts(listing: Mapping[str, list[int]]) -> Items:
    found: Items = {}
    for path, (kind, flags, size) in listing.items():
        name = FILESYSTEMS.get(kind, "a disk")
        words = [word for bit, word in ((1, "ro"), (2, "nosuid"), (4, "nodev"), (8, "noexec")) if flags & bit]
        # Which control groups there are is the host's affair.
        found[path] = "there" if path == "/sys/fs/cgroup" else " ".join([name, *words])
        if path == "/dev/shm":
            found["/dev/shm: for 64 MiB"] = size >= 64 << 10
    return found


@dataclass(frozen=True)
class Difference:
    """An item that differs; None on a side without it."""

    check: str
    item: str
    docker: Any
    lxd: Any

    def __str__(self) -> str:
        return f"{self.check}: {self.item} is {self.docker!r} under podman and {self.lxd!r} under LXD"


@dataclass(frozen=True)
class Known:
    """An intended difference: exactly these values, in these cases."""

    check: str
    item: str
    docker: Any
    lxd: Any
    cases: frozenset[str]
    reason: str

    def explains(self, case: Case, difference: Difference) -> bool:
        same = Difference(self.check, self.item, self.docker, self.lxd) == difference
        return same and case.name in self.cases


def _where(case_wanted: Callable[[Case], bool]) -> frozenset[str]:
    return frozenset(case.name for case in CASES if not case.refused and case_wanted(case))


def _free(folder: str) -> Callable[[Case], bool]:
    """Cases without a volume there."""
    return lambda case: not any(f"{path}/".startswith(f"{folder}/") for path in (*case.volumes, *case.declares))


EVERYWHERE = _where(lambda case: True)
AS_ROOT = _where(lambda case: case.user.partition(":")[0] in ("", "0", "root"))
WITH_TERMINAL = _where(lambda case: not case.supervised)
SUPERVISED = EVERYWHERE - WITH_TERMINAL
SYSTEM = "An instance is a complete system, separated from the host by its user namespace"
DEVICES = (
    "Device files are created by the host and mounted into the instance, whose user namespace does not map their "
    "owner. Everybody may use them."
)

KNOWN = (
    Known(
        "environment", "container", None, "lxc", _where(lambda case: not case.sets("container")),
        "liblxc sets it, and init systems look for it; a value set by the image takes precedence.",
    ),
    Known(
        "groups", "its own among them", True, False, _where(lambda case: bool(case.user)),
        "Docker repeats the primary group in the list of supplementary groups; gosu, which otherwise follows "
        "Docker's rules, does not. The process belongs to the group in either case.",
    ),
    Known(
        "cwd", "mode", "0755", "1777", frozenset({"root-no-tmp"}),
        "An instance has a tmpfs on /tmp, unless the spec's `tmpfs` turns it off, with the usual mode of /tmp.",
    ),
    Known(
        "cwd", "owner", "1000:1000", "0:0", frozenset({"workdir-missing-user"}),
        "podman gives a working directory that it creates to the image's user. With Docker and lxdocker, it belongs to "
        "root.",
    ),
    Known(
        "stdin", "file", "/dev/pts/0", "/dev/null", WITH_TERMINAL,
        "Input typed at an instance's console is discarded; under Docker, the application receives it.",
    ),
    Known(
        "stdin", "read", -2, 0, WITH_TERMINAL,
        "As above: a read ends at once, while a terminal waits for input.",
    ),
    Known("output", "stdin", "crw-rw-rw- 0:0", "crw-rw-rw- 65534:65534", SUPERVISED, f"stdin is /dev/null. {DEVICES}"),
    Known(
        "output", "stdin", "crw--w---- 0:5", "crw-rw-rw- 65534:65534", WITH_TERMINAL & AS_ROOT,
        "stdin is /dev/null, as above.",
    ),
    Known(
        "output", "stdin", "crw--w---- 1000:5", "crw-rw-rw- 65534:65534", WITH_TERMINAL - AS_ROOT,
        "stdin is /dev/null, as above.",
    ),
    Known(
        "output", "size", [0, 0], [24, 80], WITH_TERMINAL,
        "Under Docker, a terminal without a client has no size. Some programs divide by it.",
    ),
    Known(
        "pid", "is the first", True, False, SUPERVISED,
        "PID 1 is lxdocker's supervisor, which reaps the application's orphans and gives the application time to stop. "
        "With `disable_supervisor: true`, or if it is an init itself, the application is PID 1, as under Docker.",
    ),
    *(
        Known(
            "privilege", f"{kind}: others", False, True, cases,
            f"{SYSTEM}. Root's capabilities apply only there, and an init needs more of them than Docker grants. "
            "Other users have none, except in the bounding set, which limits setuid programs.",
        )
        for kind, cases in (
            ("bounding", EVERYWHERE),
            ("effective", AS_ROOT | {"user-setuid"}),
            ("permitted", AS_ROOT | {"user-setuid"}),
        )
    ),
    Known(
        "sysctls", "can be set", False, True, AS_ROOT,
        f"{SYSTEM}, so root may set the sysctls of its own namespaces. The host's are read-only.",
    ),
    Known(
        "sysctls", "net/ipv4/ip_forward", "1", "0", EVERYWHERE,
        "A Docker container has the host's value, which is 1 once there is a bridge with NAT. An instance forwards "
        "nothing unless configured: `linux.sysctl.net.ipv4.ip_forward=1`, or `raw.lxc` where LXD refuses that.",
    ),
    Known(
        "devices", "console", None, "crw-------", SUPERVISED,
        "PID 1 writes to it. Docker has it only with `--tty`.",
    ),
    Known("devices", "ptmx", "lrwxrwxrwx -> pts/ptmx", "crw-rw-rw- 5:2", EVERYWHERE, "LXD's form of the same device."),
    Known("devices", "owners", ["0:0"], ["65534:65534"], EVERYWHERE, DEVICES),
    Known(
        "devices", "others", False, True, EVERYWHERE,
        "LXD adds /dev/fuse and /dev/net/tun if the host has them, and /dev/lxd; /dev/.lxc-boot-id and /dev/.lxd-* "
        "belong to liblxc and the runtime.",
    ),
    Known(
        "mounts", "/dev", "tmpfs nosuid noexec", "tmpfs", EVERYWHERE,
        "Mounted by LXD; on both sides, only root may write to it.",
    ),
    Known(
        "mounts", "/proc/sys", "proc ro nosuid nodev noexec", None, EVERYWHERE,
        f"{SYSTEM}; the sysctls that root may set there affect only the instance.",
    ),
    Known(
        "mounts", "/sys", "sysfs ro nosuid nodev noexec", "sysfs", EVERYWHERE,
        f"{SYSTEM}; for its root, the host's files in /sys are read-only.",
    ),
    *(
        Known(
            "mounts", path, None, "tmpfs nosuid nodev", _where(_free(path)),
            "A tmpfs, as in a complete system, with the image's files; not if there is a volume; configurable with the "
            "spec's `tmpfs`.",
        )
        for path in ("/run", "/tmp")
    ),
    Known(
        "files", "/tmp", None, "drwxrwxrwt 0:0",
        _where(lambda case: case.name != "root-no-tmp" and not any(file.path == "tmp" for file in case.files)),
        "As above. The image has no /tmp.",
    ),
    Known(
        "files", "/tmp", "drwxr-xr-x 0:0", "drwxrwxrwt 0:0", frozenset({"root-no-tmp"}),
        "As above. Under Docker, it is a working directory that had to be created.",
    ),
    Known(
        "files", "/", "dr-xr-xr-x 0:0", "drwxr-xr-x 0:0", EVERYWHERE,
        "podman's storage creates it with this mode if no layer contains it. Docker's does not.",
    ),
    Known(
        "volumes", "/new/place: .", "drwxr-xr-x 1000:1000", "drwxr-xr-x 0:0", frozenset({"volumes-declared"}),
        "podman gives a volume at a path missing from the image to the image's user. With Docker and lxdocker, it "
        "belongs to root.",
    ),
)  # fmt: skip


def compare(docker: Mapping[str, Any] | None, lxd: Mapping[str, Any] | None) -> list[Difference]:
    """All differences between two reports."""
    ours, theirs = checks(lxd), checks(docker)
    found = []
    for check in ("starts",) if docker is None or lxd is None else CHECKS:
        for item in sorted(theirs[check].keys() | ours[check].keys()):
            pair = theirs[check].get(item), ours[check].get(item)
            if pair[0] != pair[1]:
                found.append(Difference(check, item, *pair))
    return found


def known(case: Case, difference: Difference) -> Known | None:
    """The known difference that explains this one, or None."""
    return next((one for one in KNOWN if one.explains(case, difference)), None)


def expected(case: Case) -> dict[str, list[Known]]:
    """Check -> its known differences in this case; without the checks that can't be made."""
    made = ["starts"] if case.refused else [check for check in CHECKS if check != "volumes" or case.volumes]
    return {check: [one for one in KNOWN if one.check == check and case.name in one.cases] for check in made}
