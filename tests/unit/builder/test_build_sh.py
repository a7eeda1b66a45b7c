"""A whole build in one command, with scripts in the place of skopeo, umoci and mksquashfs: what it tells and gives, and
which step failed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import pytest

from lxdocker import log
from lxdocker.builder import instance, recipe
from lxdocker.builder.instance import KILLED, STEP
from lxdocker.builder.recipe import (
    DAMAGED,
    FAILED_STEPS,
    NOT_CACHED,
    NOT_CONNECTED,
    NOT_LAUNCHABLE,
    UNPACKING_FAILED,
    BuildRequest,
    DamagedCache,
    NotCachedError,
)
from lxdocker.config.spec import Behaviour
from lxdocker.errors import BuildError
from lxdocker.http.route import NOWHERE, Route
from lxdocker.image import artifact
from lxdocker.lxd.command import OutOfTimeError, Result
from lxdocker.source.oci import OciConfig
from lxdocker.values import Arch, Digest, ImageName, RegistryRef
from tests.chroots import Root, needs_namespaces

pytestmark = needs_namespaces

REQUEST = BuildRequest(
    name=ImageName("app"),
    source=RegistryRef("registry.example", "app", "1", None),
    config=OciConfig(cmd=("/app",), created=1_700_000_000),
    supervise=True,
    behaviour=Behaviour(),
    arch=Arch.X86_64,
    properties=(),
    compression_level=7,
    timeout=60,
    route=NOWHERE,
    authfile='{"auths": {}}',
    layers=("aa", "bb"),
    size=None,
    stall_timeout=60,
    size_limit=None,
    in_memory=False,
)
MANIFEST = hashlib.sha256(b"{}\n").hexdigest()
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
STEPS = "\f\f\f\f\f"  # on stderr, where nothing is amiss


class Builder(instance.Builder):
    """A builder that is a chroot, of which recipe asks no more than this."""

    def __init__(self) -> None:
        self.name = "builder-1"

    @property
    def way(self) -> str:
        return "lease"

    def by_hand(self, argv: Sequence[str]) -> str:
        return log.shell(["lxc", "exec", self.name, "--", *argv])


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root.make(tmp_path / "builder", "/bin/busybox")
    for folder in ("cache", "build", "run", "tmp"):
        (made / folder).mkdir()
    made.write("/etc/resolv.conf", "nameserver 10.0.0.1\n")
    made.write("/usr/bin/gosu")
    made.install("perl")
    return made


@dataclass(frozen=True)
class Built:
    """How a build ended."""

    returncode: int
    stdout: str  # without the commands
    stderr: str
    args: Sequence[str]
    told: Sequence[str]  # the commands, as it told them


def build(
    root: Root,
    skopeo: str = SKOPEO,
    umoci: str = UMOCI,
    mksquashfs: str = MKSQUASHFS,
    *,
    damaged: DamagedCache | None = None,
    in_memory: bool = False,
    route: Route = NOWHERE,
    after: str = "",
    request: BuildRequest = REQUEST,
) -> Built:
    for name, script in (("skopeo", skopeo), ("umoci", umoci), ("mksquashfs", mksquashfs)):
        root.write(f"/usr/bin/{name}", f"#!/bin/busybox sh\nset -e\n{script}", 0o755)
    wanted = replace(request, in_memory=in_memory, route=route)
    argv = recipe._build_argv(Builder(), wanted, damaged)
    done = root.run(*argv, stdin=recipe.given(wanted), after=after)
    lines = done.stdout.splitlines(keepends=True)
    told = [line for line in lines if line.startswith(("run ", "ran ", "failed "))]
    return Built(done.returncode, "".join(line for line in lines if line not in told), done.stderr, argv, told)


def test_what_it_tells_and_gives(root: Root) -> None:
    done = build(root)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, STEPS)
    assert (root / "packed-by").read_text().split()[-4:] == ["-mkfs-time", "1700000000", "-mem", "512M"]
    assert "-Xcompression-level 7" in (root / "packed-by").read_text()
    assert (root / "cache/manifests/app").read_text() == f"sha256:{MANIFEST}\n"
    assert list((root / "cache/work").iterdir()) == []


def test_it_tells_the_commands_that_it_runs(root: Root) -> None:
    """And what these run: pasted into a shell of the builder, they do the same once more."""
    done = build(root)
    commands = [(word, shlex.split(rest)) for word, _, rest in (line.rstrip("\n").partition(" ") for line in done.told)]
    assert [word for word, _ in commands] == ["run", "run", "ran", "run", "run", "run"]
    fetch, unpack, umoci, inject, check, pack = (argv for _, argv in commands)
    assert fetch[2:4] == ["/run/build/fetch.sh", "app"]
    assert fetch[fetch.index("skopeo") :] == list(done.args[done.args.index("skopeo") :])
    assert unpack[2] == "/run/build/unpack.sh"
    assert umoci == [
        *("/bin/busybox", "env", "GOGC=400"),
        *("umoci", "--log=warn", "raw", "unpack", "--image", "/run/layout:image", "/build/rootfs"),
    ]
    assert inject[-3:] == ["/run/build/inject.sh", "/build/rootfs", "1700000000"]
    assert check[2] == "/run/build/check.sh"
    assert pack[0] == "mksquashfs"
    assert " ".join(pack[1:]) == (root / "packed-by").read_text().strip()


@pytest.mark.parametrize("cached", [False, True])
def test_an_image_that_the_layer_cache_has_is_not_fetched(root: Root, cached: bool) -> None:
    """Nor is its network waited for; and ``cached``, nothing is there that could fetch it."""
    blob = {"digest": f"sha256:{MANIFEST}", "size": 3}
    raw = json.dumps({"config": blob, "layers": []}).encode()
    wanted = Digest.of(raw)
    request = replace(
        REQUEST,
        source=RegistryRef("registry.example", "app", None, wanted),
        raw_manifest=raw,
        cached=cached,
        authfile=None,
    )
    fetching = "echo fetched >>/fetched; exit 1"
    missing = build(root, skopeo=fetching, request=request)
    assert missing.returncode == (NOT_CACHED if cached else 72)
    assert (root / "fetched").exists() is not cached
    root.write(f"/cache/blobs/sha256/{MANIFEST}", "{}\n")
    (root / "etc/resolv.conf").unlink()  # there is no lease
    done = build(root, skopeo=fetching, request=request)
    assert (done.returncode, done.stdout) == (0, WHOLE.replace(MANIFEST, wanted.hex))
    assert (root / "cache/manifests/app").read_text() == f"{wanted}\n"


@pytest.mark.parametrize("words", ["echo no such file >&2; exit 1", "kill -9 $$"])
def test_where_umoci_fails_it_is_told_as_what_failed(root: Root, words: str) -> None:
    """Although others were tried in its place since."""
    done = build(root, umoci=words)
    commands = [shlex.split(line) for line in done.told]
    assert commands[-1][:5] == ["failed", "/bin/busybox", "env", "GOGC=400", "umoci"]
    assert [command[3] for command in commands if command[0] == "ran" and command[2] == "sh"] == ["/run/build/mend.sh"]


def test_the_commands_told_make_the_same_when_they_are_pasted_into_a_shell(root: Root) -> None:
    first = build(root, skopeo=SKOPEO.replace("[ -s /dev", "[ -n '' ] || [ -s /dev"))
    assert first.returncode == 0
    (root / "packed-by").unlink()
    (root / "build/rootfs.squashfs").unlink()
    pasted = "\n".join(line.removeprefix("run ").strip() for line in first.told if line.startswith("run "))
    auth = "/bin/busybox mkdir -p /dev/lxdocker-secrets; echo x >/dev/lxdocker-secrets/auth.json"
    again = root.run("/bin/busybox", "sh", "-ec", f"{auth}\n{pasted}")
    assert (again.returncode, again.stderr) == (0, "")
    assert (root / "build/rootfs.squashfs").read_text() == "content\n"


@pytest.mark.parametrize(
    "word", ["", "a b", "it's", "''", "a'", "$HOME", 'say "x"', "\\n", "naïve", "*", "a=b,c:/d@e%f+g-h_i"]
)
def test_words_are_quoted_as_a_shell_reads_them(root: Root, word: str) -> None:
    root.write("/quoted.sh", recipe.QUOTED.read_bytes())
    done = root.run("/bin/busybox", "sh", "-euc", '. /quoted.sh; quoted "$@"', "sh", word, "next")
    assert shlex.split(done.stdout) == [word, "next"]


def test_proxies_are_for_fetching_alone_and_in_no_argument(root: Root) -> None:
    """Their addresses may have a login in them."""
    seen = '[ "$https_proxy" = "http://user:pass@proxy:1" ]\n'
    unseen = '[ -z "${https_proxy-}" ]\n'
    done = build(
        root,
        seen + SKOPEO,
        unseen + UMOCI,
        unseen + MKSQUASHFS,
        route=Route(proxies={"https_proxy": "http://user:pass@proxy:1"}),
    )
    assert (done.returncode, done.stderr) == (0, STEPS)
    assert "user:pass" not in "".join(done.args)


def test_it_tells_how_much_has_come(root: Root) -> None:
    root.write("/cache/blobs/sha256/aa", b"x" * 100)
    done = build(root, SKOPEO + "echo 12345 >/cache/blobs/sha256/bb\nsleep 2.5")
    assert re.match(r"phase fetch\n(fetched 106\n)+manifest sha256:[0-9a-f]+\nphase unpack\n", done.stdout)
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


def test_an_image_that_lxd_would_refuse_is_not_packed(root: Root) -> None:
    done = build(root, umoci=UMOCI + '/bin/busybox ln -s /etc/motd "$target/metadata.yaml"\n')
    assert done.returncode == NOT_LAUNCHABLE
    assert "/metadata.yaml is a link" in done.stderr.rpartition(STEP)[2]
    assert not (root / "packed-by").exists()


def test_no_way_to_the_image(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "NETWORK_SECONDS", 0)
    (root / "etc/resolv.conf").unlink()
    done = build(root, skopeo="echo ran >/ran")
    assert done.returncode == NOT_CONNECTED
    assert not (root / "ran").exists()


def test_only_what_damaged_the_last_try_is_fetched_again(root: Root) -> None:
    root.write("/cache/blobs/sha256/dd", b"of another image")
    content = b"layer\n"
    layer = hashlib.sha256(content).hexdigest()
    manifest = json.dumps({"layers": [{"digest": f"sha256:{layer}"}]}) + "\n"
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    blob = f"/cache/blobs/sha256/{layer}"
    skopeo = f"[ -e {blob} ] || echo fetched >>/fetched\n" + SKOPEO.replace("{}", manifest.strip())
    skopeo = skopeo.replace(MANIFEST, digest) + f"echo layer >{blob}\n"
    assert build(root, skopeo, umoci="exit 1").returncode == UNPACKING_FAILED
    assert build(root, skopeo).returncode == 0
    assert (root / "fetched").read_text() == "fetched\n"
    damaged = DamagedCache(Digest(f"sha256:{digest}"))
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
    assert (done.stderr == STEPS) == (status == 0)
    assert (root / "fetched").read_text() == "x\n"
    assert (root / "tried").read_text() == "x\n" * 4


def test_what_an_earlier_step_said_is_no_reason_for_a_later_failure(root: Root) -> None:
    done = build(
        root, SKOPEO + "echo 'retrying: connection refused' >&2\n", umoci="echo lchown x: invalid argument >&2; exit 1"
    )
    error = instance.explain("unpacking", Result(done.returncode, "", done.stderr))
    assert error.details == "lchown x: invalid argument"
    assert "/etc/subuid" in error.resolution


def test_only_owners_beyond_the_map_are_explained_as_such(root: Root) -> None:
    done = build(root, umoci="echo lchown x: operation not permitted >&2; exit 1")
    error = instance.explain("unpacking", Result(done.returncode, "", done.stderr))
    assert "/etc/subuid" not in error.resolution


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
    for layer in REQUEST.layers:
        root.write(f"/cache/blobs/sha256/{layer}", b"x" * 1000)
    done = build(root, in_memory=True, after=LOOK)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, STEPS)
    assert (root / "was-in-memory").exists() == expected
    assert (root / "build/rootfs/file").exists() != expected


def test_what_does_not_fit_after_all_is_unpacked_on_disk(root: Root) -> None:
    """And of the first try nothing is heard, which would pass for the reason of a later failure."""
    for layer in REQUEST.layers:
        root.write(f"/cache/blobs/sha256/{layer}", b"x" * 1000)
    full = "if /bin/busybox grep -q ' /build tmpfs ' /proc/mounts; then echo no space left >&2; exit 1; fi\n"
    done = build(root, umoci=full + UMOCI, in_memory=True, after=LOOK)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE, STEPS)
    assert not (root / "was-in-memory").exists()


# ---- what it needs


def test_names_and_authorities_are_those_of_its_host(root: Root) -> None:
    """And nobody else is trusted, whom the builder image may know."""
    look = """
    [ "$(/bin/busybox cat "$SSL_CERT_FILE")" = "the authorities" ]
    [ "${SSL_CERT_DIR-}" ] && [ ! -e "$SSL_CERT_DIR" ]
    [ "$(/bin/busybox awk '$2 == "registry.example" { print $1 }' /etc/hosts)" = 127.0.0.1 ]
    [ "$(/bin/busybox grep -c localhost /etc/hosts)" = 2 ]
    """
    route = Route(authorities=b"the authorities", names=(("127.0.0.1", "registry.example"),))
    done = build(root, look + SKOPEO, '[ -z "${SSL_CERT_FILE-}" ]\n' + UMOCI, route=route)
    assert (done.returncode, done.stderr) == (0, STEPS)


def test_only_root_can_read_what_it_is_given() -> None:
    files = dict.fromkeys(("ca.crt", "client.cert", "client.key"), b"x")
    given = recipe.given(replace(REQUEST, route=Route(certificates=files)))
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

    def __init__(self, *pieces: bytes, phases: Sequence[str] = ("fetch", "unpack", "pack")) -> None:
        self.phases: list[str] = []
        self.counts: list[int] = []
        self.steps = 0
        self.telling = recipe._Telling(
            REQUEST.source, recipe.Listener(self.phases.append, self.counts.append), phases=phases
        )
        self.content = b"".join(self.telling.squashfs(iter(pieces), self._step))

    def _step(self, phase: str) -> None:
        self.steps += 1


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_and_the_squashfs_come_apart_wherever_the_pieces_end(size: int) -> None:
    stream = b"phase fetch\nfetched 17\nfetched 20\n" + f"manifest sha256:{MANIFEST}\nlost 3\n".encode()
    stream += b"phase unpack\nsquashfs 13\nhsqs\nphase x\n"
    heard = Heard(*[stream[start : start + size] for start in range(0, len(stream), size)])
    assert heard.content == b"hsqs\nphase x\n"
    assert heard.phases == ["fetch", "unpack", "export"]
    assert heard.counts == [17, 3]
    assert heard.steps == 3
    assert heard.telling.size == 13
    assert heard.telling.manifest == Digest(f"sha256:{MANIFEST}")
    assert heard.telling.lost == 3


def test_commands_in_the_image_are_phases_and_their_output_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stream = b"said before\nphase run 0\nsaid one\x1b[31m\nphase run 1\nphase run 1\nphase run 7\nsaid two\n"
    stream += b"phase pack\nsaid x\n"
    with caplog.at_level("INFO", "lxdocker"):
        heard = Heard(stream, phases=("run 0", "run 1", "pack"))
    assert heard.phases == ["run 1 of 2", "run 2 of 2", "pack"]
    assert caplog.messages == ["| one [31m", "| two"]
    assert heard.steps == 3


def test_a_builder_gets_no_time_for_saying_the_same_again_nor_words_of_its_own() -> None:
    heard = Heard(b"phase fetch\nphase fetch\nphase \x1b[31m\nfetched -1\nfetched \xc2\xb2\nmanifest x\nsudo\n\n\xff\n")
    assert heard.phases == ["fetch"]
    assert heard.steps == 1
    assert sum(heard.counts) == 0
    assert heard.telling.manifest is None


def test_commands_are_logged_as_this_host_s_shell_reads_them(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a builder says, it can't end the words of one."""
    with caplog.at_level("INFO", "lxdocker"):
        heard = Heard(b"run skopeo copy 'a b'\nran umoci ';reboot' $(reboot)\nrun 'never ending\n")
    assert caplog.messages == ["++ skopeo copy 'a b'", "+++ umoci ';reboot' '$(reboot)'"]
    assert heard.telling.command == ["umoci", ";reboot", "$(reboot)"]
    assert heard.steps == 0


