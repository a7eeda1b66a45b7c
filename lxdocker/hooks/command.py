"""A hook that is a command, with the document on its stdin."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

from lxdocker import program
from lxdocker.errors import LxdockerError
from lxdocker.log import RUN
from lxdocker.reasons import in_words
from lxdocker.text import one_line

# All that a hook gets of lxdocker's environment. Others may hold logins: LXDOCKER_*, REGISTRY_AUTH_FILE, proxies.
PASSED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"}
    | {"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "LXD_DIR", "LXD_CONF", "INCUS_DIR", "INCUS_SOCKET", "INCUS_CONF"}
)
_SHOWN_BYTES = 2000  # of the end of its output


def run(command: str, document: bytes, timeout: float, environ: Mapping[str, str]) -> None:
    """Runs ``command``, which is split into words as a shell would, but not run by one, in the folder /.

    Its output goes nowhere unless it fails. Raises LxdockerError for another exit status than 0, for a command that
    can't be started, and for one that runs longer than ``timeout`` seconds: it is ended, with all that it started.
    """
    argv = shlex.split(command)
    shown = one_line(argv[0], 200)  # the arguments may hold secrets
    RUN.info("hook: %s", shown)
    # Files instead of pipes: a pipe would keep us waiting for what the command leaves running in the background.
    with os.fdopen(os.memfd_create("document"), "w+b") as given, _output() as output:
        given.write(document)
        given.seek(0)
        try:
            process = subprocess.Popen(
                argv,
                stdin=given,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={name: value for name, value in environ.items() if name in PASSED or name.startswith("LC_")},
                start_new_session=True,
            )
        except OSError as error:
            why = error.strerror or in_words(error)
            raise LxdockerError(f"cannot run {shown}", why, "give the command's whole path") from error
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            program.end(process)
            raise LxdockerError(
                f"{shown} was stopped", f"it ran longer than {timeout:g} s", "make it quicker, or raise hook_timeout"
            ) from None
        except BaseException:
            program.end(process)
            raise
        if status:
            why = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            output.seek(max(0, output.seek(0, os.SEEK_END) - _SHOWN_BYTES))
            said = output.read().decode(errors="replace").strip()
            raise LxdockerError(f"{shown} failed", "\n".join(filter(None, (why, said))))


def _output() -> BinaryIO:
    """Where a hook's output goes: nowhere if no disk has room for a file, of which the hook may be to tell."""
    try:
        return cast("BinaryIO", tempfile.TemporaryFile())
    except OSError:
        return Path(os.devnull).open("w+b")
