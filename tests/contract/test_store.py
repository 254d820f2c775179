"""Every promise of controlplane/store/protocol.py, on the memory store and on a real etcd."""

import asyncio

import pytest

from controlplane.store.limits import TxnLimits
from controlplane.store.protocol import (
    Changes,
    ConfigStore,
    Delete,
    Entry,
    ModRevisionBelow,
    ModRevisionIs,
    Put,
)
from mesh.errors import ErrorCode, MeshError
from tests.contract.conftest import compact, take

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def put(store: ConfigStore, key: str, value: bytes = b"v", lease: int = 0) -> int:
    result = await store.transact([], [Put(key, value, lease)])
    assert result.succeeded
    return result.revision


async def test_a_key_that_was_never_written_is_none(store: ConfigStore, prefix: str) -> None:
    assert await store.get(prefix + "a") is None


async def test_an_entry_carries_its_revisions(store: ConfigStore, prefix: str) -> None:
    created = await put(store, prefix + "a", b"1")
    changed = await put(store, prefix + "a", b"2")

    assert await store.get(prefix + "a") == Entry(prefix + "a", b"2", created, changed)
    assert changed == created + 1


async def test_a_deleted_key_starts_anew(store: ConfigStore, prefix: str) -> None:
    await put(store, prefix + "a")
    await store.transact([], [Delete(prefix + "a")])
    assert await store.get(prefix + "a") is None

    again = await put(store, prefix + "a")
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert (entry.create_revision, entry.mod_revision) == (again, again)


async def test_a_transaction_is_one_revision(store: ConfigStore, prefix: str) -> None:
    result = await store.transact([], [Put(prefix + "a", b"1"), Put(prefix + "b", b"2")])
    entries = (await store.list(prefix)).entries
    assert [entry.mod_revision for entry in entries] == [result.revision, result.revision]


async def test_a_transaction_that_changes_nothing_makes_no_revision(store: ConfigStore, prefix: str) -> None:
    before = await put(store, prefix + "a")
    result = await store.transact([], [Delete(prefix + "absent")])
    assert (result.succeeded, result.revision) == (True, before)


async def test_a_check_that_fails_writes_nothing(store: ConfigStore, prefix: str) -> None:
    revision = await put(store, prefix + "a", b"1")
    result = await store.transact(
        [ModRevisionIs(prefix + "a", revision), ModRevisionIs(prefix + "b", 7)],
        [Put(prefix + "a", b"2"), Put(prefix + "c", b"3")],
    )
    assert (result.succeeded, result.revision) == (False, revision)
    assert [entry.value for entry in (await store.list(prefix)).entries] == [b"1"]


async def test_create_if_absent_lets_one_win(store: ConfigStore, prefix: str) -> None:
    results = await asyncio.gather(
        *(store.transact([ModRevisionIs(prefix + "a", 0)], [Put(prefix + "a", bytes([i]))]) for i in range(10))
    )
    assert sum(result.succeeded for result in results) == 1


@pytest.mark.parametrize(("offset", "holds"), [(-1, False), (0, False), (1, True), (5, True)])
async def test_mod_revision_below(store: ConfigStore, prefix: str, offset: int, holds: bool) -> None:
    revision = await put(store, prefix + "a")
    result = await store.transact([ModRevisionBelow(prefix + "a", revision + offset)], [Put(prefix + "a", b"2")])
    assert result.succeeded is holds


async def test_mod_revision_below_holds_for_a_missing_key(store: ConfigStore, prefix: str) -> None:
    assert (await store.transact([ModRevisionBelow(prefix + "a", 1)], [])).succeeded


async def test_a_key_twice_in_one_transaction_is_refused(store: ConfigStore, prefix: str) -> None:
    with pytest.raises(MeshError) as failure:
        await store.transact([], [Put(prefix + "a", b"1"), Delete(prefix + "a")])
    assert failure.value.code is ErrorCode.INVALID
    assert await store.get(prefix + "a") is None


async def test_too_large_names_both_limits_and_the_remedy(store: ConfigStore, prefix: str) -> None:
    too_many = [Put(f"{prefix}{i}", b"") for i in range(5000)]
    with pytest.raises(MeshError) as failure:
        await store.transact([], too_many)
    assert failure.value.code is ErrorCode.TOO_LARGE
    for word in ("5000 operations", "bytes", "--etcd-max-txn-ops", "--max-txn-ops", "--max-request-bytes"):
        assert word in str(failure.value)
    with pytest.raises(MeshError, match="bytes") as failure:
        await store.transact([], [Put(prefix + "a", bytes(9 << 20))])
    assert failure.value.code is ErrorCode.TOO_LARGE
    assert (await store.list(prefix)).entries == ()


