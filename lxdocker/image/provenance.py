"""Where an image comes from: kept as LXD image properties and beside the published files.

The stores are the state: what is recorded here is all that lxdocker knows of an image from one run to the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lxdocker.resolve import ResolvedImage
from lxdocker.runtime import render
from lxdocker.spec import ImageSpec
from lxdocker.values import Arch, Digest, DiskRef, ImageName, ImageRef

PREFIX = "lxdocker."
MACHINE_ID = Path("/etc/machine-id")
# Part of the image itself (metadata.yaml), so also of its fingerprint; the rest may change without a build.
_SEALED = ("name", "source", "manifest_digest", "config_digest", "inputs")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an image was made from, by which spec, when."""

    name: ImageName
    source: str  # the reference as in the spec, without local folders
    source_digest: Digest  # what the tag named when last looked at
    manifest_digest: Digest
    config_digest: Digest
    inputs: str  # hex sha256 of all that went into the image
    folder: str  # which folder of specs it belongs to (folder_id)
    built_at: str  # RFC 3339, UTC

    @property
    def resolved(self) -> ResolvedImage:
        """What an earlier run learnt from the registry."""
        return ResolvedImage(self.source_digest, self.manifest_digest, self.config_digest, None)

    def seen_as(self, source_digest: Digest, folder: str) -> Provenance:
        """The same image under a tag that now names another index with the same content for us."""
        return replace(self, source_digest=source_digest, folder=folder)

    def to_properties(self) -> dict[str, str]:
        """``lxdocker.*`` image properties."""
        return {PREFIX + field: str(getattr(self, field)) for field in self.__slots__}

    def sealed_properties(self) -> dict[str, str]:
        """Those that are part of the image itself."""
        return {PREFIX + field: str(getattr(self, field)) for field in _SEALED}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Provenance | None:
        """None for an image that lxdocker did not make, or not wholly."""
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
            )
        except (KeyError, ValueError):
            return None


def source_label(ref: ImageRef) -> str:
    """A reference fit for publishing: a folder's or file's name, not where it lies on this host."""
    if isinstance(ref, DiskRef):
        return f"{ref.kind.value}:{ref.path.name}" + (f":{ref.tag}" if ref.tag else "")
    return str(ref)


def folder_id(specs: Path) -> str:
    """Names a folder of specs without telling where it is: 16 hex digits. The same path on another machine is another
    folder, since LXD copies an image's properties with it.
    """
    path = str(specs.resolve()).encode("utf-8", "surrogateescape")
    return hashlib.sha256(_machine_id() + b"\0" + path).hexdigest()[:16]


def _machine_id() -> bytes:
    """machine-id(5); empty where there is none."""
    try:
        return MACHINE_ID.read_bytes().strip()
    except OSError:
        return b""


def inputs_hash(spec: ImageSpec, resolved: ResolvedImage, arch: Arch, compression_level: int) -> str:
    """Hex sha256 over all that decides an image's content. Equal inputs, equal image."""
    document = {
        "recipe": render.RECIPE_VERSION,
        "runtime": render.runtime_hash(),
        "name": spec.name.value,
        "source": source_label(spec.image),
        "manifest": resolved.manifest_digest.value,
        "config": resolved.config_digest.value,
        "arch": arch.value,
        "supervise": not spec.disable_supervisor,
        "behaviour": asdict(spec.behaviour),
        "properties": list(spec.properties),
        "compression_level": compression_level,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
