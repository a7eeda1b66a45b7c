"""What the server tells Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, disable_created_metrics, exposition
from prometheus_client.core import GaugeMetricFamily

from lxdocker.tree.figures import Figures

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
    """What the tree holds. Scrapes may come in several threads."""

    def __init__(self, tree: Path) -> None:
        self._figures = Figures(tree)
        self._lock = threading.Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            found = list(self._figures.read())
        for figure in found:
            family = GaugeMetricFamily(figure.name, figure.meaning, labels=list(figure.labels))
            family.add_metric(list(figure.labels.values()), figure.value)
            yield family
