"""PID 1 of an instance, verb by verb, run by busybox in a root of its own. Whole instances are tested with LXD."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lxdocker.config.spec import Behaviour
from lxdocker.runtime import render
from lxdocker.source.oci import OciConfig
from tests.chroots import needs_namespaces
from tests.instance import PREPARED, SOURCE, Instance, needs_gosu, supervised

pytestmark = needs_namespaces
Done = subprocess.CompletedProcess[str]

HOSTILE = [
    *("", " ", "a b", "'", '"', "\\", "\\n", "$HOME", "$(touch /canary)", "`touch /canary`"),
    *("x\ny", "*", "-n", "é🐳"),
]
BECOME = PREPARED + "with_command become"
# A program that prints what it was started with: its arguments after the name, then its environment.
SHOW = "#!/busybox-lxd sh\n/busybox-lxd printf '%s\\0' \"$@\"; echo ---; /busybox-lxd cat /proc/$$/environ\n"


def records(text: str) -> list[str]:
    return text.split("\0")[:-1]


def test_sourced_for_tests_it_does_nothing(instance: Instance) -> None:
    before = instance.root.contents()
    assert instance.out("true") == ""
    assert instance.root.contents() == before


# ---- which file a command is


@pytest.mark.parametrize(
    ("command", "path", "found"),
    [
        ("tool", "/a:/b", "/b/tool"),
        ("both", "/a:/b", "/a/both"),
        ("both", "/b:/a", "/b/both"),
        ("plain", "/a:/b", "/b/plain"),  # in /a it can't be run
        ("folder", "/a:/b", ""),
        ("missing", "/a:/b", ""),
        ("tool", "", "./tool"),  # an empty entry is the working directory
        ("tool", "/a::/b", "./tool"),
        ("tool", "/a:", "./tool"),
        ("tool", "b", "./b/tool"),
        ("/b/tool", "/a", "/b/tool"),
        ("./tool", "/a", "./tool"),
        ("b/tool", "/a", "b/tool"),
        ("/a/plain", "/b", ""),
        ("/a/folder", "/b", ""),
        ("two words", "/a:/b", "/b/two words"),
        ("*", "/b", ""),
        ("$(touch /canary)", "/b", ""),
        ("", "/b", ""),
    ],
)
def test_a_command_is_found_as_execvp_finds_it(instance: Instance, command: str, path: str, found: str) -> None:
    for name in ("/b/tool", "/a/both", "/b/both", "/b/plain", "/tool", "/b/two words"):
        instance.root.write(name, "#!/bin/sh", 0o755)
    instance.root.write("/a/plain", "", 0o644)
    (instance.root / "a/folder").mkdir()
    script = 'cd /; quote "PATH=$2"; _environment=$_quoted; find_program "$1"; printf %s "$_program"'
    assert instance.out(script, command, path) == found


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("missing", 127, "no such program in the image (working directory /, PATH /a:/b)"),
        ("plain", 127, "no such program in the image (working directory /, PATH /a:/b; /a/plain is not executable)"),
        ("/missing", 127, "no such program in the image (working directory /)"),
        ("/dangling", 127, "it is a link that leads nowhere"),
        ("/a", 126, "it is a folder"),
        ("/a/plain", 126, "it is not executable"),
        ("/a/text", 126, "it is neither a program for this machine nor a script with a #! line"),
        ("text", 126, "it is neither a program for this machine nor a script with a #! line"),
        ("/pipe", 126, "it is no regular file"),
    ],
)
def test_why_a_command_can_t_be_run(instance: Instance, command: str, status: int, why: str) -> None:
    """With Docker's statuses."""
    instance.configure(OciConfig(cmd=(command,), env=(("PATH", "/a:/b"),)))
    instance.root.write("/a/plain", "#!/bin/sh", 0o644)
    instance.root.write("/a/text", "echo this is no program", 0o755)
    (instance.root / "dangling").symlink_to("/nowhere")
    os.mkfifo(instance.root / "pipe")
    done = instance.sh("cd /; " + BECOME)
    assert (done.returncode, done.stdout) == (status, f"lxdocker: can't run '{command}': {why}\n")


# ---- environment


