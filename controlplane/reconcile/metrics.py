"""Counters of the reconciler, named as pilot's where pilot has them (control-plane.md 3)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class ReconcileMetrics:
    """One per process; `registry` is what /metrics renders."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.debounce_time = Histogram(
            "pilot_debounce_time",
            "Seconds from the first change to its publication.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.push_time = Histogram(
            "pilot_xds_push_time",
            "Seconds to compile a change and hand it to the streams.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.publications = Counter("gossamer_publications", "Changes published to the streams.", registry=registry)
        self.failures = Counter("gossamer_publication_failures", "Publications that failed.", registry=registry)
        self.revision = Gauge(
            "gossamer_published_revision", "The store's revision that is published.", registry=registry
        )
        self.unreadable = Gauge("gossamer_unreadable_objects", "Stored values that cannot be read.", registry=registry)
