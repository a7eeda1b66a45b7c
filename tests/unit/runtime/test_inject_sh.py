"""The runtime is put into any image, whatever its author made of it, and nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lxdocker.runtime import render
from tests.chroots import BUSYBOX, Root, needs_namespaces

pytestmark = needs_namespaces

EPOCH = 1_700_000_000
RUNTIME = render.runtime_tar(EPOCH)
INIT = render.INIT.read_bytes()
THEIRS = b"#!/bin/sh\nthe image's own init\n"


class Builder:
    """A builder's root filesystem, as far as injecting uses it, with an image's at /build/rootfs."""

    def __init__(self, path: Path) -> None:
        self.root = Root.make(path, "/bin/busybox")
        self.root.write("/usr/bin/gosu", b"gosu", 0o755)
        self.image = Root(path / "build/rootfs")
        self.image.path.mkdir(parents=True)

    def inject(self, made: Sequence[str] = ()) -> None:
        """``made``: what is made beside the image."""
        # What is older than this was made by unpacking; what comes with the layers is older still.
        for path in [self.image.path, *self.image.path.rglob("*")]:
            os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
        marker = self.root.write("/build/rootfs.marker")
        os.utime(marker, (time.time() - 1,) * 2)  # as the recipe makes it
        before = self.outside()
        done = self.root.run(
            *("/bin/busybox", "sh", "-c", render.INJECT.read_text(), "inject", "/build/rootfs", str(EPOCH)),
            stdin=RUNTIME,
        )
        assert done.returncode == 0, done.stderr
        after = {path: found for path, found in self.outside().items() if path not in made}
        assert after == before, "something was written outside of the image"

    def check(self) -> list[str]:
        """What is wrong with the image, as check.sh says it, after injection; each line is about one path."""
        before = self.root.contents()
        done = self.root.run("/bin/busybox", "sh", "-c", render.CHECK.read_text(), "check", "/build/rootfs")
        assert self.root.contents() == before
        assert done.returncode == (74 if done.stderr else 0)
        return done.stderr.splitlines()

    def outside(self) -> dict[str, object]:
        return {
            path: entry for path, entry in self.root.contents().items() if not f"{path}/".startswith("build/rootfs/")
        }

    def links(self) -> dict[str, str]:
        return {name: str(entry[2]) for name, entry in self.image.contents().items() if entry[0] == "link"}


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    made = Builder(tmp_path / "builder")
    for folder in ("etc", "sbin", "usr/sbin", "bin"):  # of the builder itself, where a link must not lead
        made.root.write(f"/{folder}/canary", "the builder's")
    return made


def resolved(image: Root, inside: str) -> Path:
    """The file at a path, following links as a process in the image would."""
    script = '/busybox-lxd realpath "$1"'
    done = image.sh(script, inside)
    assert done.returncode == 0, done.stderr
    return image / done.stdout.strip()


def assert_init_is_ours(image: Root) -> None:
    init = resolved(image, "/sbin/init")
    assert not {"dev", "proc", "sys"} & set(init.relative_to(image.path).parts[:1])
    assert init.read_bytes() == INIT
    assert init.stat().st_mode & 0o7777 == 0o755
    assert init.stat().st_uid == 0


# ---- images as they come


def test_an_empty_image_gets_all_it_needs(builder: Builder) -> None:
    builder.inject()
    image = builder.image
    assert_init_is_ours(image)
    assert (image / "/busybox-lxd").read_bytes() == BUSYBOX.read_bytes()
    assert (image / "/lxd-gosu").read_bytes() == b"gosu"
    for name in ("/busybox-lxd", "/lxd-gosu", "/lxd-udhcpc-default.script", "/lxd-health"):
        assert (image / name).stat().st_mode & 0o7777 == 0o755
    for folder in ("etc", "dev", "proc", "sys", "sbin", "lxd-lib"):
        assert (image / folder).is_dir()
        assert (image / folder).stat().st_mode & 0o7777 == 0o755
    assert not (image / "/lxd-realinit").exists()
    with tarfile.open(fileobj=io.BytesIO(RUNTIME)) as tar:
        names = {member.name for member in tar if member.isfile()} - {"init"}
    assert {name for name in names if (image / name).is_file()} == names
    assert not (image / ".lxd-runtime").exists()


def test_a_merged_usr_stays_merged(builder: Builder) -> None:
    image = builder.image
    image.write("/usr/sbin/tool", "x")
    for folder in ("bin", "sbin", "lib"):
        (image / folder).symlink_to(f"usr/{folder}")
    builder.inject()
    assert_init_is_ours(image)
    assert (image / "sbin").readlink() == Path("usr/sbin")
    assert (image / "usr/sbin/init").read_bytes() == INIT
    assert (image / "usr/sbin/tool").read_text() == "x"


def test_an_absolute_link_is_followed_inside_the_image(builder: Builder) -> None:
    image = builder.image
    image.write("/usr/sbin/tool", "x")
    (image / "sbin").symlink_to("/usr/sbin")
    builder.inject()
    assert_init_is_ours(image)
    assert (image / "usr/sbin/init").read_bytes() == INIT
    assert (image / "sbin").readlink() == Path("/usr/sbin")


@pytest.mark.parametrize("target", ["/usr/sbin", "usr/sbin", "/opt/a/b/c", "../../../opt/x"])
def test_a_link_that_leads_nowhere_yet_gets_its_folder(builder: Builder, target: str) -> None:
    (builder.image / "sbin").symlink_to(target)
    builder.inject()
    assert_init_is_ours(builder.image)
    assert (builder.image / "sbin").readlink() == Path(target)


@pytest.mark.parametrize("kind", ["file", "loop", "link to a file"])
def test_what_can_be_no_folder_is_replaced_by_one(builder: Builder, kind: str) -> None:
    image = builder.image
    image.write("/file", "x")
    if kind == "file":
        image.write("/sbin", "x")
    else:
        (image / "sbin").symlink_to("sbin" if kind == "loop" else "file")
    builder.inject()
    assert_init_is_ours(image)
    assert (image / "sbin").is_dir()
    assert (image / "file").read_text() == "x"


def test_the_images_own_init_is_kept(builder: Builder) -> None:
    builder.image.write("/sbin/init", THEIRS, 0o750)
    builder.inject()
    assert_init_is_ours(builder.image)
    assert (builder.image / "/lxd-realinit").read_bytes() == THEIRS
    assert (builder.image / "/lxd-realinit").stat().st_mode & 0o7777 == 0o750


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("target", "place"), [("/lib/systemd/systemd", "/lib/systemd/systemd"), ("../lib/init", None), ("real", None)]
)
def test_the_images_own_init_may_be_a_link(builder: Builder, merged: bool, target: str, place: str | None) -> None:
    image = builder.image
    folder = "usr/sbin" if merged else "sbin"
    (image / folder).mkdir(parents=True)
    if merged:
        (image / "sbin").symlink_to("usr/sbin")
    image.write(place or os.path.normpath(f"/{folder}/{target}"), THEIRS, 0o755)
    (image / folder / "init").symlink_to(target)
    builder.inject()
    assert_init_is_ours(image)
    assert resolved(image, "/lxd-realinit").read_bytes() == THEIRS


def test_a_link_to_busybox_leaves_busybox_alone(builder: Builder) -> None:
    """As in Alpine: writing through the link would ruin every program of the image."""
    image = builder.image
    busybox = image.write("/bin/busybox", "theirs", 0o755)
    (image / "sbin").mkdir()
    (image / "sbin/init").symlink_to("/bin/busybox")
    builder.inject()
    assert_init_is_ours(image)
    assert busybox.read_text() == "theirs"
    assert (image / "/lxd-realinit").readlink() == Path("/bin/busybox")


def test_what_an_earlier_injection_left_is_replaced(builder: Builder) -> None:
    """An image made from an exported instance."""
    image = builder.image
    for name in ("lxd-image", "lxd-realinit", "lxd-prelaunch", "lxd-udhcpc-default.script", "busybox-lxd", "lxd-gosu"):
        image.write(f"/{name}", "stale")
    image.write("/lxd-lib/stale.sh", "stale")
    image.write("/.lxd-runtime/stale", "stale")
    builder.inject()
    stale = [name for name, (kind, _, content) in image.contents().items() if kind == "file" and content == b"stale"]
    assert stale == []
    assert not (image / "/lxd-realinit").exists()


def test_the_root_itself_is_roots_and_open_to_all(builder: Builder) -> None:
    os.chown(builder.image.path, 1000, 1000)
    builder.image.path.chmod(0o2700)
    builder.inject()
    found = builder.image.path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o755)


@pytest.mark.parametrize("theirs", [None, "a file", "->/nowhere", "->/proc/self/mounts"])
def test_mtab_is_there(builder: Builder, theirs: str | None) -> None:
    mtab = builder.image / "etc/mtab"
    if theirs:
        mtab.parent.mkdir()
        if theirs.startswith("->"):
            mtab.symlink_to(theirs[2:])
        else:
            mtab.write_text(theirs)
    builder.inject()
    if theirs and not theirs.startswith("->"):
        assert mtab.read_text() == theirs
    else:
        assert mtab.readlink() == Path((theirs or "/proc/mounts").removeprefix("->"))


def test_applications_can_tell_that_they_run_in_a_container(builder: Builder) -> None:
    mark = builder.image / ".dockerenv"
    builder.inject()
    assert (mark.read_bytes(), mark.stat().st_mode & 0o7777, mark.stat().st_mtime) == (b"", 0o755, EPOCH)
    mark.write_text("the image's own")
    mark.chmod(0o600)
    builder.inject()
    assert (mark.read_text(), mark.stat().st_mode & 0o7777) == ("the image's own", 0o600)


# ---- what unpacking lost


def lose(builder: Builder, *lines: str) -> dict[str, str]:
    """Injects what has lost this; returns what mksquashfs is to make: path -> the rest of its definition."""
    (builder.root / "build/rootfs.lost").write_text("".join(f"{line}\n" for line in lines))
    builder.inject(made=["build/rootfs.devices"])
    text = (builder.root / "build/rootfs.devices").read_text()
    return dict(line.split(" ", 1) for line in text.splitlines())


def lost(builder: Builder) -> list[str]:
    path = builder.image / "lxd-lost"
    return path.read_text().splitlines() if path.exists() else []


def test_devices_that_any_instance_may_use_are_made(builder: Builder) -> None:
    image = builder.image
    image.write("/jail/dev/null", mode=0o622)
    os.chown(image / "jail/dev/null", 3, 4)
    image.write("/jail/dev/urandom", mode=0o666)
    (image / "var").mkdir()
    (image / "var/jail").symlink_to("/jail")
    (image / "jail/dev/other-name").hardlink_to(image / "jail/dev/null")
    made = lose(builder, "device 1:3 jail/dev/null", "device 1:9 var/jail/dev/urandom")
    assert made == {
        "jail/dev/null": "C 1600000000 0622 3 4 1 3",
        "jail/dev/other-name": "C 1600000000 0622 3 4 1 3",
        "jail/dev/urandom": "C 1600000000 0666 0 0 1 9",
    }
    assert list((image / "jail/dev").iterdir()) == []
    assert (image / "jail/dev").stat().st_mtime == 1_600_000_000
    assert lost(builder) == []


def test_mksquashfs_makes_them(builder: Builder, tmp_path: Path) -> None:
    builder.image.write("/jail/dev/null", mode=0o666)
    lose(builder, "device 1:3 jail/dev/null")
    squashfs = tmp_path / "squashfs"
    devices = str(builder.root / "build/rootfs.devices")
    command = ["mksquashfs", str(builder.image.path), str(squashfs), "-quiet", "-no-progress", "-pf", devices]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    listed = subprocess.run(
        ["unsquashfs", "-lln", "-UTC", str(squashfs)], check=True, capture_output=True, text=True, timeout=60
    )
    (line,) = [line for line in listed.stdout.splitlines() if line.endswith("jail/dev/null")]
    assert line.split() == ["crw-rw-rw-", "0/0", "1,", "3", "2020-09-13", "12:26", "squashfs-root/jail/dev/null"]


@pytest.mark.parametrize(
    ("device", "path"),
    [
        *((device, "jail/dev/x") for device in ("1:1", "1:11", "8:0", "10:229", "5:3", "136:0", "11:3")),
        ("1:3", "jail/dev/ram3"),
        ("1:3", "jail/a b"),
        ("1:3", 'jail/"'),
        ("1:3", "jail/*"),
    ],
)
def test_other_devices_are_written_down(builder: Builder, device: str, path: str) -> None:
    builder.image.write(f"/{path}")
    assert lose(builder, f"device {device} {path}") == {}
    assert lost(builder) == [f"device {device} /{path}"]
    assert (builder.image / path).exists()


def test_what_came_after_them_stays(builder: Builder) -> None:
    image = builder.image
    image.write("/jail/full", "a file of a later layer")
    (image / "jail/link").symlink_to("/jail/full")
    (image / "jail/folder").mkdir()
    image.write("/dev/null")
    lines = [
        f"device 1:3 {name}" for name in ("gone/null", "jail/gone", "jail/full", "jail/link", "jail/folder", "dev/null")
    ]
    assert lose(builder, *lines, "device 1:3 ../../usr/bin/gosu", "device 1:3 /", "device 1:3 ", "device") == {}
    assert lost(builder) == []
    assert (image / "jail/full").read_text() == "a file of a later layer"


def test_attributes_are_written_down(builder: Builder) -> None:
    builder.image.write("/a b")
    assert lose(builder, "attribute security.ima a b", "attribute trusted.overlay.opaque a b") == {}
    assert lost(builder) == ["attribute security.ima /a b"]


# ---- images made to break out


@pytest.mark.parametrize(
    "names",
    [
        ["busybox-lxd", "lxd-gosu", "lxd-image", "lxd-lib", "lxd-instance", "lxd-realinit", "lxd-prelaunch"],
        [".lxd-runtime", "sbin", "etc", "dev", "proc", "sys"],
        ["sbin/init", "etc/hostname", "etc/hosts", "lxd-lib/network.sh"],
    ],
    ids=["files", "folders", "in folders"],
)
@pytest.mark.parametrize(
    "target", ["/bin/canary", "../../bin/canary", "../../../../../../etc/canary", "/etc", "/sbin", "../../sbin"]
)
def test_links_never_lead_out_of_the_image(builder: Builder, names: list[str], target: str) -> None:
    for name in names:
        link = builder.image / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    builder.inject()  # which compares everything outside
    assert_init_is_ours(builder.image)


def test_nothing_of_the_image_is_run(builder: Builder) -> None:
    """Whatever it calls its programs, wherever it has them."""
    image = builder.image
    trap = "#!/busybox-lxd sh\n/busybox-lxd touch /ran\n"
    applets = ("sh", "tar", "mv", "rm", "mkdir", "ln", "readlink", "realpath", "chmod", "find", "touch", "busybox")
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "build", "."):
        for applet in applets:
            image.write(f"/{folder}/{applet}", trap, 0o755)
    image.write("/etc/profile", "/busybox-lxd touch /ran\n")
    image.write("/etc/busybox.conf", "[SUID]\n")
    builder.inject()
    assert_init_is_ours(image)
    assert not (image / "ran").exists()


def test_a_setuid_busybox_or_gosu_of_the_images_does_not_keep_its_mode(builder: Builder) -> None:
    for name in ("busybox-lxd", "lxd-gosu"):
        builder.image.write(f"/{name}", "theirs", 0o6777)
    builder.inject()
    for name in ("busybox-lxd", "lxd-gosu"):
        assert (builder.image / name).stat().st_mode & 0o7777 == 0o755


# ---- what LXD reads, writes and mounts on


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "other name"])
@pytest.mark.parametrize("name", ["hostname", "hosts", "resolv.conf"])
def test_what_is_written_when_an_instance_starts_is_a_file_of_its_own(builder: Builder, name: str, kind: str) -> None:
    elsewhere = builder.image.write("/elsewhere", "x")
    (builder.image / "etc").mkdir()
    path = builder.image / "etc" / name
    if kind == "link":
        path.symlink_to("/elsewhere")
    elif kind == "folder":
        builder.image.write(f"/etc/{name}/x", "x")
    elif kind == "fifo":
        os.mkfifo(path)
    else:  # as where equal files were made one, to save space
        path.hardlink_to(elsewhere)
    builder.inject()
    assert not os.path.lexists(path) or (not path.is_symlink() and path.is_file() and path.read_text() == "")
    assert elsewhere.read_text() == "x"
    assert elsewhere.stat().st_nlink == 1
    assert builder.check() == []


@pytest.mark.parametrize("target", ["/usr/etc", "usr/etc", "../usr/etc", "/proc/1/root/etc", "/dev", "/sbin", "/usr"])
def test_what_etc_leads_to_takes_its_place(builder: Builder, target: str) -> None:
    """LXD writes there from the host, where the link would lead elsewhere."""
    place = "/" + target.lstrip("./")
    builder.image.write(f"{place}/own", "x")
    (builder.image / "etc").symlink_to(target)
    builder.inject()
    assert not (builder.image / "etc").is_symlink()
    assert (builder.image / "etc/own").read_text() == "x"
    if place not in {"/dev", "/sbin"}:  # which are made anew, or kept, for what is mounted there, and for init
        assert (builder.image / place).readlink() == Path("/etc")


@pytest.mark.parametrize("target", ["/", "..", ".", "/nowhere", "etc", "/bin/busybox", "../../../../build/secret"])
def test_an_etc_that_leads_to_no_folder_of_its_own_is_an_empty_one(builder: Builder, target: str) -> None:
    builder.image.write("/bin/busybox", "x")
    (builder.image / "etc").symlink_to(target)
    builder.inject()
    assert not (builder.image / "etc").is_symlink()
    assert {path.name for path in (builder.image / "etc").iterdir()} <= {"resolv.conf", "mtab"}


@pytest.mark.parametrize("folder", ["etc", "dev", "proc", "sys"])
def test_folders_that_lxd_mounts_or_writes_into_are_folders(builder: Builder, folder: str) -> None:
    builder.image.write(f"/{folder}", "a file")
    builder.inject()
    assert (builder.image / folder).is_dir()


def test_what_the_image_has_in_these_folders_stays(builder: Builder) -> None:
    files = [f"/etc/{name}" for name in ("app.conf", "hostname", "hosts", "resolv.conf")]
    files += [f"/{folder}/kept" for folder in ("dev", "proc", "sys")]
    for path in files:
        builder.image.write(path, "kept", 0o640)
    builder.inject()
    for path in files:
        assert (builder.image / path).read_text() == "kept"


@pytest.mark.parametrize("between", ["", "/between"])
@pytest.mark.parametrize("target", ["/dev", "dev", "/dev/below", "/proc", "/sys/below", "/.lxd-runtime"])
def test_init_is_not_where_lxd_hides_it(builder: Builder, target: str, between: str) -> None:
    image = builder.image
    (image / "sbin").symlink_to(between or target)
    if between:
        (image / between).symlink_to(target)
    builder.inject()
    assert_init_is_ours(image)
    assert not (image / "sbin").is_symlink()
    assert builder.check() == []


def test_init_is_not_where_a_link_in_the_place_of_dev_led(builder: Builder) -> None:
    (builder.image / "opt").mkdir()
    (builder.image / "dev").symlink_to("/opt")
    (builder.image / "sbin").symlink_to("/dev")
    builder.inject()
    assert_init_is_ours(builder.image)
    assert builder.check() == []


@pytest.mark.parametrize(
    "target", ["/lxd-lib", "/lxd-image", "/lxd-health", "/busybox-lxd", "/etc", "/etc/resolv.conf"]
)
def test_init_may_be_beside_the_rest_of_the_runtime(builder: Builder, target: str) -> None:
    (builder.image / "sbin").symlink_to(target)
    builder.inject()
    assert_init_is_ours(builder.image)
    assert (builder.image / "lxd-lib/mounts.sh").is_file()
    assert builder.check() == []


@pytest.mark.parametrize("name", ["metadata.yaml", "backup.yaml"])
@pytest.mark.parametrize("kind", ["a link", "a folder", "a special file"])
def test_an_image_that_lxd_refuses_is_refused(builder: Builder, name: str, kind: str) -> None:
    path = builder.image / name
    if kind == "a link":
        path.symlink_to("/etc")
    elif kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    builder.inject()
    (said,) = builder.check()
    assert said.startswith(f"/{name} is {kind}: LXD (5.0.9, ")


@pytest.mark.parametrize("folder", ["/", "/app/"])
def test_an_applications_own_files_of_these_names_stay(builder: Builder, folder: str) -> None:
    for name in ("metadata.yaml", "backup.yaml"):
        builder.image.write(f"{folder}{name}", "the application's")
    if folder != "/":
        (builder.image / "app/metadata.yaml").rename(builder.image / "app/target")
        (builder.image / "app/metadata.yaml").symlink_to("target")
    builder.inject()
    assert builder.check() == []
    assert (builder.image / f"{folder}metadata.yaml").read_text() == "the application's"


@pytest.mark.parametrize("target", ["/etc/hostname", "/lxd-prelaunch", "/backup.yaml"])
def test_a_link_that_makes_a_folder_of_what_must_be_a_file_is_refused(builder: Builder, target: str) -> None:
    (builder.image / "sbin").symlink_to(target)
    builder.inject()
    (said,) = builder.check()
    assert said.startswith(f"{target} is a folder: LXD ")


def test_all_that_is_wrong_is_said_at_once(builder: Builder) -> None:
    image = builder.image
    (image / "backup.yaml").mkdir()
    builder.inject()
    shutil.rmtree(image / "proc")
    (image / "etc/resolv.conf").unlink()
    (image / "etc/hosts").symlink_to("/nowhere")
    (image / "lxd-instance").mkdir()
    (image / "sys").rename(image / "elsewhere")
    (image / "sys").symlink_to("elsewhere")
    (image / "sbin/init").chmod(0o644)
    found = [line.partition(":")[0] for line in builder.check()]
    assert found == [
        "/backup.yaml is a folder",
        "/etc/hosts is a link",
        "/lxd-instance is a folder",
        "/etc/resolv.conf is missing",
        "/proc is missing",
        "/sys is a link",
        "/sbin/init is a file",
    ]


@pytest.mark.parametrize("init", ["", "/dev/init", "/nowhere", "/sbin"])
def test_an_init_that_cannot_be_run_is_found(builder: Builder, init: str) -> None:
    builder.inject()
    builder.image.write("/dev/init", INIT, 0o755)
    (builder.image / "sbin/init").unlink()
    if init:
        (builder.image / "sbin/init").symlink_to(init)
    (said,) = builder.check()
    assert said.startswith("/sbin/init is " + ("a link" if init else "missing"))


# ---- the same bytes on any day


def test_nothing_carries_the_clock(builder: Builder, tmp_path: Path) -> None:
    image = builder.image
    kept = image.write("/app/data", "x")
    image.write("/etc/passwd", "root:x:0:0::/:/bin/sh\n")
    (image / "sbin").symlink_to("usr/sbin")
    builder.inject()
    ages = {
        path.relative_to(image.path).as_posix(): int(path.lstat().st_mtime)
        for path in [image.path, *image.path.rglob("*")]
    }
    assert {name: age for name, age in ages.items() if age not in {EPOCH, 1_600_000_000}} == {}
    assert kept.stat().st_mtime == 1_600_000_000
    for name in (".", "busybox-lxd", "lxd-exec", "lxd-lib/network.sh", "usr/sbin/init", "usr/sbin", "etc"):
        assert ages[name] == EPOCH or name == "etc", name
    # Twice, the same: what is left of it is not what is found.
    again = Builder(tmp_path / "again")
    shutil.copytree(image.path, again.image.path, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(again.image / "usr/sbin")
    again.inject()
    assert again.image.contents() == image.contents()
