"""Logins from real files and real helper programs in a temporary home."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lxdocker.errors import AuthError
from lxdocker.source import credentials as module
from lxdocker.source.credentials import Credential, Credentials
from lxdocker.values import RegistryRef, parse_image_ref
from tests.forked import NOBODY, in_child

HUB = "https://index.docker.io/v1/"
SECRET = "s3cr:et "  # noqa: S105 - a password may have colons and end in a space


def ref(text: str) -> RegistryRef:
    parsed = parse_image_ref(text, Path("/"))
    assert isinstance(parsed, RegistryRef)
    return parsed


def entry(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **members: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(members))
    return path


def helper(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def credentials(home: Path, **environ: str) -> Credentials:
    environ = {"XDG_RUNTIME_DIR": str(home / "run"), "PATH": f"{home}/bin:{os.environ['PATH']}", **environ}
    return Credentials(environ, home)


def user(found: Credential | None) -> str | None:
    return found.username if found else None


def test_no_files_no_login(tmp_path: Path) -> None:
    assert credentials(tmp_path).for_ref(ref("quay.io/team/app")) is None
    assert credentials(tmp_path).authfile_json(ref("quay.io/team/app")) is None


def test_files_count_in_the_order_of_containers_auth_json(tmp_path: Path) -> None:
    files = [
        tmp_path / "run/containers/auth.json",
        tmp_path / ".config/containers/auth.json",
        tmp_path / ".docker/config.json",
    ]
    for number, file in reversed(list(enumerate(files))):
        write(file, auths={"quay.io": entry(f"user{number}")})
        assert user(credentials(tmp_path).for_ref(ref("quay.io/app"))) == f"user{number}"
    assert credentials(tmp_path).looked_at[:3] == tuple(map(str, files))


def test_a_login_in_a_session_is_found_without_one() -> None:
    """As by cron and systemd, which do not say where the session's files are."""
    uid = os.getuid()
    assert Credentials({}, Path("/home/ann")).looked_at == (
        f"/run/containers/{uid}/auth.json",
        f"/run/user/{uid}/containers/auth.json",
        "/home/ann/.config/containers/auth.json",
        "/home/ann/.docker/config.json",
        "/home/ann/.dockercfg",
    )


def test_an_earlier_file_without_the_registry_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "run/containers/auth.json", auths={"ghcr.io": entry("other")})
    write(tmp_path / "docker/config.json", auths={"quay.io": entry("ann")})
    found = credentials(tmp_path, DOCKER_CONFIG=str(tmp_path / "docker")).for_ref(ref("quay.io/app"))
    assert user(found) == "ann"
    assert found
    assert found.source == str(tmp_path / "docker/config.json")


def test_registry_auth_file_is_the_only_one(tmp_path: Path) -> None:
    write(tmp_path / ".docker/config.json", auths={"quay.io": entry("ann")})
    only = write(tmp_path / "my.json", auths={})
    assert credentials(tmp_path, REGISTRY_AUTH_FILE=str(only)).for_ref(ref("quay.io/app")) is None
    with pytest.raises(AuthError, match="REGISTRY_AUTH_FILE names it"):
        credentials(tmp_path, REGISTRY_AUTH_FILE=str(tmp_path / "none")).for_ref(ref("quay.io/app"))


def test_the_longest_key_wins(tmp_path: Path) -> None:
    auths = {key: entry(key) for key in ("quay.io", "quay.io/team", "quay.io/team/app", "quay.io/te")}
    write(tmp_path / ".docker/config.json", auths=auths)
    found = credentials(tmp_path)
    assert user(found.for_ref(ref("quay.io/team/app:1"))) == "quay.io/team/app"
    assert user(found.for_ref(ref("quay.io/team/app/part"))) == "quay.io/team/app"
    assert user(found.for_ref(ref("quay.io/team/other"))) == "quay.io/team"
    assert user(found.for_ref(ref("quay.io/tea/app"))) == "quay.io"
    assert found.for_ref(ref("quay.io:5000/team/app")) is None


