"""What an image is and what it needs, before anything of it is built: by its manifest and its configuration alone."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from lxdocker.config.changes import Changes, HealthOverride, Overrides
from lxdocker.config.spec import Behaviour, ImageSpec, Supervision
from lxdocker.docker.expects import RELAYS, Expectations, expectations
from lxdocker.errors import BuildError
from lxdocker.runtime.own_init import is_supervised, own_init
from lxdocker.runtime.render import Health, parse_healthcheck, signal_name, tmpfs_mounts, without_links
from lxdocker.source.oci import OciConfig
from lxdocker.source.resolve import Description, ResolvedImage
from lxdocker.text import one_line
from lxdocker.values import ImageRef

SOCKET = "docker.sock"

_LABELS = "org.opencontainers.image."
_TEMPORARY = ("/run", "/tmp", "/dev/shm")  # noqa: S108 - in the instance
_IDS = 65536  # that root has in /etc/subuid where nobody has asked for more
_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh"})
# Programs that draw on a terminal, and do nothing else.
_FULL_SCREEN = frozenset(
    {"htop", "top", "btop", "vim", "vi", "nano", "mc", "less", "tmux", "screen", "irssi", "weechat"}
)


@dataclass(frozen=True, slots=True)
class Caution:
    """Something that works in another way than users of the image may expect, and what to do about it."""

    kind: str  # for programs
    what: str
    do: str  # "" where nothing has to be done


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image, as its spec changes it where there is one."""

    ref: ImageRef
    image: ResolvedImage
    config: OciConfig
    behaviour: Behaviour
    platforms: tuple[str, ...]
    health: Health | None
    expects: Expectations
    own_init: str  # that becomes PID 1 in place of lxdocker's; "" for none
    cautions: tuple[Caution, ...]
    spec: ImageSpec | None
    from_spec: tuple[str, ...]  # the values that are the spec's: user, environment.TZ, healthcheck.interval
    changes: tuple[str, ...]  # what else the spec changes: files, packages, run, layers, templates

    @property
    def size(self) -> int | None:
        """Bytes of all layers, as they are transferred."""
        return None if self.image.layers is None else sum(layer.size for layer in self.image.layers)

    @property
    def source(self) -> str:
        """Where its source is, by its label."""
        return self.config.labels.get(f"{_LABELS}source", "")

    @property
    def version(self) -> str:
        """By its label."""
        return self.config.labels.get(f"{_LABELS}version", "")


def inspect(ref: ImageRef, found: Description, config: OciConfig, spec: ImageSpec | None = None) -> Inspection:
    """``config``: that of ``found``, as the ``spec`` changes it."""
    behaviour = spec.behaviour if spec else Behaviour()
    supervision: Supervision = spec.disable_supervisor if spec else "auto"
    expects = expectations(ref, config)
    supervised = is_supervised(config, supervision)
    return Inspection(
        ref=ref,
        image=found.image,
        config=config,
        behaviour=behaviour,
        platforms=found.platforms,
        health=parse_healthcheck(config.healthcheck, config.shell),
        expects=expects,
        own_init="" if supervised or not config.argv else config.argv[0],
        cautions=(
            *_about_pid_1(config, expects, supervision),
            *_about_the_command(config, expects, supervised=supervised),
            *_about_the_user(config),
            *_about_volumes(config, behaviour),
            *_about_docker(config),
            *_about_variables(expects),
        ),
        spec=spec,
        from_spec=tuple(_values(spec)) if spec else (),
        changes=tuple(_changes(spec.changes)) if spec else (),
    )


# ---- cautions


def _about_pid_1(config: OciConfig, expects: Expectations, supervision: Supervision) -> Iterator[Caution]:
    init = one_line(own_init(config) or "", 200)
    program = posixpath.basename(config.argv[0]) if config.argv else ""
    if is_supervised(config, supervision):
        if expects.must_be_pid_1:
            why = "disable_supervisor: auto does not notice it" if supervision == "auto" else "the spec prevents it"
            yield Caution(
                "pid-1",
                f"its init has to be PID 1, and {why}: {expects.init}",
                "set disable_supervisor: true in the spec",
            )
        elif program in RELAYS:
            what = f"{program} runs under lxdocker's PID 1, which stops its child, too (disable_supervisor: auto)"
            yield Caution("pid-1", what, "")
    elif init:
        how = "disable_supervisor: auto" if supervision == "auto" else "the spec"
        yield Caution(
            "pid-1",
            f"its own init becomes PID 1, by {how}: {init}; it has the console, and lxdocker neither restarts it, nor "
            "checks its health, nor keeps its output in /lxd-log",
            "lxc console NAME --show-log has its output; disable_supervisor: false only if it also runs elsewhere",
        )
    else:
        yield Caution(
            "pid-1",
            "its command is PID 1, by the spec; lxdocker neither restarts it, nor checks its health",
            "remove disable_supervisor from the spec, unless it has to be PID 1",
        )


