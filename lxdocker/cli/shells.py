"""completion: for shells."""

from __future__ import annotations

from typing import Annotated

import typer

from lxdocker.cli import completion as completing
from lxdocker.cli.app import QuietOption, VerboseOption, app
from lxdocker.errors import UsageError


@app.command()
def completion(
    ctx: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Print a script for completion in a shell.

    For bash: eval "$(lxdocker completion bash)" in ~/.bashrc. Each script begins with instructions.
    """
    if shell not in completing.SHELLS:
        raise UsageError(f"no completion for {shell}", "", f"available: {', '.join(completing.SHELLS)}")
    ctx.obj.console.print(completing.script(shell).rstrip())
