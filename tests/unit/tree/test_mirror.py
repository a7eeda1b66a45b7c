"""Mirroring from real servers on loopback: plain ones, ones that fail, and ones that lie."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lxdocker.errors import LxdockerError, MirrorError, TreeError, UsageError
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.progress import Progress
from lxdocker.tree import retention, rollback
from lxdocker.tree import server as module
from lxdocker.tree.mirror import Mirrored, mirror
from lxdocker.tree.server import ServerOptions
from lxdocker.tree.simplestreams import IMAGES_PATH, INDEX_PATH
from lxdocker.tree.tree import MIRROR, Tree
from lxdocker.tree.verify import verify
from lxdocker.tree.version import SIDECAR, Published
from lxdocker.values import Arch, ImageName
from tests.examples import provenance, publish, resolved, spec
from tests.trees import assert_sound
from tests.waiting import looking

NEVER = threading.Event()
HOUR = 3600.0


# ---- servers


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with ranges; ``world.answer`` may do something else with a request."""

    protocol_version = "HTTP/1.1"
    world: World

    def do_GET(self) -> None:
        self.world.requests.append((self.path, self.headers.get("range")))
        if self.world.answer and self.world.answer(self):
            return
        path = self.world.root / self.path.lstrip("/")
        if not path.is_file():
            self.plain(404, b"no")
            return
        content = path.read_bytes()
        wanted = self.headers.get("range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        headers = {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if wanted else {}
        self.plain(206 if wanted else 200, content[start:], headers)

    def plain(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class World:
    """A tree, and a server for it."""

    def __init__(self, folder: Path, context: ssl.SSLContext | None = None) -> None:
        self.root = folder
        self.tree = Tree(folder)
        self.requests: list[tuple[str, str | None]] = []
        self.answer: Callable[[Handler], bool] | None = None
        handler = type("Bound", (Handler,), {"world": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # be quiet
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def publish(self, content: str, name: str = "web", *, size: int = 300_000, arch: Arch = Arch.X86_64) -> Published:
        made = provenance(spec(name), resolved(content))
        with self.tree.lock(print, NEVER):
            return publish(self.tree, made, content, size=size, aliases=(f"{name}-alias",), arch=arch)

    def change(self, path: str, change: Callable[[Any], object]) -> None:
        """Rewrites one of its JSON files."""
        document = json.loads((self.root / path).read_bytes())
        change(document)
        (self.root / path).write_text(json.dumps(document))

    def files(self) -> list[str]:
        """The larger files it was asked for since last time, without keys."""
        asked = [path.rsplit("/", 1)[1] for path, _ in self.requests if path.endswith((".xz", ".squashfs", ".vcdiff"))]
        self.requests.clear()
        return sorted(asked)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "there")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def here(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "here")


def run(world: World, here: Tree, *, grace: float = HOUR, options: ServerOptions | None = None) -> Mirrored:
    return mirror(world.url, here, options or ServerOptions(jobs=2), grace, Progress(), print, threading.Event())


def keys(versions: tuple[Published, ...]) -> list[str]:
    return [one.key for one in versions]


def contents(tree: Tree) -> dict[str, bytes]:
    """What is served, but for times."""
    found = {}
    for path in tree.root.rglob("*"):
        relative = path.relative_to(tree.root)
        if path.is_file() and not relative.parts[0].startswith("."):
            content = (
                re.sub(b"<time.*?</time>", b"", path.read_bytes()) if path.suffix == ".html" else path.read_bytes()
            )
            found[relative.as_posix()] = b"" if relative.parts[0] == "streams" else content
    return found


def products(tree: Tree) -> Any:
    return json.loads((tree.root / IMAGES_PATH).read_bytes())["products"]


def assert_clean(tree: Tree) -> None:
    found = verify(tree, deep=True, repair=False, jobs=2, progress=Progress(), say=print, cancelled=NEVER)
    assert found.findings == ()


# ---- copying


def test_a_mirror_is_the_same_tree(world: World, here: Tree) -> None:
    for name, arch in [("web", Arch.X86_64), ("web", Arch.AARCH64), ("db", Arch.X86_64)]:
        for number in range(2):
            world.publish(f"{name} {arch} {number}", name, arch=arch)
    result = run(world, here)
    assert len(result.fetched) == 6
    assert (result.unchanged, result.failed, result.withdrawn) == (0, (), ())
    assert result.size == sum(one.size for one in result.fetched)
    assert contents(here) == contents(world.tree)
    assert products(here) == products(world.tree)
    assert_clean(here)
    # The index came last.
    asked = [path for path, _ in world.requests]
    assert asked[:2] == [f"/{INDEX_PATH}", f"/{IMAGES_PATH}"]
    assert list((here.root / MIRROR / "partial").iterdir()) == []
    # Nothing is fetched twice.
    world.files()
    again = run(world, here)
    assert (again.fetched, again.unchanged, again.size) == ((), 6, 0)
    assert world.files() == []


def test_a_mirror_has_every_alias_that_a_spec_may_have(world: World, here: Tree) -> None:
    aliases = ("nginx/stable", "_x", "w" * 64)
    version = world.publish("1")
    with world.tree.lock(print, NEVER):
        world.tree.update(version, provenance(spec(), resolved("1")), aliases)
        world.tree.write_index()
    assert run(world, here).failed == ()
    assert contents(here) == contents(world.tree)
    (product,) = products(here).values()
    assert product["aliases"] == ",".join(("web", *aliases))


def test_a_mirror_follows(world: World, here: Tree) -> None:
    first = world.publish("1")
    run(world, here)
    second = world.publish("2")
    world.files()
    assert keys(run(world, here).fetched) == [second.key]
    assert world.files() == [METADATA_FILE, ROOTFS_FILE]
    with world.tree.lock(print, NEVER):
        retention.retire(world.tree, 1)
        world.tree.update(second, provenance(spec(), resolved("2", source="seen anew")), ("other-alias",))
    result = run(world, here)
    assert keys(result.withdrawn) == [first.key]
    assert keys(result.updated) == [second.key]
    assert products(here) == products(world.tree)
    assert (here.root / first.folder.relative_to(world.root)).exists()  # for the grace period
    assert keys(run(world, here, grace=0).deleted) == [first.key]
    assert contents(here) == {path: text for path, text in contents(world.tree).items() if first.key not in path}
    assert_clean(here)


def test_a_rollback_and_its_end_are_followed(world: World, here: Tree) -> None:
    world.publish("1")
    second = world.publish("2")
    run(world, here)
    with world.tree.lock(print, NEVER):
        rollback.roll_back(world.tree, ImageName("web"))
    assert keys(run(world, here).withdrawn) == [second.key]
    assert products(here) == products(world.tree)
    with world.tree.lock(print, NEVER):
        rollback.undo(world.tree, ImageName("web"))
    world.files()
    assert keys(run(world, here).updated) == [second.key]
    assert world.files() == []
    assert products(here) == products(world.tree)
    assert_clean(here)


@pytest.mark.parametrize("damage", ["gone", "short", "other bytes"])
def test_what_is_damaged_here_is_fetched_again(world: World, here: Tree, damage: str) -> None:
    version = world.publish("1")
    run(world, here)
    world.files()
    path = here.root / version.folder.relative_to(world.root) / ROOTFS_FILE
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(b"short")
    else:
        path.write_bytes(b"?" * path.stat().st_size)
        repaired = verify(here, deep=True, repair=True, jobs=1, progress=Progress(), say=print, cancelled=NEVER)
        assert repaired.clean
    run(world, here)
    assert world.files() == [ROOTFS_FILE]
    assert_clean(here)
    assert products(here) == products(world.tree)


def test_the_same_files_in_two_versions(world: World, here: Tree) -> None:
    for name in ("a", "b", "c"):
        world.publish("same", name)
        world.publish("same", name)
    assert len(run(world, here).fetched) == 6
    assert_clean(here)
    assert list((here.root / MIRROR / "partial").iterdir()) == []


# ---- an interrupted copy


def cut(after: int, times: int) -> Callable[[Handler], bool]:
    """Ends the connection after some bytes of a rootfs."""
    left = [times]

    def answer(handler: Handler) -> bool:
        if not handler.path.endswith(ROOTFS_FILE) or not left[0]:
            return False
        left[0] -= 1
        content = (handler.world.root / handler.path.lstrip("/")).read_bytes()
        wanted = handler.headers.get("range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        headers = {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        handler.plain(
            206 if wanted else 200, content[start : start + after], headers if wanted else None, len(content) - start
        )
        handler.close_connection = True
        return True

    return answer


def test_a_broken_connection_is_taken_up_where_it_broke(world: World, here: Tree) -> None:
    world.publish("1")
    world.answer = cut(50_000, 3)
    result = run(world, here)
    assert result.failed == ()
    assert [wanted for path, wanted in world.requests if path.endswith(ROOTFS_FILE)] == [
        None,
        "bytes=50000-",
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert result.size == result.fetched[0].size
    assert_clean(here)


def test_a_connection_that_breaks_again_and_again_is_taken_up_as_long_as_something_comes(
    world: World, here: Tree
) -> None:
    world.publish("1")
    world.answer = cut(20_000, 2 * module.ATTEMPTS)
    assert run(world, here).failed == ()
    assert_clean(here)


def test_a_server_without_ranges_gives_all_of_it_again(world: World, here: Tree) -> None:
    world.publish("1")
    breaking = cut(50_000, 1)

    def answer(handler: Handler) -> bool:
        if breaking(handler):
            return True
        del handler.headers["range"]
        return False

    world.answer = answer
    assert run(world, here).failed == ()
    assert_clean(here)


def test_the_next_run_goes_on_where_one_failed(world: World, here: Tree) -> None:
    world.publish("1")
    good = world.publish("2", "good")
    world.answer = cut(0, 10**6)
    result = run(world, here)
    assert {failure.name.value for failure in result.failed} == {"web", "good"}
    world.answer = cut(60_000, 1)
    world.answer = lambda handler, breaking=world.answer: (
        breaking(handler)
        or (handler.path.endswith(ROOTFS_FILE) and "web" in handler.path and handler.plain(503, b"") is None)
    )
    result = run(world, here)
    assert "good" not in {failure.name.value for failure in result.failed} or keys(result.fetched) != [good.key]
    world.answer = None
    assert run(world, here).failed == ()
    assert_clean(here)


@pytest.mark.parametrize("spoilt", [b"?" * 1000, b"?" * 300_000, b"?" * 400_000], ids=["part", "all", "more"])
def test_a_spoilt_partial_file_is_begun_anew(world: World, here: Tree, spoilt: bytes) -> None:
    version = world.publish("1")
    folder = here.root / MIRROR / "partial"
    folder.mkdir(parents=True)
    (folder / version.rootfs_sha256).write_bytes(spoilt)
    assert run(world, here).failed == ()
    assert_clean(here)


CHILD = """
import os, sys, threading
from pathlib import Path
from lxdocker.tree import mirror, server
from lxdocker.tree import tree as publish
from lxdocker.progress import Progress
limit = int(sys.argv[3])
watched = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime"}
watched.add("socket.connect")
def look(event, arguments):
    global limit
    if event in watched and (event != "open" or isinstance(arguments[2], int) and arguments[2] & 3):
        limit -= 1
        if limit < 0:
            os.kill(os.getpid(), 9)
options = server.ServerOptions(jobs=2)
sys.addaudithook(look)
mirror.mirror(sys.argv[1], publish.Tree(Path(sys.argv[2])), options, 0, Progress(), print, threading.Event())
"""


def test_killed_at_any_step_the_mirror_is_sound_and_the_next_run_completes_it(world: World, tmp_path: Path) -> None:
    """By a real SIGKILL, from an empty folder on; each run is killed a little later than the one before."""
    world.publish("1", size=150_000)
    world.publish("2", size=150_000)
    world.publish("other", "other", size=10)
    root = tmp_path / "mirror"
    limit, killed = 0, 0
    while True:
        done = subprocess.run([sys.executable, "-c", CHILD, world.url, str(root), str(limit)], timeout=60, check=False)
        if root.exists():
            assert_sound(root, empty=True)  # until the first index is there
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
        limit += 3
    assert killed > 3
    assert len(assert_sound(root)) == 3
    assert_clean(Tree(root))
    # And from a whole mirror on, with something to withdraw and to delete.
    with world.tree.lock(print, NEVER):
        retention.retire(world.tree, 1)
    world.publish("3", size=10)
    limit = 0
    while True:
        copy = shutil.copytree(root, tmp_path / "copy")
        done = subprocess.run([sys.executable, "-c", CHILD, world.url, str(copy), str(limit)], timeout=60, check=False)
        assert len(assert_sound(copy)) in {2, 3, 4}
        if done.returncode == 0:
            break
        run(world, Tree(copy), grace=0)
        assert len(assert_sound(copy)) == 3
        assert_clean(Tree(copy))
        shutil.rmtree(copy)
        limit += 4


def test_readers_of_a_mirror_never_miss_a_file(world: World, here: Tree) -> None:
    world.publish("0", size=20_000)
    run(world, here)
    with looking(lambda: assert_sound(here.root), at_least=3):
        for number in range(6):
            world.publish(str(number + 1), size=20_000)
            with world.tree.lock(print, NEVER):
                retention.retire(world.tree, 2)
            run(world, here)


def test_two_mirrors_into_one_folder_wait_for_each_other(world: World, here: Tree) -> None:
    for number in range(3):
        world.publish(str(number), f"n{number}")
    results: list[Mirrored] = []
    threads = [threading.Thread(target=lambda: results.append(run(world, Tree(here.root)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(one.fetched) for one in results) == [0, 3]
    assert_clean(here)


def test_interrupted_by_its_user(world: World, here: Tree) -> None:
    world.publish("1")
    cancelled = threading.Event()

    def answer(handler: Handler) -> bool:
        if handler.path.endswith(ROOTFS_FILE):
            cancelled.set()
            handler.plain(503, b"")
            return True
        return False

    world.answer = answer
    result = mirror(world.url, here, ServerOptions(), HOUR, Progress(), print, cancelled)
    assert [failure.error.brief for failure in result.failed] == ["stopped"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a filesystem")
def test_a_full_disk(world: World, tmp_path: Path) -> None:
    small = world.publish("small", size=1000)
    point = tmp_path / "disk"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k,mode=755", "tmpfs", str(point)], check=True)
    try:
        here = Tree(point)
        run(world, here)
        big = world.publish("big", size=1_000_000)
        with pytest.raises(MirrorError, match="not enough space") as caught:
            run(world, here)
        assert " free" in caught.value.details
        # It fills up only in the middle.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1 << 40))
            with pytest.raises(TreeError, match="No space left") as full:
                run(world, here)
        assert full.value.resolution.startswith("free space")
        assert len(assert_sound(point)) == 1
        assert small.folder.exists()
        assert big.key not in str(products(here))
        with world.tree.lock(print, NEVER):
            world.tree.withdraw([big])
        assert run(world, here).failed == ()
        assert_clean(here)
    finally:
        subprocess.run(["umount", str(point)], check=True)


# ---- the folder


def test_a_folder_with_images_of_its_own_is_refused(world: World, here: Tree) -> None:
    world.publish("1")
    with here.lock(print, NEVER):
        publish(here)
    with pytest.raises(UsageError, match="has images that were published there"):
        run(world, here)
    assert_clean(here)


def test_a_mirror_of_another_server_is_refused(world: World, here: Tree) -> None:
    world.publish("1")
    run(world, here)
    (here.root / MIRROR / "source").write_text("https://other.example\n")
    with pytest.raises(UsageError, match=r"is a mirror of https://other\.example"):
        run(world, here)


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "found",
    ["notes.txt", "Documents/notes.txt", "streams/v1/index.json", "index.html", ".git/config", "images/web.png"],
)
def test_a_folder_of_something_else_is_refused_and_nothing_is_written(world: World, here: Tree, found: str) -> None:
    """A mistyped folder would be littered, and another server's tree overwritten."""
    world.publish("1")
    (here.root / found).parent.mkdir(parents=True)
    (here.root / found).write_text("{}")
    before = entries(here.root)
    with pytest.raises(UsageError, match="is neither empty nor a tree") as caught:
        run(world, here)
    assert found.partition("/")[0] in caught.value.details
    assert entries(here.root) == before
    assert world.requests == []


def test_a_file_is_no_folder_to_mirror_into(world: World, here: Tree) -> None:
    here.root.write_text("notes")
    with pytest.raises(UsageError, match="not a folder"):
        run(world, here)
    assert here.root.read_text() == "notes"


@pytest.mark.parametrize(
    "found",
    [
        (),
        ("lost+found/",),  # of a filesystem of its own
        (".lock",),  # of a first run that was killed
        (".lock", ".staging/run.x/file"),
        (".lock", ".staging/", "images/", "streams/v1/index.json", "index.html", "robots.txt"),  # an empty tree
    ],
)
def test_an_empty_folder_or_an_empty_tree_becomes_a_mirror(world: World, here: Tree, found: tuple[str, ...]) -> None:
    version = world.publish("1")
    here.root.mkdir()
    for name in found:
        path = here.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.write_text("{}")
    assert keys(run(world, here).fetched) == [version.key]


def test_nobody_publishes_or_rolls_back_in_a_mirror(world: World, here: Tree) -> None:
    world.publish("1")
    world.publish("2")
    run(world, here)
    with here.lock(print, NEVER):
        with pytest.raises(TreeError, match="is a mirror"):
            publish(here)
        with pytest.raises(TreeError, match="is a mirror"):
            rollback.roll_back(here, ImageName("web"))


def test_a_server_that_lost_everything_costs_the_mirror_nothing(world: World, here: Tree) -> None:
    version = world.publish("1")
    run(world, here)
    with world.tree.lock(print, NEVER):
        world.tree.withdraw([version])
    with pytest.raises(MirrorError, match="has no images"):
        run(world, here)
    assert len(assert_sound(here.root)) == 1


def test_an_empty_server_makes_an_empty_mirror(world: World, here: Tree) -> None:
    with world.tree.lock(print, NEVER):
        world.tree.write_index()
    run(world, here)
    assert products(here) == {}


# ---- servers that lie


def item(document: Any, name: str = "root.squashfs") -> Any:
    (product,) = document["products"].values()
    (version,) = product["versions"].values()
    return version["items"][name]


def set_everywhere(key: str, value: object) -> Callable[[Any], object]:
    return lambda document: item(document).update({key: value})


HOSTILE: dict[str, Callable[[Any], object]] = {
    "a path out": set_everywhere("path", "../../../etc/passwd"),
    "an absolute path": set_everywhere("path", "/etc/passwd"),
    "a path that turns back": set_everywhere("path", "images/../../x/20260101_0000/rootfs.squashfs"),
    "a folder that is none": set_everywhere("path", "images/../x86_64/20260101_0000/rootfs.squashfs"),
    "another file": set_everywhere("path", "images/web/x86_64/20260101_0000/withdrawn"),
    "a path that is no text": set_everywhere("path", 3),
    "a size that is none": set_everywhere("size", "many"),
    "a size below zero": set_everywhere("size", -1),
    "a size beyond all": set_everywhere("size", 1 << 50),
    "a hash that is a path": set_everywhere("sha256", "../../../../tmp/x"),
    "no hash": lambda document: item(document).pop("sha256"),
    "no items": lambda document: document["products"].popitem()[1]["versions"].clear() or document.update(products=3),
    "a version that is none": lambda document: [
        product.update(versions={"latest": version})
        for product in document["products"].values()
        for version in list(product["versions"].values())
    ],
    "an unknown architecture": set_everywhere("path", "images/web/z80/20260101_0000/rootfs.squashfs"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_index_that_leads_elsewhere_is_refused(
    world: World, here: Tree, tmp_path: Path, change: Callable[[Any], object]
) -> None:
    world.publish("1")
    world.change(IMAGES_PATH, change)
    before = sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(here.root))
    with pytest.raises(MirrorError, match="cannot mirror"):
        run(world, here)
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(here.root)) == before
    assert not (here.root / "images").exists()
    assert world.files() == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"index": {"x": 3}}', b"\xff"])
@pytest.mark.parametrize("path", [INDEX_PATH, IMAGES_PATH])
def test_garbage_for_an_index_is_refused(world: World, here: Tree, path: str, text: bytes) -> None:
    world.publish("1")
    (world.root / path).write_bytes(text)
    with pytest.raises(MirrorError):
        run(world, here)


def only_failure(result: Mirrored) -> str:
    (failure,) = result.failed
    assert result.fetched == ()
    return str(failure.error)


def test_a_file_larger_than_listed_is_cut_off(world: World, here: Tree) -> None:
    version = world.publish("1")
    (version.folder / ROOTFS_FILE).write_bytes(b"x" * 50_000_000)
    result = run(world, here)
    assert "is larger than in the index (300000 bytes)" in only_failure(result)
    assert result.size < 1_000_000
    assert not list(here.root.rglob(ROOTFS_FILE))


def test_a_file_with_other_content_is_refused(world: World, here: Tree) -> None:
    version = world.publish("1")
    (version.folder / ROOTFS_FILE).write_bytes(b"x" * version.rootfs_size)
    assert "does not have the hash in the index" in only_failure(run(world, here))
    assert not list(here.root.rglob(ROOTFS_FILE))


def test_a_missing_file_fails_its_version_and_no_other(world: World, here: Tree) -> None:
    bad = world.publish("1")
    good = world.publish("2", "good")
    run(world, here)
    newer = world.publish("3")
    (newer.folder / METADATA_FILE).unlink()
    result = run(world, here)
    assert [failure.key for failure in result.failed] == [newer.key]
    assert "no such file" in str(result.failed[0].error)
    assert result.withdrawn == ()
    assert {version for product in products(here).values() for version in product["versions"]} == {bad.key, good.key}


SIDECARS: dict[str, Callable[[Any], object]] = {
    "another image's": lambda document: document["provenance"].update({"lxdocker.name": "other"}),
    "another fingerprint": lambda document: document.update(fingerprint="0" * 64),
    "another size": lambda document: document["files"][ROOTFS_FILE].update(size=1),
    "nothing": lambda document: document.clear(),
    "an alias with a comma": lambda document: document.update(aliases=["a,b"]),
    "an alias that is a way out": lambda document: document.update(aliases=["../x"]),
    "a delta to a path": lambda document: (
        document.update(deltas={"../../x": {"size": 1, "sha256": "0"}}) or document.update(arch="z80")
    ),
}


@pytest.mark.parametrize("change", SIDECARS.values(), ids=SIDECARS.keys())
def test_a_description_that_does_not_fit_is_refused(world: World, here: Tree, change: Callable[[Any], object]) -> None:
    version = world.publish("1")
    world.change((version.folder / SIDECAR).relative_to(world.root).as_posix(), change)
    assert SIDECAR in only_failure(run(world, here))
    assert not (here.root / "images").exists()


def test_an_endless_description_is_refused(world: World, here: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    version = world.publish("1")
    (version.folder / SIDECAR).write_bytes(b" " * (2 << 20))
    assert "is larger than 1" in only_failure(run(world, here))


def test_a_server_that_gives_drops_is_given_up(world: World, here: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish("1")
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    monkeypatch.setattr(module, "ATTEMPTS", 2)

    def answer(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(50):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        return True

    world.answer = answer
    began = time.monotonic()
    with pytest.raises(MirrorError, match="no answer from") as caught:
        run(world, here)
    assert "bytes per second" in caught.value.details
    assert time.monotonic() - began < 5


def without_end(handler: Handler, beginning: bytes, more: bytes) -> bool:
    """Sends ``beginning``, and then ``more`` until the other side has enough."""
    with contextlib.suppress(OSError):
        handler.wfile.write(beginning)
        while True:
            handler.wfile.write(more)
            time.sleep(0.01)
    handler.close_connection = True
    return True


def only_continues(handler: Handler) -> bool:
    return without_end(handler, b"", b"HTTP/1.1 100 Continue\r\n\r\n")


def only_trailers(handler: Handler) -> bool:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return without_end(handler, head + b"2\r\n{}\r\n0\r\n", b"x: y\r\n")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (only_continues, "the headers of its answer did not end within 0.3 s"),
        (only_trailers, "a piece of its answer did not end within 0.3 s"),
    ],
)
def test_what_has_no_end_ends(
    world: World, here: Tree, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Handler], bool], why: str
) -> None:
    """What http.client reads within one call, without a pause that a timeout would notice."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(module, "READ_SECONDS", 0.3)
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    world.publish("1", "web")
    good = world.publish("2", "good")
    world.answer = lambda handler: "/web/" in handler.path and answer(handler)
    result = run(world, here)
    assert [one.key for one in result.fetched] == [good.key]
    assert [failure.error.details for failure in result.failed] == [why]
    world.answer = answer
    with pytest.raises(MirrorError, match="no answer from") as caught:
        run(world, here)
    assert caught.value.details == why


def test_a_download_may_take_longer_than_each_of_its_pieces(
    world: World, here: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.6)
    world.publish("1")

    def answer(handler: Handler) -> bool:
        if not handler.path.endswith(ROOTFS_FILE):
            return False
        content = (handler.world.root / handler.path.lstrip("/")).read_bytes()
        handler.plain(200, content[:1000], length=len(content))
        for at in range(1000, len(content), 50_000):
            time.sleep(0.15)
            handler.wfile.write(content[at : at + 50_000])
        return True

    world.answer = answer
    assert run(world, here).failed == ()
    assert [wanted for path, wanted in world.requests if path.endswith(ROOTFS_FILE)] == [None]
    assert_clean(here)


# ---- redirects


def redirect(to: Callable[[str], str]) -> Callable[[Handler], bool]:
    def answer(handler: Handler) -> bool:
        handler.plain(302, b"", {"location": to(handler.path)})
        return True

    return answer


def test_redirects_are_followed(world: World, here: Tree, tmp_path: Path) -> None:
    world.publish("1")
    front = World(tmp_path / "front")
    try:
        front.answer = redirect(lambda path: world.url + path)
        assert len(run(front, here).fetched) == 1
        assert_clean(here)
    finally:
        front.close()


def test_redirects_in_a_circle_end(world: World, here: Tree) -> None:
    world.answer = redirect(lambda path: path)
    with pytest.raises(MirrorError, match="cannot mirror") as caught:
        run(world, here)
    assert "more than 3 times" in caught.value.details
    assert len(world.requests) == 4


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("http://192.0.2.1/x", UsageError),  # which --insecure would allow
        ("file:///etc/passwd", MirrorError),
        ("ftp://127.0.0.1/x", MirrorError),
    ],
)
def test_redirects_to_where_nobody_may_go_are_refused(
    world: World, here: Tree, to: str, error: type[LxdockerError]
) -> None:
    world.answer = redirect(lambda _: to)
    with pytest.raises(error):
        run(world, here)
    assert len(world.requests) == 1


@pytest.mark.parametrize("to", ["http://[", "//[x", "//\u2100.invalid/".encode().decode("latin-1")])
def test_a_redirect_to_an_address_that_is_none_fails_its_image(world: World, here: Tree, to: str) -> None:
    world.publish("1", "web")
    good = world.publish("2", "good")
    world.answer = lambda handler: "/web/" in handler.path and redirect(lambda _: to)(handler)
    result = run(world, here)
    assert [one.key for one in result.fetched] == [good.key]
    (failure,) = result.failed
    assert "it redirects to an invalid URL" in str(failure.error)


# ---- proxies


@pytest.mark.parametrize("address", ["{}", "http://{}", "ann:pr0xy%20pw@{}", "http://ann:pr0xy%20pw@{}"])
def test_a_proxy_is_used(world: World, here: Tree, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """The server itself stands in for it, as what a proxy is asked for has its host in the path."""
    world.publish("1")
    logins = set()

    def answer(handler: Handler) -> bool:
        logins.add(handler.headers.get("proxy-authorization"))
        assert handler.path.startswith("http://mirror.invalid/")
        handler.path = handler.path.removeprefix("http://mirror.invalid")
        return False

    world.answer = answer
    monkeypatch.setenv("http_proxy", address.format(world.url.removeprefix("http://")))
    options = ServerOptions(insecure=True)
    result = mirror("http://mirror.invalid", here, options, HOUR, Progress(), print, threading.Event())
    assert len(result.fetched) == 1
    assert logins == {"Basic " + base64.b64encode(b"ann:pr0xy pw").decode() if "ann" in address else None}


def test_this_host_is_not_asked_through_a_proxy(world: World, here: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish("1")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    assert len(run(world, here).fetched) == 1


def test_a_proxy_that_can_not_be_used_is_told(here: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    for proxy, why in [
        ("socks5://127.0.0.1:1", "the proxy cannot be used: socks5 is not supported, only http and https"),
        ("http://[", "the proxy cannot be used: invalid URL"),
        ("ann:s3cret@127.0.0.1:1", "the proxy cannot be used: connection refused"),
    ]:
        monkeypatch.setenv("https_proxy", proxy)
        with pytest.raises(MirrorError) as caught:
            mirror("https://mirror.invalid", here, ServerOptions(), HOUR, Progress(), print, threading.Event())
        assert caught.value.details == why


# ---- TLS and plain http


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {cert}".split(),
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def secure(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[World]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    made = World(tmp_path / "secure", context)
    yield made
    made.close()


def fingerprint_of(certificate: tuple[Path, Path]) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate[0].read_text())).hexdigest()


def test_a_self_signed_server_is_trusted_by_its_fingerprint(
    secure: World, here: Tree, certificate: tuple[Path, Path]
) -> None:
    secure.publish("1")
    digits = fingerprint_of(certificate).upper()
    shown = ":".join(digits[at : at + 2] for at in range(0, 64, 2))
    assert len(run(secure, here, options=ServerOptions(fingerprint=shown)).fetched) == 1
    assert_clean(here)


def test_a_server_is_trusted_by_its_authority(secure: World, here: Tree, certificate: tuple[Path, Path]) -> None:
    secure.publish("1")
    assert len(run(secure, here, options=ServerOptions(ca=certificate[0])).fetched) == 1


@pytest.mark.parametrize(
    "options", [ServerOptions(), ServerOptions(fingerprint="0" * 64), ServerOptions(insecure=True)], ids=str
)
def test_any_other_certificate_is_not_trusted(secure: World, here: Tree, options: ServerOptions) -> None:
    secure.publish("1")
    with pytest.raises(MirrorError, match="is not trusted") as caught:
        run(secure, here, options=options)
    assert "--fingerprint" in caught.value.resolution
    assert secure.requests == []


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://192.0.2.1", ServerOptions()),
        ("ftp://127.0.0.1", ServerOptions()),
        ("web.example", ServerOptions()),
        ("", ServerOptions()),
        ("https://", ServerOptions()),
        ("http://127.0.0.1", ServerOptions(fingerprint="0" * 64)),
        ("https://127.0.0.1", ServerOptions(fingerprint="0" * 40)),
        ("https://127.0.0.1", ServerOptions(ca=Path("/nonexistent"))),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_done(here: Tree, url: str, options: ServerOptions) -> None:
    with pytest.raises(UsageError):
        mirror(url, here, options, HOUR, Progress(), print, NEVER)
    assert not here.root.exists()


def test_a_password_goes_to_its_server_only_and_nowhere_else(world: World, here: Tree, tmp_path: Path) -> None:
    world.publish("1")
    front = World(tmp_path / "front")
    seen: dict[str, list[str | None]] = {"front": [], "back": []}

    def at_back(handler: Handler) -> bool:
        seen["back"].append(handler.headers.get("authorization"))
        return False

    def at_front(handler: Handler) -> bool:
        seen["front"].append(handler.headers.get("authorization"))
        return redirect(lambda path: world.url + path)(handler)

    world.answer, front.answer = at_back, at_front
    try:
        front.url = front.url.replace("//", "//me:s%40cret@")
        run(front, here)
    finally:
        front.close()
    assert set(seen["front"]) == {"Basic bWU6c0BjcmV0"}
    assert set(seen["back"]) == {None}
    assert "cret" not in (here.root / MIRROR / "source").read_text()


# ---- the command


def command(*arguments: str, expect: int, stdin: str = "") -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LXDOCKER_")}
    done = subprocess.run(
        [sys.executable, "-m", "lxdocker", "mirror", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**environment, "HOME": "/nonexistent"},
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_exit_status_says_whether_all_was_copied(world: World, here: Tree) -> None:
    good, bad = world.publish("1"), world.publish("2", "other")
    (bad.folder / ROOTFS_FILE).write_bytes(b"x" * bad.rootfs_size)
    document = json.loads(command(world.url, str(here.root), "--json", expect=1))
    assert [one["version"] for one in document["fetched"]] == [good.key]
    assert [one["name"] for one in document["failed"]] == ["other"]
    assert "hash" in document["failed"][0]["error"]["why"]
    shutil.rmtree(bad.folder)
    with world.tree.lock(print, NEVER):
        world.tree.write_index()
    assert command(world.url, str(here.root), expect=0) == "1 version unchanged\n"
    assert command("http://192.0.2.1", str(here.root), expect=2) == ""


def test_a_password_comes_from_a_file_or_from_stdin(world: World, here: Tree, tmp_path: Path) -> None:
    world.publish("1")
    logins = set()

    def answer(handler: Handler) -> bool:
        logins.add(handler.headers.get("authorization"))
        return False

    world.answer = answer
    file = tmp_path / "password"
    file.write_text("s@cret\nmore\n")
    url = world.url.replace("//", "//me@")
    command(url, str(here.root), "--password-file", str(file), expect=0)
    command(url, str(here.root), expect=0, stdin="s@cret\n")
    assert logins == {"Basic " + base64.b64encode(b"me:s@cret").decode()}
