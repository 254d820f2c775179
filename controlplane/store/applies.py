"""Apply records: who changed which objects and when, written in the same transaction as the change (decision 16).

Owns:   the record and its key, committing with a lost answer resolved, reading the records.
Not:    what an apply checks or writes: the API hands in its own checks and operations; what the objects were before,
        and for how long all of it is kept (history).

Invariants:
  A record stands in the store exactly when its change does; its revision is its own mod_revision.
  `commit` answers yes or no, never "perhaps": when the answer of the transaction is lost, it writes a fence under
  the same key if nothing stands there. If the fence is refused, the change was made; if it stands, the change can
  never be made any more, because its transaction demands that the key be absent.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from controlplane.store.keys import APPLIES, apply_key, history_key
from controlplane.store.protocol import Check, ConfigStore, Entry, ModRevisionIs, Op, Put, TxnResult
from controlplane.store.readable import readable
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FENCE_TTL_S = 3600
_FENCE_TRIES = 3
_FENCE_PAUSE_S = 0.5


def ulid(wall_s: float, entropy: bytes) -> str:
    """A ULID: 48 bits of milliseconds and 80 bits of `entropy` (10 bytes), sorted by time as text."""
    number = (int(wall_s * 1000) & (1 << 48) - 1) << 80 | int.from_bytes(entropy[:10])
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedObject:
    """One object that an apply touched. `action` is created, configured or deleted."""

    ref: ObjectRef
    action: str
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyRecord:
    """One apply. `revision` is 0 until it is read back. `reason` says why it was made, when it was not the author's own
    manifests ("rollback to 42"). `content_bytes`: how much is kept beside the record of what was before."""

    id: str
    author: str
    at_ms: int
    objects: tuple[AppliedObject, ...]
    revision: int = 0
    reason: str = ""
    content_bytes: int = 0

    def encode(self) -> bytes:
        """Canonical JSON."""
        objects = [
            {
                "group": item.ref.group,
                "kind": item.ref.kind,
                "namespace": item.ref.namespace,
                "name": item.ref.name,
                "action": item.action,
                "generation": item.generation,
            }
            for item in self.objects
        ]
        record: dict[str, Any] = {"author": self.author, "atMs": self.at_ms, "objects": objects}
        record.update((("reason", self.reason),) if self.reason else ())
        record.update((("contentBytes", self.content_bytes),) if self.content_bytes else ())
        return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decode_record(entry: Entry) -> ApplyRecord | None:
    """The record in an entry; None for a fence. Raises UNREADABLE when it is neither."""
    try:
        value = json.loads(entry.value)
        if value.get("fence"):
            return None
        return ApplyRecord(
            id=entry.key.removeprefix(APPLIES),
            author=str(value["author"]),
            at_ms=int(value["atMs"]),
            objects=tuple(_applied_object(item) for item in value["objects"]),
            revision=entry.mod_revision,
            reason=str(value.get("reason", "")),
            content_bytes=int(value.get("contentBytes", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MeshError(
            ErrorCode.UNREADABLE, f"found {error!r}, expected an apply record", subject=entry.key
        ) from error


def _applied_object(item: dict[str, str]) -> AppliedObject:
    ref = ObjectRef(item["group"], item["kind"], item["namespace"], item["name"])
    return AppliedObject(ref=ref, action=item["action"], generation=int(item["generation"]))


async def commit(
    store: ConfigStore, record: ApplyRecord, checks: Sequence[Check], ops: Sequence[Op], content: bytes = b""
) -> TxnResult:
    """Make the change, its record and `content` (what was before, history.pack) in one transaction.

    Uses two operations and one check of the limits.
    Raises NO_SPACE when the store is full and nothing was changed.
    Raises UNAVAILABLE only when the change was surely not made, or when the store stays away so long that nobody can
    tell; the message says which.
    """
    key = apply_key(record.id)
    try:
        return await store.transact([ModRevisionIs(key, 0), *checks], [*ops, *_own_ops(record, content)])
    except MeshError as error:
        if error.code is ErrorCode.NO_SPACE:
            return await _although_full(store, key, error)
        if error.code is not ErrorCode.UNAVAILABLE:
            raise
        return await _resolve(store, key, error)


def _own_ops(record: ApplyRecord, content: bytes) -> list[Op]:
    if not content:
        return [Put(apply_key(record.id), record.encode())]
    sized = replace(record, content_bytes=len(content))
    return [Put(apply_key(record.id), sized.encode()), Put(history_key(record.id), content)]


async def _although_full(store: ConfigStore, key: str, full: MeshError) -> TxnResult:
    """etcd refuses a write before it makes it, but for the one that fills it up: that one is made and refused."""
    entry = await store.get(key)
    if entry is not None:
        return TxnResult(True, entry.mod_revision)
    raise MeshError(
        ErrorCode.NO_SPACE, f"nothing was changed: {full.message}", subject=full.subject, hint=full.hint
    ) from full


async def _resolve(store: ConfigStore, key: str, lost: MeshError) -> TxnResult:
    """Find out whether the transaction whose answer was lost was made, and if not, see that it never will be."""
    for attempt in range(_FENCE_TRIES):
        if attempt:
            await asyncio.sleep(_FENCE_PAUSE_S)
        try:
            await _fence(store, key)
            entry = await store.get(key)
        except MeshError:
            # The store is still away; the last error of the loop is not the one that the caller asked about.
            continue
        if entry is not None and decode_record(entry) is not None:
            return TxnResult(True, entry.mod_revision)
        raise MeshError(
            ErrorCode.UNAVAILABLE, f"nothing was changed: {lost.message}", subject=lost.subject, hint=lost.hint
        ) from lost
    raise MeshError(
        ErrorCode.UNAVAILABLE,
        f"the store went away before it answered, so the change may or may not have been made: {lost.message}",
        subject=lost.subject,
        hint="; ".join(
            filter(None, (lost.hint, f"look for apply record {key.removeprefix(APPLIES)} before you try again"))
        ),
    ) from lost


async def _fence(store: ConfigStore, key: str) -> None:
    lease = await store.grant(_FENCE_TTL_S)
    result = await store.transact([ModRevisionIs(key, 0)], [Put(key, b'{"fence":true}', lease.id)])
    if not result.succeeded:
        await lease.revoke()


@dataclass(frozen=True, slots=True)
class Records:
    """The records that are kept and can be read as of the store's `revision`, oldest revision first.

    `damaged`: the youngest revision at which one was written that cannot be read, 0 = none.
    """

    revision: int
    records: tuple[ApplyRecord, ...]
    damaged: int = 0


async def read_records(store: ConfigStore) -> Records:
    """All of them at one revision. Their ids sort by the clocks of the replicas that made them, revisions never lie."""
    listing = await store.list(APPLIES)
    decoded = readable(listing.entries, lambda entry: (entry.key, decode_record(entry)))
    known = {key for key, _ in decoded}
    damaged = max((entry.mod_revision for entry in listing.entries if entry.key not in known), default=0)
    found = sorted((record for _, record in decoded if record is not None), key=lambda record: record.revision)
    return Records(listing.revision, tuple(found), damaged)


async def records(store: ConfigStore) -> tuple[ApplyRecord, ...]:
    """All records that are kept and can be read, oldest first."""
    return (await read_records(store)).records
