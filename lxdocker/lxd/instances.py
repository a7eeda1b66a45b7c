"""The life of instances, and the way into them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from lxdocker.errors import LxdError
from lxdocker.lxd import operation as operations
from lxdocker.lxd.connection import SOON, TOLD, WHOLE, Cancelled, Connection, NotFoundError
from lxdocker.lxd.operation import NoAnswerError, Operation

REMOVAL_SECONDS = 30  # how long removing an instance is tried
FILE_SERVER_TRIES = 3


class Instances(Connection):
    """What a connection does with instances."""

    def instances(self, project: str) -> list[Mapping[str, Any]]:
        """All instances of a project with their config; none where there is no such project."""
        found: list[Mapping[str, Any]] = self.get("instances", what="listing builders", project=project, params=WHOLE)
        return found

    def create_instance(self, project: str, body: Mapping[str, Any], target: str | None = None) -> str | None:
        """Creates an instance and starts it: in a cluster, where LXD places it, unless a ``target`` is named. Returns
        the member that it is on.
        """
        name = body["name"]
        starting = f"starting builder {name}"
        what = starting if self.dialect.starts_what_it_creates else f"creating builder {name}"
        wanted = {**body, "start": True} if self.dialect.starts_what_it_creates else dict(body)
        where = {"target": target} if target else {}
        operation = self.begin("post", ("instances",), what, project=project, params=where, json=wanted)
        if operation is not None:
            try:
                self.wait(operation, what)
            except (Cancelled, KeyboardInterrupt):
                # Until LXD has made it there is nothing that could be deleted, and afterwards nobody would. A download
                # of its image can be ended.
                with contextlib.suppress(LxdError):
                    self.begin("delete", operation.path, what, timeout=SOON)
                with contextlib.suppress(LxdError):
                    self.wait(operation, what, REMOVAL_SECONDS, cancellable=False)
                raise
        if not self.dialect.starts_what_it_creates:
            start = {"action": "start", "timeout": 60}
            self.change("put", ("instances", name, "state"), starting, project=project, json=start)
        return operation.location if operation and self.dialect.member else None

    def adding_devices(self, project: str, name: str, devices: Mapping[str, Mapping[str, str]]) -> Callable[[], None]:
        """Returns what adds devices to a running instance, for another thread to call: it takes LXD a second. It is
        logged now, since what happens meanwhile may need them.
        """
        what, path = f"adding {', '.join(devices)} to {name}", ("instances", name)
        body = {"devices": {device: dict(config) for device, config in devices.items()}}
        self._tell("patch", path, {"project": project}, body)
        return partial(self.change, "patch", path, what, project=project, json=body, timeout=SOON, by_hand=TOLD)

    def removed_instances(self, project: str) -> set[str]:
        """The names of a project's instances that LXD is stopping or deleting just now."""
        found = self.get("operations", what="listing operations", project=project, params=WHOLE)
        return operations.removed_by(found)

    def begin_removal(self, project: str, name: str) -> Operation | None:
        """Has a running ephemeral instance stopped and deleted, which LXD does without anybody who waits: the operation
        that it started, or None for an instance that is gone already.
        """
        what, path = f"removing builder {name}", ("instances", name)
        try:
            if self.dialect.deletes_what_runs:
                return self.begin("delete", path, what, project=project, params={"force": "1"}, timeout=SOON)
            # An ephemeral instance is deleted by its stop.
            stop = {"action": "stop", "force": True, "timeout": 30}
            return self.begin("put", (*path, "state"), what, project=project, json=stop, timeout=SOON)
        except NotFoundError:
            return None

    def delete_instance(self, project: str, name: str) -> None:
        """Stops and deletes an instance, whatever state it is in; one that is gone already is fine.

        Goes on when the user asked to stop: this is the cleaning up.
        """
        what = f"removing builder {name}"
        # An ephemeral instance deletes itself while it stops; a half-made one is not running; and one that a killed
        # lxdocker left may be busy for a while with what that had asked for last.
        deadline = time.monotonic() + REMOVAL_SECONDS
        while True:
            try:
                self._delete_instance(project, name, what)
            except NotFoundError:
                return
            except LxdError as error:
                if time.monotonic() > deadline:
                    by_hand = f"lxc delete --project {project} --force {name}"
                    raise LxdError(f"{what} failed", error.details, by_hand) from error
                time.sleep(0.2)
            else:
                return

    def _delete_instance(self, project: str, name: str, what: str) -> None:
        path = ("instances", name)
        how: dict[str, Any] = {"project": project, "timeout": SOON, "seconds": 60, "cancellable": False}
        if self.dialect.deletes_what_runs:
            self.change("delete", path, what, params={"force": "1"}, **how)
            return
        stop = {"action": "stop", "force": True, "timeout": 30}
        with contextlib.suppress(LxdError):
            self.change("put", (*path, "state"), what, json=stop, **how)
        self.change("delete", path, what, **how)

    def push(
        self,
        project: str,
        name: str,
        path: str,
        content: bytes | Iterator[bytes],
        mode: int = 0o600,
        *,
        source: str = "",
    ) -> None:
        """Writes a file into an instance, streaming when given an iterator, until the user asks to stop: Cancelled.

        ``source``, for the log: how a shell gives it to the client, as ``COMMAND |`` or ``<FILE``.
        """
        if not isinstance(content, bytes):
            content = self._until_cancelled(content)
        by_hand = self.client_command("file", "push", "--project", project, "-", self.named(f"{name}{path}"))
        by_hand = f"{source} {by_hand}" if source.endswith("|") else f"{by_hand} {source}".rstrip()
        kind = {"type": "file", "mode": f"{mode:04o}"}
        self._make(project, name, path, f"writing {path} to {name}", kind, by_hand=by_hand, data=content)

    def make_folder(self, project: str, name: str, path: str) -> None:
        """In an instance, whether it runs or not."""
        self._make(project, name, path, f"making {path} in {name}", {"type": "directory", "mode": "0755"})

    def _make(self, project: str, name: str, path: str, what: str, kind: Mapping[str, str], **arguments: Any) -> None:
        self._wake_file_server(project, name, what)
        headers = {self.dialect.header(key): value for key, value in {**kind, "uid": "0", "gid": "0"}.items()}
        files = ("instances", name, "files")
        self.change("post", files, what, project=project, params={"path": path}, headers=headers, **arguments)

    def _wake_file_server(self, project: str, name: str, what: str) -> None:
        """Sees to it that LXD's server for an instance's files answers.

        LXD starts one with the first request and ends it after ten idle seconds. A request that comes just then fails
        ("forkfile.sock: no such file or directory"), and what is streamed can't be sent twice. One that has answered
        stays for the next five seconds.
        """
        for left in reversed(range(FILE_SERVER_TRIES)):
            try:
                self.get("instances", name, "files", what=what, project=project, timeout=SOON, params={"path": "/"})
            except (Cancelled, NotFoundError, NoAnswerError):
                raise
            except LxdError:
                if not left:
                    raise
                time.sleep(0.2)
            else:
                return