def environment_of(instance: Instance, **of_instance: str) -> dict[str, str]:
    """What a command gets."""
    script = PREPARED + 'eval ""\\$_bb" env -i $_environment "\\$_bb" cat /proc/self/environ"'
    return dict(record.split("=", 1) for record in records(instance.out(script, env=of_instance)))


def test_the_images_environment_as_it_is(instance: Instance) -> None:
    env = {f"V{number}": value for number, value in enumerate(HOSTILE)}
    instance.configure(OciConfig(env=tuple(env.items())))
    found = environment_of(instance)
    assert {name: found.get(name) for name in env} == env


def test_the_instance_says_otherwise(instance: Instance) -> None:
    instance.configure(OciConfig(env=(("A", "image"), ("B", "image"), ("PATH", "/image"))))
    found = environment_of(instance, A="instance", C="only instance", EMPTY="")
    assert (found["A"], found["B"], found["C"], found["EMPTY"]) == ("instance", "image", "only instance", "")
    assert found["PATH"] == "/image"
    assert environment_of(instance, PATH="/instance")["PATH"] == "/instance"
    assert environment_of(instance, A="")["A"] == ""


def test_a_line_of_a_value_is_not_taken_for_a_name(instance: Instance) -> None:
    instance.configure(OciConfig(env=(("B", "image"),)))
    found = environment_of(instance, A="x\nB=instance\nC")
    assert (found["A"], found["B"]) == ("x\nB=instance\nC", "image")


