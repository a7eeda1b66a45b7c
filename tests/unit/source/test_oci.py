"""Image configurations, manifests and indexes, as they should be and as someone might send them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lxdocker.errors import ArchMissingError, BuildError, RegistryError
from lxdocker.source.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Layer,
    Manifest,
    OciConfig,
    nested_indexes,
    parse_manifest,
    select_manifest,
)
from lxdocker.values import Arch, Digest

A, B, C = (Digest("sha256:" + letter * 64) for letter in "abc")


def config(**members: Any) -> OciConfig:
    return OciConfig.parse(json.dumps({"config": members}).encode())


def document(**members: Any) -> OciConfig:
    return OciConfig.parse(json.dumps(members).encode())


def test_a_whole_configuration() -> None:
    raw = {
        "created": "2024-01-02T03:04:05.678901234Z",
        "architecture": "arm64",
        "variant": "v8",
        "os": "linux",
        "config": {
            "Entrypoint": ["/entry", "a b"],
            "Cmd": ["nginx", "-g", "daemon off;"],
            "Env": ["PATH=/bin", "EMPTY=", "A=b=c"],
            "WorkingDir": "/srv",
            "User": "101:101",
            "StopSignal": "SIGQUIT",
            "Volumes": {"/data": {}, "/cache": {}},
            "ExposedPorts": {"80/tcp": {}},
            "Labels": {"maintainer": "ann"},
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000, "Retries": 3},
        },
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created_by": "x"}],
    }
    parsed = OciConfig.parse(json.dumps(raw).encode())
    assert parsed.argv == ("/entry", "a b", "nginx", "-g", "daemon off;")
    assert parsed.env == (("PATH", "/bin"), ("EMPTY", ""), ("A", "b=c"))
    assert (parsed.working_dir, parsed.user, parsed.stop_signal) == ("/srv", "101:101", "SIGQUIT")
    assert parsed.volumes == ("/cache", "/data")
    assert parsed.exposed_ports == ("80/tcp",)
    assert parsed.labels == {"maintainer": "ann"}
    assert parsed.healthcheck == {"Test": ["CMD", "true"], "Interval": 30_000_000_000, "Retries": 3}
    assert parsed.created == 1704164645
    assert (parsed.os, parsed.architecture, parsed.variant) == ("linux", "arm64", "v8")


@pytest.mark.parametrize("raw", [b"{}", b'{"config": null}', b'{"config": {"Cmd": null, "Env": null, "Labels": null}}'])
def test_nothing_said(raw: bytes) -> None:
    assert OciConfig.parse(raw) == OciConfig()


def test_docker_rules() -> None:
    assert config(Entrypoint=[""], Cmd=["x"]).argv == ("x",)
    assert config(Entrypoint="one").argv == ("one",)
    # A later one wins, in the place of the first; without "=" nothing is set; a name there must be.
    assert config(Env=["A=1", "B=2", "A=3", "C", "=x"]).env == (("A", "3"), ("B", "2"))


@pytest.mark.parametrize(
    ("given", "used"),
    [("", "/"), ("/srv/", "/srv"), ("srv", "/srv"), ("//a//b", "/a/b"), ("/a/../../b", "/b"), ("../..", "/")],
)
def test_the_working_directory_is_absolute(given: str, used: str) -> None:
    assert config(WorkingDir=given).working_dir == used


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1),
        ("2024-01-02T03:04:05Z", 1704164645),
        ("2024-01-02T03:04:05.999999999Z", 1704164645),
        ("2024-01-02T05:34:05+02:30", 1704164645),
        ("2024-01-01T22:04:05-05:00", 1704164645),
        ("2024-01-02t03:04:05z", 1704164645),
        ("2016-12-31T23:59:60Z", 1483228799),
        ("0001-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00+12:00", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("2106-02-07T06:28:16Z", 0),  # 2**32
        ("2024-13-01T00:00:00Z", 0),
        ("2024-01-02", 0),
        ("yesterday", 0),
        ("", 0),
        (None, 0),
        (1704164645, 0),
    ],
)
def test_when_it_was_created(text: object, seconds: int) -> None:
    assert document(created=text).created == seconds


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"Cmd": 5}, "config.Cmd"),
        ({"Cmd": {"a": "b"}}, "config.Cmd"),
        ({"Cmd": ["x", 5]}, "config.Cmd[1]"),
        ({"Cmd": ["x", None]}, "config.Cmd[1]"),
        ({"Cmd": ["a\0b"]}, "config.Cmd[0]"),
        ({"Cmd": ["\ud800"]}, "config.Cmd[0]"),
        ({"Cmd": ["x" * 131_073]}, "config.Cmd[0]"),
        ({"Cmd": ["x"] * 5000}, "config.Cmd"),
        ({"Cmd": ["x" * 100_000] * 30}, "config.Cmd"),
        ({"Entrypoint": True}, "config.Entrypoint"),
        ({"Env": ["A=\0"]}, "config.Env[0]"),
        ({"Env": "A=b\0"}, "config.Env"),
        ({"WorkingDir": ["/"]}, "config.WorkingDir"),
        ({"WorkingDir": "/" + "x" * 5000}, "config.WorkingDir"),
        ({"User": 0}, "config.User"),
        ({"StopSignal": "SIGTERM; reboot"}, "config.StopSignal"),
        ({"StopSignal": "SIGTERM\n"}, "config.StopSignal"),
        ({"StopSignal": 15}, "config.StopSignal"),
        ({"Volumes": ["/data"]}, "config.Volumes"),
        ({"ExposedPorts": {"80\0": {}}}, "config.ExposedPorts"),
        ({"Labels": {"a": 5}}, "config.Labels[a]"),
        ({"Labels": {"a\n": "\0"}}, "config.Labels[a ]"),
        ({"Healthcheck": "curl"}, "config.Healthcheck"),
        ({"Healthcheck": {"Test": ["\0"]}}, "config.Healthcheck.Test[0]"),
        ({"Healthcheck": {"Retries": "3"}}, "config.Healthcheck.Retries"),
        ({"Healthcheck": {"Interval": -1}}, "config.Healthcheck.Interval"),
    ],
)
def test_what_no_process_could_have_is_refused_by_name(members: dict[str, Any], field: str) -> None:
    with pytest.raises(BuildError) as caught:
        config(**members)
    assert caught.value.details.startswith(f"{field}: expected")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"<html>",
        b"\xff{}",
        b'{"a": NaN}',
        b'{"a":' + b"[" * 200_000,
        b'{"a":' + b"9" * 10_000 + b"}",
        b'{"config": []}',
        b'{"architecture": 5}',
        b'{"os": "' + b"x" * 100 + b'"}',
    ],
)
def test_what_is_no_configuration(raw: bytes) -> None:
    with pytest.raises(BuildError):
        OciConfig.parse(raw)


@pytest.mark.parametrize(
    ("arch", "platform", "fits"),
    [
        (Arch.X86_64, ("linux", "amd64", ""), True),
        (Arch.X86_64, ("", "", ""), True),
        (Arch.X86_64, ("linux", "386", ""), False),
        (Arch.X86_64, ("windows", "amd64", ""), False),
        (Arch.AARCH64, ("linux", "arm64", "v8"), True),
        (Arch.ARMV7L, ("linux", "arm", "v6"), True),
        (Arch.ARMV7L, ("linux", "arm", "v8"), False),
        (Arch.ARMV7L, ("linux", "arm64", ""), False),
    ],
)
def test_the_configuration_has_the_last_word_on_the_architecture(
    arch: Arch, platform: tuple[str, str, str], fits: bool
) -> None:
    system, architecture, variant = platform
    parsed = document(os=system, architecture=architecture, variant=variant)
    if fits:
        parsed.require_arch(arch, "app")
    else:
        with pytest.raises(ArchMissingError, match=f"app is not available for {arch.value}"):
            parsed.require_arch(arch, "app")


def descriptor(digest: object = A, size: object = 5, **more: Any) -> dict[str, Any]:
    return {"digest": str(digest) if isinstance(digest, Digest) else digest, "size": size, **more}


def image(**members: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": descriptor(), "layers": [], **members}).encode()


def index(*entries: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": list(entries), **members}).encode()


def platform(architecture: str, variant: str = "", os: str = "linux") -> dict[str, Any]:
    named = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
    return {"platform": named}


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, None])
def test_a_manifest(media_type: str | None) -> None:
    layers = [
        descriptor(B, 7, mediaType="application/vnd.oci.image.layer.v1.tar+zstd"),
        descriptor(
            C,
            0,
            mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            urls=["https://example.com"],
        ),
    ]
    raw = image(layers=layers, **({"mediaType": media_type} if media_type else {}))
    parsed = parse_manifest(raw)
    assert isinstance(parsed, Manifest)
    assert parsed.config == A
    assert parsed.layers == (
        Layer(B, 7, "application/vnd.oci.image.layer.v1.tar+zstd"),
        Layer(C, 0, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    )
    assert parsed.size == 7
    assert parsed.media_type == (media_type or "")


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST, None])
def test_an_index(media_type: str | None) -> None:
    raw = index(descriptor(A, **platform("amd64")), **({"mediaType": media_type} if media_type else {}))
    parsed = parse_manifest(raw)
    assert isinstance(parsed, Index)
    assert [(entry.digest, entry.platform) for entry in parsed.entries] == [(A, "linux/amd64")]


def test_the_transports_media_type_counts_where_the_document_has_none() -> None:
    assert parse_manifest(image(), f"{OCI_MANIFEST}; charset=utf-8").media_type == OCI_MANIFEST


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"<html>", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"{}", "neither"),
        (image(manifests=[]), "at once"),
        (index(layers=[]), "at once"),
        (image(mediaType=OCI_INDEX), "at once"),
        (index(mediaType=DOCKER_MANIFEST), "at once"),
        (image(mediaType=5), "mediaType"),
        (image(layers={}), "'layers' is not a list"),
        (image(layers=[5]), r"layers\[0\] is not an object"),
        (image(layers=[descriptor("sha512:" + "a" * 128)]), "sha512 digest, and only sha256"),
        (image(layers=[descriptor("sha256:" + "A" * 64)]), r"layers\[0\] has no sha256 digest"),
        (image(layers=[descriptor(None)]), r"layers\[0\] has no sha256 digest"),
        (image(layers=[descriptor(A, -1)]), "invalid size"),
        (image(layers=[descriptor(A, "5")]), "invalid size"),
        (image(layers=[descriptor(A, True)]), "invalid size"),
        (image(layers=[descriptor(A, 2**60)]), "invalid size"),
        (image(layers=[descriptor(A, mediaType="a\nb")]), "invalid media type"),
        (image(layers=[descriptor()] * 2000), "more than 1024 layers"),
        (image(config=None), "config is not an object"),
        (index(*[{}] * 5000), "more than 4096 entries"),
        (json.dumps({"manifests": {}}).encode(), "not a list"),
        (index(descriptor(platform=[1])), "not an object"),
        (index(descriptor(platform={"os": 5})), "not a short text"),
    ],
)
def test_what_is_no_manifest(raw: bytes, why: str) -> None:
    with pytest.raises(RegistryError, match=why) as caught:
        parse_manifest(raw, what="app:1")
    assert "app:1" in caught.value.brief
    assert caught.value.resolution


def test_old_formats_and_artifacts_are_called_by_name() -> None:
    with pytest.raises(RegistryError, match="schema 1"):
        parse_manifest(b'{"schemaVersion": 1, "fsLayers": []}')
    with pytest.raises(RegistryError, match=r"not a container image: .*helm"):
        parse_manifest(image(config=descriptor(mediaType="application/vnd.cncf.helm.config.v1+json")))


def choose(arch: Arch, *entries: dict[str, Any]) -> Digest:
    parsed = parse_manifest(index(*entries))
    assert isinstance(parsed, Index)
    return select_manifest(parsed, arch, "app").digest


@pytest.mark.parametrize(
    ("arch", "variants", "chosen"),
    [
        (Arch.ARMV7L, ["v6", "v7", "v5"], "v7"),
        (Arch.ARMV7L, ["v5", "", "v6"], ""),
        (Arch.ARMV7L, ["v5", "v6"], "v6"),
        (Arch.ARMV7L, ["v8", "v5"], "v5"),
        (Arch.AARCH64, ["", "v8"], "v8"),
        (Arch.AARCH64, [""], ""),
        (Arch.X86_64, ["v3", "v2", ""], ""),
        (Arch.X86_64, ["v3", "v2"], "v2"),
        (Arch.PPC64LE, ["", "x"], ""),
    ],
)
def test_the_best_variant(arch: Arch, variants: list[str], chosen: str) -> None:
    digests = [A, B, C][: len(variants)]
    entries = [
        descriptor(digest, **platform(arch.oci, variant)) for digest, variant in zip(digests, variants, strict=True)
    ]
    others = [descriptor(Digest("sha256:" + "0" * 64), **platform("mips64le"))]
    assert choose(arch, *others, *entries) == digests[variants.index(chosen)]


def test_the_first_of_equals() -> None:
    assert choose(Arch.X86_64, descriptor(B, **platform("amd64")), descriptor(A, **platform("amd64"))) == B


def test_attestations_and_other_systems_are_passed_over() -> None:
    attested = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    entries = [
        descriptor(B, **platform("unknown", os="unknown")),
        descriptor(B, **platform("amd64", os="windows")),
        descriptor(B, **platform("amd64"), **attested),
        descriptor(B, mediaType=OCI_INDEX, **platform("amd64")),
        descriptor(A, **platform("amd64")),
    ]
    assert choose(Arch.X86_64, *entries) == A


def test_one_entry_without_a_platform_may_be_it() -> None:
    unknown = descriptor(B, **platform("unknown", os="unknown"))
    assert choose(Arch.X86_64, descriptor(A), unknown) == A
    with pytest.raises(ArchMissingError):
        choose(Arch.X86_64, descriptor(A), descriptor(C))


def test_what_there_is_instead() -> None:
    entries = [
        descriptor(A, **platform("arm64", "v8")),
        descriptor(B, **platform("amd64", os="windows")),
        descriptor(C, **platform("\x1b[31m")),
        descriptor(C, **platform("unknown", os="unknown")),
    ]
    with pytest.raises(ArchMissingError) as caught:
        choose(Arch.X86_64, *entries)
    assert caught.value.brief == "app is not available for x86_64"
    assert caught.value.details == ("needed: linux/amd64, available: linux/arm64/v8, windows/amd64, linux/ [31m")
    with pytest.raises(ArchMissingError, match="available: nothing"):
        choose(Arch.X86_64)


def test_nested_indexes() -> None:
    parsed = parse_manifest(
        index(
            descriptor(A, mediaType=OCI_INDEX),
            descriptor(B, mediaType=DOCKER_LIST, **platform("amd64")),
            descriptor(C, mediaType=OCI_INDEX, **platform("arm64")),
            descriptor(C, mediaType=OCI_MANIFEST),
        )
    )
    assert isinstance(parsed, Index)
    assert [entry.digest for entry in nested_indexes(parsed, Arch.X86_64)] == [A, B]


@pytest.mark.parametrize(
    ("history", "has_shell"),
    [
        (None, None),
        ([], None),
        (["x"], None),
        ([{"empty_layer": True}], None),
        ([{"created_by": 5}], None),
        ("x", None),
        ([{"created_by": "COPY /app /app # buildkit"}, {"created_by": 'ENTRYPOINT ["/app"]'}], False),
        ([{"created_by": '/bin/sh -c #(nop)  CMD ["/app"]'}], False),
        ([{"created_by": "bazel build ..."}], False),
        ([{"created_by": "COPY publish -c x"}], False),
        ([{"created_by": "umoci insert"}, {"created_by": 'CMD ["/app"]'}], None),
        ([{"created_by": "# debian.sh --arch 'amd64' out/ 'trixie'"}], None),
        ([{"created_by": "COPY /app /app"}, {"created_by": "RUN /bin/sh -c apk add x # buildkit"}], True),
        ([{"created_by": "/bin/sh -c apt-get update"}], True),
        ([{"created_by": "|1 A=b /bin/sh -c x"}], True),
        ([{"created_by": "RUN /bin/bash -o pipefail -c x"}], True),
        ([{"created_by": 'CMD ["bash"]'}], True),
        ([{"created_by": '/bin/sh -c #(nop)  CMD ["/bin/sh"]'}], True),
    ],
)
def test_a_shell_is_known_by_what_made_the_image(history: object, has_shell: bool | None) -> None:
    found = OciConfig.parse(json.dumps({"history": history, "config": {"Tty": True}}).encode())
    assert (found.has_shell, found.terminal) == (has_shell, True)
    assert not OciConfig.parse(b'{"config": {"Tty": "yes"}}').terminal
