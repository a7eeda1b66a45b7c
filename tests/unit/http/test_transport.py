"""Requests that must end, through proxies and without, on real connections."""

from __future__ import annotations

import base64
import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import urllib3
from urllib3.util import Url, parse_url

from lxdocker.http.transport import (
    Deadline,
    DeadlineError,
    Transport,
    UnusableProxyError,
    Watchdog,
    proxy_for,
)
from lxdocker.values import is_loopback
from tests.registry_server import Certificate, Handler, ScriptedServer
from tests.waiting import wait_until


@pytest.fixture
def transport(certificate: Certificate) -> Iterator[Transport]:
    made = Transport(timeout=5, ca_certs=str(certificate.cert))
    yield made
    made.close()
    wait_until("the watchdog's end", lambda: not watchdogs())


OF_OTHER_TESTS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _only_our_watchdogs() -> None:
    """What another test of this process has left goes on for a while."""
    OF_OTHER_TESTS.clear()
    OF_OTHER_TESTS.update(watchdogs())


def watchdogs() -> list[threading.Thread]:
    running = [thread for thread in threading.enumerate() if thread.name == "deadlines"]
    return [thread for thread in running if thread not in OF_OTHER_TESTS]


def ask(transport: Transport, url: str, head_seconds: float = 10, seconds: float = 10) -> bytes:
    with (
        transport.open("GET", parse_url(url), {}, head_seconds) as response,
        response.deadline.within(seconds, "its answer"),
    ):
        return response.raw.read()


def ok(handler: Handler) -> None:
    handler.reply(200, b"hello")


# Deadlines.


def without_end(beginning: bytes, more: bytes, pause: float = 0.01) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.close_connection = True
        with suppress(OSError):
            handler.wfile.write(beginning)
            while True:
                handler.wfile.write(more)
                time.sleep(pause)

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HEADERS = {
    "100": without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100 in a flood": without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0),
    "headers of 100": without_end(b"HTTP/1.1 100 Continue\r\n", b"x: y\r\n" * 2 + b"\r\nHTTP/1.1 100 C\r\n"),
    "status": without_end(b"HTTP/1.1 200 ", b"O"),
    "header": without_end(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ", b"y"),  # if it is cut, an answer
}
BODIES = {
    "chunk size": without_end(CHUNKED, b"0"),
    "trailer": without_end(CHUNKED + b"1\r\nx\r\n0\r\n", b"x: y\r\n"),  # if it is cut, an answer
    "until the end": without_end(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),  # as well
}


def tunnel(handler: Handler) -> None:
    """A proxy's answer to CONNECT."""
    host, _, port = handler.path.rpartition(":")
    handler.close_connection = True
    with socket.create_connection((host, int(port))) as far:
        handler.send_response(200)
        handler.end_headers()
        back = threading.Thread(target=pump, args=(far, handler.connection), daemon=True)
        back.start()
        pump(handler.connection, far)
        back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("way", ["http", "https", "http proxy", "tunnel", "tunnel from a TLS proxy"])
@pytest.mark.parametrize("answer", [*HEADERS.values(), *BODIES.values()], ids=[*HEADERS, *BODIES])
def test_all_ends(
    transport: Transport,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[Handler], None],
    way: str,
) -> None:
    encrypted = certificate if way == "https" or "tunnel" in way else None
    relay = answer if way == "http proxy" else tunnel
    with (
        ScriptedServer(answer, encrypted) as server,
        ScriptedServer(relay, certificate if "TLS" in way else None) as proxy,
    ):
        if "proxy" in way or "tunnel" in way:
            monkeypatch.setenv("all_proxy", proxy.url)
        url = f"{'https' if encrypted else 'http'}://{server.public_address}/"
        if answer in HEADERS.values():
            with pytest.raises(DeadlineError, match=r"^the headers of its answer did not end within 0\.3 s$"):
                ask(transport, url, 0.3)
        else:
            with pytest.raises(DeadlineError, match=r"^its answer did not end within 0\.2 s$"):
                ask(transport, url, 10, 0.2)
            assert len(proxy.seen) == ("all_proxy" in os.environ)