def test_the_command_whose_words_are_the_reason_is_the_failing_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lxdocker"):
        heard = Heard(b"run sh unpack.sh\nran umoci\nran sh mend.sh\nfailed umoci\n")
    assert heard.telling.command == ["umoci"]
    assert caplog.messages == ["++ sh unpack.sh", "+++ umoci", "+++ sh mend.sh"]


def test_not_every_command_of_a_builder_that_says_too_much_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lxdocker"):
        Heard(b"run x\n" * 1000)
    assert len(caplog.messages) == recipe.MOST_COMMANDS


def test_a_long_command_is_told_whole() -> None:
    heard = Heard(b"run " + b"x" * 5000, b"x" * 5000 + b"\nphase fetch\n")
    assert heard.telling.command == ["x" * 10000]
    with pytest.raises(BuildError, match="building registry"):
        Heard(b"run " + b"x" * 10000, b"x" * 10000)


def test_the_failing_command_is_told(tmp_path: Path) -> None:
    said = FETCHED_ONLY + b"run sh unpack.sh\nran umoci raw unpack\n"
    for status, details in ((UNPACKING_FAILED, "bad"), (DAMAGED, "bad"), (NOT_LAUNCHABLE, "bad")):
        builder = Scripted(Result(status, "", "\fbad\n"), said.replace(b"manifest", b"man"))
        with pytest.raises(BuildError) as caught:
            build_in(tmp_path, builder)
        assert caught.value.details == f"{details}\ncommand: umoci raw unpack"


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

    def is_gone(self) -> bool:
        return False

    @contextmanager
    def running(self, argv: Sequence[str], **_: Any) -> Iterator[Any]:
        self.ran.append(list(argv))
        yield SimpleNamespace(output=lambda: iter([self.said]), allow=lambda seconds: None), lambda: self.result


