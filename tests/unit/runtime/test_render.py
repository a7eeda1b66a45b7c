"""What is put into an image. /lxd-image is not compared with what it should look like, but evaluated by busybox."""

from __future__ import annotations

import io
import lzma
import re
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lxdocker.config.spec import Behaviour
from lxdocker.errors import BuildError
from lxdocker.runtime import render
from lxdocker.source.oci import OciConfig
from lxdocker.values import Arch

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
USUAL = Behaviour()

# ---- /lxd-image

HOSTILE = [
    "",
    " ",
    "a b",
    "'",
    "''",
    '"',
    "\\",
    "$HOME",
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "\n",
    "a\nb\n",
    "' ; touch canary #",
    "*",
    "~",
    "-n",
    "--",
    "!x",
    "#",
    "%s\\n",
    "naïve 漢字 🐳",
    "\x01\x1b[2J\x7f",
    "${IFS}",
    "}",
    "}\ntouch canary\n{",
    "a=b",
]


@dataclass(frozen=True)
class Evaluated:
    """What the shell makes of /lxd-image."""

    argv: list[str]
    environment: dict[str, str]  # as handed to env
    variables: dict[str, str]


SETTINGS = (
    "supervise stop_signal stop_grace restart restart_unhealthy prelaunch fill_volumes umask user working_dir health"
)
READ = """
set -u
. ./lxd-image
each() { for word; do printf '%s\\0' "$word"; done; }
(eval "set -- '$1' $_image_environment"; outside=$1; shift; each "$@" >"$outside/environment")
with_image_entrypoint with_image_cmd each >"$1/argv"
for name in $2; do eval "each _$name \\"\\$_$name\\""; done >"$1/variables"
"""


def evaluate(folder: Path, rendered: bytes) -> Evaluated:
    """Sources the file in a shell without anything else in its environment."""
    inside, outside = folder / "inside", folder / "outside"
    for path in (inside, outside):
        path.mkdir(exist_ok=True)
    (inside / "lxd-image").write_bytes(rendered)
    shell(inside, READ, str(outside), SETTINGS)
    assert [path.name for path in inside.iterdir()] == ["lxd-image"], "something was run"
    return Evaluated(
        argv=records((outside / "argv").read_bytes()),
        environment=dict(one.split("=", 1) for one in records((outside / "environment").read_bytes())),
        variables=pairs(records((outside / "variables").read_bytes())),
    )


def shell(folder: Path, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> bytes:
    done = subprocess.run(
        [BUSYBOX, "sh", "-c", script, "sh", *arguments],
        cwd=folder,
        env=dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def records(text: bytes) -> list[str]:
    """Words, each of which is ended by a NUL."""
    return [record.decode() for record in text.split(b"\0")[:-1]]


def pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


WORDS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("'\"\\$`\n ;&|(){}*?~#!%=-"),
    max_size=30,
)
NAMES = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    entrypoint=st.lists(WORDS, max_size=4),
    cmd=st.lists(WORDS, max_size=4),
    env=st.dictionaries(NAMES | st.sampled_from(["PATH", "a.b", "1a", "A-B"]), WORDS, max_size=4),
)
@example(entrypoint=HOSTILE, cmd=HOSTILE, env={f"V{n}": value for n, value in enumerate(HOSTILE)})
@example(entrypoint=[], cmd=[], env={"IFS": ":", "PWD": "/nowhere"})
@example(entrypoint=[], cmd=[], env={value: value for value in HOSTILE if value and "=" not in value})
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_image_says_the_shell_reads_it_back_and_runs_none_of_it(
    tmp_path: Path, entrypoint: list[str], cmd: list[str], env: dict[str, str]
) -> None:
    config = OciConfig(entrypoint=tuple(entrypoint), cmd=tuple(cmd), env=tuple(env.items()))
    found = evaluate(tmp_path, render.render_config(config, USUAL))
    assert found.argv == entrypoint + cmd
    assert found.environment == env


@pytest.mark.parametrize("value", [value for value in HOSTILE if value])
def test_single_words_are_data_too(tmp_path: Path, value: str) -> None:
    config = OciConfig(user=value, working_dir=f"/{value}")
    found = evaluate(tmp_path, render.render_config(config, Behaviour(restart=value, prelaunch=value, umask=value)))
    assert found.variables["_user"] == value
    assert found.variables["_working_dir"] == f"/{value}"
    assert {found.variables[name] for name in ("_restart", "_prelaunch", "_umask")} == {value}


