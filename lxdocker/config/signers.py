"""The public keys that may sign the commits of a repository of specs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lxdocker.errors import UsageError
from lxdocker.text import one_line

_ARMOR = b"-----BEGIN PGP"
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY")
_SECRET_TAGS = frozenset({5, 7})  # RFC 9580, section 5: packets of secret keys
_SSH_KEY = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ +[A-Za-z0-9+/]{16,}=*(?:\s|$)")
_PUBLIC = "give public keys: gpg --export --armor, or the .pub file of ssh-keygen"


@dataclass(frozen=True, slots=True)
class Signers:
    """Public keys, in a form that gpg or ssh-keygen reads."""

    kind: Literal["openpgp", "ssh"]
    content: bytes

    @classmethod
    def parse(cls, content: bytes, where: str) -> Signers:
        """OpenPGP keys, armored or not; or ssh's: as allowed signers (ssh-keygen(1)), or as the lines of .pub files,
        which then may sign in anybody's name. ``where``: the file as the user knows it. Raises UsageError.
        """
        what = f"cannot use the keys of signers in {where}"
        if _PRIVATE.search(content) or _starts_with_secret(content):
            raise UsageError(what, "there is a private key", f"keep that to yourself; {_PUBLIC}")
        if _ARMOR in content or content[:1] >= b"\x80":  # what a packet starts with: RFC 9580, section 4.2
            return cls("openpgp", content)
        lines = []
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            text = line.strip()
            if text and not text.startswith("#"):
                found = _SSH_KEY.search(text)
                if found is None:
                    raise UsageError(what, f"line {number} is no public key: {one_line(text)[:60]!r}", _PUBLIC)
                lines.append(f"* {text}" if found.start() == 0 else text)
        if not lines:
            raise UsageError(what, "it is empty", _PUBLIC)
        return cls("ssh", "".join(f"{line}\n" for line in lines).encode())


def _starts_with_secret(content: bytes) -> bool:
    """Whether binary content starts with a packet that holds a secret key."""
    if content[:1] < b"\x80":
        return False
    first = content[0]
    return (first & 0x3F if first & 0x40 else first >> 2 & 0xF) in _SECRET_TAGS
