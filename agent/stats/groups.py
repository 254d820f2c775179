"""Counts of one thing (a cluster, a connection manager, a listener) as the data path keeps them.

Owns:   plain lists that are counted up in place (`group.counts[RQ_TOTAL] += 1` is the whole cost), and what has been
        added to them since the last report.
Not:    the names of the groups (agent.stats.names), summing over workers and rendering (agent.admin).
Invariant: `report` gives every increase exactly once.
"""

from typing import Final

from agent.stats.histograms import BUCKETS_MS

_BUCKETS: Final = len(BUCKETS_MS) + 1


class Histogram:
    """Counts per bucket of BUCKETS_MS, and the sum in milliseconds."""

    __slots__ = ("_sent", "_sent_sum", "buckets", "name", "sum_ms")

    def __init__(self, name: str) -> None:
        self.name = name
        self.buckets = [0] * _BUCKETS
        self.sum_ms = 0.0
        self._sent = [0] * _BUCKETS
        self._sent_sum = 0.0

    def add(self, value_ms: float) -> None:
        place = 0
        for limit_ms in BUCKETS_MS:  # most values are in the first few
            if value_ms <= limit_ms:
                break
            place += 1
        self.buckets[place] += 1
        self.sum_ms += value_ms

    def take(self) -> tuple[tuple[int, ...], float] | None:
        """(increase per bucket, increase of the sum) since the last call, None when nothing was added."""
        if self.buckets == self._sent:
            return None
        increase = tuple(now - before for now, before in zip(self.buckets, self._sent, strict=True))
        total = self.sum_ms - self._sent_sum
        self._sent = list(self.buckets)
        self._sent_sum = self.sum_ms
        return increase, total


class Report:
    """What `StatsDelta` carries, being filled."""

    __slots__ = ("counters", "gauges", "histograms", "sums")

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.gauges: dict[str, int] = {}
        self.histograms: dict[str, tuple[int, ...]] = {}
        self.sums: dict[str, float] = {}


class Group:
    """The counts of one subject. `counts` has one place per name of the layout, `codes` counts response statuses."""

    __slots__ = ("_layout", "_names", "_sent", "_sent_codes", "codes", "codes_prefix", "counts", "histograms", "prefix")

    def __init__(self, layout: "Layout", prefix: str) -> None:
        self.prefix = prefix
        self.counts = [0] * len(layout.names)
        self.codes: dict[int, int] = {}
        self.codes_prefix = f"{prefix}{layout.codes}"
        self.histograms = [Histogram(f"{prefix}{name}") for name in layout.histograms]
        self._layout = layout
        self._names = tuple(f"{prefix}{name}" for name in layout.names)
        self._sent = [0] * len(layout.names)
        self._sent_codes: dict[int, int] = {}

    @property
    def in_use(self) -> bool:
        """Some gauge is not 0."""
        return any(self.counts[place] for place in self._layout.gauges)

    def report(self, into: Report) -> None:
        """Add what has changed since the last report."""
        if self.counts != self._sent:
            self._report_counts(into)
        if self._layout.codes and self.codes != self._sent_codes:
            self._report_codes(into)
        for histogram in self.histograms:
            taken = histogram.take()
            if taken is not None:
                into.histograms[histogram.name], into.sums[histogram.name] = taken

    def _report_counts(self, into: Report) -> None:
        for place, now in enumerate(self.counts):
            before = self._sent[place]
            if now == before:
                continue
            name = self._names[place]
            if place in self._layout.gauges:
                into.gauges[name] = now
            else:
                into.counters[name] = into.counters.get(name, 0) + now - before
        self._sent = list(self.counts)

    def _report_codes(self, into: Report) -> None:
        for code, now in self.codes.items():
            increase = now - self._sent_codes.get(code, 0)
            if not increase:
                continue
            if self._layout.single_codes:
                into.counters[f"{self.codes_prefix}{code}"] = increase
            family = f"{self.codes_prefix}{code // 100}xx"
            into.counters[family] = into.counters.get(family, 0) + increase
            if self._layout.completed:
                done = f"{self.codes_prefix}completed"
                into.counters[done] = into.counters.get(done, 0) + increase
        self._sent_codes = dict(self.codes)


class Layout:
    """The names of a kind of group, in the order of its index constants."""

    __slots__ = ("codes", "completed", "gauges", "histograms", "names", "single_codes")

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        gauges: frozenset[int] = frozenset(),
        histograms: tuple[str, ...] = (),
        codes: str = "",
        single_codes: bool = False,
        completed: bool = False,
    ) -> None:
        self.names = names
        self.gauges = gauges
        self.histograms = histograms
        self.codes = codes
        self.single_codes = single_codes
        self.completed = completed