FETCHED_ONLY = FETCHED.encode() + b"phase unpack\n"


def build_in(tmp_path: Path, *builders: Scripted) -> artifact.Artifact:
    waiting = list(builders)
    listener = recipe.Listener(lambda text: None, lambda amount: None)
    return recipe.build_image(lambda: nullcontext(waiting.pop(0)), REQUEST, tmp_path, listener)


def cleaned(builder: Scripted) -> bool:
    return builder.ran[-1] == recipe._clean_up_argv(builder)


@pytest.mark.parametrize(
    ("said", "doing"),
    [
        (b"", "building"),
        (b"phase fetch\n", "fetching"),
        (FETCHED_ONLY, "unpacking"),
        (WHOLE[:-1].encode(), "exporting"),
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


def test_why_lxd_could_not_launch_it_is_said_with_what_to_do(tmp_path: Path) -> None:
    refused = Scripted(Result(NOT_LAUNCHABLE, "", "\fnoise\n\f/a is a link: why\n/b is a folder: why\n"), FETCHED_ONLY)
    with pytest.raises(BuildError) as caught:
        build_in(tmp_path, refused)
    assert caught.value.brief == "registry.example/app:1 can't be launched by LXD"
    assert caught.value.details == "/a is a link: why\n/b is a folder: why"
    assert "RUN rm -rf PATH" in caught.value.resolution
    assert cleaned(refused)


def test_a_full_disk_is_no_damage_whatever_its_words(tmp_path: Path) -> None:
    builder = Scripted(Result(UNPACKING_FAILED, "", "\fwrite hash/digest: no space left on device\n"), FETCHED_ONLY)
    with pytest.raises(BuildError) as caught:
        build_in(tmp_path, builder)
    assert "pool is full" in caught.value.resolution


def test_damage_is_fetched_again_once_in_another_builder(tmp_path: Path) -> None:
    broken = Scripted(Result(DAMAGED, "", "\fa blob is not what its digest says\n"), FETCHED_ONLY)
    good = Scripted(Result(0), WHOLE.encode())
    assert build_in(tmp_path, broken, good).rootfs_size == 8
    assert f"sha256:{MANIFEST}" not in broken.ran[0]
    assert f"sha256:{MANIFEST}" in good.ran[0]
    assert cleaned(broken)
    assert not cleaned(good)
    with pytest.raises(BuildError, match="unpacking registry"):
        build_in(tmp_path, broken, broken)


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("unpacked, the image takes more than 1044 MiB", "image_size_limit"),
        ("no data from the registry for 60 s", "stall_timeout"),
        ("more data than the image should have: over 64 MiB in one piece", "image_size_limit"),
    ],
)
def test_a_limit_is_named_with_its_setting(said: str, setting: str) -> None:
    assert setting in instance.explain("fetching", Result(72, "", f"\f{said}\n")).resolution


