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
from pathlib import Path
from typing import Any

from lxdocker.config.settings import SYSTEM_TLS, Settings
from lxdocker.errors import UsageError
from lxdocker.files.seen import exists
from lxdocker.progress import Say
from lxdocker.reasons import in_words
from lxdocker.serve import certs
from lxdocker.serve.access import Users
from lxdocker.serve.certs import Watch
from lxdocker.serve.hostnames import check_name
from lxdocker.serve.joining import by_hand, server_url, summary
from lxdocker.serve.metrics import Metrics
from lxdocker.serve.notify import READY, notify, stopping
from lxdocker.serve.site import Site, log_to_stderr
from lxdocker.serve.slots import Slot, Slots, client_of
from lxdocker.serve.worker import Worker
from lxdocker.tree.index import indexed_names

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
# How often to look whether somebody can go by now, if all are well served.
FULL_SECONDS = 0.2


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
            why = "choose another one with --listen ADDRESS:PORT"
            if error.errno == errno.EACCES:
                why = f"only root may use ports below 1024: {why}"
            raise UsageError(f"cannot listen on {self}", error.strerror or in_words(error), why) from error

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
        per_client: int,
    ) -> None:
        self._sockets = sockets
        self._per_client = per_client
        self._freed = asyncio.Event()
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
        slots = Slots(max(1, limit), self._per_client)
        threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        self._workers = [Worker(self._site, self._metrics, self._say) for _ in range(threads)]
        tasks = [loop.create_task(self._accept(listening, slots)) for listening in self._sockets]
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
            for listening in self._sockets:
                listening.close()
            await self._finish()

    async def _finish(self) -> None:
        self._stop.clear()
        notify(stopping(self._stop_seconds))
        running = sum(worker.busy for worker in self._workers)
        if running:
            self._say(f"stopping; waiting up to {self._stop_seconds:g} s for {running} requests, or until told again")
        finishing = asyncio.gather(
            *(asyncio.wrap_future(worker.finish(self._stop_seconds)) for worker in self._workers)
        )
        told_again: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        either: set[asyncio.Future[Any]] = {finishing, told_again}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in either:
            task.cancel()
        for worker in self._workers:
            worker.end()

    async def _accept(self, listening: socket.socket, slots: Slots) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    await asyncio.sleep(EXHAUSTED_SECONDS)
                continue
            slot = Slot(client_of(address[0]))
            if not slots.admits(slot.client):
                self._metrics.refused.inc()
                connection.close()
                continue
            # Those after it wait in the kernel's queue.
            slots.make_room()
            while slots.is_full:
                slots.make_room()
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), FULL_SECONDS)
            slots.add(slot)
            worker = min(self._workers, key=lambda worker: worker.connections)
            worker.connections += 1
            self._metrics.connections.inc()
            gone = functools.partial(self._gone, loop, worker, slots, slot)
            worker.take(connection, self._watch.context, slot, gone)

    def _gone(self, loop: asyncio.AbstractEventLoop, worker: Worker, slots: Slots, slot: Slot) -> None:
        """A connection has ended; called in the worker's thread."""
        self._metrics.connections.dec()

        def free() -> None:
            worker.connections -= 1
            self._ended += 1
            slots.remove(slot)
            self._freed.set()

        loop.call_soon_threadsafe(free)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            # It can take a while: a disk, a new key.
            try:
                await asyncio.to_thread(self._look)
            except Exception as error:  # whatever is in these files, downloads go on
                self._say(f"cannot check the certificate and the users for changes: {in_words(error)}")
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


def serve(settings: Settings, ready: Callable[[str], None], say: Say, *, verbose: bool = False) -> None:
    """Serves the published tree until it is told to stop. ``ready`` is given what is served, and what to type on other
    hosts; if ``verbose``, also on those without lxdocker.

    Raises UsageError where a setting can't be used.
    """
    check_tree(settings.tree)
    try:
        endpoint = Endpoint.parse(settings.listen)
    except ValueError as error:
        raise UsageError("invalid address to listen on", str(error), "correct --listen") from error
    watch = Watch(functools.partial(_pair, settings, say))
    if warning := watch.warning():
        say(warning)
    users = Users(settings.users) if settings.users else None
    metrics = Metrics(settings.tree, lambda: watch.certificate.ends.timestamp())
    site = Site(settings.tree, lambda: watch.authority, users, metrics, log_to_stderr)
    sockets = endpoint.listen()
    # A certificate of one's own is good for its names alone.
    names = settings.tls_names or (watch.certificate.names if settings.tls_cert else ())
    url = server_url(endpoint.host, sockets[0].getsockname()[1], names)

    def announce() -> None:
        images = len(indexed_names(settings.tree))
        ready(summary(settings.tree, images, url, watch.certificate, password=users is not None))
        if verbose:
            ready("\n" + by_hand(url, watch.certificate, watch.authority, password=users is not None))
        if users is not None and endpoint.port != 443:
            say(
                "note: LXD and Incus ask for image files without TLS first, with the password, on the same port; if"
                " others can listen in, serve on port 443, where they ask port 80 instead (keep that closed)"
            )
        notify(READY)

    per_client = settings.connections_per_client
    server = Server(sockets, watch, users, site, metrics, say, settings.stop_timeout, per_client)
    asyncio.run(server.run(announce))


def check_tree(tree: Path) -> None:
    """Raises UsageError unless there is a readable folder. It may be empty, and filled later."""
    try:
        with os.scandir(tree):
            return
    except (FileNotFoundError, NotADirectoryError) as error:
        why = "not a folder" if exists(tree) else "no such folder"
        todo = "publish images with lxdocker sync first, or name the folder they are published in: --tree DIR"
        raise UsageError(f"no published images at {tree}", why, todo) from error
    except OSError as error:
        why = error.strerror or in_words(error)
        raise UsageError(
            f"cannot read the tree {tree}", why, "run as a user who may read it, or correct --tree"
        ) from error


def _pair(settings: Settings, say: Say) -> certs.Pair:
    if settings.tls_cert and settings.tls_key:
        return certs.Pair(settings.tls_cert, settings.tls_key)
    if settings.tls_cert or settings.tls_key:
        raise UsageError(
            "incomplete certificate", "tls_cert and tls_key must be given together", "give both, or neither"
        )
    try:
        names = [check_name(name) for name in settings.tls_names]
    except ValueError as error:
        raise UsageError("invalid name for a certificate", str(error), "correct --name (tls_names)") from error
    return certs.make(settings.tls_dir or SYSTEM_TLS, names, say)
