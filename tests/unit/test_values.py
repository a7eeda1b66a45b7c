from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.config.yamlfile import Document, check
from lxdocker.values import (
    Arch,
    ArchiveKind,
    Digest,
    DiskRef,
    Fingerprint,
    ImageName,
    RegistryRef,
    is_loopback,
    parse_alias,
    parse_image_ref,
    parse_registry_host,
    same_registry,
)

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


def registry_ref(text: str) -> RegistryRef:
    ref = parse_image_ref(text, Path("/specs"))
    assert isinstance(ref, RegistryRef)
    return ref


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("library/nginx:latest", "docker.io/library/nginx:latest"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("registry-1.docker.io/nginx:1", "docker.io/library/nginx:1"),
        (
            "ghcr.io/home-assistant/home-assistant:stable",
            "ghcr.io/home-assistant/home-assistant:stable",
        ),
        ("localhost/a", "localhost/a:latest"),
        ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("host:65535/a", "host:65535/a:latest"),
        ("Upper/a", "UPPER/a:latest"),  # a host: no Hub user has capitals
        ("a__b/c-.d".replace("-.", "--"), "docker.io/a__b/c--d:latest"),
        (f"host:5000/name@{DIGEST}", f"host:5000/name@{DIGEST}"),
        (f"nginx:1.27@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
    ],
)
def test_references_are_completed_as_docker_does(text: str, expected: str) -> None:
    ref = registry_ref(text)
    assert str(ref) == expected
    assert (ref.tag is None) != (ref.digest is None)
    # What is complete stays as it is.
    assert registry_ref(expected) == ref


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an image reference"),
        ("Nginx", "repositories are lower case"),
        ("library/Nginx", "repositories are lower case"),
        ("a//b", "is not an image reference"),
        ("a/", "is not an image reference"),
        ("nginx latest", "is not an image reference"),
        ("nginx\n", "is not an image reference"),
        ("a/" + "b" * 300, "is not an image reference"),
        ("nginx:", "'' is not a tag"),
        ("nginx:-1", "is not a tag"),
        ("nginx:" + "x" * 129, "is not a tag"),
        ("nginx@", "is not a digest"),
        ("nginx@sha256:" + "A" * 64, "is not a digest"),
        (f"nginx@{DIGEST}@{DIGEST}", "is not a digest"),
        ("-host.lan/a", "is not a registry host"),
        ("host_name.lan/a", "is not a registry host"),
        ("host:port/a", "is not a registry host"),
        ("host:0/a", "ports go from 1 to 65535"),
        ("host:65536/a", "ports go from 1 to 65535"),
        ("https://ghcr.io/a/b", "write 'ghcr.io/a/b'"),
        ("http://hub.docker.com/", "is a web page, but not that of an image; its address is hub.docker.com/_/NAME"),
        ("https://hub.docker.com/u/grafana", "is a web page, but not that of an image"),
        ("hub.docker.com/search?q=nginx", "is a web page, but not that of an image"),
        ("https://quay.io/repository/", "its address is quay.io/repository/OWNER/NAME"),
        ("https://quay.io/prometheus/node-exporter", "write 'quay.io/prometheus/node-exporter'"),
        ("https://github.com/nginx/nginx", "github.com/OWNER/REPOSITORY/pkgs/container/NAME"),
        ("https://hub.docker.com/r/a%0ab/c", "is not an image reference"),
        ("https://hub.docker.com/_/nginx?tag=%1b[2J", "is not a tag"),
        ("https://[hub.docker.com/_/nginx", "before the registry"),
        ("docker://docker://nginx", "before the registry"),
    ],
)
def test_what_is_no_reference_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        parse_image_ref(text, Path("/specs"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://hub.docker.com/_/nginx", "docker.io/library/nginx:latest"),
        ("https://hub.docker.com/_/nginx/tags", "docker.io/library/nginx:latest"),
        ("http://www.hub.docker.com/_/nginx?tab=tags#top", "docker.io/library/nginx:latest"),
        ("hub.docker.com/_/nginx", "docker.io/library/nginx:latest"),
        ("https://hub.docker.com/r/grafana/grafana/", "docker.io/grafana/grafana:latest"),
        ("https://hub.docker.com/repository/docker/ann/app/general", "docker.io/ann/app:latest"),
        ("https://hub.docker.com/layers/library/nginx/1.27/images/sha256-1", "docker.io/library/nginx:1.27"),
        ("https://quay.io/repository/prometheus/node-exporter", "quay.io/prometheus/node-exporter:latest"),
        ("https://quay.io/repository/a/b?tab=tags&tag=v1", "quay.io/a/b:v1"),
        ("https://github.com/Owner/repo/pkgs/container/name", "ghcr.io/owner/name:latest"),
        ("https://github.com/owner/repo/pkgs/container/a%2Fb/123?tag=v2", "ghcr.io/owner/a/b:v2"),
        ("https://github.com/orgs/o/packages/container/package/n", "ghcr.io/o/n:latest"),
        ("docker://nginx:1", "docker.io/library/nginx:1"),
        ("docker://ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("quay.io/repository/a", "quay.io/repository/a:latest"),  # a reference as any other
    ],
)
def test_the_address_of_an_images_page_is_as_good_as_its_reference(text: str, expected: str) -> None:
    assert str(parse_image_ref(text, Path("/specs"))) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:layout", DiskRef(ArchiveKind.OCI_LAYOUT, Path("/specs/layout"), None)),
        ("oci:./layout:v1", DiskRef(ArchiveKind.OCI_LAYOUT, Path("/specs/layout"), "v1")),
        ("oci:/a:b/layout", DiskRef(ArchiveKind.OCI_LAYOUT, Path("/a:b/layout"), None)),
        ("oci-archive:../x.tar", DiskRef(ArchiveKind.OCI_ARCHIVE, Path("/x.tar"), None)),
        ("docker-archive:/a b.tar", DiskRef(ArchiveKind.DOCKER_ARCHIVE, Path("/a b.tar"), None)),
    ],
)
def test_images_on_disk_lie_beside_the_spec(text: str, expected: DiskRef) -> None:
    assert parse_image_ref(text, Path("/specs")) == expected


