"""Rollouts in the store: begun, moved and ended by transactions, so that any replica may do each step.

Owns:   the record and the key of the one that is under way; ending with the objects written; how many ended ones stay.
Not:    the forms (model.rollout_record), when a rollout moves (model.rollout_steps).
Source: decision 24.

Invariants:
  ROLLOUT_ACTIVE stands exactly while a record is active; both change in one transaction.
  A record moves only from the revision that was read: of two replicas that lead, one loses.
"""

import asyncio
from collections.abc import Sequence

from controlplane.model.rollout_observation import Report
from controlplane.model.rollout_record import (
    Active,
    Planned,
    Record,
    decode_active,
    decode_record,
    decode_report,
    encode_active,
    encode_record,
)
from controlplane.policy.kinds import KINDS
from controlplane.policy.objects import encode
from controlplane.store import applies, history
from controlplane.store.applies import ApplyRecord
from controlplane.store.keys import ROLLOUT_ACTIVE, ROLLOUT_REPORTS, ROLLOUTS, ObjectKey, rollout_key
from controlplane.store.protocol import Check, ConfigStore, Delete, Entry, ModRevisionIs, Op, Put, TxnResult
from controlplane.store.readable import readable
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

# Both below what every etcd takes in the transaction that ends a rollout (store.limits), with what is ours in it.
MAX_OBJECTS = 100
MAX_BYTES = 512 * 1024
KEPT_RECORDS = 50
_PRUNED_AT_ONCE = 10

Stored = tuple[Record, int]  # with its mod_revision


async def under_way(store: ConfigStore) -> tuple[Active | None, int]:
    """The rollout that is under way and the mod_revision of the key that says so; (None, 0) when there is none."""
    entry = await store.get(ROLLOUT_ACTIVE)
    return (None, 0) if entry is None else (decode_active(entry.value), entry.mod_revision)


def in_the_way(active: Active, refs: Sequence[ObjectRef]) -> MeshError | None:
    """Why these objects cannot be written now; None when the rollout does not hold them."""
    held = sorted(str(ref) for ref in refs if ref in active.objects)
    if not held:
        return None
    return MeshError(
        ErrorCode.CONFLICT,
        f"rollout {active.id} is under way with this object; nothing was changed",
        subject=", ".join(held),
        hint=f"wait for it, or meshctl rollout abort {active.id}",
    )


async def load(store: ConfigStore, id_: str) -> Stored:
    """One rollout. Raises NOT_FOUND."""
    entry = await store.get(rollout_key(id_))
    if entry is None:
        raise MeshError(
            ErrorCode.NOT_FOUND, "not found", subject=f"rollout {id_[:64]}", hint="GET /mesh/v1/rollouts lists them"
        )
    return _decoded(entry)


async def load_all(store: ConfigStore) -> list[Stored]:
    """All that are kept and can be read, newest first."""
    listing = await store.list(ROLLOUTS)
    return list(reversed(readable(listing.entries, _decoded)))


async def begin(store: ConfigStore, record: Record) -> int:
    """Store a new rollout; its revision. Raises CONFLICT when one is under way, or an object was changed meanwhile."""
    value = encode_record(record)
    _check_size(record, len(value))
    active = Active(record.rollout.id, frozenset(item.ref for item in record.objects))
    checks: list[Check] = [ModRevisionIs(ROLLOUT_ACTIVE, 0), *_as_planned(record.objects)]
    ops: list[Op] = [Put(rollout_key(record.rollout.id), value), Put(ROLLOUT_ACTIVE, encode_active(active))]
    done = await store.transact(checks, [*ops, *await _surplus(store)])
    if done.succeeded:
        return done.revision
    other, _ = await under_way(store)
    if other is not None:
        raise MeshError(
            ErrorCode.CONFLICT,
            "another rollout is under way, and there is one at a time",
            subject=f"rollout {other.id}",
            hint=f"wait for it, or meshctl rollout abort {other.id}",
        )
    raise MeshError(ErrorCode.CONFLICT, "others changed the same objects meanwhile", hint="try again")


async def move(store: ConfigStore, record: Record, revision: int) -> bool:
    """Store the record's next state. False when it has moved on from `revision` meanwhile."""
    key = rollout_key(record.rollout.id)
    ops: list[Op] = [Put(key, encode_record(record))]
    if not record.rollout.state.active:
        ops.append(Delete(ROLLOUT_ACTIVE))
    return (await store.transact([ModRevisionIs(key, revision)], ops)).succeeded


async def finish(
    store: ConfigStore, record: Record, ended: Record, revision: int, applied: ApplyRecord
) -> TxnResult:  # fmt: skip
    """Write the objects of `record` and its end in one transaction; not done when either has moved on meanwhile."""
    key = rollout_key(record.rollout.id)
    keys = [_key_of(item.ref) for item in record.objects]
    before = await asyncio.gather(*(store.get(own) for own in keys))
    puts = [
        Put(own, encode(item.object)) for own, item in zip(keys, record.objects, strict=True) if item.object is not None
    ]
    return await applies.commit(
        store,
        applied,
        [ModRevisionIs(key, revision), *_as_planned(record.objects)],
        [*puts, Put(key, encode_record(ended)), Delete(ROLLOUT_ACTIVE)],
        history.pack([entry.value if entry is not None else None for entry in before]),
    )


async def changed_meanwhile(store: ConfigStore, record: Record) -> tuple[ObjectRef, ...]:
    """The objects that are not any more what the rollout was planned on."""
    entries = await asyncio.gather(*(store.get(_key_of(item.ref)) for item in record.objects))
    return tuple(
        item.ref
        for item, entry in zip(record.objects, entries, strict=True)
        if (entry.mod_revision if entry is not None else 0) != item.revision
    )


def _as_planned(objects: Sequence[Planned]) -> list[Check]:
    return [ModRevisionIs(_key_of(item.ref), item.revision) for item in objects]


def _key_of(ref: ObjectRef) -> str:
    info = KINDS.by_group_kind(ref.group, ref.kind)
    if info is None:
        raise MeshError(ErrorCode.UNREADABLE, "this version does not know the kind", subject=str(ref))
    return ObjectKey(ref.group, info.plural, ref.namespace, ref.name).object_key()


def _check_size(record: Record, size: int) -> None:
    if len(record.objects) > MAX_OBJECTS or size > MAX_BYTES:
        raise MeshError(
            ErrorCode.TOO_LARGE,
            f"found {len(record.objects)} objects with {size} bytes, expected at most {MAX_OBJECTS} objects and "
            f"{MAX_BYTES} bytes in one rollout",
            subject="rollout",
        )


async def _surplus(store: ConfigStore) -> list[Op]:
    listing = await store.list(ROLLOUTS)
    surplus = max(len(listing.entries) + 1 - KEPT_RECORDS, 0)
    return [Delete(entry.key) for entry in listing.entries[: min(surplus, _PRUNED_AT_ONCE)]]


def _decoded(entry: Entry) -> Stored:
    return decode_record(entry.key.removeprefix(ROLLOUTS), entry.value), entry.mod_revision


async def load_reports(store: ConfigStore) -> list[Report]:
    """What replicas report, as far as it can be read."""
    listing = await store.list(ROLLOUT_REPORTS)
    return readable(listing.entries, lambda entry: decode_report(entry.key.removeprefix(ROLLOUT_REPORTS), entry.value))
