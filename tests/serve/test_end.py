"""How serving ends: running downloads finish, idle connections do not hold it up, and it never takes too long."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from http.client import IncompleteRead
from pathlib import Path

import pytest

from tests.serve.rig import ROOTFS, make_tree, serve
from tests.waiting import wait_until

SIZE = 30_000_000  # more than the kernel buffers on the way


def test_running_downloads_finish(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, rootfs=SIZE)
    with serve(tmp_path, tree) as served:
        with served.connection() as slow, served.connection() as idle, served.tls() as silent:
            idle.request("GET", "/healthz")
            idle.getresponse().read()
            slow.request("GET", ROOTFS)
            answer = slow.getresponse()
            received = answer.read(1000)
            served.process.send_signal(signal.SIGTERM)
            wait_until("the notice", lambda: "for 1 requests" in served.log)
            with pytest.raises(OSError):  # noqa: PT011 - nobody listens any more
                socket.create_connection(("127.0.0.1", served.port), 5).close()
            assert silent.recv(1) == b""
            time.sleep(1)
            assert served.process.poll() is None
            while part := answer.read(1_000_000):
                received += part
                time.sleep(0.02)
            assert received == (tree / ROOTFS[1:]).read_bytes()
        assert served.process.wait(10) == 0
        assert f'"GET {ROOTFS} HTTP/1.1" 200 {SIZE} ' in served.log


def test_a_download_outlives_its_file(tmp_path: Path) -> None:
    """Retention may delete what somebody is in the middle of."""
    tree = make_tree(tmp_path, rootfs=SIZE)
    content = (tree / ROOTFS[1:]).read_bytes()
    with serve(tmp_path, tree) as served, served.connection() as slow:
        slow.request("GET", ROOTFS)
        answer = slow.getresponse()
        received = answer.read(1000)
        shutil.rmtree(tree / "images")
        assert served.get(ROOTFS).status == 404
        while part := answer.read(1_000_000):
            received += part
            time.sleep(0.01)
        assert received == content


def test_a_file_that_is_cut_short_is_not_passed_off_as_whole(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, rootfs=SIZE)
    with serve(tmp_path, tree) as served, served.connection() as slow:
        slow.request("GET", ROOTFS)
        answer = slow.getresponse()
        answer.read(1000)
        os.truncate(tree / ROOTFS[1:], 2_000_000)
        with pytest.raises((IncompleteRead, OSError)):
            answer.read()
        assert "the file has become shorter" in served.log


@pytest.mark.parametrize("closing", [False, True])
def test_a_slow_client_gets_the_last_bytes(tmp_path: Path, closing: bool) -> None:
    """What the server has given away, but the client not got yet, when the answer is complete."""
    tree = make_tree(tmp_path, rootfs=6_000_000)
    with serve(tmp_path, tree) as served, socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        plain.connect(("127.0.0.1", served.port))
        with served.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            header = "Connection: close\r\n" if closing else ""
            connection.sendall(f"GET {ROOTFS} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())
            received = b""
            stopped = False
            while not received.endswith(b"\r\n\r\n"):
                received += connection.recv(1)
            received = b""
            while len(received) < 6_000_000:
                part = connection.recv(16384)
                assert part, len(received)
                received += part
                if len(received) > 5_000_000:
                    if not stopped and not closing:
                        served.process.send_signal(signal.SIGTERM)
                        stopped = True
                    time.sleep(0.05)
            assert received == (tree / ROOTFS[1:]).read_bytes()
        if stopped:  # telling it again would cut its end short
            assert served.process.wait(20) == 0


def test_a_download_that_does_not_finish_is_cut_off(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, rootfs=SIZE)
    with serve(tmp_path, tree, "--stop-timeout", "1") as served, served.connection() as stuck:
        stuck.request("GET", ROOTFS)
        stuck.getresponse().read(1000)
        began = time.monotonic()
        assert served.stop() == 0
        assert 0.9 < time.monotonic() - began < 10
        assert "HTTP/1.1" in served.log.splitlines()[-1]
        assert "(left)" in served.log or "(cut off)" in served.log


def test_told_twice_it_ends_at_once(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, rootfs=SIZE)
    with serve(tmp_path, tree) as served, served.connection() as stuck:
        stuck.request("GET", ROOTFS)
        stuck.getresponse().read(1000)
        served.process.send_signal(signal.SIGTERM)
        wait_until("the notice", lambda: "stopping; waiting" in served.log)
        began = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_to_do_it_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with serve(tmp_path, make_tree(tmp_path)) as served, served.connection() as idle, served.tls():
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        # One that has not even begun to shake hands.
        with socket.create_connection(("127.0.0.1", served.port)):
            began = time.monotonic()
            assert served.stop(number) == 0
            assert time.monotonic() - began < 5
    assert "stopping" not in served.log
