"""What is written of the statuses, and on which lease."""

import pytest

from controlplane.reconcile import status_writer
from controlplane.reconcile.replica import Replica
from controlplane.reconcile.status_writer import StatusWriter
from controlplane.store.keys import STATUS, ObjectKey, replica_key
from controlplane.store.memory import MemoryStore
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import ObjectRef
from tests.support.plane import until

VS = ObjectRef("networking.istio.io", "VirtualService", "default", "a")
KEY = ObjectKey("networking.istio.io", "virtualservices", "default", "a").status_key("cp-1")


class Revisions:
    """Counts the writes to a store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def now(self) -> int:
        return (await self._store.list("/none/")).revision


async def test_only_differences_are_written_and_they_hang_on_the_replicas_lease() -> None:
    store, wanted = MemoryStore(), {VS: b"1"}
    replica = Replica(store, "cp-1")
    writer = StatusWriter(store, replica, lambda: wanted)
    await writer.write()
    assert await store.get(KEY) is None, "nothing is written before there is a lease"

    holding = spawn("replica", replica.run({"rest": "127.0.0.1:1"}))
    await until(lambda: replica.lease)
    await writer.write()
    entry = await store.get(KEY)
    assert entry is not None
    assert (entry.value, entry.lease) == (b"1", replica.lease)

    before = await Revisions(store).now()
    await writer.write()
    assert await Revisions(store).now() == before

    wanted[VS] = b"2"
    await writer.write()
    assert (await store.list(STATUS)).entries[0].value == b"2"
    wanted.clear()
    await writer.write()
    assert (await store.list(STATUS)).entries == ()

    await cancel_and_wait(holding)
    await replica.release()
    assert await store.get(replica_key("cp-1")) is None


async def test_after_a_lost_lease_everything_is_written_again() -> None:
    store = MemoryStore()
    replica = Replica(store, "cp-1")
    writer = StatusWriter(store, replica, lambda: {VS: b"1"})
    holding = spawn("replica", replica.run({"rest": "127.0.0.1:1"}))
    await until(lambda: replica.lease)
    await writer.write()
    lost = replica.lease
    store.end_lease(lost)
    assert await store.get(KEY) is None
    await cancel_and_wait(holding)
    holding = spawn("replica", replica.run({"rest": "127.0.0.1:1"}))
    await until(lambda: replica.lease not in (0, lost))
    await writer.write()
    assert await store.get(KEY) is not None
    await cancel_and_wait(holding)


async def test_what_is_no_stored_object_gets_no_status() -> None:
    store = MemoryStore()
    replica = Replica(store, "cp-1")
    holding = spawn("replica", replica.run({"rest": "127.0.0.1:1"}))
    await until(lambda: replica.lease)
    await StatusWriter(store, replica, lambda: {ObjectRef("", "Unknown", "default", "x"): b"1"}).write()
    assert (await store.list(STATUS)).entries == ()
    await cancel_and_wait(holding)


async def test_a_look_writes_a_bounded_number_and_who_waited_longest_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status_writer, "_OPS_PER_LOOK", 2)
    store = MemoryStore()
    replica = Replica(store, "cp-1")
    holding = spawn("replica", replica.run({"rest": "127.0.0.1:1"}))
    await until(lambda: replica.lease)
    refs = [ObjectRef("networking.istio.io", "VirtualService", "default", name) for name in "abc"]
    looks = iter(range(100))
    writer = StatusWriter(store, replica, lambda: dict.fromkeys(refs, b"%d" % next(looks)))  # all change all the time

    async def values() -> list[bytes]:
        await writer.write()
        return [entry.value for entry in (await store.list(STATUS)).entries]

    assert await values() == [b"0", b"0"]
    assert await values() == [b"1", b"0", b"1"], "the new one, then the oldest"
    assert await values() == [b"1", b"2", b"2"]
    assert await values() == [b"3", b"3", b"2"]
    await cancel_and_wait(holding)
