"""Images with an init of their own, which has to be PID 1, known by their entrypoint."""

from __future__ import annotations

import posixpath

from lxdocker.config.spec import Supervision
from lxdocker.source.oci import OciConfig

# s6-overlay's /init says "can only run as pid 1" and ends; the others take themselves for a tool that talks to PID 1.
# tini, dumb-init and the like are none of these: they run anywhere, and know nothing of the signals that LXD sends.
_PATHS = frozenset({"/init", "/sbin/init", "/usr/sbin/init", "/bin/init", "/usr/bin/init", "init"})
_NAMES = frozenset({"systemd", "s6-svscan", "s6-linux-init", "openrc-init", "runit-init", "runit"})


def own_init(config: OciConfig) -> str | None:
    """The image's init, as its entrypoint calls it; None where the entrypoint is an application."""
    program = posixpath.normpath(config.argv[0]) if config.argv else ""
    return program if program in _PATHS or posixpath.basename(program) in _NAMES else None


def is_supervised(config: OciConfig, disable_supervisor: Supervision) -> bool:
    """Whether lxdocker's PID 1 stays and supervises the image's command."""
    return own_init(config) is None if disable_supervisor == "auto" else not disable_supervisor
