"""The server's certificate: made and renewed by lxdocker, or the user's own, and reloaded when it changes.

A certificate made by lxdocker is valid for years and keeps its key, because clients pin it: LXD before 6.10 and Incus
keep a copy, and use that copy as the authority for any certificate that the server shows. They check the server's name
against the *first* name in their copy. So clients that have an older copy trust a new certificate with the same key,
subject and first name, until their copy expires. Its alternative names must differ, though: Go
takes two certificates with the same subject, key and alternative names for the same one, and leaves the older one out
of the chain. Hence the random directory name among them. (A random URI would do for pinned copies, but under an
authority with name constraints of any kind Go refuses URIs without a host.)

For clients that pin nothing there is an ``authority`` beside it. The server's certificate always stays within the
authority that is given out: a new certificate leaves out names that the authority does not cover. The authority is only
replaced if it does not cover a name that is needed, or is about to expire, and always before the certificate. Hosts
that installed it must then install it again: at once in the first case, before the old one expires in the second.
"""

from __future__ import annotations

import re
import ssl
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lxdocker.errors import UsageError
from lxdocker.files import lock, rights
from lxdocker.files.durable import write_file
from lxdocker.progress import Say
from lxdocker.reasons import in_words
from lxdocker.serve import authority as authorities
from lxdocker.serve.authority import FIXED_NAME, Authority
from lxdocker.serve.hostnames import as_address, canonical, full_name, host_addresses, own_name

LIFE = timedelta(days=3650)
# Leaves enough time to give clients the new certificate before their copy of the old one expires.
RENEW_BEFORE = timedelta(days=365)
# A user's own certificate is warned about each day in its last 14 days, or in the last quarter of a shorter life.
WARN_BEFORE = timedelta(days=14)
# For clients whose clocks are behind.
BACKDATED = timedelta(days=1)

CERTIFICATE, KEY, AUTHORITY = "server.crt", "server.key", "authority.crt"

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Pair:
    """The PEM files of a certificate (chain) and its key, and of the authority if lxdocker made them."""

    certificate: Path
    key: Path
    authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """The content of a certificate."""

    pem: str  # this certificate alone, as clients pin it
    fingerprint: str  # SHA-256, hex digits
    key: str  # SHA-256 of its public key, hex digits
    names: tuple[str, ...]  # DNS names and addresses
    begins: datetime
    ends: datetime
    self_signed: bool  # by its own key
    has_authority: bool  # which the server offers at authority.PATH
    chain_ends: datetime  # when the first certificate in its file expires

    @classmethod
    def parse(cls, data: bytes) -> Certificate:
        """The first certificate of a PEM file, or one in DER. Raises ValueError."""
        try:
            if data.startswith(b"\x30"):
                chain = [x509.load_der_x509_certificate(data)]
            else:
                chain = x509.load_pem_x509_certificates(data)
            found = chain[0]
            self_signed = authorities.is_signed_by_itself(found)
            return cls(
                pem=found.public_bytes(serialization.Encoding.PEM).decode(),
                fingerprint=found.fingerprint(hashes.SHA256()).hex(),
                key=authorities.key_hash(found),
                names=_names(found),
                begins=found.not_valid_before_utc,
                ends=found.not_valid_after_utc,
                self_signed=self_signed,
                has_authority=self_signed and authorities.names_as_issuer(found),
                chain_ends=min(certificate.not_valid_after_utc for certificate in chain),
            )
        except (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, IndexError) as error:
            raise ValueError(f"unusable certificate: {error}") from error

    @property
    def shown_fingerprint(self) -> str:
        """``AB:CD:...``, as openssl prints it."""
        return ":".join(re.findall("..", self.fingerprint.upper()))

    def is_for(self, host: str) -> bool:
        """Whether ``host``, a name or an address, is among its names, as clients match them."""
        name = canonical(host.strip("[]"))
        wildcard = f"*.{name.partition('.')[2]}" if as_address(name) is None else name
        return not {name, wildcard}.isdisjoint(map(canonical, self.names))

    def is_vouched_for(self, authority: Authority) -> bool:
        """Whether a client that trusts the authority trusts this certificate."""
        return self.has_authority and self.key == authority.key and set(self.names) <= set(authority.names)


def check_authority(data: bytes, certificate: Certificate) -> Authority:
    """Parses the authority that a server offers as PEM. Raises ValueError unless it vouches for the server's
    certificate, and can vouch for no other server.

    It has the certificate's key. So once the certificate is trusted, the authority needs no fingerprint of its own.
    """
    found = Authority.parse(data)
    if not certificate.is_vouched_for(found):
        raise ValueError("it does not vouch for the server's certificate")
    if not found.begins <= datetime.now(UTC) < found.ends:
        raise ValueError(f"it is valid from {found.begins:%Y-%m-%d} to {found.ends:%Y-%m-%d} only")
    return found


