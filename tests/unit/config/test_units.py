"""The units for systemd, by its own tools, which need no systemd that runs; and what they promise, without it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from lxdocker.config import units
from lxdocker.config.resources import resource
from lxdocker.config.settings import Settings
from lxdocker.config.units import SERVE, SYNC, TIMER, File
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.serve.notify import notify, stopping
from tests import recorded
from tests.forked import NOBODY
from tests.registry_server import make_image, write_layout
from tests.stand_ins import image_daemon
from tests.waiting import wait_until

DEFAULTS = Settings(
    specs=Path("/etc/lxdocker/images.d"), tree=Path("/var/lib/lxdocker/tree"), tls_dir=Path("/var/lib/lxdocker/tls")
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users' files are made by root")
systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd's tools")
PR_SET_MDWE = 65


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "a venv/bin/lxdocker"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach. tmp_path is none: each pytest that starts closes the folder of all."""
    with tempfile.TemporaryDirectory(prefix="lxdocker-test.") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def ask(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=60, check=False)


def written(root: Path, found: tuple[File, ...]) -> dict[str, Path]:
    units.install(found, root)
    return {file.path.name: root / file.path.relative_to("/") for file in found}


def lines(found: tuple[File, ...], name: str) -> list[str]:
    return next(file.text for file in found if file.path.name == name).splitlines()


# ---- by systemd's own judgement


OTHER = replace(
    DEFAULTS,
    config=Path("/srv/lxdocker settings/config.yaml"),
    tree=Path("/srv/100% images/tree"),
    tls_dir=Path("/srv/tls"),
    metrics_file=Path("/var/lib/prometheus/node-exporter/lxdocker.prom"),
    listen=":443",
)


@systemd
@pytest.mark.parametrize("settings", [DEFAULTS, OTHER], ids=["defaults", "others"])
def test_systemd_accepts_the_units_and_finds_them_well_confined(
    tmp_path: Path, program: Path, settings: Settings
) -> None:
    paths = written(tmp_path / "root", units.files(program, settings))
    checked = ask("systemd-analyze", "verify", "--man=no", *(paths[name] for name in (SYNC, TIMER, SERVE)))
    assert (checked.returncode, checked.stderr) == (0, "")
    for name in (SYNC, SERVE):
        rated = ask("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=29", paths[name])
        assert rated.returncode == 0, rated.stdout


