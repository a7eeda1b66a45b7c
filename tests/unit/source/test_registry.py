"""The registry client against docker-registry in all its modes, and against servers that misbehave."""

# ruff: noqa: SIM117 - servers, and what is asked of them, read better apart

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from urllib3.util import parse_url

from lxdocker.errors import AuthError, ImageMissingError, RegistryError
from lxdocker.http import route as route_module
from lxdocker.http.route import Place
from lxdocker.http.trust import certs_dir
from lxdocker.http.wire import parse_retry_after
from lxdocker.source import registry as module
from lxdocker.source.credentials import Credentials
from lxdocker.source.login import Login, parse_challenges
from lxdocker.source.registry import RegistryClient
from lxdocker.values import Digest, RegistryRef
from tests import forked
from tests.registry_server import (
    PASSWORD,
    USER,
    Certificate,
    Handler,
    Images,
    Registry,
    ScriptedServer,
    TokenService,
    make_image,
    make_index,
    registry,
)

IMAGE = make_image()
DIGEST = Digest(IMAGE.manifest.digest)
CONFIG = Digest(IMAGE.config.digest)
REPOSITORIES = ("public/app", "public/other", "private/app")


@pytest.fixture(autouse=True)
def _no_proxies_and_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(module, "_PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that registries of all kinds then serve."""
    folder = tmp_path_factory.mktemp("registry")
    with registry(folder, storage=folder / "storage") as server:
        images = Images(server.address)
        for repository in REPOSITORIES:
            images.push(repository, "1", IMAGE)
        images.push_manifest("public/app", "index", make_index((IMAGE.manifest, None)))
    return folder / "storage"


@pytest.fixture
def plain(tmp_path: Path, storage: Path) -> Iterator[Registry]:
    with registry(tmp_path / "plain", storage=storage) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


def credentials(home: Path, *hosts: str, **entry: str) -> Credentials:
    home.mkdir(exist_ok=True)
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    auths = {host: entry or {"auth": login} for host in hosts}
    (home / "auth.json").write_text(json.dumps({"auths": auths}))
    return Credentials({"REGISTRY_AUTH_FILE": str(home / "auth.json")}, home)


NOBODY = Credentials({"XDG_RUNTIME_DIR": "/nonexistent/run"}, Path("/nonexistent/home"))


def client(known: Credentials = NOBODY, timeout: float = 5, **options: object) -> RegistryClient:
    return RegistryClient(known, timeout=timeout, **{"cert_roots": (), **options})  # type: ignore[arg-type]  # passed on


def ref(address: str, repository: str = "public/app", tag: str = "1") -> RegistryRef:
    return RegistryRef(address, repository, tag, None)


def asked(server: Registry, at_least: int) -> list[tuple[str, str, int]]:
    return [(request.method, request.path, request.status) for request in server.requests(at_least)]


# docker-registry.


def test_a_tag_costs_one_head(plain: Registry) -> None:
    with client() as ask:
        assert ask.head(ref(plain.address)) == DIGEST
    assert asked(plain, 1) == [("HEAD", "/v2/public/app/manifests/1", 200)]


def test_a_digest_costs_nothing(plain: Registry) -> None:
    with client() as ask:
        assert ask.head(ref(plain.address).at(DIGEST)) == DIGEST
    assert asked(plain, 0) == []


def test_bodies_and_one_connection_for_all(plain: Registry) -> None:
    with client() as ask:
        assert ask.manifest(ref(plain.address), DIGEST) == IMAGE.manifest.content
        assert ask.config_blob(ref(plain.address), CONFIG) == IMAGE.config.content
        assert ask.head(ref(plain.address, tag="index")) == Digest(make_index((IMAGE.manifest, None)).digest)
        pool, _ = ask._wire._transport._pool(parse_url(f"http://{plain.address}"), None)
        assert pool.num_connections == 1


@pytest.mark.parametrize(("repository", "tag"), [("public/none", "1"), ("public/app", "none")])
def test_no_such_image(plain: Registry, repository: str, tag: str) -> None:
    with client() as ask, pytest.raises(ImageMissingError, match=f"no image {plain.address}/{repository}:{tag}"):
        ask.head(ref(plain.address, repository, tag))


def test_no_such_digest(plain: Registry) -> None:
    with client() as ask, pytest.raises(ImageMissingError, match="no such digest"):
        ask.manifest(ref(plain.address), Digest("sha256:" + "0" * 64))


def test_tokens_for_everyone(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with (
        TokenService(certificate) as tokens,
        registry(tmp_path / "r", storage=storage, tokens=tokens) as server,
        client() as ask,
    ):
        for _ in range(3):
            assert ask.head(ref(server.address)) == DIGEST
        assert ask.manifest(ref(server.address), DIGEST) == IMAGE.manifest.content
        assert ask.head(ref(server.address, "public/other")) == DIGEST
        # One refusal for the registry, one token for each repository.
        assert [status for _, _, status in asked(server, 6)] == [401, 200, 200, 200, 200, 200]
        assert len(tokens.server.seen) == 2
        assert not any("Authorization" in seen.headers for seen in tokens.server.seen)


def test_tokens_for_many_at_once(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with (
        TokenService(certificate) as tokens,
        registry(tmp_path / "r", storage=storage, tokens=tokens) as server,
        client() as ask,
    ):
        in_threads(20, lambda number: ask.head(ref(server.address, REPOSITORIES[number % 2])))
        statuses = [status for _, _, status in asked(server, 21)]
        assert sorted(statuses) == [200] * 20 + [401]
        assert len(tokens.server.seen) == 2


def in_threads(count: int, work: Callable[[int], object]) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_tokens_for_a_login(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with TokenService(certificate) as tokens, registry(tmp_path / "r", storage=storage, tokens=tokens) as server:
        with client(credentials(tmp_path, server.address)) as ask:
            assert ask.head(ref(server.address, "private/app")) == DIGEST
        (seen,) = tokens.server.seen
        assert f"account={USER}" in seen.path
        assert PASSWORD not in seen.path
        with client() as ask, pytest.raises(AuthError) as caught:
            ask.head(ref(server.address, "private/app"))
        assert "no such image, or no login for it" in caught.value.details
        assert "/nonexistent/home/.docker/config.json" in caught.value.details
        assert f"skopeo login {server.address}" in caught.value.resolution


def test_a_wrong_login(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    wrong = base64.b64encode(b"ann:wr0ng").decode()
    with TokenService(certificate) as tokens, registry(tmp_path / "r", storage=storage, tokens=tokens) as server:
        with client(credentials(tmp_path, server.address, auth=wrong)) as ask, pytest.raises(AuthError) as caught:
            ask.head(ref(server.address))
        assert f"the login of ann from {tmp_path}/auth.json is wrong" in caught.value.details
        assert "wr0ng" not in repr(caught.value) + str(caught.value)
        assert wrong not in repr(caught.value) + str(caught.value)


def test_tokens_for_an_identity_token(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with TokenService(certificate) as tokens, registry(tmp_path / "r", storage=storage, tokens=tokens) as server:
        known = credentials(tmp_path, server.address, identitytoken=tokens.identity_token)
        with client(known) as ask:
            assert ask.head(ref(server.address, "private/app")) == DIGEST
        assert [(seen.method, seen.path) for seen in tokens.server.seen] == [("POST", "/token")]


def test_a_token_is_renewed_before_it_expires(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with (
        TokenService(certificate, expires_in=100) as tokens,
        registry(tmp_path / "r", storage=storage, tokens=tokens) as server,
        client() as ask,
    ):
        for later, fetched in ((0, 1), (85, 1), (91, 2)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(time, "monotonic", lambda later=later, now=time.monotonic: now() + later)
                ask.head(ref(server.address))
            assert len(tokens.server.seen) == fetched


@pytest.mark.parametrize(
    ("claimed", "good"),
    [(100_000, 3590), (3600, 3590), (60, 50), (5, 50), (-1, 50), ("3600", 50), (True, 50), (None, 50)],
)
def test_a_token_is_good_for_a_minute_at_least_and_an_hour_at_most(claimed: object, good: int) -> None:
    def answer(handler: Handler) -> None:
        if handler.seen.path.startswith("/token"):
            handler.reply(200, json.dumps({"token": "t", "expires_in": claimed}).encode())
        elif not handler.seen.headers["Authorization"]:
            challenge(f"{server.url}/token")(handler)
        else:
            ok(handler)

    with ScriptedServer(answer) as server, client() as ask:
        for later, fetched in ((0, 1), (good - 5, 1), (good + 5, 2)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(time, "monotonic", lambda later=later, now=time.monotonic: now() + later)
                ask.head(ref(server.address))
            assert sum(seen.path.startswith("/token") for seen in server.seen) == fetched


def test_a_token_refused_early_is_replaced_once(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with (
        TokenService(certificate) as tokens,
        registry(tmp_path / "r", storage=storage, tokens=tokens) as server,
        client() as ask,
    ):
        ask.head(ref(server.address))
        (token,) = ask._known(server.address).login.tokens.values()
        token.value = "stale"
        assert ask.head(ref(server.address)) == DIGEST
        assert [status for _, _, status in asked(server, 4)] == [401, 200, 401, 200]
        assert len(tokens.server.seen) == 2


def test_basic(tmp_path: Path, storage: Path) -> None:
    with registry(tmp_path / "r", storage=storage, htpasswd=True) as server:
        with client(credentials(tmp_path, server.address)) as ask:
            assert ask.head(ref(server.address)) == DIGEST
            assert ask.config_blob(ref(server.address), CONFIG) == IMAGE.config.content
        assert [status for _, _, status in asked(server, 3)] == [401, 200, 200]
        with client() as ask, pytest.raises(AuthError, match="no such image, or no login for it"):
            ask.head(ref(server.address))
        assert len(server.requests(4)) == 4


# Schemes and certificates.


def test_https_on_loopback_is_found(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with registry(tmp_path / "r", storage=storage, certificate=certificate) as server, client() as ask:
        assert not ask.verifies(server.address)
        assert ask.head(ref(server.address)) == DIGEST
        assert ask.head(ref(server.address)) == DIGEST
        assert len(server.requests(2)) == 2


def test_elsewhere_certificates_are_verified(tmp_path: Path, storage: Path, certificate: Certificate) -> None:
    with registry(tmp_path / "r", storage=storage, certificate=certificate) as server:
        name = server.public_address
        with client() as ask, pytest.raises(RegistryError, match="not trusted: self-signed") as caught:
            ask.head(ref(name))
        assert ask.verifies(name)
        assert f"certs.d/{name}/ca.crt" in caught.value.resolution
        with client(insecure=[name]) as ask:
            assert ask.head(ref(name)) == DIGEST
        folder = tmp_path / "certs.d" / name
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate.cert.read_bytes())
        roots = (tmp_path / "none", tmp_path / "certs.d")
        assert certs_dir(name, roots) == folder
        with client(cert_roots=roots) as ask:
            assert ask.head(ref(name)) == DIGEST
        (folder / "ca.crt").write_text("no certificate")
        with client(cert_roots=roots) as ask, pytest.raises(RegistryError, match=f"certificates in {folder}"):
            ask.head(ref(name))


def test_this_hosts_authorities_are_trusted_and_handed_over(
    tmp_path: Path, storage: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(tmp_path / "r", storage=storage, certificate=certificate) as server:
        name = ref(server.public_address)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
        with client() as ask:
            assert ask.head(name) == DIGEST
            handed = ask.route(name).authorities
        # One that OpenSSL does not find, and one that it does.
        folder = tmp_path / "authorities"
        folder.mkdir()
        (folder / "ca.pem").write_bytes(certificate.cert.read_bytes())
        monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
        monkeypatch.setenv("SSL_CERT_DIR", f"/nonexistent:{folder}")
        with client() as ask:
            with pytest.raises(RegistryError, match="not trusted"):
                ask.head(name)
            assert ask.route(name).authorities == b""
        subprocess.run(["openssl", "rehash", str(folder)], check=True)
        with client() as ask:
            assert ask.head(name) == DIGEST
            assert ask.route(name).authorities == certificate.cert.read_bytes()
        (tmp_path / "handed.pem").write_bytes(handed)
        monkeypatch.delenv("SSL_CERT_DIR")
        skopeo = ["skopeo", "inspect", "--raw", f"docker://{server.public_address}/public/app:1"]
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "SSL_CERT_DIR": "/nonexistent"}
        assert subprocess.run(skopeo, env=environment, capture_output=True, check=False).returncode != 0
        environment["SSL_CERT_FILE"] = str(tmp_path / "handed.pem")
        done = subprocess.run(skopeo, env=environment, capture_output=True, check=True)
        assert done.stdout == IMAGE.manifest.content


def test_certificates_are_found_by_the_name_that_is_compared(tmp_path: Path) -> None:
    roots = (tmp_path,)
    for name in ("Registry.Example:5000", "a.example", "b.example:443", "registry-1.docker.io", "[2001:DB8::1]:5"):
        (tmp_path / name).mkdir()
    assert certs_dir("registry.example:5000", roots) == tmp_path / "Registry.Example:5000"
    assert certs_dir("a.example:443", roots) == tmp_path / "a.example"
    assert certs_dir("b.example", roots) == tmp_path / "b.example:443"
    assert certs_dir("docker.io", roots) == tmp_path / "registry-1.docker.io"
    assert certs_dir("[2001:db8::1]:5", roots) == tmp_path / "[2001:DB8::1]:5"
    assert certs_dir("registry.example", roots) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="who can't become another user can close no file to them")
@pytest.mark.parametrize("closed", ["etc", "etc/certs.d", "etc/certs.d/NAME", "etc/certs.d/NAME/ca.crt"])
def test_certificates_that_are_closed_to_this_user_are_missed_only_where_they_are_needed(
    tmp_path: Path, storage: Path, certificate: Certificate, closed: str
) -> None:
    with registry(tmp_path / "r", storage=storage, certificate=certificate) as server:
        name = server.public_address
        folder = tmp_path / "etc/certs.d" / name
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate.cert.read_bytes())
        for path in (*tmp_path.parents[:-2], tmp_path):
            path.chmod(0o755)
        shut = tmp_path / closed.replace("NAME", name)
        shut.chmod(0o700)

        def look() -> str:
            with client(cert_roots=(tmp_path / "etc/certs.d",)) as ask:
                with pytest.raises(RegistryError) as caught:
                    ask.head(ref(name))
            with client(cert_roots=(tmp_path / "etc/certs.d",), insecure=[name]) as ask:
                assert ask.head(ref(name)) == DIGEST
                assert ask.route(ref(name)).certificates == {}
            return caught.value.details

        said = forked.in_child(look, uid=forked.NOBODY)
        assert "not trusted: self-signed" in said
        assert f"no permission to read {tmp_path}/etc/certs.d" in said


@pytest.mark.parametrize("named", ["Registry.Example:5000", "registry.example.:5000"])
def test_a_registry_is_named_insecure_in_any_case(named: str) -> None:
    with client(insecure=[named, "a.example"]) as ask:
        assert not ask.verifies("registry.example:5000")
        assert not ask.verifies("a.example:443")
        assert ask.verifies("registry.example")
        assert ask._known("a.example:443").site.schemes == ("https", "http")


def test_elsewhere_plain_http_must_be_named(plain: Registry) -> None:
    name = plain.public_address
    with client() as ask, pytest.raises(RegistryError, match="probably plain HTTP") as caught:
        ask.head(ref(name))
    assert f"--insecure-registry {name}" in caught.value.resolution
    assert len(plain.requests()) == 0
    with client(insecure=[name]) as ask:
        assert ask.head(ref(name)) == DIGEST


def test_nothing_listens_and_all_are_told_soon(tmp_path: Path) -> None:
    with ScriptedServer(lambda handler: None) as server:
        address = server.address
    started = time.monotonic()
    failures = []
    with client() as ask:

        def work(number: int) -> None:
            with pytest.raises(RegistryError) as caught:
                ask.head(ref(address, f"app{number}"))
            failures.append(str(caught.value))

        in_threads(30, work)
    assert sorted(failures) == sorted(
        f"cannot reach {address} to look up {address}/app{n}:1: connection refused" for n in range(30)
    )
    assert time.monotonic() - started < 2


def test_a_failure_is_remembered_for_half_a_minute() -> None:
    def hang_up(handler: Handler) -> None:
        handler.close_connection = True
        handler.connection.close()

    with ScriptedServer(hang_up) as server, client() as ask:
        with pytest.raises(RegistryError, match="app0:1"):
            ask.head(ref(server.address, "app0"))
        count = len(server.seen)
        assert count == 4
        for later, more in ((0, 0), (25, 0), (35, 4), (50, 4)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(time, "monotonic", lambda later=later, now=time.monotonic: now() + later)
                with pytest.raises(RegistryError, match=r"app1:1: .*the connection was closed"):
                    ask.head(ref(server.address, "app1"))
            assert len(server.seen) == count + more


def test_a_registry_is_open_to_all_only_when_its_challenge_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second thread that comes just then would be refused in vain, as would 30 more."""

    def answer(handler: Handler) -> None:
        if handler.seen.headers["Authorization"]:
            ok(handler)
        else:
            handler.reply(401, headers={"WWW-Authenticate": "Basic"})

    second: list[threading.Thread] = []

    def learn(login: Login, *arguments: Any) -> bool:
        if not second:
            second.append(threading.Thread(target=lambda: ask.head(ref(server.address, "other"))))
            second[0].start()
            time.sleep(0.3)
        return known(login, *arguments)

    known = Login.learn
    monkeypatch.setattr(Login, "learn", learn)
    with ScriptedServer(answer) as server, client(credentials(tmp_path, server.address)) as ask:
        ask.head(ref(server.address))
        second[0].join()
        assert [bool(seen.headers["Authorization"]) for seen in server.seen].count(False) == 1
        assert len(server.seen) == 3


# Servers that misbehave.


def ok(handler: Handler) -> None:
    handler.reply(200, headers={"Docker-Content-Digest": str(DIGEST)})


def test_redirects_are_followed_but_not_with_the_login(tmp_path: Path) -> None:
    def cdn(handler: Handler) -> None:
        handler.reply(200, IMAGE.config.content)

    def answer(handler: Handler) -> None:
        if "Authorization" not in handler.seen.headers:
            handler.reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        elif handler.path.startswith("/v2/"):
            handler.reply(307, headers={"Location": "/moved?signature=s3cret"})
        else:
            handler.reply(307, headers={"Location": f"http://{away.address}/blob?signature=s3cret"})

    with ScriptedServer(cdn) as away, ScriptedServer(answer) as server:
        with client(credentials(tmp_path, server.address)) as ask:
            assert ask.config_blob(ref(server.address), CONFIG) == IMAGE.config.content
        assert ["Authorization" in seen.headers for seen in server.seen] == [False, True, True]
        (seen,) = away.seen
        assert seen.path == "/blob?signature=s3cret"
        assert "Authorization" not in seen.headers


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("/again", "redirects more than 5 times"),
        ("ftp://127.0.0.1/x", "invalid URL"),
        ("file:///etc/passwd", "invalid URL"),
        ("http://ann:pw@127.0.0.1/x", "invalid URL"),
        ("http://[", "it redirects to an invalid URL"),
        ("//[x", "it redirects to an invalid URL"),
    ],
)
def test_redirects_to_nowhere(location: str, why: str) -> None:
    with ScriptedServer(lambda handler: handler.reply(302, headers={"Location": location})) as server:
        with client() as ask, pytest.raises(RegistryError, match=why):
            ask.head(ref(server.address))


def test_no_redirect_from_https_to_http(certificate: Certificate) -> None:
    with ScriptedServer(ok) as away:
        moved = {"Location": f"{away.url}/v2/"}
        with ScriptedServer(lambda handler: handler.reply(307, headers=moved), certificate) as server:
            with client(insecure=[server.public_address]) as ask, pytest.raises(RegistryError, match="to plain http"):
                ask.head(ref(server.public_address))
        assert away.seen == []


def challenge(realm: str) -> Callable[[Handler], None]:
    header = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
    return lambda handler: handler.reply(401, headers=header)


@pytest.mark.parametrize(
    "realm",
    ["ftp://127.0.0.1/t", "file:///etc/passwd", "/token", "http://ann:b@127.0.0.1/t", "http://[", "javascript:1", ""],
)
def test_a_realm_that_is_no_address_gets_nothing(tmp_path: Path, realm: str) -> None:
    with ScriptedServer(challenge(realm)) as server:
        with client(credentials(tmp_path, server.address)) as ask, pytest.raises(AuthError):
            ask.head(ref(server.address))
        assert not any("Authorization" in seen.headers for seen in server.seen)


def test_an_encrypted_registry_can_not_have_its_logins_sent_in_the_clear(
    tmp_path: Path, certificate: Certificate
) -> None:
    with ScriptedServer(ok) as thief, ScriptedServer(challenge(f"{thief.url}/token"), certificate) as server:
        name = server.public_address
        known = credentials(tmp_path, name)
        with client(known, insecure=[name]) as ask, pytest.raises(AuthError, match="without encryption"):
            ask.head(ref(name))
        assert thief.seen == []


def test_a_plain_registry_sends_logins_in_the_clear_only_to_hosts_that_are_named(tmp_path: Path) -> None:
    with ScriptedServer(ok) as thief, ScriptedServer(challenge(f"http://{thief.public_address}/token")) as server:
        known = credentials(tmp_path, server.address)
        with client(known) as ask, pytest.raises(AuthError, match="without encryption on another host") as caught:
            ask.head(ref(server.address))
        assert f"--insecure-registry {thief.public_address}" in caught.value.resolution
        assert thief.seen == []
        with client(known, insecure=[thief.public_address]) as ask, pytest.raises(RegistryError, match="has none"):
            ask.head(ref(server.address))
        assert len(thief.seen) == 1


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b"[" * 100_000, b'{"token": 5}', b'{"token": "a\\r\\nX: y"}', b'{"token": ""}']
)
def test_a_token_that_is_none(body: bytes) -> None:
    with ScriptedServer(lambda handler: handler.reply(200, body)) as tokens:
        with ScriptedServer(challenge(f"{tokens.url}/token?a=b")) as server, client() as ask:
            with pytest.raises(RegistryError, match=f"{tokens.url}/token has none"):
                ask.head(ref(server.address))
            assert tokens.seen[0].path.startswith("/token?a=b&service=x&scope=repository%3Apublic%2Fapp%3Apull")


def test_a_refused_identity_token_is_not_sent_along_a_redirect(tmp_path: Path) -> None:
    with ScriptedServer(ok) as thief:
        moved = {"Location": f"{thief.url}/"}
        with ScriptedServer(lambda handler: handler.reply(307, headers=moved)) as tokens:
            with ScriptedServer(challenge(f"{tokens.url}/token")) as server:
                known = credentials(tmp_path, server.address, identitytoken="t0ken")
                with client(known) as ask, pytest.raises(RegistryError, match="redirects a login"):
                    ask.head(ref(server.address))
        assert thief.seen == []


def test_a_scope_of_the_registrys_own_is_used() -> None:
    def answer(handler: Handler) -> None:
        if handler.seen.headers.get("Authorization") == "Bearer t":
            return ok(handler)
        header = f'Bearer realm="{tokens.url}/t",scope="repository:x\\"y:pull,push"'
        return handler.reply(401, headers={"WWW-Authenticate": header})

    with ScriptedServer(lambda handler: handler.reply(200, b'{"access_token":"t"}')) as tokens:
        with ScriptedServer(answer) as server, client() as ask:
            assert ask.head(ref(server.address)) == DIGEST
        assert "scope=repository%3Ax%22y%3Apull%2Cpush" in tokens.seen[0].path


def test_challenges_are_parsed() -> None:
    parse = parse_challenges
    assert parse(['Bearer realm="https://a/t",service="a, b",scope="x:y:pull,push", Basic realm="q\\"r"']) == [
        ("bearer", {"realm": "https://a/t", "service": "a, b", "scope": "x:y:pull,push"}),
        ("basic", {"realm": 'q"r'}),
    ]
    assert parse(["Negotiate", "BEARER Realm=x"]) == [("negotiate", {}), ("bearer", {"realm": "x"})]
    bearer = ("bearer", {"realm": "x", "scope": ""})
    assert parse(['Negotiate YWJj==, SCRAM-SHA-256 a=b , ,Bearer realm = "x" , scope=']) == [
        ("negotiate", {}),
        ("scram-sha-256", {"a": "b"}),
        bearer,
    ]
    assert parse(["Basic", 'realm="lost"', ' Bearer\trealm=x,scope=""']) == [("basic", {}), bearer]
    started = time.monotonic()
    for hostile in ('Bearer a="' * 3000, "Bearer " + "a=" * 4000, "a" * 60_000, ',;"', 'x="\\' * 3000, " " * 60_000):
        parse([hostile] * 50)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("extra", ["", ',service=""', ',service="s"'])
@pytest.mark.parametrize("login", ["", "password", "identity token"])
def test_a_service_is_named_to_the_token_service_only_if_the_registry_has_one(
    tmp_path: Path, extra: str, login: str
) -> None:
    def answer(handler: Handler) -> None:
        if handler.seen.path.startswith("/token"):
            handler.reply(200, b'{"access_token": "t"}')
        elif handler.seen.headers["Authorization"] == "Bearer t":
            ok(handler)
        else:
            header = f'Basic realm="a, b", Bearer realm="{server.url}/token?x=1"{extra},scope="a:b:pull c:d:pull,push"'
            handler.reply(401, headers={"WWW-Authenticate": header})

    with ScriptedServer(answer) as server:
        entry = {"identitytoken": "i", "auth": ""} if login == "identity token" else {}
        known = credentials(tmp_path, server.address, **entry) if login else NOBODY
        with client(known) as ask:
            assert ask.head(ref(server.address)) == DIGEST
        (asked,) = [seen for seen in server.seen if seen.path.startswith("/token")]
        query = parse_qs(asked.body.decode() if asked.body else urlsplit(asked.path).query, keep_blank_values=True)
    assert query.get("service") == (["s"] if extra.endswith('"s"') else None)
    scopes = ["a:b:pull", "c:d:pull,push"]
    assert query["scope"] == ([" ".join(scopes)] if login == "identity token" else scopes)
    assert query.get("account") == ([USER] if login == "password" else None)
    assert query.get("x") == (None if login == "identity token" else ["1"])


def test_a_missing_digest_header_is_made_up_for() -> None:
    def answer(handler: Handler) -> None:
        handler.reply(200, IMAGE.manifest.content, {"Content-Type": "application/json"})

    with ScriptedServer(answer) as server, client() as ask:
        assert ask.head(ref(server.address)) == DIGEST
        assert [seen.method for seen in server.seen] == ["HEAD", "GET"]


def test_a_registry_without_head() -> None:
    def answer(handler: Handler) -> None:
        handler.reply(405 if handler.command == "HEAD" else 200, IMAGE.manifest.content)

    with ScriptedServer(answer) as server, client() as ask:
        assert ask.head(ref(server.address)) == DIGEST


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 410, 500, 501])
def test_what_a_head_does_not_find_a_get_may(status: int) -> None:
    """Registries, and what stands before them, answer a HEAD with anything."""

    def answer(handler: Handler) -> None:
        if handler.command == "HEAD":
            handler.reply(status)
        else:
            handler.reply(200, IMAGE.manifest.content)

    with ScriptedServer(answer) as server, client() as ask:
        assert ask.head(ref(server.address)) == DIGEST
        assert server.seen[-1].method == "GET"


@pytest.mark.parametrize("status", [401, 403])
def test_a_get_says_why_there_is_no_image(status: int) -> None:
    words = {"errors": [{"code": "DENIED", "message": "pull access\n denied"}]}
    with ScriptedServer(lambda handler: handler.reply(status, json.dumps(words).encode())) as server:
        with client() as ask, pytest.raises(AuthError, match=rf"it answers {status} \(pull access  denied\): "):
            ask.head(ref(server.address))


def test_a_refused_login_is_not_sent_again_in_another_way(tmp_path: Path) -> None:
    """Some count them."""
    with ScriptedServer(lambda handler: handler.reply(401, headers={"WWW-Authenticate": "Basic"})) as server:
        with client(credentials(tmp_path, server.address)) as ask:
            for images in (1, 2):
                with pytest.raises(AuthError):
                    ask.head(ref(server.address))
                assert sum("Authorization" in seen.headers for seen in server.seen) == images


def test_a_web_page_is_no_registry() -> None:
    page = b"<html>Log in to this network</html>"
    with ScriptedServer(lambda handler: handler.reply(200, page, {"Content-Type": "text/html"})) as server:
        with client() as ask:
            with pytest.raises(RegistryError, match=r"does not answer like a registry.*web page"):
                ask.head(ref(server.address))
            with pytest.raises(RegistryError, match=r"does not answer like a registry.*web page"):
                ask.manifest(ref(server.address), DIGEST)
    with ScriptedServer(lambda handler: handler.reply(418)) as server, client() as ask:
        with pytest.raises(RegistryError, match=r"does not answer like a registry.*418"):
            ask.head(ref(server.address))


def test_content_that_does_not_match_its_digest() -> None:
    with ScriptedServer(lambda handler: handler.reply(200, b'{"a": 1}')) as server, client() as ask:
        for method in (ask.manifest, ask.config_blob):
            with pytest.raises(RegistryError, match=r"sent other content than .*@sha256:") as caught:
                method(ref(server.address), DIGEST)
            assert hashlib.sha256(b'{"a": 1}').hexdigest() in caught.value.details


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b"{" * 0x10000 + b"\r\n")


def huge(handler: Handler) -> None:
    handler.reply(200, b"{" * 32_000_000)


@pytest.mark.parametrize("answer", [endless, huge])
def test_bodies_are_bounded(answer: Callable[[Handler], None]) -> None:
    with ScriptedServer(answer) as server, client() as ask:
        ask.head(ref(server.address).at(DIGEST))
        tracemalloc.start()
        try:
            with pytest.raises(RegistryError, match="longer than 4096 KiB"):
                ask.manifest(ref(server.address), DIGEST)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if answer is endless:  # the other one's peak is the server's own
            assert peak < 16_000_000
        assert len(server.seen) == 1  # no second try


def test_an_endless_error_page_is_not_read_to_its_end() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(403)
        handler.send_header("Content-Length", "1000000000")
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    with ScriptedServer(answer) as server, client() as ask, pytest.raises(AuthError, match="answers 403"):
        ask.manifest(ref(server.address), DIGEST)


def test_bodies_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while True:
            handler.wfile.write(b"{")
            time.sleep(0.02)

    monkeypatch.setattr(module, "_MAX_BODY_SECONDS", 0.3)
    started = time.monotonic()
    with ScriptedServer(drip) as server, client() as ask:
        with pytest.raises(RegistryError, match=r"did not end within 0\.3 s"):
            ask.manifest(ref(server.address), DIGEST)
    assert time.monotonic() - started < 2


def only_continues(handler: Handler) -> None:
    while True:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def dripped_headers(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Docker-Content-Digest", str(DIGEST))
    handler.flush_headers()
    for byte in b"x: " + b"y" * 10_000:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.01)


@pytest.mark.parametrize("answer", [only_continues, dripped_headers])
def test_headers_end_in_time(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Handler], None]) -> None:
    """What http.client reads within one call, without end and without a pause that a timeout would notice."""
    monkeypatch.setattr(module, "_MAX_HEAD_SECONDS", 0.3)
    with ScriptedServer(answer) as server, client(insecure=[server.public_address]) as ask:
        for address in (server.address, server.public_address):
            with pytest.raises(RegistryError, match=r"the headers of its answer did not end within 0\.3 s"):
                ask.head(ref(address))
        assert len([seen for seen in server.seen if seen.method == "HEAD"]) == 2  # no second try


def test_trailers_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n0\r\n" % (len(IMAGE.manifest.content), IMAGE.manifest.content))
        while True:
            handler.wfile.write(b"x: y\r\n")
            time.sleep(0.01)

    monkeypatch.setattr(module, "_MAX_BODY_SECONDS", 0.3)
    with ScriptedServer(answer) as server, client() as ask:
        # Although all of the content has come.
        with pytest.raises(RegistryError, match=r"its answer did not end within 0\.3 s"):
            ask.manifest(ref(server.address), DIGEST)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_passes_is_tried_again(status: int) -> None:
    def answer(handler: Handler) -> None:
        if len(server.seen) < 3:
            handler.reply(status, headers={"Retry-After": "0"})
        else:
            ok(handler)

    with ScriptedServer(answer) as server, client() as ask:
        assert ask.head(ref(server.address)) == DIGEST
        assert len(server.seen) == 3


def test_what_does_not_pass_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda handler: handler.reply(503)) as server, client() as ask:
        with pytest.raises(RegistryError, match="answers 503"):
            ask.head(ref(server.address))
        assert [seen.method for seen in server.seen] == ["HEAD"] * 4
    with ScriptedServer(lambda handler: handler.reply(502)) as server, client() as ask:
        with pytest.raises(RegistryError, match="answers 502"):
            ask.head(ref(server.address))
        assert [seen.method for seen in server.seen] == ["HEAD"] * 4 + ["GET"]
    with ScriptedServer(lambda handler: handler.reply(429, headers={"Retry-After": "3600"})) as server:
        with client() as ask, pytest.raises(RegistryError, match="asks for a pause of 3600 s") as caught:
            ask.head(ref(server.address))
        assert "skopeo login" in caught.value.resolution


def test_the_pause_a_registry_asks_for_is_kept() -> None:
    def answer(handler: Handler) -> None:
        if len(server.seen) < 3:
            handler.reply(429, headers={"Retry-After": "1"})
        else:
            ok(handler)

    with ScriptedServer(answer) as server, client() as ask:
        started = time.monotonic()
        ask.head(ref(server.address))
        assert time.monotonic() - started >= 2  # both times


@pytest.mark.parametrize("length", [True, False])
def test_a_body_that_is_cut_off_is_asked_for_again(length: bool) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", str(len(IMAGE.config.content)))
        handler.end_headers()
        handler.wfile.write(IMAGE.config.content[: None if len(server.seen) > 2 else 20])
        handler.close_connection = True

    with ScriptedServer(answer) as server, client() as ask:
        assert ask.config_blob(ref(server.address), CONFIG) == IMAGE.config.content
        assert len(server.seen) == 3


def test_a_token_service_that_fails_for_a_moment_is_asked_again() -> None:
    def answer(handler: Handler) -> None:
        if handler.seen.path.startswith("/token"):
            asked = sum(seen.path.startswith("/token") for seen in server.seen)
            handler.reply(503 if asked < 3 else 200, b'{"token": "t"}')
        elif not handler.seen.headers["Authorization"]:
            challenge(f"{server.url}/token")(handler)
        else:
            ok(handler)

    with ScriptedServer(answer) as server, client() as ask:
        assert ask.head(ref(server.address)) == DIGEST


def test_a_date_to_retry_after() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    assert parse_retry_after(date) > 3500
    assert parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert parse_retry_after("soon") == 0


def test_a_dropped_connection_is_tried_again() -> None:
    def answer(handler: Handler) -> None:
        if len(server.seen) in (2, 3):
            handler.close_connection = True
            handler.connection.close()
        else:
            ok(handler)

    with ScriptedServer(answer) as server, client() as ask:
        assert ask.head(ref(server.address)) == DIGEST
        assert ask.head(ref(server.address)) == DIGEST
        assert len(server.seen) == 4


def test_a_silent_server() -> None:
    with ScriptedServer(lambda handler: time.sleep(5)) as server, client(timeout=0.1) as ask:
        started = time.monotonic()
        with pytest.raises(RegistryError, match=r"no answer within 0\.1 s"):
            ask.head(ref(server.address))
        assert time.monotonic() - started < 2


def test_closing_ends_the_waiting() -> None:
    with ScriptedServer(lambda handler: handler.reply(429, headers={"Retry-After": "9"})) as server:
        ask = client()
        threading.Timer(0.2, ask.close).start()
        started = time.monotonic()
        with pytest.raises(RegistryError):
            ask.head(ref(server.address))
        assert time.monotonic() - started < 3


# Proxies.


def test_proxies(monkeypatch: pytest.MonkeyPatch, plain: Registry) -> None:
    def answer(handler: Handler) -> None:
        if handler.command == "CONNECT":
            handler.reply(403)
        else:
            ok(handler)

    with ScriptedServer(answer) as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://ann:pr0xy%20pw@{proxy.address}")
        with client(insecure=["registry.invalid:5000"]) as ask:
            assert ask.head(ref("registry.invalid:5000")) == DIGEST
            assert [(seen.method, seen.path) for seen in proxy.seen] == [
                ("CONNECT", "registry.invalid:5000"),
                ("HEAD", "http://registry.invalid:5000/v2/public/app/manifests/1"),
            ]
            login = "Basic " + base64.b64encode(b"ann:pr0xy pw").decode()
            assert {seen.headers["Proxy-Authorization"] for seen in proxy.seen} == {login}
            # Loopback is this host's, never the proxy's.
            assert ask.head(ref(plain.address)) == DIGEST
            with pytest.raises(RegistryError, match="the proxy cannot be used") as caught:
                ask.head(ref("other.invalid"))
            assert "pr0xy" not in str(caught.value)
        count = len(proxy.seen)
        monkeypatch.setenv("no_proxy", "example.org,0.0.0.0")
        with client(insecure=[plain.public_address]) as ask:
            assert ask.head(ref(plain.public_address)) == DIGEST
        assert len(proxy.seen) == count
    for address, why in (("socks5://127.0.0.1:1", "socks5 is not supported"), ("http://[", "invalid URL")):
        monkeypatch.setenv("https_proxy", address)
        with client() as ask, pytest.raises(RegistryError, match=f"the proxy cannot be used: {why}"):
            ask.head(ref("registry.invalid"))


# The way that a builder is shown.


def test_a_way_off_this_host_takes_a_network() -> None:
    with client() as ask:
        route = ask.route(ref("registry.example"))
    assert (route.network, route.verify, route.local, route.names) == (True, True, (), ())


def test_a_way_to_a_registry_here_takes_none(plain: Registry) -> None:
    with client() as ask:
        for place in ("127.0.0.1", "localhost", "0.0.0.0"):  # noqa: S104 - Linux connects to this host
            name = ref(f"{place}:{plain.port}")
            with client(insecure=[name.registry]) as ask:
                ask.head(name)
                route = ask.route(name)
            assert (route.network, route.verify, route.names) == (False, False, ())
            assert route.local == (("127.0.0.1", plain.port),)


def test_all_that_is_asked_on_this_host_is_part_of_the_way() -> None:
    """A token service, what a layer is redirected to; and the config of the same image may be nowhere else."""

    def answer(handler: Handler) -> None:
        path = handler.seen.path
        if not handler.seen.headers["Authorization"]:
            challenge(f"{tokens.url}/token")(handler)
        elif path.endswith(IMAGE.layers[0].digest):
            handler.reply(307, headers={"Location": f"{blobs.url}/layer"})
        elif path.endswith(IMAGE.config.digest):
            handler.reply(200, IMAGE.config.content)
        else:
            ok(handler)

    with (
        ScriptedServer(lambda handler: handler.reply(200, b'{"token": "t"}')) as tokens,
        ScriptedServer(lambda handler: handler.reply(200, IMAGE.layers[0].content)) as blobs,
        ScriptedServer(answer) as server,
        client() as ask,
    ):
        name = ref(server.address)
        ask.head(name)
        assert ask.config_blob(name, CONFIG) == IMAGE.config.content
        route = ask.route(name, Digest(IMAGE.layers[0].digest))
        assert not route.network
        assert set(route.local) == {("127.0.0.1", one.port) for one in (server, tokens, blobs)}


def test_a_name_that_leads_here_does_so_in_a_builder(
    monkeypatch: pytest.MonkeyPatch, plain: Registry, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 registry.example\n192.0.2.7 Elsewhere.example # and more\n")
    look_up = socket.getaddrinfo

    def known(host: str, *more: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == "registry.example" else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setattr(route_module, "HOSTS", hosts)
    name = ref(f"registry.example:{plain.port}")
    with client(insecure=[name.registry]) as ask:
        ask.head(name)
        route = ask.route(name)
        assert (route.network, route.local) == (False, (("127.0.0.1", plain.port),))
        assert route.names == (("127.0.0.1", "registry.example"),)
        # Where it is elsewhere, this host's word counts, too.
        site = ask._known("elsewhere.example").site
        site.places[Place("elsewhere.example", 443, "192.0.2.7")] = None
        site.places[Place("cdn.example", 443, "192.0.2.8")] = None
        route = ask.route(ref("elsewhere.example"))
    assert (route.network, route.local, route.names) == (True, (), (("192.0.2.7", "elsewhere.example"),))


@pytest.mark.parametrize("how", ["redirect", "tokens", "redirect by name"])
def test_a_registry_elsewhere_leads_nobody_to_this_host(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Neither this host's own requests, nor a builder."""
    look_up = socket.getaddrinfo

    def known(host: str, *more: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == "rebound.example" else host, *more, **options)

    def answer(handler: Handler) -> None:
        place = secret.url if how != "redirect by name" else f"http://rebound.example:{secret.port}"
        if handler.command == "CONNECT":
            handler.reply(403)
        elif how == "tokens":
            challenge(f"{place}/token")(handler)
        else:
            handler.reply(307, headers={"Location": place})

    monkeypatch.setattr(socket, "getaddrinfo", known)
    monkeypatch.setenv("no_proxy", "rebound.example")
    with ScriptedServer(ok) as secret, ScriptedServer(answer) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        with client(insecure=["registry.invalid:5000"]) as ask:
            with pytest.raises(RegistryError, match="leads to this host's own loopback"):
                ask.head(ref("registry.invalid:5000"))
            route = ask.route(ref("registry.invalid:5000"))
        assert route.local == (("127.0.0.1", proxy.port),)
        assert len(secret.seen) == (1 if how == "redirect by name" else 0)


@pytest.mark.parametrize("port", [None, 443])
def test_a_registry_by_name_without_its_port_is_here_too(port: int | None) -> None:
    with client() as ask:
        site = ask._known("registry.example" + (f":{port}" if port else "")).site
        assert not site.is_here
        for place in (Place("registry.example", 5000, "127.0.0.1"), Place("registry.example", 443, "192.0.2.1")):
            site.places[place] = None
            assert not site.is_here
        site.places[Place("registry.example", 80, "127.0.0.1")] = None
        assert site.is_here == (port is None)
        site.places[Place("registry.example", 443, "127.0.1.1")] = None
        assert site.is_here


def test_a_proxy_on_this_host_is_all_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(ok) as proxy:
        monkeypatch.setenv("http_proxy", f"http://ann:pr0xy@{proxy.address}")
        monkeypatch.setenv("https_proxy", "127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "10.0.0.0/8")
        with client(insecure=["registry.invalid:5000"]) as ask:
            with pytest.raises(RegistryError, match="proxy"):
                ask.head(ref("other.invalid"))
            monkeypatch.delenv("https_proxy")
            ask.head(ref("registry.invalid:5000"))
            route = ask.route(ref("registry.invalid:5000"))
    assert (route.network, route.local, route.names) == (False, (("127.0.0.1", proxy.port),), ())
    assert route.proxies == {"HTTP_PROXY": f"http://ann:pr0xy@{proxy.address}", "NO_PROXY": "10.0.0.0/8"}
    assert "pr0xy" not in repr(route)


def test_docker_hub_has_another_host() -> None:
    with client() as ask:
        site = ask._known("docker.io").site
        assert (site.host, site.schemes) == ("registry-1.docker.io", ("https",))
        assert ask.verifies("docker.io")
