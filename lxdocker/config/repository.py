"""A git repository as the folder of specs: fetched, checked, and then put in the place of the specs before.

Below one folder, which nobody else writes::

    repository/   git's own, bare
    current/      the specs of the last good commit; its path never changes, since images belong to it
    next/         those of another commit, until they are known to be good
    before/       current/, for the moment in which next/ takes its place
    commit        which commit current/ is
    problem       why current/ is not the newest, as JSON, if the last fetch has failed
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lxdocker import log
from lxdocker.config.settings import Settings, checkout
from lxdocker.config.signers import Signers
from lxdocker.config.spec import load_specs
from lxdocker.errors import LxdockerError, SpecError, UsageError
from lxdocker.files import durable, lock, rights
from lxdocker.reasons import in_words

CURRENT = "current"
PROBLEM = "problem"
SUBFOLDER = "images.d"
SECONDS = 300
_REMOTE = "specs"
_IN_FORCE = "refs/lxdocker/current"  # git would delete the commit in time, which may have to be verified again
# What a repository of specs may be fetched by: nothing that runs a command.
_PROTOCOLS = "file:git:http:https:ssh"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of it."""

    commit: str  # of the specs that are in force; '' for none
    changed: bool
    problem: LxdockerError | None  # why they are not the newest


def fetch(settings: Settings) -> Fetched:
    """Brings the specs up to date. Where that fails, those of the last good commit stay in force. Raises LxdockerError
    if there has never been one, or if it is not good any more: signed by none of the keys that are asked for now.
    """
    assert settings.specs_repository is not None  # noqa: S101 - for the type checker: the caller asked
    folder = settings.specs.parent
    try:
        rights.make_folder(folder, rights.PRIVATE)
        with lock.folder(folder):
            try:
                found = _fetch(folder, settings)
            except LxdockerError as error:
                _note(folder, error)
                raise
            _note(folder, found.problem)
            return found
    except OSError as error:
        raise UsageError(f"cannot use {folder}", in_words(error), "specs of a repository are kept there") from error


def is_source(settings: Settings) -> bool:
    """Whether the specs are those of a repository: one is set, and no other folder named."""
    return settings.specs_repository is not None and settings.specs == checkout(os.environ)


