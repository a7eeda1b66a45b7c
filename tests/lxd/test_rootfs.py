"""What becomes of images whose files are laid out in unusual or hostile ways: all built by one sync, then looked into.

A path of an image that were followed in the builder would lead to the layer cache, which this host can see.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lxdocker.runtime import render
from tests.lxd.rig import Instance, World, cache_folder, entry, hardlink, image, layer, symlink, unsquash
from tests.registry_server import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    Image,
)
from tests.waiting import wait_until

Test = Callable[..., None]
CREATED = 1704164645  # 2024-01-02T03:04:05Z, which rig.image() gives to images
MADE = 1_600_000_000  # and rig.entry() to files
TOUCHED = 1_500_000_000
TRAP = "/cache/trap"
INIT = entry("sbin/init", "the image's own init", mode=0o755)
APP = (entry("bin"), entry("bin/app", "app", mode=0o755))
# security.capability for cap_net_bind_service=ep: version 2 with the effective bit, as capabilities(7) has it.
CAPABILITY = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
RESERVED = [
    "busybox-lxd",
    "lxd-gosu",
    "lxd-image",
    "lxd-realinit",
    "lxd-prelaunch",
    "lxd-udhcpc-default.script",
    "lxd-udhcpc-default.script.real",
    ".lxd-runtime",
]

IMAGES: dict[str, Image] = {
    "plain": image(layer(*APP, entry("sbin"), INIT)),
    "no-sbin": image(layer(*APP)),
    "merged-relative": image(
        layer(*APP, entry("usr"), entry("usr/sbin"), entry("usr/sbin/init", "own"), symlink("sbin", "usr/sbin"))
    ),
    "merged-absolute": image(
        layer(*APP, entry("usr"), entry("usr/sbin"), entry("usr/sbin/init", "own"), symlink("sbin", "/usr/sbin"))
    ),
    "sbin-dangling": image(layer(*APP, symlink("sbin", "usr/sbin"))),
    "sbin-trap": image(layer(*APP, symlink("sbin", TRAP))),
    "sbin-loop": image(layer(*APP, symlink("sbin", "sbin"))),
    "sbin-upwards": image(layer(*APP, symlink("sbin", "../../../../../.." + TRAP))),
    "sbin-file": image(layer(*APP, entry("sbin", "no folder"))),
    "sbin-hidden": image(layer(*APP, symlink("sbin", "/dev"))),
    "init-relative": image(
        layer(*APP, entry("sbin"), entry("lib"), entry("lib/own", "own"), symlink("sbin/init", "../lib/own"))
    ),
    "init-merged-relative": image(
        layer(
            *APP,
            entry("usr/lib"),
            entry("usr/lib/own", "own"),
            entry("usr/sbin"),
            symlink("usr/sbin/init", "../lib/own"),
            symlink("sbin", "/usr/sbin"),
        )
    ),
    "init-absolute": image(
        layer(*APP, entry("sbin"), entry("lib"), entry("lib/own", "own"), symlink("sbin/init", "/lib/own"))
    ),
    "init-dangling": image(layer(*APP, entry("sbin"), symlink("sbin/init", "/nowhere"))),
    "init-trap": image(layer(*APP, entry("sbin"), symlink("sbin/init", TRAP))),
    "init-folder": image(layer(*APP, entry("sbin"), entry("sbin/init"), entry("sbin/init/x", "x"))),
    "reserved-links": image(
        layer(*APP, entry("etc"), entry("etc/passwd", "own"), *(symlink(name, "/etc/passwd") for name in RESERVED))
    ),
    "reserved-traps": image(layer(*APP, *(symlink(name, f"{TRAP}/{name}") for name in RESERVED))),
    "reserved-folders": image(
        layer(*APP, *(one for name in RESERVED for one in (entry(name), entry(f"{name}/x", ""))))
    ),
    "etc-absolute": image(layer(*APP, entry("else"), entry("else/x", "x"), symlink("etc", "/else"))),
    "etc-trap": image(layer(*APP, symlink("etc", TRAP))),
    "etc-traps": image(
        layer(*APP, entry("etc"), *(symlink(f"etc/{name}", TRAP) for name in ("hostname", "hosts", "resolv.conf")))
    ),
    "etc-folders": image(
        layer(*APP, entry("etc"), *(entry(f"etc/{name}") for name in ("hostname", "hosts", "resolv.conf")))
    ),
    "own-metadata": image(layer(*APP, entry("metadata.yaml", "own"), entry("backup.yaml", "own"))),
    "mount-points": image(layer(*APP, symlink("dev", TRAP), symlink("proc", "/etc"), entry("sys", "a file"))),
    "content": image(layer(*APP, *(one for d in ("tmp", "run", "dev/shm") for one in (entry(d), entry(f"{d}/x", d))))),
    "traversal": image(
        layer(*APP, symlink("out", TRAP), symlink("up", "../../../cache")),
        layer(entry("out/planted", "x"), entry("up/planted", "x"), entry("../../cache/planted", "x")),
        layer(hardlink("linked", "out/planted")),
    ),
    "whiteouts": image(
        layer(entry("a"), entry("a/gone", ""), entry("a/kept", "kept")),
        layer(entry("o"), entry("o/gone"), entry("o/gone/x", "")),
        layer(entry("a/.wh.gone", ""), entry("o"), entry("o/.wh..wh..opq", ""), entry("o/new", "new")),
        layer(entry("a"), entry("a/kept", "newer", mtime=TOUCHED)),
    ),
    "files": image(
        layer(
            entry("one", "one", mode=0o600, uid=1000, gid=1001),
            hardlink("two", "one"),
            entry("setuid", "x", mode=0o4755),
            entry("sticky", mode=0o1777),
            entry("capable", "x", pax_headers={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}),
            entry(b"odd \xff\xfe name", "odd"),
            entry("new\nline", "line"),
            entry("long/" * 40 + "name", "long"),
            entry("old", "old", mtime=0),
            entry("unowned", "x", uid=65534, gid=2_000_000),
        )
    ),
}


@pytest.fixture(scope="module")
def built(shared_world: World) -> World:
    """All of them, built by one sync."""
    trap = cache_folder() / "trap"
    before = sorted(path.name for path in cache_folder().iterdir()) if cache_folder().exists() else []
    for name, made in IMAGES.items():
        shared_world.wants(name, made)
    done = shared_world.sync("--jobs", "4")
    assert done.statuses == dict.fromkeys(sorted(IMAGES), "built")
    assert not trap.exists()
    assert {path.name for path in cache_folder().iterdir()} <= {*before, "blobs", "manifests", "work"}
    assert not list(cache_folder().rglob("planted"))
    return shared_world


@pytest.fixture
def root(built: World, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The published root filesystem of the image named by the test's parameter."""
    return unsquash(built.rootfs(request.param), tmp_path / "root")


