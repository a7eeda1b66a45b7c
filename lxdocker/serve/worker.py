"""A thread with an event loop, and the connections it serves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
import traceback
from asyncio import sslproto
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from lxdocker.progress import Say
from lxdocker.serve.metrics import Metrics
from lxdocker.serve.site import Site
from lxdocker.serve.slots import Slot

HANDSHAKE_SECONDS = 10
# For a request to arrive whole, counted from the connection or from the end of the answer before.
REQUEST_SECONDS = 20
# For the last bytes of an answer to get away and for the client to say goodbye.
GOODBYE_SECONDS = 60
IDLE_GOODBYE_SECONDS = 1
# A request's line; each of its header fields; how many of these.
MAX_LINE, MAX_FIELD, MAX_FIELDS = 4096, 8190, 64
# How much the kernel may hold that it has not sent yet. With its megabytes a slow client would look like one that
# has stopped, and many of them would fill the memory.
UNSENT = 256 << 10
# What is read from a TLS connection at once: clients send short requests.
RECEIVED = 16 << 10


class Worker:
    """Serves the connections it is given, in its own thread."""

    def __init__(self, site: Site, metrics: Metrics, say: Say) -> None:
        self.connections = 0  # how many it has been given that are not gone: the giver counts
        self._site = site
        self._metrics = metrics
        self._say = say
        self._open: set[_Connection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._unexpected)
        self._server = web.Server(self._answer, loop=self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever, name="serve", daemon=True)
        self._thread.start()

    # ---- for other threads

    @property
    def busy(self) -> int:
        """How many requests are being answered."""
        return sum(connection.busy for connection in tuple(self._open))

    def take(self, connection: socket.socket, context: ssl.SSLContext, slot: Slot, gone: Callable[[], None]) -> None:
        """Serves an accepted connection; ``gone`` is called when it has ended."""
        asyncio.run_coroutine_threadsafe(self._serve(connection, context, slot, gone), self._loop)

    def finish(self, seconds: float) -> Future[None]:
        """Ends idle connections now, and busy ones after their answer or after ``seconds``."""
        return asyncio.run_coroutine_threadsafe(self._finish(seconds), self._loop)

    def end(self) -> None:
        """Ends whatever is left, and the thread."""
        asyncio.run_coroutine_threadsafe(self._abort(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- in its own thread

    async def _serve(
        self, accepted: socket.socket, context: ssl.SSLContext, slot: Slot, gone: Callable[[], None]
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        connection = _Connection(self._server, self._loop, self._site, slot)

        def end() -> None:
            if task in self._handshakes:
                task.cancel()
            else:
                connection.abort()

        slot.end = functools.partial(self._loop.call_soon_threadsafe, end)
        self._handshakes.add(task)
        try:
            if slot.leaving:  # before it could be told
                accepted.close()
                return
            deadline = self._loop.time() + HANDSHAKE_SECONDS
            await self._first_bytes(accepted, deadline)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            await self._shake_hands(accepted, context, connection, max(0.1, deadline - self._loop.time()))
            if not connection.has_begun:  # ended by the client in the same moment
                return
            self._handshakes.discard(task)
            self._open.add(connection)
            await connection.ended.wait()
        except OSError:  # TLS's errors and time limits among them
            # LXD tries plain http first, so this is nothing that anybody should worry about.
            self._metrics.refused.inc()
        finally:
            self._handshakes.discard(task)
            self._open.discard(connection)
            gone()

    async def _shake_hands(
        self, accepted: socket.socket, context: ssl.SSLContext, connection: _Connection, seconds: float
    ) -> None:
        """Puts TLS between the socket and the connection; asyncio's own way there has no choice of the class."""
        done: asyncio.Future[None] = self._loop.create_future()
        plain, _ = await self._loop.connect_accepted_socket(
            lambda: _Tls(self._loop, connection, context, done, seconds), accepted
        )
        try:
            await done
        except BaseException:
            plain.close()
            raise

    async def _first_bytes(self, accepted: socket.socket, deadline: float) -> None:
        """Until the client says something: before, it costs nothing but the socket. TLS would be 90 kB."""
        spoken = self._loop.create_future()

        def said() -> None:
            if not spoken.done():
                spoken.set_result(None)

        try:
            self._loop.add_reader(accepted, said)
            try:
                async with asyncio.timeout_at(deadline):
                    await spoken
            finally:
                self._loop.remove_reader(accepted)
        except BaseException:
            accepted.close()
            raise

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)  # noqa: S101 - for the type checker
        with connection.answering():
            return await self._site.answer(request, connection.waiting, connection.slot.count)

    async def _finish(self, seconds: float) -> None:
        for task in self._handshakes:
            task.cancel()
        for connection in self._open:
            connection.retire()
        ends = [asyncio.ensure_future(connection.ended.wait()) for connection in self._open]
        if ends:
            _, pending = await asyncio.wait(ends, timeout=seconds)
            for end in pending:
                end.cancel()

    async def _abort(self) -> None:
        for task in self._handshakes:
            task.cancel()
        for connection in self._open:
            connection.abort()
        await self._server.shutdown(0.1)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # Connections that break, in all their ways, are the network's usual life.
        if not isinstance(error, OSError):
            self._say("".join(traceback.format_exception(error)) if error else str(context.get("message")))


