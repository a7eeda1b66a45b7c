"""The bindings, run with the real skopeo."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from lxdocker.errors import HostError, ImageMissingError, RegistryError
from lxdocker.source import skopeo
from lxdocker.source.credentials import Credentials
from lxdocker.source.skopeo import CopyOptions, copy_argv, disk_name, inspect_config, inspect_raw, source_name
from lxdocker.values import Arch, ArchiveKind, Digest, DiskRef, RegistryRef
from tests.registry_server import (
    HTPASSWD,
    PASSWORD,
    USER,
    Images,
    make_image,
    make_index,
    registry,
    write_layout,
)

IMAGE = make_image(StopSignal="SIGQUIT")
ARM = make_image(arch="arm64", text="arm")
INDEX = make_index(
    (IMAGE.manifest, {"os": "linux", "architecture": "amd64"}),
    (ARM.manifest, {"os": "linux", "architecture": "arm64", "variant": "v8"}),
)


def layout(folder: Path, tag: str | None = "1") -> Path:
    return write_layout(folder, [IMAGE], [(IMAGE.manifest, tag)], [])


def index_layout(folder: Path) -> Path:
    return write_layout(folder, [IMAGE, ARM], [(INDEX, "1")], [INDEX])


def oci(path: Path, tag: str | None = None) -> DiskRef:
    return DiskRef(ArchiveKind.OCI_LAYOUT, path, tag)


def archive(folder: Path) -> DiskRef:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    return DiskRef(ArchiveKind.OCI_ARCHIVE, path, None)


def run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}\n{done.stderr}"


def test_version() -> None:
    assert skopeo.version()[0].isdigit()


@pytest.mark.parametrize("tag", [None, "1"])
def test_a_layout(tmp_path: Path, tag: str | None) -> None:
    ref = oci(layout(tmp_path / "image"), tag)
    assert inspect_raw(ref, Arch.X86_64) == IMAGE.manifest.content
    assert inspect_config(ref, Arch.X86_64) == IMAGE.config.content


def test_what_is_asked_is_logged_and_can_be_pasted_into_a_shell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "lxdocker"):
        found = inspect_raw(oci(layout(tmp_path / "a layout"), "1"), Arch.X86_64)
    (line,) = caplog.messages
    assert line.startswith("+ skopeo ")
    assert subprocess.run(["sh", "-c", line.removeprefix("+ ")], capture_output=True, check=True).stdout == found


def test_an_index_in_a_layout_and_in_an_archive(tmp_path: Path) -> None:
    folder = index_layout(tmp_path / "image")
    for ref in (oci(folder, "1"), archive(folder)):
        assert inspect_raw(ref, Arch.AARCH64) == INDEX.content
        assert inspect_config(ref, Arch.AARCH64) == ARM.config.content
        assert inspect_config(ref, Arch.X86_64) == IMAGE.config.content


def test_a_docker_archive(tmp_path: Path) -> None:
    run(copy_argv(source_name(oci(layout(tmp_path / "image"))), f"docker-archive:{tmp_path}/image.tar", Arch.X86_64))
    ref = DiskRef(ArchiveKind.DOCKER_ARCHIVE, tmp_path / "image.tar", None)
    raw = inspect_raw(ref, Arch.X86_64)
    assert inspect_raw(ref, Arch.X86_64) == raw
    config = inspect_config(ref, Arch.X86_64)
    assert json.loads(raw)["config"]["digest"] == "sha256:" + hashlib.sha256(config).hexdigest()


@pytest.mark.parametrize("name", ["sp ace", "com,ma", "a@b", "-dash", "quote'\"", "new\nline", "ümlaut", "per%20cent"])
def test_odd_paths_that_skopeo_takes(tmp_path: Path, name: str) -> None:
    assert inspect_config(oci(layout(tmp_path / name), "1"), Arch.X86_64) == IMAGE.config.content


def test_paths_that_skopeo_can_not_take_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "a:b", tmp_path / "a:b" / "c"):
        with pytest.raises(ImageMissingError, match="the text after a colon"):
            source_name(oci(path))
        with pytest.raises(ImageMissingError, match="the text after a colon"):
            inspect_raw(oci(layout(path)), Arch.X86_64)


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ImageMissingError, match="not UTF-8"):
        inspect_raw(oci(layout(tmp_path / os.fsdecode(b"\xff"))), Arch.X86_64)


@pytest.mark.parametrize("kind", list(ArchiveKind))
def test_what_is_not_there(tmp_path: Path, kind: ArchiveKind) -> None:
    with pytest.raises(ImageMissingError, match="does not exist"):
        inspect_raw(DiskRef(kind, tmp_path / "none", None), Arch.X86_64)


def test_what_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text")
    for kind, name in [
        (ArchiveKind.OCI_LAYOUT, "empty"),
        (ArchiveKind.OCI_LAYOUT, "text"),
        (ArchiveKind.OCI_ARCHIVE, "text"),
        (ArchiveKind.DOCKER_ARCHIVE, "text"),
    ]:
        with pytest.raises(RegistryError) as caught:
            inspect_raw(DiskRef(kind, tmp_path / name, None), Arch.X86_64)
        assert f"{kind.value}:{tmp_path}/{name}" in caught.value.brief
        assert caught.value.details
        assert "level=" not in caught.value.details
        assert "\n" not in str(caught.value)


def test_tags(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "image", [IMAGE, ARM], [(IMAGE.manifest, "1"), (ARM.manifest, "2")], [])
    assert inspect_raw(oci(folder, "2"), Arch.X86_64) == ARM.manifest.content
    with pytest.raises(ImageMissingError, match="more than one image") as caught:
        inspect_raw(oci(folder), Arch.X86_64)
    assert "by its tag" in caught.value.resolution
    with pytest.raises(ImageMissingError, match='no descriptor found for reference "3"'):
        inspect_raw(oci(folder, "3"), Arch.X86_64)


def test_a_damaged_configuration(tmp_path: Path) -> None:
    folder = layout(tmp_path / "image")
    blob = folder / "blobs/sha256" / IMAGE.config.digest.removeprefix("sha256:")
    blob.write_bytes(IMAGE.config.content.replace(b"amd64", b"arm64"))
    with pytest.raises(RegistryError, match=r"cannot read"):
        inspect_config(oci(folder), Arch.X86_64)


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> DiskRef:
    folder = tmp_path / "bin"
    folder.mkdir()
    if script is not None:
        (folder / "skopeo").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "skopeo").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder) if script is None else f"{folder}:{os.environ['PATH']}")
    return oci(layout(tmp_path / "image"))


def test_no_skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = fake(tmp_path, monkeypatch, None)
    for ask in (lambda: inspect_raw(ref, Arch.X86_64), skopeo.version):
        with pytest.raises(HostError, match="not installed") as caught:
            ask()
        assert "apt-get install skopeo" in caught.value.resolution


def test_a_skopeo_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = fake(tmp_path, monkeypatch, "echo 'cannot load \033[1mlibrary' >&2; exit 127")
    with pytest.raises(HostError, match=r"does not work on this host: cannot load  \[1mlibrary"):
        skopeo.version()
    with pytest.raises(RegistryError, match="cannot load"):
        inspect_raw(ref, Arch.X86_64)


def test_output_is_bounded_and_bytes_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = fake(tmp_path, monkeypatch, f"cat {tmp_path}/out")
    content = bytes(range(256)) * 4096  # 1 MiB, no UTF-8
    (tmp_path / "out").write_bytes(content)
    assert inspect_raw(ref, Arch.X86_64) == content
    (tmp_path / "out").write_bytes(content * 5)
    with pytest.raises(RegistryError, match="printed more than 4096 KiB"):
        inspect_raw(ref, Arch.X86_64)


def test_it_must_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = fake(tmp_path, monkeypatch, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    monkeypatch.setattr(skopeo, "_INSPECT_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(RegistryError, match=r"no result within 0\.5 s"):
        inspect_raw(ref, Arch.X86_64)
    assert time.monotonic() - started < 5
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_names() -> None:
    digest = Digest("sha256:" + "a" * 64)
    assert source_name(RegistryRef("docker.io", "library/nginx", "1", None), digest) == (
        f"docker://docker.io/library/nginx@{digest}"
    )
    assert source_name(RegistryRef("[::1]:5000", "app", "1", None)) == "docker://[::1]:5000/app:1"
    assert disk_name(ArchiveKind.OCI_LAYOUT, Path("/cache/x"), "image") == "oci:/cache/x:image"


def test_copying_from_a_registry_that_wants_a_login(tmp_path: Path) -> None:
    assert USER in HTPASSWD
    with registry(tmp_path / "open", storage=tmp_path / "storage") as server:
        images = Images(server.address)
        images.push("app", "amd", IMAGE)
        images.push("app", "arm", ARM)
        images.push_manifest("app", "1", INDEX)
    with registry(tmp_path / "closed", storage=tmp_path / "storage", htpasswd=True) as server:
        # As lxdocker hands it to a builder.
        login = {"username": USER, "password": PASSWORD}
        (tmp_path / "mine.json").write_text(json.dumps({"auths": {server.address: login}}))
        ref = RegistryRef(server.address, "app", "1", None)
        known = Credentials({"REGISTRY_AUTH_FILE": str(tmp_path / "mine.json")}, tmp_path)
        (tmp_path / "auth.json").write_text(known.authfile_json(ref) or "")
        (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (tmp_path / "tmp").mkdir()
        options = CopyOptions(
            authfile=tmp_path / "auth.json",
            tls_verify=False,
            policy=tmp_path / "policy.json",
            tmpdir=tmp_path / "tmp",
            cert_dir=tmp_path / "tmp",
        )
        dest = disk_name(ArchiveKind.OCI_LAYOUT, tmp_path / "out", "image")
        argv = copy_argv(source_name(ref, Digest(INDEX.digest)), dest, Arch.AARCH64, options)
        assert PASSWORD not in " ".join(argv)
        run(argv)
    (entry,) = json.loads((tmp_path / "out/index.json").read_text())["manifests"]
    assert entry["digest"] == ARM.manifest.digest
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "image"}
    layer = tmp_path / "out/blobs/sha256" / ARM.layers[0].digest.removeprefix("sha256:")
    assert layer.read_bytes() == ARM.layers[0].content


def test_copying_from_disk(tmp_path: Path) -> None:
    source = archive(index_layout(tmp_path / "image"))
    dest = disk_name(ArchiveKind.OCI_LAYOUT, tmp_path / "out", "image")
    run(copy_argv(source_name(source), dest, Arch.X86_64))
    assert inspect_config(oci(tmp_path / "out", "image"), Arch.X86_64) == IMAGE.config.content
