"""appliance: lxdocker in an LXD container of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lxdocker.cli.app import (
    Application,
    ConfigOption,
    Group,
    JsonOption,
    QuietOption,
    VerboseOption,
    app,
    cancellable,
    effective_settings,
)
from lxdocker.errors import SpecError, UsageError
from lxdocker.files.seen import is_dir
from lxdocker.reasons import in_words
from lxdocker.text import counted

if TYPE_CHECKING:
    from lxdocker.appliance.build import Made, Work
    from lxdocker.appliance.look import Status
    from lxdocker.appliance.wish import Names, Repository
    from lxdocker.cli.console import Console
    from lxdocker.lxd.api import Lxd
    from lxdocker.progress import Say

# What `create` still does where there is an appliance already; other options are for one that is yet to be made.
_ALWAYS = {"--name", "--join", "--config", "--json", "--quiet", "--verbose"}

appliance_app = Application(
    cls=Group, help="Manage a container that syncs by a timer and serves the images.", no_args_is_help=True
)
app.add_typer(appliance_app, name="appliance")

NameOption = Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the appliance's container.")]
BaseOption = Annotated[
    str | None, typer.Option("--base", metavar="ALIAS", help="Base image [the setting builder_base, debian/13].")
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--base-server",
        metavar="URL|local",
        help="simplestreams server of the base image, or `local` for LXD's own images [the setting builder_server].",
    ),
]
PackageOption = Annotated[
    Path | None,
    typer.Option("--package", metavar="FILE", help="The .deb or .whl of lxdocker to install [this lxdocker]."),
]
PackagesOption = Annotated[
    Path | None,
    typer.Option(
        "--packages", metavar="DIR", help="Folder of Debian packages to install, without a network [from a mirror]."
    ),
]


@appliance_app.callback()
def _appliance(
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = 0
) -> None:
    pass


@appliance_app.command("create")
def create(
    ctx: typer.Context,
    name: NameOption = "lxdocker",
    join: Annotated[bool, typer.Option("--join", help="Make this host a client of the appliance at once.")] = False,
    specs: Annotated[
        Path | None, typer.Option("--specs", metavar="DIR", help="Folder of specs on this host [a volume].")
    ] = None,
    specs_repository: Annotated[
        str | None, typer.Option("--specs-repository", metavar="URL", help="git repository of specs [a volume].")
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help="Branch of the repository [its default].")
    ] = None,
    signed_by: Annotated[
        Path | None,
        typer.Option("--signed-by", metavar="FILE", help="Public keys (OpenPGP, or ssh's) that may sign its commits."),
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="Initial configuration file of the appliance."),
    ] = None,
    socket: Annotated[
        bool,
        typer.Option(
            "--socket", help="Reach LXD through its unix socket, which makes the appliance root on this host [HTTPS]."
        ),
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="ADDRESS:PORT", help="Serve at this address of the host, too [LXD's bridge]."),
    ] = None,
    calendar: Annotated[
        str, typer.Option("--calendar", metavar="CALENDAR", help="When to sync, as systemd's OnCalendar.")
    ] = "hourly",
    delay: Annotated[
        str, typer.Option("--delay", metavar="TIME", help="Random delay of each sync, at most.")
    ] = "15min",
    base: BaseOption = None,
    base_server: ServerOption = None,
    package: PackageOption = None,
    packages: PackagesOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Make a container that keeps images up to date and serves them.

    Run again, it continues where it was interrupted.
    """
    from lxdocker.appliance import build, host, wish

    known = effective_settings(ctx, config)
    names = wish.Names.of(name)
    repository = _repository(specs_repository, branch, signed_by)
    wanted = wish.Wish(
        names=names,
        server=base_server or known.builder_server,
        base=base or known.builder_base,
        package=package,
        packages=packages,
        socket=socket,
        specs=_folder(specs),
        repository=repository,
        settings=wish.read_settings(settings_file) if settings_file else {},
        calendar=calendar,
        delay=delay,
        listen=listen,
        more=repository.packages if repository else (),
    )
    with _working(ctx.obj.console, f"creating {name}") as (lxd, say):
        work = build.Work(lxd, known, wanted, host.find(lxd, known), say)
        made = build.create(work)
        joined = _join(work, made) if join else None
    if made.existed and (without_effect := _given(ctx) - _ALWAYS):
        options = ", ".join(sorted(without_effect))
        do = f"{names.command('delete')} keeps its volumes and images, and create then takes other options"
        ctx.obj.console.note(f"{name} stays as it is: {options} had no effect -> {do}")
    _tell_made(ctx.obj.console, names, made, joined, "is there already" if made.existed else "is ready", json)


