"""The one HTTP client, against servers that a test writes."""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from urllib3.util import Url, parse_url

from lxdocker.http import url as urls
from lxdocker.http.failure import RequestError
from lxdocker.http.route import Place
from lxdocker.http.trust import (
    Tls,
    Trust,
    UnusableCertificatesError,
    is_vouched_for,
    make_context,
    only_authorities,
    only_certificate,
    parse_fingerprint,
    shown_certificate,
)
from lxdocker.http.wire import Answer, Limits, Patience, Request, Wire
from tests.registry_server import Certificate, Handler, ScriptedServer

LIMITS = Limits(connect=5, piece=5, head=5, body=5, redirects=2)
NEVER = threading.Event()


@pytest.fixture
def wire() -> Iterator[Wire]:
    with closing(Wire(LIMITS)) as made:
        yield made


@dataclass
class Anywhere:
    """Lets requests go everywhere, and notes where they went."""

    tls: Tls | None = None
    admitted: list[tuple[str, str | None]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    def admit(self, url: Url, previous: Url | None) -> Tls | None:
        self.admitted.append((url.url, previous.url if previous else None))
        return self.tls if url.scheme == "https" else None

    def reached(self, url: Url, place: Place) -> None:
        self.places.append(place)


def get(url: str, limit: int = 1000, **headers: str) -> Request:
    return Request("GET", url, headers, limit)


def patience(tries: int, stopped: threading.Event = NEVER) -> Patience:
    return Patience(stopped, [0.01] * (tries - 1))


def ok(handler: Handler) -> None:
    handler.reply(200, b"hello")


# ---- the log


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    # The time is the only part that varies.
    return [re.sub(r"in \d+ ms", "in N ms", found.getMessage()) for found in caplog.records if found.name == LOGGER]


LOGGER = "lxdocker.http"


def test_each_request_is_logged_once_without_its_secrets(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    def answer(handler: Handler) -> None:
        if handler.path.startswith("/first"):
            handler.reply(307, headers={"Location": "/second?signature=s3cret"})
        else:
            ok(handler)

    caplog.set_level(logging.DEBUG, LOGGER)
    with ScriptedServer(answer) as server:
        wire.ask(get(f"{server.url}/first?token=s3cret#s3cret", Authorization="Basic s3cret"), Anywhere())
        with wire.open(Request("HEAD", f"http://ann:s3cret@{server.address}/third"), Anywhere()):
            pass
    assert lines(caplog) == [
        f"GET {server.url}/first: 307 in N ms",
        f"GET {server.url}/second: 200 in N ms",
        f"HEAD {server.url}/third: 200 in N ms",
    ]
    assert "s3cret" not in caplog.text
    assert {found.levelno for found in caplog.records if found.name == LOGGER} == {logging.DEBUG}


def test_failed_requests_are_logged_with_the_reason(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    with ScriptedServer(ok) as server:
        url = server.url
    with pytest.raises(RequestError):
        wire.ask(get(f"{url}/x?s3cret"), Anywhere(), patience(2))
    assert lines(caplog) == [f"GET {url}/x: connection refused in N ms"] * 2


def test_the_log_names_the_proxy_without_its_login(
    wire: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    with ScriptedServer(ok) as proxy:
        monkeypatch.setenv("http_proxy", f"http://ann:s3cret@{proxy.address}/?s3cret")
        wire.ask(get("http://registry.invalid/x?s3cret"), Anywhere())
        assert lines(caplog) == [f"GET http://registry.invalid/x: 200 in N ms through {proxy.url}/"]
        monkeypatch.setenv("http_proxy", "socks5://ann:s3cret@127.0.0.1:1")
        with pytest.raises(RequestError, match="only http and https") as caught:
            wire.ask(get("http://registry.invalid/x?s3cret"), Anywhere(), patience(2))
        assert caught.value.kind == "proxy"
    assert "through socks5://127.0.0.1:1" in lines(caplog)[-1]
    assert len(lines(caplog)) == 2  # another try won't heal that
    assert "s3cret" not in caplog.text


def test_without_anybody_who_reads_it_there_is_no_log(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    with ScriptedServer(ok) as server:
        wire.ask(get(server.url), Anywhere())
    assert lines(caplog) == []


# ---- redirects


def test_redirects_are_followed_over_one_connection(wire: Wire) -> None:
    ports = []

    def answer(handler: Handler) -> None:
        ports.append(handler.client_address[1])
        if handler.path == "/2":
            ok(handler)
        else:
            handler.reply(302, b"elsewhere", {"Location": f"/{int(handler.path[1:]) + 1}"})

    guide = Anywhere()
    with ScriptedServer(answer) as server:
        assert wire.ask(get(f"{server.url}/0", Authorization="x", Range="y"), guide).body == b"hello"
        assert [seen.headers["Authorization"] for seen in server.seen] == ["x"] * 3
        with wire.open(get(f"{server.url}/1"), guide) as stream:
            assert b"".join(stream.pieces(2)) == b"hello"
    assert len(set(ports[:3])) == 1
    assert guide.admitted[:2] == [(f"{server.url}/0", None), (f"{server.url}/1", f"{server.url}/0")]
    assert set(guide.places) == {Place("127.0.0.1", server.port, "127.0.0.1")}


@pytest.mark.parametrize("same", ["/", "HTTP://{}/", "//{}/"])
def test_a_login_goes_no_further_than_its_server(wire: Wire, same: str) -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/login":
            handler.reply(308, headers={"Location": same.format(server.address)})
        else:
            handler.reply(303, headers={"Location": f"{away.url}/"})

    with ScriptedServer(ok) as away, ScriptedServer(answer) as server:
        wire.ask(get(f"{server.url}/login", authorization="s3cret", Range="y"), Anywhere())
        assert [seen.headers["Authorization"] for seen in server.seen] == ["s3cret"] * 2
        assert [(seen.headers["Authorization"], seen.headers["Range"]) for seen in away.seen] == [(None, "y")]


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("/", "it redirects more than 2 times"),
        ("http://[", "it redirects to an invalid URL"),
        ("ftp://127.0.0.1/", "it redirects to an invalid URL"),
        ("http://ann:word@127.0.0.1/", "it redirects to an invalid URL"),
    ],
)
def test_redirects_that_are_not_followed(wire: Wire, location: str, why: str) -> None:
    with ScriptedServer(lambda handler: handler.reply(301, headers={"Location": location})) as server:
        for ask in (wire.open, lambda request, guide: wire.ask(request, guide, patience(3))):
            with pytest.raises(RequestError, match=f"^{why}$") as caught:
                ask(get(server.url), Anywhere())
            assert caught.value.is_final
        assert len(server.seen) == (6 if location == "/" else 2)


def test_a_body_is_not_sent_along_a_redirect(wire: Wire) -> None:
    with ScriptedServer(lambda handler: handler.reply(307, headers={"Location": "/"})) as server:
        with pytest.raises(RequestError, match="redirects a login"):
            wire.ask(Request("POST", server.url, {}, 1000, b"token"), Anywhere())
        assert [seen.body for seen in server.seen] == [b"token"]


def test_a_redirect_to_nowhere_is_an_answer(wire: Wire) -> None:
    with ScriptedServer(lambda handler: handler.reply(304)) as server:
        assert wire.ask(get(server.url), Anywhere()).status == 304
    with ScriptedServer(lambda handler: handler.reply(302)) as server:
        assert wire.ask(get(server.url), Anywhere()).status == 302


@pytest.mark.parametrize("url", ["", "registry.example", "ftp://127.0.0.1", "http://[", "https://"])
def test_an_invalid_url_is_not_asked(wire: Wire, url: str) -> None:
    guide = Anywhere()
    with pytest.raises(RequestError, match="invalid URL"):
        wire.ask(get(url), guide)
    assert guide.admitted == []


# ---- a guide's word


def test_a_server_that_the_guide_refuses_is_not_connected_to(wire: Wire) -> None:
    class Nowhere(Anywhere):
        def admit(self, url: Url, previous: Url | None) -> Tls | None:
            raise RequestError("astray", "not there")

    class Late(Anywhere):
        def reached(self, url: Url, place: Place) -> None:
            raise RequestError("astray", "not there")

    with ScriptedServer(ok) as server:
        with pytest.raises(RequestError, match="not there"):
            wire.ask(get(server.url), Nowhere(), patience(3))
        assert server.seen == []
        with pytest.raises(RequestError, match="not there"):
            wire.ask(get(server.url), Late(), patience(3))
        assert len(server.seen) == 1


def test_unusable_certificates_are_a_failure_like_others(wire: Wire) -> None:
    class Damaged(Anywhere):
        def admit(self, url: Url, previous: Url | None) -> Tls | None:
            raise UnusableCertificatesError(Path("/etc/x"), OSError(5, "Input/output error"))

    with pytest.raises(RequestError, match="the certificates in /etc/x cannot be used: Input/output error") as caught:
        wire.ask(get("https://127.0.0.1:1"), Damaged())
    assert caught.value.kind == "certificate"


# ---- trying again


def statuses(*wanted: int, headers: dict[str, str] | None = None) -> ScriptedServer:
    """A server that answers with one status after the other, and the last one from then on."""
    left = list(wanted)
    return ScriptedServer(lambda handler: handler.reply(left.pop(0) if len(left) > 1 else left[0], b"", headers))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_for_again(wire: Wire, status: int) -> None:
    with statuses(status, status, 200) as server:
        assert wire.ask(get(server.url), Anywhere(), patience(3)).status == 200
        assert len(server.seen) == 3
    with statuses(status, status, 200) as server:
        assert wire.ask(get(server.url), Anywhere(), patience(2)).status == status
        assert wire.ask(get(server.url), Anywhere()).status == 200
        assert len(server.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 416, 501, 505])
def test_what_does_not_pass_is_not(wire: Wire, status: int) -> None:
    with statuses(status) as server:
        assert wire.ask(get(server.url), Anywhere(), patience(3)).status == status
        assert len(server.seen) == 1


def test_patience_is_for_a_question_and_not_for_each_request(wire: Wire) -> None:
    shared = patience(3)
    with statuses(503) as server:
        for _ in range(2):
            wire.ask(get(server.url), Anywhere(), shared)
        assert len(server.seen) == 3 + 1
        shared.renew()
        wire.ask(get(server.url), Anywhere(), shared)
        assert len(server.seen) == 4 + 3


def test_a_pause_that_is_asked_for_is_kept_unless_it_is_too_long(wire: Wire) -> None:
    with statuses(429, 200, headers={"Retry-After": "1"}) as server:
        began = time.monotonic()
        wire.ask(get(server.url), Anywhere(), patience(2))
        assert 1 <= time.monotonic() - began < 5
    with statuses(429, headers={"Retry-After": "31"}) as server:
        began = time.monotonic()
        assert wire.ask(get(server.url), Anywhere(), patience(2)).retry_after == 31
        assert time.monotonic() - began < 5
        assert len(server.seen) == 1


def test_waiting_ends_when_it_is_stopped() -> None:
    stopped = threading.Event()
    threading.Timer(0.1, stopped.set).start()
    began = time.monotonic()
    assert not Patience(stopped, [20.0]).again()
    assert time.monotonic() - began < 10


# ---- bodies


def test_a_body_is_no_longer_than_its_limit(wire: Wire) -> None:
    with ScriptedServer(lambda handler: handler.reply(200, b"x" * 2048)) as server:
        assert len(wire.ask(get(server.url, 2048), Anywhere()).body) == 2048
        with pytest.raises(RequestError, match=r"^its answer is longer than 1 KiB$") as caught:
            wire.ask(get(server.url, 2047), Anywhere(), patience(3))
        assert caught.value.is_final
        assert len(server.seen) == 2


def test_an_errors_body_has_a_limit_of_its_own(wire: Wire) -> None:
    with ScriptedServer(lambda handler: handler.reply(404, b"x" * int(handler.path[1:]))) as server:
        assert len(wire.ask(get(f"{server.url}/65536", 0), Anywhere()).body) == 65536
        assert wire.ask(get(f"{server.url}/65537", 10**6), Anywhere()).body == b""


def test_an_answer_has_all_that_its_headers_say(wire: Wire) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(401)
        for value in ("Basic", "Bearer realm=x"):
            handler.send_header("WWW-Authenticate", value)
        handler.send_header("ETag", "x")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with ScriptedServer(answer) as server:
        found = wire.ask(get(server.url), Anywhere())
    assert (found.challenges, found.headers["etag"]) == (("Basic", "Bearer realm=x"), "x")
    assert "User-Agent" in server.seen[0].headers
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


def test_pieces_that_stop_coming_are_waited_for_no_longer_than_the_limit() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"x")
        time.sleep(5)

    with ScriptedServer(answer) as server, closing(Wire(Limits(piece=0.2))) as impatient:
        with impatient.open(get(server.url), Anywhere()) as stream:
            pieces = stream.pieces(10)
            assert next(pieces) == b"x"
            with pytest.raises(RequestError, match=r"0\.2 s$"):
                next(pieces)
        with pytest.raises(RequestError, match=r"^no answer within 0\.2 s$") as caught:
            impatient.ask(get(server.url, 10), Anywhere())
    assert not caught.value.is_final


# ---- proxies


def test_a_wire_without_proxies_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(ok) as proxy, ScriptedServer(ok) as server, closing(Wire(LIMITS, proxied=False)) as direct:
        monkeypatch.setenv("all_proxy", proxy.url)
        url = f"http://{server.public_address}"
        assert direct.ask(get(url), Anywhere()).body == b"hello"
        assert proxy.seen == []
        with closing(Wire(LIMITS)) as usual:
            usual.ask(get(url), Anywhere())
        assert len(proxy.seen) == 1


# ---- identity


def fingerprint(certificate: Certificate) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.cert.read_text())).hexdigest()


