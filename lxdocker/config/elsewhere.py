"""Keys of compose files and flags of `docker run` that people write into specs, and where LXD has these.

A spec describes an image; most of these belong to an instance. One line each, ready to be typed; a key that specs
come to know themselves leaves this table.
"""

from __future__ import annotations

from collections.abc import Mapping

_DEVICE = "lxc config device add NAME"
_SET = "lxc config set NAME"
_PORTS = f"ports belong to an instance: {_DEVICE} http proxy listen=tcp:0.0.0.0:8080 connect=tcp:127.0.0.1:80"
_VOLUMES = (
    "volumes belong to an instance: lxc storage volume create default DATA, then lxc storage volume attach default"
    " DATA NAME /PATH"
)
_ENVIRONMENT = f"write environment: {{ KEY: VALUE }}; an instance's own: {_SET} environment.KEY=VALUE"
_DEVICES = f"devices belong to an instance: {_DEVICE} tty unix-char source=/dev/ttyUSB0"
_NETWORKS = f"networks belong to an instance: {_DEVICE} eth0 nic network=lxdbr0 name=eth0"
_DNS = f"name servers belong to an instance: {_SET} user.lxdocker.dns='192.0.2.53 search example.org'"
_COMMAND = f"write cmd: [ARGUMENT]; an instance's own: {_SET} user.lxdocker.cmd='[\"ARGUMENT\"]'"
_PRIVILEGES = (
    f"privileges belong to an instance: {_SET} security.privileged=true; root in it is then root of this host, so"
    " rather add the device that is needed, or set security.nesting=true"
)
_CAPABILITIES = "root in an instance has all capabilities over what is the instance's own; leave it out"
_MEMORY = f"limits belong to an instance: {_SET} limits.memory=512MiB"
_CPUS = f"limits belong to an instance: {_SET} limits.cpu=2"
_ORDER = f"the order of start belongs to instances: {_SET} boot.autostart.priority=10"
_NAME = "the name of the image is that of the file, and an instance gets its own: lxc launch IMAGE NAME"
_LABELS = "write labels: { KEY: VALUE }; an instance has user.KEY=VALUE"
_LOGS = "output is kept in the instance: lxc exec NAME -- /lxd-log"
_BUILD = "images are not built from a Dockerfile; build it elsewhere, and name the result: image: oci-archive:FILE"
_COMPOSE = "this looks like a compose file, which lxdocker convert FILE translates"
_TERMINAL = "applications have no terminal; for a shell: lxc exec NAME -- /lxd-exec sh"

KEYS: Mapping[str, str] = {
    **dict.fromkeys(("port", "publish", "expose"), _PORTS),
    **dict.fromkeys(("volume", "mounts", "mount", "binds"), _VOLUMES),
    "env": _ENVIRONMENT,
    "env_file": f"variables belong to an instance: {_SET} environment.LXDOCKER_ENVFILE=/FILE/IN/THE/INSTANCE",
    **dict.fromkeys(("command", "args"), _COMMAND),
    **dict.fromkeys(("devices", "device"), _DEVICES),
    "gpus": f"devices belong to an instance: {_DEVICE} gpu gpu",
    "privileged": _PRIVILEGES,
    **dict.fromkeys(("cap_add", "cap_drop", "security_opt"), _CAPABILITIES),
    **dict.fromkeys(("networks", "network", "network_mode"), _NETWORKS),
    **dict.fromkeys(("dns", "dns_search"), _DNS),
    "extra_hosts": "hosts belong to an instance: let its user.lxdocker_init_script add them to /etc/hosts",
    "mac_address": "an address belongs to an instance: lxc config device override NAME eth0 hwaddr=ADDRESS",
    **dict.fromkeys(("depends_on", "links"), _ORDER),
    **dict.fromkeys(("container_name", "hostname", "name"), _NAME),
    "label": _LABELS,
    **dict.fromkeys(("mem_limit", "memory", "deploy", "resources"), _MEMORY),
    **dict.fromkeys(("cpus", "cpuset", "cpu_shares"), _CPUS),
    "pids_limit": f"limits belong to an instance: {_SET} limits.processes=200",
    "ulimits": f"limits belong to an instance: {_SET} limits.kernel.nofile=1024:2048",
    "sysctls": f"sysctls belong to an instance: {_SET} raw.lxc='lxc.sysctl.KEY = VALUE'",
    "shm_size": "write tmpfs: { /dev/shm: 256m }",
    "stop_grace_period": "write stop_grace: SECONDS",
    "init": "every instance has an init that adopts and reaps; leave it out",
    **dict.fromkeys(("tty", "stdin_open"), _TERMINAL),
    **dict.fromkeys(("logging", "log_driver"), _LOGS),
    "build": _BUILD,
    **dict.fromkeys(("pull_policy", "pull"), "sync asks the registry each time; leave it out"),
    "platform": "images are built for the processor of this host; leave it out",
    "tag": "the tag is part of the image: image: nginx:1.27",
    **dict.fromkeys(("registry", "repository"), "the registry is part of the image: image: ghcr.io/owner/name:tag"),
    "autostart": f"starting belongs to an instance: {_SET} boot.autostart=true",
    "restart_policy": "write restart: no, on-failure, on-failure:N or always",
    **dict.fromkeys(("services", "version"), _COMPOSE),
}

# By key and value, as written.
VALUES: Mapping[tuple[str, str], str] = {
    ("restart", "unless-stopped"): "write always: what was stopped by lxc stop stays stopped, also after a reboot",
    ("restart", "true"): "write always",
    ("restart", "false"): "write no",
    ("restart", "never"): "write no",
}
