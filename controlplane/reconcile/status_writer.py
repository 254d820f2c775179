"""Writes the statuses of objects to the store: aggregates on the replica's lease, only what changed.

Owns:   when to look, the difference to what was written, batching, the rate.
Not:    the content (status.py).
Invariants: writing a status never triggers a compile (the reconciler ignores status keys). A look writes at most
            `_OPS_PER_LOOK` keys, those first that have waited longest: a fleet that reconnects changes the counts of
            every object again and again, and each write is seen by everyone who watches.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from controlplane.policy.kinds import KINDS
from controlplane.reconcile.replica import Replica
from controlplane.store.keys import ObjectKey
from controlplane.store.protocol import ConfigStore, Delete, Op, Put
from mesh.errors import MeshError
from mesh.logs import get_logger
from mesh.vocabulary import ObjectRef

_log = get_logger(__name__)

EVERY_S = 1.0
_OPS_PER_TRANSACTION = 100
_OPS_PER_LOOK = 500
_PAUSES, _SLOWEST_S = 19, 10.0


class StatusWriter:
    """`statuses()` gives the wanted values by object."""

    def __init__(self, store: ConfigStore, replica: Replica, statuses: Callable[[], Mapping[ObjectRef, bytes]]) -> None:
        self._store = store
        self._replica = replica
        self._statuses = statuses
        self._written: dict[str, bytes] = {}  # the longest unchanged first
        self._generation = 0

    async def run(self) -> None:
        """Look every second until cancelled; less often where a look is dear, so that it takes a twentieth at most."""
        pause_s = EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            begun = time.monotonic()
            try:
                await self.write()
            except MeshError as error:
                _log.warning("cannot write statuses; trying again", reason=str(error))
            pause_s = min(max(EVERY_S, _PAUSES * (time.monotonic() - begun)), _SLOWEST_S)

    async def write(self) -> None:
        """Write the difference."""
        lease = self._replica.lease
        if not lease:
            return
        if self._generation != self._replica.generation:
            self._generation, self._written = self._replica.generation, {}  # what hung on the old lease is gone
        pending = islice(self._operations(lease), _OPS_PER_LOOK)
        while batch := list(islice(pending, _OPS_PER_TRANSACTION)):
            await self._store.transact([], batch)
            for op in batch:
                self._written.pop(op.key, None)
                if isinstance(op, Put):
                    self._written[op.key] = op.value

    def _operations(self, lease: int) -> Iterator[Op]:
        """New statuses, then what is gone or different. A snapshot: `write` changes what it is made from."""
        wanted = {
            key: value for ref, value in self._statuses().items() if (key := _status_key(ref, self._replica.name))
        }
        ops: list[Op] = [Put(key, value, lease) for key, value in wanted.items() if key not in self._written]
        for key, value in self._written.items():
            if key not in wanted:
                ops.append(Delete(key))
            elif wanted[key] != value:
                ops.append(Put(key, wanted[key], lease))
        return iter(ops)


def _status_key(ref: ObjectRef, replica: str) -> str:
    """The key, or nothing for what is not a stored object (an instance's own service, for example)."""
    info = KINDS.by_group_kind(ref.group, ref.kind)
    return ObjectKey(ref.group, info.plural, ref.namespace, ref.name).status_key(replica) if info is not None else ""
