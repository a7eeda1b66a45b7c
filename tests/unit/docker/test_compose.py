"""Compose files as specs and commands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lxdocker.config import yamlfile
from lxdocker.config.spec import SCHEMA
from lxdocker.docker import compose
from lxdocker.docker.translate import Converted, Where, convert
from lxdocker.errors import LxdockerError, SpecError, UsageError
from lxdocker.text import one_line

# https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json, definitions.service
_KEYS = (
    "annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name "
    "cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec "
    "depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file "
    "environment expose extends external_links extra_hosts gpus group_add healthcheck hostname image init ipc "
    "isolation label_file labels links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit "
    "models network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_stop "
    "privileged profiles provider pull_policy read_only restart runtime scale secrets security_opt shm_size stdin_open "
    "stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits user userns_mode uts volumes volumes_from "
    "working_dir"
)
KEYS = _KEYS.split()


def converted(text: str, **variables: str) -> Converted:
    services = compose.read(text, "compose.yaml", Path("/srv/app"), Path("/root"), "default", variables.get)
    return convert(services, Path("/srv/app"), Where("default"), "SCHEMA")


def one(keys: str, top: str = "", **variables: str) -> Converted:
    """A service web with these keys, a line each."""
    lines = "".join(f"    {line}\n" for line in keys.splitlines())
    return converted(f"services:\n  web:\n    image: nginx\n{lines}{top}", **variables)


def has(found: Converted, command: str) -> bool:
    return any(command in line for line in found.commands)


def test_an_application_and_its_database() -> None:
    found = converted(
        """
name: shop
services:
  web:
    image: ghcr.io/shop/web:${TAG:-1}
    depends_on: [db]
    ports: ["8080:80", {target: 443, published: "8443", protocol: tcp}]
    environment: {DEBUG: false, LEVEL: 1.10, DB: "postgres://db"}
    volumes: ["./html:/html:ro", "cache:/cache"]
    restart: unless-stopped
  db:
    image: postgres:17
    container_name: db
    environment: ["POSTGRES_PASSWORD=${WORD}"]
    volumes:
      - {type: volume, source: db, target: /var/lib/postgresql/data}
    stop_grace_period: 1m30s
volumes:
  db:
  cache: {external: true, name: shared}
