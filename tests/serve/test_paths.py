"""Only what is in the tree is ever served."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lxdocker.serve.files import open_served, split
from tests.serve.rig import METADATA, ROOTFS, VERSION, Served, make_tree, serve

HIDDEN = "nothing of this may be seen"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with everything in it that must not be served."""
    folder = tmp_path_factory.mktemp("hostile")
    tree = make_tree(folder)
    (folder / "outside").mkdir()
    for place in ("outside/secret", "tree/.hidden", "tree/images/.hidden"):
        (folder / place).write_text(HIDDEN)
    (tree / VERSION / "withdrawn").write_text(HIDDEN)
    (tree / "images/demo/x86_64/withheld.json").write_text(HIDDEN)
    links = {
        "link": "../outside/secret",
        "absolute": str(folder / "outside/secret"),
        "folder": "../outside",
        "inner": "streams/v1/index.json",
        "loop": "loop",
        "images/up": "../../outside",
        "proc": "/proc/self",
    }
    for name, target in links.items():
        (tree / name).symlink_to(target)
    os.mkfifo(tree / "fifo")
    return tree


HOSTILE = [
    *("/.lock", "/.staging/secret", "/.hidden", "/images/.hidden", "/.", "/..", "/./streams/v1/index.json"),
    *(f"/{VERSION}/withdrawn", f"/{VERSION}/%77ithdrawn", "/images/demo/x86_64/withheld.json"),
    *("/link", "/absolute", "/folder/secret", "/inner", "/loop", "/images/up/secret", "/proc/environ", "/proc/cwd"),
    "/fifo",
    *(f"/{'../' * count}etc/passwd" for count in (1, 3, 9)),
    *(f"/{'%2e%2e/' * count}outside/secret" for count in (1, 2, 5)),
    "/%2e%2e%2foutside%2fsecret",
    "/..%2foutside/secret",
    "/..%5coutside%5csecret",
    "/..\\outside\\secret",
    "/%252e%252e/outside/secret",
    "/%25252e%25252e/outside/secret",
    "/images/%c0%ae%c0%ae/outside/secret",
    "/images/%uff0e%uff0e/outside/secret",
    "/streams/v1/..;/index.json",
    "/streams/v1/index.json%00",
    "/streams/v1/index.json%00.html",
    "/streams/v1/index.json/",
    "/streams/v1/index.json/.",
    "/streams%2fv1%2findex.json",
    "/streams/v1/index.json%20",
    "/streams/v1/%0aindex.json",
    "/STREAMS/v1/index.json",
    "//etc/passwd",
    "///etc/passwd",
    "/%2fetc/passwd",
    "/C:/windows/win.ini",
    "/~root/.bashrc",
    "/" + "a/" * 2000,
    "/" + "a" * 3000,
    "/%",
    "/%zz",
]
# Not even HTTP, to some.
MALFORMED = [
    *("streams/v1/index.json", "../etc/passwd", "*", "", "file:///etc/passwd", "http://[::1", "http://other/x"),
    "/\x00",
    "/\udcff",
    "\udcff",
    "/" + "a" * 9000,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("served"), tree) as found:
        yield found


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_else(served: Served, path: str) -> None:
    answer = served.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] == b"404", answer
    assert HIDDEN.encode() not in answer
    assert b"root:" not in answer


@pytest.mark.parametrize("target", MALFORMED)
def test_malformed_targets(served: Served, target: str) -> None:
    status = served.raw_status(target)
    assert 400 <= status < 500, status


def test_an_absolute_target_names_the_same_files(served: Served) -> None:
    """RFC 9112 wants servers to take them."""
    assert served.raw_status("http://other/streams/v1/index.json") == 200
    assert served.raw_status("http://other/../outside/secret") == 404


def test_what_there_is(served: Served) -> None:
    for path in (ROOTFS, METADATA, "/streams/v1/index.json", "/%73treams/v1/index.json", "/"):
        assert served.get(path).status == 200


@given(
    st.lists(
        st.sampled_from(
            ["..", ".", "%2e%2e", "%2E.", "images", "link", "folder", "secret", "%2f", "\\", "%00", "outside"]
        )
        | st.text(max_size=8),
        max_size=8,
    ).map(lambda parts: "/" + "/".join(parts))
)
@example("/folder/secret")
def test_whatever_the_path_the_file_is_in_the_tree(tree: Path, path: str) -> None:
    served = open_served(tree, path)
    if served is None:
        return
    try:
        real = Path(f"/proc/self/fd/{served.handle}").readlink()
        assert tree in real.parents
        assert not [part for part in real.relative_to(tree).parts if part.startswith(".")]
        assert served.size == real.stat().st_size
    finally:
        os.close(served.handle)


@given(st.text())
def test_split_never_gives_a_name_that_leads_elsewhere(path: str) -> None:
    for name in split(path) or []:
        assert name
        assert not name.startswith(b".")
        assert not set(name) & set(b"/\\\0")


def test_no_moment_in_which_a_link_could_slip_in(tmp_path: Path) -> None:
    """A folder on the way is swapped for a link to outside, and back, while files below it are asked for."""
    tree = make_tree(tmp_path)
    outside = tmp_path / "outside/v1"
    outside.mkdir(parents=True)
    (outside / "index.json").write_text(HIDDEN)
    stop = threading.Event()

    def swap() -> None:
        (tree / "link").symlink_to(tmp_path / "outside")
        while not stop.is_set():
            (tree / "streams").rename(tree / "away")
            (tree / "link").rename(tree / "streams")
            (tree / "streams").rename(tree / "link")
            (tree / "away").rename(tree / "streams")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        seen = set()
        for _ in range(5000):
            served = open_served(tree, "/streams/v1/index.json")
            seen.add(served is None)
            if served is not None:
                content = os.read(served.handle, 100)
                os.close(served.handle)
                assert content.startswith(b'{"index"')
        assert seen == {True, False}
    finally:
        stop.set()
        swapping.join()


def test_the_tree_itself_may_be_a_link(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    (tmp_path / "alias").symlink_to(tree)
    with serve(tmp_path, tmp_path / "alias") as served:
        assert served.get(ROOTFS).status == 200
