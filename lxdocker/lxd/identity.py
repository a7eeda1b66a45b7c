"""Two that know each other: this lxdocker's certificate at another host's LXD, and that LXD's certificate here.

https://documentation.ubuntu.com/lxd/latest/authentication/#tls-client-certificates
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lxdocker.errors import HostError, LxdError, UsageError
from lxdocker.files import rights
from lxdocker.files.durable import write_file
from lxdocker.files.seen import exists
from lxdocker.lxd.address import Https, token_command
from lxdocker.lxd.daemon import CERTIFICATE, KEY, PINNED, parse_url
from lxdocker.reasons import in_words

LIFE = timedelta(days=3650)  # as lxc's own
SECONDS = 10
EXPLICIT_TOKEN = "explicit_trust_token"  # noqa: S105 - the name of an API extension


@dataclass(frozen=True, slots=True)
class Token:
    """What ``lxc config trust add`` prints on the LXD's host. A secret."""

    text: str
    addresses: tuple[str, ...]  # HOST:PORT
    fingerprint: str  # of the LXD's certificate, hex digits

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises UsageError, without the text."""
        try:
            document = json.loads(base64.b64decode(text.strip(), validate=True))
            addresses = tuple(str(one) for one in document["addresses"])
            return cls(text.strip(), addresses, str(document["fingerprint"]).lower())
        except (ValueError, KeyError, TypeError):
            what = "neither a URL nor a trust token"
            raise UsageError(what, "", f"on the LXD's host: {token_command()}") from None

    def __repr__(self) -> str:
        return f"Token(addresses={self.addresses})"


def ensure_own(folder: Path) -> Path:
    """The certificate that this lxdocker shows, in PEM; made if it is missing. Raises UsageError."""
    certificate, key = folder / CERTIFICATE, folder / KEY
    try:
        for place in (folder, folder / PINNED):
            rights.make_folder(place, rights.PRIVATE)
        if not (exists(certificate) and exists(key)):
            pem, secret = _made()
            write_file(key, secret, 0o600)
            write_file(certificate, pem, 0o644)
    except OSError as error:
        raise UsageError(
            f"cannot use {folder}", in_words(error), "name another folder in the setting client_dir"
        ) from error
    return certificate


def find(token: Token, folder: Path) -> Https:
    """The first of a token's addresses where its LXD answers. Raises HostError."""
    failed = []
    for place in token.addresses:
        address = parse_url(f"https://{place}", folder)
        try:
            if hashlib.sha256(address.seen(SECONDS)).hexdigest() == token.fingerprint:
                return address
            failed.append(f"{place}: another server")
        except OSError as error:
            failed.append(f"{place}: {in_words(error)}")
    raise HostError(
        "cannot reach the LXD that the token is for",
        "; ".join(failed) or "it names no address",
        "see that it listens (lxc config get core.https_address), or name an address: lxdocker trust URL --token TOKEN",
    )


def shown_by(address: Https) -> tuple[bytes, str]:
    """The certificate (DER) of the LXD there, and its SHA-256 in hex digits. Raises HostError."""
    try:
        certificate = address.seen(SECONDS)
    except OSError as error:
        where = "see that it listens there (lxc config get core.https_address), and the way there"
        raise HostError(f"cannot connect to LXD at {address}", in_words(error), where) from error
    return certificate, hashlib.sha256(certificate).hexdigest()


def pin(address: Https, certificate: bytes) -> None:
    """From now on it is this one there, and no other."""
    write_file(address.pinned, ssl.DER_cert_to_PEM_cert(certificate).encode(), 0o644)


def introduce(address: Https, token: Token) -> None:
    """Has the LXD there trust this lxdocker's certificate. Raises HostError or LxdError."""
    from requests import RequestException

    what = f"adding this lxdocker's certificate to LXD at {address}"
    try:
        with address.session() as session:
            server = session.get(f"{address.endpoint}/1.0", timeout=SECONDS).json()["metadata"]
            if server.get("auth") == "trusted":
                return
            explicit = EXPLICIT_TOKEN in (server.get("api_extensions") or ())
            body: dict[str, Any] = {"type": "client", ("trust_token" if explicit else "password"): token.text}
            answer = session.post(f"{address.endpoint}/1.0/certificates", json=body, timeout=SECONDS).json()
    except (RequestException, ValueError, KeyError, AttributeError) as error:
        raise LxdError(f"{what} failed", in_words(error), "is LXD still running?") from error
    if answer.get("type") == "error":
        why = str(answer.get("error"))[:300]
        do = f"a token serves once, and for a while: make another on that host: {token_command()}"
        if "already exists" in why:  # newer LXDs let no two clients have a name
            do = (
                "a client of the token's name is trusted there: lxc config trust list; make a token with another --name"
            )
        raise LxdError(f"{what} failed", why, do)


def _made() -> tuple[bytes, bytes]:
    """A certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"lxdocker@{os.uname().nodename}"[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFE)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
