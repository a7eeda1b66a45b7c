"""What an image is to be made from: decided once for each spec, before anything is compared, built or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lxdocker.config.spec import ImageSpec
from lxdocker.image.provenance import Provenance, inputs
from lxdocker.source.resolve import ResolvedImage
from lxdocker.values import Arch, ImageName


@dataclass(frozen=True, slots=True)
class Wanted:
    """A spec, and the image that its reference names now.

    The plan compares ``inputs`` with what is recorded, and the run records the same value. Were it computed again at
    the end, and the two differed by anything, each run would build each image again.
    """

    spec: ImageSpec
    resolved: ResolvedImage
    inputs: str  # the hash of all the rest
    source: str  # source_label() of the spec's reference
    folder: str  # the id of the folder that the spec is in
    arch: Arch
    compression_level: int
    parts: str  # what the hash is made of, for messages
    rootfs: str  # the hash of what determines the root filesystem

    @classmethod
    def of(
        cls, spec: ImageSpec, resolved: ResolvedImage, source: str, folder: str, arch: Arch, compression_level: int
    ) -> Wanted:
        """The only place that computes what identifies an image's content."""
        found = inputs(spec, source, resolved, arch, compression_level)
        return cls(spec, resolved, found.hash, source, folder, arch, compression_level, found.parts, found.rootfs)

    @property
    def name(self) -> ImageName:
        return self.spec.name

    def at(self, resolved: ResolvedImage) -> Wanted:
        """The same spec, after its reference was looked up once more."""
        return Wanted.of(self.spec, resolved, self.source, self.folder, self.arch, self.compression_level)

    def provenance(self, built_at: datetime) -> Provenance:
        """What is recorded with an image that was made from this."""
        return Provenance(
            name=self.spec.name,
            source=self.source,
            source_digest=self.resolved.source_digest,
            manifest_digest=self.resolved.manifest_digest,
            config_digest=self.resolved.config_digest,
            inputs=self.inputs,
            folder=self.folder,
            built_at=built_at.replace(microsecond=0).isoformat(),
            parts=self.parts,
            rootfs=self.rootfs,
        )
