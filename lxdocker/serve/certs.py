"""The server's certificate: made by lxdocker and kept alive, or the user's own, and read again when it changes.

A self-signed certificate lives long and keeps its key, because clients pin it: LXD and Incus keep a copy and take
that copy as the authority for what the server shows. They check the server's name against the *first* name in their
copy. So a certificate that is made anew with the same key, the same subject and the same first name is trusted by
every client that has the old one, until that one ends. Its names must not all be the same, though: Go takes two
certificates with the same subject, key and names for one that leads to itself, and leaves the old one out of the chain.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import ssl
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lxdocker.errors import UsageError

# The first name and the subject of every certificate we make: it must never change, whatever the host is called.
FIXED_NAME = "lxdocker"
LIFE = timedelta(days=3650)
# Time enough to give clients the new certificate before their copy of the old one ends.
RENEW_BEFORE = timedelta(days=365)
# Clocks differ.
BACKDATED = timedelta(days=1)
# A router can have thousands of addresses, and a certificate is sent with every connection.
MAX_ADDRESSES = 100
RESOLVER_SECONDS = 2
_HOST_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.(?!$)|$))+")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of a certificate (chain) and its key, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says."""

    pem: str  # of this certificate alone, as clients pin it
    fingerprint: str  # SHA-256, hex digits
    names: tuple[str, ...]  # DNS names and addresses
    ends: datetime
    self_signed: bool

    @classmethod
    def parse(cls, data: bytes) -> Certificate:
        """The first certificate of a PEM file, or one in DER. Raises ValueError."""
        try:
            if data.startswith(b"\x30"):
                found = x509.load_der_x509_certificate(data)
            else:
                found = x509.load_pem_x509_certificates(data)[0]
            return cls(
                pem=found.public_bytes(serialization.Encoding.PEM).decode(),
                fingerprint=found.fingerprint(hashes.SHA256()).hex(),
                names=_names(found),
                ends=found.not_valid_after_utc,
                self_signed=found.issuer == found.subject,
            )
        except (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, IndexError) as error:
            raise ValueError(f"unusable certificate: {error}") from error

    @property
    def shown_fingerprint(self) -> str:
        """``AB:CD:...``, as openssl prints it."""
        return ":".join(re.findall("..", self.fingerprint.upper()))


# ---- a certificate of our own making


def make(folder: Path, names: Iterable[str] = ()) -> Pair:
    """The self-signed certificate in ``folder``, good for ``names`` and for this host's names and addresses.

    Made if there is none; made anew, with the same key, if it is about to end or lacks the host's name or one of
    ``names``. Not for an address that came up since, or its fingerprint would change with every new bridge. Raises
    UsageError where the folder can't be used.
    """
    pair = Pair(folder / "server.crt", folder / "server.key")
    needed = ("localhost", *_own_name(), *names)
    try:
        if _still_good(pair, needed):  # the usual case, in which the folder need not be writable
            return pair
        also = (*_full_name(), *map(str, host_addresses()))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            if not _still_good(pair, needed):
                key = _read_key(pair.key)
                if key is None:
                    key = ec.generate_private_key(ec.SECP256R1())
                    write_file(pair.key, _key_pem(key), 0o600)
                write_file(pair.certificate, _signed(key, (*needed, *also)), 0o644)
    except OSError as error:
        raise UsageError(
            f"the folder {folder} for the server's certificate can't be used",
            str(error),
            "run as a user who may write there, choose another with --tls-dir DIR, or give a certificate of your own"
            " with --tls-cert FILE --tls-key FILE",
        ) from error
    return pair


def check_name(text: str) -> str:
    """``text`` if it is a host name or an address. Raises ValueError."""
    if _address(text) is None and not _HOST_NAME.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is neither a host name nor an address")
    return text


def _still_good(pair: Pair, needed: Iterable[str]) -> bool:
    try:
        key = _read_key(pair.key)
        found = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        return (
            key is not None
            and found.public_key() == key.public_key()
            and found.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE
            and found.not_valid_before_utc <= datetime.now(UTC)
            and {_canonical(name) for name in needed} <= {_canonical(name) for name in _names(found)}
        )
    except (FileNotFoundError, ValueError):
        return False


