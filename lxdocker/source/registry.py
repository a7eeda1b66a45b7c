"""A registry's HTTP API, as much of it as asking "what is this tag today?" takes.

The protocol is the OCI distribution specification's (spec.md: pulling manifests, pulling blobs) with the
token flow that Docker Hub, ghcr.io and most others demand (distribution, docs/spec/auth/token.md, oauth.md).

An unchanged image costs one HEAD: connections are kept, a registry's way to log in is learned once, and
tokens are reused until shortly before they expire. Which scheme a registry gets:

- https with verified certificates, unless
- it listens on this host's loopback (http is tried first, nothing can listen in between), or
- it is named as insecure (https is tried first, then http). Neither has its certificate checked.

Everything a registry sends is bounded in size and time, and bodies must match their digest. Logins go only to
the registry they are for and to the token service it names, never in the clear where the registry itself is
encrypted, and never along a redirect to another host.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self
from urllib.parse import urlencode, urljoin

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InsecureRequestWarning,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.util import Timeout, Url, parse_url

from lxdocker import __version__
from lxdocker.credentials import Credential, Credentials
from lxdocker.errors import AuthError, ImageMissingError, RegistryError
from lxdocker.oci import MANIFEST_TYPES
from lxdocker.transport import DeadlineError, Transport, UnusableProxyError
from lxdocker.values import DEFAULT_REGISTRY, Digest, RegistryRef

# Where podman, skopeo and docker keep a registry's CA (*.crt) and client certificate (*.cert and *.key):
# containers-certs.d(5). The first of these that has a folder for the registry counts.
CERT_ROOTS = (
    Path("~/.config/containers/certs.d"),
    Path("/etc/containers/certs.d"),
    Path("/etc/docker/certs.d"),
)

CONNECTIONS = 32  # to one registry at a time

_HUB_HOST = "registry-1.docker.io"
_ACCEPT = ", ".join(MANIFEST_TYPES)
_MAX_MANIFEST = 4 * 1024 * 1024  # what registries accept (distribution spec: at least 4 MiB)
_MAX_CONFIG = 4 * 1024 * 1024  # what skopeo takes (containers/image, internal/iolimits)
_MAX_TOKEN_BODY = 256 * 1024
_MAX_ERROR_BODY = 64 * 1024  # read only so that the connection can be used again
# However steadily they drip: the headers of an answer from when it is asked for, and then its body.
_MAX_HEAD_SECONDS = 60.0
_MAX_BODY_SECONDS = 60.0
_MAX_REDIRECTS = 5
_TRIES = 3
_PAUSES = (0.2, 0.8)  # seconds before the second and third
_MAX_RETRY_AFTER = 10.0  # seconds
_FINAL = ("certificate", "plain", "endless")  # kinds of failures that another try won't heal
_REMEMBER_FAILURE = 30.0  # seconds: a hundred images needn't each find out that their registry is down
_MIN_TOKEN_SECONDS = 60  # token.md: the least a token is good for, and the default
_MAX_TOKEN_SECONDS = 3600


def certs_dir(registry: str, roots: Sequence[Path] = CERT_ROOTS) -> Path | None:
    """The folder with the certificates for ``registry`` (HOST or HOST:PORT), None if there is none."""
    folders = (root.expanduser() / registry for root in roots)
    return next((folder for folder in folders if folder.is_dir()), None)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    challenges: tuple[str, ...]  # the WWW-Authenticate headers
    body: bytes


@dataclass(frozen=True, slots=True)
class _Challenge:
    """How a registry wants to be asked (RFC 9110, section 11.6.1)."""

    bearer: bool
    realm: str
    service: str


@dataclass(slots=True)
class _Token:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: str = field(default="", repr=False)
    until: float = 0.0  # time.monotonic()


@dataclass(slots=True)
class _State:
    """What has been learned about one registry."""

    name: str  # as references name it
    host: str  # as it is reached, HOST or HOST:PORT
    schemes: tuple[str, ...]  # to try, in order
    lock: threading.Lock = field(default_factory=threading.Lock)
    scheme: str = ""  # "" until it has answered once
    challenge: _Challenge | None = None
    scopes: dict[str, str] = field(default_factory=dict)  # repository -> scope, where it is not the usual one
    tokens: dict[str, _Token] = field(default_factory=dict, repr=False)  # by scope
    failure: RegistryError | None = None
    failed_at: float = 0.0


class _RequestError(Exception):
    """A request that got no (usable) answer. The text is for people and holds no secret."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        # unreachable, certificate, plain (http where TLS was expected), tls, broken, endless (in size or in time)
        self.kind = kind
        self.why = why


