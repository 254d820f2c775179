"""Istio's standard metrics as one worker counts them: a series per set of label values.

Owns:   metric and label names, how a series is named towards the supervisor, the bound on their number.
Not:    which values a request has (agent.proxy.standard_metrics), summing and rendering (agent.admin.totals).
Source: Istio's standard metrics (telemetry v2). Buckets are Envoy's for all of them, as in Istio.
Invariants: a request adds to one series, by three list places; beyond MAX_SERIES new label values go to the series
        whose values are all OTHER but for the reporter; `report` gives every increase exactly once.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import TypeVar

from agent.stats.groups import Report
from agent.stats.histograms import BUCKETS_MS

MAX_SERIES = 1000  # of HTTP, and of TCP
PREFIX = "istio_"
SEPARATOR = "\x1f"  # between a metric's name and its label values: no value holds it
UNKNOWN = "unknown"
OTHER = "other"
REQUESTS = "istio_requests_total"
DURATION = "istio_request_duration_milliseconds"
REQUEST_BYTES = "istio_request_bytes"
RESPONSE_BYTES = "istio_response_bytes"
TCP = (
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
)
OPENED, CLOSED, SENT, RECEIVED = range(len(TCP))
_PEER = (
    "workload", "canonical_service", "canonical_revision", "workload_namespace", "principal", "app", "version",
    "cluster",
)  # fmt: skip
TCP_LABELS = (
    "reporter",
    *(f"source_{name}" for name in _PEER),
    *(f"destination_{name}" for name in _PEER),
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)
HTTP_LABELS = (*TCP_LABELS, "response_code", "grpc_response_status")
_BUCKETS = len(BUCKETS_MS) + 1
Values = str  # of all labels, joined by SEPARATOR


def labels_of(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """(metric, labels with their values) of a series' name."""
    metric, *values = name.split(SEPARATOR)
    names = HTTP_LABELS if len(values) == len(HTTP_LABELS) else TCP_LABELS
    return metric, tuple(zip(names, values, strict=False))


class HttpSeries:
    """The requests of one set of label values."""

    __slots__ = ("_durations", "_request_sizes", "_response_sizes", "_sums", "_values")

    def __init__(self, values: Values) -> None:
        self._values = SEPARATOR + values
        self._clear()

    def _clear(self) -> None:
        self._durations = [0] * _BUCKETS
        self._request_sizes = [0] * _BUCKETS
        self._response_sizes = [0] * _BUCKETS
        self._sums = [0.0, 0.0, 0.0]

    def add(self, took_ms: float, request_bytes: int, response_bytes: int) -> None:
        """One request has ended."""
        self._durations[bisect_left(BUCKETS_MS, took_ms)] += 1
        self._request_sizes[bisect_left(BUCKETS_MS, request_bytes)] += 1
        self._response_sizes[bisect_left(BUCKETS_MS, response_bytes)] += 1
        sums = self._sums
        sums[0] += took_ms
        sums[1] += request_bytes
        sums[2] += response_bytes

    def report(self, into: Report) -> None:
        """Add what has come since the last call."""
        requests = sum(self._durations)
        if not requests:
            return
        into.counters[REQUESTS + self._values] = requests
        counts = (self._durations, self._request_sizes, self._response_sizes)
        for metric, buckets, total in zip((DURATION, REQUEST_BYTES, RESPONSE_BYTES), counts, self._sums, strict=True):
            into.histograms[metric + self._values] = tuple(buckets)
            into.sums[metric + self._values] = total
        self._clear()


class TcpSeries:
    """The connections of one set of label values. `counts`: OPENED, CLOSED, SENT, RECEIVED."""

    __slots__ = ("_values", "counts")

    def __init__(self, values: Values) -> None:
        self._values = SEPARATOR + values
        self.counts = [0] * len(TCP)

    def report(self, into: Report) -> None:
        """Add what has come since the last call."""
        for place, metric in enumerate(TCP):
            increase, self.counts[place] = self.counts[place], 0
            if increase:
                into.counters[metric + self._values] = increase


S = TypeVar("S", HttpSeries, TcpSeries)


class StandardMetrics:
    """All series of a worker."""

    __slots__ = ("_http", "_tcp")

    def __init__(self) -> None:
        self._http: dict[Values, HttpSeries] = {}
        self._tcp: dict[Values, TcpSeries] = {}

    def http(self, values: Values) -> HttpSeries:
        """The series of the values of HTTP_LABELS, or the one of what is too much."""
        series = self._http.get(values)
        return series if series is not None else _made(self._http, values, HttpSeries)

    def tcp(self, values: Values) -> TcpSeries:
        """The same of TCP_LABELS."""
        series = self._tcp.get(values)
        return series if series is not None else _made(self._tcp, values, TcpSeries)

    def report(self, into: Report) -> None:
        """Add what has changed since the last call."""
        for series in self._http.values():
            series.report(into)
        for connections in self._tcp.values():
            connections.report(into)


def _made(known: dict[Values, S], values: Values, make: Callable[[Values], S]) -> S:
    """A new series, as long as there is room; then the one of all others."""
    kept = values if len(known) < MAX_SERIES else _others(values)
    series = known.get(kept)
    if series is None:
        series = known[kept] = make(kept)
    return series


def _others(values: Values) -> Values:
    reporter, *rest = values.split(SEPARATOR)
    return SEPARATOR.join((reporter, *(OTHER for _ in rest)))
