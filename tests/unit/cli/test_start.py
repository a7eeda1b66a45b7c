"""init, add and convert, as they are called."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lxdocker.cli.console import Console
from lxdocker.config import settings, units, yamlfile
from lxdocker.lxd.dialect import Dialect
from tests import schemas
from tests.registry_server import Images, make_image, registry, write_layout
from tests.stand_ins import ImageDaemon
from tests.terminal import environment, program, terminal
from tests.unit.cli.test_commands import Program, lxdocker, place
from tests.unit.cli.test_options import lxd

__all__ = ["lxd", "lxdocker", "place"]  # fixtures

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")


def on_disk(place: Path, name: str = "app", **config: Any) -> str:
    """A reference to an image in an OCI layout."""
    image = make_image(arch=ARCH, **config)
    write_layout(place / name, [image], [(image.manifest, "1")], [])
    return f"oci:{place}/{name}:1"


# ---- add


def test_add_writes_a_spec_that_is_valid_and_says_what_the_image_expects(place: Path, lxdocker: Program) -> None:
    ref = on_disk(
        place,
        Entrypoint=["/init"],
        Env=["S6_VERSION=3", "TOKEN="],
        ExposedPorts={"80/tcp": {}},
        Volumes={"/data": {}},
        User="app",
    )
    done = lxdocker("add", ref)
    assert (done.returncode, done.stderr) == (0, "")
    file = place / "images.d/app.yaml"
    first, *lines = done.stdout.splitlines()
    assert first == f"wrote {file}"
    for line in (
        *(
            "  ports            80/tcp",
            "  volumes          /data",
            "  variables to set TOKEN",
            "  user             app",
        ),
        *("  init             s6-overlay (/init), as PID 1", "  lxdocker sync app", "  lxc start app"),
        '  lxc init app app -c environment.TOKEN="$TOKEN"',
        "  lxc storage volume attach default app-data app app-data /data",
        "  lxc config device add app port-80 proxy listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80",
    ):
        assert line in lines
    text = file.read_text()
    assert yaml.safe_load(text) == {"image": ref, "disable_supervisor": True}
    (schema,) = [line for line in text.splitlines() if line.startswith("# yaml-language-server: $schema=")]
    assert Path(schema.partition("=")[2]).is_file()
    assert file.stat().st_mode & 0o777 == 0o644
    assert lxdocker("validate").stdout == "3 specs are valid\n"


def test_add_overwrites_nothing(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place)
    (place / "images.d/app.yml").write_text("mine")
    done = lxdocker("add", ref)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: spec exists already: app"
    assert done.stderr.splitlines()[2].startswith("  -> edit it, or give another name: ")
    assert (place / "images.d/app.yml").read_text() == "mine"
    (place / "images.d/link.yaml").symlink_to(place / "elsewhere")
    assert lxdocker("add", ref, "link").returncode == 2
    assert not (place / "elsewhere").exists()
    (place / "images.d/web.yaml").write_text("image: web\naliases: [www]\n")
    assert "it is an alias of web" in lxdocker("add", ref, "www").stderr
    assert lxdocker("add", ref, "other").returncode == 0
    assert (place / "images.d/other.yaml").is_file()


def test_add_says_whom_it_asks_while_it_does(place: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    variables = environment(place, PYTHONPATH=str(Path(__file__).parents[3]))
    with listening, terminal(program("add", f"{address}/x"), 80, 24, cwd=place, environment=variables) as shown:
        shown.wait_for("a spinner", lambda lines: any(f"asking {address}" in line for line in lines))


def test_the_name_of_what_all_specs_extend_is_no_image_s(place: Path, lxdocker: Program) -> None:
    done = lxdocker("add", on_disk(place), "defaults")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: name is taken: defaults"
    assert not (place / "images.d/defaults.yaml").exists()


def test_add_prints_the_spec_alone_with_dry_run(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place, Cmd=["/bin/sh"])
    done = lxdocker("add", ref, "--dry-run")
    assert yaml.safe_load(done.stdout) == {"image": ref}
    assert "ends at once" in done.stderr
    assert "user.lxdocker.cmd" in done.stderr
    assert not (place / "images.d/app.yaml").exists()


@pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs docker-registry")
def test_new_prints_what_the_page_shows(place: Path, lxdocker: Program) -> None:
    page = (Path(__file__).parents[3] / "docs/start.md").read_text()
    shown = page[page.index("    wrote /etc/lxdocker/images.d/db.yaml\n") :].partition("\n\n")[0]
    image = make_image(
        arch=ARCH,
        Entrypoint=["docker-entrypoint.sh"],
        Cmd=["postgres"],
        ExposedPorts={"5432/tcp": {}},
        Volumes={"/var/lib/postgresql/data": {}},
    )
    with registry(place / "registry") as server:
        Images(server.address).push("library/postgres", "17", image)
        (place / "images.d/db.yaml").unlink()
        done = lxdocker("new", "db", f"{server.address}/library/postgres:17")
    said = done.stdout.replace(str(place / "images.d"), "/etc/lxdocker/images.d")
    assert said.splitlines() == [line.removeprefix("    ") for line in shown.splitlines()]


def test_add_as_json(place: Path, lxdocker: Program) -> None:
    ref = on_disk(place)
    document = schemas.check(json.loads(lxdocker("add", ref, "--json", "--dry-run").stdout), "add")
    assert document["spec"]["written"] is False
    document = schemas.check(json.loads(lxdocker("add", ref, "--json").stdout), "add")
    assert document["spec"]["written"] is True
    assert document["spec"]["text"] == (place / "images.d/app.yaml").read_text()


def test_add_makes_a_missing_folder_readable_by_all(place: Path, lxdocker: Program) -> None:
    umask = os.umask(0o077)
    try:
        done = lxdocker("add", on_disk(place), "--specs", "new/images.d")
    finally:
        os.umask(umask)
    assert done.returncode == 0
    assert f"made the folder of specs {place}/new/images.d" in done.stderr
    assert (place / "new/images.d").stat().st_mode & 0o777 == 0o755
    done = lxdocker("add", on_disk(place, "b"), "--specs", "app/oci-layout")
    assert done.returncode == 2
    assert "cannot write" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "brief"),
    [
        (["https://hub.docker.com/search?q=x"], "not an image"),
        (["nginx latest"], "not an image"),
        (["nginx", "a/b"], "not a name for an image"),
        (["oci:/nowhere"], None),
        (["127.0.0.1:1/x"], None),
    ],
)
def test_add_says_what_is_wrong(place: Path, lxdocker: Program, arguments: list[str], brief: str | None) -> None:
    done = lxdocker("add", *arguments)
    assert done.stdout == ""
    assert done.returncode == (2 if brief else 1)
    if brief:
        assert done.stderr.splitlines()[0] == f"error: {brief}"
    assert "  -> " in done.stderr
    assert sorted(path.name for path in (place / "images.d").iterdir()) == ["db.yaml", "web.yaml"]


@pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs docker-registry")
def test_add_asks_a_registry(place: Path, lxdocker: Program) -> None:
    with registry(place / "registry") as server:
        Images(server.address).push("library/postgres", "17", make_image(arch=ARCH, Volumes={"/var/lib": {}}))
        done = lxdocker("add", f"docker://{server.address}/library/postgres:17", "pg")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load((place / "images.d/pg.yaml").read_text())["image"].endswith("/library/postgres:17")
    assert "set POSTGRES_PASSWORD in the shell" in done.stdout


# ---- convert


def test_convert_in_words_and_as_json(place: Path, lxdocker: Program) -> None:
    command = "docker run -d --name web -p 8080:80 nginx"
    done = lxdocker("convert", command)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"# {place}/images.d/nginx.yaml"
    assert "image: docker.io/library/nginx:latest" in lines
    assert lines[-1] == "lxc start web"
    assert lxdocker("convert", *command.split()) == done  # without quotes
    assert lxdocker("convert", "--", *command.split()) == done
    document = schemas.check(json.loads(lxdocker("convert", "--json", command).stdout), "convert")
    assert document["commands"][-1] == "lxc start web"
    assert not (place / "images.d/nginx.yaml").exists()


@pytest.mark.parametrize("first", ["compose.yaml", "-"])
def test_options_after_the_file_are_no_docker_command(place: Path, lxdocker: Program, first: str) -> None:
    done = lxdocker("convert", first, "--json", "--write")
    assert (done.returncode, f"lxdocker convert --json --write {first}" in done.stderr) == (2, True)


def test_convert_fails_if_something_essential_is_lost(lxdocker: Program) -> None:
    done = lxdocker("convert", "docker run --privileged --log-driver x nginx:$NONE")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines.index("# lost, and essential:") < lines.index("# lost:")
    assert any(line.startswith("#   nginx: --privileged: ") for line in lines)
    assert any(line.startswith("#   nginx: $NONE: the variable is not set") for line in lines)
    document = json.loads(lxdocker("convert", "--json", "docker run --privileged nginx").stdout)
    (lost,) = schemas.check(document, "convert")["lost"]
    assert (lost["service"], lost["what"], lost["essential"]) == ("nginx", "--privileged", True)
    assert lxdocker("convert", "docker run --log-driver x nginx").returncode == 0
    assert lxdocker("convert", "docker run nginx -c my.yaml").returncode == 0


def test_convert_a_compose_file_with_its_variables(
    place: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "my app").mkdir()
    (place / "my app/.env").write_text("TAG=1\nPORT=81\n")
    monkeypatch.setenv("PORT", "82")
    text = "services: {web: {image: 'nginx:${TAG}', ports: ['${PORT}:80'], volumes: ['./x:/x']}}\n"
    (place / "my app/compose.yaml").write_text(text)
    done = lxdocker("convert", "my app/compose.yaml")
    assert done.returncode == 0
    assert "image: docker.io/library/nginx:1\n" in done.stdout
    assert "listen=tcp:0.0.0.0:82 " in done.stdout
    assert f"'source={place}/my app/x' " in done.stdout
    (place / "my app/compose.yaml").write_text("services: &a {}\nx: *a\n")
    done = lxdocker("convert", "my app/compose.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: 2 mistakes in my app/compose.yaml"


def test_convert_writes_specs_only_if_asked_and_none_twice(place: Path, lxdocker: Program) -> None:
    assert "wrote" in lxdocker("convert", "--write", "docker run nginx").stdout
    assert lxdocker("validate").stdout == "3 specs are valid\n"
    (place / "compose.yaml").write_text("services: {a: {image: redis}, b: {image: nginx}}\n")
    done = lxdocker("convert", "--write", "compose.yaml")
    assert done.returncode == 2
    assert "spec exists already: nginx" in done.stderr
    assert "leave out --write" in done.stderr
    assert not (place / "images.d/redis.yaml").exists()  # all or none


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (b"docker run --name a nginx\n", "lxc start a"),
        (b"# how we start it\n$ sudo docker run \\\n  --name b \\\n  nginx\n", "lxc start b"),
        (b"services: {c: {image: nginx}}\n", "lxc start c"),
        (b"\xef\xbb\xbfservices: {d: {image: nginx}}\n", "lxc start d"),
    ],
)
def test_convert_reads_stdin(lxdocker: Program, monkeypatch: pytest.MonkeyPatch, text: bytes, last: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    done = lxdocker("convert", "-")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, last)


@pytest.mark.parametrize(
    ("argument", "brief"),
    [
        ("nowhere.yaml", "cannot read nowhere.yaml"),
        ("images.d", "cannot read images.d"),
        ("big", "too much to convert: big"),
        ("binary", "not text: binary"),
        ("kubectl run x", "not a docker run command"),
        ("my app/compos.yaml", "cannot read my app/compos.yaml"),
        ("docker run a; rm -rf /", "cannot read the command"),
        ("docker run $(touch evil) a", "cannot read the command"),
        ("images.d/web.yaml", "no services in images.d/web.yaml"),
    ],
)
def test_convert_says_what_is_wrong(place: Path, lxdocker: Program, argument: str, brief: str) -> None:
    (place / "big").write_bytes(b"a" * (256 * 1024 + 1))
    (place / "binary").write_bytes(b"\xff\xfe")
    done = lxdocker("convert", argument)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == f"error: {brief}"
    assert "  -> " in done.stderr
    assert not (place / "evil").exists()


# ---- init


@pytest.fixture
def system(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where root's files would be."""
    (place / "images.d").rename(place / "aside")
    etc = place / "etc/lxdocker"
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", etc / "config.yaml")
    monkeypatch.setattr(settings, "SYSTEM_SPECS", etc / "images.d")
    monkeypatch.setattr(units, "UNIT_FOLDER", place / "etc/systemd")
    monkeypatch.setattr(units, "program", lambda: Path("/usr/bin/lxdocker"))
    monkeypatch.setattr(units, "has_systemd", lambda: False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return etc


def test_init_makes_the_documented_layout_and_nothing_twice(
    system: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LXDOCKER_TREE")
    lxd.say("GET /1.0/networks", [{"name": "lxdbr0", "managed": True, "type": "bridge"}])
    done = lxdocker("init", "--auto")
    assert done.returncode == 0
    config, folder = system / "config.yaml", system / "images.d"
    lines = done.stdout.splitlines()
    assert lines[0] == f"wrote    configuration {config}"
    assert f"made     folder of specs {folder}" in lines
    assert "found    storage pool default, network lxdbr0" in lines
    assert len(lines) == len(set(lines))
    assert any(line.startswith(f"found    {lxd.lxd.server['environment']['server'].upper()} ") for line in lines)
    assert any("/etc/cron.d" in line for line in lines)
    assert any(line.endswith(" * * * * root /usr/bin/lxdocker sync -q") for line in lines)
    assert lines[-1].endswith("lxdocker add nginx && lxdocker sync && lxc launch nginx web")
    # Every setting is there, and none is set.
    text = config.read_text()
    assert yaml.safe_load(text) is None
    uncommented = "\n".join(line[1:] for line in text.splitlines() if line.startswith("#") and line[1:2].isalpha())
    assert set(yaml.safe_load(uncommented)) == set(yamlfile.schema(settings.SCHEMA)["properties"])
    config.write_text("jobs: 1\n")
    (folder / "a.yaml").write_text("image: nginx\n")
    again = lxdocker("init", "--yes").stdout.splitlines()
    assert again[0] == f"exists   configuration {config}"
    assert f"exists   folder of specs {folder} (1 spec)" in again
    assert config.read_text() == "jobs: 1\n"
    assert lxdocker("init", "--auto", "-q").stdout == ""


def test_init_for_another_user(place: Path, system: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    lxdocker("init", "--auto")
    own = place / ".config/lxdocker"
    assert (own / "config.yaml").is_file()
    assert (own / "images.d").is_dir()
    assert not system.exists()
    done = lxdocker("init", "--auto")
    assert "by 'crontab -e'" in done.stdout
    assert " * * * * /usr/bin/lxdocker sync -q" in done.stdout


def test_init_writes_the_configuration_that_is_in_force(
    place: Path, system: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXDOCKER_CONFIG", "mine.yaml")
    monkeypatch.setenv("LXDOCKER_SPECS", "images.d")  # which would be found there without being named, too
    lxdocker("init", "--auto")
    assert (place / "mine.yaml").is_file()
    assert (place / "images.d").is_dir()
    assert not system.exists()
    monkeypatch.delenv("LXDOCKER_SPECS")
    done = lxdocker("init", "--auto")
    assert f"made     folder of specs {system}/images.d" in done.stdout
    assert f"{place}/images.d comes first" in done.stderr


@pytest.mark.usefixtures("system")
def test_init_without_lxd_says_so_and_makes_the_files(place: Path, lxdocker: Program) -> None:
    done = lxdocker("init", "--auto")
    assert done.returncode == 2
    assert "missing  LXD: cannot connect to LXD" in done.stdout
    assert done.stderr.splitlines()[0] == "error: cannot connect to LXD"
    assert (place / "etc/lxdocker/images.d").is_dir()


@pytest.mark.usefixtures("system")
def test_init_finds_an_lxd_that_was_never_set_up(lxd: ImageDaemon, lxdocker: Program) -> None:
    done = lxdocker("init", "--auto")  # no network
    assert done.returncode == 2
    assert "lxc network create lxdbr0" in done.stderr
    lxd.say("GET /1.0/profiles/default", {"devices": {}})
    lxd.say("GET /1.0/storage-pools", [])
    done = lxdocker("init", "--auto")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: LXD is not set up")


@pytest.mark.usefixtures("system")
def test_init_asks_nobody_without_a_terminal(place: Path, lxdocker: Program) -> None:
    done = lxdocker("init")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--auto" in done.stderr
    assert not (place / "etc").exists()


def test_init_asks_before_it_makes_anything(
    place: Path, system: Path, lxd: ImageDaemon, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, bool] = {}

    def confirm(_console: Console, question: str, *, default: bool = False) -> bool:
        asked[question] = default
        return "folder" in question

    monkeypatch.setattr(Console, "can_ask", True)
    monkeypatch.setattr(Console, "confirm", confirm)
    monkeypatch.setattr(units, "has_systemd", lambda: True)
    monkeypatch.setattr(units, "check_program", lambda program: None)
    lxdocker("init")
    assert asked == {
        f"Write the configuration file {system}/config.yaml?": True,
        f"Make the folder of specs {system}/images.d?": True,
        "Sync every hour, by a systemd timer?": False,
    }
    assert not (system / "config.yaml").exists()
    assert (system / "images.d").is_dir()
    assert not (place / "etc/systemd").exists()


@pytest.mark.usefixtures("system", "lxd")
def test_init_warns_of_an_lxd_without_a_security_fix(lxdocker: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dialect, "weakness", "LXD 5.0.1 lacks the fix of CVE-2026-23954")
    assert "warning: LXD 5.0.1 lacks the fix" in lxdocker("init", "--auto").stderr


def test_init_on_a_real_terminal(place: Path) -> None:
    variables = environment(place, PYTHONPATH=str(Path(__file__).parents[3]), LXDOCKER_SPECS=str(place / "specs"))
    argv = program("init", "--config", str(place / "config.yaml"))
    with terminal(argv, 80, 24, cwd=place, environment=variables) as shown:
        shown.wait_for("the first question", lambda lines: any("[Y/n]" in line for line in lines))
        shown.process.send("\r")
        shown.wait_for("the second one", lambda lines: sum("[Y/n]" in line for line in lines) == 2)
        assert not (place / "specs").exists()
        shown.process.send("n\r")
        # Where systemd runs, there is a third one, whose default is no.
        shown.process.send("n\r")
        assert shown.end() == 2  # no LXD
        assert (place / "config.yaml").is_file()
        assert not (place / "specs").exists()


@pytest.mark.usefixtures("lxd")
def test_init_enables_the_timer_if_told_to(
    place: Path, system: Path, lxdocker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled: list[str] = []
    installed: list[str] = []
    monkeypatch.setattr(units, "has_systemd", lambda: True)
    monkeypatch.setattr(units, "check_program", lambda program: None)
    monkeypatch.setattr(units, "serve_obstacle", lambda program: "below /root")
    monkeypatch.setattr(units, "install", lambda files: installed.extend(file.path.name for file in files))
    monkeypatch.setattr(units, "activate", lambda *names: enabled.extend(names))
    assert units.TIMER not in lxdocker("init", "--auto").stdout
    assert enabled == installed == []
    assert f"enabled  timer {units.TIMER}" in lxdocker("init", "--yes").stdout
    assert enabled == [units.TIMER]
    assert {units.SYNC, units.TIMER} <= set(installed)
    assert units.SERVE not in installed
    # With Debian's package, they are there already.
    monkeypatch.setattr(units, "packaged", lambda files: True)
    installed.clear()
    assert f"enabled  timer {units.TIMER}" in lxdocker("init", "--yes").stdout
    assert (enabled.pop(), installed) == (units.TIMER, [])
    (place / "etc/systemd").mkdir()
    (place / "etc/systemd" / units.TIMER).touch()
    assert f"exists   timer {place}/etc/systemd/{units.TIMER}" in lxdocker("init", "--yes").stdout
    assert enabled == [units.TIMER]


def test_starting_is_quick() -> None:
    """What reads compose files and registries is not loaded for other commands."""
    code = "import sys, lxdocker.cli.main; print([n for n in sys.modules if n.startswith('lxdocker.docker')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
