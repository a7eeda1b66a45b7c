"""Results as JSON, for programs: the contract in docs/json.md, and a schema for each in ``schema/output/``.

A new key needs no new number; what existing programs could trip over does: a key that goes, or means something else.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lxdocker.errors import LxdockerError, SpecError

if TYPE_CHECKING:
    # What only some commands need, and none for more than its type.
    from collections.abc import Sequence
    from pathlib import Path

    from lxdocker.appliance.build import Made
    from lxdocker.appliance.delete import Deleted
    from lxdocker.appliance.health import Served
    from lxdocker.appliance.look import Status as Appliance
    from lxdocker.builder.image import BuilderImage
    from lxdocker.config.settings import Effective
    from lxdocker.config.spec import ImageSpec
    from lxdocker.docker.inspection import Inspection
    from lxdocker.docker.new_spec import NewSpec
    from lxdocker.docker.service import Lost
    from lxdocker.docker.translate import Converted, SpecText
    from lxdocker.doctor.finding import Finding
    from lxdocker.doctor.run import Diagnosis
    from lxdocker.follow.remote import Added
    from lxdocker.follow.run import Followed
    from lxdocker.image.difference import Difference, Entry, FileChange, Files, Side
    from lxdocker.sync.compare import Rebuilt
    from lxdocker.sync.history import Event
    from lxdocker.sync.outcome import Dropped, Report
    from lxdocker.sync.state import ImageState
    from lxdocker.tree.listing import ListedVersion
    from lxdocker.tree.mirror import Failure, Mirrored
    from lxdocker.tree.rollback import Rollback
    from lxdocker.tree.server import Listed
    from lxdocker.tree.verify import Verified
    from lxdocker.tree.version import Published, Withheld

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


def images(
    states: Sequence[ImageState], result: Report | None = None, *, outdated: LxdockerError | None = None
) -> Document:
    """The images: before a sync, after it (``result``), or without one. ``outdated``: why the specs are not the newest
    of their repository.
    """
    outdated = result.outdated if result else outdated
    return _document(
        images=[_image(state) for state in states],
        pruned=[_dropped(version) for version in result.pruned] if result else [],
        kept_builders=list(result.kept_builders) if result else [],
        outdated=error(outdated) if outdated else None,
    )


def _dropped(version: Dropped) -> Document:
    return {
        "name": version.name.value,
        "architecture": version.arch.value,
        "version": version.key,
        "change": "deleted" if version.is_deleted else "withdrawn",
        "reason": version.reason,
    }


def _image(image: ImageState) -> Document:
    return {
        "name": str(image.name),
        "state": image.state.value,
        "action": image.verb.value if image.verb else None,
        "outcome": image.outcome.value if image.outcome else None,
        "reason": image.reason,
        "source": image.source,
        "architecture": image.arch.value,
        "aliases": list(image.aliases),
        "version": image.version,
        "digest": image.digest.value if image.digest else None,
        "fingerprint": image.fingerprint.value if image.fingerprint else None,
        "size": image.size,
        "built_at": _time(image.built_at),
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


def versions(found: Sequence[ListedVersion]) -> Document:
    """The versions in the published tree."""
    return _document(
        versions=[
            {
                "name": version.name.value,
                "architecture": version.arch.value,
                "version": version.key,
                "state": version.state.value,
                "source": version.provenance.source,
                "digest": version.provenance.source_digest.value,
                "fingerprint": version.fingerprint.value,
                "size": version.size,
                "built_at": _time(version.provenance.built),
                "published_at": _time(version.published_at),
                "withdrawn_at": _time(version.withdrawn_at),
                "withheld_at": _time(version.withheld_at),
                "kept_until": _time(version.kept_until),
            }
            for version in found
        ]
    )


def log(found: Sequence[Event]) -> Document:
    """What changed when."""
    return _document(
        events=[
            {
                "at": _time(event.at),
                "event": event.kind.value,
                "name": event.name.value,
                "version": event.version,
                "architecture": event.arch.value if event.arch else None,
                "source": event.source,
                "digest": event.digest.value if event.digest else None,
                "fingerprint": event.fingerprint.value,
            }
            for event in found
        ]
    )


def settings(found: Sequence[Effective]) -> Document:
    """The settings in force."""
    return _document(
        settings=[
            {
                "name": setting.name,
                "value": _plain(setting.value),
                "origin": setting.origin,
                "where": setting.where or None,
            }
            for setting in found
        ]
    )


def _plain(value: object) -> object:
    """A setting's value as JSON has it."""
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def inspected(found: Inspection) -> Document:
    """What an image is and needs."""
    config, health, spec = found.config, found.health, found.spec
    created = datetime.fromtimestamp(config.created, UTC) if config.created else None
    return _document(
        image=str(found.ref),
        spec=None
        if spec is None
        else {
            "name": spec.name.value,
            "file": str(spec.path),
            "values": list(found.from_spec),
            "changes": list(found.changes),
        },
        digest=found.image.source_digest.value,
        manifest=found.image.manifest_digest.value,
        created_at=_time(created),
        platforms=list(found.platforms),
        size=found.size,
        layers=None
        if found.image.layers is None
        else [
            {"digest": layer.digest.value, "size": layer.size, "media_type": layer.media_type}
            for layer in found.image.layers
        ],
        entrypoint=list(config.entrypoint),
        cmd=list(config.cmd),
        user=config.user or "root",
        working_dir=config.working_dir,
        environment=dict(config.env),
        ports=list(config.exposed_ports),
        volumes=list(config.volumes),
        health_check=None
        if health is None
        else {
            "command": list(health.command),
            **{
                key: getattr(health, key)
                for key in ("interval", "timeout", "start_period", "start_interval", "retries")
            },
        },
        stop_signal=config.stop_signal or "SIGTERM",
        own_init=found.own_init or None,
        behaviour={**asdict(found.behaviour), "tmpfs": dict(found.behaviour.tmpfs)},
        source=found.source or None,
        version=found.version or None,
        labels=dict(config.labels),
        warnings=_cautions(found),
    )