def test_what_docker_would_set_is_set(instance: Instance) -> None:
    found = environment_of(instance)
    assert found["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert found["HOSTNAME"]
    assert found["HOME"] == "/root"
    assert environment_of(instance, HOME="")["HOME"] == "/root"
    assert (
        environment_of(instance, HOSTNAME="mine", HOME="/mine").items() >= {"HOSTNAME": "mine", "HOME": "/mine"}.items()
    )


# ---- env files


def envfile(instance: Instance, content: str, **of_instance: str) -> tuple[dict[str, str], str]:
    """The variables that come of a file, beside those that are there without it, and what is said."""
    instance.root.write("/envfile", content)
    script = (
        PREPARED + "add_envfile; echo ---; "
        'eval ""\\$_bb" env -i $_environment "\\$_bb" env -u PATH -u HOSTNAME -u HOME -u LXDOCKER_ENVFILE '
        '"\\$_bb" cat /proc/self/environ"'
    )
    said, _, variables = instance.out(script, env={"LXDOCKER_ENVFILE": "/envfile", **of_instance}).partition("---\n")
    return dict(record.split("=", 1) for record in records(variables)), said


def test_an_env_file_is_data(instance: Instance) -> None:
    lines = [f"V{number}={value}" for number, value in enumerate(HOSTILE) if "\n" not in value]
    found, said = envfile(instance, "\n".join(["# comment", "", *lines, "NO_VALUE", "LAST=a=b"]))
    assert found == {
        **{f"V{number}": value for number, value in enumerate(HOSTILE) if "\n" not in value},
        "LAST": "a=b",  # also without a newline at the end
    }
    assert said == ""


def test_an_env_file_may_begin_with_a_byte_order_mark(instance: Instance) -> None:
    found, said = envfile(instance, "\ufeffFIRST=1\r\nSECOND=2\r\n")
    assert (found, said) == ({"FIRST": "1", "SECOND": "2"}, "")


def test_an_env_file_does_not_replace_what_the_instance_says(instance: Instance) -> None:
    found, _ = envfile(instance, "A=file\nB=file\n", A="instance")
    assert found == {"A": "instance", "B": "file"}


def test_names_that_can_t_be_are_named(instance: Instance) -> None:
    """As under Docker a name is any word."""
    found, said = envfile(instance, "a b=1\n=2\nGOOD=3\na.b=4\n$(touch /canary)=5\n")
    assert found == {"GOOD": "3", "a.b": "4"}
    assert said.splitlines() == [
        f"lxdocker: LXDOCKER_ENVFILE /envfile: '{name}' is not a name it may set; ignored"
        for name in ("a b", "", "$(touch /canary)")
    ]


def test_an_env_file_that_is_missing_is_named(instance: Instance) -> None:
    said = instance.out(PREPARED + "add_envfile", env={"LXDOCKER_ENVFILE": "/nowhere"})
    assert said == "lxdocker: LXDOCKER_ENVFILE /nowhere can't be read; continuing without it\n"


# The runtime's own variables, and what its shell would obey.
OURS = ["_bb", "_lib", "_user", "_uid", "_program", "_session", "_environment", "_supervise", "_output", "_log", "IFS"]


@pytest.mark.parametrize("source", ["image", "file", "instance"])
def test_the_application_s_variables_are_not_the_runtime_s(instance: Instance, source: str) -> None:
    """Whoever owns the file, or the image, runs nothing as root by it, and the application still gets them."""
    instance.root.write("/evil", "#!/busybox-lxd sh\n: >/canary\n", 0o755)
    values = dict.fromkeys(OURS, "/evil")
    if source == "image":
        instance.configure(OciConfig(env=tuple(values.items()), user="app", cmd=("/bin/show",)))
    else:
        instance.configure(OciConfig(user="app", cmd=("/bin/show",)))
    instance.root.write("/bin/show", SHOW + "\n/busybox-lxd id -u\n", 0o755)
    given = values if source == "instance" else {}
    if source == "file":
        instance.root.write("/data/env", "".join(f"{name}={value}\n" for name, value in values.items()))
        os.chown(instance.root / "data", 1000, 1000)
        os.chown(instance.root / "data/env", 1000, 1000)
        given = {"LXDOCKER_ENVFILE": "/data/env"}
    script = PREPARED + "add_envfile; with_command become"
    said = instance.out(script, env=given).partition("---\n")[2]
    variables, _, uid = said.rpartition("\0")
    assert uid == "1000\n"
    assert values.items() <= dict(one.split("=", 1) for one in variables.split("\0")).items()


@needs_gosu
def test_an_env_file_of_the_users_reveals_nothing_of_root_s(instance: Instance) -> None:
    instance.configure(OciConfig(user="app"))
    instance.root.write("/etc/secret", "SECRET=1\n", 0o600)
    data = instance.root.write("/data/env", "FINE=1\n", 0o600).parent
    os.chown(data / "env", 1000, 1000)
    os.chown(data, 1000, 1000)
    script = PREPARED + 'add_envfile; echo "$_of_file"'
    assert instance.out(script, env={"LXDOCKER_ENVFILE": "/data/env"}) == " 'FINE=1'\n"
    # What only root can have put there, root may read.
    assert instance.out(script, env={"LXDOCKER_ENVFILE": "/etc/secret"}) == " 'SECRET=1'\n"
    (data / "env").unlink()
    (data / "env").symlink_to("/etc/secret")
    said = "lxdocker: LXDOCKER_ENVFILE /data/env can't be read{}; continuing without it\n\n"
    why = " by user app, and is not root's alone"
    assert instance.out(script, env={"LXDOCKER_ENVFILE": "/data/env"}) == said.format(why)
    # Another user's, as a file pushed by a user of the host is.
    (data / "env").unlink()
    (data / "env").write_text("OTHERS=1\n")
    (data / "env").chmod(0o600)
    os.chown(data / "env", 1001, 1001)
    assert instance.out(script, env={"LXDOCKER_ENVFILE": "/data/env"}) == said.format(why)
    (data / "env").unlink()
    os.mkfifo(data / "env")
    assert instance.out(script, env={"LXDOCKER_ENVFILE": "/data/env"}) == said.format("")


# ---- settings of the instance


def write_settings(instance: Instance, **values: str) -> None:
    """As LXD writes them from the template: url-encoded."""
    text = "".join(f"user.lxdocker.{name}={urllib.parse.quote(value)}\n" for name, value in values.items())
    instance.root.write("/lxd-instance", text)


PRINT_COMMAND = (
    "read_instance_settings /lxd-instance; . /lxd-image; read_instance_settings /lxd-instance; with_command words"
)
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
ARGUMENTS = st.lists(st.text(CHARACTERS, max_size=20), max_size=4)
ESCAPED = ["\x01\x1f\x7f", "\u2028\uffff\U0010ffff", "/", "]", '","', "[", "%41+", "\r\t\b\f"]


@given(words=ARGUMENTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
@example(words=HOSTILE, ascii_only=True, indent=None)
@example(words=HOSTILE, ascii_only=False, indent=2)
@example(words=ESCAPED, ascii_only=True, indent=None)
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_command_of_the_instances_is_data_however_it_is_written(
    instance: Instance, words: list[str], ascii_only: bool, indent: int | None
) -> None:
    write_settings(instance, entrypoint=json.dumps(words, ensure_ascii=ascii_only, indent=indent))
    assert records(instance.out(PRINT_COMMAND)) == words


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "expected"),
    [
        (None, None, ["/entry", "image arg"]),
        (None, ["new"], ["/entry", "new"]),
        (None, [], ["/entry"]),
        (["/new"], None, ["/new"]),  # as under Docker, without the image's arguments
        (["/new"], ["a", "b"], ["/new", "a", "b"]),
        ([], ["a", "b"], ["a", "b"]),
    ],
)
def test_an_instance_may_have_another_command(
    instance: Instance, entrypoint: list[str] | None, cmd: list[str] | None, expected: list[str]
) -> None:
    instance.configure(OciConfig(entrypoint=("/entry",), cmd=("image arg",)))
    given = {"entrypoint": entrypoint, "cmd": cmd}
    write_settings(instance, **{name: json.dumps(value) for name, value in given.items() if value is not None})
    assert records(instance.out(PRINT_COMMAND)) == expected


