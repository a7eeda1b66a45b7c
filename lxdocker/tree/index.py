"""The index and the catalogue page of a list of versions, as documents; ``changes`` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from lxdocker.tree import page, simplestreams
from lxdocker.tree.simplestreams import Product
from lxdocker.tree.version import Published
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


def catalogue(listed: Sequence[Published]) -> str:
    """The page of these versions: an entry for each image, with the newest version of each architecture."""
    latest = [versions[-1] for versions in _by_product(listed)]
    return page.render([_entry(list(group)) for _, group in groupby(latest, key=lambda version: version.name)])


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


def _entry(versions: Sequence[Published]) -> page.Entry:
    latest = max(versions, key=lambda version: version.key)
    return page.Entry(
        name=latest.name.value,
        aliases=latest.aliases,
        description=latest.description,
        source=latest.provenance.source,
        digest=latest.provenance.source_digest.value,
        version=latest.key,
        built_at=latest.provenance.built_at,
        size=latest.size,
        architectures=tuple(sorted(version.arch.debian for version in versions)),
        ports=latest.properties.get("oci.ports", ""),
        volumes=latest.properties.get("oci.volumes", ""),
    )


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
