"""The runtime is put into any image, whatever its author made of it, and nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from lxdocker.oci import OciConfig
from lxdocker.runtime import render
from lxdocker.spec import Behaviour
from tests.chroots import BUSYBOX, Root, needs_namespaces

pytestmark = needs_namespaces

EPOCH = 1_700_000_000
RUNTIME = render.runtime_tar(OciConfig(cmd=("/app",), created=EPOCH), Behaviour())
INIT = render.INIT.read_bytes()
THEIRS = b"#!/bin/sh\nthe image's own init\n"


class Builder:
    """A builder's root filesystem, as far as injecting uses it, with an image's at /build/rootfs."""

    def __init__(self, path: Path) -> None:
        self.root = Root.make(path, "/bin/busybox")
        self.root.write("/usr/bin/gosu", b"gosu", 0o755)
        self.image = Root(path / "build/rootfs")
        self.image.path.mkdir(parents=True)

    def inject(self) -> None:
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
        assert self.outside() == before, "something was written outside of the image"

    def outside(self) -> dict[str, object]:
        return {path: entry for path, entry in self.root.contents().items() if not path.startswith("build/rootfs/")}

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


# ---- what LXD writes later


@pytest.mark.parametrize("name", ["hostname", "hosts", "resolv.conf"])
def test_what_is_written_when_an_instance_starts_is_no_link(builder: Builder, name: str) -> None:
    builder.image.write("/elsewhere", "x")
    (builder.image / "etc").mkdir()
    (builder.image / "etc" / name).symlink_to("/elsewhere")
    builder.inject()
    assert not (builder.image / "etc" / name).is_symlink()
    assert (builder.image / "elsewhere").read_text() == "x"


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
    assert {path.name for path in (builder.image / "etc").iterdir()} <= {"resolv.conf"}


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
    for name in (".", "busybox-lxd", "lxd-image", "lxd-lib/network.sh", "usr/sbin/init", "usr/sbin", "etc"):
        assert ages[name] == EPOCH or name == "etc", name
    # Twice, the same: what is left of it is not what is found.
    again = Builder(tmp_path / "again")
    shutil.copytree(image.path, again.image.path, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(again.image / "usr/sbin")
    again.inject()
    assert again.image.contents() == image.contents()
