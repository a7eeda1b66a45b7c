"""Keys of signers: each form in which people have them, and what is none."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.config.signers import Signers
from lxdocker.errors import UsageError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExampleEx"


class Gpg:
    """gpg, with keys of its own."""

    def __init__(self, home: str) -> None:
        self.environment = {"PATH": os.environ["PATH"], "GNUPGHOME": home}

    def __call__(self, *arguments: str) -> bytes:
        argv = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
        return subprocess.run(argv, env=self.environment, check=True, capture_output=True).stdout

    def key(self, name: str, expires: str = "never") -> str:
        """A new one. Its user ID."""
        self("--quick-generate-key", f"{name}@example.org", "ed25519", "sign", expires)
        return f"{name}@example.org"


@pytest.fixture(scope="module")
def gpg() -> Iterator[Gpg]:
    with tempfile.TemporaryDirectory(prefix="gpg.") as home:  # short, since gpg-agent's socket is in it
        yield Gpg(home)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def test_openpgp_keys_as_gpg_exports_them(gpg: Gpg) -> None:
    name = gpg.key("ann")
    for form in ((), ("--armor",)):
        public = gpg(*form, "--export", name)
        assert Signers.parse(public, "keys") == Signers("openpgp", public)
        with pytest.raises(UsageError, match="there is a private key") as caught:
            Signers.parse(gpg(*form, "--export-secret-keys", name), "keys")
        assert "gpg --export --armor" in caught.value.resolution


def test_ssh_keys() -> None:
    allowed = f'# ours\n\nann@example.org namespaces="git" {KEY}\n'
    assert Signers.parse(allowed.encode(), "keys") == Signers(
        "ssh", f'ann@example.org namespaces="git" {KEY}\n'.encode()
    )
    assert Signers.parse(f"{KEY} ann@host\n".encode(), "id.pub") == Signers("ssh", f"* {KEY} ann@host\n".encode())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\n# nothing yet\n", "it is empty"),
        (b"ann@example.org\n", "line 1 is no public key"),
        (f"{KEY}\n<html>\n".encode(), "line 2 is no public key: '<html>'"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbg==\n-----END OPENSSH PRIVATE KEY-----\n", "a private key"),
    ],
)
def test_what_is_no_key(content: bytes, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        Signers.parse(content, "/etc/keys")
    assert "/etc/keys" in caught.value.brief
    assert why in caught.value.details


def test_a_private_key_of_ssh_is_refused(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
    assert Signers.parse((tmp_path / "id.pub").read_bytes(), "id.pub").kind == "ssh"
    with pytest.raises(UsageError, match="private key"):
        Signers.parse((tmp_path / "id").read_bytes(), "id")
