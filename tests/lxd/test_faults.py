"""What goes wrong is said once, with what to do; and costs neither the last good image nor a builder left behind."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lxd.rig import (
    BUILDER_PROJECT,
    COMMAND_SECONDS,
    LXDOCKER,
    Lxc,
    World,
    big,
    cache_folder,
    end_of_builders,
    entry,
    image,
    layer,
    tiny,
)
from tests.registry_server import Handler, Image, Images, ScriptedServer, make_index, registry

NOBODY = 65534


@pytest.fixture
def good(filled: World) -> Iterator[World]:
    """A world with one good image, in which all must be as it was after whatever the test has done."""
    before = filled.holdings()
    yield filled
    for was, now in zip(before, filled.holdings(), strict=True):
        assert was == now
    end_of_builders()


def failure(world: World) -> str:
    """The message of a sync in which ``app`` fails."""
    done = world.sync(expect=1)
    assert done.statuses == {"app": "failed"}
    return done.error("app")


def test_a_failure_disturbs_no_other_image_and_is_said_once(good: World) -> None:
    good.wants("bystander", tiny("bystander"))
    good.push("app", image(b"this is no tar archive" * 100))
    words = good.run("sync", expect=1)
    assert words.out.count("app: ") == 1
    assert "failed    app: unpacking" in words.out
    assert words.out.splitlines()[-1] == "1 built, 1 failed"
    assert "Traceback" not in words.out + words.err
    (good.specs / "bystander.yaml").unlink()
    good.settings["grace_hours"] = 0
    assert good.sync(expect=1).statuses == {"app": "failed", "bystander": "removed"}


# ---- registries


@pytest.mark.any_lxd
def test_a_registry_that_is_not_there(good: World) -> None:
    good.spec("app", "127.0.0.1:1/app")
    assert "127.0.0.1:1" in failure(good)


@pytest.mark.any_lxd
def test_a_registry_that_wants_a_login(good: World, tmp_path: Path) -> None:
    with registry(tmp_path / "closed", htpasswd=True) as server:
        good.spec("app", f"{server.address}/app")
        assert f"skopeo login {server.address}" in failure(good)


@pytest.mark.any_lxd
def test_an_image_that_is_not_there(good: World) -> None:
    good.spec("app", good.ref("missing"))
    assert "missing" in failure(good)


@pytest.mark.any_lxd
def test_a_tag_that_is_not_there(good: World) -> None:
    good.spec("app", good.ref("app", "v9"))
    assert "v9" in failure(good)


@pytest.mark.any_lxd
@pytest.mark.parametrize("indexed", [False, True])
def test_an_image_for_other_machines_only(good: World, indexed: bool) -> None:
    foreign = tiny("foreign", arch="s390x")
    good.push("app", foreign)
    if indexed:
        good.push_index("app", make_index((foreign.manifest, {"os": "linux", "architecture": "s390x"})))
    assert "s390x" in failure(good)


def blob_file(storage: Path, digest: str) -> Path:
    """Where docker-registry keeps a blob."""
    hexadecimal = digest.removeprefix("sha256:")
    return storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"


@pytest.mark.any_lxd
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_layer_in_the_registry(good: World, tmp_path: Path, damage: str) -> None:
    made = big("damaged", 1)
    with registry(tmp_path / "damaged") as server:
        Images(server.address).push("app", "latest", made)
        blob = blob_file(tmp_path / "damaged/storage", made.layers[0].digest)
        content = blob.read_bytes()
        middle = len(content) // 2
        blob.write_bytes(content[:middle] if damage == "cut" else content[:middle] + b"damage" + content[middle + 6 :])
        good.spec("app", f"{server.address}/app")
        assert "damaged at its source" in failure(good)
        # And it was kept nowhere: once the registry is mended, all is well.
        blob.write_bytes(content)
        good.spec("mended", f"{server.address}/app")
        assert good.sync("mended").statuses == {"mended": "built"}
    (good.specs / "mended.yaml").unlink()
    good.settings["grace_hours"] = 0
    good.sync(expect=1)


@pytest.mark.any_lxd
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_layer_cache_mends_itself(world: World, damage: str) -> None:
    made = big(damage, 1)
    world.wants("app", made)
    fingerprint = world.sync().fingerprint("app")
    blob = cache_folder() / "blobs/sha256" / made.layers[0].digest.removeprefix("sha256:")
    content = blob.read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(content[:middle] if damage == "cut" else content[:middle] + b"damage" + content[middle + 6 :])
    assert world.sync("--force").fingerprint("app") == fingerprint
    assert blob.read_bytes() == content


@pytest.mark.any_lxd
def test_a_configuration_that_can_not_be_used(good: World) -> None:
    good.push("app", tiny(StopSignal="SIGNONE"))
    assert "SIGNONE" in failure(good)


def test_owners_beyond_what_lxd_gives_to_containers(good: World) -> None:
    good.push("app", image(layer(entry("far", "x", uid=2_000_000_000))))
    assert "/etc/subuid" in failure(good)


@contextmanager
def unsteady(made: Image, blob: Callable[[Handler, int], None], host: str = "127.0.0.1") -> Iterator[str]:
    """A registry of one image, whose layer's requests ``blob`` answers, told how many there have been."""
    tries: list[str] = []

    def answer(handler: Handler) -> None:
        path = handler.path.partition("?")[0]
        if path == "/v2/":
            handler.reply(200)
        elif "/manifests/" in path:
            headers = {"Content-Type": made.manifest.media_type, "Docker-Content-Digest": made.manifest.digest}
            handler.reply(200, made.manifest.content, headers)
        elif path.endswith(made.layers[0].digest):
            tries.append(path)
            blob(handler, len(tries))
        elif path.endswith(made.config.digest):
            handler.reply(200, made.config.content)
        else:
            handler.reply(404)

    with ScriptedServer(answer, host=host) as server:
        yield f"{server.address}/app"


