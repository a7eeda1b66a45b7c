"""Results as JSON, for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lxdocker.builder.image import BuilderImage
from lxdocker.config.spec import ImageSpec
from lxdocker.errors import LxdockerError
from lxdocker.sync.outcome import Outcome, Report
from lxdocker.tree.rollback import Rollback
from lxdocker.tree.verify import Verified
from lxdocker.tree.version import Published, Withheld

if TYPE_CHECKING:
    from lxdocker.follow.run import Followed  # which load what only they need
    from lxdocker.tree.mirror import Failure, Mirrored
    from lxdocker.tree.server import Listed

Document = dict[str, Any]


def error(found: LxdockerError) -> Document:
    """What failed, why, what to do now."""
    return {"what": found.brief, "why": found.details, "do": found.resolution}


def synced(result: Report) -> Document:
    """What a sync did."""
    return {
        "images": [_outcome(outcome) for outcome in result.outcomes],
        "pruned": list(result.pruned),
        "kept_builders": list(result.kept_builders),
    }


def _outcome(outcome: Outcome) -> Document:
    return {
        "name": str(outcome.name),
        "status": outcome.status.value,
        "reason": outcome.reason,
        "fingerprint": outcome.fingerprint.value if outcome.fingerprint else None,
        "seconds": round(outcome.seconds, 3),
        "error": error(outcome.error) if outcome.error else None,
    }


def planned(actions: Sequence[tuple[str, str, str]]) -> Document:
    """What a sync would do. ``actions``: names, verbs and reasons."""
    return {"plan": [{"name": name, "action": verb, "reason": why} for name, verb, why in actions]}


def specs(found: Sequence[ImageSpec]) -> Document:
    """Valid specs."""
    return {"specs": [{"name": spec.name.value, "image": str(spec.image), "file": str(spec.path)} for spec in found]}


def status(rows: Sequence[Mapping[str, str | None]]) -> Document:
    """The images, and whether each is up to date."""
    return {"images": [dict(row) for row in rows]}


def builder(image: BuilderImage, stale: str | None) -> Document:
    """The builder image. ``stale``: why the next sync replaces it."""
    return {
        "fingerprint": image.fingerprint.value,
        "size": image.size,
        "built_at": image.built_at.isoformat(),
        "base": image.base,
        "versions": dict(image.versions),
        "stale": stale,
    }


def rolled_back(done: Sequence[Rollback]) -> Document:
    """The versions that clients get now, and those withheld."""
    return {
        "rolled_back": [
            {
                "name": rollback.current.name.value,
                "arch": rollback.current.arch.value,
                "version": rollback.current.key,
                "fingerprint": rollback.current.fingerprint.value,
                "withheld": [gone.key for gone in rollback.withheld],
            }
            for rollback in done
        ]
    }


def undone(versions: Sequence[Withheld], again: Sequence[Withheld]) -> Document:
    """The versions that may be published again, and those that are."""
    return {"undone": [version.key for version in versions], "published": [version.key for version in again]}


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
    return {"clean": found.clean, "versions": found.versions, "size": found.size, "findings": findings}


def mirrored(result: Mirrored) -> Document:
    """Copied versions and failures."""
    return {
        "fetched": _published(result.fetched),
        "updated": _published(result.updated),
        "unchanged": result.unchanged,
        "withdrawn": _published(result.withdrawn),
        "deleted": _published(result.deleted),
        "failed": _failures(result.failed),
        "bytes": result.size,
    }


def followed(result: Followed) -> Document:
    """Imported images and failures."""
    return {
        "imported": _listed(result.imported),
        "updated": _listed(result.updated),
        "unchanged": result.unchanged,
        "removed": [fingerprint.value for fingerprint in result.removed],
        "left": [
            {"name": imported.origin.name.value, "fingerprint": imported.image.fingerprint.value}
            for imported in result.left
        ],
        "failed": _failures(result.failed),
        "bytes": result.size,
    }


def _published(versions: Sequence[Published]) -> list[Document]:
    return [{"name": version.name.value, "arch": version.arch.value, "version": version.key} for version in versions]


def _listed(images: Sequence[Listed]) -> list[Document]:
    return [
        {"name": image.name.value, "version": image.key, "fingerprint": image.fingerprint.value} for image in images
    ]


def _failures(failed: Sequence[Failure]) -> list[Document]:
    return [{"name": failure.name.value, "version": failure.key, "error": error(failure.error)} for failure in failed]
