"""The commands of two pages of the documentation, run as a reader would: from top to bottom.

A page's commands are its blocks marked ``sh``, and the code on the right of its tables that begins with ``lxc`` or
``lxdocker``. They run in LXD's default project, as on the page. Replaced is only what the page says.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests.lxd.rig import COMMAND_SECONDS, LXDOCKER, Lxc, entry, image, layer, symlink
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
    for line in page.read_text().splitlines():
        if block is not None:
            if line == "```":
                found.append("\n".join(block))
                block = None
            else:
                block.append(line)
        elif line == "```sh":
            block = []
        elif line.startswith("| "):
            found += [code for code in re.findall(r"`([^`]+)`", line.rsplit("|", 2)[1]) if PROGRAM.match(code)]
    return found


def in_prose(page: Path) -> Iterator[str]:
    """Commands in the page's text."""
    for line in re.sub(r"(?ms)^```.*?^```$", "", page.read_text()).splitlines():
        if not line.startswith("|"):
            yield from (code for code in re.findall(r"`([^`]+)`", line) if PROGRAM.match(code))


class Reader:
    """A host whose user types what a page says."""

    def __init__(self, folder: Path, replaced: Mapping[str, str], settings: Mapping[str, object]) -> None:
        self.folder = folder
        self._replaced = replaced
        program = folder / "bin/lxdocker"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(LXDOCKER)} "$@"\n')
        program.chmod(0o755)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({"builder_from": "mmdebstrap", "tree": str(folder / "tree"), **settings}))
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
    reader = Reader(tmp_path / "reader", {"docker.io/library": registry}, {})
    busybox = entry("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    shell = layer(entry("bin"), busybox, *(symlink(f"bin/{name}", "busybox") for name in ("sh", "sleep", "nslookup")))
    Images(registry).push("alpine", "latest", image(shell, Cmd=["/bin/sh"]))
    archive = f"docker-archive:{reader.desk / 'my-app.tar'}:my-app:latest"
    reader.runs(f"skopeo copy --quiet --src-tls-verify=false docker://{registry}/alpine:latest {archive}")
    said = reader.follows("coming-from-docker.md")
    assert "lxdocker test page" in next(out for command, out in said.items() if "curl" in command)
    assert said["lxc exec cache -- /lxd-exec redis-cli ping"].strip() == "PONG"
    assert "ended with status 0" in said["lxc console shell --show-log"]
    assert default_project.images() == {}
