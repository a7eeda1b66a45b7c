"""What monitoring is told about a tree: by ``serve`` at /metrics, and by ``sync`` in a file for node-exporter."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxdocker import __version__
from lxdocker.files import durable
from lxdocker.files.seen import exists, is_file
from lxdocker.tree import last_sync
from lxdocker.tree.simplestreams import IMAGES_PATH


@dataclass(frozen=True, slots=True)
class Figure:
    """A gauge of Prometheus."""

    name: str
    meaning: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class Figures:
    """The figures of the tree at ``root``, read anew each time; images.json only when it has changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: object = None
        self._counts = (0, 0)

    def read(self) -> Iterator[Figure]:
        """All figures that there are: without an index or a sync, some are missing."""
        yield Figure("lxdocker_build_info", "The version of lxdocker.", 1, {"version": __version__})
        published = self._look()
        yield Figure("lxdocker_images", "Images (products) in the index.", self._counts[0])
        yield Figure("lxdocker_versions", "Versions in the index.", self._counts[1])
        if published is not None:
            yield Figure("lxdocker_last_publish_timestamp_seconds", "When the index last changed.", published)
        syncs = last_sync.read_all(self._root).values()
        if syncs:
            # Of several folders of specs, the worst: an alert must not depend on which one was synced last.
            failed = sum(len(last.failed) for last in syncs)
            yield Figure("lxdocker_failed_images", "Images that the last sync failed at.", failed)
            succeeded = all(last.succeeded for last in syncs)
            yield Figure("lxdocker_last_sync_success", "Whether the last sync ended without a failure.", succeeded)
            finished = min(last.finished for last in syncs)
            yield Figure("lxdocker_last_sync_timestamp_seconds", "When the last sync ended.", finished)
            seconds = max(last.seconds for last in syncs)
            yield Figure("lxdocker_last_sync_duration_seconds", "How long the last sync took.", seconds)

    def _look(self) -> float | None:
        path = self._root / IMAGES_PATH
        try:
            found = path.stat()
            state = (found.st_ino, found.st_mtime_ns)
            if state != self._seen:
                products: dict[str, Any] = json.loads(path.read_bytes())["products"]
                self._counts = (len(products), sum(len(product["versions"]) for product in products.values()))
                self._seen = state
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._counts = (0, 0)
            self._seen = None
            return None
        return found.st_mtime


def write_textfile(root: Path, path: Path) -> None:
    """Replaces the file at ``path`` with the figures in Prometheus' text format, for everybody to read. Raises OSError.

    A link at ``path`` is replaced, not followed, and a device never. Its folder may belong to the collector's user,
    unlike the tree's.
    """
    if path.is_relative_to("/dev") or (exists(path) and not is_file(path)):
        raise OSError(errno.EINVAL, "not a regular file")
    lines = []
    for figure in Figures(root).read():
        labels = ",".join(f'{name}="{value}"' for name, value in figure.labels.items())
        lines += [
            f"# HELP {figure.name} {figure.meaning}",
            f"# TYPE {figure.name} gauge",
            f"{figure.name}{f'{{{labels}}}' if labels else ''} {float(figure.value)!r}",
        ]
    durable.write_file(path, "".join(f"{line}\n" for line in lines).encode(), 0o644)
