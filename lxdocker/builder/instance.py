"""The life of one ephemeral builder."""

from __future__ import annotations

import importlib
import os
import re
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from lxdocker import log
from lxdocker.builder.placement import PROFILE, Placement
from lxdocker.errors import BuildError, LxdError, LxdockerError, remedy
from lxdocker.files.holder import host_id
from lxdocker.files.seen import exists
from lxdocker.http.route import Address, Route
from lxdocker.lxd import command, websocket
from lxdocker.lxd.api import Cancelled, Lxd, NotFoundError
from lxdocker.lxd.command import Command, Result
from lxdocker.values import Fingerprint

OWNER_KEY = "user.lxdocker.owner"
SEE_CLUSTER = "see lxc cluster list"
STEP = "\f"  # what build.sh says on stderr before each step
GO_STACK = "\ngoroutine "  # how the stack of a crashed Go program begins
KILLED = "it was killed"  # also what scripts say of a command that was
PULL_SECONDS = 900
DAY_SECONDS = 86400
FORMER_WORDS = 4  # of an owner's mark
ROOM_SECONDS = 30  # how long the removal of other builders is waited for, where there is no room
LOOK_SECONDS = 0.5  # between two looks at a builder's removal
NETWORK_SECONDS = 15  # how long a builder may take to get a lease, or its way to a registry on this host


@dataclass(frozen=True, slots=True)
class Connection:
    """A builder's way to its image."""

    way: str  # as connected.sh names it
    adding: Future[None] | None = None  # LXD's part of it, where it is not done yet

    def missing(self) -> BuildError:
        """Why there is none. Raises LxdError where LXD itself knows."""
        if self.adding is None:
            return BuildError(
                "the builder has no network",
                f"it got no DHCP lease within {NETWORK_SECONDS} s",
                "check LXD's network (lxc network list), or name another in the setting `network`",
            )
        self.adding.result()
        return BuildError(
            "the builder cannot reach its image",
            f"after {NETWORK_SECONDS} s still not ready: {self.way} (a DHCP lease, LXD's proxies to this host)",
            "run the same command again; if it persists, look at LXD's log and networks",
        )


class Builder:
    """A running builder. Commands in it are argument lists; nothing of an image is ever executed."""

    def __init__(self, lxd: Lxd, project: str, name: str, connection: Connection) -> None:
        self._lxd = lxd
        self._connection = connection
        self.project = project
        self.name = name

    @property
    def way(self) -> str:
        """Its way to the image, as connected.sh names it."""
        return self._connection.way

    def missing_connection(self) -> BuildError:
        """Why it has no way to the image. Raises LxdError where LXD itself knows."""
        return self._connection.missing()

    def is_gone(self) -> bool:
        """Whether somebody else has stopped or deleted it."""
        try:
            found = self._lxd.get("instances", self.name, what="looking for the builder", project=self.project)
        except NotFoundError:
            return True
        except LxdError:
            return False
        return bool(found["status"] != "Running")

    def by_hand(self, argv: Sequence[str]) -> str:
        """How a shell on this host runs a command in it."""
        return command.exec_command(self._lxd, self.project, self.name, argv)

    def running(
        self,
        argv: Sequence[str],
        *,
        what: str = "",
        seconds: float,
        stdin: bytes = b"",
        by_hand: Callable[[str], str] = str,
        cancellable: bool = True,
    ) -> AbstractContextManager[tuple[Command, Callable[[], Result]]]:
        """Starts a command; see lxdocker.lxd.command.running()."""
        return command.running(
            self._lxd,
            self.project,
            self.name,
            argv,
            what=what or f"running {argv[0]} in {self.name}",
            seconds=seconds,
            stdin=stdin,
            by_hand=by_hand,
            cancellable=cancellable,
        )

    def try_run(
        self,
        argv: Sequence[str],
        *,
        what: str = "",
        seconds: float,
        stdin: bytes = b"",
        by_hand: Callable[[str], str] = str,
        cancellable: bool = True,
    ) -> Result:
        """Runs a command to its end, whatever that is."""
        with self.running(argv, what=what, seconds=seconds, stdin=stdin, by_hand=by_hand, cancellable=cancellable) as (
            running,
            end,
        ):
            stdout = command.last(running.output())
            return replace(end(), stdout=stdout.decode("utf-8", "replace"))

    def run(
        self,
        step: str,
        argv: Sequence[str],
        *,
        seconds: float,
        stdin: bytes = b"",
        by_hand: Callable[[str], str] = str,
    ) -> Result:
        """Runs a command to its end. Raises BuildError if it fails."""
        result = self.try_run(argv, what=step, seconds=seconds, stdin=stdin, by_hand=by_hand)
        if result.status != 0:
            raise explain(step, result, argv)
        return result

    def pull(self, path: str) -> Generator[bytes, None, None]:
        """Streams a file out. Close it where it is not read to its end. Raises BuildError if it can't be read."""
        step = f"reading {path}"
        size = self.run(step, ["/bin/busybox", "stat", "-c", "%s", path], seconds=30).stdout.strip()
        if not re.fullmatch("[0-9]{1,15}", size):
            raise BuildError(f"{step} failed", "the builder reported no size")
        left = int(size)
        argv = ["/bin/busybox", "cat", path]
        name = shlex.quote(PurePath(path).name)
        with self.running(argv, what=step, seconds=PULL_SECONDS, by_hand=lambda told: f"{told} >{name}") as (cat, end):
            for piece in cat.output():
                left -= len(piece)
                if left < 0:
                    break
                yield piece
            else:
                result = end()
                if result.status != 0:
                    raise explain(step, result, argv)
        if left != 0:
            raise BuildError(f"{step} failed", "it changes while it is read")

    def push(self, path: str, content: bytes | Iterator[bytes], source: str = "") -> None:
        """Writes a file, readable for root only. ``source``, for the log: how a shell gives it to the client."""
        self._lxd.push(self.project, self.name, path, content, source=source)


