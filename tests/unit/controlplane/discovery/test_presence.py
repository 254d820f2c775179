"""A node's keys in the store: written by difference, on one lease, taken over from an earlier stream."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from controlplane.discovery.presence import LEASE_S, Presence
from controlplane.registry.codec import decode_ejection, decode_instance, decode_node
from controlplane.registry.instances import Ejection, Instance, InstancePort, Node
from controlplane.store.keys import EJECTIONS, INSTANCES, node_key
from controlplane.store.limits import TxnLimits
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Check, Op, TxnResult
from mesh.errors import ErrorCode, MeshError
from tests.support.clock import ManualClock

NODE = Node(name="node-1", address="10.0.0.1")


def instance(name: str, **fields: Any) -> Instance:
    return Instance(
        **{
            "id": name,
            "node": "node-1",
            "namespace": "default",
            "service": "orders",
            "service_account": "default",
            "labels": {},
            "address": "10.0.0.1",
            "ports": (InstancePort(name="", port=3001, protocol="HTTP", inbound_port=20000),),
            **fields,
        }
    )


def ejection(endpoint: str, **fields: Any) -> Ejection:
    return Ejection(
        **{
            "cluster": "outbound|80||users",
            "endpoint": endpoint,
            "node": "node-1",
            "reason": "consecutive_5xx",
            "detail": "",
            "times": 1,
            "since_ms": 1,
            "until_ms": 2,
            "enforced": True,
            **fields,
        }
    )


class CountingStore(MemoryStore):
    """Remembers what was written."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock, limits=TxnLimits())
        self.written: list[Op] = []
        self.away = False

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> TxnResult:
        if self.away:
            raise MeshError(ErrorCode.UNAVAILABLE, "away")
        self.written += ops
        return await super().transact(checks, ops)


