"""Algorithms that pick one of several hosts: round robin, least request, random.

Owns:   the order of picks.
Not:    which hosts may be picked (agent.cluster.load_balancing).
Source: data-plane.md 1.3; Envoy's load_balancers documentation. With equal weights round robin takes turns and least
        request compares `choice_count` random hosts; with unequal weights both schedule by earliest deadline first.
        RANDOM ignores weights, as Envoy's does.
Invariants: a pick costs O(1), O(log n) with unequal weights; in any sum(weights) / gcd(weights) picks in a row,
        weighted round robin gives each host its weight / gcd.
"""

import heapq
from collections.abc import Sequence
from typing import Any

from agent.cluster.hosts import Host
from agent.model.cluster import LbPolicy
from mesh.resilience.backoff import Rng


class Picker:
    """Picks a host; None when there is none.

    `request`: who it is for, where that counts (agent.cluster.hashing). `attempt`: how many picks for this try were
    refused before.
    """

    __slots__ = ()

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        raise NotImplementedError


class NoHost(Picker):
    __slots__ = ()

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        return None


class OneHost(Picker):
    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        return self._host


class RoundRobin(Picker):
    """Turns, from a random start so that several workers do not go in step."""

    __slots__ = ("_hosts", "_next")

    def __init__(self, hosts: Sequence[Host], rng: Rng) -> None:
        self._hosts = list(hosts)
        self._next = int(rng() * len(self._hosts))

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        at = self._next
        hosts = self._hosts
        self._next = at + 1 if at + 1 < len(hosts) else 0
        return hosts[at]


class Schedule:
    """Earliest deadline first: place `i` comes up in proportion to `weights[i]` > 0.

    The n-th turn of a place is due at n / weight, computed from n so that no rounding adds up.
    """

    __slots__ = ("_heap", "_turns", "_weights")

    def __init__(self, weights: Sequence[float], rng: Rng) -> None:
        self._weights = list(weights)
        self._turns = [1] * len(self._weights)
        self._heap = [(1 / weight, place) for place, weight in enumerate(self._weights)]
        heapq.heapify(self._heap)
        for _ in range(int(rng() * len(self._weights))):
            self.next()

    def next(self) -> int:
        """The place whose turn it is."""
        place = self._heap[0][1]
        turn = self._turns[place] = self._turns[place] + 1
        heapq.heapreplace(self._heap, (turn / self._weights[place], place))
        return place


class WeightedRoundRobin(Picker):
    __slots__ = ("_hosts", "_schedule")

    def __init__(self, hosts: Sequence[Host], rng: Rng) -> None:
        self._hosts = list(hosts)
        self._schedule = Schedule([float(host.weight) for host in self._hosts], rng)

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        return self._hosts[self._schedule.next()]


class LeastRequest(Picker):
    """Of `choices` random hosts the one with the fewest requests on their way; the first drawn among equals."""

    __slots__ = ("_choices", "_hosts", "_rng")

    def __init__(self, hosts: Sequence[Host], choices: int, rng: Rng) -> None:
        self._hosts = list(hosts)
        self._choices = max(choices, 2)
        self._rng = rng

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        hosts = self._hosts
        size = len(hosts)
        drawn = int(self._rng() * (size * size))  # two places in one number
        best = hosts[drawn // size]
        other = hosts[drawn % size]
        if other.active < best.active:
            best = other
        return best if self._choices == 2 else self._best_of_more(best)

    def _best_of_more(self, best: Host) -> Host:
        hosts = self._hosts
        for _ in range(self._choices - 2):
            other = hosts[int(self._rng() * len(hosts))]
            if other.active < best.active:
                best = other
        return best


class WeightedLeastRequest(Picker):
    """A schedule whose weights sink with the load: a host's next turn is (active + 1) / weight after this one."""

    __slots__ = ("_heap",)

    def __init__(self, hosts: Sequence[Host], rng: Rng) -> None:
        self._heap = [(1 / host.weight, place, host) for place, host in enumerate(hosts)]
        heapq.heapify(self._heap)
        for _ in range(int(rng() * len(self._heap))):
            self.pick()

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        due, place, host = self._heap[0]
        heapq.heapreplace(self._heap, (due + (host.active + 1) / host.weight, place, host))
        return host


class RandomHost(Picker):
    __slots__ = ("_hosts", "_rng")

    def __init__(self, hosts: Sequence[Host], rng: Rng) -> None:
        self._hosts = list(hosts)
        self._rng = rng

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        return self._hosts[int(self._rng() * len(self._hosts))]


def picker(hosts: Sequence[Host], policy: LbPolicy, choice_count: int, rng: Rng) -> Picker:
    """The algorithm of `policy` over these hosts."""
    if not hosts:
        return NoHost()
    if len(hosts) == 1:
        return OneHost(hosts[0])
    if policy == LbPolicy.RANDOM:
        return RandomHost(hosts, rng)
    equal = all(host.weight == hosts[0].weight for host in hosts)
    if policy == LbPolicy.LEAST_REQUEST:
        return LeastRequest(hosts, choice_count, rng) if equal else WeightedLeastRequest(hosts, rng)
    return RoundRobin(hosts, rng) if equal else WeightedRoundRobin(hosts, rng)