class _Tls(sslproto.SSLProtocol):
    """asyncio gives every TLS connection a buffer of 256 KiB to read into, which is most of what an idle one costs."""

    max_size = RECEIVED

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: _Connection,
        context: ssl.SSLContext,
        done: asyncio.Future[None],
        seconds: float,
    ) -> None:
        super().__init__(
            loop,
            connection,
            context,
            done,
            server_side=True,
            ssl_handshake_timeout=seconds,  # type: ignore[arg-type]  # it takes fractions, though it does not say so
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )
        self.connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self.connection.below = transport
        super().connection_made(transport)


class _Connection(web.RequestHandler):
    """One connection: aiohttp's, with a time limit on requests and with our log."""

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, site: Site, slot: Slot) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=REQUEST_SECONDS,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            lingering_time=0,
            access_log=None,  # type: ignore[arg-type]  # it takes None, though it does not say so
        )
        self.ended = asyncio.Event()
        self.busy = False
        self._site = site
        self.slot = slot
        self.has_begun = False
        self.below: asyncio.Transport | None = None  # TCP
        self._layers: tuple[asyncio.Transport, ...] = ()  # TLS, and TCP below it
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TLS handshake is done."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        assert self.below is not None  # noqa: S101 - for the type checker: a transport has it by now
        self.has_begun = True
        self._layers = (transport, self.below)
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_awaiting()
        if self._layers:
            super().connection_lost(exc)
        self._layers = ()
        self.ended.set()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """While a request is answered, which has time limits of its own."""
        self._stop_awaiting()
        self.busy = True
        self.slot.begin()
        try:
            yield
        finally:
            self.busy = False
            self.slot.rest()
            self._await_request()

    def waiting(self) -> int:
        """Bytes that wait in our memory for the client to take them."""
        return sum(layer.get_write_buffer_size() for layer in self._layers)

    def retire(self) -> None:
        """Ends the connection: now if it is idle, else after the answer."""
        if self.busy:
            self.close()
        else:
            self._leave()

    def abort(self) -> None:
        """Ends the connection in the middle of whatever it does."""
        for layer in self._layers:
            layer.abort()

    def _leave(self) -> None:
        """Says goodbye. Many clients do not look at an idle connection and never answer that."""
        self._stop_awaiting()
        if not self.waiting():
            self._limit = self._loop.call_later(IDLE_GOODBYE_SECONDS, self.abort)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """In the place of aiohttp's, which repeats what the client sent and logs a page for each."""
        if exc is not None and not isinstance(exc, HttpProcessingError):
            self._loop.call_exception_handler({"message": "answering a request failed", "exception": exc})
        if request.writer.output_size > 0:
            self.abort()
            raise ConnectionError("the answer has already begun")
        return self._site.answer_nonsense(request, status, type(exc).__name__)

    def _await_request(self) -> None:
        if self._layers:
            self._limit = self._loop.call_later(REQUEST_SECONDS, self._leave)

    def _stop_awaiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