def test_what_an_image_does_not_say_has_a_default(tmp_path: Path) -> None:
    found = evaluate(tmp_path, render.render_config(OciConfig(), USUAL))
    assert found == Evaluated(
        argv=[],
        environment={},
        variables={
            "_supervise": "yes",
            "_stop_signal": "TERM",
            "_stop_grace": "30",
            "_restart": "no",
            "_restart_unhealthy": "false",
            "_prelaunch": "optional",
            "_fill_volumes": "true",
            "_umask": "0022",
            "_user": "0",
            "_working_dir": "/",
            "_health": "no",
        },
    )


def test_what_the_spec_says_is_there(tmp_path: Path) -> None:
    behaviour = Behaviour(
        restart="on-failure:3",
        restart_unhealthy=True,
        stop_grace=5,
        prelaunch="required",
        fill_volumes=False,
        umask="0027",
    )
    found = evaluate(tmp_path, render.render_config(OciConfig(stop_signal="SIGQUIT"), behaviour, supervise=False))
    wanted = {
        "_supervise": "no",
        "_stop_signal": "QUIT",
        "_stop_grace": "5",
        "_restart": "on-failure:3",
        "_restart_unhealthy": "true",
        "_prelaunch": "required",
        "_fill_volumes": "false",
        "_umask": "0027",
    }
    # All of them, but for tmpfs, which becomes commands.
    assert {f"_{field.name}" for field in fields(Behaviour)} - {"_tmpfs"} <= wanted.keys()
    assert {name: found.variables[name] for name in wanted} == wanted


# ---- stop signals


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (None, "TERM"),
        ("", "TERM"),
        ("SIGTERM", "TERM"),
        ("QUIT", "QUIT"),
        ("sigint", "INT"),
        ("3", "QUIT"),
        ("15", "TERM"),
        ("28", "WINCH"),
        ("37", "37"),
        ("64", "64"),
        ("SIGRTMIN", "34"),
        ("SIGRTMIN+3", "37"),
        ("RTMIN+30", "64"),
    ],
)
def test_stop_signals(text: str | None, name: str) -> None:
    assert render.signal_name(text) == name


NO_SIGNALS = ["0", "65", "-1", "SIGFOO", "TERM,INT", "SIGRTMIN+31", "RTMIN-1", "3;reboot", "\u0663", "SIG", "SIG_IGN"]


@pytest.mark.parametrize("text", [*NO_SIGNALS, "TERM INT", " ", "9" * 50])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="not a signal"):
        render.signal_name(text)


@pytest.mark.parametrize("text", ["QUIT", "3", "WINCH", "USR1", "SIGRTMIN+3", "64"])
def test_busybox_knows_the_signal_by_that_name(text: str) -> None:
    number = int(text) if text.isdigit() else {"SIGRTMIN+3": 37}.get(text) or signal.Signals[f"SIG{text}"]
    with subprocess.Popen(["sleep", "60"]) as process:
        subprocess.run([BUSYBOX, "kill", "-s", render.signal_name(text), str(process.pid)], check=True, timeout=10)
        if text == "WINCH":  # which is ignored unless asked for
            process.kill()
        else:
            assert process.wait(10) == -number


# ---- where a tmpfs goes

SHM, TMP, RUN = ("/dev/shm", "mode=1777,size=12%"), ("/tmp", "mode=1777,size=25%"), ("/run", "mode=755,size=12%")


