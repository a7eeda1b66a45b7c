"""What an image is, and new specs, as text; report, which other commands have, would load much more."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lxdocker.progress import human_size
from lxdocker.text import counted, one_line

if TYPE_CHECKING:
    from lxdocker.cli.console import Console
    from lxdocker.docker.inspection import Caution, Inspection
    from lxdocker.docker.new_spec import NewSpec
    from lxdocker.docker.service import Lost
    from lxdocker.docker.translate import Converted

_WIDTH = 14  # of titles
_LONGEST = 300  # characters of a value

Row = tuple[str, Sequence[str]]  # a title, and a line for each value


def print_inspection(console: Console, found: Inspection) -> None:
    """A title and its values; those of the spec are marked."""
    for title, values in _rows(found):
        for index, value in enumerate(values or ["none"]):
            console.print(f"{'' if index else title:{_WIDTH}} {one_line(value, _LONGEST)}".rstrip())
    _print_cautions(console.print, found.cautions)


def _rows(found: Inspection) -> Iterator[Row]:
    config, marked = found.config, _marks(found.from_spec)
    yield "image", [str(found.ref)]
    if found.spec:
        yield "spec", [str(found.spec.path)]
    yield "digest", [found.image.source_digest.value]
    yield "created", [f"{datetime.fromtimestamp(config.created, UTC):%Y-%m-%d}" if config.created else "unknown"]
    yield "version", [found.version or "unknown"]
    yield "source", [found.source or "unknown"]
    yield "platforms", [", ".join(found.platforms)]
    yield "size", [_size(found)]
    yield "entrypoint", [marked(shlex.join(config.entrypoint) or "none", "entrypoint")]
    yield "cmd", [marked(shlex.join(config.cmd) or "none", "cmd")]
    yield "PID 1", [marked(found.own_init or "lxdocker's supervisor", "disable_supervisor")]
    yield "user", [marked(config.user or "root", "user")]
    yield "working dir", [marked(config.working_dir, "working_dir")]
    yield "environment", [marked(f"{name}={value}", f"environment.{name}") for name, value in config.env]
    yield "ports", [marked(" ".join(config.exposed_ports) or "none", "ports")]
    yield "volumes", [marked(path, "volumes") for path in config.volumes] or [marked("none", "volumes")]
    yield "health check", _health(found)
    yield "stop signal", [marked(config.stop_signal or "SIGTERM", "stop_signal")]
    for key, value in _behaviour(found):
        yield key.replace("_", " "), [marked(value, key)]
    yield "labels", [marked(f"{name}={value}", f"labels.{name}") for name, value in sorted(config.labels.items())]
    if found.image.layers:
        yield "layers", [f"{layer.digest}  {human_size(layer.size)}" for layer in found.image.layers]
    if found.changes:
        yield "changed, too", [f"{', '.join(found.changes)} (spec)"]


def _behaviour(found: Inspection) -> Iterator[tuple[str, str]]:
    """What the spec says of how it runs."""
    for one in fields(found.behaviour):
        value = getattr(found.behaviour, one.name)
        if one.name not in found.from_spec:
            continue
        if isinstance(value, tuple):
            yield one.name, ", ".join(f"{path} {size}" for path, size in value)
        else:
            yield one.name, str(value).lower()


def _marks(from_spec: Iterable[str]) -> Callable[[str, str], str]:
    names = set(from_spec)
    return lambda text, name: f"{one_line(text, _LONGEST - 10)} (spec)" if name in names else text


def _size(found: Inspection) -> str:
    if found.image.layers is None or found.size is None:
        return "unknown"
    return f"{human_size(found.size)} compressed, {counted(len(found.image.layers), 'layer')}"


def _health(found: Inspection) -> list[str]:
    health, own = found.health, [name for name in found.from_spec if name.startswith("healthcheck")]
    mark = f" (spec: {', '.join(name.partition('.')[2] for name in own)})" if own and own != ["healthcheck"] else ""
    if health is None:
        return ["none (spec)" if own else "none"]
    times = (
        f"every {health.interval:g} s, at most {health.timeout:g} s each, unhealthy after "
        f"{counted(health.retries, 'failure')}"
    )
    if health.start_period:
        times += f"; {health.start_period:g} s to start, checked every {health.start_interval:g} s"
    return [one_line(shlex.join(health.command), _LONGEST), times + mark]


def _print_cautions(say: Callable[[str], None], cautions: Sequence[Caution]) -> None:
    for one in cautions:
        say(f"{'warning' if one.do else 'note'}: {one.what}")
        if one.do:
            say(f"  -> {one.do}")


def print_new_spec(console: Console, made: NewSpec, path: Path, *, written: bool) -> None:
    """What was written, what the image expects, and the commands for the rest."""
    say: Callable[[str], None] = console.print if written else console.note
    console.print(f"wrote {path}" if written else made.spec.text.rstrip())
    for title, value in made.found.expects.rows():
        say(f"  {title:16} {value}")
    _print_cautions(say, made.found.cautions)
    if made.variables:
        say(f"set {', '.join(made.variables)} in the shell that runs these commands:")
    else:
        say("to launch it:")
    for command in made.commands:
        say(f"  {command}")
    _print_lost(say, made.lost)


def print_converted(console: Console, found: Converted, folder: Path, *, written: bool) -> None:
    """Specs, commands and what is lost."""
    for spec in found.specs:
        console.print(f"# {'wrote ' if written else ''}{folder / spec.name.value}.yaml")
        console.print(spec.text)
    if found.commands:
        console.print("# commands")
    for command in found.commands:
        console.print(command)
    _print_lost(console.print, found.lost, "# ")


def _print_lost(say: Callable[[str], None], found: Sequence[Lost], comment: str = "") -> None:
    for essential, title in ((True, "lost, and essential:"), (False, "lost:")):
        lost = [one for one in found if one.essential == essential]
        if lost:
            if comment:
                say("")
            say(f"{comment}{title}")
        for one in lost:
            say(f"{comment}  {one.service and f'{one.service}: '}{one.what}: {one.why}")
