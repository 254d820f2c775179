"""Thresholds: the concurrency caps of a cluster, per priority.

Source: envoy/config/cluster/v3/circuit_breaker.proto; data-plane.md 1.4. The first entry of a priority counts.
"""

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.core.v3.base_pb2 import RoutingPriority

from agent.config.fields import item, only, value_or
from agent.model.cluster import Thresholds

_KNOWN = frozenset(
    {
        "priority", "max_connections", "max_pending_requests", "max_requests", "max_retries", "retry_budget",
        "track_remaining",
    }
)  # fmt: skip
_DEFAULTS = Thresholds()
_BUDGET_PERCENT = 20.0


def thresholds(message: CircuitBreakers, path: str) -> tuple[Thresholds, Thresholds]:
    """(of the default priority, of the high one)."""
    only(message, path, frozenset({"thresholds"}))
    found: dict[int, Thresholds] = {}
    for index, one in enumerate(message.thresholds):
        found.setdefault(one.priority, _thresholds(one, item(path, "thresholds", index)))
    return found.get(RoutingPriority.DEFAULT, _DEFAULTS), found.get(RoutingPriority.HIGH, _DEFAULTS)


def _thresholds(message: CircuitBreakers.Thresholds, path: str) -> Thresholds:
    only(message, path, _KNOWN)
    budget = message.retry_budget
    limited = message.HasField("retry_budget")
    return Thresholds(
        max_connections=value_or(message, "max_connections", _DEFAULTS.max_connections),
        max_pending_requests=value_or(message, "max_pending_requests", _DEFAULTS.max_pending_requests),
        max_requests=value_or(message, "max_requests", _DEFAULTS.max_requests),
        max_retries=value_or(message, "max_retries", _DEFAULTS.max_retries),
        retry_budget_percent=value_or(budget, "budget_percent", _BUDGET_PERCENT) if limited else None,
        retry_budget_min_concurrency=value_or(budget, "min_retry_concurrency", _DEFAULTS.retry_budget_min_concurrency),
    )
