"""Our own metrics, of what neither Envoy nor Istio has: their names with labels, as the totals know them.

Owns:   metric and label names, how a series is named.
Not:    counting, summing and rendering (agent.admin.totals).
"""

from collections.abc import Mapping, Sequence

from agent.stats.groups import Group, Layout

PREFIX = "gossamer_"
_SEPARATOR = "\x1f"  # between a metric's name and its label values
CIRCUIT_BREAKER_STATE = "gossamer_circuit_breaker_state"
CIRCUIT_BREAKER_OPENED = "gossamer_circuit_breaker_opened_total"
CIRCUIT_BREAKER_REQUESTS = "gossamer_circuit_breaker_requests_total"
BULKHEAD_REQUESTS = "gossamer_bulkhead_requests"
LABELS: Mapping[str, tuple[str, ...]] = {
    CIRCUIT_BREAKER_STATE: ("circuit_breaker", "caller"),
    CIRCUIT_BREAKER_OPENED: ("circuit_breaker", "caller"),
    BULKHEAD_REQUESTS: ("bulkhead", "caller"),
    CIRCUIT_BREAKER_REQUESTS: ("circuit_breaker", "caller", "result"),
}

_ONE_GAUGE = Layout(("",), gauges=frozenset({0}))


def series(metric: str, values: Sequence[str]) -> str:
    """The name of one series: its label values in the order of LABELS."""
    return _SEPARATOR.join((metric, *values))


def bulkhead_group(name: str, caller: str) -> Group:
    """How many requests of a caller ("" = of all) are under way at a bulkhead."""
    return Group(_ONE_GAUGE, series(BULKHEAD_REQUESTS, (name, caller)))


def labels_of(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """(metric, labels with their values) of a series' name."""
    metric, *values = name.split(_SEPARATOR)
    return metric, tuple(zip(LABELS.get(metric, ()), values, strict=False))
