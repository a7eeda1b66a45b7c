"""The line for cron, under Debian's cron: its environment, and what it mails.

cron runs in a mount namespace that has its own /etc/cron.d, /etc/lxdocker, /var/lib/lxdocker and sendmail. A job of
`@reboot` runs as soon as cron starts, so no minute has to pass.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.config import units
from tests import recorded
from tests.registry_server import make_image, write_layout
from tests.stand_ins import image_daemon
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
CRON = "/usr/sbin/cron"
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path(CRON).exists(), reason="needs root, to give cron its own /etc, and cron"
)

# The program, but for its builders, which would need a real LXD.
PROGRAM = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from lxdocker.cli.main import main
from lxdocker.sync import run
from tests.stand_ins import ScriptedBuilders
run._open_workshop = lambda *_: ScriptedBuilders()
main()
"""
# Replaces each folder by one of links to what it has, and what the test adds. /run: cron's PID file, and its note that
# the jobs of @reboot have run.
START = """
set -e
cd "$1"
for folder in etc usr/sbin var/lib; do
    mkdir -p "real/$folder"
    mount --bind "/$folder" "real/$folder"
    for entry in "/$folder"/* "/$folder"/.[!.]*; do
        name=${entry##*/}
        [ -e "shown/$folder/$name" ] || [ -L "shown/$folder/$name" ] ||
            ln -s "$1/real/$folder/$name" "shown/$folder/$name"
    done
    mount --bind "shown/$folder" "/$folder"
done
mount -t tmpfs tmpfs /run
exec "$2" -f -L 0
"""


class Cron:
    """A host of its own with a cron that runs one line when it starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown = folder / "shown"
        for part in ("etc/cron.d", "etc/lxdocker/images.d", "usr/sbin", "var/lib/lxdocker"):
            (self._shown / part).mkdir(parents=True)
        (self._shown / "etc/crontab").touch()
        (self._shown / "var/lib/lxd").symlink_to(folder / "lxd")
        self.specs = self._shown / "etc/lxdocker/images.d"
        self.program = folder / "bin/lxdocker"
        self.program.parent.mkdir()
        self._script(self.program, PROGRAM)
        self._mails = folder / "mails"
        self._mails.mkdir()
        self._script(self._shown / "usr/sbin/sendmail", f"#!/bin/sh\nexec cat >{self._mails}/$$\n")

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def image(self, name: str) -> None:
        folder = self._folder / f"images/{name}"
        made = make_image(text=name)
        write_layout(folder, [made], [(made.manifest, "1")], [])
        (self.specs / f"{name}.yaml").write_text(f"image: oci:{folder}:1\n")

    def run(self, line: str) -> tuple[int, str, str]:
        """Runs a line of /etc/cron.d. Returns the job's exit status and environment, and the mail's text."""
        for leftover in self._mails.iterdir():
            leftover.unlink()
        status, environment = self._folder / "status", self._folder / "environment"
        status.unlink(missing_ok=True)
        command = line.split(" ", 5)[5]
        note = f"s=$?; env >{environment}; echo $s >{status}.new; mv {status}.new {status}"
        # No LXD of this host, whatever it has.
        (self._shown / "etc/cron.d/lxdocker").write_text(f"LXD_DIR=/var/lib/lxd\n@reboot {command}; {note}\n")
        with self._daemon() as cron:
            wait_until("the end of the job", status.exists)
            wait_until("cron's mail", lambda: not children(cron.pid))
        mails = [path.read_text() for path in self._mails.iterdir()]
        assert len(mails) <= 1
        return int(status.read_text()), environment.read_text(), mails[0].partition("\n\n")[2] if mails else ""

    @contextlib.contextmanager
    def _daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        start = ["unshare", "--mount", "--propagation", "private", "sh", "-c", START, "sh", str(self._folder), CRON]
        with subprocess.Popen(start, stdin=subprocess.DEVNULL, start_new_session=True) as cron:
            try:
                yield cron
            finally:
                cron.terminate()


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


@pytest.fixture
def cron(tmp_path: Path) -> Iterator[Cron]:
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    (tmp_path / "lxd").mkdir()
    with image_daemon(tmp_path / "lxd", recorded.every()[-1]):
        yield Cron(tmp_path)


def test_cron_mails_what_changed_or_failed_and_nothing_else(cron: Cron) -> None:
    cron.image("web")
    line = units.cron_line(cron.program, "root")
    status, environment, mail = cron.run(line)
    # What cron gives: neither more of a PATH nor a working folder with specs.
    assert {"PATH=/usr/bin:/bin", "HOME=/root", "LXD_DIR=/var/lib/lxd"} <= set(environment.splitlines())
    assert not any(name in environment for name in ("XDG_", "LXDOCKER_"))
    assert status == 0, mail
    assert [words.split()[:2] for words in mail.splitlines()] == [["built", "web"], ["1", "built"]]
    # Nothing new, and nothing to be mailed: also without a home folder and all else that is not there in every cron.
    bare = line.replace("root ", "root env -i LXD_DIR=/var/lib/lxd PATH=/usr/bin:/bin ", 1)
    assert cron.run(bare)[::2] == (0, "")
    (cron.specs / "db.yaml").write_text("image: oci:/nowhere\n")
    status, _, mail = cron.run(line)
    assert status == 1
    assert [words.split()[:2] for words in mail.splitlines() if words[0] != " "] == [
        ["failed", "db:"],
        ["1", "unchanged,"],
    ]
    # Also where lxdocker can't even begin.
    (cron.specs.parent / "config.yaml").write_text("jobs: many\n")
    status, _, mail = cron.run(line)
    assert (status, mail.splitlines()[0]) == (2, "error: a mistake in the settings")
