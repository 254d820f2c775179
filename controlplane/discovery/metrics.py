"""Counters of the xDS server, named as pilot's where pilot has them (control-plane.md 3)."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from mesh.xds.type_url import SHORT_NAMES

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Durations(Collector):
    """A histogram that costs a tenth of the client library's: three are written for each response of each stream."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name, self._documentation = name, documentation
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What a scrape is told."""
        bounds = [*(str(float(bound)) for bound in _SECONDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class DiscoveryMetrics:
    """One per process; `registry` is what /metrics renders."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge("pilot_xds", "xDS streams connected to this replica.", ["dialect"], registry=registry)
        self.pushes = Counter("pilot_xds_pushes", "Responses sent, by type.", ["type"], registry=registry)
        self.rejects = Counter("pilot_total_xds_rejects", "NACKs received, by type.", ["type"], registry=registry)
        self.expired_nonces = Counter(
            "pilot_xds_expired_nonce", "Requests that answered an older response.", registry=registry
        )
        self.refused = Counter("gossamer_xds_refused", "Streams refused, by reason.", ["reason"], registry=registry)
        self.aged = Counter(
            "gossamer_xds_aged_streams", "Streams ended for their age, so that replicas rebalance.", registry=registry
        )
        self.slow = Counter("gossamer_xds_slow_streams", "Streams cut off: they did not read.", registry=registry)
        self._pushes = {url: self.pushes.labels(name.lower()) for url, name in SHORT_NAMES.items()}
        self.send_time = Durations(
            "pilot_xds_send_time", "Seconds to hand one response to the transport.", registry
        )  # fmt: skip
        self.queue_time = Durations("pilot_proxy_queue_time", "Seconds a view waited for its stream.", registry)
        self.convergence_time = Durations(
            "pilot_proxy_convergence_time",
            "Seconds from a published change to its last response on a stream.",
            registry,
        )

    def pushed(self, type_url: str) -> None:
        self._pushes[type_url].inc()

    def rejected(self, type_url: str) -> None:
        self.rejects.labels(SHORT_NAMES.get(type_url, "other").lower()).inc()