def _signed(key: ec.EllipticCurvePrivateKey, wanted: Iterable[str]) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, FIXED_NAME)])
    unique = dict.fromkeys(_canonical(name) for name in (FIXED_NAME, *wanted))
    addresses = {name: address for name in unique if (address := _address(name)) is not None}
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in unique if name not in addresses]
    names += [x509.IPAddress(address) for address in addresses.values()]
    names.append(x509.UniformResourceIdentifier(uuid.uuid4().urn))
    now = datetime.now(UTC).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        # Not an authority: whoever trusts it trusts this server and no other.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key there, or None where there is none that we could have made."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two servers that start at once would each write one half of the pair."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable to others in between: mkstemp's files are private."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as output:
            output.write(data)
            os.fchmod(output.fileno(), mode)
            output.flush()
            os.fsync(output.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# ---- names


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )


def _canonical(name: str) -> str:
    address = _address(name)
    return str(address) if address is not None else name.lower()


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _own_name() -> list[str]:
    name = socket.gethostname()
    return [name] if _HOST_NAME.fullmatch(name) and _address(name) is None else []


def _full_name() -> list[str]:
    """The host's name with its domain, if whoever resolves names here knows it soon enough."""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(socket.getfqdn()), daemon=True)
    asking.start()
    asking.join(RESOLVER_SECONDS)
    return [name for name in found if _HOST_NAME.fullmatch(name) and _address(name) is None]


def host_addresses() -> list[Address]:
    """The addresses of all this host's interfaces, those that are only good on one link excepted."""
    found: list[Address] = [IPv4Address("127.0.0.1"), IPv6Address("::1")]
    # A local address stands on the line before the one that says so.
    for match in re.finditer(r"\|-- (\S+)\n\s+/32 host LOCAL", _read("/proc/net/fib_trie")):
        found.append(IPv4Address(match[1]))
    for line in _read("/proc/net/if_inet6").splitlines():
        found.append(IPv6Address(bytes.fromhex(line.split()[0])))
    usable = (one for one in found if not one.is_link_local and not one.is_multicast)
    return list(dict.fromkeys(usable))[:MAX_ADDRESSES]


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except OSError:
        return ""


# ---- what the server shows


class Watch:
    """The TLS context of new connections, kept up with the files on disk.

    ``renew`` is asked for the files at every look, so that it can make the certificate anew.
    """

    def __init__(self, renew: Callable[[], Pair]) -> None:
        """Raises UsageError where there is no certificate that can be used."""
        self._renew = renew
        self._seen: tuple[object, ...] = ()
        self._failed: tuple[object, ...] = ()
        self._pair = renew()
        self.context, self.certificate = _load(self._pair)
        self._seen = _state(self._pair)

    def look(self) -> str | None:
        """Takes what has changed. Returns a line about it, or about why it could not be taken (said once)."""
        try:
            self._pair = self._renew()
        except UsageError as error:
            return self._once((str(error),), f"{error}; going on with the certificate as it is")
        state = _state(self._pair)
        if state == self._seen:
            return None
        try:
            self.context, self.certificate = _load(self._pair)
        except UsageError as error:
            # One of the two files may not be written yet. Connections go on with what they have.
            return self._once(state, f"{error}; going on with the one from before")
        self._seen = state
        return f"showing a new certificate, good until {self.certificate.ends:%Y-%m-%d}: {self.certificate.fingerprint}"

    def _once(self, state: tuple[object, ...], text: str) -> str | None:
        if state == self._failed:
            return None
        self._failed = state
        return text


def _state(pair: Pair) -> tuple[object, ...]:
    def of(path: Path) -> object:
        try:
            found = path.stat()
        except OSError as error:
            return str(error)
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)

    return (pair, of(pair.certificate), of(pair.key))


def _load(pair: Pair) -> tuple[ssl.SSLContext, Certificate]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        certificate = Certificate.parse(pair.certificate.read_bytes())
        context.load_cert_chain(pair.certificate, pair.key, password=_refuse_password)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            why = f"{pair.key} is not its key"
        raise UsageError(
            f"the certificate {pair.certificate} can't be used",
            str(why),
            "--tls-cert takes a PEM file with the certificate and those of its authorities, --tls-key its key without a"
            " password",
        ) from error
    return context, certificate


def _refuse_password() -> str:
    """OpenSSL would ask on the terminal, in the middle of serving."""
    raise ValueError("its key is protected by a password")
