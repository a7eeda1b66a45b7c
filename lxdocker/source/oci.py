"""An image's own description: its manifest, its index, its configuration. None of it is trusted.

The formats are the OCI image specification's (manifest.md, image-index.md, config.md) and Docker's older
ones, which have the same members under other media types (distribution, docs/spec/manifest-v2-2.md). The
bytes are parsed once, with every member's type and size checked; what comes out can be relied on.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NoReturn

from lxdocker.errors import ArchMissingError, BuildError, RegistryError
from lxdocker.text import one_line
from lxdocker.values import Arch, Digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_TYPES = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)

_INDEX_TYPES = {OCI_INDEX, DOCKER_LIST}
_IMAGE_TYPES = {OCI_MANIFEST, DOCKER_MANIFEST}
_CONFIG_TYPES = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",  # what Docker 1.10 pushed
    "",
}
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"
_ATTESTATION = "vnd.docker.reference.type"
_REF_NAME = "org.opencontainers.image.ref.name"

_MAX_ENTRIES = 4096
_MAX_LAYERS = 1024  # Docker itself stops at 127
_MAX_BLOB = 1 << 50
# Linux takes no longer single argument or variable (MAX_ARG_STRLEN), nor more of them in all (a quarter of an
# 8 MiB stack).
_MAX_STRING = 128 * 1024
_MAX_STRINGS = 2 * 1024 * 1024
_MAX_ITEMS = 4096
_MAX_LABEL = 1024 * 1024  # buildpacks put whole documents there
_HEALTH_NUMBERS = ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
_MAX_TIME = 2**32 - 1  # squashfs keeps times in 32 bits

# Best first; a variant that isn't listed comes last, "" stands for none given.
_VARIANTS = {
    Arch.ARMV7L: ("v7", "", "v6", "v5"),
    Arch.AARCH64: ("v8", ""),
    Arch.X86_64: ("", "v1", "v2", "v3"),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as the manifest describes it; ``size`` in bytes, as it is transferred."""

    digest: Digest
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform."""

    config: Digest
    layers: tuple[Layer, ...]
    media_type: str  # "" if it says none

    @property
    def size(self) -> int:
        """Bytes of all layers, as they are transferred."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of an index: a manifest for a platform, or another index."""

    digest: Digest
    size: int
    media_type: str
    os: str  # "" where the entry names no platform
    architecture: str
    variant: str
    attestation: bool
    name: str = ""  # that an OCI layout gives it

    @property
    def descriptor(self) -> dict[str, Any]:
        """As an index has it."""
        platform = {"os": self.os, "architecture": self.architecture, "variant": self.variant}
        return {
            "mediaType": self.media_type,
            "digest": self.digest.value,
            "size": self.size,
            "platform": {key: value for key, value in platform.items() if value},
        }

    @property
    def platform(self) -> str:
        """``linux/arm/v7``; for messages."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part) or "no platform"

    @property
    def is_index(self) -> bool:
        return self.media_type in _INDEX_TYPES


@dataclass(frozen=True, slots=True)
class Index:
    """The same image for several platforms."""

    entries: tuple[IndexEntry, ...]
    media_type: str

    @property
    def platforms(self) -> str:
        """All of them, for messages: ``linux/amd64, linux/arm64``."""
        names = dict.fromkeys(one_line(entry.platform, 100) for entry in self.entries if not entry.attestation)
        shown = list(names)[:20]
        return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") or "nothing"


@dataclass(frozen=True, slots=True)
class OciConfig:
    """How an image is to be run (OCI image spec, config.md), without anything that no process can have."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()  # each name once, in the order first named
    working_dir: str = "/"  # absolute and normalized
    user: str = ""  # "", "name", "uid", "name:group", "uid:gid"
    stop_signal: str = ""  # "SIGQUIT", "3", "SIGRTMIN+3"; "" where the image names none
    volumes: tuple[str, ...] = ()  # sorted
    exposed_ports: tuple[str, ...] = ()  # sorted; "80/tcp"
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    # Docker's HealthConfig as the image has it: Test (texts) and numbers (times in nanoseconds); None for none.
    healthcheck: Mapping[str, Any] | None = None
    shell: tuple[str, ...] = ()  # for a check in shell form; () where the image names none
    created: int = 0  # seconds since the epoch, 0 <= created < 2**32; 0 if unknown
    architecture: str = ""
    variant: str = ""
    os: str = ""
    terminal: bool = False  # whether its author wants one
    # Whether a shell is known to be in it, by the commands that made it; None where they are not known.
    has_shell: bool | None = None

    @property
    def argv(self) -> tuple[str, ...]:
        """What is run: the entrypoint and its default arguments; may be empty."""
        return self.entrypoint + self.cmd

    @property
    def platform(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part) or "no platform"

    @classmethod
    def parse(cls, raw: bytes, what: str = "the image") -> OciConfig:
        """The configuration blob ``raw`` of the image that messages call ``what``.

        Raises BuildError naming the unusable member.
        """
        reader = _ConfigReader(what)
        document = reader.document(raw)
        config = reader.mapping(document.get("config"), "config")
        entrypoint = reader.strings(config.get("Entrypoint"), "config.Entrypoint")
        return cls(
            # Docker's way to say "none" while overriding a base image's.
            entrypoint=() if entrypoint == ("",) else entrypoint,
            cmd=reader.strings(config.get("Cmd"), "config.Cmd"),
            env=reader.environment(config.get("Env"), "config.Env"),
            working_dir=reader.directory(config.get("WorkingDir"), "config.WorkingDir"),
            user=reader.string(config.get("User"), "config.User", 512),
            stop_signal=reader.signal(config.get("StopSignal"), "config.StopSignal"),
            volumes=reader.keys(config.get("Volumes"), "config.Volumes"),
            exposed_ports=reader.keys(config.get("ExposedPorts"), "config.ExposedPorts"),
            labels=MappingProxyType(reader.labels(config.get("Labels"), "config.Labels")),
            healthcheck=reader.healthcheck(config.get("Healthcheck"), "config.Healthcheck"),
            shell=reader.strings(config.get("Shell"), "config.Shell"),
            created=_epoch(document.get("created")),
            architecture=reader.string(document.get("architecture"), "architecture", 64),
            variant=reader.string(document.get("variant"), "variant", 64),
            os=reader.string(document.get("os"), "os", 64),
            terminal=config.get("Tty") is True,
            has_shell=_has_shell(document.get("history")),
        )

    def require_arch(self, arch: Arch, what: str) -> None:
        """Raises ArchMissingError for an image for another platform than ``arch``.

        The last word: indexes can be wrong, and a tag that is a bare manifest has none.
        """
        fits = self.architecture in ("", arch.oci) and self.os in ("", "linux")
        if not fits or _rank(arch, self.variant) is None:
            raise _arch_missing(what, arch, one_line(self.platform, 100))


