"""Running a hook, whatever it is."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from lxdocker.errors import LxdockerError

_URL = re.compile(r"\s*https?://", re.IGNORECASE)


def is_url(hook: str) -> bool:
    """Whether a hook is a URL, not a command."""
    return _URL.match(hook) is not None


def run(hook: str, document: Mapping[str, Any], timeout: float, environ: Mapping[str, str]) -> LxdockerError | None:
    """Gives ``document`` to a hook: as JSON on the stdin of a command, or in a POST to a URL.

    Returns the failure, within little more than ``timeout`` seconds; a hook never fails the run it tells of.
    """
    content = json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
    try:
        if is_url(hook):
            from lxdocker.hooks.post import post  # loads the HTTP client, which no command needs

            post(hook.strip(), content, timeout)
        else:
            from lxdocker.hooks.command import run as run_command

            run_command(hook, content, timeout, environ)
    except LxdockerError as error:
        return error
    return None


def shown(hook: str) -> str:
    """A hook for people, without what may be secret in it: the server, or the program."""
    if is_url(hook):
        from lxdocker.http import url as urls

        parsed = urls.parse(hook.strip())
        return f"{parsed.scheme}://{parsed._replace(auth=None).netloc}/..." if parsed else "an invalid URL"
    return shlex.split(hook)[0]
