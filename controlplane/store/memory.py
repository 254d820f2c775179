"""The store in memory: a verified fake of etcd for tests (tests/contract runs one suite on both).

Owns:   the same revisions, checks, leases, compaction and watches as etcd, in one process.
Not:    durability, outages.
Differs: leases expire when somebody looks (any call, or a waiting watch); with a manual clock call `expire_leases`.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controlplane.store.folding import Event, fold, relisting, track
from controlplane.store.limits import TxnLimits, check_transaction
from controlplane.store.protocol import Changes, Check, Delete, Entry, Lease, Listing, ModRevisionIs, Op, Put, TxnResult
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError

# How long a waiting watch sleeps at most before it looks for leases that ran out.
_LEASE_LOOK_S = 0.05


@dataclass(slots=True)
class _LeaseRecord:
    ttl_s: int
    deadline: float
    keys: set[str] = field(default_factory=set)


class MemoryStore:
    """ConfigStore in memory. `retention`: how many revisions are kept before they are compacted."""

    def __init__(self, *, clock: Clock | None = None, limits: TxnLimits | None = None, retention: int = 10_000) -> None:
        self._clock = clock or SystemClock()
        self._limits = limits or TxnLimits()
        self._retention = retention
        self._revision = 1  # as etcd: an empty store stands at 1
        self._compacted = 0
        self._entries: dict[str, Entry] = {}
        self._base: dict[str, Entry] = {}  # the entries as of the compacted revision
        self._history: list[tuple[int, Event]] = []  # what happened after it, oldest first
        self._leases: dict[int, _LeaseRecord] = {}
        self._lease_ids = itertools.count(1001)
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def healthy(self) -> bool:
        return not self._closed

    @property
    def problem(self) -> str:
        return "the store is closed" if self._closed else ""

    async def close(self) -> None:
        self._closed = True
        self._wake()

    async def get(self, key: str) -> Entry | None:
        self._enter()
        return self._entries.get(key)

    async def list(self, prefix: str, *, at_revision: int = 0) -> Listing:
        self._enter()
        revision = at_revision or self._revision
        if revision > self._revision:
            raise MeshError(ErrorCode.UNAVAILABLE, f"revision {revision} is ahead of the store", subject=prefix)
        entries = self._entries if revision == self._revision else self._entries_at(revision)
        found = sorted(key for key in entries if key.startswith(prefix))
        return Listing(revision, tuple(entries[key] for key in found))

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> TxnResult:
        self._enter()
        check_transaction(checks, ops, self._limits)
        if not all(self._holds(check) for check in checks):
            return TxnResult(False, self._revision)
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self._leases:
                raise _lease_gone(op.lease)
        self._write(ops)
        return TxnResult(True, self._revision)

    async def watch(self, prefix: str) -> AsyncIterator[Changes]:
        listing = await self.list(prefix)
        known = {entry.key for entry in listing.entries}
        at = listing.revision
        yield relisting(listing, frozenset())
        while not self._closed:
            self.expire_leases()
            if at < self._compacted:
                listing = await self.list(prefix)
                step = relisting(listing, known)
            elif at < self._revision:
                step = fold(self._revision, [e for at_, e in self._history if at_ > at and e[0].startswith(prefix)])
            else:
                await self._wait_for_change()
                continue
            at = step.revision
            track(known, step)
            if step.full or step.puts or step.deletes:
                yield step

    async def grant(self, ttl_s: int) -> Lease:
        self._enter()
        lease_id = next(self._lease_ids)
        self._leases[lease_id] = _LeaseRecord(ttl_s, self._clock.monotonic() + ttl_s)
        self._wake()  # a waiting watch must now look for leases that run out
        return _MemoryLease(self, lease_id)

    # What a test does from outside.

    def compact(self, revision: int = 0) -> None:
        """Forget what was before `revision` (0 = now). Watches that are behind it list again."""
        revision = revision or self._revision
        self._base = dict(self._entries_at(revision))
        self._compacted = revision
        self._history = [(at, event) for at, event in self._history if at > revision]

    def expire_leases(self) -> None:
        """Delete the keys of the leases that ran out by the clock."""
        now = self._clock.monotonic()
        for lease_id in [lease_id for lease_id, lease in self._leases.items() if lease.deadline <= now]:
            self.end_lease(lease_id)

    # What its leases do.

    def renew_lease(self, lease_id: int) -> None:
        self._enter()
        lease = self._leases.get(lease_id)
        if lease is None:
            raise _lease_gone(lease_id)
        lease.deadline = self._clock.monotonic() + lease.ttl_s

    def end_lease(self, lease_id: int) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is not None and lease.keys:
            self._write([Delete(key) for key in sorted(lease.keys)])

    def has_lease(self, lease_id: int) -> bool:
        self.expire_leases()
        return lease_id in self._leases

    def _enter(self) -> None:
        if self._closed:
            raise MeshError(ErrorCode.UNAVAILABLE, "the store is closed", subject="memory store")
        self.expire_leases()

    def _holds(self, check: Check) -> bool:
        entry = self._entries.get(check.key)
        mod_revision = entry.mod_revision if entry else 0
        return mod_revision == check.revision if isinstance(check, ModRevisionIs) else mod_revision < check.revision

    def _write(self, ops: Sequence[Op]) -> None:
        effective = [op for op in ops if isinstance(op, Put) or op.key in self._entries]
        if not effective:
            return
        self._revision += 1
        for op in effective:
            self._history.append((self._revision, (op.key, self._apply(op))))
        if self._revision - self._compacted > 2 * self._retention:
            self.compact(self._revision - self._retention)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _apply(self, op: Op) -> Entry | None:
        old = self._entries.pop(op.key, None)
        if old is not None and old.lease in self._leases:
            self._leases[old.lease].keys.discard(op.key)
        if isinstance(op, Delete):
            return None
        entry = Entry(op.key, op.value, old.create_revision if old else self._revision, self._revision, op.lease)
        self._entries[op.key] = entry
        if op.lease:
            self._leases[op.lease].keys.add(op.key)
        return replace(entry)

    def _entries_at(self, revision: int) -> Mapping[str, Entry]:
        if revision < self._compacted:
            raise MeshError(
                ErrorCode.COMPACTED,
                f"revision {revision} is no longer kept, the oldest is {self._compacted}",
                subject="memory store",
            )
        entries = dict(self._base)
        for at, (key, entry) in self._history:
            if at > revision:
                break
            if entry is None:
                entries.pop(key, None)
            else:
                entries[key] = entry
        return entries

    async def _wait_for_change(self) -> None:
        changed = self._changed
        try:
            async with asyncio.timeout(_LEASE_LOOK_S if self._leases else None):
                await changed.wait()
        except TimeoutError:
            return


class _MemoryLease:
    """A lease of a MemoryStore."""

    def __init__(self, store: MemoryStore, lease_id: int) -> None:
        self._store = store
        self._id = lease_id

    @property
    def id(self) -> int:
        return self._id

    @property
    def lost(self) -> bool:
        return not self._store.has_lease(self._id)

    async def keep_alive(self) -> None:
        self._store.renew_lease(self._id)

    async def revoke(self) -> None:
        self._store.end_lease(self._id)


def _lease_gone(lease_id: int) -> MeshError:
    return MeshError(ErrorCode.NOT_FOUND, "the lease does not exist or has run out", subject=f"lease {lease_id}")
