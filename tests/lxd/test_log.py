"""The log: what `lxdocker sync -vv` prints is enough to repeat the build by hand, and there is no secret in it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lxd.rig import BUILDER_PROJECT, COMMAND_SECONDS, Lxc, World, end_of_builders, entry, image, layer, tiny
from tests.lxd.test_ways import PROXIED, relay
from tests.registry_server import Handler, Images, ScriptedServer
from tests.registry_server import registry as serving

LOGIN = ("somebody", "login-secret-7f3a")
PROXY = ("passer-by", "proxy-secret-9c1d")
FILES = ("lxd.tar.xz", "rootfs.squashfs")


def commands(log: str, mark: str = "+") -> list[str]:
    return [line.removeprefix(f"{mark} ") for line in log.splitlines() if line.startswith(f"{mark} ")]


class Shell:
    """A shell that log lines are pasted into, in a folder of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        lxdocker = folder / "bin/lxdocker"
        lxdocker.write_text(f'#!/bin/sh\nexec {sys.executable} -m lxdocker "$@"\n')
        lxdocker.chmod(0o755)
        self._environment = {**environment, "PATH": f"{folder / 'bin'}:{environment['PATH']}"}

    def paste(self, *lines: str) -> str:
        done = subprocess.run(
            ["bash", "-eo", "pipefail"],
            input="\n".join(lines),
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{lines}: {done.stdout}{done.stderr}"
        return done.stdout

    def repeat(self, log: str) -> str:
        """The build of the one image that a sync has built. Returns the fingerprint of what came out."""
        name = re.findall(r'"name": "(builder-[0-9a-f]{8})"', log)[0]
        lines = [line for line in commands(log) if name in line or "--metadata" in line]
        building = next(number for number, line in enumerate(lines) if "build.sh" in line)
        (reading,) = (line for line in commands(log, "++") if line.endswith(f">{FILES[1]}"))
        end_of_builders()  # of which one had the same name
        try:
            self.paste(*lines[: building + 1], reading)
        finally:
            Lxc(BUILDER_PROJECT)("delete", "--force", name)
        return hashlib.sha256(b"".join((self.folder / file).read_bytes() for file in FILES)).hexdigest()


@pytest.fixture
def shell(world: World, tmp_path: Path) -> Shell:
    return Shell(tmp_path / "shell", world.environment)


def test_a_build_can_be_repeated_from_its_log(world: World, shell: Shell) -> None:
    world.wants("app", tiny())
    done = world.run("sync", "--json", "-vv")
    fingerprint = done.fingerprint("app")
    assert shell.repeat(done.err) == fingerprint

    # And what follows: the image into the store, under its name.
    world.lxc("image", "delete", fingerprint)
    (importing,) = (line for line in commands(done.err) if " image import " in line)
    (pointing,) = (line for line in commands(done.err) if "/images/aliases?" in line and "POST" in line)
    shell.paste(re.sub(r"(\S*)/(lxd\.tar\.xz|rootfs\.squashfs)\b", r"\2", importing), pointing)
    world.holds("app", fingerprint)

    # What was asked, and what came of it.
    asked = commands(done.err)
    assert [line for line in asked if line.startswith("lxc query '/1.0/images")]
    assert all(
        re.search(r" # GET /1\.0/\S+: \d{3}, \d+ ms$", line) for line in asked if line.startswith("lxc query /1.0/")
    )
    assert re.search(r"^# POST /1\.0/instances: 202, \d+ ms$", done.err, re.MULTILINE)
    assert re.search(r"^# operation [0-9a-f-]{36}, building .*: exit status 0, \d+ ms$", done.err, re.MULTILINE)
    assert re.search(rf"^HEAD http://{world.registry}/v2/\S+ .*200", done.err, re.MULTILINE)
    assert [line for line in commands(done.err, "+++") if " umoci " in line]
    assert [line for line in commands(done.err, "++") if " mksquashfs /build/rootfs " in line]


@pytest.mark.any_lxd
def test_a_changed_build_can_be_repeated_from_its_log(world: World, shell: Shell, tmp_path: Path) -> None:
    """Its files and layers too, and with a secret that is in none of it."""
    token = tmp_path / "token"
    token.write_text("changing-secret-2b6d")
    (world.specs / "a folder").mkdir()
    (world.specs / "a folder/file").write_text("of this host")
    (world.specs / "a layer.tar").write_bytes(layer(entry("layered", "x")))
    digest = hashlib.sha256((world.specs / "a layer.tar").read_bytes()).hexdigest()
    making = "/busybox-lxd sha256sum /run/secrets/token >/made"
    world.wants(
        "app",
        tiny(),
        files={"/srv": {"source": "a folder"}, "/srv/name": {"template": "{{ name }}"}},
        run=[{"command": ["/busybox-lxd", "sh", "-c", making], "secrets": {"token": str(token)}}],
        layers=[{"path": "a layer.tar", "sha256": digest}],
    )
    done = world.run("sync", "--json", "-vv")
    assert token.read_text() not in done.err
    assert shell.repeat(done.err) == done.fingerprint("app")


@pytest.mark.any_lxd
def test_without_v_nothing_is_shown_and_a_file_has_it_all(world: World, tmp_path: Path) -> None:
    world.wants("app", tiny())
    log = tmp_path / "log"
    done = world.run("sync", "--json", environment={"LXDOCKER_LOG": str(log)})
    assert not commands(done.err)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    lines = log.read_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} INFO MainThread lxdocker\.run: lxdocker ", lines[0])
    assert lines[-1].endswith("exit status 0")
    assert any(" INFO job_0 lxdocker.builder: ++ lxc exec " in line for line in lines)
    assert any(" DEBUG " in line and "lxdocker.http: " in line for line in lines)
    less = world.run("sync", "--force", "-v")
    assert [line for line in commands(less.err) if " | lxc exec " in line]
    assert not [line for line in less.err.splitlines() if line.startswith(("HEAD ", "+ lxc query /"))]


