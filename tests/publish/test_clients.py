"""What another LXD host makes of the tree, over HTTPS: it follows new versions, rollbacks and deltas, and a mirror."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
import threading
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lxdocker.image import artifact
from lxdocker.tree import deltas, retention
from lxdocker.tree.simplestreams import IMAGES_PATH
from lxdocker.tree.tree import Tree
from lxdocker.tree.version import Published
from lxdocker.values import Arch
from tests import examples
from tests.examples import digest, provenance, resolved, spec
from tests.lxd.rig import LXDOCKER, Lxc
from tests.waiting import wait_until

NEVER = threading.Event()
DATA = random.Random(7).randbytes(3_000_000)  # nothing can compress it


class Server:
    """`lxdocker serve` on a tree, and what it was asked for."""

    def __init__(self, folder: Path, tree: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.certificate = folder / "tls/server.crt"
        self._log = folder / "serve.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*LXDOCKER, "serve", "--listen", f"127.0.0.1:{self.port}", "--tls-dir", folder / "tls", "--tree", tree],
                stdout=log,
                stderr=log,
                cwd=folder,
                env={key: value for key, value in os.environ.items() if not key.startswith("LXDOCKER_")},
            )
        wait_until("the server", self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.said
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self.certificate.exists()
        except OSError:
            return False

    @property
    def said(self) -> str:
        return self._log.read_text()

    def asked(self) -> list[str]:
        """The names of all image files it has given so far, without keys."""
        return [path.rsplit("/", 1)[1] for path in re.findall(r"images/\S+?\.(?:xz|squashfs|vcdiff)\b", self.said)]

    def get(self, path: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.certificate.with_name("authority.crt")))
        with urllib.request.urlopen(f"{self.url}/{path}", context=context, timeout=10) as answer:
            content: bytes = answer.read()
            return content

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


class Client:
    """A project of a real LXD that has the server as a remote."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.remote = f"r{uuid.uuid4().hex[:6]}"
        self.lxc = Lxc(f"t-{uuid.uuid4().hex[:8]}")
        self._cache = Path(os.environ["LXD_DIR"]) / "cache"
        (folder / "servercerts").mkdir(parents=True)
        shutil.copy(server.certificate, folder / "servercerts" / f"{self.remote}.crt")
        Lxc()("project", "create", self.lxc.project, "-c", "features.images=true", "-c", "features.profiles=false")
        self.lxc("remote", "add", self.remote, server.url, "--protocol", "simplestreams")

    def follow(self, name: str) -> str:
        """Copies an image so that it is kept fresh; returns its fingerprint."""
        self.lxc("image", "copy", f"{self.remote}:{name}", "local:", "--alias", name, "--auto-update")
        return self.lxc.aliases()[name]

    def refresh(self, name: str) -> str:
        """What the daemon does every few hours, its copy of the index having grown old."""
        for remote in self._cache.iterdir():
            shutil.rmtree(remote)
        self.lxc("image", "refresh", name, timeout=120)
        return self.lxc.aliases()[name]

    def close(self) -> None:
        self.lxc.purge()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "tree")
    with made.lock(print, NEVER):
        made.write_index()
    return made


@pytest.fixture
def server(tree: Tree, tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, tree.root)
    try:
        yield made
    finally:
        made.close()


def _needs_remotes() -> None:
    if "image_registries" in Lxc().query("/1.0")["api_extensions"]:
        pytest.skip("this LXD downloads from image registries only: tests/lxd/test_registries.py")


