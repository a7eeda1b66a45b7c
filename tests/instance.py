"""An image's root with the runtime in it, whose PID 1 is tried verb by verb, without LXD."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from lxdocker.config.spec import Behaviour
from lxdocker.runtime import render
from lxdocker.source.oci import OciConfig
from tests.chroots import Root

needs_gosu = pytest.mark.skipif(shutil.which("gosu") is None, reason="this host has no gosu")
SOURCE = "LXDOCKER_SOURCE_ONLY=1\n. /sbin/init\n"
# As far as init has got when it is about to become the command.
PREPARED = ". /lxd-image; instance_environment; find_user; set_environment; "
# Prints words so that they can be told apart again.
WORDS = """words() { for word; do "$_bb" printf '%s\\0' "$word"; done; }\n"""


class Instance:
    """An image's root with the runtime in it."""

    def __init__(self, path: Path) -> None:
        self.root = Root.make(path)
        self.configure(OciConfig())
        for name in ("etc", "sbin", "root"):
            (self.root / name).mkdir(exist_ok=True)
        self.root.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
        self.root.write("/etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        if gosu := shutil.which("gosu"):
            shutil.copy(gosu, self.root / "lxd-gosu")

    def configure(self, config: OciConfig, behaviour: Behaviour | None = None) -> None:
        """Puts in what a build would."""
        runtime = render.runtime_tar(config.created)
        subprocess.run(["tar", "-xpC", self.root.path], input=runtime, check=True, timeout=30)
        (self.root / "lxd-image").write_bytes(render.render_config(config, behaviour or Behaviour()))  # as LXD does
        (self.root / "sbin").mkdir(exist_ok=True)
        (self.root / "init").rename(self.root / "sbin/init")

    def sh(
        self, script: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script in which all of init's verbs are known; it is PID 1, and ``env`` the instance's."""
        done = self.root.run(
            *("/busybox-lxd", "sh", "-c", SOURCE + WORDS + script, "sh", *arguments),
            env=env,
            before="for one in console tty; do : >dev/$one; mount --bind /dev/null dev/$one; done",
        )
        assert not (self.root / "canary").exists(), "something was run that is data"
        return done

    def out(self, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        done = self.sh(script, *arguments, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


SUPERVISE = PREPARED + '"$_bb" mkdir /dev/.lxd-helpers; start_log; _looking=; with_command supervise'


def supervised(
    instance: Instance,
    program: str,
    behaviour: Behaviour | None = None,
    *,
    before: str = "",
    healthcheck: Mapping[str, object] | None = None,
    times: bool = False,
) -> tuple[int, list[str]]:
    """Exit status and what is said, without what the shell says of having no terminal here.

    ``before`` is run by PID 1 first, for instance to have another clock. Without ``times``, seconds are N.
    """
    instance.root.write("/app", f"#!/busybox-lxd sh\n{program}\n", 0o755)
    instance.configure(OciConfig(cmd=("/app",), healthcheck=healthcheck), behaviour)
    shutil.rmtree(instance.root / ".lxd-log", ignore_errors=True)
    done = instance.sh(f"{before}\n{SUPERVISE}")
    log = (instance.root / ".lxd-log/current").read_text()
    started, *said = (log if times else re.sub(r"\d+(\.\d+)? s\b", "N s", log)).splitlines()
    assert started.startswith("lxdocker: started at 20")
    return done.returncode, said
