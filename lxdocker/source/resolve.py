"""From a spec's reference to exactly one image: its manifest and its configuration for this architecture.

The record of an earlier build is the cache: if the tag still names the same digest, nothing else is asked. Nor is what
a registry has sent before, to whomever it lets read the image.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxdocker.errors import ArchMissingError, BuildError, LxdockerError, RegistryError
from lxdocker.source.known import Known
from lxdocker.source.oci import (
    Index,
    Layer,
    Manifest,
    OciConfig,
    arch_missing,
    nested_indexes,
    parse_manifest,
    select_manifest,
    unplaced_manifests,
)
from lxdocker.values import Arch, ArchiveKind, Digest, DiskRef, ImageRef, RegistryRef

if TYPE_CHECKING:
    from lxdocker.source.registry import RegistryClient

WORKERS = 32

_MAX_NESTED = 8  # indexes in an index, and manifests without a platform, that are read
_KEPT_CONFIGS = 16
Read = Callable[[Digest], bytes]


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """The image that a reference names today, for one architecture."""

    source_digest: Digest  # what the tag names: an index or a manifest
    manifest_digest: Digest  # for this architecture
    config_digest: Digest
    # None if nothing had to be fetched, or if skopeo does not show them.
    layers: tuple[Layer, ...] | None


@dataclass(frozen=True, slots=True)
class Description:
    """An image as its registry, its folder or its archive describes it."""

    image: ResolvedImage
    config: OciConfig
    platforms: tuple[str, ...]  # that it is available for: linux/amd64, linux/arm/v7


class Resolver:
    """Resolves references for one architecture. Thread-safe."""

    def __init__(self, registry: RegistryClient, arch: Arch, known: Known | None = None) -> None:
        self._registry = registry
        self._arch = arch
        self._known = known or Known()
        self._readable: set[RegistryRef] = set()  # of references that are digests
        self._lock = threading.Lock()
        # The few configurations that resolving itself needed, until config() asks for them.
        self._configs: dict[Digest, OciConfig] = {}
        self._platforms: dict[Digest, tuple[str, ...]] = {}  # of indexes that were read, until describe() asks for them

    def resolve(self, ref: ImageRef, known: ResolvedImage | None) -> ResolvedImage:
        """The image that ``ref`` names now. ``known``: the record of an earlier build of it, for this architecture.

        Costs one HEAD where the registry still has what is known; the result then is ``known`` itself.
        Raises RegistryError and its kinds, BuildError for an unusable configuration, and HostError for an image on
        disk that needs skopeo where skopeo is not installed.
        """
        if isinstance(ref, DiskRef):
            return self._resolve_disk(ref, known)
        source = self._registry.head(ref)
        if known and known.source_digest == source:
            return known
        return self._found(
            str(ref),
            source,
            lambda digest: self._sent(ref, digest, self._registry.manifest),
            lambda digest: self._sent(ref, digest, self._registry.config_blob),
        )

    def config(self, ref: ImageRef, resolved: ResolvedImage, *, anew: bool = False) -> OciConfig:
        """The configuration of ``resolved``, for images that will be built. ``anew``: from the registry, even if it is
        known, since that shows the way to its blobs.

        Raises ArchMissingError for another architecture, BuildError for an unusable one, and what resolve() raises.
        """
        with self._lock:
            kept = self._configs.pop(resolved.config_digest, None)
        return kept or self._fetch_config(ref, resolved, anew)

    def known_manifest(self, resolved: ResolvedImage) -> bytes | None:
        """The manifest of an image in a registry, where that need not be asked."""
        return self._known.get(resolved.manifest_digest)

    def describe(self, ref: ImageRef) -> Description:
        """All that is known of an image without its layers: at most one HEAD, and one GET each for the index, the
        manifest and the configuration.

        Raises what resolve() and config() raise.
        """
        resolved = self.resolve(ref, None)
        config = self.config(ref, resolved)
        with self._lock:
            platforms = self._platforms.pop(resolved.source_digest, ())
        return Description(resolved, config, platforms or (config.platform,))

    def resolve_all(
        self, wanted: Sequence[tuple[ImageRef, ResolvedImage | None]], workers: int = WORKERS
    ) -> list[ResolvedImage | LxdockerError]:
        """resolve() for many, up to ``workers`` at a time; one result or error for each, in the same order.

        The same reference is asked once, however often it is wanted.
        """
        refs: dict[ImageRef, ResolvedImage | None] = {}
        for ref, known in wanted:
            refs[ref] = refs.get(ref) or known
        found: dict[ImageRef, ResolvedImage | LxdockerError | BaseException] = {}

        def settle(ref: ImageRef) -> None:
            try:
                found[ref] = self.resolve(ref, refs[ref])
            except LxdockerError as error:
                found[ref] = error
            except BaseException as error:  # a bug, which must not be lost with its thread
                found[ref] = error

        # Starting skopeo forks, which is best done before there are threads.
        for ref in refs:
            if isinstance(ref, DiskRef):
                settle(ref)
        _in_threads(settle, [ref for ref in refs if isinstance(ref, RegistryRef)], workers)
        return [_result(found[ref], known) for ref, known in wanted]

    def _found(self, what: str, source: Digest, read: Read, read_config: Read) -> ResolvedImage:
        """The image for this architecture that ``source`` is or leads to, by one index in an index too."""
        top = parse_manifest(read(source), what=what)
        if isinstance(top, Manifest):
            # Without an index, only the configuration names the platform.
            self._keep(top.config, self._parse_config(what, read_config(top.config)))
            return ResolvedImage(source, source, top.config, top.layers)
        self._keep_platforms(source, top)
        digest, manifest = self._chosen(what, top, read, read_config)
        return ResolvedImage(source, digest, manifest.config, manifest.layers)

    def _chosen(self, what: str, top: Index, read: Read, read_config: Read) -> tuple[Digest, Manifest]:
        try:
            return self._entry(what, top, read)
        except ArchMissingError:
            indexes = [top]
            for nested in nested_indexes(top, self._arch)[:_MAX_NESTED]:
                inner = parse_manifest(read(nested.digest), what=what)
                if isinstance(inner, Index):
                    indexes.append(inner)
                    try:
                        return self._entry(what, inner, read)
                    except ArchMissingError:
                        continue
            for entry in unplaced_manifests(top)[:_MAX_NESTED]:
                manifest = parse_manifest(read(entry.digest), what=what)
                if isinstance(manifest, Manifest):
                    try:
                        self._keep(manifest.config, self._parse_config(what, read_config(manifest.config)))
                    except (ArchMissingError, BuildError):
                        continue
                    return entry.digest, manifest
            raise arch_missing(what, self._arch, indexes) from None

    def _entry(self, what: str, index: Index, read: Read) -> tuple[Digest, Manifest]:
        entry = select_manifest(index, self._arch, what)
        manifest = parse_manifest(read(entry.digest), entry.media_type, what)
        if isinstance(manifest, Index):
            raise RegistryError(
                f"the index of {what} cannot be used",
                "an entry that should be a manifest is another index",
                "report it to the image's publisher",
            )
        return entry.digest, manifest

    def _resolve_disk(self, ref: DiskRef, known: ResolvedImage | None) -> ResolvedImage:
        if ref.kind is not ArchiveKind.DOCKER_ARCHIVE:
            from lxdocker.source.layout import Layout, UnknownFormatError  # which few need

            with suppress(UnknownFormatError), Layout(ref) as layout:
                top = layout.top()
                if known and known.source_digest == top.digest:
                    return known
                return self._found(
                    str(ref),
                    top.digest,
                    lambda digest: top.raw if digest == top.digest else layout.blob(digest),
                    layout.blob,
                )
        from lxdocker.source import skopeo

        raw = skopeo.inspect_raw(ref, self._arch)
        source = Digest.of(raw)
        if known and known.source_digest == source:
            return known
        parsed = parse_manifest(raw, what=str(ref))
        if isinstance(parsed, Manifest):
            resolved = ResolvedImage(source, source, parsed.config, parsed.layers)
            self._keep(parsed.config, self._fetch_config(ref, resolved))
            return resolved
        entry = select_manifest(parsed, self._arch, str(ref))
        config = skopeo.inspect_config(ref, self._arch)
        resolved = ResolvedImage(source, entry.digest, Digest.of(config), None)
        self._keep(resolved.config_digest, self._parse_config(str(ref), config))
        return resolved

    def _sent(
        self, ref: RegistryRef, digest: Digest, ask: Callable[[RegistryRef, Digest], bytes], *, anew: bool = False
    ) -> bytes:
        """What the registry has sent before, to this user, or sends now."""
        content = None if anew else self._known.get(digest)
        if content is not None and self._may_read(ref):
            return content
        content = ask(ref, digest)
        self._known.put(digest, content)
        return content

    def _may_read(self, ref: RegistryRef) -> bool:
        """Whether the registry says so. It has said so of a tag, which was resolved; of a digest nothing was asked."""
        if ref.digest is None or ref in self._readable:
            return True
        if not self._registry.lets_read(ref):
            return False
        with self._lock:
            self._readable.add(ref)
        return True

    def _fetch_config(self, ref: ImageRef, resolved: ResolvedImage, anew: bool = False) -> OciConfig:
        if isinstance(ref, RegistryRef):
            raw = self._sent(ref, resolved.config_digest, self._registry.config_blob, anew=anew)
            return self._parse_config(str(ref), raw)
        changed = RegistryError(
            f"{ref} changed while lxdocker read it",
            f"its configuration should have the digest {resolved.config_digest}",
            "try again once it is complete",
        )
        if ref.kind is not ArchiveKind.DOCKER_ARCHIVE:
            from lxdocker.source.layout import Layout, UnknownFormatError

            with suppress(UnknownFormatError), Layout(ref) as layout:
                if layout.top().digest != resolved.source_digest:
                    raise changed
                return self._parse_config(str(ref), layout.blob(resolved.config_digest))
        from lxdocker.source import skopeo

        raw = skopeo.inspect_config(ref, self._arch)
        if Digest.of(raw) != resolved.config_digest:
            raise changed
        return self._parse_config(str(ref), raw)

    def _parse_config(self, what: str, raw: bytes) -> OciConfig:
        config = OciConfig.parse(raw, what)
        config.require_arch(self._arch, what)
        return config

    def _keep(self, digest: Digest, config: OciConfig) -> None:
        with self._lock:
            while len(self._configs) >= _KEPT_CONFIGS:
                del self._configs[next(iter(self._configs))]
            self._configs[digest] = config

    def _keep_platforms(self, source: Digest, index: Index) -> None:
        named = [entry for entry in index.entries if not entry.attestation and not entry.is_index and entry.os]
        with self._lock:
            while len(self._platforms) >= _KEPT_CONFIGS:
                del self._platforms[next(iter(self._platforms))]
            self._platforms[source] = tuple(dict.fromkeys(entry.platform for entry in named))


def _in_threads(work: Callable[[RegistryRef], None], items: Sequence[RegistryRef], workers: int) -> None:
    queue = deque(items)

    def drain() -> None:
        while True:
            try:
                item = queue.popleft()
            except IndexError:
                return
            work(item)

    # Daemons, so that nothing waits for a registry's answer after Ctrl-C.
    threads = [threading.Thread(target=drain, name="resolve", daemon=True) for _ in items[:workers]]
    started = []
    try:
        for thread in threads:
            try:
                thread.start()
            except RuntimeError:  # no more threads: those already started will do
                break
            started.append(thread)
        if not started:
            drain()
        for thread in started:
            thread.join()
    finally:
        queue.clear()


def _result(
    found: ResolvedImage | LxdockerError | BaseException, known: ResolvedImage | None
) -> ResolvedImage | LxdockerError:
    if isinstance(found, ResolvedImage):
        # Two specs may have recorded the same image with and without its layers.
        return known if known and known.source_digest == found.source_digest else found
    if isinstance(found, LxdockerError):
        return found
    raise found
