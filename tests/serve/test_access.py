"""Who may read, if not everybody."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from lxdocker.errors import UsageError
from lxdocker.serve.access import Users
from tests.serve.rig import METADATA, ROOTFS, Served, make_tree, serve
from tests.waiting import wait_until

PASSWORD = "pa:ss wörd/"  # noqa: S105 - made up


def line(name: str, password: str, *, prefix: bytes = b"2b", cost: int = 4) -> str:
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()
    return f"{name}:{hashed.replace('$2b$', f'${prefix.decode()}$')}\n"


def login(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users"
    # htpasswd -B writes $2y$.
    path.write_text("# readers\n\n" + line("ann", PASSWORD) + line("bob", "b", prefix=b"2y") + line("bär", "ü"))
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, users: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with serve(folder, make_tree(folder), "--users", str(users), limits={"server.WATCH_SECONDS": 0.2}) as found:
        yield found


@pytest.mark.parametrize("path", [METADATA, "/", "/streams/v1/index.json", "/metrics", "/missing", "/.lock"])
def test_nothing_without_a_login(served: Served, path: str) -> None:
    answer = served.get(path)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="lxdocker", charset="UTF-8"'
    assert answer.headers["Cache-Control"] == "no-store"


def test_health_tells_no_secret(served: Served) -> None:
    assert served.get("/healthz").status == 200


@pytest.mark.parametrize(("name", "password"), [("ann", PASSWORD), ("bob", "b"), ("bär", "ü")])
def test_with_a_login(served: Served, name: str, password: str) -> None:
    for _ in range(2):
        assert served.request("GET", ROOTFS, login(name, password)).status == 200
    assert served.request("GET", "/metrics", login(name, password)).status == 200
    assert served.request("POST", ROOTFS, login(name, password)).status == 405


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YQ==",
        "Bearer YW5uOmE=",
        "Basic " + base64.b64encode(b"ann:" + PASSWORD.encode() + b"\0x").decode(),
        "Basic " + base64.b64encode(b"ann:" + b"x" * 100).decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        *(login(*pair)["Authorization"] for pair in (("ann", ""), ("ann", "b"), ("", ""), ("eve", "b"), ("Ann", "b"))),
        login("# readers", "")["Authorization"],
        login("ann", PASSWORD)["Authorization"].replace("Basic ", "Basic  =,"),
    ],
)
def test_with_a_wrong_one(served: Served, header: str) -> None:
    assert served.request("GET", METADATA, {"Authorization": header}).status == 401


def test_the_log_has_the_user_but_no_password(served: Served) -> None:
    served.request("GET", "/.logged", login("ann", PASSWORD))
    log = wait_until("the log", lambda: served.log if "/.logged" in served.log else "")
    assert " - ann [" in next(one for one in log.splitlines() if "/.logged" in one)
    assert "pa:ss" not in log
    assert login("ann", PASSWORD)["Authorization"][6:] not in log


def test_a_password_is_checked_slowly_only_once(tmp_path: Path) -> None:
    """LXD sends it with every request."""
    users = tmp_path / "users"
    users.write_text(line("ann", PASSWORD, cost=11))
    with serve(tmp_path, make_tree(tmp_path), "--users", str(users)) as served, served.connection() as connection:
        took = []
        for _ in range(6):
            began = time.monotonic()
            connection.request("GET", METADATA, headers=login("ann", PASSWORD))
            assert connection.getresponse().read()
            took.append(time.monotonic() - began)
        assert sorted(took[1:])[2] < took[0] / 3


def test_users_come_and_go_while_serving(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(line("ann", "a"))
    limits = {"server.WATCH_SECONDS": 0.2}
    with serve(tmp_path, make_tree(tmp_path), "--users", str(users), limits=limits) as served:

        def may(name: str, password: str) -> bool:
            return served.request("GET", METADATA, login(name, password)).status == 200

        assert may("ann", "a")
        assert not may("bob", "b")
        users.write_text(line("bob", "b"))
        wait_until("bob", lambda: may("bob", "b"))
        assert not may("ann", "a")
        users.write_text("nonsense")
        wait_until("the complaint", lambda: "keeping the previous users" in served.log)
        assert may("bob", "b")
        assert "nonsense" not in served.log
        users.unlink()
        wait_until("the complaint", lambda: served.log.count("keeping the previous users") == 2)
        assert may("bob", "b")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no users in"),
        ("# nobody\n", "no users in"),
        ("ann\n", ":1: expected NAME:HASH"),
        ("ann:secret\n", ":1: expected NAME:HASH"),
        (f"ann:{'$apr1$x$' + 'y' * 22}\n", ":1: expected NAME:HASH"),
        (line("ann", "a") + ":" + line("", "a")[1:], ":2: expected NAME:HASH"),
        (line("ann", "a").replace("$04$", "$20$"), "cost above 14"),
    ],
    ids=["empty", "comment", "no hash", "plain", "apr1", "two on a line", "too dear"],
)
def test_files_that_can_not_be_used(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "users").write_text(content)
    with pytest.raises(UsageError) as caught:
        Users(tmp_path / "users")
    assert expected in str(caught.value)
    assert "htpasswd -B" in caught.value.resolution
    assert "secret" not in str(caught.value)


def test_it_warns_that_clients_send_the_password_without_tls_first(served: Served) -> None:
    assert "ask for image files without TLS first" in served.log
    assert "https://USER@127.0.0.1" in served.said
    assert "lxc remote add lxdocker https://USER:PASSWORD@127.0.0.1" in served.said
