"""Specs of a git repository: only good ones take the place of those before."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lxdocker.config import repository
from lxdocker.config.settings import Settings
from lxdocker.errors import LxdockerError
from lxdocker.files import durable
from lxdocker.program import StoppedError
from tests import processes


class Origin:
    """A repository that somebody commits to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.more: dict[str, str] = {}  # of git's environment
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, **more: str) -> str:
        own = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **own, **self.more, **more}
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, *options: str, **files: str) -> str:
        for name, text in files.items():
            path = self.folder / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.git("add", "--all", "*.yaml")
        self.git("commit", "--quiet", "--allow-empty", "-m", "change", *options)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


@pytest.fixture
def settings(tmp_path: Path, origin: Origin) -> Settings:
    (tmp_path / "data").mkdir(mode=0o755)
    specs = tmp_path / "data/specs/current"
    return Settings(specs=specs, tree=tmp_path / "tree", specs_repository=f"file://{origin.folder}")


def fetch(settings: Settings) -> repository.Fetched:
    with repository.fetched(settings) as found:
        return found


def names(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.specs.glob("*.yaml"))


def test_each_commit_takes_the_place_of_the_one_before(origin: Origin, settings: Settings) -> None:
    first = origin.commit(web="image: web:1\n")
    assert fetch(settings) == repository.Fetched(first, changed=True, problem=None)
    assert names(settings) == ["web.yaml"]
    assert fetch(settings) == repository.Fetched(first, changed=False, problem=None)
    (origin.folder / "web.yaml").unlink()
    second = origin.commit(db="image: db:1\n")
    assert fetch(settings).commit == second
    assert names(settings) == ["db.yaml"]
    assert sorted(path.name for path in settings.specs.parent.iterdir()) == ["commit", "current", "repository"]


def test_its_folder_images_d_comes_first(origin: Origin, settings: Settings) -> None:
    origin.commit(ci="jobs: []\n", images__d="not this one\n")
    with pytest.raises(LxdockerError, match="invalid"):
        fetch(settings)
    (origin.folder / "images.d").mkdir()
    (origin.folder / "images.d/web.yaml").write_text("image: web:1\n")
    origin.commit()
    fetch(settings)
    assert names(settings) == ["web.yaml"]


def test_a_branch(origin: Origin, settings: Settings) -> None:
    origin.commit(web="image: web:1\n")
    origin.git("switch", "--quiet", "-c", "stable")
    stable = origin.commit(db="image: db:1\n")
    origin.git("switch", "--quiet", "main")
    origin.commit(more="image: more:1\n")
    assert fetch(replace(settings, specs_branch="stable")).commit == stable


def test_invalid_specs_and_an_unreachable_repository_leave_the_last_good_ones(
    origin: Origin, settings: Settings
) -> None:
    good = origin.commit(web="image: web:1\n")
    fetch(settings)
    origin.commit(db="imag: db:1\n")
    found = fetch(settings)
    assert (found.commit, found.changed) == (good, False)
    assert "db.yaml" in str(found.problem)
    assert names(settings) == ["web.yaml"]
    origin.folder.rename(origin.folder.with_name("away"))
    found = fetch(settings)
    assert found.commit == good
    assert "fetching specs from file://" in str(found.problem)
    assert (settings.specs / "web.yaml").read_text() == "image: web:1\n"


