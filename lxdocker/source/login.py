"""Logging in to a registry: its challenges, and the tokens that most want.

The token flow is the one that Docker Hub, ghcr.io and most others demand (distribution, docs/spec/auth/token.md and
oauth.md). A registry's way to log in is learned once, and tokens are reused until shortly before they expire. Logins go
only to the registry they are for and to the token service it names, never in the clear where the registry itself is
encrypted, and never along a redirect to another host.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from lxdocker.errors import AuthError, RegistryError
from lxdocker.http import url as urls
from lxdocker.http.failure import RequestError
from lxdocker.http.wire import Answer, Patience, Request, Wire
from lxdocker.source.credentials import Credential, Credentials
from lxdocker.source.site import Site
from lxdocker.text import one_line
from lxdocker.values import RegistryRef

_MAX_TOKEN_BODY = 256 * 1024
_MIN_TOKEN_SECONDS = 60  # token.md: the least a token is good for, and the default
_MAX_TOKEN_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants to be asked (RFC 9110, section 11.6.1)."""

    bearer: bool
    realm: str
    service: str


@dataclass(slots=True)
class Token:
    """One token, renewed in place."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: str = field(default="", repr=False)
    until: float = 0.0  # time.monotonic()


class Login:
    """How one registry is logged in to. Thread-safe."""

    def __init__(self, site: Site, wire: Wire, credentials: Credentials, patience: Callable[[], Patience]) -> None:
        self._site = site
        self._wire = wire
        self._credentials = credentials
        self._patience = patience
        self._lock = threading.Lock()
        self._scopes: dict[str, str] = {}  # repository -> scope, where it is not the usual one
        self.challenge: Challenge | None = None
        self.tokens: dict[str, Token] = {}  # by scope

    def learn(self, ref: RegistryRef, answer: Answer) -> bool:
        """Remembers how ``answer``, a 401, wants to be asked; False if it names no way we know. Of several ways it is
        the one by tokens, which may be had without a login.
        """
        challenges = parse_challenges(answer.challenges)
        for scheme, parameters in challenges:
            if scheme == "bearer" and parameters.get("realm"):
                scope = " ".join(parameters.get("scope", "").split())
                if scope:
                    self._scopes[ref.repository] = scope
                self.challenge = Challenge(True, parameters["realm"], parameters.get("service", ""))
                return True
        if any(scheme == "basic" for scheme, _ in challenges):
            self.challenge = Challenge(False, "", "")
            return True
        return False

    def authorization(self, ref: RegistryRef, refused: str = "") -> str:
        """The Authorization header to send, "" for none. A secret.

        ``refused`` is the one that was just refused; if that is the token we have, a new one is fetched.
        """
        challenge = self.challenge
        if not challenge:
            return ""
        if not challenge.bearer:
            credential = self._credentials.for_ref(ref)
            return credential.basic if credential else ""
        scope = self._scopes.get(ref.repository) or f"repository:{ref.repository}:pull"
        with self._lock:
            token = self.tokens.setdefault(scope, Token())
        # One thread fetches it, the others that need the same one wait.
        with token.lock:
            now = time.monotonic()
            if now >= token.until or refused == f"Bearer {token.value}":
                token.value, seconds = self._fetch(ref, challenge, scope)
                token.until = now + seconds - min(10.0, seconds / 4)
            return f"Bearer {token.value}"

    def _fetch(self, ref: RegistryRef, challenge: Challenge, scope: str) -> tuple[str, float]:
        """A token for ``scope`` and for how many seconds it is good."""
        realm, shown = self._service(ref, challenge.realm)
        credential = self._credentials.for_ref(ref)
        try:
            answer = self._wire.ask(_token_request(realm, challenge, scope, credential), self._site, self._patience())
        except RequestError as failure:
            raise RegistryError(
                f"no token for {ref}",
                f"the token service {shown} of {self._site.name}: {failure.why}",
                "check that this host can reach it (network, firewall, proxy), then try again",
            ) from None
        if answer.status in (400, 401, 403):
            raise refused(ref, f"{shown} answers {answer.status}{quoted(answer)}", credential, self._credentials)
        if answer.status != 200:
            raise RegistryError(
                f"no token for {ref}",
                f"the token service {shown} of {self._site.name} answers {answer.status}{quoted(answer)}",
                "try again later",
            )
        return _parse_token(answer.body, shown, ref)

    def _service(self, ref: RegistryRef, realm: str) -> tuple[str, str]:
        """``realm`` and how to show it, if it is a URL that a login may be sent to; raises AuthError."""
        url = urls.parse(realm)
        resolution = "report it to the registry's operator; nothing was sent"
        if not url or url.auth or url.fragment:
            why = "it names an invalid URL as its token service"
        elif url.scheme == "https" or self._site.is_safe_for_login(url):
            return realm, urls.shown(url)
        elif self._site.scheme == "https":
            why = f"it names a token service without encryption, {urls.shown(url)}, while it is encrypted itself"
        else:
            why = f"it names a token service without encryption on another host, {urls.shown(url)}"
            resolution = f"if that is as it should be: --insecure-registry {url.netloc}"
        raise AuthError(f"cannot log in to {self._site.name} for {ref}", why, resolution)


def _token_request(realm: str, challenge: Challenge, scope: str, credential: Credential | None) -> Request:
    # A challenge may name no service, and strict token services refuse an empty one.
    service = {"service": challenge.service} if challenge.service else {}
    headers = {"Accept": "application/json"}
    if credential and credential.identity_token:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        form = {"grant_type": "refresh_token", "client_id": "lxdocker", **service, "scope": scope}
        body = urlencode({**form, "refresh_token": credential.identity_token}).encode()
        return Request("POST", realm, headers, _MAX_TOKEN_BODY, body)
    asked = [*service.items(), *(("scope", each) for each in scope.split())]
    if credential:
        asked.append(("account", credential.username))
        headers["Authorization"] = credential.basic
    url = realm + ("&" if "?" in realm else "?") + urlencode(asked)
    return Request("GET", url, headers, _MAX_TOKEN_BODY)


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
            f"no token for {ref}", f"the answer of {shown} has none", "try again later, or check for a proxy"
        )
    seconds = members.get("expires_in")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > _MIN_TOKEN_SECONDS:
        seconds = _MIN_TOKEN_SECONDS
    return token, float(min(seconds, _MAX_TOKEN_SECONDS))


# RFC 9110, 5.6.2 and 11.2.
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
_PARAMETER = re.compile(rf'[\s,]*({_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_NAME})(?:\s+[A-Za-z0-9._~+/-]+=*\s*(?=,|$)|\s+|(?=,)|$)")


def parse_challenges(headers: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """``Bearer realm="...",scope="a,b", Basic realm="..."`` as (lower-case scheme, parameters) each."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers[:8]:
        text, at = header[:8192], 0
        of_header = len(found)
        while at < len(text):
            parameter = _PARAMETER.match(text, at)
            if parameter and len(found) > of_header:
                name, quoted_value, plain = parameter.groups()
                value = plain if quoted_value is None else re.sub(r"\\(.)", r"\1", quoted_value)
                found[-1][1].setdefault(name.lower(), value)
                at = parameter.end()
            elif scheme := _SCHEME.match(text, at):
                found.append((scheme.group(1).lower(), {}))
                at = scheme.end()
            else:
                break
    return found


def quoted(answer: Answer) -> str:
    """The server's own words for a refusal, as the distribution specification, RFC 6749 or neither has them."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return ""
    errors = document.get("errors") if isinstance(document, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else document
    if not isinstance(first, dict):
        return ""
    words = (first.get(key) for key in ("message", "error_description", "details", "error", "code"))
    text = next((word for word in words if isinstance(word, str) and word.strip()), "")
    return f" ({text})" if (text := one_line(text, 200).strip()) else ""


def refused(ref: RegistryRef, how: str, credential: Credential | None, credentials: Credentials) -> AuthError:
    """The registry, or its token service, does not let us in."""
    if credential:
        why = f"the login of {credential.username} from {credential.source} is wrong or may not read it"
    else:
        why = f"no such image, or no login for it in {', '.join(credentials.looked_at)}"
    return AuthError(
        f"{ref.registry} refuses access to {ref}",
        f"{how}: {why}{notes(credentials)}",
        "check the image's name (many registries say this of images that do not exist); "
        f"if it is private: skopeo login {ref.registry}",
    )


def notes(credentials: Credentials) -> str:
    """What went wrong with logins so far, to end a sentence."""
    return "".join(f"; {note}" for note in credentials.notes)
