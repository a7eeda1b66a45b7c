"""Each finding that needs no LXD, or no real one: caused, and silent when all is well."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lxdocker.config import repository, units
from lxdocker.config.settings import Settings
from lxdocker.doctor import (
    builders,
    certificate,
    daemon,
    network,
    proxies,
    published,
    registries,
    run,
    specs,
    timer,
)
from lxdocker.doctor.finding import SEVERITIES, Finding, NotExamined, Severity
from lxdocker.doctor.reach import UNANSWERED, UNRESOLVED, explained
from lxdocker.doctor.run import Examination
from lxdocker.doctor.subject import Subject
from lxdocker.image.provenance import Folder
from lxdocker.serve import certs, hostnames
from lxdocker.tree import last_sync
from lxdocker.tree.last_sync import LastSync
from lxdocker.tree.tree import Tree
from tests import recorded
from tests.examples import provenance, publish, spec
from tests.forked import NOBODY, in_child
from tests.registry_server import Certificate, Handler, ScriptedServer
from tests.stand_ins import ImageDaemon, builder_of_a_killed_one, builder_of_another, image_daemon
from tests.unit.lxd.test_api import sockets_left_open

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
PAGE = (Path(__file__).parents[3] / "docs/doctor.md").read_text()


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """A host with an empty folder of specs, and neither LXD nor tree."""
    (tmp_path / "images.d").mkdir()
    (tmp_path / "home").mkdir()
    settings = Settings(
        specs=tmp_path / "images.d", tree=tmp_path / "tree", tls_dir=tmp_path / "tls", client_dir=tmp_path / "client"
    )
    return Subject(settings, {"HOME": str(tmp_path / "home"), "LXD_DIR": str(tmp_path)})


@pytest.fixture
def lxd(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageDaemon]:
    """An LXD set up as by `lxd init --minimal`."""
    monkeypatch.setenv("LXD_DIR", subject.environ["LXD_DIR"])
    with image_daemon(Path(subject.environ["LXD_DIR"]), recorded.every()[-1]) as found:
        devices = {
            "root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {"type": "nic", "network": "lxdbr0"},
        }
        found.say("GET /1.0/profiles/default", {"devices": devices})
        found.say("GET /1.0/storage-pools", ["/1.0/storage-pools/default"])
        found.say("GET /1.0/storage-pools/default/resources", {"space": {"total": 50 << 30, "used": 1 << 30}})
        config = {"ipv4.address": "10.1.1.1/24", "ipv4.nat": "true"}
        found.say("GET /1.0/networks/lxdbr0", {"managed": True, "type": "bridge", "config": config})
        found.say("GET /1.0/networks", [{"name": "lxdbr0", "managed": True, "type": "bridge"}])
        yield found


def found_by(examine: run.Examine, subject: Subject) -> dict[str, Finding]:
    return {finding.id: finding for finding in examine(subject)}


def with_settings(subject: Subject, **changes: Any) -> Subject:
    return Subject(replace(subject.settings, **changes), subject.environ)


def write_spec(subject: Subject, image: str, name: str = "web") -> None:
    (subject.settings.specs / f"{name}.yaml").write_text(f"image: {image}\n")


# ---- the catalogue


def test_the_page_explains_each_finding_and_no_other() -> None:
    assert re.findall(r"^### (.+)$", PAGE, re.MULTILINE) == list(dict.fromkeys(re.findall(r"^### (.+)$", PAGE, re.M)))
    assert set(re.findall(r"^### (.+)$", PAGE, re.MULTILINE)) == set(SEVERITIES)


def test_each_finding_can_be_found() -> None:
    folder = Path(run.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "finding.py")
    assert {one for one in SEVERITIES if f'"{one}"' not in source} == set()


# ---- LXD


def test_no_lxd(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXD_DIR", subject.environ["LXD_DIR"])
    found = found_by(daemon.lxd, subject)
    assert list(found) == ["lxd-missing"]
    assert "lxd init --minimal" in found["lxd-missing"].do


def test_an_lxd_that_does_not_run(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXD_DIR", subject.environ["LXD_DIR"])
    (Path(subject.environ["LXD_DIR"]) / "unix.socket").write_text("")
    with sockets_left_open():
        assert list(found_by(daemon.lxd, subject)) == ["lxd-not-running"]


@needs_root
def test_an_lxd_that_is_closed_to_this_user(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(f"/tmp/lxdocker-doctor-{os.getpid()}")
    with contextlib.ExitStack() as cleanup:
        place.mkdir()
        cleanup.callback(place.rmdir)
        listening = cleanup.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        listening.bind(str(place / "unix.socket"))
        cleanup.callback((place / "unix.socket").unlink)
        (place / "unix.socket").chmod(0o660)
        monkeypatch.setenv("LXD_DIR", str(place))
        here = Subject(subject.settings, {**subject.environ, "LXD_DIR": str(place)})
        assert in_child(lambda: list(found_by(daemon.lxd, here)), uid=NOBODY) == ["lxd-permission"]


def test_an_lxd_elsewhere_that_does_not_answer(subject: Subject) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        (subject.settings.specs.parent / "client").mkdir()
        with sockets_left_open():
            assert list(found_by(daemon.lxd, with_settings(subject, lxd=url))) == ["lxd-unreachable"]


def test_an_lxd_as_it_should_be(subject: Subject, lxd: ImageDaemon) -> None:
    assert found_by(daemon.lxd, subject) == {}
    assert found_by(daemon.setup, subject) == {}
    assert found_by(network.bridge, subject) == {}
    assert found_by(builders.left, subject) == {}


@pytest.mark.parametrize(("version", "expected"), [("5.0.4", ["lxd-vulnerable"]), ("6.9", [])])
def test_an_lxd_without_a_security_update(
    subject: Subject, lxd: ImageDaemon, version: str, expected: list[str]
) -> None:
    server = lxd.lxd.server
    lxd.say("GET /1.0", {**server, "environment": {**server["environment"], "server_version": version}})
    assert list(found_by(daemon.lxd, subject)) == expected


def test_an_lxd_that_is_too_old(subject: Subject, lxd: ImageDaemon) -> None:
    lxd.say("GET /1.0", {**lxd.lxd.server, "api_extensions": ["instances"]})
    assert list(found_by(daemon.lxd, subject)) == ["lxd-too-old"]


def test_an_lxd_that_was_never_set_up(subject: Subject, lxd: ImageDaemon) -> None:
    lxd.say("GET /1.0/profiles/default", {"devices": {}})
    lxd.say("GET /1.0/storage-pools", [])
    assert list(found_by(daemon.setup, subject)) == ["lxd-not-initialised"]


def test_pools_and_networks_that_are_not_there(subject: Subject, lxd: ImageDaemon) -> None:
    assert list(found_by(daemon.setup, with_settings(subject, pool="fast"))) == ["pool-missing"]
    assert list(found_by(daemon.setup, with_settings(subject, network="br7"))) == ["network-missing"]
    lxd.say("GET /1.0/profiles/default", {"devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}})
    lxd.say("GET /1.0/networks", [])
    assert list(found_by(daemon.setup, with_settings(subject))) == ["network-missing"]
    write_spec(subject, "127.0.0.1:5000/app")
    assert found_by(daemon.setup, with_settings(subject)) == {}  # which needs none


def test_left_builders_are_found_and_removed(subject: Subject, lxd: ImageDaemon) -> None:
    lxd.instances = {
        ("lxdocker", "builder-1"): builder_of_a_killed_one(),
        ("lxdocker", "builder-2"): builder_of_another(),
    }
    (finding,) = builders.left(subject)
    assert finding.id == "builders-left"
    assert finding.fix is not None
    (command,) = finding.fix.commands
    assert command == "lxc delete --force --project lxdocker builder-1"
    diagnosis = run.fix(run.Diagnosis((finding,), ()), print)
    assert [one.is_fixed for one in diagnosis.findings] == [True]
    assert set(lxd.instances) == {("lxdocker", "builder-2")}
    assert found_by(builders.left, subject) == {}


# ---- the firewall, as iptables -S prints it

DOCKER = """
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"""


@pytest.mark.parametrize(
    ("rules", "blocked"),
    [
        ("-P FORWARD ACCEPT", False),
        ("-P FORWARD DROP", True),
        (DOCKER, True),
        (DOCKER + "-A DOCKER-USER -i lxdbr0 -j ACCEPT", False),
        (DOCKER + "-A DOCKER-USER -i lxdbr+ -j ACCEPT", False),
        (DOCKER + "-A DOCKER-USER -i lxdbr1 -j ACCEPT", True),
        (DOCKER + "-A DOCKER-USER -i lxdbr0 -p icmp -j ACCEPT", True),
        (DOCKER + "-A DOCKER-USER ! -i eth0 -j ACCEPT", False),
        ("-P FORWARD DROP\n-A FORWARD -j ACCEPT", False),
        ("-P FORWARD DROP\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", True),
        ("-P FORWARD DROP\n-A FORWARD -j own\n-A own -j FORWARD", True),
        ('-P FORWARD DROP\n-A FORWARD -i lxdbr0 -m comment --comment "generated for LXD" -j ACCEPT', False),
    ],
)
def test_what_the_firewall_forwards(rules: str, blocked: bool) -> None:
    import shlex

    assert network.is_blocked([shlex.split(line) for line in rules.splitlines() if line], "lxdbr0") is blocked


# ---- from inside a builder: skopeo's words


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (1, 'level=fatal msg="pinging registry r: dial tcp: lookup r on 10.1.1.1:53: no such host"', ["builder-dns"]),
        (UNRESOLVED, "", ["builder-dns"]),
        (1, 'msg="Get https://r/v2/: tls: x509: certificate signed by unknown authority"', ["builder-authority"]),
        (1, 'msg="pinging: dial tcp 10.1.1.9:443: connect: no route to host"', ["builder-route"]),
        (UNANSWERED, "", ["builder-route"]),
        (1, 'msg="reading manifest sha256:00 in r/app: manifest unknown"', []),
        (1, 'msg="unauthorized: authentication required"', []),
        (0, "", []),
    ],
)
def test_what_skopeo_says_in_a_builder(status: int, said: str, expected: list[str]) -> None:
    assert [finding.id for finding in explained("r", status, said)] == expected


# ---- IDs, in files of a mount namespace's own


@needs_root
@pytest.mark.parametrize(("lines", "expected"), [("root:100000:1000\n", ["id-map-small"]), ("root:100000:65536\n", [])])
def test_an_id_map_that_is_too_small(
    subject: Subject, lxd: ImageDaemon, tmp_path: Path, lines: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/newuidmap")
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text(f"other:1:70000\n{lines}")
    monkeypatch.setattr(daemon, "SUBIDS", (tmp_path / "subuid", tmp_path / "subgid"))
    assert [finding.id for finding in daemon.id_map(subject)] == expected * 2


# ---- proxies


def test_a_proxy_that_lxd_does_not_know(subject: Subject, lxd: ImageDaemon) -> None:
    here = Subject(subject.settings, {**subject.environ, "https_proxy": "http://ann:hush@proxy:3128"})
    (finding,) = proxies.in_lxd(here)
    assert finding.id == "proxy-not-in-lxd"
    assert "hush" not in str(finding)
    lxd.say("GET /1.0", {**lxd.lxd.server, "config": {"core.proxy_https": "http://proxy:3128"}})
    assert found_by(proxies.in_lxd, here) == {}
    assert found_by(proxies.in_lxd, subject) == {}


def test_a_proxy_that_the_timer_does_not_know(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_FOLDER", tmp_path / "units")
    monkeypatch.setattr(proxies, "ENVIRONMENT", tmp_path / "environment")
    here = Subject(subject.settings, {**subject.environ, "https_proxy": "http://ann:hush@proxy:3128"})
    assert found_by(proxies.in_timer, here) == {}  # no timer
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / units.TIMER).write_text("[Timer]\nOnCalendar=hourly\n")
    (finding,) = proxies.in_timer(here)
    assert finding.id == "proxy-not-in-timer"
    assert "hush" not in str(finding)
    (tmp_path / "environment").write_text("https_proxy=http://proxy:3128\n")
    assert found_by(proxies.in_timer, here) == {}


# ---- registries: servers that answer as registries in such a state do


@contextlib.contextmanager
def a_registry(
    status: int = 200, headers: Mapping[str, str] | None = None, *, date: str | None = None
) -> Iterator[ScriptedServer]:
    def answer(handler: Handler) -> None:
        if date:
            handler.date_time_string = lambda timestamp=None: date  # type: ignore[method-assign]  # a clock
        digest = {"Docker-Content-Digest": f"sha256:{'1' * 64}"} if status == 200 else {}
        handler.reply(status, b"", {**digest, **(headers or {})})

    with ScriptedServer(answer) as server:
        yield server


def at(subject: Subject, registry: str) -> dict[str, Finding]:
    write_spec(subject, f"{registry}/app:1")
    return found_by(registries.registries, Subject(subject.settings, subject.environ))


def test_a_registry_in_order(subject: Subject) -> None:
    with a_registry(headers={"RateLimit-Remaining": "76;w=21600"}) as server:
        assert at(subject, server.address) == {}
        assert {seen.method for seen in server.seen} == {"HEAD"}


def test_a_registry_that_cannot_be_reached(subject: Subject) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert list(at(subject, f"127.0.0.1:{probe.getsockname()[1]}")) == ["registry-unreachable"]


def test_an_image_that_is_not_there(subject: Subject) -> None:
    with a_registry(404) as server:
        assert list(at(subject, server.address)) == ["registry-refused"]


def test_a_login_that_is_refused(subject: Subject) -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="r"'}
    with a_registry(401, challenge) as server:
        assert list(at(subject, server.address)) == ["registry-refused"]
        auth = {"auths": {server.address: {"auth": base64.b64encode(b"ann:hush").decode()}}}
        (Path(subject.environ["HOME"]) / ".docker").mkdir()
        (Path(subject.environ["HOME"]) / ".docker/config.json").write_text(json.dumps(auth))
        found = at(subject, server.address)
        assert list(found) == ["login-refused"]
        assert "hush" not in str(found)


def test_a_rate_limit_that_is_near(subject: Subject) -> None:
    with a_registry(headers={"RateLimit-Remaining": "3;w=21600", "RateLimit-Limit": "100;w=21600"}) as server:
        found = at(subject, server.address)
    assert list(found) == ["rate-limit"]
    assert "3 more downloads" in found["rate-limit"].what
    with a_registry(429) as server:
        assert list(at(subject, server.address)) == ["rate-limit"]


@pytest.mark.parametrize(("minutes", "how"), [(10, "10 minutes behind"), (-300, "5 hours ahead"), (0.5, "")])
def test_a_clock_that_is_off(subject: Subject, minutes: float, how: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    with a_registry(date=date) as server:
        found = at(subject, server.address)
    assert list(found) == (["clock-off"] if how else [])
    assert how in str(found)


def test_a_clock_that_makes_certificates_seem_invalid(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a host sees whose clock is three days behind: a certificate from tomorrow."""
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("0.0.0.0"))  # noqa: S104 - no loopback by its name
    cert, key = a_certificate(tmp_path, now + timedelta(1), now + timedelta(9), address)
    date = format_datetime(now + timedelta(3), usegmt=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))

    def answer(handler: Handler) -> None:
        handler.date_time_string = lambda timestamp=None: date  # type: ignore[method-assign]  # a clock
        handler.reply(200)

    with ScriptedServer(answer, Certificate(cert, key, ec.generate_private_key(ec.SECP256R1()))) as server:
        found = at(subject, server.public_address)
    assert list(found) == ["registry-unreachable", "clock-off"]
    assert "3 days behind" in found["clock-off"].what


