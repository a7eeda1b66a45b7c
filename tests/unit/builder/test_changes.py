"""What a spec changes, as a builder's scripts take it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lxdocker.builder import changes
from lxdocker.config.changes import Changes, FileChange, LayerFile, Packages, Step
from lxdocker.errors import BuildError, UsageError
from lxdocker.source.oci import OciConfig

SHELL = ("/bin/bash", "-ec")
CONFIG = OciConfig((), (), (("PATH", "/app/bin"), ("A", "b c")), "/srv", shell=SHELL, created=7)
PROXIES = {
    "HTTP_PROXY": "http://proxy:3128",
    "HTTPS_PROXY": "http://me:secret@proxy:3128",
    "ALL_PROXY": "127.0.0.1:3128",
    "NO_PROXY": "example.org",
}


def test_packages_come_before_commands() -> None:
    found = changes.commands(Changes(packages=Packages(("a",)), run=(Step("x"), Step(("y", "z")))), CONFIG)
    assert [running.argv[-2:] for running in found[1:]] == [("-ec", "x"), ("y", "z")]
    assert found[0].argv[-2:] == ("a", "--")


def test_a_command_has_the_image_s_environment_and_its_time() -> None:
    (running,) = changes.commands(Changes(run=(Step("x"),)), CONFIG)
    assert dict(running.environment) == {"PATH": "/app/bin", "A": "b c", "SOURCE_DATE_EPOCH": "7"}
    assert (running.user, running.folder, running.network) == ("0:0", "/srv", False)
    (bare,) = changes.commands(Changes(run=(Step("x"),)), OciConfig())
    assert dict(bare.environment)["PATH"].startswith("/usr/local/sbin:")
    assert bare.argv == ("/bin/sh", "-c", "x")


def test_a_command_with_a_network_has_proxies_but_none_with_a_login_or_that_it_can_t_reach() -> None:
    steps = (Step("x"), Step("y", network=True))
    without, with_network = changes.commands(Changes(run=steps), CONFIG, PROXIES)
    assert not any("proxy" in name.lower() for name, _ in without.environment)
    assert dict(with_network.environment) == {
        **dict(without.environment),
        "http_proxy": "http://proxy:3128",
        "HTTP_PROXY": "http://proxy:3128",
        "no_proxy": "example.org",
        "NO_PROXY": "example.org",
    }
    assert b"secret" not in with_network.fields()


def test_the_fields_of_a_command(tmp_path: Path) -> None:
    step = Step(("a", "", "b\nc"), user="app", timeout=5, secrets=(("token", tmp_path / "token"),))
    (running,) = changes.commands(Changes(run=(step,)), OciConfig(env=(("X", "1\n2"),)))
    words = running.fields().decode().split("\0")
    assert words[:6] == ["no", "5", "app", "/", "/run/secrets", "3"]
    assert words[6:] == [f"PATH={changes._PATH}", "SOURCE_DATE_EPOCH=0", "X=1\n2", "a", "", "b\nc", ""]
    assert str(tmp_path) not in running.fields().decode()


def test_a_secret_that_can_t_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="secret cannot be read: token"):
        changes.secret("token", tmp_path / "none")
    (tmp_path / "large").write_bytes(b"x" * ((1 << 16) + 1))
    with pytest.raises(UsageError, match=r"secret is too large: token.*more than 64 KiB"):
        changes.secret("token", tmp_path / "large")
    (tmp_path / "small").write_bytes(b"x")
    assert changes.secret("token", tmp_path / "small") == b"x"


def test_a_template_that_fails_is_said_with_its_place() -> None:
    change = FileChange("/a", template="{{ 1 / 0 }}", place="web.yaml:3: files['/a']")
    with pytest.raises(UsageError, match="template cannot be rendered: web") as caught:
        list(changes.records(Changes((change,)), {}))
    assert "division" in caught.value.details


def test_a_layer_that_is_another_one_by_now(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(b"x" * 3_000_000)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    layer = LayerFile(path, sha256, "web.yaml:4: layers[0]")
    assert b"".join(changes.layer(layer)) == path.read_bytes()
    path.write_bytes(b"y")
    with pytest.raises(BuildError, match=r"is not the layer of the spec") as caught:
        list(changes.layer(layer))
    assert "web.yaml:4: layers[0]" in caught.value.details
    path.unlink()
    with pytest.raises(BuildError, match="No such file"):
        list(changes.layer(layer))
