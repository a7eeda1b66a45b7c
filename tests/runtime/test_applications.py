"""Real applications, made of Debian's packages, behave as their users expect."""

from __future__ import annotations

import inspect
import json
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lxd.rig import Instance, Lxc, World, fetch, redis
from tests.runtime.boxes import Box, Volumes, lines
from tests.waiting import wait_until

WANTED: dict[str, dict[str, object]] = {
    "nginx-unprivileged": {},
    "redis": {},
    "postgres": {"tmpfs": {"/dev/shm": "256m"}},
    "prometheus": {},
    "gunicorn": {},
    "static": {},
    "s6-overlay": {},
    "systemd": {"disable_supervisor": True},
}


class Application(Box):
    """What a user's `lxc launch` makes, with the default profile and, from its standard input, volumes and limits."""

    def __init__(
        self, lxc: Lxc, image: str, volumes: Mapping[str, Mapping[str, str]], config: Mapping[str, str]
    ) -> None:
        Instance.__init__(self, lxc, image, yaml=json.dumps({"devices": volumes, "config": config}))

    def ends(self, program: str) -> str:
        """What it has said, after checking that it ended of its own accord, and well, when it was asked to."""
        self.stop()
        log = self.log()
        assert lines(log, "^lxdocker: ")[-1].startswith(f"lxdocker: {program} ended with status 0 after")
        return log

    def owner(self, *paths: str) -> list[str]:
        return self.shell(f"stat -c '%u:%g %a' {' '.join(paths)}").splitlines()


Launch = Callable[..., Application]


@pytest.fixture(scope="module")
def applications(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    registry: str,
    layouts: Path,
    builder_image: str,
) -> Iterator[World]:
    """The images of those tests that are to run; with a second LXD these are few."""
    world = World(tmp_path_factory.mktemp("applications") / "world", registry)
    tests = [item for item in request.session.items if item.path == request.path and isinstance(item, pytest.Function)]
    sources = "".join(inspect.getsource(test.function) for test in tests)
    try:
        for name, keys in WANTED.items():
            if f'run("{name}"' not in sources:
                continue
            world.spec(name, f"oci:{layouts / name}:latest", **keys)
        assert set(world.sync("--jobs", "2").statuses.values()) == {"built"}
        yield world
    finally:
        world.close()


@pytest.fixture
def volumes(applications: World) -> Iterator[Volumes]:
    made = Volumes(applications.lxc)
    yield made
    made.close()


@pytest.fixture
def run(applications: World, volumes: Volumes) -> Iterator[Launch]:
    """Launches an image, with volumes (FOLDER -> device); its instances go before the volumes do."""
    launched: list[Box] = []

    def run(image: str, *devices: Mapping[str, str], **config: str) -> Application:
        settings = {key.replace("__", "."): value for key, value in config.items()}
        made = Application(applications.lxc, image, {device["source"]: device for device in devices}, settings)
        launched.append(made)
        return made

    yield run
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Box.delete, launched))


def test_nginx_unprivileged(run: Launch, volumes: Volumes) -> None:
    """Its logs are links to /dev/stdout and /dev/stderr, which a user other than root opens by name."""
    one = run("nginx-unprivileged", volumes.make("/var/www/html"))
    assert fetch(f"http://{one.address()}:8080/") == "lxdocker test page\n"
    assert "404" in one.shell("wget http://127.0.0.1:8080/nothing 2>&1 || :")
    assert one.owner("/var/www/html", "/tmp/proxy_temp", "/proc/$(cat /tmp/nginx.pid)") == [
        "101:101 755",
        "101:101 700",
        "101:101 555",
    ]
    said = ['"GET / HTTP/1.1" 200', '"GET /nothing HTTP/1.1" 404', 'open() "/var/www/html/nothing" failed']
    for text in said:
        one.log_with(text)
    log = one.ends("nginx")
    assert "lxdocker: stopping with SIGQUIT" in log
    one.start()
    assert fetch(f"http://{one.address()}:8080/") == "lxdocker test page\n"
    said += ["lxdocker: nginx ended with status 0 after"]
    wait_until("all of the log", lambda: not [text for text in said if text not in one.exec("/lxd-log")[1]])


@pytest.mark.any_lxd
def test_redis_keeps_its_data_and_outlives_a_full_tmp(run: Launch, volumes: Volumes) -> None:
    one = run("redis", volumes.make("/data"), limits__memory="100MiB")
    assert redis(one.address(), "SET", "key", "some value") == "+OK\r\n"
    assert one.host_status(one.app_pid_on_host())["Uid"].split()[0] != one.host_status()["Uid"].split()[0]
    fill = "head -c 200000000 /dev/zero >/tmp/fill"
    status, said = one.exec("/lxd-exec", "sh", "-c", fill)
    assert status != 0
    assert "No space left on device" in said
    assert redis(one.address(), "GET", "key") == "$10\r\nsome value\r\n"
    assert "DB saved on disk" in one.ends("redis-server")
    one.start()
    assert redis(one.address(), "GET", "key") == "$10\r\nsome value\r\n"
    assert one.shell("stat -c '%U:%G' /data /data/dump.rdb").split() == ["redis:redis"] * 2