def _cautions(found: Inspection) -> list[Document]:
    return [{"kind": one.kind, "what": one.what, "do": one.do} for one in found.cautions]


def added(new: NewSpec, path: Path, *, written: bool) -> Document:
    """A new spec, what its image expects, and what is left to do."""
    found = new.found.expects
    return _document(
        spec=_spec_text(new.spec, path, written=written),
        expects={
            "command": found.command,
            "ports": list(found.ports),
            "volumes": list(found.volumes),
            "variables": list(found.variables),
            "user": found.user,
            "health_check": found.health or None,
            "init": found.init or None,
            "ends_at_once": found.ends_at_once,
        },
        warnings=_cautions(new.found),
        commands=list(new.commands),
        lost=_lost(new.lost),
    )


def _lost(found: Sequence[Lost]) -> list[Document]:
    return [
        {"service": lost.service or None, "what": lost.what, "why": lost.why, "essential": lost.essential}
        for lost in found
    ]


def converted(result: Converted, folder: Path, *, written: bool) -> Document:
    """Specs and commands in place of Docker's, and what is lost."""
    return _document(
        specs=[_spec_text(spec, folder / f"{spec.name}.yaml", written=written) for spec in result.specs],
        commands=list(result.commands),
        lost=_lost(result.lost),
    )


def _spec_text(spec: SpecText, path: Path, *, written: bool) -> Document:
    return {
        "name": spec.name.value,
        "image": str(spec.image),
        "file": str(path),
        "written": written,
        "text": spec.text,
    }


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


def trusted(lxd: str, fingerprint: str, certificate: Path, *, trusted: bool) -> Document:
    """Another host's LXD, the fingerprint of its certificate, and whether it trusts this lxdocker's."""
    return _document(lxd=lxd, fingerprint=fingerprint, certificate=str(certificate), trusted=trusted)


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
    return _document(clean=found.clean, versions=found.versions, size=found.size, read=found.read, findings=findings)


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


