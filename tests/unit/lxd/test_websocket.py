"""A websocket of LXD's, with a peer that speaks as LXD does and then behaves as it likes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from lxdocker.errors import LxdError
from lxdocker.lxd.address import UnixSocket
from lxdocker.lxd.websocket import MOST_IN_A_MESSAGE, Websocket

Answer = Callable[[socket.socket, ServerProtocol], None]
END = (Opcode.TEXT, b"")


@contextmanager
def connected(folder: Path, answer: Answer) -> Iterator[Websocket]:
    """One whose peer has made its handshake and then done what ``answer`` does."""
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        peer = threading.Thread(target=_peer, args=(listening, answer))
        peer.start()
        try:
            with closing(Websocket(UnixSocket(path), "/1.0/operations/x/websocket?secret=s", "doing it")) as stream:
                yield stream
                stream.shut_down()
        finally:
            peer.join()


def _peer(listening: socket.socket, answer: Answer) -> None:
    connection, _ = listening.accept()
    protocol = ServerProtocol(max_size=None)
    with connection:
        while not (events := protocol.events_received()):
            protocol.receive_data(connection.recv(65536))
        assert isinstance(events[0], Request)
        assert events[0].path == "/1.0/operations/x/websocket?secret=s"
        protocol.send_response(protocol.accept(events[0]))
        answer(connection, protocol)


def says(*messages: tuple[Opcode, bytes]) -> Answer:
    """One write with everything, and then it is gone."""

    def answer(connection: socket.socket, protocol: ServerProtocol) -> None:
        written = [*protocol.data_to_send(), *(Frame(opcode, data).serialize(mask=False) for opcode, data in messages)]
        with contextlib.suppress(OSError):  # where it has heard enough
            connection.sendall(b"".join(written))

    return answer


def test_what_was_said_before_hanging_up_counts(tmp_path: Path) -> None:
    """Also where a ping is among it that can't be answered any more: LXD begins each stream with one."""
    with connected(tmp_path, says((Opcode.PING, b"keepalive"), (Opcode.BINARY, b"out"), END)) as stream:
        time.sleep(0.2)  # it has hung up
        assert list(stream.pieces(5)) == [b"out"]


def test_one_that_breaks_off_is_told_from_its_end(tmp_path: Path) -> None:
    with connected(tmp_path, says((Opcode.BINARY, b"a"), (Opcode.BINARY, b"b"))) as stream:
        pieces = stream.pieces(5)
        assert [next(pieces), next(pieces)] == [b"a", b"b"]
        with pytest.raises(LxdError, match="doing it failed") as caught:
            next(pieces)
    assert "LXD broke off" in (caught.value.details or "")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([(Opcode.CLOSE, b"")], id="closed"),
        pytest.param([(Opcode.CONT, b"x")], id="out-of-order"),
        pytest.param([(Opcode.BINARY, bytes(MOST_IN_A_MESSAGE + 1))], id="too-large"),
    ],
)
def test_what_ends_otherwise_is_an_error(tmp_path: Path, said: list[tuple[Opcode, bytes]]) -> None:
    with (
        connected(tmp_path, says(*said)) as stream,
        pytest.raises(LxdError, match="doing it failed"),
    ):
        list(stream.pieces(5))


def test_fragments_are_one_stream(tmp_path: Path) -> None:
    def answer(connection: socket.socket, protocol: ServerProtocol) -> None:
        protocol.send_binary(b"one ", fin=False)
        protocol.send_continuation(b"two ", fin=False)
        protocol.send_continuation(b"three", fin=True)
        protocol.send_text(b"")
        for data in protocol.data_to_send():
            for byte in data:  # and as they may come
                connection.sendall(bytes([byte]))

    with connected(tmp_path, answer) as stream:
        assert b"".join(stream.pieces(5)) == b"one two three"


def test_its_reader_can_look_around_while_nothing_comes(tmp_path: Path) -> None:
    go_on = threading.Event()

    def answer(connection: socket.socket, protocol: ServerProtocol) -> None:
        says()(connection, protocol)
        go_on.wait(10)
        says((Opcode.BINARY, b"late"), END)(connection, protocol)

    with connected(tmp_path, answer) as stream:
        pieces = stream.pieces(0.05)
        assert [next(pieces), next(pieces)] == [b"", b""]
        go_on.set()
        assert b"".join(pieces) == b"late"


def test_pings_are_answered(tmp_path: Path) -> None:
    heard: list[Frame] = []

    def answer(connection: socket.socket, protocol: ServerProtocol) -> None:
        says((Opcode.PING, b"keepalive"))(connection, protocol)
        protocol.receive_data(connection.recv(65536))
        heard.extend(frame for frame in protocol.events_received() if isinstance(frame, Frame))
        says(END)(connection, protocol)

    with connected(tmp_path, answer) as stream:
        assert list(stream.pieces(5)) == []
    assert [(frame.opcode, bytes(frame.data)) for frame in heard] == [(Opcode.PONG, b"keepalive")]


@pytest.mark.parametrize("size", [0, 3_000_000])
def test_what_is_sent_arrives_with_its_end(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256)
    heard: list[Frame] = []

    def answer(connection: socket.socket, protocol: ServerProtocol) -> None:
        says()(connection, protocol)
        while not any(frame.opcode is Opcode.TEXT for frame in heard):
            protocol.receive_data(connection.recv(65536))
            heard.extend(frame for frame in protocol.events_received() if isinstance(frame, Frame))

    with connected(tmp_path, answer) as stream:
        stream.send(content)
    assert b"".join(bytes(frame.data) for frame in heard) == content


def test_who_does_not_listen_to_the_end_is_no_error_of_sending(tmp_path: Path) -> None:
    with connected(tmp_path, says()) as stream:
        stream.send(bytes(5_000_000))


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "sending"])
def test_shutting_it_down_ends_what_another_thread_is_in(tmp_path: Path, reading: bool) -> None:
    done = threading.Event()

    def answer(connection: socket.socket, protocol: ServerProtocol) -> None:
        says()(connection, protocol)
        done.wait(10)

    def use(stream: Websocket) -> None:
        if reading:
            with pytest.raises(LxdError):
                list(stream.pieces(600))
        else:
            stream.send(bytes(5_000_000))  # more than fits between the two
        done.set()

    with connected(tmp_path, answer) as stream:
        user = threading.Thread(target=use, args=(stream,))
        user.start()
        time.sleep(0.2)
        assert not done.is_set()
        stream.shut_down()
        user.join(10)
        assert done.is_set()


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"), (b"no such\r\n\r\n", ""), (b"", "")],
)
def test_one_that_is_refused(tmp_path: Path, said: bytes, why: str) -> None:
    def answer(connection: socket.socket, protocol: ServerProtocol) -> None:
        connection.sendall(said)

    with pytest.raises(LxdError, match="doing it failed") as caught, connected(tmp_path, answer):
        pass
    assert "no answer from LXD" in (caught.value.details or "")
    assert why in (caught.value.details or "")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(LxdError, match="doing it failed"):
        Websocket(UnixSocket(tmp_path / "nosuch"), "/", "doing it")
