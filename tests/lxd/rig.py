"""What the tests against a real LXD are made of.

- ``Lxc``: the ``lxc`` client in one project, with a time limit on everything
- ``World``: a folder of specs, a tree and a project of their own, and the real ``lxdocker`` program to run on them
- ``layer()`` and ``image()``: images made by hand, down to the bytes of their tar
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import selectors
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from typing import IO, Any, TypeVar, cast

import yaml

from lxdocker.image.provenance import folder_id
from tests.registry_server import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Blob, Image, Images
from tests.waiting import wait_until

LXDOCKER = [sys.executable, "-m", "lxdocker"]
BUILDER_PROJECT = "lxdocker"
T = TypeVar("T")
COMMAND_SECONDS = 120


# ---- LXD


class Socket(HTTPConnection):
    """HTTP by a unix socket."""

    def __init__(self, path: Path, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


# A session begins with a ping. If all that a command says, and its end, are there before `lxc exec` has answered that,
# as on a busy host, the answer fails, and it drops the rest unread. So a command stays until its last word was read.
LAST_WORD = b"\x1e"
STAYING = '"$@" </dev/null; status=$?; printf "\\036"; printf "\\036" >&2; read -r _; exit "$status"'


def _until_last_word(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What it has said on stdout and on stderr."""
    assert process.stdout
    assert process.stderr
    said = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as waiting:
        for stream in said:
            waiting.register(stream, selectors.EVENT_READ)
        while waiting.get_map():
            for key, _ in waiting.select():
                stream = cast(IO[bytes], key.fileobj)
                piece = os.read(key.fd, 1 << 16)
                said[stream] += piece
                if not piece or LAST_WORD in said[stream]:
                    waiting.unregister(stream)
    return said[process.stdout], said[process.stderr]


