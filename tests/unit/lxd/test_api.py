"""LXD that can't be used, and how that is said; everything else about LXD is tested with a real one."""

from __future__ import annotations

import contextlib
import gc
import http.server
import io
import json
import os
import re
import shlex
import socket
import socketserver
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from requests_toolbelt import MultipartEncoder

from lxdocker import errors
from lxdocker.builder import image as builder_image
from lxdocker.config.settings import Settings
from lxdocker.errors import HostError, LxdError, LxdockerError
from lxdocker.lxd import connection, images
from lxdocker.lxd import daemon as daemons
from lxdocker.lxd import operation as operations
from lxdocker.lxd.address import UnixSocket
from lxdocker.lxd.api import Cancelled, Lxd, NotFoundError
from lxdocker.lxd.connection import CHUNK
from lxdocker.lxd.operation import SLICE_SECONDS, NoAnswerError, Operation
from lxdocker.values import Fingerprint
from tests import recorded
from tests.examples import fingerprint
from tests.forked import NOBODY, in_child
from tests.recorded import Recorded

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
    assert brief == "cannot connect to LXD"
    assert details == f"no socket at {folder}/unix.socket"
    assert "snap install lxd" in resolution
    assert "lxd init --minimal" in resolution


def test_a_socket_that_nobody_listens_on_means_not_running(folder: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(folder / "unix.socket"))
    brief, details, resolution = refusal()
    assert brief == "LXD is not running"
    assert details == f"no answer on {folder}/unix.socket"
    assert "systemctl start lxd" in resolution


def test_a_socket_that_nobody_answers_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SOON", (0.3, 0.3))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as hung:
        hung.bind(str(folder / "unix.socket"))
        hung.listen()
        brief, details, resolution = refusal()
    assert (brief, details) == ("no answer from LXD", f"{folder}/unix.socket: none in 0.3 s")
    assert "restart it" in resolution


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
    assert brief == "cannot connect to LXD"
    assert details == f"permission denied: {place}/unix.socket"
    assert "usermod -aG lxd" in resolution


def test_the_socket_is_where_pylxd_looks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert daemons.Daemon.lxd(os.environ).address == UnixSocket(folder / "unix.socket")
    monkeypatch.delenv("LXD_DIR")
    assert str(daemons.Daemon.lxd(os.environ).address) in {
        "/var/lib/lxd/unix.socket",
        "/var/snap/lxd/common/lxd/unix.socket",
    }


def test_an_incus_that_can_t_be_used_is_called_so(folder: Path) -> None:
    incus = daemons.Daemon.incus({"INCUS_DIR": str(folder)})
    with sockets_left_open():
        with pytest.raises(HostError, match="cannot connect to Incus") as missing:
            Lxd(daemon=incus)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
            dead.bind(str(incus.address))
        with pytest.raises(HostError, match="Incus is not running") as silent:
            Lxd(daemon=incus)
    assert "incus admin init" in missing.value.resolution
    assert "systemctl start incus" in silent.value.resolution


# ---- answers, as they should be and not


