"""A copy of another server's tree, for hosts that are far from it: files first, the index last, never half a version.

Nothing the other server says is trusted further than it must be: what is fetched are the files of versions as
lxdocker lays them out, each no longer than its index says and with the hash it says, to the path we choose.

Under ``.mirror`` lie the address of the other server, and ``partial/SHA256`` what was fetched of a file so far.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from urllib3.exceptions import HTTPError, ProxyError
from urllib3.util import Timeout, Url, parse_url

from lxdocker import simplestreams
from lxdocker.artifact import read
from lxdocker.console import Progress, human_size
from lxdocker.errors import LxdockerError, MirrorError, UsageError
from lxdocker.publish import MIRROR, Tree
from lxdocker.published import SIDECAR, Delta, Published, parse_sidecar
from lxdocker.simplestreams import METADATA_FILE, ROOTFS_FILE, File
from lxdocker.transport import Response, Transport, UnusableProxyError, basic, is_loopback
from lxdocker.values import Arch, Fingerprint, ImageName

MAX_INDEX = 64 << 20  # bytes; images.json of a thousand images has about 2 MB
MAX_SIDECAR = 1 << 20
MAX_FILE = 1 << 40
MAX_REDIRECTS = 3
ATTEMPTS = 5  # in a row that bring nothing
PAUSE_SECONDS = 0.5  # after the first, doubled each time
CONNECT_SECONDS = 15.0
READ_SECONDS = 60.0  # for each piece
HEAD_SECONDS = 120.0  # until the headers of an answer are there, however steadily they drip
# Slower than this is as good as not at all.
SLOWEST = 1024  # bytes per second
CHUNK = 1 << 16
_PATH = re.compile(r"images/([^/]+)/([^/]+)/([^/]+)/([^/]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to reach the other server."""

    fingerprint: str | None = None  # of its certificate: hex sha256
    ca: Path | None = None  # certificates to trust instead of the system's
    insecure: bool = False  # plain http, also beyond this host
    jobs: int = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that could not be copied."""

    name: ImageName
    key: str
    error: LxdockerError


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a run has done."""

    fetched: tuple[Published, ...]  # new here, or mended
    updated: tuple[Published, ...]  # the same files, described anew
    unchanged: int
    withdrawn: tuple[Published, ...]
    deleted: tuple[Published, ...]
    failed: tuple[Failure, ...]
    size: int  # bytes fetched


@dataclass(frozen=True, slots=True)
class Listed:
    """A version in the other server's index."""

    name: ImageName
    arch: Arch
    key: str
    fingerprint: Fingerprint
    files: Mapping[str, File]  # by name; paths are relative to the tree
    bases: frozenset[str]  # of its deltas

    @property
    def folder(self) -> str:
        return f"images/{self.name}/{self.arch.value}/{self.key}"


def mirror(
    url: str,
    tree: Tree,
    options: Options,
    grace_seconds: float,
    progress: Progress,
    say: Say,
    cancelled: threading.Event,
) -> Mirrored:
    """Makes ``tree`` the copy of the tree at ``url``. A run that was killed is taken up where it was.

    Raises UsageError for an address or a folder that can't be, MirrorError where the other server gives no index.
    """
    with (
        closing(Server(url, options, cancelled)) as server,
        tree.lock(say, cancelled),
        tree.explained("mirroring into"),
    ):
        _claim(tree, server.url)
        return _Run(server, tree, options.jobs, progress, cancelled).all(grace_seconds)


def _claim(tree: Tree, url: str) -> None:
    """Makes sure that the folder is this server's mirror, or becomes it."""
    source = tree.root / MIRROR / "source"
    if source.exists():
        before = source.read_text(encoding="utf-8").strip()
        if before != url:
            raise UsageError(
                f"{tree.root} is a mirror of another server", before, f"if it is the same one, delete {source} first"
            )
        return
    if tree.versions():
        raise UsageError(
            f"{tree.root} has images that were published there",
            "a mirror would withdraw all that the other server does not have",
            "mirror into a folder of its own",
        )
    (source.parent / "partial").mkdir(parents=True, exist_ok=True)
    source.write_text(f"{url}\n", encoding="utf-8")


