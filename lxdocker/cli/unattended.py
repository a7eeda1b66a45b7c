"""units: lxdocker as services of this host."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lxdocker.cli.app import ConfigOption, QuietOption, VerboseOption, app
from lxdocker.config.settings import load


@app.command()
def units(
    ctx: typer.Context,
    install: Annotated[
        bool, typer.Option("--install", help="Write them to /etc instead of printing them. Enables nothing.")
    ] = False,
    config: ConfigOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Print or install systemd units for an hourly sync and for serve.

    They run the installed lxdocker, with write access only to the folders that the settings name.
    """
    from lxdocker.config import units as found

    # The services run as root and as a user of their own, whoever runs this.
    settings = load({"config": config}, {**os.environ, "XDG_DATA_HOME": "/var/lib"})
    console = ctx.obj.console
    program = found.program()
    files = found.files(program, settings)
    if not install:
        for file in files:
            console.print(f"# {file.path}\n{file.text}", whole=True)
        return
    found.check_program(program)
    if obstacle := found.serve_obstacle(program):
        console.note(f"not installing {found.SERVE}: {obstacle}")
        files = tuple(file for file in files if file.path.name != found.SERVE)
    for path in found.install(files):
        console.print(f"wrote {path}")
    console.print("to enable the hourly sync:")
    for argv in found.activation(found.TIMER):
        console.print(f"  {' '.join(argv)}")
    if not obstacle:
        console.print(f"to serve the images to other hosts: systemctl enable --now {found.SERVE}")
