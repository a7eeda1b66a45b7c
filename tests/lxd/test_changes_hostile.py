"""Changes of images that are hostile: what a command in one reaches, what it can use up, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import stat
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lxd.rig import (
    BUILDER_PROJECT,
    Done,
    Lxc,
    World,
    builders,
    end_of_builders,
    entry,
    image,
    layer,
    left_in_cache,
    symlink,
    tiny,
    unsquash,
)
from tests.lxd.test_faults import small_pool, unsteady
from tests.registry_server import Handler, Image

SH = ("/busybox-lxd", "sh", "-c")  # in an image without a shell
SECRET = "hostile-secret-5e8b"  # noqa: S105 - of this test
DOCKER_HAS = "00000000a80425fb"  # the capabilities of a command in a build
LAYER = layer(entry("layered", "x"), entry("srv/out/layered", "x"))
# Of a builder, and never of an image.
BUILDERS_OWN = "run/build/build.sh"

# Tries to get out by all that a command is given; tells in the image what it has reached.
ATTACK = r"""
bb=/busybox-lxd own=$1
[ -n "$OURS" ] || OURS=process-of-attack exec "$bb" sh "$0" "$@"
exec 2>/dev/null
tell() { echo "$@" >>/report; }
reach() { if [ -e "$1/$own" ] || [ -d "$1/cache/blobs" ]; then tell "out: $1"; fi; }
try() { if "$bb" "$@"; then tell "may: $*"; fi; }

tell "folder: $("$bb" pwd)"
reach .
cd / && cd ../../../.. && reach .
for process in /proc/[0-9]* /proc/self; do
	for link in root cwd; do reach "$process/$link"; done
	"$bb" grep -q OURS=process-of-attack "$process/environ" || for file in environ mem auxv maps; do
		"$bb" dd if="$process/$file" bs=1 count=1 of=/dev/null && tell "reads: $process/$file"
	done
	"$bb" ls "$process/fd/" | while read -r number; do reach "$process/fd/$number"; done
done
"$bb" nsenter -t 1 -m "$bb" test -e "/$own" && tell "out: nsenter"
"$bb" mkdir -p /jail/mnt /jail/tmp && "$bb" cp "$bb" /jail/busybox-lxd
"$bb" chroot /jail /busybox-lxd sh -c 'cd ../../.. && [ -e "$1" ]' sh "$own" && tell "out: chroot"
try mount -t tmpfs none /jail/mnt
try mount --bind / /jail/mnt
try mount -t proc proc /jail/mnt
try mount -o remount,rw /
try umount -l /proc
try umount -l /dev
try umount -l /etc/hosts
try mknod /jail/disk b 8 0
try mknod /jail/memory c 1 1
try swapoff -a
for file in kernel/core_pattern kernel/modprobe vm/drop_caches fs/suid_dumpable kernel/hostname; do
	echo 1 >"/proc/sys/$file" && tell "writes: $file"
