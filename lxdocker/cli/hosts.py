"""serve, remote add, mirror: images for other hosts, and from them."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from lxdocker.cli.app import (
    ConfigOption,
    JsonOption,
    QuietOption,
    TreeOption,
    VerboseOption,
    app,
    cancellable,
    effective_settings,
    remote_app,
)
from lxdocker.cli.console import Console
from lxdocker.cli.events import Hooks
from lxdocker.config.settings import Settings
from lxdocker.errors import UsageError
from lxdocker.reasons import in_words
from lxdocker.text import counted

if TYPE_CHECKING:
    from lxdocker.tree import server as mirrored_server  # which loads what few commands need


@app.command()
def serve(
    ctx: typer.Context,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDRESS:PORT", help="Address to listen on [:8444].")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="Additional name of this host for the certificate that lxdocker creates."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Your own certificate, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, PEM.")] = None,
    tls_dir: Annotated[
        Path | None, typer.Option("--tls-dir", metavar="DIR", help="Folder of the certificate that lxdocker creates.")
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option("--users", metavar="FILE", help="htpasswd file (bcrypt) of users allowed to read [anyone]."),
    ] = None,
    stop_timeout: Annotated[
        int | None,
        typer.Option(
            "--stop-timeout", metavar="SECONDS", help="Seconds to wait for downloads in progress when stopping [60]."
        ),
    ] = None,
    config: ConfigOption = None,
    tree: TreeOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Serve the published images to other hosts over HTTPS.

    Prints the command for other hosts; with -v, also those for hosts without lxdocker.
    """
    settings = effective_settings(
        ctx,
        config,
        tree=tree,
        listen=listen,
        tls_names=name,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_dir=tls_dir,
        users=users,
        stop_timeout=stop_timeout,
    )
    from lxdocker.serve.run import serve as run_server

    console = ctx.obj.console
    run_server(settings, console.print, console.note, verbose=bool(verbose))