class RegistryClient:
    """Asks registries. A context manager; thread-safe: threads share connections, tokens and what is learned.

    All methods raise RegistryError and its kinds: AuthError (401, 403), ImageMissingError (404), and
    RegistryError itself for a registry that can't be reached or whose answers can't be used.
    """

    def __init__(
        self,
        credentials: Credentials,
        insecure: Collection[str] = (),
        timeout: float = 15.0,
        cert_roots: Sequence[Path] = CERT_ROOTS,
    ) -> None:
        """``insecure``: registries (HOST or HOST:PORT) that may be asked by plain http.

        ``timeout``: seconds to wait for a connection, and for each piece of an answer.
        """
        self._credentials = credentials
        self._insecure = frozenset(insecure)
        self._seconds = timeout
        self._cert_roots = tuple(cert_roots)
        self._transport = Transport(num_pools=64, maxsize=CONNECTIONS, timeout=Timeout(connect=timeout, read=timeout))
        self._contexts: dict[tuple[bool, Path | None], ssl.SSLContext] = {}
        self._states: dict[str, _State] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections, and the waiting of threads that were about to try again."""
        self._closed.set()
        self._transport.close()

    def verifies(self, registry: str) -> bool:
        """Whether ``registry`` must prove who it is: False for loopback and for those named as insecure."""
        return registry not in self._insecure and not _is_loopback(registry)

    def head(self, ref: RegistryRef) -> Digest:
        """What the tag names now: the digest of a manifest or of an index.

        A HEAD, which Docker Hub's rate limit does not count. A ``ref`` that is a digest already is its own
        answer, and nothing is asked.
        """
        if ref.digest:
            return ref.digest
        path = f"/v2/{ref.repository}/manifests/{ref.tag}"
        answer = self._ask("HEAD", ref, path, _ACCEPT, 0)
        if answer.status not in (405, 501):
            _check(answer, ref, self._credentials)
            try:
                return Digest.parse(answer.headers.get("docker-content-digest", ""))
            except ValueError:
                pass  # the header is optional (distribution spec: "MAY")
        answer = self._ask("GET", ref, path, _ACCEPT, _MAX_MANIFEST)
        _check(answer, ref, self._credentials)
        _require_no_page(answer, ref)
        return _digest_of(answer.body)

    def manifest(self, ref: RegistryRef, digest: Digest) -> bytes:
        """The manifest or index ``digest`` of ``ref``'s repository; up to 4 MiB; matches the digest."""
        path = f"/v2/{ref.repository}/manifests/{digest}"
        return self._verified(ref, digest, path, _ACCEPT, _MAX_MANIFEST)

    def config_blob(self, ref: RegistryRef, digest: Digest) -> bytes:
        """The image configuration ``digest`` of ``ref``'s repository; up to 4 MiB; matches the digest."""
        return self._verified(ref, digest, f"/v2/{ref.repository}/blobs/{digest}", "*/*", _MAX_CONFIG)

    def _verified(self, ref: RegistryRef, digest: Digest, path: str, accept: str, limit: int) -> bytes:
        exact = ref.at(digest)
        answer = self._ask("GET", exact, path, accept, limit)
        _check(answer, exact, self._credentials)
        if _digest_of(answer.body) != digest:
            _require_no_page(answer, exact)
            raise RegistryError(
                f"{ref.registry} sent something else than {exact}",
                f"its content has the digest {_digest_of(answer.body)}",
                "Try again; if it stays so, the registry or a proxy on the way is broken or lies.",
            )
        return answer.body

    # One question, with what it takes to be allowed to ask it.

    def _ask(self, method: str, ref: RegistryRef, path: str, accept: str, limit: int) -> _Answer:
        state = self._state(ref.registry)
        headers = {"Accept": accept}
        authorization = ""
        answer = self._first(state, method, ref, path, headers, limit) if not state.scheme else None
        if not answer:
            authorization = self._authorization(state, ref, refused="")
            answer = self._request(state, method, ref, path, headers, authorization, limit)
        if answer.status == 401 and self._learn(state, ref, answer):
            renewed = self._authorization(state, ref, refused=authorization)
            if renewed and renewed != authorization:
                answer = self._request(state, method, ref, path, headers, renewed, limit)
        return answer

    def _state(self, registry: str) -> _State:
        with self._lock:
            state = self._states.get(registry)
            if not state:
                host = _HUB_HOST if registry == DEFAULT_REGISTRY else registry
                schemes: tuple[str, ...] = ("https",)
                if _is_loopback(registry):
                    schemes = ("http", "https")
                elif registry in self._insecure:
                    schemes = ("https", "http")
                state = self._states[registry] = _State(registry, host, schemes)
            return state

    def _first(
        self, state: _State, method: str, ref: RegistryRef, path: str, headers: Mapping[str, str], limit: int
    ) -> _Answer | None:
        """The first question to a registry, asked by one thread while the others wait: what it tells (the
        scheme, the way to log in, or nothing at all) is worth knowing before asking 31 more.

        None if this wasn't the first, or if the answer was one to try again after.
        """
        with state.lock:
            if state.scheme:
                return None
            if state.failure and time.monotonic() < state.failed_at + _REMEMBER_FAILURE:
                raise _cannot_be_asked(state.name, ref, state.failure.details, state.failure.resolution)
            try:
                scheme, answer = self._try_schemes(state, method, ref, path, headers, limit)
            except RegistryError as error:
                state.failure, state.failed_at = error, time.monotonic()
                raise
            if answer.status == 401:
                self._learn(state, ref, answer)
            # Last, as it is what lets the others pass, and they shall know how to log in.
            state.scheme = scheme
            return None if _is_worth_a_retry(answer.status) else answer

    def _try_schemes(
        self, state: _State, method: str, ref: RegistryRef, path: str, headers: Mapping[str, str], limit: int
    ) -> tuple[str, _Answer]:
        for attempt in range(_TRIES):
            failures: list[tuple[str, _RequestError]] = []
            refused: _Answer | None = None
            for scheme in state.schemes:
                try:
                    answer = self._tried(method, f"{scheme}://{state.host}{path}", headers, limit, tries=1)
                except _RequestError as failure:
                    failures.append((scheme, failure))
                    continue
                # How Go's and nginx's TLS servers answer plain http.
                if answer.status == 400 and scheme == "http" and scheme != state.schemes[-1]:
                    refused = answer
                    continue
                return scheme, answer
            if refused:
                return "http", refused
            final = all(failure.kind in _FINAL for _, failure in failures)
            if final or attempt == _TRIES - 1 or self._closed.wait(_PAUSES[attempt]):
                break
        raise _unreachable(state.name, ref, failures)

    def _request(
        self,
        state: _State,
        method: str,
        ref: RegistryRef,
        path: str,
        headers: Mapping[str, str],
        authorization: str,
        limit: int,
    ) -> _Answer:
        sent = {**headers, "Authorization": authorization} if authorization else headers
        try:
            return self._tried(method, f"{state.scheme}://{state.host}{path}", sent, limit)
        except _RequestError as failure:
            raise _unreachable(state.name, ref, [(state.scheme, failure)]) from None

    # Logging in.

    def _learn(self, state: _State, ref: RegistryRef, answer: _Answer) -> bool:
        """Remembers how ``answer``, a 401, wants to be asked; False if it names no way we know."""
        for scheme, parameters in _parse_challenges(answer.challenges):
            if scheme == "bearer" and parameters.get("realm"):
                scope = parameters.get("scope")
                if scope:
                    state.scopes[ref.repository] = scope
                state.challenge = _Challenge(True, parameters["realm"], parameters.get("service", ""))
                return True
            if scheme == "basic":
                state.challenge = _Challenge(False, "", "")
                return True
        return False

    def _authorization(self, state: _State, ref: RegistryRef, refused: str) -> str:
        """The Authorization header to send, "" for none.

        ``refused`` is the one that was just refused; if that is the token we have, a new one is fetched.
        """
        challenge = state.challenge
        if not challenge:
            return ""
        if not challenge.bearer:
            credential = self._credentials.for_ref(ref)
            return credential.basic if credential else ""
        scope = state.scopes.get(ref.repository) or f"repository:{ref.repository}:pull"
        with self._lock:
            token = state.tokens.setdefault(scope, _Token())
        # One thread fetches it, the others that need the same one wait.
        with token.lock:
            now = time.monotonic()
            if now >= token.until or refused == f"Bearer {token.value}":
                token.value, seconds = self._fetch_token(state, ref, challenge, scope)
                token.until = now + seconds - min(10.0, seconds / 4)
            return f"Bearer {token.value}"

    def _fetch_token(self, state: _State, ref: RegistryRef, challenge: _Challenge, scope: str) -> tuple[str, float]:
        """A token for ``scope`` and for how many seconds it is good."""
        realm = self._token_service(state, ref, challenge.realm)
        credential = self._credentials.for_ref(ref)
        question = {"service": challenge.service, "scope": scope}
        headers = {"Accept": "application/json"}
        method, body = "GET", None
        if credential and credential.identity_token:
            method = "POST"
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            form = {"grant_type": "refresh_token", "client_id": "lxdocker", **question}
            body = urlencode({**form, "refresh_token": credential.identity_token}).encode()
            url = realm
        else:
            if credential:
                question["account"] = credential.username
                headers["Authorization"] = credential.basic
            url = realm + ("&" if "?" in realm else "?") + urlencode(question)
        shown = _shown(realm)
        try:
            answer = self._tried(method, url, headers, _MAX_TOKEN_BODY, body=body)
        except _RequestError as failure:
            raise RegistryError(
                f"No token for {ref}",
                f"{shown}, where {state.name} sends for tokens: {failure.why}",
                "Check that this host can reach it (network, firewall, proxy), then try again.",
            ) from None
        if answer.status in (400, 401, 403):
            raise _refused(ref, f"{shown} answers {answer.status}", credential, self._credentials)
        if answer.status != 200:
            raise RegistryError(
                f"No token for {ref}",
                f"{shown}, where {state.name} sends for tokens, answers {answer.status}",
                "Try again later.",
            )
        return _parse_token(answer.body, shown, ref)

    def _token_service(self, state: _State, ref: RegistryRef, realm: str) -> str:
        """``realm`` if it is an address that a login may be sent to; raises AuthError."""
        try:
            url = parse_url(realm)
        except HTTPError:
            url = Url()
        resolution = "Tell whoever runs the registry. Nothing was sent."
        if url.scheme not in ("http", "https") or not url.host or url.auth or url.fragment:
            why = "it sends for tokens to an address that is none"
        elif url.scheme == "https":
            return realm
        elif state.scheme == "https":
            why = f"it sends for tokens to {_shown(realm)}, in the clear, while it is encrypted itself"
        elif url.host == _parse(f"http://{state.host}").host or not self.verifies(url.netloc or ""):
            return realm
        else:
            why = f"it sends for tokens to {_shown(realm)}, on another host, in the clear"
            resolution = f"If that is as it should be: --insecure-registry {url.netloc}"
        raise AuthError(f"{state.name} can't be logged in to for {ref}", why, resolution)

    # One request on the wire.

    def _tried(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        limit: int,
        body: bytes | None = None,
        tries: int = _TRIES,
    ) -> _Answer:
        """The answer to a request, with redirects followed and tried again where that may help.

        Raises _RequestError.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._repeated(method, url, headers, limit, body, tries)
            location = answer.headers.get("location", "")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            if body is not None:
                raise _RequestError("broken", "it redirects a login elsewhere")
            try:
                target = urljoin(url, location)
            except ValueError:
                raise _RequestError("broken", "it redirects to an address that is none") from None
            old, new = _parse(url), _parse(target)
            if new.scheme not in ("http", "https") or not new.host or new.auth:
                raise _RequestError("broken", "it redirects to an address that is none")
            if old.scheme == "https" and new.scheme != "https":
                raise _RequestError("broken", "it redirects from https to plain http")
            if _origin(old) != _origin(new):
                headers = {key: value for key, value in headers.items() if key != "Authorization"}
            url = target
        raise _RequestError("broken", f"it redirects more than {_MAX_REDIRECTS} times")

    def _repeated(
        self, method: str, url: str, headers: Mapping[str, str], limit: int, body: bytes | None, tries: int
    ) -> _Answer:
        for attempt in range(tries):
            last = attempt == tries - 1
            pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
            try:
                answer = self._once(method, url, headers, limit, body)
            except _RequestError as failure:
                if last or failure.kind in _FINAL:
                    raise
            else:
                if last or not _is_worth_a_retry(answer.status):
                    return answer
                asked = _retry_after(answer.headers.get("retry-after", ""))
                if asked > _MAX_RETRY_AFTER:
                    return answer
                pause = max(pause, asked)
            if self._closed.wait(pause):
                raise _RequestError("broken", "stopped")
        raise AssertionError("tries is at least 1")

    def _once(self, method: str, url: str, headers: Mapping[str, str], limit: int, body: bytes | None) -> _Answer:
        parsed = _parse(url)
        sent = {"User-Agent": f"lxdocker/{__version__}", "Accept-Encoding": "identity", **headers}
        try:
            tls = {"ssl_context": self._context(parsed)} if parsed.scheme == "https" else None
            with self._transport.open(method, parsed, sent, _MAX_HEAD_SECONDS, body=body, tls=tls) as response:
                raw, content = response.raw, b""
                if method != "HEAD":
                    with response.deadline.within(_MAX_BODY_SECONDS, "its answer"):
                        content = _read_body(raw, limit)
                return _Answer(
                    raw.status,
                    {key.lower(): value for key, value in raw.headers.items()},
                    tuple(raw.headers.getlist("www-authenticate")),
                    content,
                )
        except UnusableProxyError as error:
            raise _RequestError("unreachable", str(error)) from None
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise self._failed(error, parsed) from None

    def _context(self, url: Url) -> ssl.SSLContext:
        names = [f"{url.host}:{url.port}" if url.port else f"{url.host}"]
        if url.port == 443:
            names.append(f"{url.host}")
        if url.host == _HUB_HOST:
            names.append(DEFAULT_REGISTRY)
        verify = all(map(self.verifies, names))
        folder = next(filter(None, (certs_dir(name, self._cert_roots) for name in names)), None)
        with self._lock:
            if (verify, folder) not in self._contexts:
                self._contexts[verify, folder] = _make_context(verify, folder)
            return self._contexts[verify, folder]

    def _failed(self, error: Exception, url: Url) -> _RequestError:
        """What ``error`` means. Its own text may hold addresses with secrets in them and is not used."""
        if isinstance(error, _BodyError | DeadlineError):
            return _RequestError("endless", str(error))
        if isinstance(error, ProxyError):
            return _RequestError("unreachable", f"the proxy can't be used: {_root_reason(error.original_error)}")
        if isinstance(error, NameResolutionError):
            return _RequestError("unreachable", f"the name {url.host} is not known to the DNS")
        # Before the next one, of which urllib3 has made it a kind.
        if isinstance(error, NewConnectionError):
            return _RequestError("unreachable", _root_reason(error))
        if isinstance(error, ConnectTimeoutError):
            return _RequestError("unreachable", f"no connection within {self._seconds:g} s")
        if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
            return _RequestError("broken", f"no answer within {self._seconds:g} s")
        if isinstance(error, SSLError | ssl.SSLError):
            return _tls_failure(error)
        return _RequestError("broken", _root_reason(error))


class _BodyError(ValueError):
    """A body is too long."""


def _read_body(response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
    """The body, at most ``limit`` bytes; nothing, and the connection closed, for an error's that nobody would read."""
    failed = response.status >= 300
    if failed:
        limit = _MAX_ERROR_BODY
    content = bytearray()
    # read1: what is there, so that the length is looked at while it grows.
    while chunk := response.read1(65536):
        content += chunk
        if len(content) > limit:
            if failed:
                response.close()
                return b""
            raise _BodyError(f"its answer is longer than {limit // 1024} KiB")
    return bytes(content)


