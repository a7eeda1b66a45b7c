"""Images that specs change: each file compared with what podman builds from the same Containerfile, and each key with
what an instance shows.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lxd.rig import Done, Instance, World, describe, tiny, unsquash

pytestmark = pytest.mark.any_lxd
BUILD_SECONDS = 300
# What every instance's image has from lxdocker, and what no image keeps.
OURS = (
    b"lxd-",
    b".lxd-",
    b".dockerenv",
    b"busybox-lxd",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/resolv.conf",
    b"etc/mtab",
    b"usr/sbin/init",
)
NOBODY_KEEPS = (b"dev/", b"proc/", b"sys/", b"run/.containerenv", b"tmp/", b"var/tmp/", b"run/secrets")


def layer_tar() -> bytes:
    """A layer with a file, a link and whiteouts."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content, mode, uid in (
            ("srv/layer/file", b"from a layer", 0o640, 33),
            ("srv/.wh.gone", b"", 0o644, 0),
            ("srv/layer/run", b"#!/bin/sh\n", 0o755, 0),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = len(content), mode, uid, uid, 1_600_000_000
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("srv/layer/link")
        link.type, link.linkname, link.mtime = tarfile.SYMTYPE, "../../etc/passwd", 1_600_000_000
        archive.addfile(link)
    return buffer.getvalue()


LAYER = layer_tar()


@dataclass(frozen=True)
class Twin:
    """A spec's keys and the lines of a Containerfile that do the same."""

    keys: dict[str, Any]
    lines: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)  # beside the spec, and in podman's context