@appliance_app.command("upgrade")
def upgrade(
    ctx: typer.Context,
    name: NameOption = "lxdocker",
    base: BaseOption = None,
    base_server: ServerOption = None,
    package: PackageOption = None,
    packages: PackagesOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Replace the container with a new one, with this lxdocker and a current base image.

    Images, keys, specs and settings stay. If the new container is not healthy, the old one is restored.
    """
    from lxdocker.appliance import build, host, wish
    from lxdocker.appliance import upgrade as upgrading

    known = effective_settings(ctx, config)
    names = wish.Names.of(name)
    with _working(ctx.obj.console, f"upgrading {name}") as (lxd, say):
        plain = wish.Wish(names, base_server or known.builder_server, base or known.builder_base, package, packages)
        wanted = build.known_wish(lxd, names, plain, base_named=bool(base or base_server))
        made = upgrading.upgrade(build.Work(lxd, known, wanted, host.find(lxd, known), say))
    _tell_made(ctx.obj.console, names, made, None, "is upgraded", json)


@appliance_app.command("status")
def status(
    ctx: typer.Context,
    name: NameOption = "lxdocker",
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show whether an appliance is healthy, its timer, address and images. Exit status 1 if it is not."""
    from lxdocker.appliance import look, wish
    from lxdocker.cli import documents

    console = ctx.obj.console
    with _working(console, f"looking at {name}") as (lxd, _):
        found = look.status(lxd, wish.Names.of(name))
    if json:
        console.json(documents.appliance(found))
    else:
        _print_status(console, found)
    raise typer.Exit(0 if found.healthy else 1)


@appliance_app.command("logs")
def logs(
    ctx: typer.Context,
    name: NameOption = "lxdocker",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10000, metavar="N", help="Number of lines.")] = 100,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show the latest output of sync and serve in an appliance."""
    from lxdocker.appliance import look, wish

    with _working(ctx.obj.console, f"asking {name}") as (lxd, _):
        said = look.logs(lxd, wish.Names.of(name), lines)
    ctx.obj.console.print(said.rstrip("\n"))


@appliance_app.command("edit")
def edit(
    ctx: typer.Context,
    files: Annotated[list[str] | None, typer.Argument(metavar="[SPEC]...", help="Specs, also new ones [all].")] = None,
    name: NameOption = "lxdocker",
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Edit an appliance's specs with your editor ($VISUAL, $EDITOR).

    Specs are checked before they are written back; the next sync uses them.
    """
    from lxdocker.appliance import edit as editing
    from lxdocker.appliance import wish
    from lxdocker.lxd.api import Lxd

    console = ctx.obj.console

    def again(error: SpecError) -> bool:
        if not console.can_ask:
            return False
        console.error(error)
        return bool(console.confirm("Edit again?", default=True))

    changed = editing.edit(Lxd(), wish.Names.of(name), files or [], again, console.note)
    for file in changed:
        console.print(f"changed {file}")
    if not changed:
        console.note("nothing has changed")


