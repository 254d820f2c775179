"""Counters of the xDS server, named as pilot's where pilot has them (control-plane.md 3)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mesh.xds.type_url import SHORT_NAMES

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


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
        self.send_time = Histogram(
            "pilot_xds_send_time", "Seconds to hand one response to the transport.", buckets=_SECONDS, registry=registry
        )
        self.queue_time = Histogram(
            "pilot_proxy_queue_time", "Seconds a view waited for its stream.", buckets=_SECONDS, registry=registry
        )
        self.convergence_time = Histogram(
            "pilot_proxy_convergence_time",
            "Seconds from a published change to its last response on a stream.",
            buckets=_SECONDS,
            registry=registry,
        )

    def pushed(self, type_url: str) -> None:
        self.pushes.labels(SHORT_NAMES[type_url].lower()).inc()

    def rejected(self, type_url: str) -> None:
        self.rejects.labels(SHORT_NAMES.get(type_url, "other").lower()).inc()
