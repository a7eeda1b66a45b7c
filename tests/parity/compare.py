"""What is compared, and the differences that are meant to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.parity.cases import CASES, Case

# Check -> what is compared, as the docs say it.
CHECKS = {
    "starts": "whether the application is run at all, or refused",
    "program": "the file that runs",
    "argv": "every argument, `argv[0]` included",
    "environment": "every variable but HOME",
    "HOME": "the variable",
    "uid": "real, effective and saved",
    "gid": "real, effective and saved",
    "groups": "the supplementary groups",
    "cwd": "the working directory; unless it is `/`, its owner and mode, too",
    "umask": "",
    "limits": "soft and hard ones, of what both are told to set: open files, processes, core files",
    "ignored": "signals that the application finds ignored",
    "blocked": "signals that the application finds blocked",
    "stdin": "what it is, and what a read brings",
    "descriptors": "the open ones",
    "output": "whether stdout and stderr are terminals",
    "session": "whether it leads its session and its process group and has a controlling terminal",
    "pid": "whether it is the first process",
}

Items = dict[str, Any]


def checks(report: Mapping[str, Any] | None) -> dict[str, Items]:
    """Check -> item -> value, from a probe's report. Without one there is only that it did not start."""
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
        "output": {"terminals": [bool(found) for found in report["terminals"][1:]]},
        "session": {
            "leads its group": report["pgid"] == report["pid"],
            "leads its session": report["sid"] == report["pid"],
            "has a terminal": bool(report["has_terminal"]),
        },
        "pid": {"is the first": report["pid"] == 1},
    }


def text(escaped: str) -> str:
    """The probe's bytes, one character each, as text."""
    return escaped.encode("latin-1").decode("utf-8", "surrogateescape")


def signals(mask: str) -> list[int]:
    """The signals in one of /proc/PID/status's masks."""
    return [number for number in range(1, 65) if int(mask, 16) >> number - 1 & 1]


@dataclass(frozen=True)
class Difference:
    """One item that is not the same; None where a side has none."""

    check: str
    item: str
    docker: Any
    lxd: Any

    def __str__(self) -> str:
        return f"{self.check}: {self.item} is {self.docker!r} under podman and {self.lxd!r} under LXD"


@dataclass(frozen=True)
class Known:
    """A difference that is meant to be: exactly these values, in these cases."""

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


def _sets(case: Case, name: str) -> bool:
    return any(variable.startswith(f"{name}=") for variable in case.env)


def _supervised(case: Case) -> bool:
    return not case.spec.get("disable_supervisor")


KNOWN = (
    Known(
        "environment", "TERM", "xterm", None, _where(lambda case: not _sets(case, "TERM")),
        "podman sets TERM although there is no terminal. Docker does not, and neither does LXD.",
    ),
    Known(
        "environment", "container", "podman", "lxc", _where(lambda case: not _sets(case, "container")),
        "Each container manager puts its name into `container`; an image's own value comes first. Docker sets none.",
    ),
    Known(
        "groups", "its own among them", True, False, _where(lambda case: bool(case.user)),
        "Docker repeats the primary group in the list of supplementary groups; gosu, which follows its rules for all "
        "else, does not. The process is in the group in either case.",
    ),
    Known(
        "cwd", "mode", "0755", "1777", frozenset({"root-no-tmp"}),
        "An instance has a tmpfs on /tmp, unless the spec says otherwise (`tmpfs`), open to all as /tmp has to be.",
    ),
    Known(
        "cwd", "owner", "1000:1000", "0:0", frozenset({"workdir-missing-user"}),
        "podman gives a working directory that it had to make to the image's user. Docker leaves it to root, and so "
        "does lxdocker.",
    ),
    Known(
        "output", "terminals", [False, False], [True, True], _where(lambda case: True),
        "What the application prints goes to the instance's console (`lxc console --show-log`), which is a terminal, "
        "as with `docker run -t`; without `-t` Docker has pipes there.",
    ),
    Known(
        "pid", "is the first", True, False, _where(_supervised),
        "PID 1 is lxdocker's supervisor, which reaps what the application leaves behind and gives it the time it needs "
        "to stop. With `disable_supervisor: true` the application is PID 1, as it is under Docker.",
    ),
)  # fmt: skip


def compare(docker: Mapping[str, Any] | None, lxd: Mapping[str, Any] | None) -> list[Difference]:
    """All that differs between two reports."""
    ours, theirs = checks(lxd), checks(docker)
    found = []
    for check in ("starts",) if docker is None or lxd is None else CHECKS:
        for item in sorted(theirs[check].keys() | ours[check].keys()):
            pair = theirs[check].get(item), ours[check].get(item)
            if pair[0] != pair[1]:
                found.append(Difference(check, item, *pair))
    return found


def known(case: Case, difference: Difference) -> Known | None:
    """Why this difference is meant to be, or None."""
    return next((one for one in KNOWN if one.explains(case, difference)), None)


def expected(case: Case) -> dict[str, list[Known]]:
    """Check -> its known differences in this case; without the checks that can't be made."""
    return {
        check: [one for one in KNOWN if one.check == check and case.name in one.cases]
        for check in (("starts",) if case.refused else CHECKS)
    }
