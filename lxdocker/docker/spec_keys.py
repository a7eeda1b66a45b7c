"""What a spec can hold of a container, and what is left for its instance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lxdocker.config import yamlfile
from lxdocker.config.spec import SCHEMA
from lxdocker.docker import quantities
from lxdocker.docker.service import Lost, Service
from lxdocker.docker.translate import scalar
from lxdocker.text import one_line

# An image is copied and published, and so is all that its spec has: secrets stay with the instance.
_SECRET = re.compile(
    r"pass(word|wd|phrase|_|$)|secret|token|credential|(api|access|private|auth|encryption)_?key", re.IGNORECASE
)
_LOGIN = re.compile(r"://[^/@\s]*:[^/@\s]+@")  # in a URL

Keys = dict[str, Any]


def split(service: Service, ports: Sequence[str] = ()) -> tuple[Keys, Service]:
    """The keys that a spec has for the service, and the service without what they do. ``ports``: the image's own.

    Restart policy, time to stop, tmpfs and fill_volumes stay in the service: see translate.spec_text().
    """
    wanted: Keys = {
        "environment": {
            name: value for name, value in service.environment if value is not None and is_open(name, value)
        },
        "entrypoint": None if service.entrypoint is None else list(service.entrypoint),
        "cmd": None if service.command is None else list(service.command),
        "user": service.user,
        "working_dir": service.working_dir,
        "ports": _ports(service, ports),
        "labels": dict(service.labels),
        "stop_signal": service.stop_signal,
        "healthcheck": _health(service),
    }
    keys = {key: value for key, value in wanted.items() if value or value == []}
    lost: list[Lost] = []
    if _mistakes(keys):
        keys = dict(_fitting(service, keys, lost))
    return keys, _rest(service, keys, lost)


def is_open(name: str, value: str) -> bool:
    """Whether a variable holds no secret, as far as its name and its value tell; a file's name is none."""
    return name.upper().endswith("_FILE") or not (_SECRET.search(name) or _LOGIN.search(value))


def lines(keys: Mapping[str, Any]) -> list[str]:
    """The keys as a spec has them."""
    return [line for key, value in keys.items() for line in _lines(key, value)]


def _lines(key: str, value: Any, indent: str = "") -> Iterator[str]:
    match value:
        case dict():
            yield f"{indent}{scalar(key)}:"
            for name, item in value.items():
                yield from _lines(name, item, indent + "  ")
        case list() | tuple():
            yield f"{indent}{scalar(key)}: [{', '.join(scalar(item) for item in value)}]"
        case str():
            yield f"{indent}{scalar(key)}: {scalar(value)}"
        case _:
            yield f"{indent}{scalar(key)}: {value:.10g}"


def _ports(service: Service, own: Sequence[str]) -> list[str] | None:
    """In place of the image's ``own``, but Docker's flag adds to them. An image may have names that are none."""
    if not service.exposed:
        return None
    found: dict[str, None] = {}
    for text in own:
        with suppress(ValueError):
            found.update(dict.fromkeys(quantities.exposed(text)))
    return list({**found, **dict.fromkeys(service.exposed)})


def _health(service: Service) -> Any:
    found = service.healthcheck
    return found if isinstance(found, str) else dict(found)


def _mistakes(keys: Keys) -> list[str]:
    """What the schema of specs says of these keys."""
    document = yamlfile.parse("\n".join(["image: x", *lines(keys)]), "spec")
    return [mistake.text for mistake in yamlfile.check(document, SCHEMA)]


def _fitting(service: Service, keys: Keys, lost: list[Lost]) -> Iterator[tuple[str, Any]]:
    """Those that a spec takes, and of variables and labels each that it takes."""
    for key, value in keys.items():
        if key in {"environment", "labels"}:
            fitting = {}
            for name, text in value.items():
                if wrong := _mistakes({key: {name: text}}):
                    lost.append(Lost(service.name, one_line(f"{key}: {name}", 100), one_line(wrong[0], 300), True))
                else:
                    fitting[name] = text
            if fitting:
                yield key, fitting
        elif wrong := _mistakes({key: value}):
            lost.append(Lost(service.name, key, one_line(wrong[0], 300), key != "ports"))
        else:
            yield key, value


def _rest(service: Service, keys: Keys, lost: list[Lost]) -> Service:
    held: Mapping[str, str] = keys.get("environment", {})
    copies = {f"user.{name}" for name in keys.get("labels", {})}
    return replace(
        service,
        environment=tuple((name, value) for name, value in service.environment if name not in held),
        entrypoint=None,
        command=None,
        config=tuple((key, value) for key, value in service.config if key not in copies),
        lost=(*(one for one in service.lost if not one.key), *lost),
    )