@pytest.mark.parametrize(
    "left", ["between", "half checked out", "before the new one", "after the new one", "locks of git", "a link"]
)
def test_a_killed_run_is_mended(origin: Origin, settings: Settings, left: str) -> None:
    commit = origin.commit(web="image: web:1\n")
    fetch(settings)
    folder = settings.specs.parent
    if left == "between":
        (folder / "current").rename(folder / "before")
        (folder / "next").mkdir()
        (folder / "next.commit").write_text("0000\n")
    elif left == "half checked out":
        (folder / "whole").mkdir()
        (folder / "whole/file").touch()
        (folder / "next").mkdir()
        commit = origin.commit(web="image: web:2\n")
    elif left == "before the new one":
        (folder / "next").mkdir()
        (folder / "next/half.yaml").write_text("image: ")
    elif left == "locks of git":
        (folder / "repository/shallow.lock").touch()
        (folder / "repository/refs/lxdocker/current.lock").touch()
        commit = origin.commit(web="image: web:2\n")
    elif left == "a link":
        (folder / "next").symlink_to("/etc")
        (folder / "whole").symlink_to("nowhere")
        commit = origin.commit(web="image: web:2\n")
    else:
        (folder / "commit").rename(folder / "next.commit")
        (folder / "commit").write_text("0000\n")
        (folder / "before").mkdir()
    found = fetch(settings)
    assert (found.commit, found.problem) == (commit, None)
    assert names(settings) == ["web.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == ["commit", "current", "repository"]


def test_links_in_a_repository(origin: Origin, settings: Settings, tmp_path: Path) -> None:
    """Those to files of the repository count, and nothing else is read."""
    good = origin.commit(common="image: web:1\n", prod__web="image: web:2\n")
    (origin.folder / "prod/also.yaml").symlink_to("../common.yaml")
    (origin.folder / "images.d").symlink_to("prod")
    origin.git("add", ".")
    good = origin.commit()
    assert fetch(settings).commit == good
    assert names(settings) == ["also.yaml", "web.yaml"]
    assert (settings.specs / "also.yaml").read_text() == "image: web:1\n"
    assert not (settings.specs / "also.yaml").is_symlink()
    secret = tmp_path / "secret"
    secret.write_text("image: secret\n")
    for target in (secret, Path("nowhere"), Path(".."), Path("/dev/zero")):
        (origin.folder / "prod/out.yaml").symlink_to(target)
        origin.git("add", ".")
        origin.commit()
        problem = fetch(settings).problem
        assert "out.yaml: it is a link, and not to a file of the repository" in str(problem)
        (origin.folder / "prod/out.yaml").unlink()
    (origin.folder / "images.d").unlink()
    (origin.folder / "images.d").symlink_to(tmp_path)
    origin.git("add", "--all", ".")
    origin.commit()
    found = fetch(settings)
    assert (found.commit, names(settings)) == (good, ["also.yaml", "web.yaml"])
    assert "images.d leads out of the repository" in str(found.problem)
    (origin.folder / "images.d").unlink()
    origin.git("mv", "prod", "images.d")
    commit = origin.commit()
    assert fetch(settings) == repository.Fetched(commit, changed=True, problem=None)


def test_a_full_disk_leaves_the_last_good_specs(
    origin: Origin, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = origin.commit(web="image: web:1\n")
    fetch(settings)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write_file", full)
    assert fetch(settings) == repository.Fetched(good, changed=False, problem=None)
    commit = origin.commit(web="image: web:2\n")
    found = fetch(settings)
    assert (found.commit, "No space left" in str(found.problem)) == (good, True)
    assert (settings.specs / "web.yaml").read_text() == "image: web:1\n"
    monkeypatch.undo()
    assert fetch(settings).commit == commit
    assert (settings.specs / "web.yaml").read_text() == "image: web:2\n"


def test_a_stalled_server_is_left_at_once_and_no_git_runs_on(settings: Settings) -> None:
    cancelled = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/specs.git"
        stalled = replace(settings, specs_repository=url)
        threading.Timer(0.5, cancelled.set).start()
        with pytest.raises(StoppedError), repository.fetched(stalled, cancelled=cancelled):
            pass
    assert processes.with_word(url) == []


def test_another_run_leaves_the_specs_alone_until_the_first_has_ended(origin: Origin, settings: Settings) -> None:
    origin.commit(web="image: web:1\n")
    waiting, done = threading.Event(), threading.Event()

    def second() -> None:
        with repository.fetched(settings, waiting.set):
            done.set()

    with repository.fetched(settings):
        origin.commit(web="image: web:2\n")
        other = threading.Thread(target=second)
        other.start()
        assert waiting.wait(10)
        assert (settings.specs / "web.yaml").read_text() == "image: web:1\n"
        assert not done.is_set()
    other.join(10)
    assert (settings.specs / "web.yaml").read_text() == "image: web:2\n"


def test_in_a_hook_of_git_s(origin: Origin, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has the other repository in its environment."""
    commit = origin.commit(web="image: web:1\n")
    for name, value in (("GIT_DIR", ".git"), ("GIT_INDEX_FILE", ".git/index"), ("GIT_WORK_TREE", str(origin.folder))):
        monkeypatch.setenv(name, value)
    assert fetch(settings).commit == commit
    assert names(settings) == ["web.yaml"]


class Keys:
    """Those of two who sign: ``known`` and ``stranger``."""

    def __init__(self, origin: Origin, folder: Path) -> None:
        self.origin = origin
        self.folder = folder

    def public(self, name: str) -> bytes:
        raise NotImplementedError

    def sign(self, name: str, **files: str) -> str:
        """Makes a signed commit."""
        raise NotImplementedError


class SshKeys(Keys):
    def public(self, name: str) -> bytes:
        path = self.folder / name
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        return path.with_suffix(".pub").read_bytes()

    def sign(self, name: str, **files: str) -> str:
        self.public(name)
        self.origin.git("config", "gpg.format", "ssh")
        self.origin.git("config", "user.signingkey", str(self.folder / name))
        return self.origin.commit("-S", **files)


class GpgKeys(Keys):
    def gpg(self, *arguments: str) -> bytes:
        environment = {"PATH": os.environ["PATH"], "GNUPGHOME": str(self.folder)}
        argv = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *arguments]
        return subprocess.run(argv, env=environment, check=True, capture_output=True).stdout

    def public(self, name: str) -> bytes:
        if not self.gpg("--list-keys", "--with-colons").count(f"<{name}@".encode()):
            self.gpg("--quick-generate-key", f"{name} <{name}@b.example>", "ed25519", "sign", "never")
        return self.gpg("--export", f"{name}@b.example")

    def sign(self, name: str, **files: str) -> str:
        self.public(name)
        self.origin.git("config", "gpg.format", "openpgp")
        self.origin.git("config", "user.signingkey", f"{name}@b.example")
        self.origin.more = {"GNUPGHOME": str(self.folder)}
        return self.origin.commit("-S", **files)


@pytest.fixture(params=[SshKeys, GpgKeys], ids=["ssh", "openpgp"])
def keys(request: pytest.FixtureRequest, origin: Origin) -> Iterator[Keys]:
    with tempfile.TemporaryDirectory(prefix="keys.") as folder:  # short, since gpg-agent's socket is in it
        yield request.param(origin, Path(folder))
        subprocess.run(["gpgconf", "--homedir", folder, "--kill", "all"], check=True)


def test_a_signature_of_a_known_key_is_needed_if_asked_for(keys: Keys, settings: Settings, tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    signers.write_bytes(keys.public("known"))
    settings = replace(settings, specs_signers=signers)
    good = keys.sign("known", web="image: web:1\n")
    assert fetch(settings).commit == good
    assert fetch(settings) == repository.Fetched(good, changed=False, problem=None)

    def refused() -> None:
        found = fetch(settings)
        assert found.commit == good
        assert "is not signed by a known key" in str(found.problem)
        assert names(settings) == ["web.yaml"]

    keys.sign("stranger", db="image: db:1\n")
    refused()
    keys.origin.commit(db="image: db:2\n")
    refused()
    better = keys.sign("known", db="image: db:3\n")
    assert fetch(settings) == repository.Fetched(better, changed=True, problem=None)


def test_keys_are_read_without_an_agent(
    keys: Keys, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's package gpg does not bring one along."""
    signers = tmp_path / "signers"
    signers.write_bytes(keys.public("known"))
    commit = keys.sign("known", web="image: web:1\n")
    program = tmp_path / "bin/gpg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("gpg")} --agent-program /nonexistent "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert fetch(replace(settings, specs_signers=signers)).commit == commit


def test_a_key_that_is_taken_away_takes_its_commits_along(keys: Keys, settings: Settings, tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    signers.write_bytes(keys.public("known"))
    settings = replace(settings, specs_signers=signers)
    keys.sign("known", web="image: web:1\n")
    fetch(settings)
    signers.write_bytes(keys.public("stranger"))
    for _ in range(2):  # the newest commit itself, and then one that is as bad
        with pytest.raises(LxdockerError, match="is not signed by a known key"):
            fetch(settings)
        keys.sign("known", db="image: db:1\n")
    commit = keys.sign("stranger", db="image: db:2\n")
    assert fetch(settings).commit == commit


def test_specs_from_before_signatures_were_asked_for_do_not_count(
    origin: Origin, settings: Settings, tmp_path: Path
) -> None:
    origin.commit(web="image: web:1\n")
    fetch(settings)
    signers = tmp_path / "signers"
    signers.write_bytes(SshKeys(origin, tmp_path).public("known"))
    settings = replace(settings, specs_signers=signers)
    with pytest.raises(LxdockerError, match="is not signed by a known key"):
        fetch(settings)
    origin.folder.rename(origin.folder.with_name("away"))
    with pytest.raises(LxdockerError, match="is not signed by a known key"):
        fetch(settings)


def test_a_commit_can_be_verified_after_git_has_cleaned_up(keys: Keys, settings: Settings, tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    signers.write_bytes(keys.public("known"))
    settings = replace(settings, specs_signers=signers)
    good = keys.sign("known", web="image: web:1\n")
    fetch(settings)
    keys.origin.commit(db="imag: db\n")
    fetch(settings)
    git = ["git", f"--git-dir={settings.specs.parent / 'repository'}"]
    subprocess.run([*git, "reflog", "expire", "--expire=now", "--all"], check=True)
    (settings.specs.parent / "repository/FETCH_HEAD").unlink()
    subprocess.run([*git, "gc", "--quiet", "--prune=now"], check=True)
    assert fetch(settings).commit == good


def test_why_specs_are_outdated_is_known_until_they_are_not(
    origin: Origin, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "checkout", lambda _: settings.specs)
    assert repository.outdated(settings) is None
    origin.commit(web="imag: web:1\n")
    with pytest.raises(LxdockerError) as caught:  # there is no older one
        fetch(settings)
    assert str(repository.outdated(settings)) == str(caught.value)
    origin.commit(web="image: web:1\n")
    fetch(settings)
    assert repository.outdated(settings) is None
    origin.commit(db="imag: db:1\n")
    found = fetch(settings)
    known = repository.outdated(settings)
    assert (str(known), known and known.resolution) == (str(found.problem), found.problem and found.problem.resolution)
    assert "db.yaml" in str(known)
    assert repository.outdated(replace(settings, specs=settings.specs.parent / "others")) is None
    (settings.specs.parent / "problem").write_text("[")
    assert repository.outdated(settings) is None


def test_what_keeps_a_commit_from_being_verified_is_said(
    origin: Origin, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = SshKeys(origin, tmp_path)
    (tmp_path / "signers").write_bytes(keys.public("known"))
    settings = replace(settings, specs_signers=tmp_path / "signers")
    keys.sign("known", web="image: web:1\n")
    fetch(settings)

    def full(*_: object, **__: object) -> None:
        raise FileNotFoundError("no usable temporary directory found")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", full)
        with pytest.raises(LxdockerError, match="cannot verify commit"):
            fetch(settings)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LxdockerError, match="no git on this host"):
        fetch(settings)


def test_without_git_the_specs_stay(origin: Origin, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    good = origin.commit(web="image: web:1\n")
    fetch(settings)
    monkeypatch.setenv("PATH", "/nonexistent")
    found = fetch(settings)
    assert found.commit == good
    assert str(found.problem).startswith("no git on this host")


@pytest.mark.parametrize("login", ["ann:pa55word", "pa55word", "pa55word:x-oauth-basic"])
def test_a_login_is_in_no_message_and_no_argument(settings: Settings, login: str) -> None:
    """Git itself leaves out a password, but not a user, which may be a token."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_address[1]}"
        with pytest.raises(LxdockerError) as caught:
            fetch(replace(settings, specs_repository=f"http://{login}@{place}/specs.git"))
        server.shutdown()
    assert place in str(caught.value)
    assert "pa55word" not in str(caught.value)


class Refusing(BaseHTTPRequestHandler):
    """Knows no login."""

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_no_url_runs_a_command(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(LxdockerError, match="failed"):
        fetch(replace(settings, specs_repository=f"ext::touch {tmp_path}/ran"))
    assert not (tmp_path / "ran").exists()
