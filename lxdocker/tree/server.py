"""Another server's published tree: its index, and its files, each fetched with the size and hash that the index has.

The server is trusted no further than necessary: what its index says must be a tree as lxdocker lays it out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from urllib3.util import Url

from lxdocker.errors import MirrorError, UsageError
from lxdocker.files.seen import exists
from lxdocker.http import trust
from lxdocker.http import url as urls
from lxdocker.http.failure import RequestError
from lxdocker.http.route import Place
from lxdocker.http.trust import Tls
from lxdocker.http.wire import Limits, Patience, Request, Stream, Wire
from lxdocker.image import version_key
from lxdocker.image.artifact import METADATA_FILE, ROOTFS_FILE, read
from lxdocker.progress import human_size
from lxdocker.tree import simplestreams
from lxdocker.tree.simplestreams import File
from lxdocker.tree.version import Delta
from lxdocker.values import Arch, Fingerprint, ImageName, is_loopback, parse_alias

MAX_INDEX = 64 << 20  # bytes; images.json of a thousand images has about 2 MB
MAX_FILE = 1 << 40
MAX_REDIRECTS = 3
ATTEMPTS = 5  # in a row without progress
PAUSE_SECONDS = 0.5  # after the first, doubled each time
CONNECT_SECONDS = 15.0
READ_SECONDS = 60.0  # for each piece
HEAD_SECONDS = 120.0  # until the headers of an answer are there, however steadily they drip
# Anything slower is given up.
SLOWEST = 1024  # bytes per second
CHUNK = 1 << 16
_PATH = re.compile(r"images/([^/]+)/([^/]+)/([^/]+)/([^/]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to reach the other server."""

    fingerprint: str | None = None  # of its certificate: hex sha256
    ca: Path | None = None  # certificates to trust instead of the system's
    insecure: bool = False  # plain http, also beyond this host
    jobs: int = 4


@dataclass(frozen=True, slots=True)
class Listed:
    """A version in the other server's index."""

    name: ImageName
    arch: Arch
    key: str
    fingerprint: Fingerprint
    files: Mapping[str, File]  # by name; paths are relative to the tree
    bases: frozenset[str]  # of its deltas
    aliases: tuple[str, ...]  # of its image now, the name among them

    @property
    def folder(self) -> str:
        return f"images/{self.name}/{self.arch.value}/{self.key}"


# ---- its index


