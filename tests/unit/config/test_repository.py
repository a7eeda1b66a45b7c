"""Specs of a git repository: only good ones take the place of those before."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lxdocker.config import repository
from lxdocker.config.settings import Settings
from lxdocker.errors import LxdockerError


class Origin:
    """A repository that somebody commits to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, **more: str) -> str:
        own = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **own, **more}
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


def names(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.specs.glob("*.yaml"))


def test_each_commit_takes_the_place_of_the_one_before(origin: Origin, settings: Settings) -> None:
    first = origin.commit(web="image: web:1\n")
    assert repository.fetch(settings) == repository.Fetched(first, changed=True, problem=None)
    assert names(settings) == ["web.yaml"]
    assert repository.fetch(settings) == repository.Fetched(first, changed=False, problem=None)
    (origin.folder / "web.yaml").unlink()
    second = origin.commit(db="image: db:1\n")
    assert repository.fetch(settings).commit == second
    assert names(settings) == ["db.yaml"]
    assert sorted(path.name for path in settings.specs.parent.iterdir()) == ["commit", "current", "repository"]


def test_its_folder_images_d_comes_first(origin: Origin, settings: Settings) -> None:
    origin.commit(ci="jobs: []\n", images__d="not this one\n")
    with pytest.raises(LxdockerError, match="invalid"):
        repository.fetch(settings)
    (origin.folder / "images.d").mkdir()
    (origin.folder / "images.d/web.yaml").write_text("image: web:1\n")
    origin.commit()
    repository.fetch(settings)
    assert names(settings) == ["web.yaml"]


def test_a_branch(origin: Origin, settings: Settings) -> None:
    from dataclasses import replace

    origin.commit(web="image: web:1\n")
    origin.git("switch", "--quiet", "-c", "stable")
    stable = origin.commit(db="image: db:1\n")
    origin.git("switch", "--quiet", "main")
    origin.commit(more="image: more:1\n")
    assert repository.fetch(replace(settings, specs_branch="stable")).commit == stable


def test_invalid_specs_and_an_unreachable_repository_leave_the_last_good_ones(
    origin: Origin, settings: Settings
) -> None:
    good = origin.commit(web="image: web:1\n")
    repository.fetch(settings)
    origin.commit(db="imag: db:1\n")
    found = repository.fetch(settings)
    assert (found.commit, found.changed) == (good, False)
    assert "db.yaml" in str(found.problem)
    assert names(settings) == ["web.yaml"]
    origin.folder.rename(origin.folder.with_name("away"))
    found = repository.fetch(settings)
    assert found.commit == good
    assert "fetching specs from file://" in str(found.problem)
    assert (settings.specs / "web.yaml").read_text() == "image: web:1\n"


@pytest.mark.parametrize("left", ["between", "before the new one", "after the new one"])
def test_a_killed_run_is_mended(origin: Origin, settings: Settings, left: str) -> None:
    commit = origin.commit(web="image: web:1\n")
    repository.fetch(settings)
    folder = settings.specs.parent
    if left == "between":
        (folder / "current").rename(folder / "before")
        (folder / "commit").unlink()
    elif left == "before the new one":
        (folder / "next").mkdir()
        (folder / "next/half.yaml").write_text("image: ")
    else:
        (folder / "commit").unlink()
        (folder / "before").mkdir()
    found = repository.fetch(settings)
    assert (found.commit, found.problem) == (commit, None)
    assert names(settings) == ["web.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == ["commit", "current", "repository"]


def test_a_signature_of_a_known_key_is_needed_if_asked_for(origin: Origin, settings: Settings, tmp_path: Path) -> None:
    from dataclasses import replace

    for name in ("known", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"* {(tmp_path / 'known.pub').read_text()}")
    settings = replace(settings, specs_signers=signers)

    def signed(name: str, **files: str) -> str:
        origin.git("config", "gpg.format", "ssh")
        origin.git("config", "user.signingkey", str(tmp_path / name))
        return origin.commit("-S", **files)

    good = signed("known", web="image: web:1\n")
    assert repository.fetch(settings).commit == good

    def refused() -> None:
        found = repository.fetch(settings)
        assert found.commit == good
        assert "is not signed by a known key" in str(found.problem)
        assert names(settings) == ["web.yaml"]

    signed("stranger", db="image: db:1\n")
    refused()
    origin.commit(db="image: db:2\n")
    refused()


def test_a_login_is_in_no_message_and_no_argument(settings: Settings) -> None:
    from dataclasses import replace

    secret = replace(settings, specs_repository="https://ann:pa55word@127.0.0.1:1/specs.git")
    with pytest.raises(LxdockerError) as caught:
        repository.fetch(secret)
    assert "127.0.0.1:1/specs.git" in str(caught.value)
    assert "pa55word" not in str(caught.value)


def test_no_url_runs_a_command(settings: Settings, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(LxdockerError, match="failed"):
        repository.fetch(replace(settings, specs_repository=f"ext::touch {tmp_path}/ran"))
    assert not (tmp_path / "ran").exists()