class Work:
    """A background operation of the daemon below."""

    def __init__(self, status_code: int, err: str) -> None:
        self.status_code = status_code
        self.err = err
        self.over = threading.Event()
        self.forgotten = False
        if status_code >= 200:
            self.over.set()

    def end(self, status_code: int = 200, err: str = "") -> None:
        self.status_code, self.err = status_code, err
        self.over.set()


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers on LXD's socket with what a test wants it to say, in the form that a real LXD was seen to use."""

    daemon_threads = True

    def __init__(self, path: Path, lxd: Recorded) -> None:
        self.lxd = lxd
        self.answers: dict[str, tuple[int, bytes]] = {"GET /1.0": self._encoded("server")}
        self.work: dict[str, Work] = {}
        self.asked: list[str] = []
        super().__init__(str(path), self.Handler)

    def _encoded(self, key: str, **changes: Any) -> tuple[int, bytes]:
        status, body = self.lxd.like(key, **changes)
        return status, json.dumps(body).encode()

    def say(self, request: str, metadata: Any) -> None:
        self.answers[request] = self._encoded("look at a success", metadata=metadata)

    def refuse(self, request: str, message: str, status: int = 500) -> None:
        _, body = self._encoded("missing", error=message, error_code=status)
        self.answers[request] = (status, body)

    def answer(self, request: str, key: str) -> None:
        """``request`` is answered as that which was recorded."""
        self.answers[request] = self._encoded(key)

    def start(self, request: str, operation: str, *, status_code: int = 200, err: str = "") -> Work:
        """``request`` starts an operation, which comes to ``status_code``; below 200 when the test says so."""
        path = f"/1.0/operations/{operation}"
        self.answers[request] = self._encoded("create instance", operation=f"{path}?project=p")
        self.work[path] = work = Work(status_code, err)
        return work

    def change(self, request: str, key: str, *, err: str = "") -> bool:
        """``request`` is answered as what was recorded under ``key``; an operation ends with ``err``. Returns whether
        there is one.
        """
        self.answer(request, key)
        document = json.loads(self.answers[request][1])
        if document["type"] == "async":
            self.start(request, "change", status_code=400 if err else 200, err=err)
        return bool(document["type"] == "async")

    def look_at(self, work: Work) -> tuple[int, bytes]:
        if work.forgotten:
            return self._encoded("unknown operation")
        key = {200: "a success", 400: "a failure"}.get(work.status_code, "what runs")
        return self._encoded(f"look at {key}", metadata=self._document(f"look at {key}", work))

    def removal(self, name: str, description: str = "Stopping instance") -> Any:
        """The document of an operation that is removing an instance; or does something else with it."""
        text = json.dumps(self.lxd.answers["start instance"][1]["metadata"])
        return {
            **json.loads(text.replace("/1.0/instances/recorded", f"/1.0/instances/{name}?project=p")),
            "description": description,
        }

    def _document(self, key: str, work: Work) -> Any:
        document = self.lxd.answers[key][1]["metadata"]
        return {**document, "status_code": work.status_code, "err": work.err, "metadata": {"return": 7}}

    @property
    def says_the_header_at_once(self) -> bool:
        return bool(self.lxd.answers["wait for a failure"][1]["type"] == "error")

    def after(self, work: Work, seconds: float) -> tuple[int, bytes]:
        """What waiting for an operation is answered, and when."""
        if not work.over.wait(seconds if seconds >= 0 else 30):
            key = "wait in vain"
        elif work.status_code != 200:
            key = "wait for a failure"
        else:
            key = "wait for a success"
        if self.lxd.answers[key][1]["type"] == "sync":
            return self._encoded(key, metadata=self._document(key, work))
        return self._encoded(key, **({"error": work.err} if work.over.is_set() else {}))

    def handle_error(self, request: object, client_address: object) -> None:
        """The client is gone."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "client"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
            """Silent."""

        def answer(self) -> None:
            daemon = self.server
            assert isinstance(daemon, Daemon)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            request = f"{self.command} {url.path}"
            daemon.asked.append(f"{self.command} {self.path}")
            work = daemon.work.get(url.path.removesuffix("/wait"))
            if request not in daemon.answers and work and self.command == "GET":
                if url.path.endswith("/wait"):
                    if work.forgotten:
                        self.send(*daemon.look_at(work))
                        return
                    early = daemon.says_the_header_at_once
                    if early:
                        self.head(200)
                        self.wfile.flush()
                    status, body = daemon.after(work, float(parse_qs(url.query).get("timeout", ["-1"])[0]))
                    if not early:
                        self.head(status)
                    self.wfile.write(body)
                else:
                    self.send(*daemon.look_at(work))
                return
            self.send(*daemon.answers.get(request) or daemon._encoded("missing"))

        def head(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()

        def send(self, status: int, body: bytes) -> None:
            self.head(status)
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = answer


@contextlib.contextmanager
def at_work(server: Daemon) -> Iterator[None]:
    """The server answers, for as long as the block takes."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        for work in server.work.values():
            work.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(params=recorded.every(), ids=str)
