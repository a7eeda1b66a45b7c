"""Images that `skopeo copy` refuses by their manifest's words, fetched by the real skopeo from a real registry."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.builder.recipe import FETCH, MEND
from tests.chroots import Root, needs_namespaces
from tests.registry_server import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    PASSWORD,
    USER,
    Blob,
    Certificate,
    Image,
    Images,
    Registry,
    registry,
)

TOOLS = ("skopeo", "perl", "docker-registry")
pytestmark = [
    needs_namespaces,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"this host has not all of {', '.join(TOOLS)}"),
]
WORK = "/cache/work/builder-1"
ZSTD = DOCKER_LAYER.replace("gzip", "zstd")


def made(*layers: bytes) -> Image:
    """Of Docker's, with layers of a type that only BuildKit knows."""
    config = Blob(json.dumps({"rootfs": {"type": "layers", "diff_ids": []}}).encode(), DOCKER_CONFIG)
    blobs = tuple(Blob(layer, ZSTD) for layer in layers)
    manifest = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config.descriptor}
    manifest["layers"] = [blob.descriptor for blob in blobs]
    return Image(Blob(json.dumps(manifest).encode(), DOCKER_MANIFEST), config, blobs)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[tuple[Registry, Image, Path]]:
    """A registry with a certificate of its own that wants a login; what is in it, and where that is kept."""
    image = made(os.urandom(3_000_000), gzip.compress(b"two"))
    storage = tmp_path / "storage"
    with registry(tmp_path / "open", storage=storage) as pushed:
        Images(pushed.address).push("app", "latest", image)
    with registry(
        tmp_path / "closed", storage=storage, htpasswd=True, certificate=Certificate.make(tmp_path)
    ) as server:
        yield server, image, tmp_path


def fetch(folder: Path, server: Registry, image: Image, *, password: str = PASSWORD) -> tuple[Root, str, int]:
    """As a builder does it. Returns its root, what was said last, and the exit status."""
    root = Root(folder / "builder", "/bin/busybox")
    if not root.path.exists():
        root = Root.make(root.path, root.busybox)
        for inside in ("cache", "build", "run", "tmp", "var/tmp"):
            (root / inside).mkdir(parents=True)
        for tool in ("skopeo", "perl"):
            root.install(tool)
        for script in MEND:
            root.write(f"/run/build/{script.name}", script.read_bytes())
        root.write("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    root.write("/secrets/auth.json", json.dumps({"auths": {server.address: {"auth": login}}}))
    root.write("/secrets/ca.crt", (folder / "tls.crt").read_bytes())
    source = f"docker://{server.address}/app@{image.manifest.digest}"
    options = ["--src-authfile", "/secrets/auth.json", "--src-cert-dir", "/secrets", "--digestfile", "/run/digest"]
    command = ["skopeo", "--override-os", "linux", "copy", *options, source, f"oci:{WORK}:image"]
    fetching = ["/bin/busybox", "sh", "-c", FETCH.read_text(), "fetch", "app", WORK, "/secrets", "0", "0", ""]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/"}
    done = root.run(*fetching, *command, env=env, network=False)
    return root, done.stderr.rpartition("\f")[2], done.returncode


def test_it_is_fetched_as_it_is(closed: tuple[Registry, Image, Path]) -> None:
    server, image, folder = closed
    root, said, status = fetch(folder, server, image)
    assert (status, said) == (0, "")
    blobs = {path.name: path.read_bytes() for path in (root / "cache/blobs/sha256").iterdir()}
    expected = [image.manifest, image.config, *image.layers]
    assert blobs == {blob.digest.removeprefix("sha256:"): blob.content for blob in expected}
    (entry,) = json.loads((root / "run/layout/index.json").read_text())["manifests"]
    assert entry["digest"] == image.manifest.digest
    assert (root / "run/layout/oci-layout").is_file()
    assert (root / "cache/manifests/app").read_text().strip() == image.manifest.digest
    assert list((root / "cache/work").iterdir()) == []
    assert not (root / "secrets").exists()
    # What is there is not asked for again.
    asked = len([one for one in server.requests() if "/blobs/" in one.path])
    assert fetch(folder, server, image)[1:] == ("", 0)
    assert len([one for one in server.requests() if "/blobs/" in one.path]) == asked


def test_why_not(closed: tuple[Registry, Image, Path]) -> None:
    server, image, folder = closed
    assert "unauthorized" in fetch(folder, server, image, password="wrong")[1].lower()  # noqa: S106 - made up
    digest = image.layers[0].digest.removeprefix("sha256:")
    (blob,) = (folder / "storage").rglob(f"{digest}/data")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    root, said, status = fetch(folder, server, image)
    assert status != 0
    assert said == f"corrupted blob, expecting sha256:{digest}\n"
    assert not (root / "cache/blobs/sha256" / digest).exists()