def inside(root: Path, path: str) -> Path:
    """Where ``path`` leads for somebody who lives in ``root``; nothing there need exist."""
    todo, at, links = path.split("/"), root, 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            at = root if at == root else at.parent
            continue
        following = at / part
        if following.is_symlink():
            links += 1
            assert links < 40, f"{path} leads in circles"
            target = str(following.readlink())
            at = root if target.startswith("/") else at
            todo = target.split("/") + todo
        else:
            at = following
    return at


def of(*names: str) -> Callable[[Test], Test]:
    """Looks at what is in these images."""
    each = pytest.mark.parametrize("root", names, indirect=True)
    return lambda test: pytest.mark.any_lxd(each(test))


@of(*(name for name in IMAGES if name not in ("whiteouts", "files")))
def test_every_image_can_start(root: Path) -> None:
    init = inside(root, "/sbin/init")
    assert init.read_bytes() == render.INIT.read_bytes()
    assert init.stat().st_mode & 0o7777 == 0o755
    assert not (root / "lxd-image").is_symlink()  # which LXD writes into instances
    assert not (root / "lxd-image").exists()
    for name in ("busybox-lxd", "lxd-udhcpc-default.script", "lxd-udhcpc-default.script.real"):
        assert stat.S_ISREG((root / name).lstat().st_mode), name
    for name in ("busybox-lxd", "lxd-udhcpc-default.script"):
        assert (root / name).stat().st_mode & 0o7777 == 0o755, name
    assert not (root / ".lxd-runtime").exists()
    for name in ("dev", "proc", "sys"):
        assert stat.S_ISDIR((root / name).lstat().st_mode), name
    assert inside(root, "/etc").is_dir()
    assert inside(root, "/bin/app").read_text() == "app"


