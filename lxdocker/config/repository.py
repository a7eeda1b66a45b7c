"""A git repository as the folder of specs: fetched, checked, and then put in the place of the specs before.

Below one folder, which nobody else writes::

    repository/   git's own, bare
    current/      the specs of the last good commit; its path never changes, since images belong to it
    whole/        all of another commit
    next/         its specs, until they are known to be good
    next.commit   which commit that is
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
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lxdocker import log, program
from lxdocker.config.settings import Settings, checkout
from lxdocker.config.signers import Signers
from lxdocker.config.spec import is_yaml, load_specs
from lxdocker.errors import LxdockerError, SpecError, UsageError
from lxdocker.files import durable, lock, rights
from lxdocker.files.seen import exists, is_dir, is_file
from lxdocker.reasons import in_words

CURRENT = "current"
PROBLEM = "problem"
SUBFOLDER = "images.d"
SECONDS = 300
_REMOTE = "specs"
# A server that says nothing for a minute is given up.
_PATIENCE = {"http.lowSpeedLimit": "1", "http.lowSpeedTime": "60"}
# What is about another repository: git sets it for hooks (git rev-parse --local-env-vars).
_OTHERS = (
    *("GIT_CONFIG", "GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_SHALLOW_FILE"),
    *("GIT_GRAFT_FILE", "GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE", "GIT_QUARANTINE_PATH", "GIT_NAMESPACE"),
)
_IN_FORCE = "refs/lxdocker/current"  # git would delete the commit in time, which may have to be verified again
# What a repository of specs may be fetched by: nothing that runs a command.
_PROTOCOLS = "file:git:http:https:ssh"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of it."""

    commit: str  # of the specs that are in force; '' for none
    changed: bool
    problem: LxdockerError | None  # why they are not the newest


@contextmanager
def fetched(
    settings: Settings, busy: Callable[[], None] = lambda: None, cancelled: threading.Event | None = None
) -> Iterator[Fetched]:
    """Brings the specs up to date, and keeps them as they are for the block: another run that fetches waits, of which
    ``busy`` is told. Where it fails, those of the last good commit stay in force.

    Raises LxdockerError if there has never been one, or if it is not good any more, signed by none of the keys that are
    asked for now; StoppedError if ``cancelled``.
    """
    folder = settings.specs.parent
    git = _Git(folder / "repository", settings, cancelled or threading.Event())
    with ExitStack() as held:
        try:
            rights.make_folder(folder, rights.PRIVATE)
            held.enter_context(lock.folder(folder, busy, cancelled))
            found = _fetch(folder, git)
        except OSError as error:
            problem = UsageError(f"cannot use {folder}", in_words(error), "specs of a repository are kept there")
            found = _as_before(folder, git, problem)
        yield found


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


def _fetch(folder: Path, git: _Git) -> Fetched:
    _mend(folder)
    before = _known(folder)
    try:
        commit = git.fetch()
        git.verify(commit)
        if commit != before:
            _check_out(git, commit, folder / "next")
            git.keep(commit)
            _put_in_place(folder, commit)
    except OSError as error:
        why, do = in_words(error), f"make room in {folder}, or see who may write there"
        return _as_before(folder, git, LxdockerError("cannot update the specs from their repository", why, do))
    except LxdockerError as error:
        return _as_before(folder, git, error)
    with suppress(OSError):
        (folder / PROBLEM).unlink(missing_ok=True)
    return Fetched(commit, changed=commit != before, problem=None)


def _as_before(folder: Path, git: _Git, problem: LxdockerError) -> Fetched:
    """What is in force where the newest commit could not be used. Raises ``problem`` if nothing is."""
    found = {"what": problem.brief, "why": problem.details, "do": problem.resolution}
    with suppress(OSError):  # a full disk is such a problem
        _mend(folder)
        durable.write_file(folder / PROBLEM, json.dumps(found).encode(), 0o644)
    before = _known(folder)
    if not before:
        raise problem
    git.verify(before)
    return Fetched(before, changed=False, problem=problem)


def _mend(folder: Path) -> None:
    """What a run that was killed may have left. No git of ours is at work: this run holds the folder's lock."""
    if not exists(folder / CURRENT) and exists(folder / "before"):
        (folder / "before").rename(folder / CURRENT)
    if not exists(folder / "next") and exists(folder / "next.commit"):
        (folder / "next.commit").rename(folder / "commit")  # current/ was next/ already
    for name in ("next", "next.commit", "before", "whole"):
        _remove(folder / name)
    for path in (folder / "repository").rglob("*.lock"):
        path.unlink()


