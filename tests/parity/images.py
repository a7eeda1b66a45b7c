"""Makes the suite's images with umoci, all in one OCI layout, and pushes them to a registry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parity.cases import Case
from tests.registry_server import Blob, Image, Images

SECONDS = 60
TAG = "org.opencontainers.image.ref.name"
PROBE_SOURCE = Path(__file__).parent / "probe.c"
BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static


@dataclass(frozen=True)
class Layout:
    """An OCI layout with one tag for each case."""

    folder: Path

    def reference(self, case: Case) -> str:
        """As podman and umoci take it."""
        return f"{self.folder}:{case.image}"

    def push(self, registry: str, repository: str) -> None:
        """All of it, each case as a tag of ``repository``."""
        images = Images(registry)
        pushed: set[str] = set()
        for descriptor in self._index["manifests"]:
            manifest = self._blob(descriptor)
            document = json.loads(manifest.content)
            layers = [layer for layer in document["layers"] if layer["digest"] not in pushed]
            pushed.update(layer["digest"] for layer in layers)
            image = Image(manifest, self._blob(document["config"]), tuple(map(self._blob, layers)))
            images.push(repository, descriptor["annotations"][TAG], image)

    def complete(self, case: Case) -> None:
        """Puts right what `umoci config` can't say: it drops the first empty argument."""
        entry = next(one for one in self._index["manifests"] if one["annotations"][TAG] == case.name)
        manifest = json.loads(self._blob(entry).content)
        document = json.loads(self._blob(manifest["config"]).content)
        wanted = {"Env": list(case.env), "Entrypoint": list(case.entrypoint), "Cmd": list(case.cmd)}
        if all((document["config"].get(key) or []) == value for key, value in wanted.items()):
            return
        document["config"] |= {key: value for key, value in wanted.items() if value}
        manifest["config"] = self._add(document, manifest["config"]["mediaType"])
        changed = self._add(manifest, entry["mediaType"])
        entries = [{**one, **changed} if one == entry else one for one in self._index["manifests"]]
        (self.folder / "index.json").write_text(json.dumps({**self._index, "manifests": entries}))

    @property
    def _index(self) -> dict[str, Any]:
        index: dict[str, Any] = json.loads((self.folder / "index.json").read_text())
        return index

    def _add(self, document: dict[str, Any], media_type: str) -> dict[str, Any]:
        blob = Blob(json.dumps(document).encode(), media_type)
        (self.folder / "blobs/sha256" / blob.digest.removeprefix("sha256:")).write_bytes(blob.content)
        return blob.descriptor

    def _blob(self, descriptor: dict[str, str]) -> Blob:
        path = self.folder / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")
        return Blob(path.read_bytes(), descriptor["mediaType"])


def make(folder: Path, cases: Sequence[Case]) -> Layout:
    """The images of ``cases`` in a layout in ``folder``."""
    layout = Layout(folder / "images")
    probe = folder / "probe"
    _run("gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-s", "-o", str(probe), str(PROBE_SOURCE))
    _run("umoci", "init", "--layout", str(layout.folder))
    roots: dict[bytes, str] = {}  # a layer and the image that has nothing but it
    for case in cases:
        if case.of:
            continue
        # One after the other: umoci rewrites the layout's index each time.
        content = case.layer(probe.read_bytes(), BUSYBOX.read_bytes())
        if content not in roots:
            roots[content] = f"{layout.folder}:root-of-{case.name}"
            layer = folder / "layer.tar"
            layer.write_bytes(content)
            _run("umoci", "new", "--image", roots[content])
            _run("umoci", "raw", "add-layer", "--image", roots[content], str(layer))
        _run("umoci", "config", "--image", roots[content], "--tag", case.name, *_config(case))
        layout.complete(case)
    return layout


def _config(case: Case) -> list[str]:
    return [
        *([f"--config.user={case.user}"] if case.user else []),
        *(f"--config.volume={path}" for path in case.declares),
        *(f"--config.env={variable}" for variable in case.env),
        *(f"--config.entrypoint={word}" for word in case.entrypoint),
        *(f"--config.cmd={word}" for word in case.cmd),
        *([f"--config.workingdir={case.workdir}"] if case.workdir else []),
        "--created=2025-01-01T00:00:00Z",
    ]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{' '.join(command)[:500]}: {done.stdout}{done.stderr}"
