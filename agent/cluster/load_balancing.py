"""From the hosts of a cluster to the object that picks one of them.

Owns:   priority, then locality, then host: the structure that is built when hosts, health or ejections change.
Not:    the algorithms (agent.cluster.pickers, hashing, slow_start), the arithmetic of priorities
        (agent.cluster.priorities), retries.
Source: data-plane.md 1.2 and 1.3. Localities have weights where the cluster is `locality_weighted` and the assignment
        gives any; in panic they do not count.
Invariant: an unhealthy or ejected host is picked only from a level in panic, and each such pick is counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.cluster.hash_levels import by_priority, hash_levels, level_size
from agent.cluster.hash_tables import Table
from agent.cluster.hashing import HashOf, hash_picker
from agent.cluster.hosts import Availability, Host
from agent.cluster.pickers import NoHost, Picker, Schedule, picker
from agent.cluster.priorities import level_loads
from agent.cluster.slow_start import StartingHosts, starting_until
from agent.model.cluster import LbPolicy, SlowStart
from agent.stats.names import LB_HEALTHY_PANIC
from mesh.resilience.backoff import Rng
from mesh.vocabulary import Locality

HASHED = frozenset({LbPolicy.RING_HASH, LbPolicy.MAGLEV})


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancing:
    """How a cluster balances. `counts`: its statistics. `clock`: monotonic seconds, for slow start.

    `hash_of`, `tables` and `balance_factor_percent` are for policies that hash.
    """

    policy: LbPolicy
    choice_count: int
    panic_threshold_percent: float
    overprovisioning_factor: int
    rng: Rng
    counts: list[int]
    locality_weighted: bool = False
    slow_start: SlowStart | None = None
    clock: Callable[[], float] = lambda: 0.0
    hash_of: HashOf = lambda request: None
    tables: tuple[Table, ...] = ()
    balance_factor_percent: int = 0


class PanicPicker(Picker):
    """All hosts of a level, whatever their health."""

    __slots__ = ("_counts", "_picker")

    def __init__(self, inner: Picker, counts: list[int]) -> None:
        self._picker = inner
        self._counts = counts

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        self._counts[LB_HEALTHY_PANIC] += 1
        return self._picker.pick(request, attempt)


class SharedPicker(Picker):
    """Each of several pickers gets its percents; they add up to 100."""

    __slots__ = ("_rng", "_shares")

    def __init__(self, shares: Sequence[tuple[int, Picker]], rng: Rng) -> None:
        self._shares = list(shares)
        self._rng = rng

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        left = int(self._rng() * 100)
        for share, inner in self._shares:
            left -= share
            if left < 0:
                return inner.pick(request, attempt)
        return self._shares[-1][1].pick(request, attempt)


class LocalityPicker(Picker):
    """Each locality in proportion to its weight."""

    __slots__ = ("_pickers", "_schedule")

    def __init__(self, pickers: Sequence[Picker], weights: Sequence[float], rng: Rng) -> None:
        self._pickers = list(pickers)
        self._schedule = Schedule(weights, rng)

    def pick(self, request: Any = None, attempt: int = 0) -> Host | None:
        return self._pickers[self._schedule.next()].pick(request, attempt)


def balance(hosts: Sequence[Host], how: Balancing) -> Picker:
    """The picker for these hosts as they are now. Build it anew when one of them changes."""
    if how.policy in HASHED:
        return _hashed(hosts, how)
    levels = by_priority(hosts)
    loads = level_loads(
        [level_size(level) for level in levels],
        overprovisioning_factor=how.overprovisioning_factor,
        panic_threshold_percent=how.panic_threshold_percent,
    )
    shares: list[tuple[int, Picker]] = []
    for level, load in zip(levels, loads, strict=True):
        if load.panic and load.healthy + load.degraded:
            shares.append((load.healthy + load.degraded, panic_picker(level, how)))
            continue
        if load.healthy:
            shares.append((load.healthy, level_picker(level, Availability.HEALTHY, how)))
        if load.degraded:
            shares.append((load.degraded, level_picker(level, Availability.DEGRADED, how)))
    if not shares:
        return NoHost()
    return shares[0][1] if len(shares) == 1 else SharedPicker(shares, how.rng)


def _hashed(hosts: Sequence[Host], how: Balancing) -> Picker:
    levels = hash_levels(
        hosts,
        overprovisioning_factor=how.overprovisioning_factor,
        panic_threshold_percent=how.panic_threshold_percent,
        locality_weighted=how.locality_weighted,
    )
    return hash_picker(
        levels,
        how.tables,
        balance_factor_percent=how.balance_factor_percent,
        hash_of=how.hash_of,
        rng=how.rng,
        counts=how.counts,
    )


def _among(hosts: Sequence[Host], how: Balancing) -> Picker:
    """The algorithm over these hosts, some of which may be new."""
    plain = picker(hosts, how.policy, how.choice_count, how.rng)
    config = how.slow_start
    if config is None or how.policy == LbPolicy.RANDOM or len(hosts) < 2:
        return plain
    if starting_until(hosts, config) <= how.clock():
        return plain
    by_load = how.policy == LbPolicy.LEAST_REQUEST
    return StartingHosts(hosts, config, plain, by_load=by_load, clock=how.clock, rng=how.rng)


def panic_picker(level: Sequence[Host], how: Balancing) -> Picker:
    """All hosts of one level."""
    return PanicPicker(_among(level, how), how.counts)


def level_picker(level: Sequence[Host], wanted: Availability, how: Balancing) -> Picker:
    """The hosts of one level that have this availability."""
    if how.locality_weighted and any(host.endpoint.locality_weight for host in level):
        found = _by_locality(level, wanted, how)
        if found is not None:
            return found
    return _among([host for host in level if host.availability == wanted], how)


def _by_locality(level: Sequence[Host], wanted: Availability, how: Balancing) -> Picker | None:
    """None when no locality that has a weight has a host."""
    places: dict[Locality, list[Host]] = {}
    for host in level:
        places.setdefault(host.endpoint.locality, []).append(host)
    pickers: list[Picker] = []
    weights: list[float] = []
    for hosts in places.values():
        fit = [host for host in hosts if host.availability == wanted]
        share = min(1.0, how.overprovisioning_factor / 100 * len(fit) / len(hosts))
        weight = hosts[0].endpoint.locality_weight * share
        if weight > 0:
            pickers.append(_among(fit, how))
            weights.append(weight)
    if len(pickers) < 2:
        return pickers[0] if pickers else None
    return LocalityPicker(pickers, weights, how.rng)