""",
        WORD="it's",
    )
    assert [spec.name.value for spec in found.specs] == ["web", "postgres"]
    assert found.specs[0].text.endswith("\nimage: ghcr.io/shop/web:1\nrestart: always\n")
    assert found.specs[1].text.endswith("\nimage: docker.io/library/postgres:17\nstop_grace: 90\n")
    assert list(found.commands) == [
        "lxdocker sync web postgres",
        "lxc storage volume create default db",
        """lxc init postgres db -c 'environment.POSTGRES_PASSWORD=it'"'"'s'""",
        "lxc storage volume attach default db db db /var/lib/postgresql/data",
        "lxc start db",
        "lxc init web web -c environment.DEBUG=false -c environment.LEVEL=1.10 -c environment.DB=postgres://db",
        "lxc storage volume attach default shared web shared /cache",
        "lxc config device add web port-8080 proxy listen=tcp:0.0.0.0:8080 connect=tcp:127.0.0.1:80",
        "lxc config device add web port-8443 proxy listen=tcp:0.0.0.0:8443 connect=tcp:127.0.0.1:443",
        "lxc config device add web html disk source=/srv/app/html path=/html shift=true readonly=true",
        "lxc start web",
    ]
    assert found.is_whole
    assert [lost.what for lost in found.lost] == ["depends_on"]


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        ("command: nginx -g 'daemon off;'", """'user.lxdocker.cmd=["nginx", "-g", "daemon off;"]'"""),
        ("command: [a, b c]", """'user.lxdocker.cmd=["a", "b c"]'"""),
        ("command: []", "'user.lxdocker.cmd=[]'"),
        ("entrypoint: /x y", """'user.lxdocker.entrypoint=["/x", "y"]'"""),
        ("environment:\n  - A=1\n  - B", '-c environment.A=1 -c environment.B="$B"'),
        ("environment: {A: yes, B: 0x10, C: '01'}", "environment.A=yes -c environment.B=0x10 -c environment.C=01"),
        ("env_file: .env", "/srv/app/.env web/etc/lxdocker.env"),
        ("env_file: [{path: a, required: true}]", "/srv/app/a web/etc/lxdocker.env"),
        ("ports: [80]", "listen=tcp:0.0.0.0:80 "),
        ("ports: ['127.0.0.1:53:53/udp']", "listen=udp:127.0.0.1:53 connect=udp:127.0.0.1:53"),
        ("volumes: [/data]", "lxc storage volume create default web-data"),
        ("volumes: [{type: bind, source: ./x, target: /x}]", "source=/srv/app/x path=/x"),
        ("volumes: [~/x:/x]", "source=/root/x path=/x"),
        ("mem_limit: 256m\ncpus: 0.5\npids_limit: 9", "limits.memory=256MiB -c limits.cpu.allowance=50ms/100ms"),
        ("deploy: {resources: {limits: {cpus: '2', memory: 1G, pids: 5}}}", "limits.cpu=2 -c limits.memory=1GiB"),
        (
            "deploy: {resources: {reservations: {devices: [{driver: nvidia, count: all, capabilities: [gpu]}]}}}",
            "device add web gpu gpu",
        ),
        ("gpus: all", "nvidia.runtime=true"),
        ("devices: ['/dev/ttyUSB0:/dev/ttyS0']", "ttyusb0 unix-char source=/dev/ttyUSB0 path=/dev/ttyS0"),
        ("ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}", "limits.kernel.nofile=1:2 -c limits.kernel.nproc=3"),
        ("sysctls: {net.core.somaxconn: 1024}", "'raw.lxc=lxc.sysctl.net.core.somaxconn = 1024'"),
        ("dns: 1.1.1.1\ndns_search: [lan]", "'user.lxdocker.dns=1.1.1.1 search lan'"),
        ("network_mode: none", "lxc config device add web eth0 none"),
        ("networks: {back: {ipv4_address: 10.0.0.5}}", "eth0 nic network=back name=eth0 ipv4.address=10.0.0.5"),
        ("networks: [front, back]", "eth1 nic network=back name=eth1"),
        ("container_name: my-web", "lxc start my-web"),
        ("labels: {a.b: c}", "user.a.b=c"),
        ("restart: always", "boot.autostart=true"),
        ("container_name: ${OWN:-my-web}", "lxc start my-web"),
        ("volumes: [{type: bind, source: /a, target: /b, read_only: 'true'}]", "path=/b shift=true readonly=true"),
        ("volumes: ['/a:/b:rslave']", "path=/b shift=true propagation=rslave"),
        ("volumes: [{type: bind, source: /a, target: /b, bind: {propagation: rslave}}]", "propagation=rslave"),
    ],
)
def test_keys_that_have_an_equal(keys: str, command: str) -> None:
    assert has(one(keys), command), one(keys).commands


@pytest.mark.parametrize("declared", ["{name: proxy, external: true}", "{external: {name: proxy}}"])
def test_a_default_network_of_the_files_own(declared: str) -> None:
    """Whoever names no network is in it."""
    top = f"networks: {{default: {declared}}}\n"
    command = "lxc config device add web eth0 nic network=proxy name=eth0"
    assert has(one("command: x", top), command)
    assert not has(one("command: x", top), "lxc network create")
    assert has(one("networks: [default]", top), command)
    assert not has(one("network_mode: none", top), command)
    assert has(one("command: x", "networks: {default: {name: mine}}\n"), "lxc network create mine")
    assert not has(one("command: x", "networks: {default: {driver: bridge}}\n"), "nic")


def test_a_network_that_would_be_another_kind() -> None:
    found = one("networks: [back]", "networks: {back: {driver: macvlan}}\n")
    assert "networks.back: driver" in {lost.what for lost in found.lost}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("tmpfs: /x", '/x: "on"'),
        ("tmpfs: ['/x:size=1m,mode=1777']", "/x: 1m"),
        ("volumes: [{type: tmpfs, target: /x, tmpfs: {size: 65536}}]", "/x: 64k"),
        ("shm_size: 1gb", "/dev/shm: 1g"),
        ("stop_grace_period: 45", "stop_grace: 45"),
        ("restart: on-failure", "restart: on-failure"),
        ("deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}", "restart: on-failure:3"),
        ("volumes: ['a:/x:nocopy']", "fill_volumes: false"),
        ("volumes: [{type: volume, source: a, target: /x, volume: {nocopy: '${NO:-true}'}}]", "fill_volumes: false"),
        ("volumes: [{type: volume, source: a, target: /x, volume: {nocopy: true}}]", "fill_volumes: false"),
    ],
)
def test_keys_of_the_spec(keys: str, line: str) -> None:
    (spec,) = one(keys).specs
    assert line in [text.strip() for text in spec.text.splitlines()]
    assert yamlfile.check(yamlfile.parse(spec.text, "x"), SCHEMA) == []


@pytest.mark.parametrize(
    ("keys", "what", "essential"),
    [
        ("build: .", "build", True),
        ("user: '1000'", "user", True),
        ("working_dir: /x", "working_dir", True),
        ("extends: {service: base}", "extends", True),
        ("profiles: [debug]", "profiles", False),
        ("healthcheck: {test: [CMD, x]}", "healthcheck", False),
        ("privileged: true", "privileged", True),
        ("cap_add: [SYS_MODULE]", "cap_add", True),
        ("network_mode: host", "network_mode", True),
        ("network_mode: 'service:vpn'", "network_mode", True),
        ("networks: {back: {aliases: [db]}}", "networks.back: aliases", True),
        ("secrets: [a]", "secrets", True),
        ("configs: [a]", "configs", True),
        ("extra_hosts: ['a:1.2.3.4']", "extra_hosts", True),
        ("extra_hosts: {a: host-gateway}", "extra_hosts", True),
        ("links: ['db:database']", "links", True),
        ("deploy: {replicas: 3}", "deploy.replicas", True),
        ("deploy: {placement: {}}", "deploy.placement", False),
        ("depends_on: {db: {condition: service_healthy}}", "depends_on.condition", False),
        ("labels: [a=b]", "labels", False),
        ("hostname: other", "hostname", False),
        ("stop_signal: INT", "stop_signal", True),
        ("logging: {driver: none}", "logging", False),
        ("environment: {A: $NONE}", "${NONE}", True),
        ("environment: {A: '${A'}", "environment.A", True),
        ("environment: {A: [1]}", "environment.A", True),
        ("environment: [{A: 1}]", "environment[0]", True),
        ('command: "a \'b"', "command", True),
        ("volumes: [{type: npipe, source: a, target: /b}]", "volumes", True),
        ("volumes: [{type: volume, source: a, target: /b, volume: {subpath: x}}]", "volumes.subpath", True),
        ("bogus: 1", "bogus", True),
        ("tmpfs: ['/x:uid=101,mode=0700']", "tmpfs: mode=0700, uid=101", True),
        ("tmpfs: ['/x:noexec']", "tmpfs: noexec", False),
        ("volumes: [{type: tmpfs, target: /x, tmpfs: {mode: 511}}]", "volumes.tmpfs: mode", True),
        ("volumes: [{type: bind, source: /a, target: /b, bind: {propagation: odd}}]", "volumes", True),
        ("volumes: ['data:/data:ro,subpath=x']", "volumes", False),
        ("deploy: {restart_policy: {condition: any, max_attempts: 3}}", "deploy.restart_policy", False),
        ("env_file: [{path: no.env, required: false}]", "env_file", False),
        ("depends_on: {db: {condition: [a]}}", "depends_on.condition", False),
        (
            "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: {a: 1}}]}}}",
            "deploy.resources.reservations.devices[0].device_ids",
            True,
        ),
    ],
)
def test_what_is_lost_is_named(keys: str, what: str, essential: bool) -> None:
    found = one(keys)
    assert (what, essential) in {(lost.what, lost.essential) for lost in found.lost}
    assert found.is_whole == (not any(lost.essential for lost in found.lost))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_service_is_known(key: str) -> None:
    """Whatever its value: none raises, and none passes without a word but those that change nothing."""
    for value in ("x", "1", "[x]", "{x: y}", "[{x: {y: z}}]", "true", ""):
        image = "" if key == "image" else "    image: nginx\n"
        found = converted(f"services:\n  web:\n{image}    {key}: {value}\n")
        assert "unknown key of a service" not in {lost.why for lost in found.lost}


def test_the_rest_of_the_file() -> None:
    found = converted(
        "version: '3'\nx-mine: 1\nservices: {w: {image: n, x-y: 1}}\nsecrets: {a: {file: b}}\nodd: 1\n"
        "volumes: {a: {driver: nfs}}\nnetworks: {b: {internal: true, driver: bridge}}\n"
    )
    assert [(lost.service, lost.what) for lost in found.lost] == [
        ("", "secrets"),
        ("", "odd"),
        ("", "volumes.a: driver"),
        ("", "networks.b: internal"),
    ]
    assert len(found.specs) == 1


def test_a_service_that_is_built_has_no_spec() -> None:
    found = converted("services: {a: {build: .}, b: {image: nginx}, c: {}, d: 1}")
    assert [spec.name.value for spec in found.specs] == ["nginx"]
    assert {(lost.service, lost.what) for lost in found.lost} == {("a", "build"), ("c", "image"), ("d", "the service")}
    assert not has(found, "lxc start a")


def test_services_of_one_image_share_a_spec_unless_they_run_differently() -> None:
    found = converted(
        "services:\n  a: {image: nginx}\n  b: {image: 'nginx:latest'}\n  c: {image: nginx, restart: always}\n"
        "  d: {image: other/nginx}\n"
    )
    assert [spec.name.value for spec in found.specs] == ["nginx", "c", "d"]
    assert has(found, "lxc init nginx a")
    assert has(found, "lxc init nginx b")
    assert has(found, "lxc init c c")


def test_instances_have_names_that_lxd_takes_and_none_twice() -> None:
    found = converted("services: {my_db: {image: a}, my.db: {image: b}, 1x: {image: c}}")
    assert {line for line in found.commands if line.startswith("lxc start")} == {
        "lxc start my-db",
        "lxc start my-db-2",
        "lxc start c-1x",
    }
    assert all(lost.what == "name" and lost.essential for lost in found.lost)


def test_a_circle_of_services_is_no_loop() -> None:
    found = converted("services: {a: {image: x, depends_on: [b]}, b: {image: y, depends_on: [a, a, none]}}")
    assert [line for line in found.commands if "start" in line] == ["lxc start b", "lxc start a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [x]\nb: [*a, *a]\nservices: {}", "YAML alias"),
        ("services: &x\n  a: {image: n}", "YAML anchor"),
        ("services: !!python/object:os.system {}", "YAML tag"),
        ("services: [", "valid YAML"),
        ("services: {a: {image: n}, a: {image: m}}", "each key once"),
        ("services: " + "[" * 100, "levels"),
    ],
)
def test_yaml_that_specs_may_not_have_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        converted(text)
    assert words in caught.value.details
    assert "docker compose config" in caught.value.resolution


@pytest.mark.parametrize("text", ["", "a: b", "services:", "services: []", "[]", "services: {}"])
def test_a_file_without_services_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"no services in compose\.yaml"):
        converted(text)


def test_a_file_with_too_many_services_is_refused() -> None:
    text = "services:\n" + "".join(f"  a{n}: {{image: n, depends_on: [a{n + 1}]}}\n" for n in range(500))
    assert len(converted(text).commands) == 1001
    with pytest.raises(UsageError, match="too many services"):
        converted(text + "  b: {image: n}\n")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4))
def test_whatever_is_in_a_file_ends_well(keys: dict[str, object]) -> None:
    """Commands are words of a shell, specs fit their schema, and only errors for people are raised."""
    text = yaml.safe_dump({"services": {"web": {"image": "nginx", **keys}}})
    try:
        found = converted(text)
    except LxdockerError as error:
        assert error.resolution  # noqa: PT017 - most files are converted
        return
    for line in found.commands:
        assert shlex.split(line)[0] in {"lxc", "lxdocker", "cat"}
    for spec in found.specs:
        assert yamlfile.check(yamlfile.parse(spec.text, "x"), SCHEMA) == []
    assert all(text == one_line(text) for lost in found.lost for text in (lost.what, lost.why))
