"""This replica's lease and record in the store: what its statuses hang on and where the other replicas find it.

Owns:   the lease's renewal, the record `replica/{id}`.
Source: decision 16: status keys live on the replica's lease; REST asks the other replicas.
Invariant: after a lost lease everything that hung on it is written again (`generation` tells its users).
"""

import asyncio
import json
from typing import Any

from controlplane.store.keys import replica_key
from controlplane.store.protocol import ConfigStore, Lease, Put
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger

_log = get_logger(__name__)

LEASE_S = 15
_RENEW_EVERY_S = 4.0


class Replica:
    """`name` is unique and kept over restarts; `record` is JSON: {"rest": "host:port", ...}."""

    def __init__(self, store: ConfigStore, name: str) -> None:
        self._store = store
        self.name = name
        self._lease: Lease | None = None
        self.generation = 0  # grows with each new lease

    @property
    def lease(self) -> int:
        """The lease's id; 0 while there is none."""
        return 0 if self._lease is None or self._lease.lost else self._lease.id

    async def run(self, record: dict[str, Any]) -> None:
        """Hold the lease until cancelled."""
        while True:
            try:
                await self._hold(record)
            except MeshError as error:
                _log.warning("cannot renew the replica's lease; trying again", reason=str(error))
            await asyncio.sleep(_RENEW_EVERY_S if self.lease else 1.0)

    async def release(self) -> None:
        """Take the record and statuses away: the replica stops."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await lease.revoke()
            except MeshError as error:
                _log.warning("the replica's lease runs out by itself", reason=str(error))

    async def _hold(self, record: dict[str, Any]) -> None:
        if self._lease is not None and not self._lease.lost:
            try:
                await self._lease.keep_alive()
                return
            except MeshError as error:
                if error.code is not ErrorCode.NOT_FOUND:
                    raise
        lease = await self._store.grant(LEASE_S)
        value = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        await self._store.transact([], [Put(replica_key(self.name), value, lease.id)])
        self._lease = lease
        self.generation += 1