def test_a_proxys_answer_ends_too(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(without_end(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.address)
        with pytest.raises(DeadlineError, match="the headers of its answer"):
            ask(transport, "https://registry.invalid/", 0.2)


def test_what_comes_in_time_is_left_alone(transport: Transport) -> None:
    """Also its connection, which is kept, and the next request's after the deadline of the one before."""
    ports = []

    def answer(handler: Handler) -> None:
        ports.append(handler.client_address[1])
        ok(handler)

    with ScriptedServer(answer) as server:
        for _ in range(2):
            assert ask(transport, server.url, 0.5, 0.5) == b"hello"
            time.sleep(0.6)
    assert len(set(ports)) == 1


def test_each_piece_has_its_own_time(transport: Transport) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "7")
        handler.end_headers()
        for _ in range(6):
            time.sleep(0.1)
            handler.wfile.write(b"x")
        time.sleep(5)

    with ScriptedServer(answer) as server:
        came = b""
        with transport.open("GET", parse_url(server.url), {}, 5) as response:
            while len(came) < 6:
                with response.deadline.within(0.4, "a piece"):
                    came += response.raw.read1(10)
            time.sleep(0.5)  # between two of them no time passes
            with pytest.raises(DeadlineError, match="a piece"), response.deadline.within(0.2, "a piece"):
                response.raw.read1(10)


def test_one_thread_for_all_and_none_for_ever(transport: Transport) -> None:
    together = threading.Barrier(21)

    def answer(handler: Handler) -> None:
        together.wait(5)
        ok(handler)

    assert watchdogs() == []
    with ScriptedServer(answer) as server:
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(transport, server.url))) for _ in range(20)]
        for thread in threads:
            thread.start()
        wait_until("twenty requests", lambda: len(server.seen) == 20)
        assert len(watchdogs()) == 1
        together.wait(5)
        for thread in threads:
            thread.join()
        assert answers == [b"hello"] * 20
    transport.close()
    wait_until("the watchdog's end", lambda: not watchdogs())


def test_the_thread_ends_by_itself_and_starts_anew(transport: Transport) -> None:
    with ScriptedServer(ok) as server:
        for _ in range(2):
            ask(transport, server.url, 0.5, 0.5)
            assert len(watchdogs()) == 1
            wait_until("the watchdog's end", lambda: not watchdogs())


def used(url: str) -> tuple[list[weakref.ref[object]], bool]:
    """What a request needed, and whether urllib3 itself ended it with an error."""
    transport = Transport(timeout=5)
    pool, _ = transport._pool(parse_url(url), None)
    found: list[weakref.ref[object]] = [weakref.ref(pool)]
    attach = transport._watchdog.attach

    def note(deadline: Deadline, connection: socket.socket | None) -> None:
        found.extend([weakref.ref(deadline), weakref.ref(connection)])
        attach(deadline, connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport._watchdog, "attach", note)
        raised = False
        try:
            ask(transport, url, 1, 1)  # some of the answer has come by then
        except DeadlineError as error:
            raised = isinstance(error.__context__, urllib3.exceptions.HTTPError)
    assert transport._watchdog._watched == set()
    return found, raised


@pytest.mark.parametrize("answer", [ok, HEADERS["100"], HEADERS["header"], BODIES["trailer"]])
def test_nothing_keeps_a_connection(answer: Callable[[Handler], None]) -> None:
    """Not even until the garbage collector comes by."""
    gc.collect()
    gc.disable()
    try:
        with ScriptedServer(answer) as server:
            found, raised = used(server.url)
            left = [one() for one in found]
            # What urllib3 raises itself refers to its own frame, and with it to the pool. It does where there is no
            # answer yet that could be cut, which on a busy host may be another one's, too.
            assert raised or answer is not HEADERS["100"]
            if not raised:
                assert left == [None, None, None]
            assert all(one.fileno() == -1 for one in left if isinstance(one, socket.socket))
    finally:
        gc.enable()


def test_a_connection_whose_deadline_has_passed_is_closed(transport: Transport) -> None:
    """Although headers that were cut off look like an answer."""
    used: list[socket.socket] = []
    attach = transport._watchdog.attach

    def note(deadline: Deadline, connection: socket.socket | None) -> None:
        used.extend([connection] if connection else [])
        attach(deadline, connection)

    answer = without_end(b"HTTP/1.1 200 OK\r\nX: ", b"y")
    with ScriptedServer(answer) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport._watchdog, "attach", note)
        with pytest.raises(DeadlineError) as caught:
            ask(transport, server.url, 0.3)
    assert [connection.fileno() for connection in used] == [-1]
    del caught  # whose traceback has kept from the garbage collector what was not closed