class MemberLostError(LxdError):
    """The member of a cluster that a builder was on does not answer any more."""


class Workshop:
    """Makes builders from one builder image and sees to it that none is left behind.

    Removing a builder takes LXD 0.7 s, and needs nobody who waits for it once it has begun. While the workshop is open,
    a removal that fails is tried again; one that fails later is left to the next run's ``sweep``.
    """

    def __init__(self, lxd: Lxd, placement: Placement, image: Fingerprint, *, keep: bool = False) -> None:
        self._lxd = lxd
        self._placement = placement
        self._image = image
        self._keep = keep
        self._helpers = ThreadPoolExecutor(max_workers=32, thread_name_prefix="builder")
        # What the first command needs takes as long to import as LXD takes to start something. So both at once.
        self._helpers.submit(importlib.import_module, websocket.PROTOCOL)
        self._cleanings: list[Future[None]] = []
        self._closing = threading.Event()
        self._changing = threading.Lock()
        self._lost: set[str] = set()  # members of a cluster that did not answer
        self.kept: list[str] = []

    @property
    def members(self) -> Sequence[str | None]:
        """The hosts that builders can be on, each with a layer cache; None for LXD's only one."""
        return [name for name in self._placement.members or [None] if name not in self._lost]

    def close(self, *, until_gone: bool = False) -> None:
        """Waits until LXD is removing every builder, or ``until_gone``. Raises LxdError if one would not go."""
        if not until_gone:
            self._closing.set()
        self._helpers.shutdown(wait=True)
        for cleaning in self._cleanings:
            cleaning.result()

    @contextmanager
    def builder(self, route: Route, *, cache: bool = True, on: str | None = None) -> Iterator[Builder]:
        """A fresh builder, which can go the ``route``, also where that leads to this host's loopback. In a cluster
        wherever LXD places it, unless it has to be ``on`` a member.

        Raises MemberLostError where a member of the cluster went away with it.
        """
        name = f"builder-{secrets.token_hex(4)}"
        devices = self._placement.devices(network=route.network, cache=cache)
        target = on or self._target(route)
        body = {
            "name": name,
            "ephemeral": True,
            "profiles": [PROFILE],
            "config": {OWNER_KEY: owner()},
            "devices": devices,
            "source": {"type": "image", "fingerprint": self._image.value},
        }
        connection = Connection("lease" if route.network else "none")
        failed, runs = True, False
        member = target if target in self._placement.members else None
        try:
            placed = self._create(body, target)
            member = placed if placed in self._placement.members else member
            runs = True
            if route.local:
                connection = self._connect(name, route)
            yield Builder(self._lxd, self._placement.project, name, connection)
            failed = False
        except LxdockerError as error:
            self._look_for_lost(member, error)
            raise
        finally:
            # One on a member that is away can't be removed: the next run does.
            if member is None or member not in self._lost:
                self._dispose(name, failed, runs, connection.adding)

    def _target(self, route: Route) -> str | None:
        """What LXD is told about a builder's place. Raises BuildError where no place would do."""
        lxd = self._lxd
        if route.local:
            if lxd.daemon.address.is_elsewhere:
                host, port = route.local[0]
                raise BuildError(
                    "the builder cannot reach its image",
                    f"{host}:{port} is the loopback of this host, and the builder is on that of {lxd.daemon.address}",
                    "give the registry (or the proxy) an address that LXD's host can reach, too",
                )
            return lxd.dialect.member  # the one on this host
        if self._lost:
            if not self.members:
                away = ", ".join(sorted(self._lost))
                raise MemberLostError("no cluster member is left for builders", f"no answer from {away}", SEE_CLUSTER)
            return secrets.choice(self.members)
        return self._placement.target

    def _look_for_lost(self, member: str | None, error: LxdockerError) -> None:
        """Raises MemberLostError if a builder failed because its host went away, whatever that looked like."""
        if isinstance(error, Cancelled) or self._lxd.dialect.member is None:
            return
        suspects = {member} if member else set(self._placement.members)
        lost = sorted(one for one in suspects - {self._lxd.dialect.member} if one and not self._lxd.answers(one))
        self._lost.update(lost)
        if lost:
            raise MemberLostError(
                f"member {', '.join(lost)} of the cluster does not answer", str(error), SEE_CLUSTER
            ) from error

    def _create(self, body: Mapping[str, Any], target: str | None) -> str | None:
        """Returns the member of the cluster that it is on.

        Where there is no room, as in a project with limits or on a full pool, there may be once LXD has removed the
        builders before, for which nobody has waited.
        """
        project = self._placement.project
        try:
            return self._lxd.create_instance(project, body, target)
        except Cancelled:
            raise
        except LxdError:
            going = self._lxd.removed_instances(project)
            if not going:
                raise
            deadline = time.monotonic() + ROOM_SECONDS
            while going & self._lxd.removed_instances(project) and time.monotonic() < deadline:
                if self._lxd.cancelled.wait(LOOK_SECONDS):
                    raise
            self._lxd.delete_instance(project, body["name"])  # which may be half made
            return self._lxd.create_instance(project, body, target)

    def _connect(self, name: str, route: Route) -> Connection:
        """Adds a proxy to each place on this host. LXD sleeps for a second after it has started one, which by then has
        long been of use.
        """
        devices = {f"local{number}": _loopback_device(address) for number, address in enumerate(route.local)}
        adding = self._helpers.submit(self._lxd.adding_devices(self._placement.project, name, devices))
        ports = (f"port:{port:04X}" for port in dict.fromkeys(port for _, port in route.local))
        return Connection(",".join((*(["lease"] if route.network else []), *ports)), adding)

    def _dispose(self, name: str, failed: bool, runs: bool, adding: Future[None] | None) -> None:
        with self._changing:
            if self._keep and failed:
                self.kept.append(name)
                return
            self._cleanings.append(self._helpers.submit(self._remove, name, runs, adding))

    def _remove(self, name: str, runs: bool, adding: Future[None] | None) -> None:
        if adding is not None:
            wait([adding])  # LXD does not stop an instance that it is changing
        # One that never ran does not delete itself.
        if not (runs and self._goes(name)):
            self._lxd.delete_instance(self._placement.project, name)

    def _goes(self, name: str) -> bool:
        """Whether LXD removes a builder, as far as that shows until the workshop is closed."""
        with suppress(LxdError):
            operation = self._lxd.begin_removal(self._placement.project, name)
            while operation is not None and not self._closing.wait(LOOK_SECONDS):
                ended = self._lxd.look_at(operation, f"removing builder {name}")
                if ended is not None:
                    return not ended.error
            return True
        return False


