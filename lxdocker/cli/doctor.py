"""doctor: what is wrong with this host, and the way out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker import log
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
from lxdocker.config.settings import explain
from lxdocker.errors import UsageError
from lxdocker.reasons import in_words
from lxdocker.text import counted

if TYPE_CHECKING:
    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings
    from lxdocker.doctor.finding import Finding
    from lxdocker.doctor.run import Diagnosis


STATUS_SECONDS = 60


@app.command()
def doctor(
    ctx: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Make only safe repairs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --fix: only print it, as the commands that do the same.")
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", metavar="FILE", help="Also write the data for a bug report, without secrets: a .tar.xz or .zip."
        ),
    ] = None,
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
    """Check for common problems: LXD, networks, registries, tree, certificate, timer.

    Each finding says what to do. The exit status is 1 if any finding is an error. Changes nothing without --fix,
    except that it briefly starts a builder.
    """
    if dry_run and not fix:
        raise UsageError("--dry-run needs --fix", "without it, nothing is changed", "add --fix")
    flags: dict[str, object] = {
        "specs": specs,
        "tree": tree,
        "project": project,
        "insecure_registries": insecure_registry,
        "lxd": remote,
    }
    settings = effective_settings(ctx, config, **flags)
    from lxdocker.doctor import bundle as bundling
    from lxdocker.doctor import run
    from lxdocker.doctor.subject import Subject

    console: Console = ctx.obj.console
    if bundle:
        bundling.check_name(bundle)
    with cancellable() as cancelled:
        found = run.examine(Subject(settings, places=places_of(settings), stop=cancelled))
    if fix and not dry_run:
        found = run.fix(found, console.note)
    if bundle:
        _bundle(bundle, found, settings, {"config": config, **flags})
        console.note(f"wrote {bundle}; look through it before you send it")
    _show(console, found, json=json, dry_run=dry_run)
    raise typer.Exit(0 if found.is_healthy else 1)


def _show(console: Console, found: Diagnosis, *, json: bool, dry_run: bool) -> None:
    if json:
        from lxdocker.cli import documents

        console.json(documents.diagnosis(found))
    elif dry_run:
        for command in (command for one in found.findings if one.fix for command in one.fix.commands):
            console.print(command)
    else:
        _print(console, found)


def _bundle(file: Path, found: Diagnosis, settings: Settings, flags: Mapping[str, object]) -> None:
    from lxdocker.cli import documents
    from lxdocker.doctor import bundle
    from lxdocker.doctor.subject import Subject

    results = {
        "doctor.json": documents.diagnosis(found),
        "settings.json": documents.settings(explain(flags, os.environ)),
    }
    subject = Subject(settings, places=places_of(settings))
    bundle.write(file, bundle.collect(subject, results, lambda: _status(flags)))


def _status(flags: Mapping[str, object]) -> str:
    """What lxdocker status prints."""
    names = {"insecure_registries": "--insecure-registry", "lxd": "--remote"}
    options = []
    for key, value in flags.items():
        for one in value if isinstance(value, list) else [value]:
            options += [] if one is None else [names.get(key, f"--{key}"), str(one)]
    argv = [sys.executable, "-m", "lxdocker", "status", "--json", *options]
    log.command(argv)
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STATUS_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{in_words(error)}\n"
    return done.stdout or done.stderr


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