def daemon(folder: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Speaks as one of the LXDs that people run, and each test is run with each."""
    with Daemon(folder / "unix.socket", request.param) as server, at_work(server):
        yield server


def test_answers_of_every_lxd_that_people_run_were_recorded() -> None:
    versions = [lxd.version for lxd in recorded.every()]
    assert versions == ["5.0.2", "5.0.9", "5.21.7", "6.9", "6.10"]
    first = set(recorded.every()[0].answers)
    assert all(set(lxd.answers) == first for lxd in recorded.every())
    registries = [lxd.version for lxd in recorded.every() if "image_registries" in lxd.server["api_extensions"]]
    assert registries == ["6.10"]


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>hello</html>"), (200, b"{}"), (200, b"[]"), (500, b"oops"), (404, b"")],
    ids=["html", "empty", "list", "error", "missing"],
)
def test_something_else_than_lxd_on_its_socket(daemon: Daemon, answer: tuple[int, bytes]) -> None:
    daemon.answers["GET /1.0"] = answer
    brief, details, resolution = refusal()
    assert brief == "unexpected answer from LXD"
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


def test_another_daemon_is_spoken_to_on_its_own_socket_and_by_its_own_name(
    folder: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    incus = daemons.Daemon.incus({"INCUS_SOCKET": str(folder / "unix.socket")})
    monkeypatch.setenv("LXD_DIR", "/nonexistent")
    daemon.refuse("GET /1.0/images", "no space left on device")
    with pytest.raises(LxdError) as full:
        Lxd(daemon=incus).images("default")
    assert full.value.resolution.startswith("free space in Incus's storage pool")
    client = Lxd(daemon=incus)
    Path(str(incus.address)).unlink()
    for ask in (lambda: client.images("p"), lambda: client.wait(Operation("7", {}), "work")):
        with sockets_left_open(), pytest.raises(LxdError, match="no answer from Incus") as gone:
            ask()
        assert gone.value.resolution == "is Incus still running?"


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


def begun(client: Lxd) -> Operation:
    operation = client.begin("post", ("images",), "work")
    assert operation is not None
    return operation


def test_waiting_for_what_takes_its_time(daemon: Daemon) -> None:
    work = daemon.start("POST /1.0/images", "7", status_code=103)
    client = Lxd()
    operation = begun(client)
    later = threading.Timer(3 * SLICE_SECONDS, work.end)
    later.start()
    assert client.wait(operation, "work").metadata == {"return": 7}
    later.join()
    assert [one for one in daemon.asked if "/operations/" in one] == ["GET /1.0/operations/7/wait"]  # asked once


def test_why_an_operation_failed_is_lxds_own_reason(daemon: Daemon) -> None:
    work = daemon.start("POST /1.0/images", "7", status_code=103)
    client = Lxd()
    operation = begun(client)
    later = threading.Timer(SLICE_SECONDS, work.end, (400, "the pool is sad"))
    later.start()
    with pytest.raises(LxdError) as caught:
        client.wait(operation, "work")
    later.join()
    assert str(caught.value) == "work failed: the pool is sad"
    why = client.why_failed(operation, "work")
    assert str(why) == "work failed: the pool is sad"


def test_why_an_operation_failed_that_lxd_has_forgotten_since(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    work = daemon.start("POST /1.0/images", "7", status_code=400, err="the pool is sad")
    client = Lxd()
    operation = begun(client)
    real = client.look_at

    def forgotten(*arguments: Any) -> Any:
        work.forgotten = True
        return real(*arguments)

    monkeypatch.setattr(client, "look_at", forgotten)
    with pytest.raises(LxdError, match="work failed: the pool is sad"):
        client.wait(operation, "work")
    assert client.why_failed(operation, "work") is None


def test_an_operation_that_lxd_does_not_know(daemon: Daemon) -> None:
    client = Lxd()
    with pytest.raises(LxdError, match=r"work failed: .*not found"):
        client.wait(Operation("8", {}), "work")


def test_an_answer_that_comes_before_the_end_is_no_end(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 5.0.2 would give one to who sets a time, and others may at any time."""
    work = daemon.start("POST /1.0/images", "7", status_code=103)
    client = Lxd()
    operation = begun(client)
    real, answers = daemon.after, []

    def hasty(one: Work, seconds: float) -> tuple[int, bytes]:
        answers.append(one.status_code)
        return real(one, 0) if len(answers) < 3 else real(one, seconds)

    monkeypatch.setattr(daemon, "after", hasty)
    later = threading.Timer(4 * SLICE_SECONDS, work.end)
    later.start()
    assert client.wait(operation, "work").error == ""
    later.join()
    assert len(answers) == 3


def test_an_operation_whose_member_is_gone(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """After LXD 6.9, it stays in the cluster's database, as running."""
    monkeypatch.setattr(operations, "LOST_SECONDS", 1)
    work = daemon.start("POST /1.0/images", "7", status_code=103)
    client = Lxd()
    operation = begun(client)
    lost = {"type": "error", "error": "connect to member two: connection refused", "error_code": 503}
    daemon.answers["GET /1.0/operations/7/wait"] = (503, json.dumps(lost).encode())
    with pytest.raises(LxdError, match="work failed: connect to member two: connection refused"):
        client.wait(operation, "work")
    # It may come back in time.
    monkeypatch.setattr(operations, "LOST_SECONDS", 30)
    threading.Timer(0.7, lambda: daemon.answers.pop("GET /1.0/operations/7/wait")).start()
    threading.Timer(1.5, work.end).start()
    assert client.wait(operation, "work").error == ""


def test_a_daemon_that_hangs_up_while_it_is_waited_for(daemon: Daemon) -> None:
    daemon.start("POST /1.0/images", "7", status_code=103)
    client = Lxd()
    operation = begun(client)
    daemon.answers["GET /1.0/operations/7/wait"] = (200, b"")
    with pytest.raises(NoAnswerError, match="work failed: no answer from LXD") as caught:
        client.wait(operation, "work")
    assert caught.value.resolution == "is LXD still running?"


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"type": "sync", "metadata": null}', b'"oops"'])
def test_what_is_no_answer_to_waiting(daemon: Daemon, answer: bytes) -> None:
    daemon.answers["GET /1.0/operations/7/wait"] = (200, answer)
    with pytest.raises(LxdError, match="unexpected answer from LXD"):
        Lxd().wait(Operation("7", {}), "work")


def test_waiting_ends_at_the_deadline_and_the_operation_is_ended(daemon: Daemon) -> None:
    daemon.start("POST /1.0/images", "7", status_code=103)
    client = Lxd()
    checks: list[None] = []
    with pytest.raises(LxdError, match="it took longer than 1 s"):
        client.wait(begun(client), "work", 1, check=lambda: checks.append(None))
    assert len(checks) >= 2
    assert "DELETE /1.0/operations/7" in daemon.asked[-1]


def test_waiting_ends_when_the_user_has_had_enough(daemon: Daemon) -> None:
    daemon.start("POST /1.0/images", "7", status_code=103)
    cancelled = threading.Event()
    client = Lxd(cancelled)
    operation = begun(client)
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.monotonic())
        cancelled.set()

    later = threading.Timer(SLICE_SECONDS, press)
    later.start()
    with pytest.raises(Cancelled):
        client.wait(operation, "work")
    assert time.monotonic() - pressed[0] < 2 * SLICE_SECONDS + 1  # not at the operation's end, 30 s later
    # Cleaning up is not cut short.
    daemon.start("POST /1.0/images", "8", status_code=200)
    assert client.wait(begun(client), "work", cancellable=False).error == ""