@pytest.mark.parametrize("text", ["oci:", "oci::tag", "docker-archive:", "oci-archive:a\0b"])
def test_a_disk_reference_wants_a_path(text: str) -> None:
    with pytest.raises(ValueError, match="wants a path"):
        parse_image_ref(text, Path("/specs"))


def test_a_loop_of_links_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    text = "oci:loop/layout"
    try:
        ref = parse_image_ref(text, tmp_path)
    except ValueError as error:
        assert "loop of symbolic links" in str(error)  # noqa: PT017 - newer Pythons resolve it as it is
    else:
        assert ref == DiskRef(ArchiveKind.OCI_LAYOUT, tmp_path / "loop/layout", None)


@pytest.mark.parametrize(
    ("registry", "is_loopback", "port"),
    [
        ("localhost", True, None),
        ("localhost:5000", True, 5000),
        ("127.0.0.1:5000", True, 5000),
        ("127.1.2.3", True, None),
        ("[::1]", True, None),
        ("[::1]:443", True, 443),
        ("ghcr.io", False, None),
        ("127.0.0.1.evil.example:80", False, 80),
        ("localhost.lan", False, None),
    ],
)
def test_loopback_and_port_of_a_registry(registry: str, is_loopback: bool, port: int | None) -> None:
    ref = RegistryRef(parse_registry_host(registry), "a", "t", None)
    assert (ref.is_loopback, ref.port) == (is_loopback, port)


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("Registry.Example:5000", "registry.example:5000"),
        ("registry.example.:5000", "registry.example:5000"),
        ("GHCR.io", "ghcr.io"),
        ("LocalHost:05000", "localhost:5000"),
        ("[2001:DB8:0::1]:5000", "[2001:db8::1]:5000"),
        ("Index.Docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("Upper", "upper"),
        ("upper.", "upper"),
    ],
)
def test_a_registry_has_one_name(text: str, registry: str) -> None:
    assert parse_registry_host(text) == registry
    assert parse_registry_host(registry) == registry
    ref = registry_ref(f"{text}/a:t")
    assert ref.registry == registry
    assert registry_ref(str(ref)) == ref  # to Docker and skopeo, a user's name at Docker Hub has no capitals