@systemd
def test_the_files_are_ready_for_a_package_too(tmp_path: Path, program: Path) -> None:
    """As they are in the repository: the program is then found in /usr/bin or /usr/local/bin."""
    for name in (SYNC, SERVE):
        source = resource("profiles", f"systemd/{name}").read_text()
        assert "ExecStart=lxdocker " in source
        (tmp_path / name).write_text(source.replace("ExecStart=lxdocker ", "ExecStart=true "))
    (tmp_path / TIMER).write_text(resource("profiles", f"systemd/{TIMER}").read_text())
    checked = ask("systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in (SYNC, TIMER, SERVE)))
    assert (checked.returncode, checked.stderr) == (0, "")


@systemd
@as_root
def test_users_and_folders_are_made(tmp_path: Path, program: Path) -> None:
    root = tmp_path / "root"
    paths = written(root, units.files(program, replace(DEFAULTS, tree=Path("/srv/the tree"))))
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/lxdocker").mkdir(mode=0o750)
    key = root / "var/lib/lxdocker/tls/server.key"
    key.parent.mkdir(parents=True)
    key.touch(mode=0o600)
    snippets = [root / path.relative_to("/") for path in (units.SYSUSERS, units.TMPFILES)]
    for argv in (
        ("systemd-sysusers", "--dry-run", f"--root={root}", snippets[0]),
        ("systemd-sysusers", f"--root={root}", snippets[0]),
        ("systemd-tmpfiles", f"--root={root}", "--create", snippets[1]),
    ):
        done = ask(*argv)
        assert (done.returncode, done.stderr.replace("Creating ", "")[:30].count("rror")) == (0, 0), done.stderr
    user = next(line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("lxdocker-serve:"))
    uid = int(user.split(":")[2])
    assert uid
    assert user.endswith(":/usr/sbin/nologin")

    def seen(path: str) -> tuple[int, int]:
        status = (root / path).stat()
        return stat.S_IMODE(status.st_mode), status.st_uid

    assert seen("etc/lxdocker") == (0o750, 0)  # what is there is left as it is
    assert seen("etc/lxdocker/images.d") == seen("var/lib/lxdocker/tree") == seen("srv/the tree") == (0o755, 0)
    assert seen("var/lib/lxdocker/tls") == (0o700, uid)
    assert seen("var/lib/lxdocker/tls/server.key") == (0o600, uid)  # followers trust it; it must stay in use
    assert paths[SYNC].stat().st_mode & 0o777 == 0o644


def test_the_timer_spreads_the_load_and_makes_up_for_what_was_missed(program: Path) -> None:
    timer = lines(units.files(program, DEFAULTS), TIMER)
    assert {"OnCalendar=hourly", "RandomizedDelaySec=15min", "Persistent=yes"} <= set(timer)


# ---- what they are made of


def test_they_run_the_program_that_made_them(program: Path) -> None:
    found = units.files(program, DEFAULTS)
    assert f'ExecStart="{program}" sync -q' in lines(found, SYNC)
    assert f'ExecStart="{program}" serve' in lines(found, SERVE)
    assert not any("LXDOCKER_CONFIG" in line or "ReadWritePaths" in line for file in found for line in [file.text])


def test_they_may_write_what_the_settings_name_and_bind_its_port(program: Path) -> None:
    found = units.files(program, OTHER)
    sync, serve = lines(found, SYNC), lines(found, SERVE)
    assert 'ReadWritePaths="-/srv/100%% images/tree"' in sync
    assert "ReadWritePaths=-/var/lib/prometheus/node-exporter" in sync
    assert "ReadWritePaths=-/srv/tls" in serve
    assert {"AmbientCapabilities=CAP_NET_BIND_SERVICE", "PrivateUsers=no"} <= set(serve)
    for unit in (sync, serve):
        assert 'Environment="LXDOCKER_CONFIG=/srv/lxdocker settings/config.yaml"' in unit


def test_a_configuration_at_home_is_not_for_the_servers_user(program: Path) -> None:
    found = units.files(program, replace(DEFAULTS, config=Path("/root/.config/lxdocker/config.yaml")))
    assert "Environment=LXDOCKER_CONFIG=/root/.config/lxdocker/config.yaml" in lines(found, SYNC)
    assert not any("LXDOCKER_CONFIG" in line for line in lines(found, SERVE))


def test_the_program_is_the_one_that_was_called(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert units.program([str(program), "units"]) == program
    assert units.program(["/elsewhere/__main__.py"], str(program.with_name("python"))) == program
    monkeypatch.setenv("PATH", f"/nowhere:{program.parent}")
    assert units.program(["lxdocker"], "/nowhere/python") == program
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LxdockerError, match="no program lxdocker"):
        units.program(["lxdocker"], "/nowhere/python")


@as_root
def test_root_runs_no_program_that_others_could_replace(program: Path) -> None:
    units.check_program(program)
    os.chown(program.parent, NOBODY, NOBODY)
    with pytest.raises(UsageError, match="root cannot run"):
        units.check_program(program)


def test_a_program_that_the_servers_user_cannot_reach(open_folder: Path) -> None:
    path = open_folder / "bin/lxdocker"
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o755)
    assert units.serve_obstacle(path) is None
    path.parent.chmod(0o700)
    assert f"{path.parent} is closed to it" in str(units.serve_obstacle(path))
    assert "below /root" in str(units.serve_obstacle(Path("/root/lxdocker/bin/lxdocker")))


# ---- installing


def test_installing_again_changes_only_what_is_different(tmp_path: Path, program: Path) -> None:
    found = units.files(program, DEFAULTS)
    assert len(units.install(found, tmp_path)) == len(found) == 5
    assert units.install(found, tmp_path) == []
    assert units.install(units.files(program, replace(DEFAULTS, listen=":443")), tmp_path) == [
        units.UNIT_FOLDER / SERVE
    ]


