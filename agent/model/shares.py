"""Shares of requests in millionths, and whether one request is among them. Source: envoy/type/v3/percent.proto."""

from collections.abc import Callable

MILLION = 1_000_000


def falls(per_million: int, rng: Callable[[], float]) -> bool:
    """Whether this request is one of so many in a MILLION. `rng`: uniform in [0, 1), not asked for none and for all."""
    return per_million >= MILLION or (per_million > 0 and int(rng() * MILLION) < per_million)