@pytest.mark.parametrize(
    "key",
    [
        "https://index.docker.io/v1/",
        "docker.io",
        "index.docker.io",
        "docker.io/library",
        "registry-1.docker.io",
    ],
)
def test_docker_hub_under_all_its_names(tmp_path: Path, key: str) -> None:
    write(tmp_path / ".docker/config.json", auths={key: entry("ann")})
    assert user(credentials(tmp_path).for_ref(ref("nginx"))) == "ann"


@pytest.mark.parametrize("key", ["https://quay.io", "http://quay.io/v2/", "quay.io/"])
def test_keys_as_docker_login_writes_them(tmp_path: Path, key: str) -> None:
    write(tmp_path / ".docker/config.json", auths={key: entry("ann")})
    assert user(credentials(tmp_path).for_ref(ref("quay.io/app"))) == "ann"


@pytest.mark.parametrize(
    "key", ["Registry.Example:5000", "https://REGISTRY.example:5000/v2/", "registry.Example.:5000/App"]
)
def test_registries_compare_without_case(tmp_path: Path, key: str) -> None:
    key = key.replace("/App", "/app")
    write(tmp_path / ".docker/config.json", auths={key: entry("ann")}, credHelpers={"GHCR.io": "none"})
    found = credentials(tmp_path)
    assert user(found.for_ref(ref("registry.EXAMPLE:5000/app"))) == "ann"
    assert json.loads(found.authfile_json(ref("Registry.example:5000/app")) or "")["auths"].keys() == {
        "registry.example:5000"
    }
    assert found.for_ref(ref("registry.example/app")) is None
    assert found.for_ref(ref("ghcr.io/app")) is None
    assert "docker-credential-none" in found.notes[0]


def test_a_port_that_goes_without_saying(tmp_path: Path) -> None:
    write(tmp_path / ".docker/config.json", auths={"a.example": entry("ann"), "b.example:443": entry("bob")})
    found = credentials(tmp_path)
    assert user(found.for_ref(ref("a.example:443/app"))) == "ann"
    assert user(found.for_ref(ref("b.example/app"))) == "bob"


def test_of_several_keys_for_one_registry_an_empty_one_does_not_count(tmp_path: Path) -> None:
    auths = {"quay.io": {}, "https://quay.io": entry("ann"), "docker.io": entry("bob"), HUB: entry("carol")}
    write(tmp_path / ".docker/config.json", auths=auths)
    found = credentials(tmp_path)
    assert user(found.for_ref(ref("quay.io/app"))) == "ann"
    assert user(found.for_ref(ref("nginx"))) == "carol"


@pytest.mark.skipif(os.geteuid() != 0, reason="who can't become another user can close no file to them")
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_file_that_is_closed_to_this_user_is_noted_and_passed_over(tmp_path: Path, closed: str) -> None:
    file = write(tmp_path / "run/containers/auth.json", auths={"quay.io": entry("root")})
    write(tmp_path / ".docker/config.json", auths={"quay.io": entry("ann")})
    for folder in (tmp_path, *tmp_path.parents[:-2], tmp_path / ".docker", tmp_path / "run"):
        folder.chmod(0o755)
    (file if closed == "file" else file.parent).chmod(0o700)

    def look() -> tuple[str | None, Credential | None, tuple[str, ...]]:
        found = credentials(tmp_path)
        return user(found.for_ref(ref("quay.io/app"))), found.for_ref(ref("ghcr.io/app")), found.notes

    assert in_child(look, uid=NOBODY) == ("ann", None, (f"{file}: it cannot be read: Permission denied",))

    def named() -> str:
        with pytest.raises(AuthError) as caught:
            credentials(tmp_path, REGISTRY_AUTH_FILE=str(file)).for_ref(ref("quay.io/app"))
        return str(caught.value)

    assert in_child(named, uid=NOBODY) == f"the auth file {file} cannot be used: it cannot be read: Permission denied"