# ---- a certificate made by lxdocker


def make(folder: Path, names: Iterable[str] = (), say: Say = lambda _: None) -> Pair:
    """The server's certificate in ``folder``, valid for ``names`` and for this host's names and addresses, and its
    authority.

    They are made if they are missing, and renewed, with the same key, if they are about to expire or lack the host's
    name or one of ``names``. A new address of the host is no reason, or the fingerprint would change with every new
    bridge. ``say`` gets a line if hosts that installed the authority must install it again. Raises UsageError if the
    folder can't be used.
    """
    pair = Pair(folder / CERTIFICATE, folder / KEY, folder / AUTHORITY)
    needed = _unique((FIXED_NAME, "localhost", *own_name(), *names))
    try:
        rights.check(folder)  # anybody who can write in it could impersonate this server
        if _Held.read(folder).is_good(needed):  # the usual case: the folder need not be writable
            return pair
        wanted = _unique((*needed, *full_name(), *map(str, host_addresses())))
        rights.make_folder(folder, rights.PRIVATE)
        with lock.file(folder / ".lock"):  # two servers that start at once would each write one half of the pair
            _make_anew(folder, needed, wanted, say)
    except rights.UnsafeError as error:
        raise UsageError(
            f"the folder {folder} is not safe for the server's key", in_words(error), error.remedy
        ) from error
    except OSError as error:
        raise UsageError(
            f"the folder {folder} for the server's certificate can't be used",
            in_words(error),
            "run as a user who may write there, choose another with --tls-dir DIR, or use your own certificate"
            " with --tls-cert FILE --tls-key FILE",
        ) from error
    return pair


@dataclass(frozen=True, slots=True)
class _Held:
    """The usable files in the folder. A certificate of another key is not usable."""

    key: ec.EllipticCurvePrivateKey | None
    certificate: Certificate | None
    authority: Authority | None

    @classmethod
    def read(cls, folder: Path) -> _Held:
        key = _read_key(folder / KEY)
        own = authorities.public_hash(key.public_key()) if key is not None else ""
        certificate = _read(folder / CERTIFICATE, Certificate.parse)
        authority = _read(folder / AUTHORITY, Authority.parse)
        return cls(
            key,
            certificate if certificate is not None and certificate.key == own else None,
            authority if authority is not None and authority.key == own else None,
        )

    @property
    def covered(self) -> tuple[str, ...]:
        """The names that hosts with the installed authority accept."""
        if self.authority is not None:
            return self.authority.names
        # If the authority was lost, it covered at least the names of the certificate.
        return self.certificate.names if self.certificate is not None and self.certificate.has_authority else ()

    def is_good(self, needed: tuple[str, ...]) -> bool:
        return self.has_good_authority(needed) and self.has_good_certificate(needed)

    def has_good_authority(self, needed: tuple[str, ...]) -> bool:
        return self.authority is not None and _lasts(self.authority) and set(needed) <= set(self.authority.names)

    def has_good_certificate(self, needed: tuple[str, ...]) -> bool:
        return (
            self.certificate is not None
            and self.authority is not None
            and _lasts(self.certificate)
            and set(needed) <= set(self.certificate.names)
            and self.certificate.is_vouched_for(self.authority)
        )


def _make_anew(folder: Path, needed: tuple[str, ...], wanted: tuple[str, ...], say: Say) -> None:
    """Makes what is missing or outdated: the key, the authority, the certificate. In this order, an interruption never
    leaves a certificate with a name that the authority does not cover yet.
    """
    held = _Held.read(folder)
    key = held.key
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_file(folder / KEY, _key_pem(key), 0o600)
    if not held.has_good_authority(needed):
        missing = [name for name in needed if name not in held.covered]
        write_file(folder / AUTHORITY, _new_authority(key, wanted if missing else held.covered), 0o644)
        if held.authority is not None:
            say(_install_again(held.authority, missing))
        held = _Held.read(folder)
    if not held.has_good_certificate(needed):
        names = [name for name in wanted if name in held.covered]
        write_file(folder / CERTIFICATE, _new_certificate(key, names), 0o644)


def _install_again(old: Authority, missing: list[str]) -> str:
    if missing:
        return (
            f"created a new authority, since the old one does not cover {', '.join(missing)}: hosts that installed it"
            " can't use this server until they install the new one"
        )
    return (
        f"created a new authority, since the old one ends on {old.ends:%Y-%m-%d}: hosts that installed it must"
        " install the new one by then"
    )


def _new_authority(key: ec.EllipticCurvePrivateKey, names: Iterable[str]) -> bytes:
    begins, ends = _life()
    return authorities.issue(key, names, begins, ends)