done
echo h >/proc/sysrq-trigger && tell "writes: sysrq-trigger"
for name in /sys/* /cache /dev/lxd /dev/lxdocker* /dev/.secrets /dev/.lxd* /dev/sd* /build; do
	[ ! -e "$name" ] || tell "sees: $name"
done
"$bb" nc -w 1 127.0.0.1 "$2" </dev/null && tell "connects: $2"
tell "interfaces: $("$bb" ls /proc/self/net/dev >/dev/null && "$bb" grep -c : /proc/self/net/dev)"
tell "capabilities: $("$bb" sed -n 's/^Cap\(Inh\|Prm\|Eff\|Bnd\|Amb\):.//p' /proc/self/status | "$bb" tr '\n' ' ')"

# What a later command must not meet, and what must not be in the image.
for words in "sleep 60" "yes"; do "$bb" setsid "$bb" sh -c "trap '' TERM HUP INT; ($words >/dev/null 2>&1 &) &"; done
"$bb" setsid "$bb" sh -c 'while :; do echo alive >/alive; done' &
"$bb" rm -f /etc/resolv.conf /etc/hosts
echo evil >/etc/resolv.conf
echo evil >/etc/hosts
"$bb" mv /etc/hosts /etc/hosts.moved
"$bb" mkdir -p /tmp/deep/er "/tmp/new
line" && echo x >/tmp/deep/er/file && "$bb" mkfifo /tmp/fifo /run/fifo && "$bb" ln -s /etc /tmp/link
"$bb" mknod /jail/whiteout c 0 0
"$bb" mv /var /variable && "$bb" ln -s /proc/1/root /var
"$bb" cp "$bb" /setuid && "$bb" chmod 4755 /setuid
"$bb" dd if=/dev/null of=/sparse bs=1M seek=4100 count=0
# The next command's way in.
for name in /lxd-gosu /busybox-lxd; do "$bb" rm -f "$name.old"; done
"$bb" cp "$bb" /jail/kept
/jail/kept rm -rf /lxd-gosu /dev /proc /sys
/jail/kept ln -s /jail/kept /lxd-gosu
/jail/kept rm -f /busybox-lxd
/jail/kept ln -s /no/such/thing /busybox-lxd
exit 0
"""
# With what a build tells lxdocker on its own.
NOISE = (
    "printf 'squashfs 5\\nphase pack\\n\\014failed x\\n\\033[31mred\\302\\2331m\\r\\nsaid x\\n'; "
    "/busybox-lxd yes | /busybox-lxd head -c 5000000; /busybox-lxd head -c 3000000 /dev/zero | /busybox-lxd tr '\\0' x"
)
SECOND = (
    "for process in /proc/[0-9]*; do [ ! -e $process/exe ] || echo $process; done >/second; "
    '/busybox-lxd grep -c "$(/busybox-lxd cat /run/secrets/token)" /run/secrets/token >>/second; '
    "for file in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do "
    "/busybox-lxd grep -q 'hostile-secre[t]-' $file && echo told: $file; done >>/second 2>/dev/null; true"
)
LAST = "kill -9 1; kill -9 -1; echo x >/last"  # by the shell itself, which is spared


def hostile(*more: tuple[tarfile.TarInfo, bytes], **config: Any) -> Image:
    """An image whose links lead elsewhere wherever a builder may write."""
    return image(
        layer(
            entry("etc"),
            entry("etc/passwd", "root:x:0:0::/:/bin/sh\n" + "x" * 60_000 + "\napp\n:0:0:x\napp:x:1234:99::/:\n"),
            entry("attack", ATTACK),
            entry("srv"),
            symlink("srv/out", "../../../../../../run/build"),
            symlink("srv/process", "/proc/1/root/srv"),
            entry("srv/new\nline\x1b[31m", "x"),
            symlink("tmp", "/etc"),
            symlink("sys", "/etc"),
            entry("var"),
            symlink("var/tmp", "../../../run"),
            entry("run"),
            symlink("run/secrets", "/"),
            symlink("etc/resolv.conf", "/proc/1/root/etc/resolv.conf"),
            entry("etc/hosts", b"", type=tarfile.FIFOTYPE),
            symlink("busybox-lxd", "/proc/self/exe"),
            entry("lxd-gosu"),
            entry("lxd-gosu/file", "x"),
            *more,
        ),
        **config,
    )


def attack(registry: str) -> list[Any]:
    return [*("/busybox-lxd", "sh", "/attack", BUILDERS_OWN), registry.rpartition(":")[2]]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "token"
    path.write_text(SECRET)
    return path


@pytest.fixture(scope="module")
def attacked(shared_world: World, registry: str, token: Path) -> tuple[World, Done]:
    """A world with an image that has tried all."""
    world = shared_world
    world.wants(
        "app",
        hostile(WorkingDir="/srv"),
        files={
            "/srv/out/scripts/file": {"content": "inside"},
            "/srv/owned": {"content": "x", "owner": "app"},
        },
        run=[
            [*SH, NOISE],
            attack(registry),
            {"command": [*SH, SECOND], "secrets": {"token": str(token)}},
            [*SH, LAST],
        ],
        layers=[{"path": "layer.tar", "sha256": hashlib.sha256(LAYER).hexdigest()}],
    )
    log = world.folder / "log"
    (world.specs / "layer.tar").write_bytes(LAYER)
    done = world.run("sync", "--json", "-vv", environment={"LXDOCKER_LOG": str(log)})
    end_of_builders()
    return world, done


@pytest.fixture(scope="module")
def root(attacked: tuple[World, Done], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unsquash(attacked[0].rootfs("app"), tmp_path_factory.mktemp("attacked") / "root")


def told(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (root / "report").read_text().splitlines():
        word, _, rest = line.partition(": ")
        found.setdefault(word, []).append(rest.strip())
    return found


@pytest.mark.any_lxd
def test_a_command_reaches_nothing_but_its_image(root: Path) -> None:
    report = told(root)
    assert report.pop("capabilities") == [" ".join(["0" * 16, DOCKER_HAS, DOCKER_HAS, DOCKER_HAS, "0" * 16])]
    assert report.pop("interfaces") == ["1"]
    assert report.pop("folder")
    assert report == {}


@pytest.mark.any_lxd
def test_nothing_that_it_leaves_runs_on_or_is_in_the_way(root: Path) -> None:
    # The next command sees itself, its shell's parent and nothing else; its secret, in no process's words.
    second = (root / "second").read_text().splitlines()
    assert second[-1] == "1"
    assert len(second) <= 3
    assert (root / "last").read_text() == "x\n"
    resolver = root / "etc/resolv.conf"
    assert not resolver.is_symlink()
    assert "evil" not in resolver.read_text()
    assert (root / "srv/owned").stat().st_uid == 1234
    # A link that leads out leads to the same path inside.
    assert (root / "run/build/scripts/file").read_text() == "inside"
    assert (root / "run/build/layered").exists() or (root / "srv/out/layered").exists()
    assert (root / "setuid").stat().st_mode & stat.S_ISUID
    assert (root / "sparse").stat().st_size == 4100 << 20


@pytest.mark.any_lxd
def test_a_secret_is_nowhere(attacked: tuple[World, Done], root: Path) -> None:
    world, done = attacked
    log = (world.folder / "log").read_text()
    properties = json.dumps(list(world.lxc.images().values()))
    assert not [text for text in (done.out, done.err, log, properties) if SECRET in text]
    for path in root.rglob("*"):
        if not path.is_symlink() and path.is_file() and path.name != "sparse":
            assert SECRET.encode() not in path.read_bytes(), path
    for path in world.tree.rglob("lxdocker.json"):
        assert SECRET not in path.read_text()


@pytest.mark.any_lxd
def test_what_it_prints_is_shown_as_text(attacked: tuple[World, Done]) -> None:
    shown = attacked[1].err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert len(shown) < 3_000_000


# In place of a builder's busybox, as if its LXD had AppArmor forbid what it does not know.
NO_NEW_PROC = """#!/busybox-real sh
[ "$1 $2 $3" != "mount -t proc" ] || exit 1
[ "$1 $2" != "cp /bin/busybox" ] || { shift 2; exec /busybox-real cp /busybox-real "$@"; }
exec /busybox-real "$@"
"""


@pytest.mark.any_lxd
def test_a_builder_whose_proc_must_be_shared(world: World, tmp_path: Path) -> None:
    """Where LXD lets none mount a new one, the builder's is seen, and with it all of its processes."""
    counting = "kill -9 -1; /busybox-lxd ls -d /proc/[0-9]* | /busybox-lxd wc -l >/count"
    commands = [attack(world.registry), [*SH, counting]]
    with sharing_proc(hostile(entry("unknown", uuid.uuid4().hex))) as reference:
        world.spec("app", reference, run=commands)
        assert world.sync().statuses == {"app": "built"}
    root = unsquash(world.rootfs("app"), tmp_path / "root")
    assert int((root / "count").read_text()) > 5
    report = told(root)
    assert set(report) == {"capabilities", "interfaces", "folder"}

    # As a working directory that is a way out for none but the builder's root.
    with sharing_proc(hostile(entry("unknown", uuid.uuid4().hex), WorkingDir="/proc/1/root")) as reference:
        world.spec("app", reference, run=commands)
        assert "/proc/1/root" in world.sync(expect=1).error("app")


@contextmanager
def sharing_proc(made: Image) -> Iterator[str]:
    """The image, of layers that no cache has, in a registry that sends these when the builder can mount no /proc."""

    def blob(handler: Handler, _: int) -> None:
        (name,) = builders()
        script = "cat >/new; chmod 755 /new; cp /bin/busybox /busybox-real; mv /new /bin/busybox"
        Lxc(BUILDER_PROJECT)("exec", name, "--", "/bin/busybox", "sh", "-euc", script, stdin=NO_NEW_PROC)
        handler.reply(200, made.layers[0].content)

    with unsteady(made, blob) as reference:
        yield reference


# ---- what it can use up

GREEDY = {
    # Where all processes are taken, nothing else could look at the time, or at the disk.
    "bomb": (
        {"command": [*SH, "(while :; do /busybox-lxd sleep 100 & done) & exec /busybox-lxd sleep 100"], "timeout": 100},
        "it leaves no processes",
    ),
    "deaf": (
        {
            "command": [*SH, "trap '' TERM HUP INT; /busybox-lxd setsid /busybox-lxd sleep 100 & while :; do :; done"],
            "timeout": 2,
        },
        "it took longer than 2 s",
    ),
    "yes": ({"command": ["/busybox-lxd", "yes"], "timeout": 2}, "it took longer than 2 s"),
    "line": ({"command": ["/busybox-lxd", "cat", "/dev/zero"], "timeout": 2}, "it took longer than 2 s"),
    "names": (
        {
            "command": [
                *SH,
                'while :; do i=$((i + 1)); /busybox-lxd mkdir "/$i"; cd "/$i"; '
                "/busybox-lxd seq 1000 | /busybox-lxd xargs /busybox-lxd touch; done",
            ],
            "timeout": 100,
        },
        "the image grows beyond 64 MiB",
    ),
    "bytes": (
        {
            "command": [
                *SH,
                'while :; do i=$((i + 1)); /busybox-lxd dd if=/dev/zero of="/$i" bs=1M count=8; '
                "/busybox-lxd usleep 100000; done",
            ],
            "timeout": 100,
        },
        "the image grows beyond 64 MiB",
    ),
}


@pytest.mark.any_lxd
def test_a_command_takes_no_more_than_it_may(filled: World) -> None:
    held = filled.lxc.aliases()
    filled.settings["image_size_limit"] = "64MiB"
    reference = filled.push("greedy", tiny("greedy"))
    for name, (command, _) in GREEDY.items():
        filled.spec(name, reference, run=[command])
    done = filled.sync(expect=1)
    for name, (_, why) in GREEDY.items():
        assert why in done.error(name)
        assert "correct the command;" not in done.error(name)  # but what to do about this limit
    assert filled.lxc.aliases() == held
    assert left_in_cache() == set()


@pytest.mark.any_lxd
def test_a_full_disk_while_a_file_comes_or_a_command_writes(filled: World) -> None:
    held = filled.holdings()
    with (filled.specs / "large").open("wb") as large:
        large.truncate(150 << 20)
    filling = [*SH, "exec /busybox-lxd dd if=/dev/zero of=/file bs=1M"]
    with small_pool(120) as pool:
        filled.settings |= {"pool": pool, "builder_memory": "2GiB"}
        for keys in ({"files": {"/large": {"source": "large"}}}, {"run": [filling]}):
            filled.spec("app", filled.ref("app"), **keys)
            assert "space" in filled.sync(expect=1).error("app").lower()
    del filled.settings["pool"]
    assert filled.holdings() == held
    filled.spec("app", filled.ref("app"), run=[[*SH, "echo x >/file"]])
    assert filled.sync().statuses == {"app": "built"}


@pytest.mark.any_lxd
@pytest.mark.parametrize("moment", ["change", "run", "layers"])
def test_killed_while_it_is_changed(filled: World, tmp_path: Path, moment: str) -> None:
    held = filled.holdings()
    # The second one takes a while.
    layers = {"layer.tar": LAYER, "large.tar": layer(entry("srv/large", hashlib.shake_256(b"large").digest(1 << 24)))}
    for name, content in layers.items():
        (filled.specs / name).write_bytes(content)
    changes = {
        "files": {"/added": {"content": "x" * 1000}},
        "run": [[*SH, "/busybox-lxd sleep 1; echo x >/made"]],
        "layers": [{"path": name, "sha256": hashlib.sha256(one).hexdigest()} for name, one in layers.items()],
    }
    filled.spec("app", filled.ref("app"), **changes)
    with filled.start("sync", "--json") as run:
        run.wait_for(f"app: {moment}")
        run.signal(signal.SIGKILL)
        run.end()
    assert filled.holdings() == held
    assert filled.sync().statuses == {"app": "built"}
    root = unsquash(filled.rootfs("app"), tmp_path / "root")
    assert [(root / name).exists() for name in ("added", "made", "layered")] == [True] * 3
    assert left_in_cache() == set()
