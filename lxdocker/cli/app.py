"""The command line. The only place that prints results or exits."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from lxdocker import __version__
from lxdocker.console import Console, OutputError, error_document
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.settings import Settings, load

INTERRUPTED = 130  # as a shell reports a program ended by SIGINT

app = typer.Typer(
    name="lxdocker",
    help="Docker/OCI images as LXD images: a folder of specs kept true, and published for other hosts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
builder_app = typer.Typer(help="The image that ephemeral builders start from.", no_args_is_help=True)
app.add_typer(builder_app, name="builder")
remote_app = typer.Typer(help="Image servers that this host is a client of.", no_args_is_help=True)
app.add_typer(remote_app, name="remote")
publish_app = typer.Typer(help="The published tree.", no_args_is_help=True)
app.add_typer(publish_app, name="publish")

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration file.")]
SpecsOption = Annotated[
    Path | None,
    typer.Option("--specs", metavar="DIR", help="Folder of specs [./images.d, else /etc/lxdocker/images.d]."),
]
TreeOption = Annotated[
    Path | None,
    typer.Option("--tree", metavar="DIR", help="Folder of the simplestreams tree [/var/lib/lxdocker/tree]."),
]
ProjectOption = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help="LXD project the images go to [default].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
InsecureOption = Annotated[
    list[str] | None,
    typer.Option("--insecure-registry", metavar="HOST:PORT", help="Registry that may be asked by plain http."),
]
JobsOption = Annotated[int | None, typer.Option("--jobs", metavar="N", help="Images built side by side.")]
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Specs; all if none is named.")]


@app.callback(invoke_without_command=True)
def _global(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        Console().print(f"lxdocker {__version__}")
        raise typer.Exit


@app.command()
def sync(
    names: NamesArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even what is up to date.")] = False,
    keep_builder: Annotated[
        bool,
        typer.Option("--keep-builder", help="Leave the builder of a failed build running, to look around in."),
    ] = False,
    jobs: JobsOption = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    insecure_registry: InsecureOption = None,
    json: JsonOption = False,
) -> None:
    """Make every spec true: resolve, build what changed, import, publish."""
    settings = _settings(config, specs, tree, project, insecure_registries=insecure_registry, jobs=jobs)
    from lxdocker import report
    from lxdocker.context import open_context
    from lxdocker.plan import refuse_to_empty
    from lxdocker.spec import load_specs, select
    from lxdocker.sync import Options, make_plan
    from lxdocker.sync import sync as run_sync

    console = Console()
    every = load_specs(settings.specs)
    chosen = select(every, names or [])
    whole = not names
    with _cancellable() as cancelled, open_context(settings, cancelled) as context:
        if dry_run:
            _, actions, removals = make_plan(context, chosen, whole=whole, force=force)
            refuse_to_empty(chosen, removals, settings)
            report.print_plan(console, actions, removals, json=json)
            raise typer.Exit(report.plan_status(actions))
        with console.progress() as progress:
            result = run_sync(context, chosen, Options(force, keep_builder), progress, console.note, whole=whole)
    report.print_sync(console, result, json=json)
    raise typer.Exit(1 if result.failed else 0)


@app.command()
def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Specs; all if none is named.")] = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Check specs, and name every mistake in them. Asks neither LXD nor a registry."""
    settings = _settings(config, specs, tree, project)
    from lxdocker import report
    from lxdocker.spec import load_files, load_specs

    found = load_files(files) if files else load_specs(settings.specs)
    report.print_specs(Console(), found, json=json)


@app.command()
def status(
    names: NamesArgument = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    insecure_registry: InsecureOption = None,
    json: JsonOption = False,
) -> None:
    """Show each image: source, digest, fingerprint, when built, up to date or why not."""
    settings = _settings(config, specs, tree, project, insecure_registries=insecure_registry)
    from lxdocker import report
    from lxdocker.context import open_context
    from lxdocker.spec import load_specs, select
    from lxdocker.sync import make_plan

    chosen = select(load_specs(settings.specs), names or [])
    with _cancellable() as cancelled, open_context(settings, cancelled) as context:
        holdings, actions, removals = make_plan(context, chosen, whole=not names, force=False)
    report.print_status(Console(), actions, removals, holdings, json=json)