def test_a_file_of_another_origin_is_left_alone(tmp_path: Path, program: Path) -> None:
    mine = tmp_path / "etc/systemd/system" / SYNC
    mine.parent.mkdir(parents=True)
    mine.write_text("[Service]\n")
    with pytest.raises(UsageError) as caught:
        units.install(units.files(program, DEFAULTS), tmp_path)
    assert str(mine) in caught.value.details
    assert mine.read_text() == "[Service]\n"
    assert not (tmp_path / "etc/sysusers.d").exists()


def test_the_packages_units_do_unless_a_setting_wants_others(tmp_path: Path) -> None:
    theirs = units.files(Path("/usr/bin/lxdocker"), DEFAULTS)
    assert not units.packaged(theirs, tmp_path)
    for name in (SYNC, TIMER, SERVE):
        shutil.copy(Path(__file__).parents[3] / "profiles/systemd" / name, tmp_path)
    assert units.packaged(theirs, tmp_path)
    assert not units.packaged(units.files(Path("/usr/bin/lxdocker"), replace(DEFAULTS, listen=":443")), tmp_path)
    assert not units.packaged(units.files(Path("/opt/lxdocker/bin/lxdocker"), DEFAULTS), tmp_path)


def test_the_timer_is_the_one_in_etc_or_the_packages_once_it_is_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_FOLDER", tmp_path / "etc")
    (tmp_path / TIMER).touch()
    link = tmp_path / "etc/timers.target.wants" / TIMER
    link.parent.mkdir(parents=True)
    assert units.timer() is None
    link.symlink_to(tmp_path / TIMER)
    assert units.timer() == link
    (tmp_path / "etc" / TIMER).touch()
    assert units.timer() == tmp_path / "etc" / TIMER


