"""Why a request got no usable answer, in words for people. What libraries say may quote URLs with secrets in them."""

from __future__ import annotations

import re
import ssl
from typing import Literal

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.util import Url

from lxdocker import reasons
from lxdocker.http.transport import DeadlineError, UnusableProxyError

Kind = Literal[
    "unreachable",
    "proxy",  # the environment names one that cannot be used
    "certificate",
    "plain",  # plain HTTP where TLS was expected
    "tls",
    "broken",
    "endless",  # in size or in time
    "redirect",  # one that must not be followed
    "astray",  # to this host itself, where no registry elsewhere may lead
]
# What another try won't heal.
FINAL: frozenset[Kind] = frozenset({"proxy", "certificate", "plain", "endless", "redirect", "astray"})


class RequestError(Exception):
    """A request without a usable answer. The text is for people and holds no secret."""

    def __init__(self, kind: Kind, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why

    @property
    def is_final(self) -> bool:
        return self.kind in FINAL


def explain(error: Exception, url: Url, connect_seconds: float, read_seconds: float) -> RequestError:
    """What ``error`` of a request for ``url`` means. The order counts: urllib3 derives some of these from others."""
    if isinstance(error, UnusableProxyError):
        return RequestError("proxy", str(error))
    if isinstance(error, DeadlineError):
        return RequestError("endless", str(error))
    if isinstance(error, ProxyError):
        return RequestError("unreachable", f"the proxy cannot be used: {_root_reason(error.original_error)}")
    if isinstance(error, NameResolutionError):
        return RequestError("unreachable", f"cannot resolve {url.host}")
    if isinstance(error, NewConnectionError):
        return RequestError("unreachable", _root_reason(error))
    if isinstance(error, ConnectTimeoutError):
        return RequestError("unreachable", f"no connection within {connect_seconds:g} s")
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return RequestError("broken", f"no answer within {read_seconds:g} s")
    if isinstance(error, SSLError | ssl.SSLError):
        return _tls_failure(error)
    return RequestError("broken", _root_reason(error))


def _tls_failure(error: Exception) -> RequestError:
    if match := re.search(r'Fingerprints did not match.*got "([0-9a-f]+)"', str(error)):
        return RequestError("certificate", f"its certificate has the fingerprint {match[1]}")
    inner: BaseException | None = error
    while inner and not isinstance(inner, ssl.SSLError):
        inner = inner.args[0] if inner.args and isinstance(inner.args[0], BaseException) else inner.__cause__
    words = reasons.tls(inner) if isinstance(inner, ssl.SSLError) else f"TLS failed: {reasons.CLOSED}"
    if isinstance(inner, ssl.SSLCertVerificationError):
        return RequestError("certificate", words)
    return RequestError("plain" if words == reasons.SPEAKS_NO_TLS else "tls", words)


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
