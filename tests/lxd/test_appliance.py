"""The appliance: made, used, upgraded and deleted; killed at every step; and what its certificate is good for."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socketserver
import ssl
import subprocess
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_connection, socket
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from lxdocker.appliance.host import trust, trusted
from lxdocker.appliance.wish import Names
from lxdocker.lxd.api import Lxd
from lxdocker.serve.certs import Certificate
from tests import schemas
from tests.lxd import fake_appliance
from tests.lxd.hosts import Host, daemon, start_lxd
from tests.lxd.rig import LXDOCKER, Done, Lxc, tiny
from tests.registry_server import Images
from tests.waiting import wait_until

# What -v shows of LXD beside the steps themselves.
NO_STEP = ("+", "#", "warning", "error", " ")


@pytest.fixture(scope="module")
def bridge(parts: None) -> str:
    """LXD's own address on its bridge."""
    networks = json.loads(Lxc()("network", "list", "--format", "json"))
    address: str = next(one["config"]["ipv4.address"] for one in networks if one["managed"])
    return address.partition("/")[0]


@pytest.fixture(scope="module")
def reachable(bridge: str, registry: str) -> Iterator[str]:
    """HOST:PORT of the registry, which listens on this host's loopback, as containers reach it."""
    port = int(registry.rpartition(":")[2])

    def pump(source: socket, target: socket) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(1)

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with create_connection(("127.0.0.1", port)) as there:
                back = threading.Thread(target=pump, args=(there, self.request))
                back.start()
                pump(self.request, there)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server((bridge, 0), Forward) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{bridge}:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def base_image(metadata: Path, rootfs: Path) -> Iterator[str]:
    """An image in LXD's own store. Gives its alias."""
    alias = f"base-{uuid.uuid4().hex[:8]}"
    Lxc()("image", "import", str(metadata), str(rootfs), "--alias", alias)
    try:
        yield alias
    finally:
        Lxc()("image", "delete", alias)


@pytest.fixture
def host(parts: None, builder_image: str, tmp_path: Path) -> Host:
    """This host's LXD, and a user with its own configuration of lxc."""
    return Host(tmp_path / "host", Path(os.environ["LXD_DIR"]))


@pytest.fixture
def name(host: Host) -> Iterator[str]:
    """Of an appliance, of which nothing is left."""
    name = f"a-{uuid.uuid4().hex[:8]}"
    yield name
    host.lxdocker("appliance", "delete", "--purge", "--name", name)
    assert leftovers(name) == []


def leftovers(name: str) -> list[str]:
    """All that LXD has with this name."""
    lxc = Lxc()
    found = [url for path in ("instances", "projects", "certificates") for url in lxc.query(f"/1.0/{path}") or []]
    found += lxc.query("/1.0/storage-pools/default/volumes/custom")
    found += [one["name"] for one in lxc.query("/1.0/certificates?recursion=1")]
    return [one for one in found if name in one]


@pytest.mark.any_lxd
def test_a_new_key_takes_the_place_of_the_former_one(name: str) -> None:
    """Newer LXDs let no two clients have a name."""
    names, lxd = Names.of(name), Lxd()
    Lxc()("project", "create", names.project)
    for _ in range(2):
        argv = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=key"]
        pem = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        for _ in range(2):
            trust(lxd, names, pem)
            assert trusted(lxd, names) == {Certificate.parse(pem.encode()).fingerprint}


# ---- set up once, then forget


