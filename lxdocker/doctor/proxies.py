"""Proxies that this environment has, and others who fetch things have not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lxdocker.builder.image import LOCAL_SERVER
from lxdocker.config import units
from lxdocker.doctor.finding import Finding
from lxdocker.doctor.subject import Subject
from lxdocker.doctor.timer import CRON
from lxdocker.files.seen import exists
from lxdocker.http import url as urls
from lxdocker.http.proxies import Proxies, shown

ENVIRONMENT = Path("/etc/lxdocker/environment")
_VARIABLE = re.compile(r"\b(https?|all)_proxy\b", re.IGNORECASE)


def in_lxd(subject: Subject) -> Iterator[Finding]:
    """LXD itself downloads the base image of the builders."""
    settings = subject.settings
    if settings.builder_from != "image" or settings.builder_server == LOCAL_SERVER:
        return
    url = urls.parse(settings.builder_server)
    proxy = Proxies.of(subject.environ).choose(url.scheme or "https", url.host or "", url.port) if url else None
    if not proxy:
        return
    server = subject.local_lxd().get(what="reading LXD's configuration")
    config = server.get("config") or {}
    if any(config.get(key) for key in ("core.proxy_https", "core.proxy_http")) or _has_one(server["environment"]):
        return
    yield Finding(
        "proxy-not-in-lxd",
        "LXD does not know the proxy of this host",
        f"here it is {shown(proxy)}; LXD downloads the builders' base image from {settings.builder_server} without",
        "lxc config set core.proxy_https URL",
    )


def _has_one(environment: Mapping[str, object]) -> bool:
    """Whether LXD's own environment names a proxy, where that can be read."""
    try:
        text = Path(f"/proc/{environment['server_pid']}/environ").read_bytes()
    except (OSError, KeyError):
        return False
    return bool(_VARIABLE.search(text.decode("utf-8", "replace")))


def in_timer(subject: Subject) -> Iterator[Finding]:
    """A timer does not have the variables of a person's shell."""
    found = Proxies.of(subject.environ)
    if not (found.http or found.https) or "INVOCATION_ID" in subject.environ:
        return  # a service's own environment is a timer's
    if units.timer():
        drop_ins = sorted((units.UNIT_FOLDER / f"{units.SYNC}.d").glob("*.conf"))
        files, where = [ENVIRONMENT, units.UNIT_FOLDER / units.SYNC, *drop_ins], str(ENVIRONMENT)
    elif exists(CRON):
        files, where = [CRON], str(CRON)
    else:
        return
    if any(os.access(file, os.R_OK) and _VARIABLE.search(file.read_text(errors="replace")) for file in files):
        return
    if any(exists(file) and not os.access(file, os.R_OK) for file in files):
        return  # which is closed to others since it may hold a login
    yield Finding(
        "proxy-not-in-timer",
        "the hourly sync does not know the proxy of this shell",
        f"here it is {shown(found.https or found.http)}",
        f"add the line https_proxy=URL to {where}",
    )