def test_stopping_takes_up_where_it_ended() -> None:
    error = Cancelled()
    assert isinstance(error, LxdockerError)
    assert "run the same command again" in error.resolution


# ---- what is one answer to some LXDs and an operation to others


PROFILE = {"description": "new", "config": {}, "devices": {}}
FILES = "GET /1.0/instances/i/files"


def test_a_changed_profile_is_waited_for(daemon: Daemon) -> None:
    daemon.say("GET /1.0/profiles/x", {**PROFILE, "description": "old"})
    background = daemon.change("PUT /1.0/profiles/x", "change profile")
    Lxd().ensure_profile("p", "x", PROFILE)
    assert background is ("storage_and_profile_operations" in daemon.lxd.server["api_extensions"])
    assert ("GET /1.0/operations/change/wait" in daemon.asked) is background


def test_a_profile_that_lxd_refuses_is_told(daemon: Daemon) -> None:
    daemon.say("GET /1.0/profiles/x", {**PROFILE, "description": "old"})
    if not daemon.change("PUT /1.0/profiles/x", "change profile", err="no such limit"):
        daemon.refuse("PUT /1.0/profiles/x", "no such limit", 400)
    with pytest.raises(LxdError, match="updating profile x failed: no such limit"):
        Lxd().ensure_profile("p", "x", PROFILE)