@pytest.mark.any_lxd
def test_a_registry_that_fails_for_a_moment(world: World) -> None:
    made = big("unsteady", 1)
    content = made.layers[0].content

    def blob(handler: Handler, tries: int) -> None:
        if tries == 1:
            handler.reply(503)
        elif tries == 2:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2])
            handler.close_connection = True
        else:
            handler.reply(200, content)

    with unsteady(made, blob) as reference:
        world.spec("app", reference)
        assert world.sync().statuses == {"app": "built"}


@pytest.mark.any_lxd
def test_a_registry_that_falls_silent(good: World) -> None:
    """It is given up, and what it was to give is nobody else's delay."""
    made = big("silent", 1)
    over = threading.Event()

    def blob(handler: Handler, tries: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(made.layers[0].content)))
        handler.end_headers()
        handler.wfile.write(made.layers[0].content[:100_000])
        handler.wfile.flush()
        over.wait(COMMAND_SECONDS)

    with unsteady(made, blob) as reference:
        good.spec("app", reference)
        good.settings["stall_timeout"] = 5
        said = failure(good)
        over.set()
    assert "no data from the registry for 5 s" in said
    assert "stall_timeout" in said


# ---- space


@pytest.mark.any_lxd
def test_an_image_that_unpacks_to_far_more_than_it_weighs(good: World) -> None:
    """Others of the same run are built."""
    made = image(layer(entry("zeros", bytes(200 << 20))))
    good.push("app", made)
    good.wants("bystander", tiny("bystander"))
    good.settings["image_size_limit"] = "50MiB"
    done = good.sync(expect=1)
    assert done.statuses == {"app": "failed", "bystander": "built"}
    assert "takes more than 50 MiB" in done.error("app")
    assert "image_size_limit" in done.error("app")
    (good.specs / "bystander.yaml").unlink()
    good.settings["grace_hours"] = 0
    good.sync(expect=1)


@contextmanager
def small_pool(megabytes: int) -> Iterator[str]:
    """An LXD storage pool of that size, on a tmpfs."""
    name = f"small{uuid.uuid4().hex[:6]}"
    folder = Path("/var/tmp") / name
    folder.mkdir()
    # Where LXD sees it: it may have a mount namespace of its own.
    beside_lxd = ["nsenter", "--mount", f"--target={Lxc().query('/1.0')['environment']['server_pid']}"]
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", name, str(folder)]
    subprocess.run([*beside_lxd, *mount], check=True, timeout=30)
    try:
        Lxc()("storage", "create", name, "dir", f"source={folder}")
        try:
            yield name
        finally:
            lxc = Lxc(BUILDER_PROJECT)
            if "cache" in lxc("storage", "volume", "list", name, "--format", "csv"):
                lxc("storage", "volume", "delete", name, "cache")
            Lxc()("storage", "delete", name)
    finally:
        subprocess.run([*beside_lxd, "umount", str(folder)], check=True, timeout=30)
        folder.rmdir()


