"""The registries of the specs, as a builder reaches them: by skopeo, with the way, the proxies and the authorities that
a build would be given. One builder for all, and one command in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from lxdocker.builder import image
from lxdocker.builder.instance import Builder, Workshop
from lxdocker.builder.recipe import BUSYBOX, CONNECTED, NOT_CONNECTED, files_of_names, files_of_trust
from lxdocker.doctor.asking import Asked
from lxdocker.doctor.builders import foreign_architecture
from lxdocker.doctor.finding import Finding, NotExamined
from lxdocker.doctor.subject import Subject
from lxdocker.errors import BuildError
from lxdocker.http.proxies import Proxies
from lxdocker.http.proxies import parse as parse_proxy
from lxdocker.http.route import Route
from lxdocker.http.trust import Trust
from lxdocker.log import FileText
from lxdocker.runtime import render
from lxdocker.source import skopeo
from lxdocker.source.site import Site
from lxdocker.text import one_line
from lxdocker.values import Digest, RegistryRef, split_host

LOOK = Path(__file__).with_name("look.sh")
LEASE_SECONDS = 6  # that a builder's network may take
LOOK_SECONDS = 6  # that a registry's answer may take
NOBODY = Digest("sha256:" + "0" * 64)  # of no image
FOLDER = PurePath("/run/doctor")
UNANSWERED, UNRESOLVED = 143, 144  # look.sh's statuses
RECEIVE = 'cd / && (umask 077 && /bin/busybox tar -xf -) && exec "$@"'
# What skopeo says, and what that means.
_DNS = re.compile(r"no such host|server misbehaving|lookup .*: (i/o timeout|.*connection refused)", re.IGNORECASE)
_AUTHORITY = re.compile(r"x509:|certificate signed by unknown authority", re.IGNORECASE)
_ROUTE = re.compile(
    r"dial tcp|i/o timeout|connection refused|network is unreachable|no route to host|proxyconnect|deadline exceeded",
    re.IGNORECASE,
)


def reach(subject: Subject) -> Iterator[Finding]:
    """Whether a builder gets an address, resolves names, and reaches and trusts what this host reaches and trusts."""
    lxd, settings = subject.lxd(), subject.settings
    registries = subject.asked()
    # To one on this host's loopback it is LXD that leads, not the network.
    asked = [one for one in registries.asked if one.answer is not None and not one.ref.is_loopback]
    if not asked:
        return
    found = image.find(lxd, settings.builder_project)
    if found is None or foreign_architecture(subject, found):
        raise NotExamined("there is no builder image that could be started")
    routes = [registries.client.route(one.ref) for one in asked]
    workshop = Workshop(lxd, subject.placement(), found.fingerprint)
    try:
        with workshop.builder(_merged(routes), cache=False) as builder:
            yield from _look(builder, asked, routes)
    except BuildError as error:
        yield Finding.of("builder-without-network" if "no network" in error.brief else "builder-route", error)
    finally:
        workshop.close()


def _merged(routes: list[Route]) -> Route:
    """The way to all of them."""
    return Route(
        network=any(route.network for route in routes),
        local=tuple(dict.fromkeys(address for route in routes for address in route.local)),
        names=tuple(dict.fromkeys(name for route in routes for name in route.names)),
    )


def _look(builder: Builder, asked: list[Asked], routes: list[Route]) -> Iterator[Finding]:
    argv = [
        *(BUSYBOX, "sh", "-c", RECEIVE, "look"),
        *(BUSYBOX, "sh", "-c", FileText.of(CONNECTED), "connected", str(LEASE_SECONDS), builder.way),
        *(BUSYBOX, "sh", "-c", FileText.of(LOOK), "look", str(LOOK_SECONDS)),
    ]
    what = "looking around in a builder"
    done = builder.try_run(argv, what=what, seconds=LEASE_SECONDS + LOOK_SECONDS + 8, stdin=_given(asked, routes))
    if done.status == NOT_CONNECTED:
        raise builder.missing_connection()
    if done.status != 0:
        raise NotExamined(f"{what} failed: {one_line(done.stderr, 300)}")
    for number, status, said in re.findall(r"^registry (\d{1,4}) (\d{1,3})\n((?: .*\n)*)", done.stdout, re.MULTILINE):
        if int(number) < len(asked):
            yield from explained(asked[int(number)].ref.registry, int(status), one_line(said, 600))


def explained(registry: str, status: int, said: str) -> Iterator[Finding]:
    """What skopeo's words in a builder mean. Anything but a failure to get there is fine: the image does not exist."""
    reason = re.sub(r'^.*?msg="?', "", said).strip(' "') or f"no answer within {LOOK_SECONDS} s"
    what = f"builders can't reach {registry}, although this host can"
    if status == UNRESOLVED or _DNS.search(said):
        yield Finding(
            "builder-dns",
            f"builders can't resolve the name of {registry}",
            reason,
            "see that LXD's dnsmasq answers (a firewall: accept port 53 from the bridge) and has a DNS server to ask",
        )
    elif _AUTHORITY.search(said):
        yield Finding(
            "builder-authority",
            f"builders don't trust {registry}, although this host does",
            reason,
            "install its authority as a plain PEM file: /usr/local/share/ca-certificates/NAME.crt, then"
            " update-ca-certificates",
        )
    elif status == UNANSWERED or _ROUTE.search(said):
        yield Finding(
            "builder-route",
            what,
            reason,
            "check the bridge's NAT, this host's firewall and routes; behind a proxy, see that the bridge may use it",
        )


def _given(asked: list[Asked], routes: list[Route]) -> bytes:
    """What look.sh needs, as a tar to be unpacked in /."""
    files: dict[PurePath, bytes] = {}
    for number, (one, route) in enumerate(zip(asked, routes, strict=True)):
        folder = FOLDER / str(number)
        variables, kept = files_of_trust(route, folder / "certs")
        files |= kept
        arguments = ["inspect", "--raw", "--no-creds"]
        arguments += ["--cert-dir", str(folder / "certs")] if route.certificates else []
        arguments += [] if route.verify else ["--tls-verify=false"]
        arguments.append(skopeo.source_name(one.ref, NOBODY))
        files[folder / "arguments"] = _lines(arguments)
        files[folder / "environment"] = _lines(f"{name}={value}" for name, value in variables.items())
        files[folder / "host"] = _lines([_host(one.ref, os.environ)])
    files |= files_of_names(_merged(routes))
    return render.tar([(str(path.relative_to("/")), content, 0o600) for path, content in files.items()], 0)


def _host(ref: RegistryRef, environ: Mapping[str, str]) -> str:
    """The name that a builder has to resolve: the registry's, or its proxy's."""
    host, port = split_host(Site(ref.registry, Trust()).host)
    proxy = Proxies.of(environ).choose("https", host, port)
    url = parse_proxy(proxy) if proxy else None
    return url.host or "" if url else host.strip("[]")


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
