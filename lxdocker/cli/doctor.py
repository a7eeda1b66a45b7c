"""doctor: what is wrong with this host, and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker.cli.app import (
    ConfigOption,
    InsecureOption,
    JsonOption,
    ProjectOption,
    QuietOption,
    RemoteOption,
    SpecsOption,
    TreeOption,
    VerboseOption,
    app,
    cancellable,
    effective_settings,
    places_of,
)
from lxdocker.cli.table import RED, YELLOW
from lxdocker.errors import UsageError
from lxdocker.text import counted

if TYPE_CHECKING:
    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings
    from lxdocker.doctor.finding import Finding
    from lxdocker.doctor.run import Diagnosis


@app.command()
def doctor(
    ctx: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --fix: only print it, as the commands that do the same.")
    ] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    insecure_registry: InsecureOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Look for what goes wrong in practice: LXD, networks, registries, tree, certificate, timer.

    Each finding has its way out. The exit status is 1 if there is an error among them. Changes nothing without --fix,
    except that it starts a builder for a moment.
    """
    if dry_run and not fix:
        raise UsageError("--dry-run needs --fix", "without it, nothing is changed", "add --fix")
    settings = effective_settings(
        ctx, config, specs=specs, tree=tree, project=project, insecure_registries=insecure_registry, lxd=remote
    )
    from lxdocker.doctor import run

    console: Console = ctx.obj.console
    found = _examine(settings)
    if fix and not dry_run:
        found = run.fix(found, console.note)
    if json:
        from lxdocker.cli import documents

        console.json(documents.diagnosis(found))
    elif dry_run:
        for command in (command for one in found.findings if one.fix for command in one.fix.commands):
            console.print(command)
    else:
        _print(console, found)
    raise typer.Exit(0 if found.is_healthy else 1)


def _examine(settings: Settings) -> Diagnosis:
    from lxdocker.doctor import run
    from lxdocker.doctor.subject import Subject

    with cancellable() as cancelled:
        return run.examine(Subject(settings, places=places_of(settings), stop=cancelled))


def _print(console: Console, found: Diagnosis) -> None:
    from lxdocker.doctor.finding import Severity

    colours = {Severity.ERROR: RED, Severity.WARNING: YELLOW, Severity.NOTE: 0}
    shown = [one for one in found.findings if not console.is_quiet or one.severity is not Severity.NOTE]
    for one in shown:
        word = "fixed" if one.is_fixed else one.severity.value
        console.print(f"{word}: {one.what}", 0 if one.is_fixed else colours[one.severity])
        for line in _below(one):
            console.print(f"  {line}")
    if shown or not console.is_quiet:
        console.print(_counts(found))


def _below(found: Finding) -> list[str]:
    lines = found.why.splitlines()
    if found.is_fixed and found.fix:
        return [*lines, *(f"+ {command}" for command in found.fix.commands)]
    return [*lines, *([f"-> {found.do}"] if found.do else []), f"see {found.page}"]


def _counts(found: Diagnosis) -> str:
    from lxdocker.doctor.finding import Severity

    left = [one for one in found.findings if not one.is_fixed]
    counts = [(one, sum(finding.severity is one for finding in left)) for one in Severity]
    words = [counted(count, severity.value) for severity, count in counts if count]
    if fixed := len(found.findings) - len(left):
        words.append(f"{fixed} fixed")
    return ", ".join(words) or f"healthy: {len(found.seconds)} examinations found nothing"
