"""Hosts for retries that leave out the levels of priority that were tried: retry_priority previous_priorities.

Owns:   the pickers of levels that a first try might never use.
Not:    the arithmetic (agent.cluster.priorities), hosts that were tried (agent.upstream.clusters).
Source: data-plane.md 1.5; Envoy's previous_priorities extension. A level in panic is picked from as a whole, also here.
Differs: what was left out after earlier tries is worked out anew from the levels as they are now. Clusters that choose
        by hash are not for it: a retry goes where the table says.
"""

from collections.abc import Sequence

from agent.cluster.hash_levels import by_priority, level_size
from agent.cluster.hosts import Availability, Host
from agent.cluster.load_balancing import Balancing, SharedPicker, level_picker, panic_picker
from agent.cluster.pickers import Picker
from agent.cluster.priorities import level_loads, retry_loads


class RetryPriorities:
    """Of the hosts of a cluster as they are now; make it anew when one of them changes."""

    __slots__ = ("_how", "_levels", "_panics", "_pickers", "_sizes")

    def __init__(self, hosts: Sequence[Host], how: Balancing) -> None:
        self._how = how
        self._levels = by_priority(hosts)
        self._sizes = [level_size(level) for level in self._levels]
        loads = level_loads(
            self._sizes,
            overprovisioning_factor=how.overprovisioning_factor,
            panic_threshold_percent=how.panic_threshold_percent,
        )
        self._panics = [load.panic for load in loads]
        self._pickers: dict[tuple[int, bool], Picker] = {}

    def picker(self, tried: Sequence[Host], every: int) -> Picker | None:
        """For a retry after tries of these hosts; None = as for a first try."""
        places = [host.endpoint.priority for host in tried if host.endpoint.priority < len(self._levels)]
        factor = self._how.overprovisioning_factor
        loads = retry_loads(self._sizes, places, every=every, overprovisioning_factor=factor)
        if loads is None:
            return None
        shares: list[tuple[int, Picker]] = []
        for level, (healthy, degraded) in enumerate(loads):
            if healthy:
                shares.append((healthy, self._of(level, False)))
            if degraded:
                shares.append((degraded, self._of(level, True)))
        return SharedPicker(shares, self._how.rng)

    def _of(self, level: int, degraded: bool) -> Picker:
        found = self._pickers.get((level, degraded))
        if found is None:
            hosts = self._levels[level]
            if self._panics[level]:
                found = panic_picker(hosts, self._how)
            else:
                wanted = Availability.DEGRADED if degraded else Availability.HEALTHY
                found = level_picker(hosts, wanted, self._how)
            self._pickers[level, degraded] = found
        return found