async def test_a_transaction_at_the_limits_is_taken(store: ConfigStore, prefix: str) -> None:
    limits = TxnLimits()
    checks = [ModRevisionIs(f"{prefix}{i}", 0) for i in range(limits.max_ops)]
    ops = [Put(f"{prefix}{i}", bytes(11_000)) for i in range(limits.max_ops)]
    assert (await store.transact(checks, ops)).succeeded


async def test_a_list_is_sorted_and_keeps_to_its_prefix(store: ConfigStore, prefix: str) -> None:
    for key in ("b/2", "a", "b/1", "b", "c"):
        await put(store, prefix + key)
    listing = await store.list(prefix + "b/")
    assert [entry.key for entry in listing.entries] == [prefix + "b/1", prefix + "b/2"]
    assert listing.revision >= max(entry.mod_revision for entry in listing.entries)


async def test_a_list_of_many_pages_is_one_snapshot(store: ConfigStore, prefix: str) -> None:
    for start in range(0, 1200, 100):
        await store.transact([], [Put(f"{prefix}{i:05}", b"old") for i in range(start, start + 100)])

    async def overwrite() -> None:
        for i in range(0, 1200, 40):
            await put(store, f"{prefix}{i:05}", b"new")

    listing, _ = await asyncio.gather(store.list(prefix), overwrite())
    assert len(listing.entries) == 1200
    assert all(entry.mod_revision <= listing.revision for entry in listing.entries)
    assert listing == await store.list(prefix, at_revision=listing.revision)


async def test_the_past_can_be_listed(store: ConfigStore, prefix: str) -> None:
    first = await put(store, prefix + "a", b"1")
    await store.transact([], [Put(prefix + "a", b"2"), Put(prefix + "b", b"2")])
    then = await store.list(prefix, at_revision=first)
    assert then.revision == first
    assert [(entry.key, entry.value) for entry in then.entries] == [(prefix + "a", b"1")]


async def test_a_compacted_revision_cannot_be_listed(store: ConfigStore, prefix: str) -> None:
    first = await put(store, prefix + "a", b"1")
    await put(store, prefix + "a", b"2")
    await compact(store)
    with pytest.raises(MeshError) as failure:
        await store.list(prefix, at_revision=first)
    assert failure.value.code is ErrorCode.COMPACTED
    assert [entry.value for entry in (await store.list(prefix)).entries] == [b"2"]


async def test_a_revision_ahead_of_the_store_cannot_be_listed(store: ConfigStore, prefix: str) -> None:
    revision = await put(store, prefix + "a")
    with pytest.raises(MeshError) as failure:
        await store.list(prefix, at_revision=revision + 1000)
    assert failure.value.code is ErrorCode.UNAVAILABLE


async def test_a_watch_begins_with_the_whole_prefix(store: ConfigStore, prefix: str) -> None:
    await put(store, prefix + "a", b"1")
    watch = aiter(store.watch(prefix))
    first = await take(watch)
    assert (first.full, [entry.value for entry in first.puts], first.deletes) == (True, [b"1"], ())
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_watch_of_nothing_begins_empty(store: ConfigStore, prefix: str) -> None:
    watch = aiter(store.watch(prefix))
    first = await take(watch)
    assert (first.full, first.puts, first.deletes) == (True, (), ())
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_watch_sees_each_change_once_and_in_order(store: ConfigStore, prefix: str) -> None:
    watch = aiter(store.watch(prefix))
    start = (await take(watch)).revision

    async def write() -> dict[str, bytes]:
        held: dict[str, bytes] = {}
        for i in range(120):
            key = f"{prefix}{i % 7}"
            if i % 5 == 4 and key in held:
                await store.transact([], [Delete(key)])
                del held[key]
            else:
                await put(store, key, str(i).encode())
                held[key] = str(i).encode()
        await put(store, prefix + "end")
        return {**held, prefix + "end": b"v"}

    async def follow() -> tuple[dict[str, bytes], list[int]]:
        view: dict[str, bytes] = {}
        seen: list[int] = []
        while prefix + "end" not in view:
            step = await take(watch)
            assert not step.full
            assert not {entry.key for entry in step.puts} & set(step.deletes)
            for entry in step.puts:
                view[entry.key] = entry.value
                assert entry.mod_revision <= step.revision
            for key in step.deletes:
                view.pop(key, None)  # made and deleted between two steps
            seen.append(step.revision)
        return view, seen

    expected, (view, seen) = await asyncio.gather(write(), follow())
    assert view == expected
    assert seen == sorted(set(seen))
    assert seen[0] > start
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_transaction_is_never_split_between_steps(store: ConfigStore, prefix: str) -> None:
    watch = aiter(store.watch(prefix))
    await take(watch)
    # 100 values of 12 KiB: one revision that etcd sends in several fragments.
    ops = [Put(f"{prefix}{i:03}", bytes(12_000)) for i in range(100)]
    result = await store.transact([], ops)
    step = await take(watch)
    assert (step.revision, len(step.puts)) == (result.revision, 100)
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_watch_sees_only_its_prefix(store: ConfigStore, prefix: str) -> None:
    watch = aiter(store.watch(prefix + "mine/"))
    await take(watch)
    await put(store, prefix + "other/a")
    await put(store, prefix + "mine/a")
    step = await take(watch)
    assert [entry.key for entry in step.puts] == [prefix + "mine/a"]
    await watch.aclose()  # type: ignore[attr-defined]


