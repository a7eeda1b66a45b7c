"""An application sees the same as an LXD instance as under Docker; where not, it is known and has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import table
from tests.parity.cases import CASES, Case
from tests.parity.compare import CHECKS, KNOWN, Difference, checks, compare, known
from tests.parity.conftest import Pair

PAGE = Path(__file__).parents[2] / "docs/parity.md"


@pytest.mark.lxd
@pytest.mark.any_lxd
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sees_the_same(case: Case, observations: dict[str, Pair], results: dict[str, list[Difference]]) -> None:
    seen = observations[case.name]
    found = results[case.name] = compare(seen.docker.report, seen.lxd.report)
    if case.refused:
        assert seen.docker.report is None, seen.docker.output
        assert seen.lxd.report is None, seen.lxd.output
        assert case.refused in seen.lxd.output, f"the console has to say why: {seen.lxd.output}"
        return
    assert seen.docker.report is not None, seen.docker.output
    assert seen.lxd.report is not None, seen.lxd.output
    problems = [str(one) for one in found if not known(case, one)]
    # What is no longer different must not stay in the docs.
    problems += [
        f"{one.check}: {one.item} is no longer a known difference"
        for one in KNOWN
        if case.name in one.cases and Difference(one.check, one.item, one.docker, one.lxd) not in found
    ]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def test_the_docs_have_the_table() -> None:
    assert PAGE.read_text() == table.document() + "\n", "run: python -m tests.parity.table > docs/parity.md"


def test_there_are_images_enough_and_each_has_a_name_and_a_topic_of_its_own() -> None:
    assert len({case.image for case in CASES}) >= 25
    assert len({case.name for case in CASES}) == len({case.about for case in CASES}) == len(CASES)


def test_a_report_has_every_check() -> None:
    report = {
        "fds": {"0": "/dev/null", "1": "pipe:[1]", "2": "pipe:[2]"}, "SigBlk": "0" * 16, "SigIgn": "0000000000000007",
        "argv": ["/probe"], "environ": ["A=\u00c3\u00a9=", "B", "HOME=/root", "A=2"], "program": "/probe",
        "uid": [1, 2, 3], "gid": [4, 5, 6], "groups": [7, 5, 7], "cwd": "/srv", "cwd_owner": [1, 2, 0o1777],
        "umask": 0o22, "nofile": [1, 2], "nproc": [1, 2], "core": [0, 0], "terminals": [0, 0, 1], "has_terminal": 0,
        "pid": 1, "pgid": 1, "sid": 1, "stdin_read": 0, "window": [0, 0],
        "stdio": [[0o20666, 0, 0], [0o10600, 1, 0], [0o10600, 1, 0]],
        "by_name": {"/dev/stdout": 0, "/dev/stderr": 13}, "arrived": ["/dev/stdout"], "nice": 0, "dumpable": 1,
        "securebits": 0, "lines": {
            "/etc/hostname": "x", "/proc/self/oom_score_adj": "0", "/proc/self/setgroups": "allow",
            "/sys/fs/cgroup/memory.max": "", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "7", "/proc/sys/a": "1",
        },
        **{f"Cap{kind}": "00000000a80425ff" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}, "NoNewPrivs": "0",
        "Seccomp": "2", "ports": {"80/tcp": 13}, "ping": {"raw socket": 1}, "hostname": "x", "address": "10.0.0.2",
        "own_name": ["10.0.0.2", "::1"], "localhost": ["127.0.0.1"], "name_server": 1, "sysctl_writable": 1,
        "dev": {"null": [0o20666, 0, 0, 1, 3, ""], "fd": [0o120777, 0, 0, 0, 0, "/proc/self/fd"]},
        "mounts": {"/dev/shm": [0x01021994, 6, 65536]}, "files": {"/": [0o40755, 0, 0, 0, 0, ""], "/tmp": None},
    }  # fmt: skip
    found = checks(report)
    assert list(found) == list(CHECKS)
    assert found["environment"] == {"A": "é=", "B": "", "A (again)": "2"}
    assert found["ignored"] == {"signals": [1, 2, 3]}
    assert found["groups"] == {"beside its own": [7], "its own among them": True}
    assert found["output"]["stdout"] == "prw------- 1:0"
    assert found["by name"] == {"/dev/stdout": "works", "/dev/stderr": "EACCES", "arrived": ["/dev/stdout"]}
    assert found["privilege"]["bounding: Docker's"] == "a80425fb"
    assert found["privilege"]["bounding: others"] is True
    assert found["names"]["own name"] == ["its address", "::1"]
    assert (found["devices"]["null"], found["devices"]["owners"]) == ("crw-rw-rw- 1:3", ["0:0"])
    assert found["mounts"] == {"/dev/shm": "tmpfs nosuid nodev", "/dev/shm: for 64 MiB": True}
    assert compare(report, report) == []
    assert compare(report, {**report, "umask": 0o77}) == [Difference("umask", "umask", "0022", "0077")]
    assert compare(report, None) == [Difference("starts", "starts", True, False)]
