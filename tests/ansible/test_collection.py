"""The Ansible collection: modules that ansible-core runs, with a real lxdocker and a real LXD."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bcrypt
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.ansible.playbook import BIN, COLLECTION, Playbook, executable, host, image, inherited, install, rehearsed
from tests.lxd.rig import World, end_of_builders, tiny
from tests.serve.rig import Served, make_tree, serve

MODULES = ("lxdocker_host", "lxdocker_image")


@pytest.fixture
def world(tmp_path: Path, registry: str, builder_image: str) -> Iterator[World]:
    """A world that knows of its folders from its configuration file."""
    made = World(tmp_path / "world", registry)
    made.settings |= {"specs": str(made.specs), "tree": str(made.tree), "project": made.project}
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("collections"))


@pytest.fixture
def playbook(world: World, collections: Path, tmp_path: Path) -> Playbook:
    environment = {**inherited(), "HOME": world.environment["HOME"], "LXD_CONF": str(tmp_path / "client")}
    (tmp_path / "ansible").mkdir()
    return Playbook(tmp_path / "ansible", collections, environment)


@pytest.fixture
def common(world: World, tmp_path: Path) -> dict[str, Any]:
    """Arguments of every task."""
    return {"executable": str(executable(tmp_path)), "config": world.environment["LXDOCKER_CONFIG"]}


def test_an_image_comes_changes_and_goes(world: World, playbook: Playbook, common: dict[str, Any]) -> None:
    app = image("app", spec={"image": world.push("app", tiny()), "aliases": ["application"]}, **common)

    announced, made, again = playbook.run(rehearsed(app), app, app)
    end_of_builders()
    assert announced.changed
    assert f'image: "{world.ref("app")}"\n' in announced.diff["after"]
    assert (made.changed, made["image"]["outcome"], made.diff["before"]) == (True, "built", "")
    assert (again.changed, again["image"]["outcome"]) == (False, "unchanged")
    assert yaml.safe_load((world.specs / "app.yaml").read_text()) == app["lxdocker.lxdocker.lxdocker_image"]["spec"]
    world.holds("app", made["image"]["fingerprint"])

    # The tag moves: the spec stays, the image does not. Then nobody wants it any more.
    world.push("app", tiny("two"))
    gone = image("app", state="absent", **common)
    foretold, moved, doomed, removed, again = playbook.run(rehearsed(app), app, rehearsed(gone), gone, gone)
    end_of_builders()
    assert (foretold.changed, foretold["image"]["action"]) == (True, "build")
    assert (moved.changed, moved["image"]["outcome"]) == (True, "built")
    assert moved.diff["before"] == moved.diff["after"]
    assert (doomed.changed, doomed.diff["after"]) == (True, "")
    assert (removed.changed, removed["image"]["outcome"]) == (True, "removed")
    assert removed.diff["before"] == moved.diff["after"]
    assert not again.changed
    assert world.lxc.images() == {}


def test_what_lxdocker_refuses_fails_in_its_words_and_leaves_nothing(
    world: World, playbook: Playbook, common: dict[str, Any]
) -> None:
    good = image("app", spec={"image": world.ref("app"), "jobs": 1}, sync=False, **common)
    missing = image("other", spec={"image": world.ref("nothing")}, **common)
    settings = {**common, "config": str(world.folder / "new.yaml")}
    misspelt, unreachable, wrong = playbook.run(good, missing, host(settings={"jobs": "many"}, **settings))
    assert misspelt.failed
    assert "app.yaml:3: jobs: unknown key" in misspelt.message
    assert not (world.specs / "app.yaml").exists()
    assert unreachable.failed
    assert world.ref("nothing") in unreachable.message
    assert wrong.failed
    assert "new.yaml:2: jobs: expected a whole number" in wrong.message
    assert not (world.folder / "new.yaml").exists()


def fingerprint(certificate: Path) -> str:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server of a tree with one image."""
    with serve(tmp_path / "served", make_tree(tmp_path)) as found:
        yield found


def test_a_host_gets_settings_and_a_server(
    world: World, playbook: Playbook, common: dict[str, Any], served: Served, tmp_path: Path
) -> None:
    common |= {"config": str(tmp_path / "etc/config.yaml")}
    remote = {"server": served.url, "fingerprint": fingerprint(served.certificate), "client": "lxc"}
    wanted = host(settings={"jobs": 3, "insecure_registries": [world.registry]}, **remote, **common)

    foreign = host(**{**remote, "fingerprint": "0" * 64, "remote": "other"}, **common)
    announced, made, again, stranger = playbook.run(rehearsed(wanted), wanted, wanted, foreign)
    assert announced.changed
    assert (made.changed, made.diff["before"]) == (True, ""), made.told
    assert not again.changed, again.told
    assert yaml.safe_load((tmp_path / "etc/config.yaml").read_text())["jobs"] == 3
    certificate = tmp_path / "client/servercerts/lxdocker.crt"
    assert certificate.read_text() == served.certificate.read_text()
    assert made["remote"]["url"] == served.url
    assert stranger.failed
    assert "does not match" in stranger.message

    gone = host(state="absent", client="lxc", **common)
    doomed, removed, again = playbook.run(rehearsed(gone), gone, gone)
    assert doomed.changed
    assert removed.changed
    assert not again.changed
    assert not certificate.exists()


def test_a_server_with_logins(playbook: Playbook, common: dict[str, Any], tmp_path: Path) -> None:
    password = "pa:ss wörd"  # noqa: S105 - made up
    users = tmp_path / "users"
    users.write_text(f"ann:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n")
    with serve(tmp_path / "closed", make_tree(tmp_path), "--users", str(users)) as server:
        remote = {"server": server.url.replace("://", "://ann@"), "fingerprint": fingerprint(server.certificate)}
        wanted = host(**remote, password=password, client="lxc", **common)
        wrong = host(**remote, password=password[1:], remote="other", client="lxc", **common)
        made, again, refused = playbook.run(wanted, wanted, wrong)
    assert made.changed, made.told
    assert not again.changed, again.told
    assert refused.failed
    assert "other" not in (tmp_path / "client/config.yml").read_text()
    for result in (made, again, refused):  # a login in the remote's address is in no output of Ansible's
        assert password not in str(result.told)
        assert quote(password) not in str(result.told)


def test_the_modules_are_documented(collections: Path) -> None:
    """As Ansible reads it, which compares the options with the code only when a task runs."""
    environment = {**inherited(), "HOME": str(collections), "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    names = [f"lxdocker.lxdocker.{name}" for name in MODULES]
    argv = [str(BIN / "ansible-doc"), "--json", *names]
    said = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    documents = yaml.safe_load(said)
    for name in names:
        module = (COLLECTION / f"plugins/modules/{name.rpartition('.')[2]}.py").read_text()
        options = documents[name]["doc"]["options"]
        declared = module.partition("argument_spec={")[2].partition("supports_check_mode")[0]
        for option in options.keys() - {"config", "executable"}:
            assert f'"{option}": {{' in declared, option
        assert documents[name]["examples"]
        assert documents[name]["return"]
