"""Test images, assembled here and pushed to the registry over plain HTTP."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import random
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CHUNK = 1 << 20
FILLER_FILES = 200


@dataclass(frozen=True)
class Layer:
    """A compressed layer."""

    path: Path
    size: int  # bytes
    digest: str
    diff_id: str  # the digest of the unpacked layer


class Images:
    """Creates images and pushes them; each method returns references."""

    def __init__(self, registry: str, layouts: Path, work: Path) -> None:
        self._registry = registry
        self._layouts = layouts
        self._work = work

    def usual(self, count: int) -> list[str]:
        """Images of 60 MB (compressed) with Debian, nginx and other content; no two share a layer."""
        references = []
        for number in range(count):
            config, sources = self._layout("nginx")
            layers = [self._relabelled(source, f"{number} {place}") for place, source in enumerate(sources)]
            layers.append(self._filler(number, 60_000_000 - sum(layer.size for layer in layers)))
            references.append(self._push(f"usual-{number}", config, layers))
        return references

    def small(self, count: int) -> list[str]:
        """Images of one small program; only their labels differ."""
        config, sources = self._layout("static")
        layers = [self._relabelled(source, "small") for source in sources]
        return [self._push(f"small-{n}", {**config, "author": str(n)}, layers) for n in range(count)]

    def big(self, size: int) -> str:
        """An incompressible image of ``size`` bytes."""
        config, sources = self._layout("static")
        layers = [self._relabelled(source, "big") for source in sources]
        return self._push("big", config, [*layers, self._noise(size)])

    # ---- layers

    def _layout(self, name: str) -> tuple[dict[str, Any], list[Path]]:
        """Configuration and layers of an OCI layout built by scripts/test-images."""
        blobs = self._layouts / name / "blobs/sha256"

        def document(descriptor: Any) -> Any:
            return json.loads((blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes())

        manifest = document(json.loads((self._layouts / name / "index.json").read_bytes())["manifests"][0])
        layers = [blobs / layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
        config: dict[str, Any] = document(manifest["config"])
        return config, layers

    def _relabelled(self, source: Path, label: str) -> Layer:
        """``source`` with one more file in front. Since gzip files can be concatenated, this is as cheap as a copy."""
        entry = io.BytesIO()
        with tarfile.open(fileobj=entry, mode="w") as tar:
            _add(tar, "etc/label", label.encode())
        before = entry.getvalue()[: tarfile.BLOCKSIZE * 2]  # without the end of the archive
        diff = hashlib.sha256(before)
        with gzip.open(source) as unpacked:
            while chunk := unpacked.read(CHUNK):
                diff.update(chunk)

        def content() -> Iterator[bytes]:
            yield gzip.compress(before, mtime=0)
            with source.open("rb") as packed:
                while chunk := packed.read(CHUNK):
                    yield chunk

        return self._written(content(), diff.hexdigest())

    def _filler(self, seed: int, size: int) -> Layer:
        """Files of which a third is incompressible, ``size`` bytes when packed."""
        entries = io.BytesIO()
        source = random.Random(seed)  # noqa: S311 - content, not a secret
        each = size // FILLER_FILES
        with tarfile.open(fileobj=entries, mode="w") as tar:
            for number in range(FILLER_FILES):
                _add(tar, f"srv/filler/{number}", source.randbytes(each) + b"lxdocker" * (each // 4))
        return self._written(iter([gzip.compress(entries.getvalue(), 6, mtime=0)]), _sha256(entries.getvalue()))

    def _noise(self, size: int) -> Layer:
        packed = zlib.compressobj(0, wbits=31)
        diff = hashlib.sha256()
        source = random.Random(size)  # noqa: S311 - content, not a secret
        files = 10

        def content() -> Iterator[bytes]:
            for number in range(files):
                header = tarfile.TarInfo(f"srv/noise/{number}")
                header.size = size // files // CHUNK * CHUNK
                yield header.tobuf()
                for _ in range(header.size // CHUNK):
                    yield source.randbytes(CHUNK)
            yield bytes(tarfile.RECORDSIZE)

        def compressed() -> Iterator[bytes]:
            for chunk in content():
                diff.update(chunk)
                yield packed.compress(chunk)
            yield packed.flush()

        layer = self._written(compressed(), "")
        return Layer(layer.path, layer.size, layer.digest, f"sha256:{diff.hexdigest()}")

    def _written(self, content: Iterator[bytes], diff: str) -> Layer:
        path = self._work / "layer"
        digest = hashlib.sha256()
        with path.open("wb") as output:
            for chunk in content:
                output.write(chunk)
                digest.update(chunk)
        final = path.rename(self._work / digest.hexdigest())
        return Layer(final, final.stat().st_size, f"sha256:{digest.hexdigest()}", f"sha256:{diff}")

    # ---- the registry

    def _push(self, repository: str, config: dict[str, Any], layers: list[Layer]) -> str:
        config = {key: value for key, value in config.items() if key != "history"}
        config["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
        content = json.dumps(config, sort_keys=True).encode()
        for layer in layers:
            with layer.path.open("rb") as body:
                self._blob(repository, layer.digest, body, layer.size)
        self._blob(repository, f"sha256:{_sha256(content)}", io.BytesIO(content), len(content))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": f"sha256:{_sha256(content)}", "size": len(content)},
            "layers": [{"mediaType": LAYER, "digest": layer.digest, "size": layer.size} for layer in layers],
        }
        document = json.dumps(manifest).encode()
        self._put(f"/v2/{repository}/manifests/latest", io.BytesIO(document), len(document), MANIFEST)
        return f"{self._registry}/{repository}:latest"

    def _blob(self, repository: str, digest: str, body: IO[bytes], size: int) -> None:
        connection = http.client.HTTPConnection(self._registry)
        connection.request("POST", f"/v2/{repository}/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        upload = urlsplit(answer.headers["Location"])
        self._put(f"{upload.path}?{upload.query}&digest={digest}", body, size, "application/octet-stream")

    def _put(self, path: str, body: IO[bytes], size: int, kind: str) -> None:
        connection = http.client.HTTPConnection(self._registry, blocksize=CHUNK)
        connection.request("PUT", path, body, {"Content-Type": kind, "Content-Length": str(size)})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status != http.client.CREATED:
            raise OSError(f"the registry refuses {path}: {answer.status} {said[:500]!r}")


def metadata(folder: Path) -> Path:
    """Minimal metadata that LXD requires beside a root filesystem."""
    path = folder / "lxd.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        _add(tar, "metadata.yaml", b"architecture: x86_64\ncreation_date: 1735689600\n")
    return path


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
