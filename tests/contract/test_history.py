"""What is kept of objects' former selves on both stores: in the same transaction, for a while, with a horizon."""

import pytest

from controlplane.store import applies, history
from controlplane.store.history import Retention
from controlplane.store.keys import APPLIES, HISTORY_HORIZON, apply_key, history_key
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import ConfigStore, Delete, ModRevisionIs, Put
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000


def record(number: int, *, age_days: float = 0.0, action: str = "configured") -> applies.ApplyRecord:
    ref = ObjectRef("networking.istio.io", "VirtualService", "default", f"vs-{number}")
    at_ms = int(NOW_MS - age_days * DAY_MS)
    return applies.ApplyRecord(
        id=applies.ulid(at_ms / 1000, bytes([number] * 10)),
        author="ann",
        at_ms=at_ms,
        objects=(applies.AppliedObject(ref=ref, action=action, generation=1),),
        reason="rollback to 7" if number % 2 else "",
    )


async def commit(store: ConfigStore, made: applies.ApplyRecord, *before: bytes | None) -> int:
    return (await applies.commit(store, made, [], [], history.pack(before))).revision


async def clean(store: ConfigStore) -> None:
    keys = [entry.key for prefix in (APPLIES, "/gossamer/history/") for entry in (await store.list(prefix)).entries]
    await store.transact([], [Delete(key) for key in keys])


async def test_what_was_before_comes_back_as_it_was(store: ConfigStore) -> None:
    made = record(1)
    value = '{"näme":"a"}'.encode() + b"\xff"
    revision = await commit(store, made, value)
    (found,) = await applies.records(store)
    assert (found.revision, found.reason) == (revision, "rollback to 7")
    assert found.content_bytes == len(history.pack([value]))
    assert await history.content_of(store, found) == (value,)
    await clean(store)


async def test_an_apply_that_creates_costs_nothing_but_its_record(store: ConfigStore) -> None:
    made = record(2, action="created")
    await commit(store, made, None)
    assert await store.get(history_key(made.id)) is None
    (found,) = await applies.records(store)
    assert await history.content_of(store, found) == (None,)
    await clean(store)


async def test_without_the_change_nothing_is_kept(store: ConfigStore) -> None:
    made = record(3)
    done = await applies.commit(store, made, [ModRevisionIs("/nothing", 5)], [], history.pack([b"x"]))
    assert not done.succeeded
    assert await store.get(history_key(made.id)) is None


async def test_content_that_is_gone_or_damaged_says_so(store: ConfigStore) -> None:
    made = record(4)
    await commit(store, made, b"x")
    (found,) = await applies.records(store)
    await store.transact([], [Put(history_key(made.id), b"no zlib")])
    with pytest.raises(MeshError) as failure:
        await history.content_of(store, found)
    assert failure.value.code is ErrorCode.UNREADABLE
    await store.transact([], [Put(history_key(made.id), history.pack([b"x", b"y"]))])
    with pytest.raises(MeshError, match="found 2 values, expected 1"):
        await history.content_of(store, found)
    await store.transact([], [Delete(history_key(made.id))])
    with pytest.raises(MeshError) as failure:
        await history.content_of(store, found)
    assert failure.value.code is ErrorCode.COMPACTED
    await clean(store)


async def test_the_oldest_go_first_with_their_content_and_leave_a_horizon(store: ConfigStore) -> None:
    revisions = [await commit(store, record(number), b"%d" % number) for number in range(10, 80)]
    assert await history.horizon(store) == 0
    # More than one transaction takes; `most` bounds one run.
    assert await history.prune(store, Retention(records=3), now_ms=NOW_MS, most=62) == 62
    assert await history.prune(store, Retention(records=3), now_ms=NOW_MS) == 5
    assert await history.prune(store, Retention(records=3), now_ms=NOW_MS) == 0
    assert [item.revision for item in await applies.records(store)] == revisions[-3:]
    assert await history.horizon(store) == revisions[-4]
    assert await store.get(history_key(record(76).id)) is None
    assert await store.get(history_key(record(77).id)) is not None
    await clean(store)


async def test_a_rival_replica_prunes_only_once(store: ConfigStore) -> None:
    """The horizon never goes back: who read it before the other wrote it does nothing."""
    for number in (1, 2):
        await commit(store, record(number), b"x")
    found = await applies.read_records(store)
    late = history._pruning(found.records[:1], 0)
    assert await history.prune(store, Retention(records=0), now_ms=NOW_MS) == 2
    horizon = await history.horizon(store)
    assert not (await store.transact(*late)).succeeded
    assert await history.horizon(store) == horizon
    await clean(store)


async def test_by_age_and_by_size() -> None:
    records = [record(number, age_days=9 - number) for number in range(1, 9)]
    old = history.surplus(records, Retention(age_s=4.5 * 86400), NOW_MS)
    assert [item.id for item in old] == [item.id for item in records[:4]]
    sized = [applies.ApplyRecord(**{**_fields(item), "content_bytes": 10}) for item in records]
    assert len(history.surplus(sized, Retention(content_bytes=35), NOW_MS)) == 5
    assert len(history.surplus(sized, Retention(content_bytes=5), NOW_MS)) == 8
    assert history.surplus((), Retention(), NOW_MS) == ()


def _fields(item: applies.ApplyRecord) -> dict[str, object]:
    return {name: getattr(item, name) for name in ("id", "author", "at_ms", "objects")}


async def test_a_damaged_record_or_horizon_is_not_taken_for_nothing() -> None:
    store = MemoryStore()
    await commit(store, record(1), b"x")
    damaged = (await store.transact([], [Put(apply_key("zz"), b"{")])).revision
    assert (await applies.read_records(store)).damaged == damaged
    await store.transact([], [Put(HISTORY_HORIZON, b"[]")])
    with pytest.raises(MeshError) as failure:
        await history.horizon(store)
    assert failure.value.code is ErrorCode.UNREADABLE


async def test_records_stand_in_the_order_of_their_revisions_whatever_the_clocks_say() -> None:
    store = MemoryStore()
    late, early = record(1, age_days=0), record(2, age_days=1)
    await commit(store, late, b"x")
    await commit(store, early, b"x")
    assert [item.id for item in await applies.records(store)] == [late.id, early.id]