@pytest.mark.parametrize("text", ["[::g]", "[:::]", "[1.2.3.4]", "a..", "."])
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="is not a registry host"):
        parse_registry_host(text)


def test_a_port_that_goes_without_saying() -> None:
    assert same_registry("a.example") == ("a.example", "a.example:443")
    assert same_registry("a.example:443") == ("a.example:443", "a.example")
    assert same_registry("[::1]:443") == ("[::1]:443", "[::1]")
    assert same_registry("a.example:5000") == ("a.example:5000",)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.9.9.9", "[::1]", "::ffff:127.0.0.1", "LOCALHOST.")),
        *((host, False) for host in ("127.0.0.999", "localhost.example", "10.0.0.1", "::2", "")),
    ],
)
def test_loopback_by_name(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


ALIASES = ["nginx/stable", "_x", "web", "w" * 64, "a/b/_c", "9", "deadbeefcaf", "deadbeefcafe/x", "x" * 200, "a.b-c_d"]
NO_ALIASES = ["", "/a", "a/", "a//b", "../x", ".", "a/../b", "a/.b", "-a", "a,b", "a b", "a\n", "é", "x" * 201]
NO_ALIASES += ["deadbeefcafe", "DEADBEEFCAFE", HEX, "a%2fb", "a?b", "a#b", "a:b", "a\0"]


@pytest.mark.parametrize("text", [*ALIASES, *NO_ALIASES])
def test_aliases_are_the_same_in_a_spec_and_anywhere_else(text: str) -> None:
    mistakes = check(Document("", {"image": "nginx", "aliases": [text]}), "image.schema.json")
    assert (not mistakes) == (text in ALIASES)
    if text in ALIASES:
        assert parse_alias(text) == text
    else:
        with pytest.raises(ValueError, match="can't be an alias"):
            parse_alias(text)


def test_a_reference_by_digest_keeps_the_repository() -> None:
    assert str(registry_ref("host:1/a/b:t").at(Digest.parse(DIGEST))) == f"host:1/a/b@{DIGEST}"


@pytest.mark.parametrize("text", ["nginx", "a", "1.2", "Home_Assistant-2", "x" * 63, "deadbeefcaf", "deadbeefcafes"])
def test_image_names(text: str) -> None:
    assert str(ImageName.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-a",
        ".a",
        "a/b",
        "a b",
        "a,b",
        "a:b",
        "é",
        "a\n",
        "x" * 64,
        "deadbeefcafe",
        "DEADBEEFCAFE",
        HEX[:63],
    ],
)
def test_names_that_lxd_or_a_path_could_not_carry(text: str) -> None:
    with pytest.raises(ValueError, match="can't be an image name"):
        ImageName.parse(text)


def test_digests_and_fingerprints() -> None:
    assert Digest.parse(DIGEST).hex == HEX
    assert Digest.parse(DIGEST).short == "sha256:0123456789ab"
    assert Fingerprint.parse(HEX).short == HEX[:12]
    for text in (HEX, f"sha512:{HEX}", f"{DIGEST}0", f"{DIGEST}\n", DIGEST.upper()):
        with pytest.raises(ValueError, match="is not a digest"):
            Digest.parse(text)
    for text in (DIGEST, HEX.upper(), HEX[1:], f"{HEX}\n"):
        with pytest.raises(ValueError, match="is not an image fingerprint"):
            Fingerprint.parse(text)


def test_every_architecture_has_its_three_names() -> None:
    assert [(arch.value, arch.oci, arch.debian) for arch in Arch] == [
        ("x86_64", "amd64", "amd64"),
        ("aarch64", "arm64", "arm64"),
        ("armv7l", "arm", "armhf"),
        ("ppc64le", "ppc64le", "ppc64el"),
        ("s390x", "s390x", "s390x"),
        ("riscv64", "riscv64", "riscv64"),
    ]
