"""Root filesystems of a few files, and programs run in them as root of their own mount, process and network namespaces.

Nothing that happens there is seen outside, but for what is written below the root itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

BUSYBOX = Path(shutil.which("busybox") or "/bin/busybox")
UNSHARE = shutil.which("unshare") or "unshare"
# Whoever runs the tests may ignore some signals, as nohup and the background of a script do; nobody does for process 1.
HEARING = ["env", "--default-signal"]
SECONDS = 30  # none of these programs takes one


def _has_namespaces() -> bool:
    probe = [UNSHARE, "--mount", "--pid", "--net", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not _has_namespaces(), reason="needs root and namespaces")

# Runs in the namespaces, outside of the root, which is $1; $2 prepares, $3 is run in the root, $4 looks at the result.
OUTSIDE = """
set -eu
root=$1
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs dev
for device in null full urandom; do : >"dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
eval "$2"
look=$3
shift 3
[ -n "$look" ] || exec chroot "$root" "$@"
status=0
chroot "$root" "$@" || status=$?
eval "$look"
exit "$status"
"""


@dataclass(frozen=True)
class Root:
    """A root filesystem at ``path`` with busybox in it."""

    path: Path
    busybox: str = "/busybox-lxd"

    @classmethod
    def make(cls, path: Path, busybox: str = "/busybox-lxd") -> Root:
        root = cls(path, busybox)
        target = root / busybox
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUSYBOX, target)
        for folder in ("proc", "sys", "dev"):
            (root / folder).mkdir(exist_ok=True)
        return root

    def __truediv__(self, inside: str) -> Path:
        return self.path / inside.lstrip("/")

    def write(self, inside: str, content: str | bytes = "", mode: int = 0o644) -> Path:
        path = self / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def install(self, program: str) -> None:
        """This host's program, below /usr/bin, and the libraries that it is linked with."""
        found = shutil.which(program)
        assert found, f"this host has no {program}"
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
        for path in [line.split()[-2] for line in listed.splitlines() if "/" in line]:
            (self / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, self / path)
        (self / "usr/bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(found, self / "usr/bin")

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        before: str = "",
        after: str = "",
        network: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the root with exactly this environment; as process 1, unless something comes after it.

        ``before`` and ``after`` are run by the host's shell in the same namespaces, outside of the root.
        """
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", *(["--net"] if network else [])]
        outside = ["sh", "-c", OUTSIDE, "sh", str(self.path), before, after]
        variables = [f"{name}={value}" for name, value in (env or {}).items()]
        done = subprocess.run(
            [*HEARING, UNSHARE, *namespaces, *outside, self.busybox, "env", "-i", *variables, *argv],
            input=stdin,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        return subprocess.CompletedProcess(
            argv, done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="replace")
        )

    def sh(
        self, script: str, *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script by the root's busybox."""
        return self.run(self.busybox, "sh", "-c", script, "sh", *arguments, env=env, stdin=stdin)

    def contents(self) -> dict[str, tuple[str, int, bytes | str]]:
        """Every path: what it is, its permissions, its content or where it leads."""
        return {path.relative_to(self.path).as_posix(): _entry(path) for path in sorted(self.path.rglob("*"))}


def _entry(path: Path) -> tuple[str, int, bytes | str]:
    mode = path.lstat().st_mode & 0o7777
    if path.is_symlink():
        return "link", mode, str(path.readlink())
    if path.is_dir():
        return "folder", mode, ""
    if not path.is_file():
        return "special", mode, ""
    return "file", mode, path.read_bytes()
