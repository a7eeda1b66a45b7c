"""An image's configuration as its spec changes it, by Docker's rules where Docker has any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lxdocker.config.changes import Command, HealthOverride, Overrides
from lxdocker.source.oci import OciConfig

_SHELL = ("/bin/sh", "-c")
_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start_period": "StartPeriod",
    "start_interval": "StartInterval",
}


def overridden(config: OciConfig, overrides: Overrides) -> OciConfig:
    """``config`` with all that the spec puts in its place.

    As in a Dockerfile, a new entrypoint makes the image's cmd void, and text is a command for the image's shell.
    """
    changed = config
    if overrides.entrypoint is not None:
        changed = replace(changed, entrypoint=words(overrides.entrypoint, config), cmd=())
    if overrides.cmd is not None:
        changed = replace(changed, cmd=words(overrides.cmd, config))
    return replace(
        changed,
        env=tuple(_merged(dict(config.env), overrides.environment).items()),
        labels=MappingProxyType(_merged(dict(config.labels), overrides.labels)),
        user=config.user if overrides.user is None else overrides.user,
        working_dir=config.working_dir if overrides.working_dir is None else overrides.working_dir,
        volumes=config.volumes if overrides.volumes is None else overrides.volumes,
        exposed_ports=config.exposed_ports if overrides.ports is None else overrides.ports,
        stop_signal=config.stop_signal if overrides.stop_signal is None else overrides.stop_signal,
        healthcheck=_health(config.healthcheck, overrides.healthcheck),
    )


def words(command: Command, config: OciConfig) -> tuple[str, ...]:
    """A command's arguments; text is for the image's shell."""
    return (*(config.shell or _SHELL), command) if isinstance(command, str) else command


def _merged(found: dict[str, str], own: tuple[tuple[str, str | None], ...]) -> dict[str, str]:
    for name, value in own:
        if value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return found


def _health(found: Mapping[str, Any] | None, own: HealthOverride | str | None) -> Mapping[str, Any] | None:
    if own is None:
        return found
    if isinstance(own, str):
        return None  # "none"
    health = dict(found or {})
    if own.test is not None:
        health["Test"] = list(own.test)
    for name, key in _TIMES.items():
        seconds = getattr(own, name)
        if seconds is not None:
            health[key] = round(seconds * 1e9)
    if own.retries is not None:
        health["Retries"] = own.retries
    return MappingProxyType(health)