@app.command()
def prune(
    everything: Annotated[
        bool, typer.Option("--all", help="Remove every image of this folder of specs, also those that a spec names.")
    ] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Remove what no spec names any more, surplus versions, and layers nobody needs."""
    settings = _settings(config, specs, tree, project)
    from lxdocker import report
    from lxdocker.context import open_context
    from lxdocker.prune import prune_all
    from lxdocker.spec import load_specs

    console = Console()
    every = None if everything else load_specs(settings.specs)
    with _cancellable() as cancelled, open_context(settings, cancelled) as context:
        result = prune_all(context, every, console.note)
    report.print_sync(console, result, json=json)
    raise typer.Exit(1 if result.failed else 0)


@builder_app.command("build")
def builder_build(
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="image|mmdebstrap", help="A base image's container, or packages fetched here."),
    ] = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Make the builder image, in the place of the one there is."""
    settings = _settings(config, specs, tree, project, builder_from=source)
    from lxdocker import report
    from lxdocker.builder import image, instance
    from lxdocker.lxd import Lxd

    console = Console()
    with _cancellable() as cancelled:
        lxd = Lxd(cancelled)
        instance.sweep(lxd, settings.builder_project, console.note)
        made = image.build(lxd, settings, lambda text: console.note(f"builder: {text}"))
    report.print_builder(console, made, settings, json=json)


@builder_app.command("show")
def builder_show(
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the builder image holds, when it was made and from what."""
    settings = _settings(config, specs, tree, project)
    from lxdocker import report
    from lxdocker.builder import image
    from lxdocker.lxd import Lxd

    found = image.find(Lxd(), settings.builder_project)
    if found is None:
        raise LxdockerError(
            "there is no builder image",
            f"LXD's project {settings.builder_project} has none",
            "lxdocker builder build makes it; so does sync when it needs one",
        )
    report.print_builder(Console(), found, settings, json=json)


@builder_app.command("delete")
def builder_delete(
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Delete the builder image; the next sync makes a new one."""
    settings = _settings(config, specs, tree, project)
    from lxdocker.builder import image
    from lxdocker.lxd import Lxd

    console = Console()
    gone = image.delete(Lxd(), settings.builder_project)
    if json:
        console.json({"deleted": gone.fingerprint.value if gone else None})
    else:
        console.print(f"deleted builder image {gone.fingerprint.short}" if gone else "there is no builder image")


@publish_app.command("verify")
def publish_verify(
    deep: Annotated[bool, typer.Option("--deep", help="Read every file, and compare its hash.")] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Withdraw what is damaged, and write the index anew. Deletes nothing."),
    ] = False,
    jobs: JobsOption = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    json: JsonOption = False,
) -> None:
    """Check that everything listed is there, as it was published, and that nothing else lies around."""
    settings = _settings(config, specs, tree, None, jobs=jobs)
    from lxdocker import report
    from lxdocker.publish import Tree
    from lxdocker.verify import verify

    console = Console()
    with _cancellable() as cancelled, console.progress() as progress:
        found = verify(
            Tree(settings.tree),
            deep=deep,
            repair=repair,
            jobs=settings.jobs,
            progress=progress,
            say=console.note,
            cancelled=cancelled,
        )
    report.print_verified(console, found, settings.tree, json=json)
    raise typer.Exit(0 if found.clean else 1)


@publish_app.command("rollback")
def publish_rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="The version to go back to; the one before if none is named."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Publish again what was rolled back.")] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    json: JsonOption = False,
) -> None:
    """Make an older version current again; clients follow. It stays so until the image is really another one."""
    settings = _settings(config, specs, tree, None)
    from lxdocker import report
    from lxdocker.publish import Tree
    from lxdocker.values import ImageName

    if undo and version:
        raise UsageError("--undo takes no version", "", "give one or the other")
    try:
        image = ImageName.parse(name)
    except ValueError as error:
        raise UsageError("there is no such image", str(error), "lxdocker status names them") from None
    console = Console()
    published = Tree(settings.tree)
    with _cancellable() as cancelled, published.lock(console.note, cancelled):
        if undo:
            undone = published.undo_rollback(image)
            listed = [one for one in published.versions() if one.name == image and one.withdrawn is None]
        else:
            done = published.rollback(image, version)
    if undo:
        report.print_undone(console, undone, listed, json=json)
    else:
        report.print_rollback(console, done, json=json)


