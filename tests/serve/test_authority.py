"""The authority that hosts with LXD 6.10 or later add to their system's: good for this server for years, and for no
other. Checked with OpenSSL, curl and Python here, and with LXD in tests/lxd.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lxdocker.files import durable
from lxdocker.serve import authority as authorities
from lxdocker.serve import certs
from lxdocker.serve.authority import Authority
from lxdocker.serve.certs import Certificate
from lxdocker.serve.hostnames import as_address, host_addresses
from lxdocker.serve.joining import by_hand
from tests.chroots import needs_namespaces
from tests.forked import die, in_child
from tests.serve.rig import Served, make_tree, own_pair, serve
from tests.waiting import wait_until

NAMES = ("images.lan", "*.wild.example", "deep.wild.example", "192.0.2.77", "2001:db8::77")
PEM = serialization.Encoding.PEM
needs_debian = pytest.mark.skipif(
    not Path("/usr/sbin/update-ca-certificates").exists(), reason="this host has no update-ca-certificates"
)


def certificate_of(folder: Path) -> Certificate:
    return Certificate.parse((folder / certs.CERTIFICATE).read_bytes())


def authority_of(folder: Path) -> Authority:
    return Authority.parse((folder / certs.AUTHORITY).read_bytes())


def openssl(authority: Path, certificate: Path, *options: str) -> str:
    """What it says against a certificate, as strict as it can be; '' if nothing."""
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(authority)]
    done = subprocess.run(
        [*command, "-no-CApath", "-no-CAstore", *options, str(certificate)], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == done.stdout.endswith(": OK\n")
    return done.stderr


def forge(folder: Path, *names: str, common_name: str = "lxdocker") -> Path:
    """A certificate for other names, by somebody who has the server's key."""
    key = serialization.load_pem_private_key((folder / certs.KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authorities.subject())
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authorities.as_issuer(key.public_key()), critical=False)
    )
    alternatives = [
        x509.IPAddress(address) if (address := as_address(name)) is not None else x509.DNSName(name) for name in names
    ]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    path = folder / "forged.crt"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(PEM))
    return path


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    certs.make(tmp_path / "tls", NAMES)
    return tmp_path / "tls"


def make_anew(folder: Path) -> None:
    """Another certificate, with the same key."""
    before = certificate_of(folder)
    (folder / certs.CERTIFICATE).unlink()
    certs.make(folder, NAMES)
    assert certificate_of(folder) != before
    assert certificate_of(folder).key == before.key


# ---- what it vouches for


def test_it_vouches_for_the_server_under_each_of_its_names(tls: Path) -> None:
    authority = (tls / certs.AUTHORITY).read_bytes()
    assert set(NAMES) < set(authority_of(tls).names) == set(certificate_of(tls).names)
    for _ in range(2):
        for name in certificate_of(tls).names:
            option = "-verify_hostname" if as_address(name) is None else "-verify_ip"
            assert not openssl(tls / certs.AUTHORITY, tls / certs.CERTIFICATE, option, name.replace("*", "any"))
        make_anew(tls)
    assert (tls / certs.AUTHORITY).read_bytes() == authority


@pytest.mark.parametrize(
    "names",
    [
        *(["example.org"], ["images.lan", "example.org"], ["*"], ["*.lan"], ["other.lan"], ["any.images.lan"]),
        *(["*.images.lan"], ["any.localhost"], ["wild.example"], ["any.deep.wild.example"], ["192.0.2.78"]),
        *(["127.0.0.2"], ["2001:db8::78"], ["::2"], ["localhost", "192.0.2.78"]),
    ],
    ids=" ".join,
)
def test_it_vouches_for_nothing_else(tls: Path, names: list[str]) -> None:
    assert re.search(r"(permitted|excluded) subtree violation", openssl(tls / certs.AUTHORITY, forge(tls, *names)))


def test_it_vouches_for_no_other_name_in_a_subject(tls: Path) -> None:
    """Where there are no alternative names, OpenSSL takes the common name for a host's."""
    assert "permitted subtree violation" in openssl(tls / certs.AUTHORITY, forge(tls, common_name="example.org"))


