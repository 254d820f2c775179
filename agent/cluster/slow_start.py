"""Slow start: a host that is new gets its share of requests little by little.

Owns:   the weight of a host while its window runs, the schedule with weights that grow.
Not:    when a window begins (`Host.fit_since`, which agent.upstream.clusters sets), schedules with fixed weights.
Source: data-plane.md 1.3; Envoy's slow_start documentation and EdfLoadBalancerBase: a window begins when a host is
        there and healthy for the first time, not when it comes back.
Invariant: when the last window is over, picks are those of the plain algorithm.

    weight * max((t / window) ** (1 / aggression), min_weight_ratio), t seconds since the host was first healthy
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from agent.cluster.hosts import Host
from agent.cluster.pickers import Picker
from agent.model.cluster import SlowStart
from mesh.resilience.backoff import Rng

Clock = Callable[[], float]
_LEAST_S = 0.001


def ratio(config: SlowStart, since: float, now: float) -> float:
    """The part of its weight that a host has which is healthy since then."""
    passed_s = now - since
    if passed_s >= config.window_s:
        return 1.0
    grown = max(passed_s, _LEAST_S) / config.window_s
    return float(max(grown ** (1 / config.aggression), config.min_weight_ratio))


def starting_until(hosts: Sequence[Host], config: SlowStart) -> float:
    """When the last of the windows is over."""
    return max((host.fit_since for host in hosts), default=0.0) + config.window_s


class StartingHosts(Picker):
    """Earliest deadline first with the weights of now. `by_load`: a host's turns come later, the busier it is."""

    __slots__ = ("_after", "_by_load", "_clock", "_config", "_heap", "_until")

    def __init__(
        self, hosts: Sequence[Host], config: SlowStart, after: Picker, *, by_load: bool, clock: Clock, rng: Rng
    ) -> None:
        """`after` picks when the windows are over."""
        self._config = config
        self._after = after
        self._by_load = by_load
        self._clock = clock
        self._until = starting_until(hosts, config)
        now = clock()
        self._heap = [(rng() * self._pause(host, now), place, host) for place, host in enumerate(hosts)]
        heapq.heapify(self._heap)

    def _pause(self, host: Host, now: float) -> float:
        """Between two turns of a host."""
        load = host.active + 1 if self._by_load else 1
        return load / (host.weight * ratio(self._config, host.fit_since, now))

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        now = self._clock()
        if now >= self._until:
            return self._after.pick(request, attempt)
        due, place, host = self._heap[0]
        heapq.heapreplace(self._heap, (due + self._pause(host, now), place, host))
        return host
