"""The server that is followed, and how it is identified: a URL or the name of a remote, a login, a certificate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote, unquote

import yaml

from lxdocker.errors import LxdockerError, UsageError
from lxdocker.files.durable import write_file
from lxdocker.follow import remote
from lxdocker.follow.client import Client
from lxdocker.http.transport import proxy_for
from lxdocker.http.trust import parse_fingerprint
from lxdocker.reasons import in_words
from lxdocker.serve.certs import Certificate
from lxdocker.tree.server import DistrustedError, Listed, Server, ServerOptions, parse_address, read_index

_REMOTE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*):")
_CERTIFICATE = "server.crt"  # in the folder: the one that --fingerprint named


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server to follow.

    A server that renews its certificate keeps its key (``certs``), so a certificate with the key of the ``pinned`` one
    is the server's, too.
    """

    url: str  # with the login, if there is one
    options: ServerOptions
    pinned: Certificate | None = None
    pinned_at: Path | None = None  # may hold an authority's certificate instead: LXD takes that, too
    hint: str = ""  # the remedy for another certificate

    @classmethod
    def at(cls, url: str, options: ServerOptions) -> Upstream:
        """By its URL. Raises UsageError."""
        parsed = parse_address(url)
        # One server must not be taken for two.
        usual = {"https": 443, "http": 80}[parsed.scheme or ""]
        port = None if parsed.port == usual else parsed.port
        return cls(parsed._replace(port=port, query=None, fragment=None).url, options)

    @classmethod
    def of_remote(cls, name: str, client: Client) -> Upstream:
        """A remote of ``lxc`` or ``incus``: URL, login and certificate come from its configuration. Raises
        UsageError.
        """
        config = client.folder / "config.yml"
        address = _simplestreams_remote(name, client, config)
        certificate = client.folder / "servercerts" / f"{name}.crt"
        try:
            pinned = Certificate.parse(certificate.read_bytes())
        except FileNotFoundError:  # the system's authorities vouch for it
            return cls.at(address, ServerOptions())
        except (OSError, ValueError) as error:
            again = f"join again: lxdocker remote add {remote.Address.parse(address).url_with_user} {name}"
            raise UsageError(
                f"the certificate of the remote {name} cannot be used",
                in_words(error) if isinstance(error, OSError) else f"{certificate}: {in_words(error)}",
                again,
            ) from error
        known = cls.at(address, ServerOptions(fingerprint=pinned.fingerprint))
        shown = remote.Address.parse(known.url).url_with_user
        hint = (
            f"if its certificate is another one now and should be, join again: lxdocker remote add {shown} {name};"
            f" or replace {certificate}"
        )
        return replace(known, pinned=pinned, pinned_at=certificate, hint=hint)

    @property
    def name(self) -> str:
        """Its URL without the login."""
        return parse_address(self.url)._replace(auth=None).url.rstrip("/")

    @contextmanager
    def opened(self, folder: Path, cancelled: Event) -> Iterator[tuple[Server, list[Listed]]]:
        """The server, and all that it lists. ``folder`` keeps what is remembered of it. Raises MirrorError."""
        refused: DistrustedError | None = None
        for options in self._ways(folder):
            with closing(Server(self.url, options, cancelled, folder)) as server:
                try:
                    listed = read_index(server)
                except DistrustedError as error:
                    refused = refused or error
                    continue
                self._remember(folder)
                yield server, listed
                return
        assert refused is not None  # noqa: S101 - for the type checker: there is one way at least
        raise DistrustedError(refused.brief, refused.details, self.hint or refused.resolution) from refused

    def _ways(self, folder: Path) -> Iterator[ServerOptions]:
        """The ways to trust its certificate, in order."""
        yield self.options
        for known in (self.pinned, self._remembered(folder)):
            with suppress(LxdockerError):
                if known and (shown := self._shown()).key == known.key:
                    yield replace(self.options, fingerprint=shown.fingerprint)
        if self.pinned_at:
            yield replace(self.options, fingerprint=None, ca=self.pinned_at)

    def _shown(self) -> Certificate:
        return remote.look_at(remote.Address.parse(self.url)).certificate

    def _remembered(self, folder: Path) -> Certificate | None:
        """The certificate that --fingerprint named, as the server once showed it."""
        if not self.options.fingerprint:
            return None
        with suppress(OSError, ValueError):
            found = Certificate.parse((folder / _CERTIFICATE).read_bytes())
            if found.fingerprint == parse_fingerprint(self.options.fingerprint):
                return found
        return None

    def _remember(self, folder: Path) -> None:
        if self.pinned or not self.options.fingerprint or self._remembered(folder):
            return
        if proxy_for(parse_address(self.url)):  # it may be the only way to the server
            return
        with suppress(LxdockerError, OSError):
            shown = self._shown()
            if shown.fingerprint == parse_fingerprint(self.options.fingerprint):
                write_file(folder / _CERTIFICATE, shown.pem.encode(), 0o644)


def user_without_password(url: str) -> str | None:
    """The user whose password is missing from the URL. Raises UsageError."""
    auth = parse_address(url).auth
    return unquote(auth) if auth and ":" not in auth else None


def with_password(url: str, password: str) -> str:
    """The URL of a user, with the password."""
    parsed = parse_address(url)
    return parsed._replace(auth=f"{parsed.auth}:{quote(password, safe='')}").url


def remote_named(text: str) -> str | None:
    """The name, if ``text`` is a remote's with its colon: ``lxdocker:``."""
    found = _REMOTE.fullmatch(text)
    return found[1] if found else None


def _simplestreams_remote(name: str, client: Client, config: Path) -> str:
    """Its URL."""
    try:
        document: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
        remotes: dict[str, str] = {
            remote_name: str(about.get("addr")) if about.get("protocol") == "simplestreams" else ""
            for remote_name, about in document["remotes"].items()
        }
    except FileNotFoundError:
        remotes = {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        # The parser's message may quote a login.
        why = in_words(error) if isinstance(error, OSError) else f"{config} is not as {client.name} writes it"
        raise UsageError(
            f"cannot read the remotes of {client.name}",
            why,
            "run as the user who has the remote, or give the server's URL",
        ) from error
    if name not in remotes:
        raise UsageError(
            f"{client.name} has no remote {name}",
            f"{config} has {', '.join(f'{known}:' for known in remotes) or 'none'}",
            f"add it (lxdocker remote add https://HOST:8444 {name}), run as the user who has it, or give the URL",
        )
    if not remotes[name]:
        raise UsageError(
            f"the remote {name} is not an lxdocker image server",
            "its protocol is not simplestreams",
            "name another remote, or give the server's URL",
        )
    return remotes[name]
