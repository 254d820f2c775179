"""From the hosts of a cluster to the object that picks one of them.

Owns:   priority, then locality, then host: the structure that is built when hosts, health or ejections change.
Not:    the algorithms (agent.cluster.pickers), the arithmetic of priorities (agent.cluster.priorities), retries.
Source: data-plane.md 1.2 and 1.3. Locality weights apply where the assignment gives any; in panic they do not.
Invariant: an unhealthy or ejected host is picked only from a level in panic, and each such pick is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.cluster.hosts import Availability, Host
from agent.cluster.pickers import NoHost, Picker, Schedule, picker
from agent.cluster.priorities import LevelSize, level_loads
from agent.model.cluster import LbPolicy
from agent.stats.names import LB_HEALTHY_PANIC
from mesh.resilience.backoff import Rng
from mesh.vocabulary import Locality


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancing:
    """How a cluster balances. `counts`: its statistics, for LB_HEALTHY_PANIC."""

    policy: LbPolicy
    choice_count: int
    panic_threshold_percent: float
    overprovisioning_factor: int
    rng: Rng
    counts: list[int]


class PanicPicker(Picker):
    """All hosts of a level, whatever their health."""

    __slots__ = ("_counts", "_picker")

    def __init__(self, inner: Picker, counts: list[int]) -> None:
        self._picker = inner
        self._counts = counts

    def pick(self) -> Host | None:
        self._counts[LB_HEALTHY_PANIC] += 1
        return self._picker.pick()


class SharedPicker(Picker):
    """Each of several pickers gets its percents; they add up to 100."""

    __slots__ = ("_rng", "_shares")

    def __init__(self, shares: Sequence[tuple[int, Picker]], rng: Rng) -> None:
        self._shares = list(shares)
        self._rng = rng

    def pick(self) -> Host | None:
        left = int(self._rng() * 100)
        for share, inner in self._shares:
            left -= share
            if left < 0:
                return inner.pick()
        return self._shares[-1][1].pick()


class LocalityPicker(Picker):
    """Each locality in proportion to its weight."""

    __slots__ = ("_pickers", "_schedule")

    def __init__(self, pickers: Sequence[Picker], weights: Sequence[float], rng: Rng) -> None:
        self._pickers = list(pickers)
        self._schedule = Schedule(weights, rng)

    def pick(self) -> Host | None:
        return self._pickers[self._schedule.next()].pick()


def balance(hosts: Sequence[Host], how: Balancing) -> Picker:
    """The picker for these hosts as they are now. Build it anew when one of them changes."""
    levels: list[list[Host]] = [[] for _ in range(max((host.endpoint.priority for host in hosts), default=0) + 1)]
    for host in hosts:
        levels[host.endpoint.priority].append(host)
    loads = level_loads(
        [_size(level) for level in levels],
        overprovisioning_factor=how.overprovisioning_factor,
        panic_threshold_percent=how.panic_threshold_percent,
    )
    shares: list[tuple[int, Picker]] = []
    for level, load in zip(levels, loads, strict=True):
        if load.panic and load.healthy + load.degraded:
            everyone = picker(level, how.policy, how.choice_count, how.rng)
            shares.append((load.healthy + load.degraded, PanicPicker(everyone, how.counts)))
            continue
        if load.healthy:
            shares.append((load.healthy, _of_level(level, Availability.HEALTHY, how)))
        if load.degraded:
            shares.append((load.degraded, _of_level(level, Availability.DEGRADED, how)))
    if not shares:
        return NoHost()
    return shares[0][1] if len(shares) == 1 else SharedPicker(shares, how.rng)


def _size(level: Sequence[Host]) -> LevelSize:
    found = [host.availability for host in level]
    return LevelSize(len(found), found.count(Availability.HEALTHY), found.count(Availability.DEGRADED))


def _of_level(level: Sequence[Host], wanted: Availability, how: Balancing) -> Picker:
    """The hosts of one level that have this availability."""
    if any(host.endpoint.locality_weight for host in level):
        found = _by_locality(level, wanted, how)
        if found is not None:
            return found
    return picker([host for host in level if host.availability == wanted], how.policy, how.choice_count, how.rng)


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
            pickers.append(picker(fit, how.policy, how.choice_count, how.rng))
            weights.append(weight)
    if len(pickers) < 2:
        return pickers[0] if pickers else None
    return LocalityPicker(pickers, weights, how.rng)
