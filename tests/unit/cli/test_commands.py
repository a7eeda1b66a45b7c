"""The program as it is called: exit status, what is on which stream, and how it ends when it is cut short.

These tests have no LXD: commands that need it report so.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from lxdocker import __version__
from lxdocker.cli import main as cli
from lxdocker.cli.app import app

COMMANDS = ["init", "inspect", "new", "add", "convert", "sync", "validate", "status", "prune", "diff", "builder"]
NEEDS_LXD = [
    ["sync"],
    ["sync", "--dry-run"],
    ["sync", "--check-reproducible", "web"],
    ["status"],
    ["prune"],
    ["builder", "build"],
    ["builder", "show"],
    ["builder", "delete"],
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with two specs in images.d, and no LXD."""
    (tmp_path / "images.d").mkdir()
    for name in ("web", "db"):
        (tmp_path / "images.d" / f"{name}.yaml").write_text(f"image: {name}:1\n")
    return tmp_path


def environment(place: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LXDOCKER_", "XDG_"))}
    own = {"HOME": str(place), "XDG_CACHE_HOME": str(place / "cache"), "LXD_DIR": str(place / "lxd"), "TERM": "dumb"}
    return {**kept, **own, **more}


@dataclass(frozen=True)
class Done:
    """How a run ended, named as subprocess names it."""

    returncode: int | str | None
    stdout: str
    stderr: str


class Program:
    """lxdocker called in this process: what it would do as one of its own, without the time it takes to start."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in set(os.environ) - set(environment(place)):
            monkeypatch.delenv(name)
        for name, value in environment(place).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(place)

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["lxdocker", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Done(end.value.code, *self._capsys.readouterr())


@pytest.fixture
def lxdocker(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(place, monkeypatch, capsys)


def run(place: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """lxdocker as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lxdocker", *arguments],
        cwd=place,
        env=environment(place, **more.pop("env", {})),
        text=True,
        timeout=30,
        check=False,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


# ---- help and usage


def test_without_arguments_it_says_what_it_can_do(lxdocker: Program) -> None:
    done = lxdocker()
    assert done.returncode == 2
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", done.stdout + done.stderr, re.MULTILINE)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["builder", "show"]])
def test_help_is_a_result(lxdocker: Program, command: list[str]) -> None:
    done = lxdocker(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    # How it was called comes first, and by `python -m pytest` that is something else.
    assert re.match(rf"Usage: .*{' '.join(['lxdocker', *command])} ", done.stdout)


def test_the_version(lxdocker: Program) -> None:
    done = lxdocker("--version")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == f"lxdocker {__version__}"
    assert re.fullmatch(r"no LXD: no socket at \S+/unix\.socket", second)  # with one: tests/lxd


@pytest.mark.parametrize(
    ("arguments", "complaint", "hint"),
    [
        (["sync", "--bogus"], "No such option: --bogus", "lxdocker sync --help' for help"),
        (["snyc"], "No such command 'snyc'", "lxdocker --help' for help"),
        (["builder", "bild"], "No such command 'bild'", "lxdocker builder --help' for help"),
        (["sync", "--jobs", "many"], "Invalid value for '--jobs'", "lxdocker sync --help' for help"),
        (["prune", "web"], "unexpected extra argument", "lxdocker prune --help' for help"),
    ],
)
def test_misuse_is_named_and_help_pointed_to(
    lxdocker: Program, arguments: list[str], complaint: str, hint: str
) -> None:
    done = lxdocker(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint.lower() in done.stderr.lower()
    assert hint in done.stderr


def commands() -> dict[str, Any]:
    """``publish verify`` -> that command."""

    def found(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from found(command, (*path, name))
            else:
                yield " ".join((*path, name)), command

    return dict(found(get_command(app)))


def test_what_is_needed_first_comes_first() -> None:
    assert [name for name in commands() if " " not in name] == [
        *("init", "inspect", "new", "add", "convert"),
        *("sync", "validate", "status", "prune"),
        *("list", "log", "config", "diff", "doctor"),
        *("serve", "mirror", "trust", "units", "completion"),
    ]


def test_every_listing_can_be_json() -> None:
    """What a command takes is asked from its own help."""
    found = commands()
    for name in ("sync", "validate", "status", "prune", "builder build", "builder show", "builder delete"):
        options = {option for parameter in found[name].params for option in parameter.opts}
        assert {"--config", "--json", "--verbose"} <= options, name
        assert found[name].help, name


# ---- validate: asks nobody


def test_valid_specs_in_words_and_as_json(place: Path, lxdocker: Program) -> None:
    done = lxdocker("validate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 specs are valid\n", "")
    done = lxdocker("validate", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "schema": 1,
        "specs": [
            {
                "name": name,
                "image": f"docker.io/library/{name}:1",
                "file": str(place / "images.d" / f"{name}.yaml"),
            }
            for name in ("db", "web")
        ],
    }


def test_single_files_can_be_checked(lxdocker: Program) -> None:
    done = lxdocker("validate", "images.d/web.yaml")
    assert (done.returncode, done.stdout) == (0, "1 spec is valid\n")


def test_an_empty_or_missing_folder_is_named_with_all_places_that_were_looked_in(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place / "images.d"
    for spec in here.iterdir():
        spec.unlink()
    done = lxdocker("validate")
    assert (done.returncode, done.stdout) == (0, "no specs found\n")
    assert done.stderr.startswith(f"no specs in {here} -> write one: lxdocker add IMAGE")
    here.rmdir()
    system = place / "etc/images.d"
    monkeypatch.setattr("lxdocker.config.settings.SYSTEM_SPECS", system)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    users = place / ".config/lxdocker/images.d"
    everywhere = f"looked for it in {here}, {users}, {system}"
    for command in ("sync", "status", "validate", "prune"):
        done = lxdocker(command)
        assert done.returncode == 2
        assert done.stderr.splitlines()[0] == f"error: cannot read the folder of specs: {users}"
        assert everywhere in done.stderr.splitlines()[1]
        assert "lxdocker init" in done.stderr
    users.mkdir(parents=True)
    assert lxdocker("validate").stderr.startswith(f"no specs in {users}; {everywhere} -> ")
    (users / "web.yaml").write_text("image: nginx\n")
    assert lxdocker("validate").stdout == "1 spec is valid\n"
    done = lxdocker("validate", "--specs", "nowhere")  # named, so nothing else was tried
    assert done.stderr.splitlines()[:2] == [
        f"error: cannot read the folder of specs: {place}/nowhere",
        "  No such file or directory",
    ]


def test_mistakes_are_named_in_three_parts_and_the_result_is_empty(place: Path, lxdocker: Program) -> None:
    (place / "images.d/bad.yaml").write_text("imgae: nginx\n")
    done = lxdocker("validate")
    assert (done.returncode, done.stdout) == (2, "")
    first, *details, last = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert any("bad.yaml" in line and "imgae" in line for line in details)
    assert all(line.startswith("  ") for line in details)
    assert last.startswith("  -> ")


def test_mistakes_as_json_are_the_only_thing_on_stdout(place: Path, lxdocker: Program) -> None:
    (place / "images.d/bad.yaml").write_text("restart: never\nimgae: nginx\n")
    done = lxdocker("validate", "--json")
    assert done.returncode == 2
    document = json.loads(done.stdout)
    error = document["error"]
    assert document["schema"] == 1
    assert (set(error), error["exit"]) == ({"what", "why", "do", "exit", "mistakes"}, 2)
    assert [(mistake["file"], mistake["line"], mistake["key"]) for mistake in error["mistakes"]] == [
        (str(place / "images.d/bad.yaml"), 1, "restart"),
        (str(place / "images.d/bad.yaml"), 2, "imgae"),
    ]
    assert [mistake["text"] in line for mistake, line in zip(error["mistakes"], error["why"].splitlines(), strict=True)]
    assert done.stderr.startswith(f"error: {error['what']}")


def test_mistakes_in_the_settings_are_a_list_too(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "config.yaml").write_text("# mine\njobs: many\n")
    monkeypatch.setenv("LXDOCKER_KEEP_VERSIONS", "0")
    found = json.loads(lxdocker("validate", "--json", "--config", "config.yaml").stdout)["error"]["mistakes"]
    assert [(mistake["file"], mistake["line"], mistake["key"]) for mistake in found] == [
        (None, None, "LXDOCKER_KEEP_VERSIONS"),
        (str(place / "config.yaml"), 2, "jobs"),
    ]


def test_a_wrong_setting_is_the_users_mistake(lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXDOCKER_JOBS", "0")
    done = lxdocker("validate")
    assert done.returncode == 2
    assert "LXDOCKER_JOBS" in done.stderr
    monkeypatch.delenv("LXDOCKER_JOBS")
    done = lxdocker("validate", "--config", "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr


# ---- no LXD


@pytest.mark.parametrize("command", NEEDS_LXD, ids=" ".join)
def test_without_lxd_a_command_says_so_and_does_nothing(place: Path, lxdocker: Program, command: list[str]) -> None:
    done = lxdocker(*command, *([] if command[0] == "builder" else ["--tree", "tree"]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[:2] == ["error: cannot connect to LXD", f"  no socket at {place}/lxd/unix.socket"]
    assert done.stderr.splitlines()[2].startswith("  -> ")
    assert not (place / "tree").exists()


@pytest.mark.parametrize("command", NEEDS_LXD, ids=" ".join)
def test_without_lxd_json_says_so_too(lxdocker: Program, command: list[str]) -> None:
    done = lxdocker(*command, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["what"] == "cannot connect to LXD"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["diff", "web"], "no image web in the tree"),
        (["diff", "../web"], "no such image"),
        (["sync", "--check-reproducible"], "--check-reproducible takes names"),
        (["sync", "--check-reproducible", "--dry-run", "web"], "--check-reproducible syncs nothing"),
        (["sync", "--check-reproducible", "--force", "web"], "--check-reproducible syncs nothing"),
        (["sync", "--check-reproducible", "nope"], "no such spec: 'nope'"),
    ],
)
def test_what_can_not_be_compared_is_said_before_anybody_is_asked(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str
) -> None:
    monkeypatch.setenv("LXDOCKER_TREE", "tree")
    done = lxdocker(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "LXD" not in done.stderr
    assert not (place / "tree").exists()


@pytest.mark.parametrize("command", ["sync", "status"])
def test_names_are_checked_before_anybody_is_asked(lxdocker: Program, command: str) -> None:
    done = lxdocker(command, "web", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: no such spec: 'nope'"
    assert "db, web" in done.stderr
    done = lxdocker(command, "web", "images.d/nope.yaml")
    assert done.stderr.splitlines()[0] == "error: no such spec: 'nope'"
    done = lxdocker(command, "./")
    assert done.stderr.splitlines()[0] == "error: not in the folder of specs: './'"


# ---- output that can't be written


def test_a_reader_who_has_had_enough_is_no_reason_to_complain(place: Path) -> None:
    for arguments in (["validate", "--json"], ["--help"], ["sync", "--json"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = run(place, *arguments, stdout=writing)
        os.close(writing)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert "Broken" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_nobody_reading_errors_changes_nothing_else(place: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(place, "sync", "--json", stderr=writing)
    os.close(writing)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["what"] == "cannot connect to LXD"


@pytest.mark.parametrize("arguments", [["validate"], ["sync", "--json"]])
def test_a_full_disk_is_no_success_and_no_traceback(place: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(place, *arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3:] == [
        "error: the result can't be written",
        "  No space left on device",
        "  -> write it elsewhere, or free some space",
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_streams_are_left_alone(place: Path, closed: int) -> None:
    shell = f'exec "$0" "$@" {closed}>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, "-m", "lxdocker", "sync", "--json"],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    if closed == 1:
        assert done.stderr.startswith("error: cannot connect to LXD")
    else:
        assert json.loads(done.stdout)["error"]["what"] == "cannot connect to LXD"
    assert "Traceback" not in done.stderr


def test_a_locale_that_can_t_say_it_gets_it_spelt_out(place: Path) -> None:
    (place / "naïve").mkdir()
    (place / "images.d").rename(place / "naïve/images.d")
    done = run(place, "validate", "--specs", "naïve/images.d", "--json", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "na\\xefve" in done.stdout


def test_paths_that_are_no_text(place: Path) -> None:
    odd = os.fsencode(place) + b"/\xff"
    os.rename(os.fsencode(place / "images.d"), odd)  # noqa: PTH104 - pathlib would do the same with more words
    done = run(place, "validate", "--specs", os.fsdecode(odd), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["specs"][0]["file"].endswith("/\udcff/db.yaml")


# ---- cut short


class SilentLxd(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Takes connections on LXD's socket, answers GET /1.0 and nothing else."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, path: Path) -> None:
        self.asked = threading.Event()
        self.released = threading.Event()
        super().__init__(str(path), self.Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """The client is gone."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "client"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
            """Silent."""

        def do_GET(self) -> None:
            assert isinstance(self.server, SilentLxd)
            if self.path.split("?")[0] != "/1.0":
                self.server.asked.set()
                self.server.released.wait(30)
                return
            metadata = {
                "auth": "trusted",
                "api_status": "stable",
                "api_extensions": [],
                "environment": {"server": "lxd", "server_version": "5.0.2"},
            }
            body = json.dumps({"type": "sync", "status_code": 200, "metadata": metadata}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def silent_lxd(place: Path) -> Iterator[SilentLxd]:
    (place / "lxd").mkdir()
    with SilentLxd(place / "lxd/unix.socket") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def running(place: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-m", "lxdocker", *arguments],
        cwd=place,
        env=environment(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


STOPPED = "interrupted; finished images are kept, the next run continues"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_ends_at_once_and_says_what_it_leaves(place: Path, number: signal.Signals) -> None:
    with silent_lxd(place) as lxd, running(place, "sync", "--json", "--tree", "tree") as process:
        assert lxd.asked.wait(20)
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [STOPPED]


# Sends the program Ctrl-C as it begins to load a module.
WHILE_LOADING = """
import os, signal, sys
from lxdocker.__main__ import main
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["list"]
main()
"""


@pytest.mark.parametrize(
    ("module", "status"),
    [("lxdocker.cli.main", -signal.SIGINT), ("lxdocker.cli.lists", -signal.SIGINT), ("lxdocker.lxd.api", 130)],
)
def test_ctrl_c_while_the_program_is_loaded(place: Path, module: str, status: int) -> None:
    """A shell takes both for 130, and neither is a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", WHILE_LOADING.format(module=module)],
        cwd=place,
        env=environment(place),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr in {"", STOPPED + "\n"}


def test_nohup_is_respected(place: Path) -> None:
    ignoring = ("/bin/sh", "-c", 'trap "" HUP; exec "$0" "$@"')
    with silent_lxd(place) as lxd, running(place, "sync", "--tree", "tree", wrapper=ignoring) as process:
        assert lxd.asked.wait(20)
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130


HANGING = """
import signal, time
from lxdocker.cli.app import cancellable
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if the tests run in the background
with cancellable():
    try:
        print("at work", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("cleaning up", flush=True)
        for _ in range(60):
            time.sleep(1)
"""


def test_who_asks_a_third_time_does_not_wait_for_cleaning_up(place: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING],
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    with process:
        try:
            assert process.stdout.readline() == "at work\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "cleaning up\n"
            process.send_signal(signal.SIGINT)
            assert process.stderr.readline().startswith("cleaning up; press Ctrl-C again to skip")
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()


def test_garbage_is_collected_as_usual_once_the_program_is_loaded() -> None:
    script = """
import gc
from lxdocker.__main__ import collect_later
usual = gc.get_threshold()
collect_later()
assert gc.get_threshold()[0] > 10 * usual[0]
kept = []
while gc.callbacks:
    kept.append([])
assert gc.get_threshold() == usual
assert gc.get_freeze_count() > len(kept) - 1000
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