def test_a_server_with_the_one_certificate(wire: Wire, certificate: Certificate) -> None:
    with ScriptedServer(ok, certificate) as server:
        for url in (server.url, f"https://{server.public_address}"):
            assert wire.ask(get(url), Anywhere(only_certificate(fingerprint(certificate)))).status == 200
        with pytest.raises(
            RequestError, match=f"^its certificate has the fingerprint {fingerprint(certificate)}$"
        ) as e:
            wire.ask(get(server.url), Anywhere(only_certificate("0" * 64)), patience(3))
        assert (e.value.kind, len(server.seen)) == ("certificate", 2)


def test_a_server_that_authorities_vouch_for(wire: Wire, certificate: Certificate, tmp_path: Path) -> None:
    with ScriptedServer(ok, certificate) as server:
        assert wire.ask(get(server.url), Anywhere(only_authorities(certificate.cert))).status == 200
        with pytest.raises(RequestError, match=r"^its certificate is not trusted: self-signed certificate$"):
            wire.ask(get(server.url), Anywhere(Tls(make_context())))
        closed = Tls(make_context(), closed=(Path("/etc/a"), Path("/etc/b")))
        with pytest.raises(RequestError, match=r"not trusted: .*; no permission to read /etc/a, /etc/b$"):
            wire.ask(get(server.url), Anywhere(closed))
        # A certificate is for its names only, whoever vouches for it.
        with pytest.raises(RequestError, match="is not trusted: Hostname mismatch"):
            wire.ask(get(f"https://localhost:{server.port}"), Anywhere(only_authorities(certificate.cert)))
        assert shown_certificate("127.0.0.1", server.port, 5) == ssl.PEM_cert_to_DER_cert(certificate.cert.read_text())
        assert not is_vouched_for("127.0.0.1", server.port, 5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(certificate.cert))
            assert is_vouched_for("127.0.0.1", server.port, 5)
    (tmp_path / "empty").write_text("no certificate")
    for name in ("empty", "none"):
        with pytest.raises(UnusableCertificatesError, match=f"^the certificates in {tmp_path}/{name} cannot be used: "):
            only_authorities(tmp_path / name)


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Certificate:
    """A certificate that ``certificate`` vouches for."""
    folder = tmp_path_factory.mktemp("signed")
    made = Certificate(folder / "tls.crt", folder / "tls.key", certificate.key)
    request, names = folder / "tls.csr", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", made.key_file)
    openssl("req", *key, "-subj", "/CN=signed", "-out", request)
    authority = ("-CA", certificate.cert, "-CAkey", certificate.key_file, "-CAcreateserial", "-days", "1")
    openssl("x509", "-req", "-in", request, *authority, "-extfile", names, "-out", made.cert)
    return made


