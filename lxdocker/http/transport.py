"""How requests leave this host: directly or through a proxy, and for no longer than they may take.

A timeout of a socket bounds each piece that comes, not how many come. http.client reads on within one call for as
long as a server sends "100 Continue", a byte of a header now and then, or one trailer line after the other. So each
wait has a deadline too; a watchdog shuts the connection down when it has passed, which ends the read.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import unquote_to_bytes

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


class DeadlineError(TimeoutError):
    """Something took too long, however steadily it went on. The text says what, and how long it had."""


class UnusableProxyError(Exception):
    """The environment names a proxy that can't be used. The text says why, without its address and login."""


def is_loopback(host: str) -> bool:
    """Whether ``host``, as a URL has it, is this host itself."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def basic(login: str) -> str:
    """What an Authorization header says for the ``NAME:PASSWORD`` of an address, where % escapes (RFC 7617)."""
    return "Basic " + b64encode(unquote_to_bytes(login)).decode()


# Deadlines.


class Deadline:
    """What one request is given time for, one wait after the other. For the thread that makes the request."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self.at = 0.0  # time.monotonic()
        self.passed = False
        self.connection: socket.socket | None = None  # the one the request went out on last

    @contextmanager
    def within(self, seconds: float, what: str) -> Iterator[None]:
        """Gives the block ``seconds`` for waiting for ``what``: then the request's connection is shut down, and with
        it ends a read. Connecting is left to its own timeout, but has been in vain then.

        Raises DeadlineError if the time was not enough, whatever came of the block: a connection's end can look like
        the end of headers or of a body.
        """
        self.at = time.monotonic() + seconds
        self._watchdog.add(self)
        try:
            _current.deadline = self
            yield
        except Exception:
            if not self.passed:
                raise
        finally:
            _current.deadline = None
            self._watchdog.remove(self)
        if self.passed:
            raise DeadlineError(f"{what} did not end within {seconds:g} s")

    def sent_on(self, connection: socket.socket) -> None:
        """From now on the request waits for what comes on ``connection``."""
        self._watchdog.attach(self, connection)

    def let_go(self) -> None:
        """What comes next is bounded otherwise. Raises TimeoutError if the deadline has passed."""
        self._watchdog.attach(self, None)
        if self.passed:
            raise TimeoutError


class _Current(threading.local):
    deadline: Deadline | None = None  # of what this thread waits for


_current = _Current()


class Watchdog:
    """Shuts down the connections of those whose deadline has passed. Thread-safe.

    One thread does it for all. It starts with the first and sleeps until the earliest deadline there was, so that
    most requests come and go without waking it. When it then has none left, it ends.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: set[Deadline] = set()
        self._running = False
        self._wakes = 0.0  # time.monotonic()

    def add(self, deadline: Deadline) -> None:
        with self._changed:
            if not self._running:
                threading.Thread(target=self._run, name="deadlines", daemon=True).start()
                self._running = True
            elif deadline.at < self._wakes:
                self._changed.notify()
            self._watched.add(deadline)

    def remove(self, deadline: Deadline) -> None:
        with self._changed:
            self._watched.discard(deadline)

    def attach(self, deadline: Deadline, connection: socket.socket | None) -> None:
        with self._changed:
            deadline.connection = connection
            if connection and deadline.passed:  # while there was no connection yet
                _shut_down(connection)

    def close(self) -> None:
        """Ends the thread now, unless there still is something to watch."""
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._watched:
                now = time.monotonic()
                late = {deadline for deadline in self._watched if deadline.at <= now}
                for deadline in late:
                    deadline.passed = True
                    if deadline.connection:
                        _shut_down(deadline.connection)
                self._watched -= late
                if self._watched:
                    self._wakes = min(deadline.at for deadline in self._watched)
                    self._changed.wait(self._wakes - now)
            self._running = False


def _shut_down(connection: socket.socket) -> None:
    while not isinstance(connection, socket.socket):
        connection = connection.socket  # urllib3's TLS within a proxy's TLS is no socket itself
    # Not the SSLSocket's own: that takes the TLS away from under the thread that reads.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


# urllib3's connections, which tell what they wait on. All they send goes through send(), also to a proxy for a
# tunnel; what is not seen, the handshakes of TLS, Python itself bounds as a whole.


class _Connection(HTTPConnection):
    def send(self, data: Any) -> None:
        super().send(data)
        _sent_on(self)


class _TLSConnection(HTTPSConnection):
    def send(self, data: Any) -> None:
        super().send(data)
        _sent_on(self)

    def _tunnel(self) -> None:
        super()._tunnel()
        # TLS begins, and Python would leave a socket open that is shut down just then. Within a proxy's TLS, urllib3
        # does it, whose reads nothing else bounds.
        if _current.deadline and not isinstance(self.sock, ssl.SSLSocket):
            _current.deadline.let_go()


def _sent_on(connection: HTTPConnection) -> None:
    if _current.deadline:
        _current.deadline.sent_on(connection.sock)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


# Requests.


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of which the headers are there. A context manager: its connection is kept if all went well."""

    raw: urllib3.BaseHTTPResponse
    deadline: Deadline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self.raw.close()
        else:
            self.raw.release_conn()


