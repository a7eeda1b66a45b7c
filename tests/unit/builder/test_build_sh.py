"""A whole build in one command, with scripts in the place of skopeo, umoci and mksquashfs: what it tells and gives, and
which step failed.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import pytest

from lxdocker import artifact
from lxdocker.builder import instance, recipe
from lxdocker.builder.instance import KILLED, STEP
from lxdocker.builder.recipe import FAILED_STEPS, NOT_CONNECTED, UNPACKING_FAILED, DamagedCache, Recipe
from lxdocker.command import OutOfTimeError, Result
from lxdocker.errors import BuildError
from lxdocker.oci import OciConfig
from lxdocker.spec import Behaviour
from lxdocker.values import Arch, Digest, ImageName, RegistryRef
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


FETCHED = f"phase fetch\nmanifest sha256:{MANIFEST}\n"
WHOLE = f"{FETCHED}phase unpack\nphase pack\nsquashfs 8\ncontent\n"
STEPS = "\f\f\f\f"  # on stderr, where nothing is amiss


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
    damaged: DamagedCache | None = None,
    in_memory: bool = False,
    environment: dict[str, str] | None = None,
    after: str = "",
) -> subprocess.CompletedProcess[str]:
    for name, script in (("skopeo", skopeo), ("umoci", umoci), ("mksquashfs", mksquashfs)):
        root.write(f"/usr/bin/{name}", f"#!/bin/busybox sh\nset -e\n{script}", 0o755)
    wanted = replace(RECIPE, in_memory=in_memory, environment=environment or {})
    argv = recipe._build_argv(Builder(), wanted, damaged)
    return root.run(*argv, stdin=recipe._given(wanted), after=after)


def test_what_it_tells_and_gives(root: Root) -> None:
    done = build(root)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, STEPS)
    assert (root / "packed-by").read_text().split()[-4:] == ["-mkfs-time", "1700000000", "-mem", "512M"]
    assert "-Xcompression-level 7" in (root / "packed-by").read_text()
    assert (root / "cache/manifests/app").read_text() == f"sha256:{MANIFEST}\n"
    assert list((root / "cache/work").iterdir()) == []


def test_proxies_are_for_fetching_alone_and_in_no_argument(root: Root) -> None:
    """Their addresses may have a login in them."""
    seen = '[ "$https_proxy" = "http://user:pass@proxy:1" ]\n'
    unseen = '[ -z "${https_proxy-}" ]\n'
    done = build(
        root,
        seen + SKOPEO,
        unseen + UMOCI,
        unseen + MKSQUASHFS,
        environment={"https_proxy": "http://user:pass@proxy:1"},
    )
    assert (done.returncode, done.stderr) == (0, STEPS)
    assert "user:pass" not in "".join(done.args)


def test_it_tells_how_much_has_come(root: Root) -> None:
    root.write("/cache/blobs/sha256/aa", b"x" * 100)
    done = build(root, SKOPEO + "echo 12345 >/cache/blobs/sha256/bb\nsleep 2.5")
    assert re.match(r"phase fetch\n(fetched 106\n)+manifest sha256:c+\nphase unpack\n", done.stdout)
    assert done.returncode == 0


@pytest.mark.parametrize("words", ["echo no space left >&2; exit 1", "kill -9 $$", "exit 1"])
@pytest.mark.parametrize("step", ["fetching", "unpacking", "injecting the runtime into", "packing"])
def test_which_step_failed(root: Root, step: str, words: str) -> None:
    before = "phase fetch\n"
    if step == "fetching":
        done = build(root, skopeo=words)
    elif step == "unpacking":
        done = build(root, umoci=words)
        before = f"{FETCHED}phase unpack\n"
    elif step == "packing":
        done = build(root, mksquashfs=words)
        before = f"{FETCHED}phase unpack\nphase pack\n"
    else:
        # A tar on stdin that is none, and so no words of our own.
        done = build(root, umoci=UMOCI + "echo not a tar >/run/build/runtime.tar\n")
        before = f"{FETCHED}phase unpack\nphase pack\n"
        words = ""
    assert FAILED_STEPS[done.returncode] == step
    assert done.stdout == before
    said = done.stderr.rpartition(STEP)[2]
    assert not words.startswith("echo") or said == "no space left\n"
    assert not words.startswith("kill") or said.endswith(f"{KILLED}\n")
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
    damaged = DamagedCache(Digest(f"sha256:{MANIFEST}"))
    assert build(root, skopeo, UMOCI.replace("mkdir", "mkdir -p"), damaged=damaged).returncode == 0
    assert (root / "fetched").read_text() == "fetched\nfetched\n"
    assert (root / "cache/blobs/sha256/dd").exists()


@pytest.mark.parametrize(("crashes", "status"), [(3, 0), (4, UNPACKING_FAILED)])
def test_a_crash_of_umoci_is_tried_again_without_fetching(root: Root, crashes: int, status: int) -> None:
    skopeo = SKOPEO + "echo x >>/fetched\n"
    crash = f"""
