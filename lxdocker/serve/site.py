"""One request and its answer: what is asked for, conditions, ranges, and the sending of files."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path

from aiohttp import ETag, hdrs, web

from lxdocker.progress import Say
from lxdocker.reasons import in_words
from lxdocker.serve import authority as authorities
from lxdocker.serve.access import Users
from lxdocker.serve.authority import Authority
from lxdocker.serve.files import Served, open_served
from lxdocker.serve.metrics import CONTENT_TYPE, Metrics
from lxdocker.serve.packed import Packer, can_be_packed

HEALTH = "/healthz"
METRICS = "/metrics"
# What is read and given to TLS at once: little of it for a client that does not keep up, since it waits in memory, in
# several copies.
LARGE, SMALL = 128 << 10, 16 << 10
# Only what no buffer on the way can hold shows that a client keeps up.
PROVEN = 2 << 20
# How much a client has to take in which time: a connection that carries less than 1 kB/s is given up.
STALL_BYTES, STALL_SECONDS = 64 << 10, 60
YEAR = 365 * 24 * 3600
# The page has its own style and script in it and needs nothing else.
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"
_RANGE = re.compile(r"bytes=[ \t]*(?P<first>\d{0,18})-(?P<last>\d{0,18})[ \t]*", re.ASCII)
# Longer ones are cut in the log.
_MAX_LOGGED = 300

Read = Callable[[int, int], Awaitable[bytes | memoryview]]  # how much at most, from where


class Site:
    """The tree as others see it. Used by several threads, each with an event loop.

    ``authority`` gives the server's own, if it has one.
    """

    def __init__(
        self, tree: Path, authority: Callable[[], Authority | None], users: Users | None, metrics: Metrics, log: Say
    ) -> None:
        self._tree = tree
        self._authority = authority
        self._users = users
        self._metrics = metrics
        self._log = log
        self._packer = Packer()

    async def answer(
        self, request: web.BaseRequest, waiting: Callable[[], int], count: Callable[[int], None]
    ) -> web.StreamResponse:
        """Answers, counts and logs one request. ``waiting`` tells how many bytes its connection could not send yet;
        ``count`` is told of what could be.
        """
        began = time.monotonic()
        answer = _Answer(request, waiting, count)
        try:
            await self._decide(answer)
        except TimeoutError:
            answer.note = "stalled"
            answer.abort()
        except ConnectionError:
            answer.note = "left"
        except asyncio.CancelledError:
            answer.note = "cut off"
            raise
        except OSError as error:  # out of descriptors, or a disk that fails
            answer.note = in_words(error)
            if answer.response.prepared:
                answer.abort()
            else:
                answer.refuse(503)
        finally:
            self._note(answer, time.monotonic() - began)
        return answer.response

    def answer_nonsense(self, request: web.BaseRequest, status: int, why: str) -> web.StreamResponse:
        """Answers what is not HTTP, or more of it than we take."""
        answer = _Answer(request, lambda: 0, lambda _: None)
        answer.refuse(status)
        answer.note = why
        self._note(answer, 0)
        return answer.response

    def _note(self, answer: _Answer, seconds: float) -> None:
        self._metrics.requests.labels(str(answer.response.status)).inc()
        self._log(log_line(answer, seconds))

    async def _decide(self, answer: _Answer) -> None:
        request = answer.request
        if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
            answer.refuse(405, {hdrs.ALLOW: "GET, HEAD"})
        elif request.can_read_body:
            # Nothing here wants one, and reading it away would be work for nothing.
            answer.refuse(400)
        elif request.rel_url.raw_path == HEALTH:
            self._health(answer)
        elif request.rel_url.raw_path == authorities.PATH and (authority := self._authority()) is not None:
            # Like the server's certificate, it is there for everybody: clients need it before they can log in safely.
            answer.text(200, authority.pem.encode(), authorities.CONTENT_TYPE)
        elif not await self._may_read(answer):
            # A Go client that has a password sends it without being asked; this is for people's browsers.
            answer.refuse(401, {hdrs.WWW_AUTHENTICATE: 'Basic realm="lxdocker", charset="UTF-8"'})
        elif request.rel_url.raw_path == METRICS:
            answer.text(200, await asyncio.to_thread(self._metrics.text), CONTENT_TYPE)
        else:
            await self._file(answer)

    async def _may_read(self, answer: _Answer) -> bool:
        if self._users is None:
            return True
        answer.user = await self._users.who(answer.request.headers.get(hdrs.AUTHORIZATION))
        return answer.user is not None

    def _health(self, answer: _Answer) -> None:
        try:
            os.close(os.open(self._tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            answer.note = in_words(error)
            answer.text(503, b"the tree can't be read\n")
        else:
            answer.text(200, b"ok\n")

    async def _file(self, answer: _Answer) -> None:
        served = open_served(self._tree, answer.request.rel_url.raw_path)
        if served is None:
            answer.refuse(404)
            return
        handle = served.handle
        try:
            read: Read = functools.partial(_read, asyncio.get_running_loop(), handle)
            if can_be_packed(served):
                answer.response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
                if _takes_packed(answer.request):
                    packed = self._packer.kept(served)
                    if packed is None:
                        packed = await asyncio.to_thread(self._packer.pack, served)
                    served = replace(served, size=len(packed), etag=f"{served.etag}-gzip")
                    answer.response.headers[hdrs.CONTENT_ENCODING] = "gzip"
                    read = functools.partial(_slice, packed)
            first, length = _choose(answer, served)
            if answer.response.status not in {200, 206}:
                return
            answer.response.content_length = length
            await answer.response.prepare(answer.request)
            if answer.request.method == hdrs.METH_GET and length:
                with self._metrics.downloads.track_inprogress():
                    await self._send(answer, read, first, length)
        finally:
            os.close(handle)

    async def _send(self, answer: _Answer, read: Read, offset: int, left: int) -> None:
        transport = answer.request.transport
        if transport is not None:
            # Else the transport would take half a megabyte before it asks us to wait.
            transport.set_write_buffer_limits(high=SMALL)
        size = SMALL
        loop = asyncio.get_running_loop()
        taken, deadline = 0, loop.time() + STALL_SECONDS
        while left:
            data = await read(min(size, left), offset)
            if not data:
                raise OSError("the file has become shorter")
            async with asyncio.timeout_at(deadline):
                await answer.response.write(data)
                await answer.request.writer.drain()
            taken += len(data)
            if taken >= STALL_BYTES:
                taken, deadline = 0, loop.time() + STALL_SECONDS
            offset += len(data)
            left -= len(data)
            answer.sent += len(data)
            self._metrics.sent.inc(len(data))
            answer.count(len(data))
            size = LARGE if answer.sent >= PROVEN and not answer.waiting() else SMALL


class _Answer:
    """The answer to one request while it is being made."""

    def __init__(self, request: web.BaseRequest, waiting: Callable[[], int], count: Callable[[int], None]) -> None:
        self.request = request
        self.waiting = waiting
        self.count = count
        self.response = web.StreamResponse()
        self.user: str | None = None
        self.sent = 0  # bytes of the body
        self.note = ""  # for the log
        self._plain()

    def _plain(self) -> None:
        """What every answer says."""
        self.response.headers[hdrs.SERVER] = "lxdocker"
        self.response.headers["X-Content-Type-Options"] = "nosniff"

    def text(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        """A short answer that is made for this request."""
        self.response = web.Response(
            status=status, body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"}
        )
        self._plain()
        if self.request.method == hdrs.METH_GET:
            self.sent = len(body)

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        """An error, in words."""
        probe = web.Response(status=status)
        self.text(status, f"{status} {probe.reason}\n".encode())
        self.response.headers.update(headers or {})
        if status not in {401, 404}:
            # Whatever else such a client has sent is not worth reading.
            self.response.force_close()

    def abort(self) -> None:
        """Ends the connection now: the client must not take what it got for the whole."""
        if self.request.transport is not None:
            self.request.transport.abort()


def _choose(answer: _Answer, served: Served) -> tuple[int, int]:
    """Sets the answer's status and headers by the request's conditions; returns which bytes are to be sent."""
    request, headers = answer.request, answer.response.headers
    headers[hdrs.ETAG] = f'"{served.etag}"'
    headers[hdrs.CACHE_CONTROL] = f"public, max-age={YEAR}, immutable" if served.immutable else "no-cache"
    headers[hdrs.LAST_MODIFIED] = formatdate(int(served.modified), usegmt=True)
    headers[hdrs.ACCEPT_RANGES] = "bytes"
    if _fails(request, served):
        answer.refuse(412)
        return 0, 0
    if _is_unchanged(request, served):
        answer.response.set_status(304)
        return 0, 0
    headers[hdrs.CONTENT_TYPE] = served.content_type
    if served.is_page:
        headers["Content-Security-Policy"] = _PAGE_POLICY
        headers["Referrer-Policy"] = "no-referrer"
    wanted = _range(request, served)
    if wanted is None:
        return 0, served.size
    first, length = wanted
    if not length:
        answer.refuse(416, {hdrs.CONTENT_RANGE: f"bytes */{served.size}"})
        return 0, 0
    answer.response.set_status(206)
    headers[hdrs.CONTENT_RANGE] = f"bytes {first}-{first + length - 1}/{served.size}"
    return first, length


def _fails(request: web.BaseRequest, served: Served) -> bool:
    """If-Match and If-Unmodified-Since, by which a client makes sure that it goes on with the same file."""
    wanted = request.if_match
    if wanted is not None:
        return not any(tag.value in {served.etag, "*"} and not tag.is_weak for tag in wanted)
    since = request.if_unmodified_since
    return since is not None and served.modified >= since.timestamp() + 1


def _is_unchanged(request: web.BaseRequest, served: Served) -> bool:
    known: tuple[ETag, ...] | None = request.if_none_match
    if known is not None:
        return any(tag.value in {served.etag, "*"} for tag in known)
    since = request.if_modified_since
    return since is not None and served.modified < since.timestamp() + 1


def _range(request: web.BaseRequest, served: Served) -> tuple[int, int] | None:
    """First byte and number of bytes of a single range; (0, 0) if the file has none of it.

    None where the whole file is to be sent: no range, several or malformed ones, or another version's (If-Range).
    """
    match = _RANGE.fullmatch(request.headers.get(hdrs.RANGE, ""))
    if match is None or request.method != hdrs.METH_GET:
        return None
    condition = request.headers.get(hdrs.IF_RANGE)
    if condition is not None and condition.strip() not in {
        f'"{served.etag}"',
        formatdate(int(served.modified), usegmt=True),
    }:
        return None
    if match["first"]:
        first = int(match["first"])
        last = min(int(match["last"] or served.size), served.size - 1)
        if match["last"] and int(match["last"]) < first:
            return None
        return (first, last - first + 1) if first < served.size else (0, 0)
    if not match["last"]:
        return None
    length = min(int(match["last"]), served.size)
    return served.size - length, length


def _takes_packed(request: web.BaseRequest) -> bool:
    """Whether it names gzip among what it takes. A range is always of the document itself."""
    if hdrs.RANGE in request.headers:
        return False
    for coding in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
        name, _, quality = coding.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", quality)
    return False


async def _slice(packed: bytes, size: int, offset: int) -> memoryview:
    return memoryview(packed)[offset : offset + size]


async def _read(loop: asyncio.AbstractEventLoop, handle: int, size: int, offset: int) -> bytes | memoryview:
    """Reads at once what the page cache has, and in a thread what a disk must be waited for."""
    buffer = bytearray(size)
    try:
        count = os.preadv(handle, [buffer], offset, os.RWF_NOWAIT)
    except OSError:  # EAGAIN, or a filesystem that can't tell
        return await loop.run_in_executor(None, os.pread, handle, size, offset)
    return memoryview(buffer)[:count]


# ---- the log


def log_line(answer: _Answer, seconds: float) -> str:
    """A line in Apache's combined format, then the seconds it took and what went wrong, if anything did."""
    moment = datetime.now(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    request, version = answer.request, answer.request.version
    # The path as it came, for that is what a person looks for; without the query: nothing here takes one, so it can
    # only be nonsense or somebody's secret.
    line = f"{request.method} {request.rel_url.raw_path} HTTP/{version.major}.{version.minor}"
    parts = [
        request.remote or "-",
        "-",
        escape(answer.user or "-").replace(" ", "\\x20"),
        f"[{moment}]",
        f'"{escape(line)}"',
        str(answer.response.status),
        str(answer.sent),
        f'"{escape(request.headers.get(hdrs.REFERER, "-"))}"',
        f'"{escape(request.headers.get(hdrs.USER_AGENT, "-"))}"',
        f"{seconds:.3f}",
    ]
    return " ".join(parts) + (f" ({escape(answer.note)})" if answer.note else "")


def escape(text: str) -> str:
    """Nothing in it can end a field or a line, or move a terminal's cursor."""
    cut = text[:_MAX_LOGGED] + ("..." if len(text) > _MAX_LOGGED else "")
    return "".join(char if char.isprintable() and char not in '"\\' else _escaped(char) for char in cut)


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def log_to_stderr(line: str) -> None:
    """One write for each line, so that those of several threads do not mix. A log that can't be written loses the line,
    not the answer that it is about.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
