"""`docker run` as specs and commands; every flag that Docker has is either translated or named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lxdocker.config import yamlfile
from lxdocker.config.spec import SCHEMA
from lxdocker.docker import run
from lxdocker.docker.service import Lost
from lxdocker.docker.translate import Converted, Where, convert
from lxdocker.docker.words import split
from lxdocker.errors import UsageError

# Those of docker 27, without the ones for Windows and for single mounts.
_FLAGS = (
    "--add-host --annotation --attach --blkio-weight --blkio-weight-device --cap-add --cap-drop --cgroup-parent "
    "--cgroupns --cidfile --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-shares --cpus --cpuset-cpus "
    "--cpuset-mems --detach --detach-keys --device --device-cgroup-rule --device-read-bps --device-read-iops "
    "--device-write-bps --device-write-iops --disable-content-trust --dns --dns-option --dns-search --domainname "
    "--entrypoint --env --env-file --expose --gpus --group-add --health-cmd --health-interval --health-retries "
    "--health-start-interval --health-start-period --health-timeout --hostname --init --interactive --ip --ip6 --ipc "
    "--isolation --label --label-file --link --link-local-ip --log-driver --log-opt --mac-address --memory "
    "--memory-reservation --memory-swap --memory-swappiness --mount --name --network --network-alias --no-healthcheck "
    "--oom-kill-disable --oom-score-adj --pid --pids-limit --platform --privileged --publish --publish-all --pull "
    "--quiet --read-only --restart --rm --runtime --security-opt --shm-size --sig-proxy --stop-signal --stop-timeout "
    "--storage-opt --sysctl --tmpfs --tty --ulimit --user --userns --uts --volume --volume-driver --volumes-from "
    "--workdir"
)
FLAGS = _FLAGS.split()


def converted(text: str) -> Converted:
    words = split(text, "/home/ann/app", "/home/ann", lambda name: None, lambda name: None)
    return convert(
        [run.read(words, Path("/home/ann/app"), Path("/home/ann"), "tank")],
        Path("/home/ann/app"),
        Where("tank"),
        "SCHEMA",
    )


def commands(text: str) -> list[str]:
    """Between `lxdocker sync` and `lxc start`."""
    found = converted(f"docker run {text}").commands
    assert found[0].startswith("lxdocker sync ")
    assert found[-1].startswith("lxc start ")
    return list(found[1:-1])


def options(text: str) -> list[str]:
    """The options of `lxc init`."""
    (init,) = [shlex.split(line)[4:] for line in commands(text) if line.startswith("lxc init ")]
    return init


def lost(text: str) -> list[Lost]:
    return list(converted(f"docker run {text}").lost)


def test_the_usual_command() -> None:
    found = converted(
        "sudo docker run -d --name web -p 8080:80 -v data:/usr/share/nginx/html -v $PWD/conf:/etc/nginx/conf.d:ro "
        "-e TZ=Europe/Berlin --restart unless-stopped nginx:1.27 nginx-debug -g 'daemon off;'"
    )
    (spec,) = found.specs
    assert spec.name.value == "nginx"
    assert spec.text == (
        "# yaml-language-server: $schema=SCHEMA\nimage: docker.io/library/nginx:1.27\nrestart: always\n"
    )
    assert found.commands == (
        "lxdocker sync nginx",
        "lxc storage volume create tank data",
        "lxc init nginx web -c environment.TZ=Europe/Berlin"
        """ -c 'user.lxdocker.cmd=["nginx-debug", "-g", "daemon off;"]'""",
        "lxc storage volume attach tank data web data /usr/share/nginx/html",
        "lxc config device add web port-8080 proxy listen=tcp:0.0.0.0:8080 connect=tcp:127.0.0.1:80",
        "lxc config device add web etc-nginx-conf-d disk source=/home/ann/app/conf path=/etc/nginx/conf.d shift=true"
        " readonly=true",
        "lxc start web",
    )
    assert found.lost == ()
    assert found.is_whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--rm nginx", ["--ephemeral"]),
        ("-e A=1 -eB=2 --env=C=3 nginx", ["-c", "environment.A=1", "-c", "environment.B=2", "-c", "environment.C=3"]),
        ("-e A= nginx", ["-c", "raw.lxc=lxc.environment = A="]),
        ("-e A nginx", ["-c", "environment.A=$A"]),  # the value is not printed, but taken where this is run
        ("--entrypoint /x nginx -a", ["-c", 'user.lxdocker.entrypoint=["/x"]', "-c", 'user.lxdocker.cmd=["-a"]']),
        ("--entrypoint '' nginx", ["-c", "user.lxdocker.entrypoint=[]"]),
        ("-m 512m --memory-swap 1g nginx", ["-c", "limits.memory=512MiB"]),
        ("--memory 1.5g nginx", ["-c", "limits.memory=1536MiB"]),
        ("--cpus 2 nginx", ["-c", "limits.cpu=2"]),
        ("--cpus=.5 nginx", ["-c", "limits.cpu.allowance=50ms/100ms"]),
        ("--cpuset-cpus 0 nginx", ["-c", "limits.cpu=0-0"]),
        ("--cpuset-cpus 0,2-3 nginx", ["-c", "limits.cpu=0,2-3"]),
        ("--pids-limit 100 nginx", ["-c", "limits.processes=100"]),
        ("--ulimit nofile=1024:2048 nginx", ["-c", "limits.kernel.nofile=1024:2048"]),
        ("--ulimit memlock=-1 nginx", ["-c", "limits.kernel.memlock=unlimited"]),
        ("--sysctl net.core.somaxconn=1024 nginx", ["-c", "raw.lxc=lxc.sysctl.net.core.somaxconn = 1024"]),
        ("--dns 1.1.1.1 --dns 9.9.9.9 --dns-search lan nginx", ["-c", "user.lxdocker.dns=1.1.1.1 9.9.9.9 search lan"]),
        ("--label a.b=c nginx", ["-c", "user.a.b=c"]),
        ("--restart always nginx", ["-c", "boot.autostart=true"]),
        ("--env-file x.env nginx", ["-c", "environment.LXDOCKER_ENVFILE=/etc/lxdocker.env"]),
        ("-dit --init --cap-add NET_ADMIN --expose 80 nginx", []),
    ],
)
def test_options_of_the_instance(text: str, expected: list[str]) -> None:
    assert options(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-p 80 n", "port-80 proxy listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80"),
        ("-p 127.0.0.1:8080:80 n", "port-8080 proxy listen=tcp:127.0.0.1:8080 connect=tcp:127.0.0.1:80"),
        ("-p [::1]:8080:80 n", "port-8080 proxy 'listen=tcp:[::1]:8080' connect=tcp:127.0.0.1:80"),
        ("-p 53:53/udp n", "port-53-udp proxy listen=udp:0.0.0.0:53 connect=udp:127.0.0.1:53"),
        ("-p 8000-8002:80-82 n", "port-8000-8002 proxy listen=tcp:0.0.0.0:8000-8002 connect=tcp:127.0.0.1:80-82"),
        ("-v '/a b':/x n", "x disk 'source=/a b' path=/x shift=true"),
        ("-v ./a:/x n", "x disk source=/home/ann/app/a path=/x shift=true"),
        ("-v ~/a:/x n", "x disk source=/home/ann/a path=/x shift=true"),
        ("--mount type=bind,src=/a,dst=/x,readonly n", "x disk source=/a path=/x shift=true readonly=true"),
        ("-v data:/x:ro n", "data disk pool=tank source=data path=/x readonly=true"),
        ("--device /dev/ttyUSB0 n", "ttyusb0 unix-char source=/dev/ttyUSB0"),
        ("--device /dev/a:/dev/b:rw n", "a unix-char source=/dev/a path=/dev/b"),
        ("--device /dev/sdb n", "sdb unix-block source=/dev/sdb"),
        ("--device /dev/dri n", "gpu gpu"),
        ("--gpus all n", "gpu gpu"),
        ("--gpus '\"device=1\"' n", "gpu1 gpu id=1"),
        ("--network back n", "eth0 nic network=back name=eth0"),
        ("--network none n", "eth0 none"),
        ("--network name=back,ip=10.0.0.5 n", "eth0 nic network=back name=eth0 ipv4.address=10.0.0.5"),
    ],
)
def test_devices(text: str, expected: str) -> None:
    assert f"lxc config device add n {expected}" in commands(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-v /x n", ["lxc storage volume create tank n-x", "lxc storage volume attach tank n-x n n-x /x"]),
        (
            "--mount source=d,target=/x n",
            ["lxc storage volume create tank d", "lxc storage volume attach tank d n d /x"],
        ),
        ("--network back n", ["lxc network create back"]),
        ("--mac-address 02:42:ac:11:00:02 n", ["lxc config device override n eth0 hwaddr=02:42:ac:11:00:02"]),
        ("--storage-opt size=10G n", ["lxc config device override n root size=10GiB"]),
        (
            "--env-file a.env n",
            ["lxc file push --create-dirs --mode 0600 --uid 0 --gid 0 /home/ann/app/a.env n/etc/lxdocker.env"],
        ),
        (
            "--env-file a --env-file /b n",
            ["cat /home/ann/app/a /b | lxc file push --create-dirs --mode 0600 --uid 0 --gid 0 - n/etc/lxdocker.env"],
        ),
    ],
)
def test_other_commands(text: str, expected: list[str]) -> None:
    assert [line for line in commands(text) if line in expected] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--restart on-failure:5 n", "restart: on-failure:5\n"),
        ("--restart on-failure n", "restart: on-failure\n"),
        ("--restart no n", ""),
        ("--stop-timeout 90 n", "stop_grace: 90\n"),
        ("--tmpfs /cache --tmpfs /x:rw,size=64m n", 'tmpfs:\n  /cache: "on"\n  /x: 64m\n'),
        ("--mount type=tmpfs,target=/x,tmpfs-size=1048576 n", "tmpfs:\n  /x: 1m\n"),
        ("--shm-size 256m n", "tmpfs:\n  /dev/shm: 256m\n"),
        ("-v d:/x:nocopy n", "fill_volumes: false\n"),
    ],
)
def test_keys_of_the_spec(text: str, expected: str) -> None:
    (spec,) = converted(f"docker run {text}").specs
    assert spec.text.partition("image: docker.io/library/n:latest\n")[2] == expected
    assert yamlfile.check(yamlfile.parse(spec.text, "x"), SCHEMA) == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("-u 1000 n", "user"),
        ("-w /x n", "working_dir"),
        ("--stop-signal INT n", "stop_signal"),
        ("--health-cmd x n", "healthcheck"),
        ("--no-healthcheck n", "healthcheck"),
    ],
)
def test_the_key_of_the_spec_that_takes_its_place_is_named(text: str, key: str) -> None:
    (lost,) = converted(f"docker run {text}").lost
    assert re.search(rf"\bspec\b.*\b{key}\b", lost.why)
    assert key in yamlfile.schema(SCHEMA)["properties"]


@pytest.mark.parametrize(
    ("text", "what", "essential"),
    [
        ("--privileged n", "--privileged", True),
        ("--log-driver none --privileged n", "--privileged", True),
        ("-u 1000 n", "--user", True),
        ("-u root n", "--user", False),
        ("-w /x n", "--workdir", True),
        ("-P n", "--publish-all", True),
        ("-p x n", "--publish", True),
        ("-p 80:80/sctp n", "--publish", True),
        ("-p 99999:80 n", "--publish", True),
        ("-p 80 n", "--publish", False),
        ("--network host n", "--network", True),
        ("--network container:x n", "--network", True),
        ("--network Not_A_Name n", "--network", True),
        ("-v /var/run/docker.sock:/var/run/docker.sock n", "--volume", True),
        ("-v /dev/snd:/dev/snd n", "--volume", True),
        ("-v a:b:c:d n", "--volume", True),
        ("-v data:relative n", "--volume", True),
        ("-v a:/x:rshared n", "--volume", False),
        ("--mount type=npipe,src=a,dst=/b n", "--mount", True),
        ("--cap-add SYS_ADMIN n", "--cap-add", True),
        ("--cap-drop ALL n", "--cap-drop", False),
        ("--security-opt no-new-privileges n", "--security-opt", False),
        ("--read-only n", "--read-only", False),
        ("--health-cmd 'curl x' n", "--health-cmd", False),
        ("--stop-signal INT n", "--stop-signal", True),
        ("--pid host n", "--pid", True),
        ("--add-host a:1.2.3.4 n", "--add-host", True),
        ("--link db:database n", "--link", True),
        ("--network-alias a n", "--network-alias", True),
        ("--platform linux/arm64 n", "--platform", False),
        ("--pull always n", "--pull", False),
        ("-it n", "--tty", False),
        ("--restart sometimes n", "--restart", True),
        ("--memory much n", "--memory", True),
        ("--memory 0 n", "--memory", True),
        ("--cpus 0 n", "--cpus", True),
        ("--name a_b n", "--name", False),
        ("-h other n", "--hostname", False),
        ("-e =x n", "--env", True),
        ("-e 'a b' n", "--env", True),
        ("--tmpfs /a/../.x n", "--tmpfs", True),
        ("NGINX", "image", True),
    ],
)
def test_what_is_lost_is_named(text: str, what: str, essential: bool) -> None:
    found = lost(text)
    assert (what, essential) in {(one.what, one.essential) for one in found}
    assert all(one.why for one in found)
    assert converted(f"docker run {text}").is_whole == (not any(one.essential for one in found))


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_docker_is_known(flag: str) -> None:
    """Whether a flag has a value decides how the rest is read."""
    value = "" if flag in run._SWITCHES else "=1"
    found = converted(f"docker run {flag}{value} nginx")
    assert len(found.specs) == 1


def test_flags_can_be_written_in_several_ways() -> None:
    one = converted("docker run -dp 8080:80 -v=data:/x --env A=1 --net=back n")
    other = converted("docker container run --detach --publish 8080:80 --volume data:/x -e A=1 --network back -- n")
    assert one == other
    assert converted("podman run n") == converted("DOCKER_HOST=x sudo /usr/bin/docker create --rm=false n")
    # What follows the image belongs to the application.
    assert options("n -p 80:80 --privileged") == ["-c", 'user.lxdocker.cmd=["-p", "80:80", "--privileged"]']


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("docker ps", "not a docker run command"),
        ("docker", "not a docker run command"),
        ("rm -rf /", "not a docker run command"),
        ("docker run", "no image in the command"),
        ("docker run -d", "no image in the command"),
        ("docker run -p", "flag without a value: -p"),
        ("docker run --name", "flag without a value: --name"),
        ("docker run --bogus x n", "unknown flag of docker run: --bogus"),
        ("docker run -dX n", "unknown flag of docker run: -X"),
    ],
)
def test_what_is_no_run_is_refused(text: str, brief: str) -> None:
    with pytest.raises(UsageError) as caught:
        converted(text)
    assert caught.value.brief == brief
    assert caught.value.resolution


def test_no_text_becomes_a_command_or_a_key_of_its_own() -> None:
    found = converted("""docker run --name 'x;id' -e 'A=$(id)' -v '/a;b:/x y' -l 'k=`id`' 'nginx:1' '$(id)' '"' '\n'""")
    for line in found.commands:
        words = shlex.split(line)
        assert shlex.join(words) == line
        assert words[0] in {"lxc", "lxdocker"}
    (spec,) = converted("docker run --tmpfs '/x: {a: b}' --restart 'always\nimage: evil' nginx").specs
    assert yamlfile.parse(spec.text, "x").value == {"image": "docker.io/library/nginx:latest", "tmpfs": {"/x": "on"}}


@pytest.mark.parametrize(
    ("text", "what", "words", "essential"),
    [
        ("-u app nginx", "--user", "its spec has: user: 'app'", True),
        ("-u root nginx", "--user", "its spec has: user: 'root'", False),
        ("-w /srv nginx", "--workdir", "its spec has: working_dir: /srv", True),
        ("--stop-signal INT nginx", "--stop-signal", "its spec has: stop_signal: INT", True),
        ("--health-cmd x nginx", "--health-cmd", "its spec has: healthcheck", False),
        ("--no-healthcheck nginx", "--no-healthcheck", "its spec has: healthcheck", False),
    ],
)
def test_what_only_a_spec_has_is_named_with_its_key(text: str, what: str, words: str, essential: bool) -> None:
    (found,) = lost(text)
    assert (found.what, found.essential) == (what, essential)
    assert words in found.why


def test_commands_name_the_project_and_the_remote() -> None:
    words = split(
        "docker run --name db -v data:/x -p 80:80 --env-file e postgres", "/w", "/h", lambda _: None, lambda _: None
    )
    service = run.read(words, Path("/w"), Path("/h"), "tank")
    commands = convert([service], Path("/w"), Where("tank", "images", "far"), "SCHEMA").commands
    assert commands == (
        "lxdocker sync postgres",
        "lxc --project images storage volume create far:tank data",
        "lxc --project images init far:postgres far:db -c environment.LXDOCKER_ENVFILE=/etc/lxdocker.env",
        "lxc --project images storage volume attach far:tank data db data /x",
        "lxc --project images config device add far:db port-80 proxy listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80",
        "lxc --project images file push --create-dirs --mode 0600 --uid 0 --gid 0 /w/e far:db/etc/lxdocker.env",
        "lxc --project images start far:db",
    )
