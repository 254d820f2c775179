"""Retries that leave out the levels that were tried. Source: Envoy's previous_priorities extension."""

import pytest

from agent.cluster.hosts import Host
from agent.cluster.load_balancing import Balancing
from agent.cluster.priorities import LevelSize, retry_loads
from agent.cluster.retry_priorities import RetryPriorities
from agent.model.cluster import LbPolicy
from agent.stats.names import CLUSTER, LB_HEALTHY_PANIC
from tests.support.hosts import level

GOOD, HALF, BAD = LevelSize(10, 10, 0), LevelSize(10, 5, 0), LevelSize(10, 0, 0)


def after(*tried: int, levels: tuple[LevelSize, ...] = (GOOD, GOOD, GOOD), every: int = 1) -> list[int] | None:
    """Healthy percents."""
    found = retry_loads(levels, tried, every=every, overprovisioning_factor=140)
    return [healthy for healthy, _ in found] if found is not None else None


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ((), None),
        ((0,), [0, 100, 0]),
        ((0, 1), [0, 0, 100]),
        ((0, 1, 2), [100, 0, 0]),  # none is left: all are taken again
        ((0, 1, 2, 0), [0, 100, 0]),
        ((1,), [100, 0, 0]),
    ],
)
def test_each_try_takes_its_level_out(tried: tuple[int, ...], expected: list[int] | None) -> None:
    assert after(*tried) == expected


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ((0,), None),
        ((0, 0), [0, 100, 0]),
        ((0, 0, 1), [0, 100, 0]),
        ((0, 0, 1, 1), [0, 0, 100]),
        ((0, 0, 1, 1, 2, 2), [100, 0, 0]),
        ((0, 0, 1, 1, 2, 2, 0), None),  # from the beginning
    ],
)
def test_only_every_second_try(tried: tuple[int, ...], expected: list[int] | None) -> None:
    assert after(*tried, every=2) == expected


def test_what_is_left_shares_by_its_health() -> None:
    assert after(0, levels=(GOOD, HALF, GOOD)) == [0, 70, 30]
    assert after(0, levels=(GOOD, HALF, BAD)) == [0, 100, 0], "less than all is all that there is"
    assert after(0, levels=(GOOD, BAD, BAD)) == [100, 0, 0]
    assert after(0, levels=(BAD, BAD)) is None


def test_degraded_hosts_come_after_healthy_ones() -> None:
    levels = (GOOD, LevelSize(10, 0, 10), HALF)
    assert retry_loads(levels, (0,), every=1, overprovisioning_factor=140) == ((0, 0), (0, 30), (70, 0))


def retries(hosts: list[Host], counts: list[int], panic_percent: float = 50.0) -> RetryPriorities:
    how = Balancing(
        policy=LbPolicy.ROUND_ROBIN,
        choice_count=2,
        panic_threshold_percent=panic_percent,
        overprovisioning_factor=140,
        rng=lambda: 0.0,
        counts=counts,
    )
    return RetryPriorities(hosts, how)


def test_picks_are_of_the_other_level() -> None:
    hosts = level(0, healthy=2) + level(1, healthy=2)
    own = retries(hosts, [0] * len(CLUSTER.names))
    first = own.picker([hosts[0]], 1)
    assert first is not None
    assert {first.pick() for _ in range(4)} == set(hosts[2:])
    again = own.picker([hosts[0], hosts[2]], 1)
    assert again is not None
    assert {again.pick() for _ in range(4)} == set(hosts[:2])
    assert own.picker([], 1) is None


def test_a_host_whose_level_is_gone_does_not_count() -> None:
    hosts = level(0, healthy=1) + level(1, healthy=1)
    assert retries(hosts, [0] * len(CLUSTER.names)).picker(level(7, healthy=1), 1) is None


def test_a_level_in_panic_is_picked_from_as_a_whole() -> None:
    """15 % of level 1 and nothing of level 0 are too few."""
    hosts = level(0, healthy=0, unhealthy=3) + level(1, healthy=1, unhealthy=6)
    counts = [0] * len(CLUSTER.names)
    found = retries(hosts, counts).picker([hosts[0]], 1)
    assert found is not None
    assert {found.pick() for _ in range(7)} == set(hosts[3:])
    assert counts[LB_HEALTHY_PANIC] == 7
