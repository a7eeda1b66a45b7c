"""The images of the parity suite: each tests one aspect of an application's environment."""

# False positives: nothing here is a password.
# ruff: noqa: S105 - no password is one

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lxdocker.runtime.own_init import is_supervised
from lxdocker.source.oci import OciConfig
from tests.lxd.rig import entry, symlink

Entry = tuple[tarfile.TarInfo, bytes]
PROBE = object()  # in Case.files: the probe program; tests of the table need no compiler
SHELL = object()  # a busybox of the image's own

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:an application:/home/app:/bin/false
other:x:1001:1001::/home/other:/bin/false
2000:x:2001:2001:a name that looks like a number:/home/number:/bin/false
"""
GROUP = """\
root:x:0:
app:x:1000:
staff:x:50:
video:x:44:app
audio:x:29:other,app
"""
# Alpine's: root is a member of many groups, and Docker gives it all of them.
ALPINE_GROUP = """\
root:x:0:root
bin:x:1:root,bin,daemon
daemon:x:2:root,bin,daemon
sys:x:3:root,bin
disk:x:6:root
wheel:x:10:root
"""


@dataclass(frozen=True)
class File:
    """A file of an image; ``content`` is text, PROBE, SHELL, None for a folder, or a link's target after ``->``."""

    path: str
    content: object = None
    mode: int | None = None
    uid: int = 0
    gid: int = 0

    def entry(self, probe: bytes, shell: bytes) -> Entry:
        text = self.content
        if isinstance(text, str) and text.startswith("->"):
            return symlink(self.path, text[2:])
        program = text is PROBE or text is SHELL
        content = probe if text is PROBE else shell if text is SHELL else text
        assert content is None or isinstance(content, str | bytes)
        mode = self.mode or (0o755 if program or content is None else 0o644)
        return entry(self.path, content, mode=mode, uid=self.uid, gid=self.gid)


ETC = (File("etc"), File("etc/passwd", PASSWD), File("etc/group", GROUP))
BASE = (*ETC, File("probe", PROBE))


SHELLS = (File("bin"), File("bin/sh", SHELL))
TOOLS = (File("opt"), File("opt/bin"), File("opt/bin/tool", PROBE), File("usr"), File("usr/bin"),
         File("usr/bin/tool", PROBE))  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An image, and how it is run; ``about`` completes "what the application sees with ..."."""

    name: str
    about: str
    files: tuple[File, ...] = BASE
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ("/probe",)
    cmd: tuple[str, ...] = ()
    workdir: str = ""
    spec: dict[str, Any] = field(default_factory=dict)  # keys of the spec beside `image`
    instance: dict[str, str] = field(default_factory=dict)  # LXD's instance configuration ...
    podman: tuple[str, ...] = ()  # ... and podman's arguments that mean the same
    arguments: tuple[str, ...] = ()  # for podman, after the image
    refused: str = ""  # neither runs it; what LXD's console has to say then
    of: str = ""  # the case whose image this one runs, if it has none of its own
    declares: tuple[str, ...] = ()  # the image's VOLUME
    volumes: tuple[str, ...] = ()  # where it has a volume, an empty one before this run

    @property
    def image(self) -> str:
        return self.of or self.name

    @property
    def supervised(self) -> bool:
        """Whether lxdocker's PID 1 stays."""
        config = OciConfig(entrypoint=self.entrypoint, cmd=self.cmd)
        return is_supervised(config, self.spec.get("disable_supervisor", "auto"))

    def sets(self, name: str) -> bool:
        """Whether the image sets a variable."""
        return any(variable.startswith(f"{name}=") for variable in self.env)

    def has(self, path: str) -> bool:
        """Whether the image has that file or folder itself."""
        return any(f"/{file.path}" == path for file in self.files)

    def named_volumes(self) -> dict[str, str]:
        """Name -> path."""
        return {f"p-{self.name}-{number}": path for number, path in enumerate(self.volumes)}

    def layer(self, probe: bytes, shell: bytes) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for file in {file.path: file for file in self.files}.values():  # a later one replaces an earlier one
                member, body = file.entry(probe, shell)
                tar.addfile(member, io.BytesIO(body))
        return buffer.getvalue()