@appliance_app.command("delete")
def delete(
    ctx: typer.Context,
    name: NameOption = "lxdocker",
    purge: Annotated[bool, typer.Option("--purge", help="Delete volumes, images and keys, too.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Delete an appliance's container and revoke its certificate.

    Its volumes and images stay for the next appliance of that name.
    """
    from lxdocker.appliance import delete as deleting
    from lxdocker.appliance import wish
    from lxdocker.cli import documents

    console = ctx.obj.console
    names = wish.Names.of(name)
    with _working(console, f"deleting {name}") as (lxd, say):
        gone = deleting.delete(lxd, names, say, purge=purge)
    if json:
        console.json(documents.appliance_deleted(gone))
        return
    console.print(f"deleted {', '.join(gone.gone)}" if gone.gone else f"no appliance {name} to delete")
    for pool, volume in gone.volumes:
        console.print(f"kept    volume {volume} in the pool {pool}")
    if gone.project:
        console.print(f"kept    project {gone.project} with the images")
    if gone.volumes or gone.project:
        console.print(f"to delete these, too: {names.command('delete --purge')}")


# ---- in common


@contextlib.contextmanager
def _working(console: Console, what: str) -> Iterator[tuple[Lxd, Say]]:
    from lxdocker.lxd.api import Lxd

    with cancellable() as cancelled, console.progress() as progress, progress.step(what) as tell:

        def say(text: str) -> None:
            if text.startswith("warning: "):
                console.note(text)
            else:
                tell(text)

        yield Lxd(cancelled), say


def _given(ctx: Any) -> set[str]:
    """The options on the command line, by their long names."""
    sources = {one.opts[0]: ctx.get_parameter_source(one.name) for one in ctx.command.params}
    return {option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _folder(path: Path | None) -> Path | None:
    if path is not None and not is_dir(path):
        raise UsageError(f"no folder {path}", "", "--specs names a folder of this host")
    return path.resolve() if path else None


def _repository(url: str | None, branch: str | None, signed_by: Path | None) -> Repository | None:
    from lxdocker.appliance.wish import Repository
    from lxdocker.config.signers import Signers

    if url is None:
        if branch or signed_by:
            raise UsageError("--branch and --signed-by are about a repository", "", "add --specs-repository URL")
        return None
    try:
        signers = Signers.parse(signed_by.read_bytes(), str(signed_by)) if signed_by else None
    except OSError as error:
        raise UsageError(f"cannot read {signed_by}", in_words(error), "correct --signed-by") from error
    return Repository(url, branch, signers)


def _join(work: Work, made: Made) -> str:
    """Makes this host a client. Returns the remote's name."""
    import os

    from lxdocker.follow import client, remote

    work.say("joining")
    served, name = made.served, work.wish.names.appliance
    address = remote.Address.parse(served.reachable)
    if not served.resolves:
        work.say(f"this host does not resolve {served.name}, so the remote has the address: docs/appliance.md")
    questions = remote.Questions(lambda _: True, lambda: True)
    found = client.Client.find("lxc", os.environ)
    seen = remote.look_at(address)
    remote.add(found, name, address, replace(seen, trusted=False), served.certificate.fingerprint, questions)
    return name


def _tell_made(console: Console, names: Names, made: Made, joined: str | None, how: str, json: bool) -> None:
    from lxdocker.cli import documents

    served, name = made.served, names.appliance
    if json:
        console.json(documents.appliance_made(name, made, joined))
    else:
        console.print(f"{name} {how}: it serves at {served.url} ({served.address})")
        console.print(f"certificate SHA-256 {served.certificate.shown_fingerprint}")
        pinned = f"{name} --fingerprint {served.certificate.fingerprint}"
        if served.elsewhere:
            console.print(f"on other hosts: lxdocker remote add {served.elsewhere} {pinned}")
        else:
            console.print(
                f"on hosts that reach {served.address}: lxdocker remote add https://{served.address} {pinned}"
            )
            console.print(
                f"for others: {names.command('delete')}, then create it with --listen ADDRESS:PORT; its volumes and"
                " images stay"
            )
        if joined:
            console.print(f"on this host: lxc image copy {joined}:IMAGE local: --alias IMAGE --auto-update")
        else:
            console.print(f"to join on this host: {names.command('create --join')}")
    if not made.synced:
        raise typer.Exit(1)


def _print_status(console: Console, found: Status) -> None:
    how = "healthy" if found.healthy else found.problem or "not healthy"
    console.print(f"{found.name}: {how}")
    console.print(f"  lxdocker  {found.version or '-'}")
    if found.served:
        console.print(f"  serves    {found.served.url} ({found.served.address}){'' if found.serving else ', stopped'}")
        console.print(f"  SHA-256   {found.served.certificate.fingerprint}")
    if timer := found.timer:
        last = f"{timer.last:%Y-%m-%d %H:%M:%S} UTC" if timer.last else "never"
        following = f"{timer.next:%Y-%m-%d %H:%M:%S} UTC" if timer.next else "-"
        result = f" ({timer.result})" if timer.result else ""
        console.print(f"  timer     {timer.kind}, {'active' if timer.active else 'stopped'}")
        console.print(f"  last run  {last}{result}")
        console.print(f"  next run  {following}")
    console.print(f"  images    {counted(len(found.images), 'image')}")
    for image in found.images:
        console.print(f"    {image['name']} {image['state']} {(image['fingerprint'] or '-')[:12]}")