NO_LISTS = ["nginx", "{}", '["a"', '["a",]', "[1]", '["a" "b"]', '["\\x"]', '"a"', "[a]", "[]]", '["a\\u00"]']


@pytest.mark.parametrize("text", NO_LISTS)
def test_what_is_no_list_of_words_is_refused(instance: Instance, text: str) -> None:
    write_settings(instance, cmd=text)
    done = instance.sh("read_instance_settings /lxd-instance")
    assert done.returncode == 125
    assert done.stdout == f"lxdocker: user.lxdocker.cmd is not a JSON list of strings: {text}\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop_grace", "5"),
        ("restart", "always"),
        ("restart", "on-failure:3"),
        ("prelaunch", "required"),
        ("restart_unhealthy", "true"),
        ("fill_volumes", "false"),
        ("umask", "0027"),
        ("umask", "077"),
        ("dns", "1.1.1.1 search a.b"),
    ],
)
def test_a_setting_of_the_instances_comes_before_the_images(instance: Instance, name: str, value: str) -> None:
    write_settings(instance, **{name: value})
    assert instance.out(f'. /lxd-image; read_instance_settings /lxd-instance; words "$_{name}"') == f"{value}\0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop_grace", "5s"),
        ("stop_grace", "$(touch /canary)"),
        ("restart", "sometimes"),
        ("restart", "on-failure:x"),
        ("prelaunch", "yes"),
        ("restart_unhealthy", "1'; touch /canary; '"),
        ("fill_volumes", "no"),
        ("umask", "27"),
        ("umask", "0028"),
        ("umask", "00022"),
        ("umask", "u=rwx"),
        ("umask", "0022$(touch /canary)"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(instance: Instance, name: str, value: str) -> None:
    """It is said, once; the image's setting stays, and the start goes on."""
    script = '. /lxd-image; read_instance_settings /lxd-instance; words "$_stop_grace$_restart$_umask$_fill_volumes"'
    assert instance.out(script) == "30no0022true\0"
    write_settings(instance, **{name: value})
    said, _, settings = instance.out(script).rpartition("\n")
    assert settings == "30no0022true\0"
    assert said.startswith(f"lxdocker: user.lxdocker.{name}: '{value}' is not ")
    assert said.endswith("; the setting of the image stays")
    assert "\n" not in said


def test_a_policy_of_dockers_is_translated(instance: Instance) -> None:
    write_settings(instance, restart="unless-stopped")
    said = instance.out(". /lxd-image; read_instance_settings /lxd-instance")
    assert "'unless-stopped' is not a policy here (always is the same" in said


def test_a_refused_value_is_shown_on_one_line_and_not_at_length(instance: Instance) -> None:
    write_settings(instance, umask="0022\nlxdocker: all is well\x1b[2J" + "x" * 10_000)
    (said,) = instance.out(". /lxd-image; read_instance_settings /lxd-instance").splitlines()
    assert said.startswith("lxdocker: user.lxdocker.umask: '0022?lxdocker: all is well?[2Jxxx")
    assert len(said) < 250


@pytest.mark.parametrize("text", HOSTILE[1:])
def test_any_setting_is_data(instance: Instance, text: str) -> None:
    write_settings(instance, network=text)
    assert instance.out('read_instance_settings /lxd-instance; words "$_network"') == f"{text}\0"


def test_settings_that_are_empty_or_missing_change_nothing(instance: Instance) -> None:
    write_settings(instance, restart="", cmd="", stop_grace="")
    script = '. /lxd-image; read_instance_settings /lxd-instance; words "$_restart" "$_stop_grace"'
    assert records(instance.out(script)) == ["no", "30"]
    (instance.root / "lxd-instance").unlink()
    assert records(instance.out(script + "; true")) == ["no", "30"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("user.lxdocker.restrat", "did you mean user.lxdocker.restart?"),
        ("user.lxdocker.Restart", "did you mean user.lxdocker.restart?"),
        ("user.lxdocker.restart_unhealty", "did you mean user.lxdocker.restart_unhealthy?"),
        ("user.lxdocker.stopgrace", "did you mean user.lxdocker.stop_grace?"),
        ("user.lxdocker.fill-volumes", "did you mean user.lxdocker.fill_volumes?"),
        ("user.lxdocker.networks", "did you mean user.lxdocker.network?"),
        ("user.lxdocker.entry_point", "did you mean user.lxdocker.entrypoint?"),
        ("user.lxdocker.dsn", "did you mean user.lxdocker.dns?"),
        ("user.lxdocker.init_script", "did you mean user.lxdocker_init_script?"),
        ("user.lxdocker_restart", "did you mean user.lxdocker.restart?"),
        ("user.lxdockers.cmd", "did you mean user.lxdocker.cmd?"),
        ("user.lxdocker.bb", "user.lxdocker. has cmd dns entrypoint"),
        ("user.lxdocker." + "x" * 60, "user.lxdocker. has cmd dns entrypoint"),
        ("user.lxdocker.x y';touch /canary;'", "user.lxdocker. has cmd dns entrypoint"),
    ],
)
def test_a_setting_that_does_not_exist_is_named(instance: Instance, key: str, said: str) -> None:
    instance.root.write("/lxd-instance", f"{urllib.parse.quote(key)}=/evil\nuser.lxdocker.restart=always\n")
    out = instance.out('. /lxd-image; read_instance_settings /lxd-instance; words "$_restart" "$_bb"')
    line, words = out.split("\n")
    assert line.startswith(f"lxdocker: unknown setting {key} is ignored; {said}")
    assert words == "always\0/busybox-lxd\0"


