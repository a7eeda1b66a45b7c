"""init: from an empty host to the first image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker.cli.app import (
    ConfigOption,
    QuietOption,
    RemoteOption,
    VerboseOption,
    app,
    effective_settings,
)
from lxdocker.errors import HostError, LxdockerError, UsageError
from lxdocker.files.seen import exists, is_dir
from lxdocker.values import home_folder

if TYPE_CHECKING:
    # Each command loads what it needs itself.
    from collections.abc import Callable

    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings

    Wants = Callable[[str, bool], bool]  # a question and the answer by default -> the answer


@app.command()
def init(
    ctx: typer.Context,
    auto: Annotated[bool, typer.Option("--auto", help="Ask nothing: create everything except the timer.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Answer yes to every question, including the timer.")
    ] = False,
    config: ConfigOption = None,
    remote: RemoteOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Set up this host: check LXD, make the folder of specs and the configuration file.

    Also offers an hourly sync. Can be run again: it overwrites nothing, and names existing files. Root's files
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
    if exists(file) or file.is_symlink():
        _say(console, f"exists   configuration {file}")
    elif wants(f"Write the configuration file {file}?", True):
        specfile.make_folder(file.parent)
        specfile.write_new(file, specfile.configuration())
        console.print(f"wrote    configuration {file}")
    settings = effective_settings(ctx, config, lxd=remote)
    problem = _check_lxd(console, settings)
    # Specs are in the folder beside the configuration, unless a setting names another one.
    named_specs = _names_specs(config)
    folder = settings.specs if named_specs else home / SYSTEM_SPECS.name
    if is_dir(folder):
        count = len(list(folder.glob("[!.]*.y*ml")))
        _say(console, f"exists   folder of specs {folder} ({count or 'no'} {'spec' if count == 1 else 'specs'})")
    elif wants(f"Make the folder of specs {folder}?", True):
        specfile.make_folder(folder)
        console.print(f"made     folder of specs {folder}")
    if not named_specs and is_dir(here := Path.cwd() / SYSTEM_SPECS.name) and here != folder:
        console.note(f"in this folder, {here} comes first: it is used where lxdocker is run here")
    if remote:
        console.note(f"no timer: it would use this host's LXD -> add the line 'lxd: {remote}' to {file}, then run init")
    else:
        _offer_timer(console, settings, wants, file if named else None)
    if problem:
        raise problem
    at = f"{remote}:" if remote and "/" not in remote else ""
    _say(console, f"next     lxdocker add nginx && lxdocker sync && lxc launch {at}nginx {at}web")


def _say(console: Console, text: str, *, whole: bool = False) -> None:
    """What has not changed, which the quiet don't want to know."""
    if not console.is_quiet:
        console.print(text, whole=whole)


def _names_specs(config: Path | None) -> bool:
    """Whether a setting names the folder of specs."""
    from lxdocker.config.settings import explain

    return any(one.name == "specs" and one.origin != "default" for one in explain({"config": config}, os.environ))


def _check_lxd(console: Console, settings: Settings) -> HostError | None:
    """Says what was found. Returns what keeps lxdocker from working."""
    from lxdocker.builder import placement
    from lxdocker.lxd.api import Lxd

    try:
        lxd = Lxd.of(settings)
        _say(console, f"found    {lxd.dialect} at {lxd.daemon.address}")
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


def _offer_timer(console: Console, settings: Settings, wants: Wants, config: Path | None) -> None:
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
        _say(console, f"         {units.cron_line(program, user, config)}", whole=True)
        return
    if timer := units.timer():
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
    if not units.packaged(files):
        units.install(files)
    units.activate(units.TIMER)
    console.print(f"enabled  timer {units.TIMER}, an hourly sync")
