"""The documents as LXD reads them (its shared/simplestreams), and version keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from lxdocker.simplestreams import (
    File,
    Product,
    Version,
    images_document,
    index_document,
    is_version_key,
    next_version_key,
)
from lxdocker.values import Arch, ImageName
from tests.examples import fingerprint

NOW = datetime(2026, 1, 2, 3, 4, 59, tzinfo=UTC)


def version(key: str = "20260102_0304") -> Version:
    return Version(
        key=key,
        metadata=File(f"images/web/x86_64/{key}/lxd.tar.xz", 700, "a" * 64),
        rootfs=File(f"images/web/x86_64/{key}/rootfs.squashfs", 5_000_000_000, "b" * 64),
        fingerprint=fingerprint(key),
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
                "variant": "default",
                "requirements": {},
                "versions": {
                    "20260102_0304": {
                        "items": {
                            "lxd.tar.xz": {"ftype": "lxd.tar.xz", **metadata},
                            "incus.tar.xz": {"ftype": "incus.tar.xz", **metadata},
                            "root.squashfs": {
                                "ftype": "squashfs",
                                "path": "images/web/x86_64/20260102_0304/rootfs.squashfs",
                                "size": 5_000_000_000,
                                "sha256": "b" * 64,
                            },
                        }
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
    assert all(document[key] for key in ("os", "release", "variant", "arch", "release_title"))
    assert document["arch"] == arch.debian
    # What LXD splits at commas, and shows as it is.
    assert document["aliases"].split(",") == ["web", "www"]
    assert " " not in document["aliases"]


def test_no_two_architectures_share_a_product() -> None:
    assert len({product(arch=arch).key for arch in Arch}) == len(Arch)


def test_every_version_of_a_product_is_listed() -> None:
    keys = ["20260102_0304", "20260102_0305"]
    document = product("web", Arch.X86_64, ("web",), *(version(key) for key in keys)).document()
    assert list(document["versions"]) == keys
    assert [items(document, key)["root.squashfs"]["path"].split("/")[3] for key in keys] == keys


def items(document: dict[str, Any], key: str) -> dict[str, Any]:
    found: dict[str, Any] = document["versions"][key]["items"]
    return found


# ---- version keys


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], "20260102_0304"),
        (["20250101_0000"], "20260102_0304"),
        (["20260102_0303"], "20260102_0304"),
        (["20260102_0304"], "20260102_0305"),  # twice in one minute
        (["20260102_0304", "20260102_0305"], "20260102_0306"),
        (["20260102_0305", "20260102_0304"], "20260102_0306"),
        (["20301231_2359"], "20310101_0000"),  # the clock was wrong once; LXD takes the highest as the newest
        (["20260228_2359"], "20260301_0000"),
    ],
)
def test_the_next_key_is_higher_than_all_before(existing: list[str], expected: str) -> None:
    assert next_version_key(existing, NOW) == expected
    assert all(expected > key for key in existing)


def test_keys_are_in_universal_time() -> None:
    """Local time goes back an hour once a year."""
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert next_version_key([], local) == "20260102_0304"


def test_keys_made_one_after_the_other_stay_in_the_format() -> None:
    keys: list[str] = []
    for _ in range(120):
        keys.append(next_version_key(keys, NOW))
    assert keys == sorted(set(keys))
    assert keys[-1] == "20260102_0503"
    assert all(is_version_key(key) for key in keys)


@pytest.mark.parametrize("text", ["20260102_0304", "19700101_0000", "20240229_2359"])
def test_what_is_a_key(text: str) -> None:
    assert is_version_key(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "20260102", "20260102_304", "2026012_0304", "20260102-0304", "20260102_0304 ", "20260102_0304~1"),
        *("20261302_0304", "20260230_0304", "20260102_2404", "20260102_0360", "backup", "\u066220260102_0304"),
    ],
)
def test_what_is_none(text: str) -> None:
    assert not is_version_key(text)