@pytest.mark.parametrize("name", ["tmpfs", "disable_supervisor", "image"])
def test_a_key_that_only_a_spec_has_is_named(instance: Instance, name: str) -> None:
    write_settings(instance, **{name: "off"})
    assert instance.out(". /lxd-image; read_instance_settings /lxd-instance") == (
        f"lxdocker: user.lxdocker.{name} has no effect: only the image's spec has {name}\n"
    )


def test_the_settings_that_are_suggested_are_those_that_exist(instance: Instance) -> None:
    (names,) = re.findall(r'settings = "(.*)"', (render.LIB / "settings.awk").read_text())
    for name in names.split():
        write_settings(instance, **{name: "[]"})
        assert "unknown" not in instance.out(". /lxd-image; read_instance_settings /lxd-instance")
    spec = json.loads((Path(render.__file__).parents[2] / "schema/image.schema.json").read_text())
    (built_in,) = re.findall(r'built_in = " (.*) "', (render.LIB / "settings.awk").read_text())
    assert set(spec["properties"]) <= {*names.split(), *built_in.split()}


def test_the_script_before_the_application_is_no_setting_to_complain_about(instance: Instance) -> None:
    instance.root.write("/lxd-instance", "user.lxdocker_init_script=echo\n")
    assert instance.out(". /lxd-image; read_instance_settings /lxd-instance") == ""