@app.command()
def serve(
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDRESS:PORT", help="Where to listen [:8444].")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="What clients call this host, for the certificate made here."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="A certificate of your own, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, PEM.")] = None,
    tls_dir: Annotated[
        Path | None, typer.Option("--tls-dir", metavar="DIR", help="Where the certificate made here is kept.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option("--users", metavar="FILE", help="Who may read, as htpasswd -B writes it [everybody].")
    ] = None,
    stop_timeout: Annotated[
        int | None, typer.Option("--stop-timeout", metavar="SECONDS", help="For running downloads, at the end [60].")
    ] = None,
    config: ConfigOption = None,
    tree: TreeOption = None,
) -> None:
    """Give the published tree to other hosts, over HTTPS, and say what to type there."""
    settings = _settings(
        config,
        None,
        tree,
        None,
        listen=listen,
        tls_names=name,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_dir=tls_dir,
        users=users,
        stop_timeout=stop_timeout,
    )
    from lxdocker.serve.server import serve as run_server

    console = Console()
    run_server(settings, console.print, console.note)


@remote_app.command("add")
def remote_add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Its address: https://[USER@]HOST:PORT.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it here.")] = "lxdocker",
    client: Annotated[
        str | None, typer.Option("--client", metavar="lxc|incus", help="Whose remote it becomes [the one installed].")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="HEX", help="SHA-256 its certificate must have.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Trust whatever certificate it shows.")] = False,
    json: JsonOption = False,
) -> None:
    """Make this host's LXD or Incus a client of an image server: its certificate is shown, then trusted."""
    from dataclasses import replace

    from lxdocker import remote

    console = Console()

    def agree(seen: remote.Seen) -> bool:
        console.note(f"{url_shown} shows a certificate that no authority known here has signed:")
        console.note(f"  SHA-256 {seen.certificate.shown_fingerprint}")
        console.note(f"  for {', '.join(seen.certificate.names[:8])}, good until {seen.certificate.ends:%Y-%m-%d}")
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError("there is nobody to ask", "", "compare the fingerprint, then give it with --fingerprint")
        return typer.confirm("Is that what lxdocker serve says there?", err=True)

    remote.check_name(name)
    expected = remote.parse_fingerprint(fingerprint) if fingerprint else None
    address = remote.Address.parse(url)
    url_shown = address.url
    found = remote.Client.find(client, os.environ)
    seen = remote.look_at(address)
    if address.user is not None and address.password is None:
        address = replace(address, password=_password(address.user))
    added = remote.add(found, name, address, seen, expected, agree)
    if json:
        console.json(
            {"name": added.name, "url": added.url, "client": added.client, "images": added.images}
            | {"certificate": str(added.certificate) if added.certificate else None}
        )
        return
    done = "is up to date" if added.existed else f"is a remote of {added.client} now"
    console.print(f"{added.name} ({added.url}, {added.images} images) {done}")
    console.print(f"try: {added.client} image list {added.name}:")


def _password(user: str) -> str:
    """Asks on a terminal; from elsewhere, a line of stdin."""
    if sys.stdin.isatty():
        return str(typer.prompt(f"Password of {user}", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\n")


@app.command()
def mirror(
    url: Annotated[str, typer.Argument(metavar="URL", help="The other server, such as https://HOST:8443.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where its tree is copied to.")],
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="HEX", help="SHA-256 of its self-signed certificate.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="Certificates to trust, as PEM.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Plain http also from other hosts.")] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", metavar="N", help="Images copied side by side.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Copy another server's tree, and follow it: files first, the index last. Run it again to go on, or to follow."""
    settings = _settings(config, None, folder, None, jobs=jobs)
    from lxdocker import report
    from lxdocker.mirror import Options
    from lxdocker.mirror import mirror as run_mirror
    from lxdocker.publish import Tree

    console = Console()
    options = Options(fingerprint, ca, insecure, settings.jobs)
    with _cancellable() as cancelled, console.progress() as progress:
        tree, grace = Tree(settings.tree), settings.grace_hours * 3600
        result = run_mirror(url, tree, options, grace, progress, console.note, cancelled)
    report.print_mirrored(console, result, json=json)
    raise typer.Exit(1 if result.failed else 0)


def main() -> NoReturn:
    """The ``lxdocker`` program. Exit status: 0 all well, 1 some image failed, 2 usage, configuration or host."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every locale can say everything
    console = Console()
    try:
        try:
            app()
        except LxdockerError as error:
            if isinstance(error, OutputError):
                raise
            console.error(error)
            if "--json" in sys.argv[1:]:
                console.json({"error": error_document(error)})
            raise SystemExit(error.exit_code) from None
    except OutputError as error:
        # Nothing more may be written there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        if not error.reader_left:
            console.error(error)
        raise SystemExit(error.exit_code) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of KeyboardInterrupt
            console.note("stopped; what was finished stays, and the next run takes up from here")
        raise
    finally:
        # Else Python would look through all there is for cycles once more before it ends, for a tenth of a second.
        gc.freeze()
    raise SystemExit(0)


def _settings(
    config: Path | None, specs: Path | None, tree: Path | None, project: str | None, **flags: object
) -> Settings:
    return load({"config": config, "specs": specs, "tree": tree, "project": project, **flags}, os.environ)


@contextlib.contextmanager
def _cancellable() -> Iterator[threading.Event]:
    """Ctrl-C and a polite kill stop the work once, and leave the cleaning up to finish; who asks a third time does not
    want to wait for that.
    """
    cancelled = threading.Event()
    asked = 0

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            cancelled.set()
            raise KeyboardInterrupt
        if asked == 2:
            Console().note("cleaning up; a moment please, or once more to leave it to the next run")
        else:
            os._exit(INTERRUPTED)

    previous: list[tuple[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]] = []
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(wanted) is not signal.SIG_IGN:  # as nohup has it, which then shall stay so
            previous.append((wanted, signal.signal(wanted, stop)))
    try:
        yield cancelled
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