def test_a_clock_like_that_of_one_registry_is_right(subject: Subject) -> None:
    late = format_datetime(datetime.now(UTC) + timedelta(days=3), usegmt=True)
    with a_registry(date=late) as wrong, a_registry() as right:
        write_spec(subject, f"{right.address}/app", "other")
        assert at(subject, wrong.address) == {}


# ---- specs


def test_specs(subject: Subject) -> None:
    assert list(found_by(specs.specs, subject)) == ["specs-missing"]
    write_spec(subject, "nginx")
    assert found_by(specs.specs, Subject(subject.settings, subject.environ)) == {}
    write_spec(subject, "nginx\nrestart: never", "bad")
    found = found_by(specs.specs, Subject(subject.settings, subject.environ))
    assert list(found) == ["specs-invalid"]
    assert "restart" in found["specs-invalid"].why
    assert list(found_by(specs.specs, with_settings(subject, specs=Path("/nowhere")))) == ["specs-missing"]


def test_specs_of_a_repository(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "specs/current"
    monkeypatch.setattr(repository, "checkout", lambda _: there)
    subject = with_settings(subject, specs=there, specs_repository="https://git.example/specs")
    found = found_by(specs.specs, subject)
    assert list(found) == ["specs-missing"]
    assert found["specs-missing"].do == "lxdocker sync fetches its repository"
    there.parent.mkdir()
    problem = {"what": "fetching failed", "why": "no route", "do": "see to it"}
    (there.parent / "problem").write_text(json.dumps(problem))
    assert list(found_by(specs.specs, subject)) == ["specs-outdated"]
    there.mkdir()
    (there / "web.yaml").write_text("image: nginx\n")
    found = found_by(specs.specs, Subject(subject.settings, subject.environ))
    assert list(found) == ["specs-outdated"]
    assert found["specs-outdated"].do == "see to it"


# ---- the tree


@pytest.fixture
def tree(subject: Subject) -> Iterator[Tree]:
    """A tree with one version, in a place that others can reach."""
    place = Path(f"/tmp/lxdocker-doctor-tree-{os.getpid()}")
    made = Tree(place / "tree")
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    try:
        with made.lock(print, threading.Event()):
            publish(made, provenance(spec("web", "web:1")))
        yield made
    finally:
        subprocess.run(["rm", "-r", str(place)], check=True)


def test_a_tree_in_order(subject: Subject, tree: Tree) -> None:
    here = with_settings(subject, tree=tree.root)
    assert found_by(published.damage, here) == {}
    assert found_by(published.modes, here) == {}
    assert found_by(published.damage, subject) == {}  # none
    assert found_by(published.modes, subject) == {}


def test_a_damaged_tree(subject: Subject, tree: Tree) -> None:
    (rootfs,) = tree.root.rglob("rootfs.squashfs")
    rootfs.write_bytes(b"short")
    found = found_by(published.damage, with_settings(subject, tree=tree.root))
    assert list(found) == ["tree-damaged"]
    assert "rootfs.squashfs" in found["tree-damaged"].why


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [
        ("streams/v1/index.json", 0o600, "tree-unreadable"),
        ("images/web", 0o700, "tree-unreadable"),
        ("images/web", 0o777, "tree-writable"),
        ("streams/v1/images.json", 0o666, "tree-writable"),
        (".", 0o757, "tree-writable"),
    ],
)
def test_modes_of_the_tree_are_found_and_mended(
    subject: Subject, tree: Tree, path: str, mode: int, expected: str
) -> None:
    place = tree.root / path
    right = place.stat().st_mode
    place.chmod(mode)
    here = with_settings(subject, tree=tree.root)
    (finding,) = published.modes(here)
    assert finding.id == expected
    assert finding.fix is not None
    (command,) = finding.fix.commands
    fixed = run.fix(run.Diagnosis((finding,), ()), print)
    assert fixed.is_healthy
    assert place.stat().st_mode == right
    place.chmod(mode)
    subprocess.run(["sh", "-c", command], check=True)  # the same by hand
    assert place.stat().st_mode == right
    assert found_by(published.modes, here) == {}