def test_what_was_said_before_there_was_a_log_is_in_the_log(instance: Instance) -> None:
    """Once, and in the order of what was said."""
    write_settings(instance, restrat="always", umask="9")
    lines = instance.out("""
        . /lxd-image; _uid=0
        start_logger() { :; }
        read_instance_settings /lxd-instance
        start_log
        say "and this"
        "$_bb" cat /.lxd-log/current >&"$_console"
    """).splitlines()  # fmt: skip
    said, logged = lines[:3], lines[3:]
    assert [line.split(":")[1] for line in said] == [
        " unknown setting user.lxdocker.restrat is ignored; did you mean user.lxdocker.restart?",
        " user.lxdocker.umask",
        " and this",
    ]
    assert logged[0].startswith("lxdocker: started at ")
    assert logged[1:] == said


# ---- users


@pytest.mark.parametrize("user", ["root", "app", "app:extra", "0", "1000:1000", "4711", ":extra"])
def test_users_that_can_be(instance: Instance, user: str) -> None:
    assert instance.sh("_user=$1; find_user; echo well", user).stdout == "well\n"


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("app", "1000 /home/app"),
        ("1000:7", "1000 /home/app"),
        ("4711", "4711 /"),
        ("2000", "2000 /"),
        ("0", "0 /root"),
        (":7", "0 /root"),
        ("01000", "1000 /home/app"),
        ("00", "0 /root"),
    ],
)
def test_whom_a_user_is(instance: Instance, user: str, found: str) -> None:
    """As Docker looks: by the first line with that name; a number is never a name."""
    instance.root.write(
        "/etc/passwd", "root:x:0:0::/root:\n2000:x:77:77::/odd:\napp:x:1000:1000::/home/app:\nz:x:2000:1:::\n"
    )
    assert instance.out('_user=$1; find_user; echo "$_uid $_home"', user) == f"{found}\n"


@pytest.mark.parametrize("user", ["nobody", "ap", "app ", "r.*t", "-x", "$(touch /canary)"])
def test_users_that_are_not_there_are_named(instance: Instance, user: str) -> None:
    done = instance.sh("_user=$1; find_user; echo well", user)
    assert (done.returncode, done.stdout) == (
        125,
        f"lxdocker: user '{user}' is not in the image's /etc/passwd\n",
    )


# ---- becoming the command


@needs_gosu
@pytest.mark.parametrize("home", [None, "/mine"])
@pytest.mark.parametrize("odd", [{}, {"a.b": "dot", "1": "digit", "with space": "$(touch /canary)"}])
def test_the_command_gets_exactly_its_arguments_and_environment(
    instance: Instance, home: str | None, odd: dict[str, str]
) -> None:
    env = {**{f"V{number}": value for number, value in enumerate(HOSTILE)}, **odd}
    instance.configure(OciConfig(cmd=("show", *HOSTILE), env=tuple(env.items())))
    instance.root.write("/bin/show", SHOW, 0o755)
    script = BECOME
    words, _, variables = instance.out(script, env={"HOME": home} if home else {}).partition("---\n")
    assert records(words) == HOSTILE
    found = dict(record.split("=", 1) for record in records(variables))
    assert found.pop("HOSTNAME")
    assert found.pop("PATH").endswith("/bin")
    assert found == {**env, "HOME": home or "/root"}


@needs_gosu
@pytest.mark.parametrize(
    ("user", "identity"),
    [("", "0 0 0"), ("app", "1000 1000 1000 2000"), ("1000:2000", "1000 2000 2000"), ("4711", "4711 0 0")],
)
def test_the_command_runs_as_the_images_user(instance: Instance, user: str, identity: str) -> None:
    instance.configure(OciConfig(user=user, cmd=("/bin/identity",)))
    id_ = "/busybox-lxd id"
    instance.root.write("/bin/identity", f"#!/busybox-lxd sh\necho $({id_} -u) $({id_} -g) $({id_} -G)\n", 0o755)
    assert instance.out(BECOME).split() == identity.split()


@needs_gosu
@pytest.mark.parametrize("user", ["", "app"])
def test_a_command_whose_path_looks_like_a_variable(instance: Instance, user: str) -> None:
    instance.configure(OciConfig(user=user, cmd=("/opt/a=b/program", "x")))
    instance.root.write("/opt/a=b/program", '#!/busybox-lxd sh\necho "$0 $1 $HOME"\n', 0o755)
    program, word, home = instance.out(BECOME).split()
    assert (program, word) == ("/opt/a=b/program", "x")
    assert home != "/"  # that of the user


