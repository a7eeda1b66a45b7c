"""publish verify, rollback: the published tree."""

from __future__ import annotations

from typing import Annotated

import typer

from lxdocker.cli.app import (
    ConfigOption,
    JsonOption,
    QuietOption,
    TreeOption,
    VerboseOption,
    cancellable,
    effective_settings,
    publish_app,
)
from lxdocker.errors import UsageError


@publish_app.command("verify")
def publish_verify(
    ctx: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file and compare its hash.")] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Withdraw damaged versions and rewrite the index. Deletes nothing."),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Number of versions to check in parallel.")
    ] = None,
    config: ConfigOption = None,
    tree: TreeOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Check that all published files are present and unchanged.

    Also reports stray files.
    """
    settings = effective_settings(ctx, config, tree=tree, jobs=jobs)
    from lxdocker.cli import report
    from lxdocker.tree.tree import Tree
    from lxdocker.tree.verify import verify

    console = ctx.obj.console
    with cancellable() as cancelled, console.progress() as progress, progress.step(f"checking {settings.tree}"):
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
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="The version to go back to [the previous one]."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="End the rollback.")] = False,
    config: ConfigOption = None,
    tree: TreeOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Roll back to an older version.

    The rollback lasts until the registry, the spec or lxdocker produces a different image.
    """
    settings = effective_settings(ctx, config, tree=tree)
    from lxdocker.cli import report
    from lxdocker.tree import rollback as rolling
    from lxdocker.tree.tree import Tree
    from lxdocker.values import ImageName

    if undo and version:
        raise UsageError("--undo takes no version", "", "use one or the other")
    try:
        image = ImageName.parse(name)
    except ValueError as error:
        raise UsageError("no such image", str(error), "lxdocker publish list shows the images") from None
    console = ctx.obj.console
    published = Tree(settings.tree)
    with (
        cancellable() as cancelled,
        console.progress() as progress,
        progress.step("rolling back"),
        published.lock(console.note, cancelled),
    ):
        if undo:
            undone = rolling.undo(published, image)
            listed = [entry for entry in published.versions() if entry.name == image and entry.withdrawn is None]
        else:
            done = rolling.roll_back(published, image, version)
    if undo:
        report.print_undone(console, undone, listed, json=json)
    else:
        report.print_rollback(console, done, json=json)