@pytest.mark.parametrize("kind", ["project", "profile", "volume"])
def test_what_another_was_faster_to_create(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = {"project": "/1.0/projects", "profile": "/1.0/profiles"}.get(kind, "/1.0/storage-pools/s/volumes/custom")
    client = Lxd()
    real = client.begin

    def begin(*arguments: Any, **named: Any) -> Any:
        daemon.say(f"GET {path}/x", PROFILE)
        return real(*arguments, **named)

    monkeypatch.setattr(client, "begin", begin)
    daemon.answer(f"POST {path}", f"create {kind} again")
    match kind:
        case "project":
            client.ensure_project("x", "", {})
        case "profile":
            client.ensure_profile("p", "x", PROFILE)
        case _:
            client.ensure_volume("p", "s", "x", "")
    assert [one.split("?")[0] for one in daemon.asked[-3:]] == [f"GET {path}/x", f"POST {path}", f"GET {path}/x"]


def test_everything_that_changes_something_is_waited_for(daemon: Daemon) -> None:
    """Whatever the LXD, since what answers at once today may be an operation to the next."""
    x = fingerprint("x")
    client = Lxd()
    daemon.say(FILES, [])
    changes: dict[str, Callable[[], object]] = {
        f"PATCH /1.0/images/{x.value}": lambda: client.set_image_properties("p", x, {}),
        f"DELETE /1.0/images/{x.value}": lambda: client.delete_image("p", x),
        "PUT /1.0/images/aliases/a": lambda: client.set_alias("p", "a", x),
        "DELETE /1.0/images/aliases/a": lambda: client.delete_alias("p", "a"),
        "POST /1.0/projects": lambda: client.ensure_project("n", "", {}),
        "POST /1.0/profiles": lambda: client.ensure_profile("p", "n", PROFILE),
        "POST /1.0/storage-pools/s/volumes/custom": lambda: client.ensure_volume("p", "s", "n", ""),
        "PATCH /1.0/instances/i": lambda: client.adding_devices("p", "i", {"d": {}})(),
        "POST /1.0/instances/i/files": lambda: client.push("p", "i", "/x", b""),
        "POST /1.0/instances": lambda: client.create_instance("p", {"name": "i"}),
    }
    for request, change in changes.items():
        daemon.start(request, "late", status_code=400, err=f"no {request}")
        with pytest.raises(LxdError, match=f"no {request}"):
            change()


# ---- the server of base images


def test_the_server_of_base_images_is_a_registry_where_lxd_has_registries(daemon: Daemon) -> None:
    settings = Settings(Path("specs"), Path("tree"), builder_server="https://images.example/", builder_base="debian/13")
    registry = {"name": "ours", "protocol": "simplestreams", "config": {"url": "https://images.example"}}
    cluster = {"name": "other", "protocol": "lxd", "config": {"cluster": "x"}}
    daemon.say("GET /1.0/image-registries", [cluster, registry])
    source = builder_image._server(Lxd(), settings)
    if "image_registries" in daemon.lxd.server["api_extensions"]:
        assert source == {"image_registry": "ours"}
        daemon.say("GET /1.0/image-registries", [cluster])
        with pytest.raises(HostError, match=r"has no image registry for .* https://images\.example/") as caught:
            builder_image._server(Lxd(), settings)
        command = "lxc image registry create NAME --protocol simplestreams url=https://images.example/"
        assert command in caught.value.resolution
    else:
        assert source == {"protocol": "simplestreams", "server": "https://images.example/"}
        assert not any("image-registries" in one for one in daemon.asked)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Get https://x: x509: certificate signed by unknown authority", "trusts the certificate of builder_server"),
        ("The requested image couldn't be found", "name another base"),
        ("dial tcp: lookup images.example: no such host", "check that LXD reaches builder_server"),
        ("the database is sad", "name another base"),
    ],
)
def test_what_to_do_about_a_base_image_that_can_t_be_had(said: str, remedy: str) -> None:
    found = errors.remedy(said, builder_image.USUAL_FAILURES, builder_image.ANOTHER_BASE)
    assert remedy in found


# ---- instances


def test_an_instance_is_created_and_started(daemon: Daemon) -> None:
    daemon.start("POST /1.0/instances", "1")
    daemon.start("PUT /1.0/instances/i/state", "2")
    Lxd().create_instance("p", {"name": "i"})
    asked = [one.split("?")[0] for one in daemon.asked[1:]]
    at_once = ["POST /1.0/instances", "GET /1.0/operations/1/wait"]
    then = ["PUT /1.0/instances/i/state", "GET /1.0/operations/2/wait"]
    in_one = "instance_create_start" in daemon.lxd.server["api_extensions"]
    assert asked == (at_once if in_one else at_once + then)


