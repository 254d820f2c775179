"""Priority, then locality, then host; panic. Source: data-plane.md 1.2, golden_t5_outlier_cb.txt."""

import random
from collections import Counter

import pytest

from agent.cluster.hosts import Host
from agent.cluster.load_balancing import Balancing, balance
from agent.model.cluster import LbPolicy
from agent.stats.names import CLUSTER, LB_HEALTHY_PANIC
from mesh.vocabulary import HealthStatus
from tests.support.hosts import host, hosts, level


def how(
    *, threshold: float = 50.0, policy: LbPolicy = LbPolicy.ROUND_ROBIN, seed: int = 1, weighted: bool = False
) -> Balancing:
    return Balancing(
        policy=policy,
        choice_count=2,
        panic_threshold_percent=threshold,
        overprovisioning_factor=140,
        rng=random.Random(seed).random,
        counts=[0] * len(CLUSTER.names),
        locality_weighted=weighted,
    )


def picks(members: list[Host], balancing: Balancing, count: int) -> Counter[Host | None]:
    chosen = balance(members, balancing)
    return Counter(chosen.pick() for _ in range(count))


def test_all_hosts_of_one_level_take_turns() -> None:
    three = hosts(1, 1, 1)
    assert set(picks(three, how(), 30).values()) == {10}


def test_no_hosts() -> None:
    """None is picked, and the panic of an empty cluster is not counted as traffic to bad hosts."""
    balancing = how()
    assert picks([], balancing, 3) == {None: 3}
    assert balancing.counts[LB_HEALTHY_PANIC] == 0


@pytest.mark.parametrize("health", [HealthStatus.UNHEALTHY, HealthStatus.DRAINING, HealthStatus.TIMEOUT])
def test_unfit_hosts_are_not_picked(health: HealthStatus) -> None:
    members = [host(1), host(2, health=health), host(3)]
    assert set(picks(members, how(), 30)) == {members[0], members[2]}


def test_an_ejected_host_is_not_picked() -> None:
    members = hosts(1, 1, 1)
    members[1].ejected = True
    assert set(picks(members, how(), 30)) == {members[0], members[2]}


def test_panic_uses_all_and_counts_each_pick() -> None:
    """One of three left, threshold 50: as if nobody were ejected, and lb_healthy_panic rises per pick."""
    members = hosts(1, 1, 1)
    members[0].ejected = members[1].ejected = True
    balancing = how()
    assert set(picks(members, balancing, 30).values()) == {10}
    assert balancing.counts[LB_HEALTHY_PANIC] == 30


def test_a_cluster_of_one_ejected_host_still_serves_in_panic() -> None:
    """Source: golden_t5_outlier_cb.txt, cluster `one`."""
    one = hosts(1)
    one[0].ejected = True
    balancing = how()
    assert picks(one, balancing, 7) == {one[0]: 7}
    assert balancing.counts[LB_HEALTHY_PANIC] == 7


def test_threshold_zero_switches_panic_off() -> None:
    one = hosts(1)
    one[0].ejected = True
    assert picks(one, how(threshold=0), 5) == {None: 5}


def test_spill_over_to_the_next_level() -> None:
    """50 % healthy of level 0 carry 70 %, level 1 gets 30 %."""
    first, second = level(0, 2, unhealthy=2), level(1, 4)
    counts = picks([*first, *second], how(threshold=0), 10_000)
    share = sum(counts[member] for member in second)
    assert 2700 < share < 3300
    assert not any(counts[member] for member in first[2:])


def test_a_level_without_hosts_is_passed_over() -> None:
    only = level(2, 3)
    assert set(picks(only, how(), 30)) == set(only)


def test_degraded_hosts_get_only_the_spill_over() -> None:
    members = level(0, 2, degraded=2)
    counts = picks(members, how(), 10_000)
    assert 2700 < counts[members[2]] + counts[members[3]] < 3300
    members = level(0, 3, degraded=1)
    assert members[3] not in picks(members, how(), 1000)


def test_locality_weights_come_before_hosts() -> None:
    """Weights 1 : 3 decide, however many hosts a locality has."""
    members = [host(number, zone="a", locality_weight=1) for number in (1, 2, 3)]
    members.append(host(4, zone="b", locality_weight=3))
    counts = picks(members, how(weighted=True), 400)
    assert counts[members[3]] == 300
    assert {counts[member] for member in members[:3]} <= {33, 34}
    assert set(picks(members, how(), 400).values()) == {100}, "unless the cluster does not ask for it"


@pytest.mark.parametrize(("healthy", "expected"), [(2, 260), (1, 149)])
def test_locality_weights_sink_with_their_health(healthy: int, expected: int) -> None:
    """Weights 1 : 2, the first at 50 % -> 26 of 100, at 25 % -> 15. Source: Envoy's locality_weight documentation."""
    members = [
        host(n, zone="x", locality_weight=1, health=HealthStatus.HEALTHY if n < healthy else HealthStatus.UNHEALTHY)
        for n in range(4)
    ]
    members += [host(10 + n, zone="y", locality_weight=2) for n in range(4)]
    counts = picks(members, how(threshold=0, weighted=True), 1000)
    assert abs(sum(counts[member] for member in members[:4]) - expected) <= 1


def test_localities_without_weight_get_nothing() -> None:
    members = [host(1, zone="a", locality_weight=0), host(2, zone="b", locality_weight=1)]
    assert picks(members, how(weighted=True), 10) == {members[1]: 10}
    members[1].ejected = True
    assert picks(members, how(threshold=0, weighted=True), 10) == {members[0]: 10}, (
        "no weighted locality is left: as without weights"
    )


def test_in_panic_locality_weights_do_not_count() -> None:
    members = [host(n, zone="a", locality_weight=1, health=HealthStatus.UNHEALTHY) for n in (1, 2, 3)]
    members.append(host(4, zone="b", locality_weight=100))
    assert set(picks(members, how(weighted=True), 40).values()) == {10}