def parse_manifest(raw: bytes, media_type: str | None = None, what: str = "the image") -> Manifest | Index:
    """The manifest or index in ``raw``; ``media_type`` is the transport's word, used if it has none.

    Raises RegistryError for anything else, for formats that are no longer (Docker's schema 1) or not yet
    (digests other than sha256) supported, and for artifacts that are not images.
    """
    document = _json_object(raw)
    if document is None:
        _refuse(what, "it is not a JSON object")
    stated = document.get("mediaType") or media_type or ""
    if not isinstance(stated, str):
        _refuse(what, "its mediaType is not text")
    stated = stated.partition(";")[0].strip()
    if document.get("schemaVersion") == 1 or stated.startswith(_SCHEMA1):
        raise RegistryError(
            f"{what} is in Docker's old format, schema 1",
            "which has had no digest-checked configuration since 2016, and which registries are giving up",
            "push the image again with a current tool, or name a newer tag",
        )
    # A document that is both means one image to one reader and another to the next (CVE-2021-41190).
    both = "manifests" in document and ("layers" in document or "config" in document)
    said = document.get("mediaType")
    if (
        both
        or (said in _INDEX_TYPES and "manifests" not in document)
        or (said in _IMAGE_TYPES and "manifests" in document)
    ):
        _refuse(what, "it claims to be an index and a manifest at once")
    if "manifests" in document:
        return _parse_index(document, stated, what)
    if "config" not in document or "layers" not in document:
        _refuse(what, "it has neither 'manifests' nor 'config' and 'layers'")
    return _parse_image(document, stated, what)


