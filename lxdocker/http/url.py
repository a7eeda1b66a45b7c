"""URLs of servers: parsed once, and shown without what may be secret in them."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import unquote_to_bytes

from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from lxdocker.text import one_line

PORTS = {"http": 80, "https": 443}


def parse(text: str) -> Url | None:
    """An http or https URL with a host; None for anything else."""
    try:
        url = parse_url(text)
    except HTTPError:
        return None
    return url if url.scheme in PORTS and url.host else None


def shown(url: Url) -> str:
    """``url`` without login, query and fragment; for people."""
    return one_line(f"{url.scheme}://{url.netloc}{url.path or ''}", 200)


def origin(url: Url) -> tuple[str | None, str | None, int | None]:
    """What must be the same for a login to be sent along."""
    return url.scheme, url.host, url.port or PORTS.get(url.scheme or "")


def basic(login: str | bytes) -> str:
    """The Authorization header for ``NAME:PASSWORD`` (RFC 7617, UTF-8). A secret."""
    return "Basic " + b64encode(login.encode() if isinstance(login, str) else login).decode()


def basic_of(url: Url) -> str:
    """The Authorization header for the login in ``url``, where % escapes; "" for none. A secret."""
    return basic(unquote_to_bytes(url.auth)) if url.auth else ""
