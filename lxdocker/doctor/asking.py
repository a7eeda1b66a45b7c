"""What registries answer when they are asked for one image each."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lxdocker.errors import AuthError, RegistryError
from lxdocker.http.wire import Answer
from lxdocker.source.credentials import Credentials
from lxdocker.source.registry import RegistryClient
from lxdocker.values import RegistryRef

SECONDS = 3.0  # for a connection, and for each piece of an answer
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """What one registry answered to a HEAD for one image."""

    ref: RegistryRef
    answer: Answer | None
    error: RegistryError | None
    has_login: bool
    at: float  # time.time() of the answer

    @property
    def is_refused(self) -> bool:
        """Whether it is reached, but wants another login."""
        return isinstance(self.error, AuthError) or (self.answer is not None and self.answer.status in {401, 403})


@dataclass(frozen=True, slots=True)
class Registries:
    """The answers, and the client that knows the way to each."""

    client: RegistryClient
    asked: tuple[Asked, ...]


def ask(refs: Sequence[RegistryRef], insecure: Collection[str], environ: Mapping[str, str]) -> Registries:
    """One HEAD for each, which no rate limit counts."""
    credentials = Credentials(environ)
    client = RegistryClient(credentials, insecure, timeout=SECONDS, pauses=(0.3,))

    def one(ref: RegistryRef) -> Asked:
        has_login = False
        try:
            has_login = credentials.for_ref(ref) is not None
            return Asked(ref, client.probe(ref), None, has_login, time.time())
        except RegistryError as error:
            return Asked(ref, None, error, has_login, time.time())

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="registry") as pool:
        return Registries(client, tuple(pool.map(one, refs)))
