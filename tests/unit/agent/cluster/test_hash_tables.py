"""Rings and Maglev tables: built entry for entry, read from memory. Envoy's own are met in tests/differential."""

from collections import Counter

import pytest

from agent.cluster import hash_tables
from agent.cluster.hash_levels import HashLevel
from agent.cluster.hash_tables import Ring, Table, build, number_bytes, read
from agent.cluster.hosts import Host
from agent.model.cluster import Hashing, HashTable, LbPolicy
from agent.router.xxhash64 import xxh64
from tests.support.hosts import host, hosts

SMALL = Hashing(minimum_ring_size=8, maglev_table_size=101)


def level(members: list[Host], *weights: float, priority: int = 0) -> HashLevel:
    shares = weights or tuple(1 / len(members) for _ in members)
    return HashLevel(
        priority=priority, healthy=100, degraded=0, panic=False, members=tuple(members), weights=tuple(shares)
    )


def built(members: HashLevel, policy: LbPolicy, config: Hashing = SMALL) -> tuple[HashTable, bytes, int]:
    """(description, memory, how often the builder let others run)."""
    steps, yielded = build(members, policy, config), 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            table, data = done.value
            return table, data, yielded
        yielded += 1


def table(members: HashLevel, policy: LbPolicy, config: Hashing = SMALL) -> Table:
    description, data, _ = built(members, policy, config)
    (found,) = read((description,), memoryview(data))
    return found


def test_a_ring_is_that_of_the_keys_numbered_hashes() -> None:
    members = hosts(1, 1, 1)
    description, data, _ = built(level(members), LbPolicy.RING_HASH)
    points = sorted((xxh64(f"{member.key}_{turn}".encode()), member.key) for member in members for turn in range(3))
    assert description == HashTable(priority=0, hosts=tuple(m.key for m in members), ring=True, entries=9)
    ring = read((description,), memoryview(data))[0]
    assert isinstance(ring, Ring)
    for place, (point, key) in enumerate(points):
        following = points[(place + 1) % 9][1]
        assert ring.hosts[ring.number(point, 0)] == key
        assert ring.hosts[ring.number(point, 1)] == following
        assert ring.hosts[ring.number((point + 1) % 2**64, 0)] == following
    assert ring.hosts[ring.number(2**64 - 1, 0)] == points[0][1], "round and round"
    assert ring.hosts[ring.number(0, 0)] == points[0][1]


def test_a_lighter_host_has_fewer_entries() -> None:
    found = table(level(hosts(1, 1), 0.25, 0.75), LbPolicy.RING_HASH, Hashing(minimum_ring_size=400))
    counts = Counter(found.number(point, 0) for point in range(0, 2**64, 2**64 // 4000))
    assert 0.15 < counts[0] / counts.total() < 0.35


def test_a_ring_never_outgrows_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_tables, "RING_LIMIT", 20_000)
    few = built(level(hosts(1, 1, 1)), LbPolicy.RING_HASH, Hashing(minimum_ring_size=5, maximum_ring_size=5))[0]
    assert few.entries == 5
    lopsided = level(hosts(1, 1), 1e-9, 1 - 1e-9)
    description, _, yielded = built(lopsided, LbPolicy.RING_HASH)
    assert description.entries == 20_000
    assert yielded > 70, "others run while a large one is built"


def test_maglev_fills_every_entry_by_turns() -> None:
    members = hosts(1, 1, 1)
    description, data, _ = built(level(members), LbPolicy.MAGLEV)
    assert (description.ring, description.entries) == (False, 101)
    assert Counter(data[:101]) == {0: 34, 1: 34, 2: 33}
    assert len(data) == 104, "whole words"


def test_maglev_gives_weights_their_share() -> None:
    found = table(level(hosts(1, 1, 1), 0.1, 0.3, 0.6), LbPolicy.MAGLEV, Hashing(maglev_table_size=1009))
    counts = Counter(found.number(key, 0) for key in range(1009))
    assert [round(counts[number] / 1009, 2) for number in range(3)] == [0.1, 0.3, 0.6]


def test_another_attempt_leads_elsewhere_in_the_end() -> None:
    for policy in (LbPolicy.RING_HASH, LbPolicy.MAGLEV):
        found = table(level(hosts(1, 1, 1)), policy)
        assert len({found.number(12345, attempt) for attempt in range(12)}) == 3


@pytest.mark.parametrize("policy", [LbPolicy.RING_HASH, LbPolicy.MAGLEV])
def test_what_is_hashed_is_the_address_unless_there_is_something_better(policy: LbPolicy) -> None:
    """A hash key beats everything, a host name counts when it is asked for."""
    plain = [host(number) for number in (1, 2, 3)]
    named = [host(number, hostname=f"10.0.0.{number}:80") for number in (4, 5, 6)]
    keyed = [host(number + 3, hash_key=f"10.0.0.{number}:80") for number in (1, 2, 3)]
    expected = built(level(plain), policy)[1]
    assert built(level(keyed), policy)[1] == expected
    assert built(level(named), policy)[1] != expected
    by_name = Hashing(minimum_ring_size=8, maglev_table_size=101, use_hostname=True)
    by_address = built(level([host(number) for number in (4, 5, 6)]), policy)[1]
    assert built(level(named), policy, by_name)[1] == by_address


def test_tables_of_several_levels_lie_behind_each_other() -> None:
    first, second = level(hosts(1, 1, 1)), level([host(7), host(8)], priority=2)
    parts = [built(one, LbPolicy.RING_HASH)[:2] for one in (first, second)]
    found = read([table for table, _ in parts], memoryview(b"".join(data for _, data in parts)))
    assert [one.priority for one in found] == [0, 2]
    alone = table(second, LbPolicy.RING_HASH)
    assert [found[1].number(key, 0) for key in range(0, 2**64, 2**58)] == [
        alone.number(key, 0) for key in range(0, 2**64, 2**58)
    ]


def test_numbers_take_as_few_bytes_as_they_need() -> None:
    assert [number_bytes(count) for count in (1, 256, 257, 65536, 65537)] == [1, 1, 2, 2, 4]
    many = [Host(one.endpoint) for one in hosts(*[1] * 200)]
    more = many + [host(number + 1, priority=0) for number in range(200, 300)]
    found = table(level(more), LbPolicy.MAGLEV, Hashing(maglev_table_size=1009))
    assert {found.number(key, 0) for key in range(1009)} == set(range(300))


@pytest.mark.parametrize(
    "broken",
    [
        HashTable(priority=0, hosts=("a",), ring=False, entries=0),
        HashTable(priority=0, hosts=(), ring=False, entries=8),
        HashTable(priority=0, hosts=("a",), ring=False, entries=9),
        HashTable(priority=0, hosts=("a",), ring=True, entries=1),
    ],
    ids=str,
)
def test_tables_that_are_not_in_the_memory_are_refused(broken: HashTable) -> None:
    with pytest.raises(ValueError, match="entries in 8 bytes"):
        read((broken,), memoryview(bytes(8)))
