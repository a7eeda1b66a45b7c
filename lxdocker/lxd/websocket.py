"""A websocket of LXD's: connected, read and written by whoever calls, without a thread of its own.

RFC 6455, by the protocol of the library websockets without its connections: where LXD says something and hangs up
before its ping is answered, as with a short command on a busy host, those lose what it said.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lxdocker.lxd.address import Address
from lxdocker.lxd.operation import NoAnswerError

if TYPE_CHECKING:
    from websockets.client import ClientProtocol

PROTOCOL = "websockets.client"  # the library, which takes 0.1 s to import: only what uses it does
CONNECT_SECONDS = 10
AT_ONCE = 1 << 17  # bytes; as many as LXD puts into one message
MOST_IN_A_MESSAGE = 1 << 24  # bytes
# What goes wrong is raised here; the library would also print it, and log every message with its content.
LOGGER = logging.getLogger(__name__)
LOGGER.propagate = False
LOGGER.setLevel(logging.CRITICAL + 1)


class BrokenError(NoAnswerError):
    """It could not be connected, or ended before a stream did."""


class Websocket:
    """One that is connected, for one thread. Another may shut it down, which ends what the first is in."""

    def __init__(self, address: Address, resource: str, what: str) -> None:
        """``address`` of LXD; ``resource`` with its query. ``what`` fails where this does. Raises BrokenError."""
        from websockets.client import ClientProtocol
        from websockets.uri import parse_uri

        self._what = what
        self._protocol: ClientProtocol = ClientProtocol(
            parse_uri(f"ws://lxd{resource}"), max_size=MOST_IN_A_MESSAGE, logger=LOGGER
        )
        with contextlib.ExitStack() as cleanup:
            try:
                self._socket = cleanup.enter_context(address.connect(CONNECT_SECONDS))
                self._handshake()
            except OSError as error:
                raise self._no_answer(error) from error
            cleanup.pop_all()

    def _handshake(self) -> None:
        """Raises BrokenError, or OSError."""
        from websockets.protocol import State

        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING:
            self._feed()
            if self._protocol.handshake_exc is not None:
                raise self._no_answer(self._protocol.handshake_exc)

    def pieces(self, seconds: float) -> Iterator[bytes]:
        """What the binary messages hold until the first text, which to LXD is the end of a stream; an empty piece each
        time that nothing has come for so long. Raises BrokenError when it ends in another way.
        """
        from websockets.frames import Frame, Opcode

        self._socket.settimeout(seconds)
        while True:
            for event in self._protocol.events_received():
                if not isinstance(event, Frame):
                    continue  # the answer to the handshake
                if event.opcode is Opcode.TEXT:
                    return
                if event.opcode is Opcode.CLOSE:
                    raise self._broken("closed before its end")
                if event.opcode in (Opcode.BINARY, Opcode.CONT):
                    yield bytes(event.data)
            if self._protocol.parser_exc is not None:
                raise self._broken(self._protocol.parser_exc)
            try:
                self._feed()
            except TimeoutError:
                yield b""
            except OSError as error:
                raise self._broken(error) from error

    def send(self, content: bytes) -> None:
        """Sends a stream, and its end. To one who hangs up before, it is not sent: that shows elsewhere."""
        self._socket.settimeout(None)
        if content:
            self._protocol.send_binary(content)
        self._protocol.send_text(b"")
        with contextlib.suppress(OSError):
            self._flush()

    def shut_down(self) -> None:
        """Ends what its thread is in, and all that could come."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own would forget that there is TLS

    def close(self) -> None:
        """When no thread is in it any more: what it was may become another's file."""
        self._socket.close()

    def _feed(self) -> None:
        """Raises OSError, TimeoutError among them."""
        data = self._socket.recv(AT_ONCE)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        # An answer to a ping. Who has hung up needs none, and what they said before counts.
        with contextlib.suppress(OSError):
            self._flush()

    def _flush(self) -> None:
        """Raises OSError."""
        for data in self._protocol.data_to_send():
            self._socket.sendall(data)

    def _no_answer(self, why: object) -> BrokenError:
        return BrokenError(f"{self._what} failed", f"no answer from LXD: {why}", "is LXD still running?")

    def _broken(self, why: object) -> BrokenError:
        return BrokenError(f"{self._what} failed", f"LXD broke off: {why}", "is LXD still running?")
