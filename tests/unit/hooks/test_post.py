"""Hooks that are URLs, against servers that a test writes."""

from __future__ import annotations

import json
import logging

import pytest

from lxdocker.errors import LxdockerError
from lxdocker.hooks import post
from lxdocker.hooks.run import run
from tests.registry_server import Certificate, Handler, ScriptedServer
from tests.unit.http.conftest import _no_proxies, certificate

__all__ = ["_no_proxies", "certificate"]  # fixtures


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "_PAUSES", (0.01, 0.01))


def ok(handler: Handler) -> None:
    handler.reply(204)


def failure(url: str) -> LxdockerError:
    found = run(url, {"event": "change"}, 60, {})
    assert found is not None
    assert "s3cret" not in f"{found} {found.resolution}"
    return found


def test_it_gets_the_document_and_the_login(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lxdocker")
    with ScriptedServer(ok) as server:
        url = f"http://ann:s3cret@{server.address}/s3cret?s3cret"
        assert run(f" {url}\n", {"event": "change"}, 60, {}) is None
        (seen,) = server.seen
    assert (seen.method, seen.path, json.loads(seen.body)) == ("POST", "/s3cret?s3cret", {"event": "change"})
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers["Authorization"] == "Basic YW5uOnMzY3JldA=="
    assert f"POST {server.url}/...: 204" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_busy_server_is_asked_again() -> None:
    answers = [503, 429, 200]
    with ScriptedServer(lambda handler: handler.reply(answers.pop(0))) as server:
        assert run(server.url, {}, 60, {}) is None
        assert len(server.seen) == 3


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_refusal_is_a_failure(status: int) -> None:
    with ScriptedServer(lambda handler: handler.reply(status)) as server:
        assert str(failure(f"{server.url}/s3cret")) == f"{server.url} refused the POST: status {status}"


def test_it_is_not_sent_elsewhere() -> None:
    with ScriptedServer(ok) as other:
        with ScriptedServer(lambda handler: handler.reply(307, headers={"Location": other.url})) as server:
            assert f"cannot post to {server.url}" in str(failure(f"{server.url}/s3cret"))
        assert other.seen == []


def test_the_server_must_prove_its_identity(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(ok, certificate) as server:
        assert "its certificate is not trusted" in str(failure(f"{server.url}/s3cret"))
        assert server.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
        assert run(server.url, {}, 60, {}) is None


def test_a_server_that_is_not_there_or_says_nothing() -> None:
    with ScriptedServer(ok) as server:
        url = server.url
    assert "connection refused" in str(failure(f"{url}/s3cret"))

    def wait(handler: Handler) -> None:
        handler.rfile.read(1)

    with ScriptedServer(wait) as silent:
        found = run(silent.url, {}, 2, {})
        assert found is not None
        assert "the headers of its answer did not end" in str(found)


def test_a_login_is_not_sent_in_plain_text_over_a_network() -> None:
    with ScriptedServer(ok) as server:
        assert "refusing to send a login" in str(failure(f"http://ann:s3cret@{server.public_address}/"))
        assert server.seen == []
