"""rpm's databases: the headers of packages in each of its three formats. As a program, `python -m tests.rpm_databases`
records those of Berkeley DB in tests/data/rpm, with its db_load.
"""

from __future__ import annotations

import gzip
import sqlite3
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from lxdocker.image.difference import Package

RECORDED = Path(__file__).parent / "data/rpm"
SLOTS = 256  # in a page of ndb
BLOCK = 16  # bytes


def header(
    name: str, version: str, release: str, epoch: int | None = None, architecture: str | None = "x86_64", more: int = 0
) -> bytes:
    """As rpm stores it: an index and its data. ``more``: bytes of a description, between version and architecture."""
    strings = {1000: name, 1001: version, 1002: release, 1005: "x" * more, 1022: architecture}
    index, data = b"", b""
    for tag, text in sorted({**strings, 1003: None}.items()):
        if tag == 1003 and epoch is not None:
            data += bytes(-len(data) % 4)
            index += struct.pack(">4I", tag, 4, len(data), 1)
            data += struct.pack(">I", epoch)
        elif text is not None:
            index += struct.pack(">4I", tag, 9 if tag == 1005 else 6, len(data), 1)
            data += text.encode() + b"\0"
    return struct.pack(">2I", len(index) // 16, len(data)) + index + data


# One is on many overflow pages, many are on one page, and there are more than one page has room for.
PACKAGES = (
    Package("rpm", "base", "2:1.0~rc1-3.el9", "x86_64"),
    Package("rpm", "zero", "0:1-1", "noarch"),
    Package("rpm", "gpg-pubkey", "a-b", ""),
    *(Package("rpm", f"p{number}", f"{number}-1", "x86_64") for number in range(60)),
)
HEADERS = (
    header("base", "1.0~rc1", "3.el9", 2, more=100_000),
    header("zero", "1", "1", 0, "noarch"),
    header("gpg-pubkey", "a", "b", None, None),
    *(header(f"p{number}", str(number), "1", more=number * 50) for number in range(60)),
)


def sqlite(path: Path, headers: Sequence[bytes] = HEADERS, *, page_size: int = 4096) -> None:
    """As rpm's lib/backend/sqlite.cc makes it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size={page_size}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE Name (key TEXT, hnum INTEGER)")
        database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        database.execute("BEGIN")
        database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(one,) for one in headers])
        database.execute("COMMIT")


def ndb(headers: Sequence[bytes] = HEADERS) -> bytes:
    """As rpm's lib/backend/ndb/rpmpkg.c makes it, with a slot that is free."""
    slots, blobs, block = b"", b"", SLOTS
    for number, one in enumerate(headers, 1):
        blob = struct.pack("<4s3I", b"BlbS", number, 1, len(one)) + one
        blob += bytes(-(len(blob) + 12) % BLOCK) + struct.pack("<2I4s", 0, len(one), b"BlbE")
        slots += struct.pack("<4s3I", b"Slot", number, block, len(blob) // BLOCK)
        if number == 1:
            slots += struct.pack("<4s3I", b"Slot", 0, 0, 0)
        blobs += blob
        block += len(blob) // BLOCK
    free = struct.pack("<4s3I", b"Slot", 0, 0, 0) * (SLOTS - 2 - len(slots) // BLOCK)
    return struct.pack("<4s7I", b"RpmP", 0, 1, 1, len(headers) + 1, 0, 0, 0) + slots + free + blobs


def bdb(order: str) -> bytes:
    """As Berkeley DB itself has made it, of ``little`` or ``big`` endian."""
    return gzip.decompress((RECORDED / f"Packages-{order}.gz").read_bytes())


def record() -> None:
    """Makes those files anew."""
    entries = [(0, struct.pack("<I", len(HEADERS))), *enumerate(HEADERS, 1)]
    for order, number in (("little", 1234), ("big", 4321)):
        lines = ["VERSION=3", "format=bytevalue", "type=hash", f"db_lorder={number}", "db_pagesize=4096", "HEADER=END"]
        lines += [f" {text.hex()}" for key, value in entries for text in (key.to_bytes(4, "little"), value)]
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "Packages")
            text = "\n".join([*lines, "DATA=END", ""])
            subprocess.run(["db5.3_load", str(made)], input=text, text=True, check=True)
            (RECORDED / f"Packages-{order}.gz").write_bytes(gzip.compress(made.read_bytes(), mtime=0))


if __name__ == "__main__":
    record()
