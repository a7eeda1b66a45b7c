"""What a builder is asked for: made of what is wanted, the image's configuration and the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from lxdocker.builder.recipe import BuildRequest
from lxdocker.config.settings import Settings, size_in_bytes
from lxdocker.config.spec import ImageSpec
from lxdocker.errors import ImageMissingError
from lxdocker.http.proxies import Proxies
from lxdocker.http.route import NOWHERE
from lxdocker.image.provenance import source_label
from lxdocker.image.wanted import Wanted
from lxdocker.runtime.own_init import is_supervised
from lxdocker.source.oci import Layer, Manifest, OciConfig, parse_manifest
from lxdocker.sync.context import Context
from lxdocker.values import Digest, RegistryRef


def build_request(
    context: Context, wanted: Wanted, config: OciConfig, properties: Mapping[str, str], *, anew: bool = False
) -> BuildRequest:
    """An image that was built before, and is known, is expected in the layer cache unless it is to be fetched ``anew``:
    nothing is fetched then, and no way, network or login needed.

    Raises RegistryError where the registry has to be asked for the way there, and does not answer.
    """
    spec, resolved, settings = wanted.spec, wanted.resolved, context.settings
    registry = spec.image if isinstance(spec.image, RegistryRef) else None
    raw = context.resolver.known_manifest(resolved) if registry else None
    cached = raw is not None and resolved.layers is None and not anew
    layers = resolved.layers or (_layers(raw, str(spec.image)) if raw else ())
    route = NOWHERE
    if registry and (not cached or spec.changes.needs_network):
        route = context.registry.route(registry, layers[0].digest if layers else None)
    if spec.changes.needs_network:
        route = replace(route, network=True, proxies=route.proxies or Proxies.of(os.environ).variables)
    return BuildRequest(
        name=spec.name,
        source=registry.at(resolved.manifest_digest) if registry else spec.image,
        config=config,
        supervise=is_supervised(config, spec.disable_supervisor),
        behaviour=spec.behaviour,
        arch=wanted.arch,
        properties=tuple(sorted(properties.items())),
        compression_level=wanted.compression_level,
        timeout=settings.build_timeout,
        route=route,
        authfile=context.credentials.authfile_json(registry) if registry and not cached else None,
        layers=tuple(layer.digest.hex for layer in layers),
        size=sum(layer.size for layer in layers) if layers else None,
        stall_timeout=settings.stall_timeout,
        size_limit=None if settings.image_size_limit is None else size_in_bytes(settings.image_size_limit),
        in_memory=settings.builder_memory is None,
        manifest=resolved.manifest_digest,
        by_hand=_by_hand(context.settings, wanted),
        changes=spec.changes,
        given=_given(wanted, config),
        raw_manifest=raw,
        cached=cached,
    )


def _layers(raw: bytes, what: str) -> tuple[Layer, ...]:
    parsed = parse_manifest(raw, what=what)
    return parsed.layers if isinstance(parsed, Manifest) else ()


def _given(wanted: Wanted, config: OciConfig) -> tuple[tuple[str, str], ...]:
    """The variables that templates have besides the spec's own."""
    version = config.labels.get("org.opencontainers.image.version", "")
    return (("name", wanted.name.value), ("image", wanted.source), ("version", version))


def wanted_again(context: Context, spec: ImageSpec, manifest: Digest | None) -> Wanted:
    """What a sync found wanted: the image with this ``manifest``, or the one that the spec names now."""
    reference = spec.image.at(manifest) if manifest and isinstance(spec.image, RegistryRef) else spec.image
    resolved = context.resolver.resolve(reference, None)
    if manifest and resolved.manifest_digest != manifest:
        now = f"its digest is {resolved.manifest_digest}, not {manifest}"
        raise ImageMissingError(f"{spec.image} is a different image now", now, "leave out --digest")
    return context.wanted(spec, source_label(spec.image), resolved)


def _by_hand(settings: Settings, wanted: Wanted) -> tuple[str, ...]:
    """The command that prints what the builder is given: with the login that it finds then, so none is in the log."""
    return (
        *("lxdocker", "builder", "input", wanted.name.value, "--digest", wanted.resolved.manifest_digest.value),
        *(["--config", str(settings.config)] if settings.config else []),
        *("--specs", str(settings.specs)),
        *(word for registry in settings.insecure_registries for word in ("--insecure-registry", registry)),
    )