def difference(found: Difference) -> Document:
    """What differs between two versions of an image."""
    return _document(
        name=found.name.value,
        architecture=found.arch.value,
        old=_side(found.old),
        new=_side(found.new),
        values=[
            {
                "change": value.change.value,
                "group": value.group.value,
                "key": value.key,
                "old": value.before,
                "new": value.after,
            }
            for value in found.values
        ],
        inputs=list(found.parts),
        **_contents(found.files),
    )


def rebuilt(found: Sequence[Rebuilt]) -> Document:
    """Images that were built twice."""
    return _document(
        images=[
            {
                "name": image.name.value,
                "reproducible": None if image.error else image.is_reproducible,
                "digest": image.manifest.value if image.manifest else None,
                "fingerprints": [fingerprint.value for fingerprint in image.fingerprints],
                **_contents(image.files),
                "error": error(image.error) if image.error else None,
            }
            for image in found
        ]
    )


def _side(side: Side) -> Document:
    return {
        "version": side.version,
        "source": side.provenance.source,
        "digest": side.provenance.source_digest.value,
        "fingerprint": side.fingerprint.value if side.fingerprint else None,
        "size": side.size,
        "layers": None
        if side.layers is None
        else [{"digest": layer.digest.value, "size": layer.size} for layer in side.layers],
    }


def _contents(found: Files | None) -> Document:
    """Packages and files; null where they were not compared."""
    if found is None:
        return {"packages": None, "files": None, "notes": []}
    packages = [
        {
            "change": package.change.value,
            "manager": package.manager,
            "name": package.name,
            "architecture": package.architecture,
            "old": package.before,
            "new": package.after,
        }
        for package in found.packages
    ]
    return {"packages": packages, "files": [_file(file) for file in found.changes], "notes": list(found.notes)}


def _file(file: FileChange) -> Document:
    return {
        "change": file.change.value,
        "path": file.path.decode("utf-8", "surrogateescape"),
        "differs": list(file.fields),
        "old": _entry(file.before) if file.before else None,
        "new": _entry(file.after) if file.after else None,
    }


def _entry(entry: Entry) -> Document:
    return {
        "type": entry.type.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "time": entry.time,
        "device": entry.device,
        "sha256": entry.sha256,
        "target": None if entry.target is None else entry.target.decode("utf-8", "surrogateescape"),
        "attributes": list(entry.attributes),
    }


def appliance_made(name: str, made: Made, joined: str | None) -> Document:
    """An appliance that was made or upgraded."""
    return _document(name=name, existed=made.existed, synced=made.synced, remote=joined, **_served(made.served))


def appliance(found: Appliance) -> Document:
    """How an appliance is."""
    timer = found.timer
    return _document(
        name=found.name,
        stage=found.stage.value,
        running=found.running,
        healthy=found.healthy,
        problem=found.problem,
        lxdocker=found.version,
        serving=found.serving,
        **_served(found.served),
        timer=None
        if timer is None
        else {
            "kind": timer.kind,
            "active": timer.active,
            "last": _time(timer.last) if timer.last else None,
            "next": _time(timer.next) if timer.next else None,
            "result": timer.result,
        },
        images=list(found.images),
    )


def appliance_deleted(gone: Deleted) -> Document:
    """What is gone of an appliance, and what was kept."""
    return _document(
        deleted=list(gone.gone),
        volumes=[{"pool": pool, "name": name} for pool, name in gone.volumes],
        project=gone.project,
    )


def _served(served: Served | None) -> Document:
    return {
        "url": served.url if served else None,
        "address": served.address if served else None,
        "elsewhere": served.elsewhere if served else None,
        "certificate": served.certificate.fingerprint if served else None,
    }


def diagnosis(found: Diagnosis) -> Document:
    """What the doctor has found."""
    return _document(
        healthy=found.is_healthy,
        findings=[_finding(one) for one in found.findings],
        examinations=[{"name": name, "seconds": round(seconds, 3)} for name, seconds in found.seconds],
    )


def _finding(found: Finding) -> Document:
    return {
        "id": found.id,
        "severity": found.severity.value,
        "what": found.what,
        "why": found.why,
        "do": found.do,
        "page": found.page,
        "fix": list(found.fix.commands) if found.fix else None,
        "fixed": found.is_fixed,
    }