@pytest.mark.parametrize(
    ("megabytes", "settings", "step"),
    [
        (30, {}, ("creating builder", "starting builder")),  # which of both depends on the LXD
        pytest.param(75, {}, "fetching", marks=pytest.mark.any_lxd),
        # A limit set by hand: nothing is unpacked in memory.
        pytest.param(110, {"builder_memory": "2GiB"}, "unpacking", marks=pytest.mark.any_lxd),
    ],
)
def test_a_full_disk_under_the_builder(
    good: World, megabytes: int, settings: dict[str, str], step: str | tuple[str, ...]
) -> None:
    good.push("app", big("too big", 48))
    with small_pool(megabytes) as pool:
        good.settings.update(settings, pool=pool)
        said = failure(good)
        assert said.startswith(step)
        assert "space" in said
        assert "storage pool" in said
        del good.settings["pool"]


@pytest.mark.any_lxd
def test_a_cache_that_can_not_be_tidied_hides_no_success(filled: World) -> None:
    """No room for the builder that drops left-over layers while the one that built the image is still going away."""
    filled.push("app", tiny("newer"))
    Lxc()("project", "set", BUILDER_PROJECT, "limits.instances=1")
    try:
        assert filled.sync().statuses == {"app": "built"}
    finally:
        Lxc()("project", "unset", BUILDER_PROJECT, "limits.instances")


@contextmanager
def small_tree(world: World, megabytes: int) -> Iterator[None]:
    """The world's tree on a filesystem of its own."""
    world.tree.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "small", str(world.tree)], check=True, timeout=30
    )
    try:
        yield
    finally:
        subprocess.run(["umount", str(world.tree)], check=True, timeout=30)


@pytest.mark.any_lxd
def test_a_full_disk_under_the_tree(world: World) -> None:
    with small_tree(world, 10):
        world.wants("app", tiny("good"))
        world.sync()
        before = world.state()
        world.push("app", big("too big", 32))
        said = failure(world)
        assert "free space" in said
        assert str(world.tree) in said
        assert world.state() == before
        assert list((world.tree / ".staging").iterdir()) == []


@pytest.mark.any_lxd
def test_a_tree_that_can_not_be_written(good: World) -> None:
    good.push("app", tiny("newer"))
    subprocess.run(["mount", "--bind", str(good.tree), str(good.tree)], check=True, timeout=30)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(good.tree)], check=True, timeout=30)
        said = good.sync(expect=1).error()
    finally:
        subprocess.run(["umount", str(good.tree)], check=True, timeout=30)
    assert str(good.tree) in said
    assert "--tree" in said


# ---- LXD


def test_lxd_is_not_there(good: World, tmp_path: Path) -> None:
    said = good.sync(environment={"LXD_DIR": str(tmp_path / "nowhere")}, expect=2).error()
    assert str(tmp_path / "nowhere/unix.socket") in said


def test_lxd_is_not_running(good: World, tmp_path: Path) -> None:
    import socket

    folder = tmp_path / "d"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.path.relpath(folder / "unix.socket"))  # a path of a socket may have 107 bytes only
    link = Path("/tmp") / f"lxd-{uuid.uuid4().hex[:8]}"
    link.symlink_to(folder)
    try:
        said = good.sync(environment={"LXD_DIR": str(link)}, expect=2).error()
    finally:
        link.unlink()
    assert "LXD is not running" in said
    assert "start" in said