def test_it_vouches_for_no_other_authority(tls: Path) -> None:
    """Nor for anything but TLS servers."""
    for purpose in ("sslclient", "smimesign", "timestampsign"):
        assert openssl(tls / certs.AUTHORITY, tls / certs.CERTIFICATE, "-purpose", purpose)
    found = x509.load_pem_x509_certificate((tls / certs.AUTHORITY).read_bytes())
    basic = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)


# ---- kept, and made anew


@needs_namespaces
def test_addresses_that_came_up_since_are_left_out(tmp_path: Path) -> None:
    """A bridge more is no reason to have all hosts install another authority."""
    tls = tmp_path / "tls"
    # In a network namespace of its own there is only loopback, and this host is called as it is.
    work = f"import pathlib; from lxdocker.serve import certs; certs.make(pathlib.Path({str(tls)!r}))"
    subprocess.run(["unshare", "--net", sys.executable, "-c", work], check=True)
    authority = authority_of(tls)
    others = {str(address) for address in host_addresses()} - {"127.0.0.1", "::1"}
    assert others
    (tls / certs.CERTIFICATE).unlink()
    certs.make(tls, say=pytest.fail)
    assert authority_of(tls) == authority
    assert others.isdisjoint(certificate_of(tls).names)
    assert not openssl(tls / certs.AUTHORITY, tls / certs.CERTIFICATE)
    said: list[str] = []
    certs.make(tls, ["new.lan"], said.append)
    assert others | {"new.lan"} <= set(certificate_of(tls).names) == set(authority_of(tls).names)
    assert len(said) == 1
    assert "does not cover new.lan" in said[0]


def test_a_new_name_needs_another_authority(tls: Path, tmp_path: Path) -> None:
    shutil.copy(tls / certs.AUTHORITY, tmp_path / "old.crt")
    said: list[str] = []
    certs.make(tls, [*NAMES, "New.lan"], said.append)
    assert said == [
        "created a new authority, since the old one does not cover new.lan: hosts that installed it can't use this"
        " server until they install the new one"
    ]
    assert "permitted subtree violation" in openssl(tmp_path / "old.crt", tls / certs.CERTIFICATE)
    assert not openssl(tls / certs.AUTHORITY, tls / certs.CERTIFICATE, "-verify_hostname", "new.lan")
    certs.make(tls, say=said.append)
    certs.make(tls, ["new.lan"], said.append)
    assert len(said) == 1


def test_before_its_end_there_is_another_and_both_are_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = tmp_path / "tls"
    with monkeypatch.context() as patched:
        patched.setattr(certs, "LIFE", certs.RENEW_BEFORE - timedelta(hours=1))
        certs.make(tls, NAMES)
    old = authority_of(tls)
    shutil.copy(tls / certs.AUTHORITY, tmp_path / "old.crt")
    said: list[str] = []
    certs.make(tls, NAMES, said.append)
    new = authority_of(tls)
    assert (new.key, new.names) == (old.key, old.names)
    assert new.ends - datetime.now(UTC) > certs.RENEW_BEFORE
    assert said == [
        f"created a new authority, since the old one ends on {old.ends:%Y-%m-%d}: hosts that installed it must install"
        " the new one by then"
    ]
    for authority in (tmp_path / "old.crt", tls / certs.AUTHORITY):
        assert not openssl(authority, tls / certs.CERTIFICATE)


@pytest.mark.parametrize("content", [None, "-----BEGIN CERTIFICATE-----\n", "that of another server"])
def test_if_it_is_lost_the_next_one_is_as_good(tls: Path, tmp_path: Path, content: str | None) -> None:
    certificate, old = certificate_of(tls), authority_of(tls)
    shutil.copy(tls / certs.AUTHORITY, tmp_path / "old.crt")
    (tls / certs.AUTHORITY).unlink()
    if content == "that of another server":
        certs.make(tmp_path / "another", NAMES)
        shutil.copy(tmp_path / "another" / certs.AUTHORITY, tls)
    elif content is not None:
        (tls / certs.AUTHORITY).write_text(content)
    certs.make(tls, say=pytest.fail)
    assert certificate_of(tls) == certificate
    assert (authority_of(tls).key, authority_of(tls).names) == (old.key, old.names)
    make_anew(tls)
    assert not openssl(tmp_path / "old.crt", tls / certs.CERTIFICATE)