def test_a_folder_above_the_tree_is_left_as_it_is(subject: Subject, tree: Tree) -> None:
    tree.root.parent.chmod(0o700)
    (finding,) = published.modes(with_settings(subject, tree=tree.root))
    assert (finding.id, finding.fix) == ("tree-unreadable", None)
    assert "chmod a+x" in finding.do
    tree.root.parent.chmod(0o777)
    (finding,) = published.modes(with_settings(subject, tree=tree.root))
    assert (finding.id, finding.fix) == ("tree-writable", None)


@needs_root
def test_a_tree_at_home_is_served_by_its_user(subject: Subject, tree: Tree) -> None:
    tree.root.parent.chmod(0o700)
    for path in (tree.root.parent, *tree.root.parent.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for home, expected in ((tree.root.parent, []), (Path("/nowhere"), ["tree-unreadable"])):
        here = Subject(replace(subject.settings, tree=tree.root), {"HOME": str(home)})
        assert in_child(partial(ids_of_modes, here), uid=NOBODY) == expected


def ids_of_modes(subject: Subject) -> list[str]:
    return list(found_by(published.modes, subject))


def test_a_file_that_became_a_link_is_not_mended(subject: Subject, tree: Tree, tmp_path: Path) -> None:
    place = tree.root / "streams/v1/index.json"
    place.chmod(0o666)
    (finding,) = published.modes(with_settings(subject, tree=tree.root))
    other = tmp_path / "other"
    other.write_text("")
    other.chmod(0o666)
    place.unlink()
    place.symlink_to(other)
    said: list[str] = []
    diagnosis = run.fix(run.Diagnosis((finding,), ()), said.append)
    assert not diagnosis.is_healthy
    assert said[0].startswith("warning: tree-writable can't be fixed")
    assert other.stat().st_mode & 0o777 == 0o666


# ---- the certificate


def a_certificate(folder: Path, begins: datetime, ends: datetime, *names: str | x509.GeneralName) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    alternatives = [x509.DNSName(one) if isinstance(one, str) else one for one in names]
    found = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begins, ends)
        .add_extension(
            x509.SubjectAlternativeName(alternatives),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    cert, key_file = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(found.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, key_file


@pytest.mark.parametrize(
    ("from_days", "to_days", "expected"),
    [
        (-400, -1, ["certificate-unusable"]),
        (1, 400, ["certificate-unusable"]),
        (-400, 5, ["certificate-ending"]),
        (-1, 400, []),
    ],
)
def test_the_dates_of_a_certificate(
    subject: Subject, tmp_path: Path, from_days: int, to_days: int, expected: list[str]
) -> None:
    now = datetime.now(UTC)
    cert, key = a_certificate(tmp_path, now + timedelta(from_days), now + timedelta(to_days), "images.example")
    here = with_settings(subject, tls_cert=cert, tls_key=key, tls_names=("images.example",))
    assert list(found_by(certificate.certificate, here)) == expected


def test_the_names_of_a_certificate(subject: Subject, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    cert, key = a_certificate(tmp_path, now - timedelta(1), now + timedelta(400), "images.example")
    for names in (("images.example", "other.example"), ()):
        found = found_by(certificate.certificate, with_settings(subject, tls_cert=cert, tls_key=key, tls_names=names))
        assert list(found) == ["certificate-name"]
    cert.write_text("no certificate")
    here = with_settings(subject, tls_cert=cert, tls_key=key)
    assert list(found_by(certificate.certificate, here)) == ["certificate-unusable"]
    here = with_settings(subject, tls_cert=tmp_path / "nowhere", tls_key=key)
    assert list(found_by(certificate.certificate, here)) == ["certificate-unusable"]


def test_the_certificate_that_lxdocker_makes(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_by(certificate.certificate, subject) == {}  # none yet
    assert subject.settings.tls_dir is not None
    certs.make(subject.settings.tls_dir)
    assert found_by(certificate.certificate, subject) == {}
    monkeypatch.setattr(hostnames, "own_name", lambda: ["renamed"])
    assert list(found_by(certificate.certificate, subject)) == ["certificate-name"]


# ---- a port that is dropped: a listener whose queue is full does not answer, either


def test_a_port_that_does_not_answer() -> None:
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        assert not network._hangs("127.0.0.1", server.getsockname()[1])  # refused
        server.listen(0)
        for _ in range(3):
            client = cleanup.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        assert network._hangs("127.0.0.1", server.getsockname()[1])


def test_servers_that_this_host_follows(subject: Subject, lxd: ImageDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [
        {"server": "https://images.example", "protocol": "simplestreams"},
        {"server": "https://other.example:8444", "protocol": "simplestreams"},
        {"server": "https://third.example:8443", "protocol": "lxd"},
    ]
    monkeypatch.setattr("lxdocker.lxd.api.Lxd.get", lambda *_, **__: [{"update_source": one} for one in [*sources, {}]])
    asked: list[tuple[str, int]] = []

    def hangs(host: str, port: int) -> bool:
        asked.append((host, port))
        return True

    monkeypatch.setattr(network, "_hangs", hangs)
    assert list(found_by(network.port_80, subject)) == ["port-80-dropped"]
    assert asked == [("images.example", 80)]
    monkeypatch.setattr(network, "_hangs", lambda *_: False)
    assert found_by(network.port_80, subject) == {}


# ---- the timer


@pytest.fixture
def cron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The line of an hourly job."""
    monkeypatch.setattr(units, "UNIT_FOLDER", tmp_path / "units")
    monkeypatch.setattr(timer, "CRON", tmp_path / "cron")
    (tmp_path / "crontab").write_text("#!/bin/sh\necho '# m h dom mon dow command'\ncat \"$HOME/crontab.txt\" 2>&-\n")
    (tmp_path / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cron").write_text("# lxdocker\n17 * * * * root /usr/bin/lxdocker sync -q\n")
    return tmp_path / "cron"


def synced(subject: Subject, hours_ago: float, status: int = 0, failed: frozenset[str] = frozenset()) -> None:
    subject.settings.tree.mkdir(exist_ok=True)
    last = LastSync(time.time() - hours_ago * 3600, 1.0, status, failed)
    last_sync.record(subject.settings.tree, Folder.of(subject.settings.specs).id, last)


def test_a_timer_that_has_not_run(subject: Subject, cron: Path) -> None:
    write_spec(subject, "nginx")
    assert found_by(timer.timer, subject) == {}  # it is new
    synced(subject, 1.5)
    assert found_by(timer.timer, subject) == {}
    synced(subject, 3)
    found = found_by(timer.timer, subject)
    assert list(found) == ["timer-late"]
    assert "3 hours ago" in found["timer-late"].why
    cron.write_text("17 3 * * * root lxdocker sync -q\n")
    assert found_by(timer.timer, subject) == {}
    (units.UNIT_FOLDER).mkdir()
    (units.UNIT_FOLDER / units.TIMER).write_text("[Timer]\nOnCalendar=hourly\n")
    assert list(found_by(timer.timer, subject)) == ["timer-late"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="asks systemd-analyze")
def test_a_calendar_that_only_systemd_reads(subject: Subject, cron: Path) -> None:
    units.UNIT_FOLDER.mkdir()
    (units.UNIT_FOLDER / units.TIMER).write_text("[Timer]\nOnCalendar=*-*-* 00/6:00:00\n")
    for hours, expected in ((11, []), (13, ["timer-late"])):
        synced(subject, hours)
        assert list(found_by(timer.timer, subject)) == expected


def test_a_timer_that_has_never_run(subject: Subject, cron: Path) -> None:
    write_spec(subject, "nginx")
    os.utime(cron, (time.time() - 9000,) * 2)
    assert list(found_by(timer.timer, subject)) == ["timer-late"]


def test_the_timer_of_the_debian_package(subject: Subject, cron: Path, tmp_path: Path) -> None:
    """Its file is as old as the package; it came to be there when it was enabled."""
    write_spec(subject, "nginx")
    cron.unlink()
    unit = tmp_path / units.TIMER
    unit.write_text("[Timer]\nOnCalendar=hourly\n")
    os.utime(unit, (time.time() - 9000,) * 2)
    link = units.UNIT_FOLDER / "timers.target.wants" / units.TIMER
    link.parent.mkdir(parents=True)
    link.symlink_to(unit)
    assert found_by(timer.timer, subject) == {}
    synced(subject, 3)
    assert list(found_by(timer.timer, subject)) == ["timer-late"]


def test_no_timer(subject: Subject, cron: Path) -> None:
    cron.unlink()
    assert found_by(timer.timer, subject) == {}  # and nothing to sync
    write_spec(subject, "nginx")
    assert list(found_by(timer.timer, Subject(subject.settings, subject.environ))) == ["timer-missing"]


def test_a_job_in_a_crontab(subject: Subject, cron: Path) -> None:
    cron.unlink()
    write_spec(subject, "nginx")
    (cron.parent / "crontab.txt").write_text("17 * * * * /home/ann/lxdocker/bin/lxdocker sync -q\n")
    assert found_by(timer.timer, subject) == {}
    synced(subject, 3)
    assert list(found_by(timer.timer, subject)) == ["timer-late"]


def test_a_sync_that_failed(subject: Subject, cron: Path) -> None:
    synced(subject, 0.5, 1, frozenset({"web"}))
    found = found_by(timer.timer, subject)
    assert list(found) == ["last-sync-failed"]
    assert "web" in found["last-sync-failed"].why
    for status, why in ((1, "the specs could not be updated from their repository"), (2, "it failed as a whole")):
        synced(subject, 0.5, status)
        assert found_by(timer.timer, subject)["last-sync-failed"].why == why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PATH=/opt/lxdocker/bin:/bin\nMAILTO=lxdocker@example.org\n17 * * * * root lxdocker sync -q\n", 1),
        ("# 17 * * * * root lxdocker sync\n@daily root LXDOCKER_CONFIG=/c /opt/lxdocker sync --config /c -q\n", 24),
        ("17 mon * * * root lxdocker sync\n", 24),
        ("17 * * * * root lxdocker mirror --import -q lxdocker:\n", None),
        ("MAILTO=lxdocker sync\n", None),
    ],
)
def test_jobs_of_cron(cron: Path, text: str, expected: float | None) -> None:
    cron.write_text(text)
    assert timer._interval() == (expected and expected * 3600)


@pytest.mark.parametrize(
    ("line", "hours"),
    [
        ("17 * * * * x", 1),
        ("*/20 * * * * x", 1 / 3),
        ("0,45 * * * * x", 0.75),
        ("0 */6 * * * x", 6),
        ("0 3 * * * x", 24),
        ("0 8,20 * * * x", 12),
        ("0 3 * * 1 x", 168),
        ("@daily x", 24),
    ],
)
def test_how_often_cron_runs_a_job(line: str, hours: float) -> None:
    assert timer.of_cron(line) == pytest.approx(hours * 3600)


# ---- all of them


def test_what_cannot_be_examined_is_a_note(subject: Subject) -> None:
    def unable(_: Subject) -> Iterator[Finding]:
        yield Finding("specs-missing", "found before")
        raise NotExamined("there is no LXD")

    def broken(_: Subject) -> Iterator[Finding]:
        raise ZeroDivisionError
        yield

    def slow(_: Subject) -> Iterator[Finding]:
        time.sleep(5)
        yield Finding("specs-invalid", "too late")

    def erring(_: Subject) -> Iterator[Finding]:
        yield Finding("tree-damaged", "first")

    examinations: list[tuple[str, Callable[[Subject], Iterator[Finding]], float]] = [
        ("one", unable, 5),
        ("two", unable, 5),
        ("three", broken, 5),
        ("four", slow, 0.1),
        ("five", erring, 5),
    ]
    began = time.monotonic()
    diagnosis = run.examine(subject, [Examination(*one) for one in examinations])
    assert time.monotonic() - began < 3
    assert diagnosis.findings[0].id == "tree-damaged"
    notes = {finding.what: finding.why for finding in diagnosis.findings if finding.id == "not-examined"}
    assert notes["not examined: one, two"] == "there is no LXD"
    assert notes["not examined: four"] == "no result within 0 s"
    assert "not examined: three" in notes
    assert [finding.id for finding in diagnosis.findings].count("specs-missing") == 2
    assert not diagnosis.is_healthy


def test_without_lxd_the_others_still_run(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXD_DIR", subject.environ["LXD_DIR"])
    write_spec(subject, "x\nrestart: never")
    found = {finding.id for finding in run.examine(subject).findings}
    assert {"lxd-missing", "specs-invalid"} <= found
    assert {one for one in found if SEVERITIES[one] is Severity.ERROR} == {"lxd-missing", "specs-invalid"}
