"""Answers of real LXDs: what the unit tests' daemon says, in the form that each LXD has.

``data/lxd/VERSION.json`` holds what one LXD answered to the requests below, as it came, but for what is new each time.
Those of 6.10 are from its development, with ``image_registries``, when it still called itself 6.9. For another LXD (one
of this checkout's tests, since things named ``recorded`` are made and deleted in it):

    python -m tests.recorded LXD_DIR > tests/data/lxd/VERSION.json
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data/lxd"
NAME = "recorded"
UNKNOWN = "11111111-2222-3333-4444-555555555555"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Recorded:
    """One LXD's answers: what was asked -> status and body."""

    version: str
    answers: dict[str, tuple[int, Any]]

    def __str__(self) -> str:
        return self.version

    def like(self, key: str, **changes: Any) -> tuple[int, Any]:
        """An answer, with some members of its body replaced."""
        status, body = self.answers[key]
        return status, {**body, **changes}

    @property
    def server(self) -> dict[str, Any]:
        """The metadata of GET /1.0."""
        found: dict[str, Any] = self.answers["server"][1]["metadata"]
        return found


@cache
def every() -> tuple[Recorded, ...]:
    """All that were recorded, the oldest LXD first."""
    found = []
    for path in FOLDER.glob("*.json"):
        document = json.loads(path.read_text())
        answers = {key: (one["status"], one["body"]) for key, one in document.items()}
        found.append(Recorded(path.stem, answers))
    return tuple(sorted(found, key=lambda one: [int(part) for part in one.version.split(".")]))


# ---- recording


class _Lxd:
    """The real one."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "unix.socket"

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("lxd", timeout=60)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connected:
            connected.connect(str(self._path))
            connection.sock = connected
            content = json.dumps(body) if body is not None else None
            connection.request(method, f"/1.0{path}", content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def do(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Until it is done. Returns the first answer."""
        first = self.ask(method, path, body)
        if first[1]["type"] == "async":
            self.ask("GET", _wait(first))
        return first


def _wait(started: tuple[int, Any]) -> str:
    identifier = str(started[1]["operation"]).rsplit("/", 1)[-1].split("?")[0]
    return f"/operations/{identifier}/wait"


def record(folder: Path) -> dict[str, Any]:
    """Asks a real LXD, and leaves it as it was."""
    lxd = _Lxd(folder)
    found: dict[str, tuple[int, Any]] = {}
    profile = {"name": NAME, "config": {}, "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}}
    instance = {"name": NAME, "source": {"type": "none"}, "profiles": [NAME]}
    volumes = "/storage-pools/default/volumes/custom"
    found["server"] = lxd.ask("GET", "")
    found["missing"] = lxd.ask("GET", f"/profiles/{NAME}")
    found["missing project"] = lxd.ask("GET", f"/instances?recursion=1&project={NAME}")
    found["unknown operation"] = lxd.ask("GET", f"/operations/{UNKNOWN}/wait")
    try:
        found["create project"] = lxd.do("POST", "/projects", {"name": NAME, "config": {}})
        found["create project again"] = lxd.ask("POST", "/projects", {"name": NAME, "config": {}})
        found["create profile"] = lxd.do("POST", "/profiles", profile)
        found["create profile again"] = lxd.ask("POST", "/profiles", profile)
        found["change profile"] = lxd.do("PUT", f"/profiles/{NAME}", {**profile, "description": NAME})
        found["create volume"] = lxd.do("POST", volumes, {"name": NAME})
        found["create volume again"] = lxd.ask("POST", volumes, {"name": NAME})
        found["create instance"] = started = lxd.ask("POST", "/instances", instance)
        found["wait for a success"] = lxd.ask("GET", _wait(started))
        found["look at a success"] = lxd.ask("GET", _wait(started).removesuffix("/wait"))
        found["start instance"] = started = lxd.ask("PUT", f"/instances/{NAME}/state", {"action": "start"})
        found["wait for a failure"] = lxd.ask("GET", _wait(started))
        found["look at a failure"] = lxd.ask("GET", _wait(started).removesuffix("/wait"))
        found["begin a migration"] = started = lxd.ask("POST", f"/instances/{NAME}", {"migration": True, "name": NAME})
        found["look at what runs"] = lxd.ask("GET", _wait(started).removesuffix("/wait"))
        found["wait in vain"] = lxd.ask("GET", _wait(started) + "?timeout=1")
        found["end what runs"] = lxd.ask("DELETE", _wait(started).removesuffix("/wait"))
    finally:
        lxd.do("DELETE", f"/instances/{NAME}")
        lxd.do("DELETE", f"{volumes}/{NAME}")
        lxd.do("DELETE", f"/profiles/{NAME}")
        lxd.do("DELETE", f"/projects/{NAME}")
    found["server"][1]["metadata"] = _public(found["server"][1]["metadata"])
    steady = _steady({key: {"status": status, "body": body} for key, (status, body) in found.items()}, str(folder))
    assert isinstance(steady, dict)
    return steady


def _public(server: dict[str, Any]) -> dict[str, Any]:
    """What does not tell which machine it was."""
    environment = {key: server["environment"].get(key) for key in ("server", "server_version", "server_clustered")}
    kept = {key: server[key] for key in ("api_extensions", "api_status", "api_version", "auth")}
    return {**kept, "environment": {**environment, "server_name": "host"}}


def _steady(value: Any, folder: str) -> Any:
    """Without what is new each time, or the machine's."""
    if isinstance(value, dict):
        return {
            key: "host"
            if key == "location"
            else "2026-01-02T03:04:05Z"
            if key.endswith("_at")
            else _steady(one, folder)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_steady(one, folder) for one in value]
    if isinstance(value, str):
        return re.sub(r"[0-9a-f]{64}", "5" * 64, _UUID.sub(UNKNOWN, value)).replace(folder, "/lxd")
    return value


if __name__ == "__main__":
    print(json.dumps(record(Path(sys.argv[1])), indent=1))  # noqa: T201 - what it is for
