"""The index and the catalogue page of a list of versions, as documents; ``changes`` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from lxdocker.image.properties import ENVIRONMENT
from lxdocker.tree import page, simplestreams
from lxdocker.tree.simplestreams import Product
from lxdocker.tree.version import OCI_LABEL, Published
from lxdocker.values import ImageName


@dataclass(frozen=True, slots=True)
class Index:
    """The content of images.json and index.json."""

    images: Mapping[str, Any]
    index: Mapping[str, Any]

    @property
    def documents(self) -> dict[str, Mapping[str, Any]]:
        """Both by path."""
        return {simplestreams.IMAGES_PATH: self.images, simplestreams.INDEX_PATH: self.index}


def build(listed: Sequence[Published], now: datetime) -> Index:
    """The index of these versions, which are sorted as Tree.versions() sorts them."""
    products = _products(_by_product(listed))
    return Index(simplestreams.images_document(products, now), simplestreams.index_document(products, now))


def catalogue(listed: Sequence[Published], now: datetime) -> str:
    """The page of these versions, sorted as Tree.versions() sorts them: an entry for each image."""
    images = [list(group) for _, group in groupby(listed, key=lambda version: version.name)]
    return page.render([_entry(_by_product(versions)) for versions in images], now)


def _by_product(listed: Sequence[Published]) -> list[list[Published]]:
    return [list(group) for _, group in groupby(listed, key=lambda version: version.product)]


def _products(groups: Sequence[Sequence[Published]]) -> list[Product]:
    owners = _alias_owners([versions[-1] for versions in groups])
    found = []
    for versions in groups:
        latest = versions[-1]
        keys = {version.key for version in versions}
        found.append(
            Product(
                name=latest.name,
                arch=latest.arch,
                aliases=(latest.name.value, *(alias for alias in latest.aliases if owners[alias] == latest.name)),
                title=latest.description or latest.provenance.title,
                release=latest.provenance.release,
                versions=tuple(version.version(keys) for version in versions),
            )
        )
    return found


def _alias_owners(latest: Sequence[Published]) -> dict[str, ImageName]:
    """Which image gets an alias that several claim, as happens while it moves from one spec to another: the image with
    that name, else the newest. LXD would take whichever it reads first.
    """
    by_age = sorted(latest, key=lambda version: version.key)
    owners = {alias: version.name for version in by_age for alias in version.aliases}
    return owners | {version.name.value: version.name for version in latest}


def _entry(products: Sequence[Sequence[Published]]) -> page.Entry:
    """An image, from its versions by architecture, oldest first."""
    newest = [versions[-1] for versions in products]
    latest = max(newest, key=lambda version: version.key)
    stated = latest.properties

    def expects(key: str) -> str:
        return stated.get(f"oci.{key}", "")

    def label(key: str) -> str:
        return stated.get(f"{OCI_LABEL}.{key}", "")

    return page.Entry(
        name=latest.name.value,
        aliases=latest.aliases,
        description=latest.description or label("description"),
        source=latest.provenance.source,
        digest=latest.provenance.source_digest.value,
        version=latest.key,
        label=_label(latest),
        built_at=latest.provenance.built_at,
        sizes=_sizes(newest),
        ports=expects("ports"),
        volumes=expects("volumes"),
        user=expects("user"),
        working_dir=expects("workdir"),
        entrypoint=expects("entrypoint"),
        stop_signal=expects("stop_signal"),
        healthcheck=expects("healthcheck"),
        environment=tuple(
            (key.removeprefix(ENVIRONMENT), value) for key, value in stated.items() if key.startswith(ENVIRONMENT)
        ),
        homepage=label("url"),
        source_code=label("source"),
        licenses=label("licenses"),
        older=_older([version for versions in products for version in versions[:-1]]),
    )


def _older(versions: Sequence[Published]) -> tuple[page.Older, ...]:
    """Newest first; those of several architectures with one key are one."""
    by_key = sorted(versions, key=lambda version: version.key, reverse=True)
    groups = [list(group) for _, group in groupby(by_key, key=lambda version: version.key)]
    return tuple(page.Older(group[0].key, _label(group[0]), _sizes(group)) for group in groups)


def _label(version: Published) -> str:
    return version.label.removeprefix("sha256:")  # a digest takes enough room without it


def _sizes(versions: Sequence[Published]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((version.arch.debian, version.size) for version in versions))


def without_times(document: Any) -> Any:
    """A document of the index without its times of writing."""
    if not isinstance(document, dict):
        return document
    stripped = {key: value for key, value in document.items() if key != "updated"}
    entries = stripped.get("index")
    if isinstance(entries, dict):
        stripped["index"] = {name: without_times(entry) for name, entry in entries.items()}
    return stripped


def indexed_names(root: Path) -> set[str]:
    """The image names that images.json lists; none if there is no index, or not one of ours."""
    try:
        products = json.loads((root / simplestreams.IMAGES_PATH).read_bytes())["products"]
        return {str(key).partition(":")[0] for key in products}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def indexed_paths(root: Path) -> set[str]:
    """Every file that images.json names at this moment; none if there is no index, or not one of ours."""
    try:
        found = json.loads((root / simplestreams.IMAGES_PATH).read_bytes())["products"].values()
        versions = [version for product in found for version in product["versions"].values()]
        return {item["path"] for version in versions for item in version["items"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
