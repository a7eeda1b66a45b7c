"""The small values everything else is made of. Parsed once, at the edge; never strings again."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

# https://github.com/distribution/reference (the grammar in reference.go).
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
)
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# lxc shows fingerprints as 12 digits and takes them wherever it takes a name.
_FINGERPRINT_LIKE = re.compile(r"[0-9A-Fa-f]{12,64}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content address, ``sha256:<64 hex>`` (OCI image spec, descriptor.md#digests)."""

    value: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raises ValueError unless ``text`` is a sha256 digest."""
        if not _DIGEST.fullmatch(text):
            raise ValueError(f"{text[:100]!r} is not a digest of the form sha256:<64 hex digits>")
        return cls(text)

    @property
    def hex(self) -> str:
        return self.value.removeprefix("sha256:")

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class Fingerprint:
    """How LXD names an image: sha256 over the metadata file followed by the rootfs file."""

    value: str

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Raises ValueError unless ``text`` is 64 hex digits."""
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise ValueError(f"{text[:100]!r} is not an image fingerprint (64 hex digits)")
        return cls(text)

    @property
    def short(self) -> str:
        return self.value[:12]

    def __str__(self) -> str:
        return self.value


class Arch(Enum):
    """A processor architecture under the name LXD gives it; ``oci`` and ``debian`` are the others'."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"
    ARMV7L = "armv7l"
    PPC64LE = "ppc64le"
    S390X = "s390x"
    RISCV64 = "riscv64"

    @classmethod
    def host(cls) -> Arch:
        """Raises ValueError on an architecture that no image could be built for."""
        return cls(platform.machine())

    @property
    def oci(self) -> str:
        """GOARCH, as in an image index (OCI image spec, image-index.md)."""
        return _OCI_ARCH[self]

    @property
    def debian(self) -> str:
        """As simplestreams products and Debian name it."""
        return _DEBIAN_ARCH[self]


_OCI_ARCH = {
    Arch.X86_64: "amd64",
    Arch.AARCH64: "arm64",
    Arch.ARMV7L: "arm",
    Arch.PPC64LE: "ppc64le",
    Arch.S390X: "s390x",
    Arch.RISCV64: "riscv64",
}
_DEBIAN_ARCH = {**_OCI_ARCH, Arch.ARMV7L: "armhf", Arch.PPC64LE: "ppc64el"}


@dataclass(frozen=True, slots=True, order=True)
class ImageName:
    """A spec's name: the LXD alias and the folder in the published tree."""

    value: str

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Raises ValueError for what LXD, simplestreams or a path could not carry."""
        if not _NAME.fullmatch(text):
            raise ValueError(
                f"{text[:100]!r} can't be an image name: up to 63 letters, digits, '.', '_' and '-', "
                "the first one a letter or digit"
            )
        if _FINGERPRINT_LIKE.fullmatch(text):
            raise ValueError(
                f"{text!r} can't be an image name: it could be taken for a fingerprint (12 or more digits 0-9, a-f)"
            )
        return cls(text)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class RegistryRef:
    """An image in a registry. Exactly as named: either ``tag`` or ``digest`` decides."""

    registry: str  # host or host:port; Docker Hub is "docker.io"
    repository: str  # "library/nginx"
    tag: str | None
    digest: Digest | None

    @property
    def is_loopback(self) -> bool:
        """Whether the registry listens on this host's loopback (then plain http is allowed)."""
        host = self.registry.rsplit(":", 1)[0] if not self.registry.endswith("]") else self.registry
        return host == "localhost" or host == "[::1]" or bool(re.fullmatch(r"127(?:\.\d{1,3}){3}", host))

    @property
    def port(self) -> int | None:
        _, colon, port = self.registry.rpartition(":")
        return int(port) if colon and port.isdigit() else None

    def at(self, digest: Digest) -> RegistryRef:
        """The same repository, by digest."""
        return RegistryRef(self.registry, self.repository, None, digest)

    def __str__(self) -> str:
        suffix = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.registry}/{self.repository}{suffix}"


class ArchiveKind(Enum):
    """How an image lies on disk: skopeo's transport names (containers-transports(5))."""

    OCI_LAYOUT = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"


@dataclass(frozen=True, slots=True)
class DiskRef:
    """An image on this host's disk: a folder or a file."""

    kind: ArchiveKind
    path: Path  # absolute
    tag: str | None

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.path}" + (f":{self.tag}" if self.tag else "")


ImageRef = RegistryRef | DiskRef


def parse_image_ref(text: str, relative_to: Path) -> ImageRef:
    """The reference a spec's ``image`` holds.

    Paths of on-disk images are taken relative to ``relative_to`` (the spec's folder).
    Raises ValueError with what is wrong and what a right one looks like.
    """
    transport, colon, rest = text.partition(":")
    if colon and transport in {kind.value for kind in ArchiveKind}:
        return _parse_disk_ref(ArchiveKind(transport), rest, relative_to)
    return _parse_registry_ref(text)


def _parse_disk_ref(kind: ArchiveKind, rest: str, relative_to: Path) -> DiskRef:
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        name, tag = rest, ""
    if not name or "\0" in name:
        raise ValueError(f"{kind.value}: wants a path, as in '{kind.value}:./image'")
    try:
        path = (relative_to / name).resolve()
    except (OSError, RuntimeError):  # RuntimeError is what Python before 3.13 has for symlink loops
        raise ValueError(f"{name[:200]!r} leads through a loop of symbolic links") from None
    return DiskRef(kind, path, tag or None)


def parse_registry_host(text: str) -> str:
    """``HOST`` or ``HOST:PORT``, as in a reference; returned as it is.

    Raises ValueError for anything else.
    """
    _refuse_scheme(text)
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is not a registry host (HOST or HOST:PORT)")
    _, colon, port = text.rpartition(":")
    if colon and port.isdigit() and not 1 <= int(port) <= 65535:
        raise ValueError(f"{text[:100]!r} is not a registry host: ports go from 1 to 65535")
    return text


def _refuse_scheme(text: str) -> None:
    """People paste addresses from browsers and from skopeo's manual."""
    scheme, separator, rest = text.partition("://")
    if separator:
        raise ValueError(f"{text[:200]!r} has {scheme[:20]}:// before the registry; write {rest[:200]!r}")


def _parse_registry_ref(text: str) -> RegistryRef:
    _refuse_scheme(text)
    rest, at, digest_text = text.partition("@")
    digest = Digest.parse(digest_text) if at else None
    first, slash, remainder = rest.partition("/")
    # Docker's rule: the first part is a registry only if it could not be a Hub user.
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry, path = first, remainder
    else:
        registry, path = DEFAULT_REGISTRY, rest
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DEFAULT_REGISTRY
    repository, colon, tag = path.partition(":")
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    parse_registry_host(registry)
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise ValueError(
            f"{text[:200]!r} is not an image reference such as 'nginx', 'library/nginx:latest' "
            "or 'ghcr.io/owner/name:tag' (repositories are lower case)"
        )
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f"{tag[:140]!r} is not a tag: up to 128 letters, digits, '.', '_' and '-'")
    if digest:
        return RegistryRef(registry, repository, None, digest)
    return RegistryRef(registry, repository, tag or DEFAULT_TAG, None)
