"""What doctor --bundle collects: enough for a bug report, and no secret."""

from __future__ import annotations

import base64
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from lxdocker.doctor.scrub import Scrubber
from tests.stand_ins import ImageDaemon
from tests.unit.cli.test_commands import Program, lxdocker, place
from tests.unit.cli.test_options import lxd

__all__ = ["lxd", "lxdocker", "place"]  # fixtures

LOGIN = "hush-registry:wörd"
TOKEN = "identity+token/of=ann"
# ruff: noqa: S105 - made up
# These lxdocker finds where they are kept; the others it knows by what they look like.
KNOWN = ("registry", "identity", "hook", "variable", "proxy", "remote")
# Wherever a secret may be: what it is called here -> the secret.
SECRETS = {
    "password of a registry": LOGIN,
    "identity token": TOKEN,
    "password of a proxy": "hush-proxy@3128",
    "password of the proxy of LXD": "hush-lxd-proxy",
    "path of a hook": "hush-hook-path",
    "argument of a hook": "hush-hook-argument",
    "variable": "hush-variable",
    "environment of a profile": "hush-profile",
    "cloud-init of a profile": "hush-cloud-init",
    "password in the log": "hush-log",
    "trust token": base64.b64encode(b'{"client_name":"x","secret":"hush-trust"}').decode(),
    "private key": "MHcCAQEEIGhushPrivateKey",
    "password of a remote": "hush-remote",
    "LXD's trust password": "hush-core-trust",
}


def forms(secret: str) -> Iterator[str]:
    """As it may stand somewhere."""
    raw = secret.encode()
    yield from (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])
    yield from (base64.b64encode(raw).decode().rstrip("="), base64.b64encode(b"ann:" + raw).decode().rstrip("="))
    yield from (base64.urlsafe_b64encode(raw).decode().rstrip("="), base64.b64encode(b"a" + raw).decode().rstrip("="))


@pytest.fixture
def secretive(place: Path, lxd: ImageDaemon, monkeypatch: pytest.MonkeyPatch) -> ImageDaemon:
    """A host with secrets everywhere."""
    for file in (place / "images.d").iterdir():
        file.unlink()
    (place / "images.d/web.yaml").write_text("image: registry.example/web\n")
    (place / ".docker").mkdir()
    auths = {
        "registry.example": {"auth": base64.b64encode(f"ann:{LOGIN}".encode()).decode()},
        "other.example": {"auth": base64.b64encode(b"ann:x").decode(), "identitytoken": TOKEN},
    }
    (place / ".docker/config.json").write_text(json.dumps({"auths": auths}))
    (place / ".config/lxc").mkdir(parents=True)
    remote = f"https://ann:{SECRETS['password of a remote']}@images.example"
    (place / ".config/lxc/config.yml").write_text(f"remotes: {{x: {{addr: '{remote}', protocol: simplestreams}}}}\n")
    proxy = f"http://ann:{quote(SECRETS['password of a proxy'], safe='')}@127.0.0.1:1"
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("REGISTRY_TOKEN", SECRETS["variable"])
    monkeypatch.setenv("LXDOCKER_ON_FAILURE", f"https://ntfy.example/{SECRETS['path of a hook']}")
    monkeypatch.setenv("LXDOCKER_ON_CHANGE", f"tell --key {SECRETS['argument of a hook']}")
    key = f"-----BEGIN EC PRIVATE KEY-----\n{SECRETS['private key']}\n-----END EC PRIVATE KEY-----"
    token, logged = SECRETS["trust token"], SECRETS["password in the log"]
    # Somebody's program may have told any of those that are kept.
    told = [form for what, secret in SECRETS.items() if any(word in what for word in KNOWN) for form in forms(secret)]
    log = place / "lxdocker.log"
    log.write_text(
        f"GET https://ann:{logged}@r.example/ 200\ntoken {token}\n{key}\nuseful line\n"
        + "\n".join(f"said {form} and" for form in told)
    )
    monkeypatch.setenv("LXDOCKER_LOG", str(log))
    config = {
        "core.proxy_https": f"http://ann:{SECRETS['password of the proxy of LXD']}@proxy:3128",
        "core.trust_password": SECRETS["LXD's trust password"],
    }
    lxd.say("GET /1.0", {**lxd.lxd.server, "config": config})
    profile = {
        "name": "default",
        "config": {
            "environment.PASSWORD": SECRETS["environment of a profile"],
            "cloud-init.user-data": SECRETS["cloud-init of a profile"],
            "limits.cpu": "2",
        },
        "devices": {},
    }
    lxd.say("GET /1.0/profiles", [profile])
    return lxd


def members(file: Path) -> dict[str, bytes]:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    with tarfile.open(file) as tar:
        found = {name: tar.extractfile(name) for name in tar.getnames()}
        return {name.partition("/")[2]: file.read() for name, file in found.items() if file}


def test_a_bundle_has_what_a_report_needs_and_no_secret(place: Path, secretive: ImageDaemon, lxdocker: Program) -> None:
    done = lxdocker("doctor", "--bundle", "bundle.tar.xz")
    assert "Traceback" not in done.stdout + done.stderr
    assert "wrote bundle.tar.xz" in done.stderr
    file = place / "bundle.tar.xz"
    assert file.stat().st_mode & 0o777 == 0o600
    found = members(file)
    for wanted in ("doctor.json", "settings.json", "versions.txt", "status.json", "logs/lxdocker.log"):
        assert found[wanted], wanted
    for wanted in ("server", "networks", "pools", "profiles-default"):
        json.loads(found[f"lxd/{wanted}.json"])
    assert b"useful line" in found["logs/lxdocker.log"]
    assert b'"limits.cpu": "2"' in found["lxd/profiles-default.json"]
    assert b"proxy:3128" in found["lxd/server.json"]
    assert json.loads(found["doctor.json"])["examinations"]
    assert b"lxdocker " in found["versions.txt"]
    for what, secret in SECRETS.items():
        for form in forms(secret):
            holding = [member for member, content in found.items() if form.encode() in content]
            assert holding == [], f"the {what}, as {form}"


def test_known_secrets_are_hidden_in_every_form() -> None:
    secret = "s3cret/wörd:ann"
    scrubber = Scrubber.of([secret])
    for form in forms(secret):
        assert form not in scrubber.clean(f"before {form} behind {form}{form}")
    for before in range(6):
        encoded = base64.b64encode(b"x" * before + secret.encode() + b"behind").decode()
        assert encoded not in scrubber.clean(encoded)
        assert len(scrubber.clean(encoded).replace("***", "")) < 20
    assert scrubber.clean("nothing to hide") == "nothing to hide"
    assert repr(scrubber) == "Scrubber()"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("bundle.tar", "not the name of a bundle"), ("there.zip", "exists"), ("no/x.zip", "no folder")],
)
def test_a_bundle_that_cannot_be_made(place: Path, lxdocker: Program, name: str, complaint: str) -> None:
    (place / "there.zip").write_text("mine")
    done = lxdocker("doctor", "--bundle", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert (place / "there.zip").read_text() == "mine"


def test_a_bundle_without_lxd(place: Path, lxdocker: Program) -> None:
    for file in (place / "images.d").iterdir():
        file.unlink()
    assert lxdocker("doctor", "--bundle", "x.zip").returncode == 1
    found = members(place / "x.zip")
    assert "lxd-missing" in found["doctor.json"].decode()
    assert not [name for name in found if name.startswith("lxd/")]
