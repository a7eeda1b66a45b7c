"""The connection to LXD, or to Incus in its place: requests, and operations in the background. The only importer of
pylxd.

Every wait here asks ``cancelled`` twice a second, so that Ctrl-C is answered at once. A daemon that hangs is given up:
in a minute as a rule, sooner after Ctrl-C, an import in a quarter of an hour.
LXD's REST API: https://documentation.ubuntu.com/lxd/latest/rest-api/.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lxdocker import log
from lxdocker.errors import HostError, LxdError
from lxdocker.lxd import operation as operations
from lxdocker.lxd.address import Https, UnixSocket, token_command
from lxdocker.lxd.daemon import Daemon
from lxdocker.lxd.dialect import Dialect
from lxdocker.lxd.operation import CONNECT_SECONDS, Ended, NoAnswerError, Operation
from lxdocker.reasons import LATE, in_words

if TYPE_CHECKING:
    import pylxd

CHUNK = 1 << 20  # bytes; one read or write of streamed content
# Time to connect, and to hear something: an import hashes and stores the whole image before it answers.
TIMEOUT = (10, 900)
SOON = (10, 60)  # the same for what LXD answers at once and then does in the background
HURRY = (10, 15)  # and for cleaning up, where the user asked to stop: what is left the next run removes

WHOLE = {"recursion": "1"}  # a list of things with what is known of them, not of their addresses

LOGGER = logging.getLogger("lxdocker.lxd")
TOLD = "told"


class Cancelled(LxdError):
    """The user asked to stop."""

    def __init__(self) -> None:
        super().__init__("stopped", "interrupted", "run the same command again: it takes up where this one ended")


class NotFoundError(LxdError):
    """LXD has no such thing."""


class _TooLongError(Exception):
    """The time for an operation is over."""


class Connection:
    """One daemon, safe to use from several threads."""

    def __init__(self, cancelled: threading.Event | None = None, daemon: Daemon | None = None) -> None:
        """This host's LXD, unless another ``daemon`` is wanted. Raises HostError when it does not answer, or not to
        this user.
        """
        self.cancelled = cancelled or threading.Event()
        self.daemon = daemon or Daemon.lxd(os.environ)
        self._local = threading.local()
        server = self._client().host_info
        if server.get("auth", "trusted") != "trusted":
            name = self.daemon.address.name
            here = f"lxc remote remove {name} && lxc remote add {name} TOKEN" if name else "lxdocker trust TOKEN"
            raise HostError(
                f"{self.daemon.product} at {self.daemon.address} does not trust this client",
                "the client's certificate has not been added there",
                f"on that host: {token_command()}; then here: {here}",
            )
        self.dialect = Dialect.of(server)

    def _client(self) -> pylxd.Client:
        """A client of this thread's own: pylxd's session is not made for several."""
        client = getattr(self._local, "client", None)
        if client is None:
            began = time.monotonic()
            client = self._local.client = _connect(self.daemon, self._patience(SOON))
            LOGGER.debug("+ %s # GET /1.0: 200, %s", self.client_command("query", self.named("/1.0")), log.took(began))
        return client

    def _patience(self, timeout: tuple[float, float]) -> tuple[float, float]:
        return HURRY if self.cancelled.is_set() else timeout

    def process(self, *, anew: bool = False) -> int:
        """The daemon's process id, which a restart changes: as this thread first saw it, or ``anew``."""
        server = self.get(what="looking for a restart", timeout=SOON) if anew else self._client().host_info
        return int(server["environment"].get("server_pid") or 0)

    def _request(
        self,
        method: str,
        path: Sequence[str],
        what: str,
        *,
        project: str | None = None,
        timeout: tuple[float, float] = TIMEOUT,
        params: Mapping[str, str] | None = None,
        by_hand: str = "",
        **arguments: Any,
    ) -> Any:
        """One API request. ``what`` names the attempt in error messages, ``by_hand`` is for the log: see _tell().
        Returns the response.

        Raises LxdError with LXD's own words.
        """
        from pylxd import exceptions
        from requests import RequestException

        node = self._client().api
        for part in path:
            node = node[urllib.parse.quote(part, safe="")]
        query = {**({"project": project} if project else {}), **(params or {})}
        command = self._tell(method, path, query, arguments.get("json"), by_hand)
        began, status = time.monotonic(), "no answer"
        try:
            response = getattr(node, method)(params=query, timeout=self._patience(timeout), **arguments)
            status = str(response.status_code)
            return response
        except exceptions.LXDAPIException as error:
            status = str(error.response.status_code)
            if isinstance(error, exceptions.NotFound):
                raise NotFoundError(f"{what} failed", str(error)) from error
            raise self._translated(what, str(error)) from error
        except (RequestException, OSError) as error:
            product = self.daemon.product
            raise NoAnswerError(
                f"{what} failed", f"no answer from {product}: {in_words(error)}", f"is {product} still running?"
            ) from error
        finally:
            LOGGER.debug("%s# %s %s: %s, %s", command, method.upper(), _resource(path), status, log.took(began))

    def client_command(self, *arguments: str) -> str:
        """A command of the daemon's own client, as a shell reads it, for the log."""
        return log.shell([self.daemon.client, *arguments])

    def named(self, text: str) -> str:
        """What a command of the client is about, where that is on a remote."""
        name = self.daemon.address.name
        return f"{name}:{text}" if name else text

    def _tell(self, method: str, path: Sequence[str], query: Mapping[str, str], body: Any, by_hand: str = "") -> str:
        """Logs a request that changes something before it is made, as the client's command that does the same; or
        ``by_hand``, where its ``query`` can't; TOLD is for one that was logged earlier. Returns the command for what is
        only asked, since that is logged with its answer.
        """
        if by_hand == TOLD or not LOGGER.isEnabledFor(logging.DEBUG if method == "get" else logging.INFO):
            return ""
        how = [] if method == "get" else ["--wait", "--request", method.upper()]
        content = [] if body is None else ["--data", json.dumps(body)]
        command = by_hand or self.client_command("query", *how, *content, self.named(_resource(path, query)))
        if method == "get":
            return f"+ {command} "
        LOGGER.info("+ %s", command)
        return ""

    def get(
        self,
        *path: str,
        what: str,
        project: str | None = None,
        timeout: tuple[float, float] = TIMEOUT,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """The ``metadata`` of a GET."""
        found = self._request("get", path, what, project=project, timeout=timeout, params=params).json()["metadata"]
        return [] if found is None and params == WHOLE else found  # some LXDs call an empty list null

    def begin(self, method: str, path: Sequence[str], what: str, **arguments: Any) -> Operation | None:
        """A request that changes something; the operation that it started, or None where it is done already. Which of
        them it is depends on the LXD. Arguments as for _request().
        """
        return Operation.of(self._request(method, path, what, **arguments).json())

    def change(
        self,
        method: str,
        path: Sequence[str],
        what: str,
        *,
        seconds: float = 300,
        cancellable: bool = True,
        **arguments: Any,
    ) -> None:
        """A request that changes something, until it is done."""
        operation = self.begin(method, path, what, **arguments)
        if operation is not None:
            self.wait(operation, what, seconds, cancellable=cancellable)

    def wait(
        self,
        operation: Operation,
        what: str,
        seconds: float = 300,
        check: Callable[[], None] | None = None,
        cancellable: bool = True,
    ) -> Ended:
        """Waits for the end of a background operation.

        Calls ``check`` about twice a second. Raises LxdError with LXD's own reason when it fails or takes longer than
        so many ``seconds``, Cancelled when the user asked to stop.
        """
        began, came_to = time.monotonic(), "nobody waits for it any more"
        deadline = began + seconds

        def look() -> None:
            if cancellable and self.cancelled.is_set():
                raise Cancelled
            if time.monotonic() > deadline:
                raise _TooLongError
            if check:
                check()

        resource = f"/1.0/operations/{urllib.parse.quote(operation.identifier, safe='')}/wait"
        failing = None  # since when waiting has failed
        try:
            while True:
                answer = operations.answer_of(self.daemon, resource, what, look)
                ended = self._ended(operation, answer, what)
                fails = ended is None and answer["type"] == "error"
                failing = (failing or time.monotonic()) if fails else None
                if failing and time.monotonic() > failing + operations.LOST_SECONDS:
                    ended = Ended(str(answer["error"]), {})
                if ended is not None:
                    came_to = ended.in_words
                    break
                time.sleep(operations.SLICE_SECONDS)  # it came before the end
        except _TooLongError:
            with contextlib.suppress(LxdError):
                self.begin("delete", operation.path, what, timeout=SOON)
            raise LxdError(f"{what} failed", f"it took longer than {seconds:.0f} s") from None
        finally:
            LOGGER.info("# operation %s, %s: %s, %s", operation.identifier, what, came_to, log.took(began))
        if ended.error:
            raise self._translated(what, ended.error)
        return ended

    def _ended(self, operation: Operation, answer: Any, what: str) -> Ended | None:
        """How an operation ended, by what the waiting was answered; None if it goes on."""
        try:
            if answer["type"] == "sync":
                return Ended.of(answer["metadata"])
            words = str(answer["error"])
        except (KeyError, TypeError, ValueError):
            product = self.daemon.product
            raise LxdError(f"{what} failed", f"unexpected answer from {product}: {answer!r:.200}") from None
        # Either the operation failed or the waiting did: the operation itself says which, for as long as LXD keeps it.
        try:
            return self.look_at(operation, what)
        except NotFoundError:
            return Ended(words, {})

    def look_at(self, operation: Operation, what: str) -> Ended | None:
        """How an operation ended; None if it goes on. Raises NotFoundError once LXD has forgotten it."""
        return Ended.of(self.get(*operation.path, what=what, timeout=SOON))

    def why_failed(self, operation: Operation, what: str) -> LxdError | None:
        """Why a background operation failed; None if it did not, or nobody knows."""
        with contextlib.suppress(LxdError):
            ended = self.look_at(operation, what)
            if ended and ended.error:
                return self._translated(what, ended.error)
        return None

    def _translated(self, what: str, message: str) -> LxdError:
        resolution = ""
        if any(words in message.lower() for words in ("no space left", "disk quota exceeded", "out of disk space")):
            product = self.daemon.product
            resolution = (
                f"free space in {product}'s storage pool or below {product}'s folder, then run the same command again"
            )
        return LxdError(f"{what} failed", message, resolution)

    def _chunks(self, response: Any, what: str) -> Iterator[bytes]:
        """A streamed answer's body. requests' own exceptions are OSErrors, which would pass for those of a file."""
        from requests import RequestException

        try:
            yield from response.iter_content(CHUNK)
        except RequestException as error:
            product = self.daemon.product
            why = f"{product}'s answer broke off: {in_words(error)}"
            raise NoAnswerError(f"{what} failed", why, f"is {product} still running?") from error

    def _until_cancelled(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.cancelled.is_set():
                raise Cancelled
            yield chunk


def _resource(path: Sequence[str], query: Mapping[str, str] | None = None) -> str:
    words = "".join(f"/{urllib.parse.quote(part, safe='')}" for part in ("1.0", *path))
    return f"{words}?{urllib.parse.urlencode(query)}" if query else words


def _connect(daemon: Daemon, timeout: tuple[float, float]) -> pylxd.Client:
    import pylxd
    from pylxd import exceptions
    from requests import RequestException

    product, address = daemon.product, daemon.address
    try:
        if isinstance(address, UnixSocket):
            address.path.stat()
            if not os.access(address.path, os.R_OK | os.W_OK):
                raise PermissionError
        session = address.session()
        # Each request on a connection of its own: newer LXDs hang up on an idle one, perhaps just as it is used again.
        session.headers["Connection"] = "close"
        return pylxd.Client(endpoint=address.endpoint, timeout=timeout, session=session)
    except FileNotFoundError:
        raise HostError(
            f"cannot connect to {product}", f"no socket at {address}", f"start it, or {daemon.install}"
        ) from None
    except PermissionError:
        raise HostError(
            f"cannot connect to {product}",
            f"permission denied: {address}",
            f"run as root, or join {product}'s group: sudo usermod -aG {daemon.group} $USER, then log in again",
        ) from None
    except exceptions.ClientConnectionFailed:
        if isinstance(address, UnixSocket):
            why = f"no answer on {address}"
            raise HostError(f"{product} is not running", why, f"start it: {daemon.start}") from None
        raise _why_not(product, address) from None
    except (exceptions.LXDAPIException, RequestException, ValueError, KeyError, TypeError) as error:
        if (why := in_words(error)) == LATE:
            within = f"{address}: none in {max(timeout):g} s"
            raise HostError(f"no answer from {product}", within, "check its log; if it hangs, restart it") from error
        where = f"whether {daemon.folder} names {product}'s folder" if isinstance(address, UnixSocket) else "its URL"
        raise HostError(
            f"unexpected answer from {product}", f"{address}: {why}", f"check its log, and {where}"
        ) from error


def _why_not(product: str, address: Https) -> HostError:
    """Why there was no answer, by another try."""
    what = f"cannot connect to {product} at {address}"
    listening = "see that it listens there (lxc config get core.https_address), and the way there"
    try:
        address.connect(CONNECT_SECONDS).close()
    except HostError as error:
        return error
    except ssl.SSLCertVerificationError as error:
        why = f"nobody vouches for its certificate: {error.verify_message}"
        return HostError(what, why, f"trust it: {address.trusting}")
    except OSError as error:
        return HostError(what, in_words(error), listening)
    return HostError(what, "it hung up", listening)
