"""Another host, whose daemon is given a server's images by `lxdocker mirror --import`, and follows it so."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import bcrypt
import pytest
import yaml

from lxdocker.image import artifact
from lxdocker.image.artifact import ROOTFS_FILE
from lxdocker.serve.certs import Certificate
from lxdocker.tree import rollback
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Published
from lxdocker.values import Arch, ImageName
from tests.examples import provenance, resolved, spec
from tests.lxd import hosts
from tests.lxd.rig import COMMAND_SECONDS, LXDOCKER, Done, Running, World, fetch, tiny
from tests.serve.rig import Served, serve
from tests.waiting import wait_until

NEVER = threading.Event()
LOGIN = ("ann", "pa:ss/wörd@")


# ---- followers


@dataclass(frozen=True)
class Kind:
    """A kind of daemon that can follow, one that runs."""

    client: str  # lxc, incus
    environment: dict[str, str]  # how its client, and lxdocker, find it
    configuration: str  # the variable that names the folder of its client's configuration


class Follower:
    """A user on a host with a daemon of its own, who has no configuration yet."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.client = kind.client
        self.config = folder / "client"
        self.folder = folder
        folder.mkdir()
        self.environment = {
            **{key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ},
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            **kind.environment,
            kind.configuration: str(self.config),
            "LXDOCKER_IMPORT_DIR": str(folder / "import"),
        }

    def __call__(self, *arguments: str) -> str:
        """The daemon's own client."""
        done = self._run([self.client, *arguments])
        log = ""
        if done.status != 0 and arguments[0] == "launch":
            # What the daemon says itself is that it has failed.
            log = self._run([self.client, "info", arguments[2], "--show-log"]).out
        assert done.status == 0, f"{self.client} {' '.join(arguments)}: {done.out}{done.err}{log}"
        return done.out

    def run(self, *arguments: str, stdin: str = "", expect: int = 0) -> Done:
        """lxdocker."""
        done = self._run([*LXDOCKER, *arguments], stdin)
        assert done.status == expect, f"status {done.status}: {done.out}{done.err}"
        assert "Traceback" not in done.err
        return done

    def follow(self, *arguments: str, stdin: str = "", expect: int = 0) -> Any:
        return self.run("mirror", "--import", *arguments, "--json", stdin=stdin, expect=expect).document

    def _run(self, command: Sequence[str], stdin: str = "") -> Done:
        done = subprocess.run(
            command,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def start(self, *command: str) -> Iterator[Running]:
        """Runs a command beside the test."""
        err = self.folder / f"err.{uuid.uuid4().hex[:8]}"
        with err.open("w") as sink:
            process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
            )
        try:
            yield Running(process, err)
        finally:
            process.kill()
            process.communicate()

    def images(self) -> dict[str, dict[str, Any]]:
        """Fingerprint -> image."""
        return {one["fingerprint"]: one for one in json.loads(self("query", "/1.0/images?recursion=1"))}

    def aliases(self) -> dict[str, str]:
        return {alias["name"]: key for key, image in self.images().items() for alias in image["aliases"]}

    def left(self) -> list[Path]:
        """What it has of images outside its daemon."""
        return [path for path in (self.folder / "import").rglob("*") if "work" in path.parts and path.is_file()]

    def put(self, name: str) -> str:
        """An image of the user's own under an alias. Returns its fingerprint."""
        metadata, rootfs = self.folder / f"{name}.tar.xz", self.folder / name
        metadata.write_bytes(metadata_of(name))
        rootfs.write_bytes(rootfs_of(name))
        self("image", "import", str(metadata), str(rootfs), "--alias", name)
        return self.aliases()[name]

    def clear(self) -> None:
        for one in json.loads(self("query", "/1.0/instances?recursion=1")):
            self("delete", "--force", one["name"])
        for fingerprint in self.images():
            self("image", "delete", fingerprint)