def test_the_commands_that_enable_them_report_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("systemd-sysusers", "systemd-tmpfiles", "systemctl"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/ran\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    units.activate(TIMER)
    assert (tmp_path / "ran").read_text().splitlines() == [
        "systemd-sysusers lxdocker.conf",
        "systemd-tmpfiles --create lxdocker.conf",
        "systemctl daemon-reload",
        "systemctl enable --now lxdocker-sync.timer",
    ]
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    with pytest.raises(LxdockerError, match="systemctl failed: no bus"):
        units.activate(TIMER)


def test_the_line_for_cron_stays_in_its_minute() -> None:
    line = units.cron_line(Path("/opt/100%/lxdocker"), "root")
    minute, rest = line.split(" ", 1)
    assert rest == r"* * * * root /opt/100\%/lxdocker sync -q"
    assert 0 <= int(minute) < 60
    assert units.cron_line(Path("/usr/bin/lxdocker")) == f"{minute} * * * * /usr/bin/lxdocker sync -q"
    own = units.cron_line(Path("/usr/bin/lxdocker"), config=Path("/srv/my lxdocker.yaml"))
    assert own == f"{minute} * * * * LXDOCKER_CONFIG='/srv/my lxdocker.yaml' /usr/bin/lxdocker sync -q"


# ---- what the sandbox takes away is not missed


# Starts lxdocker behind a filter of system calls, by libseccomp, which systemd needs itself; argv: those allowed, then
# Python's arguments. And with no memory that is both written and run, where the kernel knows how (Linux 6.3).
START = f"""
import ctypes, errno, os, sys
ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0)
library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
library.seccomp_release.argtypes = library.seccomp_load.argtypes = [ctypes.c_void_p]
library.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
context = library.seccomp_init(0x00050000 | errno.EPERM)
for name in sys.argv[1].split():
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        assert library.seccomp_rule_add(context, 0x7fff0000, number, 0) == 0, name
assert library.seccomp_load(context) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def expanded(group: str) -> set[str]:
    """The system calls in one of systemd's groups."""
    listed = ask("systemd-analyze", "syscall-filter", "--no-pager", group).stdout.splitlines()[1:]
    names = {line.strip() for line in listed if line.strip() and not line.strip().startswith("#")}
    assert names, group
    return {name for word in names for name in (expanded(word) if word.startswith("@") else {word})}


@cache
def allowed_calls(unit: str) -> str:
    """The system calls that a unit allows, as systemd.exec(5) reads it."""
    allowed = expanded("@default")
    for line in resource("profiles", f"systemd/{unit}").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "SystemCallFilter":
            names = {name for word in value.lstrip("~").split() for name in expanded(word)}
            allowed = allowed - names if value.startswith("~") else allowed | names
    return " ".join(sorted(allowed))


def confined(unit: str, *argv: str, uid: int = 0) -> list[str]:
    """A command as the unit runs it: without privileges, ways to new ones, and most system calls."""
    drop = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    return ["setpriv", *user, *drop, sys.executable, "-c", START, allowed_calls(unit), *argv]


# Builders would need a real LXD.
SYNC_PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from lxdocker.cli.main import main
from lxdocker.sync import run
from tests.stand_ins import ScriptedBuilders
run._open_workshop = lambda *_: ScriptedBuilders()
main()
"""


@systemd
@as_root
def test_sync_needs_no_privileges(tmp_path: Path) -> None:
    made = make_image()
    write_layout(tmp_path / "image", [made], [(made.manifest, "1")], [])
    (tmp_path / "images.d").mkdir()
    (tmp_path / "images.d/web.yaml").write_text(f"image: oci:{tmp_path}/image:1\n")
    (tmp_path / "lxd").mkdir()
    environ = {"PATH": "/usr/bin:/bin", "LXD_DIR": str(tmp_path / "lxd"), "LXDOCKER_TREE": str(tmp_path / "tree")}
    environ |= {"LXDOCKER_SPECS": str(tmp_path / "images.d"), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with image_daemon(tmp_path / "lxd", recorded.every()[-1]):
        done = subprocess.run(
            confined(SYNC, "-c", SYNC_PROGRAM, "sync"),
            cwd="/",
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout[:13]) == (0, "built     web"), done.stderr
    assert (tmp_path / "tree/streams/v1/index.json").is_file()


@pytest.fixture
def published(open_folder: Path) -> Path:
    """As tmpfiles.d makes them: a tree of root's, and a folder of the server's user."""
    if any(units.serve_obstacle(path) for path in (Path(sys.executable), Path(units.__file__).parent)):
        pytest.skip("other users cannot run this checkout")
    (open_folder / "lxdocker/tree").mkdir(parents=True)
    (open_folder / "lxdocker/tls").mkdir(mode=0o700)
    os.chown(open_folder / "lxdocker/tls", NOBODY, NOBODY)
    return open_folder


@systemd
@as_root
def test_the_server_runs_as_a_user_of_its_own_and_tells_systemd_when_it_is_ready(published: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(published / "notify"))
        (published / "notify").chmod(0o777)
        told.settimeout(60)
        environ = {"PATH": "/usr/bin:/bin", "XDG_DATA_HOME": str(published), "NOTIFY_SOCKET": str(published / "notify")}
        environ |= {"LXDOCKER_STOP_TIMEOUT": "100", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        server = subprocess.Popen(
            confined(SERVE, "-m", "lxdocker", "serve", "--listen", "127.0.0.1:0", uid=NOBODY),
            cwd="/",
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_until("the server", lambda: select.select([told], [], [], 0.1)[0] or server.poll() is not None)
            assert server.poll() is None, server.communicate()[0]
            assert told.recv(1000) == b"READY=1"
            server.send_signal(signal.SIGTERM)
            # Longer than TimeoutStopSec of the unit, which would otherwise cut downloads short.
            assert told.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=110000000"
            server.wait(60)  # a second signal could meet it when it no longer handles any
        finally:
            server.terminate()
            said = server.communicate(timeout=60)[0]
    assert (server.returncode, (published / "lxdocker/tls/server.key").stat().st_uid) == (0, NOBODY), said


def test_nobody_has_to_listen(tmp_path: Path) -> None:
    for address in ("", "relative", str(tmp_path / "nobody"), "@lxdocker nobody"):
        notify("READY=1", {"NOTIFY_SOCKET": address})
    assert stopping(0.5).endswith("=10500000")