@pytest.mark.parametrize(
    ("volumes", "wanted", "mounts"),
    [
        ((), {}, [SHM, TMP, RUN]),
        ((), {"/tmp": "off"}, [("/dev/shm", "mode=1777,size=25%"), ("/run", "mode=755,size=25%")]),
        ((), {"/dev/shm": "1g"}, [("/dev/shm", "mode=1777,size=1g"), TMP, ("/run", "mode=755,size=25%")]),
        ((), {"/cache": "on", "/run": "on"}, [
            ("/dev/shm", "mode=1777,size=8%"), TMP, ("/run", "mode=755,size=8%"), ("/cache", "mode=1777,size=8%"),
        ]),
        ((), {"/cache": "10%"}, [SHM, TMP, RUN, ("/cache", "mode=1777,size=10%")]),
        # What an image keeps in a volume must not be lost with the instance's next stop.
        (("/tmp",), {}, [("/dev/shm", "mode=1777,size=25%"), ("/run", "mode=755,size=25%")]),
        (("/run/mysqld/",), {}, [("/dev/shm", "mode=1777,size=25%"), TMP]),
        (("/running", "/data"), {}, [SHM, TMP, RUN]),
        (("/tmp",), {"/tmp": "on"}, [SHM, TMP, RUN]),
        ((), {"/tmp": "off", "/run": "off", "/dev/shm": "off"}, []),
    ],
)  # fmt: skip
def test_a_tmpfs_hides_no_volume_and_all_are_bounded_together(
    volumes: tuple[str, ...], wanted: dict[str, str], mounts: list[tuple[str, str]]
) -> None:
    config = OciConfig(volumes=volumes)
    behaviour = Behaviour(tmpfs=tuple(sorted(wanted.items())))
    assert render.tmpfs_mounts(config, behaviour) == mounts


# ---- health checks

MINUTE = 60 * 10**9


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"Test": ["CMD", "true"]}, render.Health(("true",), 30, 30, 0, 5, 3)),
        ({"Test": ["CMD-SHELL", "a || b"]}, render.Health(("/bin/sh", "-c", "a || b"), 30, 30, 0, 5, 3)),
        (
            {"Test": ["CMD", "x", "y"], "Interval": MINUTE, "Timeout": 10**9, "StartPeriod": MINUTE, "Retries": 5},
            render.Health(("x", "y"), 60, 1, 60, 5, 5),
        ),
        ({"Test": ["CMD", "x"], "StartInterval": 10**9}, render.Health(("x",), 30, 30, 0, 1, 3)),
        # Zero means the default.
        (
            {"Test": ["CMD", "x"], "Interval": 0, "Timeout": 0, "StartPeriod": 0, "Retries": 0},
            render.Health(("x",), 30, 30, 0, 5, 3),
        ),
        (
            {"Test": ["CMD", "x"], "Interval": "1m", "Timeout": -5, "StartPeriod": None, "Retries": 2.5},
            render.Health(("x",), 30, 30, 0, 5, 3),
        ),
        ({"Test": ["NONE"]}, None),
        ({"Test": []}, None),
        ({"Test": ["CMD"]}, None),
        ({"Test": ["OTHER", "x"]}, None),
        ({"Test": "true"}, None),
        ({"Test": ["CMD", 3]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_health_checks(raw: Mapping[str, Any] | None, expected: render.Health | None) -> None:
    assert render.parse_healthcheck(raw) == expected


def test_a_check_in_shell_form_is_for_the_image_s_own_shell() -> None:
    raw = {"Test": ["CMD-SHELL", "a || b"]}
    found = render.parse_healthcheck(raw, ("/busybox/sh", "-eu", "-c"))
    assert found is not None
    assert found.command == ("/busybox/sh", "-eu", "-c", "a || b")


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (999_999_500_000_000, "999999.5"),
        (10**9, "1"),
        (1, "0.001"),
        (60 * 10**9, "60"),
        (300_000_000, "0.3"),
    ],
)
def test_a_time_is_a_decimal_that_busybox_reads(nanoseconds: int, text: str) -> None:
    found = render.parse_healthcheck({"Test": ["CMD", "x"], "Interval": nanoseconds, "StartInterval": nanoseconds})
    assert found is not None
    assert f"_health_interval={text}" in found.settings()
    assert f"_health_start_interval={text}" in found.settings()
    read = f"read -t {text} _ </dev/null; echo $?"
    done = subprocess.run([BUSYBOX, "sh", "-c", read], capture_output=True, timeout=10, check=False)
    assert (done.stdout, done.stderr) == (b"1\n", b"")  # the end of the file


@pytest.mark.parametrize(("milliseconds", "seconds"), [(1500, 2), (1, 1), (3000, 3)])
def test_a_check_has_all_of_its_time(milliseconds: int, seconds: int) -> None:
    """busybox's timeout would cut the fraction off."""
    found = render.parse_healthcheck({"Test": ["CMD", "x"], "Timeout": milliseconds * 1_000_000})
    assert found is not None
    assert f"_health_timeout={seconds}" in found.settings()


