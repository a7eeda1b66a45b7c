"""init, add, convert: from Docker to the first image."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker.cli.app import (
    ConfigOption,
    InsecureOption,
    JsonOption,
    QuietOption,
    SpecsOption,
    VerboseOption,
    app,
    cancellable,
    effective_settings,
)
from lxdocker.errors import HostError, LxdockerError, UsageError
from lxdocker.reasons import in_words
from lxdocker.text import one_line
from lxdocker.values import home_folder

if TYPE_CHECKING:
    # Each command loads what it needs itself.
    from collections.abc import Callable, Sequence

    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings
    from lxdocker.docker.service import Service
    from lxdocker.docker.translate import Converted

    Wants = Callable[[str, bool], bool]  # a question and the answer by default -> the answer

_MAX_INPUT = 256 * 1024  # bytes; what is larger is no compose file


@app.command()
def init(
    ctx: typer.Context,
    auto: Annotated[bool, typer.Option("--auto", help="Ask nothing: make all but the timer.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to everything, the timer included.")] = False,
    config: ConfigOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Set up this host: check LXD, make the folder of specs and the configuration file.

    Also offers an hourly sync. Can be run again: it overwrites nothing, and says what is there already. Root's files
    are in /etc/lxdocker, those of other users in ~/.config/lxdocker.
    """
    from lxdocker.config import specfile
    from lxdocker.config.settings import SYSTEM_CONFIG, SYSTEM_SPECS, user_folder

    console = ctx.obj.console
    if not auto and not yes and not console.can_ask:
        raise UsageError(
            "cannot ask: stdin is not a terminal",
            "lxdocker init asks before it makes anything",
            "run it with --auto, which makes all but the timer, or with --yes",
        )

    def wants(question: str, default: bool) -> bool:
        return yes or default if yes or auto else bool(console.confirm(question, default=default))

    home = SYSTEM_CONFIG.parent if os.geteuid() == 0 else user_folder(os.environ, home_folder(os.environ))
    named = config or os.environ.get("LXDOCKER_CONFIG")
    file = Path(named).absolute() if named else home / SYSTEM_CONFIG.name
    if file.exists() or file.is_symlink():
        _say(console, f"exists   configuration {file}")
    elif wants(f"Write the configuration file {file}?", True):
        specfile.make_folder(file.parent)
        specfile.write_new(file, specfile.configuration())
        console.print(f"wrote    configuration {file}")
    settings = effective_settings(ctx, config)
    problem = _check_lxd(console, settings)
    # Specs are in the folder beside the configuration, unless a setting names another one.
    named_specs = _names_specs(config)
    folder = settings.specs if named_specs else home / SYSTEM_SPECS.name
    if folder.is_dir():
        count = len(list(folder.glob("[!.]*.y*ml")))
        _say(console, f"exists   folder of specs {folder} ({count or 'no'} {'spec' if count == 1 else 'specs'})")
    elif wants(f"Make the folder of specs {folder}?", True):
        specfile.make_folder(folder)
        console.print(f"made     folder of specs {folder}")
    if not named_specs and (here := Path.cwd() / SYSTEM_SPECS.name).is_dir() and here != folder:
        console.note(f"in this folder, {here} comes first: it is used where lxdocker is run here")
    _offer_timer(console, settings, wants)
    if problem:
        raise problem
    _say(console, "next     lxdocker add nginx && lxdocker sync && lxc launch nginx web")


def _say(console: Console, text: str) -> None:
    """What has not changed, which the quiet don't want to know."""
    if not console.is_quiet:
        console.print(text)


def _names_specs(config: Path | None) -> bool:
    """Whether a setting names the folder of specs."""
    from lxdocker.config.settings import explain

    return any(one.name == "specs" and one.origin != "default" for one in explain({"config": config}, os.environ))


def _check_lxd(console: Console, settings: Settings) -> HostError | None:
    """Says what was found. Returns what keeps lxdocker from working."""
    from lxdocker.builder import placement
    from lxdocker.lxd.api import Lxd

    try:
        lxd = Lxd()
        _say(console, f"found    {lxd.dialect} at {lxd.daemon.socket}")
        if lxd.dialect.weakness:
            console.note(f"warning: {lxd.dialect.weakness}")
        place = placement.find(lxd, settings)
        place.devices(network=True, cache=False)
    except HostError as error:
        console.print(f"missing  LXD: {error}")
        return error
    nic = place.nic or {}
    network = nic.get("network") or nic.get("parent") or "of a device"
    _say(console, f"found    storage pool {place.pool}, network {network}")
    return None


