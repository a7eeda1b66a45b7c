"""One HTTP client for registries, mirrors and remotes.

It follows redirects, tries again, bounds each answer in size and time, and says why there is none. Which servers may be
asked, and how each proves its identity, differs from caller to caller: that is their ``Guide``'s to decide.
"""

from __future__ import annotations

import http.client
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, Self, TypeVar
from urllib.parse import urljoin

from urllib3.exceptions import HTTPError
from urllib3.util import Timeout, Url

from lxdocker import __version__
from lxdocker.http import proxies
from lxdocker.http import url as urls
from lxdocker.http.failure import RequestError, explain
from lxdocker.http.route import Place
from lxdocker.http.transport import Response, Transport, UnusableProxyError
from lxdocker.http.trust import Tls, UnusableCertificatesError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE = 1 << 16
_MAX_ERROR_BODY = 64 * 1024  # read only so that the connection can be used again
_MAX_RETRY_AFTER = 30.0  # seconds
_LOG = logging.getLogger("lxdocker.http")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds for each part of an answer, and how far it may lead."""

    connect: float = 15.0
    piece: float = 15.0  # of silence
    head: float = 60.0  # until the headers are there, however steadily they drip
    body: float = 60.0  # for all of a body that is read at once
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class Request:
    """One request; ``limit``: bytes of the answer that are read at most."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    limit: int = 0
    body: bytes | None = field(default=None, repr=False)
    previous: Url | None = None  # the URL that redirected here
    is_private: bool = False  # the path is as secret as a login, and not logged


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    challenges: tuple[str, ...] = ()  # the WWW-Authenticate headers
    body: bytes = b""

    @property
    def may_pass(self) -> bool:
        """Whether the same request may get another answer in a moment."""
        return self.status in (408, 429) or (self.status >= 500 and self.status not in (501, 505))

    @property
    def retry_after(self) -> float:
        """The pause, in seconds, that the server asks for."""
        return parse_retry_after(self.headers.get("retry-after", ""))

    def discard(self) -> None:
        """There is nothing left to read."""


class Guide(Protocol):
    """What the caller decides about the servers a request leads to."""

    def admit(self, url: Url, previous: Url | None) -> Tls | None:
        """How a server proves its identity; None for plain HTTP. ``previous``: the URL that redirected to it.

        Raises RequestError, or an error of the caller's own, for a server that must not be asked, and
        UnusableCertificatesError.
        """

    def reached(self, url: Url, place: Place) -> None:
        """Notes where a request for ``url`` went. Raises RequestError for an answer that must not be read."""


class Patience:
    """How often one question is asked, and after which pauses, however many requests it takes."""

    def __init__(self, stopped: threading.Event, pauses: Sequence[float]) -> None:
        """``stopped`` ends the waiting. ``pauses``: seconds before the second try, the third and so on."""
        self._stopped = stopped
        self._pauses = pauses
        self._tries = 0

    def again(self, asked: float = 0.0) -> bool:
        """Waits, at least for as many seconds as were asked for. False if there is no further try."""
        if self._tries >= len(self._pauses) or asked > _MAX_RETRY_AFTER:
            return False
        pause = self._pauses[self._tries]
        self._tries += 1
        return not self._stopped.wait(max(pause, asked))

    def renew(self) -> None:
        """Allows all tries again: there was some progress."""
        self._tries = 0


Explain = Callable[[Exception], RequestError]
# What urllib3 and http.client raise, and Transport.
_FAILURES = (UnusableProxyError, HTTPError, http.client.HTTPException, OSError, ValueError)


class Stream:
    """An answer whose body is still to be read. A context manager: its connection is kept if all went well."""

    def __init__(self, response: Response, limits: Limits, explain: Explain) -> None:
        self._response = response
        self._limits = limits
        self._explain = explain
        self.status = response.raw.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.raw.headers.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._response.__exit__(kind)

    @property
    def challenges(self) -> tuple[str, ...]:
        return tuple(self._response.raw.headers.getlist("www-authenticate"))

    def pieces(self, size: int) -> Iterator[bytes]:
        """The body as it arrives, up to ``size`` bytes at a time. Raises RequestError."""
        while piece := self._read(size, self._limits.piece, "a piece of its answer"):
            yield piece

    def body(self, limit: int) -> bytes:
        """All of it, at most ``limit`` bytes; of an error's body that is too long to matter, nothing.

        Raises RequestError.
        """
        failed = self.status >= 300
        limit = _MAX_ERROR_BODY if failed else limit
        content = bytearray()
        with self._reading(self._limits.body, "its answer"):
            while piece := self._response.raw.read1(_PIECE):
                content += piece
                if len(content) > limit:
                    self.discard()
                    if failed:
                        return b""
                    raise RequestError("endless", f"its answer is longer than {limit // 1024} KiB")
        return bytes(content)

    def discard(self) -> None:
        """Ends it, read or not."""
        self._response.raw.close()

    def _read(self, size: int, seconds: float, what: str) -> bytes:
        with self._reading(seconds, what):
            # read1: what is there already, so that slowness shows.
            return self._response.raw.read1(size)

    @contextmanager
    def _reading(self, seconds: float, what: str) -> Iterator[None]:
        try:
            with self._response.deadline.within(seconds, what):
                yield
        except _FAILURES as error:
            raise self._explain(error) from None