@pytest.fixture(scope="module")
def lxd(parts: None) -> Iterator[Kind]:
    with hosts.daemon("follower") as folder:
        yield Kind("lxc", {"LXD_DIR": str(folder), "INCUS_DIR": "/nonexistent"}, "LXD_CONF")


@pytest.fixture(scope="module")
def incus(parts: None) -> Iterator[Kind]:
    with hosts.incus_daemon() as environment:
        yield Kind("incus", environment, "INCUS_CONF")


@contextmanager
def following(kind: Kind, folder: Path) -> Iterator[Follower]:
    found = Follower(kind, folder)
    try:
        yield found
    finally:
        found.clear()


@pytest.fixture
def host(lxd: Kind, tmp_path: Path) -> Iterator[Follower]:
    """For what does not depend on the daemon."""
    with following(lxd, tmp_path / "follower") as found:
        yield found


@pytest.fixture(params=["lxd", pytest.param("incus", marks=pytest.mark.any_lxd)])
def follower(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Follower]:
    """One after the other, for what does."""
    with following(request.getfixturevalue(request.param), tmp_path / "follower") as found:
        yield found


# ---- what they follow


def metadata_of(content: str, claims: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """An image's metadata file, which is all that a daemon looks into before somebody launches it."""
    document = {
        "architecture": Arch.host().value,
        "creation_date": 1_700_000_000,
        "properties": {"description": content, **claims},
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        member = tarfile.TarInfo("metadata.yaml")
        body = yaml.safe_dump(document).encode()
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def rootfs_of(content: str, mebibytes: float = 0.1) -> bytes:
    """What begins as a squashfs does, and does not compress."""
    return b"hsqs" + hashlib.shake_256(content.encode()).digest(int(mebibytes * (1 << 20)))


class Shop:
    """A tree with images that were made by hand, in an instant."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder / "tree")
        with self.change():
            self.tree.write_index()

    @contextmanager
    def change(self) -> Iterator[None]:
        with self.tree.lock(print, NEVER):
            yield

    def publish(
        self,
        name: str,
        content: str = "1",
        *aliases: str,
        mebibytes: float = 0.1,
        claims: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """A new version. ``claims``: what the image says of itself. Returns its fingerprint."""
        content = f"{name} {content}"
        with self.change(), self.tree.staging(ImageName(name)) as folder:
            made = artifact.write(folder, metadata_of(content, claims), [rootfs_of(content, mebibytes)])
            self.tree.publish(made, provenance(spec(name), resolved(content)), Arch.host(), aliases)
        return made.fingerprint.value

    def rename(self, name: str, *aliases: str) -> None:
        """The newest version gets other aliases."""
        with self.change():
            newest = self.versions(name)[-1]
            self.tree.update(newest, newest.provenance, aliases)

    def versions(self, name: str) -> list[Published]:
        return [one for one in self.tree.versions() if one.name.value == name and one.withdrawn is None]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


@pytest.fixture
def server(shop: Shop, tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path / "server", shop.tree.root, limits={"server.WATCH_SECONDS": 0.2}) as found:
        yield found


@pytest.fixture
def pinned(server: Served) -> tuple[str, str, str]:
    """How a follower names the server."""
    return server.url, "--fingerprint", Certificate.parse(server.certificate.read_bytes()).fingerprint


def names(changes: list[dict[str, str]]) -> list[str]:
    return [one["name"] for one in changes]


def asked(served: Served, count: int) -> list[str]:
    """The last ``count`` requests: status and path."""

    def lines() -> list[str]:
        found = [line.split('"') for line in served.log.splitlines() if '"GET ' in line]
        return [f"{parts[2].split()[0]} {parts[1].split()[1]}" for parts in found]

    wait_until("the log", lambda: len(lines()) >= count)
    return lines()[-count:]


# ---- following


def test_what_is_imported_is_launched(published: World, served: Served, follower: Follower) -> None:
    url, options = served.url, ["--ca", str(served.authority)]
    fingerprint = published.published_fingerprints("nginx")[-1]
    done = follower.follow(url, *options)
    (version,) = published.published()["nginx"]
    assert done["imported"] == [{"name": "nginx", "version": version, "fingerprint": fingerprint}]
    assert done["bytes"] == sum(
        item["size"] for key, item in published.published()["nginx"][version].items() if key != "incus.tar.xz"
    )
    assert follower.aliases() == {"nginx": fingerprint}
    assert follower.left() == []
    properties = follower.images()[fingerprint]["properties"]
    inside = published.lxc.images()[fingerprint]["properties"]
    assert properties["oci.entrypoint"] == inside["oci.entrypoint"]
    assert properties["lxdocker.source"] == inside["lxdocker.source"]
    assert (properties["lxdocker.server"], properties["lxdocker.version"]) == (url, version)
    assert "lxdocker.folder" not in properties
    # Again: nothing but two questions whether something is new.
    before = follower.images()
    assert follower.follow(url, *options)["unchanged"] == 1
    assert follower.images() == before
    assert asked(served, 2) == ["304 /streams/v1/index.json", "304 /streams/v1/images.json"]
    follower("launch", "nginx", "web")
    assert fetch(f"http://{address(follower, 'web')}/") == "lxdocker test page\n"
    assert follower.run("mirror", "--import", url, *options).out == "1 image unchanged\n"


def address(follower: Follower, instance: str) -> str:
    def probe() -> str | None:
        state = json.loads(follower("query", f"/1.0/instances/{instance}/state"))
        addresses = (state["network"] or {}).get("eth0", {}).get("addresses", [])
        return next((one["address"] for one in addresses if one["family"] == "inet"), None)

    return str(wait_until(f"an address of {instance}", probe))


@pytest.mark.any_lxd
def test_images_by_name(shop: Shop, pinned: Sequence[str], host: Follower) -> None:
    web, db = shop.publish("web"), shop.publish("db")
    shop.publish("other")
    done = host.follow(*pinned, "web", "nope", "db", "web", expect=1)
    assert names(done["imported"]) == ["web", "db"]
    assert host.aliases() == {"web": web, "db": db}
    (failure,) = done["failed"]
    assert failure["error"]["what"].endswith(f"has no image nope for {Arch.host().value}")
    assert failure["error"]["why"] == "it has db, other, web"
    assert "no such image" in host.run("mirror", "--import", *pinned, "a/b", expect=2).err


def test_new_versions_and_rollbacks_are_followed(shop: Shop, pinned: Sequence[str], follower: Follower) -> None:
    first, db = shop.publish("web", "1", "www"), shop.publish("db")
    follower.follow(*pinned)
    follower("image", "alias", "create", "prod", first)
    second = shop.publish("web", "2", "www")
    done = follower.follow(*pinned)
    assert (names(done["imported"]), done["unchanged"], done["removed"]) == (["web"], 1, [first])
    # What the user called it goes along.
    assert follower.aliases() == {"web": second, "www": second, "prod": second, "db": db}
    assert set(follower.images()) == {second, db}
    with shop.change():
        rollback.roll_back(shop.tree, ImageName("web"))
    done = follower.follow(*pinned)
    assert (names(done["imported"]), done["removed"]) == (["web"], [second])
    assert follower.aliases() == {"web": first, "www": first, "prod": first, "db": db}
    with shop.change():
        rollback.undo(shop.tree, ImageName("web"))
    follower.follow(*pinned)
    assert set(follower.images()) == {second, db}


def test_aliases_are_followed(shop: Shop, pinned: Sequence[str], follower: Follower) -> None:
    web, db = shop.publish("web", "1", "www"), shop.publish("db")
    follower.follow(*pinned)
    follower("image", "alias", "create", "prod", web)
    shop.rename("web", "site")
    done = follower.follow(*pinned)
    assert (names(done["updated"]), done["bytes"]) == (["web"], 0)
    assert follower.aliases() == {"web": web, "site": web, "prod": web, "db": db}
    assert follower.follow(*pinned)["unchanged"] == 2
    # From one image to another.
    shop.rename("web")
    shop.rename("db", "site")
    follower.follow(*pinned)
    assert follower.aliases() == {"web": web, "prod": web, "db": db, "site": db}
    assert follower.follow(*pinned)["unchanged"] == 2
    # And back when somebody took them away.
    follower("image", "alias", "delete", "web")
    assert names(follower.follow(*pinned)["updated"]) == ["web"]
    assert follower.aliases()["web"] == web


@pytest.mark.any_lxd
def test_an_image_that_left_the_server_stays(shop: Shop, pinned: Sequence[str], host: Follower) -> None:
    web, db = shop.publish("web"), shop.publish("db")
    host.follow(*pinned)
    with shop.change():
        shop.tree.withdraw(shop.versions("web"))
    said = host.run("mirror", "--import", *pinned)
    assert f"stays here until: {host.client} image delete {web[:12]}" in said.err
    assert said.out == "1 image unchanged, 1 no longer on the server\n"
    again = host.run("mirror", "--import", *pinned)
    assert (again.out, again.err) == (said.out, "")
    assert host.aliases() == {"web": web, "db": db}
    assert host.follow(*pinned, "web", expect=1)["failed"]
    # That all of them are gone is a mistake.
    with shop.change():
        shop.tree.withdraw(shop.versions("db"))
    assert "has no images" in host.follow(*pinned, expect=1)["error"]["what"]
    assert host.aliases() == {"web": web, "db": db}


@pytest.mark.any_lxd
def test_another_project(shop: Shop, pinned: Sequence[str], follower: Follower) -> None:
    web = shop.publish("web")
    done = follower.follow(*pinned, "--project", "shop", expect=2)
    assert "no project shop" in done["error"]["what"]
    assert f"{follower.client} project create shop" in done["error"]["do"]
    follower("project", "create", "shop", "-c", "features.images=true")
    try:
        follower.follow(*pinned, "--project", "shop")
        assert follower.images() == {}
        found = json.loads(follower("query", "/1.0/images?project=shop&recursion=1"))
        assert [(one["fingerprint"], one["aliases"][0]["name"]) for one in found] == [(web, "web")]
        follower("image", "delete", "--project", "shop", web)
    finally:
        follower("project", "delete", "shop")


# ---- logins and certificates


@pytest.fixture
def guarded(shop: Shop, tmp_path: Path) -> Iterator[Served]:
    """A server that wants a login."""
    users = tmp_path / "users"
    name, password = LOGIN
    users.write_text(f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()}\n")
    with serve(tmp_path / "guarded", shop.tree.root, "--users", str(users)) as found:
        yield found


@pytest.mark.any_lxd
def test_with_a_login(shop: Shop, guarded: Served, host: Follower, tmp_path: Path) -> None:
    web = shop.publish("web")
    url, ca = guarded.url.replace("https://", f"https://{LOGIN[0]}@"), ("--ca", str(guarded.authority))
    assert "requires a login" in host.follow(guarded.url, *ca, expect=1)["error"]["why"]
    password = tmp_path / "password"
    password.write_text("wrong\n")
    done = host.follow(url, *ca, "--password-file", str(password), expect=1)
    assert "wrong user or password" in done["error"]["why"]
    password.write_text(f"{LOGIN[1]}\n")
    assert names(host.follow(url, *ca, "--password-file", str(password))["imported"]) == ["web"]
    assert host.images()[web]["properties"]["lxdocker.server"] == guarded.url
    # From stdin, and in the address itself.
    assert host.follow(url, *ca, stdin=f"{LOGIN[1]}\n")["unchanged"] == 1
    assert "no password for ann" in host.follow(url, *ca, expect=2)["error"]["what"]
    assert host.follow(url.replace("ann@", "ann:pa%3Ass%2Fw%C3%B6rd%40@"), *ca)["unchanged"] == 1
    assert LOGIN[1] not in guarded.log


def join(follower: Follower, name: str, address: str, certificate: Path) -> None:
    """What `remote add` writes."""
    follower("remote", "list")  # now it has a configuration
    document = yaml.safe_load((follower.config / "config.yml").read_text())
    document["remotes"][name] = {"addr": address, "protocol": "simplestreams", "public": True}
    (follower.config / "config.yml").write_text(yaml.safe_dump(document))
    (follower.config / "servercerts").mkdir(exist_ok=True)
    (follower.config / f"servercerts/{name}.crt").write_bytes(certificate.read_bytes())


@pytest.mark.any_lxd
def test_a_remote_with_a_login(shop: Shop, guarded: Served, host: Follower) -> None:
    web = shop.publish("web")
    address = guarded.url.replace("https://", "https://ann:pa%3Ass%2Fw%C3%B6rd%40@")
    join(host, "shop", address, guarded.certificate)
    assert names(host.follow("shop:")["imported"]) == ["web"]
    assert host.follow("shop:", "web")["unchanged"] == 1
    properties = host.images()[web]["properties"]
    assert properties["lxdocker.server"] == guarded.url
    assert "ss%2F" not in json.dumps(properties)
    assert "has no remote other" in host.follow("other:", expect=2)["error"]["what"]


@pytest.mark.any_lxd
def test_a_certificate_that_was_made_anew(
    shop: Shop, server: Served, pinned: Sequence[str], host: Follower, tmp_path: Path
) -> None:
    shop.publish("web")
    join(host, "shop", server.url, server.certificate)
    assert names(host.follow("shop:")["imported"]) == ["web"]
    assert host.follow(*pinned)["unchanged"] == 1
    server.certificate.unlink()
    wait_until("the new certificate", lambda: "showing a new certificate" in server.log)
    assert host.follow("shop:")["unchanged"] == 1
    assert host.follow(*pinned)["unchanged"] == 1
    # Another key is another server.
    with serve(tmp_path / "impostor", shop.tree.root) as impostor:
        join(host, "other", impostor.url, server.certificate)
        done = host.follow("other:", expect=1)
        assert "is not trusted" in done["error"]["what"]
        assert "lxdocker remote add" in done["error"]["do"]
        assert '"GET ' not in impostor.log


def test_what_an_image_says_of_itself_is_not_where_it_came_from(
    shop: Shop, pinned: Sequence[str], follower: Follower
) -> None:
    claims = {"lxdocker.name": "db", "lxdocker.server": "https://other.example", "lxdocker.aliases": "prod"}
    web = shop.publish("web", "1", claims=claims)
    follower.follow(*pinned)
    properties = follower.images()[web]["properties"]
    assert properties["description"] == "web 1"
    assert (properties["lxdocker.name"], properties["lxdocker.server"]) == ("web", pinned[0])
    assert properties["lxdocker.aliases"] == "web"
    assert follower.follow(*pinned)["unchanged"] == 1


# ---- what is not its own


def test_what_others_put_there_is_left_alone(shop: Shop, pinned: Sequence[str], follower: Follower) -> None:
    shop.publish("web")
    db = shop.publish("db")
    mine = follower.put("web")
    done = follower.follow(*pinned, expect=1)
    assert names(done["imported"]) == ["db"]
    (failure,) = done["failed"]
    assert failure["error"]["what"] == "web: the alias web is taken"
    assert mine[:12] in failure["error"]["why"]
    assert f"{follower.client} image alias delete web" in failure["error"]["do"]
    assert follower.aliases() == {"web": mine, "db": db}
    assert set(follower.images()) == {mine, db}  # it was not even fetched
    follower("image", "alias", "delete", "web")
    assert names(follower.follow(*pinned)["imported"]) == ["web"]
    assert mine in follower.images()


@pytest.mark.any_lxd
def test_another_server_is_another_owner(shop: Shop, pinned: Sequence[str], host: Follower, tmp_path: Path) -> None:
    web = shop.publish("web")
    host.follow(*pinned)
    other = Shop(tmp_path / "second")
    other.publish("web", "elsewhere")
    with serve(tmp_path / "other", other.tree.root) as second:
        done = host.follow(second.url, "--ca", str(second.authority), expect=1)
    assert f"an image that came from {pinned[0]}" in done["failed"][0]["error"]["why"]
    assert host.aliases() == {"web": web}


def test_the_same_image_from_somebody_else_is_used_and_said(
    shop: Shop, server: Served, pinned: Sequence[str], follower: Follower
) -> None:
    web = shop.publish("web", "1", "www")
    folder = shop.versions("web")[0].folder
    follower("image", "import", str(folder / "lxd.tar.xz"), str(folder / ROOTFS_FILE), "--alias", "web")
    done = follower.run("mirror", "--import", *pinned)
    assert f"{follower.client} image delete {web[:12]}" in done.err
    assert done.out.endswith("1 image updated\n")
    assert follower.aliases() == {"web": web, "www": web}
    shop.publish("web", "2")
    assert "is taken" in follower.follow(*pinned, expect=1)["failed"][0]["error"]["what"]
    assert follower.aliases() == {"web": web, "www": web}


def test_what_the_daemon_keeps_of_a_remote_is_brought_properly(
    published: World, served: Served, follower: Follower
) -> None:
    if "image_registries" in follower("query", "/1.0"):
        pytest.skip("this LXD makes no instance from the remote of a client")
    join(follower, "shop", served.url, served.certificate)
    follower("init", "shop:nginx", "web")
    (fingerprint,) = published.published_fingerprints("nginx")
    assert follower.images()[fingerprint]["cached"]
    assert names(follower.follow("shop:")["imported"]) == ["nginx"]
    assert not follower.images()[fingerprint]["cached"]
    assert follower.aliases() == {"nginx": fingerprint}


def test_a_server_may_follow_itself(filled: World, tmp_path: Path) -> None:
    kind = Kind("lxc", {"LXD_DIR": os.environ["LXD_DIR"], "INCUS_DIR": "/nonexistent"}, "LXD_CONF")
    follower = Follower(kind, tmp_path / "user")
    before = filled.store_state()
    with serve(tmp_path / "own", filled.tree) as own:
        done = follower.run("mirror", "--import", own.url, "--ca", str(own.authority), "--project", filled.project)
    assert (done.out, done.err) == ("1 image unchanged\n", "")
    assert filled.store_state() == before


@pytest.mark.any_lxd
def test_sync_and_prune_leave_it_alone(filled: World, shop: Shop, pinned: Sequence[str], tmp_path: Path) -> None:
    """On one LXD, in one project."""
    web = shop.publish("web")
    # A server may well know what it would take to be one of this folder's images.
    theirs = provenance(spec("other"), folder=filled.specs).to_properties()
    other = shop.publish("other", claims=theirs)
    shop.publish("app")
    kind = Kind("lxc", {"LXD_DIR": os.environ["LXD_DIR"], "INCUS_DIR": "/nonexistent"}, "LXD_CONF")
    follower = Follower(kind, tmp_path / "user")
    project = ("--project", filled.project)
    app = filled.lxc.aliases()["app"]
    done = follower.follow(*pinned, *project, expect=1)
    assert sorted(names(done["imported"])) == ["other", "web"]
    assert "the alias app is taken" in done["failed"][0]["error"]["what"]
    expected = {"web": web, "other": other, "app": app}
    assert filled.lxc.aliases() == expected
    assert filled.lxc.images()[other]["properties"].items() >= theirs.items()
    assert filled.sync().statuses == {"app": "unchanged"}
    assert filled.run("prune", "--json").document["images"] == []
    assert filled.lxc.aliases() == expected
    # A spec of that name does not get the alias either.
    filled.wants("other", tiny("other"))
    assert "the alias other is taken" in filled.sync(expect=1).error("other")
    assert filled.lxc.aliases() == expected
    filled.run("prune", "--all")
    assert set(filled.lxc.images()) == {web, other}
    assert follower.follow(*pinned, *project, "web", "other")["unchanged"] == 2


# ---- what goes wrong


@pytest.mark.parametrize("damage", ["other bytes", "more", "gone"])
@pytest.mark.any_lxd
def test_a_damaged_file_is_refused(shop: Shop, pinned: Sequence[str], host: Follower, damage: str) -> None:
    web = shop.publish("web", "1")
    host.follow(*pinned)
    newer = shop.publish("web", "2")
    db = shop.publish("db")
    path = shop.versions("web")[-1].folder / ROOTFS_FILE
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"?" * len(content) if damage == "other bytes" else content + b"?")
    done = host.follow(*pinned, expect=1)
    assert names(done["imported"]) == ["db"]
    assert names(done["failed"]) == ["web"]
    assert done["failed"][0]["error"]["why"]
    assert host.aliases() == {"web": web, "db": db}
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    assert names(host.follow(*pinned)["imported"]) == ["web"]
    assert host.aliases() == {"web": newer, "db": db}
    assert set(host.images()) == {newer, db}
    assert host.left() == []


# The program, reading half a megabyte a second.
SLOWLY = """
import time
from lxdocker.cli import main as cli
from lxdocker.cli import console
console.Lines.count = lambda *_: time.sleep(1 / 32)
cli.main()
"""


@pytest.mark.any_lxd
def test_killed_while_fetching_it_goes_on_from_there(
    shop: Shop, server: Served, pinned: Sequence[str], host: Follower
) -> None:
    web = shop.publish("web", "1")
    host.follow(*pinned)
    newer = shop.publish("web", "2", mebibytes=4)

    def some() -> int:
        return sum(path.stat().st_size for path in host.left())

    with host.start(sys.executable, "-c", SLOWLY, "mirror", "--import", *pinned) as run:
        wait_until("some of it", lambda: some() > 1 << 19)
        run.signal(signal.SIGKILL)
        run.end()
    here = some()
    assert here < 4 << 20
    assert host.aliases() == {"web": web}
    done = host.follow(*pinned)
    assert names(done["imported"]) == ["web"]
    assert 4 << 20 <= done["bytes"] + here < 5 << 20
    assert asked(server, 1)[0].startswith("206 ")
    assert host.aliases() == {"web": newer}
    assert set(host.images()) == {newer}
    assert host.left() == []


@pytest.mark.any_lxd
def test_what_is_no_longer_wanted_of_a_killed_run_is_removed(shop: Shop, pinned: Sequence[str], host: Follower) -> None:
    shop.publish("web", "1", mebibytes=4)
    with host.start(sys.executable, "-c", SLOWLY, "mirror", "--import", *pinned) as run:
        wait_until("some of it", lambda: host.left())
        run.signal(signal.SIGKILL)
        run.end()
    assert host.left()
    web = shop.publish("web", "2")
    host.follow(*pinned)
    assert set(host.images()) == {web}
    assert host.left() == []


DIES = """
import os, sys
from lxdocker.cli import main as cli
from lxdocker.lxd import store
def die(*_):
    os.kill(os.getpid(), 9)
setattr(store.Store, sys.argv.pop(1), die)
cli.main()
"""


@pytest.mark.any_lxd
@pytest.mark.parametrize("step", ["add", "point", "remove"])
def test_killed_between_import_and_alias_the_next_run_finishes(
    shop: Shop, pinned: Sequence[str], follower: Follower, step: str
) -> None:
    web = shop.publish("web", "1")
    follower.follow(*pinned)
    newer = shop.publish("web", "2")
    with follower.start(sys.executable, "-c", DIES, step, "mirror", "--import", *pinned) as run:
        assert run.end().status == -signal.SIGKILL
    assert follower.aliases() == {"web": newer if step == "remove" else web}
    done = follower.follow(*pinned)
    assert names(done["imported"] + done["updated"]) == ["web"]
    assert done["bytes"] == 0
    assert follower.aliases() == {"web": newer}
    assert set(follower.images()) == {newer}
    assert follower.left() == []


COUNTS = """
import os, sys
from lxdocker.cli import main as cli
import pylxd, requests_toolbelt, lxdocker.follow.run, lxdocker.cli.report
limit = int(sys.argv.pop(1))
watched = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "socket.connect"}
def look(event, arguments):
    global limit
    if event in watched and (event != "open" or isinstance(arguments[2], int) and arguments[2] & 3):
        limit -= 1
        if limit < 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(look)
cli.main()
"""


@pytest.mark.any_lxd
def test_killed_at_any_step_something_whole_is_there_and_the_next_run_completes_it(
    shop: Shop, pinned: Sequence[str], host: Follower
) -> None:
    """Each run is killed a little later than the one before."""
    before = shop.publish("web", "start", "www")
    host.follow(*pinned)
    host("image", "alias", "create", "prod", before)
    killed = 0
    while True:
        newer = shop.publish("web", str(killed), "www")
        with host.start(sys.executable, "-c", COUNTS, str(killed), "mirror", "--import", *pinned) as run:
            status = run.end().status
        found = host.aliases()
        assert set(found) == {"web", "www", "prod"}
        assert set(found.values()) <= {before, newer}
        assert "Traceback" not in run.said
        if status == 0:
            break
        assert status == -signal.SIGKILL, run.said
        host.follow(*pinned)
        assert host.aliases() == {"web": newer, "www": newer, "prod": newer}
        assert set(host.images()) == {newer}
        assert host.left() == []
        before = newer
        killed += 1
    assert killed > 10
    assert set(host.images()) == {newer}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.any_lxd
def test_stopped_while_the_server_is_silent(
    shop: Shop, server: Served, pinned: Sequence[str], host: Follower, number: signal.Signals
) -> None:
    shop.publish("web", "1", mebibytes=4)
    with host.start(sys.executable, "-c", SLOWLY, "mirror", "--import", *pinned) as run:
        wait_until("some of it", lambda: host.left())
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        run.signal(number)
        done = run.end()
        took = time.monotonic() - began
        server.process.kill()
    assert done.status == 130
    assert "the next run continues" in done.err
    assert "Traceback" not in done.err
    assert took < 2
    assert host.images() == {}


@pytest.mark.any_lxd
def test_two_runs_at_once(shop: Shop, pinned: Sequence[str], host: Follower) -> None:
    web = shop.publish("web", "1", mebibytes=2)
    command = ("mirror", "--import", *pinned, "--json")
    with host.start(sys.executable, "-c", SLOWLY, *command) as first:
        wait_until("some of it", lambda: host.left())
        with host.start(*LXDOCKER, *command) as second, host.start(*LXDOCKER, *command) as third:
            second.wait_for("another lxdocker is using")
            third.wait_for("another lxdocker is using")
            third.signal(signal.SIGINT)
            assert third.end().status == 130
            assert first.process.poll() is None
            one, two = first.end(), second.end()
    assert (one.status, two.status) == (0, 0)
    assert names(one.document["imported"]) == ["web"]
    assert two.document["unchanged"] == 1
    assert host.aliases() == {"web": web}


@pytest.mark.any_lxd
def test_a_folder_that_is_too_small_or_closed(
    shop: Shop, pinned: Sequence[str], host: Follower, tmp_path: Path
) -> None:
    shop.publish("big", mebibytes=8)
    web = shop.publish("web")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    try:
        done = host.follow(*pinned, "--import-dir", str(small), expect=1)
        assert names(done["imported"]) == ["web"]
        assert "for big" in done["failed"][0]["error"]["what"]
        assert "--import-dir" in done["failed"][0]["error"]["do"]
    finally:
        subprocess.run(["umount", small], check=True)
    assert host.aliases() == {"web": web}
    (tmp_path / "file").touch()
    done = host.follow(*pinned, "--import-dir", str(tmp_path / "file"), expect=1)
    assert "Not a directory" in done["error"]["why"]
