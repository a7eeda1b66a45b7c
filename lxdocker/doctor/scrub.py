"""Text without secrets: those that are known, in every form that they may have, and what looks like one."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, unquote, urlsplit

from lxdocker import log

HIDDEN = "***"
LEAST = 4  # characters: hiding a shorter one everywhere would leave no text
_LOGIN = re.compile(r"://([^\s/@'\"]*)@")
_NAMED = re.compile(r"passw|secret|token|credential|private|api_?key|_key$|_auth$", re.IGNORECASE)
# Of LXD's configuration, by key; what is below these is for instances, and nobody else's business.
_KEYS = re.compile(
    r"passw|secret|token|credential|private|(^|[._-])key($|[._-])|^environment\.|^user\.|cloud-init|^raw\.",
    re.IGNORECASE,
)
_LOOKS_SECRET = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?<=\bBearer )[\w.~+/=-]+", re.IGNORECASE),
    re.compile(r"(?<=\bBasic )[A-Za-z0-9+/=]{6,}", re.IGNORECASE),
    re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]+)*"),  # JSON in base64: JWTs, LXD's trust tokens
    re.compile(r"://[^\s/@'\"]+(?=@)"),
)


@dataclass(frozen=True, slots=True)
class Scrubber:
    """Knows the secrets of this host, the longest first."""

    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, found: Iterable[str]) -> Scrubber:
        """``found``: secrets as they are kept."""
        forms = {form for secret in found for form in _forms(secret.strip()) if len(form) >= LEAST}
        return cls(tuple(sorted(forms, key=lambda form: (-len(form), form))))

    def clean(self, text: str) -> str:
        """``text`` without them."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        for pattern in _LOOKS_SECRET:
            text = pattern.sub(f"://{HIDDEN}" if pattern is _LOOKS_SECRET[-1] else HIDDEN, text)
        return log.hidden(text)


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may stand in URLs, JSON and base64; also within the base64 of more than it."""
    if len(secret) < LEAST:
        return
    yield from (secret, quote(secret, safe=""), quote(secret), quote_plus(secret), unquote(secret))
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    raw = secret.encode("utf-8", "surrogateescape")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode().rstrip("=")
        for before in range(3):
            # The characters that depend on this secret alone, whatever stands before and behind it.
            first, last = (before * 8 + 5) // 6, (before + len(raw)) * 8 // 6
            middle = encode(b"\0" * before + raw).decode()[first:last]
            if len(middle) >= 2 * LEAST:
                yield middle


def in_url(text: str) -> Iterator[str]:
    """The logins in a text's URLs: whole, and the password alone."""
    for found in _LOGIN.finditer(text):
        login = found[1]
        user, colon, password = login.partition(":")
        yield login if colon else user
        if colon:
            yield from (password, unquote(password), f"{unquote(user)}:{unquote(password)}")


def in_hook(hook: str | None) -> Iterator[str]:
    """A hook's own: what follows the server in its URL, or the arguments of its command."""
    if not hook:
        return
    yield hook
    if "://" in hook:
        parsed = urlsplit(hook)
        yield from (parsed.path.strip("/"), parsed.query)
    else:
        yield from hook.split()[1:]


def in_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables whose name says so, and the logins in all of them."""
    for name, value in environ.items():
        if _NAMED.search(name) and not value.startswith("/"):  # a path is no secret
            yield value
        yield from in_url(value)


def in_auth_file(text: str) -> Iterator[str]:
    """The logins of containers-auth.json(5)."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [one for one in value.values() if isinstance(one, dict)]
            secrets = ("auth", "password", "identitytoken", "registrytoken")
            for secret in (value[key] for key in secrets if isinstance(value.get(key), str)):
                yield secret
                yield from _in_auth(secret)


def _in_auth(secret: str) -> Iterator[str]:
    try:
        login = base64.b64decode(secret, validate=True).decode()
    except ValueError:
        return
    if ":" in login:
        yield from (login, login.partition(":")[2])


def without_values(document: object) -> object:
    """LXD's configuration without the values of keys that may hold a secret."""
    if isinstance(document, dict):
        return {
            key: HIDDEN if value and isinstance(value, str) and _KEYS.search(str(key)) else without_values(value)
            for key, value in document.items()
        }
    if isinstance(document, list):
        return [without_values(one) for one in document]
    return document
