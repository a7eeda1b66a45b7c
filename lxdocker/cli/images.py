"""sync, validate, status, prune: the images of a folder of specs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker.cli.app import (
    ConfigOption,
    InsecureOption,
    JobsOption,
    JsonOption,
    NamesArgument,
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
from lxdocker.cli.events import Hooks
from lxdocker.errors import LxdockerError, UsageError

if TYPE_CHECKING:
    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings
    from lxdocker.config.spec import SpecFolder


@app.command()
def sync(
    ctx: typer.Context,
    names: NamesArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the planned changes without making them.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Rebuild images that are up to date.")] = False,
    keep_builder: Annotated[
        bool,
        typer.Option("--keep-builder", help="Keep a failed build's builder running for debugging."),
    ] = False,
    adopt: Annotated[
        list[str] | None,
        typer.Option("--adopt", metavar="NAME", help="Take over an image of another folder of specs; * for all."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Do nothing if any spec is invalid.")] = False,
    check_reproducible: Annotated[
        bool,
        typer.Option(
            "--check-reproducible", help="Build the named images twice and compare; publishes and imports nothing."
        ),
    ] = False,
    jobs: JobsOption = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    insecure_registry: InsecureOption = None,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", metavar="FILE", help="File for node-exporter, *.prom [none].")
    ] = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Build and update images from specs.

    Asks the registry for each image, builds changed images, imports them into LXD and publishes them.
    """
    settings = effective_settings(
        ctx,
        config,
        specs=specs,
        tree=tree,
        project=project,
        insecure_registries=insecure_registry,
        jobs=jobs,
        metrics_file=metrics_file,
        lxd=remote,
    )
    if check_reproducible:
        from lxdocker.cli import compare

        if dry_run or force or keep_builder or adopt or strict or metrics_file:
            raise UsageError("--check-reproducible syncs nothing", "", "leave out the options that are about a sync")
        raise typer.Exit(0 if compare.check_reproducible(ctx.obj.console, settings, names or [], json=json) else 1)
    from lxdocker.cli import report
    from lxdocker.config import repository
    from lxdocker.config.selection import choose, is_whole
    from lxdocker.config.spec import SpecFolder, load_specs, read_specs, select
    from lxdocker.sync.context import open_context
    from lxdocker.sync.plan import refuse_to_empty
    from lxdocker.sync.record import recorded
    from lxdocker.sync.run import SyncOptions, make_plan
    from lxdocker.sync.run import sync as run_sync
    from lxdocker.sync.state import State

    console = ctx.obj.console
    hooks = Hooks(ctx, settings, "sync", unless=dry_run or bool(names))
    whole, places = is_whole(names or [], settings.specs), places_of(settings)
    recording = contextlib.nullcontext(None) if dry_run else recorded(settings, console.note, whole=whole)
    with recording as record, cancellable() as cancelled, contextlib.ExitStack() as held:
        outdated = repository.outdated(settings)
        if repository.is_source(settings) and not dry_run:
            outdated = held.enter_context(_fetched_specs(console, settings, cancelled))
        found = SpecFolder(load_specs(settings.specs, places)) if strict else read_specs(settings.specs, places)
        chosen = choose(found, names or [], settings.specs)
        _note_if_empty(console, found, settings)
        named = [] if adopt == ["*"] else adopt or []
        adopted = frozenset(spec.name for spec in select(chosen, named)) if adopt else frozenset()
        with console.progress() as progress, open_context(settings, cancelled) as context:
            if record is None:
                holdings, actions, removals = make_plan(
                    context, chosen, found.broken, whole=whole, force=force, adopt=adopted, progress=progress
                )
                refuse_to_empty(chosen, removals, settings)
                images = context.survey(holdings).planned(actions, removals, found.broken)
            else:
                options = SyncOptions(force, keep_builder, adopted)
                done = run_sync(context, chosen, options, progress, console.note, found.broken, whole=whole)
                result = replace(done, outdated=outdated)
                record(result)
                survey = context.survey() if json or hooks.want(result) else None
    if dry_run:
        report.print_plan(console, images, outdated, json=json)
        raise typer.Exit(1 if any(image.state is State.FAILED for image in images) else 0)
    try:
        report.print_sync(console, result, survey if json else None)
    finally:
        hooks.synced(result, survey)
    raise typer.Exit(1 if result.failed else 0)