TWINS = {
    "files": Twin(
        {
            "files": {
                "/srv/new/conf": {"content": "a\n", "mode": "0640", "owner": "www-data", "group": "adm"},
                "/etc/timezone": {"content": "Europe/Vienna\n"},
                "/srv/owned": {"content": "x", "owner": 1234, "group": 99},
            }
        },
        (
            "RUN mkdir -p /srv/new",
            "COPY --chown=www-data:adm --chmod=0640 conf /srv/new/conf",
            "COPY --chmod=0644 zone /etc/timezone",
            "COPY --chown=1234:99 --chmod=0644 x /srv/owned",
        ),
        {"conf": b"a\n", "zone": b"Europe/Vienna\n", "x": b"x"},
    ),
    "folder": Twin(
        {"files": {"/usr/share/nginx": {"source": "site"}, "/srv/app": {"source": "site", "owner": 33, "group": 33}}},
        ("COPY site /usr/share/nginx", "COPY --chown=33:33 site /srv/app"),
        {"site/html/a.html": b"<p>a</p>", "site/bin/run": b"#!/bin/sh\n", "site/empty/.keep": b""},
    ),
    "links": Twin(
        {
            "files": {
                "/etc/localtime": {"symlink": "/usr/share/zoneinfo/Etc/UTC"},
                "/srv/deep/link": {"symlink": "../x"},
                "/etc/debian_version": {"absent": True},
                "/usr/share/base-files": {"absent": True},
                "/none": {"absent": True},
            }
        },
        (
            "RUN ln -snf /usr/share/zoneinfo/Etc/UTC /etc/localtime && mkdir -p /srv/deep && ln -s ../x /srv/deep/link",
            "RUN rm -rf /etc/debian_version /usr/share/base-files /none",
        ),
    ),
    "append": Twin(
        {"files": {"/etc/profile": {"content": "export A=1\n", "append": True}}},
        ("RUN echo 'export A=1' >>/etc/profile",),
    ),
    "run": Twin(
        {
            "run": [
                "mkdir -p /srv/a && echo one >/srv/a/one && ln /srv/a/one /srv/a/hard",
                ["sh", "-c", 'echo "$0" >/srv/a/two', "argument with blanks"],
                "chown www-data: /srv/a/one; chmod 2750 /srv/a; chmod 4755 /srv/a/two; mkfifo /srv/a/fifo",
                "install -d -m 1777 /srv/sticky && umask >/srv/a/umask && pwd >/srv/a/pwd",
            ]
        },
        (
            "RUN mkdir -p /srv/a && echo one >/srv/a/one && ln /srv/a/one /srv/a/hard",
            'RUN ["sh", "-c", "echo \\"$0\\" >/srv/a/two", "argument with blanks"]',
            "RUN chown www-data: /srv/a/one; chmod 2750 /srv/a; chmod 4755 /srv/a/two; mkfifo /srv/a/fifo",
            "RUN install -d -m 1777 /srv/sticky && umask >/srv/a/umask && pwd >/srv/a/pwd",
        ),
    ),
    "user": Twin(
        {
            "files": {"/srv/home/.keep": {"content": "", "owner": "www-data", "group": "www-data"}},
            "run": [
                "chown www-data: /srv/home",
                {
                    "command": "id -un >/srv/home/who; id -G >>/srv/home/who; echo $HOME >>/srv/home/who",
                    "user": "www-data",
                },
                {"command": "id -u >/srv/home/number; id -g >>/srv/home/number", "user": "33:4"},
            ],
        },
        (
            "RUN install -d /srv/home",
            "COPY --chown=www-data:www-data --chmod=0644 keep /srv/home/.keep",
            "RUN chown www-data: /srv/home",
            "USER www-data",
            "RUN id -un >/srv/home/who; id -G >>/srv/home/who; echo $HOME >>/srv/home/who",
            "USER 33:4",
            "RUN id -u >/srv/home/number; id -g >>/srv/home/number",
            "USER root",
        ),
        {"keep": b""},
    ),
    "environment": Twin(
        {
            "environment": {"A": "one two", "GREETING": None, "Q": 'it\'s "$x" \\'},
            "working_dir": "/srv/work",
            "run": ['echo "$A|${GREETING-none}|$Q|$PATH" >/srv/env; pwd >>/srv/env'],
        },
        (
            "ENV A='one two'",
            "ENV Q='it'\"'\"'s \"$x\" \\'",
            "WORKDIR /srv/work",
            'RUN unset GREETING; echo "$A|${GREETING-none}|$Q|$PATH" >/srv/env; pwd >>/srv/env',
        ),
    ),
    "installed": Twin(
        {"files": {"/tmp/install.sh": {"content": "echo done >/srv/installed\n"}}, "run": ["sh /tmp/install.sh"]},
        ("COPY install.sh /tmp/install.sh", "RUN sh /tmp/install.sh"),
        {"install.sh": b"echo done >/srv/installed\n"},
    ),
    "layer": Twin(
        {
            "files": {"/srv/gone": {"content": "x"}, "/srv/kept": {"content": "x"}},
            "layers": [{"path": "layer.tar.gz", "sha256": hashlib.sha256(LAYER).hexdigest()}],
        },
        ("COPY --chmod=0644 x /srv/kept", "ADD layer.tar.gz /", "RUN rm /srv/.wh.gone"),
        {"layer.tar.gz": LAYER, "x": b"x"},
    ),
    "all": Twin(
        {
            "files": {"/srv/one": {"template": "{{ name }} {{ word }}\n"}, "/etc/issue": {"absent": True}},
            "variables": {"word": "word"},
            "run": [{"command": "cat /srv/one >/srv/two; test ! -e /etc/issue", "timeout": 20}],
        },
        ("COPY --chmod=0644 one /srv/one", "RUN rm /etc/issue; cat /srv/one >/srv/two"),
        {"one": b"all word\n"},
    ),
}


