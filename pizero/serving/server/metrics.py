"""Counters and times for Prometheus; the only file that knows its client."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """What a server counts, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._answers = Counter(
            "pizero_answers",
            "Answers by protocol (pizero, openpi) and outcome (OK or the code of an error).",
            ("protocol", "outcome"),
            registry=self.registry,
        )
        self._refused = Counter(
            "pizero_refused_connections",
            "Connections refused, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._dropped = Counter(
            "pizero_dropped_clients",
            "Connections ended by the server, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._stages = Histogram(
            "pizero_stage_seconds",
            "Time of an answer by stage: decode, queue, infer, total.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._received = Counter("pizero_received_bytes", "Bytes of requests.", registry=self.registry)
        self._batch = Histogram(
            "pizero_batch_size",
            "Requests computed in one turn.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.clients = Gauge("pizero_clients", "Connected clients.", registry=self.registry)
        self.waiting = Gauge(
            "pizero_waiting_requests", "Requests that wait for the model.", registry=self.registry
        )
        self.ready = Gauge(
            "pizero_ready", "1 once the policy has answered its first request.", registry=self.registry
        )
        self.recorded = Counter(
            "pizero_recorded", "Requests written to the recording.", registry=self.registry
        )
        self.not_recorded = Counter(
            "pizero_not_recorded",
            "Requests that the recording has no room or time for.",
            registry=self.registry,
        )

    def answered(self, protocol: str, outcome: str, seconds: Mapping[str, float]) -> None:
        """Count an answer; `seconds` by stage are kept of good ones."""
        self._answers.labels(protocol, outcome).inc()
        for stage, value in seconds.items():
            self._stages.labels(stage).observe(value)

    def received(self, num_bytes: int) -> None:
        """Count the bytes of a message."""
        self._received.inc(num_bytes)

    def computed(self, num_requests: int) -> None:
        """Count one turn of the worker."""
        self._batch.observe(num_requests)

    def refused(self, reason: str) -> None:
        """Count a connection that was not let in."""
        self._refused.labels(reason).inc()

    def dropped(self, reason: str) -> None:
        """Count a connection that the server ended."""
        self._dropped.labels(reason).inc()

    def page(self) -> bytes:
        """Return the figures in Prometheus's text form."""
        return generate_latest(self.registry)