def _new_certificate(key: ec.EllipticCurvePrivateKey, names: Iterable[str]) -> bytes:
    begins, ends = _life()
    subject = authorities.subject()
    addresses = {name: address for name in names if (address := as_address(name)) is not None}
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names if name not in addresses]
    alternatives += [x509.IPAddress(address) for address in addresses.values()]
    unique = x509.NameAttribute(x509.NameOID.COMMON_NAME, uuid.uuid4().urn)
    alternatives.append(x509.DirectoryName(x509.Name([unique])))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        # Not an authority: a client that trusts it trusts this server only.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authorities.as_issuer(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _life() -> tuple[datetime, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    return now - BACKDATED, now + LIFE


def _lasts(certificate: Certificate | Authority) -> bool:
    now = datetime.now(UTC)
    return certificate.begins <= now < certificate.ends - RENEW_BEFORE


def _read(path: Path, parse: Callable[[bytes], Read]) -> Read | None:
    """The content of a file; None if it is missing or invalid."""
    try:
        return parse(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key in a file; None unless lxdocker could have made it."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(canonical(name) for name in names))


# ---- the certificate that the server shows


class Watch:
    """The TLS context of new connections, which follows the files on disk.

    ``renew`` is called for the files at every look, so that it can renew the certificate.
    """

    def __init__(self, renew: Callable[[], Pair]) -> None:
        """Raises UsageError if there is no usable certificate."""
        self._renew = renew
        self._seen: tuple[object, ...] = ()
        self._failed: tuple[object, ...] = ()
        self._warned: tuple[str, date] | None = None
        self._pair = renew()
        self.context, self.certificate, self.authority = _load(self._pair)
        self._seen = _state(self._pair)

    def look(self) -> str | None:
        """Reloads files that have changed. Returns a line about the change, or once about why they can't be used, and
        about a certificate that is about to expire.
        """
        return "; ".join(filter(None, (self._take(), self.warning()))) or None

    def warning(self) -> str | None:
        """A line about a user's own certificate that has expired or is about to: the first time, and once a day. Only
        the user can renew it.
        """
        now, certificate = datetime.now(UTC), self.certificate
        if self._pair.authority is not None or self._warned == (certificate.fingerprint, now.date()):
            return None
        notice = min(WARN_BEFORE, (certificate.ends - certificate.begins) / 4)
        if now < certificate.begins:
            what = f"is not valid before {certificate.begins:%Y-%m-%d %H:%M} UTC: no client trusts it yet"
        elif now >= certificate.chain_ends:
            what = f"ended on {certificate.chain_ends:%Y-%m-%d}: no client trusts this server any more"
        elif now >= certificate.chain_ends - notice:
            what = f"ends on {certificate.chain_ends:%Y-%m-%d}: from then on no client trusts this server"
        else:
            return None
        self._warned = (certificate.fingerprint, now.date())
        return f"warning: the certificate {self._pair.certificate} {what}; renew it, and it is reloaded automatically"

    def _take(self) -> str | None:
        try:
            self._pair = self._renew()
        except UsageError as error:
            return self._once((str(error),), f"{error}; keeping the current certificate")
        state = _state(self._pair)
        if state == self._seen:
            return None
        before = self.certificate, self.authority
        try:
            self.context, self.certificate, self.authority = _load(self._pair)
        except UsageError as error:
            # One of the two files may not be written yet. New connections keep the current certificate.
            return self._once(state, f"{error}; keeping the current one")
        self._seen = state
        return self._news(*before)

    def _news(self, certificate: Certificate, authority: Authority | None) -> str | None:
        """A line about what differs from before."""
        news = []
        if self.certificate != certificate:
            news.append(f"certificate, valid until {self.certificate.ends:%Y-%m-%d}: {self.certificate.fingerprint}")
        if self.authority is not None and self.authority != authority:
            news.append(f"authority, valid until {self.authority.ends:%Y-%m-%d}: {self.authority.sha256}")
        return f"showing a new {', and a new '.join(news)}" if news else None

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
            return in_words(error)
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)

    return (pair, of(pair.certificate), of(pair.key), of(pair.authority) if pair.authority else None)


def _load(pair: Pair) -> tuple[ssl.SSLContext, Certificate, Authority | None]:
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
            "--tls-cert takes a PEM file with the certificate and its chain, --tls-key its key without a password",
        ) from error
    authority = _read(pair.authority, Authority.parse) if pair.authority else None
    # Another server with this folder may be renewing both at this moment.
    fitting = authority is not None and certificate.is_vouched_for(authority)
    return context, certificate, authority if fitting else None


def _refuse_password() -> str:
    """Without this, OpenSSL would ask for the password on the terminal."""
    raise ValueError("its key is protected by a password")