def test_a_folder_where_a_file_should_be_holds_no_login(tmp_path: Path) -> None:
    """Docker makes one where a file that is not there was to be mounted."""
    (tmp_path / ".docker/config.json").mkdir(parents=True)
    found = credentials(tmp_path)
    assert found.for_ref(ref("quay.io/app")) is None
    assert found.notes == (f"{tmp_path}/.docker/config.json: it cannot be read: Is a directory",)


def test_the_legacy_file(tmp_path: Path) -> None:
    write(tmp_path / ".dockercfg", **{"https://quay.io/v1/": entry("ann")})
    assert user(credentials(tmp_path).for_ref(ref("quay.io/app"))) == "ann"


@pytest.mark.parametrize("password", ["a:b:c", ":", "wörd\u2603", ' "\\\n', "x" * 5000])
def test_passwords_of_any_characters(tmp_path: Path, password: str) -> None:
    write(tmp_path / ".docker/config.json", auths={"quay.io": entry("ann", password)})
    found = credentials(tmp_path).for_ref(ref("quay.io/app"))
    assert found
    assert found.password == password
    assert found.basic == "Basic " + base64.b64encode(f"ann:{password}".encode()).decode()


def test_identity_tokens(tmp_path: Path) -> None:
    auths = {"quay.io": {**entry("ann", ""), "identitytoken": "tok"}, "ghcr.io": {"identitytoken": "tok2"}}
    write(tmp_path / ".docker/config.json", auths=auths)
    found = credentials(tmp_path)
    first, second = found.for_ref(ref("quay.io/app")), found.for_ref(ref("ghcr.io/app"))
    assert first
    assert second
    assert (first.identity_token, second.identity_token) == ("tok", "tok2")
    assert json.loads(found.authfile_json(ref("ghcr.io/app")) or "") == {
        "auths": {"ghcr.io": {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "tok2"}}
    }


def test_no_secret_in_a_repr(tmp_path: Path) -> None:
    write(tmp_path / ".docker/config.json", auths={"quay.io": {**entry("ann"), "identitytoken": "t0ken"}})
    found = credentials(tmp_path)
    shown = repr(found.for_ref(ref("quay.io/app"))) + repr(found) + repr(found.__dict__)
    assert "s3cr" not in shown
    assert "t0ken" not in shown
    assert entry("ann")["auth"] not in shown


