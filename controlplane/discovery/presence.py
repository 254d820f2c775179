"""A node's keys in the store: its record, and its instances and ejections on one lease, written by difference.

Owns:   the lease and its renewal, the claim to the node's name, what is written of a node, taking over the keys of an
        earlier stream.
Not:    reading reports (reports.py, report_values.py), who may register what (ca.grants).
Source: decision 16: instances and ejections live on the node's lease of 15 s; ejections are written on transitions.

Invariants: a key is written only when its value differs from what this stream wrote. When a stream ends, its lease
        runs out by itself: an agent that comes back within 15 s finds its keys and moves them to its new lease.
        While a lease holds the claim for one address, a stream from another address, on whatever replica, gets none.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from controlplane.registry.codec import encode_ejection, encode_instance, encode_node
from controlplane.registry.instances import Ejection, Instance, Node
from controlplane.store.keys import EJECTIONS, claim_key, ejection_key, instance_key, node_key
from controlplane.store.limits import size_bytes
from controlplane.store.protocol import ConfigStore, Delete, Lease, ModRevisionIs, Op, Put
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger

_log = get_logger(__name__)

LEASE_S = 15
_RENEW_EVERY_S = 4.0
_CLAIM_TRIES = 3
_OPS_PER_TRANSACTION = 100  # below etcd's default limit of 128
_BYTES_PER_TRANSACTION = 1 << 20  # below etcd's default limit of 1.5 MiB

# The keys on leases that the store holds of a node, as the current MeshState knows: an earlier stream wrote them.
ExistingKeys = Callable[[str], Iterable[str]]


class Presence:
    """What one stream keeps in the store for its node."""

    def __init__(self, store: ConfigStore, node: Node, *, existing: ExistingKeys, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._existing = existing
        self._clock = clock
        self._lease: Lease | None = None
        self._renewed_at = 0.0
        self._instances: dict[str, bytes] | None = None  # None: not reported yet, what is there stays
        self._ejections: dict[str, bytes] | None = None  # likewise
        self._written: dict[str, bytes | None] = {}  # None: there, with a value that this stream did not write

    async def announce(self) -> None:
        """Claim the node's name, and write the node's record if it differs; that is persistent. Raises CONFLICT when
        another machine has the name."""
        await self._live_lease()
        key, value = node_key(self._node.name), encode_node(self._node)
        entry = await self._store.get(key)
        if entry is None or entry.value != value:
            await self._store.transact([], [Put(key, value)])

    async def set_instances(self, instances: Iterable[Instance]) -> None:
        """The full set: what is absent leaves the mesh."""
        self._instances = {
            instance_key(item.namespace, item.node, item.id): encode_instance(item) for item in instances
        }
        await self._write()

    async def set_ejections(self, ejections: Iterable[Ejection]) -> None:
        """The full set of what the node ejects now."""
        self._ejections = {
            ejection_key(item.cluster, item.endpoint, item.node): encode_ejection(item) for item in ejections
        }
        await self._write()

    async def keep_alive(self) -> None:
        """Renew the lease when it is time; when it was lost, write everything again on a new one."""
        if self._lease is None:
            return
        if self._clock.monotonic() - self._renewed_at < _RENEW_EVERY_S and not self._lease.lost:
            return
        try:
            await self._lease.keep_alive()
            self._renewed_at = self._clock.monotonic()
        except MeshError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            _log.warning("the node's lease was lost; its keys are written again", node=self._node.name)
            await self._write()

    async def _write(self) -> None:
        lease = await self._live_lease()
        for batch in list(_batches(self._operations(lease.id))):
            await self._store.transact([], batch)
            for op in batch:
                if isinstance(op, Put):
                    self._written[op.key] = op.value
                else:
                    self._written.pop(op.key, None)

    def _operations(self, lease: int) -> Iterable[Op]:
        wanted = {**(self._instances or {}), **(self._ejections or {})}
        for key, value in wanted.items():
            if self._written.get(key) != value:
                yield Put(key, value, lease)
        for key in self._written.keys() - wanted.keys():
            reported = self._ejections if key.startswith(EJECTIONS) else self._instances
            if reported is not None:
                yield Delete(key)

    async def _live_lease(self) -> Lease:
        if self._lease is None or self._lease.lost:
            self._lease = await self._claimed()
            self._renewed_at = self._clock.monotonic()
            # Keys of an earlier lease, of this stream or another: written again, or deleted, with the next set.
            self._written = dict.fromkeys((*self._existing(self._node.name), *self._written))
        return self._lease

    async def _claimed(self) -> Lease:
        """A new lease with the claim to the node's name on it."""
        lease = await self._store.grant(LEASE_S)
        try:
            await self._claim(lease.id)
        except MeshError:
            with suppress(MeshError):  # else it runs out by itself
                await lease.revoke()
            raise
        return lease

    async def _claim(self, lease: int) -> None:
        key, value = claim_key(self._node.name), json.dumps({"address": self._node.address}).encode()
        for _ in range(_CLAIM_TRIES):
            entry = await self._store.get(key)
            if entry is not None and entry.value != value:
                raise _taken(self._node, entry.value)
            checks = [ModRevisionIs(key, entry.mod_revision if entry is not None else 0)]
            if (await self._store.transact(checks, [Put(key, value, lease)])).succeeded:
                return
        raise MeshError(ErrorCode.UNAVAILABLE, "its name is claimed again and again", subject=f"node {self._node.name}")


def _taken(node: Node, claim: bytes) -> MeshError:
    try:
        other = str(json.loads(claim)["address"])
    except (ValueError, KeyError, TypeError):
        other = "an unknown address"
    return MeshError(
        ErrorCode.CONFLICT,
        f"another machine at {other} is this node; refused is the one at {node.address}",
        subject=f"node {node.name}",
        hint="each machine needs a node name and a join token of its own; after a move, wait 15 s",
    )


def _batches(ops: Iterable[Op]) -> Iterator[list[Op]]:
    """Transactions that every etcd takes."""
    batch: list[Op] = []
    size = 0
    for op in ops:
        added = size_bytes((), (op,))
        if batch and (len(batch) == _OPS_PER_TRANSACTION or size + added > _BYTES_PER_TRANSACTION):
            yield batch
            batch, size = [], 0
        batch.append(op)
        size += added
    if batch:
        yield batch


async def hold(presence: Presence, instances: Iterable[Instance]) -> None:
    """Keep a bare Envoy's workloads registered until this task is cancelled (its stream has ended)."""
    registered = False
    wanted = tuple(instances)
    while True:
        try:
            if not registered:
                await presence.announce()
                await presence.set_instances(wanted)
                registered = True
            await presence.keep_alive()
        except MeshError as error:
            _log.warning("cannot register workloads; trying again", reason=str(error))
        await asyncio.sleep(_RENEW_EVERY_S if registered else 1.0)