@app.command()
def validate(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME|FILE|DIR]...", help="Specs [all].")] = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Check specs, without contacting LXD or a registry.

    Lists every mistake in them.
    """
    settings = effective_settings(ctx, config, specs=specs)
    from lxdocker.cli import report
    from lxdocker.config.selection import load_all
    from lxdocker.config.spec import SpecFolder

    console = ctx.obj.console
    found = load_all(names or [], settings.specs, places_of(settings))
    if not names:
        _note_if_empty(console, SpecFolder(found), settings)
    elif not found:
        console.note("no mistake in what other specs extend; it makes no image")
    report.print_specs(console, found, json=json)


@app.command()
def status(
    ctx: typer.Context,
    names: NamesArgument = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Print one line for monitoring; exit 1 if an image is pending, 2 if one failed."),
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
    """List the images, and whether each is up to date.

    Shows each image's source, digest, fingerprint and build time, and the next sync's action and its reason.
    """
    from lxdocker.cli import report
    from lxdocker.config import repository
    from lxdocker.config.selection import choose, is_whole
    from lxdocker.config.spec import read_specs
    from lxdocker.sync.context import open_context
    from lxdocker.sync.run import make_plan
    from lxdocker.sync.state import exit_status, with_failed
    from lxdocker.tree import last_sync

    console = ctx.obj.console
    try:
        settings = effective_settings(
            ctx, config, specs=specs, tree=tree, project=project, insecure_registries=insecure_registry, lxd=remote
        )
        found = read_specs(settings.specs, places_of(settings))
        chosen, whole = choose(found, names or [], settings.specs), is_whole(names or [], settings.specs)
        _note_if_empty(console, found, settings)
        with cancellable() as cancelled, console.progress() as progress, open_context(settings, cancelled) as context:
            holdings, actions, removals = make_plan(
                context, chosen, found.broken, whole=whole, force=False, progress=progress
            )
            last = last_sync.read(settings.tree, context.folder.id)
            images = with_failed(
                context.survey(holdings).planned(actions, removals, found.broken), last.failed if last else ()
            )
    except LxdockerError as error:
        if not check or json:
            raise
        report.print_check_failed(console, error)
        raise typer.Exit(2) from None
    outdated = repository.outdated(settings)
    if check and not json:
        report.print_check(console, images, outdated)
    else:
        report.print_status(console, images, outdated, json=json)
    raise typer.Exit((2 if outdated else exit_status(images)) if check else 0)


@app.command()
def prune(
    ctx: typer.Context,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Remove all images of this folder of specs, even those that still have a spec."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed and why, without removing it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Remove images without a spec, and other leftovers.

    Also removes surplus versions and unused cached layers; only what lxdocker itself created. At a terminal, it first
    shows what would be removed and why, and asks. Elsewhere, as from cron, it does not ask.
    """
    settings = effective_settings(ctx, config, specs=specs, tree=tree, project=project, lxd=remote)
    from lxdocker.cli import report
    from lxdocker.config.spec import read_specs
    from lxdocker.sync.context import open_context
    from lxdocker.sync.prune import look, prune_all

    console = ctx.obj.console
    found = None if everything else read_specs(settings.specs, places_of(settings))
    with cancellable() as cancelled, open_context(settings, cancelled) as context:
        if dry_run or (console.can_ask and not yes):
            with console.progress() as progress, progress.step("looking for what is no longer needed"):
                pruning = look(context, found)
            if dry_run:
                report.print_pruning(console, pruning, context.survey() if json else None)
                raise typer.Exit
            # On stderr, as the question.
            report.print_pruning(console, pruning, say=console.log)
            if not pruning.is_empty and not console.confirm("Remove this?"):
                console.note("nothing was removed")
                raise typer.Exit
        with console.progress() as progress, progress.step("removing what is no longer needed"):
            result = prune_all(context, found, console.note)
        survey = context.survey() if json else None
    report.print_sync(console, result, survey)
    raise typer.Exit(1 if result.failed else 0)


@contextlib.contextmanager
def _fetched_specs(console: Console, settings: Settings, cancelled: threading.Event) -> Iterator[LxdockerError | None]:
    """Brings specs of a repository up to date, and keeps them so for the block. Gives why they could not be."""
    from lxdocker.config import repository
    from lxdocker.lxd.api import Cancelled
    from lxdocker.program import StoppedError

    def busy() -> None:
        console.note(f"waiting: another lxdocker is using {settings.specs}")

    with contextlib.ExitStack() as held:
        try:
            with console.progress() as progress, progress.step("fetching specs"):
                fetched = held.enter_context(repository.fetched(settings, busy, cancelled))
        except StoppedError:
            raise Cancelled from None
        if fetched.changed:
            console.note(f"specs of commit {fetched.commit[:12]}")
        yield fetched.problem


def _note_if_empty(console: Console, found: SpecFolder, settings: Settings) -> None:
    if not found.specs and not found.broken:
        from lxdocker.config.spec import looked_in

        places = looked_in(places_of(settings))
        console.note(
            f"no specs in {settings.specs}{places} -> write one: lxdocker add IMAGE, or choose with --specs DIR"
        )
