"""Makes this host a client of an image server: trusts its certificate and adds it as a remote of ``lxc`` or ``incus``.

``lxc remote add`` for simplestreams never connects, so it asks nobody about a certificate; one that no authority of
the system has signed must lie in the client's own folder, from where it also reaches the daemon.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import urllib3
import yaml

from lxdocker.certs import Certificate, write_file
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.serve.joining import FLAVOURS, Flavour
from lxdocker.simplestreams import INDEX_PATH

CONNECT_SECONDS = 15
COMMAND_SECONDS = 60
MAX_INDEX = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address, and who logs in there."""

    host: str
    port: int
    path: str  # '' or '/...'
    user: str | None
    password: str | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """``https://[USER[:PASSWORD]@]HOST[:PORT][/PATH]``. Raises UsageError."""
        try:
            parts = urlsplit(text)
            port = parts.port or 443
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
            # It may have a password in it, so it is not repeated.
            raise UsageError(
                "this is no address of an image server", "", "give one such as https://HOST:8444; LXD takes https only"
            )
        return cls(
            host=parts.hostname,
            port=port,
            path=parts.path.rstrip("/"),
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    @property
    def url(self) -> str:
        """Without the login."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}" + ("" if self.port == 443 else f":{self.port}") + self.path

    @property
    def full_url(self) -> str:
        """With the login, as the client needs it."""
        if self.user is None:
            return self.url
        login = f"{quote(self.user, safe='')}:{quote(self.password or '', safe='')}"
        return self.url.replace("https://", f"https://{login}@", 1)


@dataclass(frozen=True, slots=True)
class Client:
    """``lxc`` or ``incus`` of the user who runs us."""

    program: str
    folder: Path  # of its configuration

    @classmethod
    def find(cls, wanted: str | None, environ: Mapping[str, str]) -> Client:
        """The client named, or the one there is. Raises UsageError."""
        found = [name for name in ("lxc", "incus") if shutil.which(name)]
        if wanted is not None and wanted not in found:
            raise UsageError(f"there is no {wanted} on this host", "", "install it, or name the other with --client")
        if wanted is None and len(found) != 1:
            raise UsageError(
                "this host has both lxc and incus" if found else "this host has neither lxc nor incus",
                "",
                "choose with --client lxc or --client incus" if found else "install LXD or Incus first",
            )
        program = wanted or found[0]
        path = shutil.which(program) or program
        named = environ.get("INCUS_CONF" if program == "incus" else "LXD_CONF")
        flavour = _flavour(program, path)
        return cls(path, Path(named) if named else Path(environ.get("HOME", "/")) / flavour.folder)

    @property
    def name(self) -> str:
        return Path(self.program).name

    def run(self, *arguments: str) -> str:
        """Raises LxdockerError with the client's own words."""
        try:
            done = subprocess.run(
                [self.program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LxdockerError(f"{self.name} {' '.join(arguments)} failed", str(error)) from error
        if done.returncode:
            raise LxdockerError(f"{self.name} {' '.join(arguments)} failed", (done.stderr or done.stdout).strip())
        return done.stdout

    def address_of(self, remote: str) -> str | None:
        """The address of a remote; None if there is no such."""
        try:
            remotes: dict[str, dict[str, Any]] = json.loads(self.run("remote", "list", "--format", "json"))
            # LXD writes Addr, Incus addr.
            return next((str(v) for k, v in remotes.get(remote, {}).items() if k.lower() == "addr"), None)
        except (ValueError, AttributeError) as error:
            raise LxdockerError(f"{self.name} remote list gave no list of remotes", str(error)) from error


def _flavour(program: str, path: str) -> Flavour:
    snap = "/snap/" in path or "/snap/" in os.path.realpath(path)
    fitting = [one for one in FLAVOURS if one.program == program]
    return next((one for one in fitting if one.folder.startswith("snap/") == snap), fitting[0])


# ---- the server


@dataclass(frozen=True, slots=True)
class Seen:
    """The certificate a server shows."""

    certificate: Certificate
    trusted: bool  # by the authorities this system knows


def look_at(address: Address) -> Seen:
    """Connects, and believes nothing yet. Raises LxdockerError if that can't be done."""
    try:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with _connect(address, context) as connection:
            shown = connection.getpeercert(binary_form=True)
        certificate = Certificate.parse(shown or b"")
    except (OSError, ValueError) as error:
        raise LxdockerError(
            f"{address.host}:{address.port} can't be reached with TLS",
            str(error),
            "check that the server runs, and its address: lxdocker serve says it when it starts",
        ) from error
    try:
        with _connect(address, ssl.create_default_context()):
            return Seen(certificate, trusted=True)
    except OSError:
        return Seen(certificate, trusted=False)


@contextlib.contextmanager
def _connect(address: Address, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((address.host, address.port), CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=address.host) as connection,
    ):
        yield connection


def check_index(address: Address, pinned: Certificate | None) -> int:
    """Makes sure that there are images. Returns how many. Raises LxdockerError."""
    headers = {}
    if address.user is not None:
        login = base64.b64encode(f"{address.user}:{address.password or ''}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    trust: dict[str, Any] = {}
    if pinned is not None:
        trust = {"cert_reqs": "CERT_NONE", "assert_hostname": False, "assert_fingerprint": pinned.fingerprint}
    try:
        with urllib3.PoolManager(timeout=CONNECT_SECONDS, retries=False, headers=headers, **trust) as pool:
            answer = pool.request("GET", f"{address.url}/{INDEX_PATH}", preload_content=False)
            body = answer.read(MAX_INDEX)
    except urllib3.exceptions.HTTPError as error:
        raise LxdockerError(f"{address.url} gave no answer", str(error), "check that the server runs") from error
    if answer.status == 401:
        raise LxdockerError(
            f"{address.url} wants a login" if address.user is None else f"{address.url} does not know this login",
            "401 Unauthorized",
            "give the user in the address, https://USER@HOST:PORT; the password is asked for",
        )
    try:
        if answer.status != 200:
            raise ValueError(f"HTTP status {answer.status}")
        document = json.loads(body)
        return sum(len(entry["products"]) for entry in document["index"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LxdockerError(
            f"{address.url} is no simplestreams server", f"{INDEX_PATH}: {error}", "check the address"
        ) from error


# ---- the client


@dataclass(frozen=True, slots=True)
class Added:
    """What was done."""

    name: str
    url: str
    client: str
    images: int
    certificate: Path | None  # where it was put
    existed: bool  # the remote was there before


def check_name(name: str) -> str:
    """Raises UsageError unless ``name`` can be a remote's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:100]!r} can't be a remote's name", "", "use letters, digits, '.', '_' and '-'")
    return name


def parse_fingerprint(text: str) -> str:
    """A SHA-256 as 64 hex digits, with or without colons. Raises UsageError."""
    plain = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(plain):
        raise UsageError("this is no SHA-256 fingerprint", text[:100], "copy the 64 hex digits the server shows")
    return plain


def add(
    client: Client, name: str, address: Address, seen: Seen, fingerprint: str | None, agree: Callable[[Seen], bool]
) -> Added:
    """Adds the server as the remote ``name``. ``agree`` is asked whether its certificate is the right one, unless the
    system trusts it or ``fingerprint`` says so. Raises LxdockerError, and then leaves everything as it was.
    """
    check_name(name)
    if fingerprint is not None and fingerprint != seen.certificate.fingerprint:
        raise LxdockerError(
            f"{address.url} has another certificate",
            f"expected {fingerprint}\nfound    {seen.certificate.fingerprint}",
            "somebody may sit between you and the server; compare with what lxdocker serve says there",
        )
    pinned = None if seen.trusted and fingerprint is None else seen.certificate
    if pinned is not None and not seen.trusted and fingerprint is None and not agree(seen):
        raise UsageError("nothing was changed", "the certificate was not accepted")
    images = check_index(address, pinned)
    before = client.address_of(name)
    if before is not None and _without_login(before) != address.url:
        raise UsageError(
            f"{client.name} has a remote {name} already",
            _without_login(before),
            f"choose another name, or remove it: {client.name} remote remove {name}",
        )
    file = client.folder / "servercerts" / f"{name}.crt"
    with _restored_on_failure(file):
        if pinned is not None:
            file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            write_file(file, pinned.pem.encode(), 0o644)
        if before is None:
            client.run("remote", "add", name, address.url, "--protocol", "simplestreams")
        try:
            if address.user is not None:
                _set_login(client.folder / "config.yml", name, address)
            client.run("image", "list", f"{name}:", "--format", "csv")
        except LxdockerError:
            if before is None:
                client.run("remote", "remove", name)
            raise
    return Added(name, address.url, client.name, images, file if pinned else None, before is not None)


def _without_login(address: str) -> str:
    try:
        return Address.parse(address).url
    except UsageError:  # unix://, or another protocol's
        return address.rpartition("@")[2]


def _set_login(config: Path, name: str, address: Address) -> None:
    """Puts the login into the client's configuration. As an argument of the client, everybody on this host could see
    it; and the file is for its owner only from now on.
    """
    try:
        document = yaml.safe_load(config.read_text(encoding="utf-8"))
        document["remotes"][name]["addr"] = address.full_url
        write_file(config, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode(), 0o600)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise LxdockerError(f"the login could not be put into {config}", type(error).__name__) from error


@contextlib.contextmanager
def _restored_on_failure(file: Path) -> Iterator[None]:
    before = file.read_bytes() if file.exists() else None
    try:
        yield
    except BaseException:
        if before is not None:
            write_file(file, before, 0o644)
        else:
            file.unlink(missing_ok=True)
        raise
