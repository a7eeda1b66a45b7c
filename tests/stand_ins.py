"""What stands in for an LXD and its builders where there is none. ``tests/contracts.py`` holds all of these, and the
real ones, to the same behaviour.

- ``ImageDaemon``: answers on LXD's socket, in the form of one LXD that people run, and keeps images and aliases
- ``FolderLxd``: the image store as a folder, where each request happens at once or not at all
- ``ScriptedBuilders``: builders that say what build.sh says
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml
from python_multipart.multipart import MultipartParser, parse_options_header

from lxdocker.builder import listing, recipe
from lxdocker.builder.instance import OWNER_KEY, Builder, Connection, owner
from lxdocker.http.route import Route
from lxdocker.lxd.api import Lxd, StoredImage
from lxdocker.lxd.command import Command, Result
from lxdocker.lxd.daemon import Daemon as Host
from lxdocker.values import Fingerprint
from tests.recorded import Recorded
from tests.unit.lxd.test_api import Daemon, at_work

BOUNDARY = "part"


# ---- an LXD with an image store


@dataclass
class KeptImage:
    """An image in the store of an ImageDaemon."""

    parts: tuple[bytes, bytes]  # metadata and rootfs
    properties: dict[str, str]
    uploaded_at: str
    aliases: list[str] = field(default_factory=list)

    def document(self, fingerprint: str) -> dict[str, Any]:
        return {
            "fingerprint": fingerprint,
            "properties": self.properties,
            "aliases": [{"name": alias} for alias in self.aliases],
            "size": sum(map(len, self.parts)),
            "uploaded_at": self.uploaded_at,
        }


class ImageDaemon(Daemon):
    """Whether a change is answered at once or by an operation depends on the LXD, as it does in reality."""

    def __init__(self, path: Path, lxd: Recorded) -> None:
        super().__init__(path, lxd)
        self.RequestHandlerClass = _ImageHandler
        self.images: dict[tuple[str, str], KeptImage] = {}  # by project and fingerprint
        self.instances: dict[tuple[str, str], dict[str, str]] = {}  # by project and name: their config
        self.going: set[str] = set()  # the names of instances that it is deleting
        self.projects = {"default", "lxdocker"}
        self._changing = threading.RLock()
        self._count = 0

    def keep(self, project: str, parts: tuple[bytes, bytes], properties: Mapping[str, str]) -> str:
        """Puts an image there, as somebody else might have."""
        with self._changing:
            self._count += 1
            fingerprint = hashlib.sha256(b"".join(parts)).hexdigest()
            at = f"2026-01-02T03:{self._count // 60:02}:{self._count % 60:02}Z"
            self.images[project, fingerprint] = KeptImage(parts, {**own_properties(parts[0]), **properties}, at)
            return fingerprint

    def image(self, project: str, alias: str) -> tuple[str, KeptImage]:
        """The image that an alias points to."""
        for (of, fingerprint), image in self.images.items():
            if of == project and alias in image.aliases:
                return fingerprint, image
        raise AssertionError(f"no image in {project} is called {alias}")

    def respond(self, method: str, path: str, query: Mapping[str, str], handler: _ImageHandler) -> bool:
        """Answers a request for images, aliases, instances or all operations. Returns whether it was one."""
        project = query.get("project", "default")
        words = [unquote(word) for word in path.removeprefix("/1.0/").split("/")]
        if words[0] not in {"images", "instances"} and words != ["operations"]:
            return False
        body = handler.body()
        with self._changing:
            if project not in self.projects:
                handler.send(*self._encoded("missing project" if words[0] == "instances" else "missing"))
                return True
            match method, words:
                case "GET", ["images"]:
                    found = [image.document(key) for (of, key), image in self.images.items() if of == project]
                    handler.send(*self._encoded("look at a success", metadata=found))
                case "POST", ["images"]:
                    self._import(project, body, handler)
                case "GET", ["operations"]:
                    running = [self.removal(name) for name in sorted(self.going)]
                    handler.send(*self._encoded("look at a success", metadata={"running": running}))
                case _, ["images", "aliases", *alias]:
                    handler.send(*self._of_alias(method, project, alias, body))
                case _, ["images", fingerprint, *rest]:
                    self._of_image(method, project, fingerprint, rest, body, handler)
                case _:
                    handler.send(*self._of_instance(method, project, words[1:]))
        return True

    def _done(self, error: str = "", *, soon: bool = False) -> tuple[int, bytes]:
        """The answer to a change. ``soon``: one that only newer LXDs make in the background."""
        if soon and self.lxd.answers["change profile"][1]["type"] == "sync":
            return self._encoded("change profile")
        self._count += 1
        work = f"work {self._count}"
        self.start(work, f"{self._count:08}-2222-3333-4444-555555555555", status_code=400 if error else 200, err=error)
        return self.answers.pop(work)

    def _import(self, project: str, body: bytes, handler: _ImageHandler) -> None:
        product = self.lxd.server["environment"]["server"]
        headers = {name.lower().replace(f"x-{product}-", ""): value for name, value in handler.headers.items()}
        parts = _parts(headers["content-type"], body)
        fingerprint = hashlib.sha256(b"".join(parts)).hexdigest()
        if headers["fingerprint"] != fingerprint:
            handler.send(*self._done(f"fingerprints don't match, got {fingerprint}"))
        elif (project, fingerprint) in self.images:
            handler.send(*self._done("Image with same fingerprint already exists"))
        else:
            self.keep(project, parts, dict(parse_qsl(headers["properties"])))
            handler.send(*self._done())

    def _of_image(
        self, method: str, project: str, fingerprint: str, rest: list[str], body: bytes, handler: _ImageHandler
    ) -> None:
        image = self.images.get((project, fingerprint))
        if image is None:
            handler.send(*self._encoded("missing"))
        elif rest == ["export"]:
            handler.send_parts(image.parts)
        elif method == "DELETE":
            del self.images[project, fingerprint]
            handler.send(*self._done())
        elif method == "PATCH":
            image.properties |= json.loads(body)["properties"]
            handler.send(*self._done(soon=True))
        else:
            handler.send(*self._encoded("look at a success", metadata=image.document(fingerprint)))

    def _of_alias(self, method: str, project: str, alias: list[str], body: bytes) -> tuple[int, bytes]:
        wanted: dict[str, str] = json.loads(body or b"{}")
        name = alias[0] if alias else wanted["name"]
        holder = next((kept for (of, _), kept in self.images.items() if of == project and name in kept.aliases), None)
        target = self.images.get((project, wanted.get("target", "")))
        if method == "POST" and holder:
            return self._encoded("create project again")
        if (method != "POST" and not holder) or (method != "DELETE" and not target):
            return self._encoded("missing")
        if holder:
            holder.aliases.remove(name)
        if target:
            target.aliases.append(name)
        return self._done(soon=True)

    def _of_instance(self, method: str, project: str, words: list[str]) -> tuple[int, bytes]:
        if not words:
            found = [{"name": name, "config": config} for (of, name), config in self.instances.items() if of == project]
            return self._encoded("look at a success", metadata=found)
        if self.instances.get((project, words[0])) is None:
            return self._encoded("missing")
        if method == "DELETE":
            del self.instances[project, words[0]]
        return self._done()


class _ImageHandler(Daemon.Handler):
    def answer(self) -> None:
        daemon = self.server
        assert isinstance(daemon, ImageDaemon)
        url = urlsplit(self.path)
        if f"{self.command} {url.path}" in daemon.answers or not daemon.respond(
            self.command, url.path, dict(parse_qsl(url.query)), self
        ):
            super().answer()
        else:
            daemon.asked.append(f"{self.command} {self.path}")

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = answer

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send_parts(self, parts: tuple[bytes, bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        self.end_headers()
        for name, content in zip(("metadata", "rootfs"), parts, strict=True):
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
            self.wfile.write(head.encode() + content + b"\r\n")
        self.wfile.write(f"--{BOUNDARY}--\r\n".encode())


def _parts(content_type: str, body: bytes) -> tuple[bytes, bytes]:
    parts: list[bytearray] = []
    _, options = parse_options_header(content_type)
    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": lambda: parts.append(bytearray()),
            "on_part_data": lambda data, start, end: parts[-1].extend(data[start:end]),
        },
    )
    parser.write(body)
    parser.finalize()
    metadata, rootfs = parts
    return bytes(metadata), bytes(rootfs)


def own_properties(metadata: bytes) -> dict[str, str]:
    """What an image says of itself in its metadata.yaml; nothing where a test has no such thing."""
    try:
        with tarfile.open(fileobj=io.BytesIO(metadata)) as tar:
            file = tar.extractfile("metadata.yaml")
            document = yaml.safe_load(file or b"")
    except tarfile.ReadError:
        return {}
    assert document["creation_date"], "LXD refuses an image without a creation date"
    return dict(document["properties"])


@contextmanager
def image_daemon(folder: Path, lxd: Recorded) -> Iterator[ImageDaemon]:
    """One on the socket in ``folder``, for as long as the block takes."""
    with ImageDaemon(folder / "unix.socket", lxd) as server, at_work(server):
        yield server


def client_of(folder: Path, cancelled: threading.Event | None = None) -> Lxd:
    """A client of the daemon on the socket in ``folder``."""
    return Lxd(cancelled, Host.lxd({"LXD_DIR": str(folder)}))


# ---- an image store that is killed in the middle


class FolderLxd:
    """What is in it is there for another process, too, whenever this one is killed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.daemon = Host.lxd({})
        for name in ("images", "aliases", "files"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def _write(self, path: Path, document: Any) -> None:
        temporary = self.root / "temporary"
        temporary.write_text(json.dumps(document))
        temporary.rename(path)

    def process(self, *, anew: bool = False) -> int:
        return 1

    def images(self, _project: str, /) -> list[StoredImage]:
        aliases = self.aliases
        found = []
        for path in (self.root / "images").iterdir():
            document = json.loads(path.read_text())
            own = tuple(sorted(alias for alias, target in aliases.items() if target == path.name))
            found.append(StoredImage(Fingerprint(path.name), document["properties"], own, 1, document["at"]))
        return found

    def image(self, project: str, fingerprint: Fingerprint, /) -> StoredImage | None:
        return next((image for image in self.images(project) if image.fingerprint == fingerprint), None)

    def import_image(
        self,
        project: str,
        fingerprint: Fingerprint,
        metadata: Path,
        rootfs: Path,
        properties: Mapping[str, str],
        _progress: Callable[[int], None] | None,
        /,
    ) -> None:
        if self.image(project, fingerprint) is None:
            at = f"2026-01-01T00:00:{len(self.images(project)):02}Z"
            content = [path.read_bytes().hex() for path in (metadata, rootfs)]
            self._write(self.root / "files" / fingerprint.value, content)
            every = {**own_properties(metadata.read_bytes()), **properties}
            self._write(self.root / "images" / fingerprint.value, {"properties": every, "at": at})

    def set_image_properties(self, _project: str, fingerprint: Fingerprint, properties: Mapping[str, str], /) -> None:
        path = self.root / "images" / fingerprint.value
        document = json.loads(path.read_text())
        self._write(path, {**document, "properties": {**document["properties"], **properties}})

    def set_alias(self, project: str, alias: str, fingerprint: Fingerprint, /) -> None:
        assert self.image(project, fingerprint), "LXD knows no such image"
        self._write(self.root / "aliases" / alias, fingerprint.value)

    def delete_alias(self, _project: str, alias: str, /) -> None:
        (self.root / "aliases" / alias).unlink(missing_ok=True)

    def delete_image(self, _project: str, fingerprint: Fingerprint, /) -> None:
        for alias, target in self.aliases.items():
            if target == fingerprint.value:
                (self.root / "aliases" / alias).unlink()
        (self.root / "images" / fingerprint.value).unlink(missing_ok=True)

    def export_image(self, _project: str, fingerprint: Fingerprint, folder: Path, /) -> tuple[Path, Path]:
        outputs = folder / "metadata", folder / "rootfs"
        contents = json.loads((self.root / "files" / fingerprint.value).read_text())
        for path, content in zip(outputs, contents, strict=True):
            path.write_bytes(bytes.fromhex(content))
        return outputs

    @property
    def aliases(self) -> dict[str, str]:
        return {path.name: json.loads(path.read_text()) for path in (self.root / "aliases").iterdir()}


# ---- builders


@dataclass(frozen=True)
class Request:
    """One run of build.sh."""

    name: str  # of the image
    damaged: str  # the manifest whose blobs are to be dropped from the cache; mostly empty
    words: tuple[str, ...]  # all of its arguments
    files: Mapping[str, bytes]  # what it is given on stdin, by path
    pushed: bytes  # an image on disk


SUCCESS = Result(0, "", "")


def listing_of(content: bytes) -> str:
    """One file, which tells squashfs files apart."""
    sha256 = hashlib.sha256(content).hexdigest()
    return f"F d 755 0 0 - 1 - - / - -\nF - 644 0 0 {len(content)} 1 - {sha256} /content - -\nE 2\n"


@dataclass
class ScriptedBuilders:
    """``answers``: what builds of an image come to, one after the other: a squashfs, or a failure. An image without any
    gets a squashfs that is always the same for the same image and runtime.
    """

    answers: dict[str, list[Result | bytes]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    cached: list[tuple[str, ...]] = field(default_factory=list)  # what was to stay in the layer cache
    meanwhile: Callable[[Request], object] = lambda _: None
    tidied: Result = SUCCESS  # what dropping layers comes to
    listing: Callable[[bytes], str | Result] = lambda content: listing_of(
        content
    )  # of a squashfs, as listing.pl prints it
    lost: int = 0
    open: int = 0  # builders at this moment
    made: int = 0
    without_cache: int = 0
    deleted: set[str] = field(default_factory=set)  # by somebody else; builder-1 is the first

    @property
    def members(self) -> Sequence[str | None]:
        return [None]

    @contextmanager
    def builder(self, route: Route, *, cache: bool = True, on: str | None = None) -> Iterator[Builder]:
        self.open += 1
        self.made += 1
        self.without_cache += not cache
        try:
            yield _ScriptedBuilder(self, f"builder-{self.made}")
        finally:
            self.open -= 1

    def build(self, request: Request) -> Result | bytes:
        self.asked.append(request)
        self.meanwhile(request)
        answers = self.answers.get(request.name)
        if answers:
            return answers.pop(0)
        made_of = (request.pushed, request.files["run/build/runtime.tar"], request.words[10].encode())
        return hashlib.shake_256(b"".join(made_of)).digest(3000)


class _ScriptedBuilder(Builder):
    def __init__(self, builders: ScriptedBuilders, name: str) -> None:
        super().__init__(cast("Lxd", None), "lxdocker", name, Connection("none"))
        self._builders = builders
        self._pushed = b""

    def is_gone(self) -> bool:
        return self.name in self._builders.deleted

    def push(self, path: str, content: bytes | Iterator[bytes], source: str = "") -> None:
        self._pushed += content if isinstance(content, bytes) else b"".join(content)

    def running(
        self,
        argv: Sequence[str],
        *,
        what: str = "",
        seconds: float,
        stdin: bytes = b"",
        by_hand: Callable[[str], str] = str,
        cancellable: bool = True,
    ) -> AbstractContextManager[tuple[Command, Callable[[], Result]]]:
        assert seconds > 0
        if argv[3] == recipe.RECEIVE:
            files = _files(stdin)
            answer = self._builders.build(Request(argv[6], argv[5], tuple(argv[5:]), files, self._pushed))
        elif argv[3:6] == [recipe.CACHE.read_text(), "cache", "keep"]:
            self._builders.cached.append(tuple(argv[6:]))
            answer = self._builders.tidied
        elif argv[3] == listing.LISTING.read_text():
            found = self._builders.listing(self._pushed)
            answer = Result(0, found) if isinstance(found, str) else found
        else:
            answer = SUCCESS  # cleaning up after a failure
        if isinstance(answer, bytes):
            lost = f"lost {self._builders.lost}\n" if self._builders.lost else ""
            steps = f"phase fetch\nfetched 100\nphase unpack\nphase pack\n{lost}squashfs {len(answer)}\n"
            return _command([steps.encode(), answer], SUCCESS)
        return _command([answer.stdout.encode()], answer)


def _files(stdin: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(stdin)) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


@contextmanager
def _command(output: list[bytes], result: Result) -> Iterator[tuple[Command, Callable[[], Result]]]:
    class Ended:
        def output(self) -> Iterator[bytes]:
            return iter(output)

        def allow(self, seconds: float) -> None:
            assert seconds > 0

    yield cast("Command", Ended()), lambda: result


def builder_of_another() -> dict[str, str]:
    """The config of a builder whose lxdocker may be alive, but is not this one."""
    boot, pid, start, namespace, host = owner().split()
    return {OWNER_KEY: f"{boot} {pid} {start} {int(namespace) + 1} {host}"}


def builder_of_a_killed_one() -> dict[str, str]:
    return {OWNER_KEY: re.sub(r"^\S+", "00000000-0000-0000-0000-000000000000", owner())}
