"""Files beside a spec: what may be one, what its hash is made of, and what happens if it changes while it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lxdocker.config import sources
from lxdocker.errors import BuildError


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    folder = tmp_path / "specs"
    (folder / "app/bin").mkdir(parents=True)
    (folder / "app/bin/run").write_text("run")
    (folder / "app/link").symlink_to("/etc/passwd")
    (folder / "file").write_text("content")
    (tmp_path / "outside").write_text("secret")
    return folder


@pytest.mark.parametrize("text", ["../outside", "/etc/passwd", "app/../../outside", ".", "up", "up/outside"])
def test_nothing_outside_the_folder_is_a_source(specs: Path, text: str) -> None:
    (specs / "up").symlink_to("..")
    with pytest.raises(ValueError, match=r"expected a file or folder in .*, found one outside it"):
        sources.find(text, specs)


def test_what_is_not_there_or_no_file(specs: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        sources.find("none", specs)
    os.mkfifo(specs / "app/fifo")
    with pytest.raises(ValueError, match="a device, socket or pipe"):
        sources.find("app", specs)
    with pytest.raises(ValueError, match="expected a file, found a folder"):
        sources.find_file("app/bin", specs)


def read(source: sources.Source) -> list[tuple[str, str, bool, str, bytes]]:
    return [
        (entry.name, entry.kind, entry.executable, entry.target, b"".join(content)) for entry, content in source.read()
    ]


def test_a_folder_is_read_in_the_order_of_names_and_its_links_are_not_followed(specs: Path) -> None:
    (specs / "app/bin/run").chmod(0o755)
    assert read(sources.find("app", specs)) == [
        ("", "folder", False, "", b""),
        ("bin", "folder", False, "", b""),
        ("bin/run", "file", True, "", b"run"),
        ("link", "link", False, "/etc/passwd", b""),
    ]


def test_what_git_keeps_in_a_checkout_is_no_part_of_it(specs: Path) -> None:
    before = sources.find("app", specs)
    for folder in ("app", "app/bin"):
        (specs / folder / ".git").mkdir()
        (specs / folder / ".git/config").write_text("url = https://me:secret@git.example.org/app.git")
    (specs / "app/.gitignore").write_text("")
    found = sources.find("app", specs)
    assert [name for name, *_ in read(found)] == ["", ".gitignore", "bin", "bin/run", "link"]
    (specs / "app/.gitignore").unlink()
    assert sources.find("app", specs) == before


def test_what_a_hash_is_made_of(specs: Path) -> None:
    path = specs / "app/bin/run"
    before = sources.find("app", specs).digest
    os.utime(path, (1, 1))
    path.chmod(0o600)
    assert sources.find("app", specs).digest == before
    digests = {before}
    for change in (
        lambda: path.chmod(0o700),
        lambda: path.write_text("RUN"),
        lambda: path.rename(path.with_name("ran")),
        lambda: (specs / "app/empty").mkdir(),
        lambda: (specs / "app/link").unlink(),
        lambda: (specs / "app/link").symlink_to("/etc/group"),
    ):
        change()
        digests.add(sources.find("app", specs).digest)
    assert len(digests) == 7


@pytest.mark.parametrize("size", [-1, 0, 1])
def test_a_source_that_has_changed_since_then_is_refused(specs: Path, size: int) -> None:
    source = sources.find("file", specs)
    (specs / "file").write_text("CONTENT"[: 7 + size] + "x" * size)
    with pytest.raises(BuildError, match=r"reading .* failed") as caught:
        read(source)
    assert "is not what it was when the spec was read" in caught.value.details


@pytest.mark.parametrize("longer", [True, False])
def test_a_file_that_changes_while_it_is_read_gives_as_many_bytes_as_were_announced(specs: Path, longer: bool) -> None:
    """What follows in the stream would be taken for content otherwise."""
    (specs / "file").write_bytes(b"x" * 3_000_000)
    source = sources.find("file", specs)
    _, content = next(source.read())
    pieces = [next(content)]
    os.truncate(specs / "file", 9_000_000 if longer else 10)
    with pytest.raises(BuildError):
        pieces.extend(content)
    assert sum(map(len, pieces)) <= 3_000_000