def test_a_folder_from_before_gets_one(tmp_path: Path) -> None:
    """With the same key: clients that pinned the certificate there do not notice."""
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [x509.DNSName("lxdocker"), x509.UniformResourceIdentifier("urn:uuid:1")]
    now = datetime.now(UTC)
    old = (
        x509.CertificateBuilder()
        .subject_name(authorities.subject())
        .issuer_name(authorities.subject())
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / certs.KEY).write_bytes(private)
    (tmp_path / certs.CERTIFICATE).write_bytes(old.public_bytes(PEM))
    certs.make(tmp_path, NAMES, say=pytest.fail)
    assert (tmp_path / certs.KEY).read_bytes() == private
    new = x509.load_pem_x509_certificate((tmp_path / certs.CERTIFICATE).read_bytes())
    new.verify_directly_issued_by(old)
    assert certificate_of(tmp_path).names[0] == "lxdocker"
    assert not openssl(tmp_path / certs.AUTHORITY, tmp_path / certs.CERTIFICATE)


@pytest.mark.parametrize("files", range(4))
def test_killed_while_it_is_made_anew(tls: Path, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many files. The authority is the first of them."""
    key = (tls / certs.KEY).read_bytes()
    written: list[Path] = []
    write = durable.write_file

    def write_some(path: Path, data: bytes, mode: int) -> None:
        if len(written) == files:
            die()
        write(path, data, mode)
        written.append(path)

    def work() -> list[str]:
        certs.make(tls, [*NAMES, "new.lan"])
        return [path.name for path in written]

    with monkeypatch.context() as patched:
        patched.setattr(certs, "write_file", write_some)
        done = in_child(work)
    assert done == (None if files < 2 else [certs.AUTHORITY, certs.CERTIFICATE])
    assert certificate_of(tls).is_vouched_for(authority_of(tls))
    certs.make(tls, [*NAMES, "new.lan"])
    assert "new.lan" in certificate_of(tls).names
    assert certificate_of(tls).is_vouched_for(authority_of(tls))
    assert (tls / certs.KEY).read_bytes() == key


# ---- what another host makes of it


def test_it_is_known_as_that_of_the_certificate(tls: Path) -> None:
    certificate = certificate_of(tls)
    assert certificate.has_authority
    found = certs.check_authority((tls / certs.AUTHORITY).read_bytes(), certificate)
    assert found == authority_of(tls)
    assert all(
        certificate.is_for(name) for name in ("images.lan", "Any.WILD.example", "192.0.2.77", "[2001:db8:0::77]")
    )
    assert not any(certificate.is_for(name) for name in ("other.lan", "a.b.wild.example", "192.0.2.78", "2.77", ""))


def remade(
    folder: Path, *, permitted: list[x509.GeneralName] | None = None, critical: bool = True, ca: bool = True
) -> bytes:
    """An authority of the server's that could vouch for others."""
    key = serialization.load_pem_private_key((folder / certs.KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    good = x509.load_pem_x509_certificate((folder / certs.AUTHORITY).read_bytes())
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.subject)
        .public_key(key.public_key())
        .serial_number(good.serial_number)
        .not_valid_before(good.not_valid_before_utc)
        .not_valid_after(good.not_valid_after_utc)
    )
    for extension in good.extensions:
        value, needed = extension.value, extension.critical
        if isinstance(value, x509.NameConstraints):
            if permitted is None:
                continue
            kept = [*(value.permitted_subtrees or ()), *permitted]
            value, needed = x509.NameConstraints(kept, value.excluded_subtrees), critical
        if isinstance(value, x509.BasicConstraints):
            value = x509.BasicConstraints(ca=ca, path_length=0 if ca else None)
        builder = builder.add_extension(value, needed)
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)


