"""LXD that can't be used, and how that is said; everything else about LXD is tested with a real one."""

from __future__ import annotations

import contextlib
import gc
import http.server
import io
import json
import os
import socket
import socketserver
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from requests_toolbelt import MultipartEncoder

from lxdocker import lxd
from lxdocker.errors import HostError, LxdError, LxdockerError
from lxdocker.lxd import CHUNK, Cancelled, Lxd, NotFoundError
from lxdocker.values import Fingerprint
from tests.examples import fingerprint
from tests.forked import NOBODY, in_child

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What LXD_DIR names."""
    monkeypatch.setenv("LXD_DIR", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def sockets_left_open() -> Iterator[None]:
    """pylxd leaves a socket that it could not connect to the garbage collector, which warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def refusal() -> tuple[str, str, str]:
    with sockets_left_open():
        try:
            Lxd()
        except HostError as error:
            said = (error.brief, error.details, error.resolution)
    return said


# ---- no LXD


def test_no_socket_means_not_installed_or_not_started(folder: Path) -> None:
    brief, details, resolution = refusal()
    assert brief == "LXD is not there"
    assert details == f"no socket at {folder}/unix.socket"
    assert "snap install lxd" in resolution
    assert "lxd init --minimal" in resolution


def test_a_socket_that_nobody_listens_on_means_not_running(folder: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(folder / "unix.socket"))
    brief, details, resolution = refusal()
    assert brief == "LXD is not running"
    assert details == f"nothing answers on {folder}/unix.socket"
    assert "systemctl start lxd" in resolution


def test_something_that_is_no_socket_means_not_running_either(folder: Path) -> None:
    (folder / "unix.socket").write_text("")
    assert refusal()[0] == "LXD is not running"