def select_manifest(index: Index, arch: Arch, what: str = "the image") -> IndexEntry:
    """The entry of ``index`` that runs on ``arch`` best; of equals, the first (image-index.md).

    One entry without a platform is taken at its word if it is all there is: its configuration tells. Raises
    ArchMissingError listing the platforms there are.
    """
    best: IndexEntry | None = None
    best_rank = 0
    for entry in index.entries:
        if entry.attestation or entry.is_index or entry.os != "linux" or entry.architecture != arch.oci:
            continue
        rank = _rank(arch, entry.variant)
        if rank is not None and (best is None or rank < best_rank):
            best, best_rank = entry, rank
    if best:
        return best
    rest = [entry for entry in index.entries if not entry.attestation and not entry.is_index]
    if len(rest) == 1 and not rest[0].os and not rest[0].architecture:
        return rest[0]
    raise arch_missing(what, arch, [index])


def unplaced_manifests(index: Index) -> tuple[IndexEntry, ...]:
    """The entries whose platform only their configuration names."""
    return tuple(
        entry
        for entry in index.entries
        if not (entry.attestation or entry.is_index or entry.os or entry.architecture or entry.variant)
    )


def named_entries(index: Index) -> dict[str, list[IndexEntry]]:
    """The entries of an OCI layout's index.json by name; "" for those without."""
    found: dict[str, list[IndexEntry]] = {}
    for entry in index.entries:
        if not entry.attestation:
            found.setdefault(entry.name, []).append(entry)
    return found


def nested_indexes(index: Index, arch: Arch) -> tuple[IndexEntry, ...]:
    """The entries that are indexes themselves and may have something for ``arch``."""
    return tuple(
        entry
        for entry in index.entries
        if entry.is_index and entry.os in ("", "linux") and entry.architecture in ("", arch.oci)
    )


def _rank(arch: Arch, variant: str) -> int | None:
    """How well code for ``variant`` runs on ``arch``: 0 is best, None is not at all."""
    order = _VARIANTS.get(arch, ("",))
    if variant in order:
        return order.index(variant)
    # 32-bit ARM counts upwards: v8 means instructions a v7 lacks.
    return None if arch is Arch.ARMV7L else len(order)


def arch_missing(what: str, arch: Arch, indexes: Sequence[Index]) -> ArchMissingError:
    """None of the ``indexes``, which may contain each other, has anything for ``arch``."""
    inner = {entry for index in indexes[1:] for entry in index.entries}
    entries = [entry for index in indexes for entry in index.entries if not (inner and entry.is_index)]
    return _arch_missing(what, arch, Index(tuple(entries), "").platforms)


def _arch_missing(what: str, arch: Arch, available: str) -> ArchMissingError:
    return ArchMissingError(
        f"{what} is not available for {arch.value}",
        f"needed: linux/{arch.oci}, available: {available}",
        "name another tag or another image that supports this architecture",
    )


def _refuse(what: str, why: str) -> NoReturn:
    raise RegistryError(
        f"the manifest of {what} cannot be used",
        why,
        "is it a container image? 'skopeo inspect --raw' shows what the registry has",
    )


def _parse_index(document: Mapping[str, Any], media_type: str, what: str) -> Index:
    entries = document["manifests"]
    if not isinstance(entries, list):
        _refuse(what, "'manifests' is not a list")
    if len(entries) > _MAX_ENTRIES:
        _refuse(what, f"its index has more than {_MAX_ENTRIES} entries")
    return Index(tuple(_entry(item, f"manifests[{at}]", what) for at, item in enumerate(entries)), media_type)


