"""What the proxies report about load: requests per cluster and locality, from the last minute. Pure, bounded.

Owns:   the sum over reporters of their latest LRS reports; what each has reported since its stream began.
Not:    the LRS stream (discovery.lrs), histograms or history (Prometheus scrapes the agents).
Source: envoy/config/endpoint/v3/load_report.proto.
Invariants: at most `max_rows` rows; a row that nobody reported for 60 s is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.vocabulary import Locality

KEEP_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One proxy's report on one (cluster, locality) over `interval_s` seconds."""

    cluster: str
    locality: Locality
    interval_s: float
    issued: int
    succeeded: int
    failed: int
    in_progress: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The fleet's load on one (cluster, locality). Rates are per second; `success_ratio` is 0..1, 1 without traffic."""

    cluster: str
    locality: Locality
    reporters: int
    requests_per_s: float
    errors_per_s: float
    success_ratio: float
    in_progress: int


class TrafficTable:
    """The latest row of each (node, cluster, locality)."""

    def __init__(self, *, max_rows: int = 100_000) -> None:
        self._max_rows = max_rows
        self._rows: dict[tuple[str, str, Locality], tuple[float, LoadRow]] = {}
        self._totals: dict[tuple[str, str], tuple[int, int]] = {}
        self.refused = 0  # rows not taken because the table was full

    def record(self, node: str, row: LoadRow, now: float) -> None:
        """Take one report. `now`: monotonic seconds."""
        key = (node, row.cluster, row.locality)
        if key not in self._rows and len(self._rows) >= self._max_rows:
            self._expire(now)
            if len(self._rows) >= self._max_rows:
                self.refused += 1
                return
        self._rows[key] = (now, row)
        self._add(node, row)

    def forget(self, node: str) -> None:
        """The node's stream ended."""
        for key in [key for key in self._rows if key[0] == node]:
            del self._rows[key]
        for pair in [pair for pair in self._totals if pair[0] == node]:
            del self._totals[pair]

    def totals(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """(node, cluster) -> requests that ended since its stream began, and errors among them. They grow in place."""
        return self._totals

    def _add(self, node: str, row: LoadRow) -> None:
        requests, errors = self._totals.get((node, row.cluster), (0, 0))
        if (node, row.cluster) in self._totals or len(self._totals) < self._max_rows:
            self._totals[node, row.cluster] = (requests + row.succeeded + row.failed, errors + row.failed)

    def snapshot(self, now: float) -> tuple[Traffic, ...]:
        """The fleet's load, sorted by cluster and locality."""
        self._expire(now)
        groups: dict[tuple[str, Locality], list[LoadRow]] = {}
        for (_, cluster, locality), (_, row) in self._rows.items():
            groups.setdefault((cluster, locality), []).append(row)
        return tuple(_traffic(cluster, locality, rows) for (cluster, locality), rows in sorted(groups.items()))

    def _expire(self, now: float) -> None:
        for key in [key for key, (at, _) in self._rows.items() if now - at > KEEP_S]:
            del self._rows[key]


def _traffic(cluster: str, locality: Locality, rows: list[LoadRow]) -> Traffic:
    ended = sum(row.succeeded + row.failed for row in rows)
    return Traffic(
        cluster=cluster,
        locality=locality,
        reporters=len(rows),
        requests_per_s=sum(row.issued / row.interval_s for row in rows if row.interval_s > 0),
        errors_per_s=sum(row.failed / row.interval_s for row in rows if row.interval_s > 0),
        success_ratio=sum(row.succeeded for row in rows) / ended if ended else 1.0,
        in_progress=sum(row.in_progress for row in rows),
    )