def test_an_instances_creation_is_not_called_its_start(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.start("POST /1.0/instances", "1")
    daemon.start("PUT /1.0/instances/i/state", "2")
    with caplog.at_level("INFO", "lxdocker"):
        Lxd().create_instance("p", {"name": "i"})
    told = [word for word in ("creating builder i", "starting builder i") if word in caplog.text]
    in_one = "instance_create_start" in daemon.lxd.server["api_extensions"]
    assert told == (["starting builder i"] if in_one else ["creating builder i", "starting builder i"])


def test_an_instance_is_stopped_and_deleted(daemon: Daemon) -> None:
    daemon.start("DELETE /1.0/instances/i", "1")
    daemon.start("PUT /1.0/instances/i/state", "2")
    Lxd().delete_instance("p", "i")
    in_one = "instance_force_delete" in daemon.lxd.server["api_extensions"]
    assert [one.partition("?")[0] for one in daemon.asked[1:] if "/operations/" not in one] == (
        ["DELETE /1.0/instances/i"] if in_one else ["PUT /1.0/instances/i/state", "DELETE /1.0/instances/i"]
    )
    assert any("force=1" in one for one in daemon.asked) is in_one


def test_a_file_is_written_once_lxds_server_for_files_answers(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when idle, and LXD then removes the socket of the next."""
    daemon.refuse(FILES, "dial unix /proc/self/fd/344/forkfile.sock: connect: no such file or directory")
    daemon.change("POST /1.0/instances/i/files", "change profile")
    client = Lxd()
    real = client.get

    def get(*arguments: Any, **named: Any) -> Any:
        try:
            return real(*arguments, **named)
        finally:
            daemon.say(FILES, [])

    monkeypatch.setattr(client, "get", get)
    client.push("p", "i", "/x", b"once")
    asked = [one.partition("?")[0] for one in daemon.asked[1:] if "/operations/" not in one]
    assert asked == [FILES, FILES, "POST /1.0/instances/i/files"]


def test_a_server_for_files_that_never_answers_is_told(daemon: Daemon) -> None:
    daemon.refuse(FILES, "forkfile.sock: connect: no such file or directory")
    with pytest.raises(LxdError, match="writing /x to i failed: forkfile"):
        Lxd().push("p", "i", "/x", iter([b"never"]))
    assert not any(one.startswith("POST") for one in daemon.asked)


def test_one_request_has_lxd_remove_an_instance(daemon: Daemon) -> None:
    """And nobody waits for the end."""
    in_one = "instance_force_delete" in daemon.lxd.server["api_extensions"]
    request = "DELETE /1.0/instances/i" if in_one else "PUT /1.0/instances/i/state"
    work = daemon.start(request, "1", status_code=103)
    client = Lxd()
    operation = client.begin_removal("p", "i")
    assert [one.partition("?")[0] for one in daemon.asked[1:]] == [request]
    assert operation is not None
    assert client.look_at(operation, "work") is None
    work.end(400, "it is busy")
    ended = client.look_at(operation, "work")
    assert ended is not None
    assert ended.error == "it is busy"
    assert client.begin_removal("p", "gone") is None


def test_which_instances_lxd_is_removing(daemon: Daemon) -> None:
    over = {**daemon.removal("over"), "status_code": 200}
    running = [daemon.removal("a"), daemon.removal("b", "Deleting instance"), daemon.removal("c", "Executing command")]
    daemon.say("GET /1.0/operations", {"running": [*running, {**running[0], "resources": None, "metadata": None}]})
    assert Lxd().removed_instances("p") == {"a", "b"}
    daemon.say("GET /1.0/operations", {"running": [], "success": [over]})
    assert Lxd().removed_instances("p") == set()
    daemon.say("GET /1.0/operations", {})
    assert Lxd().removed_instances("p") == set()


def test_in_a_cluster_lxd_places_what_is_not_asked_for_on_a_member(daemon: Daemon) -> None:
    server = daemon.lxd.server
    clustered = {**server, "environment": {**server["environment"], "server_clustered": True, "server_name": "one"}}
    daemon.say("GET /1.0", clustered)
    daemon.start("POST /1.0/instances", "1")
    daemon.start("PUT /1.0/instances/i/state", "2")
    daemon.start("POST /1.0/storage-pools/s/volumes/custom", "3")
    client = Lxd()
    client.create_instance("p", {"name": "i"})
    assert not any("target=" in one for one in daemon.asked)
    daemon.asked.clear()
    client.create_instance("p", {"name": "i"}, "two")
    client.ensure_volume("p", "s", "v", "", "two")
    placed = [one for one in daemon.asked if one.startswith("POST") or "/volumes/" in one]
    assert len(placed) == 3
    assert all("target=two" in one for one in placed)


@pytest.mark.parametrize("reason", [Cancelled(), KeyboardInterrupt()])
def test_a_builder_that_is_no_longer_wanted_is_made_before_it_is_deleted(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, reason: BaseException
) -> None:
    """LXD shows it only once it has begun: deleted before that, it would come afterwards. A download is ended."""
    daemon.start("POST /1.0/instances", "1", status_code=200)
    client = Lxd()
    real, reasons = client.wait, [reason]

    def wait(*arguments: Any, **named: Any) -> Any:
        if reasons:
            raise reasons.pop()
        return real(*arguments, **named)

    monkeypatch.setattr(client, "wait", wait)
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
    body = images._Blocks(MultipartEncoder([("rootfs", ("rootfs", io.BytesIO(content), "application/octet-stream"))]))
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
    assert images._stored_image({"fingerprint": "a" * 64}).fingerprint == Fingerprint("a" * 64)


# ---- the log


def test_each_request_is_logged_as_the_client_asks_it(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.say("GET /1.0/images", [])
    with caplog.at_level("DEBUG", "lxdocker"):
        client = Lxd()
        client.images("p")
        client.image("p", fingerprint("x"))
        is_operation = daemon.change("POST /1.0/projects", "create project")
        client.ensure_project("a b", "it's", {})
    opened, listed, missing, looked, created, answered, *operation = caplog.messages
    image = f"/1.0/images/{fingerprint('x').value}"
    assert re.fullmatch(r"\+ lxc query /1\.0 # GET /1\.0: 200, \d+ ms", opened)
    assert re.fullmatch(r"\+ lxc query '/1\.0/images\?project=p&recursion=1' # GET /1\.0/images: 200, \d+ ms", listed)
    assert re.fullmatch(rf"\+ lxc query '{image}\?project=p' # GET {image}: 404, \d+ ms", missing)
    assert re.fullmatch(r"\+ lxc query /1\.0/projects/a%20b # GET /1\.0/projects/a%20b: 404, \d+ ms", looked)
    *words, data, path = shlex.split(created)
    assert [*words, path] == ["+", "lxc", "query", "--wait", "--request", "POST", "--data", "/1.0/projects"]
    assert json.loads(data) == {"name": "a b", "description": "it's", "config": {}}
    assert re.fullmatch(r"# POST /1\.0/projects: 20\d, \d+ ms", answered)
    assert [re.sub(r"\d+ ms", "", line) for line in operation] == (
        ["# operation change, creating project a b: exit status 7, "] if is_operation else []
    )


def test_what_changes_something_is_logged_before_what_only_asks(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.say("GET /1.0/images", [])
    client = Lxd()
    with caplog.at_level("INFO", "lxdocker"):
        client.images("p")
        client.delete_alias("p", "web")
    (line,) = caplog.messages
    assert line == "+ lxc query --wait --request DELETE '/1.0/images/aliases/web?project=p'"


def test_how_an_operation_ended_is_logged(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.start("POST /1.0/images", "7", status_code=400, err="the pool is sad")
    client = Lxd()
    with caplog.at_level("INFO", "lxdocker"), pytest.raises(LxdError):
        client.wait(begun(client), "work")
    assert re.fullmatch(r"# operation 7, work: failure: the pool is sad, \d+ ms", caplog.messages[-1])


def test_of_a_daemon_that_is_gone_it_is_logged_that_it_does_not_answer(
    folder: Path, daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    client = Lxd()
    (folder / "unix.socket").unlink()
    with caplog.at_level("DEBUG", "lxdocker"), sockets_left_open(), pytest.raises(LxdError):
        client.set_alias("p", "web", fingerprint("x"))
    assert re.fullmatch(r"# PUT /1\.0/images/aliases/web: no answer, \d+ ms", caplog.messages[-1])


def test_what_another_thread_does_later_is_logged_when_it_is_decided(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    client = Lxd()
    with caplog.at_level("INFO", "lxdocker"):
        add = client.adding_devices("p", "i", {"d": {"type": "proxy"}})
        assert [shlex.split(line)[-2:] for line in caplog.messages] == [
            ['{"devices": {"d": {"type": "proxy"}}}', "/1.0/instances/i?project=p"]
        ]
        with pytest.raises(NotFoundError):
            add()
    assert len(caplog.messages) == 1
