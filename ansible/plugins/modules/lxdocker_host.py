#!/usr/bin/python
"""The settings of lxdocker on a host, and the image server that the host is a client of."""

from __future__ import annotations

DOCUMENTATION = """
module: lxdocker_host
short_description: Configure lxdocker on a host, and make the host a client of an image server
description:
  - Writes lxdocker's configuration file. Settings that lxdocker refuses are not left behind.
  - Adds an image server, as C(lxdocker serve) is one, as a remote of the host's C(lxc) or C(incus), and trusts its
    certificate. The remote is the one of the user who becomes active on the host.
options:
  settings:
    description:
      - The content of the configuration file. If it is omitted, the file is left alone.
    type: dict
  server:
    description: Address of the image server, such as V(https://images.example.net:8444). Required to add it.
    type: str
  remote:
    description: Name of the remote.
    type: str
    default: lxdocker
  state:
    description: Whether the host is to have the remote. V(absent) needs only O(remote).
    type: str
    choices: [present, absent]
    default: present
  fingerprint:
    description:
      - SHA-256 fingerprint of the server's certificate, as C(lxdocker serve) prints it.
      - Needed unless an authority that the host knows has signed the certificate; also where LXD has image registries.
    type: str
  password:
    description: Password of the user in O(server), if there is one.
    type: str
  client:
    description: The client to configure, on a host with both.
    type: str
    choices: [lxc, incus]
  config:
    description: Configuration file of lxdocker.
    type: path
    default: /etc/lxdocker/config.yaml
  executable:
    description: The program, if it is not in C(PATH).
    type: str
    default: lxdocker
requirements: [lxdocker]
attributes:
  check_mode:
    description: Without a look at the server's certificate.
    support: partial
  diff_mode:
    description: Shows the configuration file.
    support: full
author: [the lxdocker authors]
"""

EXAMPLES = """
- name: A host that builds images
  lxdocker.lxdocker.lxdocker_host:
    settings:
      jobs: 2
      keep_versions: 5

- name: A host that uses them
  lxdocker.lxdocker.lxdocker_host:
    server: https://images.example.net:8444
    fingerprint: "{{ fingerprint_of_the_server }}"
"""

RETURN = """
config:
  description: The configuration file.
  returned: always
  type: str
remote:
  description: The remote, with C(name), C(url), C(images) and C(certificate). Null if the module has not added it.
  returned: always
  type: dict
"""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.lxdocker.lxdocker.plugins.module_utils.program import (
    ARGUMENTS,
    File,
    Program,
    as_yaml,
    in_words,
)


class Settings:
    """The configuration file."""

    def __init__(self, module: AnsibleModule, program: Program) -> None:
        self._module = module
        self._program = program
        self._file = File(module, Path(module.params["config"]))

    def set(self) -> dict[str, Any]:
        """Whether they change, and how."""
        wanted = as_yaml(self._module.params["settings"])
        changed = wanted != self._file.before
        if changed and not self._module.check_mode:
            self._file.put(wanted)
            document = self._program.run("config", fails=False)
            if "error" in document:
                self._file.restore()
                self._module.fail_json(msg=in_words(document["error"]), error=document["error"])
        return {"changed": changed, "diff": self._file.diff(wanted)}


class Remote:
    """The image server, as the host's client knows it."""

    def __init__(self, module: AnsibleModule, program: Program) -> None:
        self._module = module
        self._program = program
        self._name: str = module.params["remote"]
        chosen = [module.params["client"]] if module.params["client"] else ["lxc", "incus"]
        found = [path for path in map(module.get_bin_path, chosen) if path]
        if len(found) != 1:
            have = "both lxc and incus" if found else f"no {' or '.join(chosen)}"
            module.fail_json(msg=f"the host has {have}: choose with 'client', or install one")
        self._client: str = found[0]

    def _lxc(self, *arguments: str) -> str:
        status, out, err = self._module.run_command([self._client, *arguments], data="", cwd="/")
        if status:
            self._module.fail_json(msg=f"{' '.join([self._client, *arguments])} has failed: {err.strip()}", rc=status)
        return str(out)

    def _address(self) -> str | None:
        """With its login, if it has one; None for no such remote."""
        remote = json.loads(self._lxc("remote", "list", "--format", "json")).get(self._name)
        # LXD writes Addr, Incus addr.
        return next((str(value) for key, value in (remote or {}).items() if key.lower() == "addr"), None)

    def _certificates(self) -> dict[str, bytes]:
        """Those that this user's clients keep for the remote."""
        home = Path.home()
        own = [Path(os.environ[name]) for name in ("LXD_CONF", "INCUS_CONF") if os.environ.get(name)]
        folders = [*own, home / ".config/lxc", home / "snap/lxd/common/config", home / ".config/incus"]
        files = [folder / "servercerts" / f"{self._name}.crt" for folder in folders]
        return {str(file): file.read_bytes() for file in files if file.is_file()}

    def present(self) -> dict[str, Any]:
        """Whether adding it changes anything, and what there is then."""
        server: str = self._module.params["server"]
        before = self._address()
        if self._module.check_mode:
            return {"changed": before is None or _without_login(before) != _without_login(server), "remote": None}
        certificates = self._certificates()
        options = ["--client", Path(self._client).name]
        if self._module.params["fingerprint"]:
            options += ["--fingerprint", self._module.params["fingerprint"]]
        password = f"{self._module.params['password'] or ''}\n"
        added = self._program.run("remote", "add", server, self._name, *options, stdin=password, configured=False)
        same = before == self._address() and certificates == self._certificates()
        return {"changed": not same, "remote": added}

    def absent(self) -> dict[str, Any]:
        """Whether it was there."""
        there = self._address() is not None
        if there and not self._module.check_mode:
            self._lxc("remote", "remove", self._name)
            for file in self._certificates():
                Path(file).unlink(missing_ok=True)
        return {"changed": there, "remote": None}


def _without_login(url: str) -> str:
    """The same for each way to write a server's address."""
    parts = urlsplit(url)
    port = "" if parts.port in {None, 443} else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}"


def main() -> None:
    """The module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict"},
            "server": {"type": "str"},
            "remote": {"type": "str", "default": "lxdocker"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "fingerprint": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "client": {"type": "str", "choices": ["lxc", "incus"]},
            **ARGUMENTS,
            "config": {"type": "path", "default": "/etc/lxdocker/config.yaml"},
        },
        required_one_of=[("settings", "server", "state")],
        supports_check_mode=True,
    )
    program = Program(module)
    result: dict[str, Any] = {"changed": False, "config": module.params["config"], "remote": None}
    parts = [Settings(module, program).set()] if module.params["settings"] is not None else []
    if module.params["state"] == "absent":
        parts.append(Remote(module, program).absent())
    elif module.params["server"]:
        parts.append(Remote(module, program).present())
    for part in parts:
        result = {**result, **part, "changed": result["changed"] or part["changed"]}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
