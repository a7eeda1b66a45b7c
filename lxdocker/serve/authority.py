"""The authority of a server's certificate, which other hosts add to the authorities that their system trusts.

Since 6.10, LXD checks image servers only against the system's authorities, which it reads when it starts. An authority
added there must stay valid when the server's certificate is renewed, and must not vouch for any other server:

- It has the server's own key and subject. Clients that pinned an earlier certificate (LXD before 6.10, Incus) accept
  the current one only because the key of their copy signed it; signed with a separate key, it would lose them.
- Critical name constraints limit it to the server's names and addresses, and its extended key usage to TLS servers. A
  constraint on a DNS name also covers the names below it, so these are excluded, except those that the server has. The
  leading dot is not in RFC 5280 for DNS, but Go, OpenSSL and GnuTLS all take it to mean "below". Directory names can't
  be limited: Go refuses an authority with such a constraint.
- Its subject key identifier differs from the server certificate's, which refers to it as the issuer's. Otherwise, with
  the same subject and key in both, OpenSSL would take the server's certificate for a self-signed one and look no
  further. The identifier depends on the key alone, so a new authority vouches for older certificates and vice versa.
- It has no subject alternative names. Go takes two certificates with the same subject, key and alternative names for
  the same one, and leaves the authority out of the chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from lxdocker.serve.hostnames import as_address, check_name

# The path at which a server offers it. A tree has no such file.
PATH = "/authority.crt"
CONTENT_TYPE = "application/pem-certificate-chain"
# update-ca-certificates of Debian and Ubuntu adds files in this folder to the system's authorities.
SYSTEM_FOLDER = Path("/usr/local/share/ca-certificates")
# The subject of every certificate made by lxdocker. It must never change, even if the host's name does.
FIXED_NAME = "lxdocker"

_UNLIMITED = "it is not an authority that is limited to one server"
_SERVERS_ONLY = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
_SIGNS_ONLY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Authority:
    """The content of an authority."""

    pem: str
    key: str  # SHA-256 of its public key, hex digits
    names: tuple[str, ...]  # the DNS names and addresses it can vouch for
    begins: datetime
    ends: datetime

    @classmethod
    def parse(cls, data: bytes) -> Authority:
        """The authority in a PEM file. Raises ValueError for any other certificate, such as one without limits."""
        try:
            found = x509.load_pem_x509_certificate(data)
            names = _check(found)
        except (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise ValueError(f"unusable certificate: {error}") from error
        return cls(
            pem=found.public_bytes(serialization.Encoding.PEM).decode(),
            key=key_hash(found),
            names=names,
            begins=found.not_valid_before_utc,
            ends=found.not_valid_after_utc,
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of the PEM file, as ``sha256sum`` prints it."""
        return hashlib.sha256(self.pem.encode()).hexdigest()


def issue(key: ec.EllipticCurvePrivateKey, names: Iterable[str], begins: datetime, ends: datetime) -> bytes:
    """A new authority that can vouch for the holder of ``key`` under ``names`` (DNS names, ``*.`` names, addresses)."""
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject())
        .issuer_name(subject())
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_ONLY, critical=True)
        .add_extension(_SERVERS_ONLY, critical=False)
        .add_extension(_limits(tuple(names)), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_identifier(key.public_key())), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def subject() -> x509.Name:
    """The subject of an authority and of the certificate it vouches for."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, FIXED_NAME)])


def as_issuer(key: CertificatePublicKeyTypes) -> x509.AuthorityKeyIdentifier:
    """The issuer's key identifier in a certificate with this key."""
    return x509.AuthorityKeyIdentifier(_identifier(key), None, None)


def names_as_issuer(certificate: x509.Certificate) -> bool:
    """Whether the certificate names the authority with its own key as its issuer."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return False
    return found == as_issuer(certificate.public_key())


def key_hash(certificate: x509.Certificate) -> str:
    """SHA-256 of its public key, hex digits; '' for an unsupported kind of key."""
    try:
        return public_hash(certificate.public_key())
    except UnsupportedAlgorithm:
        return ""


def public_hash(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of a public key, hex digits."""
    return hashlib.sha256(_key_der(key)).hexdigest()


def system_file(host: str) -> Path:
    """The file in which the authority of the server at ``host`` is added to the system's."""
    return SYSTEM_FOLDER / f"lxdocker-{host.strip('[]').replace(':', '-')}.crt"


def is_signed_by_itself(certificate: x509.Certificate) -> bool:
    """Whether its own key signed it."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check(found: x509.Certificate) -> tuple[str, ...]:
    """The names that an authority is limited to. Raises ValueError for anything but a limited authority."""
    if found.subject != subject() or not is_signed_by_itself(found):
        raise ValueError("it was not made by lxdocker")
    try:
        basic = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        limits = found.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound as error:
        raise ValueError(_UNLIMITED) from error
    names = tuple(check_name(name) for name in _limited_to(limits.value))
    # A kind of name without a constraint is unlimited. Some programs take IPv4 and IPv6 for one kind, others for two.
    kinds = {type(as_address(name)) for name in names}
    complete = kinds == {type(None), IPv4Address, IPv6Address} and limits.value == _limits(names)
    if not (basic.ca and usage == _SERVERS_ONLY and limits.critical and complete):
        raise ValueError(_UNLIMITED)
    return names


def _limits(names: tuple[str, ...]) -> x509.NameConstraints:
    permitted: list[x509.GeneralName] = []
    excluded: list[x509.GeneralName] = []
    for name in names:
        address = as_address(name)
        if address is not None:
            permitted.append(x509.IPAddress(ip_network(address)))
        elif name.startswith("*."):
            permitted.append(x509.DNSName(name[1:]))
        else:
            permitted.append(x509.DNSName(name))
            if not any(other.endswith(f".{name}") for other in names):
                excluded.append(x509.DNSName(f".{name}"))
    # The remaining kinds of names that can be limited. No certificate made by lxdocker has one.
    permitted += [x509.RFC822Name(FIXED_NAME), x509.UniformResourceIdentifier(FIXED_NAME)]
    return x509.NameConstraints(permitted, excluded or None)


def _limited_to(limits: x509.NameConstraints) -> Iterable[str]:
    for name in limits.permitted_subtrees or ():
        if isinstance(name, x509.DNSName):
            yield f"*{name.value}" if name.value.startswith(".") else name.value
        elif isinstance(name, x509.IPAddress):
            yield str(name.value).removesuffix("/32").removesuffix("/128")


def _identifier(key: CertificatePublicKeyTypes) -> bytes:
    """The subject key identifier of the authority with this key."""
    return hashlib.sha256(b"lxdocker authority\0" + _key_der(key)).digest()[:20]


def _key_der(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
