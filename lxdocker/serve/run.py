"""Starts the server, if what only it needs is installed."""

from __future__ import annotations

from collections.abc import Callable

from lxdocker.config.settings import Settings
from lxdocker.errors import UsageError


def serve(
    settings: Settings, ready: Callable[[str], None], say: Callable[[str], None], *, verbose: bool = False
) -> None:
    """As ``server.serve``. Raises UsageError where a package of the extra ``serve`` is missing."""
    try:
        from lxdocker.serve import server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lxdocker"):
            raise
        raise UsageError(
            "lxdocker serve needs packages that are not installed",
            f"no module named {error.name}",
            "install them with the extra serve: pip install 'lxdocker[serve]', or pip install '.[serve]' in a checkout",
        ) from error
    server.serve(settings, ready, say, verbose=verbose)
