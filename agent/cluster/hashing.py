"""Consistent hashing: one key goes to one host for as long as the host is there.

Owns:   from the hash of a request to a host: priority, table, bounded loads, what is done while a table is out of date.
Not:    the hash (agent.filters.hash_policy), tables and who stands in them (agent.cluster.hash_tables, hash_levels).
Source: data-plane.md 1.3; Envoy's thread_aware_lb_impl.cc; arXiv 1608.01350 and 1908.08762 for bounded loads.
Invariants: a host that may not be picked is not, also while the table still has it; without a hash the choice is
        random; the hash also chooses the priority.

A table comes a moment after the hosts that it is for. Until then the one before is used, and entries that lead to a
host that is gone are passed over; without any table the hash counts off the hosts.
"""

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any

from agent.cluster.hash_levels import HashLevel
from agent.cluster.hash_tables import Table
from agent.cluster.hosts import Host
from agent.cluster.mersenne import Mersenne
from agent.cluster.pickers import NoHost, Picker
from agent.stats.names import LB_HEALTHY_PANIC, RQ_ACTIVE
from mesh.resilience.backoff import Rng

HashOf = Callable[[Any], int | None]  # the hash of a request, 0 to 2**64 - 1; None: it has nothing to hash
_PASSED_OVER = 32
_HALF = 1 << 32


class HashPicker(Picker):
    """`counts`: the cluster's statistics."""

    __slots__ = ("_counts", "_hash_of", "_rng", "_shares")

    def __init__(
        self, shares: Sequence[tuple[int, "LevelHosts"]], hash_of: HashOf, rng: Rng, counts: list[int]
    ) -> None:
        """`shares`: percents, in the order in which the hash counts them off."""
        self._shares = list(shares)
        self._hash_of = hash_of
        self._rng = rng
        self._counts = counts

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        key = self._hash_of(request) if request is not None else None
        if key is None:
            key = int(self._rng() * _HALF) << 32 | int(self._rng() * _HALF)
        left = key % 100
        for percent, level in self._shares:
            left -= percent
            if left < 0:
                if level.panic and not attempt:
                    self._counts[LB_HEALTHY_PANIC] += 1
                return level.pick(key, attempt)
        return None


class LevelHosts:
    """The hosts of one level and the table by which they are chosen."""

    __slots__ = ("_hosts", "_places", "_table", "panic")

    def __init__(self, level: HashLevel, table: Table | None) -> None:
        self.panic = level.panic
        self._hosts = level.members
        self._table = table
        own = {host.key: host for host in level.members}
        self._places = [own.get(key) for key in table.hosts] if table is not None else []

    def pick(self, key: int, attempt: int) -> Host | None:
        """The host for a hash; `attempt` counts the choices that were refused before."""
        table = self._table
        if table is not None:
            for again in range(attempt, attempt + _PASSED_OVER):
                host = self._places[table.number(key, again)]
                if host is not None:
                    return host
        hosts = self._hosts
        return hosts[(key + attempt) % len(hosts)] if hosts else None


class BoundedHosts(LevelHosts):
    """The same, but a host that has more than its share times `factor_percent` / 100 under way is passed over."""

    __slots__ = ("_counts", "_factor_percent", "_weights")

    def __init__(self, level: HashLevel, table: Table | None, factor_percent: int, counts: list[int]) -> None:
        super().__init__(level, table)
        self._factor_percent = factor_percent
        self._weights = dict(zip(level.members, level.weights, strict=True))
        self._counts = counts

    def pick(self, key: int, attempt: int) -> Host | None:
        host = super().pick(key, attempt)
        if host is None:
            return None
        load = self._load(host)
        return host if load <= 1 else self._less_loaded(key, host, load)

    def _load(self, host: Host) -> float:
        """What a host has under way, as a part of what it may have."""
        slots = ((self._counts[RQ_ACTIVE] + 1) * self._factor_percent + 99) // 100
        return host.active / max(ceil(slots * self._weights[host]), 1)

    def _less_loaded(self, key: int, best: Host, least: float) -> Host:
        """Hosts in an order that the hash decides: the first that has room, else the least loaded."""
        order = list(self._hosts)
        random = Mersenne(key)
        first = best
        for place in range(len(order)):
            other = place + random.below(len(order) - place)
            order[place], order[other] = order[other], order[place]
            host = order[place]
            if host is first:
                continue
            load = self._load(host)
            if load <= 1:
                return host
            if load < least:
                best, least = host, load
        return best


def hash_picker(
    levels: Sequence[HashLevel],
    tables: Iterable[Table],
    *,
    balance_factor_percent: int,
    hash_of: HashOf,
    rng: Rng,
    counts: list[int],
) -> Picker:
    """The picker of a cluster that hashes. `balance_factor_percent` 0 = loads are not bounded."""
    if not levels:
        return NoHost()
    by_priority = {table.priority: table for table in tables}
    healthy: list[tuple[int, LevelHosts]] = []
    degraded: list[tuple[int, LevelHosts]] = []
    for level in levels:
        table = by_priority.get(level.priority)
        hosts = (
            BoundedHosts(level, table, balance_factor_percent, counts)
            if balance_factor_percent
            else LevelHosts(level, table)
        )
        healthy.append((level.healthy, hosts))
        degraded.append((level.degraded, hosts))
    return HashPicker(healthy + degraded, hash_of, rng, counts)
