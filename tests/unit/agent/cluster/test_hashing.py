"""From a hash to a host: priorities, tables that lag behind, bounded loads."""

import random
from collections import Counter
from typing import Any

import pytest

from agent.cluster.hash_levels import hash_levels
from agent.cluster.hash_tables import build, read
from agent.cluster.hosts import Host
from agent.cluster.load_balancing import Balancing, balance
from agent.cluster.mersenne import Mersenne
from agent.cluster.pickers import Picker
from agent.model.cluster import Hashing, LbPolicy
from agent.stats.names import CLUSTER, LB_HEALTHY_PANIC, RQ_ACTIVE
from mesh.vocabulary import HealthStatus
from tests.support.hosts import host, hosts, level

CONFIG = Hashing(minimum_ring_size=256, maglev_table_size=1009)
BAD = HealthStatus.UNHEALTHY


class Cluster:
    """Hosts and the table that was built for them; requests are their hashes."""

    def __init__(self, members: list[Host], *, policy: LbPolicy = LbPolicy.MAGLEV, **balancing: Any) -> None:
        self.members = members
        self.counts = [0] * len(CLUSTER.names)
        self.threshold = balancing.pop("threshold", 50.0)
        self._how = {"policy": policy, "rng": random.Random(1).random, **balancing}
        self.tables: Any = ()

    def build_tables(self) -> "Cluster":
        found = []
        for one in hash_levels(
            self.members,
            overprovisioning_factor=140,
            panic_threshold_percent=self.threshold,
            locality_weighted=bool(self._how.get("locality_weighted")),
        ):
            if not one.members:
                continue
            steps = build(one, self._how["policy"], CONFIG)
            while True:
                try:
                    next(steps)
                except StopIteration as done:
                    found += read((done.value[0],), memoryview(done.value[1]))
                    break
        self.tables = tuple(found)
        return self

    def picker(self) -> Picker:
        return balance(
            self.members,
            Balancing(
                choice_count=2, panic_threshold_percent=self.threshold, overprovisioning_factor=140,
                counts=self.counts, hash_of=lambda request: request, tables=self.tables, **self._how,
            ),
        )  # fmt: skip

    def chosen(self, keys: range = range(0, 2**64, 2**55)) -> dict[int, Host | None]:
        picker = self.picker()
        return {key: picker.pick(key) for key in keys}


@pytest.mark.parametrize("policy", [LbPolicy.RING_HASH, LbPolicy.MAGLEV])
def test_one_key_one_host(policy: LbPolicy) -> None:
    cluster = Cluster(hosts(1, 1, 1, 1), policy=policy).build_tables()
    assert cluster.chosen() == cluster.chosen()
    assert len(set(cluster.chosen().values())) == 4


def test_a_host_that_is_out_is_passed_over_while_the_table_still_has_it() -> None:
    """Its keys go elsewhere, all others stay; with its return all is as before."""
    cluster = Cluster(hosts(1, 1, 1, 1)).build_tables()
    before = cluster.chosen()
    out = cluster.members[2]
    out.ejected = True
    meanwhile = cluster.chosen()
    assert out not in meanwhile.values()
    assert all(meanwhile[key] is was for key, was in before.items() if was is not out)
    out.ejected = False
    assert cluster.chosen() == before


def test_a_host_that_the_table_does_not_have_yet_gets_nothing_yet() -> None:
    cluster = Cluster(hosts(1, 1)).build_tables()
    before = cluster.chosen()
    cluster.members = [*cluster.members, host(9)]
    assert cluster.chosen() == before
    assert cluster.members[2] in cluster.build_tables().chosen().values()


def test_without_a_table_the_hash_counts_off_the_hosts() -> None:
    cluster = Cluster(hosts(1, 1, 1))
    found = [cluster.picker().pick(key) for key in range(6)]
    assert found == cluster.members * 2


def test_nobody_is_chosen_when_nobody_may_be() -> None:
    assert Cluster([]).picker().pick(1) is None
    out = hosts(1, 1)
    for one in out:
        one.ejected = True
    assert Cluster(out, threshold=0.0).build_tables().picker().pick(1) is None


def test_without_a_hash_the_choice_is_random() -> None:
    cluster = Cluster(hosts(1, 1, 1)).build_tables()
    picker = cluster.picker()
    counts = Counter(picker.pick(None) for _ in range(600))
    assert len(counts) == 3
    assert min(counts.values()) > 140


def test_the_hash_chooses_the_priority() -> None:
    """70 of 100 stay when half of the first level is left; the same key always finds the same level."""
    members = level(0, 2, unhealthy=2) + level(1, 4)
    cluster = Cluster(members).build_tables()
    found = cluster.chosen(range(0, 10_000))
    first = [key for key, one in found.items() if one in members[:4]]
    assert len(first) == 7000
    assert {key % 100 for key in first} == set(range(70))


def test_degraded_hosts_alone_are_used() -> None:
    members = level(0, 0, degraded=2, unhealthy=1)
    assert set(Cluster(members).build_tables().chosen().values()) == set(members[:2])


def test_in_panic_all_hosts_are_in_the_table_and_each_choice_is_counted() -> None:
    members = [host(1), *(host(number, health=BAD) for number in (2, 3, 4))]
    cluster = Cluster(members).build_tables()
    found = cluster.chosen()
    assert set(found.values()) == set(members)
    assert cluster.counts[LB_HEALTHY_PANIC] == len(found)
    cluster.picker().pick(1, 2)
    assert cluster.counts[LB_HEALTHY_PANIC] == len(found), "another attempt is no other choice"


def test_weights_of_localities_count_as_they_are() -> None:
    """Also when half of a locality's hosts are gone; one without weight has no place."""
    members = [host(1, zone="a", locality_weight=1), host(2, zone="a", locality_weight=1, health=BAD)]
    members += [host(number, zone="b", locality_weight=3) for number in (3, 4)] + [host(5, zone="c")]
    found = Counter(Cluster(members, locality_weighted=True).build_tables().chosen(range(1009)).values())
    assert [round(found[one] / 1009, 2) for one in members] == [0.25, 0, 0.37, 0.37, 0]
    found = Counter(Cluster(members).build_tables().chosen(range(1009)).values())
    assert {round(count / 1009, 2) for count in found.values()} == {0.25}


def test_bounded_loads_pass_a_busy_host_over() -> None:
    """In an order of its own for each key, the same each time."""
    cluster = Cluster(hosts(1, 1, 1, 1), balance_factor_percent=125).build_tables()
    picker = cluster.picker()
    busy = picker.pick(77)
    assert busy is not None
    busy.active = 8
    cluster.counts[RQ_ACTIVE] = 8
    second = picker.pick(77)
    assert second is not None
    assert second is not busy
    assert picker.pick(77) is second
    second.active = 8
    cluster.counts[RQ_ACTIVE] = 16
    third = picker.pick(77)
    assert third not in (busy, second)
    for one in cluster.members:
        one.active = 20
    third.active = 19  # type: ignore[union-attr]
    cluster.counts[RQ_ACTIVE] = 40
    assert picker.pick(77) is third, "nobody has room: the least loaded"


def test_the_mersenne_twister_is_the_standards() -> None:
    """C++ asks of the 10000th number of the default seed to be this one."""
    random_numbers = Mersenne(5489)
    for _ in range(9999):
        random_numbers.next()
    assert random_numbers.next() == 4123659995
    assert Mersenne(7).next() == Mersenne(7 + 2**32).next()
    assert {Mersenne(seed).below(3) for seed in range(50)} == {0, 1, 2}
