"""Histogram buckets: Envoy's default for Prometheus, in milliseconds, plus the overflow bucket."""

from typing import Final

# Source: Envoy source/common/stats/histogram_impl.cc, default_buckets.
BUCKETS_MS: Final[tuple[float, ...]] = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
)  # fmt: skip
