"""How replicas share a limit: each reserves a part of a window's requests in the store before it gives them away.

Owns:   the keys in the store, reserving, the leases that clear up.
Not:    counting here (windows).

    key: window length / window number / hash of limit and client -> how many all replicas have reserved

Invariants: the sum of what replicas have reserved of a window is at most the limit, since each reservation is a
        transaction on what stood there; so several replicas together never give more than it. What one has reserved
        and does not use is lost to the others until the window ends: at most (replicas - 1) * a reservation, which is a
        twentieth of the limit. A reservation whose answer was lost counts as reserved. Keys end with the lease of their
        window. A replica that is alone reserves nothing: in a window in which another comes or goes, each may give up
        to the whole limit once.
"""

from controlplane.store.keys import limit_key
from controlplane.store.protocol import ConfigStore, Lease, ModRevisionIs, Put
from mesh.errors import ErrorCode, MeshError

TRIES = 8
PART = 20  # a reservation is so small a part of the limit
_KEEP_S = 60


class Shares:
    """One per replica."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store
        self._leases: dict[int, tuple[int, Lease]] = {}  # window length -> (window, its lease)

    async def reserve(self, digest: str, window_s: int, index: int, limit: int, wanted: int) -> tuple[int, int]:
        """(how many more are reserved, how many all have reserved): `wanted` at least while there are so many.

        Raises UNAVAILABLE when the store cannot be asked, or others are always faster.
        """
        key = limit_key(window_s, index, digest)
        part = max(wanted, -(-limit // PART))
        for _ in range(TRIES):
            entry = await self._store.get(key)
            taken = _count(entry.value) if entry is not None else 0
            count = min(part, limit - taken)
            if count <= 0:
                return 0, taken
            lease = await self._lease(window_s, index)
            revision = entry.mod_revision if entry is not None else 0
            put = Put(key, str(taken + count).encode(), lease.id)
            try:
                done = await self._store.transact([ModRevisionIs(key, revision)], [put])
            except MeshError as error:
                if error.code is ErrorCode.NOT_FOUND:  # the lease is gone: the store was restored, say
                    self._leases.pop(window_s, None)
                raise
            if done.succeeded:
                return count, taken + count
        raise MeshError(ErrorCode.UNAVAILABLE, "too many replicas reserve at once", subject=f"rate limit {digest}")

    async def _lease(self, window_s: int, index: int) -> Lease:
        known = self._leases.get(window_s)
        if known is None or known[0] != index:
            known = self._leases[window_s] = (index, await self._store.grant(window_s + _KEEP_S))
        return known[1]


def _count(value: bytes) -> int:
    """What somebody else wrote there counts for nothing."""
    return int(value) if value.isdigit() and len(value) < 16 else 0