@pytest.mark.any_lxd
def test_set_up_once_then_forget(host: Host, name: str, reachable: str, bridge: str, tmp_path: Path) -> None:
    if "image_registries" in host.query("/1.0")["api_extensions"]:
        pytest.skip("this LXD downloads from image registries only: tests/lxd/test_registries.py")
    repository = f"{name}/app"
    images = Images(os.environ["LXDOCKER_TEST_REGISTRY"])
    images.push(repository, "latest", tiny("one"))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"insecure_registries": [reachable]}))
    base, listen = Path(os.environ["LXDOCKER_TEST_APPLIANCE"]), f"{bridge}:{free_port(bridge)}"
    before = host.query("/1.0")["config"].get("core.https_address", "")
    # Each way on one of the LXDs that all tests run on.
    way = a_folder if os.environ["LXDOCKER_TEST_LXD"] == "debian12" else a_signed_repository
    with base_image(base / "lxd.tar.xz", base / "rootfs.squashfs") as alias, way(tmp_path, bridge) as (write, options):
        write(f"image: {reachable}/{repository}\n")
        made = host.lxdocker(
            *("appliance", "create", "--name", name, "--join", *options),
            *("--settings", str(tmp_path / "settings.yaml"), "--base-server", "local", "--base", alias),
            *("--calendar", "*:*:0/3", "--delay", "1s", "--listen", listen),
        )
        assert "had no effect" not in made.err
        again = host.lxdocker("appliance", "create", "--name", name, "--join", "--listen", ":1", "--delay", "2s")
        assert f"{name} stays as it is: --delay, --listen had no effect" in again.err
        assert f"{name} is there already" in again.out
        with daemon("neighbour") as folder:
            neighbour = Host(tmp_path / "neighbour", folder)
            line = re.search(r"on other hosts: lxdocker (remote add .*)", made.out)
            assert line
            neighbour.lxdocker(*line[1].split())
            assert f"https://{listen}" in neighbour.lxc("remote", "list", "--format", "csv")
            followed(host, neighbour, name, lambda: images.push(repository, "latest", tiny("two")))
        diagnosed(name, lambda image: write(f"image: {reachable}/{name}/{image}\n"))
        restricted(host, name, bridge)
        upgraded(host, name)
    fingerprint = host.aliases()[name]
    said = host.lxdocker("appliance", "delete", "--name", name).out
    assert f"kept    volume {name}-state in the pool default" in said
    assert host.aliases()[name] == fingerprint
    assert Lxc(f"{name}-appliance").aliases()["app"] == fingerprint
    host.lxdocker("appliance", "delete", "--purge", "--name", name)
    assert host.query("/1.0")["config"].get("core.https_address", "") == before
    host.lxc("image", "delete", name)


Way = tuple[Callable[[str], object], Sequence[str]]  # writes the only spec; options of create


@contextmanager
def a_folder(place: Path, _: str) -> Iterator[Way]:
    folder = place / "images.d"
    folder.mkdir()
    yield (folder / "app.yaml").write_text, ("--specs", str(folder))


