"""trust: this lxdocker and the LXD of another host get to know each other."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker.cli.app import ConfigOption, JsonOption, QuietOption, VerboseOption, app, effective_settings
from lxdocker.cli.console import Console
from lxdocker.errors import HostError, UsageError
from lxdocker.http.trust import parse_fingerprint

if TYPE_CHECKING:
    from lxdocker.lxd.address import Https
    from lxdocker.lxd.identity import Token

STDIN = "-"


@app.command()
def trust(
    ctx: typer.Context,
    lxd: Annotated[
        str, typer.Argument(metavar="TOKEN|URL", help="Trust token of that LXD, - for one on stdin, or its URL.")
    ],
    token: Annotated[
        str | None, typer.Option("--token", metavar="TOKEN", help="Trust token for the LXD at URL, or - for stdin.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="SHA256", help="Fingerprint of that LXD's certificate.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Trust the LXD of another host, and have it trust this lxdocker, for --remote.

    On that host, 'lxc config trust add --name NAME' prints a token; with --restricted --projects NAME, it is valid
    for these projects only.
    """
    settings = effective_settings(ctx, config)
    from lxdocker.lxd import identity
    from lxdocker.lxd.daemon import parse_url

    assert settings.client_dir is not None  # noqa: S101 - for the type checker: load() always gives one
    folder = settings.client_dir
    own = identity.ensure_own(folder)
    given = _token(lxd if token is None and "://" not in lxd else token)
    address = parse_url(lxd, folder) if "://" in lxd else identity.find(given, folder) if given else None
    if address is None:
        raise UsageError(f"not a URL: {lxd[:100]}", "", "with --token, pass a URL such as https://HOST:8443")
    certificate, shown = identity.shown_by(address)
    _check(ctx.obj.console, address, shown, fingerprint or (given.fingerprint if given else None))
    identity.pin(address, certificate)
    if given:
        identity.introduce(address, given)
    _tell(ctx.obj.console, address, shown, own, json=json)


def _token(text: str | None) -> Token | None:
    from lxdocker.lxd.identity import Token

    if text is None:
        return None
    return Token.parse(sys.stdin.readline() if text == STDIN else text)


def _check(console: Console, address: Https, shown: str, expected: str | None) -> None:
    """That the certificate shown is the right one: as expected, or as a person says. Raises UsageError."""
    if expected:
        try:
            wanted = parse_fingerprint(expected)
        except ValueError as error:
            raise UsageError("--fingerprint is none", str(error), "'lxc info' on that host shows it") from None
        if shown != wanted:
            why = f"its certificate's SHA-256 fingerprint is {shown}, not {wanted}"
            raise HostError(f"another server answers at {address}", why, "see who listens there")
        return
    console.note(f"{address} shows a certificate with the SHA-256 fingerprint {shown}")
    if not console.can_ask:
        raise UsageError(
            "cannot ask for confirmation",
            "stdin is not a terminal",
            "pass --fingerprint with what 'lxc info' shows on that host, or a token",
        )
    if not console.confirm("Is it what 'lxc info' shows on that host?"):
        raise UsageError(f"{address} is not trusted", "", "pass a token, or --fingerprint")


def _tell(console: Console, address: Https, shown: str, own: Path, *, json: bool) -> None:
    """Whether that LXD trusts this one now, and what to do next."""
    from lxdocker.lxd.address import token_command
    from lxdocker.lxd.api import Lxd
    from lxdocker.lxd.daemon import Daemon

    try:
        known = str(Lxd(daemon=replace(Daemon.lxd(os.environ), address=address)).dialect)
    except HostError:
        known = None
    if json:
        from lxdocker.cli import documents

        console.json(documents.trusted(str(address), shown, own, trusted=known is not None))
        return
    if known:
        console.print(f"trusted {known} at {address}; it trusts this lxdocker")
        console.print(f"use it with --remote {address}, or with this line in the configuration: lxd: {address}")
    else:
        console.print(f"trusted {address}; it does not trust this lxdocker yet")
        console.print(f"on that host: {token_command()}")
        console.print(f"then here:    lxdocker trust {address} --token TOKEN")
