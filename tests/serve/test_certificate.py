"""The certificate: made, kept, made anew so that clients still trust it, the user's own, reloaded while serving."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lxdocker.errors import UsageError
from lxdocker.serve import certs
from lxdocker.serve.authority import FIXED_NAME
from lxdocker.serve.certs import Certificate, Pair, Watch
from lxdocker.serve.hostnames import check_name
from tests.serve.rig import Served, make_tree, own_pair, serve
from tests.waiting import wait_until

SOON = {"server.WATCH_SECONDS": 0.2}


def shown(served: Served) -> str:
    """The fingerprint of what a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", served.port), 10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return Certificate.parse(connection.getpeercert(binary_form=True) or b"").fingerprint


def read(pair: Pair) -> Certificate:
    return Certificate.parse(pair.certificate.read_bytes())


# ---- made here


def test_it_has_all_names_and_addresses_of_the_host(tmp_path: Path) -> None:
    found = read(certs.make(tmp_path / "tls", ["images.lan", "IMAGES.example", "192.0.2.77", "2001:db8::77"]))
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    expected = {"localhost", socket.gethostname().lower(), "127.0.0.1", "::1", *addresses}
    assert expected | {"images.lan", "images.example", "192.0.2.77", "2001:db8::77"} <= set(found.names)
    assert not [name for name in found.names if name.startswith("fe80")]
    # Clients check the server's name against the first one in their copy, so it may never become another.
    assert found.names[0] == FIXED_NAME
    assert found.self_signed
    assert timedelta(days=3649) < found.ends - datetime.now(UTC) <= timedelta(days=3650)


