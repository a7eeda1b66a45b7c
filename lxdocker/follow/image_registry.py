"""An image server as an image registry of LXD, which LXD 6.10 and later have in place of downloads from any URL.

A registry is the daemon's, a remote the client's. ``lxc image copy NAME:x`` and ``lxc launch NAME:x`` go by the
registry of the remote's name. The daemon checks the server's certificate against the system's authorities, which it
reads when it starts, and takes no login. https://documentation.ubuntu.com/lxd/latest/api-extensions/#image-registries
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

from lxdocker.errors import LxdockerError, UsageError
from lxdocker.follow.client import Client
from lxdocker.lxd.dialect import register_command

PATH = "/1.0/image-registries"


@contextmanager
def registered(client: Client, name: str, url: str, agree: Callable[[], bool]) -> Iterator[bool]:
    """Adds the server ``url`` to LXD as ``name``. Yields whether that is new; if so, it is undone if the block fails.
    ``agree`` is asked before anything is changed. Raises LxdockerError.
    """
    made = _make(client, name, url, agree)
    try:
        yield made
    except BaseException:
        if made:
            with suppress(LxdockerError):
                client.query("DELETE", f"{PATH}/{quote(name, safe='')}")
        raise


def _make(client: Client, name: str, url: str, agree: Callable[[], bool]) -> bool:
    known = {registry["name"]: registry for registry in client.query("GET", f"{PATH}?recursion=1") or []}
    if name in known:
        address = str(known[name]["config"].get("url", ""))
        if address.rstrip("/") != url.rstrip("/") or known[name]["protocol"] != "simplestreams":
            raise UsageError(
                f"LXD already has an image registry {name}",
                address,
                f"choose another name, or delete it: lxc image registry delete {name}",
            )
        return False
    if not agree():
        raise UsageError("nothing was changed", f"the image registry {name} was declined")
    body = {"name": name, "protocol": "simplestreams", "description": "lxdocker", "config": {"url": url}}
    try:
        client.query("POST", PATH, body)
    except LxdockerError as error:
        raise LxdockerError(
            f"cannot add the image registry {name} to LXD",
            error.details,
            f"ask an administrator of this LXD to run: {register_command(name, url)}",
        ) from error
    return True


def count_images(client: Client, name: str) -> int:
    """The number of images that the daemon itself finds there. Raises LxdockerError if it cannot look."""
    return len(client.query("GET", f"{PATH}/{quote(name, safe='')}/images"))