@pytest.mark.any_lxd
def test_prometheus_as_nobody(run: Launch, volumes: Volumes) -> None:
    one = run("prometheus", volumes.make("/prometheus"))
    assert "Ready" in fetch(f"http://{one.address()}:9090/-/ready")
    query = "/api/v1/query?query=count_over_time(up%5B1h%5D)"

    def samples() -> int:
        """How often it has looked after itself."""
        found = json.loads(fetch(f"http://{one.address()}:9090{query}"))["data"]["result"]
        return int(found[0]["value"][1]) if found else 0

    before = int(wait_until("two samples", lambda: samples() if samples() > 1 else None))
    assert one.owner("/prometheus", "/prometheus/wal") == ["65534:65534 755", "65534:65534 755"]
    assert "See you next time!" in one.ends("/bin/prometheus")
    one.start()
    assert samples() >= before


@pytest.mark.any_lxd
def test_an_application_of_python_on_port_80(run: Launch, volumes: Volumes) -> None:
    one = run("gunicorn", volumes.make("/data"))
    first = fetch(f"http://{one.address()}/first")
    assert first.splitlines() == ["of the image", "/first seen by 1000:0"]
    assert one.owner("/data", "/data/visitors") == ["1000:1000 755", "1000:1000 644"]
    for text in ("visited: /first", '"GET /first HTTP/1.1" 200'):
        one.log_with(text)
    assert "Handling signal: term" in one.ends("gunicorn")
    one.start()
    assert fetch(f"http://{one.address()}/second") == first + "/second seen by 1000:0\n"


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


@pytest.mark.any_lxd
def test_postgres_as_its_user_keeps_its_data(run: Launch, volumes: Volumes) -> None:
    volume = volumes.make("/var/lib/postgresql/data")
    one = run("postgres", volume, environment__POSTGRES_DB="shop")
    query = Postgres(one.address())
    query("create table kept (word text)")
    query("insert into kept values ('first'), ('second')")
    assert query("select datname from pg_database where datname = 'shop'") == ["shop"]
    data = "/var/lib/postgresql/data"
    assert one.shell(f"stat -c '%U %a' {data} {data}/PG_VERSION").splitlines() == ["postgres 700", "postgres 600"]
    log = one.ends("/usr/local/bin/entrypoint")
    assert "lxdocker: stopping with SIGINT" in log
    assert "received fast shutdown request" in log
    assert "database system is shut down" in log
    one.delete()
    other = run("postgres", volume)
    assert Postgres(other.address())("select word from kept order by word") == ["first", "second"]
    assert "database system was not properly shut down" not in other.log()


@pytest.mark.any_lxd
def test_one_static_binary_and_nothing_else(run: Launch) -> None:
    one = run("static")
    assert fetch(f"http://{one.address()}:8080/etc/hostname").strip() == one.name
    one.stop()
    assert lines(one.log(), "^lxdocker: ")[-1].startswith("lxdocker: /httpd was ended by signal 15 (TERM) after")


# ---- images with an init of their own


def test_s6_overlay(run: Launch, volumes: Volumes) -> None:
    """Known by its /init, it is PID 1 with nothing said in the spec, and takes what LXD sends for what it is."""
    one = run("s6-overlay", volumes.make("/config"))
    assert fetch(f"http://{one.address()}/") == "of the image\n"
    assert one.file("/proc/1/comm") == "s6-svscan\n"
    assert one.owner("/config", "/config/index.html") == ["911:911 755", "911:911 644"]
    assert """10-config: PID 1 is s6-svscan, for it's "quoted\"""" in one.log()
    said = []
    for _ in range(2):
        one("stop", "--timeout", "10")
        said += ["s6-overlay: shutting down", "web: ended by signal 15", "s6-overlay: all services have ended"]
        assert lines(one.log(), "^(s6-overlay|web): ") == said
        one.start()
        assert fetch(f"http://{one.address()}/") == "of the image\n"


def test_systemd(run: Launch) -> None:
    one = run("systemd")
    one.log_with("systemd: the unit has run")
    wait_until("systemd", lambda: one.exec("systemctl", "is-system-running")[1].strip() in ("running", "degraded"))
    assert one.file("/proc/1/comm") == "systemd\n"
    one.stop()
    assert one.status == "Stopped"