def test_what_the_layer_cache_lacks_is_for_the_host_to_fetch(tmp_path: Path) -> None:
    """And no failure, for which a builder might be kept."""
    builder = Scripted(Result(NOT_CACHED), b"phase fetch\n")
    left: list[None] = []

    @contextmanager
    def opened() -> Iterator[instance.Builder]:
        yield builder
        left.append(None)

    with pytest.raises(NotCachedError):
        recipe.build_image(opened, REQUEST, tmp_path, recipe.Listener(lambda _: None, lambda _: None))
    assert (left, cleaned(builder)) == ([None], True)


@pytest.mark.parametrize("status", [UNPACKING_FAILED, 72])
def test_other_failures_are_not_tried_again(tmp_path: Path, status: int) -> None:
    """Whatever their words."""
    broken = Scripted(Result(status, "", "\fdigest mismatch\n"), FETCHED_ONLY)
    with pytest.raises(BuildError):
        build_in(tmp_path, broken)
    assert cleaned(broken)


def test_a_disk_of_this_host_that_is_full_leaves_neither_login_nor_what_was_fetched(tmp_path: Path) -> None:
    builder = Scripted(Result(0), WHOLE.encode())
    with pytest.raises(OSError, match="No such file"):
        build_in(tmp_path / "gone", builder)
    assert cleaned(builder)


def test_less_than_was_announced_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exporting"):
        build_in(tmp_path, Scripted(Result(0), WHOLE.encode()[:-1]))
    with pytest.raises(BuildError, match="exporting"):
        build_in(tmp_path, Scripted(Result(0), FETCHED_ONLY))
