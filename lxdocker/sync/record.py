"""The result of a sync, for monitoring: in the tree, and in a file for node-exporter."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator

from lxdocker.config.settings import Settings
from lxdocker.errors import LxdockerError
from lxdocker.image.provenance import Folder
from lxdocker.lxd.api import Cancelled
from lxdocker.progress import Say
from lxdocker.sync.outcome import Report, Status
from lxdocker.tree import figures, last_sync
from lxdocker.tree.last_sync import LastSync
from lxdocker.tree.tree import Tree


@contextlib.contextmanager
def recorded(settings: Settings, say: Say, *, whole: bool) -> Iterator[Callable[[Report], None]]:
    """Records the report of the block; or its failure, if it was about the ``whole`` folder of specs. Nothing is
    recorded of a block that is interrupted, or reports nothing. A record that can't be written is a warning.
    """
    began = time.time()

    def done(report: Report) -> None:
        failed = frozenset(str(outcome.name) for outcome in report.outcomes if outcome.status is Status.FAILED)
        named = None if whole else [str(outcome.name) for outcome in report.outcomes]
        _record(settings, LastSync(time.time(), time.time() - began, 1 if report.failed else 0, failed), named, say)

    try:
        yield done
    except Cancelled:
        raise
    except LxdockerError as error:
        if whole:  # a person may have mistyped a name
            _record(settings, LastSync(time.time(), time.time() - began, error.exit_code), (), say)
        raise


def _record(settings: Settings, last: LastSync, named: Collection[str] | None, say: Say) -> None:
    folder = Folder.of(settings.specs).id
    try:
        last_sync.record(settings.tree, folder, last, named)
        if len(last_sync.read_all(settings.tree)) > 1:
            owners = {version.provenance.folder for version in Tree(settings.tree).listed()}
            last_sync.forget(settings.tree, {folder, *owners})
    except OSError as error:
        say(f"warning: cannot record the result of this sync in {settings.tree}: {error.strerror or error}")
    if settings.metrics_file:
        try:
            figures.write_textfile(settings.tree, settings.metrics_file)
        except OSError as error:
            say(f"warning: cannot write the metrics file {settings.metrics_file}: {error.strerror or error}")
