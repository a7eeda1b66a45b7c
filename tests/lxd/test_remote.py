"""The LXD of another host: over HTTPS, known by certificates, perhaps restricted to one project."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import uuid
from collections.abc import Iterator

import pytest
import yaml

from lxdocker.builder.placement import PROJECT_CONFIG
from lxdocker.lxd.address import token_command
from tests.lxd.rig import BUILDER_PROJECT, LXDOCKER, Done, Lxc, World, end_of_builders, tiny

RESTRICTED = {
    **PROJECT_CONFIG,
    "restricted": "true",
    "restricted.devices.proxy": "allow",  # registries on the loopback
}


@pytest.fixture(scope="module")
def url(parts: None) -> Iterator[str]:
    """Where the LXD that is tested also listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    Lxc()("config", "set", "core.https_address", address)
    yield f"https://{address}"
    Lxc()("config", "unset", "core.https_address")


@pytest.fixture
def far(world: World, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose commands know no LXD but the one at ``url``, which does not know them yet."""
    world.settings |= {"lxd": url, "client_dir": str(world.folder / "client")}
    yield world
    for one in Lxc().query("/1.0/certificates?recursion=1"):
        Lxc()("config", "trust", "remove", one["fingerprint"][:12])


def away(world: World) -> dict[str, str]:
    return {"LXD_DIR": str(world.folder / "nonexistent")}


def token(*options: str, name: str = "") -> str:
    name = name or f"t-{uuid.uuid4().hex[:8]}"
    return Lxc()("config", "trust", "add", "--name", name, *options).split()[-1]


def trust(world: World, *arguments: str, stdin: str = "", expect: int | None = 0) -> Done:
    done = subprocess.run(
        [*LXDOCKER, "trust", *arguments],
        env={**world.environment, **away(world)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert expect in {None, done.returncode}, done.stderr
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def forget_identity(world: World) -> None:
    """As on another host: the next key is a new one."""
    for path in (world.folder / "client").iterdir():
        if path.is_file():
            path.unlink()


def sync(world: World, *arguments: str, expect: int = 0) -> Done:
    return world.run("sync", "--json", *arguments, environment=away(world), expect=expect)


def test_everything_goes_over_https(far: World) -> None:
    far.wants("app", tiny("app"))
    strange = sync(far, expect=2).error()
    assert "lxdocker trust" in strange
    done = trust(far, "-", "--json", stdin=token())
    assert done.document["trusted"]
    assert done.document["lxd"] == far.settings["lxd"]
    assert sync(far).statuses == {"app": "built"}
    end_of_builders()
    assert sync(far).statuses == {"app": "unchanged"}
    done = sync(far, "--force", "--verbose")
    assert "built" in done.statuses["app"]
    far.holds("app", done.fingerprint("app"))
    # The same image as over the socket, which needs nothing of all that.
    here = World(far.folder / "here", far.registry, namespace=far.namespace)
    try:
        here.spec("app", here.ref("app"))
        assert here.sync().fingerprint("app") == done.fingerprint("app")
    finally:
        here.close()
    key = far.folder / "client/client.key"
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_token_serves_once_and_is_not_told(far: World) -> None:
    secret = token()
    trust(far, "-", stdin=secret)
    forget_identity(far)
    done = trust(far, "-", stdin=secret, expect=1)
    assert f"make another on that host: {token_command()}" in done.err
    assert secret not in done.out + done.err


@pytest.mark.any_lxd
def test_two_clients_of_one_name(far: World) -> None:
    """Newer LXDs refuse the second, and say only that it exists already."""
    trust(far, "-", stdin=token(name="twice"))
    forget_identity(far)
    done = trust(far, "-", stdin=token(name="twice"), expect=None)
    if done.status:
        assert "make a token with another --name" in done.err
        trust(far, "-", stdin=token())
    far.wants("app", tiny("app"))
    assert sync(far).statuses == {"app": "built"}


@pytest.mark.any_lxd
def test_another_certificate_is_not_trusted(far: World) -> None:
    trust(far, "-", stdin=token())
    far.wants("app", tiny("app"))
    (pinned,) = (far.folder / "client/servercerts").iterdir()
    was = pinned.read_text()
    pinned.write_text((far.folder / "client/client.crt").read_text())
    text = sync(far, expect=2).error()
    assert "is not the one that is trusted" in text
    fingerprint = re.findall("--fingerprint ([0-9a-f]{64})", text)[0]
    url = far.settings["lxd"]
    done = trust(far, url, "--fingerprint", "0" * 64, expect=2)
    assert "another server" in done.err
    done = trust(far, url, expect=2)  # nobody can be asked
    assert fingerprint in done.err
    trust(far, url, "--fingerprint", fingerprint)
    assert pinned.read_text() == was
    assert sync(far).statuses == {"app": "built"}


@pytest.mark.any_lxd
def test_a_remote_of_lxc(far: World) -> None:
    """With the certificates that lxc has; and one that is no LXD, or not there."""
    conf = far.folder / "lxc"
    environment = {**os.environ, **away(far), "LXD_CONF": str(conf)}
    add = ["lxc", "remote", "add", "far", token()]
    pictures = ["lxc", "remote", "add", "pictures", "https://images.invalid", "--protocol", "simplestreams"]
    for command in (add, pictures):
        subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)
    far.wants("app", tiny("app"))
    del far.settings["lxd"]

    def run(remote: str, expect: int = 0) -> Done:
        command = ("sync", "--json", "-v", "--remote", remote)
        return far.run(*command, environment={**away(far), "LXD_CONF": str(conf)}, expect=expect)

    done = run("far")
    assert done.statuses == {"app": "built"}
    assert re.search(r"\+ lxc exec far:builder-[0-9a-f]+ --project lxdocker", done.err)  # as a shell takes it
    assert "no such remote: nowhere" in run("nowhere", 2).error()
    assert "is no LXD" in run("pictures", 2).error()


def test_a_restricted_certificate(far: World) -> None:
    """All in one project, made beforehand by somebody who may: the client makes nothing else, and sees nothing else."""
    lxc = Lxc(f"r-{uuid.uuid4().hex[:8]}")
    config = [word for key, value in RESTRICTED.items() for word in ("-c", f"{key}={value}")]
    Lxc()("project", "create", lxc.project, *config)
    try:
        default = Lxc().query("/1.0/profiles/default")["devices"]
        lxc("profile", "edit", "default", stdin=yaml.safe_dump({"devices": default}))
        trust(far, "-", stdin=token("--restricted", "--projects", lxc.project))
        far.settings |= {"builder_project": lxc.project}
        far.wants("app", tiny("app"))
        builder = Lxc(BUILDER_PROJECT).images()
        (fingerprint,) = [one for one, image in builder.items() if "builder" in image["aliases"]]
        Lxc(BUILDER_PROJECT)("image", "export", fingerprint, str(far.folder / "builder"))
        lxc("image", "import", *sorted(map(str, far.folder.glob("builder*"))), "--alias", "builder")
        command = ("sync", "--json", "--project", lxc.project)
        done = far.run(*command, environment=away(far))
        assert done.statuses == {"app": "built"}
        assert lxc.aliases()["app"] == done.fingerprint("app")
        assert far.run(*command, environment=away(far)).statuses == {"app": "unchanged"}
        assert f"project {far.project} of LXD" in sync(far, expect=2).error()
    finally:
        purge(lxc)


def purge(lxc: Lxc) -> None:
    for volume in lxc.query("/1.0/storage-pools/default/volumes/custom?recursion=1"):
        lxc("storage", "volume", "delete", "default", volume["name"])
    for profile in lxc.query("/1.0/profiles?recursion=1"):
        if profile["name"] != "default":
            lxc("profile", "delete", profile["name"])
    lxc.purge()