async def test_two_watches_do_not_disturb_each_other(store: ConfigStore, prefix: str) -> None:
    slow, quick = aiter(store.watch(prefix)), aiter(store.watch(prefix))
    await take(slow)
    await take(quick)
    for i in range(20):
        await put(store, f"{prefix}{i}")
    seen: set[str] = set()
    while len(seen) < 20:
        seen |= {entry.key for entry in (await take(quick)).puts}
    seen = set()
    while len(seen) < 20:
        seen |= {entry.key for entry in (await take(slow)).puts}
    for watch in (slow, quick):
        await watch.aclose()  # type: ignore[attr-defined]


async def test_a_lease_deletes_its_keys_when_it_is_revoked(store: ConfigStore, prefix: str) -> None:
    lease = await store.grant(60)
    watch = aiter(store.watch(prefix))
    await take(watch)
    await put(store, prefix + "a", b"1", lease.id)
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert entry.lease == lease.id
    assert (await take(watch)).puts == (entry,)

    await lease.revoke()
    step: Changes = await take(watch)
    assert step.deletes == (prefix + "a",)
    assert lease.lost
    await lease.revoke()
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_lease_runs_out(store: ConfigStore, prefix: str) -> None:
    lease = await store.grant(1)
    await put(store, prefix + "a", b"1", lease.id)
    watch = aiter(store.watch(prefix))
    await take(watch)
    assert (await take(watch, timeout_s=15.0)).deletes == (prefix + "a",)
    assert lease.lost
    with pytest.raises(MeshError) as failure:
        await lease.keep_alive()
    assert failure.value.code is ErrorCode.NOT_FOUND
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_lease_that_is_renewed_lives_on(store: ConfigStore, prefix: str) -> None:
    lease = await store.grant(4)  # a busy machine may stand still for a second or two
    await put(store, prefix + "a", b"1", lease.id)
    for _ in range(10):
        await asyncio.sleep(0.5)
        await lease.keep_alive()
    assert not lease.lost
    assert await store.get(prefix + "a") is not None
    await lease.revoke()


async def test_leases_are_renewed_at_once_by_many(store: ConfigStore) -> None:
    leases = [await store.grant(30) for _ in range(20)]
    await asyncio.gather(*(lease.keep_alive() for lease in leases * 2))
    assert not any(lease.lost for lease in leases)
    await asyncio.gather(*(lease.revoke() for lease in leases))


async def test_a_key_that_is_written_again_leaves_its_lease(store: ConfigStore, prefix: str) -> None:
    lease = await store.grant(60)
    await put(store, prefix + "a", b"1", lease.id)
    await put(store, prefix + "a", b"2")
    await lease.revoke()
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert (entry.value, entry.lease) == (b"2", 0)


async def test_an_unknown_lease_fails_the_whole_transaction(store: ConfigStore, prefix: str) -> None:
    with pytest.raises(MeshError) as failure:
        await store.transact([], [Put(prefix + "a", b"1"), Put(prefix + "b", b"1", 123456789)])
    assert failure.value.code is ErrorCode.NOT_FOUND
    assert (await store.list(prefix)).entries == ()


async def test_a_store_that_answers_is_healthy(store: ConfigStore, prefix: str) -> None:
    await store.get(prefix)
    assert store.healthy