@of("plain", "merged-relative", "merged-absolute", "init-relative", "init-merged-relative", "init-absolute")
def test_the_images_own_init_is_kept(root: Path) -> None:
    assert "own" in inside(root, "/lxd-realinit").read_text()


@of("merged-relative", "merged-absolute", "init-merged-relative")
def test_a_merged_usr_stays_merged(root: Path) -> None:
    assert (root / "sbin").is_symlink()
    assert (root / "usr/sbin/init").read_bytes() == render.INIT.read_bytes()


@of("no-sbin", "sbin-dangling", "reserved-links", "reserved-folders")
def test_an_image_without_an_init_gets_none_to_go_back_to(root: Path) -> None:
    assert not os.path.lexists(root / "lxd-realinit")


@of("init-dangling", "init-trap")
def test_a_link_that_leads_nowhere_is_kept_as_it_is(root: Path) -> None:
    assert str((root / "lxd-realinit").readlink()) in ("/nowhere", TRAP)


@of("reserved-links")
def test_what_links_led_to_is_as_it_was(root: Path) -> None:
    assert (root / "etc/passwd").read_text() == "own"


@of("etc-absolute")
def test_etc_is_a_folder_and_what_it_led_to_is_there(root: Path) -> None:
    assert not (root / "etc").is_symlink()
    assert (root / "etc/x").read_text() == "x"
    assert (root / "else").readlink() == Path("/etc")


@of("etc-traps", "etc-folders")
def test_what_lxd_writes_is_no_link(root: Path) -> None:
    for name in ("hostname", "hosts", "resolv.conf"):
        path = root / "etc" / name
        assert not os.path.lexists(path) or stat.S_ISREG(path.lstat().st_mode)


@pytest.mark.parametrize("name", ["sbin-hidden", "etc-folders", "own-metadata"])
def test_lxd_launches_what_is_in_the_place_of_its_files(
    built: World, launch: Callable[..., Instance], name: str
) -> None:
    instance = launch(built, name)
    instance.log_with("lxdocker: ")  # our init has run, and ends with an application that is no program
    # Its end would cut off "file pull".
    wait_until(f"the end of {instance.name}", lambda: built.lxc.has_ended(instance.name))
    assert built.lxc("file", "pull", f"{instance.name}/etc/hostname", "-") == f"{instance.name}\n"
    if name == "own-metadata":
        assert built.lxc("file", "pull", f"{instance.name}/metadata.yaml", "-") == "own"


@pytest.mark.any_lxd
def test_what_some_lxd_would_not_launch_is_refused(world: World) -> None:
    world.wants("link", image(layer(*APP, symlink("metadata.yaml", "/bin/app"))))
    world.wants("folders", image(layer(*APP, entry("metadata.yaml"), entry("backup.yaml"), entry("backup.yaml/x", ""))))
    done = world.sync(expect=1)
    assert done.statuses == {"link": "failed", "folders": "failed"}
    said = done.error("link").splitlines()
    assert "/link@sha256:" in said[0]
    assert said[0].endswith(" can't be launched by LXD")
    assert said[1].startswith("/metadata.yaml is a link: LXD (5.0.9, ")
    said = done.error("folders").splitlines()
    assert [line.partition(":")[0] for line in said[1:3]] == ["/metadata.yaml is a folder", "/backup.yaml is a folder"]
    assert "RUN rm -rf PATH" in said[-1]


@of("content")
def test_what_the_image_has_in_tmp_and_run_is_there(root: Path) -> None:
    for folder in ("tmp", "run", "dev/shm"):
        assert (root / folder / "x").read_text() == folder


@of("traversal")
def test_layers_stay_inside_the_image(root: Path) -> None:
    assert inside(root, "/out/planted").read_text() == "x"
    assert inside(root, "/linked").read_text() == "x"
    assert inside(root, "/cache/planted").read_text() == "x"


@of("whiteouts")
def test_whiteouts(root: Path) -> None:
    assert sorted(path.name for path in (root / "a").iterdir()) == ["kept"]
    assert sorted(path.name for path in (root / "o").iterdir()) == ["new"]
    assert (root / "a/kept").read_text() == "newer"
    assert (root / "a/kept").stat().st_mtime == TOUCHED