def _entry(item: object, where: str, what: str) -> IndexEntry:
    digest, size, media_type, descriptor = _descriptor(item, where, what)
    platform = descriptor.get("platform") or {}
    annotations = descriptor.get("annotations") or {}
    if not isinstance(platform, dict) or not isinstance(annotations, dict):
        _refuse(what, f"{where} has a 'platform' or 'annotations' that is not an object")
    members = [platform.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(member, str) and len(member) <= 64 for member in members):
        _refuse(what, f"{where}.platform has a member that is not a short text")
    system, architecture, variant = members
    unknown = system == "unknown" or architecture == "unknown"
    name = annotations.get(_REF_NAME)
    return IndexEntry(
        digest,
        size,
        media_type,
        system,
        architecture,
        variant,
        attestation=unknown or _ATTESTATION in annotations,
        name=name if isinstance(name, str) else "",
    )


def _parse_image(document: Mapping[str, Any], media_type: str, what: str) -> Manifest:
    config, _, config_type, _ = _descriptor(document["config"], "config", what)
    if config_type not in _CONFIG_TYPES:
        raise RegistryError(
            f"{what} is not a container image",
            f"its content is of type {one_line(config_type, 100)}",
            "name an image; charts, signatures and other artifacts cannot be run",
        )
    layers = document["layers"]
    if not isinstance(layers, list):
        _refuse(what, "'layers' is not a list")
    if len(layers) > _MAX_LAYERS:
        _refuse(what, f"it has more than {_MAX_LAYERS} layers")
    parsed = (_descriptor(item, f"layers[{at}]", what) for at, item in enumerate(layers))
    return Manifest(config, tuple(Layer(digest, size, kind) for digest, size, kind, _ in parsed), media_type)


