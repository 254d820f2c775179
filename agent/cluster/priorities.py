"""How the load of a cluster is shared among its priority levels, and which of them are in panic.

Owns:   the integer arithmetic of over-provisioning, spill-over, degraded hosts and panic, and of retries that leave
        levels out.
Source: data-plane.md 1.2; Envoy's load_balancing/{priority,degraded,panic_threshold} documentation.
Differs: from data-plane.md 1.2, which sends all traffic to level 0 when every level is in panic: Envoy shares it by the
        number of hosts of each level, and so does this.
Invariants: the loads add up to 100, or to 0 when no host may be picked; a level without hosts gets none.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LevelSize:
    """How many hosts a level has; `healthy` and `degraded` of them may be picked."""

    hosts: int
    healthy: int
    degraded: int


@dataclass(frozen=True, slots=True)
class LevelLoad:
    """Percents (integers) of the cluster's requests. In panic all hosts of the level share `healthy + degraded`."""

    healthy: int
    degraded: int
    panic: bool


def level_loads(
    levels: Sequence[LevelSize], *, overprovisioning_factor: int, panic_threshold_percent: float
) -> tuple[LevelLoad, ...]:
    """The load of each level, the first choice first. The threshold counts in whole percents; 0 = no panic."""
    threshold = min(int(panic_threshold_percent), 100)
    healthy = [_availability(level.healthy, level.hosts, overprovisioning_factor) for level in levels]
    degraded = [_availability(level.degraded, level.hosts, overprovisioning_factor) for level in levels]
    total = min(sum(healthy) + sum(degraded), 100)
    panics = [total < 100 and _in_panic(level, threshold) for level in levels]
    if all(panics):
        return _total_panic(levels)
    if not total:
        return tuple(LevelLoad(0, 0, False) for _ in levels)
    to_healthy, left = _shares(healthy, 100, total)
    to_degraded, left = _shares(degraded, left, total)
    _give_rest(to_healthy if any(healthy) else to_degraded, healthy if any(healthy) else degraded, left)
    return tuple(map(LevelLoad, to_healthy, to_degraded, panics))


def retry_loads(
    levels: Sequence[LevelSize], tried: Sequence[int], *, every: int, overprovisioning_factor: int
) -> tuple[tuple[int, int], ...] | None:
    """(healthy, degraded) percents for a retry after tries at the levels `tried`; None = as for a first try.

    After `every` tries, and each time after as many more, the levels that were tried get nothing any more; when none
    is left, all are taken again.
    """
    available = [
        (
            _availability(level.healthy, level.hosts, overprovisioning_factor),
            _availability(level.degraded, level.hosts, overprovisioning_factor),
        )
        for level in levels
    ]
    left_out: set[int] = set()
    since: list[int] = []
    loads = None
    for level in tried:
        since.append(level)
        if len(since) % every == 0:
            left_out.update(since)
            loads = _shared_without(available, left_out)
            if loads is None:
                left_out.clear()
                since.clear()
                loads = _shared_without(available, left_out)
        elif len(since) < every:
            loads = None
    return loads


def _shared_without(
    available: Sequence[tuple[int, int]], left_out: AbstractSet[int]
) -> tuple[tuple[int, int], ...] | None:
    """None when no level is available."""
    kept = [(0, 0) if level in left_out else both for level, both in enumerate(available)]
    healthy, degraded = [both[0] for both in kept], [both[1] for both in kept]
    total = min(sum(healthy) + sum(degraded), 100)
    if not total:
        return None
    to_healthy, left = _shares(healthy, 100, total)
    to_degraded, left = _shares(degraded, left, total)
    _give_rest(to_healthy if any(healthy) else to_degraded, healthy if any(healthy) else degraded, left)
    return tuple(zip(to_healthy, to_degraded, strict=True))


def _availability(fit: int, hosts: int, factor: int) -> int:
    return min(factor * fit // hosts, 100) if hosts else 0


def _in_panic(level: LevelSize, threshold: int) -> bool:
    return 100 * (level.healthy + level.degraded) < threshold * level.hosts or (not level.hosts and threshold > 0)


def _shares(availability: Sequence[int], load: int, total: int) -> tuple[list[int], int]:
    """(the load of each level, what is left for others)."""
    shares = []
    for available in availability:
        share = min(load, available * 100 // total)
        shares.append(share)
        load -= share
    return shares, load


def _give_rest(shares: list[int], availability: Sequence[int], rest: int) -> None:
    """What rounding left over goes to the first level that is available at all."""
    for level, available in enumerate(availability):
        if available:
            shares[level] += rest
            return


def _total_panic(levels: Sequence[LevelSize]) -> tuple[LevelLoad, ...]:
    total = sum(level.hosts for level in levels)
    if not total:
        return tuple(LevelLoad(0, 0, True) for _ in levels)
    shares = [100 * level.hosts // total for level in levels]
    _give_rest(shares, [level.hosts for level in levels], 100 - sum(shares))
    return tuple(LevelLoad(share, 0, True) for share in shares)
