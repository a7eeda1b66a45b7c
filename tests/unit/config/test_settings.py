from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from lxdocker.config import settings, yamlfile
from lxdocker.config.settings import SCHEMA, Settings, size_in_bytes
from lxdocker.errors import SpecError
from tests.forked import NOBODY, in_child


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a host of our own."""
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", tmp_path / "etc/config.yaml")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path


def load(
    place: Path,
    text: str | None = None,
    environ: Mapping[str, str] | None = None,
    /,
    **flags: object,
) -> Settings:
    if text is not None:
        path = place / "home/.config/lxdocker/config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return settings.load(flags, {"HOME": str(place / "home"), **(environ or {})})


def mistakes(
    place: Path,
    text: str = "",
    environ: Mapping[str, str] | None = None,
    /,
    **flags: object,
) -> list[str]:
    with pytest.raises(SpecError, match="in the settings") as caught:
        load(place, text, environ, **flags)
    assert caught.value.resolution
    return caught.value.details.replace(f"{place}/home/.config/lxdocker/", "").splitlines()


def test_everything_has_a_default(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert load(place) == Settings(
        specs=Path("/etc/lxdocker/images.d"),
        tree=Path("/var/lib/lxdocker/tree"),
        config=None,
        project="default",
        builder_project="lxdocker",
        pool=None,
        network=None,
        jobs=4,
        compression_level=3,
        insecure_registries=(),
        keep_versions=3,
        grace_hours=48,
        builder_from="image",
        builder_server="https://images.lxd.canonical.com",
        builder_base="debian/13",
        builder_max_age_days=30,
        build_timeout=1800,
        stall_timeout=60,
        image_size_limit=None,
        builder_memory=None,
        listen=":8444",
        tls_dir=Path("/var/lib/lxdocker/tls"),
        tls_cert=None,
        tls_key=None,
        tls_names=(),
        users=None,
        stop_timeout=60,
        connections_per_client=250,
        import_dir=Path("/var/lib/lxdocker/import"),
        client_dir=Path("/var/lib/lxdocker/client"),
        on_change=None,
        on_failure=None,
        hook_timeout=60,
    )


def test_a_small_host_has_fewer_jobs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert load(place).jobs == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert load(place).jobs == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="who can't become another user can close no file to them")
def test_a_usual_file_that_is_closed_to_this_user_is_passed_over(place: Path) -> None:
    found = load(place, "jobs: 7\n")
    assert found.jobs == 7
    path = place / "home/.config/lxdocker/config.yaml"
    environ = {"HOME": str(place / "home")}
    assert settings.closed_files({}, environ) == []
    for folder in (place, *place.parents[:-2], *path.parents[:3]):
        folder.chmod(0o755)
    path.chmod(0o600)

    def look() -> tuple[list[Path], bool]:
        return settings.closed_files({}, environ)[:1], load(place).jobs == 7

    assert in_child(look, uid=NOBODY) == ([path], False)

    def named() -> str:
        assert settings.closed_files({"config": path}, environ) == []
        with pytest.raises(SpecError) as caught:
            load(place, config=path)
        return str(caught.value)

    assert "Permission denied" in in_child(named, uid=NOBODY)


def test_registries_are_settings_in_the_form_that_is_compared(place: Path) -> None:
    found = load(place, "insecure_registries: ['Registry.Example:5000', '[2001:DB8::0:1]']\n")
    assert found.insecure_registries == ("registry.example:5000", "[2001:db8::1]")


def test_the_schema_and_the_settings_are_the_same_list() -> None:
    """A key in one only would be ignored, or could not be set."""
    described = yamlfile.schema(SCHEMA)["properties"]
    fields = {field.name: field for field in dataclasses.fields(Settings) if field.name != "config"}
    assert described.keys() == fields.keys()
    for key, field in fields.items():
        if "default" in described[key]:
            default = described[key]["default"]
            assert field.default == (tuple(default) if isinstance(default, list) else default), key
        else:
            assert field.default in (None, dataclasses.MISSING), key
    assert tuple(described["builder_from"]["enum"]) == get_args(get_type_hints(Settings)["builder_from"])


ALL_KEYS = """\
specs: ../specs
tree: /srv/tree
project: images
builder_project: builders
pool: fast
network: lxdbr1
jobs: 64
compression_level: 22
insecure_registries: [registry.lan:5000, '10.0.0.1']
keep_versions: 1
keep_days: 1.5
grace_hours: 0.5
deltas: true
builder_from: mmdebstrap
builder_server: http://127.0.0.1:8443/streams
builder_base: debian/12/cloud
builder_max_age_days: 7
build_timeout: 60
stall_timeout: 30
image_size_limit: 20GB
builder_memory: 512MiB
listen: 192.0.2.1:443
tls_dir: /srv/tls
tls_cert: /srv/own.crt
tls_key: /srv/own.key
tls_names: [images.lan, '2001:db8::1']
users: /srv/users
stop_timeout: 5
connections_per_client: 20
import_dir: /srv/import
specs_repository: https://git.example/specs.git
specs_branch: stable
specs_signers: /srv/signers
lxd: https://lxd.example:8443
client_dir: /srv/client
target: '@builders'
on_change: notify --all
on_failure: https://hooks.example/s
hook_timeout: 7
metrics_file: /srv/lxdocker.prom
"""


def test_no_key_is_left_out_below() -> None:
    """Nor has one its default, which would be seen even if it were ignored."""
    keys = [line.partition(":")[0] for line in ALL_KEYS.splitlines()]
    assert sorted(keys) == sorted(yamlfile.schema(SCHEMA)["properties"])
    for line in ALL_KEYS.splitlines():
        key, _, value = line.partition(": ")
        assert yamlfile.resolve_plain(value) != yamlfile.schema(SCHEMA)["properties"][key].get("default"), key


def test_every_key_can_be_set_in_the_file(place: Path) -> None:
    assert load(place, ALL_KEYS) == Settings(
        specs=place / "home/.config/lxdocker/../specs",
        tree=Path("/srv/tree"),
        config=place / "home/.config/lxdocker/config.yaml",
        project="images",
        builder_project="builders",
        pool="fast",
        network="lxdbr1",
        jobs=64,
        compression_level=22,
        insecure_registries=("registry.lan:5000", "10.0.0.1"),
        keep_versions=1,
        keep_days=1.5,
        grace_hours=0.5,
        deltas=True,
        builder_from="mmdebstrap",
        builder_server="http://127.0.0.1:8443/streams",
        builder_base="debian/12/cloud",
        builder_max_age_days=7,
        build_timeout=60,
        stall_timeout=30,
        image_size_limit="20GB",
        builder_memory="512MiB",
        listen="192.0.2.1:443",
        tls_dir=Path("/srv/tls"),
        tls_cert=Path("/srv/own.crt"),
        tls_key=Path("/srv/own.key"),
        tls_names=("images.lan", "2001:db8::1"),
        users=Path("/srv/users"),
        stop_timeout=5,
        connections_per_client=20,
        import_dir=Path("/srv/import"),
        specs_repository="https://git.example/specs.git",
        specs_branch="stable",
        specs_signers=Path("/srv/signers"),
        lxd="https://lxd.example:8443",
        client_dir=Path("/srv/client"),
        target="@builders",
        on_change="notify --all",
        on_failure="https://hooks.example/s",
        hook_timeout=7,
        metrics_file=Path("/srv/lxdocker.prom"),
    )


def test_every_key_can_be_set_in_the_environment(place: Path) -> None:
    from_file = load(place, ALL_KEYS)
    environ = {}
    for line in ALL_KEYS.splitlines():
        key, _, value = line.partition(": ")
        environ[f"LXDOCKER_{key.upper()}"] = value.strip("[]").replace("'", "")
    found = load(place, "", environ)
    assert found == dataclasses.replace(from_file, specs=place / "work/../specs")
    assert [type(getattr(found, field.name)) for field in dataclasses.fields(found)] == [
        type(getattr(from_file, field.name)) for field in dataclasses.fields(found)
    ]


def test_every_key_can_be_given_as_a_flag(place: Path) -> None:
    from_file = load(place, ALL_KEYS)
    flags = {name: value for name, value in dataclasses.asdict(from_file).items() if name != "config"}
    assert load(place, "", {}, **flags) == from_file


def test_flags_before_environment_before_file_before_default(place: Path) -> None:
    config = "jobs: 10\nkeep_versions: 10\npool: file\ninsecure_registries: [a, b]\n"
    environ = {"LXDOCKER_JOBS": "20", "LXDOCKER_KEEP_VERSIONS": "20", "LXDOCKER_INSECURE_REGISTRIES": "c"}
    found = load(place, config, environ, jobs=30, insecure_registries=["d", "e"])
    assert (found.jobs, found.keep_versions, found.pool, found.compression_level) == (30, 20, "file", 3)
    assert found.insecure_registries == ("d", "e")
    assert load(place, config, environ).insecure_registries == ("c",)


def test_what_is_none_or_empty_was_not_given(place: Path) -> None:
    config = "jobs: 10\nspecs: /file\ninsecure_registries: [a]\n"
    environ = {
        "LXDOCKER_JOBS": "",
        "LXDOCKER_SPECS": "",
        "LXDOCKER_INSECURE_REGISTRIES": "",
        "LXDOCKER_CONFIG": "",
    }
    found = load(place, config, environ, jobs=None, specs=None, insecure_registries=[], config=None)
    assert (found.jobs, found.specs, found.insecure_registries) == (10, Path("/file"), ("a",))


def test_relative_paths_and_the_home_folder(place: Path) -> None:
    config = "specs: specs\ntree: ~/tree\n"
    found = load(place, config)
    assert found.specs == place / "home/.config/lxdocker/specs"
    assert found.tree == place / "home/tree"
    assert load(place, config, {"LXDOCKER_SPECS": "specs"}).specs == place / "work/specs"
    assert load(place, config, {}, specs=Path("flag/specs")).specs == place / "work/flag/specs"


def test_specs_in_the_working_folder_are_found(place: Path) -> None:
    (place / "work/images.d").mkdir()
    assert load(place).specs == place / "work/images.d"


def test_a_user_publishes_at_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load(place).tree == place / "home/.local/share/lxdocker/tree"
    assert load(place, None, {"XDG_DATA_HOME": "/data"}).tree == Path("/data/lxdocker/tree")
    assert load(place, None, {"XDG_DATA_HOME": "data"}).tree == place / "home/.local/share/lxdocker/tree"


def test_which_file_is_read(place: Path) -> None:
    (place / "etc").mkdir()
    (place / "etc/config.yaml").write_text("jobs: 11")
    assert load(place).jobs == 11
    assert load(place, "jobs: 12").jobs == 12
    xdg = {"XDG_CONFIG_HOME": str(place / "xdg")}
    assert load(place, None, xdg).jobs == 11, "XDG's folder is in place of the one in the home folder"
    (place / "xdg/lxdocker").mkdir(parents=True)
    (place / "xdg/lxdocker/config.yaml").write_text("jobs: 13")
    assert load(place, None, xdg).jobs == 13
    (place / "work/named.yaml").write_text("jobs: 14")
    assert load(place, None, {**xdg, "LXDOCKER_CONFIG": "named.yaml"}).jobs == 14
    (place / "work/flag.yaml").write_text("jobs: 15\ntree: tree")
    found = load(place, None, {"LXDOCKER_CONFIG": "named.yaml"}, config=Path("flag.yaml"))
    assert (found.jobs, found.config, found.tree) == (15, place / "work/flag.yaml", place / "work/tree")


@pytest.mark.parametrize("config", ["", "# nothing yet\n", "{}\n", "---\n"])
def test_a_file_may_set_nothing(place: Path, config: str) -> None:
    assert load(place, config).project == "default"


def test_a_file_that_is_named_must_be_there(place: Path) -> None:
    expected = f"{place / 'work/none.yaml'}: expected a readable file, found: No such file or directory"
    assert mistakes(place, "", {}, config="none.yaml") == [expected]
    assert mistakes(place, "", {"LXDOCKER_CONFIG": "none.yaml"}) == [expected]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "- jobs",
            "config.yaml:1: expected a mapping of settings to values, such as 'jobs: 2', found a list",
        ),
        ("a: [", "config.yaml:2: expected valid YAML: did not find expected node content"),
        ("jobs: 1\njobs: 2", "config.yaml:2: jobs: expected each key once, found it again (first on line 1)"),
        ("jobs: 0", "config.yaml:1: jobs: expected a whole number from 1 to 64, found the number 0"),
        ("jobs: 65", "config.yaml:1: jobs: expected a whole number from 1 to 64, found the number 65"),
        ("jobs: 1.5", "config.yaml:1: jobs: expected a whole number from 1 to 64, found the number 1.5"),
        ("jobs: true", "config.yaml:1: jobs: expected a whole number from 1 to 64, found the boolean true"),
        (
            "jobs: '2'",
            "config.yaml:1: jobs: expected a whole number from 1 to 64, found '2'; write 2 without quotes",
        ),
        (
            "compression_level: 23",
            "config.yaml:1: compression_level: expected a whole number from 1 to 22, found the number 23",
        ),
        (
            "keep_versions: 0",
            "config.yaml:1: keep_versions: expected a whole number from 1 to 1000, found the number 0",
        ),
        (
            "grace_hours: .inf",
            "config.yaml:1: grace_hours: expected a number of hours from 0 to 87600, found '.inf'",
        ),
        (
            "grace_hours: 1e999",
            "config.yaml:1: grace_hours: expected a number of hours from 0 to 87600, found the number 1e999",
        ),
        (
            "hook_timeout: 0",
            "config.yaml:1: hook_timeout: expected a whole number of seconds from 1 to 86400, found the number 0",
        ),
        ("on_change: 'mail \"root'", "config.yaml:1: on_change: cannot split the command: no closing quotation"),
        ("on_change: \"''\"", "config.yaml:1: on_change: the command is empty"),
        ('on_change: "a\\0b"', "config.yaml:1: on_change: a command has no NUL characters"),
        ("on_change: |\n  https:// s3cret\n", "config.yaml:1: on_change: not a URL such as https://HOST/PATH"),
        ("on_failure: https:///x", "config.yaml:1: on_failure: not a URL such as https://HOST/PATH"),
        ("on_failure: https://host/ x", "config.yaml:1: on_failure: not a URL such as https://HOST/PATH"),
        (
            "builder_from: debian",
            "config.yaml:1: builder_from: expected 'image' or 'mmdebstrap', found 'debian'",
        ),
        (
            "builder_memory: 512",
            "config.yaml:1: builder_memory: expected a size such as '2GiB' or '50%', found the number 512",
        ),
        (
            "listen: 8444",
            "config.yaml:1: listen: expected ADDRESS:PORT, [IPV6]:PORT or :PORT, found the number 8444",
        ),
        (
            "builder_memory: 2 GiB",
            "config.yaml:1: builder_memory: expected a size such as '2GiB' or '50%', found '2 GiB'",
        ),
        (
            "builder_memory: 101%",
            "config.yaml:1: builder_memory: expected a size such as '2GiB' or '50%', found '101%'",
        ),
        ("specs: ''", "config.yaml:1: specs: expected a path, found ''"),
        (
            "project: a/b",
            "config.yaml:1: project: expected an LXD project's name: up to 63 letters, digits, '.' and '-', "
            "the first one a letter or digit, found 'a/b'",
        ),
        ("pool: a b", "config.yaml:1: pool: expected an LXD storage pool's name, found 'a b'"),
        (
            "builder_server: http://localhost.example.com",
            "config.yaml:1: builder_server: expected the https:// address of a simplestreams server "
            "(http:// on this host's loopback only), or 'local', found 'http://localhost.example.com'",
        ),
        (
            "insecure_registries: registry",
            "config.yaml:1: insecure_registries: expected a list of registries, found 'registry'; write [registry]",
        ),
        (
            "insecure_registries:\n- a\n- http://b:5000\n- c/d\n- e:99999\n- a",
            "config.yaml:3: insecure_registries[1]: "
            "'http://b:5000' has http:// before the registry; write 'b:5000'\n"
            "config.yaml:4: insecure_registries[2]: 'c/d' is not a registry host (HOST or HOST:PORT)\n"
            "config.yaml:5: insecure_registries[3]: "
            "'e:99999' is not a registry host: ports go from 1 to 65535\n"
            "config.yaml:6: insecure_registries[4]: expected each only once, found 'a' again",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(place: Path, config: str, expected: str) -> None:
    assert mistakes(place, config) == expected.splitlines()


def test_an_unknown_setting_is_named(place: Path) -> None:
    (line,) = mistakes(place, "job: 2")
    assert line == "config.yaml:1: job: unknown key; did you mean 'jobs'?"


def test_all_mistakes_of_all_sources_at_once(place: Path) -> None:
    environ = {
        "LXDOCKER_JOBS": "many",
        "LXDOCKER_INSECURE_REGISTRIES": "a, b c",
        "LXDOCKER_JOB": "2",
        "LXDOCKER_NONSENSE": "x",
    }
    found = mistakes(place, "jobs: 99", environ, jobs=0, insecure_registries=("x/y",), builder_from="z")
    assert found == [
        "--from: expected 'image' or 'mmdebstrap', found 'z'",
        "--insecure-registry[0]: 'x/y' is not a registry host (HOST or HOST:PORT)",
        "--jobs: expected a whole number from 1 to 64, found the number 0",
        "LXDOCKER_INSECURE_REGISTRIES[1]: 'b c' is not a registry host (HOST or HOST:PORT)",
        "LXDOCKER_JOB: unknown variable; did you mean 'LXDOCKER_JOBS'?",
        "LXDOCKER_JOBS: expected a whole number from 1 to 64, found 'many'",
        "LXDOCKER_NONSENSE: unknown variable",
        "config.yaml:1: jobs: expected a whole number from 1 to 64, found the number 99",
    ]


def test_text_in_the_environment_stays_text(place: Path) -> None:
    """A pool may be called 1 or null; in a variable there is nothing to quote."""
    found = load(place, None, {"LXDOCKER_POOL": "1", "LXDOCKER_NETWORK": "null", "LXDOCKER_GRACE_HOURS": " 1.5 "})
    assert (found.pool, found.network, found.grace_hours) == ("1", "null", 1.5)


def test_variables_that_are_not_settings(place: Path) -> None:
    assert load(place, None, {"LXDOCKER_TEST_IMAGE": "x", "LXDOCKER_ENVFILE": "/e", "PATH": "/bin"}).config is None


def test_a_flag_that_is_no_setting_is_the_callers_mistake(place: Path) -> None:
    with pytest.raises(ValueError, match="not settings: job"):
        load(place, None, {}, job=2)


@pytest.mark.parametrize(
    ("text", "size"), [("17B", 17), ("2kB", 2000), ("2KiB", 2048), ("20GiB", 20 << 30), ("3PB", 3 * 10**15)]
)
def test_sizes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size