class Podman:
    """podman with a storage of its own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="podman."))  # podman takes no long path
        self._command = ["podman", "--root", str(self._folder / "s"), "--runroot", str(self._folder / "r"),
                         "--tmpdir", str(self._folder / "t"), "--storage-driver=overlay", "--runtime=runc",
                         "--cgroup-manager=cgroupfs", "--events-backend=none"]  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        subprocess.run([*self._command, "system", "reset", "--force"], capture_output=True, timeout=60, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    made = Podman()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def changed(shared_world: World, registry: str) -> World:
    """A world with the images of all twins, from one sync."""
    for name, twin in TWINS.items():
        put(shared_world.specs, twin.files)
        shared_world.spec(name, f"{registry}/nginx", **twin.keys)
    shared_world.sync()
    return shared_world


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if path.name == "run" else 0o644)


def told(root: Path) -> dict[bytes, tuple[str, ...]]:
    """What is in a root, without times: these are the image's own here, and the clock's under podman."""
    found = {}
    for path, what in describe(root).items():
        if not path.startswith((*OURS, *NOBODY_KEEPS)):
            mode, owner, _, content = what.split(" ", 3)
            found[path] = (mode, owner, content, *attributes(root, path))
    return found


def attributes(root: Path, inside: bytes) -> list[str]:
    path = os.path.join(os.fsencode(root), inside)  # noqa: PTH118 - bytes
    return [
        f"{name}={os.getxattr(path, name, follow_symlinks=False)!r}"
        for name in os.listxattr(path, follow_symlinks=False)
    ]


@pytest.mark.parametrize("name", TWINS)
def test_each_file_is_what_podman_makes_of_the_same(
    changed: World, podman: Podman, registry: str, tmp_path: Path, name: str
) -> None:
    twin = TWINS[name]
    context = tmp_path / "context"
    context.mkdir()
    put(context, twin.files)
    (context / "Containerfile").write_text("\n".join([f"FROM {registry}/nginx", *twin.lines, ""]))
    podman("build", "--tls-verify=false", "--network=none", "--quiet", "--layers=false", "-t", name, str(context))
    mounted = Path(podman("image", "mount", name))
    ours = told(unsquash(changed.rootfs(name), tmp_path / "root"))
    theirs = told(mounted)
    podman("image", "unmount", name)
    assert len(theirs) > 1000
    differing = [path for path in {*ours, *theirs} if ours.get(path) != theirs.get(path)]
    assert {path: ours.get(path) for path in differing} == {path: theirs.get(path) for path in differing}


# ---- what an instance shows

SHOWN: dict[str, Any] = {
    "entrypoint": ["/bin/sh", "-c", 'id -u; id -g; pwd; echo "$A|${GREETING-none}|$0|$1"; exec sleep 1000'],
    "cmd": ["zero", "one two"],
    "environment": {"A": "b c", "GREETING": None},
    "user": "www-data",
    "working_dir": "/srv/new",
    "volumes": ["/srv/data"],
    "ports": [8080, "53/udp"],
    "labels": {"org.opencontainers.image.version": "7"},
    "stop_signal": "SIGKILL",
    "healthcheck": {"test": ["CMD", "true"], "interval": "1s"},
    "files": {
        "/srv/data": {"folder": True, "owner": "www-data", "mode": "0700"},
        "/srv/data/default": {"template": "{{ name }} {{ image }} {{ version }}.\n"},
    },
    "templates": {
        "/etc/site": {
            "content": "{{ instance.name }} {{ properties.word }}\n",
            "when": ["create"],
            "properties": {"word": "w"},
        }
    },
}


@pytest.fixture(scope="module")
def shown(changed: World, registry: str) -> World:
    changed.spec("shown", f"{registry}/nginx", **SHOWN)
    changed.sync("shown")
    return changed


def test_an_instance_runs_as_the_spec_says(shown: World, launch: Callable[..., Instance]) -> None:
    instance = launch(shown, "shown")
    log = instance.log_with("b c|none|zero|one two")
    assert "33\n33\n/srv/new\n" in log
    assert instance.shell("cat /etc/site") == f"{instance.name} w\n"
    assert instance.shell("cat /srv/data/default") == f"shown {shown.registry}/nginx:latest 7.\n"
    assert instance.shell("stat -c '%u %a' /srv/data") == "33 700\n"
    assert "healthy" in instance.shell("sleep 3; cat /run/lxd-health/status 2>/dev/null || /lxd-health || :")
    properties = next(image for image in shown.lxc.images().values() if "shown" in image["aliases"])["properties"]
    assert properties["oci.ports"] == "53/udp 8080/tcp"
    assert properties["oci.stop_signal"] == "SIGKILL"
    assert properties["oci.label.org.opencontainers.image.version"] == "7"
    instance.stop()


def test_the_same_spec_is_the_same_image_and_changes_are_named(shown: World) -> None:
    before = {name: image for image in shown.lxc.images().values() for name in image["aliases"]}
    again = shown.sync("files", "layer", "--force")
    for name in ("files", "layer"):
        assert again.fingerprint(name) == before[name]["fingerprint"]
    (shown.specs / "site/html/a.html").write_text("<p>b</p>")
    try:
        planned = shown.run("sync", "--dry-run", "--json", "folder").image("folder")
    finally:
        (shown.specs / "site/html/a.html").write_text("<p>a</p>")
    assert planned["reason"] == "changed: files:/srv/app, files:/usr/share/nginx"


SH = ("/busybox-lxd", "sh", "-c")  # in an image without a shell
# Keys, and what is said of them.
WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "owner": (
        {"files": {"/a": {"content": "x", "owner": "nobody-there"}}},
        ["owner.yaml:2: files['/a']", "owner nobody-there is unknown: the image has no /etc/passwd"],
    ),
    "folder": (
        {"files": {"/a": {"content": "x"}, "/etc/text/x": {"content": "x"}}},
        ["folder.yaml:4: files['/etc/text/x']: /etc/text is a file in the image, not a folder"],
    ),
    "status": ({"run": [[*SH, "echo first"], [*SH, "echo why; exit 3"]]}, ["run[1]:", "why", "exit status 3"]),
    "slow": ({"run": [{"command": [*SH, "sleep 100"], "timeout": 1}]}, ["run[0]:", "it took longer than 1 s"]),
    "program": ({"run": [["/no/such/program"]]}, ["run[0]:", "/no/such/program"]),
    "shell": ({"run": ["echo x"]}, ["run[0]:", "/bin/sh"]),
    "user": ({"run": [{"command": [*SH, "id"], "user": "nobody-there"}]}, ["run[0]:", "nobody-there"]),
    "manager": ({"packages": {"remove": ["x"]}}, ["packages:", "no package manager that lxdocker knows"]),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, registry: str, builder_image: str) -> Iterator[Done]:
    """What a sync of all wrong specs came to."""
    world = World(tmp_path_factory.mktemp("refused") / "world", registry)
    try:
        reference = world.push("app", tiny("app"))
        for name, (keys, _) in WRONG.items():
            (world.specs / f"{name}.yaml").write_text(yaml.safe_dump({**keys, "image": reference}))
        yield world.sync(expect=1)
    finally:
        world.close()


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_is_said_with_the_place_in_the_spec(refused: Done, name: str) -> None:
    error = refused.error(name)
    assert f"{name}.yaml:" in error
    for text in WRONG[name][1]:
        assert text in error


def test_a_command_with_a_network_does_not_reach_what_trusts_this_host_s_own(world: World, registry: str) -> None:
    """The registry of the image is on this host's loopback, and takes pushes from whoever comes from there."""
    port = registry.rpartition(":")[2]
    world.push("app", tiny("app"))
    call = f"/busybox-lxd nc -w 2 127.0.0.1 {port} </dev/null"
    look = '/busybox-lxd ip -4 addr show dev eth0 | /busybox-lxd grep "inet " && [ -s /etc/resolv.conf ]'
    steps = [{"command": [*SH, f"{look} && ! {call}"], "network": True} for _ in range(2)]
    world.spec("app", world.ref("app"), run=[*steps, [*SH, f"! {call} && ! /busybox-lxd ip link show dev eth0"]])
    assert world.sync().statuses == {"app": "built"}


def test_a_changed_image_follows_its_upstream(world: World, tmp_path: Path) -> None:
    reference = world.push("app", tiny("one"))
    world.spec("app", reference, files={"/added": {"content": "x"}})
    first = world.sync()
    world.push("app", tiny("two"))
    second = world.sync()
    assert second.statuses == {"app": "built"}
    assert first.fingerprint("app") != second.fingerprint("app")
    assert (unsquash(world.rootfs("app"), tmp_path / "root") / "added").read_text() == "x"
    assert world.sync().statuses == {"app": "unchanged"}