def _remove(path: Path) -> None:
    if is_dir(path) and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _known(folder: Path) -> str:
    """The commit of the specs that are there; '' for none, and where a killed run has left that open."""
    if not exists(folder / CURRENT):
        return ""
    try:
        return (folder / "commit").read_text().strip()
    except FileNotFoundError:
        return ""


def _check_out(git: _Git, commit: str, target: Path) -> None:
    """The specs of a commit. Raises LxdockerError where they are not all valid."""
    whole = target.with_name("whole")
    whole.mkdir()
    git.check_out(commit, whole)
    invalid = f"the specs of commit {commit[:12]} are invalid"
    specs = (whole / SUBFOLDER).resolve()
    if not is_dir(specs):
        specs = whole.resolve()
    if not specs.is_relative_to(whole.resolve()):
        raise SpecError(invalid, f"{SUBFOLDER} leads out of the repository", "commit a folder")
    for path in sorted(specs.iterdir()):
        if path.is_symlink() and is_yaml(path.name):
            _copy_what_it_names(path, whole.resolve(), invalid)
    specs.rename(target)
    _remove(whole)
    try:
        load_specs(target)
    except SpecError as error:
        raise SpecError(invalid, error.details, error.resolution, error.mistakes) from error


def _copy_what_it_names(link: Path, root: Path, invalid: str) -> None:
    """Puts a file of the repository in the place of a link to it."""
    named = link.resolve()
    if not named.is_relative_to(root) or not is_file(named):
        why = f"{link.name}: it is a link, and not to a file of the repository"
        raise SpecError(invalid, why, "commit the file itself")
    link.unlink()
    shutil.copyfile(named, link)


def _put_in_place(folder: Path, commit: str) -> None:
    """From what needs room to what needs none."""
    durable.write_file(folder / "next.commit", f"{commit}\n".encode(), 0o644)
    if exists(folder / CURRENT):
        (folder / CURRENT).rename(folder / "before")
    durable.move(folder / "next", folder / CURRENT)
    (folder / "next.commit").rename(folder / "commit")
    _remove(folder / "before")


class _Git:
    """git, in a bare repository."""

    def __init__(self, folder: Path, settings: Settings, cancelled: threading.Event) -> None:
        self._folder = folder
        self._cancelled = cancelled
        self._url = settings.specs_repository or ""
        self._branch = settings.specs_branch
        self._signers = settings.specs_signers

    def fetch(self) -> str:
        """The newest commit. Raises LxdockerError."""
        if not exists(self._folder / "HEAD"):
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
        try:
            with tempfile.TemporaryDirectory(prefix="lxdocker-keys.") as home:
                self._verify(commit, signers, home)
        except OSError as error:
            do = "make room in the folder for temporary files"
            raise LxdockerError(f"cannot verify commit {commit[:12]}", in_words(error), do) from error

    def _verify(self, commit: str, signers: Signers, home: str) -> None:
        if signers.kind == "openpgp":
            self._gpg(home, signers.content)
            config, more = {"gpg.format": "openpgp", "gpg.minTrustLevel": "undefined"}, {"GNUPGHOME": home}
        else:
            (Path(home) / "signers").write_bytes(signers.content)
            config, more = {"gpg.format": "ssh", "gpg.ssh.allowedSignersFile": f"{home}/signers"}, {}
        try:
            self._run(["verify-commit", commit], f"verifying commit {commit[:12]}", config=config, more=more)
        except UsageError:  # it could not even be looked at
            raise
        except LxdockerError as error:
            raise LxdockerError(
                f"commit {commit[:12]} is not signed by a known key",
                error.details or "it has no signature",
                f"sign it with a key in {self._signers}, or add the key there",
            ) from error

    def _gpg(self, home: str, keys: bytes) -> None:
        # Public keys need no agent, which may not be installed, and would run on.
        argv = ["gpg", "--batch", "--quiet", "--no-autostart", "--homedir", home, "--import"]
        what = "cannot read the keys of signers"
        try:
            done = program.run(argv, environment=os.environ, seconds=60, cancelled=self._cancelled, given=keys)
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
        # The URL, which may hold a login, is in no argument.
        wanted = {
            "core.hooksPath": "/dev/null",
            "core.fsync": "committed",
            **_PATIENCE,
            **({f"remote.{_REMOTE}.url": self._url} if inside else {}),
        }
        pairs = list({**wanted, **(config or {})}.items())
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
        environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _PROTOCOLS, "LC_ALL": "C.UTF-8"}
        environment |= {"GIT_CONFIG_COUNT": str(len(pairs)), **(more or {})}
        for number, (key, value) in enumerate(pairs):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        try:
            done = program.run(argv, environment=environment, seconds=SECONDS, cancelled=self._cancelled)
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
