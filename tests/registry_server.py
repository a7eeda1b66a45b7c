"""Real things to test a registry client against, all on loopback.

- ``registry()``: Debian's docker-registry: open, with a password file, or demanding tokens; with TLS or not
- ``TokenService``: the other half of token mode: hands out tokens that docker-registry verifies
- ``Images``: makes tiny images by hand and pushes them with plain HTTP PUTs
- ``ScriptedServer``: whatever a test wants a server to answer, right or hostile
"""

# Addresses and passwords are those of servers that live as long as a test.
# ruff: noqa: S104, S105 - of tests, made up

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import re
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

USER = "ann"
PASSWORD = "pa:ss wörd"
# bcrypt of PASSWORD, the only kind docker-registry takes.
HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuuC5VMwYwbzdFgvTXUffgXF6mHCmfegLa\n"


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its key, by default for 127.0.0.1 and 0.0.0.0.

    Linux connects to 0.0.0.0 over loopback, but it isn't a loopback address to anyone who looks at the name:
    the way to test, without leaving this host, what registries elsewhere get.
    """

    cert: Path
    key_file: Path
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path, *addresses: str) -> Certificate:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lxdocker test")])
        now = datetime.now(UTC)
        names = [x509.IPAddress(ip_address(text)) for text in addresses or ("127.0.0.1", "0.0.0.0")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        cert, key_file = folder / "tls.crt", folder / "tls.key"
        cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cls(cert, key_file, key)

    @property
    def x5c(self) -> str:
        certificate = x509.load_pem_x509_certificate(self.cert.read_bytes())
        return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


# docker-registry.


@dataclass(frozen=True)
class Request:
    """A line of docker-registry's access log."""

    method: str
    path: str
    status: int


@dataclass
class Registry:
    """A running docker-registry."""

    port: int
    log: Path
    access_log: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def public_address(self) -> str:
        """The same registry under a name that isn't loopback's; see Certificate."""
        return f"0.0.0.0:{self.port}"

    def requests(self, at_least: int = 0) -> list[Request]:
        """All requests so far. A line is written just after its answer, so say how many there must be."""
        deadline = time.monotonic() + 5
        while True:
            found = [
                Request(method, path, int(status))
                for method, path, status in re.findall(
                    r'"([A-Z]+) (\S+) HTTP/1\.[01]" (\d+)', self.access_log.read_text()
                )
            ]
            if len(found) >= at_least or time.monotonic() > deadline:
                return found
            time.sleep(0.01)


@contextmanager
def registry(
    folder: Path,
    *,
    storage: Path | None = None,
    tokens: TokenService | None = None,
    htpasswd: bool = False,
    certificate: Certificate | None = None,
) -> Iterator[Registry]:
    """docker-registry on a free port, until the end of the block. ``storage`` can be shared by several."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(storage or folder / "storage")}},
        "http": {"addr": "127.0.0.1:0"},
    }
    if tokens:
        config["auth"] = {
            "token": {
                "realm": tokens.realm,
                "service": tokens.service,
                "issuer": tokens.issuer,
                "rootcertbundle": str(tokens.certificate.cert),
            }
        }
    if htpasswd:
        (folder / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if certificate:
        config["http"]["tls"] = {"certificate": str(certificate.cert), "key": str(certificate.key_file)}
    (folder / "config.yml").write_text(json.dumps(config))
    log, access_log = folder / "log", folder / "access.log"
    with log.open("wb") as errors, access_log.open("wb") as accesses:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=accesses, stderr=errors
        )
    try:
        yield Registry(_wait_for_port(process, log), log, access_log, process)
    finally:
        process.terminate()
        process.wait(10)


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found.group(1))
        time.sleep(0.01)
    raise RuntimeError(f"docker-registry did not start:\n{log.read_text()}")


# Images.


@dataclass(frozen=True)
class Blob:
    """Some content, and the descriptor that names it."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.content).hexdigest()

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


@dataclass(frozen=True)
class Image:
    """A manifest with all it names."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]


def make_image(
    *, docker: bool = False, arch: str = "amd64", os: str = "linux", text: str = "hello", **config: Any
) -> Image:
    """A tiny image whose one layer holds one file; ``config`` goes into the member of that name."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("hello")
        member.size = len(text.encode())
        archive.addfile(member, io.BytesIO(text.encode()))
    layer = Blob(gzip.compress(tar.getvalue(), mtime=0), DOCKER_LAYER if docker else OCI_LAYER)
    document = {
        "architecture": arch,
        "os": os,
        "created": "2024-01-02T03:04:05.678901234Z",
        "config": {"Cmd": ["/hello"], **config},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar.getvalue()).hexdigest()]},
    }
    blob = Blob(json.dumps(document).encode(), DOCKER_CONFIG if docker else OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
        "config": blob.descriptor,
        "layers": [layer.descriptor],
    }
    return Image(Blob(json.dumps(manifest).encode(), str(manifest["mediaType"])), blob, (layer,))