@remote_app.command("add")
def remote_add(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the server: https://[USER@]HOST:PORT.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the remote.")] = "lxdocker",
    client: Annotated[
        str | None, typer.Option("--client", metavar="lxc|incus", help="Client to configure [whichever is installed].")
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="HEX", help="Expected SHA-256 fingerprint of its certificate."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Trust any certificate that the server shows.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Add an image server to this host's LXD or Incus.

    Shows its certificate first, and asks for confirmation.
    """
    from lxdocker.follow import client as clients
    from lxdocker.follow import remote

    console = ctx.obj.console

    def is_right(seen: remote.Seen) -> bool:
        console.note(f"the certificate of {url_shown} is not signed by an authority known to this host:")
        console.note(f"  SHA-256 {seen.certificate.shown_fingerprint}")
        console.note(f"  for {', '.join(seen.certificate.names[:8])}, valid until {seen.certificate.ends:%Y-%m-%d}")
        if yes:
            return True
        if not _has_terminal():
            raise UsageError(
                "cannot ask for confirmation",
                "stdin is not a terminal",
                "compare the fingerprint, then pass it with --fingerprint",
            )
        return typer.confirm("Does this match the fingerprint shown by lxdocker serve?", err=True)

    def may_register() -> bool:
        # --fingerprint or --yes counts as consent.
        if yes or (expected and not _has_terminal()):
            return True
        if not _has_terminal():
            raise UsageError(
                "cannot ask for confirmation", "stdin is not a terminal", "pass --yes to create the image registry"
            )
        return typer.confirm(f"Add {url_shown} to LXD as the image registry {name}, for all its users?", err=True)

    remote.check_name(name)
    expected = remote.parse_fingerprint(fingerprint) if fingerprint else None
    address = remote.Address.parse(url)
    url_shown = address.url
    found = clients.Client.find(client, os.environ)
    with console.progress() as progress, progress.step(f"asking {address.url}"):
        seen = remote.look_at(address)
    if address.user is not None and address.password is None:
        address = replace(address, password=_password(address.user))
    added = remote.add(found, name, address, seen, expected, remote.Questions(is_right, may_register))
    if json:
        from lxdocker.cli import documents

        console.json(documents.remote_added(added))
        return
    summary = f"remote {added.name} ({added.url}, {counted(added.images, 'image')})"
    also = " and as an image registry to LXD" if added.registry else ""
    console.print(f"{summary} is up to date" if added.existed else f"added {summary} to {added.client}{also}")
    console.print(f"try: {added.client} image list {added.name}:")


def _password(user: str) -> str:
    """Prompts on a terminal; otherwise reads a line of stdin."""
    if _has_terminal():
        return str(typer.prompt(f"Password of {user}", hide_input=True, err=True))
    password = sys.stdin.readline().rstrip("\n") if sys.stdin else ""
    try:
        password.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the password of {user} cannot be used", "stdin is not UTF-8 text", "pass it as UTF-8"
        ) from None
    return password


def _has_terminal() -> bool:
    """Whether there may be a person to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


@app.command()
def mirror(
    ctx: typer.Context,
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="The other server, such as https://HOST:8444; with --import also a remote: NAME:"
        ),
    ],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DIR|NAME]...", help="Folder to copy its tree to; with --import, images to import [all]."
        ),
    ] = None,
    into_store: Annotated[
        bool,
        typer.Option("--import", help="Import its images into this host's LXD or Incus instead of copying its tree."),
    ] = False,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="HEX", help="Expected SHA-256 fingerprint of its certificate."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="Certificate authorities to trust, PEM.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain HTTP to hosts other than loopback.")
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", metavar="FILE", help="File whose first line is the password of the user in the URL."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Number of images to copy in parallel.")
    ] = None,
    client: Annotated[
        str | None,
        typer.Option("--client", metavar="lxc|incus", help="With --import: LXD or Incus [whichever is running]."),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="With --import: project of the images [default].")
    ] = None,
    import_dir: Annotated[
        Path | None,
        typer.Option(
            "--import-dir", metavar="DIR", help="With --import: folder for downloads [/var/lib/lxdocker/import]."
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Copy another server's tree, or import its images. Run it again to continue or to update."""
    from lxdocker.tree.server import ServerOptions

    options = ServerOptions(fingerprint, ca, insecure)
    if into_store:
        if jobs is not None:
            raise UsageError("--jobs does not apply to --import", "images are imported one at a time", "omit it")
        settings = effective_settings(ctx, config, project=project, import_dir=import_dir)
        hooks = Hooks(ctx, settings, "mirror --import")
        _import(ctx.obj.console, url, rest or [], options, password_file, client, settings, hooks, json=json)
    for option, value in {"--client": client, "--project": project, "--import-dir": import_dir}.items():
        if value is not None:
            raise UsageError(
                f"{option} applies only to --import", "a tree is copied to a folder", "omit it, or add --import"
            )
    if len(rest or []) != 1:
        raise UsageError(
            "mirror needs one folder to copy the tree to",
            f"{len(rest or [])} given",
            "lxdocker mirror URL DIR; to import images: lxdocker mirror --import URL [NAME...]",
        )
    settings = effective_settings(ctx, config, tree=Path((rest or [])[0]), jobs=jobs)
    _copy(ctx.obj.console, url, replace(options, jobs=settings.jobs), password_file, settings, json=json)


def _copy(
    console: Console,
    url: str,
    options: mirrored_server.ServerOptions,
    password_file: Path | None,
    settings: Settings,
    *,
    json: bool,
) -> NoReturn:
    from lxdocker.cli import report
    from lxdocker.tree import last_sync
    from lxdocker.tree.mirror import mirror as run_mirror
    from lxdocker.tree.tree import Tree

    full = _with_password(url, password_file)
    with cancellable() as cancelled, console.progress() as progress, progress.step("copying the tree"):
        tree, grace = Tree(settings.tree), settings.grace_hours * 3600
        with last_sync.of_mirror(settings.tree) as record:
            result = run_mirror(full, tree, options, grace, progress, console.note, cancelled)
            record([failure.name.value for failure in result.failed])
    report.print_mirrored(console, result, json=json)
    raise typer.Exit(1 if result.failed else 0)


def _import(
    console: Console,
    url: str,
    names: list[str],
    options: mirrored_server.ServerOptions,
    password_file: Path | None,
    client: str | None,
    settings: Settings,
    hooks: Hooks,
    *,
    json: bool,
) -> NoReturn:
    from lxdocker.cli import report
    from lxdocker.follow import upstream
    from lxdocker.follow.client import Client
    from lxdocker.follow.run import follow
    from lxdocker.lxd.api import Lxd
    from lxdocker.lxd.daemon import Daemon

    daemon = Daemon.find(client, os.environ)
    if remote := upstream.remote_named(url):
        if password_file:
            raise UsageError(
                "--password-file applies only to a URL with a user",
                f"{daemon.client} stores the login of {url}",
                "omit it, or pass the URL",
            )
        known = Client.find(daemon.client, os.environ)
        source = upstream.Upstream.of_remote(remote, known)
        if options.fingerprint or options.ca:
            source = upstream.Upstream.at(source.url, options)
    elif upstream.remote_named(f"{url}:"):
        raise UsageError(f"not a URL: {url}", "", f"pass one such as https://HOST:8444, or a remote's name: {url}:")
    else:
        source = upstream.Upstream.at(_with_password(url, password_file), options)
    with cancellable() as cancelled, console.progress() as progress, progress.step("importing images"):
        assert settings.import_dir is not None  # noqa: S101 - for the type checker: load() always gives one
        lxd = Lxd(cancelled, daemon)
        result = follow(source, lxd, settings.project, names, settings.import_dir, progress, console.note)
    try:
        report.print_followed(console, result, json=json)
    finally:
        hooks.imported(result)
    raise typer.Exit(1 if result.failed else 0)


def _with_password(url: str, file: Path | None) -> str:
    """The URL with its user's password."""
    from lxdocker.follow import upstream

    user = upstream.user_without_password(url)
    if user is None:
        if file:
            raise UsageError(
                "--password-file needs a user", "the URL has no user without a password", "https://NAME@HOST:8444"
            )
        return url
    if file is None:
        password = _password(user)
    else:
        try:
            password = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot read the password in {file}", in_words(error), "put the password in the file's first line"
            ) from error
    if not password:
        raise UsageError(
            f"no password for {user}",
            f"the first line of {file or 'stdin'} is empty",
            "--password-file FILE, with the password as its first line",
        )
    return upstream.with_password(url, password)
