"""Published trees in tests: opened, read as clients read them, and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE
from lxdocker.image.provenance import Provenance
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import WITHDRAWN, Published
from tests.examples import provenance, publish, resolved

INDEX = "streams/v1/index.json"


IMAGES = "streams/v1/images.json"


NEVER = threading.Event()


@contextlib.contextmanager
def locked(tree: Tree) -> Iterator[Tree]:
    said: list[str] = []
    with tree.lock(said.append, NEVER):
        yield tree
    assert said == []


def read(tree: Tree, path: str) -> Any:
    return json.loads((tree.root / path).read_bytes())


def products(tree: Tree) -> dict[str, Any]:
    found: dict[str, Any] = read(tree, IMAGES)["products"]
    return found


def listed(tree: Tree, product: str = "web:current:default:amd64") -> list[str]:
    """The keys of a product's versions in the index; none for a product that is not there."""
    return sorted(products(tree).get(product, {"versions": {}})["versions"])


def assert_sound(root: Path, *, empty: bool = False, deadline: float | None = None) -> set[str]:
    """Follows the index as a client does, down to the last byte. Returns the fingerprints of what it offers.

    ``empty``: it may offer nothing, or not be there at all, because nothing has to be listed. Files that are gone are
    no fault after ``deadline``, when the grace period of what was read has ended.
    """
    fingerprints = set()
    if not (root / INDEX).exists():
        assert empty, "there is no index"
        return set()
    index = json.loads((root / INDEX).read_bytes())
    for entry in index["index"].values():
        images = json.loads((root / entry["path"]).read_bytes())
        assert entry["products"], "clients ignore an entry without products"
        for product in images["products"].values():
            assert product["versions"], "a product without versions is of no use to a client"
            for version in product["versions"].values():
                try:
                    fingerprints.add(assert_version(root, version["items"]))
                except FileNotFoundError:
                    if deadline is None or time.monotonic() < deadline:
                        raise
    assert fingerprints or empty, "the index lists nothing"
    return fingerprints


def assert_version(root: Path, items: dict[str, Any]) -> str:
    whole = hashlib.sha256()
    for name in ("lxd.tar.xz", "root.squashfs"):
        content = (root / items[name]["path"]).read_bytes()
        assert items[name]["size"] == len(content)
        assert items[name]["sha256"] == hashlib.sha256(content).hexdigest()
        whole.update(content)
    assert {**items["incus.tar.xz"], "ftype": "lxd.tar.xz"} == items["lxd.tar.xz"]
    combined: str = items["lxd.tar.xz"]["combined_squashfs_sha256"]
    assert combined == whole.hexdigest()
    return combined


def listed_names(root: Path) -> set[str]:
    """The products in the index."""
    try:
        return set(json.loads((root / IMAGES).read_bytes())["products"])
    except FileNotFoundError:
        return set()


def files_of(published: Published) -> list[Path]:
    return [published.folder / METADATA_FILE, published.folder / ROOTFS_FILE]


def set_back(withdrawn: Published, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(withdrawn.folder / WITHDRAWN, (moment, moment))


def of_image(number: int) -> Provenance:
    return provenance(at=resolved(f"manifest {number}"))


def publish_three(tree: Tree) -> list[Published]:
    return [publish(tree, of_image(number), str(number)) for number in range(3)]


def contents(path: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder, with its mode; or a file."""
    paths = [path, *path.rglob("*")]
    return {str(one): (one.stat().st_mode, b"" if one.is_dir() else one.read_bytes()) for one in paths}
