"""What this host can reach, a builder can: by any way to its loopback, by its authorities, names and proxies."""

from __future__ import annotations

import http.client
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.lxd.rig import World, tiny
from tests.registry_server import Certificate, Handler, Images, ScriptedServer, TokenService
from tests.registry_server import registry as serving

NAMED = "registry.test"
PROXIED = "registry.invalid:5000"


def relay(handler: Handler, address: str) -> None:
    """Answers what is asked of a registry with what another one says."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        accept = ", ".join(handler.seen.headers.get_all("Accept") or ["*/*"])  # skopeo sends many
        connection.request(handler.seen.method, urlsplit(handler.seen.path).path, headers={"Accept": accept})
        answer = connection.getresponse()
        kept = {
            name: value for name, value in answer.getheaders() if name.startswith(("Content-T", "Content-L", "Docker"))
        }
        handler.reply(answer.status, answer.read(), kept)
    finally:
        connection.close()


@pytest.mark.any_lxd
def test_what_this_host_can_reach_a_builder_can(world: World, tmp_path: Path) -> None:
    certificate = Certificate.make(tmp_path / "certificate")
    with serving(tmp_path / "plain") as plain:

        def redirecting(handler: Handler) -> None:
            path = handler.seen.path
            if "/blobs/" in path:
                handler.reply(307, headers={"Location": f"http://{plain.address}{path}"})
            else:
                relay(handler, plain.address)

        def proxying(handler: Handler) -> None:
            if handler.command == "CONNECT":
                handler.reply(403)
            else:
                relay(handler, plain.address)

        storage = tmp_path / "plain/storage"
        with (
            serving(tmp_path / "tls", storage=storage, certificate=certificate) as tls,
            TokenService(certificate) as tokens,
            serving(tmp_path / "guarded", storage=storage, tokens=tokens) as guarded,
            ScriptedServer(redirecting) as redirects,
            ScriptedServer(proxying) as proxy,
        ):
            places = {
                "authority": tls.public_address,
                "name": f"{NAMED}:{plain.port}",
                "tokens": guarded.address,
                "redirect": redirects.address,
                "proxy": PROXIED,
            }
            for name, place in places.items():
                Images(plain.address).push(f"public/{name}", "1", tiny(name))
                world.spec(name, f"{place}/public/{name}:1")
            hosts = tmp_path / "hosts"
            hosts.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {NAMED}\n")
            world.settings |= {"insecure_registries": [places["name"], PROXIED]}
            environment = {
                **world.environment,
                "SSL_CERT_FILE": str(certificate.cert),
                "http_proxy": proxy.url,
                "https_proxy": proxy.url,
                "no_proxy": "*.test,0.0.0.0/8",
            }
            script = f'mount --bind {hosts} /etc/hosts; exec "$@"'
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", script, "sh", *world.arguments(["sync"])],
                env=environment,
                cwd=world.folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert world.lxc.aliases().keys() == places.keys()
            # Nobody has been asked in another way.
            assert not any(NAMED in seen.path or "0.0.0.0" in seen.path for seen in proxy.seen)  # noqa: S104 - a name, nothing listens
