"""A registry's HTTP API, as much of it as the question "what is this tag today?" takes.

The protocol is the OCI distribution specification's (spec.md: pulling manifests, pulling blobs). An unchanged image
costs one HEAD. Everything a registry sends is bounded in size and time, and bodies must match their digest.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from lxdocker.errors import ImageMissingError, RegistryError, UnreachableError
from lxdocker.http.failure import FINAL, RequestError
from lxdocker.http.route import Route
from lxdocker.http.trust import CERT_ROOTS, Trust
from lxdocker.http.wire import Answer, Limits, Patience, Request, Wire
from lxdocker.source.credentials import Credentials
from lxdocker.source.login import Login, notes, quoted, refused
from lxdocker.source.oci import MANIFEST_TYPES
from lxdocker.source.site import Site
from lxdocker.values import Digest, RegistryRef

CONNECTIONS = 32  # to one registry at a time

_SERVERS = 64
_ACCEPT = ", ".join(MANIFEST_TYPES)
_MAX_MANIFEST = 4 * 1024 * 1024  # what registries accept (distribution spec: at least 4 MiB)
_MAX_CONFIG = 4 * 1024 * 1024  # what skopeo takes (containers/image, internal/iolimits)
# However steadily they drip: for the headers of an answer, and then for its body.
_MAX_HEAD_SECONDS = 60.0
_MAX_BODY_SECONDS = 60.0
# Seconds before the second, the third and the fourth try. However often a question leads to redirects, tokens and
# several schemes, it is asked so often in all.
_PAUSES = (0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class _Known:
    """What has been learned about one registry."""

    site: Site
    login: Login


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of a registry, by whichever scheme and as whoever."""

    method: str
    path: str
    headers: Mapping[str, str]
    limit: int
    patience: Patience

    def request(self, scheme: str, host: str, authorization: str = "") -> Request:
        login = {"Authorization": authorization} if authorization else {}
        return Request(self.method, f"{scheme}://{host}{self.path}", {**self.headers, **login}, self.limit)


