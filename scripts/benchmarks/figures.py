"""The figures. To add one, write its function here: scripts/bench finds it by its decorator.

A function receives the place to measure in and returns its samples; their median is the figure. It raises
MeasurementError if the measured operation did not do what was expected.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import serving
from benchmarks.cluster import clustered
from benchmarks.place import SCRIPTS, Measured, MeasurementError, Place, Synced, say
from benchmarks.proxy import slow_proxy
from lxdocker.builder import placement
from lxdocker.builder.instance import Workshop
from lxdocker.builder.recipe import CONNECTED
from lxdocker.http.route import Route
from lxdocker.image import artifact
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.image.provenance import Provenance
from lxdocker.lxd.api import Lxd
from lxdocker.tree import simplestreams
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import SIDECAR
from lxdocker.values import Arch, Digest, ImageName

SHELL = ("/bin/busybox", "sh", "-c")
NOW = "2026-01-01T00:00:00+00:00"
Measure = Callable[[Place], Measured]


@dataclass(frozen=True)
class Figure:
    """A measurement, and its maximum."""

    name: str
    what: str
    unit: str
    target: float
    measure: Measure


FIGURES: dict[str, Figure] = {}


def figure(name: str, what: str, unit: str, target: float) -> Callable[[Measure], Measure]:
    """Registers a function as a figure."""

    def register(measure: Measure) -> Measure:
        FIGURES[name] = Figure(name, what, unit, target, measure)
        return measure

    return register


# ---- building


@figure("one-image", "cold sync of one image of 60 MB, against the same steps by hand", "x", 1.0)
def one_image(place: Place) -> Measured:
    return _cold(place, count=1, rounds=7)


@figure("ten-images", "cold sync of ten images of 60 MB, against the same steps by hand ten times", "x", 1.1)
def ten_images(place: Place) -> Measured:
    return _cold(place, count=10, rounds=3)


@figure("over-https", "cold sync of ten images of 60 MB over HTTPS, against the same over LXD's socket", "x", 1.15)
def over_https(place: Place) -> Measured:
    folder = place.folder("https")
    place.specs(folder, {f"usual-{number}": image for number, image in enumerate(place.images.usual(10))})
    _ = place.builder

    def cold(*options: str) -> float:
        place.forget(folder)
        return _built(place.sync(folder, "default", *options), 10)

    with place.trusted() as url:
        return _in_turn(place, "over the socket", cold, "over HTTPS", lambda: cold("--remote", url))


@figure("two-members", "sync of ten images of 60 MB on a cluster of two, against one of its members", "x", 1.15)
def two_members(place: Place) -> Measured:
    """Both members are on this machine, so this is what a cluster costs, not what it gains."""
    folder = place.folder("cluster")
    place.specs(folder, {f"usual-{number}": f"oci:{place.layouts / 'nginx'}" for number in range(10)})
    with clustered(place):
        place.make_builder()

        def on(target: str) -> float:
            place.settle_builders()
            os.environ["LXDOCKER_TARGET"] = target  # an empty one counts as none
            return _built(place.sync(folder, "default", "--force"), 10)

        try:
            return _in_turn(place, "on one member", lambda: on("one"), "on both", lambda: on(""))
        finally:
            del os.environ["LXDOCKER_TARGET"]


def _in_turn(
    place: Place, one: str, measure_one: Callable[[], float], other: str, measure_other: Callable[[], float]
) -> Measured:
    """Measures two ways of the same work, in turn. Returns the ratio of each pair."""
    seconds: dict[str, list[float]] = {one: [], other: []}

    def once(number: int) -> float:
        ways = [(one, measure_one), (other, measure_other)]
        for name, measure in ways if number % 2 else reversed(ways):
            seconds[name].append(measure())
        say(f"  {one} {seconds[one][-1]:.2f} s, {other} {seconds[other][-1]:.2f} s")
        return seconds[other][-1] / seconds[one][-1]

    once(0)  # with a cold page cache
    for samples in seconds.values():
        samples.clear()
    ratios = place.repeat(3, once)
    return Measured(ratios, f"{one} {_median(seconds[one]):.2f} s, {other} {_median(seconds[other]):.2f} s")


def _built(synced: Synced, count: int) -> float:
    _all_are(synced.statuses, "built", count)
    return synced.seconds


def _cold(place: Place, count: int, rounds: int) -> Measured:
    """Alternates whole runs of both, so that other load affects both. Returns the ratio of each pair."""
    references = {f"usual-{number}": image for number, image in enumerate(place.images.usual(count))}
    folder = place.folder("cold")
    place.specs(folder, references)
    by_lxdocker: list[float] = []
    by_hand: list[float] = []

    def once(number: int) -> float:
        for mine in (True, False) if number % 2 else (False, True):
            place.forget(folder)
            if mine:
                synced = place.sync(folder)
                _all_are(synced.statuses, "built", count)
                by_lxdocker.append(synced.seconds)
            else:
                steps = [place.by_hand(folder, image, f"hand-{name}") for name, image in references.items()]
                by_hand.append(sum(steps))
        say(f"  lxdocker {by_lxdocker[-1]:.2f} s, by hand {by_hand[-1]:.2f} s")
        return by_lxdocker[-1] / by_hand[-1]

    _ = place.builder
    # The first run of each starts with a cold page cache: neither programs nor the registry's files are in it.
    once(0)
    by_lxdocker.clear()
    by_hand.clear()
    samples = place.repeat(rounds, once)
    place.forget(folder)
    return Measured(samples, f"lxdocker {_median(by_lxdocker):.2f} s, by hand {_median(by_hand):.2f} s")


@figure("spec-change", "sync after a change of a spec, not of its image of 60 MB, against a cold sync", "x", 0.6)
def spec_change(place: Place) -> Measured:
    return _changed(place, {}, {"umask": "0027"})


@figure("changed-image", "the same where the spec changes the image, by a file and a command", "x", 0.8)
def changed_image(place: Place) -> Measured:
    before, after = (
        {"files": {"/etc/app.conf": {"content": text}}, "run": ["test -s /etc/app.conf"]} for text in ("one", "two")
    )
    return _changed(place, before, after)


def _changed(place: Place, before: Mapping[str, Any], after: Mapping[str, Any]) -> Measured:
    """Syncs a spec with the keys ``before``, cold, and then with ``after``. Returns the ratio of each pair."""
    (image,) = place.images.usual(1)
    folder = place.folder("changed")
    cold: list[float] = []
    changed: list[float] = []

    def once(_: int) -> float:
        place.forget(folder)
        for seconds, keys in ((cold, before), (changed, after)):
            place.specs(folder, {"usual": image}, **keys)
            synced = place.sync(folder)
            _all_are(synced.statuses, "built", 1)
            seconds.append(synced.seconds)
            place.settle_builders()
            place.settle()
        say(f"  cold {cold[-1]:.2f} s, changed {changed[-1]:.2f} s")
        return changed[-1] / cold[-1]

    _ = place.builder
    once(0)
    cold.clear()
    changed.clear()
    samples = place.repeat(5, once)
    place.forget(folder)
    return Measured(samples, f"cold {_median(cold):.2f} s, changed {_median(changed):.2f} s")


@figure("inspect-known", "`lxdocker inspect` of an image whose digest is known, its registry on this host", "s", 0.3)
def inspect_known(place: Place) -> Measured:
    (image,) = place.images.small(1)
    folder = place.folder("inspected")
    place.lxdocker(folder, "inspect", "--json", image)
    return Measured(place.repeat(15, lambda _: place.lxdocker(folder, "inspect", "--json", image)[0]))


@figure("start-dir", "a builder's start on a pool of driver dir, until a first command has run in it", "s", 0.4)
def start_dir(place: Place) -> Measured:
    return _start(place, "plain")


@figure("start-btrfs", "a builder's start on a pool of driver btrfs, until a first command has run in it", "s", 0.4)
def start_btrfs(place: Place) -> Measured:
    return _start(place, "default")


def _start(place: Place, pool: str) -> Measured:
    """Alternates with the equivalent commands: lxc launch, then lxc exec. Also measures the time until the network is
    up, which PID 1 requests while commands without network already run.
    """
    lxd = Lxd()
    placed = placement.prepare(lxd, replace(place.settings, pool=pool))
    image = place.builder.fingerprint
    running: list[float] = []
    connected: list[float] = []
    by_hand: list[float] = []

    def start() -> float:
        script = "echo runs\n" + CONNECTED.read_text()
        workshop = Workshop(lxd, placed, image)
        try:
            began = time.monotonic()
            with workshop.builder(Route(network=True)) as builder:
                running.append(time.monotonic() - began)
                argv = [*SHELL, script, "connected", "30", builder.way, "/bin/busybox", "echo", "connected"]
                with builder.running(argv, seconds=30) as (command, end):
                    output = command.output()
                    first = next(output)
                    seconds = time.monotonic() - began
                    said = first + b"".join(output)
                    connected.append(time.monotonic() - began)
                    if end().status != 0 or said != b"runs\nconnected\n":
                        raise MeasurementError(f"a builder's first command said {said!r}")
                return seconds
        finally:
            workshop.close()

    def launch() -> float:
        words = ["--project", placed.project, "--profile", placement.PROFILE, "--storage", pool]
        words += ["--network", lxd.bridges("default")[0], "--ephemeral"]
        seconds = place.timed("lxc", "launch", image.value, "by-hand", *words)
        seconds += place.timed("lxc", "exec", "--project", placed.project, "by-hand", "--", *SHELL, "echo runs")
        place.command("lxc", "delete", "--force", "--project", placed.project, "by-hand")
        return seconds

    def once(number: int) -> float:
        if number % 2:
            by_hand.append(launch())
            return start()
        seconds = start()
        by_hand.append(launch())
        return seconds

    # The first instance on a pool unpacks the image there.
    once(0)
    running.clear()
    connected.clear()
    by_hand.clear()
    place.settle()
    samples = place.repeat(9, once)
    typed = _median(by_hand)
    note = (
        f"LXD says after {_median(running):.2f} s that it runs, its network is there after {_median(connected):.2f} s"
    )
    return Measured(samples, f"{note}; lxc launch and lxc exec {typed:.2f} s, ratio {_median(samples) / typed:.2f}")


@figure("memory", "the most memory that lxdocker takes for an image of 1.5 GB", "MB", 120)
def memory(place: Place) -> Measured:
    folder = place.folder("memory")
    place.specs(folder, {"big": place.images.big(1_500_000_000)})
    _ = place.builder

    def once(_: int) -> float:
        place.forget(folder)
        synced = place.sync(folder)
        _all_are(synced.statuses, "built", 1)
        size = sum(path.stat().st_size for path in folder.glob("tree/images/*/*/*/rootfs.squashfs"))
        if size < 1_400_000_000:
            raise MeasurementError(f"the image is only {size} bytes")
        say(f"  {synced.peak:.0f} MB, {synced.seconds:.1f} s")
        return synced.peak

    samples = place.repeat(2, once)
    place.forget(folder)
    return Measured(samples)


# ---- running

# Runs first in both: records its start as the modification time of a file.
IDLE_SECONDS = 20
FIRST = "/busybox-lxd touch /started\nexec /busybox-lxd sleep 1000000\n"


@figure(
    "app-start", "from `lxc start` to the application's first instruction, beyond LXD's time for an init", "s", 0.15
)
def app_start(place: Place) -> Measured:
    """Alternates two instances of one image, on a bridge with DHCP; in one, the measured command is the init itself."""
    folder = place.folder("start")
    place.specs(folder, {"app-start": place.images.small(1)[0]})
    _ = place.builder
    place.forget(folder)
    _all_are(place.sync(folder).statuses, "built", 1)
    script = folder / "first.sh"
    script.write_text(FIRST)
    words = ["/busybox-lxd", "sh", "/first.sh"]
    settings = {
        "bench-app": f"user.lxdocker.entrypoint={json.dumps(words)}",
        "bench-init": f"raw.lxc=lxc.init.cmd = {' '.join(words)}",
    }
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    try:
        for name, setting in settings.items():
            place.command("lxc", "init", "app-start", name, "-c", setting)
            place.command("lxc", "file", "push", script, f"{name}/first.sh")
            _first_instruction(place, name)  # the first start also shifts the ID map

        def once(number: int) -> float:
            for name in sorted(settings, reverse=bool(number % 2)):
                seconds[name].append(_first_instruction(place, name))
            return seconds["bench-app"][-1] - seconds["bench-init"][-1]

        samples = place.repeat(9, once)
    finally:
        for name in settings:
            subprocess.run(["lxc", "delete", "--force", name], capture_output=True, timeout=60, check=False)
    app, init = _median(seconds["bench-app"]), _median(seconds["bench-init"])
    place.forget(folder)
    return Measured(samples, f"{app:.2f} s, LXD alone {init:.2f} s, ratio {app / init:.2f}")


def _first_instruction(place: Place, name: str) -> float:
    """Starts an instance, stops it, and returns the seconds until its command began."""
    started = place.pool / "containers" / name / "rootfs/started"
    began = time.time()
    place.command("lxc", "start", name)
    deadline = began + 20
    # LXD mounts only running instances, so the file is read now.
    while not started.exists() or started.stat().st_mtime < began - 0.01:
        if time.time() > deadline:
            raise MeasurementError(f"the command of {name} did not begin within 20 s")
        time.sleep(0.01)
    seconds = started.stat().st_mtime - began
    place.command("lxc", "stop", "--force", name)
    return seconds


@figure(
    "runtime-memory",
    "PID 1 and its helpers, idle, on a bridge with DHCP: their share of memory",
    "MB",
    3.0,
)
def runtime_memory(place: Place) -> Measured:
    def once(_: int) -> float:
        with _idle_runtime(place) as processes:
            texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes]
            return sum(int(text.split("\nPss:")[1].split()[0]) for text in texts) / 1024

    samples = place.repeat(3, once)
    return Measured(samples)


@figure("runtime-cpu", f"the same: time of a processor in {IDLE_SECONDS} s", "s", 0)
def runtime_cpu(place: Place) -> Measured:
    def once(_: int) -> float:
        with _idle_runtime(place) as processes:
            before = _processor_seconds(processes)
            time.sleep(IDLE_SECONDS)
            return _processor_seconds(processes) - before

    samples = place.repeat(3, once)
    return Measured(samples)


@contextlib.contextmanager
def _idle_runtime(place: Place) -> Iterator[list[int]]:
    """The host PIDs of the runtime processes of an instance that has settled."""
    folder = place.folder("idle")
    place.specs(folder, {"idle": place.images.small(1)[0]})
    _ = place.builder
    _all_are(place.sync(folder).statuses, "built", 1)
    words = json.dumps(["/busybox-lxd", "sleep", "1000000"])
    try:
        place.command("lxc", "launch", "idle", "bench-idle", "-c", f"user.lxdocker.entrypoint={words}")
        time.sleep(IDLE_SECONDS)
        first = int(json.loads(place.command("lxc", "query", "/1.0/instances/bench-idle/state"))["pid"])
        namespace = Path(f"/proc/{first}/ns/pid").readlink()
        yield [pid for pid in _pids() if _is_in(namespace, pid) and b"1000000" not in _words(pid)]
    finally:
        subprocess.run(["lxc", "delete", "--force", "bench-idle"], capture_output=True, timeout=60, check=False)
        place.forget(folder)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _is_in(namespace: Path, pid: int) -> bool:
    with contextlib.suppress(OSError):  # it may have ended
        return Path(f"/proc/{pid}/ns/pid").readlink() == namespace
    return False


def _words(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _processor_seconds(processes: list[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


# ---- looking at a host


@figure("doctor", "a look at a host with one image and a builder image", "s", 3.0)
def doctor(place: Place) -> Measured:
    """Whatever it finds: this machine has no timer, and perhaps more."""
    folder = place.folder("doctor")
    place.specs(folder, dict(zip(("usual",), place.images.usual(1), strict=True)))
    _ = place.builder
    _all_are(place.sync(folder).statuses, "built", 1)
    words = ("--specs", folder / "images.d", "--tree", folder / "tree")

    def once(_: int) -> float:
        seconds, _peak = place.lxdocker(folder, "doctor", "--json", *words, statuses=(0, 1))
        if not json.loads((folder / "out").read_text())["findings"]:
            raise MeasurementError("it found nothing, not even that there is no timer")
        return seconds

    once(0)
    return Measured(place.repeat(5, once))


# ---- publishing

PRODUCTS = 1000
MANY_PRODUCTS = 10_000
VERSIONS = 3


@figure(
    "publish", f"publishing an image of 60 MB into a tree of {PRODUCTS} products, its first look included", "s", 1.0
)
def publish_into_many(place: Place) -> Measured:
    return _publish(place, PRODUCTS, 7)


@figure("publish-10000", f"the same into a tree of {MANY_PRODUCTS} products", "s", 10.0)
def publish_into_very_many(place: Place) -> Measured:
    return _publish(place, MANY_PRODUCTS, 3)


def _publish(place: Place, products: int, rounds: int) -> Measured:
    root = place.folder("published")
    content = os.urandom(60_000_000)
    digest = Digest(f"sha256:{0:064x}")

    def publish(name: str, rootfs: bytes) -> float:
        """As in a process that has just started; ends when a client can see the version."""
        made = Provenance(ImageName(name), f"docker.io/library/{name}:1", digest, digest, digest, "0" * 64, "0", NOW)
        tree = Tree(root)
        with tree.lock(say, threading.Event()), tree.staging(made.name) as folder:
            finished = artifact.write(folder, b"metadata", [rootfs])
            began = time.monotonic()
            tree.versions()
            tree.publish(finished, made, Arch.X86_64, (f"{name}-alias",))
            return time.monotonic() - began

    publish("image", b"")
    _multiply(root / "images/image", products)
    Tree(root).versions()
    samples = place.repeat(rounds, lambda number: publish(f"image-{number}", content))
    index = (root / simplestreams.IMAGES_PATH).stat().st_size
    listed = len(json.loads((root / simplestreams.IMAGES_PATH).read_bytes())["products"])
    if listed != products + 1:
        raise MeasurementError(f"{listed} products are listed, not {products + 1}")
    return Measured(samples, f"{VERSIONS} versions each; images.json has {index / 1e6:.1f} MB")


def _multiply(product: Path, products: int) -> None:
    """Turns one product into many, all with the same files; the next publication lists them."""
    (first,) = product.glob("x86_64/*")
    sidecar = (first / SIDECAR).read_text()
    for number in range(products):
        for version in range(VERSIONS):
            folder = product.with_name(f"image-{number}") / "x86_64" / f"20260101_000{version}"
            folder.mkdir(parents=True)
            for file in (METADATA_FILE, ROOTFS_FILE):
                os.link(first / file, folder / file)
            (folder / SIDECAR).write_text(sidecar.replace('"image"', f'"image-{number}"'))


# ---- serving

SERVED_SIZE = 500_000_000
SLOW_CLIENTS = 200
# 0.7 of nginx's throughput is 1.43 times its time.
AS_FAST_AS_NGINX = 1 / 0.7


@figure("serve-1", "500 MB over TLS to one client, time against nginx's", "x", AS_FAST_AS_NGINX)
def serve_one(place: Place) -> Measured:
    return _served(place, clients=1, rounds=9)


@figure("serve-16", "500 MB over TLS to each of 16 clients at once, time against nginx's", "x", AS_FAST_AS_NGINX)
def serve_sixteen(place: Place) -> Measured:
    return _served(place, clients=16, rounds=3)


def _served(place: Place, clients: int, rounds: int) -> Measured:
    """Alternates both, so that other load affects both. Returns the ratio of each pair."""
    folder = place.folder("served")
    tree = serving.make_tree(folder, SERVED_SIZE, PRODUCTS)
    ours: list[float] = []
    theirs: list[float] = []
    with serving.lxdocker(folder, tree) as lxdocker, serving.nginx(folder, tree) as nginx:

        def once(number: int) -> float:
            for server, seconds in ((lxdocker, ours), (nginx, theirs))[:: 1 if number % 2 else -1]:
                seconds.append(serving.download(server, clients))
            return ours[-1] / theirs[-1]

        once(0)
        ours.clear()
        theirs.clear()
        samples = place.repeat(rounds, once)
    rates = [clients * SERVED_SIZE / 1e6 / _median(seconds) for seconds in (ours, theirs)]
    return Measured(samples, f"{rates[0]:.0f} MB/s, nginx {rates[1]:.0f} MB/s")


@figure("serve-304", "one of 8 clients' requests for an images.json that has not changed", "ms", 1)
def serve_unchanged(place: Place) -> Measured:
    folder = place.folder("served")
    tree = serving.make_tree(folder, 1_000_000, PRODUCTS)
    ours: list[float] = []
    theirs: list[float] = []
    with serving.lxdocker(folder, tree) as lxdocker, serving.nginx(folder, tree) as nginx:

        def once(_: int) -> float:
            ours.append(serving.unchanged_per_second(lxdocker, 20_000, 8))
            theirs.append(serving.unchanged_per_second(nginx, 20_000, 8))
            return 1000 / ours[-1]

        samples = place.repeat(3, once)
    return Measured(samples, f"{_median(ours):.0f} requests/s, nginx {_median(theirs):.0f}")


@figure("serve-memory", f"the server's memory under {SLOW_CLIENTS} slow clients of a 500 MB file", "MB", 150)
def serve_memory(place: Place) -> Measured:
    folder = place.folder("served")
    tree = serving.make_tree(folder, SERVED_SIZE, PRODUCTS)
    with serving.lxdocker(folder, tree) as lxdocker:
        before = lxdocker.memory
        samples = place.repeat(3, lambda _: serving.slow_clients(lxdocker, SLOW_CLIENTS, 10))
    return Measured(samples, f"{before:.0f} MB before")


# ---- nothing to do

UNCHANGED = 100
UNCHANGED_PROJECT = "unchanged"


@figure("unchanged", f"sync of {UNCHANGED} unchanged specs, registry on the loopback", "s", 1.5)
def unchanged(place: Place) -> Measured:
    folder = _hundred(place)
    return Measured(place.repeat(7, lambda _: _unchanged_seconds(place, folder)))


@figure("unchanged-far", f"sync of {UNCHANGED} unchanged specs, each answer of the registry 50 ms later", "s", 2.5)
def unchanged_far(place: Place) -> Measured:
    folder = _hundred(place)
    port = int(place.registry.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        behind = probe.getsockname()[1]
    registry: list[str | Path] = [SCRIPTS / "registry-up", "--dir", place.run / "registry", "--port"]
    # The proxy replaces the registry, at the address in the specs.
    place.command(*registry, str(behind))
    try:
        with slow_proxy(port, behind, 0.05):
            return Measured(place.repeat(7, lambda _: _unchanged_seconds(place, folder)))
    finally:
        place.command(*registry, str(port))


@figure("manifest-gets", f"manifests fetched from the registry by a sync of {UNCHANGED} unchanged specs", "", 0)
def manifest_gets(place: Place) -> Measured:
    folder = _hundred(place)
    log = place.run / "registry/registry.log"
    start = log.stat().st_size
    _unchanged_seconds(place, folder)
    time.sleep(0.5)  # the registry logs a request only after answering it
    with log.open("rb") as entries:
        entries.seek(start)
        methods = re.findall(rb'"([A-Z]+) /v2/\S+/manifests/', entries.read())
    if methods.count(b"HEAD") != UNCHANGED:
        raise MeasurementError(f"{methods.count(b'HEAD')} manifests asked for by HEAD, not {UNCHANGED}")
    return Measured([float(methods.count(b"GET"))], f"{UNCHANGED} by HEAD")


def _hundred(place: Place) -> Path:
    """Specs with all images built, once for all figures, then synced again to warm up."""
    folder = place.run / "work/unchanged"
    if not folder.exists():
        place.folder(folder.name)
        references = place.images.small(UNCHANGED)
        place.specs(folder, {f"small-{number}": image for number, image in enumerate(references)})
        _ = place.builder
        place.command("lxc", "project", "create", UNCHANGED_PROJECT, "-c", "features.profiles=false")
        say(f"  building {UNCHANGED} small images")
        synced = place.sync(folder, UNCHANGED_PROJECT)
        _all_are(synced.statuses, "built", UNCHANGED)
        say(f"  {synced.seconds:.1f} s")
    place.settle()
    _unchanged_seconds(place, folder)
    return folder


def _unchanged_seconds(place: Place, folder: Path) -> float:
    synced = place.sync(folder, UNCHANGED_PROJECT)
    _all_are(synced.statuses, "unchanged", UNCHANGED)
    return synced.seconds


def _all_are(statuses: object, status: str, count: int) -> None:
    if list(statuses if isinstance(statuses, list) else []) != [status] * count:
        raise MeasurementError(f"not {count} images {status}: {statuses}")


def _median(samples: list[float]) -> float:
    return Measured(samples).value
