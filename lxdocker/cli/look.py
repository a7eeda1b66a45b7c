"""inspect, new, add, convert: what an image is, and specs for images that ran under Docker."""

from __future__ import annotations

import os
import re
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
from lxdocker.errors import RegistryError, UsageError

if TYPE_CHECKING:
    # Each command loads what it needs itself.
    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings
    from lxdocker.docker.new_spec import NewSpec
    from lxdocker.docker.service import Service
    from lxdocker.docker.translate import Where
    from lxdocker.source.resolve import Description
    from lxdocker.values import ImageName, ImageRef

_DRY_RUN = typer.Option("--dry-run", help="Print the spec instead of writing it.")


@app.command()
def inspect(
    ctx: typer.Context,
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|NAME", help="An image, or a spec (shown with its changes); specs take precedence."
        ),
    ],
    config: ConfigOption = None,
    specs: SpecsOption = None,
    insecure_registry: InsecureOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show an image's properties and requirements before a build.

    Asks its registry for the manifest and the configuration, never for a layer: command, user, environment, ports,
    volumes, health check, sizes, architectures, labels. Warns of differences under LXD, and says what to do.
    """
    settings = effective_settings(ctx, config, specs=specs, insecure_registries=insecure_registry)
    from lxdocker.cli import describe, documents
    from lxdocker.config.selection import named
    from lxdocker.docker import inspection
    from lxdocker.image.overrides import overridden

    console = ctx.obj.console
    spec = named(image, settings.specs)
    ref = spec.image if spec else _reference(image)
    try:
        described = _ask(console, settings, ref)
    except RegistryError as error:
        if not spec and re.fullmatch(r"[A-Za-z0-9_-]+", image):  # perhaps a spec's name with a mistake
            error.resolution += f"; there is no spec {image} in {settings.specs}, either"
        raise
    changed = overridden(described.config, spec.changes.overrides) if spec else described.config
    found = inspection.inspect(ref, described, changed, spec)
    if json:
        console.json(documents.inspected(found))
    else:
        describe.print_inspection(console, found)


@app.command()
def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new image, and of its spec.")],
    image: Annotated[
        str | None,
        typer.Argument(metavar="[IMAGE|SERVICE]", help="The image; with --from-compose, one of the file's services."),
    ] = None,
    from_run: Annotated[
        str | None, typer.Option("--from-run", metavar="COMMAND", help="A docker run command, in quotes; - for stdin.")
    ] = None,
    from_compose: Annotated[
        str | None, typer.Option("--from-compose", metavar="FILE", help="A compose file; - for stdin.")
    ] = None,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    insecure_registry: InsecureOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Write a spec for an image, a docker run command or a service of a compose file.

    Asks the registry, shows the image's requirements, and prints lxc commands for options that a spec does not
    support. An existing spec is never overwritten. The exit status is 1 if something essential is lost.
    """
    settings = effective_settings(ctx, config, specs=specs, insecure_registries=insecure_registry)
    from lxdocker.values import ImageName

    try:
        chosen = ImageName.parse(name)
    except ValueError as error:
        raise UsageError("not a name for an image", str(error), "lxdocker new NAME IMAGE") from None
    ref, given = _source(settings, chosen, image, from_run, from_compose)
    _write(ctx.obj.console, settings, ref, chosen, given, dry_run=dry_run, json=json)


