"""Registry credentials from the auth files that podman, skopeo and docker already keep.

The files and their order are those of containers-auth.json(5); helpers are asked as Docker asks them
(https://github.com/docker/docker-credential-helpers, the ``get`` verb on stdin). Nothing is ever written, and
no secret gets into a repr, an error or a command line.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxdocker import log
from lxdocker.errors import AuthError
from lxdocker.http.url import basic
from lxdocker.values import DEFAULT_REGISTRY, RegistryRef, home_folder, parse_registry_host, same_registry

_MAX_BYTES = 1024 * 1024
_HELPER_SECONDS = 20.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Docker Hub's name in auth files and helpers, older than its other names.
_HUB_KEY = "https://index.docker.io/v1/"
# What a helper or a file calls the user when the secret is an identity token.
_TOKEN_USER = "<token>"  # noqa: S105 - no secret, but the name that says that what follows is a token


@dataclass(frozen=True, slots=True)
class Credential:
    """A login for one registry: a password, or an identity token to trade for access tokens."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""  # the file or helper it is from, for messages

    @property
    def basic(self) -> str:
        """The Authorization header. A secret."""
        return basic(f"{self.username}:{self.password}")


class Credentials:
    """All logins of this user. Thread-safe; files are read once, helpers are asked once per registry."""

    def __init__(self, environ: Mapping[str, str] | None = None, home: Path | None = None) -> None:
        """``environ`` and ``home`` default to those of this process."""
        self._environ = dict(os.environ if environ is None else environ)
        self._home = home or home_folder(self._environ)
        self._lock = threading.Lock()
        self._files: list[_AuthFile] | None = None
        self._helped: dict[tuple[str, str], Credential | None] = {}
        self._notes: list[str] = []

    @property
    def looked_at(self) -> tuple[str, ...]:
        """The auth files that are looked at, in order, whether or not they exist."""
        return tuple(str(path) for path in self._paths())

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong with auth files and credential helpers so far, one line each: context for a refused login."""
        with self._lock:
            return tuple(self._notes)

    def for_ref(self, ref: RegistryRef) -> Credential | None:
        """The login for ``ref``, None to go there anonymously.

        The first file that knows the registry decides; in it the longest key that covers the repository
        (``quay.io/team/repo``, ``quay.io/team``, ``quay.io``). A helper that fails counts as one without this login,
        since public images must not depend on it, and so does a file that this user cannot read. Raises AuthError for
        an invalid auth file, and for an unreadable one that REGISTRY_AUTH_FILE names.
        """
        with self._lock:
            if self._files is None:
                self._files = self._read_all()
            for file in self._files:
                credential = self._in_file(file, ref)
                if credential:
                    return credential
        return None

    def authfile_json(self, ref: RegistryRef) -> str | None:
        """An auth.json with the one entry ``ref`` needs, None if it needs none. A secret."""
        credential = self.for_ref(ref)
        if not credential:
            return None
        login = f"{credential.username}:{credential.password}"
        entry = {"auth": base64.b64encode(login.encode()).decode("ascii")}
        if credential.identity_token:
            entry["identitytoken"] = credential.identity_token
        return json.dumps({"auths": {ref.spelled: entry}})

    def _paths(self) -> list[Path]:
        only = self._environ.get("REGISTRY_AUTH_FILE")
        if only:
            return [Path(only)]
        runtime = self._environ.get("XDG_RUNTIME_DIR")
        config = self._environ.get("XDG_CONFIG_HOME")
        docker = self._environ.get("DOCKER_CONFIG")
        return [
            *([Path(runtime) / _IN_RUNTIME] if runtime else _without_runtime(os.getuid())),
            (Path(config) if config else self._home / ".config") / "containers/auth.json",
            (Path(docker) if docker else self._home / ".docker") / "config.json",
            self._home / ".dockercfg",
        ]

    def _read_all(self) -> list[_AuthFile]:
        named = self._environ.get("REGISTRY_AUTH_FILE")
        files: list[_AuthFile | None] = []
        for path in self._paths():
            try:
                files.append(_read(path))
            except _UnreadableError as error:
                if named:
                    raise _unusable(path, str(error)) from None
                # Other users' folders are often closed, and most images need no login.
                self._notes.append(f"{path}: {error}")
        if named and files == [None]:
            raise AuthError(
                f"no auth file {named}",
                "REGISTRY_AUTH_FILE names it",
                "correct or unset REGISTRY_AUTH_FILE, or create the file with 'skopeo login'",
            )
        return [file for file in files if file]

    def _in_file(self, file: _AuthFile, ref: RegistryRef) -> Credential | None:
        names = same_registry(ref.registry)
        helper = next((file.helpers[name] for name in names if name in file.helpers), file.store)
        if helper:
            credential = self._from_helper(helper, _server_key(ref.registry))
            if credential:
                return credential
        for key in _keys(ref):
            for entry in file.auths.get(key, ()):
                credential = _credential(entry, file.path)
                if credential:
                    return credential
        return None

    def _from_helper(self, helper: str, server: str) -> Credential | None:
        if (helper, server) not in self._helped:
            try:
                self._helped[helper, server] = _ask_helper(helper, server, self._environ)
            except _HelperError as error:
                self._helped[helper, server] = None
                self._notes.append(f"docker-credential-{helper}: {error}")
        return self._helped[helper, server]


_IN_RUNTIME = "containers/auth.json"


def _without_runtime(uid: int) -> list[Path]:
    """Where skopeo looks without XDG_RUNTIME_DIR; and where it looked when somebody logged in with it: cron and systemd
    do not set it.
    """
    return [Path(f"/run/containers/{uid}/auth.json"), Path(f"/run/user/{uid}") / _IN_RUNTIME]


class _HelperError(Exception):
    """A credential helper did not answer; the text quotes nothing of its stdout."""


class _UnreadableError(Exception):
    """There may be a file, but this user cannot read it."""


@dataclass(frozen=True, slots=True)
class _AuthFile:
    path: Path
    auths: Mapping[str, Sequence[Mapping[str, Any]]] = field(
        repr=False
    )  # by normalized key, of which several may be one
    helpers: Mapping[str, str]
    store: str


def _read(path: Path) -> _AuthFile | None:
    """None for no such file. Raises _UnreadableError, and AuthError for an invalid auth file."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _UnreadableError(f"it cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_BYTES:
        raise _unusable(path, "it is larger than 1 MiB")
    if not raw.strip():
        return None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):  # its text would quote the file
        raise _unusable(path, "it is not JSON") from None
    if not isinstance(document, dict):
        raise _unusable(path, "it is not a JSON object")
    # The legacy file is what later became the member "auths".
    auths = document if path.name == ".dockercfg" else document.get("auths")
    helpers = document.get("credHelpers")
    store = document.get("credsStore")
    entries: dict[str, list[Mapping[str, Any]]] = {}
    for key, entry in sorted(_mapping(auths).items(), key=lambda item: _HUB_KEY not in item[0]):
        if isinstance(entry, dict):
            entries.setdefault(_normalized(key), []).append(entry)
    return _AuthFile(
        path,
        entries,
        {_normalized(key): name for key, name in _mapping(helpers).items() if isinstance(name, str)},
        store if isinstance(store, str) else "",
    )


