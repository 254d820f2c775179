"""Which hosts stand in the hash table of each priority level, and with what weights.

Owns:   the members of a level and their normalised weights; the share of requests that the level gets.
Not:    the tables (agent.cluster.hash_tables), choosing (agent.cluster.hashing).
Source: Envoy's ThreadAwareLoadBalancerBase: weights of localities count as they are, however many of their hosts are
        fit; a level in panic has all its hosts.
Differs: a level that has degraded hosts only has those in its table; Envoy answers 503 then.
Invariant: supervisor and workers come to the same levels from the same hosts and verdicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.cluster.hosts import Availability, Host
from agent.cluster.priorities import LevelSize, level_loads
from mesh.vocabulary import Locality


@dataclass(frozen=True, slots=True, kw_only=True)
class HashLevel:
    """`healthy` and `degraded`: percents of the requests. `weights`: of `members`; they add up to 1 at most."""

    priority: int
    healthy: int
    degraded: int
    panic: bool
    members: tuple[Host, ...]
    weights: tuple[float, ...]


def hash_levels(
    hosts: Sequence[Host], *, overprovisioning_factor: int, panic_threshold_percent: float, locality_weighted: bool
) -> tuple[HashLevel, ...]:
    """The levels that get requests, the first choice first. Nothing when no host may be picked."""
    levels = by_priority(hosts)
    loads = level_loads(
        [level_size(level) for level in levels],
        overprovisioning_factor=overprovisioning_factor,
        panic_threshold_percent=panic_threshold_percent,
    )
    found = []
    for priority, (level, load) in enumerate(zip(levels, loads, strict=True)):
        if not load.healthy + load.degraded:
            continue
        fit = level if load.panic else _fit(level)
        pairs = _by_locality(level, fit) if locality_weighted else _normalised(fit, 1.0)
        found.append(
            HashLevel(
                priority=priority,
                healthy=load.healthy,
                degraded=load.degraded,
                panic=load.panic,
                members=tuple(host for host, _ in pairs),
                weights=tuple(weight for _, weight in pairs),
            )
        )
    return tuple(found)


def by_priority(hosts: Sequence[Host]) -> list[list[Host]]:
    """The hosts of each level, the first choice first."""
    levels: list[list[Host]] = [[] for _ in range(max((host.endpoint.priority for host in hosts), default=0) + 1)]
    for host in hosts:
        levels[host.endpoint.priority].append(host)
    return levels


def level_size(level: Sequence[Host]) -> LevelSize:
    """What the arithmetic of priorities needs to know."""
    found = [host.availability for host in level]
    return LevelSize(len(found), found.count(Availability.HEALTHY), found.count(Availability.DEGRADED))


def _fit(level: Sequence[Host]) -> list[Host]:
    best = max((host.availability for host in level), default=Availability.UNHEALTHY)
    return [host for host in level if host.availability == best and best > Availability.UNHEALTHY]


def _normalised(hosts: Sequence[Host], share: float) -> list[tuple[Host, float]]:
    total = sum(host.weight for host in hosts)
    return [(host, host.weight * share / total) for host in hosts]


def _by_locality(level: Sequence[Host], fit: Sequence[Host]) -> list[tuple[Host, float]]:
    """Hosts of localities without a weight have no place."""
    weights: dict[Locality, int] = {}
    for host in level:
        weights.setdefault(host.endpoint.locality, host.endpoint.locality_weight)
    total = sum(weights.values())
    if not total:
        return _normalised(fit, 1.0)
    found: list[tuple[Host, float]] = []
    for locality in sorted(weights):
        if weights[locality]:
            own = [host for host in fit if host.endpoint.locality == locality]
            found += _normalised(own, weights[locality] / total)
    return found
