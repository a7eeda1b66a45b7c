"""Small whole things to test with: a spec, what it resolves to, an image in the store, a version in a tree.

What a test does not care about has a default; every value it does care about it names itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lxdocker.config.settings import Settings
from lxdocker.config.spec import ImageSpec
from lxdocker.image import artifact
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE, Artifact
from lxdocker.image.provenance import Folder, Provenance, folder_id, inputs, source_label
from lxdocker.image.wanted import Wanted
from lxdocker.lxd.api import StoredImage
from lxdocker.lxd.store import Stored
from lxdocker.source.resolve import ResolvedImage
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Published
from lxdocker.values import Arch, Digest, Fingerprint, ImageName, parse_image_ref

SPECS = Path("/specs")
FOLDER = Folder.of(SPECS)
SETTINGS = Settings(specs=SPECS, tree=Path("/tree"))
BUILT_AT = "2026-01-02T03:04:05+00:00"


def digest(text: str) -> Digest:
    """A digest that is always the same for the same ``text``."""
    return Digest("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def fingerprint(text: str) -> Fingerprint:
    return Fingerprint(hashlib.sha256(text.encode()).hexdigest())


def spec(
    name: str = "web", image: str = "nginx:1", *, aliases: tuple[str, ...] = (), disable_supervisor: bool = False
) -> ImageSpec:
    return ImageSpec(
        name=ImageName.parse(name),
        image=parse_image_ref(image, SPECS),
        path=SPECS / f"{name}.yaml",
        disable_supervisor=disable_supervisor,
        aliases=aliases,
        properties=(),
    )


def resolved(manifest: str = "manifest", *, source: str = "index") -> ResolvedImage:
    return ResolvedImage(digest(source), digest(manifest), digest(f"config of {manifest}"), None)


def wanted(
    of: ImageSpec | None = None,
    at: ResolvedImage | None = None,
    *,
    arch: Arch = Arch.X86_64,
    compression_level: int = SETTINGS.compression_level,
) -> Wanted:
    of = of or spec()
    return Wanted.of(of, at or resolved(), source_label(of.image), FOLDER.id, arch, compression_level)


def provenance(
    of: ImageSpec | None = None,
    at: ResolvedImage | None = None,
    *,
    folder: Path = SPECS,
    arch: Arch = Arch.X86_64,
    built_at: str = BUILT_AT,
) -> Provenance:
    of, at = of or spec(), at or resolved()
    return Provenance(
        name=of.name,
        source=source_label(of.image),
        source_digest=at.source_digest,
        manifest_digest=at.manifest_digest,
        config_digest=at.config_digest,
        inputs=inputs(of, source_label(of.image), at, arch, SETTINGS.compression_level).hash,
        folder=folder_id(folder),
        built_at=built_at,
    )


def stored(made_from: Provenance, *, content: str = "image", aliases: tuple[str, ...] = ()) -> Stored:
    image = StoredImage(fingerprint(content), made_from.to_properties(), aliases, 1, BUILT_AT)
    return Stored(image, made_from)


def make_artifact(folder: Path, content: str = "image", *, size: int = 1000) -> Artifact:
    """An artifact whose rootfs is ``size`` bytes of ``content`` over and over."""
    folder.mkdir(parents=True, exist_ok=True)
    rootfs = (content.encode() * (size // len(content) + 1))[:size]
    return artifact.write(folder, f"metadata of {content}".encode(), [rootfs])


def publish(
    tree: Tree,
    made_from: Provenance | None = None,
    content: str = "image",
    *,
    arch: Arch = Arch.X86_64,
    aliases: tuple[str, ...] = (),
    properties: Mapping[str, str] = MappingProxyType({}),
    size: int = 1000,
) -> Published:
    """Publishes an image with this content; the caller holds the tree's lock."""
    made_from = made_from or provenance()
    with tree.staging(made_from.name) as folder:
        return tree.publish(make_artifact(folder, content, size=size), made_from, arch, aliases, properties)


def published(
    folder: Path,
    made_from: Provenance | None = None,
    content: str = "image",
    *,
    key: str = "20260102_0304",
    arch: Arch = Arch.X86_64,
    aliases: tuple[str, ...] = (),
    withdrawn: float | None = None,
) -> Published:
    """A version that would lie in the tree ``folder``, without its files; see lay_down()."""
    made_from = made_from or provenance()
    return Published(
        folder=folder / "images" / made_from.name.value / arch.value / key,
        provenance=made_from,
        arch=arch,
        key=key,
        fingerprint=fingerprint(content),
        aliases=aliases,
        properties={},
        metadata_size=10,
        metadata_sha256="0" * 64,
        rootfs_size=20,
        rootfs_sha256="1" * 64,
        withdrawn=withdrawn,
    )


def lay_down(version: Published) -> Published:
    """Writes the two files of a version, of the right sizes."""
    version.folder.mkdir(parents=True)
    (version.folder / METADATA_FILE).write_bytes(bytes(version.metadata_size))
    (version.folder / ROOTFS_FILE).write_bytes(bytes(version.rootfs_size))
    return version