@pytest.fixture
def client(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("LXD_CONF", str(tmp_path / "client"))
    _needs_remotes()
    made = Client(tmp_path / "client", server)
    try:
        yield made
    finally:
        made.close()


def publish(tree: Tree, content: str, *, delta: bool = False) -> Published:
    """A real image, if one of data only: a squashfs and the metadata LXD wants."""
    made = provenance(spec("web"), resolved(content))
    with tree.lock(print, NEVER), tree.staging(made.name) as folder:
        root = folder / "root"
        root.mkdir()
        (root / "data").write_bytes(DATA)
        (root / "version").write_text(content)
        packed = folder / "packed.squashfs"
        subprocess.run(
            ["mksquashfs", root, packed, "-comp", "zstd", "-noappend", "-quiet", "-no-progress"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        finished = artifact.write(folder, metadata(content), artifact.read(packed))
        found: Sequence[Any] = []
        if delta:
            base = [one for one in tree.versions() if one.withdrawn is None][-1]
            made_delta = deltas.make(base, finished, folder, NEVER, print)
            assert made_delta is not None
            found = [made_delta]
        return tree.publish(finished, made, Arch.X86_64, ("www",), deltas=dict(found))


def metadata(content: str) -> bytes:
    text = json.dumps({"architecture": "x86_64", "creation_date": 1, "properties": {"content": content}}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        entry = tarfile.TarInfo("metadata.yaml")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return packed.getvalue()


def lxdocker(*command: str) -> Any:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LXDOCKER_")}
    done = subprocess.run(
        [*LXDOCKER, *command, "--json"], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_what_a_client_lists(tree: Tree, server: Server, client: Client) -> None:
    """Each version, in words that tell it from the others; and aliases lead to the newest."""
    version = "oci.label.org.opencontainers.image.version"
    moved = provenance(spec(image="ghcr.io/owner/app:2"))  # so that one of the architectures has another release
    with tree.lock(print, NEVER):
        old = examples.publish(tree, content="old", properties={version: "1.27.2"})
        new = examples.publish(tree, moved, content="new")
        arm = examples.publish(tree, content="arm", arch=Arch.AARCH64, properties={version: "1.27.3"})
        own = examples.publish(tree, provenance(spec("db")), "db", properties={"description": "Our database"})
    images = json.loads(client.lxc("image", "list", f"{client.remote}:", "--format", "json"))
    index = digest("index").short
    # LXD since 6.8 says less.
    assert {
        image["fingerprint"]: re.sub(r" (amd64|arm64)| \(\d{8}_\d{4}\)", "", described(image)) for image in images
    } == {
        old.fingerprint.value: "web ghcr.io/owner/app:2 (1.27.2)",
        new.fingerprint.value: f"web ghcr.io/owner/app:2 ({index})",
        arm.fingerprint.value: "web docker.io/library/nginx:1 (1.27.3)",
        own.fingerprint.value: f"db Our database ({index})",
    }
    for name, one in [("web", new), ("web/amd64", new), ("web/arm64", arm), ("db", own)]:
        assert f"Fingerprint: {one.fingerprint}" in client.lxc("image", "info", f"{client.remote}:{name}")
    found = json.loads(client.lxc("image", "list", f"{client.remote}:", "os=web", "release=2", "--format", "json"))
    assert {image["fingerprint"] for image in found} == {old.fingerprint.value, new.fingerprint.value}


def described(image: dict[str, Any]) -> str:
    text: str = image["properties"]["description"]
    return text


def test_a_client_follows_a_new_version_a_rollback_and_its_end(tree: Tree, server: Server, client: Client) -> None:
    first = publish(tree, "1")
    assert client.follow("web") == first.fingerprint.value
    second = publish(tree, "2")
    assert client.refresh("web") == second.fingerprint.value
    done = lxdocker("publish", "rollback", "web", "--tree", str(tree.root))
    assert done["rolled_back"][0]["version"] == first.key
    assert client.refresh("web") == first.fingerprint.value
    third = publish(tree, "3")
    assert client.refresh("web") == third.fingerprint.value
    lxdocker("publish", "rollback", "web", "--tree", str(tree.root))
    assert client.refresh("web") == first.fingerprint.value  # not to what was rolled back before
    lxdocker("publish", "rollback", "web", "--undo", "--tree", str(tree.root))
    assert client.refresh("web") == third.fingerprint.value
    assert lxdocker("publish", "verify", "--deep", "--tree", str(tree.root))["clean"]


@pytest.mark.skipif(shutil.which("xdelta3") is None, reason="needs xdelta3")
def test_a_client_applies_a_delta(tree: Tree, server: Server, client: Client) -> None:
    first = publish(tree, "1")
    assert client.follow("web") == first.fingerprint.value
    assert server.asked().count("rootfs.squashfs") == 1
    second = publish(tree, "2", delta=True)
    assert second.deltas[0].size < 100_000
    assert client.refresh("web") == second.fingerprint.value
    # The daemon had only the delta, and what it made of it has the right fingerprint.
    wait_until("the log", lambda: f"{first.key}.vcdiff" in server.said)
    assert server.asked().count("rootfs.squashfs") == 1
    # Its base has left the index, and with it the delta: the next client gets the whole file.
    with tree.lock(print, NEVER):
        retention.retire(tree, 1)
    assert "vcdiff" not in (tree.root / IMAGES_PATH).read_text()


def test_a_client_has_the_same_image_from_a_mirror(tree: Tree, server: Server, tmp_path: Path) -> None:
    _needs_remotes()
    publish(tree, "1")
    version = publish(tree, "2")
    certificate = ssl.PEM_cert_to_DER_cert(server.certificate.read_text())
    fingerprint = hashlib.sha256(certificate).hexdigest()
    root = tmp_path / "mirror"
    result = lxdocker("mirror", server.url, str(root), "--fingerprint", fingerprint)
    assert [len(result[key]) for key in ("fetched", "failed")] == [2, 0]
    assert lxdocker("mirror", server.url, str(root), "--fingerprint", fingerprint)["unchanged"] == 2
    assert lxdocker("publish", "verify", "--deep", "--tree", str(root)) == {
        "schema": 1,
        "clean": True,
        "versions": 2,
        "size": result["bytes"],
        "read": result["bytes"],
        "findings": [],
    }
    (tmp_path / "second").mkdir()
    mirror = Server(tmp_path / "second", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LXD_CONF", str(tmp_path / "second/client"))
        try:
            client = Client(tmp_path / "second/client", mirror)
            try:
                assert client.follow("www") == version.fingerprint.value
            finally:
                client.close()
            # Neither what it is a mirror of, nor half files, are for others.
            with pytest.raises(OSError, match="404"):
                mirror.get(".mirror/source")
        finally:
            mirror.close()
