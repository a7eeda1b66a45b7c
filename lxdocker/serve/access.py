"""Who may read the tree: names and bcrypt hashes in a file as Apache's ``htpasswd -B`` writes it.

Basic auth is the only login LXD's and Incus's simplestreams clients can use, in the server's address; they never show
a client certificate there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt

from lxdocker.errors import UsageError
from lxdocker.reasons import in_words

_LINE = re.compile(r"(?P<name>[^:\s][^:]*):(?P<hash>\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53})")
# 2^14 rounds take about a second.
MAX_COST = 14
MAX_REMEMBERED = 1000
HINT = "create it with: htpasswd -B -c FILE NAME (Debian's apache2-utils)"


class Users:
    """The users in a file; ``look`` takes what has changed in it."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError unless the file can be used."""
        self._path = path
        self._secret = secrets.token_bytes(32)
        # bcrypt is slow on purpose, and LXD sends the password with every request.
        self._remembered: set[bytes] = set()
        # A flood of wrong passwords may keep one core busy, not all of them, and no thread that reads files.
        self._checker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="passwords")
        self._state = self._stat()
        self._hashes = _read(path)

    def look(self) -> str | None:
        """Reads the file again if it changed. Returns a line about it."""
        state = self._stat()
        if state == self._state:
            return None
        self._state = state
        try:
            hashes = _read(self._path)
        except UsageError as error:
            return f"{error}; keeping the previous users"
        self._hashes = hashes
        self._remembered = set()
        return f"reloaded {self._path}: {len(hashes)} users"

    async def who(self, authorization: str | None) -> str | None:
        """The user whose name and password an Authorization header has; None if it has not."""
        given = _basic(authorization)
        if given is None:
            return None
        name, password = given
        remembered = self._remembered
        token = hmac.digest(self._secret, f"{name}\0".encode() + password, hashlib.sha256)
        if token in remembered:
            return name
        hashes = self._hashes
        loop = asyncio.get_running_loop()
        # Where the name is unknown, another one's is compared with, so that an answer takes as long.
        stored = hashes.get(name) or next(iter(hashes.values()))
        same = await loop.run_in_executor(self._checker, _check, stored, password)
        if not same or name not in hashes:
            return None
        if len(remembered) < MAX_REMEMBERED:
            # The set of before, should the file have changed meanwhile.
            remembered.add(token)
        return name

    def _stat(self) -> object:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _read(path: Path) -> Mapping[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the users file {path}", in_words(error), HINT) from error
    hashes = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        # The line itself is not shown: it may hold a password.
        if match is None:
            raise UsageError(f"{path}:{number}: expected NAME:HASH with a bcrypt hash ($2y$...)", "", HINT)
        if int(match["cost"]) > MAX_COST:
            raise UsageError(
                f"{path}:{number}: bcrypt cost above {MAX_COST}", "checking a password would take seconds", HINT
            )
        hashes[match["name"]] = match["hash"]
    if not hashes:
        raise UsageError(f"no users in {path}", "no one could read the tree", HINT)
    return hashes


def _check(stored: str, password: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, stored.encode())
    except ValueError:  # longer than bcrypt takes
        return False


def _basic(authorization: str | None) -> tuple[str, bytes] | None:
    """Name and password of ``Basic ...`` (RFC 7617)."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        # bcrypt would end the password at a NUL.
        return (name.decode(), password) if colon and b"\0" not in password else None
    except (binascii.Error, ValueError):
        return None
