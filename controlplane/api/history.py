"""Who changed what and how, and what it takes to undo it: apply records joined with what objects were before them.

Owns:   pages of records, one change with both sides of each object, the changes of a rollback.
Not:    storing and pruning (controlplane.store.history), committing a rollback (operations), shapes (history_json).
Source: decisions 16 and 17.

    object   |--- value 1 ---[R1]--- value 2 ---[R2]--- value 3 --- now
    kept                      1                  2       (stored)
    "as of revision R" of an object is what is kept at its first change after R; without one, what is stored.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.api.changes import Restore
from controlplane.policy.kinds import KINDS, KindInfo
from controlplane.store import history
from controlplane.store.applies import AppliedObject, ApplyRecord, Records, read_records
from controlplane.store.keys import ObjectKey
from controlplane.store.protocol import ConfigStore
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

MAX_PAGE = 1000
_READS_AT_ONCE = 16

Contents = dict[str, tuple[bytes | None, ...]]  # by record id


@dataclass(frozen=True, slots=True)
class Wanted:
    """The object that a history is asked for; `namespace` empty = in any."""

    kind: KindInfo
    namespace: str
    name: str

    def matches(self, ref: ObjectRef) -> bool:
        return (ref.group, ref.kind, ref.name) == (self.kind.group, self.kind.kind, self.name) and (
            not self.namespace or ref.namespace == self.namespace
        )


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Records, newest first; `next` continues after them, empty = these were the last that are kept."""

    records: tuple[ApplyRecord, ...]
    next: str = ""


@dataclass(frozen=True, slots=True)
class ChangedObject:
    """Both sides of one object; None = it did not exist. Server fields included, resourceVersion and status not."""

    applied: AppliedObject
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """A record with what it changed."""

    record: ApplyRecord
    objects: tuple[ChangedObject, ...]


def wanted_object(text: str) -> Wanted:
    """Of `VirtualService default/reviews`, `vs/reviews` or `vs/default/reviews`. Raises UNREADABLE."""
    word, _, rest = text.partition(" ") if " " in text else text.partition("/")
    namespace, _, name = rest.rpartition("/")
    kind = KINDS.by_word(word)
    if kind is None or not name or "/" in namespace:
        raise MeshError(
            ErrorCode.UNREADABLE, f"found {text[:80]!r}, expected KIND/NAME or KIND/NAMESPACE/NAME", subject="object"
        )
    return Wanted(kind, namespace, name)


