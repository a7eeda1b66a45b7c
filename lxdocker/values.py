"""The small values that all else is made of. Parsed once, at the edge; never strings again."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

# https://github.com/distribution/reference (the grammar in reference.go).
_HOST = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\.?"
    r"|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?"
)
_HUB_NAMES = {"index.docker.io", "registry-1.docker.io"}
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
# Pages that people copy from the browser's address bar, by host. Path -> reference; `tag` may also be in the query.
_PAGES: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "hub.docker.com": (
        (re.compile(r"/_/(?P<name>[^/]+)(/tags|/dockerfile)?"), "docker.io/library/{name}"),
        (re.compile(r"/r/(?P<owner>[^/]+)/(?P<name>[^/]+)(/tags|/dockerfile)?"), "docker.io/{owner}/{name}"),
        (re.compile(r"/repository/docker/(?P<owner>[^/]+)/(?P<name>[^/]+)(/.*)?"), "docker.io/{owner}/{name}"),
        (re.compile(r"/layers/(?P<owner>[^/]+)/(?P<name>[^/]+)/(?P<tag>[^/]+)(/.*)?"), "docker.io/{owner}/{name}"),
    ),
    "quay.io": (
        (re.compile(r"/repository/(?P<owner>[^/]+)/(?P<name>[^?]+?)(/tag/(?P<tag>[^/]+))?"), "quay.io/{owner}/{name}"),
    ),
    "github.com": (
        (re.compile(r"/(?P<owner>[^/]+)/[^/]+/pkgs/container/(?P<name>[^/]+)(/.*)?"), "ghcr.io/{owner}/{name}"),
        (
            re.compile(r"/(?:orgs|users)/(?P<owner>[^/]+)/packages/container/(?:package/)?(?P<name>[^/]+)(/.*)?"),
            "ghcr.io/{owner}/{name}",
        ),
    ),
}
_PAGE_FORMS = {
    "hub.docker.com": "hub.docker.com/_/NAME or hub.docker.com/r/OWNER/NAME",
    "github.com": "github.com/OWNER/REPOSITORY/pkgs/container/NAME",
    "quay.io": "quay.io/repository/OWNER/NAME",
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_MAX_ALIAS = 200
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

    @classmethod
    def of(cls, content: bytes) -> Digest:
        return cls("sha256:" + hashlib.sha256(content).hexdigest())

    @property
    def hex(self) -> str:
        return self.value.removeprefix("sha256:")

    @property
    def short(self) -> str:
        """Short enough for people."""
        return f"sha256:{self.hex[:12]}"

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
    """A processor architecture by LXD's name; ``oci`` and ``debian`` are its names elsewhere."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"
    ARMV7L = "armv7l"
    PPC64LE = "ppc64le"
    S390X = "s390x"
    RISCV64 = "riscv64"

    @classmethod
    def host(cls) -> Arch:
        """Raises ValueError for an unsupported architecture."""
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
        """Raises ValueError for names that LXD, simplestreams or a path cannot have."""
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


def parse_alias(text: str) -> str:
    """An alias of an image, in LXD and in a tree's index; returned as it is. It never names a file.

    What a spec may have, which schema/image.schema.json says too. Raises ValueError for anything else.
    """
    if not _ALIAS.fullmatch(text) or len(text) > _MAX_ALIAS:
        raise ValueError(
            f"{text[:100]!r} can't be an alias: up to {_MAX_ALIAS} letters, digits, '.', '_' and '-', in parts "
            "separated by single '/', each beginning with a letter, digit or '_'"
        )
    if _FINGERPRINT_LIKE.fullmatch(text):
        raise ValueError(
            f"{text!r} can't be an alias: it could be taken for a fingerprint (12 or more digits 0-9, a-f)"
        )
    return text


def home_folder(environ: Mapping[str, str]) -> Path:
    """The user's home, which may not exist; / for a user who is not in passwd, as in some containers."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return Path("/")


def is_loopback(host: str) -> bool:
    """Whether ``host``, as a URL or a reference has it, is this host itself by its name alone."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    return ((isinstance(address, IPv6Address) and address.ipv4_mapped) or address).is_loopback


