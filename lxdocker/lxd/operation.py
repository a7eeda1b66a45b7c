"""LXD's background operations: what starts one, and the one place that waits for its end.

https://documentation.ubuntu.com/lxd/latest/rest-api/#background-operation. How LXDs answer ``operations/ID/wait``:

- a success: all answer with the operation
- a failure: 5.0.2 answers with the operation; 5.0.3 and later send the header 200 at once, and in the end an error as
  the body, with the operation's own reason. ``operations/ID`` has the operation for five seconds more
- with a ``timeout`` that runs out: each does something else, so it is never asked for

So this waits without one, on a connection of its own that is read in slices: nothing is asked twice while the operation
runs, and giving up is closing the connection.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import unquote, urlsplit

from lxdocker.errors import LxdError
from lxdocker.lxd.daemon import Daemon
from lxdocker.reasons import in_words

SLICE_SECONDS = 0.5  # how long nothing is looked at but the connection
CONNECT_SECONDS = 10
# How long waiting may fail while the operation is said to be running: after 6.9, LXD says so for ever if its member of
# the cluster is gone. As long as LXD itself waits for a member (cluster.offline_threshold).
LOST_SECONDS = 20
SUCCESS, FAILURE = 200, 400  # status codes of operations; below the first it is under way
MOST = 1 << 24  # bytes of an answer
REMOVALS = ("Stopping instance", "Deleting instance")  # what operations say that they do


@dataclass(frozen=True, slots=True)
class Operation:
    """A background operation that a request has started."""

    identifier: str
    metadata: Mapping[str, Any]  # what it said of itself when it started
    location: str | None = None  # the member of a cluster that it runs on

    @classmethod
    def of(cls, answer: Any) -> Operation | None:
        """The operation that an answer's document names; None for an answer that is final."""
        if not isinstance(answer, Mapping) or answer.get("type") != "async":
            return None
        identifier = str(answer["operation"]).rsplit("/", 1)[-1].split("?")[0]
        document = answer.get("metadata") or {}
        return cls(identifier, document.get("metadata") or {}, document.get("location") or None)

    @property
    def path(self) -> tuple[str, str]:
        return "operations", self.identifier


@dataclass(frozen=True, slots=True)
class Ended:
    """How an operation ended."""

    error: str  # LXD's own reason; '' for a success
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Ended | None:
        """Of an operation's own document; None while it is under way."""
        code = int(document["status_code"])
        if code < SUCCESS:
            return None
        error = "" if code == SUCCESS else str(document.get("err") or document["status"])
        return cls(error, document.get("metadata") or {})

    @property
    def in_words(self) -> str:
        """For the log."""
        if self.error:
            return f"failure: {self.error}"
        return f"exit status {self.metadata['return']}" if "return" in self.metadata else "success"


def removed_by(documents: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[str]:
    """The names of the instances that a project's operations are stopping or deleting. ``documents``: by status, as GET
    ``operations`` answers.
    """
    found: set[str] = set()
    for document in chain.from_iterable(documents.values()):
        if document["description"] in REMOVALS and Ended.of(document) is None:
            named = (document.get("resources") or {}).get("instances") or ()
            # Newer LXDs (operation_metadata_entity_url).
            urls = (*named, (document.get("metadata") or {}).get("entity_url") or "")
            found.update(unquote(urlsplit(url).path.rpartition("/")[2]) for url in urls if "/instances/" in url)
    return found


class NoAnswerError(LxdError):
    """LXD's connection ended without an answer."""


def answer_of(daemon: Daemon, resource: str, what: str, check: Callable[[], None]) -> Any:
    """The document that the daemon answers to GET ``resource``, whenever it comes, whatever its status.

    ``check`` is called every SLICE_SECONDS, and raises to give up. ``what`` fails where this does: NoAnswerError.
    """
    # HTTP/1.0, so that the answer ends with the connection.
    request = f"GET {resource} HTTP/1.0\r\nHost: lxd\r\n\r\n".encode()
    received = bytearray()
    try:
        with daemon.address.connect(CONNECT_SECONDS) as connection:
            connection.sendall(request)
            connection.settimeout(SLICE_SECONDS)
            while piece := _piece(connection, check):
                received += piece
                if len(received) > MOST:
                    raise ValueError("its answer has no end")
        answer = http.client.HTTPResponse(_Received(received))  # type: ignore[arg-type]  # all that it asks of a socket
        answer.begin()
        return json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        product = daemon.product
        raise NoAnswerError(
            f"{what} failed", f"no answer from {product}: {in_words(error)}", f"is {product} still running?"
        ) from error


def _piece(connection: socket.socket, check: Callable[[], None]) -> bytes:
    while True:
        check()
        try:
            return connection.recv(1 << 16)
        except TimeoutError:
            continue


class _Received:
    """What has come, for http.client to read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)