def test_one_that_could_vouch_for_others_is_not_taken(tls: Path, tmp_path: Path) -> None:
    certificate = certificate_of(tls)
    certs.check_authority(remade(tls, permitted=[]), certificate)
    certs.make(tmp_path / "another", NAMES)
    unlimited = "not an authority that is limited to one server"
    for data, why in (
        (b"", "Unable to load PEM"),
        (own_pair(tmp_path / "own").certificate.read_bytes(), "not made by lxdocker"),
        ((tmp_path / "another" / certs.AUTHORITY).read_bytes(), "does not vouch"),
        ((tls / certs.CERTIFICATE).read_bytes(), unlimited),
        (remade(tls), unlimited),
        (remade(tls, permitted=[], critical=False), unlimited),
        (remade(tls, permitted=[], ca=False), unlimited),
        (remade(tls, permitted=[x509.DNSName("org")]), unlimited),
        (remade(tls, permitted=[x509.UniformResourceIdentifier(".org")]), unlimited),
        (remade(tls, permitted=[x509.DNSName("")]), "neither a host name nor an address"),
        (remade(tls, permitted=[x509.IPAddress(ip_network("0.0.0.0/0"))]), "neither a host name nor an address"),
    ):
        with pytest.raises(ValueError, match=why):
            certs.check_authority(data, certificate)
    key = serialization.load_pem_private_key((tls / certs.KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    for begins, ends in (
        (now - timedelta(days=9), now - timedelta(days=1)),
        (now + timedelta(days=1), now + certs.LIFE),
    ):
        with pytest.raises(ValueError, match="it is valid from"):
            certs.check_authority(authorities.issue(key, certificate.names, begins, ends), certificate)
    for names in (("lxdocker", "127.0.0.1"), ("lxdocker", "::1"), ("127.0.0.1", "::1")):
        with pytest.raises(ValueError, match=unlimited):
            certs.check_authority(authorities.issue(key, names, now, now + certs.LIFE), certificate)


def test_programs_that_trust_it_go_on_when_the_certificate_is_made_anew(tmp_path: Path) -> None:
    soon = {"server.WATCH_SECONDS": 0.2}
    with serve(tmp_path, make_tree(tmp_path), "--name", "images.lan", limits=soon) as served:
        for _ in range(2):
            for name in ("127.0.0.1", "localhost", "images.lan", socket.gethostname()):
                assert curl(served, name, "--cacert", str(served.authority)) == "ok\n"
                context = ssl.create_default_context(cafile=str(served.authority))
                with (
                    socket.create_connection(("127.0.0.1", served.port), 20) as plain,
                    context.wrap_socket(plain, server_hostname=name) as connection,
                ):
                    assert connection.version()
            command = ["openssl", "s_client", "-verify_return_error", "-verify_hostname", "images.lan"]
            done = subprocess.run(
                [*command, "-CAfile", str(served.authority), "-connect", f"127.0.0.1:{served.port}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert "Verify return code: 0 (ok)" in done.stdout
            # The certificate alone is enough where a program takes part of a chain, as curl does.
            assert curl(served, "localhost", "--cacert", str(served.certificate)) == "ok\n"
            before = served.log
            served.certificate.unlink()
            wait_until("a new certificate", lambda: "showing a new certificate" in served.log.removeprefix(before))  # noqa: B023 - called at once


def curl(served: Served, name: str, *options: str, path: str = "/healthz") -> str:
    url = f"https://{name}:{served.port}{path}"
    command = ["curl", "-fsS", "--resolve", f"{name}:{served.port}:127.0.0.1", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- from the server


def test_the_server_gives_it_to_everybody(served: Served) -> None:
    answer = served.get("/authority.crt")
    assert (answer.status, answer.body) == (200, served.authority.read_bytes())
    assert answer.headers["Content-Type"] == "application/pem-certificate-chain"
    assert answer.headers["Cache-Control"] == "no-store"
    head = served.request("HEAD", "/authority.crt")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(answer.body))
    assert served.request("POST", "/authority.crt").status == 405


def test_also_where_there_are_users(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{bcrypt.hashpw(b'word', bcrypt.gensalt(4)).decode()}\n")
    with serve(tmp_path, make_tree(tmp_path), "--users", str(users)) as served:
        assert served.get("/index.html").status == 401
        assert served.get("/authority.crt").body == served.authority.read_bytes()
        fingerprint = certificate_of(tmp_path / "tls").fingerprint
        url = served.url.replace("https://", "https://USER@")
        assert "LXD 6.10 or later does not support logins" in served.said
        assert f"  lxdocker mirror --import {url} --fingerprint {fingerprint}\n" in served.said
        assert "registry create" not in served.said


def test_there_is_none_for_a_certificate_of_ones_own(tmp_path: Path) -> None:
    pair = own_pair(tmp_path / "own")
    options = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    with serve(tmp_path, make_tree(tmp_path), *options) as served:
        assert served.get("/authority.crt").status == 404
        assert "it does not accept a self-signed --tls-cert" in served.said


def test_while_serving_it_is_replaced(tmp_path: Path) -> None:
    with serve(tmp_path, make_tree(tmp_path), limits={"server.WATCH_SECONDS": 0.2}) as served:
        before = served.authority.read_bytes()
        served.authority.unlink()
        wait_until("another authority", lambda: "showing a new authority" in served.log)
        sha256 = authority_of(tmp_path / "tls").sha256
        assert re.search(rf"^showing a new authority, valid until \d{{4}}-\d\d-\d\d: {sha256}$", served.log, re.M)
        assert "certificate, valid until" not in served.log
        after = curl(served, "localhost", "--cacert", str(served.certificate), path="/authority.crt").encode()
        assert before != after == served.authority.read_bytes()


# ---- what it says


def test_an_address_the_certificate_is_not_for(tls: Path) -> None:
    said = by_hand("https://192.0.2.99:8444", certificate_of(tls), authority_of(tls), password=False)
    assert "the certificate is not valid for 192.0.2.99:\n  on this server: lxdocker serve --name 192.0.2.99\n" in said
    assert "registry create" not in said


@pytest.fixture
def printed(tmp_path: Path) -> Iterator[tuple[Served, str]]:
    """A server, and its command that installs the authority."""
    with serve(tmp_path, make_tree(tmp_path)) as served:
        found = re.search(r"^  \(umask(.*\n)*?.*update-ca-certificates\)$", served.said, re.M)
        assert found
        yield served, found[0]


def installed(script: str, umask: str = "022") -> subprocess.CompletedProcess[str]:
    """Runs a script as root of a host of its own, as far as the system's authorities go."""
    setup = (
        "mount -t tmpfs tmpfs /usr/local/share; mkdir /usr/local/share/ca-certificates;"
        " cp -a /etc/ssl/certs /usr/local/share/certs; mount --bind /usr/local/share/certs /etc/ssl/certs;"
        " mount -t tmpfs tmpfs /etc/ca-certificates/update.d"
    )
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", f"set -e; {setup}; umask {umask}\nset +e\n{script}"],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_namespaces
@needs_debian
@pytest.mark.parametrize("umask", ["022", "077"])
def test_the_printed_command_installs_it(printed: tuple[Served, str], umask: str) -> None:
    served, command = printed
    # Without any option, curl and openssl trust what the system trusts: one reads a file, the other a folder.
    check = f"""
        curl -fsS {served.url}/healthz && echo unexpected
        {command} && {command} || exit
        curl -fsS {served.url}/healthz
        openssl s_client -verify_return_error -connect 127.0.0.1:{served.port} </dev/null | grep 'return code'
        ls -l /usr/local/share/ca-certificates
    """
    done = installed(check, umask)
    assert done.returncode == 0, done.stderr
    assert "unexpected" not in done.stdout
    assert re.search(r"^1 added, 0 removed; done\.$(.|\n)*^ok\n", done.stdout, re.M)
    assert "Verify return code: 0 (ok)" in done.stdout
    assert re.search(r"^-rw-r--r-- .* lxdocker-127\.0\.0\.1\.crt$", done.stdout, re.M)
    assert not re.search(r"\.new$", done.stdout, re.M)


@needs_namespaces
@needs_debian
def test_the_printed_command_installs_nothing_else(printed: tuple[Served, str], tmp_path: Path) -> None:
    """Somebody between the two hosts gives another one."""
    served, command = printed
    with serve(tmp_path / "impostor", make_tree(tmp_path / "impostor")) as impostor:
        command = command.replace(f":{served.port}/", f":{impostor.port}/")
        done = installed(f"{command} || echo refused; cd /usr/local/share/ca-certificates; ls *.crt")
        assert "refused\n" in done.stdout
        assert "FAILED" in done.stdout
        assert ".crt" not in done.stdout
        assert "added" not in done.stdout
