"""A root filesystem of a whole Debian, used without changing it: what is written there is gone afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

SECONDS = 300
# Runs in namespaces of its own, with a file system in memory over the root, which is $1; the folders behind it are
# shared. They end with its stdin, and so with the tests.
HOLD = """
set -eu
root=$1
shift
top=/run
mount -t tmpfs -o mode=755 tmpfs $top
mkdir $top/new $top/work $top/root
mount -t overlay -o "lowerdir=$root,upperdir=$top/new,workdir=$top/work" overlay $top/root
mount -t proc proc $top/root/proc
mount --rbind /sys $top/root/sys
mount --rbind /dev $top/root/dev
for folder; do
    mkdir -p "$top/root$folder"
    mount --rbind "$folder" "$top/root$folder"
done
echo ready
exec cat
"""
# All but what dpkg and apt keep about what they did, and the former versions of the lists of users.
LIST = """
find / -xdev \\( -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache/apt -o -path /var/log -o -path /tmp \\
    -o -path /run -o -path /proc -o -path /sys -o -path /dev -o -path '/etc/*-' \\) -prune \\
    -o -type d -printf '%p %y %m %U\\n' -o -printf '%p %y %m %U %s %l\\n'
"""


class Bare:
    """Commands in such a root, as on a machine of its own but for the network and some folders."""

    def __init__(self, root: Path, folders: Sequence[Path]) -> None:
        self.root = root
        argv = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            HOLD,
            "sh",
            *map(str, [root, *folders]),
        ]
        self._holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Bare:
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self._inside = children.read_text().split()[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate()

    def run(self, *argv: str, environment: Mapping[str, str] | None = None) -> str:
        """What a command prints, which must succeed and say nothing on stderr that matters."""
        done = self.attempt(*argv, environment=environment)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, *argv: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, however that is."""
        variables = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **(environment or {}),
        }
        enter = ["nsenter", "--target", self._inside, "--mount", "--pid", "chroot", "/run/root", "env", "-i"]
        words = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            [*enter, *words, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def apt(self, *arguments: str) -> str:
        return self.run("apt-get", "-qq", "--yes", "--no-install-recommends", *arguments)

    def files(self) -> set[str]:
        """Every path with what it is: kind, mode, owner, size, target."""
        return set(self.run("sh", "-c", LIST).splitlines())