def _about_the_command(config: OciConfig, expects: Expectations, *, supervised: bool) -> Iterator[Caution]:
    program = posixpath.basename(config.argv[0]) if config.argv else ""
    if not config.argv:
        yield Caution("no-command", "it names no command to run", "set one in the spec: cmd: [PROGRAM, ARGUMENT]")
    elif supervised and expects.ends_at_once:
        yield Caution(
            "ends-at-once",
            f"its command ends at once without a terminal: {expects.command}",
            "give it another one: cmd: [sleep, infinity] in the spec, or "
            """lxc config set NAME user.lxdocker.cmd='["sleep", "infinity"]'""",
        )
    elif supervised and (config.terminal or program in _FULL_SCREEN):
        yield Caution(
            "terminal",
            f"it expects a terminal, and gets none: {expects.command}",
            "set cmd: [sleep, infinity] in the spec, and run it by lxc exec NAME -- /lxd-exec PROGRAM",
        )
    has_test = config.healthcheck is not None and config.healthcheck.get("Test", [""])[:1] == ["CMD-SHELL"]
    if config.has_shell is False and not has_test and program not in _SHELLS and not program.endswith(".sh"):
        yield Caution(
            "no-shell",
            "it may have no shell: neither its command nor its history mentions one",
            "use lxdocker's: lxc exec NAME -- /busybox-lxd sh; in a spec, write commands as lists",
        )
    try:
        signal_name(config.stop_signal)
    except BuildError as error:
        yield Caution(
            "stop-signal", f"{error.brief}: {error.details}", "set another one in the spec: stop_signal: TERM"
        )


def _about_the_user(config: OciConfig) -> Iterator[Caution]:
    user, _, group = config.user.partition(":")
    numbers = [text for text in (port.partition("/")[0] for port in config.exposed_ports) if text.isascii()]
    low = [text for text in numbers if text.isdigit() and 0 < int(text[:6]) < 1024]
    if user not in {"", "0", "root"} and low:
        ports = " ".join(text[:10] for text in low[:20])
        yield Caution(
            "low-port",
            f"it runs as {one_line(user, 100)} and listens below 1024 ({ports}), which "
            "works, as under Docker: instances have net.ipv4.ip_unprivileged_port_start=0",
            "",
        )
    high = [text for text in (user, group) if re.fullmatch(r"[0-9]{1,10}", text) and int(text) >= _IDS]
    if high:
        yield Caution(
            "user-id",
            f"it runs as id {' '.join(high)}, but on some hosts LXD's instances have only {_IDS} ids",
            "give root a larger range in /etc/subuid and /etc/subgid (root:1000000:1000000000) and restart LXD, or set "
            "another user in the spec",
        )


def _about_volumes(config: OciConfig, behaviour: Behaviour) -> Iterator[Caution]:
    mounted = {path for path, _ in tmpfs_mounts(config, behaviour)}
    for volume in config.volumes[:100]:
        if posixpath.basename(volume) == SOCKET:
            continue
        path, shown = without_links(volume), one_line(volume, 200)
        folder = next((one for one in _TEMPORARY if path == one or path.startswith(f"{one}/")), "")
        if folder in mounted:
            yield Caution(
                "volume",
                f"its volume {shown} is on the tmpfs {folder} of the spec, so its data is lost when the instance stops",
                f"remove {folder} from the spec's tmpfs",
            )
        elif folder:
            yield Caution(
                "volume",
                f"its volume {shown} is below {folder}, so {folder} is not a tmpfs: files in it survive a restart",
                "if the volume's data need not be kept, set volumes: [] in the spec",
            )


def _about_docker(config: OciConfig) -> Iterator[Caution]:
    signs = [f"volume {one_line(path, 200)}" for path in config.volumes if SOCKET in path]
    signs += [
        f"variable {one_line(name, 100)}" for name, value in config.env if name == "DOCKER_HOST" or SOCKET in value
    ]
    signs += ["its command"] if any(SOCKET in word for word in config.argv) else []
    if signs:
        yield Caution(
            "docker",
            f"it expects Docker's socket ({', '.join(signs[:10])}), and there is no Docker behind it",
            "configure it without, or run it under Docker in an instance with security.nesting=true",
        )


def _about_variables(expects: Expectations) -> Iterator[Caution]:
    if expects.variables:
        yield Caution(
            "variables",
            f"it needs values for {', '.join(expects.variables)}",
            "lxc config set NAME environment.VARIABLE=VALUE; non-secret values can go into the spec's environment",
        )


# ---- what is the spec's


def _values(spec: ImageSpec) -> Iterator[str]:
    """In the order of the keys."""
    if spec.disable_supervisor != "auto":
        yield "disable_supervisor"
    usual = Behaviour()
    yield from (one.name for one in fields(usual) if getattr(spec.behaviour, one.name) != getattr(usual, one.name))
    overrides = spec.changes.overrides
    for one in fields(Overrides):
        value = getattr(overrides, one.name)
        if isinstance(value, HealthOverride):
            yield from (f"healthcheck.{part.name}" for part in fields(value) if getattr(value, part.name) is not None)
        elif one.name in {"environment", "labels"}:
            yield from (f"{one.name}.{name}" for name, _ in value)
        elif value is not None:
            yield one.name


def _changes(changes: Changes) -> Iterator[str]:
    found: Mapping[str, object] = {
        key: getattr(changes, key) for key in ("files", "packages", "run", "layers", "templates")
    }
    yield from (key for key, value in found.items() if value)
