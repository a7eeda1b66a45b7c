"""Makes this host a client of an image server: trusts its certificate and adds it as a remote of ``lxc`` or ``incus``.

``lxc remote add`` for simplestreams never connects, so it never asks about a certificate. One that no authority of the
system has signed must be in the client's own folder, from where the daemon gets it, too.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import yaml
from urllib3.util import Url

from lxdocker.errors import LxdockerError, UsageError
from lxdocker.files.durable import write_file
from lxdocker.files.seen import exists
from lxdocker.follow import image_registry
from lxdocker.follow.client import Client
from lxdocker.http import trust
from lxdocker.http.failure import RequestError
from lxdocker.http.route import Place
from lxdocker.http.trust import Tls
from lxdocker.http.url import basic
from lxdocker.http.wire import Answer, Limits, Request, Wire
from lxdocker.reasons import in_words
from lxdocker.serve.authority import PATH
from lxdocker.serve.certs import Certificate, check_authority
from lxdocker.serve.joining import RESTART_PACKAGE, RESTART_SNAP, install_command
from lxdocker.tree.simplestreams import INDEX_PATH

LIMITS = Limits(connect=15, piece=15, body=300)
MAX_INDEX = 64 << 20
_RESTART = f"its instances keep running: {RESTART_SNAP}, or {RESTART_PACKAGE}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL, and the login there."""

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
            # It may hold a password, so it is not repeated.
            raise UsageError(
                "not the URL of an image server", "", "give one such as https://HOST:8444; LXD takes https only"
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
    def url_with_user(self) -> str:
        """Without the password."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        return self.url.replace("https://", f"https://{user}", 1)

    @property
    def full_url(self) -> str:
        """With the login, as the client needs it."""
        if self.user is None:
            return self.url
        login = f"{quote(self.user, safe='')}:{quote(self.password or '', safe='')}"
        return self.url.replace("https://", f"https://{login}@", 1)


# ---- the server


@dataclass(frozen=True, slots=True)
class Seen:
    """The certificate that a server shows."""

    certificate: Certificate
    trusted: bool  # by this system's authorities


def look_at(address: Address) -> Seen:
    """Connects, and trusts nothing yet. Raises LxdockerError if that fails."""
    try:
        shown = trust.shown_certificate(address.host, address.port, LIMITS.connect)
        certificate = Certificate.parse(shown)
    except (OSError, ValueError) as error:
        raise LxdockerError(
            f"cannot connect to {address.host}:{address.port} with TLS",
            in_words(error),
            "check that the server runs, and its URL: lxdocker serve prints it when it starts",
        ) from error
    return Seen(certificate, trust.is_vouched_for(address.host, address.port, LIMITS.connect))


@dataclass(frozen=True, slots=True)
class _Pinned:
    """Guides requests to one server."""

    tls: Tls

    def admit(self, url: Url, previous: Url | None) -> Tls:
        """How the server, or one it redirects to, proves its identity. Raises RequestError for plain HTTP."""
        if url.scheme != "https":
            raise RequestError("redirect", "it redirects from https to plain http")
        return self.tls

    def reached(self, url: Url, place: Place) -> None:
        """Any place will do: it has proved its identity."""


def _get(address: Address, path: str, pinned: Certificate | None) -> Answer:
    """Raises LxdockerError where there is no answer."""
    login = None if address.user is None else basic(f"{address.user}:{address.password or ''}")
    request = Request(
        "GET", f"{address.url}/{path.lstrip('/')}", {"Authorization": login} if login else {}, limit=MAX_INDEX
    )
    tls = trust.only_certificate(pinned.fingerprint) if pinned else Tls(trust.make_context())
    # As look_at() sees the server, directly.
    with closing(Wire(LIMITS, proxied=False)) as wire:
        try:
            return wire.ask(request, _Pinned(tls))
        except RequestError as failure:
            raise LxdockerError(f"no answer from {address.url}", failure.why, "check that the server runs") from None


def check_index(address: Address, pinned: Certificate | None) -> int:
    """Checks that there are images. Returns how many. Raises LxdockerError."""
    answer = _get(address, INDEX_PATH, pinned)
    if answer.status == 401:
        raise LxdockerError(
            f"{address.url} requires a login" if address.user is None else f"wrong user or password for {address.url}",
            "401 Unauthorized",
            "give the user in the URL, https://USER@HOST:PORT; lxdocker asks for the password",
        )
    try:
        if answer.status != 200:
            raise ValueError(f"HTTP status {answer.status}")
        document = json.loads(answer.body)
        return sum(len(entry["products"]) for entry in document["index"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LxdockerError(
            f"{address.url} is not a simplestreams server", f"{INDEX_PATH}: {in_words(error)}", "check the URL"
        ) from error


# ---- the client


@dataclass(frozen=True, slots=True)
class Added:
    """The result of adding a remote."""

    name: str
    url: str
    client: str
    images: int
    certificate: Path | None  # where it was put
    existed: bool  # the remote was there before
    registry: bool  # LXD has it as an image registry, too


def check_name(name: str) -> str:
    """Raises UsageError unless ``name`` can be a remote's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:100]!r} cannot be a remote's name", "", "use letters, digits, '.', '_' and '-'")
    return name


def parse_fingerprint(text: str) -> str:
    """A SHA-256 as 64 hex digits, with or without colons. Raises UsageError."""
    try:
        return trust.parse_fingerprint(text)
    except ValueError as error:
        raise UsageError("not a SHA-256 fingerprint", text[:100], "copy the 64 hex digits the server shows") from error


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions to the user before anything is changed."""

    is_right: Callable[[Seen], bool]  # whether the certificate that the server shows is its own
    may_register: Callable[[], bool]  # whether LXD may be given an image registry


def add(
    client: Client, name: str, address: Address, seen: Seen, fingerprint: str | None, questions: Questions
) -> Added:
    """Adds the server as the remote ``name`` and, where LXD knows image registries, as one of them.

    The user is not asked about a certificate that the system trusts or that has this ``fingerprint``. If it raises
    LxdockerError, nothing has changed.
    """
    check_name(name)
    if fingerprint is not None and fingerprint != seen.certificate.fingerprint:
        raise LxdockerError(
            f"the certificate of {address.url} does not match",
            f"expected {fingerprint}\nfound    {seen.certificate.fingerprint}",
            "possible man-in-the-middle attack; compare with the fingerprint that lxdocker serve shows there",
        )
    daemon = client.dialect()
    registries = daemon is not None and daemon.knows_registries
    if registries and address.user is not None:
        raise UsageError(
            f"{daemon} cannot log in to {address.url}",
            "its image registries take no login",
            f"let lxdocker fetch the images, from a timer: lxdocker mirror --import {address.url_with_user}",
        )
    pinned = None if seen.trusted and fingerprint is None else seen.certificate
    if pinned is not None and not seen.trusted and fingerprint is None and not questions.is_right(seen):
        raise UsageError("nothing was changed", "the certificate was not accepted")
    images = check_index(address, pinned)
    before = client.address_of(name)
    if before is not None and _without_login(before) != address.url:
        raise UsageError(
            f"{client.name} already has a remote {name}",
            _without_login(before),
            f"choose another name, or remove it: {client.name} remote remove {name}",
        )
    file = client.folder / "servercerts" / f"{name}.crt"
    with contextlib.ExitStack() as undo:
        undo.enter_context(_restored_on_failure(file))
        if pinned is not None:
            file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            write_file(file, pinned.pem.encode(), 0o644)
        if before is None:
            client.run("remote", "add", name, address.url, "--protocol", "simplestreams")
            undo.enter_context(_removed_on_failure(client, name))
        if address.user is not None:
            _set_login(client.folder / "config.yml", name, address)
        client.run("image", "list", f"{name}:", "--format", "csv")
        if registries:
            undo.enter_context(image_registry.registered(client, name, address.url, questions.may_register))
            _prove_to_daemon(client, name, address, seen)
    return Added(name, address.url, client.name, images, file if pinned else None, before is not None, registries)


def _prove_to_daemon(client: Client, name: str, address: Address, seen: Seen) -> None:
    """Checks that the daemon, which does the downloading, can use the server. Raises LxdockerError."""
    try:
        image_registry.count_images(client, name)
    except LxdockerError as error:
        if "x509" not in error.details:
            remedy = error.resolution or "check that LXD reaches the server (proxies: lxc config get core.proxy_https)"
        elif seen.trusted:
            remedy = f"restart LXD, which reads the system's authorities only when it starts; {_RESTART}"
        else:
            remedy = _trust_remedy(address, seen.certificate)
        raise LxdockerError(f"LXD itself cannot use {address.url}", error.details, remedy) from error


def _trust_remedy(address: Address, certificate: Certificate) -> str:
    and_then = f"restart LXD, then run this again; {_RESTART}"
    if not certificate.is_for(address.host):
        return (
            f"have its certificate made for {address.host}, which LXD insists on: lxdocker serve --name {address.host}"
        )
    try:
        authority = check_authority(_get(address, PATH, certificate).body, certificate)
    except (LxdockerError, ValueError):
        return f"add the authority that signed it to this system's (update-ca-certificates), {and_then}"
    command = "\n".join(install_command(address.url, authority))
    return f"add the server's authority, good for this server only, to this system's; as root:\n{command}\n{and_then}"


def _without_login(address: str) -> str:
    try:
        return Address.parse(address).url
    except UsageError:  # unix://, or another protocol's
        return address.rpartition("@")[2]


def _set_login(config: Path, name: str, address: Address) -> None:
    """Writes the login to the client's configuration, which only its owner may read from then on. As an argument of the
    client, it would be visible to every user of this host.
    """
    try:
        document = yaml.safe_load(config.read_text(encoding="utf-8"))
        document["remotes"][name]["addr"] = address.full_url
        write_file(config, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode(), 0o600)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise LxdockerError(f"cannot write the login to {config}", type(error).__name__) from error


@contextlib.contextmanager
def _removed_on_failure(client: Client, name: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(LxdockerError):  # the first failure is the one to report
            client.run("remote", "remove", name)
        raise


@contextlib.contextmanager
def _restored_on_failure(file: Path) -> Iterator[None]:
    before = file.read_bytes() if exists(file) else None
    try:
        yield
    except BaseException:
        if before is not None:
            write_file(file, before, 0o644)
        else:
            file.unlink(missing_ok=True)
        raise