def test_a_health_check_reaches_the_shell(tmp_path: Path) -> None:
    raw = {"Test": ["CMD", *HOSTILE], "Interval": MINUTE // 40, "Retries": 2}
    (tmp_path / "lxd-image").write_bytes(render.render_config(OciConfig(healthcheck=raw), USUAL))
    script = (
        '. ./lxd-image; each() { for word; do printf "%s\\0" "$word"; done; }; '
        "with_health_command each $_health_interval $_health_timeout $_health_start_period $_health_start_interval "
        "$_health_retries"
    )
    assert records(shell(tmp_path, script)) == ["1.5", "30", "0", "5", "2", *HOSTILE]
    assert [path.name for path in tmp_path.iterdir()] == ["lxd-image"]


# ---- tarballs

CONFIG = OciConfig(cmd=("nginx",), created=1_700_000_000)


def unpack(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: member for member in tar}


def metadata(properties: Mapping[str, str]) -> bytes:
    return render.image_metadata(Arch.X86_64, CONFIG.created, properties, render.render_config(CONFIG, USUAL))


def test_the_same_inputs_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> tuple[bytes, bytes, str]:
        return (
            render.runtime_tar(CONFIG.created),
            metadata({"os": "web", "b": "2", "a": "1"}),
            render.runtime_hash.__wrapped__(),
        )

    before = everything()
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert everything() == before
    # Nor does it depend on the order in which properties came.
    assert metadata({"a": "1", "os": "web", "b": "2"}) == before[1]


def test_all_members_are_root_s_and_as_old_as_the_image() -> None:
    for content in (render.runtime_tar(CONFIG.created), lzma.decompress(metadata({}))):
        for member in unpack(content).values():
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert member.mtime == CONFIG.created
            assert member.isfile() or member.isdir()


def test_the_runtime_has_every_file_that_its_hash_covers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = unpack(render.runtime_tar(CONFIG.created))
    assert members["init"].mode == 0o755
    assert members["lxd-udhcpc-default.script"].mode == 0o755
    assert {f"lxd-lib/{path.name}" for path in render.LIB.iterdir()} <= set(members)
    # Whatever changes in one of them changes the hash.
    lib = shutil.copytree(render.LIB, tmp_path / "lib")
    monkeypatch.setattr(render, "LIB", lib)
    computed = render.runtime_hash.__wrapped__  # without what this process remembers of it
    for path in lib.iterdir():
        before = computed()
        path.write_bytes(path.read_bytes() + b"\n")
        assert computed() != before


def test_how_an_image_runs_is_in_its_metadata() -> None:
    """Word by word, even if it would mean something in a template."""
    text = b"a='{{ config.x }}' {% include 'y' %} {# z #} {{{ {%% f() { :; } \xff\n"
    packed = render.image_metadata(Arch.X86_64, 1, {}, text)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:xz") as tar:
        source = tar.extractfile("templates/image.tpl")
        assert source is not None
        template = source.read()
    assert template.replace(b'{{ "{" }}', b"{") == text
    assert re.findall(rb"{[{%#]", template.replace(b'{{ "{" }}', b"<")) == []


def test_the_metadata_as_lxd_reads_it() -> None:
    properties = {"description": "naïve: 'x' \n# y", "os": "web", "number": "1", "yes": "no"}
    packed = render.image_metadata(Arch.AARCH64, CONFIG.created, properties, b"")
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:xz") as tar:
        source = tar.extractfile("metadata.yaml")
        assert source is not None
        document = yaml.safe_load(source.read())
        names = tar.getnames()
    assert document["architecture"] == "aarch64"
    assert document["creation_date"] == CONFIG.created
    assert document["properties"] == properties
    # Every template that is named is there, and the other way round: LXD fails at the first start otherwise.
    named = {f"templates/{entry['template']}" for entry in document["templates"].values()}
    assert named == {name for name in names if name.startswith("templates/")}
    assert "/etc/hostname" in document["templates"]
    for entry in document["templates"].values():
        assert set(entry["when"]) <= {"create", "copy", "start"}


def test_the_builder_needs_no_templates() -> None:
    packed = render.image_metadata(Arch.X86_64, 0, {}, None)
    assert list(unpack(lzma.decompress(packed))) == ["metadata.yaml"]