def test_it_makes_nobody_an_authority(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(certs.make(tmp_path / "tls").certificate.read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_key_is_private_from_the_first_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        pair = certs.make(tmp_path / "tls")
    finally:
        os.umask(before)
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(pair.key.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(pair.certificate.stat().st_mode) == 0o644
    assert sorted(path.name for path in pair.key.parent.iterdir()) == [
        ".lock",
        "authority.crt",
        "server.crt",
        "server.key",
    ]


def test_it_stays_as_it_is(tmp_path: Path) -> None:
    certs.make(tmp_path / "tls", ["images.lan"])
    before = {path: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    certs.make(tmp_path / "tls", ["images.lan"])
    certs.make(tmp_path / "tls", ["Images.LAN"])
    certs.make(tmp_path / "tls")
    assert {path: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before


@pytest.mark.parametrize("why", ["about to end", "a name is missing", "lost", "damaged", "not yet valid"])
def test_made_anew_it_keeps_its_key(tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        if why == "about to end":
            patched.setattr(certs, "LIFE", certs.RENEW_BEFORE - timedelta(hours=1))
        if why == "not yet valid":
            patched.setattr(certs, "BACKDATED", timedelta(days=-1))
        pair = certs.make(tmp_path / "tls")
    before, key = read(pair), pair.key.read_bytes()
    if why == "lost":
        pair.certificate.unlink()
    if why == "damaged":
        pair.certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    assert certs.make(tmp_path / "tls", ["new.lan"] if why == "a name is missing" else []) == pair
    after = read(pair)
    assert after.fingerprint != before.fingerprint
    assert after.names[0] == before.names[0]
    assert ("new.lan" in after.names) == (why == "a name is missing")
    assert after.ends - datetime.now(UTC) > certs.RENEW_BEFORE
    assert pair.key.read_bytes() == key


def test_without_its_key_both_are_made_anew(tmp_path: Path) -> None:
    pair = certs.make(tmp_path / "tls")
    before = read(pair)
    pair.key.write_text("nonsense")
    certs.make(tmp_path / "tls")
    assert read(pair).fingerprint != before.fingerprint
    Watch(lambda: pair)  # the two fit together


def test_servers_that_start_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        pairs = list(pool.map(lambda _: read(certs.make(tmp_path / "tls")).fingerprint, range(16)))
    assert len(set(pairs)) == 1


def test_a_folder_that_is_only_read_is_enough_for_what_is_there(tmp_path: Path) -> None:
    pair = certs.make(tmp_path / "tls")
    (tmp_path / "tls/.lock").unlink()
    before = (tmp_path / "tls").stat().st_mtime_ns
    assert certs.make(tmp_path / "tls") == pair
    assert (tmp_path / "tls").stat().st_mtime_ns == before


def test_a_folder_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="can't be used") as caught:
        certs.make(tmp_path / "file/tls")
    assert "--tls-dir" in caught.value.resolution


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "a..b", ".a", "*", "a.*", "x" * 64, "1.2.3.4/24", "[::1]"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an address"):
        check_name(name)


def test_clients_with_the_old_certificate_trust_the_new_one(tmp_path: Path) -> None:
    """What LXD and Incus do: take their copy as the authority, and its first name as the server's.

    (The same against a real LXD is in tests/lxd.) OpenSSL asks for more than Go does, so this is only the signature.
    """
    pair = certs.make(tmp_path / "tls")
    old = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    pair.certificate.unlink()
    certs.make(tmp_path / "tls")
    new = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    new.verify_directly_issued_by(old)
    # Go leaves out what it takes for the same certificate: subject, key and all names are equal.
    names = [one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for one in (old, new)]
    assert names[0] != names[1]


# ---- while serving


def test_a_lost_certificate_is_made_anew_while_serving(tmp_path: Path) -> None:
    with serve(tmp_path, make_tree(tmp_path), limits=SOON) as served:
        before = shown(served)
        with served.connection() as connection:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            (tmp_path / "tls/server.crt").unlink()
            wait_until("another certificate", lambda: shown(served) != before)
            connection.request("GET", "/healthz")  # connections that are open go on
            assert connection.getresponse().read() == b"ok\n"
        assert served.get("/healthz").status == 200
        assert f"showing a new certificate, valid until {datetime.now(UTC).year + 10}" in served.log


def test_a_certificate_of_ones_own_is_read_again_when_it_changes(tmp_path: Path) -> None:
    pair, other = own_pair(tmp_path / "own"), own_pair(tmp_path / "own", "other")
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    with serve(tmp_path, make_tree(tmp_path), *options, limits=SOON) as served:
        first = shown(served)
        assert first == read(pair).fingerprint
        assert not (tmp_path / "tls").exists()
        # As some tools do it: one file after the other, each not in one go.
        shutil.copyfile(other.certificate, pair.certificate)
        wait_until("the complaint", lambda: "is not its key" in served.log)
        assert shown(served) == first
        pair.key.write_text("-----BEGIN")
        wait_until("the complaint", lambda: served.log.count("keeping the current one") == 2)
        assert shown(served) == first
        shutil.copyfile(other.key, pair.key)
        wait_until("the other certificate", lambda: shown(served) == read(other).fingerprint)
        assert served.get("/healthz").status == 200
        assert served.log.count("keeping the current") == 2  # said once each, not at every look
        pair.certificate.unlink()
        wait_until("the complaint", lambda: served.log.count("keeping the current") == 3)
        assert shown(served) == Certificate.parse(other.certificate.read_bytes()).fingerprint


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        (-10 * DAY, -DAY, "ended on"),
        (-300 * DAY, 13 * DAY, "ends on"),
        (-300 * DAY, 15 * DAY, None),
        (-5 * DAY, DAY, "ends on"),  # of six days the last one and a half
        (-3 * DAY, 3 * DAY, None),
        (DAY, 90 * DAY, "is not valid before"),
    ],
)
def test_a_certificate_of_ones_own_that_ends_is_said_once_a_day(
    tmp_path: Path, begins: timedelta, ends: timedelta, said: str | None
) -> None:
    pair = own_pair(tmp_path / "own", begins=begins, ends=ends)
    watch = Watch(lambda: pair)
    warning = watch.warning()
    assert (warning is None) == (said is None)
    assert watch.look() is None
    if said:
        assert f"warning: the certificate {pair.certificate} {said} " in str(warning)
        assert watch._warned
        watch._warned = (watch._warned[0], watch._warned[1] - DAY)
        assert watch.look() == warning
        # One that takes its place is looked at anew.
        other = own_pair(tmp_path / "own", "other", begins=begins, ends=ends)
        other.certificate.rename(pair.certificate)
        other.key.rename(pair.key)
        assert f"; warning: the certificate {pair.certificate} {said} " in str(watch.look())
    else:
        own_pair(tmp_path / "own", begins=-10 * DAY, ends=-DAY)
        assert "showing a new certificate" in str(watch.look())
        assert watch.look() is None


def test_the_first_to_end_of_a_chain_counts(tmp_path: Path) -> None:
    pair, other = own_pair(tmp_path / "own", ends=90 * DAY), own_pair(tmp_path / "own", "other", ends=DAY)
    pair.certificate.write_bytes(pair.certificate.read_bytes() + other.certificate.read_bytes())
    assert f"{read(other).ends:%Y-%m-%d}" in str(Watch(lambda: pair).warning())


def test_a_certificate_that_ends_is_said_by_the_server(tmp_path: Path) -> None:
    pair = own_pair(tmp_path / "own", begins=-10 * DAY, ends=-DAY)
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    with serve(tmp_path, make_tree(tmp_path), *options, limits=SOON) as served:
        wait_until("the warning", lambda: f"the certificate {pair.certificate} ended on" in served.log)


def test_of_a_certificate_of_our_own_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certs, "LIFE", DAY)
    pair = certs.make(tmp_path / "tls")
    assert Watch(lambda: pair).warning() is None


Issuer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def issue(name: str, issuer: Issuer | None, *, ca: bool) -> Issuer:
    """A certificate and its key; by itself if there is no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if issuer:  # Python's clients ask for it from 3.13 on
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key())
        builder = builder.add_extension(identifier, critical=False)
    if ca:
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        usage |= {"key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def test_renewals_as_acme_clients_make_them(tmp_path: Path) -> None:
    """Another certificate with another key, and links that point to other files: nothing to be done anywhere."""
    root = issue("root", None, ca=True)
    intermediate = issue("intermediate", root, ca=True)
    pem = serialization.Encoding.PEM
    (tmp_path / "root.crt").write_bytes(root[0].public_bytes(pem))
    live = tmp_path / "live"
    live.mkdir()

    def renew(number: int) -> str:
        certificate, key = issue("images.example", intermediate, ca=False)
        chain = certificate.public_bytes(pem) + intermediate[0].public_bytes(pem)
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        for name, content in (("fullchain", chain), ("privkey", private)):
            target = tmp_path / f"{name}{number}.pem"
            target.write_bytes(content)
            (live / f"{name}.pem").unlink(missing_ok=True)
            (live / f"{name}.pem").symlink_to(target)
        return certificate.fingerprint(hashes.SHA256()).hex()

    first = renew(1)
    options = ("--tls-cert", str(live / "fullchain.pem"), "--tls-key", str(live / "privkey.pem"))
    names = ("--name", "images.example")
    with serve(tmp_path, make_tree(tmp_path), *options, *names, limits=SOON) as served:
        context = ssl.create_default_context(cafile=str(tmp_path / "root.crt"))

        def trusted() -> str:
            with (
                socket.create_connection(("127.0.0.1", served.port), 10) as plain,
                context.wrap_socket(plain, server_hostname="images.example") as connection,
            ):
                return Certificate.parse(connection.getpeercert(binary_form=True) or b"").fingerprint

        assert trusted() == first
        second = renew(2)
        wait_until("the renewed certificate", lambda: trusted() == second)
        url = f"https://images.example:{served.port}"
        # The authority is the follower's own business, and nobody needs a copy of the certificate.
        create = f"  lxc image registry create lxdocker --protocol simplestreams url={url}\n"
        assert f"LXD 6.10 or later:\n{create}" in served.said
        # Its renewals may bring a new key.
        assert served.said.splitlines()[2] == f"on other hosts: lxdocker remote add {url} lxdocker"
        assert "servercerts" not in served.said
        assert "curl" not in served.said


def test_hangup_reads_it_at_once(tmp_path: Path) -> None:
    pair, other = own_pair(tmp_path / "own"), own_pair(tmp_path / "own", "other")
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    with serve(tmp_path, make_tree(tmp_path), *options, limits={"server.WATCH_SECONDS": 3600}) as served:
        other.certificate.rename(pair.certificate)
        other.key.rename(pair.key)
        served.process.send_signal(signal.SIGHUP)
        wait_until("the other certificate", lambda: shown(served) == read(pair).fingerprint)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tls-cert", "{own}.crt"], "incomplete certificate"),
        (["--tls-key", "{own}.key"], "incomplete certificate"),
        (["--tls-cert", "{own}.crt", "--tls-key", "{other}.key"], "is not its key"),
        (["--tls-cert", "{own}.key", "--tls-key", "{own}.key"], "can't be used"),
        (["--tls-cert", "{own}.crt", "--tls-key", "/missing"], "No such file"),
        (["--tls-cert", "{own}.crt", "--tls-key", "{locked}"], "protected by a password"),
        (["--name", "a..b"], "neither a host name nor an address"),
        (["--listen", "127.0.0.1:99999"], "not of the form ADDRESS:PORT"),
        (["--listen", "::1:80"], "ADDRESS:PORT"),
        (["--listen", "192.0.2.1:0"], "cannot listen on 192.0.2.1:0"),
        (["--listen", "name.invalid:0"], "cannot listen on name.invalid:0"),
    ],
)
def test_what_can_not_be_used_is_said_at_once(tmp_path: Path, options: list[str], expected: str) -> None:
    own, other = own_pair(tmp_path / "own"), own_pair(tmp_path / "own", "other")
    locked = own_pair(tmp_path / "own", "locked", b"password")
    names = {"own": own.key.with_suffix(""), "other": other.key.with_suffix(""), "locked": locked.key}
    with (
        pytest.raises(AssertionError) as caught,
        serve(tmp_path, make_tree(tmp_path), *(option.format(**names) for option in options)),
    ):
        pass
    assert expected in str(caught.value)
    assert "error: " in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_only_tls_1_2_and_later(tmp_path: Path) -> None:
    with serve(tmp_path, make_tree(tmp_path)) as served:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = served.context()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
            context.set_ciphers("ALL:@SECLEVEL=0")
            with socket.create_connection(("127.0.0.1", served.port), 10) as plain:
                if version < ssl.TLSVersion.TLSv1_2:
                    with pytest.raises(ssl.SSLError):
                        context.wrap_socket(plain, server_hostname="127.0.0.1")
                else:
                    context.wrap_socket(plain, server_hostname="127.0.0.1").close()