class History:
    """Reads the history of one store."""

    def __init__(self, store: ConfigStore) -> None:
        self._store = store

    async def page(self, wanted: Wanted | None = None, *, limit: int = 0, continue_: str = "") -> HistoryPage:
        """Records newest first, those of one object when it is given. `limit` 0 = as many as a page may have."""
        before = _parse_continue(continue_)
        found = [
            record
            for record in reversed((await read_records(self._store)).records)
            if (not before or record.revision < before)
            and (wanted is None or any(wanted.matches(item.ref) for item in record.objects))
        ]
        size = min(limit or MAX_PAGE, MAX_PAGE)
        return HistoryPage(tuple(found[:size]), str(found[size - 1].revision) if len(found) > size else "")

    async def change(self, revision: int) -> RecordedChange:
        """What a revision changed. Raises NOT_FOUND for one that changed no object, COMPACTED for one of long ago."""
        found = await read_records(self._store)
        index = next((i for i, record in enumerate(found.records) if record.revision == revision), None)
        if index is None:
            await self._explain_missing(found, revision)
            raise _no_change(found, revision)
        record, later = found.records[index], found.records[index + 1 :]
        following = {item.ref: _first(later, item.ref) for item in record.objects}
        contents = await self._contents([record, *(other for other, _ in filter(None, following.values()))])
        sides = zip(record.objects, contents[record.id], strict=True)
        objects = [
            ChangedObject(item, _manifest(before), _manifest(await self._after(item.ref, following, contents, found)))
            for item, before in sides
        ]
        return RecordedChange(record, tuple(objects))

    async def restores(self, revision: int) -> Sequence[Restore]:
        """What makes every object what it was as of `revision`: those that records say were changed since."""
        found = await read_records(self._store)
        await self._explain_missing(found, revision)
        since = [record for record in found.records if record.revision > revision]
        first: dict[ObjectRef, tuple[ApplyRecord, int]] = {}
        generations: dict[ObjectRef, int] = {}
        for record in since:
            for index, item in enumerate(record.objects):
                first.setdefault(item.ref, (record, index))
                generations[item.ref] = max(generations.get(item.ref, 0), item.generation)
        contents = await self._contents([record for record, _ in first.values()])
        return [
            Restore(
                key=_key(ref), ref=ref, before=contents[record.id][index], generation=generations[ref]
            )
            for ref, (record, index) in sorted(first.items())
        ]  # fmt: skip

    async def _explain_missing(self, found: Records, revision: int) -> None:
        """Raise when the history cannot know everything that happened after `revision`."""
        if revision > found.revision:
            raise MeshError(
                ErrorCode.UNREADABLE, f"found {revision}, but the store is at revision {found.revision}",
                subject="revision",
            )  # fmt: skip
        oldest = max(await history.horizon(self._store), found.damaged)
        if revision < oldest:
            raise MeshError(
                ErrorCode.COMPACTED,
                f"the history before revision {oldest} is no longer kept",
                subject=f"revision {revision}",
                hint=history.KEPT_HINT,
            )

    async def _contents(self, records: Iterable[ApplyRecord]) -> Contents:
        wanted = list({record.id: record for record in records}.values())
        contents: Contents = {}
        for start in range(0, len(wanted), _READS_AT_ONCE):
            some = wanted[start : start + _READS_AT_ONCE]
            read = await asyncio.gather(*(history.content_of(self._store, record) for record in some))
            contents.update(zip((record.id for record in some), read, strict=True))
        return contents

    async def _after(
        self,
        ref: ObjectRef,
        following: dict[ObjectRef, tuple[ApplyRecord, int] | None],
        contents: Contents,
        found: Records,
    ) -> bytes | None:
        later = following[ref]
        if later is not None:
            return contents[later[0].id][later[1]]
        key = _key(ref).object_key()
        listing = await self._store.list(key, at_revision=found.revision)
        return next((entry.value for entry in listing.entries if entry.key == key), None)


def _first(records: Sequence[ApplyRecord], ref: ObjectRef) -> tuple[ApplyRecord, int] | None:
    """The first record that has the object, and its place in it."""
    for record in records:
        for index, item in enumerate(record.objects):
            if item.ref == ref:
                return record, index
    return None


def _key(ref: ObjectRef) -> ObjectKey:
    kind = KINDS.by_group_kind(ref.group, ref.kind)
    if kind is None:
        raise MeshError(ErrorCode.CONFLICT, "this version does not know its kind", subject=str(ref))
    return ObjectKey(kind.group, kind.plural, ref.namespace, ref.name)


def _manifest(value: bytes | None) -> dict[str, Any] | None:
    """A stored value; of what is no manifest (it was damaged) its text."""
    if value is None:
        return None
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"unreadable": value.decode(errors="replace")}


def _no_change(found: Records, revision: int) -> MeshError:
    earlier = max((record.revision for record in found.records if record.revision < revision), default=0)
    hint = f"the last change before it is revision {earlier}" if earlier else "meshctl history lists the changes"
    return MeshError(ErrorCode.NOT_FOUND, "changed no object", subject=f"revision {revision}", hint=hint)


def _parse_continue(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) <= 19):
        raise MeshError(ErrorCode.UNREADABLE, "found a continue token that is not ours", subject="continue")
    return int(token or 0)
