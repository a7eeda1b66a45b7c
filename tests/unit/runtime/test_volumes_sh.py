"""Volumes are filled once, whole, and only where they are empty; by busybox in a root of its own."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import urllib.parse
from pathlib import Path

import pytest

from lxdocker.config.spec import Behaviour
from lxdocker.runtime import render
from lxdocker.source.oci import OciConfig
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces

START = "LXDOCKER_SOURCE_ONLY=1\n. /sbin/init\n. /lxd-image\nread_instance_settings /lxd-instance\n"
FILL = "fill_volumes\n"
# As with LXD's AppArmor profile, which does not let the root be bound.
CONFINED = """#!/busybox-lxd sh
[ "$1 $2 $3 $4" != "mount -o bind /" ] || exit 1
exec /busybox-lxd "$@"
"""
IMPATIENT = "_stale_seconds=1\nfill_volumes\n"
WAITING = "lxdocker: waiting for another instance, which is filling the volume at /data\n"
MARK, CLAIM = ".lxdocker-filling", ".lxdocker-claim"


class Instance:
    """An instance with a volume at /data, where the image has two files."""

    def __init__(self, path: Path, behaviour: Behaviour | None = None) -> None:
        self.root = Root.make(path / "root")
        self.root.write("/data/one", "1", 0o600)
        self.root.write("/data/below/two", "2")
        subprocess.run(["tar", "-xpC", self.root.path], input=render.runtime_tar(0), check=True, timeout=30)
        (self.root / "lxd-image").write_bytes(render.render_config(OciConfig(), behaviour or Behaviour()))
        (self.root / "sbin").mkdir()
        (self.root / "init").rename(self.root / "sbin/init")
        self.settings("/data")
        self.start = START
        self.volume = path / "volume"
        self.volume.mkdir(mode=0o711)

    def confine(self) -> None:
        """From now on."""
        self.root.write("/confined", CONFINED, 0o755)
        self.start = START + "_bb=/confined\n"

    def settings(self, *paths: str, **more: str) -> None:
        named = {f"user.lxdocker.{name}": value for name, value in more.items()}
        values = {"disks": "".join(f"{path}\n" for path in paths), **named}
        self.root.write(
            "/lxd-instance", "".join(f"{name}={urllib.parse.quote(value)}\n" for name, value in values.items())
        )

    def run(self, script: str, before: str) -> subprocess.CompletedProcess[str]:
        mount = f"mount --bind {self.volume} data; {before}"
        return self.root.run("/busybox-lxd", "sh", "-c", script, before=mount)

    def fill(self, before: str = "", script: str = IMPATIENT) -> str:
        """What is said."""
        done = self.run(self.start + script, before)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def held(self) -> set[str]:
        return {path.relative_to(self.volume).as_posix() for path in self.volume.rglob("*")}


FILLED = {"one", "below", "below/two"}


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(tmp_path)


@pytest.mark.parametrize("confined", [False, True])
def test_an_empty_volume_is_filled(instance: Instance, confined: bool) -> None:
    if confined:
        instance.confine()
    (instance.root / "data").chmod(0o2750)
    (instance.volume / "lost+found").mkdir()
    assert instance.fill() == ""
    assert instance.held() == {*FILLED, "lost+found"}
    assert (instance.volume / "one").stat().st_mode & 0o7777 == 0o600
    assert instance.volume.stat().st_mode & 0o7777 == 0o2750
    assert instance.volume.stat().st_mtime == int((instance.root / "data").stat().st_mtime)
    # Once.
    (instance.volume / "one").unlink()
    assert instance.fill() == ""
    assert instance.held() == {*FILLED, "lost+found"} - {"one"}


@pytest.mark.parametrize("name", ["file", ".hidden", "lost+found2", "folder/", "new\nline", CLAIM + "x"])
def test_what_a_volume_holds_stays_alone(instance: Instance, name: str) -> None:
    if name.endswith("/"):
        (instance.volume / name).mkdir()
    else:
        (instance.volume / name).write_text("mine")
    assert instance.fill() == ""
    assert instance.held() == {name.rstrip("/")}
    assert instance.volume.stat().st_mode & 0o7777 == 0o711


@pytest.mark.parametrize("how", ["setting", "spec"])
def test_it_can_be_switched_off(tmp_path: Path, how: str) -> None:
    instance = Instance(tmp_path, Behaviour(fill_volumes=how != "spec"))
    if how == "setting":
        instance.settings("/data", fill_volumes="false")
    instance.fill()
    assert instance.held() == set()
    instance.settings("/data", fill_volumes="true")
    instance.fill()
    assert instance.held() == FILLED


def test_a_read_only_volume_and_a_folder_of_the_hosts_stay_as_they_are(instance: Instance) -> None:
    assert instance.fill(before="mount -o remount,bind,ro data") == ""
    assert instance.held() == set()
    instance.settings()  # LXD knows of no volume there
    assert instance.fill() == ""
    assert instance.held() == set()


def test_what_is_not_mounted_is_nothing_to_fill(instance: Instance) -> None:
    instance.settings("/data", "/sbin", "/", "", "nowhere", "/lxd-image", "*", "$(touch /canary)")
    assert instance.fill() == ""
    assert instance.held() == FILLED
    assert not (instance.root / "canary").exists()


@pytest.mark.parametrize("path", ["data", "//data/", "/data/../data/.", "/a b/c", "/etc/é\\'"])
def test_a_path_may_be_written_in_many_ways(instance: Instance, path: str) -> None:
    instance.settings(path)
    before = ""
    if "data" not in path:
        (instance.root / "data").rename(instance.root / "moved")
        (instance.root / path).parent.mkdir(exist_ok=True)
        (instance.root / "moved").rename(instance.root / path)
        (instance.root / "data").mkdir()
        before = f'mount --bind {instance.volume} "./{path}"'
    assert instance.fill(before) == ""
    assert instance.held() == FILLED


# ---- what is cut short


def test_a_copy_that_was_cut_short_is_begun_again(instance: Instance) -> None:
    (instance.volume / MARK).touch(0o600)
    (instance.volume / "one").write_text("half of i")
    (instance.volume / "stale").mkdir()
    assert instance.fill() == "lxdocker: the volume at /data was only partly filled; starting over\n"
    assert instance.held() == FILLED
    assert (instance.volume / "one").read_text() == "1"


@pytest.mark.parametrize("after", ["cp", "setsid", "find", "touch", "sync", "mkfifo", "rm"])
def test_wherever_it_is_cut_short(instance: Instance, after: str) -> None:
    """PID 1 is killed where it would run one of its programs: nothing but the mark may be between that and the end."""
    wrapper = f'#!/busybox-lxd sh\n[ "$1" != {after} ] || /busybox-lxd kill -KILL $PPID\nexec /busybox-lxd "$@"\n'
    instance.root.write("/wrapper", wrapper, 0o755)
    # In a shell of its own, since nothing can kill PID 1.
    script = f'{START}_bb=/wrapper\n(/busybox-lxd sh -c "$1")\n'
    inner = f"{START}_bb=/wrapper\nfill_volumes\n"
    mount = f"mount --bind {instance.volume} data"
    instance.root.run("/busybox-lxd", "sh", "-c", script, "sh", inner, before=mount)
    assert instance.held() != FILLED or after == "touch"
    instance.fill()
    assert instance.held() == FILLED


def test_a_claim_that_nobody_has_any_more_is_no_hindrance(instance: Instance) -> None:
    (instance.volume / CLAIM).touch(0o600)
    assert instance.fill() == ""
    assert instance.held() == FILLED


def test_the_marks_end_is_on_disk_before_the_application_starts(instance: Instance) -> None:
    """A power failure must not bring it back: the next start would delete what the application has written."""
    instance.root.write("/wrapper", '#!/busybox-lxd sh\necho "$*" >>/dev/ran\nexec /busybox-lxd "$@"\n', 0o755)
    ran = instance.fill(script=f"_bb=/wrapper\n{FILL}/busybox-lxd cat /dev/ran").splitlines()
    removed = ran.index(f"rm -f /dev/.lxd-volume/{MARK}")
    synced = [number for number, command in enumerate(ran) if command == "sync -f /dev/.lxd-volume"]
    assert min(synced) < removed < max(synced)


def test_the_claim_of_an_instance_that_was_killed_does_not_stay_beside_files(instance: Instance) -> None:
    os.mkfifo(instance.volume / CLAIM, 0o600)
    (instance.volume / "mine").touch()
    assert instance.fill() == ""
    assert instance.held() == {"mine"}


def test_a_frozen_instance_that_fills_it_is_waited_for(instance: Instance) -> None:
    """It would go on after it was thawed."""
    os.mkfifo(instance.volume / CLAIM, 0o600)
    (instance.volume / MARK).touch(0o600)
    other = (
        f"{{ sleep 6; echo whole >{instance.volume}/theirs; rm {instance.volume / CLAIM} {instance.volume / MARK}; }} "
        f"9<>{instance.volume / CLAIM} &"
    )
    assert instance.fill(other) == WAITING
    assert instance.held() == {"theirs"}


def test_instances_that_find_a_copy_cut_short_at_the_same_time(instance: Instance) -> None:
    os.mkfifo(instance.volume / CLAIM, 0o600)
    (instance.volume / MARK).touch(0o600)
    (instance.volume / "one").write_text("half of i")
    # Copying takes longer than it takes the others to lose patience.
    slow = '#!/busybox-lxd sh\n[ "$1" != cp ] || /busybox-lxd sleep 3\nexec /busybox-lxd "$@"\n'
    instance.root.write("/slow", slow, 0o755)
    script = f"_bb=/slow\n{IMPATIENT}echo filled\n"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _: instance.fill(script=script), range(4)))
    assert all(one.endswith("filled\n") for one in said)
    assert "".join(said).count("only partly filled; starting over") == 1
    assert instance.held() == FILLED


def test_a_claim_that_goes_while_it_is_looked_at_leaves_no_file(instance: Instance) -> None:
    """Another instance has just filled the volume."""
    os.mkfifo(instance.volume / CLAIM, 0o600)
    (instance.volume / MARK).touch(0o600)
    gone = f"rm -f /data/{CLAIM} /data/{MARK}; echo whole >/data/theirs"
    done = f'#!/busybox-lxd sh\n[ "$1" != timeout ] || {{ PATH=/b; {gone}; }}\nexec /busybox-lxd "$@"\n'
    instance.root.write("/late", done.replace("rm -f", "/busybox-lxd rm -f"), 0o755)
    assert instance.fill(script=f"_bb=/late\n{IMPATIENT}") in {"", WAITING}
    assert instance.held() == {"theirs"}


def test_a_process_that_has_not_ended_yet_hinders_nothing(instance: Instance) -> None:
    """One that was killed may still be about to end."""
    busy = '#!/busybox-lxd sh\n[ "$1" != cp ] || (cd /dev/.lxd-volume && /busybox-lxd sleep 3) >/dev/null 2>&1 &\n'
    instance.root.write("/busy", f'{busy}exec /busybox-lxd "$@"\n', 0o755)
    last = "echo status $?\n/busybox-lxd grep lxd-volume /proc/mounts | /busybox-lxd wc -l\n"
    assert instance.fill(script=f"_bb=/busy\n{FILL}{last}") == "status 0\n0\n"
    assert instance.held() == FILLED


def test_another_instance_that_fills_it_is_waited_for(instance: Instance) -> None:
    (instance.volume / MARK).touch(0o600)
    (instance.volume / "theirs").touch()
    mark = instance.volume / MARK
    other = f"{{ for n in 1 2 3 4 5 6 7; do sleep 1; touch {mark}; done; rm {mark}; }} &"
    assert instance.fill(other, FILL) == ""
    assert instance.held() == {"theirs"}


def test_a_file_of_that_name_that_is_not_roots_is_any_file(instance: Instance) -> None:
    for mode, target in ((0o644, None), (0o600, "/etc/passwd")):
        mark = instance.volume / MARK
        if target:
            mark.unlink()
            mark.symlink_to(target)
        else:
            mark.touch(mode)
        (instance.volume / "mine").touch()
        assert instance.fill() == ""
        assert instance.held() == {MARK, "mine"}


def test_a_volume_that_is_too_small_stays_empty_and_stops_the_start(instance: Instance) -> None:
    instance.root.write("/data/large", b"x" * 2_000_000)
    done = instance.root.run(
        *("/busybox-lxd", "sh", "-c", instance.start + FILL + "echo going on"),
        before="mount -t tmpfs -o size=1m tmpfs data",
        after="find data -mindepth 1",
    )
    assert done.returncode == 125
    assert done.stdout.startswith("lxdocker: the volume at /data can't be filled with the image's files: ")
    assert "No space left on device" in done.stdout
    assert len(done.stdout.splitlines()) == 1, done.stdout


# ---- one below another


@pytest.mark.parametrize("confined", [False, True])
def test_volumes_below_volumes_get_their_own(instance: Instance, tmp_path: Path, confined: bool) -> None:
    if confined:
        instance.confine()
    inner = tmp_path / "inner"
    inner.mkdir()
    # What LXD makes to mount on.
    (instance.volume / "below/deep").mkdir(parents=True)
    instance.root.write("/data/below/deep/three", "3")
    instance.settings("/data/below/deep", "/data")
    mount = f"mount --bind {inner} data/below/deep"
    assert instance.fill(mount) == ""
    assert instance.held() == {*FILLED, "below/deep", "below/deep/three"}
    assert {path.name for path in inner.iterdir()} == {"three"}
    # The folders alone would not have hindered it; anything beside them does.
    for path in (instance.volume / "one", instance.volume / "below/two", inner / "three"):
        path.unlink()
    (instance.volume / "below/deep/three").unlink()
    (instance.volume / "below/mine").touch()
    assert instance.fill(mount) == ""
    assert instance.held() == {"below", "below/deep", "below/mine"}
    assert {path.name for path in inner.iterdir()} == {"three"}


@pytest.mark.parametrize("confined", [False, True])
def test_a_link_in_the_image_leads_nowhere(instance: Instance, tmp_path: Path, confined: bool) -> None:
    """Where the volume above has another folder in the link's place."""
    if confined:
        instance.confine()
    inner = tmp_path / "inner"
    inner.mkdir()
    (instance.volume / "link").mkdir()
    (instance.root / "data/link").symlink_to("/sbin")
    instance.settings("/data/link")
    assert instance.fill(f"mount --bind {inner} data/link") == ""
    assert list(inner.iterdir()) == []
    assert inner.stat().st_mode & 0o7777 == 0o755


def test_what_was_unmounted_is_back(instance: Instance, tmp_path: Path) -> None:
    """A volume below a folder of the host's, itself mounted twice, with something mounted below the volume."""
    instance.confine()
    inner, host = tmp_path / "inner", tmp_path / "host"
    for folder in (inner, host / "below"):
        folder.mkdir(parents=True)
    instance.settings("/data/below")
    mounts = (
        f"mount --bind {host} data; mount --bind {host} data; mount --bind {inner} data/below; mkdir data/below/tmp; "
    )
    mounts += "mount -t tmpfs tmpfs data/below/tmp; : >data/below/file; mount --bind -o ro data/two data/below/file"
    (host / "two").touch()
    look = '"$_bb" cut -d" " -f3-6 /proc/self/mountinfo | "$_bb" grep " /data"\n'
    script = f'{look} >/dev/was; fill_volumes; {look} >/dev/is; "$_bb" cmp /dev/was /dev/is && "$_bb" ls /dev'
    assert "lxd" not in instance.fill(mounts, script.replace("\n", ""))
    assert {path.name for path in inner.iterdir()} == {"two", "tmp", "file"}