# What a shell and a file that it makes say of the umask.
MASK = "#!/busybox-lxd sh\numask\n: >/made-$1; /busybox-lxd stat -c %a /made-$1\n"


@needs_gosu
@pytest.mark.parametrize(
    ("of_image", "of_instance", "found"),
    [
        (Behaviour(), "", ["0022", "644"]),
        (Behaviour(umask="0027"), "", ["0027", "640"]),
        (Behaviour(umask="0027"), "002", ["0002", "664"]),
    ],
)
def test_the_command_starts_with_its_umask_whatever_pid_1_has(
    instance: Instance, of_image: Behaviour, of_instance: str, found: list[str]
) -> None:
    """And so does what /lxd-exec runs beside it, which knows only what was saved of the instance's settings."""
    instance.configure(OciConfig(cmd=("/bin/mask", "app")), of_image)
    instance.root.write("/bin/mask", MASK, 0o755)
    write_settings(instance, umask=of_instance)
    prepared = "umask 077; " + PREPARED + "read_instance_settings /lxd-instance; "
    assert instance.out(prepared + "with_command become").split() == found
    assert instance.out(prepared + "save_environment; /lxd-exec /bin/mask exec").split() == found


@needs_gosu
def test_the_umask_is_the_applications_alone(instance: Instance) -> None:
    """What PID 1 makes, such as its log, does not depend on it; nor does the next start."""
    program = "umask; /busybox-lxd stat -c '%a %n' /.lxd-log/current; exit 1"
    said = supervised(instance, program, Behaviour(umask="0777", restart="on-failure:1"))[1]
    assert [line for line in said if not line.startswith("lxdocker:")] == ["0777", "644 /.lxd-log/current"] * 2


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_no_mistake_of_lxd_exec(instance: Instance, option: str) -> None:
    done = instance.sh(f"/lxd-exec {option}; echo $?; /lxd-exec --nosuch 2>/dev/null; echo $?")
    usage = "usage: /lxd-exec [-u USER[:GROUP]] [-w FOLDER] [-e NAME[=VALUE]]... COMMAND [ARGUMENT]..."
    assert done.stdout.splitlines() == [usage, "0", "125"]


def test_no_command_is_named(instance: Instance) -> None:
    done = instance.sh(BECOME)
    assert (done.returncode, done.stdout) == (127, "lxdocker: the image specifies no command to run\n")


def test_a_command_that_is_not_there_is_named(instance: Instance) -> None:
    instance.configure(OciConfig(cmd=("missing", "x"), env=(("PATH", "/opt"),)))
    done = instance.sh("cd /etc; " + BECOME)
    assert done.returncode == 127
    assert done.stdout == (
        "lxdocker: can't run 'missing': no such program in the image (working directory /etc, PATH /opt)\n"
    )


@needs_gosu
@pytest.mark.parametrize("name", ["busybox", "sh", "env", "reboot", "true"])
def test_a_program_called_like_one_of_busyboxs_is_the_images(instance: Instance, name: str) -> None:
    instance.configure(OciConfig(cmd=(name,)))
    instance.root.write(f"/bin/{name}", "#!/busybox-lxd sh\necho the image\n", 0o755)
    assert instance.out(BECOME) == "the image\n"


# ---- tmpfs


def test_a_tmpfs_shows_what_the_image_has_there(instance: Instance) -> None:
    instance.root.write("/run/app/pid", "42", 0o640)
    (instance.root / "run/app").chmod(0o700)
    done = instance.out(
        'mount_tmpfs /run mode=755; "$_bb" stat -f -c %T /run; "$_bb" cat /run/app/pid; echo; '
        '"$_bb" stat -c "%a %n" /run/app /run/app/pid; echo x >/run/new'
    )
    assert done.splitlines() == ["tmpfs", "42", "700 /run/app", "640 /run/app/pid"]
    assert not (instance.root / "run/new").exists()


