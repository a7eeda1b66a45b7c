"""Errors of the system and of libraries in words, and that no module prints them as they are."""

from __future__ import annotations

import ast
import errno
import http.client
import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import urllib3

import lxdocker
from lxdocker.errors import LxdockerError, TreeError
from lxdocker.files.rights import UnsafeError
from lxdocker.reasons import in_words


def system(number: int, *files: str) -> OSError:
    return OSError(number, os.strerror(number), *files[:1], *([None, *files[1:]] if len(files) > 1 else []))


def caught(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("no error")


def wrapped(outer: BaseException, inner: BaseException) -> BaseException:
    def work() -> None:
        try:
            raise inner
        except BaseException as error:
            raise outer from error

    return caught(work)


def verification(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {message} (_ssl.c:997)")
    error.verify_message = message
    error.reason = "CERTIFICATE_VERIFY_FAILED"
    return error


def tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] it failed (_ssl.c:997)")
    error.reason = reason
    return error


CLOSED = "the connection was closed"
EXPIRED, UNSIGNED = verification("certificate has expired"), verification("self-signed")


def requests_error(kind: type[requests.RequestException], inner: Exception) -> requests.RequestException:
    return kind(urllib3.exceptions.ProtocolError("Connection aborted.", inner))


REFUSED = system(errno.ECONNREFUSED)
GONE = http.client.RemoteDisconnected("Remote end closed connection without response")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (system(errno.ENOENT, "/a/b"), "/a/b: No such file or directory"),
        (system(errno.ENOSPC), "No space left on device"),
        (system(errno.EXDEV, "/a", "/b"), "/a -> /b: Invalid cross-device link"),
        (UnsafeError("/a", "others may write there", "chmod"), "/a: others may write there"),
        (REFUSED, "Connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "its name cannot be resolved"),
        (TimeoutError("timed out"), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (EXPIRED, "its certificate is not trusted: certificate has expired"),
        (tls("WRONG_VERSION_NUMBER"), "it does not speak TLS, but probably plain HTTP"),
        (tls("TLSV1_ALERT_ACCESS_DENIED"), "TLS failed: tlsv1 alert access denied"),
        (ssl.SSLEOFError(8, "EOF in violation of protocol (_ssl.c:997)"), f"TLS failed: {CLOSED}"),
        (GONE, CLOSED),
        (http.client.IncompleteRead(b"x", 5), CLOSED),
        (http.client.BadStatusLine("x"), "its answer is not HTTP"),
        (EOFError(), CLOSED),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
        (requests_error(requests.ConnectionError, GONE), CLOSED),
        (requests_error(requests.ConnectionError, REFUSED), "Connection refused"),
        (requests.ReadTimeout("HTTPConnectionPool(host='x'): Read timed out."), "no answer in time"),
        (requests.exceptions.ChunkedEncodingError("Response ended prematurely"), CLOSED),
        (wrapped(requests.RequestException("<x at 0x7f>"), UNSIGNED), "its certificate is not trusted: self-signed"),
        (caught(lambda: b"\xff".decode("utf-8")), "not UTF-8 text"),
        (subprocess.TimeoutExpired("x", 12.0), "no result within 12 s"),
        (ValueError("the form is wrong"), "the form is wrong"),
        (wrapped(ValueError("unusable certificate"), REFUSED), "unusable certificate"),
        (KeyError("metadata"), "it has no metadata"),
        (TypeError("'NoneType' object is not subscriptable"), "unexpected content"),
        (TreeError("it failed", "for a reason"), "it failed: for a reason"),
        (OSError("a text [Errno 5] of (_ssl.c:12) its own\n<x.Y object at 0x7f12>: now"), "a text of its own now"),
        (RuntimeError(), "unexpected runtime error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_an_error_in_words(error: BaseException, words: str) -> None:
    assert in_words(error) == words
    for mark in ("Errno", "_ssl", "Error(", "RemoteDisconnected", "0x", "object at"):
        assert mark not in in_words(error)


def test_a_loop_of_causes_ends() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert in_words(first) == "first"


# What only the system and libraries raise.
THEIRS = {
    *("OSError", "PermissionError", "FileNotFoundError", "ConnectionError", "TimeoutError", "EOFError", "TarError"),
    *("RequestException", "HTTPException", "HTTPError", "SSLError", "ClientError", "WebSocketException"),
    *("TimeoutExpired", "UnicodeDecodeError", "ForkException", "Exception", "BaseException"),
}


def raw(handler: ast.ExceptHandler) -> list[int]:
    """The lines where a handler puts its error into a text as it is."""
    found = []
    for node in ast.walk(handler):
        whole = None
        if isinstance(node, ast.FormattedValue):
            whole = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "repr"):
            whole = node.args[0]
        if isinstance(whole, ast.Name) and whole.id == handler.name:
            found.append(whole.lineno)
    return found


def test_no_message_has_an_error_of_others_as_it_is() -> None:
    """Mistakes of users are ValueErrors with words of ours; what else is caught goes through in_words()."""
    package = Path(lxdocker.__file__).parent
    places = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                parts = list(ast.walk(node.type))
                names = {one.id for one in parts if isinstance(one, ast.Name)}
                names |= {one.attr for one in parts if isinstance(one, ast.Attribute)}
                if names & THEIRS:
                    places += [f"{path.relative_to(package)}:{line}" for line in raw(node)]
    assert places == []


def test_ours_are_ours() -> None:
    assert in_words(LxdockerError("brief")) == "brief"
