"""The commands of two pages of the documentation, run as a reader would: from top to bottom.

A page's commands are its blocks marked ``sh``, and the code on the right of its tables that begins with ``lxc`` or
``lxdocker``. They run in LXD's default project, as on the page. Replaced is only what the page says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests.lxd.rig import BUILDER_PROJECT, COMMAND_SECONDS, LXDOCKER, Lxc, entry, image, layer, symlink, tiny
from tests.registry_server import Images
from tests.waiting import wait_until

pytestmark = pytest.mark.any_lxd

DOCS = Path(__file__).parents[2] / "docs"
PROGRAM = re.compile(r"(lxc|lxdocker) ")
# Commands that do not end by themselves.
FOLLOWS = re.compile(r"/lxd-log .*-f$")


def commands(page: Path) -> list[str]:
    """The page's commands, in order: each block is one of several lines."""
    found = []
    block: list[str] | None = None
    indent = ""
    for line in page.read_text().splitlines():
        if block is not None:
            if line.strip() == "```":
                found.append("\n".join(block))
                block = None
            else:
                block.append(line.removeprefix(indent))
        elif line.strip() == "```sh":
            block, indent = [], line[: line.index("`")]
        elif line.startswith("| "):
            found += [code for code in re.findall(r"`([^`]+)`", line.rsplit("|", 2)[1]) if PROGRAM.match(code)]
    return found


def in_prose(page: Path) -> Iterator[str]:
    """Commands in the page's text."""
    for line in re.sub(r"(?ms)^```.*?^```$", "", page.read_text()).splitlines():
        if not line.startswith("|"):
            yield from (code for code in re.findall(r"`([^`]+)`", line) if PROGRAM.match(code))


class Reader:
    """A host whose user types what a page says, and is not root: files on the desk belong to another user."""

    def __init__(self, folder: Path, replaced: Mapping[str, str], settings: Mapping[str, object]) -> None:
        self._replaced = replaced
        program = folder / "bin/lxdocker"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(LXDOCKER)} "$@"\n')
        program.chmod(0o755)
        config = folder / "etc/config.yaml"
        config.parent.mkdir()
        config.write_text(yaml.safe_dump({"builder_from": "mmdebstrap", **settings}))
        self.desk = folder / "desk"  # where the user is
        self.desk.mkdir()
        self._environment = {
            **{key: os.environ[key] for key in ("PYTHONPATH", "LXD_DIR", "LXD_CONF") if key in os.environ},
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LXDOCKER_CONFIG": str(config),
            "LC_ALL": "C.UTF-8",
        }

    def runs(self, command: str) -> str:
        """What the command prints, after checking that it succeeds."""
        if shown := re.fullmatch(r"lxc console (\w+) --show-log", command):
            # A reader is not that quick: for an instant, LXD has no log, and deletes nothing.
            wait_until(f"the end of {shown[1]}", lambda: Lxc().has_ended(shown[1]))
        return self._run(command)

    def _run(self, command: str) -> str:
        for text, other in self._replaced.items():
            command = command.replace(text, other)
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
            cwd=self.desk,
            start_new_session=True,
        )
        if FOLLOWS.search(command):
            assert process.stdout is not None
            said = process.stdout.readline()
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=COMMAND_SECONDS)
            assert said
            return said
        said, _ = process.communicate(timeout=COMMAND_SECONDS)
        assert process.returncode == 0, f"{command}: status {process.returncode}: {said}"
        for file in self.desk.iterdir():
            if file.is_file():
                os.chown(file, 1000, 1000)
        return said

    def follows(self, page: str, beside: Sequence[str] = ()) -> dict[str, str]:
        """Runs all commands of a page; returns what each said. ``beside``: more that its text may mention."""
        wanted = commands(DOCS / page)
        said = {command: self.runs(command) for command in wanted}
        lines = [line for command in wanted for line in command.splitlines()]
        for mentioned in in_prose(DOCS / page):
            told = mentioned in beside or re.search("[A-Z]{3}", mentioned)  # NAME: not to be typed as it is
            assert told or any(line.startswith(mentioned) for line in lines), f"{page} mentions {mentioned} only"
        return said