def sweep(lxd: Lxd, project: str, say: Callable[[str], None]) -> bool:
    """Removes builders whose lxdocker is gone, killed with no time to clean up; one that won't go hinders nobody.
    Returns whether there was any.
    """
    removed = False
    for name in left_over(lxd, project):
        try:
            lxd.delete_instance(project, name)
        except LxdError as error:
            say(f"{name}, left over from an earlier run, can't be removed: {error}")
        else:
            say(f"removed {name}, left over from an earlier run")
            removed = True
    return removed


def left_over(lxd: Lxd, project: str) -> list[str]:
    """The names of builders whose lxdocker is gone, but for those that LXD is removing: it was asked to before."""
    try:
        found = lxd.instances(project)
    except NotFoundError:  # LXD 5.0 has none to show of a project that is not there; another may say so
        return []
    left = [one["name"] for one in found if (mark := _mark(one)) and not is_alive(mark, _created(one))]
    going = lxd.removed_instances(project) if left else set()
    left = [name for name in left if name not in going]
    # One may have gone between the two answers.
    there = {one["name"] for one in lxd.instances(project)} if left else set()
    return [name for name in left if name in there]


def others_at_work(lxd: Lxd, project: str) -> bool:
    """Whether there is a builder of another lxdocker that may be alive."""
    for one in lxd.instances(project):
        mark = _mark(one)
        if mark != owner() and is_alive(mark, _created(one)):
            return True
    return False


