"""A whole build in one command, with scripts in the place of skopeo, umoci and mksquashfs: what it tells and gives, and
which step failed.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path, PurePath

import pytest

from lxdocker.builder import instance, recipe
from lxdocker.builder.instance import KILLED
from lxdocker.builder.recipe import FAILED_STEPS, NOT_CONNECTED, UNPACKING_FAILED, Recipe
from lxdocker.errors import BuildError
from lxdocker.oci import OciConfig
from lxdocker.spec import Behaviour
from lxdocker.values import Arch, ImageName, RegistryRef
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces

RECIPE = Recipe(
    name=ImageName("app"),
    source=RegistryRef("registry.example", "app", "1", None),
    config=OciConfig(cmd=("/app",), created=1_700_000_000),
    supervise=True,
    behaviour=Behaviour(),
    arch=Arch.X86_64,
    properties=(),
    compression_level=7,
    timeout=60,
    verify_tls=True,
    authfile='{"auths": {}}',
    layers=("aa", "bb"),
    certificates=None,
    gzip_layers=False,
    environment={},
    in_memory=False,
)
MANIFEST = "cc" * 32
# skopeo's arguments end in `oci:WORK:TAG`.
SKOPEO = f"""
for target; do :; done
work=${{target#oci:}} work=${{work%:*}}
echo noise
echo '{{"imageLayoutVersion": "1.0.0"}}' >"$work/oci-layout"
echo '{{}}' >/cache/blobs/sha256/{MANIFEST}
printf 'sha256:{MANIFEST}' >/run/digest
[ -s /dev/lxdocker-secrets/auth.json ]
"""
UMOCI = """
[ ! -e /dev/lxdocker-secrets ]
for target; do :; done
echo noise
/bin/busybox mkdir "$target"
echo content >"$target/file"
"""
MKSQUASHFS = """
echo noise
/bin/busybox cp "$1/file" "$2"
[ -x "$1/sbin/init" ]
echo "$*" >/packed-by
"""


WHOLE = "phase fetch\nphase unpack\nphase pack\nsquashfs 8\ncontent\n"


class Builder(instance.Builder):
    """A builder that is a chroot, of which recipe asks no more than this."""

    def __init__(self) -> None:
        self.name = "builder-1"

    @property
    def way(self) -> str:
        return "lease"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root.make(tmp_path / "builder", "/bin/busybox")
    for folder in ("cache", "build", "run", "tmp"):
        (made / folder).mkdir()
    made.write("/etc/resolv.conf", "nameserver 10.0.0.1\n")
    made.write("/usr/bin/gosu")
    return made


def build(
    root: Root,
    skopeo: str = SKOPEO,
    umoci: str = UMOCI,
    mksquashfs: str = MKSQUASHFS,
    *,
    afresh: bool = False,
    in_memory: bool = False,
    after: str = "",
) -> subprocess.CompletedProcess[str]:
    for name, script in (("skopeo", skopeo), ("umoci", umoci), ("mksquashfs", mksquashfs)):
        root.write(f"/usr/bin/{name}", f"#!/bin/busybox sh\nset -e\n{script}", 0o755)
    wanted = replace(RECIPE, in_memory=in_memory)
    argv = recipe._build_argv(Builder(), wanted, "docker://registry.example/app", afresh=afresh)
    return root.run(*argv, stdin=recipe._given(wanted), after=after)


def test_what_it_tells_and_gives(root: Root) -> None:
    done = build(root)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == WHOLE
    assert (root / "packed-by").read_text().split()[-4:] == ["-mkfs-time", "1700000000", "-mem", "512M"]
    assert "-Xcompression-level 7" in (root / "packed-by").read_text()
    assert (root / "cache/manifests/app").read_text() == f"sha256:{MANIFEST}\n"
    assert list((root / "cache/work").iterdir()) == []


def test_it_tells_how_much_has_come(root: Root) -> None:
    root.write("/cache/blobs/sha256/aa", b"x" * 100)
    done = build(root, SKOPEO + "echo 12345 >/cache/blobs/sha256/bb\nsleep 2.5")
    assert re.match(r"phase fetch\n(fetched 106\n)+phase unpack\n", done.stdout)
    assert done.returncode == 0


@pytest.mark.parametrize("words", ["echo no space left >&2; exit 1", "kill -9 $$", "exit 1"])
@pytest.mark.parametrize("step", ["fetching", "unpacking", "injecting the runtime into", "packing"])
def test_which_step_failed(root: Root, step: str, words: str) -> None:
    before = "phase fetch\n"
    if step == "fetching":
        done = build(root, skopeo=words)
    elif step == "unpacking":
        done = build(root, umoci=words)
        before += "phase unpack\n"
    elif step == "packing":
        done = build(root, mksquashfs=words)
        before += "phase unpack\nphase pack\n"
    else:
        # A tar on stdin that is none, and so no words of our own.
        done = build(root, umoci=UMOCI + "echo not a tar >/run/build/runtime.tar\n")
        before += "phase unpack\nphase pack\n"
        words = ""
    assert FAILED_STEPS[done.returncode] == step
    assert done.stdout == before
    assert not words.startswith("echo") or done.stderr == "no space left\n"
    assert not words.startswith("kill") or done.stderr.endswith(f"{KILLED}\n")
    assert not (root / "dev/lxdocker-secrets").exists()


def test_no_way_to_the_image(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "NETWORK_SECONDS", 0)
    (root / "etc/resolv.conf").unlink()
    done = build(root, skopeo="echo ran >/ran")
    assert done.returncode == NOT_CONNECTED
    assert not (root / "ran").exists()


def test_only_what_damaged_the_last_try_is_fetched_again(root: Root) -> None:
    root.write("/cache/blobs/sha256/dd", b"of another image")
    layer = f"/cache/blobs/sha256/{'ee' * 32}"
    manifest = json.dumps({"layers": [{"digest": f"sha256:{'ee' * 32}"}]})
    skopeo = SKOPEO + f"[ -e {layer} ] || echo fetched >>/fetched\necho '{manifest}' >/cache/blobs/sha256/{MANIFEST}\n"
    skopeo += f"echo layer >{layer}\n"
    assert build(root, skopeo, umoci="exit 1").returncode == UNPACKING_FAILED
    assert build(root, skopeo).returncode == 0
    assert (root / "fetched").read_text() == "fetched\n"
    assert build(root, skopeo, UMOCI.replace("mkdir", "mkdir -p"), afresh=True).returncode == 0
    assert (root / "fetched").read_text() == "fetched\nfetched\n"
    assert (root / "cache/blobs/sha256/dd").exists()


# ---- in memory

LOOK = 'grep -q " $root/build tmpfs " /proc/mounts && : >"$root/was-in-memory"; true'


@pytest.mark.parametrize(("available", "expected"), [(1 << 20, True), (16384, False)])
def test_what_fits_is_unpacked_in_memory(
    root: Root, monkeypatch: pytest.MonkeyPatch, available: int, expected: bool
) -> None:
    monkeypatch.setattr(recipe, "MEMORY_KIB", available)
    for layer in RECIPE.layers:
        root.write(f"/cache/blobs/sha256/{layer}", b"x" * 1000)
    done = build(root, in_memory=True, after=LOOK)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, "")
    assert (root / "was-in-memory").exists() == expected
    assert (root / "build/rootfs/file").exists() != expected


def test_what_does_not_fit_after_all_is_unpacked_on_disk(root: Root) -> None:
    """And of the first try nothing is heard, which would pass for the reason of a later failure."""
    for layer in RECIPE.layers:
        root.write(f"/cache/blobs/sha256/{layer}", b"x" * 1000)
    full = "if /bin/busybox grep -q ' /build tmpfs ' /proc/mounts; then echo no space left >&2; exit 1; fi\n"
    done = build(root, umoci=full + UMOCI, in_memory=True, after=LOOK)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, "")
    assert not (root / "was-in-memory").exists()


# ---- what it needs


def test_only_root_can_read_what_it_is_given(tmp_path: Path) -> None:
    certificates = tmp_path / "certs"
    certificates.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "README"):
        (certificates / name).write_text(name)
    given = recipe._given(replace(RECIPE, certificates=certificates))
    with tarfile.open(fileobj=io.BytesIO(given)) as archive:
        members = {member.name: member for member in archive}
    secrets = PurePath("dev/lxdocker-secrets")
    held = {PurePath(name).name for name in members if PurePath(name).parent == secrets}
    assert held == {"auth.json", "ca.crt", "client.cert", "client.key"}
    assert {member.mode for member in members.values()} == {0o600}
    assert {PurePath(name).parent for name in members} == {secrets, PurePath("run/build")}


# ---- what is made of what it tells


def heard(*pieces: bytes) -> tuple[list[tuple[str, str]], bytes]:
    said: list[tuple[str, str]] = []
    content = b"".join(recipe._squashfs(iter(pieces), lambda word, rest: said.append((word, rest))))
    return said, content


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_and_the_squashfs_come_apart_wherever_the_pieces_end(size: int) -> None:
    stream = b"phase fetch\nfetched 17\nphase read \xff\nsquashfs 12\nhsqs\nphase x\n"
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    said, content = heard(*pieces)
    assert said == [("phase", "fetch"), ("fetched", "17"), ("phase", "read �"), ("squashfs", "12")]
    assert content == b"hsqs\nphase x\n"


def test_a_build_that_fails_gives_no_squashfs() -> None:
    assert heard(b"phase fetch\n", b"half a li") == ([("phase", "fetch")], b"")
    assert heard() == ([], b"")


def test_a_line_without_an_end_is_not_collected() -> None:
    with pytest.raises(BuildError, match="says what no build says"):
        heard(*[b"x" * 600] * 2)
