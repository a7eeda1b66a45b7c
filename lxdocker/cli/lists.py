"""list, log, config, publish list: what there is, without asking a registry."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from lxdocker.cli.app import (
    ConfigOption,
    JsonOption,
    ProjectOption,
    QuietOption,
    RemoteOption,
    SpecsOption,
    TreeOption,
    VerboseOption,
    app,
    effective_settings,
    publish_app,
)
from lxdocker.cli.table import NAME, SOURCE, STATE, Column, digest_column
from lxdocker.errors import HostError, SpecError, UsageError
from lxdocker.progress import human_size

if TYPE_CHECKING:
    # Each command loads what it needs itself.
    from datetime import datetime

    from lxdocker.cli.console import Console
    from lxdocker.config.settings import Settings
    from lxdocker.sync.holdings import Holdings
    from lxdocker.tree.tree import Tree
    from lxdocker.values import Arch, ImageName

NameArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Image [all].")]
_BUILT = Column("BUILT", least=10)
_REASON = Column("REASON", least=10)


@app.command("list")
def list_images(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Images [all].")] = None,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List the images in LXD and in the published tree.

    Shows the state after the last sync. Unlike status, it asks no registry.
    """
    settings = effective_settings(ctx, config, specs=specs, tree=tree, project=project, lxd=remote)
    from lxdocker.cli import documents
    from lxdocker.config.repository import outdated
    from lxdocker.config.spec import spec_names
    from lxdocker.image.provenance import folder_id
    from lxdocker.sync.state import Survey
    from lxdocker.tree import last_sync
    from lxdocker.tree.tree import Tree

    console = ctx.obj.console
    published = Tree(settings.tree)
    holdings, arch = _look(published, settings, console)
    folder = folder_id(settings.specs)
    last = last_sync.read(settings.tree, folder)
    try:
        specified = spec_names(settings.specs)
    except SpecError:  # as on a host that only imports images
        specified = None
    survey = Survey(holdings, arch, published.at_work())
    images = survey.listed(specified, folder, last.failed if last else ())
    if unknown := sorted(set(names or ()) - {str(image.name) for image in images}):
        raise UsageError(f"no such image: {', '.join(unknown)}", "", "lxdocker list shows all of them")
    images = [image for image in images if not names or str(image.name) in names]
    if json:
        console.json(documents.images(images, outdated=outdated(settings)))
        return
    if not images:
        console.note("no images yet: lxdocker sync builds them from specs")
        return
    console.table(
        [NAME, STATE, "SIZE", SOURCE, _BUILT, Column("VERSION", least=13), _REASON],
        [
            [
                str(image.name),
                image.state.value,
                human_size(image.size) if image.size is not None else "-",
                image.source or "-",
                _minute(image.built_at),
                image.version or "-",
                image.reason or "-",
            ]
            for image in images
        ],
    )


@app.command("log")
def show_log(
    ctx: typer.Context,
    name: NameArgument = None,
    config: ConfigOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show the history of changes, newest first.

    Reads LXD's image store and the published tree: images built or imported, and versions published, withdrawn or
    withheld. Deleted versions are not shown.
    """
    settings = effective_settings(ctx, config, tree=tree, project=project, lxd=remote)
    from lxdocker.cli import documents
    from lxdocker.sync.history import events
    from lxdocker.tree.tree import Tree

    console = ctx.obj.console
    image = _parse_name(name)
    holdings, _ = _look(Tree(settings.tree), settings, console)
    found = events(holdings, image)
    if image is not None and not found:
        raise UsageError(f"no such image: {image}", "", "lxdocker list shows all images")
    if json:
        console.json(documents.log(found))
        return
    if not found:
        console.note("no images yet, so nothing has changed")
        return
    console.table(
        [
            *(NAME, Column("EVENT", colours=STATE.colours), Column("TIME (UTC)"), Column("VERSION", least=13)),
            *(Column("SOURCE", least=12, cut="start"), digest_column(), digest_column("FINGERPRINT")),
        ],
        [
            [
                event.name.value,
                event.kind.value,
                _minute(event.at),
                event.version or "-",
                event.source or "-",
                event.digest.hex[:12] if event.digest else "-",
                event.fingerprint.short,
            ]
            for event in found
        ],
    )


@publish_app.command("list")
def publish_list(
    ctx: typer.Context,
    name: NameArgument = None,
    config: ConfigOption = None,
    tree: TreeOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List the versions in the published tree, newest first.

    A rollback can return to versions that are listed or in their grace period (see grace_hours).
    """
    settings = effective_settings(ctx, config, tree=tree)
    from lxdocker.cli import documents
    from lxdocker.tree.listing import versions
    from lxdocker.tree.tree import Tree

    console = ctx.obj.console
    found = versions(Tree(settings.tree), settings.grace_hours * 3600, _parse_name(name))
    if json:
        console.json(documents.versions(found))
        return
    if not found:
        console.note(f"no versions in {settings.tree}")
        return
    console.table(
        [
            *(NAME, STATE, "VERSION", Column("PUBLISHED (UTC)", least=10), "SIZE"),
            *(digest_column(), digest_column("FINGERPRINT"), Column("KEPT UNTIL", least=10)),
            Column("ARCHITECTURE", least=6),
        ],
        [
            [
                version.name.value,
                version.state.value,
                version.key,
                _minute(version.published_at),
                human_size(version.size) if version.size is not None else "-",
                version.provenance.source_digest.hex[:12],
                version.fingerprint.short,
                _minute(version.kept_until),
                version.arch.value,
            ]
            for version in found
        ],
    )


@app.command("config")
def show_config(
    ctx: typer.Context,
    config: ConfigOption = None,
    specs: SpecsOption = None,
    tree: TreeOption = None,
    project: ProjectOption = None,
    remote: RemoteOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show each setting in effect and its origin.

    The origin is an option, a variable, a line of the configuration file or the default. Logins in URLs are hidden.
    """
    from lxdocker.cli import documents
    from lxdocker.config.settings import explain

    given = {"config": config, "specs": specs, "tree": tree, "project": project, "lxd": remote}
    found = explain(given, os.environ)
    if json:
        ctx.obj.console.json(documents.settings(found))
        return
    ctx.obj.console.table(
        [NAME, Column("VALUE", least=20), Column("FROM", least=20, cut="start")],
        [[setting.name, _shown(setting.value), setting.where or setting.origin] for setting in found],
    )


def _look(tree: Tree, settings: Settings, console: Console) -> tuple[Holdings, Arch]:
    """What the store and the tree hold, and LXD's architecture. A tree can be looked at where LXD can't."""
    from lxdocker.lxd.api import Lxd
    from lxdocker.lxd.store import Store, StoreView
    from lxdocker.sync.holdings import Holdings
    from lxdocker.values import Arch

    published, withheld = tree.versions(), tree.withheld()
    try:
        lxd = Lxd.of(settings)
        store, arch = Store(lxd, settings.project).view(), lxd.arch
    except HostError as error:
        if not published:
            raise
        console.note(f"warning: only the published tree is shown ({error})")
        store, arch = StoreView((), {}), Arch.host()
    return Holdings.look(store, published, withheld), arch


def _parse_name(name: str | None) -> ImageName | None:
    from lxdocker.values import ImageName

    try:
        return None if name is None else ImageName.parse(name)
    except ValueError as error:
        raise UsageError("no such image", str(error), "lxdocker list shows all images") from None


def _minute(moment: datetime | str | None) -> str:
    return str(moment)[:16].replace("T", " ") if moment else "-"


def _shown(value: object) -> str:
    match value:
        case None | ():
            return "-"
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(map(str, value))
    return str(value)