def _offer_timer(console: Console, settings: Settings, wants: Wants) -> None:
    from lxdocker.config import units

    try:
        program = units.program()
    except LxdockerError as error:
        console.note(f"no timer: {error}")
        return
    if os.geteuid() != 0 or not units.has_systemd():
        user = "root" if os.geteuid() == 0 else None
        where = "in /etc/cron.d/lxdocker" if user else "by 'crontab -e'"
        _say(console, f"timer    for an hourly sync, add this line {where}:")
        _say(console, f"         {units.cron_line(program, user)}")
        return
    timer = units.UNIT_FOLDER / units.TIMER
    if timer.exists():
        _say(console, f"exists   timer {timer}")
        return
    try:
        units.check_program(program)
    except UsageError as error:
        console.note(f"no timer: {error} -> {error.resolution}")
        return
    if not wants("Sync every hour, by a systemd timer?", False):
        _say(console, "timer    for an hourly sync: lxdocker units --install, or lxdocker init --yes")
        return
    files = units.files(program, settings)
    if units.serve_obstacle(program):
        files = tuple(file for file in files if file.path.name != units.SERVE)
    units.install(files)
    units.activate(units.TIMER)
    console.print(f"enabled  timer {units.TIMER}, an hourly sync")


@app.command()
def add(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image, or the address of its page at a registry.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the new image [the image's].")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the spec instead of writing it.")] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    insecure_registry: InsecureOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Write a spec for an image, after asking its registry.

    Shows what the image expects (ports, volumes, variables, user, health check) and the commands that launch it. An
    existing spec is never overwritten.
    """
    settings = effective_settings(ctx, config, specs=specs, insecure_registries=insecure_registry)
    from lxdocker.cli import documents
    from lxdocker.config import specfile
    from lxdocker.docker import expects, translate
    from lxdocker.docker.quantities import instance_name
    from lxdocker.source.credentials import Credentials
    from lxdocker.source.known import Known
    from lxdocker.source.registry import RegistryClient
    from lxdocker.source.resolve import Resolver
    from lxdocker.values import Arch, ImageName, RegistryRef, parse_image_ref

    console = ctx.obj.console
    try:
        ref = parse_image_ref(image, Path.cwd())
    except ValueError as error:
        raise UsageError(
            "not an image", str(error), "name it as for docker pull: nginx, ghcr.io/owner/name:tag"
        ) from None
    try:
        chosen = ImageName.parse(name) if name else translate.spec_name(ref, "image", ())
    except ValueError as error:
        raise UsageError("not a name for an image", str(error), "lxdocker add IMAGE NAME") from None
    path = specfile.path_for(settings.specs, chosen)
    with (
        cancellable(),
        console.progress() as progress,
        progress.step(f"asking {ref.registry if isinstance(ref, RegistryRef) else ref.path}"),
        RegistryClient(Credentials(), settings.insecure_registries) as registry,
    ):
        resolver = Resolver(registry, Arch.host(), Known.of(os.environ))
        oci = resolver.config(ref, resolver.resolve(ref, None))
    found = expects.expectations(ref, oci)
    pool = settings.pool or "default"
    instance = expects.service(instance_name(chosen.value) or "instance", ref, found, oci, pool)
    schema = str(specfile.schema_path())
    text = translate.spec_text(instance, ref, schema, expects.comments(chosen, found), expects.keys(found))
    spec = translate.SpecText(chosen, ref, text)
    commands = [f"lxdocker sync {chosen}", *translate.launch(instance, chosen.value, pool)]
    if not dry_run:
        if specfile.make_folder(path.parent):
            console.note(f"made the folder of specs {path.parent}")
        specfile.write_new(path, text)
    if json:
        console.json(documents.added(spec, path, found, commands, written=not dry_run))
        return
    if dry_run:
        console.print(text.rstrip())
        say = console.note
    else:
        console.print(f"wrote {path}")
        say = console.print
    for title, value in found.rows():
        say(f"  {title:16} {value}")
    if found.ends_at_once:
        say("its command is a shell, which ends at once: give the instance another one, as in")
        say(f'  lxc config set {instance.name} user.lxdocker.cmd=\'["sleep", "infinity"]\'')
    if found.variables:
        say(f"set {', '.join(found.variables)} in the shell that runs these commands:")
    else:
        say("to launch it:")
    for command in commands:
        say(f"  {command}")


@app.command(context_settings={"allow_interspersed_args": False})
def convert(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND|FILE", help="A docker run command in quotes, a compose file, or - to read either."
        ),
    ],
    write: Annotated[bool, typer.Option("--write", help="Write the specs to the folder of specs.")] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Turn a docker run command or a compose file into specs and lxc commands.

    Nothing is run, and no registry is asked. Lists each flag or key that LXD has no equal of; the exit status is 1 if
    one of them is essential: if without it the application may fail, lose data, or be reached in another way.
    """
    settings = effective_settings(ctx, config, specs=specs)
    from lxdocker.cli import documents
    from lxdocker.config import specfile
    from lxdocker.docker import translate

    console = ctx.obj.console
    pool = settings.pool or "default"
    services, folder = _read(words, pool)
    found = translate.convert(services, folder, pool, str(specfile.schema_path()))
    if write:
        paths = [(specfile.path_for(settings.specs, spec.name), spec.text) for spec in found.specs]
        specfile.make_folder(settings.specs)
        for path, text in paths:
            specfile.write_new(path, text)
    if json:
        console.json(documents.converted(found, settings.specs, written=write))
    else:
        _print_converted(console, found, settings.specs, written=write)
    raise typer.Exit(0 if found.is_whole else 1)


def _read(words: Sequence[str], pool: str) -> tuple[tuple[Service, ...], Path]:
    """The services that the arguments stand for, and the folder that their paths are relative to."""
    from lxdocker.docker import compose, run
    from lxdocker.docker.interpolate import dotenv
    from lxdocker.docker.words import split

    here, home = Path.cwd(), home_folder(os.environ)
    if len(words) > 1:  # split by the shell already
        return (run.read(words, here, home, pool),), here
    (word,) = words
    if word != "-" and (" " in word.strip() or "\n" in word):
        text, label, folder = word, "the command", here
    elif word == "-":
        text, label, folder = _text(sys.stdin.buffer.read(_MAX_INPUT + 1) if sys.stdin else b"", "stdin"), "stdin", here
    else:
        path = Path(word)
        try:
            with path.open("rb") as file:
                text, label = _text(file.read(_MAX_INPUT + 1), word), one_line(word, 200)
        except OSError as error:
            raise UsageError(
                f"cannot read {one_line(word, 200)}",
                error.strerror or in_words(error),
                "give 'docker run ...' in quotes, a compose file, or - for stdin",
            ) from error
        folder = path.absolute().parent
    if run.is_command(text):
        missing: list[str] = []
        service = run.read(split(text, str(here), str(home), os.environ.get, missing.append), here, home, pool)
        return (run.without_variables(service, missing),), here
    if label == "the command":
        raise UsageError("not a docker run command", one_line(text, 60), "give 'docker run ...', or a compose file")
    variables = dict(os.environ)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        # The environment comes first, as with docker compose.
        variables = {**dotenv((folder / ".env").read_text()[:_MAX_INPUT]), **variables}
    return compose.read(text, label, folder, home, pool, variables.get), folder


def _text(data: bytes, what: str) -> str:
    if len(data) > _MAX_INPUT:
        raise UsageError(f"too much to convert: {one_line(what, 200)}", "at most 256 KiB are read", "split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"not text: {one_line(what, 200)}", in_words(error), "give a compose file") from None


def _print_converted(console: Console, found: Converted, folder: Path, *, written: bool) -> None:
    for spec in found.specs:
        console.print(f"# {'wrote ' if written else ''}{folder / spec.name.value}.yaml")
        console.print(spec.text)
    if found.commands:
        console.print("# commands")
    for command in found.commands:
        console.print(command)
    for essential, title in ((True, "lost, and essential:"), (False, "lost:")):
        lost = [one for one in found.lost if one.essential == essential]
        if lost:
            console.print(f"\n# {title}")
        for one in lost:
            console.print(f"#   {one.service and f'{one.service}: '}{one.what}: {one.why}")
