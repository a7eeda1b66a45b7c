"""A real ``lxdocker serve`` in a process of its own, a tree for it, and clients that speak real TLS to it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPMessage, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lxdocker.serve.certs import Pair
from tests.waiting import wait_until

VERSION = "images/demo/x86_64/20260101_0000"
METADATA = f"/{VERSION}/lxd.tar.xz"
ROOTFS = f"/{VERSION}/rootfs.squashfs"
SIDECAR = f"/{VERSION}/lxdocker.json"

# The program, with some of its time limits shortened.
_LAUNCH = """
import importlib, json, sys
for name, value in json.loads(sys.argv.pop(1)).items():
    module, constant = name.rsplit(".", 1)
    module = importlib.import_module("lxdocker.serve." + module)
    assert hasattr(module, constant), name
    setattr(module, constant, value)
from lxdocker.cli.main import main
main()
"""


def make_tree(folder: Path, *, rootfs: int = 300_000) -> Path:
    """A tree as lxdocker publishes it, with one image whose content nobody can run."""
    tree = folder / "tree"
    version = tree / VERSION
    version.mkdir(parents=True)
    for name in (".staging", "streams/v1"):
        (tree / name).mkdir(parents=True)
    contents = {"lxd.tar.xz": os.urandom(1000), "rootfs.squashfs": os.urandom(rootfs)}
    for name, content in contents.items():
        (version / name).write_bytes(content)
    files = {name: {"size": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in contents.items()}
    (version / "lxdocker.json").write_text(json.dumps({"files": files}))
    products: dict[str, object] = {"demo:current:default:amd64": {"versions": {"20260101_0000": {"items": {}}}}}
    (tree / "streams/v1/images.json").write_text(json.dumps({"products": products}))
    (tree / "streams/v1/index.json").write_text(json.dumps({"index": {"images": {"products": list(products)}}}))
    (tree / "index.html").write_text("<!doctype html><title>LXD images</title>")
    (tree / ".lock").touch()
    (tree / ".staging/secret").write_text("unpublished")
    return tree


def own_pair(
    folder: Path,
    name: str = "own",
    password: bytes | None = None,
    *,
    begins: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=2),
) -> Pair:
    """A certificate that a user made, self-signed, for 127.0.0.1."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))
    return pair


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: HTTPMessage
    body: bytes


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], port: int, said: Path, log: Path, certificate: Path) -> None:
        self.process = process
        self.port = port
        self.certificate = certificate
        self.authority = certificate.with_name("authority.crt")  # none where the certificate is the user's own
        self._said = said
        self._log = log

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What it wrote to stdout: what to type on other hosts."""
        return self._said.read_text()

    @property
    def log(self) -> str:
        """What it wrote to stderr: its log."""
        return self._log.read_text()

    # -- requests

    def context(self) -> ssl.SSLContext:
        """Trusts this server and no other."""
        trusted = self.authority if self.authority.exists() else self.certificate
        context = ssl.create_default_context(cafile=str(trusted))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @contextmanager
    def connection(self, timeout: float = 20) -> Iterator[HTTPSConnection]:
        connection = HTTPSConnection("127.0.0.1", self.port, context=self.context(), timeout=timeout)
        try:
            yield connection
        finally:
            connection.close()

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        with self.connection() as connection:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.msg, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})

    @contextmanager
    def tls(self, timeout: float = 20) -> Iterator[ssl.SSLSocket]:
        """A TLS connection, for what no HTTP client would send."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout) as plain,
            self.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            yield connection

    def raw(self, sent: bytes, timeout: float = 20) -> bytes:
        """All that comes back for some bytes, until the server ends the connection."""
        with self.tls(timeout) as connection:
            connection.sendall(sent)
            return read_all(connection)

    def raw_status(self, target: str, *headers: str) -> int:
        """The status for a request target that is sent as it is."""
        lines = [f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        answer = self.raw("\r\n".join(lines).encode("utf-8", "surrogateescape"))
        return int(answer.split(b" ", 2)[1])

    # -- the process

    def metric(self, name: str) -> float:
        """A number from /metrics."""
        return self.metrics().get(name, 0.0)

    def metrics(self) -> dict[str, float]:
        lines = self.get("/metrics").body.decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 - counted only

    @property
    def memory(self) -> int:
        """Bytes of memory that are its own now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))  # noqa: PTH208 - counted only

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


def read_all(connection: socket.socket) -> bytes:
    """Until the other side ends it, in whatever way."""
    found = b""
    while True:
        try:
            part = connection.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError):
            return found
        if not part:
            return found
        found += part


@contextmanager
def serve(
    folder: Path,
    tree: Path,
    *options: str,
    limits: Mapping[str, float] | None = None,
    tls: Path | None = None,
    verbose: bool = True,
) -> Iterator[Served]:
    """A server on a free port of loopback, until the end of the block; it must end in good order by itself then.

    ``verbose``: with -v, so that it says all there is to type on other hosts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tls = tls or folder / "tls"
    said, log = folder / "said", folder / "log"
    where = ["--tree", str(tree), "--tls-dir", str(tls), "--listen", "127.0.0.1:0"]
    kept = ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG")  # by the last one coverage measures the server, too
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    with said.open("w") as out, log.open("w") as err:
        process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                _LAUNCH,
                json.dumps(dict(limits or {})),
                "serve",
                *where,
                *options,
                *(["-v"] if verbose else []),
            ],
            env={**environment, "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
        )

    def port() -> int | None:
        assert process.poll() is None, log.read_text()
        text = said.read_text()
        found = re.search(r"^serving .* at https://.*:(\d+)$", text, re.M)
        # Whoever reads what it said needs all of it: `on other hosts` is its last line, or with -v this one.
        whole = (
            "--auto-update\n" in text if verbose else re.search(r"^on (other hosts|this host only): .*\n", text, re.M)
        )
        return int(found[1]) if found and whole else None

    try:
        own = [options[i + 1] for i, option in enumerate(options) if option == "--tls-cert"]
        served = Served(process, wait_until("the server", port), said, log, Path(own[0]) if own else tls / "server.crt")
        yield served
        if process.poll() is None:
            assert served.stop() == 0, served.log
        assert "Traceback" not in served.log, served.log
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
