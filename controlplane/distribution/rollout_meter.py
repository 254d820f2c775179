"""Counts the requests of a rollout's two groups from what proxies report, since the meter was made. Pure.

Owns:   the growth of each proxy's totals, summed for the staged proxies and for the others.
Not:    the totals (traffic), who is staged, what follows (model.rollout_steps).
Invariant: nothing that happened before the meter was made is counted: of each proxy the first report is passed over,
           since it covers time from before. Totals that go back (a new stream of the proxy) begin again.
"""

from collections.abc import Callable, Collection, Mapping

from controlplane.model.rollout_observation import NO_COUNTS, Counts

Totals = Mapping[tuple[str, str], tuple[int, int]]  # (node, cluster) -> requests that ended, errors among them


class RolloutMeter:
    """`totals`: as they are at the begin."""

    def __init__(self, totals: Totals) -> None:
        self._last = dict(totals)
        self._reported: set[str] = set()  # nodes whose first report has come
        self.own = NO_COUNTS
        self.others = NO_COUNTS

    def read(self, totals: Totals, clusters: Collection[str], is_staged: Callable[[str], bool]) -> None:
        """Count what has grown, of requests to `clusters`. At least once between two reports of a proxy."""
        changed = [(key, now) for key, now in totals.items() if now != self._last.get(key)]
        for (node, cluster), now in changed:
            if cluster in clusters and node in self._reported:
                grown = _grown(self._last.get((node, cluster), (0, 0)), now)
                if is_staged(node):
                    self.own += grown
                else:
                    self.others += grown
        self._reported.update(node for (node, _), _ in changed)
        self._last = dict(totals)


def _grown(before: tuple[int, int], now: tuple[int, int]) -> Counts:
    went_back = now[0] < before[0] or now[1] < before[1]
    return Counts(*now) if went_back else Counts(now[0] - before[0], now[1] - before[1])