@pytest.fixture
def default_project() -> Iterator[Lxc]:
    """LXD's default project, left as it was."""
    lxc = Lxc()
    kinds = ("instances", "images", "profiles", "networks", "storage-pools/default/volumes/custom")

    def found() -> dict[str, set[str]]:
        """Kind -> paths in LXD's API; of networks only LXD's own."""
        listed = {kind: lxc.query(f"/1.0/{kind}") for kind in kinds}
        listed["networks"] = [
            f"/1.0/networks/{one['name']}" for one in lxc.query("/1.0/networks?recursion=1") if one["managed"]
        ]
        return {kind: {path.partition("?")[0] for path in paths} for kind, paths in listed.items()}

    before = found()
    yield lxc
    for kind, paths in found().items():
        for path in sorted(paths - before[kind]):
            if kind == "instances":
                lxc("delete", "--force", path.rpartition("/")[2])
            else:
                lxc("query", "--request", "DELETE", "--wait", path)


def test_coming_from_docker(tmp_path: Path, default_project: Lxc, registry: str, builder_image: str) -> None:
    specs = tmp_path / "etc/images.d"
    reader = Reader(tmp_path, {"docker.io/library": registry}, {"tree": str(tmp_path / "tree"), "specs": str(specs)})
    busybox = entry("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    shell = layer(entry("bin"), busybox, *(symlink(f"bin/{name}", "busybox") for name in ("sh", "sleep", "nslookup")))
    Images(registry).push("alpine", "latest", image(shell, Cmd=["/bin/sh"]))
    archive = f"docker-archive:{reader.desk / 'my-app.tar'}:my-app:latest"
    reader.runs(f"skopeo copy --quiet --src-tls-verify=false docker://{registry}/alpine:latest {archive}")
    at_last = ["lxdocker prune", "lxdocker prune --all"]
    said = reader.follows("coming-from-docker.md", beside=["lxdocker convert --write compose.yaml", *at_last])
    assert str(specs) in said["lxdocker config"]
    assert "lxdocker test page" in next(out for command, out in said.items() if "curl" in command)
    assert {"TZ=Europe/Berlin", "LEVEL=notice"} <= set(said["lxc exec cache -- /lxd-exec env"].splitlines())
    assert said["lxc exec cache -- /lxd-exec redis-cli ping"].strip() == "PONG"
    assert "ended with status 0" in said["lxc console shell --show-log"]
    assert [file.name for file in reader.desk.iterdir()] == ["my-app.tar"]
    # What the page says in words.
    for names, command in zip((("redis", "alpine", "my-app"), ("nginx",)), at_last, strict=True):
        for name in names:
            (specs / f"{name}.yaml").unlink()
        reader.runs(command)
    assert default_project.images() == {}


def copy_builder_image(project: str, folder: Path) -> None:
    """To a project that can be removed as a whole."""
    shared = Lxc(BUILDER_PROJECT)
    folder.mkdir()
    shared("image", "export", "builder", str(folder / "image"))
    properties = next(iter(shared.images().values()))["properties"]
    files = [str(path) for path in sorted(folder.iterdir())]  # image, image.root
    told = [f"{key}={value}" for key, value in properties.items()]
    Lxc(project)("image", "import", *files, "--alias", "builder", *told)


def test_operations(tmp_path: Path, default_project: Lxc, registry: str, builder_image: str) -> None:
    """A host is backed up, lost, restored and cleaned: its image has the same fingerprint again, without a build."""
    etc, var, builders = tmp_path / "etc", tmp_path / "var", f"d-{uuid.uuid4().hex[:8]}"
    in_project = {f"project {verb}lxdocker": f"project {verb}{builders}" for verb in ("", "delete ")}
    folders = {"specs": str(etc / "images.d"), "tree": str(var / "tree"), "tls_dir": str(var / "tls")}
    reader = Reader(
        tmp_path,
        {"/etc/lxdocker": str(etc), "/var/lib/lxdocker": str(var), **in_project},
        {**folders, "builder_project": builders},
    )
    for folder in (etc / "images.d", var / "tls"):
        folder.mkdir(parents=True)
    (var / "tls/server.key").write_text("key")
    Images(registry).push("t-operations", "latest", tiny("operations"))
    (etc / "images.d/app.yaml").write_text(f"image: {registry}/t-operations:latest\n")
    default_project("project", "create", builders)
    copy_builder_image(builders, tmp_path / "builder")
    reader.runs("lxdocker sync")
    kept = [image["fingerprint"] for image in default_project.images().values() if "app" in image["aliases"]]
    assert len(kept) == 1

    backup, restore, adopt, remove, files = pages = commands(DOCS / "operations.md")
    assert len(pages) == 5
    reader.runs(backup)
    shutil.rmtree(etc)
    shutil.rmtree(var)
    default_project("image", "delete", kept[0])
    said = reader.runs(restore)
    assert "restored" in said
    assert (var / "tls/server.key").read_text() == "key"

    # Another host has another LXD, and for it the folder of specs is another one.
    default_project("image", "delete", kept[0])
    (etc / "images.d").rename(etc / "moved.d")
    config = etc / "config.yaml"
    config.write_text(config.read_text().replace("images.d", "moved.d"))
    said = reader.runs(adopt)
    assert "restored" in said
    assert default_project.aliases()["app"] == kept[0]
    assert "app" in default_project("image", "list", "lxdocker.name=app")  # how a page lists those of a server
    assert "app" not in default_project("image", "list", "lxdocker.name=other")

    reader.runs(remove)
    assert kept[0] not in default_project.images()
    assert builders not in {project["name"] for project in default_project.query("/1.0/projects?recursion=1")}
    reader.runs(files)
    assert not etc.exists()
    assert not var.exists()


def test_what_init_convert_and_add_print_makes_the_instances(
    tmp_path: Path, default_project: Lxc, registry: str, builder_image: str
) -> None:
    specs = tmp_path / "desk/images.d"
    reader = Reader(tmp_path, {}, {"tree": str(tmp_path / "tree"), "specs": str(specs)})
    found = reader.runs("lxdocker init --auto")
    assert "exists   configuration" in found
    assert "found    LXD " in found
    assert "found    storage pool " in found
    assert f"made     folder of specs {specs}" in found
    bridge = next(one["name"] for one in default_project.query("/1.0/networks?recursion=1") if one["managed"])
    (reader.desk / "web.env").write_text("# of the application\nFROM_FILE=a 'b' $c\n")
    (reader.desk / "compose.yaml").write_text(f"""
services:
  web:
    image: {registry}/nginx:latest
    ports: ["127.0.0.1:8089:80"]
    environment: {{GREETING: "it's $$on", EMPTY: "", HERE: }}
    env_file: web.env
    volumes: ["html:/usr/share/nginx/html"]
    tmpfs: ["/scratch:size=8m"]
    devices: ["/dev/zero:/dev/extra"]
    ulimits: {{nofile: {{soft: 1000, hard: 2000}}}}
    mem_limit: 256m
    cpus: 0.5
    pids_limit: 200
    dns: 192.0.2.53
    labels: {{a.b: c d}}
    restart: always
    networks: [back]
networks: {{back: {{external: true, name: {bridge}}}}}
""")
    document = json.loads(reader.runs("lxdocker convert --write --json compose.yaml"))
    assert not [lost for lost in document["lost"] if lost["essential"]]
    for command in document["commands"]:
        reader.runs(f"export HERE=there; {command}")
    page = reader.runs("curl --silent --show-error --retry 9 --retry-all-errors http://127.0.0.1:8089/")
    assert "lxdocker test page" in page  # which the volume was filled with
    script = 'echo "$GREETING|${EMPTY-unset}|$HERE|$FROM_FILE|$(ulimit -Sn)|$(ulimit -Hn)"; grep /scratch /proc/mounts'
    said = reader.runs(f"lxc exec web -- /lxd-exec sh -c {shlex.quote(script)}").splitlines()
    assert said[0] == "it's $on||there|a 'b' $c|1000|2000"
    assert "size=8192k" in said[1]
    web = default_project.query("/1.0/instances/web")
    assert (web["config"]["limits.cpu.allowance"], web["config"]["user.a.b"]) == ("50ms/100ms", "c d")
    assert web["devices"]["eth0"]["network"] == bridge

    document = json.loads(reader.runs(f"lxdocker add --json docker://{registry}/nginx other"))
    assert document["expects"]["ports"]
    for command in document["commands"]:
        if " proxy " not in command:  # port 80 of this host may be another's
            reader.runs(f"export {' '.join(f'{name}=x' for name in document['expects']['variables'])}; {command}")
    assert default_project.query("/1.0/instances/other")["status"] == "Running"
