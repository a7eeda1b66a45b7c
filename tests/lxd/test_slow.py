"""A slow LXD, and slow programs in a builder: each phase of a build, an import and a first start last some seconds.

Nothing is simulated: what is at work is stopped for a while, as a full disk, a far registry or a busy machine would.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.lxd.rig import Instance, Lxc, Running, World, builders, command_lines, entry
from tests.runtime.boxes import box
from tests.waiting import PATIENCE_SECONDS

PAUSE_SECONDS = 3.3
SLOW_SECONDS = 3
DATA = hashlib.shake_256(b"slow").digest(32 << 20)  # so that each program is at work long enough to be caught at it


def hold(find: Callable[[], int | None]) -> None:
    """Stops a process for a while, as soon as it is there; looks all the time, since it may be there only briefly."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -15)  # on a busy host, too
    try:
        while not (pid := find()):
            assert time.monotonic() < deadline, "waited in vain for a process to stop"
        os.kill(pid, signal.SIGSTOP)
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)
    try:
        time.sleep(PAUSE_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)


def of_lxd(*words: str) -> Callable[[], int | None]:
    """A program that LXD runs for something below its folder."""

    def find() -> int | None:
        for path, line in command_lines().items():
            if os.environ["LXD_DIR"] + "/" in line and all(word in line for word in words):
                return int(path.name)
        return None

    return find


def of_instances(names: Sequence[str], program: str) -> Callable[[], int | None]:
    """A program that runs in one of these instances. Looks at their processes alone, since it may be gone soon."""

    def find() -> int | None:
        for pid in (pid for name in names for pid in processes(name)):
            with suppress(OSError):  # it has ended
                if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] == program.encode():
                    return pid
        return None

    return find


def processes(instance: str) -> Iterator[int]:
    """Its process ids, by its cgroup: of version 1 or 2."""
    for folder in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        with suppress(OSError):  # it has ended
            for group in folder.glob(f"lxc.payload*{instance}"):
                for file in group.rglob("cgroup.procs"):
                    yield from map(int, file.read_text().split())


def in_phase(run: Running, phase: str, find: Callable[[], int | None]) -> Callable[[], int | None]:
    """Finds a process only once the run has said that it is in this phase."""
    return lambda: find() if f"app: {phase}" in run.said else None


@pytest.mark.any_lxd
def test_whatever_takes_its_time_comes_to_its_end(world: World, launch: Callable[..., Instance]) -> None:
    script = "echo started; exec sleep 1000000"
    world.wants("app", box(entry("data", DATA), Cmd=["/bin/sh", "-c", script]))
    # LXD is asked beforehand for what will be needed: it may take longer to answer than a program is at work.
    daemon = int(Lxc().query("/1.0")["environment"]["server_pid"])
    builder: list[str] = []
    workers = [
        ("starting builder", of_lxd("unsquashfs")),
        ("starting builder", of_lxd("forkstart")),
        ("fetch", of_instances(builder, "skopeo")),
        ("unpack", of_instances(builder, "umoci")),
        ("pack", of_instances(builder, "mksquashfs")),
        ("export", lambda: daemon),
        ("import", lambda: daemon),
    ]
    began: dict[str, float] = {}
    with world.start("sync", "--json") as run:
        for phase, worker in workers:
            hold(run.while_at_work(in_phase(run, phase, worker)))
            began.setdefault(phase, time.monotonic() - PAUSE_SECONDS)
            builder[:] = builder or builders()
        run.wait_for("app: publish")
        began["publish"] = time.monotonic()
        done = run.end()
    assert done.statuses == {"app": "built"}, done.err
    world.holds("app", done.fingerprint("app"))
    times = list(began.values())
    took = {phase: later - at for phase, at, later in zip(began, times, times[1:], strict=False)}
    assert len(took) == 6
    assert min(took.values()) > SLOW_SECONDS, took

    watch = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        launching = pool.submit(launch, world, "app")
        hold(of_lxd("forkstart"))
        instance = launching.result()
    assert time.monotonic() - watch > SLOW_SECONDS
    instance.log_with("started")
