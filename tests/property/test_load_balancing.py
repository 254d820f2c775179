"""Load balancing against dumb models: who may be picked at all, and how often."""

import random
from collections import Counter
from functools import reduce
from math import gcd

from hypothesis import given
from hypothesis import strategies as st

from agent.cluster.hosts import Availability, Host
from agent.cluster.load_balancing import Balancing, balance
from agent.cluster.pickers import picker
from agent.cluster.priorities import LevelSize, level_loads
from agent.model.cluster import LbPolicy
from agent.stats.names import CLUSTER, LB_HEALTHY_PANIC
from mesh.vocabulary import HealthStatus
from tests.support.hosts import host

STATES = st.sampled_from([HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY, HealthStatus.DRAINING])


@st.composite
def clusters(draw: st.DrawFn) -> list[Host]:
    members = []
    for number in range(draw(st.integers(0, 12))):
        made = host(
            number,
            weight=draw(st.integers(1, 9)),
            health=draw(STATES),
            priority=draw(st.integers(0, 3)),
            zone=draw(st.sampled_from(["a", "b"])),
        )
        made.ejected = draw(st.booleans())
        made.active = draw(st.integers(0, 3))
        members.append(made)
    return members


LEVELS = st.lists(
    st.integers(0, 12).flatmap(
        lambda hosts: st.integers(0, hosts).flatmap(
            lambda healthy: st.builds(LevelSize, st.just(hosts), st.just(healthy), st.integers(0, hosts - healthy))
        )
    ),
    min_size=1,
    max_size=4,
)


@given(levels=LEVELS, factor=st.sampled_from([100, 140, 300]), threshold=st.sampled_from([0.0, 10.0, 50.0, 100.0]))
def test_loads_add_up(levels: list[LevelSize], factor: int, threshold: float) -> None:
    """To 100, or to 0 when nobody may be picked; a level gets something only if somebody there can take it."""
    loads = level_loads(levels, overprovisioning_factor=factor, panic_threshold_percent=threshold)
    total = sum(load.healthy + load.degraded for load in loads)
    usable = any(level.healthy or level.degraded for level in levels)
    assert total == (100 if usable or (threshold and any(level.hosts for level in levels)) else 0)
    for level, load in zip(levels, loads, strict=True):
        assert load.healthy >= 0
        assert load.degraded >= 0
        if load.panic:
            assert threshold > 0
            assert level.hosts or not load.healthy + load.degraded
        else:
            assert level.healthy or not load.healthy
            assert level.degraded or not load.degraded


@given(weights=st.lists(st.integers(1, 30), min_size=1, max_size=12), start=st.floats(0, 1, exclude_max=True))
def test_round_robin_is_exact(weights: list[int], start: float) -> None:
    """In any window of sum / gcd picks each host comes weight / gcd times, wherever the window begins."""
    members = [host(number, weight=weight) for number, weight in enumerate(weights)]
    chosen = picker(members, LbPolicy.ROUND_ROBIN, 2, lambda: start)
    divisor = reduce(gcd, weights)
    period = sum(weights) // divisor
    expected = Counter({member: member.weight // divisor for member in members})
    picks = [chosen.pick() for _ in range(3 * period)]
    for offset in (0, 1, period // 2, period, 2 * period):
        assert Counter(picks[offset : offset + period]) == expected


@given(
    members=clusters(),
    policy=st.sampled_from(list(LbPolicy)),
    threshold=st.sampled_from([0.0, 30.0, 50.0, 100.0]),
    locality_weight=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_only_hosts_that_may_be_picked(
    members: list[Host], policy: LbPolicy, threshold: float, locality_weight: int, seed: int
) -> None:
    """An unhealthy or ejected host only in panic, where each pick is counted; None only if nobody is left."""
    for member in members:
        if member.endpoint.locality.zone == "a":
            member.replace_endpoint(_weighted(member, locality_weight))
    counts = [0] * len(CLUSTER.names)
    balancing = Balancing(
        policy=policy,
        choice_count=2,
        panic_threshold_percent=threshold,
        overprovisioning_factor=140,
        rng=random.Random(seed).random,
        counts=counts,
    )
    chosen = balance(members, balancing)
    usable = [member for member in members if member.availability != Availability.UNHEALTHY]
    for _ in range(30):
        panics = counts[LB_HEALTHY_PANIC]
        found = chosen.pick()
        panicked = counts[LB_HEALTHY_PANIC] > panics
        assert not panicked or threshold
        if found is None:
            assert not usable
            assert not members or not threshold
        else:
            assert panicked or found in usable


def _weighted(member: Host, weight: int):  # type: ignore[no-untyped-def]
    number = int(member.key.split(":")[0].rpartition(".")[2])
    own = member.endpoint
    return host(
        number, weight=own.weight, health=own.health, priority=own.priority, zone="a", locality_weight=weight
    ).endpoint


@given(actives=st.lists(st.integers(0, 5), min_size=2, max_size=8), seed=st.integers(0, 2**16))
def test_least_request_never_picks_the_busiest_of_its_choices(actives: list[int], seed: int) -> None:
    """Against the same draws, made again: the fewest active of the two, the first drawn among equals."""
    members = [host(number) for number in range(len(actives))]
    for member, active in zip(members, actives, strict=True):
        member.active = active
    chosen = picker(members, LbPolicy.LEAST_REQUEST, 2, random.Random(seed).random)
    draws = random.Random(seed)
    for _ in range(20):
        pair = [members[place] for place in divmod(int(draws.random() * len(members) ** 2), len(members))]
        assert chosen.pick() is min(pair, key=lambda member: member.active)


@given(
    weights=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    actives=st.lists(st.integers(0, 4), min_size=6, max_size=6),
)
def test_weighted_least_request_shares_by_weight_over_load(weights: list[int], actives: list[int]) -> None:
    """With steady loads a host gets weight / (active + 1) of the sum, within one pick per host."""
    members = [host(number, weight=weight) for number, weight in enumerate(weights)]
    for member, active in zip(members, actives, strict=False):
        member.active = active
    if len(set(weights)) == 1:
        members[0].weight += 1
    chosen = picker(members, LbPolicy.LEAST_REQUEST, 2, lambda: 0.0)
    rates = {member: member.weight / (member.active + 1) for member in members}
    counts = Counter(chosen.pick() for _ in range(600))
    for member, rate in rates.items():
        assert abs(counts[member] - 600 * rate / sum(rates.values())) <= len(members) + 1
