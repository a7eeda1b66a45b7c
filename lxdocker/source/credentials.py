"""Registry credentials from the auth files that podman, skopeo and docker already keep.

The files and their order are those of containers-auth.json(5); helpers are asked the way Docker asks them
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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxdocker.errors import AuthError
from lxdocker.values import RegistryRef

_MAX_BYTES = 1024 * 1024
_HELPER_SECONDS = 20.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Docker Hub's name in auth files and helpers, older than its other names.
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = {"docker.io", "index.docker.io", "registry-1.docker.io"}
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
        """The value of an ``Authorization: Basic`` header (RFC 7617, UTF-8). A secret."""
        return "Basic " + _encode(f"{self.username}:{self.password}")


class Credentials:
    """All logins this user has. Thread-safe; files are read once, helpers are asked once per registry."""

    def __init__(self, environ: Mapping[str, str] | None = None, home: Path | None = None) -> None:
        """``environ`` and ``home`` default to those of this process."""
        self._environ = dict(os.environ if environ is None else environ)
        self._home = home or Path(self._environ.get("HOME") or Path.home())
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
        """What went wrong with credential helpers so far, one line each: context for a refused login."""
        with self._lock:
            return tuple(self._notes)

    def for_ref(self, ref: RegistryRef) -> Credential | None:
        """The login for ``ref``, None to go there anonymously.

        The first file that knows the registry decides; in it the longest key that covers the repository
        (``quay.io/team/repo``, ``quay.io/team``, ``quay.io``). A helper that fails counts as one that has
        nothing, as public images must not depend on it. Raises AuthError for an auth file that can't be read.
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
        entry = {"auth": _encode(f"{credential.username}:{credential.password}")}
        if credential.identity_token:
            entry["identitytoken"] = credential.identity_token
        return json.dumps({"auths": {ref.registry: entry}})

    def _paths(self) -> list[Path]:
        only = self._environ.get("REGISTRY_AUTH_FILE")
        if only:
            return [Path(only)]
        runtime = self._environ.get("XDG_RUNTIME_DIR")
        config = self._environ.get("XDG_CONFIG_HOME")
        docker = self._environ.get("DOCKER_CONFIG")
        return [
            (Path(runtime) if runtime else Path(f"/run/containers/{os.getuid()}")) / _CONTAINERS_PATH[bool(runtime)],
            (Path(config) if config else self._home / ".config") / "containers/auth.json",
            (Path(docker) if docker else self._home / ".docker") / "config.json",
            self._home / ".dockercfg",
        ]

    def _read_all(self) -> list[_AuthFile]:
        files = [_read(path) for path in self._paths()]
        named = self._environ.get("REGISTRY_AUTH_FILE")
        if named and files == [None]:
            raise AuthError(
                f"The auth file {named} is not there",
                "REGISTRY_AUTH_FILE names it",
                "Correct or unset REGISTRY_AUTH_FILE, or create the file with 'skopeo login'.",
            )
        return [file for file in files if file]

    def _in_file(self, file: _AuthFile, ref: RegistryRef) -> Credential | None:
        helper = next((file.helpers[host] for host in _hosts(ref.registry) if host in file.helpers), file.store)
        if helper:
            credential = self._from_helper(helper, _server_key(ref.registry))
            if credential:
                return credential
        for key in _keys(ref):
            entry = file.auths.get(key)
            credential = _credential(entry, file.path) if entry else None
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


# Under XDG_RUNTIME_DIR there is a folder in between; the fallback has none.
_CONTAINERS_PATH = {True: "containers/auth.json", False: "auth.json"}


class _HelperError(Exception):
    """A credential helper did not answer; the text holds nothing it said on stdout."""


@dataclass(frozen=True, slots=True)
class _AuthFile:
    path: Path
    auths: Mapping[str, Mapping[str, Any]] = field(repr=False)  # by normalized key
    helpers: Mapping[str, str]
    store: str


def _read(path: Path) -> _AuthFile | None:
    """None where there is no such file. Raises AuthError for what is there but not an auth file."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path, f"it can't be read: {error.strerror}") from None
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
    return _AuthFile(
        path,
        {_normalized(key): entry for key, entry in _mapping(auths).items() if isinstance(entry, dict)},
        {_normalized(key): name for key, name in _mapping(helpers).items() if isinstance(name, str)},
        store if isinstance(store, str) else "",
    )


def _unusable(path: Path, why: str) -> AuthError:
    return AuthError(
        f"The auth file {path} can't be used",
        why,
        "Repair or remove it; 'skopeo login HOST' writes a new one.",
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _normalized(key: str) -> str:
    """A file's key without what Docker adds: ``https://host/v1/`` is ``host``."""
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0]
    return key.rstrip("/")


def _hosts(registry: str) -> list[str]:
    return ["index.docker.io", "docker.io", "registry-1.docker.io"] if registry in _HUB_HOSTS else [registry]


def _keys(ref: RegistryRef) -> list[str]:
    """The keys that cover ``ref``, the longest first."""
    parts = ref.repository.split("/")
    hosts = _hosts(ref.registry)
    return ["/".join([host, *parts[:length]]) for length in range(len(parts), -1, -1) for host in hosts]


def _server_key(registry: str) -> str:
    return _HUB_KEY if registry in _HUB_HOSTS else registry


def _credential(entry: Mapping[str, Any], path: Path) -> Credential | None:
    """None for an entry without a login: Docker leaves empty ones where a helper has it."""
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
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
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
        raise _HelperError(error.strerror or "it can't be started") from None
    if done.returncode:
        # The protocol has no other way to say "none" than this sentence, on stdout.
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


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
