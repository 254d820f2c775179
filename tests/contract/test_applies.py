"""Apply records and the schema key on both stores; a lost answer is found out."""

from collections.abc import Sequence

import pytest

from controlplane.store import applies
from controlplane.store.keys import APPLIES, SCHEMA
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Check, ConfigStore, Delete, ModRevisionIs, Op, Put, TxnResult
from controlplane.store.schema import ensure_schema
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

pytestmark = pytest.mark.asyncio(loop_scope="module")

REF = ObjectRef("networking.istio.io", "VirtualService", "default", "reviews")


def record(number: int) -> applies.ApplyRecord:
    return applies.ApplyRecord(
        id=applies.ulid(1_790_000_000 + number, bytes([number % 256] * 10)),
        author="ann",
        at_ms=1_790_000_000_000 + number,
        objects=(applies.AppliedObject(ref=REF, action="configured", generation=3),),
    )


class LossyStore(MemoryStore):
    """Loses the answer of the next transaction, before or after it was made."""

    def __init__(self, *, made: bool, away: int = 0) -> None:
        super().__init__()
        self._made = made
        self._lose = True
        self._away = away

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> TxnResult:
        if self._lose:
            self._lose = False
            if self._made:
                await super().transact(checks, ops)
            raise MeshError(ErrorCode.UNAVAILABLE, "connection reset", hint="start it")
        if self._away:
            self._away -= 1
            raise MeshError(ErrorCode.UNAVAILABLE, "still away")
        return await super().transact(checks, ops)


async def test_a_ulid_sorts_by_time_and_keeps_its_entropy() -> None:
    # The example of the ULID specification has this time: 01ARYZ6S41 is 1469918176385 ms.
    assert applies.ulid(1469918176.385, bytes(10)) == "01ARYZ6S41" + "0" * 16
    assert applies.ulid(1469918176.385, b"\xff" * 10) == "01ARYZ6S41" + "Z" * 16
    made = [applies.ulid(1_790_000_000 + i / 1000, bytes([255 - i] * 10)) for i in range(100)]
    assert made == sorted(made)


async def test_the_record_comes_with_the_change(store: ConfigStore, prefix: str) -> None:
    mine = record(1)
    result = await applies.commit(store, mine, [ModRevisionIs(prefix + "a", 0)], [Put(prefix + "a", b"1")])
    assert result.succeeded
    found = [item for item in await applies.records(store) if item.id == mine.id]
    assert [item.revision for item in found] == [result.revision]
    assert (found[0].author, found[0].at_ms, found[0].objects) == (mine.author, mine.at_ms, mine.objects)
    await store.transact([], [Delete(APPLIES + mine.id)])


async def test_no_record_without_the_change(store: ConfigStore, prefix: str) -> None:
    result = await applies.commit(store, record(2), [ModRevisionIs(prefix + "a", 5)], [Put(prefix + "a", b"1")])
    assert not result.succeeded
    assert await store.get(APPLIES + record(2).id) is None


@pytest.mark.parametrize("away", [0, 1])
async def test_a_lost_answer_of_a_change_that_was_made(away: int) -> None:
    store = LossyStore(made=True, away=away)
    result = await applies.commit(store, record(1), [], [Put("/a", b"1")])
    entry = await store.get("/a")
    assert entry is not None
    assert result == TxnResult(True, entry.mod_revision)
    assert len(await applies.records(store)) == 1


async def test_a_lost_answer_of_a_change_that_was_not_made_is_fenced() -> None:
    store = LossyStore(made=False)
    with pytest.raises(MeshError, match="nothing was changed") as failure:
        await applies.commit(store, record(1), [], [Put("/a", b"1")])
    assert failure.value.code is ErrorCode.UNAVAILABLE
    # The transaction arrives late: the fence keeps it out.
    assert not (await applies.commit(store, record(1), [], [Put("/a", b"1")])).succeeded
    assert await store.get("/a") is None
    assert await applies.records(store) == ()


async def test_a_store_that_stays_away_leaves_the_question_open() -> None:
    store = LossyStore(made=True, away=100)
    with pytest.raises(MeshError, match="may or may not have been made") as failure:
        await applies.commit(store, record(1), [], [Put("/a", b"1")])
    assert record(1).id in failure.value.hint
    assert failure.value.hint.startswith("start it; "), "the remedy of what the store said is not lost"


async def test_the_schema_is_written_once(store: ConfigStore) -> None:
    first = await ensure_schema(store, new_store_id=lambda: "one")
    assert await ensure_schema(store, new_store_id=lambda: "two") == first


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (b'{"storeId":"x","version":2}', ErrorCode.SETTINGS, "newer gossamer-controlplane"),
        (b"[]", ErrorCode.UNREADABLE, "something else"),
        (b"\xff", ErrorCode.UNREADABLE, "something else"),
    ],
)
async def test_a_schema_that_is_not_ours_is_refused(value: bytes, code: ErrorCode, words: str) -> None:
    store = MemoryStore()
    await store.transact([], [Put(SCHEMA, value)])
    with pytest.raises(MeshError) as failure:
        await ensure_schema(store, new_store_id=lambda: "x")
    assert failure.value.code is code
    assert words in failure.value.hint
