"""The history is kept within its bounds in the background, and an outage of the store does not end that."""

from controlplane.reconcile.history_pruner import HistoryPruner
from controlplane.store import applies
from controlplane.store.history import Retention
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Listing
from mesh.clock import SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from tests.support.plane import until


class Away(MemoryStore):
    """Does not answer the first listing."""

    looks = 0

    async def list(self, prefix: str, *, at_revision: int = 0) -> Listing:
        self.looks += 1
        if self.looks == 1:
            raise MeshError(ErrorCode.UNAVAILABLE, "connection reset")
        return await super().list(prefix, at_revision=at_revision)


async def test_it_looks_now_and_then_and_goes_on_after_an_outage() -> None:
    store, clock = Away(), SystemClock()
    for number in range(5):
        at_ms = int(clock.wall() * 1000)
        record = applies.ApplyRecord(id=f"{number}", author="ann", at_ms=at_ms, objects=())
        await applies.commit(store, record, [], [])
    running = spawn("pruner", HistoryPruner(store, Retention(records=2), clock, every_s=0.001).run())
    await until(lambda: store.looks > 3)
    assert [record.id for record in await applies.records(store)] == ["3", "4"]
    await cancel_and_wait(running)