def test_a_failing_build_names_its_command(world: World) -> None:
    world.wants("app", image(b"this is no tar" * 100))
    error = world.sync(expect=1).error("app")
    assert re.search(r"^command: .*umoci --log=warn raw unpack --image /run/layout:image /build/rootfs$", error, re.M)


@pytest.mark.any_lxd
def test_no_secret_is_in_the_log(world: World, tmp_path: Path) -> None:
    """Nor in what is pasted: logins and proxies are found where the first run found them."""
    login, proxy = (base64.b64encode(":".join(pair).encode()).decode() for pair in (LOGIN, PROXY))
    with serving(tmp_path / "plain") as plain:

        def guarding(handler: Handler) -> None:
            if handler.seen.headers["Proxy-Authorization"] != f"Basic {proxy}":
                handler.reply(407, headers={"Proxy-Authenticate": 'Basic realm="x"'})
            elif handler.seen.headers["Authorization"] != f"Basic {login}":
                handler.reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            else:
                relay(handler, plain.address)

        with ScriptedServer(guarding) as proxying:
            Images(plain.address).push("private/app", "1", tiny())
            world.spec("app", f"{PROXIED}/private/app:1")
            world.settings |= {"insecure_registries": [PROXIED]}
            config = world.folder / "home/.docker/config.json"
            config.parent.mkdir()
            config.write_text(json.dumps({"auths": {PROXIED: {"auth": login}}}))
            log = tmp_path / "log"
            environment = {"http_proxy": proxying.url.replace("://", f"://{':'.join(PROXY)}@"), "no_proxy": ""}
            done = world.run("sync", "--json", "-vv", environment={**environment, "LXDOCKER_LOG": str(log)})
            assert "--src-authfile" in done.err
            for text in (done.err, done.out, log.read_text()):
                assert not [secret for secret in (LOGIN[1], PROXY[1], login, proxy) if secret in text]
            again = Shell(tmp_path / "shell", {**world.environment, **environment})
            assert again.repeat(done.err) == done.fingerprint("app")
            given = again.folder / "given"
            again.paste(f"lxdocker builder input app --specs {world.specs} >{given}")
            assert login.encode() in given.read_bytes()


@pytest.mark.any_lxd
def test_what_a_builder_is_given_is_not_for_a_terminal(world: World) -> None:
    world.wants("app", tiny())
    leading, following = os.openpty()
    try:
        done = subprocess.run(
            [*world.arguments(["builder", "input", "app"]), "--specs", str(world.specs)],
            env=world.environment,
            stdin=subprocess.DEVNULL,
            stdout=following,
            stderr=subprocess.PIPE,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    finally:
        os.close(leading)
        os.close(following)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: refusing to write to a terminal")
