"""Tasks that ansible-playbook runs on this machine, with the collection of this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLLECTION = Path(__file__).parents[2] / "ansible"
SECONDS = 300
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Result:
    """What Ansible says of one task."""

    told: Mapping[str, Any]

    @property
    def changed(self) -> bool:
        return bool(self.told.get("changed"))

    @property
    def failed(self) -> bool:
        return bool(self.told.get("failed"))

    @property
    def diff(self) -> Mapping[str, Any]:
        found = self.told["diff"]
        return dict(found[0] if isinstance(found, list) else found)

    @property
    def message(self) -> str:
        return str(self.told["msg"])

    def __getitem__(self, key: str) -> Any:
        return self.told[key]


@dataclass(frozen=True)
class Playbook:
    """Where playbooks are run, where collections are installed, and the environment that modules get."""

    folder: Path
    collections: Path
    environment: Mapping[str, str]

    def run(self, *tasks: Mapping[str, Any]) -> list[Result]:
        """The result of each task; later ones run although earlier ones have failed."""
        results = self.folder / "results.json"
        names = [f"result_{number}" for number in range(len(tasks))]
        report = {
            "ansible.builtin.copy": {"content": f"{{{{ [{', '.join(names)}] | to_json }}}}", "dest": str(results)},
        }
        told = [{**task, "register": name, "ignore_errors": True} for task, name in zip(tasks, names, strict=True)]
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [*told, report]}
        book = self.folder / "play.json"
        book.write_text(json.dumps([play]))
        argv = [str(BIN / "ansible-playbook"), "--inventory", "localhost,", "--diff"]
        environment = {
            **self.environment,
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "local"),
            "ANSIBLE_REMOTE_TEMP": str(self.folder / "remote"),
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        }
        done = subprocess.run(
            [*argv, str(book)],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "[WARNING]" not in done.stderr, done.stderr
        return [Result(told) for told in json.loads(results.read_text())]


def install(folder: Path) -> Path:
    """Installs the collection of this checkout, as users do."""
    argv = [str(BIN / "ansible-galaxy"), "collection", "install", "--offline", str(COLLECTION), "-p", str(folder)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    subprocess.run(argv, env=environment, cwd=folder, capture_output=True, check=True, timeout=SECONDS)
    return folder


def image(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": f"image {name}", "lxdocker.lxdocker.lxdocker_image": {"name": name, **arguments}}


def host(**arguments: Any) -> dict[str, Any]:
    return {"name": "host", "lxdocker.lxdocker.lxdocker_host": arguments}


def rehearsed(task: Mapping[str, Any]) -> dict[str, Any]:
    """In check mode."""
    return {**task, "check_mode": True}


def executable(folder: Path) -> Path:
    """This checkout's program, as the modules find it."""
    program = folder / "lxdocker"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lxdocker "$@"\n')
    program.chmod(0o755)
    return program


def inherited() -> dict[str, str]:
    names = ("PATH", "PYTHONPATH", "LXD_DIR", "LXD_CONF")
    return {name: os.environ[name] for name in names if name in os.environ}