def test_an_empty_entry_is_no_login(tmp_path: Path) -> None:
    write(tmp_path / "run/containers/auth.json", auths={"quay.io": {}})
    write(tmp_path / ".docker/config.json", auths={"quay.io": entry("ann")})
    assert user(credentials(tmp_path).for_ref(ref("quay.io/app"))) == "ann"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"auths": {"quay.io": {"auth": "s3cr', "not JSON"),
        ('["s3cr"]', "not a JSON object"),
        ('{"auths": {"quay.io": {"auth": "s3cr*"}}}', "not base64"),
        ("[" * 100_000, "not JSON"),
        ("x" * 2_000_000, "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_auth_file_is_named_but_not_quoted(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / ".docker/config.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(AuthError, match=why) as caught:
        credentials(tmp_path).for_ref(ref("quay.io/app"))
    assert str(file) in caught.value.brief
    assert "s3cr" not in str(caught.value)


def test_an_empty_file_and_strange_members_hold_no_login(tmp_path: Path) -> None:
    write(tmp_path / "run/containers/auth.json").write_text("")
    write(tmp_path / ".docker/config.json", auths={"quay.io": "text"}, credHelpers=["x"], credsStore=5)
    assert credentials(tmp_path).for_ref(ref("quay.io/app")) is None


def test_a_helper_is_asked_once_and_on_stdin(tmp_path: Path) -> None:
    answer = json.dumps({"Username": "ann", "Secret": SECRET})
    helper(tmp_path / "bin", "test", f"read server; echo \"$1 $server\" >>{tmp_path}/asked; echo '{answer}'")
    write(tmp_path / ".docker/config.json", credHelpers={"quay.io": "test"}, auths={"quay.io": entry("file")})
    found = credentials(tmp_path)
    for name in ("quay.io/app", "quay.io/other"):
        assert found.for_ref(ref(name)) == Credential("ann", SECRET, "", "docker-credential-test")
    assert found.for_ref(ref("ghcr.io/app")) is None
    assert (tmp_path / "asked").read_text() == "get quay.io\n"


def test_a_store_holds_all_registries_and_identity_tokens(tmp_path: Path) -> None:
    answer = json.dumps({"Username": "<token>", "Secret": "t"})
    helper(
        tmp_path / "bin",
        "test",
        f"""read server
        if [ "$server" = https://index.docker.io/v1/ ]; then echo '{answer}'; exit; fi
        echo 'credentials not found in native keychain'; exit 1""",
    )
    write(tmp_path / ".docker/config.json", credsStore="test", auths={"ghcr.io": entry("ann")})
    found = credentials(tmp_path)
    assert found.for_ref(ref("nginx")) == Credential("<token>", "", "t", "docker-credential-test")
    assert user(found.for_ref(ref("ghcr.io/app"))) == "ann"
    assert found.for_ref(ref("quay.io/app")) is None
    assert found.notes == ()


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("exit 3", "exit status 3"),
        ("echo s3cr", "not JSON with"),
        ('echo \'{"Username":1,"Secret":"s3cr"}\'', "not JSON with"),
        (None, "not found in PATH"),
    ],
)
def test_a_broken_helper_is_noted_and_passed_over(tmp_path: Path, script: str | None, note: str) -> None:
    if script:
        helper(tmp_path / "bin", "test", script)
    write(tmp_path / ".docker/config.json", credsStore="test", auths={"quay.io": entry("ann")})
    found = credentials(tmp_path)
    assert user(found.for_ref(ref("quay.io/app"))) == "ann"
    assert len(found.notes) == 1
    assert note in found.notes[0]
    assert "s3cr" not in found.notes[0]


@pytest.mark.parametrize("name", ["../../bin/x", "x/../../bin/x", "x y", "x\n", "-x", "", "x" * 65])
def test_a_helper_is_a_name_not_a_path(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bin"
    (folder / "docker-credential-x").mkdir(parents=True)  # or there would be no way on from there
    helper(tmp_path / "bin/bin", "x", "exit 7")
    write(tmp_path / ".docker/config.json", credHelpers={"quay.io": name})
    found = credentials(tmp_path)
    assert found.for_ref(ref("quay.io/app")) is None
    assert [note.partition(": ")[2] for note in found.notes] == (
        ["not the name of a credential helper"] if name else []
    )


def test_a_helper_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELPER_SECONDS", 0.2)
    helper(tmp_path / "bin", "test", "exec sleep 5")
    write(tmp_path / ".docker/config.json", credsStore="test", auths={"quay.io": entry("ann")})
    found = credentials(tmp_path)
    began = time.monotonic()
    assert user(found.for_ref(ref("quay.io/app"))) == "ann"
    assert time.monotonic() - began < 4
    assert found.notes == ("docker-credential-test: no answer in 0 s",)


def test_a_password_that_docker_padded(tmp_path: Path) -> None:
    write(tmp_path / ".docker/config.json", auths={"quay.io": entry("ann", "\0pass\0word\0\0\0")})
    found = credentials(tmp_path).for_ref(ref("quay.io/app"))
    assert found
    assert found.password == "\0pass\0word"  # noqa: S105 - of nobody


@pytest.mark.parametrize("name", ["quay.io/team/app", "nginx", "127.0.0.1:5000/app"])
def test_skopeo_understands_the_auth_file_we_make(tmp_path: Path, name: str) -> None:
    key = "https://index.docker.io/v1/" if name == "nginx" else name.partition("/")[0]
    write(tmp_path / ".docker/config.json", auths={key: entry("ann"), "other.example": entry("bob", "b0bs")})
    made = credentials(tmp_path).authfile_json(ref(name))
    assert made
    assert "other.example" not in made
    (tmp_path / "made.json").write_text(made)
    host = ref(name).registry
    command = ["skopeo", "login", "--get-login", "--authfile", str(tmp_path / "made.json"), host]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "ann\n"