@needs_root
@pytest.mark.parametrize("closed", ["socket", "folder"])
def test_no_permission_means_not_in_the_group(closed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Not below pytest's folder, which is closed to others altogether.
    with contextlib.ExitStack() as cleanup:
        place = Path(f"/tmp/lxdocker-test-{os.getpid()}")
        place.mkdir()
        cleanup.callback(place.rmdir)
        path = place / "unix.socket"
        listening = cleanup.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        listening.bind(str(path))
        cleanup.callback(path.unlink)
        listening.listen()
        place.chmod(0o755 if closed == "socket" else 0o700)
        path.chmod(0o660 if closed == "socket" else 0o666)
        monkeypatch.setenv("LXD_DIR", str(place))
        brief, details, resolution = in_child(refusal, uid=NOBODY)
    assert brief == "LXD does not let you in"
    assert details == f"no permission on {place}/unix.socket"
    assert "usermod -aG lxd" in resolution


def test_the_socket_is_where_pylxd_looks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Lxd.socket_path() == folder / "unix.socket"
    monkeypatch.delenv("LXD_DIR")
    assert str(Lxd.socket_path()) in {"/var/lib/lxd/unix.socket", "/var/snap/lxd/common/lxd/unix.socket"}


# ---- answers, as they should be and not


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers on LXD's socket with what a test wants it to say; a real one never says some of it."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.say(
            "GET /1.0",
            {"auth": "trusted", "api_status": "stable", "api_extensions": [], "environment": {"server": "lxd"}},
        )
        super().__init__(str(path), self.Handler)

    def say(self, request: str, metadata: Any, status: int = 200) -> None:
        body = {"type": "sync", "status_code": status, "metadata": metadata}
        self.answers[request] = (status, json.dumps(body).encode())

    def refuse(self, request: str, message: str, status: int = 500) -> None:
        body = {"type": "error", "error": message, "error_code": status}
        self.answers[request] = (status, json.dumps(body).encode())

    def start(self, request: str, operation: str, *, status_code: int, err: str = "") -> None:
        """``request`` starts an operation, which has come to ``status_code`` when asked."""
        body = {"type": "async", "status_code": 100, "operation": f"/1.0/operations/{operation}?project=p"}
        self.answers[request] = (202, json.dumps(body).encode())
        self.say(
            f"GET /1.0/operations/{operation}/wait",
            {"status_code": status_code, "status": "Running" if status_code < 200 else "Failure", "err": err},
        )

    def handle_error(self, request: object, client_address: object) -> None:
        """The client is gone."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "client"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
            """Silent."""

        def answer(self) -> None:
            assert isinstance(self.server, Daemon)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = f"{self.command} {self.path.split('?')[0]}"
            self.server.asked.append(f"{self.command} {self.path}")
            not_found = {"type": "error", "error": "not found", "error_code": 404}
            status, body = self.server.answers.get(request, (404, json.dumps(not_found).encode()))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = answer


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    with Daemon(folder / "unix.socket") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>hello</html>"), (200, b"{}"), (200, b"[]"), (500, b"oops"), (404, b"")],
    ids=["html", "empty", "list", "error", "missing"],
)
def test_something_else_than_lxd_on_its_socket(daemon: Daemon, answer: tuple[int, bytes]) -> None:
    daemon.answers["GET /1.0"] = answer
    brief, details, resolution = refusal()
    assert brief == "LXD does not answer as LXD does"
    assert "unix.socket" in details
    assert "LXD_DIR" in resolution


def test_what_lxd_says_is_told(daemon: Daemon) -> None:
    daemon.refuse("GET /1.0/images", "the database is sad")
    with pytest.raises(LxdError) as caught:
        Lxd().images("p")
    assert str(caught.value) == "listing images of project p failed: the database is sad"


@pytest.mark.parametrize("words", ["write /x: no space left on device", "Disk quota exceeded"])
def test_a_full_pool_is_explained(daemon: Daemon, words: str) -> None:
    daemon.start("DELETE /1.0/images/" + fingerprint("x").value, "1", status_code=400, err=words)
    with pytest.raises(LxdError) as caught:
        Lxd().delete_image("p", fingerprint("x"))
    assert caught.value.details == words
    assert caught.value.resolution.startswith("free space in LXD's storage pool")


def test_what_is_gone_already_is_fine(daemon: Daemon) -> None:
    client = Lxd()
    assert client.image("p", fingerprint("x")) is None
    client.delete_image("p", fingerprint("x"))
    client.delete_alias("p", "web")
    assert len(daemon.asked) == 4


def test_names_can_t_lead_anywhere_else(daemon: Daemon) -> None:
    with pytest.raises(NotFoundError):
        Lxd().profile("p", "../instances/x?y")
    assert daemon.asked[-1].startswith("GET /1.0/profiles/..%2Finstances%2Fx%3Fy?")


def test_a_daemon_that_is_gone_in_the_middle(folder: Path, daemon: Daemon) -> None:
    client = Lxd()
    (folder / "unix.socket").unlink()
    with sockets_left_open():
        try:
            client.images("p")
        except LxdError as error:
            said = (error.brief, error.details)
    assert said[0] == "listing images of project p failed"
    assert said[1].startswith("no answer from LXD: ")


def test_images_come_with_whatever_lxd_knows_of_them(daemon: Daemon) -> None:
    full = {
        "fingerprint": fingerprint("a").value,
        "properties": {"os": "x"},
        "aliases": [{"name": "a"}, {"name": "b"}],
        "size": 5,
        "uploaded_at": "2026-01-02T03:04:05Z",
    }
    daemon.say("GET /1.0/images", [full, {"fingerprint": fingerprint("b").value, "properties": None, "aliases": None}])
    first, second = Lxd().images("p")
    assert (first.aliases, first.properties, first.size) == (("a", "b"), {"os": "x"}, 5)
    assert (second.aliases, second.properties, second.size) == ((), {}, 0)
    assert daemon.asked[-1] == "GET /1.0/images?project=p&recursion=1"


# ---- waiting


def test_waiting_ends_at_the_deadline_and_the_operation_is_ended(daemon: Daemon) -> None:
    daemon.start("POST /1.0/images", "7", status_code=103)
    client = Lxd()
    ticks: list[None] = []
    response = client.request("post", ("images",), "work")
    with pytest.raises(LxdError, match="it took longer than 0 s"):
        client.wait(response, "work", timeout=0, tick=lambda: ticks.append(None))
    assert "DELETE /1.0/operations/7" in daemon.asked[-1]


def test_waiting_ends_when_the_user_has_had_enough(daemon: Daemon) -> None:
    daemon.start("POST /1.0/images", "7", status_code=103)
    cancelled = threading.Event()
    client = Lxd(cancelled)
    response = client.request("post", ("images",), "work")

    def tick() -> None:
        cancelled.set()

    with pytest.raises(Cancelled):
        client.wait(response, "work", tick=tick)
    # Cleaning up is not cut short.
    daemon.start("POST /1.0/images", "8", status_code=200)
    assert client.wait(client.request("post", ("images",), "work"), "work", cancellable=False)["status_code"] == 200


def test_stopping_takes_up_where_it_ended() -> None:
    error = Cancelled()
    assert isinstance(error, LxdockerError)
    assert "run the same command again" in error.resolution


@pytest.mark.parametrize("reason", [Cancelled(), KeyboardInterrupt()])
def test_a_builder_that_is_no_longer_wanted_is_made_before_it_is_deleted(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, reason: BaseException
) -> None:
    """LXD shows it only once it has begun: deleted before that, it would come afterwards. A download is ended."""
    daemon.start("POST /1.0/instances", "1", status_code=200)
    client = Lxd()
    real, reasons = client._operation, [reason]

    def operation(identifier: str, what: str) -> Any:
        if reasons:
            raise reasons.pop()
        return real(identifier, what)

    monkeypatch.setattr(client, "_operation", operation)
    with pytest.raises(type(reason)):
        client.create_instance("p", {"name": "builder-1"})
    asked = [one.split("?")[0] for one in daemon.asked[-3:]]
    assert asked == ["POST /1.0/instances", "DELETE /1.0/operations/1", "GET /1.0/operations/1/wait"]


# ---- pieces


def test_a_file_is_not_written_on_when_the_user_has_had_enough(daemon: Daemon) -> None:
    cancelled = threading.Event()
    written = Lxd(cancelled)._until_cancelled(iter([b"one", b"two", b"three"]))
    assert [next(written), next(written)] == [b"one", b"two"]
    cancelled.set()
    with pytest.raises(Cancelled):
        next(written)


def test_an_upload_is_handed_out_a_mebibyte_at_a_time() -> None:
    content = os.urandom(3 * CHUNK)
    body = lxd._Blocks(MultipartEncoder([("rootfs", ("rootfs", io.BytesIO(content), "application/octet-stream"))]))
    length = len(body)
    sizes = []
    whole = b""
    while chunk := body.read(16384):  # what http.client asks for
        sizes.append(len(chunk))
        whole += chunk
    assert len(whole) == length
    assert content in whole
    assert max(sizes) == CHUNK
    assert len(sizes) == 4


def test_a_fingerprint_is_taken_as_lxd_gives_it() -> None:
    assert lxd._stored_image({"fingerprint": "a" * 64}).fingerprint == Fingerprint("a" * 64)
