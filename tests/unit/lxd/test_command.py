"""A command in an instance, with a daemon that speaks as each LXD that people run; with real ones: tests/lxd."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from lxdocker.errors import LxdError
from lxdocker.lxd.api import Cancelled, Lxd
from lxdocker.lxd.command import MOST_SAID, OutOfTimeError, Result, last, running
from tests import recorded
from tests.recorded import Recorded
from tests.unit.lxd.test_api import Daemon, Work

PATH = "/1.0/instances/builder-1/exec"
STREAMS = ("control", "0", "1", "2")
ARGV = ["/bin/busybox", "sh", "-c", "echo 'a b'"]


@dataclass
class Script:
    """What a command does: it reads all of stdin, says this, and ends unless the test is to say when."""

    out: list[bytes] = field(default_factory=list)
    err: list[bytes] = field(default_factory=list)
    breaks_off: bool = False
    hangs: bool = False


class ExecDaemon(Daemon):
    """Answers a request for a command, and on its websockets is that command."""

    def __init__(self, path: Path, lxd: Recorded) -> None:
        super().__init__(path, lxd)
        self.RequestHandlerClass = _ExecHandler
        self.script = Script()
        self.stdin = b""
        self.connected: list[str] = []
        self.work_of_command: Work
        self.has_read = threading.Event()
        self.released = threading.Event()

    def runs(self, script: Script, *, status_code: int = 103, err: str = "") -> None:
        self.script = script
        self.work_of_command = self.start(f"POST {PATH}", "7", status_code=status_code, err=err)
        fds = {name: f"secret-{name}" for name in STREAMS}
        self.answers[f"POST {PATH}"] = self._encoded(
            "create instance", operation="/1.0/operations/7?project=p", metadata={"metadata": {"fds": fds}}
        )

    def is_stream(self, name: str, connection: socket.socket, protocol: ServerProtocol) -> None:
        if self.script.breaks_off:
            return
        if name == "0":
            while not (frames := [event for event in protocol.events_received() if isinstance(event, Frame)]) or (
                frames[-1].opcode is not Opcode.TEXT
            ):
                self.stdin += b"".join(bytes(frame.data) for frame in frames)
                protocol.receive_data(connection.recv(1 << 16))
            self.stdin += b"".join(bytes(frame.data) for frame in frames)
            self.has_read.set()
        elif name in ("1", "2"):
            for piece in self.script.out if name == "1" else self.script.err:
                protocol.send_binary(piece)
            if self.script.hangs and name == "1":
                send(connection, protocol)
                self.released.wait(20)
            protocol.send_text(b"")
            send(connection, protocol)
        if name == "1" and not self.script.hangs:
            self.has_read.wait(20)
            self.work_of_command.end()
        self.released.wait(20)


def send(connection: socket.socket, protocol: ServerProtocol) -> None:
    with contextlib.suppress(OSError):
        for data in protocol.data_to_send():
            connection.sendall(data)


class _ExecHandler(Daemon.Handler):
    def answer(self) -> None:
        daemon, url = self.server, urlsplit(self.path)
        assert isinstance(daemon, ExecDaemon)
        if not url.path.endswith("/websocket"):
            super().answer()
            return
        name = parse_qs(url.query)["secret"][0].removeprefix("secret-")
        daemon.connected.append(name)
        protocol = ServerProtocol(max_size=None)
        headers = "".join(f"{key}: {value}\r\n" for key, value in self.headers.items())
        protocol.receive_data(f"GET {self.path} HTTP/1.1\r\n{headers}\r\n".encode())
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        send(self.connection, protocol)
        with contextlib.suppress(OSError):
            daemon.is_stream(name, self.connection, protocol)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = answer


@pytest.fixture(params=recorded.every(), ids=str)
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ExecDaemon]:
    monkeypatch.setenv("LXD_DIR", str(tmp_path))
    with ExecDaemon(tmp_path / "unix.socket", request.param) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            for work in server.work.values():
                work.over.set()
            server.shutdown()
            thread.join()


def run(lxd: Lxd, seconds: float = 20, **arguments: Any) -> tuple[bytes, Result]:
    with running(lxd, "p", "builder-1", ARGV, what="doing it", seconds=seconds, **arguments) as (command, end):
        out = b"".join(command.output())
        return out, end()


def test_a_command_has_its_streams_and_its_status(daemon: ExecDaemon) -> None:
    daemon.runs(Script(out=[b"one ", b"two"], err=[b"wrong"]))
    out, result = run(Lxd(), stdin=bytes(range(256)) * 1000)
    assert (out, result) == (b"one two", Result(7, stderr="wrong"))  # as the recorded operation has it
    assert daemon.stdin == bytes(range(256)) * 1000
    assert daemon.connected[0] == "control"  # or LXD would not connect it to the others
    assert sorted(daemon.connected) == sorted(STREAMS)


def test_of_what_it_says_the_end_is_kept(daemon: ExecDaemon) -> None:
    daemon.runs(Script(err=[b"x" * MOST_SAID, b"the end"]))
    _, result = run(Lxd())
    assert len(result.stderr) == MOST_SAID
    assert result.stderr.endswith("xthe end")
    assert last(iter([])) == b""


def test_one_that_takes_too_long_is_left(daemon: ExecDaemon) -> None:
    daemon.runs(Script(out=[b"x"], hangs=True))
    with pytest.raises(OutOfTimeError, match=r"doing it failed: it took longer than 1 s"):
        run(Lxd(), seconds=1)


def test_each_step_can_be_allowed_its_own_time(daemon: ExecDaemon) -> None:
    daemon.runs(Script(out=[b"x"], hangs=True))
    with running(Lxd(), "p", "builder-1", ARGV, what="doing it", seconds=0.1) as (command, _):
        command.allow(60)
        pieces = command.output()
        assert next(pieces) == b"x"
        command.check()
        command.allow(-1)
        with pytest.raises(OutOfTimeError):
            command.check()
        pieces.close()  # type: ignore[attr-defined]  # a generator


def test_ctrl_c_ends_the_waiting_but_not_for_cleaning_up(daemon: ExecDaemon) -> None:
    cancelled = threading.Event()
    lxd = Lxd(cancelled)
    daemon.runs(Script(hangs=True))
    later = threading.Timer(0.3, cancelled.set)
    later.start()
    with pytest.raises(Cancelled):
        run(lxd)
    later.join()
    daemon.runs(Script(out=[b"clean"]))
    assert run(lxd, cancellable=False)[0] == b"clean"


def test_one_that_is_left_is_waited_for_by_nobody(daemon: ExecDaemon) -> None:
    daemon.runs(Script(hangs=True))
    with running(Lxd(), "p", "builder-1", ARGV, what="doing it", seconds=60) as (left, _):
        left.check()
    with pytest.raises(LxdError, match="nobody waits for its end any more"):
        left.check()


def test_what_lxd_could_not_do_is_said_in_its_own_words(daemon: ExecDaemon) -> None:
    daemon.runs(Script(breaks_off=True), status_code=400, err="Command not found")
    daemon.released.set()
    with pytest.raises(LxdError) as caught:
        run(Lxd())
    assert str(caught.value) == "doing it failed: Command not found"


def test_a_stream_that_breaks_off_is_an_error_also_if_the_operation_is_well(daemon: ExecDaemon) -> None:
    daemon.runs(Script(breaks_off=True), status_code=200)
    daemon.released.set()
    with pytest.raises(LxdError, match="doing it failed: LXD broke off"):
        run(Lxd())


def test_no_operation_no_command(daemon: ExecDaemon) -> None:
    daemon.answer(f"POST {PATH}", "look at a success")
    with pytest.raises(LxdError, match="LXD started no operation for it"):
        run(Lxd())


@pytest.mark.parametrize(
    ("by_hand", "logged"),
    [(str, "{}"), (lambda told: f"cat file | {told} >/dev/null", "cat file | {} >/dev/null")],
    ids=["alone", "with redirections"],
)
def test_it_is_logged_as_a_shell_repeats_it(
    daemon: ExecDaemon, caplog: pytest.LogCaptureFixture, by_hand: Callable[[str], str], logged: str
) -> None:
    daemon.runs(Script())
    lxd = Lxd()
    with caplog.at_level("DEBUG", "lxdocker"):
        run(lxd, stdin=b"secret-of-stdin", by_hand=by_hand)
    exec_line, answer, end = (line for line in caplog.messages if not line.startswith("+ lxc query"))
    told = """lxc exec builder-1 --project p -- /bin/busybox sh -c 'echo '"'"'a b'"'"''"""
    assert exec_line == f"+ {logged.format(told)}"
    assert answer.startswith("# POST /1.0/instances/builder-1/exec: 202, ")
    assert end.startswith("# operation 7, doing it: exit status 7, ")
    assert "secret-" not in caplog.text  # neither what is on stdin nor the websockets'
