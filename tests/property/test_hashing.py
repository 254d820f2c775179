"""Hash tables against what is wanted of them: fair shares, and little that moves when a host comes or goes."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cluster.hash_levels import hash_levels
from agent.cluster.hash_tables import Table, build, read
from agent.cluster.hosts import Host
from agent.model.cluster import Hashing, LbPolicy
from mesh.vocabulary import HealthStatus
from tests.support.hosts import host

MAGLEV = Hashing(maglev_table_size=2039)
RING = Hashing(minimum_ring_size=1024)
KEYS = range(0, 2**64, 2**54 - 12345)
members = st.lists(
    st.tuples(st.integers(1, 250), st.integers(1, 5)), min_size=1, max_size=9, unique_by=lambda pair: pair[0]
)


def table(hosts: list[Host], policy: LbPolicy) -> Table:
    (level,) = hash_levels(hosts, overprovisioning_factor=140, panic_threshold_percent=0, locality_weighted=False)
    steps = build(level, policy, MAGLEV if policy == LbPolicy.MAGLEV else RING)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return read((done.value[0],), memoryview(done.value[1]))[0]


def made(pairs: list[tuple[int, int]]) -> list[Host]:
    return [host(number, weight=weight) for number, weight in pairs]


def chosen(hosts: list[Host], policy: LbPolicy) -> dict[int, str]:
    found = table(hosts, policy)
    return {key: found.hosts[found.number(key, 0)] for key in KEYS}


@settings(max_examples=40, deadline=None)
@given(pairs=members)
def test_maglev_is_fair(pairs: list[tuple[int, int]]) -> None:
    """Each host has its share of the entries, but for the last round."""
    hosts = made(pairs)
    found = table(hosts, LbPolicy.MAGLEV)
    counts = Counter(found.hosts[found.number(entry, 0)] for entry in range(MAGLEV.maglev_table_size))
    total = sum(one.weight for one in hosts)
    for one in hosts:
        assert abs(counts[one.key] - MAGLEV.maglev_table_size * one.weight / total) <= len(hosts) + 1


@settings(max_examples=25, deadline=None)
@given(numbers=st.sets(st.integers(1, 250), min_size=2, max_size=9))
def test_a_ring_is_fair_enough(numbers: set[int]) -> None:
    """With at least a hundred points each nobody has twice its share, nor less than a third."""
    counts = Counter(chosen([host(number) for number in numbers], LbPolicy.RING_HASH).values())
    fair = len(KEYS) / len(numbers)
    assert len(counts) == len(numbers)
    assert fair / 3 < min(counts.values())
    assert max(counts.values()) < 2 * fair


@settings(max_examples=25, deadline=None)
@given(pairs=members, policy=st.sampled_from([LbPolicy.RING_HASH, LbPolicy.MAGLEV]), data=st.data())
def test_who_leaves_takes_along_no_more_than_its_own(
    pairs: list[tuple[int, int]], policy: LbPolicy, data: st.DataObject
) -> None:
    """With equal weights no other key of a ring moves at all, and few of a Maglev table do."""
    hosts = [host(number) for number, _ in pairs]
    leaving = data.draw(st.sampled_from(hosts))
    rest = [one for one in hosts if one is not leaving]
    if not rest:
        return
    before, after = chosen(hosts, policy), chosen(rest, policy)
    stayed = [key for key, was in before.items() if was != leaving.key]
    moved = sum(after[key] != before[key] for key in stayed)
    if policy == LbPolicy.MAGLEV:
        assert moved <= 0.25 * len(KEYS)
    else:
        # The number of points per host may change with the number of hosts: those are all that others gain.
        assert moved <= 0.3 * len(KEYS)


@given(pairs=members, out=st.integers(0, 8))
def test_an_ejected_host_has_no_entry(pairs: list[tuple[int, int]], out: int) -> None:
    hosts = made(pairs)
    gone = hosts[out % len(hosts)]
    gone.ejected = True
    levels = hash_levels(hosts, overprovisioning_factor=140, panic_threshold_percent=0, locality_weighted=False)
    inside = [one for level in levels for one in level.members]
    assert gone not in inside
    assert len(inside) == len(hosts) - 1
    assert all(abs(sum(level.weights) - 1) < 1e-9 for level in levels)


@given(
    states=st.lists(st.sampled_from(list(HealthStatus)), max_size=8),
    priorities=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    threshold=st.sampled_from([0.0, 50.0, 100.0]),
)
def test_levels_add_up(states: list[HealthStatus], priorities: list[int], threshold: float) -> None:
    """To all requests, or to none when nobody may have them."""
    hosts = [
        host(number, health=state, priority=priority)
        for number, (state, priority) in enumerate(zip(states, priorities, strict=False))
    ]
    levels = hash_levels(hosts, overprovisioning_factor=140, panic_threshold_percent=threshold, locality_weighted=False)
    assert sum(level.healthy + level.degraded for level in levels) == (100 if levels else 0)
    for level in levels:
        assert level.members
        assert level.panic or all(one.availability > 0 for one in level.members)