class Streams:
    """Presences of one node, one after the other."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = CountingStore(self.clock)

    async def next(self) -> Presence:
        """As after a reconnect: what the store holds on leases is known."""
        existing = {
            entry.key
            for prefix in (INSTANCES, EJECTIONS)
            for entry in (await self.store.list(prefix)).entries
            if "node-1" in entry.key
        }
        return Presence(self.store, NODE, existing=lambda _: existing, clock=self.clock)

    async def instances(self) -> dict[str, Instance]:
        found = [decode_instance(entry.value) for entry in (await self.store.list(INSTANCES)).entries]
        return {item.id: item for item in found}

    async def ejected(self) -> list[str]:
        return [decode_ejection(entry.value).endpoint for entry in (await self.store.list(EJECTIONS)).entries]


@pytest.fixture
def streams() -> Streams:
    return Streams()


async def test_a_node_is_announced_once_and_stays(streams: Streams) -> None:
    await (await streams.next()).announce()
    await (await streams.next()).announce()
    entry = await streams.store.get(node_key("node-1"))
    assert entry is not None
    assert decode_node(entry.value) == NODE
    assert entry.lease == 0
    assert [op.key for op in streams.store.written if op.key == node_key("node-1")] == [node_key("node-1")]


async def test_a_name_belongs_to_one_address_while_its_lease_lives(streams: Streams) -> None:
    """Each replica has presences of its own; the store is what they share."""
    first, moved = await streams.next(), Presence(
        streams.store, replace(NODE, address="10.0.0.9"), existing=lambda _: (), clock=streams.clock
    )  # fmt: skip
    await first.announce()
    await first.set_instances([instance("a")])
    for _ in range(4):
        with pytest.raises(
            MeshError, match=r"another machine at 10.0.0.1 is this node; refused is the one at 10.0.0.9"
        ):
            await moved.announce()
        streams.clock.advance(LEASE_S / 2)
        await first.keep_alive()
    assert set(await streams.instances()) == {"a"}
    entry = await streams.store.get(node_key("node-1"))
    assert entry is not None
    assert decode_node(entry.value).address == "10.0.0.1"
    streams.clock.advance(LEASE_S + 1)
    await moved.announce()
    with pytest.raises(MeshError) as refused:
        await first.keep_alive()
    assert refused.value.code is ErrorCode.CONFLICT
    again = await streams.next()
    with pytest.raises(MeshError):
        await again.set_instances([instance("a")])


async def test_instances_are_the_full_set_and_written_by_difference(streams: Streams) -> None:
    presence = await streams.next()
    await presence.set_instances([instance("a"), instance("b")])
    assert set(await streams.instances()) == {"a", "b"}
    streams.store.written.clear()
    await presence.set_instances([instance("a"), instance("b")])
    assert streams.store.written == []
    await presence.set_instances([instance("b", weight=2), instance("c")])
    assert {op.key.rpartition("/")[2] for op in streams.store.written} == {"a", "b", "c"}
    found = await streams.instances()
    assert set(found) == {"b", "c"}
    assert found["b"].weight == 2


async def test_ejections_are_written_on_transitions_only(streams: Streams) -> None:
    presence = await streams.next()
    await presence.set_ejections([ejection("10.0.0.2:1")])
    for _ in range(5):
        await presence.set_ejections([ejection("10.0.0.2:1")])
    await presence.set_ejections([ejection("10.0.0.2:1"), ejection("10.0.0.3:1")])
    await presence.set_ejections([])
    assert len([op for op in streams.store.written if op.key.startswith(EJECTIONS)]) == 4
    assert await streams.ejected() == []


async def test_everything_leaves_with_the_lease(streams: Streams) -> None:
    presence = await streams.next()
    await presence.set_instances([instance("a")])
    await presence.set_ejections([ejection("10.0.0.2:1")])
    for _ in range(10):
        streams.clock.advance(5)
        await presence.keep_alive()
    assert set(await streams.instances()) == {"a"}
    streams.clock.advance(LEASE_S)
    assert await streams.instances() == {}
    assert await streams.ejected() == []


async def test_a_lease_is_renewed_only_when_it_is_time(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    renewals: list[int] = []
    renew = streams.store.renew_lease
    monkeypatch.setattr(streams.store, "renew_lease", lambda lease: (renewals.append(lease), renew(lease)))
    presence = await streams.next()
    await presence.keep_alive()
    await presence.set_instances([instance("a")])
    for _ in range(9):
        streams.clock.advance(1)
        await presence.keep_alive()
    assert len(renewals) == 2


async def test_a_lost_lease_is_replaced_and_everything_is_written_again(streams: Streams) -> None:
    presence = await streams.next()
    await presence.set_instances([instance("a"), instance("b")])
    await presence.set_ejections([ejection("10.0.0.2:1")])
    streams.clock.advance(60)
    assert await streams.instances() == {}
    await presence.keep_alive()
    assert set(await streams.instances()) == {"a", "b"}
    assert await streams.ejected() == ["10.0.0.2:1"]
    streams.clock.advance(10)
    await presence.keep_alive()
    streams.clock.advance(10)
    assert set(await streams.instances()) == {"a", "b"}, "the new lease is renewed"


async def test_a_store_that_is_away_is_the_callers_to_know_and_nothing_is_forgotten(streams: Streams) -> None:
    presence = await streams.next()
    await presence.set_instances([instance("a")])
    streams.store.away = True
    with pytest.raises(MeshError):
        await presence.set_instances([instance("a"), instance("b")])
    streams.store.away = False
    await presence.set_instances([instance("b")])
    assert set(await streams.instances()) == {"b"}


async def test_the_next_stream_takes_over_without_a_gap(streams: Streams) -> None:
    first = await streams.next()
    await first.set_instances([instance("a"), instance("b")])
    await first.set_ejections([ejection("10.0.0.2:1"), ejection("10.0.0.3:1")])
    streams.clock.advance(10)

    second = await streams.next()
    await second.set_instances([instance("a")])
    assert set(await streams.instances()) == {"a"}
    assert await streams.ejected() == ["10.0.0.2:1", "10.0.0.3:1"], "not reported yet: what is there stays"
    await second.set_ejections([ejection("10.0.0.3:1")])
    assert await streams.ejected() == ["10.0.0.3:1"]

    streams.clock.advance(10)  # the first lease has run out
    await second.keep_alive()
    assert set(await streams.instances()) == {"a"}
    assert await streams.ejected() == ["10.0.0.3:1"]


async def test_ejections_alone_leave_an_earlier_streams_instances_alone(streams: Streams) -> None:
    await (await streams.next()).set_instances([instance("a")])
    await (await streams.next()).set_ejections([])
    assert set(await streams.instances()) == {"a"}


@pytest.mark.parametrize("labels", [{}, {f"k{i}": "v" * 500 for i in range(60)}], ids=["many", "large"])
async def test_a_large_node_is_written_within_the_limits_of_any_etcd(streams: Streams, labels: dict[str, str]) -> None:
    presence = await streams.next()
    await presence.set_instances([instance(f"i{number}", labels=labels) for number in range(250)])
    assert len(await streams.instances()) == 250
    await presence.set_instances([])
    assert await streams.instances() == {}