@contextmanager
def a_signed_repository(place: Path, bridge: str) -> Iterator[Way]:
    """With OpenPGP keys."""
    origin, port = place / "git/specs", free_port(bridge)
    origin.mkdir(parents=True)
    with TemporaryDirectory(prefix="gpg.") as keys:  # short, since gpg-agent's socket is in it
        environment = {**os.environ, "GNUPGHOME": keys, "HOME": str(place)}

        def run(*argv: str) -> bytes:
            return subprocess.run(argv, cwd=origin, env=environment, check=True, capture_output=True).stdout

        def write(text: str) -> None:
            (origin / "app.yaml").write_text(text)
            run("git", "add", ".")
            own = ("user.name=op", "user.email=op@b.example", "user.signingkey=op@b.example")
            run("git", *[word for one in own for word in ("-c", one)], "commit", "--quiet", "-S", "-m", "change")

        gpg = ("gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
        run(*gpg, "--quick-generate-key", "op@b.example", "ed25519", "sign", "never")
        (place / "signers").write_bytes(run(*gpg, "--export"))
        run("git", "init", "--quiet")
        options = ("--specs-repository", f"git://{bridge}:{port}/specs", "--signed-by", str(place / "signers"))
        serving = ["git", "daemon", f"--base-path={origin.parent}", "--export-all", f"--listen={bridge}"]
        with subprocess.Popen([*serving, f"--port={port}", "--reuseaddr"], start_new_session=True) as process:
            try:
                yield write, options
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                run("gpgconf", "--kill", "all")


def followed(host: Host, neighbour: Host, name: str, move: Callable[[], object]) -> None:
    """Both have the image, and then the new one, with nobody's help but that of time."""
    for one in (host, neighbour):
        one.lxc("image", "copy", f"{name}:app", "local:", "--alias", name, "--auto-update", "--quiet")
    first = Lxc(f"{name}-appliance").aliases()["app"]
    assert host.aliases()[name] == neighbour.aliases()[name] == first
    move()
    second = wait_until(
        "the timer", lambda: (now := Lxc(f"{name}-appliance").aliases()["app"]) != first and now, seconds=60
    )
    status = wait_until("the end of that sync", lambda: published(host, name, str(second)), seconds=60)
    assert status["timer"]["last"] is not None
    for one in (host, neighbour):
        one.forget_indexes()  # as after an hour
        restart(one)  # LXD looks by itself, each hour and at its start
        wait_until(f"the update of {one.lxd}", lambda: one.aliases().get(name) == second, seconds=60)  # noqa: B023


def restart(host: Host) -> None:
    """As for an update of LXD: the instances go on."""
    daemon: int = host.query("/1.0")["environment"]["server_pid"]
    os.kill(daemon, signal.SIGTERM)
    wait_until("the end of LXD", lambda: not Path(f"/proc/{daemon}").exists())
    start_lxd(host.lxd)


def free_port(address: str) -> int:
    with socket() as one:
        one.bind((address, 0))
        port: int = one.getsockname()[1]
        return port


def diagnosed(name: str, write: Callable[[str], object]) -> None:
    """What the doctor says of a real timer. ``write``: has the spec name an image of the registry."""

    def found() -> set[str]:
        said = Lxc()("exec", name, "--", "sh", "-c", "lxdocker doctor --json || :")
        return {one["id"] for one in schemas.check(json.loads(said), "doctor")["findings"]}

    def systemctl(verb: str) -> None:
        Lxc()("exec", name, "--", "systemctl", verb, "lxdocker-sync.timer")

    about_timers = {"timer-missing", "timer-late", "last-sync-failed"}
    wait_until("a sync that succeeds", lambda: not found() & about_timers, seconds=60)
    write("missing")
    wait_until("a sync that fails", lambda: "last-sync-failed" in found(), seconds=60)
    systemctl("stop")
    wait_until("the timer's absence", lambda: "timer-late" in found(), seconds=60)
    write("app")
    systemctl("start")
    wait_until("a sync that succeeds", lambda: not found() & about_timers, seconds=60)


def published(host: Host, name: str, fingerprint: str) -> dict[str, Any] | None:
    status = state(host, name)
    shown = {image["name"]: image for image in status["images"]}
    return status if (shown["app"]["fingerprint"], shown["app"]["state"]) == (fingerprint, "current") else None


def state(host: Host, name: str) -> dict[str, Any]:
    """Once it is healthy: a server that was just started may be on its way."""

    def probe() -> dict[str, Any] | None:
        command = [*LXDOCKER, "appliance", "status", "--json", "--name", name]
        done = subprocess.run(command, env=host.environment, capture_output=True, text=True, timeout=60, check=False)
        document: dict[str, Any] = schemas.check(json.loads(done.stdout), "appliance-status")
        assert done.returncode == (0 if document["healthy"] else 1), done.stderr
        return document if document["healthy"] else None

    found: dict[str, Any] = wait_until(f"a healthy {name}", probe)
    return found


def upgraded(host: Host, name: str) -> None:
    """What others know it by stays."""
    before = state(host, name)
    done = host.lxdocker("appliance", "upgrade", "--json", "--name", name)
    schemas.check(done.document, "appliance")
    after = state(host, name)
    for key in ("url", "address", "certificate", "images", "lxdocker"):
        assert after[key] == before[key], key
    assert [one["name"] for one in host.query("/1.0/instances?recursion=1") if name in one["name"]] == [name]


# ---- what an attacker in it could do


class Attacker:
    """Who has the appliance's key."""

    def __init__(self, name: str, bridge: str, folder: Path) -> None:
        folder.mkdir()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        for file in ("client.crt", "client.key"):
            Lxc()("file", "pull", f"{name}/var/lib/lxdocker/client/{file}", str(folder / file))
        self._context.load_cert_chain(folder / "client.crt", folder / "client.key")
        self._place = (bridge, 8443)
        self.project = f"{name}-appliance"

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and LXD's answer, once an operation has ended."""
        connection = http.client.HTTPSConnection(*self._place, context=self._context, timeout=30)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if answer["type"] == "async":
            _, ended = self.ask("GET", f"{answer['operation']}/wait?timeout=20")
            code = (ended.get("metadata") or {}).get("status_code", 400)
            return (202 if code == 200 else 400), ended
        return response.status, answer

    def make(self, where: str = "", **body: Any) -> tuple[int, Any]:
        project = where or self.project
        instance = {"name": f"x-{uuid.uuid4().hex[:8]}", "source": {"type": "none"}, **body}
        return self.ask("POST", f"/1.0/instances?project={project}", instance)


def restricted(host: Host, name: str, bridge: str) -> None:
    """Its certificate is good for unprivileged builders, and for nothing else."""
    attacker = Attacker(name, bridge, host.config.parent / "attacker")
    root = {"type": "disk", "path": "/", "pool": "default"}
    status, said = attacker.make(devices={"root": root})
    assert status == 202, said  # what it needs, it may
    there = attacker.ask("GET", f"/1.0/instances?project={attacker.project}")[1]["metadata"]
    mine = [url for url in there if "/x-" in url]  # the timer may just have made a builder
    assert len(mine) == 1
    other = f"o-{uuid.uuid4().hex[:8]}"
    Lxc()("project", "create", other)
    try:
        for what, (answered, document) in attacks(attacker, other, name, mine[0].split("?")[0]):
            assert answered >= 400, f"{what}: {document}"
        for path in (f"instances?project={other}", "instances", "images", "storage-pools/default/volumes/custom"):
            answered, document = attacker.ask("GET", f"/1.0/{path}")
            assert answered >= 400 or not document["metadata"], f"{path}: {document}"
        answered, document = attacker.ask("GET", "/1.0")
        assert "core.https_address" not in (document["metadata"].get("config") or {})
        answered, document = attacker.ask("GET", "/1.0/projects?recursion=1")
        assert [one["name"] for one in document["metadata"]] == [attacker.project]
    finally:
        Lxc()("project", "delete", other)
    attacker.ask("DELETE", f"{mine[0].split('?')[0]}?project={attacker.project}")


def attacks(attacker: Attacker, other: str, name: str, mine: str) -> Iterator[tuple[str, tuple[int, Any]]]:
    root = {"type": "disk", "path": "/", "pool": "default"}
    for what, device in {
        "a disk of the host": {"type": "disk", "source": "/", "path": "/mnt"},
        "a device of the host": {"type": "unix-char", "path": "/dev/mem"},
        "a block device": {"type": "unix-block", "path": "/dev/sda"},
        "a proxy to LXD": {
            "type": "proxy",
            "bind": "instance",
            "listen": "unix:/lxd",
            "connect": f"unix:{os.environ['LXD_DIR']}/unix.socket",
        },
        "an interface of the host": {"type": "nic", "nictype": "physical", "parent": "eth0"},
        "the appliance's keys": {"type": "disk", "pool": "default", "source": f"{name}-state", "path": "/mnt"},
    }.items():
        yield what, attacker.make(devices={"root": root, "x": device})
        yield f"{what}, added", attacker.ask("PATCH", f"{mine}?project={attacker.project}", {"devices": {"x": device}})
    for key, value in {
        "security.privileged": "true",
        "security.nesting": "true",
        "raw.lxc": "lxc.mount.entry=/ mnt none bind 0 0",
        "raw.idmap": "both 0 0",
        "raw.apparmor": "mount,",
        "security.syscalls.intercept.mount": "true",
        "linux.kernel_modules": "overlay",
    }.items():
        yield key, attacker.make(devices={"root": root}, config={key: value})
        path = f"/1.0/profiles/builder?project={attacker.project}"
        yield f"{key} by a profile", attacker.ask("PATCH", path, {"config": {key: value}})
    yield "a virtual machine", attacker.make(type="virtual-machine", devices={"root": root})
    for project in (other, "default"):
        yield f"an instance in {project}", attacker.make(project, devices={"root": root})
        yield f"an image of {project}", attacker.ask("POST", f"/1.0/images?project={project}", {})
    yield "the appliance itself", attacker.ask("PUT", f"/1.0/instances/{name}/state", {"action": "stop"})
    yield "a command in it", attacker.ask("POST", f"/1.0/instances/{name}/exec", {"command": ["true"]})
    config = {"config": {"core.https_address": "[::]:8443"}}
    yield "the server's configuration", attacker.ask("PATCH", "/1.0", config)
    yield (
        "its own limits",
        attacker.ask("PATCH", f"/1.0/projects/{attacker.project}", {"config": {"restricted": "false"}}),
    )
    yield "another project", attacker.ask("POST", "/1.0/projects", {"name": f"{other}-x"})
    certificate = base64.b64encode(b"x").decode()
    yield "a certificate", attacker.ask("POST", "/1.0/certificates", {"type": "client", "certificate": certificate})
    yield "a pool", attacker.ask("POST", "/1.0/storage-pools", {"name": "x", "driver": "dir"})
    yield "a network", attacker.ask("POST", "/1.0/networks", {"name": "x"})


# ---- killed at every step


# What create has been killed at, and upgrade does in the same way before it comes to its own.
ALIKE = ("preparing volumes", "preparing the project", "preparing LXD's address")


def killed_at_every_step(
    host: Host, check: Callable[[], None], *command: str, apart_from: Collection[str] = ()
) -> Done:
    """Kills the command at the beginning of each of its steps once, and runs it again, until it comes to its end."""
    done: set[str] = set(apart_from)
    file = host.config.parent / "err"
    while True:
        with file.open("w") as sink:
            process = subprocess.Popen(
                [*LXDOCKER, "appliance", *command, "-v"],
                env=host.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
            )

        def reached() -> str | None:
            said = [line for line in file.read_text().splitlines() if line and not line.startswith(NO_STEP)]
            return next((line for line in said if line not in done), None)

        step = wait_until("the next step", lambda: reached() or (process.poll() is not None and " "), seconds=90)  # noqa: B023 - called at once
        if step == " " or process.poll() is not None:
            out, _ = process.communicate(timeout=90)
            assert process.returncode == 0, f"after {sorted(done)}: {file.read_text()}"
            assert len(done) > len(apart_from)  # it may be done before it can be killed at its last ones
            return Done(process.returncode, out, file.read_text())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done.add(str(step))
        check()


@pytest.mark.any_lxd
def test_killed_at_every_step(host: Host, name: str, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "broken").mkdir()
    good, broken = fake_appliance.make(tmp_path / "good"), fake_appliance.make(tmp_path / "broken", broken=True)
    with base_image(*good) as alias, base_image(*broken) as bad:
        where = ("--name", name, "--base-server", "local", "--base")
        killed_at_every_step(host, lambda: None, "create", *where, alias)
        before = state(host, name)
        fingerprint = keep_an_image(host, name)

        def launchable() -> None:
            """The last good images: what hosts that follow have, and what they come from."""
            assert Lxc(f"{name}-appliance").aliases() == {"app": fingerprint, **builder}

        builder = {key: one for key, one in Lxc(f"{name}-appliance").aliases().items() if key != "app"}
        killed_at_every_step(host, launchable, "upgrade", *where, alias, apart_from=ALIKE)
        after = state(host, name)
        assert (after["address"], after["certificate"]) == (before["address"], before["certificate"])
        assert [one["fingerprint"] for one in after["images"]] == [fingerprint]
        assert [one for one in leftovers(name) if one.endswith(("-new", "-old"))] == []

        edited(host, name, tmp_path)
        failed = host.lxdocker("appliance", "upgrade", *where, bad, expect=1)
        assert "the container before is back" in failed.err
        assert state(host, name) == after
        launchable()

        strangers = [f"{name}-new", f"{name}-old"]
        for stranger in strangers:
            Lxc()("init", "--empty", stranger, "--storage", "default")
        killed_at_every_step(host, launchable, "delete", "--name", name)
        launchable()
        Lxc()("delete", *strangers)  # which are nobody's appliance, and so are still there
        killed_at_every_step(host, lambda: None, "delete", "--purge", "--name", name)


def edited(host: Host, name: str, folder: Path) -> None:
    """Only valid specs go back."""
    editor = folder / "editor"

    def edit(text: str, *files: str, expect: int = 0) -> str:
        editor.write_text(f"#!/bin/sh\nprintf '{text}' >\"$1\"\n")
        editor.chmod(0o755)
        command = [*LXDOCKER, "appliance", "edit", "--name", name, *files]
        environment = {**host.environment, "EDITOR": str(editor)}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == expect, done.stderr
        return done.stdout + done.stderr

    specs = f"{name}/etc/lxdocker/images.d"
    assert "changed web.yaml" in edit("image: web:1\\n", "web")
    assert Lxc()("file", "pull", f"{specs}/web.yaml", "-") == "image: web:1\n"
    assert "imag: unknown key" in edit("imag: web:2\\n", "web", expect=2)
    assert Lxc()("file", "pull", f"{specs}/web.yaml", "-") == "image: web:1\n"
    assert "nothing has changed" in edit("image: web:1\\n")
    assert "changed db.yml" in edit("image: db:1\\n", "db.yml")
    assert sorted(Lxc()("exec", name, "--", "ls", "/etc/lxdocker/images.d").split()) == ["db.yml", "web.yaml"]


def keep_an_image(host: Host, name: str) -> str:
    """An image that the appliance would have made."""
    folder = host.config.parent / "kept"
    folder.mkdir()
    (folder / "metadata.yaml").write_text("architecture: x86_64\ncreation_date: 1\nproperties: {os: kept}\n")
    (folder / "rootfs").mkdir()
    subprocess.run(["tar", "-C", folder, "-cJf", folder / "image.tar.xz", "metadata.yaml", "rootfs"], check=True)
    lxc = Lxc(f"{name}-appliance")
    lxc("image", "import", str(folder / "image.tar.xz"), "lxdocker.source=x", "--alias", "app")
    fingerprint = lxc.aliases()["app"]
    listed = {"schema": 1, "images": [{"name": "app", "state": "current", "fingerprint": fingerprint}]}
    (folder / "list.json").write_text(json.dumps(listed))
    Lxc()("file", "push", str(folder / "list.json"), f"{name}/etc/lxdocker/list.json")
    return fingerprint