@dataclass(frozen=True, slots=True)
class RegistryRef:
    """An image in a registry. Exactly as named: either ``tag`` or ``digest`` decides."""

    registry: str  # as parse_registry_host() has it; Docker Hub is "docker.io"
    repository: str  # "library/nginx"
    tag: str | None
    digest: Digest | None

    @property
    def is_loopback(self) -> bool:
        """Whether the registry listens on this host's loopback (then plain http is allowed)."""
        return is_loopback(split_host(self.registry)[0])

    @property
    def port(self) -> int | None:
        return split_host(self.registry)[1]

    @property
    def spelled(self) -> str:
        """The registry as a reference must have it: without a capital it could be a Hub user's name."""
        return self.registry if re.search(r"[.:]", self.registry) or self.is_loopback else self.registry.upper()

    def at(self, digest: Digest) -> RegistryRef:
        """The same repository, by digest."""
        return RegistryRef(self.registry, self.repository, None, digest)

    def __str__(self) -> str:
        suffix = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.spelled}/{self.repository}{suffix}"


class ArchiveKind(Enum):
    """The format of an image on disk, by skopeo's transport names (containers-transports(5))."""

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
    """The reference a spec's ``image`` holds. The address of the image's page at Docker Hub, Quay or GitHub is as good.

    Paths of on-disk images are taken relative to ``relative_to`` (the spec's folder).
    Raises ValueError with what is wrong and what a right one looks like.
    """
    transport, colon, rest = text.partition(":")
    if colon and transport in {kind.value for kind in ArchiveKind}:
        return _parse_disk_ref(ArchiveKind(transport), rest, relative_to)
    return _parse_registry_ref(_of_page(text))


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
    """``HOST`` or ``HOST:PORT``, as in a reference, in the one form that is compared: lower case, without a dot at its
    end, IPv6 in its shortest form, Docker Hub by its own name.

    Raises ValueError for anything else.
    """
    _refuse_scheme(text)
    match = _HOST.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:100]!r} is not a registry host (HOST or HOST:PORT)")
    host, port = match[1].lower().rstrip("."), match[2]
    if port and not 1 <= int(port) <= 65535:
        raise ValueError(f"{text[:100]!r} is not a registry host: ports go from 1 to 65535")
    if host.startswith("["):
        try:
            host = f"[{ip_address(host[1:-1])}]"
        except ValueError:
            raise ValueError(f"{text[:100]!r} is not a registry host: that is no IPv6 address") from None
    if host in _HUB_NAMES and port in (None, "443"):
        return DEFAULT_REGISTRY
    return f"{host}:{int(port)}" if port else host


def same_registry(registry: str) -> tuple[str, ...]:
    """All names that settings may have for ``registry``, its own first: without a port, https uses 443."""
    host, port = split_host(registry)
    if port is None:
        return registry, f"{registry}:443"
    return (registry, host) if port == 443 else (registry,)


def split_host(registry: str) -> tuple[str, int | None]:
    """Host, an IPv6 address in its brackets, and port."""
    host, colon, port = registry.rpartition(":")
    return (host, int(port)) if colon and port.isdigit() else (registry, None)


def _of_page(text: str) -> str:
    """The reference that a registry's web page is about, or that follows skopeo's ``docker://``; any other text as it
    is. Raises ValueError for a page of such a site that is not about one image.
    """
    if text.startswith("docker://"):
        return text.removeprefix("docker://")
    address = text if re.match(r"https?://", text) else f"https://{text}"
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:  # as for a bracket that is not closed
        return text
    # Without a scheme, github.com/a/b could only be a reference to a registry; there is none at these two.
    if host not in _PAGES or (address != text and host == "quay.io"):
        return text
    path = parts.path.rstrip("/")
    for pattern, reference in _PAGES[host]:
        if found := pattern.fullmatch(path):
            named = {key: unquote(value) for key, value in found.groupdict().items() if value}
            tag = named.pop("tag", None) or parse_qs(parts.query).get("tag", [""])[0]
            # GitHub's names may have capitals; its registry's may not.
            return reference.format(**named).lower() + (f":{tag}" if tag else "")
    if host == "quay.io" and not path.startswith("/repository"):
        return text
    raise ValueError(
        f"{text[:200]!r} is a web page, but not that of an image; its address is {_PAGE_FORMS[host]}, "
        "and a reference is such as 'nginx:latest'"
    )


def _refuse_scheme(text: str) -> None:
    """People paste URLs from browsers."""
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
    registry = parse_registry_host(registry)
    repository, colon, tag = path.partition(":")
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
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
