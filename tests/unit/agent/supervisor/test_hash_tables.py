"""When tables are built, and who is given them."""

import asyncio
import mmap
import os
from collections.abc import AsyncIterator

import pytest

from agent.cluster.hash_tables import Table, read
from agent.ipc.messages import HashTables
from agent.model.cluster import Cluster, Endpoint, Hashing, LbPolicy, LoadAssignment
from agent.supervisor.hash_tables import HashTableBook
from mesh.vocabulary import HealthStatus
from tests.support.hosts import endpoint

SMALL = Hashing(maglev_table_size=101, minimum_ring_size=16)


class Given:
    """A book and what it has told."""

    def __init__(self) -> None:
        self.told: list[HashTables] = []
        self.tables: dict[str, tuple[Table, ...]] = {}
        self.forgotten: list[str] = []
        self.book = HashTableBook(self._tell, self._forget)
        self.assignments: dict[str, LoadAssignment] = {}

    def _tell(self, message: HashTables, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size, prot=mmap.PROT_READ)
        self.told.append(message)
        self.tables[message.cluster] = read(message.tables, memoryview(memory))

    def _forget(self, name: str) -> None:
        self.forgotten.append(name)

    async def follow(self, *clusters: Cluster) -> None:
        self.book.follow({one.name: one for one in clusters}, self.assignments.get)
        await self.built()

    async def built(self) -> None:
        async with asyncio.timeout(10):
            while not self.book.idle:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)

    def hosts(self, *endpoints: Endpoint, cluster: str = "c", **more: int) -> None:
        self.assignments[cluster] = LoadAssignment(cluster=cluster, endpoints=endpoints, **more)


def cluster(name: str = "c", policy: LbPolicy = LbPolicy.MAGLEV, hashing: Hashing = SMALL) -> Cluster:
    return Cluster(name=name, lb_policy=policy, hashing=hashing)


@pytest.fixture
async def given() -> AsyncIterator[Given]:
    made = Given()
    yield made
    await made.book.close()


async def test_a_cluster_that_hashes_gets_its_table(given: Given) -> None:
    given.hosts(endpoint(1), endpoint(2))
    await given.follow(cluster(), Cluster(name="plain"))
    (message,) = given.told
    assert (message.cluster, message.tables[0].hosts) == ("c", ("10.0.0.1:80", "10.0.0.2:80"))
    (table,) = given.tables["c"]
    assert {table.number(key, 0) for key in range(101)} == {0, 1}


async def test_nothing_is_built_twice(given: Given) -> None:
    """Also when the resources are new objects, or change in what no table depends on."""
    given.hosts(endpoint(1), endpoint(2))
    await given.follow(cluster())
    given.hosts(endpoint(1), endpoint(2, health=HealthStatus.HEALTHY))
    await given.follow(Cluster(name="c", lb_policy=LbPolicy.MAGLEV, hashing=SMALL, connect_timeout_s=1.0))
    assert len(given.told) == 1


@pytest.mark.parametrize(
    ("changed", "hosts"),
    [
        ([endpoint(1)], cluster()),
        ([endpoint(1), endpoint(2), endpoint(3)], cluster()),
        ([endpoint(1, weight=5), endpoint(2)], cluster()),
        ([endpoint(1), endpoint(2, health=HealthStatus.DRAINING)], cluster()),
        ([endpoint(1), endpoint(2, priority=1)], cluster()),
        ([endpoint(1, hash_key="a"), endpoint(2)], cluster()),
        ([endpoint(1), endpoint(2)], cluster(policy=LbPolicy.RING_HASH)),
        ([endpoint(1), endpoint(2)], cluster(hashing=Hashing(maglev_table_size=103))),
    ],
    ids=str,
)
async def test_a_change_makes_another_table(given: Given, changed: list[Endpoint], hosts: Cluster) -> None:
    given.hosts(endpoint(1), endpoint(2))
    await given.follow(cluster())
    given.hosts(*changed)
    await given.follow(hosts)
    assert len(given.told) == 2


async def test_verdicts_change_the_table_whether_they_come_before_or_after(given: Given) -> None:
    given.book.set_ejected("c", "10.0.0.2:80", True)
    given.hosts(endpoint(1), endpoint(2), endpoint(3))
    await given.follow(cluster())
    assert given.told[-1].tables[0].hosts == ("10.0.0.1:80", "10.0.0.3:80")
    given.book.set_ejected("c", "10.0.0.2:80", False)
    given.book.set_ejected("c", "10.0.0.1:80", True)
    await given.built()
    assert given.told[-1].tables[0].hosts == ("10.0.0.2:80", "10.0.0.3:80")
    assert len(given.told) == 2, "of several changes the last one is built"


async def test_a_cluster_that_is_gone_or_hashes_no_more_is_forgotten(given: Given) -> None:
    for name in ("a", "b", "c"):
        given.hosts(endpoint(1), cluster=name)
    await given.follow(cluster("a"), cluster("b"), cluster("c"))
    await given.follow(cluster("a"), Cluster(name="b"))
    assert sorted(given.forgotten) == ["b", "c"]
    await given.follow(cluster("a"), cluster("b"))
    assert [message.cluster for message in given.told].count("b") == 2


async def test_without_a_host_that_may_be_picked_there_is_no_table(given: Given) -> None:
    given.hosts(endpoint(1))
    quiet = Cluster(name="c", lb_policy=LbPolicy.MAGLEV, hashing=SMALL, healthy_panic_threshold_percent=0.0)
    await given.follow(quiet)
    given.book.set_ejected("c", "10.0.0.1:80", True)
    await given.built()
    assert given.forgotten == ["c"]
    given.book.set_ejected("c", "10.0.0.1:80", False)
    await given.built()
    assert len(given.told) == 2


async def test_each_level_has_its_table(given: Given) -> None:
    """Only while it gets requests: the second does when the first is too weak."""
    given.hosts(endpoint(1), endpoint(2, health=HealthStatus.UNHEALTHY), endpoint(3, priority=1))
    await given.follow(cluster(policy=LbPolicy.RING_HASH))
    assert [(table.priority, table.hosts) for table in given.told[-1].tables] == [
        (0, ("10.0.0.1:80",)),
        (1, ("10.0.0.3:80",)),
    ]


async def test_the_loop_serves_while_a_large_table_is_built(given: Given) -> None:
    given.hosts(*(endpoint(number) for number in range(1, 20)))
    given.book.follow({"c": cluster(hashing=Hashing(maglev_table_size=20_011))}, given.assignments.get)
    turns = 0
    while not given.book.idle:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20
    assert len(given.told) == 1
