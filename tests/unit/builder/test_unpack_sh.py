"""What unpacks, with the real tools, images that umoci by itself refuses, and what ends those that take too much."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lxdocker.builder.recipe import DAMAGED, MEND, UNPACK
from tests.chroots import Root, needs_namespaces
from tests.registry_server import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
)

TOOLS = ("umoci", "zstd", "perl")
pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"this host has not all of {', '.join(TOOLS)}"),
]
PLAIN = OCI_LAYER.removesuffix("+gzip")


def zstd(content: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=content, capture_output=True, check=True).stdout


PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "zstd": zstd,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "tar": bytes,
}


def tar(*members: tuple[str, bytes], **options: str) -> bytes:
    """``options``: members of a global header, for there to be one."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT, pax_headers=options) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


@dataclass(frozen=True)
class Builder:
    """A builder's root, and its layer cache."""

    root: Root

    def blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.root.write(f"/cache/blobs/sha256/{digest}", content)
        return digest

    def fetch(self, *layers: tuple[bytes, str], tars: Sequence[bytes], docker: bool = False) -> str:
        """As fetch.sh leaves an image; returns its manifest."""
        diffs = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in tars]
        label = '"\\\\' * 70_000  # such as whole documents have that are kept in one
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"document": label, "rootfs": '{"diff_ids": ["sha256:0"]}'}},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
        config = Blob(json.dumps(document).encode(), DOCKER_CONFIG if docker else OCI_CONFIG)
        described = [Blob(content, media_type).descriptor for content, media_type in layers]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
                "annotations": {"layers": '[{"digest": "sha256:1"}]', "none": None, "rate": "1.5e3"},
                "config": config.descriptor,
                "layers": described,
            }
        ).encode()
        for content in (config.content, *(content for content, _ in layers)):
            self.blob(content)
        digest = self.blob(manifest)
        index = {
            "mediaType": OCI_MANIFEST,
            "digest": f"sha256:{digest}",
            "size": len(manifest),
            "annotations": {"org.opencontainers.image.ref.name": "image"},
        }
        shutil.rmtree(self.root / "run/layout", ignore_errors=True)
        self.root.write("/run/layout/index.json", json.dumps({"schemaVersion": 2, "manifests": [index]}))
        self.root.write("/run/layout/oci-layout", '{"imageLayoutVersion": "1.0.0"}')
        (self.root / "run/layout/blobs").symlink_to("/cache/blobs")
        return digest

    def unpack(
        self, manifest: str, limit: int = 0, memory: int = 0, before: str = "", after: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs unpack.sh."""
        (self.root / "run/feeds").unlink(missing_ok=True)
        path = {"PATH": "/usr/bin:/bin"}
        command = ("/bin/busybox", "sh", "/run/build/unpack.sh", str(memory), str(limit), "/build/rootfs", manifest)
        return self.root.run(*command, env=path, before=before, after=after)

    def files(self) -> dict[str, bytes]:
        rootfs = self.root / "build/rootfs"
        return {path.name: path.read_bytes() for path in rootfs.rglob("*") if path.is_file()}

    def cached(self) -> int:
        return len(list((self.root / "cache/blobs/sha256").iterdir()))


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    root = Root.make(tmp_path / "builder", "/bin/busybox")
    for folder in ("cache/blobs/sha256", "build", "tmp", "run"):
        (root / folder).mkdir(parents=True)
    for script in (UNPACK, *MEND):
        root.write(f"/run/build/{script.name}", script.read_bytes())
    for tool in TOOLS:
        root.install(tool)
    return Builder(root)


ONE, TWO = tar(("one", b"1" * 100_000)), tar(("two", b"2" * 100_000))


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("label", ["gzip", "zstd", "tar", "strange"])
@pytest.mark.parametrize("form", PACKED)
def test_what_a_layer_is_its_bytes_tell(builder: Builder, form: str, label: str, docker: bool) -> None:
    """As they do for Docker; and there is no second copy."""
    usual = DOCKER_LAYER if docker else OCI_LAYER
    media_type = {"gzip": usual, "tar": usual[:-5], "zstd": f"{usual[:-4]}zstd", "strange": "text/plain"}[label]
    manifest = builder.fetch(
        (PACKED["gzip"](ONE), usual), (PACKED[form](TWO), media_type), tars=(ONE, TWO), docker=docker
    )
    cached = builder.cached()
    done = builder.unpack(manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert builder.files() == {"one": b"1" * 100_000, "two": b"2" * 100_000}
    assert builder.cached() == cached
    blobs = builder.root / "run/layout/blobs"
    copies = [] if blobs.is_symlink() else [path for path in blobs.rglob("*") if not path.is_symlink()]
    assert sum(path.lstat().st_size for path in copies if path.is_file()) < 5_000


def test_usual_images_are_unpacked_as_they_are(builder: Builder) -> None:
    """Nothing looks into their layers before."""
    manifest = builder.fetch((PACKED["gzip"](ONE), OCI_LAYER), (TWO, PLAIN), tars=(ONE, TWO))
    (builder.root / "usr/bin/zstd").unlink()
    (builder.root / "usr/bin/perl").unlink()
    done = builder.unpack(manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert (builder.root / "run/layout/blobs").is_symlink()


def members_of_all_kinds(archive: tarfile.TarFile) -> None:
    """What a tar can say, in its several ways."""

    def add(name: str, content: bytes = b"", **members: object) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for key, value in members.items():
            setattr(member, key, value)
        archive.addfile(member, io.BytesIO(content) if content else None)

    add("folder", type=tarfile.DIRTYPE, mode=0o2755, uid=33, gid=44)
    add("folder/" + "long" * 60, b"by a record")
    add("folder/\udcff\udcfe", b"no UTF-8")
    add("folder/later", b"x" * 513, mtime=1_700_000_000.123456)
    add("folder/attributes", b"y", pax_headers={"SCHILY.xattr.user.note": "text", "size": "1"})
    add(
        "folder/capable",
        b"z",
        pax_headers={"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04" + "\x00" * 14},
    )
    add("folder/hard", type=tarfile.LNKTYPE, linkname="folder/later", size=513)
    add("folder/soft", type=tarfile.SYMTYPE, linkname="t" * 200)
    add("folder/.wh.gone")
    add("big", b"\0" * 3_000_000)


def make_both(kind: int, comment: bytes) -> tuple[bytes, bytes]:
    """A tar without global headers, and the same with two of them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind, errors="surrogateescape") as archive:
        members_of_all_kinds(archive)
    plain = made.getvalue()
    header = tarfile.TarInfo("pax_global_header")
    header.type, header.size = tarfile.XGLTYPE, len(comment)
    block = header.tobuf(tarfile.USTAR_FORMAT) + comment + b"\0" * (-len(comment) % 512)
    # Once at the beginning, once after the first member, a folder.
    return plain, block + plain[:512] + block + plain[512:]


