"""Sockets, TLS, threads, time limits and the end.

One thread accepts; it gives each connection to the event loop, in a thread of its own, that has the fewest. TLS and
the sending of bytes happen outside Python's lock, so these threads really work side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import functools
import gc
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lxdocker import certs
from lxdocker.certs import Watch
from lxdocker.errors import UsageError
from lxdocker.serve.access import Users
from lxdocker.serve.joining import instructions, server_url
from lxdocker.serve.metrics import Metrics
from lxdocker.serve.site import Say, Site, log_to_stderr
from lxdocker.serve.worker import Worker
from lxdocker.settings import SYSTEM_TLS, Settings

BACKLOG = 512
MAX_CONNECTIONS = 1000
MAX_THREADS = 8
# A socket, a file and what reading one takes; and what the program needs itself.
FILES_PER_CONNECTION, OWN_FILES = 3, 64
# How often the certificate and the users are looked at.
WATCH_SECONDS = 5
# After how many connections it is worth a look for what they have left in memory.
MANY_CONNECTIONS = 50
# How long to wait before accepting again when the system has no more descriptors.
EXHAUSTED_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: an address ('' for all there are) and a port (0 for any that is free)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """``ADDRESS:PORT``, ``[IPV6]:PORT`` or ``:PORT``. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address is written in brackets, as in [::1]:8444")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is not of the form ADDRESS:PORT")
        return cls("" if host in {"*", "::"} else host, int(port))

    def listen(self) -> list[socket.socket]:
        """Raises UsageError where that can't be."""
        try:
            if not self.host:
                return [_listen_everywhere(self.port)]
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, address = found[0]
            return [socket.create_server(address[:2], family=family, backlog=BACKLOG)]
        except OSError as error:
            why = "give another one with --listen ADDRESS:PORT"
            if error.errno == errno.EACCES:
                why = f"ports below 1024 are root's; {why}"
            raise UsageError(f"can't listen on {self}", error.strerror or str(error), why) from error

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


class Server:
    """Serves a site until it is told to stop."""

    def __init__(
        self,
        sockets: list[socket.socket],
        watch: Watch,
        users: Users | None,
        site: Site,
        metrics: Metrics,
        say: Say,
        stop_seconds: float,
    ) -> None:
        self._sockets = sockets
        self._watch = watch
        self._users = users
        self._site = site
        self._metrics = metrics
        self._say = say
        self._stop_seconds = stop_seconds
        self._workers: list[Worker] = []
        self._stop = asyncio.Event()
        self._looking = threading.Lock()
        self._ended = 0  # connections, since memory was last given back

    async def run(self, ready: Callable[[], None]) -> None:
        """Until SIGTERM or SIGINT; then running downloads finish, for as long as they may, or until the next signal.

        Calls ``ready`` once signals are heeded: whoever hears of it may send one at once.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._look)
        # All that is there by now is there to stay, and need not be looked through for garbage again.
        gc.collect()
        gc.freeze()
        limit = min(MAX_CONNECTIONS, (_raise_file_limit() - OWN_FILES) // FILES_PER_CONNECTION)
        slots = asyncio.Semaphore(max(1, limit))
        threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        self._workers = [Worker(self._site, self._metrics, self._say) for _ in range(threads)]
        tasks = [loop.create_task(self._accept(one, slots)) for one in self._sockets]
        tasks.append(loop.create_task(self._keep_looking()))
        stop = loop.create_task(self._stop.wait())
        try:
            ready()
            done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # what accepts must not just be gone
        finally:
            for task in (stop, *tasks):
                task.cancel()
            await asyncio.gather(stop, *tasks, return_exceptions=True)
            for one in self._sockets:
                one.close()
            await self._finish()

    async def _finish(self) -> None:
        self._stop.clear()
        running = sum(worker.busy for worker in self._workers)
        if running:
            self._say(f"stopping; up to {self._stop_seconds:g} s for {running} running requests, or until told again")
        finishing = asyncio.gather(*(asyncio.wrap_future(one.finish(self._stop_seconds)) for one in self._workers))
        told_again: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        either: set[asyncio.Future[Any]] = {finishing, told_again}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for one in either:
            one.cancel()
        for worker in self._workers:
            worker.end()

    async def _accept(self, listening: socket.socket, slots: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            # At the limit new connections wait in the kernel's queue.
            await slots.acquire()
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                slots.release()
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    await asyncio.sleep(EXHAUSTED_SECONDS)
                continue
            worker = min(self._workers, key=lambda one: one.connections)
            worker.connections += 1
            self._metrics.connections.inc()
            worker.take(connection, self._watch.context, functools.partial(self._gone, loop, worker, slots))

    def _gone(self, loop: asyncio.AbstractEventLoop, worker: Worker, slots: asyncio.Semaphore) -> None:
        """A connection has ended; called in the worker's thread."""
        self._metrics.connections.dec()

        def free() -> None:
            worker.connections -= 1
            self._ended += 1
            slots.release()

        loop.call_soon_threadsafe(free)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            # It can take a while: a disk, a new key.
            try:
                await asyncio.to_thread(self._look)
            except Exception as error:  # whatever is in these files, downloads go on
                self._say(f"looking at the certificate and the users failed: {error!r}")
            if self._ended >= MANY_CONNECTIONS:
                self._ended = 0
                _give_memory_back()

    def _look(self) -> None:
        with self._looking:
            for line in (self._watch.look(), self._users.look() if self._users else None):
                if line:
                    self._say(line)


def _give_memory_back() -> None:
    """What ended connections have left: reference cycles around their buffers, and holes in the heap that the C
    library would keep for ever.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _raise_file_limit() -> int:
    """As many descriptors as this process may have; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS * FILES_PER_CONNECTION + OWN_FILES
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        return target
    return wanted if soft == resource.RLIM_INFINITY else soft


def serve(settings: Settings, ready: Callable[[str], None], say: Say) -> None:
    """Serves the published tree until it is told to stop. ``ready`` is given what to type on other hosts.

    Raises UsageError where a setting can't be used.
    """
    try:
        endpoint = Endpoint.parse(settings.listen)
    except ValueError as error:
        raise UsageError("can't listen there", str(error), "correct --listen") from error
    watch = Watch(functools.partial(_pair, settings))
    users = Users(settings.users) if settings.users else None
    metrics = Metrics(settings.tree, lambda: watch.certificate.ends.timestamp())
    site = Site(settings.tree, users, metrics, log_to_stderr)
    sockets = endpoint.listen()
    url = server_url(endpoint.host, sockets[0].getsockname()[1], settings.tls_names)

    def announce() -> None:
        ready(instructions(url, watch.certificate, password=users is not None))
        if users is not None and endpoint.port != 443:
            say(
                "note: LXD and Incus ask for image files without TLS first, with the password, on the same port; if"
                " others can listen in, serve on port 443, where they ask port 80 instead (keep that closed)"
            )

    asyncio.run(Server(sockets, watch, users, site, metrics, say, settings.stop_timeout).run(announce))


def _pair(settings: Settings) -> certs.Pair:
    if settings.tls_cert and settings.tls_key:
        return certs.Pair(settings.tls_cert, settings.tls_key)
    if settings.tls_cert or settings.tls_key:
        raise UsageError(
            "half of a certificate", "there is one of tls_cert and tls_key without the other", "give both, or neither"
        )
    try:
        names = [certs.check_name(name) for name in settings.tls_names]
    except ValueError as error:
        raise UsageError("this can't be in a certificate", str(error), "correct --name (tls_names)") from error
    return certs.make(settings.tls_dir or SYSTEM_TLS, names)