def _user(name: str, user: str, about: str, *files: File, **more: Any) -> Case:
    return Case(f"user-{name}", about, (*BASE, *files), user=user, **more)


def _env(name: str, about: str, *env: str, **more: Any) -> Case:
    return Case(f"env-{name}", about, env=env, **more)


def _argv(name: str, about: str, *cmd: str, **more: Any) -> Case:
    return Case(f"argv-{name}", about, cmd=cmd, **more)


def _instance(name: str, about: str, config: dict[str, str], *podman: str, arguments: tuple[str, ...] = ()) -> Case:
    return Case(name, about, of="instance-plain", instance=config, podman=podman, arguments=arguments)


def _applet(name: str) -> Case:
    """A program of the image with the name of an applet of the runtime's busybox."""
    about = f"the image's own program `{name}`, with the name of a busybox applet"
    return Case(f"applet-{name}", about, (*ETC, File("bin"), File(f"bin/{name}", PROBE)), entrypoint=(name, "5"))


USERS = (
    _user("none", "", "no user"),
    _user("root-uid", "0:0", "`USER 0:0`"),
    _user("name", "app", "a user by name, with groups in the image's /etc/group"),
    _user("uid", "1000", "a user by number, with an entry in /etc/passwd"),
    _user("uid-gid", "1000:50", "user and group by number, and so no further groups"),
    _user("name-group", "app:staff", "user and group by name"),
    _user("uid-unknown", "4321", "a number without an entry in /etc/passwd"),
    _user("numeric-name", "2000", "a number that is also a user's name"),
    _user("root-groups", "", "root in many groups, as in Alpine", File("etc/group", ALPINE_GROUP)),
    _user("root-group", "root:staff", "root with another group"),
    _user("root-home", "", "root with a home other than /root in /etc/passwd",
          File("etc/passwd", PASSWD.replace(":/root:", ":/srv/root:"))),
    _user("home-image", "app", "a user, and HOME set by the image", env=("HOME=/custom",)),
    _user("home-empty", "app", "a user, and an empty HOME set by the image", env=("HOME=",)),
    _user("setuid", "app", "a setuid program run by a user", File("probe", PROBE, 0o4755)),
    _user("group-only", ":staff", "a group without a user"),
    _user("zeros", "01000", "a number with leading zeros"),
    _user("missing", "nobody-here", "a user that does not exist", refused="nobody-here"),
    _user("group-missing", "app:no-such-group", "a group that does not exist", refused="no-such-group"),
)  # fmt: skip