def _unusable(path: Path, why: str) -> AuthError:
    return AuthError(
        f"the auth file {path} cannot be used",
        why,
        "repair or remove it; 'skopeo login HOST' writes a new one",
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _normalized(key: str) -> str:
    """A file's key without what Docker adds, ``https://host/v1/`` is ``host``, the registry as references have it."""
    scheme, separator, rest = key.rpartition("://")
    host, slash, path = rest.rstrip("/").partition("/")
    with suppress(ValueError):
        host = parse_registry_host(host)
    return host if separator and scheme.lower() in ("https", "http") else f"{host}{slash}{path}"


def _keys(ref: RegistryRef) -> list[str]:
    """The keys that cover ``ref``, the longest first."""
    parts = ref.repository.split("/")
    hosts = same_registry(ref.registry)
    return ["/".join([host, *parts[:length]]) for length in range(len(parts), -1, -1) for host in hosts]


def _server_key(registry: str) -> str:
    return _HUB_KEY if registry == DEFAULT_REGISTRY else registry


def _credential(entry: Mapping[str, Any], path: Path) -> Credential | None:
    """None for an entry without a login: Docker leaves empty ones for logins that a helper keeps."""
    text = {key: value for key, value in entry.items() if isinstance(value, str) and value}
    username, password = text.get("username", ""), text.get("password", "")
    if "auth" in text:
        try:
            decoded = base64.b64decode(text["auth"], validate=False).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _unusable(path, "the member 'auth' of an entry is not base64 of USER:PASSWORD") from None
        # Only the first colon separates: a user name has none, a password may.
        username, _, password = decoded.partition(":")
        password = password.rstrip("\0")  # some versions of Docker padded it
    token = text.get("identitytoken", "")
    if not token and (not username or not password):
        return None
    return Credential(username or _TOKEN_USER, password, token, str(path))


def _ask_helper(helper: str, server: str, environ: Mapping[str, str]) -> Credential | None:
    """What ``docker-credential-HELPER get`` knows about ``server``; raises _HelperError."""
    if not _HELPER_NAME.fullmatch(helper):
        raise _HelperError("not the name of a credential helper")
    argv = [f"docker-credential-{helper}", "get"]
    log.command(argv)
    try:
        done = subprocess.run(
            argv,
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            env=dict(environ),
            check=False,
        )
    except FileNotFoundError:
        raise _HelperError("not found in PATH") from None
    except subprocess.TimeoutExpired:
        raise _HelperError(f"no answer in {_HELPER_SECONDS:.0f} s") from None
    except OSError as error:
        raise _HelperError(error.strerror or "it cannot be started") from None
    if done.returncode:
        # The protocol's only way to say "none" is this sentence, on stdout.
        if b"credentials not found" in done.stdout.lower():
            return None
        raise _HelperError(f"exit status {done.returncode}")
    try:
        answer = json.loads(done.stdout[:_MAX_BYTES])
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise _HelperError("the answer is not JSON with Username and Secret") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise _HelperError("the answer is not JSON with Username and Secret")
    if not secret:
        return None
    source = f"docker-credential-{helper}"
    if username == _TOKEN_USER:
        return Credential(username, "", secret, source)
    return Credential(username, secret, "", source)
