"""Clients that mean harm, or know no better: none of them brings the server down, fills it up or gets anything."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.rig import METADATA, ROOTFS, Served, make_tree, read_all, serve
from tests.waiting import wait_until

REQUEST = f"GET {METADATA} HTTP/1.1\r\nHost: x\r\n".encode()
# What is allowed to stay after thousands of bad requests: allocators keep some.
GROWTH = 12 << 20


def is_well(served: Served) -> None:
    """It answers, and nothing is left of those who are gone."""
    assert served.get(METADATA).status == 200
    wait_until("the connections to end", lambda: served.metric("lxdocker_connections") == 1, 90)
    assert served.metric("lxdocker_downloads") == 0
    assert served.process.poll() is None
    assert "Traceback" not in served.log


@contextlib.contextmanager
def unharmed(served: Served) -> Iterator[None]:
    """Neither memory nor descriptors grow in the block."""
    served.get(ROOTFS)
    descriptors, memory = served.descriptors, served.memory
    yield
    is_well(served)
    # One more for the thread pool's first use and the like.
    assert served.descriptors <= descriptors + 2
    assert served.memory < memory + GROWTH


# ---- not TLS


@pytest.mark.parametrize(
    "sent",
    [b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"\0" * 100, b"SSH-2.0-x\r\n", os.urandom(5000)],
)
def test_what_is_not_tls_is_refused_at_once(served: Served, sent: bytes) -> None:
    """LXD asks for each file by plain http first, on the same port, and waits for the answer."""
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        assert b"HTTP" not in read_all(connection)
        assert time.monotonic() - began < 1


def test_tls_garbage(tmp_path: Path) -> None:
    randomness = random.Random(1)
    hello = client_hello()
    with serve(tmp_path, make_tree(tmp_path)) as served, unharmed(served):
        for number in range(400):
            if number % 2:
                sent = bytearray(hello)
                for _ in range(randomness.randint(1, 20)):
                    sent[randomness.randrange(len(sent))] = randomness.randrange(256)
            else:
                sent = bytearray(b"\x16\x03\x01" + randomness.randbytes(randomness.randrange(600)))
            with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
                connection.sendall(sent)
                if number % 3 == 0:
                    connection.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(OSError):
                        connection.recv(100)


def test_garbage_inside_tls(tmp_path: Path) -> None:
    """Records that are broken after the handshake, and connections that break off anywhere."""
    with serve(tmp_path, make_tree(tmp_path)) as served, unharmed(served):
        for number in range(100):
            with served.tls() as connection:
                connection.sendall(REQUEST[: number % len(REQUEST)])
                raw = socket.socket(fileno=connection.detach())
                with raw, contextlib.suppress(OSError):
                    raw.sendall(b"\x17\x03\x03\x00\x20" + os.urandom(32))
                    if number % 2:
                        raw.recv(10)


# ---- too slow, too long, too many


def test_half_open_connections_are_ended(tmp_path: Path) -> None:
    limits = {"worker.HANDSHAKE_SECONDS": 1, "worker.REQUEST_SECONDS": 1}
    with serve(tmp_path, make_tree(tmp_path), limits=limits) as served, unharmed(served):
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            plain = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 20)) for _ in range(50)]
            for connection in plain[25:]:
                connection.sendall(client_hello()[:50])
            protected = [stack.enter_context(served.tls()) for _ in range(25)]
            assert served.get(METADATA).status == 200
            for connection in [*plain, *protected]:
                # What came of it and was not read yet makes the end a reset.
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
        assert time.monotonic() - began < 15


def test_a_request_that_comes_drop_by_drop_is_not_waited_for(tmp_path: Path) -> None:
    limits = {"worker.REQUEST_SECONDS": 1}
    with serve(tmp_path, make_tree(tmp_path), limits=limits) as served, unharmed(served):
        for before in (b"", REQUEST + b"\r\n"):  # also for the second request of a connection
            with served.tls() as connection:
                if before:
                    connection.sendall(before)
                    connection.recv(65536)
                began = time.monotonic()
                with contextlib.suppress(OSError):
                    connection.sendall(REQUEST)
                    for number in range(50):
                        connection.sendall(f"X-{number}: a\r\n".encode())
                        time.sleep(0.1)
                assert 0.5 < time.monotonic() - began < 4


def test_a_client_that_stops_reading_is_given_up(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, rootfs=30_000_000)
    limits = {"site.STALL_SECONDS": 1, "worker.GOODBYE_SECONDS": 1}
    with serve(tmp_path, tree, limits=limits) as served, unharmed(served), served.tls() as stuck:
        stuck.sendall(f"GET {ROOTFS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        stuck.recv(1000)
        wait_until("the end of it", lambda: "(stalled)" in served.log)
        wait_until("its connection to be gone", lambda: served.metric("lxdocker_connections") == 1)
        # And what the kernels still have for it is not the whole file.
        assert len(read_all(stuck)) < 30_000_000


def test_a_slow_client_is_not_taken_for_one_that_stopped(tmp_path: Path) -> None:
    """It reads less in the time limit than kernels usually buffer."""
    tree = make_tree(tmp_path, rootfs=20_000_000)
    with serve(tmp_path, tree, limits={"site.STALL_SECONDS": 2}) as served, served.tls() as slow:
        slow.sendall(f"GET {ROOTFS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = 0
        end = time.monotonic() + 6
        while time.monotonic() < end:
            received += len(slow.recv(65536))
            time.sleep(0.05)
        while part := slow.recv(65536):
            received += len(part)
        assert received > 20_000_000
        assert "stalled" not in served.log


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        REQUEST + b"X: " + b"a" * 9000 + b"\r\n\r\n",
        REQUEST + b"X" * 9000 + b": a\r\n\r\n",
        REQUEST + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n y: z\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\r\nGET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        REQUEST + b"Content-Length: 10\r\n\r\n0123456789",
        REQUEST + b"Content-Length: 1000000000000\r\n\r\n" + b"a" * 100_000,
        REQUEST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_requests_that_are_refused(served: Served, sent: bytes) -> None:
    began = time.monotonic()
    with served.tls() as connection:
        with contextlib.suppress(OSError):  # it may hang up in the middle
            connection.sendall(sent)
        answer = read_all(connection)
    assert answer == b"" or answer.split(b" ", 2)[1] in {b"400", b"405"}, answer
    assert b"<" not in answer
    assert time.monotonic() - began < 5


def test_endless_headers(served: Served) -> None:
    with served.tls() as connection, contextlib.suppress(OSError):
        connection.sendall(REQUEST)
        for _ in range(50_000):  # far more than the sockets buffer
            connection.sendall(b"X: " + b"a" * 1000 + b"\r\n")
        pytest.fail("fifty megabytes of headers were taken")


def test_pipelined_requests_are_answered_in_turn_and_do_not_pile_up(tmp_path: Path) -> None:
    with serve(tmp_path, make_tree(tmp_path)) as served:
        with unharmed(served), served.tls() as connection:
            connection.sendall((REQUEST + b"\r\n") * 49 + REQUEST + b"Connection: close\r\n\r\n")
            assert read_all(connection).count(b"HTTP/1.1 200 OK") == 50
        with unharmed(served), served.tls(2) as connection:  # who sends, but never reads
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 50_000_000:
                    sent += connection.send((f"GET {ROOTFS} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) * 100)
            assert sent < 50_000_000


def test_upgrades_are_declined(served: Served) -> None:
    for protocol in ("h2c", "websocket"):
        answer = served.raw(REQUEST + f"Connection: close, Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 OK")


def test_more_connections_than_there_may_be(tmp_path: Path) -> None:
    """The rest wait, and get their turn when others end."""
    limits = {"server.MAX_CONNECTIONS": 20, "worker.REQUEST_SECONDS": 2}
    with serve(tmp_path, make_tree(tmp_path), limits=limits) as served:
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 20))
            time.sleep(0.5)
            assert served.descriptors < 60
        assert served.get(METADATA).status == 200
        is_well(served)


@pytest.mark.parametrize("kind", ["half open", "idle", "slow"])
def test_nobody_waits_behind_those_who_do_nothing(tmp_path: Path, kind: str) -> None:
    """There are more of them than there may be connections, and their own time limits are too long to help."""
    tree = make_tree(tmp_path, rootfs=5_000_000)
    limits = {"server.MAX_CONNECTIONS": 40, "worker.HANDSHAKE_SECONDS": 600, "worker.REQUEST_SECONDS": 600}
    limits["site.STALL_SECONDS"] = 600
    with serve(tmp_path, tree, limits=limits) as served, contextlib.ExitStack() as stack:
        for _ in range(60):
            if kind == "half open":
                stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 20))
                continue
            one = stack.enter_context(served.tls())
            if kind == "slow":
                one.sendall(f"GET {ROOTFS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for _ in range(5):
            assert served.get(METADATA).status == 200
        assert len(served.get(ROOTFS).body) == 5_000_000
        assert served.descriptors < 150


def test_many_slow_clients_at_once(tmp_path: Path) -> None:
    """What they make the server keep in memory is bounded, and it still serves others."""
    clients = 200
    tree = make_tree(tmp_path, rootfs=50_000_000)
    with serve(tmp_path, tree) as served:
        served.get(METADATA)
        memory = served.memory
        with contextlib.ExitStack() as stack:
            for _ in range(clients):
                one = stack.enter_context(served.tls())
                one.sendall(f"GET {ROOTFS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until("all of them", lambda: served.metric("lxdocker_downloads") == clients)
            time.sleep(3)
            assert served.memory - memory < clients * 300_000
            assert served.get(METADATA).status == 200
            assert served.threads < 60


# ---- everything at once


def test_fuzz(tmp_path: Path) -> None:
    """Requests put together at random from parts that have broken servers before, from four sides."""
    parts = [
        *(
            b"GET",
            b"HEAD",
            b"POST",
            b"get",
            b"\x00",
            b" ",
            b"  ",
            b"\t",
            b"\r\n",
            b"\n",
            b"\r",
            b":",
            b"%",
            b"/",
            b"//",
        ),
        *(b"..", b"%2e%2e", b"%2f", b"%00", b"\\", b"?", b"#", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"Host: x\r\n"),
        *(METADATA.encode(), b"/streams/v1/index.json", b"/.staging/secret", b"/.lock", b"/metrics", b"/healthz"),
        *(b"Range: bytes=", b"Range: bytes=0-0,", b"-", b"0", b"99999999999999999999", b"If-None-Match: ", b'"', b"W/"),
        *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: keep-alive\r\n", b"0\r\n\r\n"),
        *(b"Authorization: Basic ", b"Authorization: ", b"AAAA====", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n"),
        *(b"\r\n\r\n", b"\xff\xfe", b"\xc0\xae", "\u202e".encode(), b"a" * 300, b"If-Modified-Since: 0\r\n"),
    ]
    whole = [b"GET ", METADATA.encode(), b" HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n"]
    failures: list[str] = []

    def attack(served: Served, seed: int) -> None:
        randomness = random.Random(seed)
        for _ in range(250):
            pieces = list(whole)
            for _ in range(randomness.randint(1, 12)):
                pieces.insert(randomness.randrange(len(pieces) + 1), randomness.choice(parts))
            sent = b"".join(pieces) + b"\r\n\r\n"
            try:
                with served.tls(10) as connection:
                    connection.sendall(sent)
                    connection.settimeout(0.05)
                    answer = b""
                    with contextlib.suppress(TimeoutError):
                        while part := connection.recv(65536):
                            answer += part
            except OSError:
                continue
            if b"unpublished" in answer or b" 500 " in answer[:20]:
                failures.append(repr(sent))

    with serve(tmp_path, make_tree(tmp_path)) as served, unharmed(served):
        sides = [threading.Thread(target=attack, args=(served, seed)) for seed in range(4)]
        for side in sides:
            side.start()
        for side in sides:
            side.join()
        assert failures == []


def client_hello() -> bytes:
    """The first flight of a TLS handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
