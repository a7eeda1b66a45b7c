"""What a spec's files do to an image that is hostile to them, in the image's own root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from lxdocker.builder import changes
from lxdocker.config.changes import Changes, FileChange
from lxdocker.config.sources import find

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it enters a chroot and changes owners"),
    pytest.mark.skipif(not shutil.which("perl"), reason="perl is missing"),
]
NOT_CHANGED = 76


class Image:
    """An unpacked image, and a file beside it that no path in it may lead to."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        (self.root / "etc").mkdir(parents=True)
        (self.root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1234:99::/:\n")
        (self.root / "etc/group").write_text("root:x:0:\nweb:x:4321:\n")
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_text("untouched")

    def __truediv__(self, path: str) -> Path:
        return self.root / path

    def apply(self, pieces: Iterable[bytes]) -> subprocess.CompletedProcess[str]:
        argv = ["perl", str(changes.CHANGE), str(self.root)]
        done = subprocess.run(argv, input=b"".join(pieces), capture_output=True, timeout=60, check=False)
        assert [path.name for path in self.outside.iterdir()] == ["file"]
        assert (self.outside / "file").read_text() == "untouched"
        return subprocess.CompletedProcess(argv, done.returncode, done.stdout.decode(), done.stderr.decode())

    def change(self, *files: FileChange, variables: dict[str, str] | None = None) -> None:
        done = self.apply(changes.records(Changes(files), variables or {}))
        assert (done.returncode, done.stderr) == (0, "")

    def refuse(self, *files: FileChange) -> str:
        done = self.apply(changes.records(Changes(files), {}))
        assert done.returncode == NOT_CHANGED
        return done.stderr


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def owner(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_a_file_with_owner_and_mode(image: Image) -> None:
    image.change(FileChange("/srv/app/conf", content="a\n", mode="0640", owner="app", group="web"))
    assert (image / "srv/app/conf").read_text() == "a\n"
    assert owner(image / "srv/app/conf") == (1234, 4321, 0o640)
    assert owner(image / "srv/app") == (0, 0, 0o755)


def test_the_defaults_are_root_and_0644_whatever_was_there(image: Image) -> None:
    path = image / "etc/conf"
    path.write_text("old")
    os.chown(path, 7, 7)
    path.chmod(0o600)
    image.change(FileChange("/etc/conf", content="new"))
    assert (path.read_text(), owner(path)) == ("new", (0, 0, 0o644))


def test_a_template_has_the_variables(image: Image) -> None:
    change = FileChange("/conf", template="{{ name }} on {{ port }}\n")
    done = image.apply(changes.records(Changes((change,), variables=(("port", "80"),)), {"name": "web"}))
    assert done.returncode == 0
    assert (image / "conf").read_text() == "web on 80\n"


def test_numbers_need_no_list_of_users(image: Image) -> None:
    (image / "etc/passwd").unlink()
    image.change(FileChange("/a", content="", owner="77", group="88"))
    assert owner(image / "a")[:2] == (77, 88)


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo"])
def test_what_is_in_the_place_of_a_file_is_replaced(image: Image, kind: str) -> None:
    other = image / "other"
    other.write_text("other")
    match kind:
        case "link":
            (image / "file").symlink_to(image.outside / "file")
        case "hard link":
            (image / "file").hardlink_to(other)
        case "fifo":
            os.mkfifo(image / "file")
    image.change(FileChange("/file", content="new"))
    assert stat.S_ISREG((image / "file").lstat().st_mode)
    assert ((image / "file").read_text(), other.read_text()) == ("new", "other")


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../../..{outside}", "/loop/../..{outside}"])
def test_links_on_the_way_are_followed_inside_the_image(image: Image, target: str) -> None:
    (image / "loop").mkdir()
    (image / "way").symlink_to(target.format(outside=image.outside))
    image.change(FileChange("/way/file", content="inside"))
    assert (image.root / str(image.outside / "file").lstrip("/")).read_text() == "inside"


def test_a_link_that_leads_nowhere_gets_its_folder(image: Image) -> None:
    (image / "var").symlink_to("data/var")
    image.change(FileChange("/var/log/a", content="x"))
    assert (image / "data/var/log/a").read_text() == "x"
    assert (image / "var").is_symlink()


def test_append_adds_to_what_a_link_names_and_leaves_the_rest(image: Image) -> None:
    (image / "etc/real").write_text("one\n")
    os.chown(image / "etc/real", 7, 8)
    (image / "conf").symlink_to("/etc/real")
    image.change(FileChange("/conf", content="two\n", append=True))
    assert (image / "etc/real").read_text() == "one\ntwo\n"
    assert owner(image / "etc/real") == (7, 8, 0o644)
    image.change(FileChange("/new/one", content="x", append=True, mode="0600"))
    assert owner(image / "new/one") == (0, 0, 0o600)


def test_a_link_is_made_and_takes_the_place_of_files(image: Image) -> None:
    (image / "a").write_text("x")
    image.change(FileChange("/a", symlink="/b"), FileChange("/c/d", symlink="../e"))
    assert ((image / "a").readlink(), (image / "c/d").readlink()) == (Path("/b"), Path("../e"))


def test_absent_removes_the_link_and_not_its_target(image: Image) -> None:
    (image / "real").mkdir()
    (image / "real/a").write_text("x")
    (image / "link").symlink_to("real")
    (image / "out").symlink_to(image.outside)
    tree = image / "tree/a/b"
    tree.mkdir(parents=True)
    (tree / "out").symlink_to(image.outside)
    image.change(
        *(FileChange(path, absent=True) for path in ("/link", "/out", "/tree", "/none", "/none/at/all")),
    )
    assert sorted(path.name for path in image.root.iterdir()) == ["etc", "real"]
    image.change(FileChange("/real/a", absent=True))
    assert list((image / "real").iterdir()) == []


def test_a_tree_deeper_than_any_path_is_removed(image: Image) -> None:
    script = "cd $1; for i in $(seq 1 60); do d=$(printf 'x%.0s' $(seq 1 200)); mkdir $d && cd $d || exit 1; done"
    subprocess.run(["bash", "-c", script, "deep", str(image.root)], check=True)
    done = image.apply(changes.records(Changes((FileChange("/" + "x" * 200, absent=True),)), {}))
    # Either it is gone or the reason is given; a path this long can't be named.
    assert done.returncode in {0, NOT_CHANGED}
    if done.returncode:
        assert "File name too long" in done.stderr
        subprocess.run(["rm", "-rf", str(image / ("x" * 200))], check=True)


def test_a_folder_is_merged_with_the_image_s(image: Image, tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    (specs / "app/bin").mkdir(parents=True)
    (specs / "app/bin/run").write_text("#!/bin/sh\n")
    (specs / "app/bin/run").chmod(0o700)
    (specs / "app/conf").write_text("c")
    (specs / "app/conf").chmod(0o600)
    (specs / "app/link").symlink_to("conf")
    (image / "srv").mkdir(mode=0o700)
    (image / "srv/old").write_text("old")
    source = find("app", specs)
    image.change(FileChange("/srv", source=source, owner="app"))
    assert owner(image / "srv/bin/run") == (1234, 0, 0o755)
    assert owner(image / "srv/conf") == (1234, 0, 0o644)
    assert owner(image / "srv") == (0, 0, 0o700)
    assert (image / "srv/link").readlink() == Path("conf")
    assert (image / "srv/old").read_text() == "old"


def test_a_folder_of_its_own_has_the_owner_and_mode_that_are_given(image: Image) -> None:
    (image / "old").mkdir(mode=0o700)
    os.chown(image / "old", 7, 8)
    image.change(
        FileChange("/data", folder=True, owner="app", mode="0750"),
        FileChange("/old", folder=True, group="web"),
        FileChange("/plain/one", folder=True),
    )
    assert owner(image / "data") == (1234, 0, 0o750)
    assert owner(image / "old") == (7, 4321, 0o700)
    assert owner(image / "plain/one") == (0, 0, 0o755)
    (image / "file").write_text("")
    assert "/file is a file in the image, not a folder" in image.refuse(FileChange("/file", folder=True))


def test_a_large_file_goes_through_in_pieces(image: Image, tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "large").write_bytes(os.urandom(1 << 20) * 5 + b"end")
    pieces = list(changes.records(Changes((FileChange("/large", source=find("large", specs)),)), {}))
    assert max(map(len, pieces)) <= 1 << 20
    assert image.apply(pieces).returncode == 0
    assert (image / "large").read_bytes() == (specs / "large").read_bytes()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (FileChange("/folder", content=""), "change 0: /folder is a folder in the image"),
        (FileChange("/folder", symlink="x"), "change 0: /folder is a folder in the image"),
        (FileChange("/file/a", content=""), "change 0: /file is a file in the image, not a folder"),
        (FileChange("/fifo/a", content=""), "change 0: /fifo is a device, socket or pipe in the image, not a folder"),
        (FileChange("/fifo", content="", append=True), "change 0: /fifo is a device, socket or pipe in the image"),
        (FileChange("/folder", content="", append=True), "change 0: /folder is a folder in the image"),
        (FileChange("/circle/a", content=""), "leads in a circle"),
        (FileChange("/to-dev/a", content=""), "leads to /dev/a, where an instance has a filesystem of its own"),
        (
            FileChange("/a", content="", owner="nobody"),
            "owner nobody is unknown: the image's /etc/passwd has no such name",
        ),
        (FileChange("/a", content="", group="app"), "group app is unknown: the image's /etc/group has no such name"),
    ],
)
def test_what_can_t_be_done_is_said_with_the_number_of_the_change(image: Image, change: FileChange, why: str) -> None:
    (image / "folder").mkdir()
    (image / "file").write_text("")
    os.mkfifo(image / "fifo")
    (image / "circle").symlink_to("circle")
    (image / "to-dev").symlink_to("/dev")
    assert why in image.refuse(change)


@pytest.mark.parametrize("kind", ["none", "folder", "fifo", "endless", "outside", "long line"])
def test_lists_of_users_that_no_image_should_have(image: Image, kind: str) -> None:
    passwd = image / "etc/passwd"
    passwd.unlink()
    match kind:
        case "folder":
            passwd.mkdir()
        case "fifo":
            os.mkfifo(passwd)
        case "endless":
            with passwd.open("wb") as file:
                file.truncate(10 << 30)
        case "outside":
            (image.outside / "file").write_text("untouched")
            passwd.symlink_to(image.outside / "file")
        case "long line":
            passwd.write_text("x" * (1 << 20) + ":x:1:1\napp:x:1234:99::/:\n")
    change = FileChange("/a", content="", owner="app")
    if kind == "long line":
        image.change(change)
        assert owner(image / "a")[0] == 1234
    else:
        assert "owner app is unknown" in image.refuse(change)


def test_names_with_newlines_and_odd_bytes(image: Image, tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    (specs / "odd").mkdir(parents=True)
    for name in (b"a\nb", b"\xff", b"c d", b"'\"$(x)"):
        Path(os.fsdecode(bytes(specs / "odd") + b"/" + name)).write_bytes(name)
    image.change(FileChange("/odd", source=find("odd", specs)))
    found = {os.fsencode(path.name): path.read_bytes() for path in (image / "odd").iterdir()}
    assert found == {name: name for name in (b"a\nb", b"\xff", b"c d", b"'\"$(x)")}


def test_an_incomplete_list_is_refused(image: Image) -> None:
    (piece,) = changes.records(Changes((FileChange("/a", content="abc"),)), {})
    for end in range(1, len(piece)):
        done = image.apply([piece[:end]])
        assert done.returncode == NOT_CHANGED, end
    assert not (image / "a").exists()