def test_a_servers_own_certificate_does_in_place_of_its_authoritys(
    wire: Wire, certificate: Certificate, signed: Certificate
) -> None:
    with ScriptedServer(ok, signed) as server:
        for trusted in (certificate, signed):
            assert wire.ask(get(server.url), Anywhere(only_authorities(trusted.cert))).status == 200


def test_a_registrys_authority_vouches_for_what_it_leads_to(
    wire: Wire, certificate: Certificate, signed: Certificate, tmp_path: Path
) -> None:
    folder = tmp_path / "registry.example"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(certificate.cert.read_bytes())
    trust = Trust(roots=(tmp_path,))
    with ScriptedServer(ok, signed) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "verifies", lambda registry: True)  # although it is on the loopback
        url = parse_url(server.url)
        ask = functools.partial(wire.ask, get(server.url))
        assert ask(Anywhere(trust.tls(url, trust.kept("registry.example", 443)))).status == 200
        with pytest.raises(RequestError, match="is not trusted"):
            ask(Anywhere(trust.tls(url, trust.kept("other.example", 443))))


def test_a_client_certificate_is_for_its_own_server_only(tmp_path: Path, certificate: Certificate) -> None:
    other = Certificate.make(tmp_path / "client")
    folder = tmp_path / "certs.d/a.example:5000"
    folder.mkdir(parents=True)
    (folder / "client.cert").write_bytes(other.cert.read_bytes())
    (folder / "client.key").write_bytes(certificate.key_file.read_bytes())  # which does not belong to it
    trust = Trust(roots=(tmp_path / "certs.d",))
    own = trust.kept("a.example", 5000)
    trust.tls(parse_url("https://b.example"), own)
    with pytest.raises(UnusableCertificatesError, match="key values mismatch"):
        trust.tls(parse_url("https://a.example:5000"), own)


