"""Concurrency limits of a cluster for one routing priority: who may connect, wait, send or retry.

Owns:   the comparison of what all workers have under way with the limits.
Not:    the memory (agent.ipc.shared), what happens to who is refused.
Source: data-plane.md 1.4; envoy/config/cluster/v3/circuit_breaker.proto.
Differs: several workers may each admit one more at the same instant: at most workers - 1 above a limit; exact with one.
Invariants: this worker writes only the cells of its own row; each `admit` that says yes, and each `force`, is followed
        by exactly one `release` of the same field.
"""

from agent.model.cells import PENDING, REQUESTS, RETRIES
from agent.model.cluster import Thresholds


class Limits:
    """`own` is the first cell of this worker and priority; `rows` are those of all workers, this one's included."""

    __slots__ = ("_budget_min", "_budget_percent", "_cells", "_maxima", "_own", "_rows")

    def __init__(self, thresholds: Thresholds, cells: memoryview, own: int, rows: tuple[int, ...]) -> None:
        self._cells = cells
        self._own = own
        self._rows = rows
        self._maxima = [0, 0, 0, 0]
        self._budget_percent: float | None = None
        self._budget_min = 0
        self.configure(thresholds)

    def configure(self, thresholds: Thresholds) -> None:
        """Compare with these from now on; nothing that is under way is ended."""
        self._maxima = [
            thresholds.max_connections,
            thresholds.max_pending_requests,
            thresholds.max_requests,
            thresholds.max_retries,
        ]
        self._budget_percent = thresholds.retry_budget_percent
        self._budget_min = thresholds.retry_budget_min_concurrency

    def move(self, cells: memoryview, own: int, rows: tuple[int, ...]) -> None:
        """Count elsewhere from now on; what this worker has under way moves along."""
        for field in range(len(self._maxima)):
            under_way = self._cells[self._own + field]
            self._cells[self._own + field] = 0
            cells[own + field] += under_way
        self._cells = cells
        self._own = own
        self._rows = rows

    def admit(self, field: int) -> bool:
        """Count one more of `field` if the limit has room for it."""
        cells = self._cells
        rows = self._rows
        under_way = cells[self._own + field] if len(rows) == 1 else sum([cells[row + field] for row in rows])
        if under_way >= self._maxima[field]:
            return False
        cells[self._own + field] += 1
        return True

    def admit_retry(self) -> bool:
        """Count one more retry if max_retries, or the retry budget instead of it, has room."""
        percent = self._budget_percent
        if percent is None:
            return self.admit(RETRIES)
        active = self.under_way(REQUESTS) + self.under_way(PENDING)
        if self.under_way(RETRIES) >= max(int(percent / 100 * active), self._budget_min):
            return False
        self._cells[self._own + RETRIES] += 1
        return True

    def force(self, field: int) -> None:
        """Count one more, limit or not."""
        self._cells[self._own + field] += 1

    def release(self, field: int) -> None:
        """One less is under way."""
        self._cells[self._own + field] -= 1

    def under_way(self, field: int) -> int:
        """How many all workers have."""
        cells = self._cells
        return sum([cells[row + field] for row in self._rows])
