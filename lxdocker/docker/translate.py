"""Services into specs and the commands that make the instances."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lxdocker.docker.service import Device, Lost, Service
from lxdocker.text import one_line
from lxdocker.values import ImageName, ImageRef, RegistryRef, parse_image_ref

SCHEMA_LINE = "# yaml-language-server: $schema="
ENV_FILE = "/etc/lxdocker.env"  # in the instance


@dataclass(frozen=True, slots=True)
class SpecText:
    """A spec that is not a file yet."""

    name: ImageName
    image: ImageRef
    text: str


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of containers."""

    specs: tuple[SpecText, ...]
    commands: tuple[str, ...]  # lines for a shell
    lost: tuple[Lost, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing essential was lost."""
        return not any(lost.essential for lost in self.lost)


@dataclass(frozen=True, slots=True)
class Where:
    """Where instances are made: what commands of ``lxc`` need besides."""

    pool: str
    project: str = "default"
    remote: str = ""  # of lxc's

    @property
    def lxc(self) -> list[str]:
        return ["lxc"] if self.project == "default" else ["lxc", "--project", self.project]

    def at(self, name: str) -> str:
        """``name`` as lxc takes it."""
        return f"{self.remote}:{name}" if self.remote else name


class _Raw(str):
    """A word that is quoted already."""


def convert(services: Sequence[Service], folder: Path, where: Where, schema: str) -> Converted:
    """One spec for each image that is to run in one way, and the commands, each service after those that it needs.

    ``folder``: what images on disk are relative to; ``schema``: where editors find the schema of specs.
    """
    specs: dict[tuple[object, ...], SpecText] = {}
    names: dict[str, ImageName] = {}
    lost = [lost for service in services for lost in service.lost]
    for service in services:
        if not service.image:
            continue
        try:
            ref = parse_image_ref(service.image, folder)
        except ValueError as error:
            lost.append(Lost(service.name, "image", one_line(str(error), 300), True))
            continue
        key = (ref, service.restart, service.stop_grace, service.tmpfs, service.fill_volumes)
        if key not in specs:
            taken = {spec.name.value for spec in specs.values()}
            name = spec_name(ref, service.name, taken)
            specs[key] = SpecText(name, ref, spec_text(service, ref, schema))
        names[service.name] = specs[key].name
    made = [service for service in _in_order(services) if service.name in names]
    lines = [line(["lxdocker", "sync", *(spec.name.value for spec in specs.values())])] if specs else []
    done: set[str] = set()
    shared = tuple(line([*where.lxc, *words]) for words in (("network", "create"), ("storage", "volume", "create")))
    for service in made:
        for command in launch(service, names[service.name].value, where):
            # Networks and volumes may be shared.
            if command not in done or not command.startswith(shared):
                lines.append(command)
            done.add(command)
    return Converted(tuple(specs.values()), tuple(lines), tuple(dict.fromkeys(lost)))


def spec_name(ref: ImageRef, otherwise: str, taken: Iterable[str]) -> ImageName:
    """A name for an image: that of its repository, or else the service's."""
    used = set(taken)
    own = ref.repository.rpartition("/")[2] if isinstance(ref, RegistryRef) else ref.path.name.partition(".")[0]
    for candidate in (own, otherwise, f"{own}-image", *(f"{own}-{number}" for number in range(2, 1000))):
        cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", candidate).strip("-._")[:63]
        try:
            name = ImageName.parse(cleaned)
        except ValueError:
            continue
        if name.value not in used:
            return name
    return ImageName.parse(f"image-{len(used)}")


def spec_text(
    service: Service, ref: ImageRef, schema: str, comments: Sequence[str] = (), more: Sequence[str] = ()
) -> str:
    """The file, with comments before it, the schema's place for editors, and ``more`` lines at its end."""
    lines = [f"# {one_line(comment, 200)}".rstrip() for comment in comments]
    lines += [f"{SCHEMA_LINE}{one_line(schema)}", f"image: {scalar(str(ref))}"]
    if service.restart != "no":
        lines.append(f"restart: {service.restart}")
    if service.stop_grace is not None:
        lines.append(f"stop_grace: {service.stop_grace}")
    if service.tmpfs:
        lines += ["tmpfs:", *(f"  {scalar(path)}: {scalar(size)}" for path, size in service.tmpfs)]
    if not service.fill_volumes:
        lines.append("fill_volumes: false")
    lines += more
    return "\n".join(lines) + "\n"


def launch(service: Service, image: str, where: Where) -> list[str]:
    """The commands that make the instance of an image, and start it."""
    lxc, name, pool = where.lxc, where.at(service.name), where.at(where.pool)
    lines = [line([*lxc, "network", "create", where.at(network)]) for network in service.networks]
    lines += [
        line([*lxc, "storage", "volume", "create", pool, volume.name])
        for volume in service.volumes
        if not volume.exists
    ]
    lines.append(line([*lxc, "init", where.at(image), name, *_options(service)]))
    if service.root_size:
        lines.append(line([*lxc, "config", "device", "override", name, "root", f"size={service.root_size}"]))
    if service.overrides:
        options = [f"{key}={value}" for key, value in service.overrides]
        lines.append(line([*lxc, "config", "device", "override", name, "eth0", *options]))
    for volume in service.volumes:
        if volume.read_only:
            options = [f"pool={where.pool}", f"source={volume.name}", f"path={volume.path}", "readonly=true"]
            lines.append(line([*lxc, "config", "device", "add", name, volume.device, "disk", *options]))
        else:
            words = [pool, volume.name, service.name, volume.device, volume.path]
            lines.append(line([*lxc, "storage", "volume", "attach", *words]))
    lines += [line([*lxc, "config", "device", "add", name, *_device(device)]) for device in service.devices]
    if service.env_files:
        push = [*lxc, "file", "push", "--create-dirs", "--mode", "0600", "--uid", "0", "--gid", "0"]
        if len(service.env_files) == 1:
            lines.append(line([*push, service.env_files[0], f"{name}{ENV_FILE}"]))
        else:
            lines.append(f"{line(['cat', *service.env_files])} | {line([*push, '-', f'{name}{ENV_FILE}'])}")
    return [*lines, line([*lxc, "start", name])]


def _device(device: Device) -> list[str]:
    return [device.name, device.kind, *(f"{key}={value}" for key, value in device.options)]


def _options(service: Service) -> list[str]:
    options: list[str] = ["--ephemeral"] if service.ephemeral else []
    for name, value in service.environment:
        if value is None:
            options += ["-c", _Raw(f'environment.{name}="${name}"')]  # whose name a shell can hold
        elif value:
            options += ["-c", f"environment.{name}={value}"]
    if service.env_files:
        options += ["-c", f"environment.LXDOCKER_ENVFILE={ENV_FILE}"]
    for key, words in (("entrypoint", service.entrypoint), ("cmd", service.command)):
        if words is not None:
            options += ["-c", f"user.lxdocker.{key}={json.dumps(list(words), ensure_ascii=False)}"]
    for key, value in service.config:
        options += ["-c", f"{key}={value}"]
    # LXD keeps no empty values.
    empty = [f"lxc.environment = {name}=" for name, value in service.environment if value == ""]
    if raw := [*empty, *service.raw_lxc]:
        options += ["-c", "raw.lxc=" + "\n".join(raw)]
    return options


def line(words: Sequence[str]) -> str:
    """A command as a shell reads it."""
    return " ".join(word if isinstance(word, _Raw) else shlex.quote(word) for word in words)


def scalar(text: str) -> str:
    """As any YAML parser reads it back."""
    is_plain = re.fullmatch(r"[A-Za-z0-9/][A-Za-z0-9/._@-]*(:[A-Za-z0-9/._@-]+)*", text)
    number = re.fullmatch(r"[0-9][0-9A-Fa-fxo.:_+-]*", text)
    words = {"true", "false", "null", "on", "off", "yes", "no", "y", "n"}
    if is_plain and not number and text.lower() not in words:
        return text
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30)).rstrip("\n")


def _in_order(services: Sequence[Service]) -> list[Service]:
    """Each after those that it needs; in a circle, as they are."""
    by_name = {service.name: service for service in services}
    ordered: dict[str, Service] = {}
    visiting: set[str] = set()

    def visit(service: Service) -> None:
        if service.name in ordered or service.name in visiting:
            return
        visiting.add(service.name)
        for name in service.after:
            if name in by_name:
                visit(by_name[name])
        ordered[service.name] = service

    for service in services:
        visit(service)
    return list(ordered.values())
