"""The server's figures for Prometheus. Labels are runtimes, states and reasons, never roles, databases or sandboxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

_PREFIX: Final = "protocol_server"
_START_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 15.0, 30.0)
_GRANT_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.4, 0.8, 1.5, 3.0, 10.0, 30.0, 60.0)

#: Name without prefix, what it says, its labels and its values by label values.
Gauge = tuple[str, str, tuple[str, ...], Iterable[tuple[tuple[str, ...], float]]]


class Metrics:
    """Counts as things happen; what is a state is asked for when somebody looks."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.starts = self._histogram("sandbox_start_seconds", "Time that starts took.", ("runtime",), _START_S)
        self.grants = self._histogram("lease_grant_seconds", "Time from request to Grant.", ("warm",), _GRANT_S)
        self.waits = self._histogram("queue_wait_seconds", "Time that requests waited for a sandbox.", (), _GRANT_S)
        self.start_failures = self._counter("sandbox_start_failures", "Starts that failed.", ("runtime",))
        self.removals = self._counter("sandboxes_removed", "Sandboxes that were removed, by reason.", ("reason",))
        self.deaths = self._counter(
            "sandboxes_died", "Sandboxes that ended by themselves, by SQLSTATE.", ("runtime", "sqlstate")
        )
        self.leases = self._counter("leases_granted", "Leases that were granted.", ("runtime",))
        self.refusals = self._counter("requests_refused", "Requests that were refused, by SQLSTATE.", ("sqlstate",))
        self.reloads = self._counter("reloads", "Reloads of the configuration, by outcome.", ("outcome",))

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"{_PREFIX}_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{_PREFIX}_{name}", text, labels, registry=self._registry, buckets=buckets)

    def observe(self, gauges: Callable[[], Iterable[Gauge]]) -> None:
        """Tell what `gauges` says, too."""
        self._registry.register(_Collector(gauges))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Collector:
    def __init__(self, gauges: Callable[[], Iterable[Gauge]]) -> None:
        self._gauges = gauges

    def describe(self) -> list[Metric]:
        """Nothing: else it would be asked before there is anything to tell."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges now."""
        for name, text, labels, values in self._gauges():
            family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
            for key, value in values:
                family.add_metric(key, value)
            yield family