class RegistryClient:
    """Asks registries. A context manager; thread-safe: threads share connections, tokens and what is learned.

    All methods raise RegistryError and its kinds: AuthError (401, 403), ImageMissingError (404), and
    RegistryError itself for a registry that cannot be reached or whose answers cannot be used.
    """

    def __init__(
        self,
        credentials: Credentials,
        insecure: Collection[str] = (),
        timeout: float = 15.0,
        cert_roots: Sequence[Path] = CERT_ROOTS,
        pauses: Sequence[float] | None = None,
    ) -> None:
        """``insecure``: registries (HOST or HOST:PORT) that may be asked by plain http.

        ``timeout``: seconds to wait for a connection, and for each piece of an answer. ``pauses``: before each further
        try, if not the usual ones.
        """
        limits = Limits(connect=timeout, piece=timeout, head=_MAX_HEAD_SECONDS, body=_MAX_BODY_SECONDS)
        self._wire = Wire(limits, servers=_SERVERS, connections=CONNECTIONS)
        self._credentials = credentials
        self._trust = Trust(insecure, cert_roots)
        self._pauses = pauses
        self._registries: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections, and the waiting of threads that were about to try again."""
        self._closed.set()
        self._wire.close()

    def verifies(self, registry: str) -> bool:
        """Whether ``registry`` must prove its identity: False for loopback and for those named as insecure."""
        return self._trust.verifies(registry)

    def route(self, ref: RegistryRef, blob: Digest | None = None) -> Route:
        """How a builder is to reach ``ref``, of which ``blob`` is a layer: as this host has reached it so far.

        Raises RegistryError where it cannot be done in the same way.
        """
        site = self._known(ref.registry).site
        if blob and site.is_here:
            # A request finds out where layers are: on this host a builder reaches only the endpoints in its route.
            with suppress(RegistryError):
                self._ask("GET", ref, f"/v2/{ref.repository}/blobs/{blob}", "*/*", 0, more={"Range": "bytes=0-0"})
        return site.route()

    def head(self, ref: RegistryRef) -> Digest:
        """What the tag names now: the digest of a manifest or of an index.

        A HEAD, which Docker Hub's rate limit does not count, and a GET only where that fails: some registries, and
        what stands before them, answer a HEAD with anything. A ``ref`` that is a digest already is its own answer, and
        nothing is asked.
        """
        if ref.digest:
            return ref.digest
        path = f"/v2/{ref.repository}/manifests/{ref.tag}"
        patience = self._patience()
        answer = self._ask("HEAD", ref, path, _ACCEPT, 0, patience)
        if answer.status == 200:
            try:
                return Digest.parse(answer.headers.get("docker-content-digest", ""))
            except ValueError:
                pass  # the header is optional (distribution spec: "MAY")
        elif answer.status in (429, 503) or (answer.status == 401 and self._known(ref.registry).login.challenge):
            _check(answer, ref, self._credentials)  # which is not about how it was asked
        answer = self._ask("GET", ref, path, _ACCEPT, _MAX_MANIFEST, patience)
        _check(answer, ref, self._credentials)
        _require_no_page(answer, ref)
        return Digest.of(answer.body)

    def lets_read(self, ref: RegistryRef) -> bool:
        """Whether the registry says that this user may read ``ref``: a HEAD, also where that is a digest."""
        return self.probe(ref).status == 200

    def probe(self, ref: RegistryRef) -> Answer:
        """The answer to a HEAD for ``ref``, whatever it is."""
        return self._ask("HEAD", ref, f"/v2/{ref.repository}/manifests/{ref.digest or ref.tag}", _ACCEPT, 0)

    def manifest(self, ref: RegistryRef, digest: Digest) -> bytes:
        """The manifest or index ``digest`` of ``ref``'s repository; up to 4 MiB; matches the digest."""
        path = f"/v2/{ref.repository}/manifests/{digest}"
        return self._verified(ref, digest, path, _ACCEPT, _MAX_MANIFEST)

    def config_blob(self, ref: RegistryRef, digest: Digest) -> bytes:
        """The image configuration ``digest`` of ``ref``'s repository; up to 4 MiB; matches the digest."""
        return self._verified(ref, digest, f"/v2/{ref.repository}/blobs/{digest}", "*/*", _MAX_CONFIG)

    def _verified(self, ref: RegistryRef, digest: Digest, path: str, accept: str, limit: int) -> bytes:
        exact = ref.at(digest)
        patience = self._patience()
        while True:
            answer = self._ask("GET", exact, path, accept, limit, patience)
            _check(answer, exact, self._credentials)
            if Digest.of(answer.body) == digest:
                return answer.body
            # Without a Content-Length, an answer that was cut off looks whole.
            if "content-length" not in answer.headers and patience.again():
                continue
            _require_no_page(answer, exact)
            raise RegistryError(
                f"{ref.registry} sent other content than {exact}",
                f"its digest is {Digest.of(answer.body)}",
                "try again; if the error persists, the registry or a proxy in between is broken or malicious",
            )

    def _ask(
        self,
        method: str,
        ref: RegistryRef,
        path: str,
        accept: str,
        limit: int,
        patience: Patience | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        """One question, with whatever login it takes."""
        known = self._known(ref.registry)
        login = known.login
        question = _Question(method, path, {"Accept": accept, **(more or {})}, limit, patience or self._patience())
        authorization = ""
        answer = self._first(known, ref, question) if not known.site.scheme else None
        if not answer:
            authorization = login.authorization(ref)
            answer = self._request(known.site, ref, question, authorization)
        if answer.status == 401 and login.learn(ref, answer):
            renewed = login.authorization(ref, refused=authorization)
            if renewed and renewed != authorization:
                answer = self._request(known.site, ref, question, renewed)
        return answer

    def _patience(self) -> Patience:
        return Patience(self._closed, _PAUSES if self._pauses is None else self._pauses)

    def _known(self, registry: str) -> _Known:
        with self._lock:
            known = self._registries.get(registry)
            if not known:
                site = Site(registry, self._trust)
                login = Login(site, self._wire, self._credentials, self._patience)
                known = self._registries[registry] = _Known(site, login)
            return known

    def _first(self, known: _Known, ref: RegistryRef, question: _Question) -> Answer | None:
        """The first question to a registry, asked by one thread while the others wait: its answer (the scheme, the way
        to log in, or none at all) is worth knowing before 31 more are asked.

        None if this was not the first, or if the question should be asked again.
        """
        site = known.site
        with site.lock:
            if site.scheme:
                return None
            if failure := site.recent_failure:
                raise _cannot_be_reached(site.name, ref, failure.details, failure.resolution)
            try:
                scheme, answer = self._try_schemes(site, ref, question)
            except RegistryError as error:
                site.fail(error)
                raise
            if answer.status == 401:
                known.login.learn(ref, answer)
            # Last, since it lets the others pass, and they must know how to log in.
            site.scheme = scheme
        return None if answer.may_pass and question.patience.again(answer.retry_after) else answer

    def _try_schemes(self, site: Site, ref: RegistryRef, question: _Question) -> tuple[str, Answer]:
        while True:
            failures: list[tuple[str, RequestError]] = []
            unencrypted: Answer | None = None
            for scheme in site.schemes:
                try:
                    answer = self._wire.ask(question.request(scheme, site.host), site)
                except RequestError as failure:
                    failures.append((scheme, failure))
                    continue
                # How Go's and nginx's TLS servers answer plain http.
                if answer.status == 400 and scheme == "http" and scheme != site.schemes[-1]:
                    unencrypted = answer
                    continue
                return scheme, answer
            if unencrypted:
                return "http", unencrypted
            kinds = {failure.kind for _, failure in failures}
            if kinds <= FINAL or "astray" in kinds or not question.patience.again():
                raise _unreachable(site.name, ref, failures)

    def _request(self, site: Site, ref: RegistryRef, question: _Question, authorization: str) -> Answer:
        request = question.request(site.scheme, site.host, authorization)
        try:
            return self._wire.ask(request, site, question.patience)
        except RequestError as failure:
            raise _unreachable(site.name, ref, [(site.scheme, failure)]) from None


def _check(answer: Answer, ref: RegistryRef, credentials: Credentials) -> None:
    """Raises what a status other than 200 means."""
    status = answer.status
    if status == 200:
        return
    if status in (401, 403):
        raise refused(ref, f"it answers {status}{quoted(answer)}", credentials.for_ref(ref), credentials)
    if status == 404:
        raise ImageMissingError(
            f"no image {ref}",
            f"no such {'digest' if ref.digest else 'repository or tag'} at {ref.registry}{notes(credentials)}",
            "check the name and the tag; a tag may have been deleted",
        )
    if status == 429:
        pause = f" and asks for a pause of {answer.retry_after:.0f} s" if answer.retry_after else ""
        raise RegistryError(
            f"{ref.registry} refuses more requests for now, asked for {ref}",
            f"it answers 429 (too many requests){pause}{notes(credentials)}",
            f"wait and try again; after 'skopeo login {ref.registry}' the limit is often higher",
        )
    if status >= 500:
        raise RegistryError(f"{ref.registry} failed, asked for {ref}", f"it answers {status}", "try again later")
    _not_a_registry(ref, f"it answers {status}")


def _require_no_page(answer: Answer, ref: RegistryRef) -> None:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/html" or answer.body.lstrip()[:1] != b"{":
        _not_a_registry(ref, "its answer is a web page" if kind == "text/html" else "its answer is not a manifest")


def _not_a_registry(ref: RegistryRef, why: str) -> NoReturn:
    raise RegistryError(
        f"{ref.registry} does not answer like a registry, asked for {ref}",
        why,
        "check host and port, and whether a proxy or a login page stands in between",
    )


def _unreachable(name: str, ref: RegistryRef, failures: Sequence[tuple[str, RequestError]]) -> RegistryError:
    kinds = {failure.kind for _, failure in failures}
    if len({failure.why for _, failure in failures}) == 1:
        details = failures[0][1].why
    else:
        details = "; ".join(f"by {scheme}: {failure.why}" for scheme, failure in failures)
    if "plain" in kinds and len(failures) == 1:
        resolution = f"if it is meant to be without encryption: --insecure-registry {name}"
    elif "certificate" in kinds:
        resolution = f"if it has a CA of its own, put that CA's certificate at {CERT_ROOTS[-1] / name}/ca.crt"
    elif "astray" in kinds:
        resolution = "report it to the registry's operator; the answer was not used"
    elif "proxy" in kinds:
        resolution = "see the variables https_proxy, http_proxy and all_proxy"
    elif "unreachable" in kinds:
        resolution = "check the name and the port, and that this host can reach it (network, firewall, proxy)"
    else:
        resolution = "try again later; check for a proxy in between"
    return _cannot_be_reached(name, ref, details, resolution)


def _cannot_be_reached(name: str, ref: RegistryRef, details: str, resolution: str) -> RegistryError:
    error = UnreachableError(f"cannot reach {name} to look up {ref}", details, resolution)
    error.registry = name
    return error