class _Run:
    """One run."""

    def __init__(self, server: Server, tree: Tree, jobs: int, progress: Progress, cancelled: threading.Event) -> None:
        self._server = server
        self._tree = tree
        self._jobs = jobs
        self._progress = progress
        self._cancelled = cancelled
        self._partial = tree.root / MIRROR / "partial"
        self._partial.mkdir(parents=True, exist_ok=True)
        self._here = {one.folder: one for one in tree.versions()}
        self._fetching: dict[str, threading.Lock] = {}
        self._shared: set[str] = set()  # hashes of what is part of several versions
        self._results = _Results()

    def all(self, grace_seconds: float) -> Mirrored:
        there = read_index(self._server)
        if not there and any(one.withdrawn is None for one in self._here.values()):
            raise MirrorError(
                f"{self._server.url} has no image at all",
                "while there are some in the mirror; that looks like a mistake there",
                f"to mirror it nevertheless, delete {self._tree.root}",
            )
        self._check_space(there)
        hashes = Counter(file.sha256 for one in there for file in one.files.values())
        self._fetching = {sha256: threading.Lock() for sha256 in hashes}
        self._shared = {sha256 for sha256, count in hashes.items() if count > 1}
        images = [list(group) for _, group in groupby(there, key=lambda one: one.name)]
        pool = ThreadPoolExecutor(max_workers=self._jobs, thread_name_prefix="mirror")
        try:
            for future in [pool.submit(self._image, versions) for versions in images]:
                future.result()
        except BaseException:
            self._cancelled.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        withdrawn = self._gone(there)
        self._tree.withdraw(withdrawn)
        self._tree.write_index()
        deleted = self._tree.sweep(grace_seconds)
        self._forget_partials(there)
        done = self._results
        return Mirrored(
            tuple(done.fetched),
            tuple(done.updated),
            done.unchanged,
            tuple(withdrawn),
            tuple(deleted),
            tuple(done.failed),
            done.size,
        )

    def _image(self, versions: Sequence[Listed]) -> None:
        """An image's versions, newest first: that is what most clients want."""
        name = versions[0].name
        failed = False
        for listed in sorted(versions, key=lambda one: one.key, reverse=True):
            if self._cancelled.is_set():
                return
            try:
                self._version(listed)
            except LxdockerError as error:
                failed = True
                self._results.add(failed=Failure(name, listed.key, error))
        self._progress.done(name, "failed" if failed else "mirrored")

    def _version(self, listed: Listed) -> None:
        wanted = self._describe(listed)
        here = self._here.get(wanted.folder)
        needed = [file for file in wanted.files() if not _is_here(file, wanted, here)]
        if not needed and here == wanted:
            self._results.add(unchanged=1)
            return
        if needed:
            self._progress.phase(listed.name, f"fetch {listed.key}", sum(file.size for file in needed))
        fetched: dict[str, Path] = {}
        for file in needed:
            fetched[file.path] = self._fetch(listed.files[file.path], listed.name)
        self._tree.adopt(wanted, fetched)
        for path in fetched.values():
            if path.name not in self._shared:
                path.unlink(missing_ok=True)
        if needed:
            self._results.add(fetched=wanted)
        else:
            self._results.add(updated=wanted)

    def _describe(self, listed: Listed) -> Published:
        """The version's sidecar, if it agrees with the index."""
        text = self._server.get(f"{listed.folder}/{SIDECAR}", MAX_SIDECAR)
        found = parse_sidecar(self._tree.root / listed.folder, text)
        if found is None:
            raise self._server.wrong(f"{listed.folder}/{SIDECAR} does not describe that version")
        found = replace(found, deltas=tuple(delta for delta in found.deltas if delta.base in listed.bases))
        files = {file.path: (file.size, file.sha256) for file in found.files()}
        if found.fingerprint != listed.fingerprint or files != {
            name: (file.size, file.sha256) for name, file in listed.files.items()
        }:
            raise self._server.wrong(f"{listed.folder}/{SIDECAR} and the index say different things")
        try:
            for alias in found.aliases:
                ImageName.parse(alias)
        except ValueError as error:
            raise self._server.wrong(f"{listed.folder}/{SIDECAR}: {error}") from None
        return found

    def _fetch(self, file: File, name: ImageName) -> Path:
        partial = self._partial / file.sha256

        def count(amount: int) -> None:
            self._progress.count(name, amount)
            self._results.add(size=amount)

        with self._fetching[file.sha256]:
            self._server.fetch(file, partial, count)
        return partial

    def _gone(self, there: Sequence[Listed]) -> list[Published]:
        """What the other server no longer lists; but nothing of an image of which something could not be copied."""
        listed = {self._tree.root / one.folder for one in there}
        kept = {failure.name for failure in self._results.failed}
        return [
            one
            for one in self._tree.versions()
            if one.withdrawn is None and one.folder not in listed and one.name not in kept
        ]

    def _check_space(self, there: Sequence[Listed]) -> None:
        here = {one.folder: {file.path: file for file in one.files()} for one in self._here.values() if one.is_whole()}
        needed = 0
        for listed in there:
            known = here.get(self._tree.root / listed.folder, {})
            for name, file in listed.files.items():
                if name not in known or known[name].sha256 != file.sha256:
                    needed += file.size - (_size(self._partial / file.sha256) or 0)
        free = shutil.disk_usage(self._tree.root).free
        if needed > free:
            raise MirrorError(
                f"{self._server.url} does not fit into {self._tree.root}",
                f"{human_size(needed)} are to be fetched, {human_size(free)} are free",
                "free space on that filesystem, or mirror into another folder",
            )

    def _forget_partials(self, there: Sequence[Listed]) -> None:
        wanted = {file.sha256 for one in there for file in one.files.values()} if self._results.failed else set()
        for path in self._partial.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Results:
    """What the threads report."""

    fetched: list[Published] = field(default_factory=list)
    updated: list[Published] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    unchanged: int = 0
    size: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        *,
        fetched: Published | None = None,
        updated: Published | None = None,
        failed: Failure | None = None,
        unchanged: int = 0,
        size: int = 0,
    ) -> None:
        with self.lock:
            self.fetched += [fetched] if fetched else []
            self.updated += [updated] if updated else []
            self.failed += [failed] if failed else []
            self.unchanged += unchanged
            self.size += size


