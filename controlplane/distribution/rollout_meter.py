"""Counts the requests of a rollout's two groups from what proxies report, since the meter was made. Pure.

Owns:   the growth of each proxy's totals, summed for the staged proxies and for the others.
Not:    the totals (traffic), who is staged, what follows (model.rollout).
Invariant: what a proxy reported before it was first seen here, or before the meter was made, is not counted; totals that
           go back (a new stream) begin again.
"""

from collections.abc import Callable, Collection, Mapping

from controlplane.model.rollout_observation import NO_COUNTS, Counts

Totals = Mapping[tuple[str, str], tuple[int, int]]  # (node, cluster) -> requests that ended, errors among them


class RolloutMeter:
    """`totals`: as they are at the begin."""

    def __init__(self, totals: Totals) -> None:
        self._last = dict(totals)
        self.own = NO_COUNTS
        self.others = NO_COUNTS

    def read(self, totals: Totals, clusters: Collection[str], is_staged: Callable[[str], bool]) -> None:
        """Count what has grown, of requests to `clusters`."""
        for (node, cluster), now in totals.items():
            before = self._last.get((node, cluster), (0, 0))
            if now == before or cluster not in clusters:
                continue
            went_back = now[0] < before[0] or now[1] < before[1]
            grown = Counts(*now) if went_back else Counts(now[0] - before[0], now[1] - before[1])
            if is_staged(node):
                self.own += grown
            else:
                self.others += grown
        self._last = dict(totals)
