"""Which proxy is used, beside what skopeo, a program in Go, does with what it is handed."""

from __future__ import annotations

import os
import subprocess

import pytest

from lxdocker.http.proxies import Proxies
from tests.registry_server import ScriptedServer

HOSTS = [
    ("10.1.2.3", 443),
    ("10.1.2.3", 5000),
    ("192.0.2.1", 443),
    ("[2001:db8::7]", 443),
    ("[2001:db8::7]", 5000),
    ("example.org", 443),
    ("registry.example.org", 443),
    ("registry.example.org", 5000),
    ("badexample.org", 443),
    ("localhost", 443),
    ("127.0.0.9", 443),
    ("[::1]", 443),
]
# Of each, which hosts are asked without a proxy, beside this one.
CASES: dict[str, str] = {
    "": "",
    "10.0.0.0/8": "10.1.2.3:443 10.1.2.3:5000",
    "10.1.2.3": "10.1.2.3:443 10.1.2.3:5000",
    "10.1.2.3:5000": "10.1.2.3:5000",
    "2001:db8::7": "[2001:db8::7]:443 [2001:db8::7]:5000",
    "2001:DB8:0::7": "[2001:db8::7]:443 [2001:db8::7]:5000",
    "[2001:db8::7]": "[2001:db8::7]:443 [2001:db8::7]:5000",
    "[2001:db8::7]:5000": "[2001:db8::7]:5000",
    "2001:db8::/32": "[2001:db8::7]:443 [2001:db8::7]:5000",
    "example.org": "example.org:443 registry.example.org:443 registry.example.org:5000",
    "EXAMPLE.org.": "example.org:443 registry.example.org:443 registry.example.org:5000",
    ".example.org": "registry.example.org:443 registry.example.org:5000",
    "*.example.org": "registry.example.org:443 registry.example.org:5000",
    "example.org:5000": "registry.example.org:5000",
    "*.example.org:443": "registry.example.org:443",
    " a.example , example.org:443": "example.org:443 registry.example.org:443",
    "a.example 10.0.0.0/8": "10.1.2.3:443 10.1.2.3:5000",
    "*": " ".join(f"{host}:{port}" for host, port in HOSTS),
    "10.0.0.0/33,,:,.,*.,example.org:x": "",
    "10.1.2": "",
}
HERE = {"localhost:443", "127.0.0.9:443", "[::1]:443"}


def chosen(no_proxy: str) -> Proxies:
    return Proxies.of({"https_proxy": "proxy.example:3128", "no_proxy": no_proxy})


@pytest.mark.parametrize(("no_proxy", "direct"), CASES.items())
def test_what_is_asked_without_a_proxy(no_proxy: str, direct: str) -> None:
    proxies = chosen(no_proxy)
    found = {
        f"{host}:{port}" for host, port in HOSTS if proxies.choose("https", host, None if port == 443 else port) is None
    }
    assert found == set(direct.split()) | HERE
    # Read again, what is handed to a builder says the same.
    again = Proxies.of(proxies.variables)
    assert found == {f"{host}:{port}" for host, port in HOSTS if again.choose("https", host, port) is None}


@pytest.mark.parametrize("no_proxy", [one for one in CASES if one != "*"])
def test_skopeo_does_the_same_with_what_it_is_handed(no_proxy: str) -> None:
    """But for IPv6 addresses, which only newer ones than Debian 12's take in a reference."""
    with ScriptedServer(lambda handler: handler.reply(403)) as proxy:
        handed = Proxies.of({"https_proxy": proxy.url, "no_proxy": no_proxy})
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **handed.variables}
        for host, port in (one for one in HOSTS[:9] if not one[0].startswith("[")):
            name = f"{host}:{port}"
            proxied = handed.choose("https", host, port) is not None
            before = len(proxy.seen)
            # The proxy answers at once; nobody else may.
            limit = "30s" if proxied else "300ms"
            subprocess.run(
                ["skopeo", "--command-timeout", limit, "inspect", "--no-creds", f"docker://{name}/a/b"],
                env=environment,
                capture_output=True,
                check=False,
            )
            assert [seen.path for seen in proxy.seen[before:][:1]] == ([name] if proxied else []), name


def test_nothing_is_handed_where_nothing_is_proxied() -> None:
    assert chosen("*").variables == {}
    assert Proxies.of({"no_proxy": "example.org"}).variables == {}


@pytest.mark.parametrize(
    ("variables", "handed"),
    [
        ({"http_proxy": "p:1", "HTTP_PROXY": "other:1"}, {"HTTP_PROXY": "p:1"}),
        ({"HTTPS_PROXY": "q:1", "NO_PROXY": ".a, B.example:80"}, {"HTTPS_PROXY": "q:1", "NO_PROXY": ".a,b.example:80"}),
        ({"https_proxy": "", "HTTPS_PROXY": "q:1"}, {}),
        ({"all_proxy": "r:1", "http_proxy": "p:1"}, {"HTTP_PROXY": "p:1", "HTTPS_PROXY": "r:1"}),
        ({"https_proxy": "http://ann:p%40:%2F w@q:1"}, {"HTTPS_PROXY": "http://ann:p%40%3A%2F%20w@q:1"}),
        ({"https_proxy": "ann:schlüssel€@q:1"}, {"HTTPS_PROXY": "http://ann:schl%C3%BCssel%E2%82%AC@q:1"}),
    ],
)
def test_what_a_builder_is_handed(variables: dict[str, str], handed: dict[str, str]) -> None:
    assert Proxies.of(variables).variables == handed


def test_no_login_in_a_repr() -> None:
    assert "s3cr" not in repr(Proxies.of({"https_proxy": "http://ann:s3cr@q:1"}))