ENVIRONMENTS = (
    _env("quotes", "spaces and quotes in values", "S= one  two\t", "A='single'", 'B="double"',
         "C=it's \"both\"", "D=back\\slash\\"),
    _env("dollar", "characters in values that a shell would expand",
         "A=$HOME", "B=$(id)", "C=`id`", "D=${X:-y}", "E=~", "F=*"),
    _env("newline", "newlines in values", "A=one\ntwo", "B=end\n", "C=\nstart", "D=\nPATH=/x\nHOME=/y", "E=\r\n"),
    _env("equals", "`=` in values", "A=b=c", "B==", "C==x=="),
    _env("empty", "empty values", "A=", "B="),
    _env("unicode", "non-ASCII values", "A=grün 日本 🙂", "GRÖSSE=1"),
    _env("odd-names", "names that no shell can export", "a.b=1", "x-y=two words", "1st=3", "é=4", "a b=5", "a.c="),
    _env("odd-names-home", "names that no shell can export, HOME set by the image, and a command found on PATH",
         "a.b=1", "HOME=/custom", "PATH=/opt/bin", files=(*ETC, *TOOLS), entrypoint=("tool", "x")),
    _env("shell-names", "names with a meaning to a shell", "PWD=/x", "OLDPWD=/y", "SHLVL=7", "IFS=:", "PS1=a",
         "PS4=b", "OPTIND=3", "PPID=5", "LINENO=9", "RANDOM=3", "UID=8", "ENV=/x", "BASH_ENV=/x", "CDPATH=/etc",
         "MAIL=/m", "FUNCNAME=f", "HISTFILE=/h", "LD_PRELOAD=/none.so"),
    _env("script-names", "names used by the runtime's scripts", "bb=/x", "nl=n", "user=other", "status=9",
         "app=1", "name=n", "line=l", "rest=r", "working_dir=/x", "supervise=no", "stop_signal=KILL", "program=/x",
         "argv0=/y", "odd_environment=yes", "instance_names=PATH", "started=1", "image_has_path=no"),
    _env("path", "PATH set by the image", "PATH=/opt/bin:/bin"),
    _env("path-empty", "an empty PATH", "PATH="),
    _env("hostname", "HOSTNAME set by the image", "HOSTNAME=from-image"),
    _env("terminal", "TERM and container set by the image", "TERM=dumb", "container=mine"),
)  # fmt: skip

COMMANDS = (
    _argv("both", "entrypoint and cmd", "default", "arguments", entrypoint=("/probe", "fixed")),
    _argv("cmd-only", "cmd without an entrypoint", "/probe", "x", entrypoint=()),
    _argv("shell", "shell form", "-c", 'exec /probe $GREETING "$GREETING" /e*', entrypoint=("/bin/sh",),
          files=(*BASE, *SHELLS), env=("GREETING=two words",)),
    _argv("script", "a script as entrypoint that execs its arguments", "/probe", "a b", "", entrypoint=("/entry.sh",),
          files=(*BASE, *SHELLS, File("entry.sh", '#!/bin/sh\nset -e\numask 027\nexec "$@"\n', 0o755))),
    _argv("empty", "empty arguments", "", "x", "", ""),
    _argv("newline", "newlines in arguments", "one\ntwo", "\n", "end\n"),
    _argv("quotes", "quotes and non-ASCII characters in arguments", "grün 日本 🙂", "it's", '"x"', "a\\b", "\\", "'"),
    _argv("glob", "characters in arguments that a shell would expand",
          "*", "?", "[a-z]*", "~", "$HOME", "$(id)", "`id`", "{a,b}"),
    _argv("dashes", "arguments that look like options", "-c", "--", "-", "-e", "-n", "--help"),
    Case("path-found", "a command found on the default PATH", (*ETC, File("usr"), File("usr/local"),
         File("usr/local/bin"), File("usr/local/bin/tool", PROBE)), entrypoint=("tool", "x")),
    Case("path-order", "a command found on the image's PATH, in order", (*ETC, *TOOLS), entrypoint=("tool",),
         env=("PATH=/nowhere:/opt/bin:/usr/bin",)),
    Case("path-skips", "a PATH that lists a non-executable file and a folder first",
         (*ETC, File("a"), File("a/tool", "no program"), File("b"), File("b/tool"), File("c"), File("c/tool", PROBE)),
         entrypoint=("tool",), env=("PATH=/a:/b:/c",)),
    Case("program-link", "a command that is a link", (*BASE, File("usr"), File("usr/bin"),
         File("usr/bin/tool", "->/probe")), entrypoint=("tool", "x")),
    Case("program-relative", "a command relative to the working directory",
         (*ETC, File("srv"), File("srv/bin"), File("srv/bin/probe", PROBE)), entrypoint=("./bin/probe",),
         workdir="/srv"),
    *(_applet(name) for name in ("sh", "env", "sleep", "test")),
    Case("program-missing", "a command that does not exist", entrypoint=("no-such-program",),
         refused="no-such-program"),
    Case("program-no-program", "a file that is not executable", (*BASE, File("data", "text")),
         entrypoint=("/data",), refused="/data"),
)  # fmt: skip