@pytest.mark.parametrize("comment", [b"52 comment=0123456789012345678901234567890123456789\n", b"x" * 70_000, b""])
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_global_headers_are_passed_over_and_nothing_else_is(builder: Builder, kind: int, comment: bytes) -> None:
    base = tar(("folder/gone", b"gone"))
    roots = []
    for layer in make_both(kind, comment):
        manifest = builder.fetch(
            (PACKED["gzip"](base), OCI_LAYER), (PACKED["gzip"](layer), OCI_LAYER), tars=(base, layer)
        )
        done = builder.unpack(manifest)
        assert (done.returncode, done.stderr) == (0, "")
        roots.append(everything(builder.root / "build/rootfs"))
    assert len(roots[0]) == 9
    assert roots[0] == roots[1]


def everything(rootfs: Path) -> dict[bytes, object]:
    found: dict[bytes, object] = {}
    for path in rootfs.rglob("*"):
        stat = path.lstat()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        content = path.read_bytes() if path.is_file() else path.readlink() if path.is_symlink() else None
        owner = (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime_ns, stat.st_nlink)
        found[os.fsencode(path.relative_to(rootfs))] = (owner, attributes, content)
    return found


def test_sizes_that_do_not_fit_a_header_are_heeded(builder: Builder) -> None:
    """They are in a record before it, or are binary."""
    inner = tar(("inner", b"in"), comment="a global header that is a file's content")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as archive:
        member = tarfile.TarInfo("record")
        member.size = len(inner)
        member.pax_headers = {"size": str(len(inner))}
        archive.addfile(member, io.BytesIO(inner))
    layer = made.getvalue()
    at = layer.index(b"record\0")
    header = bytearray(layer[at : at + 512])
    header[124:136] = b"00000000000\0"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    first = layer[:at] + bytes(header) + layer[at + 512 :]
    header[:7], header[124:136] = b"binary\0", b"\x80" + len(inner).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    second = tar(comment="x")[:1024] + bytes(header) + inner + b"\0" * 1024
    manifest = builder.fetch(
        (PACKED["gzip"](first), OCI_LAYER), (PACKED["gzip"](second), OCI_LAYER), tars=(first, second)
    )
    done = builder.unpack(manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert builder.files() == {"record": inner, "binary": inner}


@pytest.mark.parametrize("more", [b"\0" * 512, b"junk"])
def test_what_follows_a_gzip_is_passed_over(builder: Builder, more: bytes) -> None:
    """As gzip itself does."""
    done = builder.unpack(builder.fetch((PACKED["gzip"](ONE) + more, OCI_LAYER), tars=(ONE,)))
    assert (done.returncode, done.stderr) == (0, "")
    assert set(builder.files()) == {"one"}


def test_a_layer_that_an_image_has_twice(builder: Builder) -> None:
    empty = b"\0" * 1024
    layers = [(zstd(ONE), f"{PLAIN}+zstd"), (zstd(empty), f"{PLAIN}+zstd"), (zstd(ONE), f"{PLAIN}+zstd")]
    layers += [(zstd(empty), f"{PLAIN}+zstd"), (ONE, PLAIN), (zstd(TWO), f"{PLAIN}+zstd")]
    manifest = builder.fetch(*layers, tars=(ONE, empty, ONE, empty, ONE, TWO))
    done = builder.unpack(manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(builder.files()) == {"one", "two"}
    assert (builder.root / "cache/blobs/sha256" / hashlib.sha256(ONE).hexdigest()).read_bytes() == ONE


@pytest.mark.parametrize("form", ["gzip", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damage_in_the_cache_is_found_whatever_umoci_says(builder: Builder, form: str, damage: str) -> None:
    layer = PACKED[form](os.urandom(50_000) + ONE)
    manifest = builder.fetch((layer, OCI_LAYER.replace("gzip", form)), tars=(ONE,))
    blob = builder.root / "cache/blobs/sha256" / hashlib.sha256(layer).hexdigest()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(layer[:10_000] if damage == "cut" else layer[:10_000] + b"damage" + layer[10_006:])
    done = builder.unpack(manifest)
    assert done.returncode == DAMAGED
    assert "is not what its digest says" in done.stderr


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_an_image_that_is_damaged_where_it_comes_from(builder: Builder, form: str) -> None:
    done = builder.unpack(builder.fetch((PACKED[form](ONE), OCI_LAYER.replace("gzip", form)), tars=(TWO,)))
    assert done.returncode == 1
    assert "match" in done.stderr


@pytest.mark.parametrize(("form", "times"), [("gzip", 8), ("zstd", 8), ("tar", 3)])
def test_how_much_a_layer_will_take_in_memory_is_told_by_its_bytes(builder: Builder, form: str, times: int) -> None:
    """Of what was fetched, whatever was known of it before."""
    content = tar(("random", os.urandom(1 << 20)))
    manifest = builder.fetch((PACKED[form](content), OCI_LAYER.replace("gzip", form)), tars=(content,))
    look = 'sed -n "s,^build [^ ]*/build tmpfs .*size=\\([0-9]*\\)k.*,\\1,p" /proc/mounts >"$root/size"'
    done = builder.unpack(manifest, memory=1 << 20, after=look)
    assert (done.returncode, done.stderr) == (0, "")
    more = int((builder.root / "size").read_text()) - 3 * 16384  # for the runtime
    assert times * 1024 < more < (times + 2) * 1024


def test_what_is_no_tar_is_umocis_to_refuse(builder: Builder) -> None:
    nonsense = b"this is no tar" * 1000
    done = builder.unpack(builder.fetch((PACKED["gzip"](nonsense), OCI_LAYER), tars=(nonsense,)))
    assert done.returncode == 1
    assert "invalid tar header" in done.stderr


# ---- how much it may take


def bomb(*members: tuple[str, int]) -> bytes:
    """Compressed, next to nothing."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
        for name, size in members:
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    return made.getvalue()


@pytest.mark.parametrize("form", ["gzip", "zstd"])
@pytest.mark.parametrize("members", [[("one", 300 << 20)], [(f"many{number}", 0) for number in range(40_000)]])
def test_an_image_that_takes_too_much_is_ended(builder: Builder, members: Sequence[tuple[str, int]], form: str) -> None:
    packed = bomb(*members)
    layer = gzip.decompress(packed)
    if form == "zstd":
        packed = zstd(layer)
    manifest = builder.fetch((packed, OCI_LAYER.replace("gzip", form)), tars=(layer,))
    limit, told = (20 << 10, "20 MiB") if len(members) == 1 else (976, "976 KiB")  # 1MB
    done = builder.unpack(manifest, limit=limit)
    assert (done.returncode, done.stderr) == (1, f"unpacked, the image takes more than {told}\n")


# Writes what is nearly all of a small disk, and then waits for what comes.
FILLS = """#!/bin/busybox sh
for target; do :; done
/bin/busybox mkdir "$target"
block=$(/bin/busybox head -c 65536 /run/build/block)
i=0
while [ "$i" -lt 1180 ]; do echo "$block"; i=$((i + 1)); done >"$target/file"
exec /bin/busybox sleep 20
"""


@pytest.mark.parametrize("mebibytes", [80, 200])
def test_of_a_pool_that_is_nearly_full_an_image_takes_no_more_than_is_usual(builder: Builder, mebibytes: int) -> None:
    builder.root.write("/run/build/block", "x" * 65536)
    builder.root.write("/usr/bin/umoci", FILLS, 0o755)
    manifest = builder.fetch((PACKED["gzip"](ONE), OCI_LAYER), tars=(ONE,))
    done = builder.unpack(manifest, before=f"mount -t tmpfs -o size={mebibytes}m pool build")
    if mebibytes == 80:
        assert done.returncode == 1
        assert done.stderr.endswith(" MiB, and the storage pool has no space left for others\n")
    else:
        assert (done.returncode, done.stderr) == (0, "")
