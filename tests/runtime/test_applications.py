"""Real applications, made of Debian's packages, behave as their users expect."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lxd.rig import Lxc, World, fetch, redis
from tests.runtime.boxes import Box, Stopwatch, lines
from tests.waiting import wait_until

Launch = Callable[..., Box]
WANTED: dict[str, dict[str, object]] = {
    "nginx": {},
    "redis": {},
    "postgres": {"tmpfs": {"/dev/shm": "256m"}},
    "static": {},
    "s6": {"disable_supervisor": True},
    "systemd": {"disable_supervisor": True},
}


@pytest.fixture(scope="module")
def applications(
    tmp_path_factory: pytest.TempPathFactory, registry: str, layouts: Path, builder_image: str
) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("applications") / "world", registry)
    try:
        for name, keys in WANTED.items():
            world.spec(name, f"oci:{layouts / name}:latest", **keys)
        assert set(world.sync("--jobs", "2").statuses.values()) == {"built"}
        yield world
    finally:
        world.close()


@pytest.fixture
def nic() -> dict[str, dict[str, str]]:
    """The interface of LXD's default profile, as a user would have it."""
    return {"eth0": Lxc().query("/1.0/profiles/default")["devices"]["eth0"]}


@pytest.fixture
def run(applications: World, nic: dict[str, dict[str, str]]) -> Iterator[Launch]:
    launched: list[Box] = []

    def run(image: str, script: str | None = None, **options: object) -> Box:
        made = Box(applications.lxc, image, script, **{"devices": nic, **options})  # type: ignore[arg-type]  # passed on
        launched.append(made)
        return made

    yield run
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Box.delete, launched))


def test_nginx(run: Launch) -> None:
    one = run("nginx")
    address = one.address()
    assert fetch(f"http://{address}/") == "lxdocker test page\n"
    one.log_with('"GET / HTTP/1.1" 200')
    one.stop()
    log = one.log()
    assert "lxdocker: stopping with SIGQUIT" in log
    assert lines(log, "^lxdocker: ")[-1].startswith("lxdocker: nginx ended with status 0 after")
    one.start()
    assert fetch(f"http://{one.address()}/") == "lxdocker test page\n"


def test_redis_keeps_its_data(run: Launch) -> None:
    one = run("redis")
    assert redis(one.address(), "SET", "key", "some value") == "+OK\r\n"
    assert one.host_status(one.app_pid_on_host())["Uid"].split()[0] != one.host_status()["Uid"].split()[0]
    one.stop()
    log = one.log()
    assert "DB saved on disk" in log
    assert lines(log, "^lxdocker: ")[-1].startswith("lxdocker: redis-server ended with status 0 after")
    one.start()
    assert redis(one.address(), "GET", "key") == "$10\r\nsome value\r\n"
    assert one.shell("stat -c '%U:%G' /data /data/dump.rdb").split() == ["redis:redis"] * 2


class Postgres:
    """Just enough of PostgreSQL's protocol: one query, the first column of its rows."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, query: str) -> list[str]:
        found: list[list[str]] = []

        def probe() -> bool:
            try:
                with socket.create_connection((self._address, 5432), timeout=5) as connection:
                    found.append(self._run(connection, query))
            except OSError:
                return False
            return True

        wait_until(f"PostgreSQL at {self._address}", probe)
        return found[-1]

    def _run(self, connection: socket.socket, query: str) -> list[str]:
        start = struct.pack(">I", 196608) + b"user\0postgres\0\0"
        connection.sendall(struct.pack(">I", len(start) + 4) + start)
        stream = connection.makefile("rb")
        rows: list[str] = []
        asked = False
        while True:
            head = stream.read(5)
            if len(head) < 5:
                raise ConnectionError("closed")
            body = stream.read(struct.unpack(">I", head[1:])[0] - 4)
            if head[:1] == b"E":
                if b"57P03" in body:  # it is starting
                    raise ConnectionError("not yet")
                raise AssertionError(body.decode(errors="replace"))
            if head[:1] == b"D":
                length = struct.unpack(">i", body[2:6])[0]
                rows.append(body[6 : 6 + length].decode())
            if head[:1] == b"Z":
                if asked:
                    return rows
                asked = True
                text = query.encode() + b"\0"
                connection.sendall(b"Q" + struct.pack(">I", len(text) + 4) + text)


def test_postgres_shuts_down_cleanly_and_keeps_its_data(run: Launch) -> None:
    one = run("postgres")
    query = Postgres(one.address())
    query("create table kept (word text)")
    query("insert into kept values ('first'), ('second')")
    one.stop()
    log = one.log()
    assert "lxdocker: stopping with SIGINT" in log
    assert "received fast shutdown request" in log
    assert "database system is shut down" in log
    assert lines(log, "^lxdocker: ")[-1].startswith("lxdocker: /usr/local/bin/entrypoint ended with status 0 after")
    one.start()
    assert Postgres(one.address())("select word from kept order by word") == ["first", "second"]
    assert "database system was not properly shut down" not in one.log()
    data = "/var/lib/postgresql/data"
    assert one.shell(f"stat -c '%U %a' {data} {data}/PG_VERSION").splitlines() == ["postgres 700", "postgres 600"]


def test_one_static_binary_and_nothing_else(run: Launch) -> None:
    one = run("static")
    assert fetch(f"http://{one.address()}:8080/etc/hostname").strip() == one.name
    one.stop()
    assert lines(one.log(), "^lxdocker: ")[-1].startswith("lxdocker: /httpd was ended by signal 15 (TERM) after")


# ---- images with an init of their own


S6_ENDS = ["service: ending", "service: ended", "s6: all services have ended"]


def test_s6(run: Launch) -> None:
    """What LXD sends, SIGPWR, goes to a script of the image's if there is one. Or LXD sends what s6 ends with."""
    one = run("s6")
    log = one.log_with("service: pid")
    assert "started by s6-supervise" in log
    assert one.file("/proc/1/comm") == "s6-svscan\n"
    assert one.address()  # the runtime's DHCP client lives on beside it
    handler = "/etc/service/.s6-svscan/SIGPWR"
    assert one.runs(f"printf '#!/bin/sh\\ns6-svscanctl -t /etc/service\\n' >{handler}; chmod 755 {handler}")
    one.stop()
    assert lines(one.log(), "^(service: en|s6)") == S6_ENDS
    one._lxc("config", "set", one.name, "raw.lxc=lxc.signal.halt=SIGTERM")
    one.start()
    wait_until("the second start", lambda: len(lines(one.log(), "^service: pid")) == 2)
    assert one.runs(f"rm {handler}")
    watch = Stopwatch()
    one.stop()
    assert watch.seconds < 10
    assert lines(one.log(), "^(service: en|s6)") == S6_ENDS * 2


def test_systemd(run: Launch) -> None:
    one = run("systemd")
    one.log_with("systemd: the unit has run")
    wait_until("systemd", lambda: one.exec("systemctl", "is-system-running")[1].strip() in ("running", "degraded"))
    assert one.file("/proc/1/comm") == "systemd\n"
    one.stop()
    assert one.status == "Stopped"