def test_no_permission_on_the_socket(good: World) -> None:
    """As a user who may read specs, but not talk to LXD."""
    os.chmod(good.folder.parent, 0o755)  # noqa: PTH101, S103 - for another user
    command = [
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--",
        *good.arguments(["status", "--json"]),
    ]
    public = Path("/tmp") / f"lxdocker-{uuid.uuid4().hex[:8]}"
    # What root may read but this user may not, pytest's folders and maybe the checkout, must not be what fails.
    (public / "images.d").mkdir(parents=True)
    (public / "images.d/app.yaml").write_bytes((good.specs / "app.yaml").read_bytes())
    (public / "config.yaml").write_text("{}\n")
    environment = {**good.environment, "HOME": str(public), "LXDOCKER_CONFIG": str(public / "config.yaml")}
    subprocess.run(["chmod", "-R", "a+rX", str(public)], check=True)
    try:
        done = subprocess.run(
            [word.replace(str(good.folder), str(public)) for word in command],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    finally:
        subprocess.run(["rm", "-r", str(public)], check=True)
    if "No module named" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip(f"this checkout or its Python is closed to other users: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 2, done.stderr
    assert "permission denied" in done.stderr
    assert "usermod -aG lxd" in done.stderr


@contextmanager
def bare_lxd(folder: Path) -> Iterator[Path]:
    """An LXD that nobody has set up: no pool, no network."""
    folder = Path("/var/tmp") / f"lxd-{uuid.uuid4().hex[:8]}"  # short: see test_lxd_is_not_running
    folder.mkdir(mode=0o711)
    environment = {**os.environ, "LXD_DIR": str(folder)}
    log = folder / "lxd.log"
    process = subprocess.Popen(
        ["lxd", "--group", "root", "--logfile", str(log)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        subprocess.run(["lxd", "waitready", "--timeout=60"], env=environment, check=True, timeout=70)
        yield folder
    finally:
        subprocess.run(["lxd", "shutdown", "--timeout", "10"], env=environment, check=False, timeout=60)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for mount in sorted(re.findall(rf" ({re.escape(str(folder))}/\S+) ", Path("/proc/mounts").read_text()))[::-1]:
            subprocess.run(["umount", "-l", mount], check=False, timeout=30)
        subprocess.run(["rm", "-r", str(folder)], check=True, timeout=60)


def test_lxd_is_not_set_up(world: World, tmp_path: Path) -> None:
    world.wants("app", tiny())
    with bare_lxd(tmp_path) as folder:
        done = world.run("sync", "--json", "--project", "default", environment={"LXD_DIR": str(folder)}, expect=2)
    assert "no storage pool" in done.error()
    assert "lxd init" in done.error()


def test_a_project_that_is_not_there(good: World) -> None:
    done = good.run("sync", "--json", "--project", "nosuchproject", expect=2)
    assert "nosuchproject" in done.error()
    assert "lxc project create nosuchproject" in done.error()


def test_settings_that_name_what_lxd_has_not(good: World) -> None:
    good.push("app", tiny("newer"))
    for setting in ("pool", "network"):
        good.settings[setting] = "nosuchthing"
        said = good.sync(expect=2).error()
        assert "nosuchthing" in said
        assert setting in said
        del good.settings[setting]
    good.push("app", tiny("app"))


@pytest.mark.any_lxd
def test_a_builder_without_network(good: World) -> None:
    """A bridge where nobody hands out addresses, and a registry that is not on this host's loopback."""
    bridge = f"lxdt{uuid.uuid4().hex[:8]}"
    address = f"10.{random.randint(200, 249)}.{random.randint(0, 255)}.1"
    Lxc()("network", "create", bridge, f"ipv4.address={address}/24", "ipv4.dhcp=false", "ipv6.address=none")
    try:
        # One that the layer cache has not.
        with unsteady(tiny(bridge), lambda handler, tries: handler.reply(500), address) as reference:
            good.settings.update(network=bridge, insecure_registries=[reference.partition("/")[0]])
            good.spec("app", reference)
            done = good.sync(expect=1)
        assert "no network" in done.error("app")
        assert "setting `network`" in done.error("app")
    finally:
        Lxc()("network", "delete", bridge)


# ---- words


@pytest.mark.any_lxd
def test_a_name_that_no_spec_has(good: World) -> None:
    said = good.sync("ap", expect=2).error()
    assert "did you mean" in said.lower()
    assert "app" in said


@pytest.mark.any_lxd
def test_a_spec_with_mistakes(good: World) -> None:
    (good.specs / "other.yaml").write_text("imgae: nginx\n")
    said = good.sync("--strict", expect=2).error()
    assert "other.yaml:1" in said
    done = good.sync(expect=1)
    assert done.statuses == {"app": "unchanged", "other": "failed"}
    assert "other.yaml:1" in done.error("other")
    (good.specs / "other.yaml").unlink()


@pytest.mark.any_lxd
def test_every_command_says_what_is_wrong_with_its_own_words(good: World) -> None:
    done = good.run("builder", "build", "--from", "nothing", expect=2)
    assert "--from" in done.err
    assert sys.executable not in done.err
    assert LXDOCKER
