"""How servers prove their identity: by this host's authorities, by what users keep for one registry, or by the one
certificate that is known.

All of it is read here only, whether this host checks or skopeo in a builder.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from urllib3.exceptions import InsecureRequestWarning
from urllib3.util import Url

from lxdocker.files.rights import may_exist
from lxdocker.files.seen import is_dir
from lxdocker.reasons import in_words
from lxdocker.values import home_folder, is_loopback, parse_registry_host, same_registry, split_host

# Where podman, skopeo and docker keep a registry's CA (*.crt) and client certificate (*.cert and *.key):
# containers-certs.d(5). The first of these that has a folder for the registry counts.
CERT_ROOTS = (
    Path("~/.config/containers/certs.d"),
    Path("/etc/containers/certs.d"),
    Path("/etc/docker/certs.d"),
)

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # the names that OpenSSL looks for in a folder
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class UnusableCertificatesError(Exception):
    """Files without usable certificates or keys."""

    def __init__(self, where: Path | None, error: OSError) -> None:  # ssl.SSLError is one
        self.brief = f"the certificates in {where} cannot be used"
        self.why = in_words(error).removeprefix("TLS failed: ")  # so far there is no TLS
        super().__init__(f"{self.brief}: {self.why}")


def parse_fingerprint(text: str) -> str:
    """The SHA-256 of a certificate as 64 hex digits, from what people copy: with or without colons and spaces.

    Raises ValueError.
    """
    digits = re.sub(r"[:\s]", "", text).lower()
    if not _FINGERPRINT.fullmatch(digits):
        raise ValueError(f"not a SHA-256 fingerprint: {text[:100]!r}")
    return digits


@dataclass(frozen=True, slots=True)
class Tls:
    """How one server proves its identity, and how we prove ours."""

    context: ssl.SSLContext
    fingerprint: str = ""  # of its certificate, if nothing else counts
    closed: tuple[Path, ...] = ()  # files that might have vouched for it, but this user cannot read

    @property
    def options(self) -> dict[str, Any]:
        """For a urllib3 pool."""
        pinned = {"assert_fingerprint": self.fingerprint, "assert_hostname": False} if self.fingerprint else {}
        return {"ssl_context": self.context, **pinned}


def only_certificate(fingerprint: str) -> Tls:
    """For a server with just that certificate. ``fingerprint``: as parse_fingerprint() returns it."""
    return Tls(make_context(verify=False), fingerprint)


def only_authorities(file: Path) -> Tls:
    """For a server that the authorities in ``file`` vouch for, or that has a certificate from there.

    Raises UnusableCertificatesError.
    """
    try:
        return Tls(_adjusted(ssl.create_default_context(cafile=file)))
    except OSError as error:
        raise UnusableCertificatesError(file, error) from None


class Trust:
    """What each registry must prove. Thread-safe; files are read once."""

    def __init__(self, insecure: Collection[str] = (), roots: Sequence[Path] = CERT_ROOTS) -> None:
        """``insecure``: registries (HOST or HOST:PORT) that need prove nothing. ``roots``: see CERT_ROOTS."""
        self._insecure = frozenset(map(parse_registry_host, insecure))
        self._roots = tuple(roots)
        self._contexts: dict[tuple[bool, tuple[Kept, ...]], ssl.SSLContext] = {}
        self._kept: dict[str, Kept] = {}
        self._lock = threading.Lock()

    def verifies(self, registry: str) -> bool:
        """Whether ``registry`` must prove its identity: False for loopback and for those named as insecure."""
        return self._insecure.isdisjoint(same_registry(registry)) and not is_loopback(split_host(registry)[0])

    def kept(self, host: str, port: int) -> Kept:
        """The files that this user keeps for the server there."""
        name = f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
        with suppress(ValueError):  # a redirect may lead to what no reference could name
            name = parse_registry_host(name)
        with self._lock:
            if name not in self._kept:
                self._kept[name] = kept_for(name, self._roots)
            return self._kept[name]

    def tls(self, url: Url, registry: Kept) -> Tls:
        """For a server that is asked for a registry's images. The ``registry``'s own authorities may vouch for it, too,
        as with skopeo; but our client certificates are shown only to the server they are kept for.

        Raises UnusableCertificatesError.
        """
        kept = self.kept(url.host or "", url.port or 443)
        key = (self.verifies(registry_at(url)), (kept, registry))
        with self._lock:
            if key not in self._contexts:
                self._contexts[key] = make_context((kept, registry), verify=key[0], client=kept)
            return Tls(self._contexts[key], closed=kept.closed)


def registry_at(url: Url) -> str:
    """What a reference or a setting would call the server of ``url``."""
    name = f"{url.host}:{url.port}" if url.port else f"{url.host}"
    try:
        return parse_registry_host(name)
    except ValueError:
        return f"{url.host}"


@dataclass(frozen=True, slots=True)
class Kept:
    """The files that a user keeps for one registry."""

    folder: Path | None = None
    authorities: tuple[Path, ...] = ()
    pairs: tuple[tuple[Path, Path], ...] = ()  # client certificates and their keys
    closed: tuple[Path, ...] = ()  # that this user cannot read

    def read(self) -> dict[str, bytes]:
        """All of it by file name, a secret. Raises OSError."""
        files = [*self.authorities, *(file for pair in self.pairs for file in pair)]
        return {file.name: file.read_bytes() for file in files}


def certs_dir(registry: str, roots: Sequence[Path] = CERT_ROOTS) -> Path | None:
    """The folder with the certificates for ``registry`` (HOST or HOST:PORT); None for none."""
    return _find(registry, roots)[0]


def kept_for(registry: str, roots: Sequence[Path] = CERT_ROOTS) -> Kept:
    """The files kept for ``registry``. Those that this user cannot read are passed over: most registries need none."""
    folder, closed = _find(registry, roots)
    if folder is None:
        return Kept(closed=tuple(closed))
    try:
        there = sorted(path for path in folder.iterdir() if path.suffix in {".crt", ".cert"})
    except OSError:
        return Kept(folder, closed=(*closed, folder))
    authorities: list[Path] = []
    pairs: list[tuple[Path, Path]] = []
    for path in there:
        files = [path] if path.suffix == ".crt" else [path, path.with_suffix(".key")]
        if shut := [file for file in files if not os.access(file, os.R_OK) and may_exist(file)]:
            closed += shut
        elif path.suffix == ".crt":
            authorities.append(path)
        else:
            pairs.append((files[0], files[1]))
    return Kept(folder, tuple(authorities), tuple(pairs), tuple(closed))


def _find(registry: str, roots: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    names = same_registry(registry)
    closed = []
    home = home_folder(os.environ)
    for root in roots:
        root = home / root.relative_to("~") if root.parts[:1] == ("~",) else root
        try:
            folders = {_name(path.name): path for path in sorted(root.iterdir(), reverse=True) if is_dir(path)}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            closed.append(root)
            continue
        if found := next((folders[name] for name in names if name in folders), None):
            return found, closed
    return None, closed


def _name(folder: str) -> str:
    try:
        return parse_registry_host(folder)
    except ValueError:
        return ""


def make_context(kept: Iterable[Kept] = (), *, verify: bool = True, client: Kept | None = None) -> ssl.SSLContext:
    """TLS with a server that this host's authorities vouch for, or those of ``kept``. ``client``: what proves our own
    identity. Raises UnusableCertificatesError.
    """
    context = _adjusted(ssl.create_default_context())
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # The user named this server; a warning at each request helps no one.
        urllib3.disable_warnings(InsecureRequestWarning)
    for known in kept:
        try:
            for file in known.authorities:
                context.load_verify_locations(cafile=file)
        except OSError as error:
            raise UnusableCertificatesError(known.folder, error) from None
    if client:
        try:
            for certificate, key in client.pairs:
                context.load_cert_chain(certificate, key)
        except OSError as error:
            raise UnusableCertificatesError(client.folder, error) from None
    return context


def _adjusted(context: ssl.SSLContext) -> ssl.SSLContext:
    """As Go's programs check, skopeo, LXD and Incus among them: names only where they belong; and private authorities
    made by hand often lack extensions that Python 3.13 began to insist on.
    """
    context.hostname_checks_common_name = False
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def shown_certificate(host: str, port: int, seconds: float) -> bytes:
    """The certificate (DER) that the server there shows, whoever vouches for it. Raises OSError."""
    with _connected(host, port, seconds, make_context(verify=False)) as connection:
        return connection.getpeercert(binary_form=True) or b""


def is_vouched_for(host: str, port: int, seconds: float) -> bool:
    """Whether this host's authorities vouch for the server there."""
    try:
        with _connected(host, port, seconds, make_context()):
            return True
    except OSError:
        return False


