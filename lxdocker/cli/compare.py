"""diff, and sync --check-reproducible: what differs between two versions of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker.cli.app import (
    ConfigOption,
    InsecureOption,
    JsonOption,
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
from lxdocker.errors import UsageError

if TYPE_CHECKING:
    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings


@app.command()
def diff(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    old: Annotated[
        str | None,
        typer.Argument(metavar="[OLD]", help="The older version [the newest but one]."),
    ] = None,
    new: Annotated[
        str | None,
        typer.Argument(metavar="[NEW]", help="The newer version, or registry [the newest]."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show all files that differ.")] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    insecure_registry: InsecureOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show the differences between two versions of an image.

    Compares configuration, packages and files of versions in the published tree. With registry instead of a version,
    compares the configuration of the spec's current image; nothing is built.
    """
    settings = effective_settings(
        ctx, config, specs=specs, tree=tree, insecure_registries=insecure_registry, lxd=remote
    )
    from lxdocker.cli import report
    from lxdocker.config.spec import read_specs, select_one
    from lxdocker.sync import compare
    from lxdocker.sync.context import open_context
    from lxdocker.tree.tree import Tree
    from lxdocker.values import Arch, ImageName

    try:
        image = ImageName.parse(name)
    except ValueError as error:
        raise UsageError("no such image", str(error), "lxdocker publish list shows the images") from None
    console = ctx.obj.console
    pair = compare.choose(Tree(settings.tree), image, Arch.host(), old, new)
    with cancellable() as cancelled, console.progress() as progress:
        if pair.new is None:
            found = read_specs(settings.specs, places_of(settings))
            spec = select_one(found, name, settings.specs)
            with open_context(settings, cancelled) as context, progress.step("asking the registry"):
                result = compare.with_registry(context, pair.old, spec)
        else:
            with open_context(settings, cancelled) as context:
                result = compare.published(context, (pair.old, pair.new), progress, console.note)
    report.print_difference(console, result, json=json, everything=everything)


def check_reproducible(console: Console, settings: Settings, names: Sequence[str], *, json: bool) -> bool:
    """Builds each of these images twice, and prints what differs. Returns whether nothing does."""
    from lxdocker.cli import report
    from lxdocker.config.selection import choose
    from lxdocker.config.spec import read_specs
    from lxdocker.sync.compare import build_twice
    from lxdocker.sync.context import open_context

    if not names:
        raise UsageError("--check-reproducible takes names", "each image is built twice", "name the images to check")
    chosen = choose(read_specs(settings.specs, places_of(settings)), names, settings.specs)
    with cancellable() as cancelled, console.progress() as progress, open_context(settings, cancelled) as context:
        result = build_twice(context, chosen, progress, console.note)
    report.print_rebuilt(console, result, json=json)
    return all(image.is_reproducible for image in result)
