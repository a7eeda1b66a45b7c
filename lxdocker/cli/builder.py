"""builder build, show, delete, input: the image of the builders, and what a build gives one."""

from __future__ import annotations

from typing import Annotated

import typer

from lxdocker.cli.app import (
    BuilderProjectOption,
    ConfigOption,
    InsecureOption,
    JsonOption,
    QuietOption,
    RemoteOption,
    SpecsOption,
    VerboseOption,
    builder_app,
    cancellable,
    effective_settings,
    places_of,
)
from lxdocker.errors import LxdockerError, UsageError


@builder_app.command("build")
def builder_build(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="image|mmdebstrap",
            help="Build from a container of a base image, or from Debian packages fetched on this host.",
        ),
    ] = None,
    config: ConfigOption = None,
    builder_project: BuilderProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Build the builder image, replacing the current one."""
    settings = effective_settings(ctx, config, builder_project=builder_project, builder_from=source, lxd=remote)
    from lxdocker.builder import image, instance
    from lxdocker.cli import report
    from lxdocker.lxd.api import Lxd

    console = ctx.obj.console
    with cancellable() as cancelled, console.progress() as progress:
        lxd = Lxd.of(settings, cancelled)
        instance.sweep(lxd, settings.builder_project, console.note)
        with progress.step("building the builder image") as tell:
            made = image.build(lxd, settings, lambda text: tell(f"builder: {text}"))
    report.print_builder(console, made, settings, json=json)


@builder_app.command("show")
def builder_show(
    ctx: typer.Context,
    config: ConfigOption = None,
    builder_project: BuilderProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show the builder image's contents, build time and source."""
    settings = effective_settings(ctx, config, builder_project=builder_project, lxd=remote)
    from lxdocker.builder import image
    from lxdocker.cli import report
    from lxdocker.lxd.api import Lxd

    found = image.find(Lxd.of(settings), settings.builder_project)
    if found is None:
        raise LxdockerError(
            "no builder image",
            f"not found in LXD's project {settings.builder_project}",
            "build it with lxdocker builder build; sync also builds it when needed",
        )
    report.print_builder(ctx.obj.console, found, settings, json=json)


@builder_app.command("delete")
def builder_delete(
    ctx: typer.Context,
    config: ConfigOption = None,
    builder_project: BuilderProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Delete the builder image; the next sync builds a new one."""
    settings = effective_settings(ctx, config, builder_project=builder_project, lxd=remote)
    from lxdocker.builder import image
    from lxdocker.lxd.api import Lxd

    console = ctx.obj.console
    gone = image.delete(Lxd.of(settings), settings.builder_project)
    if json:
        from lxdocker.cli import documents

        console.json(documents.builder_deleted(gone))
    else:
        console.print(f"deleted builder image {gone.fingerprint.short}" if gone else "no builder image to delete")


@builder_app.command("input")
def builder_input(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image's spec.")],
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="SHA256", help="Digest of the manifest [the spec's current one].")
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Print the finished image's metadata, lxd.tar.xz, instead.")
    ] = False,
    changes: Annotated[
        bool, typer.Option("--changes", help="Print the spec's files, as the builder takes them, instead.")
    ] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    insecure_registry: InsecureOption = None,
    remote: RemoteOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Print a builder's input, to repeat a build by hand.

    The input is a tar archive with scripts, files and logins; the log of a sync (-v) shows how to use it.
    """
    if metadata and changes:
        raise UsageError("--metadata and --changes exclude each other", "each is an output of its own", "leave one out")
    settings = effective_settings(ctx, config, specs=specs, insecure_registries=insecure_registry, lxd=remote)
    from lxdocker.builder import recipe
    from lxdocker.config.spec import read_specs, select_one
    from lxdocker.sync.context import open_context
    from lxdocker.sync.make import Making
    from lxdocker.sync.request import wanted_again
    from lxdocker.values import Digest

    try:
        manifest = Digest.parse(digest) if digest else None
    except ValueError as error:
        raise UsageError(f"not a digest: {digest}", str(error), "sha256: and 64 hex digits") from None
    found = read_specs(settings.specs, places_of(settings))
    spec = select_one(found, name, settings.specs)
    with cancellable() as cancelled, open_context(settings, cancelled) as context:
        request = Making.of(context, wanted_again(context, spec, manifest), anew=True).request
    if changes:
        for piece in recipe.file_records(request):
            ctx.obj.console.write(piece)
    else:
        ctx.obj.console.write(recipe.image_metadata(request) if metadata else recipe.given(request))