@contextmanager
def _connected(host: str, port: int, seconds: float, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((host, port), seconds) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        yield connection


def authorities(kept: Iterable[Kept]) -> bytes:
    """PEM of all that make_context() trusts, each once. Raises OSError for an unreadable file of ``kept``."""
    found: dict[bytes, None] = {}
    for path in _system_files():
        try:
            content = path.read_bytes()
        except OSError:  # OpenSSL passes it over, too
            continue
        found |= dict.fromkeys(_certificates(content))
    for known in kept:
        for path in known.authorities:
            found |= dict.fromkeys(_certificates(path.read_bytes()))
    return b"".join(certificate + b"\n" for certificate in found)


def _certificates(content: bytes) -> list[bytes]:
    return [b"\n".join(match.group().split(b"\r\n")) for match in _CERTIFICATE.finditer(content)]


def _system_files() -> list[Path]:
    """The files of OpenSSL's default authorities, as its library finds them: a bundle, and folders by hash."""
    paths = ssl.get_default_verify_paths()
    files = [Path(os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile))]
    for folder in os.environ.get(paths.openssl_capath_env, paths.openssl_capath).split(os.pathsep):
        try:
            files += sorted(path for path in Path(folder).iterdir() if _HASHED.fullmatch(path.name))
        except OSError:
            continue
    return files
