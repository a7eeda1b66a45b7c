"""From what a spec names to exactly one image: its manifest and its configuration for this architecture.

What an earlier build recorded is the cache: where the tag still names the same digest, nothing else is asked.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxdocker.errors import ArchMissingError, LxdockerError, RegistryError
from lxdocker.oci import Index, Layer, Manifest, OciConfig, nested_indexes, parse_manifest, select_manifest
from lxdocker.values import Arch, Digest, DiskRef, ImageRef, RegistryRef

if TYPE_CHECKING:
    from lxdocker.registry import RegistryClient

WORKERS = 32

_MAX_NESTED = 4  # indexes inside an index that are looked into
_KEPT_CONFIGS = 16


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """Which image a reference names today, for one architecture."""

    source_digest: Digest  # what the tag names: an index or a manifest
    manifest_digest: Digest  # for this architecture
    config_digest: Digest
    # None where nothing had to be fetched, and for an index on disk, whose manifests skopeo does not show.
    layers: tuple[Layer, ...] | None


class Resolver:
    """Resolves references for one architecture. Thread-safe."""

    def __init__(self, registry: RegistryClient, arch: Arch) -> None:
        self._registry = registry
        self._arch = arch
        self._lock = threading.Lock()
        # The few configurations that resolving itself had to look at, until config() asks for them.
        self._configs: dict[Digest, OciConfig] = {}

    def resolve(self, ref: ImageRef, known: ResolvedImage | None) -> ResolvedImage:
        """What ``ref`` names now. ``known`` is what an earlier build of it, for this architecture, recorded.

        Costs one HEAD where the registry still has what is known; the result then is ``known`` itself.
        Raises RegistryError and its kinds, BuildError for a configuration that can't be used, and HostError
        for an image on disk where there is no skopeo.
        """
        if isinstance(ref, DiskRef):
            return self._resolve_disk(ref, known)
        source = self._registry.head(ref)
        if known and known.source_digest == source:
            return known
        digest, manifest = self._manifest(ref, source)
        resolved = ResolvedImage(source, digest, manifest.config, manifest.layers)
        if digest == source:
            # No index has said what this is for.
            self._keep(manifest.config, self._fetch_config(ref, resolved))
        return resolved

    def config(self, ref: ImageRef, resolved: ResolvedImage) -> OciConfig:
        """The configuration of ``resolved``, for images that will be built.

        Raises ArchMissingError if it says it is for another architecture, BuildError if it can't be used, and
        what resolve() raises.
        """
        with self._lock:
            kept = self._configs.pop(resolved.config_digest, None)
        return kept or self._fetch_config(ref, resolved)

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
            except BaseException as error:  # a bug; it must not end as a thread's last words
                found[ref] = error

        # Starting skopeo forks, which is best done while there are no threads.
        for ref in refs:
            if isinstance(ref, DiskRef):
                settle(ref)
        _in_threads(settle, [ref for ref in refs if isinstance(ref, RegistryRef)], workers)
        return [_result(found[ref], known) for ref, known in wanted]

    def _manifest(self, ref: RegistryRef, source: Digest) -> tuple[Digest, Manifest]:
        """The manifest for this architecture that ``source`` is or leads to, by one index in an index too."""
        parsed = parse_manifest(self._registry.manifest(ref, source), what=str(ref))
        if isinstance(parsed, Manifest):
            return source, parsed
        try:
            return self._entry(ref, parsed)
        except ArchMissingError:
            for nested in nested_indexes(parsed, self._arch)[:_MAX_NESTED]:
                inner = parse_manifest(self._registry.manifest(ref, nested.digest), what=str(ref))
                if isinstance(inner, Index):
                    try:
                        return self._entry(ref, inner)
                    except ArchMissingError:
                        continue
            raise

    def _entry(self, ref: RegistryRef, index: Index) -> tuple[Digest, Manifest]:
        entry = select_manifest(index, self._arch, str(ref))
        manifest = parse_manifest(self._registry.manifest(ref, entry.digest), entry.media_type, str(ref))
        if isinstance(manifest, Index):
            raise RegistryError(
                f"The index of {ref} can't be used",
                "what it names as a manifest is another index",
                "Tell whoever made the image.",
            )
        return entry.digest, manifest

    def _resolve_disk(self, ref: DiskRef, known: ResolvedImage | None) -> ResolvedImage:
        from lxdocker import skopeo

        raw = skopeo.inspect_raw(ref, self._arch)
        source = _digest_of(raw)
        if known and known.source_digest == source:
            return known
        parsed = parse_manifest(raw, what=str(ref))
        if isinstance(parsed, Manifest):
            resolved = ResolvedImage(source, source, parsed.config, parsed.layers)
            self._keep(parsed.config, self._fetch_config(ref, resolved))
            return resolved
        entry = select_manifest(parsed, self._arch, str(ref))
        config = skopeo.inspect_config(ref, self._arch)
        resolved = ResolvedImage(source, entry.digest, _digest_of(config), None)
        self._keep(resolved.config_digest, self._parse_config(ref, config))
        return resolved

    def _fetch_config(self, ref: ImageRef, resolved: ResolvedImage) -> OciConfig:
        if isinstance(ref, RegistryRef):
            return self._parse_config(ref, self._registry.config_blob(ref, resolved.config_digest))
        from lxdocker import skopeo

        raw = skopeo.inspect_config(ref, self._arch)
        if _digest_of(raw) != resolved.config_digest:
            raise RegistryError(
                f"{ref} changed while it was looked at",
                f"its configuration should have the digest {resolved.config_digest}",
                "Try again once it is complete.",
            )
        return self._parse_config(ref, raw)

    def _parse_config(self, ref: ImageRef, raw: bytes) -> OciConfig:
        config = OciConfig.parse(raw, str(ref))
        config.require_arch(self._arch, str(ref))
        return config

    def _keep(self, digest: Digest, config: OciConfig) -> None:
        with self._lock:
            while len(self._configs) >= _KEPT_CONFIGS:
                del self._configs[next(iter(self._configs))]
            self._configs[digest] = config


def _in_threads(work: Callable[[RegistryRef], None], items: Sequence[RegistryRef], workers: int) -> None:
    queue = deque(items)

    def drain() -> None:
        while True:
            try:
                item = queue.popleft()
            except IndexError:
                return
            work(item)

    # Daemons, so that after Ctrl-C nothing waits for the answer of some registry.
    threads = [threading.Thread(target=drain, name="resolve", daemon=True) for _ in items[:workers]]
    started = []
    try:
        for thread in threads:
            try:
                thread.start()
            except RuntimeError:  # no more threads to be had: those there are will do
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


def _digest_of(content: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())
