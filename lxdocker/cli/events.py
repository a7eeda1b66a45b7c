"""The hooks on_change and on_failure: what they are told, and when."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import typer

from lxdocker.cli.console import Console
from lxdocker.config.settings import Settings
from lxdocker.errors import LxdockerError

if TYPE_CHECKING:
    from lxdocker.cli.documents import Document  # which load what a command without hooks needs not
    from lxdocker.follow.run import Followed
    from lxdocker.sync.outcome import Report
    from lxdocker.sync.state import Survey
    from lxdocker.tree.last_sync import LastSync

Command = Literal["sync", "mirror --import"]


class Hooks:
    """The hooks of one run. Each is called at most once, after the run, and never changes its exit status."""

    def __init__(self, ctx: typer.Context, settings: Settings, command: Command, *, unless: bool = False) -> None:
        """From now on, an error that ends the command is told to on_failure, ``unless`` the run changes nothing, or is
        for names, which somebody may have mistyped.
        """
        self._console: Console = ctx.obj.console
        self._settings = settings
        self._command = command
        if not unless:
            ctx.obj.on_error.append(self.failed)

    def want(self, result: Report) -> bool:
        """Whether a hook is called after such a sync."""
        from lxdocker.sync.outcome import Status

        changed = any(outcome.status not in {Status.UNCHANGED, Status.FAILED} for outcome in result.outcomes)
        return bool((self._settings.on_change and changed) or (self._settings.on_failure and result.failed))

    def synced(self, result: Report, survey: Survey | None) -> None:
        """Tells of a sync. ``survey``: of what it left; not needed unless a hook wants it."""
        if survey is None or not self.want(result):
            return
        from lxdocker.cli import documents

        images = documents.images(survey.done(result.outcomes))["images"]
        changes = [image for image in images if image["outcome"] not in {"unchanged", "failed"}]
        since = self._last_sync().since
        self._tell(
            changes,
            [image | {"since": _time(since.get(image["name"]))} for image in images if image["outcome"] == "failed"],
            result.outdated,
        )

    def imported(self, result: Followed) -> None:
        """Tells of an import."""
        if not (self._settings.on_change or self._settings.on_failure):
            return
        from lxdocker.cli import documents

        document = documents.followed(result)
        changes = [image | {"outcome": verb} for verb in ("imported", "updated") for image in document[verb]]
        self._tell(changes, [image | {"outcome": "failed", "since": None} for image in document["failed"]])

    def failed(self, error: LxdockerError) -> None:
        """Tells of a run that has failed as a whole."""
        if not self._settings.on_failure:
            return
        from lxdocker.cli import documents
        from lxdocker.lxd.api import Cancelled

        if not isinstance(error, Cancelled):  # whoever stops it knows
            self._run("failure", self._settings.on_failure, [], documents.error(error))

    def _tell(
        self, changes: Sequence[Document], failures: Sequence[Document], error: LxdockerError | None = None
    ) -> None:
        if changes:
            self._run("change", self._settings.on_change, changes)
        if failures or error:
            from lxdocker.cli import documents

            self._run("failure", self._settings.on_failure, failures, documents.error(error) if error else None)

    def _last_sync(self) -> LastSync:
        """The record of this sync; an empty one if there is none, as of an import."""
        from lxdocker.image.provenance import folder_id
        from lxdocker.tree import last_sync

        found = (
            last_sync.read(self._settings.tree, folder_id(self._settings.specs)) if self._command == "sync" else None
        )
        return found or last_sync.LastSync(0, 0, 0)

    def _run(
        self,
        event: Literal["change", "failure"],
        hook: str | None,
        images: Sequence[Document],
        error: Document | None = None,
    ) -> None:
        if not hook:
            return
        from lxdocker.cli import documents
        from lxdocker.cli.app import cancellable
        from lxdocker.hooks import run as hooks

        document = {
            "schema": documents.SCHEMA,
            "event": event,
            "command": self._command,
            "host": os.uname().nodename,
            "time": _time(time.time()),
            "since": _time(self._last_sync().failing_since) if event == "failure" else None,
            "images": list(images),
            "error": error,
        }
        with cancellable():
            failure = hooks.run(hook, document, self._settings.hook_timeout, os.environ)
        if failure:
            self._console.log(f"warning: on_{event}: {failure.brief}")
            for line in (
                *failure.details.splitlines(),
                *filter(None, [failure.resolution and f"-> {failure.resolution}"]),
            ):
                self._console.log(f"  {line}")


def _time(moment: float | None) -> str | None:
    """As the other documents have it: RFC 3339."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
