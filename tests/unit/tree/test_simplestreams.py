"""The documents as LXD reads them (its shared/simplestreams)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from lxdocker.tree.simplestreams import File, Product, Version, images_document, index_document
from lxdocker.values import Arch, ImageName
from tests.examples import fingerprint

NOW = datetime(2026, 1, 2, 3, 4, 59, tzinfo=UTC)


def version(key: str = "20260102_0304", label: str = "1.27.3") -> Version:
    return Version(
        key=key,
        metadata=File(f"images/web/x86_64/{key}/lxd.tar.xz", 700, "a" * 64),
        rootfs=File(f"images/web/x86_64/{key}/rootfs.squashfs", 5_000_000_000, "b" * 64),
        fingerprint=fingerprint(key),
        label=label,
    )


def product(
    name: str = "web", arch: Arch = Arch.X86_64, aliases: tuple[str, ...] = ("web", "www"), *versions: Version
) -> Product:
    return Product(ImageName(name), arch, aliases, "docker.io/library/nginx:1", "current", versions or (version(),))


def test_the_whole_of_images_json() -> None:
    metadata = {
        "path": "images/web/x86_64/20260102_0304/lxd.tar.xz",
        "size": 700,
        "sha256": "a" * 64,
        "combined_squashfs_sha256": fingerprint("20260102_0304").value,
    }
    assert images_document([product()], NOW) == {
        "content_id": "images",
        "datatype": "image-downloads",
        "format": "products:1.0",
        "updated": "Fri, 02 Jan 2026 03:04:59 +0000",
        "products": {
            "web:current:default:amd64": {
                "aliases": "web,www",
                "arch": "amd64",
                "os": "web",
                "release": "current",
                "release_title": "docker.io/library/nginx:1",
                "requirements": {},
                "versions": {
                    "20260102_0304": {
                        "label": "1.27.3",
                        "items": {
                            "lxd.tar.xz": {"ftype": "lxd.tar.xz", **metadata},
                            "incus.tar.xz": {"ftype": "incus.tar.xz", **metadata},
                            "root.squashfs": {
                                "ftype": "squashfs",
                                "path": "images/web/x86_64/20260102_0304/rootfs.squashfs",
                                "size": 5_000_000_000,
                                "sha256": "b" * 64,
                            },
                        },
                    }
                },
            }
        },
    }


def test_the_whole_of_index_json() -> None:
    assert index_document([product(), product("db")], NOW) == {
        "format": "index:1.0",
        "updated": "Fri, 02 Jan 2026 03:04:59 +0000",
        "index": {
            "images": {
                "datatype": "image-downloads",
                "format": "products:1.0",
                "path": "streams/v1/images.json",
                "products": ["web:current:default:amd64", "db:current:default:amd64"],
                "updated": "Fri, 02 Jan 2026 03:04:59 +0000",
            }
        },
    }


def test_an_empty_tree_has_no_entry_with_an_empty_list() -> None:
    """LXD skips such an entry; other clients fail at it."""
    assert index_document([], NOW)["index"] == {}
    assert images_document([], NOW)["products"] == {}


@pytest.mark.parametrize("arch", list(Arch))
def test_every_product_has_all_that_lxd_sorts_by(arch: Arch) -> None:
    document = product(arch=arch).document()
    assert all(document[key] for key in ("os", "release", "arch", "release_title"))
    # A variant that only some have would spoil the order, and any would be in every description.
    assert "variant" not in document
    assert document["arch"] == arch.debian
    # What LXD splits at commas, and shows as it is.
    assert document["aliases"].split(",") == ["web", "www"]
    assert " " not in document["aliases"]


def test_no_two_architectures_share_a_product() -> None:
    assert len({product(arch=arch).key for arch in Arch}) == len(Arch)


@pytest.mark.parametrize("label", ["1.27.3", ""])
def test_what_clients_make_a_description_of(label: str) -> None:
    document = product("web", Arch.X86_64, ("web",), version(label=label)).document()
    (key,) = document["versions"]
    ending = f" ({label})" if label else ""
    assert described(document, key) == (
        f"web docker.io/library/nginx:1{ending}",
        f"web docker.io/library/nginx:1 amd64{ending} ({key})",
    )


def described(document: dict[str, Any], key: str) -> tuple[str, str]:
    """As LXD since 6.8 does it, and as LXD before and Incus do (their shared/simplestreams/products.go)."""
    old = [document["os"], document["release_title"], document["arch"]]
    ending = [f"({label})"] if (label := document["versions"][key].get("label")) else []
    variant = [f"({document['variant']})"] if document.get("variant") else []
    return " ".join([*old[:2], *ending, *variant]), " ".join([*old, *ending, f"({key})"])


def test_every_version_of_a_product_is_listed() -> None:
    keys = ["20260102_0304", "20260102_0305"]
    document = product("web", Arch.X86_64, ("web",), *(version(key) for key in keys)).document()
    assert list(document["versions"]) == keys
    assert [items(document, key)["root.squashfs"]["path"].split("/")[3] for key in keys] == keys


def items(document: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = document["versions"][key]["items"]
    return found
