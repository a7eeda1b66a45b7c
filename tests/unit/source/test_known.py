"""What registries have sent before: kept by digest, verified, for this user alone, and never in the way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lxdocker.source import known
from lxdocker.source.known import SYSTEM, Known
from lxdocker.values import Digest
from tests.forked import NOBODY, in_child

CONTENT = b'{"schemaVersion": 2}'
DIGEST = Digest.of(CONTENT)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_put_can_be_had_by_the_next_process(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    Known(folder).put(DIGEST, CONTENT)
    assert Known(folder).get(DIGEST) == CONTENT
    assert Known(folder).get(Digest.of(b"else")) is None
    assert [path.name for path in folder.iterdir()] == [DIGEST.hex]
    assert (mode(folder), mode(folder / DIGEST.hex)) == (0o700, 0o600)


def test_a_folder_that_others_could_read_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Known(tmp_path).put(DIGEST, CONTENT)
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT + b" ", b"x" * (5 << 20)])
def test_what_is_not_what_its_name_says_is_not_known(tmp_path: Path, damage: bytes) -> None:
    kept = Known(tmp_path)
    kept.put(DIGEST, CONTENT)
    (tmp_path / DIGEST.hex).write_bytes(damage)
    assert kept.get(DIGEST) is None
    assert not (tmp_path / DIGEST.hex).exists()
    kept.put(DIGEST, CONTENT)
    assert kept.get(DIGEST) == CONTENT


def test_the_longest_unused_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_OFTEN", 2)
    contents = [f"content {number}".encode() for number in range(3)]
    kept = Known(tmp_path)
    for age, content in zip((30, 20, 10), contents, strict=True):
        kept.put(Digest.of(content), content)
        os.utime(tmp_path / Digest.of(content).hex, (1e9 - age, 1e9 - age))
    assert kept.get(Digest.of(contents[0])) == contents[0]  # and so it is the last to go
    monkeypatch.setattr(known, "MOST_FILES", 2)
    Known(tmp_path).put(DIGEST, CONTENT)
    assert [kept.get(Digest.of(content)) is not None for content in (*contents, CONTENT)] == [True, False, False, True]
    monkeypatch.setattr(known, "MOST_BYTES", len(CONTENT) + 5)
    Known(tmp_path).put(DIGEST, CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == [DIGEST.hex]


def test_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    large = b"x" * ((4 << 20) + 1)
    Known(tmp_path).put(Digest.of(large), large)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["nothing", "a file", "a writable folder", "a full disk"])
def test_what_cannot_be_used_is_as_good_as_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    folder: Path | None = tmp_path / "cache"
    assert folder is not None
    match what:
        case "nothing":
            folder = None
        case "a file":
            folder.write_text("")
        case "a writable folder":
            folder.mkdir()
            folder.chmod(0o777)
            (folder / DIGEST.hex).write_bytes(CONTENT)
        case _:

            def full(*_: object) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("lxdocker.files.durable.write_file", full)
    kept = Known(folder)
    kept.put(DIGEST, CONTENT)
    assert kept.get(DIGEST) is None


def test_each_user_has_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ann = {"HOME": "/home/ann"}

    def folders() -> list[Path | None]:
        return [Known.of({**ann, **more})._path for more in ({}, {"XDG_CACHE_HOME": "x"}, {"XDG_CACHE_HOME": "/c"})]

    def as_user(uid: int) -> list[Path | None]:
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: uid)
            return folders()

    assert as_user(0) == [SYSTEM, SYSTEM, Path("/c/lxdocker")]
    assert as_user(1000) == [Path("/home/ann/.cache/lxdocker"), Path("/home/ann/.cache/lxdocker"), Path("/c/lxdocker")]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    kept = Known(tmp_path / "cache")
    kept.put(DIGEST, CONTENT)

    def read() -> tuple[str, str, str]:
        try:
            return ("read", str((tmp_path / "cache" / DIGEST.hex).read_bytes()), "")
        except PermissionError:
            return ("denied", "", "")

    assert in_child(read, uid=NOBODY)[0] == "denied"
