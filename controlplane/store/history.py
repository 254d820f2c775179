"""What objects were before each apply: enough to show a change and to undo it, kept for a while.

Owns:   the content beside an apply record, reading it, the horizon, what is pruned and when a store is full of it.
Not:    the records themselves (applies), what a rollback makes of it (controlplane.api.history).
Source: decision 16 (records), 17 (a rollback restores), 19 (it is part of the apply's own transaction).

An apply keeps only what stood BEFORE it: what stands after is what stood before the next apply of the same object, or
what is stored now. So creating objects costs nothing, and changing them costs their compressed former self.

Invariants: the oldest goes first, so that whatever is kept can be undone step by step from now; `horizon` is the
            youngest revision that was pruned, written in the same transaction, so "older than what is kept" is never
            mistaken for "nothing was there".
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.store.applies import ApplyRecord, read_records
from controlplane.store.keys import HISTORY_HORIZON, apply_key, history_key
from controlplane.store.protocol import Check, ConfigStore, Delete, ModRevisionIs, Op, Put
from mesh.errors import ErrorCode, MeshError

# A record costs two operations; with the horizon that fits an etcd's default of 128.
_RECORDS_PER_TRANSACTION = 60
_MAX_CONTENT_BYTES = 256 * 1024 * 1024  # unpacked; far above what a transaction can have held

KEPT_HINT = "meshctl history lists what is kept; history_records, history_days and history_mib are the settings for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much is kept: whichever bound is reached first. `age_s` counts from now, `content_bytes` is the sum of what
    stands beside the records, compressed."""

    records: int = 1000
    age_s: float = 30 * 86400.0
    content_bytes: int = 64 * 1024 * 1024


def pack(before: Sequence[bytes | None]) -> bytes:
    """The stored values of an apply's objects before it, in the record's order; None = it did not exist.

    Nothing for an apply that only creates: the record says that by itself.
    """
    if not any(value is not None for value in before):
        return b""
    texts = [None if value is None else value.decode(errors="surrogateescape") for value in before]
    return zlib.compress(json.dumps(texts, separators=(",", ":")).encode(), 6)


def unpack(content: bytes) -> tuple[bytes | None, ...]:
    """The reverse. Raises UNREADABLE."""
    try:
        inflate = zlib.decompressobj()
        texts = json.loads(inflate.decompress(content, _MAX_CONTENT_BYTES))
        return tuple(None if text is None else text.encode(errors="surrogateescape") for text in texts)
    except (zlib.error, ValueError, TypeError, AttributeError) as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error!r}, expected the content of an apply") from error


async def content_of(store: ConfigStore, record: ApplyRecord) -> tuple[bytes | None, ...]:
    """What the objects of a record were before it, in their order. Raises COMPACTED when it is no longer kept."""
    if not record.content_bytes and all(item.action == "created" for item in record.objects):
        return (None,) * len(record.objects)
    entry = await store.get(history_key(record.id))
    if entry is None:
        raise MeshError(
            ErrorCode.COMPACTED,
            f"what revision {record.revision} changed is no longer kept",
            subject=f"revision {record.revision}",
            hint=KEPT_HINT,
        )
    found = unpack(entry.value)
    if len(found) != len(record.objects):
        raise MeshError(
            ErrorCode.UNREADABLE, f"found {len(found)} values, expected {len(record.objects)}", subject=entry.key
        )
    return found


async def horizon(store: ConfigStore) -> int:
    """The youngest revision whose record was pruned; 0 = none ever was. What is after it can be restored."""
    return (await _read_horizon(store))[0]


async def _read_horizon(store: ConfigStore) -> tuple[int, int]:
    """The horizon, and the mod_revision of its key."""
    entry = await store.get(HISTORY_HORIZON)
    if entry is None:
        return 0, 0
    try:
        return int(json.loads(entry.value)["revision"]), entry.mod_revision
    except (ValueError, KeyError, TypeError) as error:
        raise MeshError(
            ErrorCode.UNREADABLE, f"found {entry.value[:80]!r}, expected a revision", subject=HISTORY_HORIZON
        ) from error


def surplus(records: Sequence[ApplyRecord], retention: Retention, now_ms: int) -> Sequence[ApplyRecord]:
    """The records beyond the retention, oldest first. `records`: oldest revision first. Pure."""
    kept, kept_bytes = 0, 0
    for record in reversed(records):
        kept_bytes += record.content_bytes
        too_old = now_ms - record.at_ms > retention.age_s * 1000
        if kept >= retention.records or kept_bytes > retention.content_bytes or too_old:
            break
        kept += 1
    return records[: len(records) - kept]


async def prune(store: ConfigStore, retention: Retention, *, now_ms: int, most: int = 600) -> int:
    """Delete what is beyond the retention, at most `most` records. Returns how many; a rival replica's are not ours."""
    found = await read_records(store)
    due = surplus(found.records, retention, now_ms)[:most]
    done = 0
    for start in range(0, len(due), _RECORDS_PER_TRANSACTION):
        some = due[start : start + _RECORDS_PER_TRANSACTION]
        _, seen = await _read_horizon(store)
        if not (await store.transact(*_pruning(some, seen))).succeeded:
            break
        done += len(some)
    return done


def _pruning(some: Sequence[ApplyRecord], seen: int) -> tuple[list[Check], list[Op]]:
    value = json.dumps({"revision": some[-1].revision}).encode()
    ops: list[Op] = [Delete(key) for record in some for key in (apply_key(record.id), history_key(record.id))]
    return [ModRevisionIs(HISTORY_HORIZON, seen)], [*ops, Put(HISTORY_HORIZON, value)]