FOLDERS = (
    Case("workdir-missing", "a missing working directory", workdir="/data"),
    Case("workdir-nested", "a missing working directory several levels deep", workdir="/srv/a b/c"),
    Case("workdir-owned", "a working directory that belongs to the user", (*BASE, File("srv", uid=1000, gid=1000)),
         user="app", workdir="/srv"),
    Case("workdir-missing-user", "a missing working directory, and a user", user="app",
         workdir="/data/app"),
    Case("workdir-link", "a working directory that is a link", (*BASE, File("releases"), File("releases/1"),
         File("current", "->/releases/1")), workdir="/current"),
    Case("workdir-tmp", "a working directory below /tmp that contains the program",
         (*ETC, File("tmp", mode=0o1777), File("tmp/app", mode=0o750, uid=1000, gid=50),
          File("tmp/app/probe", PROBE)), user="app:staff", entrypoint=("./probe",), workdir="/tmp/app"),
    Case("workdir-run", "a working directory below /run", (*BASE, File("run"),
         File("run/app", uid=1000, gid=1000)), user="app", workdir="/run/app"),
)  # fmt: skip

MERGED = (
    *(File(path) for path in ("usr", "usr/bin", "usr/sbin", "usr/lib")),
    *(File(path, f"->usr/{path}") for path in ("bin", "sbin", "lib")),
)

ROOTS = (
    Case("root-bare", "a static program and nothing else: no shell, no /etc, no /tmp", (File("probe", PROBE),)),
    Case("root-bare-user", "a static program and nothing else, and a user by number", (File("probe", PROBE),),
         user="1000"),
    Case("root-no-tmp", "no /tmp, and /tmp as working directory", (*BASE,), workdir="/tmp"),
    Case("root-merged-usr", "a merged /usr", (*ETC, *MERGED, File("usr/bin/tool", PROBE)), entrypoint=("/bin/tool",)),
    Case("root-alpine", "busybox as shell and as /sbin/init", (*BASE, File("bin"), File("bin/busybox", SHELL),
         File("bin/sh", "->/bin/busybox"), File("sbin"), File("sbin/init", "->/bin/busybox")),
         entrypoint=("/bin/sh", "-c", "exec /probe a")),
    Case("root-own-init", "the image's own /sbin/init as its command, supervised",
         (*ETC, File("sbin"), File("sbin/init", PROBE)), entrypoint=("/sbin/init", "x"),
         spec={"disable_supervisor": False}),
    Case("root-init-first", "the image's own /sbin/init as its command and first process",
         (*ETC, File("sbin"), File("sbin/init", PROBE)), entrypoint=("/sbin/init",)),
    Case("first-process", "a command that becomes the first process", cmd=("a b", ""),
         spec={"disable_supervisor": True}),
    Case("first-process-terminal", "TERM set by an image whose command becomes the first process", env=("TERM=dumb",),
         spec={"disable_supervisor": True}),
    Case("first-process-user", "a command that becomes the first process, and a user", user="app",
         env=("A=b c", "a.b=1"), spec={"disable_supervisor": True}),
)  # fmt: skip