def outdated(settings: Settings) -> LxdockerError | None:
    """Why the specs are not the newest of their repository, as far as the last fetch knew."""
    if not is_source(settings):
        return None
    try:
        found = json.loads((settings.specs.parent / PROBLEM).read_text())
        what, why, do = (str(found[key]) for key in ("what", "why", "do"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return LxdockerError(what, why, do)


def _note(folder: Path, error: LxdockerError | None) -> None:
    if error is None:
        (folder / PROBLEM).unlink(missing_ok=True)
        return
    found = {"what": error.brief, "why": error.details, "do": error.resolution}
    durable.write_file(folder / PROBLEM, json.dumps(found).encode(), 0o644)


def _fetch(folder: Path, settings: Settings) -> Fetched:
    _mend(folder)
    before = _known(folder)
    git = _Git(folder / "repository", settings)
    try:
        commit = git.fetch()
        git.verify(commit)
        if commit == before:
            return Fetched(before, changed=False, problem=None)
        _check_out(git, commit, folder / "next")
    except LxdockerError as error:
        if not before:
            raise
        git.verify(before)
        return Fetched(before, changed=False, problem=error)
    git.keep(commit)
    _put_in_place(folder, commit)
    return Fetched(commit, changed=True, problem=None)


def _mend(folder: Path) -> None:
    """What a run that was killed may have left."""
    if not (folder / CURRENT).exists() and (folder / "before").exists():
        (folder / "before").rename(folder / CURRENT)
    for name in ("next", "before"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _known(folder: Path) -> str:
    """The commit of the specs that are there; '' for none, and where a killed run has left that open."""
    if not (folder / CURRENT).exists():
        return ""
    try:
        return (folder / "commit").read_text().strip()
    except FileNotFoundError:
        return ""


def _check_out(git: _Git, commit: str, target: Path) -> None:
    """The specs of a commit. Raises LxdockerError where they are not all valid."""
    whole = target.with_name("next")
    whole.mkdir()
    git.check_out(commit, whole)
    if (whole / SUBFOLDER).is_dir():
        (whole / SUBFOLDER).rename(target.with_name("next.d"))
        shutil.rmtree(whole)
        target.with_name("next.d").rename(target)
    try:
        load_specs(target)
    except SpecError as error:
        raise SpecError(
            f"the specs of commit {commit[:12]} are invalid", error.details, error.resolution, error.mistakes
        ) from error


def _put_in_place(folder: Path, commit: str) -> None:
    if (folder / CURRENT).exists():
        (folder / "commit").unlink(missing_ok=True)
        (folder / CURRENT).rename(folder / "before")
    durable.move(folder / "next", folder / CURRENT)
    durable.write_file(folder / "commit", f"{commit}\n".encode(), 0o644)
    shutil.rmtree(folder / "before", ignore_errors=True)


class _Git:
    """git, in a bare repository."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._url = settings.specs_repository or ""
        self._branch = settings.specs_branch
        self._signers = settings.specs_signers

    def fetch(self) -> str:
        """The newest commit. Raises LxdockerError."""
        if not (self._folder / "HEAD").exists():
            self._run(["init", "--quiet", "--bare", str(self._folder)], "making a repository", inside=False)
        branch = f"refs/heads/{self._branch}" if self._branch else "HEAD"
        what = f"fetching specs from {_shown(self._url)}"
        self._run(["fetch", "--quiet", "--depth=1", "--no-tags", _REMOTE, branch], what)
        return self._run(["rev-parse", "--verify", "FETCH_HEAD^{commit}"], what).strip()

    def check_out(self, commit: str, target: Path) -> None:
        what = f"checking out commit {commit[:12]}"
        self._run([f"--work-tree={target}", "checkout", "--quiet", "--force", commit, "--", "."], what)

    def keep(self, commit: str) -> None:
        self._run(["update-ref", _IN_FORCE, commit], f"keeping commit {commit[:12]}")

    def verify(self, commit: str) -> None:
        """Raises LxdockerError unless one of the keys that were asked for, if any, has signed the commit."""
        path = self._signers
        if path is None:
            return
        try:
            signers = Signers.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise UsageError(f"cannot read {path}", in_words(error), "correct the setting specs_signers") from error
        what = f"verifying commit {commit[:12]}"
        with tempfile.TemporaryDirectory(prefix="lxdocker-keys.") as home:
            if signers.kind == "openpgp":
                self._gpg(home, signers.content)
                config, more = {"gpg.format": "openpgp", "gpg.minTrustLevel": "undefined"}, {"GNUPGHOME": home}
            else:
                (Path(home) / "signers").write_bytes(signers.content)
                config, more = {"gpg.format": "ssh", "gpg.ssh.allowedSignersFile": f"{home}/signers"}, {}
            try:
                self._run(["verify-commit", commit], what, config=config, more=more)
            except LxdockerError as error:
                raise LxdockerError(
                    f"commit {commit[:12]} is not signed by a known key",
                    error.details or "it has no signature",
                    f"sign it with a key in {path}, or add the key there",
                ) from error

    @staticmethod
    def _gpg(home: str, keys: bytes) -> None:
        # Public keys need no agent, which may not be installed, and would run on.
        argv = ["gpg", "--batch", "--quiet", "--no-autostart", "--homedir", home, "--import"]
        what = "cannot read the keys of signers"
        log.command(argv)
        try:
            done = subprocess.run(argv, input=keys, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UsageError(what, in_words(error), "apt install gpg") from error
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip()
            raise UsageError(what, why, "correct the file of the setting specs_signers")

    def _run(
        self,
        arguments: Sequence[str],
        what: str,
        *,
        inside: bool = True,
        config: Mapping[str, str] | None = None,
        more: Mapping[str, str] | None = None,
    ) -> str:
        argv = ["git", *([f"--git-dir={self._folder}"] if inside else []), *arguments]
        log.command(argv)
        # The URL, which may hold a login, is in no argument.
        wanted = {"core.hooksPath": "/dev/null", **({f"remote.{_REMOTE}.url": self._url} if inside else {})}
        pairs = list({**wanted, **(config or {})}.items())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_CONFIG_")}
        environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _PROTOCOLS, "LC_ALL": "C.UTF-8"}
        environment |= {"GIT_CONFIG_COUNT": str(len(pairs)), **(more or {})}
        for number, (key, value) in enumerate(pairs):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        try:
            done = subprocess.run(
                argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
            )
        except FileNotFoundError as error:
            raise UsageError(
                "no git on this host", "the setting specs_repository needs it", "apt install git"
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            why = (
                f"it took longer than {SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else in_words(error)
            )
            raise LxdockerError(f"{what} failed", log.hidden(why), "check the setting specs_repository") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-1000:].replace(self._url, _shown(self._url))
            raise LxdockerError(
                f"{what} failed", log.hidden(said), "check the setting specs_repository, and the way there"
            )
        return done.stdout.decode("utf-8", "replace")


def _shown(url: str) -> str:
    """Without its login."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url