def _parse(url: str) -> Url:
    try:
        parsed = parse_url(url)
    except HTTPError:
        raise _RequestError("broken", "it names an address that is none") from None
    if not parsed.host:
        raise _RequestError("broken", "it names an address that is none")
    return parsed


def _origin(url: Url) -> tuple[str | None, str | None, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme or "")


def _shown(url: str) -> str:
    """``url`` without what may be secret in it."""
    try:
        parsed = parse_url(url)
    except HTTPError:
        return "an address that is none"
    return f"{parsed.scheme}://{parsed.netloc}{parsed.path or ''}"[:200]


def _is_loopback(host: str) -> bool:
    return RegistryRef(host, "", None, None).is_loopback


def _digest_of(content: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


# TLS.


def _make_context(verify: bool, folder: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # The user named this registry; saying so at each request helps no one.
        urllib3.disable_warnings(InsecureRequestWarning)
    if folder:
        # Private CAs made by hand often lack extensions that Python 3.13 began to insist on; docker doesn't.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        try:
            for file in sorted(folder.glob("*.crt")):
                context.load_verify_locations(cafile=file)
            for file in sorted(folder.glob("*.cert")):
                context.load_cert_chain(file, file.with_suffix(".key"))
        except OSError as error:  # ssl.SSLError is one
            raise _RequestError(
                "certificate", f"the certificates in {folder} can't be used: {error.strerror}"
            ) from None
    return context


def _tls_failure(error: Exception) -> _RequestError:
    inner: BaseException | None = error
    while inner and not isinstance(inner, ssl.SSLError):
        inner = inner.args[0] if inner.args and isinstance(inner.args[0], BaseException) else inner.__cause__
    if isinstance(inner, ssl.SSLCertVerificationError):
        return _RequestError("certificate", f"its certificate is not trusted: {inner.verify_message or inner.reason}")
    reason = str(getattr(inner, "reason", "") or "")
    # What OpenSSL calls an answer that isn't TLS.
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"):
        return _RequestError("plain", "it does not speak TLS, but probably plain http")
    return _RequestError("tls", f"TLS failed: {reason.lower().replace('_', ' ') or 'the connection was closed'}")


def _root_reason(error: BaseException) -> str:
    """The system's word for why a connection failed."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            break
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror.lower()
        nested = [argument for argument in seen.args if isinstance(argument, BaseException)]
        seen = nested[0] if nested else seen.__cause__ or seen.__context__
    return "the connection was closed" if isinstance(error, HTTPError) else "its answer is not HTTP"


# Challenges and tokens.

_PARAMETER = re.compile(r'\s*([A-Za-z_-]{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))\s*(?:,|$)')
_SCHEME = re.compile(r"\s*([A-Za-z]{1,32})(?:\s+|,|$)")


def _parse_challenges(headers: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """``Bearer realm="...",scope="a,b", Basic realm="..."`` as (lower-case scheme, parameters) each."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers[:8]:
        text, at = header[:8192], 0
        while at < len(text):
            parameter = _PARAMETER.match(text, at)
            if parameter and found:
                name, quoted, plain = parameter.groups()
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1][1].setdefault(name.lower(), value)
                at = parameter.end()
            elif scheme := _SCHEME.match(text, at):
                found.append((scheme.group(1).lower(), {}))
                at = scheme.end()
            else:
                break
    return found


def _parse_token(body: bytes, shown: str, ref: RegistryRef) -> tuple[str, float]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    members = document if isinstance(document, dict) else {}
    token = members.get("token") or members.get("access_token")
    # It becomes a header: nothing but printable ASCII may be in it.
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise RegistryError(
            f"No token for {ref}",
            f"the answer of {shown} holds none",
            "Try again later, or check for a proxy.",
        )
    seconds = members.get("expires_in")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > _MIN_TOKEN_SECONDS:
        seconds = _MIN_TOKEN_SECONDS
    return token, float(min(seconds, _MAX_TOKEN_SECONDS))


def _is_worth_a_retry(status: int) -> bool:
    return status == 429 or (status >= 500 and status not in (501, 505))


def _retry_after(value: str) -> float:
    """Seconds (RFC 9110, section 10.2.3); 0 if there is no sense in it."""
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    if not value:
        return 0.0
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


# What to say.


def _check(answer: _Answer, ref: RegistryRef, credentials: Credentials) -> None:
    """Raises what a status other than 200 means."""
    status = answer.status
    if status == 200:
        return
    if status in (401, 403):
        raise _refused(ref, f"it answers {status}", credentials.for_ref(ref), credentials)
    if status == 404:
        raise ImageMissingError(
            f"There is no image {ref}",
            f"{ref.registry} does not know this {'digest' if ref.digest else 'repository or tag'}",
            "Check the name and the tag; a tag can have been deleted.",
        )
    if status == 429:
        after = _retry_after(answer.headers.get("retry-after", ""))
        raise RegistryError(
            f"{ref.registry} refuses more requests for now, asked for {ref}",
            "it answers 429 (too many requests)" + (f" and wants a pause of {after:.0f} s" if after else ""),
            f"Wait and try again; logged in ('skopeo login {ref.registry}') the limit is often higher.",
        )
    if status >= 500:
        raise RegistryError(f"{ref.registry} failed, asked for {ref}", f"it answers {status}", "Try again later.")
    _not_a_registry(ref, f"it answers {status}")


def _require_no_page(answer: _Answer, ref: RegistryRef) -> None:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/html" or answer.body.lstrip()[:1] != b"{":
        _not_a_registry(ref, "its answer is a web page" if kind == "text/html" else "its answer is no manifest")


def _not_a_registry(ref: RegistryRef, why: str) -> NoReturn:
    raise RegistryError(
        f"{ref.registry} does not answer like a registry, asked for {ref}",
        why,
        "Check host and port, and whether a proxy or a login page stands in between.",
    )


def _refused(ref: RegistryRef, how: str, credential: Credential | None, credentials: Credentials) -> AuthError:
    if credential:
        why = f"the login of {credential.username} from {credential.source} is wrong or may not read it"
    else:
        why = "there is no such image, or it wants a login and none was found in " + ", ".join(credentials.looked_at)
    notes = "".join(f"; {note}" for note in credentials.notes)
    return AuthError(
        f"{ref.registry} refuses access to {ref}",
        f"{how}: {why}{notes}",
        f"Check the image's name (many registries say this of images that don't exist); "
        f"if it is private: skopeo login {ref.registry}",
    )


def _unreachable(name: str, ref: RegistryRef, failures: Sequence[tuple[str, _RequestError]]) -> RegistryError:
    kinds = {failure.kind for _, failure in failures}
    if len({failure.why for _, failure in failures}) == 1:
        details = failures[0][1].why
    else:
        details = "; ".join(f"by {scheme}: {failure.why}" for scheme, failure in failures)
    if "plain" in kinds and len(failures) == 1:
        resolution = f"If it is meant to be without encryption: --insecure-registry {name}"
    elif "certificate" in kinds:
        folder = CERT_ROOTS[-1] / name
        resolution = f"If it has a CA of its own, put that CA's certificate at {folder}/ca.crt"
    elif "unreachable" in kinds:
        resolution = "Check the name and the port, and that this host can reach it (network, firewall, proxy)."
    else:
        resolution = "Try again later; check for a proxy in between."
    return _cannot_be_asked(name, ref, details, resolution)


def _cannot_be_asked(name: str, ref: RegistryRef, details: str, resolution: str) -> RegistryError:
    return RegistryError(f"{name} can't be asked for {ref}", details, resolution)
