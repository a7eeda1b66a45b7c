"""Results as JSON, for programs: the contract in docs/json.md, and a schema for each in ``schema/output/``.

A new key needs no new number; what existing programs could trip over does: a key that goes, or means something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lxdocker.builder.image import BuilderImage
from lxdocker.config.spec import ImageSpec
from lxdocker.errors import LxdockerError, SpecError
from lxdocker.sync.outcome import Report
from lxdocker.sync.state import ImageState
from lxdocker.tree.rollback import Rollback
from lxdocker.tree.verify import Verified
from lxdocker.tree.version import Published, Withheld

if TYPE_CHECKING:
    from lxdocker.follow.remote import Added  # which load what only they need
    from lxdocker.follow.run import Followed
    from lxdocker.tree.mirror import Failure, Mirrored
    from lxdocker.tree.server import Listed

Document = dict[str, Any]
SCHEMA = 1  # the number in every document


def error(found: LxdockerError) -> Document:
    """What failed, why, what to do now, and the exit status of a command that ends with it."""
    document = {"what": found.brief, "why": found.details, "do": found.resolution, "exit": found.exit_code}
    if isinstance(found, SpecError):
        document["mistakes"] = [
            {
                "file": mistake.where or None,
                "line": mistake.line or None,
                "key": mistake.field or None,
                "text": mistake.text,
            }
            for mistake in found.mistakes
        ]
    return document


def failed(found: LxdockerError) -> Document:
    """A command that came to nothing."""
    return _document(error=error(found))


def images(states: Sequence[ImageState], result: Report | None = None) -> Document:
    """The images: before a sync, after it (``result``), or without one."""
    return _document(
        images=[_image(state) for state in states],
        pruned=list(result.pruned) if result else [],
        kept_builders=list(result.kept_builders) if result else [],
    )


def _image(image: ImageState) -> Document:
    held = image.held
    return {
        "name": str(image.name),
        "state": image.state.value,
        "action": image.verb.value if image.verb else None,
        "outcome": image.outcome.value if image.outcome else None,
        "reason": image.reason,
        "source": image.source,
        "architecture": image.arch.value,
        "aliases": list(image.aliases),
        "version": image.published.key if image.published else None,
        "digest": held.provenance.source_digest.value if held else None,
        "fingerprint": held.fingerprint.value if held else None,
        "size": image.size,
        "built_at": held.provenance.built_at if held else None,
        "published_at": _time(image.published_at),
        "withheld_at": _time(image.withheld_at),
        "seconds": None if image.seconds is None else round(image.seconds, 3),
        "error": error(image.error) if image.error else None,
    }


def _time(moment: datetime | None) -> str | None:
    """As RFC 3339 has it."""
    return moment.isoformat(timespec="seconds") if moment else None


def _document(**content: Any) -> Document:
    return {"schema": SCHEMA, **content}


def specs(found: Sequence[ImageSpec]) -> Document:
    """Valid specs."""
    return _document(
        specs=[{"name": spec.name.value, "image": str(spec.image), "file": str(spec.path)} for spec in found]
    )


def builder(image: BuilderImage, stale: str | None) -> Document:
    """The builder image. ``stale``: why the next sync replaces it."""
    return _document(
        fingerprint=image.fingerprint.value,
        size=image.size,
        built_at=_time(image.built_at),
        base=image.base,
        versions=dict(image.versions),
        stale=stale,
    )


def builder_deleted(gone: BuilderImage | None) -> Document:
    """The builder image that was deleted, if there was one."""
    return _document(deleted=gone.fingerprint.value if gone else None)


def rolled_back(done: Sequence[Rollback]) -> Document:
    """The versions that clients get now, and those withheld."""
    return _document(
        rolled_back=[
            {
                "name": rollback.current.name.value,
                "architecture": rollback.current.arch.value,
                "version": rollback.current.key,
                "fingerprint": rollback.current.fingerprint.value,
                "withheld": [gone.key for gone in rollback.withheld],
            }
            for rollback in done
        ]
    )


def undone(versions: Sequence[Withheld], again: Sequence[Withheld]) -> Document:
    """The versions that may be published again, and those that are."""
    return _document(undone=[version.key for version in versions], published=[version.key for version in again])


def verified(found: Verified) -> Document:
    """Problems in the tree, and the repairs."""
    findings = [
        {
            "kind": finding.kind.value,
            "path": finding.path,
            "problem": finding.problem,
            "repaired": finding.repaired or None,
        }
        for finding in found.findings
    ]
    return _document(clean=found.clean, versions=found.versions, size=found.size, findings=findings)


def mirrored(result: Mirrored) -> Document:
    """Copied versions and failures."""
    return _document(
        fetched=_published(result.fetched),
        updated=_published(result.updated),
        unchanged=result.unchanged,
        withdrawn=_published(result.withdrawn),
        deleted=_published(result.deleted),
        failed=_failures(result.failed),
        bytes=result.size,
    )


def followed(result: Followed) -> Document:
    """Imported images and failures."""
    return _document(
        imported=_listed(result.imported),
        updated=_listed(result.updated),
        unchanged=result.unchanged,
        removed=[fingerprint.value for fingerprint in result.removed],
        left=[
            {"name": imported.origin.name.value, "fingerprint": imported.image.fingerprint.value}
            for imported in result.left
        ],
        failed=_failures(result.failed),
        bytes=result.size,
    )


def remote_added(added: Added) -> Document:
    """The remote that was added or brought up to date."""
    return _document(
        name=added.name,
        url=added.url,
        client=added.client,
        images=added.images,
        certificate=str(added.certificate) if added.certificate else None,
        registry=added.registry,
    )


def _published(versions: Sequence[Published]) -> list[Document]:
    return [
        {"name": version.name.value, "architecture": version.arch.value, "version": version.key} for version in versions
    ]


def _listed(images: Sequence[Listed]) -> list[Document]:
    return [
        {"name": image.name.value, "version": image.key, "fingerprint": image.fingerprint.value} for image in images
    ]


def _failures(failed: Sequence[Failure]) -> list[Document]:
    return [
        {"name": failure.name.value, "version": failure.key or None, "error": error(failure.error)}
        for failure in failed
    ]