def test_a_connection_that_comes_too_late_is_of_no_use() -> None:
    near, far = socket.socketpair()
    with near, far:
        deadline = Deadline(Watchdog())

        def connect_slowly() -> None:
            with deadline.within(0.05, "it"):
                wait_until("the deadline", lambda: deadline.passed)
                deadline.sent_on(near)
                assert near.recv(1) == b""

        with pytest.raises(DeadlineError):
            connect_slowly()


def test_an_earlier_deadline_does_not_wait_for_a_later_one() -> None:
    near, far = socket.socketpair()
    watchdog = Watchdog()
    with near, far, Deadline(watchdog).within(60, "the other"):
        time.sleep(0.05)  # the thread sleeps for the long one

        def read() -> None:
            deadline = Deadline(watchdog)
            with deadline.within(0.1, "it"):
                deadline.sent_on(near)
                assert near.recv(1) == b""

        with pytest.raises(DeadlineError):
            read()
    watchdog.close()
    wait_until("the watchdog's end", lambda: not watchdogs())


def test_errors_of_its_own_pass() -> None:
    watchdog = Watchdog()
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), Deadline(watchdog).within(60, "it"):
            raise error

    def interrupt_too_late() -> None:
        deadline = Deadline(watchdog)
        with deadline.within(0.05, "it"):
            wait_until("the deadline", lambda: deadline.passed)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt_too_late()
    watchdog.close()


# Proxies.


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("::1", True),
        ("192.0.2.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("[fe80::1]", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        ("http://a.example", {}, None),
        ("http://a.example", {"http_proxy": "p:1", "https_proxy": "q:1"}, "p:1"),
        ("https://a.example", {"http_proxy": "p:1", "https_proxy": "q:1"}, "q:1"),
        ("https://a.example", {"HTTPS_PROXY": "q:1"}, "q:1"),
        ("https://a.example", {"http_proxy": "p:1", "all_proxy": "r:1"}, "r:1"),
        ("https://a.example", {"http_proxy": "p:1"}, None),
        ("http://127.0.0.1:5000", {"all_proxy": "r:1"}, None),
        ("http://[::1]", {"all_proxy": "r:1"}, None),
        ("http://localhost", {"all_proxy": "r:1"}, None),
        ("http://a.example", {"all_proxy": "r:1", "no_proxy": "b.example,.example"}, None),
        ("http://a.example:81", {"all_proxy": "r:1", "no_proxy": "a.example:81"}, None),
        ("http://a.example", {"all_proxy": "r:1", "no_proxy": "a.example:81"}, "r:1"),
        ("http://a.example", {"all_proxy": "r:1", "no_proxy": "*"}, None),
    ],
)
def test_the_proxy_for_an_address(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], proxy: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(parse_url(url)) == proxy


@pytest.mark.parametrize("login", ["ann:pw", "ann:p%40:%2F w", "ann:schlüssel€", "ann"])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_login_at_a_proxy(transport: Transport, monkeypatch: pytest.MonkeyPatch, login: str, scheme: str) -> None:
    with ScriptedServer(ok) as proxy:
        monkeypatch.setenv("http_proxy", f"{scheme}{login}@{proxy.address}")
        assert ask(transport, "http://registry.invalid/a?b") == b"hello"
        (seen,) = proxy.seen
        assert seen.path == "http://registry.invalid/a?b"
        sent = base64.b64decode(seen.headers["Proxy-Authorization"].removeprefix("Basic ")).decode()
        assert sent == login.replace("%40", "@").replace("%2F", "/")


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("socks5://ann:s3cret@127.0.0.1:1", "socks5 is not supported, only http and https"),
        ("http://ann:s3cret@[", "invalid URL"),
        ("http://", "invalid URL"),
    ],
)
def test_a_proxy_that_can_not_be_used(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, proxy: str, why: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UnusableProxyError, match=rf"^the proxy cannot be used: {why}$"):
        transport.open("GET", Url("http", host="registry.invalid"), {}, 1)