def make_index(*entries: tuple[Blob, Mapping[str, str] | None], docker: bool = False) -> Blob:
    """An index of (manifest or index, its platform)."""
    kind = DOCKER_LIST if docker else OCI_INDEX
    manifests = [{**blob.descriptor, **({"platform": platform} if platform else {})} for blob, platform in entries]
    return Blob(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode(), kind)


def write_layout(folder: Path, images: list[Image], top: list[tuple[Blob, str | None]], extra: list[Blob]) -> Path:
    """An OCI layout (image-layout.md) whose index.json names ``top``, each with its tag."""
    (folder / "blobs/sha256").mkdir(parents=True)
    blobs = [blob for image in images for blob in (image.manifest, image.config, *image.layers)] + extra
    for blob in blobs:
        (folder / "blobs/sha256" / blob.digest.removeprefix("sha256:")).write_bytes(blob.content)
    entries = [
        {**blob.descriptor, **({"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {})}
        for blob, tag in top
    ]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder


class Images:
    """Pushes to an open registry."""

    def __init__(self, address: str) -> None:
        self._address = address

    def push(self, repository: str, tag: str, image: Image) -> None:
        for blob in (image.config, *image.layers):
            self._push_blob(repository, blob)
        self.push_manifest(repository, tag, image.manifest)

    def push_manifest(self, repository: str, tag: str, manifest: Blob) -> None:
        headers = {"Content-Type": manifest.media_type}
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", manifest.content, headers)

    def _push_blob(self, repository: str, blob: Blob) -> None:
        place = self._send("POST", f"/v2/{repository}/blobs/uploads/", b"", {})
        parts = urlsplit(place)
        target = f"{parts.path}?{parts.query}&digest={blob.digest}"
        self._send("PUT", target, blob.content, {"Content-Type": "application/octet-stream"})

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
        connection = http.client.HTTPConnection(self._address, timeout=20)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status not in (201, 202):
                raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
            return answer.headers.get("Location", "")
        finally:
            connection.close()


# Servers whose answers a test writes.


@dataclass(frozen=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    headers: Message = field(repr=False)  # case does not matter
    body: bytes = b""


class Handler(BaseHTTPRequestHandler):
    """One request; ``reply`` is all most tests need."""

    protocol_version = "HTTP/1.1"
    server: _Server
    seen: Seen

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen = Seen(self.command, self.path, self.headers, body)
        with self.server.lock:
            self.server.seen.append(self.seen)
        try:
            self.server.answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_CONNECT = _handle

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, answer: Callable[[Handler], None], host: str) -> None:
        super().__init__((host, 0), Handler)
        self.answer = answer
        self.seen: list[Seen] = []
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what some tests are about


class ScriptedServer:
    """An HTTP server that answers with ``answer`` and remembers what it was asked."""

    def __init__(
        self, answer: Callable[[Handler], None], certificate: Certificate | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._host = host
        self._server = _Server(answer, host)
        self._scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.cert, certificate.key_file)
            # The handshake belongs to the connection's thread, or one silent client would block all others.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def public_address(self) -> str:
        return f"0.0.0.0:{self.port}"

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.address}"

    @property
    def seen(self) -> list[Seen]:
        with self._server.lock:
            return list(self._server.seen)


class TokenService:
    """A token service (distribution, docs/spec/auth/token.md and oauth.md) that docker-registry trusts.

    Anyone may pull below ``everyone``; USER with PASSWORD, or with ``identity_token``, from everywhere.
    """

    service = "test-registry"
    issuer = "test-issuer"
    identity_token = "refresh+me/="
    everyone = "public/"

    def __init__(self, certificate: Certificate, expires_in: int = 300) -> None:
        self.certificate = certificate
        self.expires_in = expires_in
        self.server = ScriptedServer(self._answer)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.__exit__()

    @property
    def realm(self) -> str:
        return f"{self.server.url}/token"

    def _answer(self, handler: Handler) -> None:
        seen = handler.seen
        if seen.method == "POST":
            query = parse_qs(seen.body.decode())
            known = query.get("refresh_token") == [self.identity_token]
            if query.get("grant_type") != ["refresh_token"] or not known:
                return handler.reply(401, b"{}")
        else:
            query = parse_qs(urlsplit(seen.path).query)
            login = seen.headers.get("Authorization", "")
            expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            known = login == expected
            if login and not known:
                return handler.reply(401, b'{"details":"incorrect username or password"}')
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            if known or name.startswith(self.everyone):
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        name = "access_token" if seen.method == "POST" else "token"
        token = {name: self._sign(access), "expires_in": self.expires_in}
        return handler.reply(200, json.dumps(token).encode(), {"Content-Type": "application/json"})

    def _sign(self, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self.certificate.x5c]}
        claims = {
            "iss": self.issuer,
            "sub": USER,
            "aud": self.service,
            "exp": now + max(self.expires_in, 60),
            "nbf": now - 5,
            "iat": now,
            "jti": str(time.monotonic_ns()),
            "access": access,
        }
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = self.certificate.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(signature)
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