def _is_here(file: File, wanted: Published, here: Published | None) -> bool:
    """Whether a file lies in its place. What is listed was checked when it came; what was withdrawn is read again:
    that may have been because it is damaged.
    """
    path = wanted.folder / file.path
    if here is None or file not in here.files() or _size(path) != file.size:
        return False
    return here.withdrawn is None or _hash(path) == file.sha256


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    for chunk in read(path):
        found.update(chunk)
    return found.hexdigest()


# ---- the other server's index


def read_index(server: Server) -> list[Listed]:
    """Every version the server lists, by image. Raises MirrorError unless it is a tree as lxdocker lays it out."""
    index = server.json(simplestreams.INDEX_PATH)
    try:
        paths = {entry["path"] for entry in index["index"].values() if entry["datatype"] == "image-downloads"}
        if not paths and index["index"] == {}:
            return []
        if paths != {simplestreams.IMAGES_PATH}:
            raise ValueError(f"its images are not listed in {simplestreams.IMAGES_PATH}")
        products = server.json(simplestreams.IMAGES_PATH)["products"]
        found = [
            _listed(key, version["items"])
            for product in products.values()
            for key, version in product["versions"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise server.wrong(f"its index is none of lxdocker's: {error!r:.200}") from None
    return sorted(found, key=lambda one: (one.name, one.arch.value, one.key))


def _listed(key: str, items: Mapping[str, Any]) -> Listed:
    """Raises ValueError, KeyError or TypeError for anything but a version of lxdocker's."""
    files = {}
    place: tuple[str, str, str] | None = None
    bases = set()
    fingerprint = None
    for item in items.values():
        path, size, sha256 = item["path"], item["size"], item["sha256"]
        match = _PATH.fullmatch(path)
        if not match or (place and match.groups()[:3] != place):
            raise ValueError(f"the path {path!r:.100} is not one of a version's files")
        if not isinstance(size, int) or not 0 <= size <= MAX_FILE or not _SHA256.fullmatch(sha256):
            raise ValueError(f"{path!r:.100} has no proper size and hash")
        place = (match[1], match[2], match[3])
        expected = METADATA_FILE
        if item["ftype"] == "squashfs":
            expected = ROOTFS_FILE
        elif item["ftype"] == "squashfs.vcdiff":
            if not simplestreams.is_version_key(item["delta_base"]):
                raise ValueError(f"{path!r:.100} is a delta from nothing")
            expected = Delta(item["delta_base"], size, sha256).file
            bases.add(item["delta_base"])
        elif item["ftype"] in {"lxd.tar.xz", "incus.tar.xz"}:
            fingerprint = Fingerprint.parse(item["combined_squashfs_sha256"])
        if match[4] != expected:
            raise ValueError(f"the path {path!r:.100} is not one of a version's files")
        files[expected] = File(path, size, sha256)
    if place is None or fingerprint is None or not {METADATA_FILE, ROOTFS_FILE} <= set(files):
        raise ValueError(f"the version {key!r:.50} lacks a file")
    if place[2] != key or not simplestreams.is_version_key(key):
        raise ValueError(f"{key!r:.50} is no version")
    return Listed(ImageName.parse(place[0]), Arch(place[1]), key, fingerprint, files, frozenset(bases))


# ---- asking it


class Server:
    """The other server, asked no more than it must be. Safe to use from several threads."""

    def __init__(self, url: str, options: Options, cancelled: threading.Event) -> None:
        parsed = _parse(url)
        self._insecure = options.insecure
        self._refuse_plain(parsed)
        self._auth = {"authorization": basic(parsed.auth)} if parsed.auth else {}
        self._base = parsed._replace(auth=None, query=None, fragment=None).url.rstrip("/") + "/"
        self._origin = (parsed.scheme, parsed.host, parsed.port)
        self._cancelled = cancelled
        if parsed.scheme == "http" and (options.fingerprint or options.ca):
            raise UsageError(f"{self.url} has no certificate to check", "plain http knows none", "use https://")
        self._transport = _transport(options)

    def close(self) -> None:
        self._transport.close()

    @property
    def url(self) -> str:
        """Its address, without a password."""
        return self._base.rstrip("/")

    def wrong(self, what: str) -> MirrorError:
        return MirrorError(f"{self.url} can't be mirrored", what, "is it a tree that lxdocker published, and whole?")

    def json(self, path: str) -> Any:
        try:
            return json.loads(self.get(path, MAX_INDEX))
        except (ValueError, RecursionError):
            raise self.wrong(f"{path} is not JSON") from None

    def get(self, path: str, limit: int) -> bytes:
        """A small file."""
        for failures in self._attempts(path):
            content = bytearray()
            try:
                with self._ask(path, {}) as response:
                    for chunk in self._chunks(response):
                        content += chunk
                        if len(content) > limit:
                            raise self.wrong(f"{path} is larger than {human_size(limit)}")
                return bytes(content)
            except _RetryError as error:
                failures.append(str(error))
        raise AssertionError("unreachable")

    def fetch(self, file: File, partial: Path, count: Callable[[int], None]) -> None:
        """Completes ``partial``, to be the file."""
        spoilt = 0
        for failures in self._attempts(file.path):
            have = _size(partial) or 0
            if have < file.size or not partial.exists():
                try:
                    self._more(file, partial, have, count)
                except _RetryError as error:
                    if (_size(partial) or 0) > have:
                        failures.clear()  # it goes on, if slowly
                    failures.append(str(error))
                    continue
            if _size(partial) == file.size and _hash(partial) == file.sha256:
                return
            # Perhaps it was what an earlier run had left that was wrong.
            partial.unlink(missing_ok=True)
            spoilt += 1
            if spoilt > 1 or have == 0:
                raise self.wrong(f"{file.path} has not the hash that the index says")
            failures.append("another hash than the index says")
        raise AssertionError("unreachable")

    def _more(self, file: File, partial: Path, have: int, count: Callable[[int], None]) -> None:
        with self._ask(file.path, {"range": f"bytes={have}-"} if have else {}) as response:
            raw = response.raw
            if have and not (raw.status == 206 and raw.headers.get("content-range", "").startswith(f"bytes {have}-")):
                have = 0  # it gives all of it, or a part that nobody asked for
                if raw.status != 200:
                    partial.unlink()
                    raise _RetryError(f"its answer to a range was status {raw.status}")
            with partial.open("ab" if have else "wb") as output:
                for chunk in self._chunks(response):
                    have += len(chunk)
                    if have > file.size:
                        output.truncate(0)
                        raise self.wrong(f"{file.path} is larger than the index says ({file.size} bytes)")
                    output.write(chunk)
                    count(len(chunk))
        if have < file.size:
            raise _RetryError("the answer ended early")

    def _attempts(self, path: str) -> Iterator[list[str]]:
        """As many as there may be: each appends to the list why it failed, or ends the loop."""
        failures: list[str] = []
        while len(failures) < ATTEMPTS:
            if failures and self._cancelled.wait(PAUSE_SECONDS * 2 ** (len(failures) - 1)):
                break
            yield failures
        if self._cancelled.is_set():
            raise MirrorError("stopped", "interrupted while fetching", "run the same command again to go on")
        raise MirrorError(
            f"{self.url} does not give {path}", failures[-1], "run the same command again to go on from there"
        )

    def _ask(self, path: str, headers: Mapping[str, str]) -> Response:
        url = urljoin(self._base, quote(path))
        for _ in range(MAX_REDIRECTS + 1):
            parsed = _parse(url)
            own = (parsed.scheme, parsed.host, parsed.port) == self._origin
            sent = {"user-agent": "lxdocker", **headers, **(self._auth if own else {})}
            try:
                response = self._transport.open("GET", parsed, sent, HEAD_SECONDS)
            except UnusableProxyError as error:
                raise MirrorError(
                    f"{self.url} can't be reached",
                    str(error),
                    "see the variables https_proxy, http_proxy and all_proxy",
                ) from None
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                if re.search(r"CERTIFICATE_VERIFY_FAILED|Fingerprints did not match", str(error)):
                    raise self._distrusted(error) from None
                raise _RetryError(_reason(error)) from None
            status = response.raw.status
            if status in {200, 206}:
                return response
            location = response.raw.headers.get("location")
            response.raw.close()
            if status in {301, 302, 303, 307, 308} and location:
                try:
                    url = urljoin(url, location)
                except ValueError:
                    raise self.wrong(f"{path}: it redirects to an address that is none") from None
                self._refuse_plain(_parse(url))
                continue
            if status >= 500 or status in {408, 416, 429}:
                if status == 416:
                    return response
                raise _RetryError(f"its answer has status {status}")
            hint = {401: "; it wants a login: https://NAME:PASSWORD@HOST", 404: "; it has gone, or never was there"}
            raise self.wrong(f"{path}: its answer has status {status}{hint.get(status, '')}")
        raise self.wrong(f"{path} is redirected more than {MAX_REDIRECTS} times")

    def _chunks(self, response: Response) -> Iterator[bytes]:
        began, size = time.monotonic(), 0
        while True:
            if self._cancelled.is_set():
                raise _RetryError("interrupted")
            try:
                # What is there, so that an answer that comes byte by byte meets the limit.
                with response.deadline.within(READ_SECONDS, "a piece of its answer"):
                    chunk = response.raw.read1(CHUNK)
            except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
                raise _RetryError(_reason(error)) from None
            if not chunk:
                return
            size += len(chunk)
            yield chunk
            if time.monotonic() - began > READ_SECONDS:
                if size < SLOWEST * READ_SECONDS:
                    raise _RetryError(f"it sends less than {SLOWEST} bytes per second")
                began, size = time.monotonic(), 0

    def _refuse_plain(self, url: Url) -> None:
        if url.scheme == "http" and not self._insecure and not is_loopback(url.host or ""):
            raise UsageError(
                f"{url.host} is to be asked by plain http",
                "whoever is in between could give other images",
                "use https:// (--fingerprint trusts a self-signed certificate), or --insecure if the way there is safe",
            )

    def _distrusted(self, error: BaseException) -> MirrorError:
        return MirrorError(
            f"the certificate of {self.url} is not trusted",
            _reason(error),
            "--fingerprint HEX trusts just that certificate (its server shows it), --ca FILE those of an authority",
        )


class _RetryError(Exception):
    """This attempt failed; another one may not."""


def _parse(url: str) -> Url:
    try:
        parsed = parse_url(url)
    except HTTPError:
        parsed = Url()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise UsageError(f"{url[:200]} is not the address of a server", "", "name one such as https://HOST:8443")
    return parsed


def _transport(options: Options) -> Transport:
    tls: dict[str, Any] = {}
    if options.fingerprint:
        digits = re.sub(r"[:\s]", "", options.fingerprint).lower()
        if not _SHA256.fullmatch(digits):
            raise UsageError("--fingerprint is not one", options.fingerprint[:100], "it has 64 hex digits (SHA-256)")
        tls = {"assert_fingerprint": digits, "cert_reqs": "CERT_NONE"}
    if options.ca:
        if not options.ca.is_file():
            raise UsageError(f"there is no file {options.ca}", "", "--ca names a file with certificates (PEM)")
        tls |= {"ca_certs": str(options.ca)}
    return Transport(timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), maxsize=options.jobs, **tls)


def _root(error: BaseException) -> BaseException:
    while isinstance(inner := getattr(error, "reason", None) or error.__cause__, BaseException):
        error = inner
    return error


def _reason(error: BaseException) -> str:
    found = _root(error)
    where = "the proxy can't be used: " if isinstance(error, ProxyError) else ""
    return where + (re.sub(r"<[^>]*>: ", "", str(found)) or type(found).__name__)