_Headed = TypeVar("_Headed", Answer, Stream)


class Wire:
    """Sends requests. Thread-safe: threads share connections."""

    def __init__(self, limits: Limits, *, servers: int = 10, connections: int = 1, proxied: bool = True) -> None:
        """``connections``: kept to each of up to ``servers`` at a time. ``proxied``: whether the proxies that the
        environment names are used.
        """
        self._limits = limits
        timeout = Timeout(connect=limits.connect, read=limits.piece)
        self._transport = Transport(proxied=proxied, num_pools=servers, maxsize=connections, timeout=timeout)

    def close(self) -> None:
        """Ends all connections that are not in use."""
        self._transport.close()

    def ask(self, request: Request, guide: Guide, patience: Patience | None = None) -> Answer:
        """The whole answer, with redirects followed, and asked for again where that may help. Raises RequestError."""
        return self._follow(request, lambda hop: self._repeat(hop, guide, patience))

    def open(self, request: Request, guide: Guide) -> Stream:
        """The answer, its body yet to be read, with redirects followed. Raises RequestError."""
        return self._follow(request, lambda hop: self._send(hop, guide))

    def _follow(self, request: Request, send: Callable[[Request], _Headed]) -> _Headed:
        for _ in range(self._limits.redirects + 1):
            answer = send(request)
            location = answer.headers.get("location", "")
            if answer.status not in _REDIRECTS or not location:
                return answer
            answer.discard()
            request = _redirected(request, location)
        raise RequestError("redirect", f"it redirects more than {self._limits.redirects} times")

    def _repeat(self, request: Request, guide: Guide, patience: Patience | None) -> Answer:
        while True:
            try:
                answer = self._whole(request, guide)
            except RequestError as failure:
                if failure.is_final or not patience or not patience.again():
                    raise
            else:
                if not answer.may_pass or not patience or not patience.again(answer.retry_after):
                    return answer

    def _whole(self, request: Request, guide: Guide) -> Answer:
        with self._send(request, guide) as stream:
            body = b"" if request.method == "HEAD" else stream.body(request.limit)
            return Answer(stream.status, stream.headers, stream.challenges, body)

    def _send(self, request: Request, guide: Guide) -> Stream:
        """One request on the wire."""
        url = urls.parse(request.url)
        if not url:
            raise RequestError("redirect" if request.previous else "broken", "it names an invalid URL")
        try:
            tls = guide.admit(url, request.previous)
        except UnusableCertificatesError as error:
            raise RequestError("certificate", str(error)) from None
        headers = {"User-Agent": f"lxdocker/{__version__}", "Accept-Encoding": "identity", **request.headers}
        options = tls.options if tls else None
        explain = partial(self._explain, url, tls)
        began = time.monotonic()
        try:
            response = self._transport.open(
                request.method, url, headers, self._limits.head, body=request.body, tls=options
            )
        except _FAILURES as error:
            failure = explain(error)
            self._log(request, url, failure.why, began)
            raise failure from None
        self._log(request, url, response.raw.status, began)
        try:
            guide.reached(url, response.place)
        except BaseException:
            response.raw.close()
            raise
        return Stream(response, self._limits, explain)

    def _explain(self, url: Url, tls: Tls | None, error: Exception) -> RequestError:
        failure = explain(error, url, self._limits.connect, self._limits.piece)
        if failure.kind == "certificate" and tls and tls.closed:
            return RequestError(failure.kind, f"{failure.why}; no permission to read {', '.join(map(str, tls.closed))}")
        return failure

    def _log(self, request: Request, url: Url, outcome: int | str, began: float) -> None:
        if _LOG.isEnabledFor(logging.DEBUG):
            milliseconds = (time.monotonic() - began) * 1000
            proxy = self._transport.proxy_for(url)
            through = f" through {proxies.shown(proxy)}" if proxy else ""
            named = urls.shown(url._replace(path="/...") if request.is_private else url)
            _LOG.debug("%s %s: %s in %.0f ms%s", request.method, named, outcome, milliseconds, through)


def _redirected(request: Request, location: str) -> Request:
    """The request that a redirect leads to, without the login where that is another server's."""
    if request.body is not None:
        raise RequestError("redirect", "it redirects a login elsewhere")
    try:
        target = urljoin(request.url, location)
    except ValueError:
        target = ""
    old, new = urls.parse(request.url), urls.parse(target)
    if not old or not new or new.auth:
        raise RequestError("redirect", "it redirects to an invalid URL")
    headers = request.headers
    if urls.origin(old) != urls.origin(new):
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return replace(request, url=target, headers=headers, previous=old)


def parse_retry_after(value: str) -> float:
    """Seconds (RFC 9110, section 10.2.3); 0 for an invalid value."""
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    if not value:
        return 0.0
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
