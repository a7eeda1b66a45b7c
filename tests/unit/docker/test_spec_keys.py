"""What a spec holds of a container, and what is left for its instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lxdocker.config import yamlfile
from lxdocker.config.changes import overrides
from lxdocker.config.spec import SCHEMA
from lxdocker.docker import compose, inspection, run, spec_keys, translate
from lxdocker.docker.new_spec import NewSpec, chosen, new_spec
from lxdocker.docker.service import Service
from lxdocker.docker.words import split
from lxdocker.errors import UsageError
from lxdocker.source.oci import OciConfig
from lxdocker.source.resolve import Description, ResolvedImage
from lxdocker.values import ImageName, parse_image_ref
from tests.examples import digest

ANN = Path("/home/ann")


def of_run(text: str) -> Service:
    words = split(f"docker run {text}", str(ANN), str(ANN), lambda name: None, lambda name: None)
    return run.read(words, ANN, ANN, "default", "web")


def of_compose(keys: dict[str, Any]) -> Service:
    text = yaml.safe_dump({"services": {"web": {"image": "nginx", **keys}}})
    return chosen(compose.read(text, "compose.yaml", ANN, ANN, "default", lambda name: None))


def made(service: Service | None, **config: Any) -> NewSpec:
    """With a text that fits the schema."""
    ref = parse_image_ref("nginx", ANN)
    own = OciConfig(**config)
    keys, rest = spec_keys.split(service, own.exposed_ports) if service else ({}, None)
    described = Description(ResolvedImage(digest("i"), digest("m"), digest("c"), None), own, ())
    new = new_spec(
        ImageName("web"), inspection.inspect(ref, described, own), translate.Where("default"), "SCHEMA", keys, rest
    )
    assert yamlfile.check(yamlfile.parse(new.spec.text, "x"), SCHEMA) == []
    return new


def values(service: Service) -> dict[str, Any]:
    """The keys of the spec, as any YAML parser reads them."""
    found: dict[str, Any] = yaml.safe_load(made(service).spec.text)
    assert found.pop("image") == "docker.io/library/nginx:latest"
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-e A=1 -e 'B=x: y' -e C= nginx", {"environment": {"A": "1", "B": "x: y", "C": ""}}),
        ("nginx a '' '{}' 10 yes", {"cmd": ["a", "", "{}", "10", "yes"]}),
        ("--entrypoint /x nginx -a", {"entrypoint": ["/x"], "cmd": ["-a"]}),
        ("--entrypoint '' nginx", {"entrypoint": []}),
        ("-u 1000:1000 nginx", {"user": "1000:1000"}),
        ("-u root nginx", {"user": "root"}),
        ("-w /srv/../app nginx", {"working_dir": "/app"}),
        ("--stop-signal SIGQUIT nginx", {"stop_signal": "SIGQUIT"}),
        ("--stop-signal 3 nginx", {"stop_signal": "3"}),
        ("-l a.b=c -l 'x y=1' nginx", {"labels": {"a.b": "c", "x y": "1"}}),
        ("--expose 80 --expose 53/udp --expose 7-8 nginx", {"ports": ["80/tcp", "53/udp", "7/tcp", "8/tcp"]}),
        (
            "--health-cmd 'curl -f x' --health-interval 1m30s --health-timeout 500ms --health-retries 5"
            " --health-start-period 0s --health-start-interval 1.5s nginx",
            {"healthcheck": {"test": "curl -f x", "interval": 90, "timeout": 0.5, "retries": 5, "start_interval": 1.5}},
        ),
        ("--health-cmd x --no-healthcheck nginx", {"healthcheck": "none"}),
        (
            "--restart on-failure:3 --stop-timeout 60 --tmpfs /x:size=1m nginx",
            {"restart": "on-failure:3", "stop_grace": 60, "tmpfs": {"/x": "1m"}},
        ),
    ],
)
def test_what_a_spec_holds_of_a_command(text: str, expected: dict[str, Any]) -> None:
    service = of_run(text)
    assert values(service) == expected
    new = made(service)
    assert new.lost == ()
    assert new.commands == ("lxdocker sync web", "lxc init web web", "lxc start web")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"environment": {"A": 1, "B": None}}, {"environment": {"A": "1"}}),
        ({"command": "a 'b c'", "entrypoint": ["x"]}, {"cmd": ["a", "b c"], "entrypoint": ["x"]}),
        ({"user": "33:33", "working_dir": "/w"}, {"user": "33:33", "working_dir": "/w"}),
        ({"expose": ["3000", 8000]}, {"ports": ["3000/tcp", "8000/tcp"]}),
        ({"stop_signal": "INT", "labels": ["a=b"]}, {"stop_signal": "INT", "labels": {"a": "b"}}),
        (
            {"healthcheck": {"test": ["CMD", "x", "y"], "interval": "10s", "retries": 3, "x-note": "z"}},
            {"healthcheck": {"test": ["CMD", "x", "y"], "interval": 10, "retries": 3}},
        ),
        ({"healthcheck": {"test": "x | y"}}, {"healthcheck": {"test": "x | y"}}),
        ({"healthcheck": {"test": ["NONE"]}}, {"healthcheck": "none"}),
        ({"healthcheck": {"disable": True}}, {"healthcheck": "none"}),
        ({"restart": "always", "stop_grace_period": "1m"}, {"restart": "always", "stop_grace": 60}),
    ],
)
def test_what_a_spec_holds_of_a_service(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    service = of_compose(keys)
    assert values(service) == expected
    assert made(service).lost == ()


def test_exposed_ports_are_added_to_the_images() -> None:
    new = made(of_run("--expose 80 --expose 443 nginx"), exposed_ports=("80/tcp", "8080/tcp"))
    assert yaml.safe_load(new.spec.text)["ports"] == ["80/tcp", "8080/tcp", "443/tcp"]
    odd = made(of_run("--expose 80 nginx"), exposed_ports=("", "80", "53/UDP", "evil"))
    assert yaml.safe_load(odd.spec.text)["ports"] == ["80/tcp", "53/udp"]
    many = made(of_run(" ".join(f"--expose {port}" for port in range(1, 200)) + " nginx"))
    assert [(lost.what, lost.essential) for lost in many.lost] == [("ports", False)]
    assert "ports" not in yaml.safe_load(made(of_run("nginx"), exposed_ports=("80/tcp",)).spec.text)


def test_the_rest_is_done_by_commands_or_named() -> None:
    new = made(of_run("--name w -p 80:80 -e N -e A=1 -m 1g -l a=b --log-driver x --privileged -u app nginx"))
    assert new.variables == ("N",)
    assert new.commands == (
        "lxdocker sync web",
        'lxc init web w -c environment.N="$N" -c limits.memory=1GiB',
        "lxc config device add w port-80 proxy listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80",
        "lxc start w",
    )
    assert [(lost.what, lost.essential) for lost in new.lost] == [("--log-driver", False), ("--privileged", True)]
    assert not new.is_whole


@pytest.mark.parametrize(
    "variable",
    ["DB_PASSWORD=x", "API_KEY=x", "GITHUB_TOKEN=x", "CLIENT_SECRET=x", "DATABASE_URL=postgres://a:b@host/db"],
)
def test_secrets_stay_with_the_instance(variable: str) -> None:
    new = made(of_run(f"-e {variable} -e DB_PASSWORD_FILE=/run/secrets/x nginx"))
    assert yaml.safe_load(new.spec.text)["environment"] == {"DB_PASSWORD_FILE": "/run/secrets/x"}
    assert variable.partition("=")[0] not in new.spec.text.replace("DB_PASSWORD_FILE", "")
    assert new.commands[1] == f"lxc init web web -c environment.{variable}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-u 'a b' nginx", "user"),
        ("--stop-signal '?' nginx", "stop_signal"),
        (f"-e {'A' * 1001}=1 nginx", "environment: AAA"),
        ("-l 'a\x7f=b' nginx", "labels: a"),
    ],
)
def test_what_no_spec_takes_is_lost_by_itself(text: str, what: str) -> None:
    service = of_run(f"-e B=2 {text}")
    new = made(service)
    (lost,) = [lost for lost in new.lost if lost.essential]
    assert lost.what.startswith(what)
    assert yaml.safe_load(new.spec.text)["environment"] == {"B": "2"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-w relative nginx", "not an absolute path"),
        ("--health-interval soon nginx", "not a duration"),
        ("--health-retries many nginx", "not a number up to 999"),
        ("--expose http nginx", "not a port: 'http'"),
        ("--expose 70000 nginx", "not a port: '70000'"),
        ("--expose 1-65535 nginx", "no more than 100 ports"),
    ],
)
def test_what_docker_would_refuse_is_lost(text: str, why: str) -> None:
    (lost,) = made(of_run(text)).lost
    assert why in lost.why


def test_examples_leave_out_what_is_there() -> None:
    config: dict[str, Any] = {"cmd": ("sh",), "healthcheck": {"Test": ["CMD", "x"]}}
    plain = made(None, **config).spec.text.splitlines()
    for line in ("#restart: always", "#restart_unhealthy: true", "#environment: { TZ: Europe/Vienna }"):
        assert line in plain
    assert "#cmd: [sleep, infinity]" in plain
    full = made(of_run("--restart always -e A=1 nginx x"), **config).spec.text
    assert "#restart:" not in full
    assert "#environment:" not in full
    assert "#cmd:" not in full


def test_a_service_is_chosen_by_its_name_in_the_file() -> None:
    text = (
        "services: {one: {image: a, container_name: c-one}, two: {image: b}, three: {build: .}}\n"
        "volumes: {v: {driver: x}}\n"
    )
    services = compose.read(text, "compose.yaml", ANN, ANN, "default", lambda name: None)
    service = chosen(services, "one")
    assert (service.name, service.image) == ("c-one", "a")
    assert [lost.what for lost in service.lost] == ["container_name", "volumes.v: driver"]
    for key, brief in ((None, "no service named"), ("four", "no such service: four"), ("three", "no image")):
        with pytest.raises(UsageError, match=brief) as caught:
            chosen(services, key)
        assert caught.value.resolution
    assert caught.value.details == "a service that is built names none"


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["yes", "0x1F", "1e3", "12:30:45", "~", "null", "a: b", "- x", "#", "é\U0001f600"]
)


@given(TEXTS)
def test_a_text_is_read_back_by_any_parser(text: str) -> None:
    if not yamlfile.parse(translate.scalar("x" + text), "x").mistakes:
        assert yamlfile.parse(f"[{translate.scalar(text)}]", "x").value == [text]
        assert yaml.safe_load(f"[{translate.scalar(text)}]") == [text]


@given(
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    st.none() | st.lists(TEXTS, max_size=3),
    st.sampled_from(["user", "working_dir", "stop_signal", "healthcheck"]),
    TEXTS | st.dictionaries(st.sampled_from(["test", "interval", "retries", "disable"]), TEXTS, max_size=2),
)
def test_whatever_is_in_a_file_is_held_or_named(
    environment: dict[str, str], command: list[str] | None, key: str, value: Any
) -> None:
    text = yaml.safe_dump(
        {"services": {"web": {"image": "nginx", "environment": environment, "command": command, key: value}}}
    )
    service = chosen(compose.read(text, "compose.yaml", ANN, ANN, "default", lambda name: ""))
    new = made(service)
    overrides(yamlfile.parse(new.spec.text, "x").value)
    for lost in new.lost:
        assert "\n" not in lost.what + lost.why
