"""The leases of reservations: one for each window, however many other windows there are."""

import pytest

from controlplane.ratelimit.shares import Shares
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Lease
from mesh.errors import ErrorCode, MeshError

DAY, SECOND = 86_400, 1


class Store(MemoryStore):
    """Remembers what was granted."""

    def __init__(self) -> None:
        super().__init__()
        self.granted: list[tuple[int, Lease]] = []

    async def grant(self, ttl_s: int) -> Lease:
        lease = await super().grant(ttl_s)
        self.granted.append((ttl_s, lease))
        return lease


async def test_a_long_window_keeps_its_lease_beside_many_short_ones() -> None:
    store = Store()
    shares = Shares(store)
    for index in range(40):
        assert await shares.reserve("short", SECOND, index, 100, 1) == (5, 5)
        assert await shares.reserve(f"long {index}", DAY, 0, 100, 1) == (5, 5)
    assert sum(ttl_s > DAY for ttl_s, _ in store.granted) == 1
    assert sum(ttl_s < DAY for ttl_s, _ in store.granted) == 40


async def test_a_lease_that_is_lost_is_replaced() -> None:
    """Somebody has restored the store, say."""
    store = Store()
    shares = Shares(store)
    assert await shares.reserve("a", DAY, 0, 100, 1) == (5, 5)
    await store.granted[0][1].revoke()
    with pytest.raises(MeshError, match="lease") as caught:
        await shares.reserve("a", DAY, 0, 100, 1)
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert (await shares.reserve("a", DAY, 0, 100, 1))[0] == 5
