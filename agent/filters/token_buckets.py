"""Token buckets shared by workers without a lock.

Owns:   taking from a bucket, the table in which buckets are found by tag.
Not:    the memory (agent.ipc.table_memory), which request takes from which bucket (local_rate_limit).
Source: design section 1: one single-writer cell per worker, summed at the check.

A bucket is counted in nanoseconds of its filling: a token costs the time that one takes to come. Since the clock began,
`now` has flowed in; what was taken is the sum of all workers' `spent`; what has flowed over is the highest value that
`now - spent` ever had just before something was taken, and of the values that workers have seen the highest counts:

    level = full + (now - sum of spent) - max(highest wasted, now - sum of spent)         0 <= level <= full

Invariants: an entry has one writer, the worker of its slot; others only read. With one worker the bucket is exact. Of N
        workers that look at the same moment, each may take the last token: N - 1 requests more pass than the bucket
        has. That is no sum over time, since what was taken stays counted. A bucket whose entry makes room for
        another's is full again.
"""

from typing import Final

from agent.model.token_cells import FIELDS, SEEN, SETS, SPENT, TABLE, TAG, WASTED, WAYS

_LEAST: Final = -(2**63)
_HIGHEST_NS: Final = 2**61  # of what a bucket holds: 73 years


class SharedBucket:
    """A bucket as it is configured: `max_tokens`, and `tokens_per_fill` in `fill_interval_s`."""

    __slots__ = ("cost_ns", "full_ns", "max_tokens", "rate", "reset_s")

    def __init__(self, max_tokens: int, tokens_per_fill: int, fill_interval_s: float) -> None:
        self.max_tokens = max_tokens
        self.cost_ns: int = max(-(-round(fill_interval_s * 1e9) // tokens_per_fill), 1)
        self.full_ns: int = min(max_tokens * self.cost_ns, _HIGHEST_NS)
        self.rate: float = tokens_per_fill / fill_interval_s
        self.reset_s: int = -(-self.cost_ns // 1_000_000_000)  # as Envoy tells it: until an empty one has one token


class TokenCells:
    """The tables of all workers, as the worker of `slot` sees them."""

    __slots__ = ("_cells", "_own", "_tables")

    def __init__(self, cells: memoryview, slots: int, slot: int) -> None:
        self._cells = cells
        self._own = slot * TABLE
        self._tables = tuple(other * TABLE for other in range(slots))

    def take(self, tag: int, bucket: SharedBucket, now_ns: int) -> int:
        """Take a token. What is left, in ns of filling; when there is none, how many ns are missing, below 0."""
        cells, cost_ns = self._cells, bucket.cost_ns
        at = tag % SETS * WAYS * FIELDS
        spent, wasted, own = 0, _LEAST, -1
        for table in self._tables:
            place = self._find(table + at, tag)
            if place >= 0:
                spent += cells[place + SPENT]
                wasted = max(wasted, cells[place + WASTED])
                if table == self._own:
                    own = place
        idle_ns = now_ns - spent
        wasted = max(wasted, idle_ns)
        level_ns = bucket.full_ns + idle_ns - wasted
        if level_ns >= cost_ns:
            if own < 0:
                own = self._make(self._own + at, tag)
            cells[own + WASTED] = wasted
            cells[own + SPENT] = cells[own + SPENT] + cost_ns
        if own >= 0:
            cells[own + SEEN] = now_ns
        return level_ns - cost_ns

    def _find(self, at: int, tag: int) -> int:
        cells = self._cells
        for place in range(at, at + WAYS * FIELDS, FIELDS):
            if cells[place] == tag:
                return place
        return -1

    def _make(self, at: int, tag: int) -> int:
        """An entry in the set at `at`: a free one, or that which was not asked for for the longest time."""
        cells = self._cells
        chosen = at
        for place in range(at, at + WAYS * FIELDS, FIELDS):
            if not cells[place + TAG]:
                chosen = place
                break
            if cells[place + SEEN] < cells[chosen + SEEN]:
                chosen = place
        cells[chosen + TAG] = 0  # nobody reads it while it changes hands
        cells[chosen + SPENT] = 0
        cells[chosen + WASTED] = 0
        cells[chosen + TAG] = tag
        return chosen
