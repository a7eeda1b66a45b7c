"""What the server tells Prometheus."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics, exposition
from prometheus_client.core import GaugeMetricFamily

from lxdocker.tree.simplestreams import IMAGES_PATH

CONTENT_TYPE = exposition.CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one server, and what its tree holds when somebody asks."""

    def __init__(self, tree: Path, certificate_ends: Callable[[], float]) -> None:
        # Half of all lines otherwise, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
        self._registry = CollectorRegistry()
        self.requests = Counter("lxdocker_requests", "Requests answered.", ["status"], registry=self._registry)
        self.sent = Counter("lxdocker_sent_bytes", "Bytes of files sent, before TLS.", registry=self._registry)
        self.refused = Counter(
            "lxdocker_refused_connections", "Connections without a TLS handshake.", registry=self._registry
        )
        self.connections = Gauge("lxdocker_connections", "Open connections.", registry=self._registry)
        self.downloads = Gauge("lxdocker_downloads", "Files being sent.", registry=self._registry)
        ends = Gauge(
            "lxdocker_certificate_end_timestamp_seconds", "When the certificate ends.", registry=self._registry
        )
        ends.set_function(certificate_ends)
        self._registry.register(_TreeCollector(tree))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """The answer to a scrape."""
        return exposition.generate_latest(self._registry)


class _TreeCollector:
    """What the tree holds. images.json is read only when it has changed."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._seen: object = None
        self._counts = (0, 0)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = time.time()
        with self._lock:
            published = self._look()
        yield GaugeMetricFamily("lxdocker_images", "Images (products) in the index.", self._counts[0])
        yield GaugeMetricFamily("lxdocker_versions", "Versions in the index.", self._counts[1])
        if published is not None:
            yield GaugeMetricFamily(
                "lxdocker_last_publish_age_seconds", "Since the index last changed.", max(0.0, now - published)
            )
        # Whoever works on the tree empties its staging area first, also a sync that then finds nothing to do.
        worked = _modified(self._tree / ".staging")
        if worked is not None:
            yield GaugeMetricFamily(
                "lxdocker_last_sync_age_seconds", "Since lxdocker last worked on the tree.", max(0.0, now - worked)
            )

    def _look(self) -> float | None:
        path = self._tree / IMAGES_PATH
        try:
            found = path.stat()
            state = (found.st_ino, found.st_mtime_ns)
            if state != self._seen:
                products: dict[str, Any] = json.loads(path.read_bytes())["products"]
                self._counts = (len(products), sum(len(product["versions"]) for product in products.values()))
                self._seen = state
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._counts = (0, 0)
            self._seen = None
            return None
        return found.st_mtime


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