def _descriptor(item: object, where: str, what: str) -> tuple[Digest, int, str, Mapping[str, Any]]:
    """Digest, size in bytes and media type (descriptor.md)."""
    if not isinstance(item, dict):
        _refuse(what, f"{where} is not an object")
    digest, size, media_type = item.get("digest"), item.get("size"), item.get("mediaType") or ""
    if isinstance(digest, str) and re.match(r"sha(512|384):", digest):
        _refuse(what, f"{where} is named by a {digest[:6]} digest, and only sha256 is supported")
    try:
        parsed = Digest.parse(digest if isinstance(digest, str) else "")
    except ValueError:
        _refuse(what, f"{where} has no sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _MAX_BLOB:
        _refuse(what, f"{where} has an invalid size")
    if not isinstance(media_type, str) or not re.fullmatch(r"[ -~]{0,256}", media_type):
        _refuse(what, f"{where} has an invalid media type")
    return parsed, size, media_type, item


class _ConfigReader:
    """Takes members of a configuration, one type each; raises BuildError naming the member."""

    def __init__(self, what: str) -> None:
        self._what = what

    def refuse(self, member: str, why: str) -> NoReturn:
        raise BuildError(
            f"the configuration of {self._what} cannot be used",
            f"{member}: {why}",
            "its publisher has to repair it; name another tag or image until then",
        )

    def document(self, raw: bytes) -> Mapping[str, Any]:
        document = _json_object(raw)
        if document is None:
            self.refuse("the document", "expected a JSON object")
        return document

    def mapping(self, value: object, member: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(member, "expected an object")
        if len(value) > _MAX_ITEMS:
            self.refuse(member, f"expected at most {_MAX_ITEMS} members")
        return value

    def string(self, value: object, member: str, limit: int = _MAX_STRING) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(member, "expected text")
        if "\0" in value:
            self.refuse(member, "expected text without NUL bytes")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON's \u escapes allow
            self.refuse(member, "expected text that is valid Unicode")
        if size > limit:
            self.refuse(member, f"expected at most {limit} bytes")
        return value

    def strings(self, value: object, member: str) -> tuple[str, ...]:
        if value is None:
            return ()
        if isinstance(value, str):  # Docker's own reader takes this too (strslice)
            return (self.string(value, member),)
        if not isinstance(value, list):
            self.refuse(member, "expected a list of texts")
        if len(value) > _MAX_ITEMS:
            self.refuse(member, f"expected at most {_MAX_ITEMS} items")
        for at, item in enumerate(value):
            if item is None:
                self.refuse(f"{member}[{at}]", "expected text")
        found = tuple(self.string(item, f"{member}[{at}]") for at, item in enumerate(value))
        if sum(map(len, found)) > _MAX_STRINGS:
            self.refuse(member, f"expected at most {_MAX_STRINGS} bytes in all")
        return found

    def environment(self, value: object, member: str) -> tuple[tuple[str, str], ...]:
        # As in Docker, a later one wins, and one without "=" sets nothing: it would unset one of the
        # container's defaults. A variable without a name cannot be set.
        found: dict[str, str] = {}
        for item in self.strings(value, member):
            name, equals, text = item.partition("=")
            if name and equals:
                found[name] = text
        return tuple(found.items())

    def directory(self, value: object, member: str) -> str:
        return "/" + posixpath.normpath("/" + self.string(value, member, 4096)).lstrip("/")

    def signal(self, value: object, member: str) -> str:
        signal = self.string(value, member, 32)
        if not re.fullmatch(r"(?:[A-Za-z][A-Za-z0-9]*(?:[+-][0-9]+)?|[0-9]+)?", signal):
            self.refuse(member, "expected the name or number of a signal")
        return signal

    def keys(self, value: object, member: str) -> tuple[str, ...]:
        return tuple(sorted(self.string(key, member, 4096) for key in self.mapping(value, member)))

    def labels(self, value: object, member: str) -> dict[str, str]:
        return {
            self.string(key, member, 4096): self.string(text, f"{member}[{one_line(key, 100)}]", _MAX_LABEL)
            for key, text in self.mapping(value, member).items()
        }

    def healthcheck(self, value: object, member: str) -> Mapping[str, Any] | None:
        if value is None:
            return None
        found = self.mapping(value, member)
        kept: dict[str, Any] = {"Test": list(self.strings(found.get("Test"), f"{member}.Test"))}
        for key in _HEALTH_NUMBERS:
            number = found.get(key)
            if number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63:
                self.refuse(f"{member}.{key}", "expected a whole number")
            kept[key] = number
        return MappingProxyType(kept)


def _json_object(raw: bytes) -> Mapping[str, Any] | None:
    """None for anything but a JSON object. The parser itself bounds depth and numbers."""
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


# "RUN /bin/sh -c apk add x # buildkit", 'CMD ["bash"]', "|1 A=b /bin/sh -c x"; but for "#(nop)" Docker's old builder
# ran nothing.
_SHELL_RAN = re.compile(r"""(?:^|[\s"/])(?:ba|da|a|z|k)?sh(?:"|(?:\s+[^\s#]+){0,4}?\s+-\w*c\s(?!\s*#\(nop\)))""")


# Lines of a Dockerfile, and of builders that put nothing but programs into an image. Others may bring a shell.
_PLAIN_STEP = re.compile(
    r"#\(nop\)|^(RUN|COPY|ADD|CMD|ENTRYPOINT|ENV|USER|WORKDIR|EXPOSE|LABEL|VOLUME|ARG)\s|^(bazel|ko)\s"
)


def _has_shell(history: object) -> bool | None:
    """What nothing depends on: a history that can't be read is as good as none."""
    entries = history[:_MAX_ITEMS] if isinstance(history, list) else []
    made = [entry["created_by"] for entry in entries if isinstance(entry, dict) and entry.get("created_by")]
    known = [text[:1000] for text in made if isinstance(text, str)]
    if any(_SHELL_RAN.search(text) for text in known):
        return True
    return False if known and all(_PLAIN_STEP.search(text) for text in known) else None


_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def _epoch(value: object) -> int:
    """Seconds of an RFC 3339 time, without the fraction; 0 for an invalid one, or one that no file can have."""
    match = _TIME.fullmatch(value) if isinstance(value, str) and len(value) <= 64 else None
    if not match:
        return 0
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    sign, offset_hours, offset_minutes = match.groups()[6:]
    try:
        # A leap second has no number of its own.
        time = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        if sign:
            offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
            time = time - offset if sign == "+" else time + offset
    except (ValueError, OverflowError):
        return 0
    seconds = int((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds if 0 <= seconds <= _MAX_TIME else 0
