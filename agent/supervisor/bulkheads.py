"""Under what names bulkheads count in the shared memory: each of them, and each workload of this node at it.

Owns:   the names, for agent.supervisor.cells; what metrics say of them.
Not:    the memory, counting (workers).
Invariant: a name once given is kept, at most MAX_NAMES of them: a worker may still end requests of a bulkhead that is
        gone, and its block must be nobody else's. Beyond that, workers count for themselves.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from agent.ipc.messages import LISTENER, Config
from agent.model.bulkhead import CELLS, OTHERS, Bulkheads, cells_of
from agent.model.listener import Direction, Listener
from agent.stats.gossamer import BULKHEAD_REQUESTS, series
from agent.supervisor.route_filters import RouteFilters

MAX_NAMES = 8192


class BulkheadNames:
    """All that were ever needed."""

    def __init__(self) -> None:
        self._said = RouteFilters(Bulkheads)
        self._names: dict[str, None] = {}

    def of(self, tables: Mapping[str, Mapping[str, Config]]) -> tuple[str, ...]:
        """Those for what is served, and those of before."""
        policies = {policy.name for said in self._said.of(tables) for policy in said.bulkheads}
        if policies:
            callers = {OTHERS, *_callers(tables)}
            wanted = [cells_of(name, caller) for name in sorted(policies) for caller in ("", *sorted(callers))]
            for name in wanted:
                if len(self._names) < MAX_NAMES:
                    self._names[name] = None
        return tuple(self._names)


def shown(names: Iterable[str], total: Callable[[str], int]) -> Iterator[tuple[str, int]]:
    """A gauge for each of these names that is a bulkhead's: its series, and how many requests are under way."""
    for name in names:
        if name.startswith(CELLS):
            policy, _, caller = name.removeprefix(CELLS).partition("|")
            yield series(BULKHEAD_REQUESTS, (policy, caller)), total(name)


def _callers(tables: Mapping[str, Mapping[str, Config]]) -> set[str]:
    """In whose name outbound listeners call."""
    listeners = (value for value in tables[LISTENER].values() if isinstance(value, Listener))
    return {item.identity for item in listeners if item.direction is Direction.OUTBOUND and item.identity}
