"""Why something failed, in words: what errors of the system, of TLS and of HTTP libraries mean to a person.

What they print themselves has numbers, names of classes and lines of C in it: ``[Errno 111] Connection refused``,
``('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))``.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator

from lxdocker.errors import LxdockerError
from lxdocker.text import one_line

# What OpenSSL calls an answer that isn't TLS.
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})
SPEAKS_NO_TLS = "it does not speak TLS, but probably plain HTTP"
CLOSED = "the connection was closed"
LATE = "no answer in time"
_DEPTH = 8
# By name, since only some commands load the libraries that have them.
_LATE = {"ReadTimeout", "ConnectTimeout", "Timeout", "ReadTimeoutError", "ConnectTimeoutError", "TimeoutException"}
_CLOSED = {"ProtocolError", "ConnectionError", "ChunkedEncodingError", "IncompleteRead", "ConnectionClosed"}
# The marks of text that only a Python programmer understands.
_INTERNAL = re.compile(
    r"\[Errno -?\d+\] ?"
    r"|\s*\(?_ssl\.c:\d+\)?"
    r"|<[\w.]+(?:\([^<>]*\))? (?:object )?at 0x[0-9a-f]+>:? ?"
    r"|\b(?:[a-z_]\w*\.)*[A-Z]\w+(?:Error|Exception|Disconnected)\b(?=\()"
)


def in_words(error: BaseException) -> str:
    """One line without numbers of errors or names of classes. It names the file of an OSError that has one."""
    own_words = isinstance(error, ValueError) and not isinstance(error, UnicodeError | OSError)
    if isinstance(error, LxdockerError) or own_words:
        return _cleaned(error)
    if isinstance(error, LookupError):
        return f"it has no {_readable(str(error.args[0]))}" if error.args else "something is missing in it"
    if isinstance(error, TypeError | AttributeError):
        return "unexpected content"
    for part in _chain(error):
        if words := _known(part):
            return words
    return _cleaned(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The innermost errors first: libraries wrap the system's errors in their own."""
    found: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in found and len(found) < _DEPTH:
        found.append(seen)
        if isinstance(seen, OSError) and seen.strerror:
            break  # it says itself what there is to say
        inner = [*seen.args, getattr(seen, "reason", None)]
        nested = next((one for one in inner if isinstance(one, BaseException)), None)
        seen = nested or seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return reversed(found)


def _known(error: BaseException) -> str:
    """The words for an error of a known kind; nothing for others."""
    if isinstance(error, ssl.SSLError):
        return tls(error)
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.strerror:
        return system(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, TimeoutError) or names & _LATE:
        return LATE
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | EOFError | ConnectionError):
        return CLOSED
    if isinstance(error, http.client.HTTPException):
        return "its answer is not HTTP"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text" if error.encoding.lower().startswith("utf") else f"not {error.encoding} text"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no result within {error.timeout:g} s"
    if names & _CLOSED:
        return CLOSED
    return ""


def tls(error: ssl.SSLError) -> str:
    """Why TLS failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    reason = str(getattr(error, "reason", "") or "")  # which not all of them have
    if reason in NOT_TLS:
        return SPEAKS_NO_TLS
    return f"TLS failed: {_plain(reason) if reason else CLOSED}"


def system(error: OSError) -> str:
    """``PATH: No such file or directory``. ``error.strerror`` must be set."""
    files = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    words = error.strerror or ""
    return _readable(f"{' -> '.join(files)}: {words}" if files else words)


def _plain(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _cleaned(error: BaseException) -> str:
    return _readable(str(error)) or f"unexpected {re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', type(error).__name__).lower()}"


def _readable(text: str) -> str:
    return one_line(_INTERNAL.sub("", text)).strip()