@of("files")
def test_files_are_as_the_layer_has_them(root: Path) -> None:
    one = (root / "one").stat()
    assert (one.st_mode & 0o7777, one.st_uid, one.st_gid) == (0o600, 1000, 1001)
    assert one.st_ino == (root / "two").stat().st_ino
    assert (root / "setuid").stat().st_mode & 0o7777 == 0o4755
    assert (root / "sticky").stat().st_mode & 0o7777 == 0o1777
    assert Path(os.fsdecode(os.fsencode(root) + b"/odd \xff\xfe name")).read_text() == "odd"
    assert (root / "new\nline").read_text() == "line"
    assert (root / ("long/" * 40) / "name").read_text() == "long"
    assert (root / "old").stat().st_mtime == 0
    assert (root / "unowned").stat().st_uid == 65534
    assert (root / "unowned").stat().st_gid == 2_000_000
    assert os.getxattr(root / "capable", "security.capability") == CAPABILITY


@of(*IMAGES)
def test_no_time_is_the_clocks(root: Path) -> None:
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [b"", *folders, *files]:
            found = os.lstat(folder + b"/" + name if name else folder)
            assert found.st_mtime in (CREATED, MADE, TOUCHED, 0), folder + b"/" + name


@pytest.mark.any_lxd
def test_all_of_it_again_is_the_same_to_the_last_byte(built: World) -> None:
    before = {name: built.lxc.aliases()[name] for name in IMAGES}
    names = ["plain", "traversal", "whiteouts", "files", "content"]
    done = built.sync("--force", *names)
    assert {name: done.fingerprint(name) for name in names} == {name: before[name] for name in names}


def packed(made: Image, pack: Callable[[bytes], bytes], media_type: str, *, docker: bool = False) -> Image:
    """The same image with its layers in another form, or under another name."""
    layers = tuple(Blob(pack(gzip.decompress(blob.content)), media_type) for blob in made.layers)
    kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
    config = Blob(made.config.content, DOCKER_CONFIG if docker else OCI_CONFIG)
    document = {"config": config.descriptor, "layers": [blob.descriptor for blob in layers]}
    manifest = {"schemaVersion": 2, "mediaType": kind, **document}
    return Image(Blob(json.dumps(manifest).encode(), kind), config, layers)


def zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=content, capture_output=True, check=True).stdout


@pytest.mark.any_lxd
def test_layers_that_umoci_would_refuse_give_the_same_image(world: World) -> None:
    """Also when they are in the cache: another spec names them, or they are built anew with nothing asked before."""
    members = (*APP, entry("etc"), entry("etc/text", "x" * 100_000))
    plain = OCI_LAYER.removesuffix("+gzip")
    made = image(layer(*members))
    world.wants("usual", made)
    world.wants("zstd", packed(made, zstd, f"{plain}+zstd"))
    world.wants("named-zstd", packed(made, gzip.compress, f"{plain}+zstd"))
    world.wants("named-gzip", packed(made, bytes, OCI_LAYER))
    for name, pack in (("docker-zstd", zstd), ("docker-named-zstd", gzip.compress)):
        world.wants(name, packed(made, pack, DOCKER_LAYER.replace("gzip", "zstd"), docker=True))
    world.wants("plain", packed(made, bytes, plain))
    header = tarfile.TarInfo("pax_global_header")
    header.type, comment = tarfile.XGLTYPE, b"16 comment=1234\n"
    header.size = len(comment)
    world.wants("global", image(header.tobuf() + comment.ljust(512, b"\0") + layer(*members)))
    names = ["usual", "zstd", "named-zstd", "named-gzip", "plain", "global", "docker-zstd", "docker-named-zstd"]
    assert world.sync().statuses == dict.fromkeys(names, "built")

    def roots() -> set[bytes]:
        return {world.rootfs(name).read_bytes() for name in names}

    assert len(roots()) == 1
    before = {name: world.lxc.aliases()[name] for name in names}
    world.spec("again", world.ref("zstd"), disable_supervisor=True)
    done = world.sync("--force")
    assert {name: done.fingerprint(name) for name in names} == before
    assert done.statuses["again"] == "built"