class Transport:
    """Sends requests, over connections that are kept. Thread-safe."""

    def __init__(self, **options: Any) -> None:
        """``options``: urllib3.PoolManager's, also for what goes through proxies."""
        self._options = options
        self._direct = _watched(urllib3.PoolManager(**options))
        self._proxied: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._watchdog = Watchdog()

    def close(self) -> None:
        """Ends all connections that nobody uses."""
        self._direct.clear()
        with self._lock:
            for manager in self._proxied.values():
                manager.clear()
        self._watchdog.close()

    def open(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        seconds: float,
        *,
        body: bytes | None = None,
        tls: dict[str, Any] | None = None,
    ) -> Response:
        """Sends one request; redirects are the caller's.

        ``url`` has a scheme, http or https, and a host. ``seconds`` are for all until the headers of the answer are
        there. ``tls``: options for this server's pool only.

        Raises UnusableProxyError, DeadlineError, and what urllib3 and http.client raise: HTTPError, HTTPException,
        OSError or ValueError.
        """
        pool, target = self._pool(url, tls)
        deadline = Deadline(self._watchdog)
        raw: urllib3.BaseHTTPResponse | None = None
        try:
            with deadline.within(seconds, "the headers of its answer"):
                raw = pool.urlopen(
                    method,
                    target,
                    body=body,
                    headers=dict(headers),
                    retries=False,
                    redirect=False,
                    assert_same_host=False,  # a proxy is asked for addresses of other hosts
                    preload_content=False,
                    decode_content=False,
                )
            return Response(raw, deadline)
        except DeadlineError:
            if raw:  # headers that were cut off
                raw.close()
            raise

    def _pool(self, url: Url, tls: dict[str, Any] | None) -> tuple[urllib3.HTTPConnectionPool, str]:
        """Where to send a request for ``url``, and what to ask for there."""
        manager, target = self._direct, url.request_uri
        if proxy := proxy_for(url):
            with self._lock:
                if proxy not in self._proxied:
                    self._proxied[proxy] = _watched(_proxy_manager(proxy, self._options))
                manager = self._proxied[proxy]
            if url.scheme == "http":  # https goes through a tunnel
                target = url.url
        return manager.connection_from_host(url.host, url.port, url.scheme, tls), target


def _watched(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager


# Proxies, as curl, Go and requests understand the variables.


def proxy_for(url: Url) -> str | None:
    """The proxy that the environment names for ``url``, as it is written there; None for none, and for loopback."""
    if not any(name in os.environ or name.upper() in os.environ for name in _PROXY_VARIABLES):
        return None
    host = url.host or ""
    if is_loopback(host):
        return None
    from urllib import request  # rarely needed, and not free

    proxies = request.getproxies_environment()
    bypass = request.proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed
    if bypass(f"{host}:{url.port}" if url.port else host, proxies):
        return None
    return proxies.get(url.scheme or "") or proxies.get("all")


def _proxy_manager(proxy: str, options: Mapping[str, Any]) -> urllib3.PoolManager:
    """Raises UnusableProxyError."""
    try:
        parsed = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except HTTPError:
        parsed = Url()
    if not parsed.host:
        raise UnusableProxyError("the proxy can't be used: its address is none")
    if parsed.scheme not in ("http", "https"):
        raise UnusableProxyError(f"the proxy can't be used: {parsed.scheme} is not supported, only http and https")
    headers = {"proxy-authorization": basic(parsed.auth)} if parsed.auth else None
    return urllib3.ProxyManager(parsed._replace(auth=None).url, proxy_headers=headers, **options)
