"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters and histograms of one server; labels come from the routes, so their number is bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory and handles
        self._requests = Counter(
            "serve_requests", "Answers by endpoint and status", ["endpoint", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "serve_request_seconds",
            "From the request's header to its answer's end",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._images = Counter("serve_images", "Images computed", registry=self.registry)
        self._batch = Histogram(
            "serve_batch_images", "Images a batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self.registry
        )
        self._refused = Counter("serve_refused", "Requests refused because of load", registry=self.registry)
        self.gone = Counter("serve_clients_gone", "Clients gone before their answer", registry=self.registry)
        self.ready = Gauge("serve_ready", "1: takes requests for images", registry=self.registry)
        self.reloads = Counter("serve_reloads", "Exports loaded by SIGHUP", ["outcome"], registry=self.registry)

    def watch(self, queue_images: Callable[[], int], connections: Callable[[], int]) -> None:
        """Read these whenever the metrics are read."""
        for name, text, function in (
            ("serve_queue_images", "Images accepted and not yet answered", queue_images),
            ("serve_connections", "Open connections", connections),
        ):
            Gauge(name, text, registry=self.registry).set_function(function)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)
        if status in (429, 503):
            self._refused.inc()

    def computed(self, size: int) -> None:
        """Count a batch."""
        self._images.inc(size)
        self._batch.observe(size)