echo x >>/tried
if [ "$(/bin/busybox wc -l </tried)" -le {crashes} ]; then
	echo 'panic: closed' >&2
	echo 'goroutine 1 [running]:' >&2
	exit 2
fi
"""
    done = build(root, skopeo, crash + UMOCI)
    assert done.returncode == status
    assert ("goroutine" in done.stderr) == (status != 0)
    assert (root / "fetched").read_text() == "x\n"
    assert (root / "tried").read_text() == "x\n" * 4


def test_what_an_earlier_step_said_is_no_reason_for_a_later_failure(root: Root) -> None:
    done = build(root, SKOPEO + "echo 'retrying: connection refused' >&2\n", umoci="echo lchown >&2; exit 1")
    error = instance.explain("unpacking", Result(done.returncode, "", done.stderr))
    assert error.details == "lchown"
    assert "/etc/subuid" in error.resolution


def test_a_login_that_was_not_used_goes_too(root: Root) -> None:
    """Where the first step fails already, before fetch.sh."""
    (root / "build").rmdir()
    done = build(root, damaged=DamagedCache(Digest(f"sha256:{MANIFEST}")))
    assert FAILED_STEPS[done.returncode] == "fetching"
    assert not (root / "dev/lxdocker-secrets").exists()


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
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, STEPS)
    assert (root / "was-in-memory").exists() == expected
    assert (root / "build/rootfs/file").exists() != expected


def test_what_does_not_fit_after_all_is_unpacked_on_disk(root: Root) -> None:
    """And of the first try nothing is heard, which would pass for the reason of a later failure."""
    for layer in RECIPE.layers:
        root.write(f"/cache/blobs/sha256/{layer}", b"x" * 1000)
    full = "if /bin/busybox grep -q ' /build tmpfs ' /proc/mounts; then echo no space left >&2; exit 1; fi\n"
    done = build(root, umoci=full + UMOCI, in_memory=True, after=LOOK)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, STEPS)
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


class Heard:
    """What a telling was made of."""

    def __init__(self, *pieces: bytes) -> None:
        self.phases: list[str] = []
        self.counts: list[int] = []
        self.steps = 0
        self.telling = recipe._Telling(RECIPE.source, self.phases.append, self.counts.append)
        self.content = b"".join(self.telling.squashfs(iter(pieces), self._step))

    def _step(self) -> None:
        self.steps += 1


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_and_the_squashfs_come_apart_wherever_the_pieces_end(size: int) -> None:
    stream = b"phase fetch\nfetched 17\nfetched 20\n" + f"manifest sha256:{MANIFEST}\n".encode()
    stream += b"phase unpack\nsquashfs 13\nhsqs\nphase x\n"
    heard = Heard(*[stream[start : start + size] for start in range(0, len(stream), size)])
    assert heard.content == b"hsqs\nphase x\n"
    assert heard.phases == ["fetch", "unpack", "read out"]
    assert heard.counts == [17, 3]
    assert heard.steps == 3
    assert heard.telling.size == 13
    assert heard.telling.manifest == Digest(f"sha256:{MANIFEST}")


def test_a_builder_gets_no_time_for_saying_the_same_again_nor_words_of_its_own() -> None:
    heard = Heard(b"phase fetch\nphase fetch\nphase \x1b[31m\nfetched -1\nfetched \xc2\xb2\nmanifest x\nsudo\n\n\xff\n")
    assert heard.phases == ["fetch"]
    assert heard.steps == 1
    assert sum(heard.counts) == 0
    assert heard.telling.manifest is None


def test_a_build_that_fails_gives_no_squashfs() -> None:
    heard = Heard(b"phase fetch\n", b"half a li")
    assert (heard.content, heard.telling.size) == (b"", None)
    assert Heard().content == b""


@pytest.mark.parametrize(
    "stream", [b"x" * 1200, b"squashfs\n", b"squashfs -1\n", b"squashfs 3\nhsqs", b"squashfs 3\nhsq" + b"s" * 9]
)
def test_what_no_build_says(stream: bytes) -> None:
    with pytest.raises(BuildError, match=r"building registry.example/app:1 failed"):
        Heard(*[stream[start : start + 600] for start in range(0, len(stream), 600)])


# ---- damage


class Scripted(Builder):
    """A builder whose commands end as a test wants it."""

    def __init__(self, result: Result, said: bytes) -> None:
        super().__init__()
        self.result, self.said = result, said
        self.ran: list[list[str]] = []

    @contextmanager
    def running(self, argv: Sequence[str], **_: Any) -> Iterator[Any]:
        self.ran.append(list(argv))
        yield SimpleNamespace(output=lambda: iter([self.said]), allow=lambda seconds: None), lambda: self.result


FETCHED_ONLY = FETCHED.encode() + b"phase unpack\n"
CRASH = "\fpanic\ngoroutine 1 [running]:\n"


def build_in(tmp_path: Path, *builders: Scripted) -> artifact.Artifact:
    waiting = list(builders)
    return recipe.build_image(
        lambda: nullcontext(waiting.pop(0)), RECIPE, tmp_path, lambda text: None, lambda amount: None
    )


def cleaned(builder: Scripted) -> bool:
    return builder.ran[-1] == recipe._clean_up_argv(builder)


@pytest.mark.parametrize(
    ("said", "doing"),
    [
        (b"", "building"),
        (b"phase fetch\n", "fetching"),
        (FETCHED_ONLY, "unpacking"),
        (WHOLE[:-1].encode(), "reading out"),
    ],
)
def test_a_step_that_takes_too_long_is_named(tmp_path: Path, said: bytes, doing: str) -> None:
    class Slow(Scripted):
        @contextmanager
        def running(self, argv: Sequence[str], **words: Any) -> Iterator[Any]:
            with super().running(argv, **words) as (command, end):
                yield SimpleNamespace(output=lambda: self.late(command.output()), allow=command.allow), end

        def late(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
            yield from pieces
            raise OutOfTimeError("running failed", "it took longer than 60 s")

    builder = Slow(Result(0), said)
    with pytest.raises(BuildError) as caught:
        build_in(tmp_path, builder)
    assert caught.value.brief == f"{doing} registry.example/app:1 failed"
    assert caught.value.details == "it took longer than 60 s"
    assert "build_timeout" in caught.value.resolution
    assert cleaned(builder)


def test_the_first_error_counts_whatever_comes_of_cleaning_up(tmp_path: Path) -> None:
    class Gone(Scripted):
        def try_run(self, argv: Sequence[str], **_: Any) -> Result:
            raise RuntimeError("can't start new thread")

    with pytest.raises(BuildError, match="fetching registry"):
        build_in(tmp_path, Gone(Result(72), b"phase fetch\n"))


def test_a_full_disk_is_no_damage_whatever_its_words(tmp_path: Path) -> None:
    builder = Scripted(Result(UNPACKING_FAILED, "", "\fwrite hash/digest: no space left on device\n"), FETCHED_ONLY)
    with pytest.raises(BuildError) as caught:
        build_in(tmp_path, builder)
    assert "pool is full" in caught.value.resolution


@pytest.mark.parametrize("words", [CRASH, "\fdigest mismatch\n"])
def test_damage_is_fetched_again_once_in_another_builder(tmp_path: Path, words: str) -> None:
    broken = Scripted(Result(UNPACKING_FAILED, "", words), FETCHED_ONLY)
    good = Scripted(Result(0), WHOLE.encode())
    assert build_in(tmp_path, broken, good).rootfs_size == 8
    assert f"sha256:{MANIFEST}" not in broken.ran[0]
    assert f"sha256:{MANIFEST}" in good.ran[0]
    assert cleaned(broken)
    assert not cleaned(good)
    with pytest.raises(BuildError, match="unpacking registry"):
        build_in(tmp_path, broken, broken)


@pytest.mark.parametrize(
    ("status", "words"), [(UNPACKING_FAILED, "\fdigest mismatch\n\flchown\n"), (72, "\fdigest mismatch\n")]
)
def test_other_failures_are_not_tried_again(tmp_path: Path, status: int, words: str) -> None:
    broken = Scripted(Result(status, "", words), FETCHED_ONLY)
    with pytest.raises(BuildError):
        build_in(tmp_path, broken)
    assert cleaned(broken)


def test_a_disk_of_this_host_that_is_full_leaves_neither_login_nor_what_was_fetched(tmp_path: Path) -> None:
    builder = Scripted(Result(0), WHOLE.encode())
    with pytest.raises(OSError, match="No such file"):
        build_in(tmp_path / "gone", builder)
    assert cleaned(builder)


def test_less_than_was_announced_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="reading out"):
        build_in(tmp_path, Scripted(Result(0), WHOLE.encode()[:-1]))
    with pytest.raises(BuildError, match="reading out"):
        build_in(tmp_path, Scripted(Result(0), FETCHED_ONLY))