# Changes by an instance's configuration and an env file; all are instances of the first one's image.
INSTANCES = (
    Case("instance-plain", "nothing replaced",
         (*BASE, *TOOLS, File("other", PROBE),
          File("env", "# comment\nA=plain\nB='quoted'\nC=$HOME `id`\nD=a=b\n\nE=\n")),
         cmd=("default",), env=("A=image", "B=image", "C=image", "a.b=image", "c.d=image", "PATH=/opt/bin:/usr/bin")),
    _instance("instance-env", "variables replaced, one by an empty value",
              {"environment.B": "instance value", "environment.D": "new one", "raw.lxc": "lxc.environment = C="},
              "--env", "B=instance value", "--env", "D=new one", "--env", "C="),
    _instance("instance-path", "PATH and HOME replaced",
              {"environment.PATH": "/srv/bin:/bin", "environment.HOME": "/elsewhere"},
              "--env", "PATH=/srv/bin:/bin", "--env", "HOME=/elsewhere"),
    _instance("instance-odd-names", "a replaced variable whose name no shell can export",
              {"environment.a.b": "instance value", "environment.x-y": "new one"},
              "--env", "a.b=instance value", "--env", "x-y=new one"),
    _instance("instance-env-file", "an env file, read as data and not as code",
              {"environment.LXDOCKER_ENVFILE": "/env"}, "--env", "LXDOCKER_ENVFILE=/env", "--env", "A=plain",
              "--env", "B='quoted'", "--env", "C=$HOME `id`", "--env", "D=a=b", "--env", "E="),
    _instance("instance-entrypoint", "the entrypoint replaced, which drops the image's cmd",
              {"user.lxdocker.entrypoint": '["/other", "a b", ""]'}, "--entrypoint", '["/other", "a b", ""]'),
    _instance("instance-cmd", "the cmd replaced", {"user.lxdocker.cmd": '["new one", "$HOME", ""]'},
              arguments=("new one", "$HOME", "")),
    _instance("instance-both", "entrypoint and cmd replaced",
              {"user.lxdocker.entrypoint": '["/other", "-x"]', "user.lxdocker.cmd": '["it\'s", "\\"\\n"]'},
              "--entrypoint", '["/other", "-x"]', arguments=("it's", '"\n')),
    _instance("instance-command-path", "a command found on the instance's PATH",
              {"user.lxdocker.entrypoint": '["tool"]', "environment.PATH": "/usr/bin"},
              "--entrypoint", '["tool"]', "--env", "PATH=/usr/bin"),
)  # fmt: skip

# An image's VOLUME: with nothing attached there, and with empty volumes.
DECLARED = Case("volume-declared", "folders declared as volumes by the image, one of them missing",
                (*BASE, File("data", mode=0o2750, uid=1000, gid=50), File("data/set id", "x", 0o4755),
                 File("data/link", "->../etc"), File("tmp", mode=0o1777), File("tmp/kept", mode=0o700, uid=1000),
                 File("tmp/kept/file", "x", 0o640, 1000, 44)),
                user="app", workdir="/data", declares=("/data", "/tmp/kept", "/new/place"))  # fmt: skip


def _with_volumes(case: Case) -> Case:
    """An image run with an empty volume at each of its VOLUMEs and innermost folders."""
    folders = {f"/{file.path}" for file in case.files if file.content is None}
    inner = {path for path in folders if not any(other.startswith(f"{path}/") for other in folders)}
    # LXD writes into the one, and finds PID 1 in the other.
    volumes = tuple(sorted(inner.union(case.declares) - {"/etc", "/sbin", "/usr/sbin"}))
    name = case.name.removeprefix("volume-")
    about = f"the image of {case.name}, with empty volumes at {', '.join(volumes)}"
    return replace(case, name=f"volumes-{name}", about=about, of=case.name, volumes=volumes)


def _volumes() -> Iterator[Case]:
    """All images with such folders, each kind of root once."""
    found: set[object] = set()
    for case in (*ENVIRONMENTS, *COMMANDS, *FOLDERS, *ROOTS, *INSTANCES, DECLARED):
        made = _with_volumes(case)
        if made.volumes and not case.of and not case.refused and (case.files, made.volumes) not in found:
            found.add((case.files, made.volumes))
            yield made


CASES = (*USERS, *ENVIRONMENTS, *COMMANDS, *FOLDERS, *ROOTS, *INSTANCES, DECLARED, *_volumes())
