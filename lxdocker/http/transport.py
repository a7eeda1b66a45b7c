"""Connections, direct or through a proxy, and deadlines for the requests on them.

A socket's timeout bounds each piece that arrives, not their number. Within one call, http.client reads on as long as
a server sends "100 Continue", a byte of a header now and then, or one trailer line after the other. So each wait has a
deadline, too: once it has passed, a watchdog shuts down the connection, which ends the read.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Url

from lxdocker.http import proxies
from lxdocker.http.proxies import Proxies
from lxdocker.http.route import Place
from lxdocker.http.url import PORTS, basic_of


class DeadlineError(TimeoutError):
    """A deadline passed, even though data kept arriving. The text names what was waited for, and its limit."""


class UnusableProxyError(Exception):
    """The environment names an unusable proxy. The text says why, without the proxy's URL and login."""


# Deadlines.


class Deadline:
    """The time limit of one request, for one wait after the other. Used by the thread that makes the request."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self.at = 0.0  # time.monotonic()
        self.passed = False
        self.connection: socket.socket | None = None  # the last one that the request was sent on
        self.address = ""  # the IP address it leads to

    @contextmanager
    def within(self, seconds: float, what: str) -> Iterator[None]:
        """Limits the block's wait for ``what`` to ``seconds``. Then the request's connection is shut down, which ends a
        read. Connecting has a timeout of its own, but a connection that comes too late is of no use.

        Raises DeadlineError if the time was not enough, however the block ended: the end of a connection can look like
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
        """The request now waits for ``connection``."""
        self._watchdog.attach(self, connection)
        with suppress(OSError):
            peer = _plain(connection).getpeername()
            self.address = peer[0] if isinstance(peer, tuple) else ""

    def let_go(self) -> None:
        """The next step has a limit of its own. Raises TimeoutError if the deadline has passed."""
        self._watchdog.attach(self, None)
        if self.passed:
            raise TimeoutError


class _Current(threading.local):
    deadline: Deadline | None = None  # of this thread's wait


_current = _Current()


class Watchdog:
    """Shuts down connections whose deadline has passed. Thread-safe.

    One thread serves all. It starts with the first deadline and sleeps until the earliest one, so that most requests
    come and go without waking it. It ends when it wakes and no deadline is left.
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
            if connection and deadline.passed:  # before there was a connection
                _shut_down(connection)

    def close(self) -> None:
        """Ends the thread now, unless a deadline is left."""
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


def _plain(connection: socket.socket) -> socket.socket:
    while not isinstance(connection, socket.socket):
        connection = connection.socket  # urllib3's TLS within a proxy's TLS is not itself a socket
    return connection


def _shut_down(connection: socket.socket) -> None:
    # Not SSLSocket.shutdown(), which would take the TLS object away from the reading thread.
    with suppress(OSError):
        socket.socket.shutdown(_plain(connection), socket.SHUT_RDWR)


# urllib3's connections, which report the socket that they wait for. All they send goes through send(), including the
# request to a proxy for a tunnel. TLS handshakes do not, but Python limits each of these as a whole.


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
        # itself does the handshake, and nothing else limits its reads.
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
    """An answer whose headers have arrived. A context manager: its connection is kept if all went well."""

    raw: urllib3.BaseHTTPResponse
    deadline: Deadline
    place: Place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self.raw.close()
        else:
            self.raw.release_conn()


class Transport:
    """Sends requests over connections that it keeps. Thread-safe."""

    def __init__(self, *, proxied: bool = True, **options: Any) -> None:
        """``proxied``: whether the environment's proxies are used. ``options``: urllib3.PoolManager's."""
        self._options = options
        self._uses_proxies = proxied
        self._direct = _watched(urllib3.PoolManager(**options))
        self._proxied: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._watchdog = Watchdog()

    def close(self) -> None:
        """Ends all connections that are not in use."""
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
        """Sends one request. Does not follow redirects.

        ``url`` has a scheme, http or https, and a host. ``seconds``: until the headers of the answer have arrived.
        ``tls``: options for this server's pool only.

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
                    assert_same_host=False,  # a proxy is asked for URLs of other hosts
                    preload_content=False,
                    decode_content=False,
                )
            return Response(raw, deadline, _place(pool, deadline.address))
        except DeadlineError:
            if raw:  # headers that were cut off
                raw.close()
            raise

    def proxy_for(self, url: Url) -> str | None:
        """The proxy that a request for ``url`` takes, as the environment names it; None for none."""
        return proxy_for(url) if self._uses_proxies else None

    def _pool(self, url: Url, tls: dict[str, Any] | None) -> tuple[urllib3.HTTPConnectionPool, str]:
        """Where to send a request for ``url``, and what to ask for there."""
        manager, target = self._direct, url.request_uri
        if proxy := self.proxy_for(url):
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


def _place(pool: urllib3.HTTPConnectionPool, address: str) -> Place:
    scheme, host, port = pool.scheme, pool.host, pool.port
    if pool.proxy:
        scheme, host, port = pool.proxy.scheme or "", pool.proxy.host or "", pool.proxy.port
    return Place(host.strip("[]"), port or PORTS[scheme], address)


def proxy_for(url: Url) -> str | None:
    """The proxy for ``url``, as the environment names it; None for none, and for the loopback."""
    return Proxies.of(os.environ).choose(url.scheme or "", url.host or "", url.port)


def _proxy_manager(proxy: str, options: Mapping[str, Any]) -> urllib3.PoolManager:
    """Raises UnusableProxyError."""
    parsed = proxies.parse(proxy)
    if not parsed:
        raise UnusableProxyError("the proxy cannot be used: invalid URL")
    if parsed.scheme not in ("http", "https"):
        raise UnusableProxyError(f"the proxy cannot be used: {parsed.scheme} is not supported, only http and https")
    headers = {"proxy-authorization": login} if (login := basic_of(parsed)) else None
    return urllib3.ProxyManager(parsed._replace(auth=None).url, proxy_headers=headers, **options)