class Lxc:
    """``lxc`` in one project."""

    def __init__(self, project: str = "default") -> None:
        self.project = project

    def __call__(self, *arguments: str, timeout: float = 60, stdin: str = "") -> str:
        done = subprocess.run(
            ["lxc", *([] if arguments[0] == "query" else ["--project", self.project]), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"lxc {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def exec(self, name: str, *command: str, timeout: float = 60) -> CompletedProcess[str]:
        """Runs a command in an instance, which has lxdocker's busybox."""
        argv = ["lxc", "--project", self.project, "exec", name, "--", "/busybox-lxd", "sh", "-c", STAYING, "sh"]
        with subprocess.Popen([*argv, *command], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            timer = threading.Timer(timeout, process.kill)
            timer.start()
            try:
                said = _until_last_word(process)
                rest = process.communicate()
            finally:
                timer.cancel()
        texts = (
            (one + more).replace(LAST_WORD, b"").decode(errors="replace") for one, more in zip(said, rest, strict=True)
        )
        return CompletedProcess(command, process.returncode, *texts)

    def query(self, path: str, *arguments: str) -> Any:
        """As ``lxc query``; without arguments by the socket: a process for each look would keep a core busy."""
        path = f"{path}{'&' if '?' in path else '?'}project={self.project}"
        if arguments:
            return json.loads(self("query", *arguments, path) or "null")
        with closing(Socket(Path(os.environ["LXD_DIR"], "unix.socket"))) as connection:
            connection.request("GET", path)
            answer = json.loads(connection.getresponse().read())
        assert answer["type"] == "sync", f"lxc query {path}: Error: {answer['error']}"
        return answer["metadata"]

    def images(self) -> dict[str, dict[str, Any]]:
        """Fingerprint -> image, with ``aliases`` as a sorted list of names."""
        return {
            image["fingerprint"]: {**image, "aliases": sorted(alias["name"] for alias in image["aliases"])}
            for image in self.query("/1.0/images?recursion=1")
        }

    def aliases(self) -> dict[str, str]:
        return {alias["name"]: alias["target"] for alias in self.query("/1.0/images/aliases?recursion=1")}

    def instances(self) -> list[str]:
        return [instance["name"] for instance in self.query("/1.0/instances?recursion=1")]

    def console(self, name: str) -> Path:
        """The file with what an instance has printed on its console, from its first start on.

        It grows while the instance runs. When a run ends, its whole output takes the place of all that was there. Each
        version of ``lxc console --show-log`` has its own words around that, and tells each line only once.
        """
        return Path(os.environ["LXD_DIR"], "logs", self._full(name), "console.log")

    def has_ended(self, name: str) -> bool:
        """Whether an instance is not running; if so, its console's file is final."""
        if self.query(f"/1.0/instances/{name}")["status"] not in ("Stopping", "Stopped"):
            return False
        # It writes that file last, when LXD already calls the instance stopped.
        monitor = f"[lxc monitor] {os.environ['LXD_DIR']}/containers {self._full(name)}"
        ending = [process for process, words in command_lines().items() if words.strip() == monitor]
        wait_until(f"the end of {monitor}", lambda: not any(process.exists() for process in ending))
        return True

    def _full(self, name: str) -> str:
        """What liblxc calls an instance."""
        return name if self.project == "default" else f"{self.project}_{name}"

    def purge(self) -> None:
        """Deletes the project with all that is in it."""
        if self.project not in {project["name"] for project in Lxc().query("/1.0/projects?recursion=1")}:
            return
        for name in self.instances():
            self("delete", "--force", name)
        for fingerprint in self.images():
            self("image", "delete", fingerprint)
        Lxc()("project", "delete", self.project)


def command_lines() -> dict[Path, str]:
    """Of every process of this machine: its folder in /proc -> its command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            found[path] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def overlap(before: bytes, after: bytes) -> int:
    """How much of the beginning of ``after`` has been the end of ``before``."""
    sizes = range(min(len(before), len(after)), 0, -1)
    return next((size for size in sizes if before.endswith(after[:size])), 0)


class Instance:
    """A running instance of an image."""

    def __init__(self, lxc: Lxc, image: str, *options: str, yaml: str = "") -> None:
        self._lxc = lxc
        self.name = f"t-{uuid.uuid4().hex[:8]}"
        self._said = self._console = b""
        lxc("launch", image, self.name, *options, stdin=yaml)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self._lxc.query(f"/1.0/instances/{self.name}/state")
        return found

    def address(self) -> str:
        """Its IPv4 address, as soon as it has one."""

        def probe() -> str | None:
            interface = (self.state()["network"] or {}).get("eth0") or {"addresses": []}
            found = [one["address"] for one in interface["addresses"] if one["family"] == "inet"]
            return found[0] if found else None

        return str(wait_until(f"an address of {self.name}", probe))

    @property
    def status(self) -> str:
        return str(self._lxc.query(f"/1.0/instances/{self.name}")["status"])

    def log(self) -> str:
        """All that it has said on its console so far, over all its runs."""
        ended = self._lxc.has_ended(self.name)
        file = self._lxc.console(self.name)
        content = file.read_bytes()
        if not content.startswith(self._console):
            time.sleep(0.1)  # it may just be written anew
            content = file.read_bytes()
        self._said += content[overlap(self._console, content) :]
        self._console = content
        if ended:
            # What the next run says would come behind it, and take its place in the end.
            os.truncate(file, 0)
            self._console = b""
        return self._said.decode(errors="replace").replace("\r", "")

    def log_with(self, text: str) -> str:
        """The console log once it has ``text``."""
        log = ""

        def probe() -> bool:
            nonlocal log
            log = self.log()
            return text in log

        try:
            wait_until(repr(text), probe)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log}") from None
        return log

    def shell(self, script: str) -> str:
        """Runs a script with the busybox that every image has been given."""
        done = self._lxc.exec(self.name, "/busybox-lxd", "sh", "-c", script)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """As a user does it; fails where LXD has to give up waiting."""
        self._lxc("stop", self.name, "--timeout", "30")

    def start(self) -> None:
        if self._console:
            self.log()
        self._lxc("start", self.name)

    def delete(self) -> None:
        """Even in the middle of something."""

        def probe() -> bool:
            with suppress(AssertionError):
                self._lxc("delete", "--force", self.name)
            return self.name not in self._lxc.instances()

        wait_until(f"the end of {self.name}", probe)


def fetch(url: str) -> str:
    """The page at ``url``, as soon as a server answers there."""

    def probe() -> str | None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    return str(wait_until(url, probe))


def redis(address: str, *command: str) -> str:
    """What redis answers, as soon as it does (its protocol: redis.io/docs/reference/protocol-spec)."""
    request = f"*{len(command)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in command)

    def probe() -> str | None:
        try:
            with socket.create_connection((address, 6379), timeout=5) as connection:
                connection.sendall(request.encode())
                return connection.recv(4096).decode()
        except OSError:
            return None

    return str(wait_until(f"redis at {address}", probe))


def builders() -> list[str]:
    """Instances in the builders' project."""
    return Lxc(BUILDER_PROJECT).instances()


def end_of_builders(*kept: str) -> None:
    """LXD removes builders on its own, while nobody waits for it; here somebody does."""
    wait_until("the end of all builders", lambda: builders() == list(kept), seconds=90)


def cache_folder() -> Path:
    """Where the builders' layer cache lies on this host."""
    return Path(os.environ["LXD_DIR"], "storage-pools/default/custom", f"{BUILDER_PROJECT}_cache")


def left_in_cache() -> set[str]:
    """What is being fetched in it for no builder that is there."""
    fetching = {path.name for path in cache_folder().glob("work/*")}
    return fetching - set(builders())


# ---- lxdocker


@dataclass(frozen=True)
class Done:
    """A run of lxdocker that has ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def statuses(self) -> dict[str, str]:
        """Image -> what came of it."""
        return {image["name"]: image["outcome"] for image in self.document["images"]}

    def image(self, name: str) -> dict[str, Any]:
        return next(image for image in self.document["images"] if image["name"] == name)

    def fingerprint(self, name: str) -> str:
        return str(self.image(name)["fingerprint"])

    def error(self, name: str | None = None) -> str:
        """What was said about what failed, for one image or for the whole run, after checking that it is complete."""
        error = self.image(name)["error"] if name else self.document["error"]
        assert error["what"], error
        assert error["why"], error
        assert error["do"], error
        text = "\n".join(error[part] for part in ("what", "why", "do"))
        assert "Traceback" not in text + self.err
        return text

    def complaint(self) -> str:
        """Which images failed and why, the first on the first line, which is all that pytest's summary shows; then all
        that was said.
        """
        try:
            document = json.loads(self.out)
            failed = {image["name"]: image["error"] for image in document.get("images", []) if image["error"]}
            if "error" in document:
                failed["the run"] = document["error"]
        except (ValueError, KeyError, TypeError, AttributeError):  # not --json, or cut short
            failed = {}
        lines = [f"{name} failed: {error['what']}: {error['why']} -> {error['do']}" for name, error in failed.items()]
        first = lines.pop(0) if lines else self.err.strip().rpartition("\n")[2]
        return "\n".join([f"status {self.status}: {first}", *lines, "stdout:", self.out, "stderr:", self.err])


class Running:
    """A run of lxdocker that has been started."""

    def __init__(self, process: subprocess.Popen[str], err: Path) -> None:
        self.process = process
        self._err = err

    @property
    def said(self) -> str:
        return self._err.read_text()

    def wait_for(self, text: str) -> None:
        """Until it has said ``text``."""

        wait_until(repr(text), self.while_at_work(lambda: text in self.said))

    def while_at_work(self, probe: Callable[[], T | None]) -> Callable[[], T | None]:
        """A probe for wait_until() that fails where the run has ended before."""

        def probing() -> T | None:
            ended = self.process.poll() is not None
            found = probe()
            assert found or not ended, f"ended before: {self.said}"
            return found

        return probing

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = COMMAND_SECONDS) -> Done:
        try:
            out, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {timeout:g} s: {self.said}") from None
        return Done(self.process.returncode, out, self.said)


@dataclass
class World:
    """Specs, a tree, settings and an LXD project; and images in a registry that no other world sees."""

    folder: Path
    registry: str
    project: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:8]}")
    namespace: str = ""  # of its images in the registry; the project's name, unless another world's images are wanted
    settings: dict[str, Any] = field(default_factory=lambda: {"builder_from": "mmdebstrap"})

    def __post_init__(self) -> None:
        self.lxc = Lxc(self.project)
        self.namespace = self.namespace or self.project
        self.specs.mkdir(parents=True)
        (self.folder / "home").mkdir()
        Lxc()("project", "create", self.project, "-c", "features.images=true", "-c", "features.profiles=false")

    def close(self) -> None:
        self.lxc.purge()

    @property
    def specs(self) -> Path:
        return self.folder / "images.d"

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    # -- specs and images

    def spec(self, name: str, image: str, **keys: Any) -> Path:
        path = self.specs / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"image": image, **keys}))
        return path

    def ref(self, name: str, tag: str = "latest") -> str:
        """How specs call an image that was pushed by this world."""
        return f"{self.registry}/{self.namespace}/{name}:{tag}"

    def push(self, name: str, image: Image, tag: str = "latest") -> str:
        """Puts an image into the registry; returns its reference."""
        Images(self.registry).push(f"{self.namespace}/{name}", tag, image)
        return self.ref(name, tag)

    def push_index(self, name: str, index: Blob, tag: str = "latest") -> str:
        Images(self.registry).push_manifest(f"{self.namespace}/{name}", tag, index)
        return self.ref(name, tag)

    def wants(self, name: str, made: Image, **keys: Any) -> str:
        """A spec, and the image it names."""
        reference = self.push(name, made)
        self.spec(name, reference, **keys)
        return reference

    def fill(self, seed: World, *names: str) -> None:
        """Takes over images of another world, in a fraction of the time that building them takes."""
        for name in names:
            self.wants(name, tiny(name))
            shutil.copytree(seed.tree / "images" / name, self.tree / "images" / name)
        for sidecar in self.tree.rglob("lxdocker.json"):
            text = sidecar.read_text().replace(folder_id(seed.specs), folder_id(self.specs))
            sidecar.write_text(text)
        done = self.sync()
        assert done.statuses == dict.fromkeys(names, "restored"), done.complaint()

    # -- the program

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of whoever runs the tests: not their settings, not their logins, not their LXD."""
        inherited = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LXD_DIR", "LXD_CONF") if key in os.environ}
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        folders = {"HOME": str(self.folder / "home"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**inherited, **folders, "LXDOCKER_CONFIG": str(config), "LC_ALL": "C.UTF-8"}

    def arguments(self, command: Sequence[str]) -> list[str]:
        where = {"--specs": str(self.specs), "--tree": str(self.tree), "--project": self.project}
        if command[0] in ("builder", "validate"):
            where = {} if command[0] == "builder" else {"--specs": str(self.specs)}
        elif command[0] in ("log", "diff"):
            del where["--specs" if command[0] == "log" else "--project"]
        options = [word for option, value in where.items() if option not in command for word in (option, value)]
        return [*LXDOCKER, *command, *options]

    def run(self, *command: str, environment: Mapping[str, str] | None = None, expect: int = 0) -> Done:
        """Runs a command to its end; it must leave no builder, however it ends."""
        ended = subprocess.run(
            self.arguments(command),
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
        )
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert done.status == expect, done.complaint()
        return done

    def sync(self, *arguments: str, environment: Mapping[str, str] | None = None, expect: int = 0) -> Done:
        done = self.run("sync", "--json", *arguments, environment=environment, expect=expect)
        end_of_builders()
        return done

    @contextmanager
    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
        """Runs a command beside the test, which tells each phase of a sync."""
        command = (*command, "-v") if command[0] == "sync" else command
        err = self.folder / f"err.{uuid.uuid4().hex[:8]}"
        with err.open("w") as sink:
            process = subprocess.Popen(
                self.arguments(command),
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                cwd=self.folder,
            )
        try:
            yield Running(process, err)
        finally:
            process.kill()
            process.communicate()

    # -- what there is

    def published(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Image -> version -> items, as the index leads to them."""
        index = json.loads((self.tree / "streams/v1/index.json").read_text())
        found = {}
        for entry in index["index"].values():
            document = json.loads((self.tree / entry["path"]).read_text())
            assert sorted(entry["products"]) == sorted(document["products"])
            for product in document["products"].values():
                found[product["os"]] = {key: one["items"] for key, one in product["versions"].items()}
        return found

    def published_fingerprints(self, name: str) -> list[str]:
        """Of each listed version, the oldest first: worked out from the files, and found as the index has it."""
        found = []
        for _, items in sorted(self.published().get(name, {}).items()):
            metadata, rootfs = items["lxd.tar.xz"], items["root.squashfs"]
            combined = hashlib.sha256()
            for item in (metadata, rootfs):
                content = (self.tree / item["path"]).read_bytes()
                assert len(content) == item["size"]
                assert hashlib.sha256(content).hexdigest() == item["sha256"]
                combined.update(content)
            assert metadata["combined_squashfs_sha256"] == combined.hexdigest()
            assert {**items["incus.tar.xz"], "ftype": "lxd.tar.xz"} == metadata
            found.append(combined.hexdigest())
        return found

    def rootfs(self, name: str) -> Path:
        """The newest published version's squashfs."""
        _, items = max(self.published()[name].items())
        path: str = items["root.squashfs"]["path"]
        return self.tree / path

    def tree_state(self) -> dict[str, tuple[int, str]]:
        """Every file of the tree, with its time and content, but for the record of the last sync. The page has its
        minute, which may have changed.
        """
        found = {}
        for path in sorted(self.tree.rglob("*")):
            if not path.is_file() or path.name == ".lock" or path.name.startswith(".sync."):
                continue
            content, time_ns = path.read_bytes(), path.stat().st_mtime_ns
            if path.name == "index.html":
                content, time_ns = re.sub(b"<time .*?</time>", b"", content), 0
            found[str(path.relative_to(self.tree))] = (time_ns, hashlib.sha256(content).hexdigest())
        return found

    def store_state(self) -> dict[str, Any]:
        """Every image of the project, with its aliases and properties."""
        return {
            fingerprint: (image["aliases"], image["properties"], image["uploaded_at"])
            for fingerprint, image in self.lxc.images().items()
        }

    def state(self) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
        """All that a sync could change."""
        return self.store_state(), self.tree_state()

    def holdings(self) -> tuple[Any, ...]:
        """The same, whenever what is derived from it was last written anew."""
        files = {path: what for path, what in self.tree_state().items() if path.startswith("images/")}
        return self.store_state(), files, self.published()

    def holds(self, name: str, fingerprint: str) -> None:
        """Asserts that the image is whole: in the store, under its name, and published."""
        assert self.lxc.aliases().get(name) == fingerprint
        assert fingerprint in self.lxc.images()
        assert self.published_fingerprints(name)[-1] == fingerprint


# ---- images made by hand


def entry(name: str | bytes, content: bytes | str | None = None, **header: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a layer: a file with ``content``; a folder without. ``header``: fields of TarInfo."""
    # In a tar, names are bytes; Python's strings carry odd ones as surrogates.
    member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name)
    body = content.encode() if isinstance(content, str) else content or b""
    member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    member.mode = 0o755 if content is None else 0o644
    member.mtime = 1_600_000_000
    member.size = len(body)
    for key, value in header.items():
        setattr(member, key, value)
    return member, body


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, b"", type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, b"", type=tarfile.LNKTYPE, linkname=target)


def layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An uncompressed layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for member, body in entries:
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def image(*layers: bytes, arch: str = "amd64", created: str = "2024-01-02T03:04:05Z", **config: Any) -> Image:
    """An image of these layers; ``config`` goes into its configuration's member of that name."""
    blobs = tuple(Blob(gzip.compress(content, mtime=0), OCI_LAYER) for content in layers)
    document = {
        "architecture": arch,
        "os": "linux",
        "created": created,
        "config": {"Cmd": ["/bin/app"], **config},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(one).hexdigest() for one in layers]},
    }
    configuration = Blob(json.dumps(document).encode(), OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": configuration.descriptor,
        "layers": [blob.descriptor for blob in blobs],
    }
    return Image(Blob(json.dumps(manifest).encode(), OCI_MANIFEST), configuration, blobs)


def tiny(text: str = "one", **config: Any) -> Image:
    """An image that holds one file with ``text``."""
    return image(layer(entry("etc"), entry("etc/text", text)), **config)


def big(text: str = "big", mebibytes: int = 64) -> Image:
    """An image that takes a while: ``mebibytes`` that do not compress, the same for the same ``text``."""
    content = hashlib.shake_256(text.encode()).digest(mebibytes << 20)
    return image(layer(entry("etc"), entry("etc/text", text), entry("data", content)))


def unsquash(squashfs: Path, target: Path) -> Path:
    """The root filesystem in a squashfs."""
    subprocess.run(
        ["unsquashfs", "-no-progress", "-quiet", "-dest", str(target), str(squashfs)],
        check=True,
        capture_output=True,
        timeout=COMMAND_SECONDS,
    )
    return target


def describe(root: Path) -> dict[bytes, str]:
    """Every path below ``root`` with what it is: kind, mode, owner, time in seconds, content or target."""
    found = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)  # noqa: PTH118 - bytes
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                what = "-> " + os.readlink(path).decode("utf-8", "surrogateescape")  # noqa: PTH115 - bytes
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as content:  # noqa: PTH123 - bytes
                    what = hashlib.sha256(content.read()).hexdigest()
            else:
                what = stat.filemode(status.st_mode)[0]
            mode = stat.filemode(status.st_mode)
            found[path[len(top) + 1 :]] = f"{mode} {status.st_uid}:{status.st_gid} {int(status.st_mtime)} {what}"
    return found
