"""What all commands have in common: their groups and options, settings, and what Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from lxdocker import __version__
from lxdocker.cli.again import repeating
from lxdocker.cli.console import Console
from lxdocker.config.settings import Settings, closed_files, load, spec_folders
from lxdocker.errors import LxdockerError
from lxdocker.log import Log

# Newer versions of typer bring their own click.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
INTERRUPTED = 130  # as a shell reports a program ended by SIGINT


@dataclass(frozen=True, slots=True)
class Run:
    """What main() opens for a command: ``typer.Context.obj``."""

    console: Console
    log: Log
    # Called with an error that ends the command, once it has been printed.
    on_error: list[Callable[[LxdockerError], None]] = field(default_factory=list)
    misuse: list[str] = field(default_factory=list)  # what was wrong with the command line, if anything was


@contextlib.contextmanager
def _misuse(run: object) -> Iterator[None]:
    """Notes what typer is about to print and exit with, for --json."""
    try:
        yield
    except _USAGE_ERROR as error:
        if isinstance(run, Run) and not run.misuse:
            text = error.format_message().rstrip(".")
            run.misuse.append(f"{text[:1].lower()}{text[1:]}")
        raise


class Group(TyperGroup):
    """A group of commands. Options of the group are passed to its commands: ``lxdocker -v --specs DIR sync`` means
    ``lxdocker sync -v --specs DIR``. An option that a command does not have is refused in both places.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with _misuse(extra.get("obj") or (parent and parent.obj)):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _misuse(ctx.obj):
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # Any: newer versions of typer bring their own click
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, [*_given_before(ctx), *rest]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Whole first sentences, however narrow the terminal is."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, summary(command)) for name, command in commands if command and not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Command(TyperCommand):
    """A command, whose required arguments stand in its usage line as they are in the documentation: URL, not {URL}."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        ctx = super().make_context(info_name, args, parent, **extra)
        if isinstance(ctx.obj, Run):
            ctx.obj.console.repeat(repeating(ctx))
        return ctx

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"^\{(.*)\}$", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]


class Application(typer.Typer):
    """The program, or a group of its commands."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        return super().command(name, **{"cls": Command, **options})


def summary(command: Any) -> str:
    """The first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def _given_before(ctx: Any) -> Iterator[str]:
    """The options that stood before a command."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        if source is None or source.name != "COMMANDLINE" or parameter.name == "version":
            continue
        option, value = parameter.opts[0], ctx.params[parameter.name]
        if parameter.is_flag:
            yield option
        elif parameter.count:
            yield from [option] * value
        else:
            yield from (option, str(value))


def _be_verbose(ctx: typer.Context, value: int) -> int:
    if value and isinstance(ctx.obj, Run):
        ctx.obj.log.be_verbose(value)
        ctx.obj.console.be_verbose()
    return value


def _be_quiet(ctx: typer.Context, value: bool) -> bool:
    if value and isinstance(ctx.obj, Run):
        ctx.obj.console.be_quiet()
    return value


app = Application(
    name="lxdocker",
    context_settings={"help_option_names": ["--help", "-h"]},
    cls=Group,
    help="Turn Docker/OCI images into LXD images, keep them up to date and publish them for other hosts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
builder_app = Application(cls=Group, help="Manage the image of the ephemeral builders.", no_args_is_help=True)
app.add_typer(builder_app, name="builder")
remote_app = Application(cls=Group, help="Manage the image servers of this host's LXD or Incus.", no_args_is_help=True)
app.add_typer(remote_app, name="remote")
publish_app = Application(cls=Group, help="Manage the published tree.", no_args_is_help=True)
app.add_typer(publish_app, name="publish")

# A command takes the options of those settings that it reads, and no others: tests/unit/cli/test_options.py.
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration file.")]
SpecsOption = Annotated[
    Path | None,
    typer.Option(
        *("--specs",),
        metavar="DIR",
        help="Folder of specs [./images.d, else ~/.config/lxdocker/images.d, else /etc/lxdocker/images.d].",
    ),
]
TreeOption = Annotated[
    Path | None,
    typer.Option("--tree", metavar="DIR", help="Folder of the published tree [/var/lib/lxdocker/tree]."),
]
ProjectOption = Annotated[
    str | None, typer.Option("--project", metavar="NAME", help="LXD project of images [default].")
]
RemoteOption = Annotated[
    str | None,
    typer.Option("--remote", metavar="URL|NAME", help="Another host's LXD: its URL, or a remote of lxc [local]."),
]
BuilderProjectOption = Annotated[
    str | None, typer.Option("--builder-project", metavar="NAME", help="LXD project of the builders [lxdocker].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
InsecureOption = Annotated[
    list[str] | None,
    typer.Option("--insecure-registry", metavar="HOST:PORT", help="Registry that may be reached over plain HTTP."),
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", metavar="N", help="Number of images to build in parallel [processors, at most 4]."),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        *("--verbose", "-v"),
        count=True,
        show_default=False,
        metavar="",
        callback=_be_verbose,
        help="Show the executed commands on stderr; -vv also shows requests.",
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_be_quiet, help="Print nothing unless something changed or failed."),
]
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Specs: names, or files in the folder of specs [all].")
]


@app.callback(invoke_without_command=True)
def _global(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions of lxdocker and of the LXD it uses, and exit.")
    ] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    if version:
        console = ctx.obj.console
        console.print(f"lxdocker {__version__}")
        console.print(_lxd_version(config, remote))
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        ctx.fail("Missing command.")


@builder_app.callback()
def _builder(
    config: ConfigOption = None,
    specs: SpecsOption = None,
    builder_project: BuilderProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    pass


@publish_app.callback()
def _publish(
    config: ConfigOption = None,
    tree: TreeOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    pass


@remote_app.callback()
def _remote(json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = 0) -> None:
    pass


def _lxd_version(config: Path | None, remote: str | None) -> str:
    """Never fails, since it is also needed for bug reports when nothing works."""
    from lxdocker.lxd.api import Lxd

    try:
        lxd = Lxd.of(load({"config": config, "lxd": remote}, os.environ))
        member = f", member {lxd.dialect.member} of a cluster" if lxd.dialect.member else ""
        return f"{lxd.dialect} at {lxd.daemon.address}{member}"
    except LxdockerError as error:
        return f"no LXD: {error.details}"


def effective_settings(ctx: typer.Context, config: Path | None, **flags: object) -> Settings:
    """The effective settings; ``flags`` are those given as options."""
    given = {"config": config, **flags}
    settings = load(given, os.environ)
    for path in closed_files(given, os.environ):
        ctx.obj.console.note(f"ignoring {path}: this user may not read it")
    return settings


def places_of(settings: Settings) -> tuple[Path, ...]:
    """Where the folder of specs was looked for; none where it was named."""
    places = spec_folders(os.environ)
    return places if settings.specs in places[1:] else ()


@contextlib.contextmanager
def cancellable() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM stops the work, the second explains the clean-up, the third skips it."""
    cancelled = threading.Event()
    asked = 0

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            cancelled.set()
            raise KeyboardInterrupt
        if asked == 2:
            # A separate console, since the signal may have arrived while the other one is locked.
            Console().note("cleaning up; press Ctrl-C again to skip: the next run will finish it")
        else:
            os._exit(INTERRUPTED)

    previous: list[tuple[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]] = []
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(wanted) is not signal.SIG_IGN:  # as set by nohup; stays ignored
            previous.append((wanted, signal.signal(wanted, stop)))
    try:
        yield cancelled
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