@app.command()
def add(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image, or the URL of its page at a registry.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the new image [the image's].")] = None,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    insecure_registry: InsecureOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Write a spec for an image, as new does, named after the image.

    Shows the image's ports, volumes, variables, user and health check, and the commands that launch it. An
    existing spec is never overwritten.
    """
    settings = effective_settings(ctx, config, specs=specs, insecure_registries=insecure_registry)
    from lxdocker.docker.translate import spec_name
    from lxdocker.values import ImageName

    ref = _reference(image)
    try:
        chosen = ImageName.parse(name) if name else spec_name(ref, "image", ())
    except ValueError as error:
        raise UsageError("not a name for an image", str(error), "lxdocker add IMAGE NAME") from None
    _write(ctx.obj.console, settings, ref, chosen, None, dry_run=dry_run, json=json)


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

    Runs no command and asks no registry. Lists each flag or key without a counterpart in LXD. The exit status is
    1 if one of them is essential: without it, the application may fail, lose data, or be reached in another way.
    """
    settings = effective_settings(ctx, config, specs=specs)
    from lxdocker.cli import brought, describe, documents
    from lxdocker.config import specfile
    from lxdocker.docker import translate

    console = ctx.obj.console
    pool = settings.pool or "default"
    services, folder = brought.read(words, pool)
    found = translate.convert(services, folder, _where(settings), str(specfile.schema_path()))
    if write:
        _refuse_repository(settings)
        instead = "leave out --write, and copy the keys that you need from what is printed"
        paths = [(specfile.path_for(settings.specs, spec.name, instead), spec.text) for spec in found.specs]
        specfile.make_folder(settings.specs)
        for path, text in paths:
            specfile.write_new(path, text)
    if json:
        console.json(documents.converted(found, settings.specs, written=write))
    else:
        describe.print_converted(console, found, settings.specs, written=write)
    raise typer.Exit(0 if found.is_whole else 1)


def _where(settings: Settings) -> Where:
    """Where the printed commands make instances."""
    from lxdocker.docker.translate import Where

    remote = (settings.lxd or "").removesuffix(":")
    is_name = remote not in {"", "local"} and "/" not in remote and not remote.startswith("unix:")
    return Where(settings.pool or "default", settings.project, remote if is_name else "")


def _refuse_repository(settings: Settings) -> None:
    """What is written beside the specs of a repository is gone with its next commit."""
    if settings.specs_repository:
        why = "its specs come from a repository (setting specs_repository)"
        instead = "commit the spec there; lxdocker new --dry-run and lxdocker convert print it"
        raise UsageError(f"cannot write to {settings.specs}", why, instead)


def _reference(text: str) -> ImageRef:
    from lxdocker.values import parse_image_ref

    try:
        return parse_image_ref(text, Path.cwd())
    except ValueError as error:
        raise UsageError(
            "not an image", str(error), "name it as for docker pull: nginx, ghcr.io/owner/name:tag"
        ) from None


def _ask(console: Console, settings: Settings, ref: ImageRef) -> Description:
    from lxdocker.source.credentials import Credentials
    from lxdocker.source.known import Known
    from lxdocker.source.registry import RegistryClient
    from lxdocker.source.resolve import Resolver
    from lxdocker.values import Arch, RegistryRef

    with (
        cancellable(),
        console.progress() as progress,
        progress.step(f"asking {ref.registry if isinstance(ref, RegistryRef) else ref.path}"),
        RegistryClient(Credentials(), settings.insecure_registries) as registry,
    ):
        return Resolver(registry, Arch.host(), Known.of(os.environ)).describe(ref)


def _source(
    settings: Settings, name: ImageName, image: str | None, from_run: str | None, from_compose: str | None
) -> tuple[ImageRef, Service | None]:
    """The image of a new spec, and the container that it is for, if one was given."""
    usage = "lxdocker new NAME IMAGE, or with --from-run or --from-compose in place of IMAGE"
    if from_run is None and from_compose is None:
        if image is None:
            raise UsageError("no image for the new spec", "", usage)
        return _reference(image), None
    if from_run is not None and (from_compose is not None or image is not None):
        raise UsageError("several images for the new spec", "a docker run command names one itself", usage)
    from lxdocker.cli import brought
    from lxdocker.docker.new_spec import chosen
    from lxdocker.docker.quantities import instance_name
    from lxdocker.values import parse_image_ref

    pool = settings.pool or "default"
    services, folder = brought.read([from_run or from_compose or ""], pool, instance_name(name.value))
    service = chosen(services, image)
    try:
        return parse_image_ref(service.image, folder), service
    except ValueError as error:
        raise UsageError("not an image", str(error), "correct the command or the file") from None


def _write(
    console: Console,
    settings: Settings,
    ref: ImageRef,
    name: ImageName,
    given: Service | None,
    *,
    dry_run: bool,
    json: bool,
) -> None:
    """Makes a spec, and prints it or what was done."""
    from lxdocker.cli import describe, documents
    from lxdocker.config import specfile

    if not dry_run:
        _refuse_repository(settings)
    path = specfile.path_for(settings.specs, name)
    made = _make(settings, name, ref, given, _ask(console, settings, ref))
    if not dry_run:
        if specfile.make_folder(path.parent):
            console.note(f"made the folder of specs {path.parent}")
        specfile.write_new(path, made.spec.text)
    if json:
        console.json(documents.added(made, path, written=not dry_run))
    else:
        describe.print_new_spec(console, made, path, written=not dry_run)
    raise typer.Exit(0 if made.is_whole else 1)


def _make(settings: Settings, name: ImageName, ref: ImageRef, given: Service | None, described: Description) -> NewSpec:
    from dataclasses import replace

    from lxdocker.config import specfile
    from lxdocker.config.changes import overrides
    from lxdocker.docker import inspection, spec_keys
    from lxdocker.docker.new_spec import new_spec
    from lxdocker.image.overrides import overridden

    keys, rest = spec_keys.split(given, described.config.exposed_ports) if given else ({}, None)
    # What the instance sets itself needs no value any more.
    variables = (
        tuple((name, f"${name}" if value is None else value) for name, value in given.environment) if given else ()
    )
    config = overridden(described.config, replace(overrides(keys), environment=variables))
    found = inspection.inspect(ref, described, config)
    return new_spec(name, found, _where(settings), str(specfile.schema_path()), keys, rest)