def _mark(instance: Mapping[str, Any]) -> str:
    """Of an instance on a member of a cluster that is away, LXD shows no config."""
    return str((instance.get("config") or {}).get(OWNER_KEY) or "")


def _created(instance: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(instance["created_at"]))
    except (KeyError, ValueError):
        return None


def owner() -> str:
    """Names this process for good: boot, process id, when it started (a process id comes again), where that id means
    something, and the host: several may use one LXD.
    """
    return f"{_boot_id()} {os.getpid()} {_start_time(os.getpid())} {_pid_namespace()} {host_id()}"


DISK_FULL = ("no space left", "disk quota exceeded")
# What skopeo, umoci and mksquashfs say, and what to do about it.
_USUAL_FAILURES = (
    ((KILLED,), "give builders more memory with the setting builder_memory, such as 4GiB"),
    (
        DISK_FULL,
        "the builder's storage pool is full: enlarge it, free space (lxdocker prune), or set `pool` to another",
    ),
    (
        (
            "did not match",
            "mismatch",
            "unexpected eof",
            "gzip: invalid",
            "does not match",
            "not what its digest says",
            "corrupted blob",
        ),
        "run the same command again; if that does not help, the image is damaged at its source: report it to its "
        "publisher, or pin an older digest in the spec",
    ),
    (
        ("connection refused", "no such host", "i/o timeout", "network is unreachable", "no route to host"),
        "the builder could not reach the registry: check LXD's network, its NAT and DNS, and proxies",
    ),
    (
        ("unauthorized", "authentication required", "access to the resource is denied"),
        "log in to the registry: skopeo login HOST",
    ),
    (
        ("unpacked, the image takes more",),
        "if it really is that large, raise the setting image_size_limit, such as 20GiB; the storage pool needs room",
    ),
    (("no data from the registry",), "try again later, or raise the setting stall_timeout"),
    (
        ("more data than the image should have",),
        "the registry sent more than it announced: report it to its operator, or raise the setting image_size_limit",
    ),
)
# Of the ways in which a chown fails only this one.
_NO_SUCH_OWNER = re.compile(r"chown\b.*: invalid argument")


LOOK_AROUND = "run it again with --keep-builder to look around in the builder"


def explain(step: str, result: Result, argv: Sequence[str] = (), otherwise: str = LOOK_AROUND) -> BuildError:
    """A failed command's own words, ``argv`` if it is known, and what to do: about one of the usual failures, or
    ``otherwise``.
    """
    # Only what the failing step said, and without a Go program's stack: what went wrong stands before that.
    said = (result.stderr.rpartition(STEP)[2].strip() or result.stdout.strip()).partition(GO_STACK)[0].strip()[-2000:]
    if result.status in {137, -9}:
        said = f"{said} ({KILLED})" if said else KILLED
    resolution = remedy(said, _USUAL_FAILURES, otherwise)
    if _NO_SUCH_OWNER.search(said):
        resolution = (
            "the image has owners beyond the ids of LXD's containers: enlarge root's ranges in /etc/subuid and "
            "/etc/subgid, then restart LXD"
        )
    return BuildError(f"{step} failed", with_command(said or f"exit status {result.status}", argv), resolution)


def with_command(details: str, argv: Sequence[str]) -> str:
    """The details of a BuildError, and the command that failed, as a shell reads it."""
    return f"{details}\ncommand: {log.hidden(log.shell(argv))}" if argv else details


def _loopback_device(address: Address) -> Mapping[str, str]:
    """The same address, in the builder and on this host."""
    host, port = address
    place = f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
    return {"type": "proxy", "bind": "instance", "listen": place, "connect": place}


def is_alive(mark: str, made: datetime | None = None) -> bool:
    """Whether the process that owner() named may still run. One that can't be seen from here, since it is on another
    host, in another PID namespace or hidden by /proc (hidepid, proc(5)), is taken to for a day. ``made``: when it left
    the mark.
    """
    try:
        words = mark.split()
        # Before LXDs of other hosts could be used, marks named no host.
        boot, pid, start, namespace, host = [*words, host_id()] if len(words) == FORMER_WORDS else words
        int(pid), int(start), int(namespace)
        if host != host_id():
            return made is None or (datetime.now(UTC) - made).total_seconds() < DAY_SECONDS
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(start) / os.sysconf("SC_CLK_TCK")
        if boot != _boot_id():
            return False
        if namespace == _pid_namespace() and not _is_hidden(int(pid)):
            return start == _start_time(int(pid))
    except (ValueError, OverflowError, OSError):
        return False
    return age < DAY_SECONDS


def _is_hidden(pid: int) -> bool:
    if exists(Path(f"/proc/{pid}")):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat (proc(5)): clock ticks after boot. Raises OSError for no such process."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[19]