@pytest.mark.parametrize(
    ("insecure", "url", "checked"),
    [
        ((), "https://a.example", True),
        (("A.example.",), "https://a.example", False),
        (("a.example",), "https://a.example:443", False),
        (("a.example:443",), "https://a.example", False),
        (("a.example:5000",), "https://a.example", True),
        ((), "https://127.0.0.1:5000", False),
        (("docker.io",), "https://registry-1.docker.io", False),
    ],
)
def test_whose_certificate_is_checked(insecure: tuple[str, ...], url: str, checked: bool) -> None:
    trust = Trust(insecure, ())
    tls = trust.tls(parse_url(url), trust.kept("registry.example", 443))
    assert (tls.context.verify_mode is ssl.CERT_REQUIRED) == checked
    assert tls.context.check_hostname == checked
    assert trust.tls(parse_url(url), trust.kept("registry.example", 443)).context is tls.context


@pytest.mark.parametrize("text", ["ab" * 32, "AB" * 32, ":".join(["AB"] * 32), "ab " * 32, "\n".join(["ab" * 16] * 2)])
def test_fingerprints(text: str) -> None:
    assert parse_fingerprint(text) == "ab" * 32


@pytest.mark.parametrize("text", ["", "ab" * 20, "ab" * 33, "xy" * 32, "sha256:" + "ab" * 32])
def test_what_is_not_a_fingerprint(text: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 fingerprint"):
        parse_fingerprint(text)


# ---- URLs


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("HTTPS://Ann:word@Host.example:8443/a/b?c=d#e", "https://host.example:8443/a/b"),
        ("http://[2001:db8::1]:1/", "http://[2001:db8::1]:1/"),
        ("http://a.example", "http://a.example"),
        ("http://a.example/\u202e\x1b[31m", "http://a.example/%E2%80%AE%1B%5B31m"),
    ],
)
def test_urls_are_shown_without_secrets(text: str, shown: str) -> None:
    url = urls.parse(text)
    assert url is not None
    assert urls.shown(url) == shown


def test_an_origin_has_a_port_in_any_case() -> None:
    assert urls.origin(parse_url("https://a")) == urls.origin(parse_url("https://A:443/x"))
    assert urls.origin(parse_url("http://a")) == urls.origin(parse_url("http://a:80"))
    for other in ("http://a", "https://b", "https://a:444", "https://a.b"):
        assert urls.origin(parse_url("https://a")) != urls.origin(parse_url(other))


def test_a_login_is_sent_as_it_was_meant() -> None:
    assert base64.b64decode(urls.basic("ann:wörd ").removeprefix("Basic ")).decode() == "ann:wörd "
    assert urls.basic_of(parse_url("https://ann:p%40%3A@host")) == urls.basic("ann:p@:")
    assert urls.basic_of(parse_url("https://host")) == ""


def test_answers_tell_what_may_pass() -> None:
    assert Answer(503, {"retry-after": "2"}).retry_after == 2
    assert Answer(503, {}).retry_after == 0