def test_a_tmpfs_is_made_where_the_image_has_no_folder(instance: Instance) -> None:
    look = '"$_bb" stat -f -c %T /new/place; "$_bb" stat -c %a /new/place'
    done = instance.out(f"mount_tmpfs /new/place mode=1777,size=1m; {look}")
    assert done.split() == ["tmpfs", "1777"]


@pytest.mark.parametrize("place", ["/run", "/run/below"])
def test_a_tmpfs_hides_no_disk_of_the_users(instance: Instance, place: str) -> None:
    (instance.root / "run/below").mkdir(parents=True)
    done = instance.root.run(
        *("/busybox-lxd", "sh", "-c", SOURCE + f"mount_tmpfs /run mode=755; [ -e {place}/disk ] && echo still there"),
        before=f"mount -t tmpfs tmpfs .{place}; : >.{place}/disk",
    )
    assert (done.returncode, done.stdout) == (0, "still there\n")


# ---- prelaunch script


PRELAUNCH = "_user=0; _output=/dev/console; _prelaunch={}; _environment=A=b; run_prelaunch"


@pytest.mark.parametrize("script", ["echo ran >/ran", "#!/busybox-lxd sh\necho ran >/ran\n"])
def test_the_prelaunch_script_is_run(instance: Instance, script: str) -> None:
    instance.root.write("/lxd-prelaunch", script)
    instance.out(PRELAUNCH.format("required"))
    assert (instance.root / "ran").read_text() == "ran\n"


def test_a_prelaunch_script_that_fails(instance: Instance) -> None:
    instance.root.write("/lxd-prelaunch", "exit 3")
    done = instance.sh(PRELAUNCH.format("optional") + "; echo going on")
    assert done.stdout.splitlines() == [
        "lxdocker: the prelaunch script (user.lxdocker_init_script) failed with status 3; starting anyway",
        "going on",
    ]
    done = instance.sh(PRELAUNCH.format("required") + "; echo going on")
    assert done.returncode == 125
    assert done.stdout == "lxdocker: the prelaunch script (user.lxdocker_init_script) failed with status 3\n"


def test_no_prelaunch_script_is_fine(instance: Instance) -> None:
    for _ in range(2):
        assert instance.out(PRELAUNCH.format("required") + "; echo going on") == "going on\n"
        instance.root.write("/lxd-prelaunch", "")


# ---- looking after the command


@needs_gosu
@pytest.mark.parametrize("status", [0, 1, 42])
def test_it_ends_as_its_command_does(instance: Instance, status: int) -> None:
    assert supervised(instance, f"exit {status}") == (
        status,
        [f"lxdocker: /app ended with status {status} after N s"],
    )


@needs_gosu
def test_a_command_that_is_killed(instance: Instance) -> None:
    status, said = supervised(instance, "/busybox-lxd kill -KILL $$")
    assert status == 137
    assert re.fullmatch(r"lxdocker: /app was ended by signal 9\b.* after N s", said[-1])


@needs_gosu
def test_stopping_waits_until_the_command_has_ended(instance: Instance) -> None:
    program = """
trap '/busybox-lxd sleep 1; echo finished; exit 5' TERM
: >/dev/ready
while :; do /busybox-lxd sleep 0.1; done
"""
    stop = '( until [ -e /dev/ready ]; do "$_bb" sleep 0.1; done; "$_bb" kill -s PWR 1 ) &'
    status, said = supervised(instance, program, before=stop)
    assert status == 5
    assert said[0].startswith("lxdocker: stopping with SIGTERM")
    assert said[1:] == ["finished", "lxdocker: /app ended with status 5 after N s"]


@needs_gosu
def test_restarts_are_counted(instance: Instance) -> None:
    status, said = supervised(instance, "echo run; exit 7", Behaviour(restart="on-failure:2"))
    assert status == 7
    assert [line for line in said if line == "run"] == ["run"] * 3
    assert said[-1] == "lxdocker: /app ended with status 7 after N s"
    assert sum("starting it again" in line for line in said) == 2


@needs_gosu
def test_a_success_is_not_repeated(instance: Instance) -> None:
    status, said = supervised(instance, "echo run", Behaviour(restart="on-failure"))
    assert (status, said) == (0, ["run", "lxdocker: /app ended with status 0 after N s"])
