"""Where an image comes from: kept as LXD image properties and next to the published files.

The stores are the state: lxdocker knows nothing about an image from one run to the next but what is recorded here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from lxdocker.config.changes import Changes, HealthOverride
from lxdocker.config.spec import Behaviour, ImageSpec
from lxdocker.runtime import render
from lxdocker.source.resolve import ResolvedImage
from lxdocker.values import Arch, Digest, DiskRef, ImageName, ImageRef

PREFIX = "lxdocker."
# The path of the folder of specs: only in this host's own store, never published.
FOLDER_PATH = f"{PREFIX}folder_path"
# The key of its version in the published tree: there, too, so that a tree from a backup gives no key to two images.
PUBLISHED_AS = f"{PREFIX}published_as"
NOTES = frozenset({FOLDER_PATH, PUBLISHED_AS})  # of this host alone
MACHINE_ID = Path("/etc/machine-id")
_TEMPLATE = "templates:"
# Of the inputs: what the root filesystem is made of besides the spec's changes.
_OF_ROOTFS = ("recipe", "runtime", "name", "source", "manifest", "config", "arch", "compression_level")
_PLAIN = "/:._-"  # what the names of parts have unquoted
# Part of the image itself (metadata.yaml) and so of its fingerprint. The other fields may change without a build.
_SEALED = ("name", "source", "manifest_digest", "config_digest", "inputs")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an image was made from, by which spec, and when."""

    name: ImageName
    source: str  # source_label() of the spec's reference
    source_digest: Digest  # the digest of the tag at the last look
    manifest_digest: Digest
    config_digest: Digest
    inputs: str  # the hash of inputs()
    folder: str  # the id of the folder of specs that the image belongs to
    built_at: str  # RFC 3339, UTC
    parts: str = ""  # those of inputs(); "" if an older version recorded it
    rootfs: str = ""  # the hash of those that its root filesystem is made of; alike

    @property
    def resolved(self) -> ResolvedImage:
        """The registry's answer to an earlier run."""
        return ResolvedImage(self.source_digest, self.manifest_digest, self.config_digest, None)

    @property
    def built(self) -> datetime | None:
        """The time in UTC; None if it is in no form that lxdocker writes, as in an image that somebody has changed."""
        return parse_time(self.built_at)

    @property
    def title(self) -> str:
        """The source as lists show it: without the digest, which would fill the line."""
        return self.source.partition("@")[0]

    @property
    def repository(self) -> str:
        """The last part of the source's name: ``nginx``."""
        return self._last_part().partition(":")[0]

    @property
    def release(self) -> str:
        """The tag, or the beginning of the digest, as lists show it. Never empty, since LXD can't sort images of which
        only some have a release.
        """
        if "@" in self.source:
            return self.source_digest.short
        return self._last_part().partition(":")[2] or "current"

    def _last_part(self) -> str:
        """``nginx:1.27`` of ``docker.io/library/nginx:1.27``, and of ``oci:nginx:1.27``."""
        return self.title.rpartition("/")[2] if "/" in self.title else self.title.partition(":")[2]

    def seen_as(self, source_digest: Digest, folder: str) -> Provenance:
        """The same image, after its tag has moved to an index with the same manifest for this architecture."""
        return replace(self, source_digest=source_digest, folder=folder)

    def to_properties(self) -> dict[str, str]:
        """All of it, as image properties ``lxdocker.*``; LXD keeps no empty ones."""
        return {PREFIX + field: text for field in self.__slots__ if (text := str(getattr(self, field)))}

    def sealed_properties(self) -> dict[str, str]:
        """The properties that are part of the image itself."""
        return {PREFIX + field: str(getattr(self, field)) for field in _SEALED}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Provenance | None:
        """None unless lxdocker made the image and recorded all of it."""
        try:
            return cls(
                name=ImageName.parse(properties[PREFIX + "name"]),
                source=properties[PREFIX + "source"],
                source_digest=Digest.parse(properties[PREFIX + "source_digest"]),
                manifest_digest=Digest.parse(properties[PREFIX + "manifest_digest"]),
                config_digest=Digest.parse(properties[PREFIX + "config_digest"]),
                inputs=properties[PREFIX + "inputs"],
                folder=properties[PREFIX + "folder"],
                built_at=properties[PREFIX + "built_at"],
                parts=properties.get(PREFIX + "parts", ""),
                rootfs=properties.get(PREFIX + "rootfs", ""),
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of specs. Images name the folder that they belong to by its id, which does not tell where it is."""

    id: str  # folder_id()
    path: Path  # without symbolic links

    @classmethod
    def of(cls, specs: Path) -> Folder:
        path = specs.resolve()
        return cls(folder_id(path), path)


def parse_time(text: str) -> datetime | None:
    """RFC 3339, as LXD and lxdocker write it, in UTC; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def source_label(ref: ImageRef) -> str:
    """A reference fit for publishing: of an image on disk only the last part of its path."""
    if isinstance(ref, DiskRef):
        return f"{ref.kind.value}:{ref.path.name}" + (f":{ref.tag}" if ref.tag else "")
    return str(ref)


def folder_id(specs: Path) -> str:
    """16 hex digits for a folder of specs. The same path on another machine is another folder, since LXD copies an
    image's properties with it. A folder that was moved is another one, too: it has to adopt its images.
    """
    path = str(specs.resolve()).encode("utf-8", "surrogateescape")
    return hashlib.sha256(machine_id() + b"\0" + path).hexdigest()[:16]


def machine_id() -> bytes:
    """machine-id(5); empty on a host without one."""
    try:
        return MACHINE_ID.read_bytes().strip()
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that determines an image's content: equal inputs, equal image."""

    hash: str  # hex sha256 of all of it
    parts: str  # a short hash of each part, for messages
    rootfs: str  # hex sha256 of what determines the root filesystem


def inputs(spec: ImageSpec, source: str, resolved: ResolvedImage, arch: Arch, compression_level: int) -> Inputs:
    """The inputs of the image that ``spec`` names. ``source``: the source_label() of the spec's reference."""
    document: dict[str, Any] = {
        "recipe": render.RECIPE_VERSION,
        "runtime": render.runtime_hash(),
        "name": spec.name.value,
        "source": source,
        "manifest": resolved.manifest_digest.value,
        "config": resolved.config_digest.value,
        "arch": arch.value,
        "disable_supervisor": spec.disable_supervisor,  # `auto` as such: the config decides what it means
        "behaviour": asdict(spec.behaviour),
        "properties": list(spec.properties),
        "compression_level": compression_level,
    }
    changes = described(spec.changes)
    if changes:
        document["changes"] = changes
    usual = {"disable_supervisor": "auto", "properties": [], **asdict(Behaviour())}
    keys = {**{key: document[key] for key in ("disable_supervisor", "properties")}, **document["behaviour"]}
    parts = {
        "lxdocker": [document["recipe"], document["runtime"], document["compression_level"]],
        **{key: value for key, value in keys.items() if value != usual[key]},
        **changes,
    }
    told = " ".join(f"{quote(name, safe=_PLAIN)}={_hash(part)[:8]}" for name, part in parts.items())
    of_rootfs = {key: document[key] for key in _OF_ROOTFS} | {"changes": _of_rootfs(spec.changes, changes)}
    return Inputs(_hash(document), told, _hash(of_rootfs))


def _of_rootfs(changes: Changes, described: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the described changes that the root filesystem depends on. How the image runs is in LXD's metadata, but
    commands run as the image would, and templates of files are given its version.
    """
    only_metadata = {name for name in described if name.startswith(_TEMPLATE)}
    if not changes.run and not changes.packages:
        only_metadata |= {one.name for one in fields(changes.overrides)} - ({"labels"} if changes.files else set())
    return {name: value for name, value in described.items() if name not in only_metadata}


def described(changes: Changes) -> dict[str, Any]:
    """Each change by the key or file of the spec that makes it, as JSON; those that are not made are left out.

    Of files beside the spec and of layers only their hashes count, not where they are; of secrets only their names:
    what is recorded can be read by anybody.
    """
    found: dict[str, Any] = {}
    for file in changes.files:
        content = {one.name: getattr(file, one.name) for one in fields(file) if one.compare and one.name != "source"}
        found[f"files:{file.path}"] = {**content, "source": file.source and file.source.digest}
    if changes.packages:
        found["packages"] = [changes.packages.install, changes.packages.remove]
    if changes.run:
        found["run"] = [
            [step.command, step.user, step.network, step.timeout, [name for name, _ in step.secrets]]
            for step in changes.run
        ]
    for one in fields(changes.overrides):
        value = getattr(changes.overrides, one.name)
        if value != one.default:
            found[one.name] = asdict(value) if isinstance(value, HealthOverride) else value
    if changes.layers:
        found["layers"] = [layer.sha256 for layer in changes.layers]
    for template in changes.templates:
        found[f"{_TEMPLATE}{template.path}"] = asdict(template)
    if changes.variables:
        found["variables"] = changes.variables
    return found


def changed_parts(before: str, after: str) -> list[str]:
    """The names of the parts that differ; none where the older ones were not recorded."""
    if not before:
        return []
    old, new = (dict(word.rsplit("=", 1) for word in text.split()) for text in (before, after))
    return sorted(unquote(name) for name in {*old, *new} if old.get(name) != new.get(name))


def _hash(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