def read_index(server: Server) -> list[Listed]:
    """Every version that the server lists, by image. Raises MirrorError for an index that lxdocker did not write."""
    index = server.json(simplestreams.INDEX_PATH)
    try:
        paths = {entry["path"] for entry in index["index"].values() if entry["datatype"] == "image-downloads"}
        if not paths and index["index"] == {}:
            return []
        if paths != {simplestreams.IMAGES_PATH}:
            raise ValueError(f"its images are not listed in {simplestreams.IMAGES_PATH}")
        products = server.json(simplestreams.IMAGES_PATH)["products"]
        found = [
            _listed(key, version["items"], _aliases(product["aliases"]))
            for product in products.values()
            for key, version in product["versions"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise server.wrong(f"its index was not written by lxdocker: {error!r:.200}") from None
    return sorted(found, key=lambda listed: (listed.name, listed.arch.value, listed.key))


def _aliases(text: str) -> tuple[str, ...]:
    return tuple(parse_alias(alias) for alias in text.split(","))


def _listed(key: str, items: Mapping[str, Any], aliases: tuple[str, ...]) -> Listed:
    """Raises ValueError, KeyError or TypeError for anything but a version of lxdocker's."""
    found = [_item(item) for item in items.values()]
    files = {item.name: item.file for item in found}
    folders = {item.folder for item in found}
    fingerprint = next((item.fingerprint for item in found if item.fingerprint), None)
    if fingerprint is None or not {METADATA_FILE, ROOTFS_FILE} <= set(files):
        raise ValueError(f"the version {key!r:.50} lacks a file")
    if len(folders) > 1:
        raise ValueError(f"the files of the version {key!r:.50} are in different folders")
    name, arch, version = folders.pop()
    if version != key or not version_key.is_version_key(key):
        raise ValueError(f"{key!r:.50} is not a version")
    bases = frozenset(item.base for item in found if item.base)
    return Listed(ImageName.parse(name), Arch(arch), key, fingerprint, files, bases, aliases)


@dataclass(frozen=True, slots=True)
class _Item:
    """One file of a version in the index."""

    folder: tuple[str, str, str]  # image, architecture, version
    name: str
    file: File
    base: str = ""  # of a delta
    fingerprint: Fingerprint | None = None  # of the version, which only the metadata states


def _item(item: Mapping[str, Any]) -> _Item:
    """Raises ValueError, KeyError or TypeError."""
    path, size, sha256, kind = item["path"], item["size"], item["sha256"], item["ftype"]
    match = _PATH.fullmatch(path)
    if not isinstance(size, int) or not 0 <= size <= MAX_FILE or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{path!r:.100} has no valid size and hash")
    name, base, fingerprint = METADATA_FILE, "", None
    if kind == "squashfs":
        name = ROOTFS_FILE
    elif kind == "squashfs.vcdiff":
        base = item["delta_base"]
        if not version_key.is_version_key(base):
            raise ValueError(f"the base of the delta {path!r:.100} is not a version")
        name = Delta(base, size, sha256).file
    elif kind in {"lxd.tar.xz", "incus.tar.xz"}:
        fingerprint = Fingerprint.parse(item["combined_squashfs_sha256"])
    if not match or match[4] != name:
        raise ValueError(f"the path {path!r:.100} is not one of a version's files")
    return _Item((match[1], match[2], match[3]), name, File(path, size, sha256), base, fingerprint)


# ---- asking it


class Server:
    """The other server, asked no more than necessary. Thread-safe. Guides the requests for its files."""

    def __init__(self, url: str, options: ServerOptions, cancelled: threading.Event, kept: Path | None = None) -> None:
        """``kept``: a folder for its index, which is asked for again only if it has changed."""
        parsed = parse_address(url)
        self._insecure = options.insecure
        self._refuse_plain(parsed)
        login = urls.basic_of(parsed)
        self._login = {"authorization": login} if login else {}
        self._base = parsed._replace(auth=None, query=None, fragment=None).url.rstrip("/") + "/"
        self._cancelled = cancelled
        self._kept = kept
        if parsed.scheme == "http" and (options.fingerprint or options.ca):
            raise UsageError(f"no certificate to check at {self.url}", "plain HTTP has none", "use https://")
        self._tls = _tls(options)
        limits = Limits(CONNECT_SECONDS, READ_SECONDS, HEAD_SECONDS, redirects=MAX_REDIRECTS)
        self._wire = Wire(limits, connections=options.jobs)

    def close(self) -> None:
        self._wire.close()

    @property
    def url(self) -> str:
        """Its URL, without the login."""
        return self._base.rstrip("/")

    def wrong(self, what: str) -> MirrorError:
        return MirrorError(
            f"cannot mirror {self.url}", what, "check that it serves a complete tree published by lxdocker"
        )

    def admit(self, url: Url, previous: Url | None) -> Tls | None:
        """How a server that has its files proves its identity. Raises UsageError for plain HTTP to other hosts."""
        self._refuse_plain(url)
        return self._tls if url.scheme == "https" else None

    def reached(self, url: Url, place: Place) -> None:
        """Any place will do: files are checked against the index."""

    def json(self, path: str) -> Any:
        known = _Kept.read(self._kept / path.rpartition("/")[2]) if self._kept else None
        try:
            return json.loads(self.get(path, MAX_INDEX, known))
        except (ValueError, RecursionError):
            raise self.wrong(f"{path} is not JSON") from None

    def get(self, path: str, limit: int, known: _Kept | None = None) -> bytes:
        """A small file. ``known``: as it was before, and is kept for the next time."""
        headers = {"if-none-match": known.etag} if known and known.etag else {}
        patience = self._patience()
        while True:
            content = bytearray()
            try:
                with self._ask(path, headers) as answer:
                    if known and answer.status == 304:
                        return known.content
                    for piece in self._pieces(answer):
                        content += piece
                        if len(content) > limit:
                            raise self.wrong(f"{path} is larger than {human_size(limit)}")
                if known and "etag" in answer.headers:
                    known.write(bytes(content), answer.headers["etag"])
                return bytes(content)
            except RequestError as failure:
                self._wait(patience, path, failure.why)

    def fetch(self, file: File, partial: Path, count: Callable[[int], None]) -> None:
        """Completes ``partial``, to be the file."""
        spoilt = 0
        patience = self._patience()
        while True:
            have = size_of(partial) or 0
            if have < file.size or not exists(partial):
                try:
                    self._more(file, partial, have, count)
                except RequestError as failure:
                    if (size_of(partial) or 0) > have:
                        patience.renew()  # it progresses, if slowly
                    self._wait(patience, file.path, failure.why)
                    continue
            if size_of(partial) == file.size and hash_of(partial) == file.sha256:
                return
            # Perhaps an earlier run left it damaged.
            partial.unlink(missing_ok=True)
            spoilt += 1
            if spoilt > 1 or have == 0:
                raise self.wrong(f"{file.path} does not have the hash in the index")
            self._wait(patience, file.path, "its hash differs from the index")

    def _more(self, file: File, partial: Path, have: int, count: Callable[[int], None]) -> None:
        with self._ask(file.path, {"range": f"bytes={have}-"} if have else {}) as answer:
            said = answer.headers.get("content-range", "")
            if have and not (answer.status == 206 and said.startswith(f"bytes {have}-")):
                have = 0  # it sends all of it, or a part that nobody asked for
                if answer.status != 200:
                    partial.unlink()
                    raise RequestError("broken", f"its answer to a range has status {answer.status}")
            with partial.open("ab" if have else "wb") as output:
                for piece in self._pieces(answer):
                    have += len(piece)
                    if have > file.size:
                        output.truncate(0)
                        raise self.wrong(f"{file.path} is larger than in the index ({file.size} bytes)")
                    output.write(piece)
                    count(len(piece))
        if have < file.size:
            raise RequestError("broken", "the answer ended early")

    def _patience(self) -> Patience:
        return Patience(self._cancelled, [PAUSE_SECONDS * 2**number for number in range(ATTEMPTS - 1)])

    def _wait(self, patience: Patience, path: str, why: str) -> None:
        """Returns when it is time for another attempt. Raises MirrorError if there is none."""
        if patience.again():
            return
        if self._cancelled.is_set():
            raise MirrorError("stopped", "interrupted while fetching", "run the same command again to continue")
        raise MirrorError(f"no answer from {self.url} for {path}", why, "run the same command again to continue")

    def _ask(self, path: str, headers: Mapping[str, str]) -> Stream:
        """Raises RequestError where another attempt may succeed, MirrorError where not."""
        try:
            answer = self._wire.open(Request("GET", self._base + quote(path), {**headers, **self._login}), self)
        except RequestError as failure:
            raise self._final(failure, path) or failure from None
        status = answer.status
        expected = {200, 206, *([304] if "if-none-match" in headers else []), *([416] if "range" in headers else [])}
        if status in expected:
            return answer
        answer.discard()
        if status >= 500 or status in {408, 416, 429}:
            raise RequestError("broken", f"its answer has status {status}")
        login = "; wrong user or password" if self._login else "; it requires a login: https://NAME@HOST"
        hint = {401: login, 404: "; no such file"}
        raise self.wrong(f"{path}: its answer has status {status}{hint.get(status, '')}")

    def _final(self, failure: RequestError, path: str) -> MirrorError | None:
        """What another attempt would not change."""
        if failure.kind == "certificate":
            return DistrustedError(
                f"the certificate of {self.url} is not trusted",
                failure.why,
                "--fingerprint HEX (shown by lxdocker serve) trusts only that one, --ca FILE those of an authority",
            )
        if failure.kind == "proxy":
            resolution = "see the variables https_proxy, http_proxy and all_proxy"
            return MirrorError(f"cannot reach {self.url}", failure.why, resolution)
        return self.wrong(f"{path}: {failure.why}") if failure.kind == "redirect" else None

    def _pieces(self, answer: Stream) -> Iterator[bytes]:
        began, size = time.monotonic(), 0
        for piece in answer.pieces(CHUNK):
            if self._cancelled.is_set():
                raise RequestError("broken", "interrupted")
            size += len(piece)
            yield piece
            if time.monotonic() - began > READ_SECONDS:
                if size < SLOWEST * READ_SECONDS:
                    raise RequestError("broken", f"it sends less than {SLOWEST} bytes per second")
                began, size = time.monotonic(), 0

    def _refuse_plain(self, url: Url) -> None:
        if url.scheme == "http" and not self._insecure and not is_loopback(url.host or ""):
            raise UsageError(
                f"refusing plain HTTP to {url.host}",
                "an attacker on the network could send other images",
                "use https:// (--fingerprint trusts a self-signed certificate), or --insecure if the network is safe",
            )


class DistrustedError(MirrorError):
    """The server's certificate is not trusted."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of the server as it was last time, with its ETag."""

    path: Path
    etag: str  # '' where nothing is kept
    content: bytes

    @classmethod
    def read(cls, path: Path) -> _Kept:
        try:
            head, _, content = path.read_bytes().partition(b"\n")
            digest, _, etag = head.decode("latin-1").partition(" ")
            if digest == hashlib.sha256(content).hexdigest():
                return cls(path, etag, content)
        except (OSError, ValueError):
            pass
        return cls(path, "", b"")

    def write(self, content: bytes, etag: str) -> None:
        """If lxdocker is killed meanwhile, the hash does not match, and the file is not used."""
        head = f"{hashlib.sha256(content).hexdigest()} {etag}\n"
        with contextlib.suppress(OSError, ValueError):  # it only saves a download
            self.path.write_bytes(head.encode("latin-1") + content)


def parse_address(url: str) -> Url:
    """Raises UsageError unless it is the URL of an http or https server."""
    parsed = urls.parse(url)
    if not parsed:
        without_login = url.rpartition("@")[2][:200]
        raise UsageError(f"{without_login} is not the URL of a server", "", "name one such as https://HOST:8444")
    return parsed


def _tls(options: ServerOptions) -> Tls:
    """Raises UsageError."""
    try:
        if options.fingerprint:
            return trust.only_certificate(trust.parse_fingerprint(options.fingerprint))
        if options.ca:
            return trust.only_authorities(options.ca)
    except ValueError:
        fingerprint = (options.fingerprint or "")[:100]
        raise UsageError("--fingerprint is not a SHA-256 fingerprint", fingerprint, "it has 64 hex digits") from None
    except trust.UnusableCertificatesError as error:
        raise UsageError(error.brief, error.why, "--ca names a file with certificates (PEM)") from error
    return Tls(trust.make_context())


def size_of(path: Path) -> int | None:
    """None for a missing file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    for chunk in read(path):
        found.update(chunk)
    return found.hexdigest()
