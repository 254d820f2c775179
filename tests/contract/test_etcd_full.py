"""An etcd whose space quota is used up: what is refused, what still works, how it is told, how it ends."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from controlplane.store import applies
from controlplane.store.embedded import EmbeddedEtcd, EmbeddedOptions
from controlplane.store.etcd.binary import find_binary
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Check, Delete, Op, Put, TxnResult
from mesh.errors import ErrorCode, MeshError
from tests.contract.conftest import until

pytestmark = pytest.mark.etcd

QUOTA = 4 << 20


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    """An etcd with little room."""
    running = EmbeddedEtcd(
        EmbeddedOptions(directory=tmp_path / "etcd", extra_flags=(f"--quota-backend-bytes={QUOTA}",))
    )
    await running.start()
    yield running
    await running.stop()


def etcdctl(etcd: EmbeddedEtcd, *arguments: str) -> str:
    """The tool that the error's hint names."""
    beside = find_binary().with_name("etcdctl")
    program = str(beside) if beside.exists() else shutil.which("etcdctl")
    assert program, "etcdctl comes with etcd"
    command = [program, f"--endpoints=http://{etcd.endpoint}", *arguments]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=environment).stdout


async def fill(store: EtcdStore) -> MeshError:
    """Write until etcd is full; its refusal."""
    for _ in range(4 * QUOTA >> 20):
        try:
            await store.transact([], [Put("/filler", os.urandom(1 << 20))])
        except MeshError as error:
            return error
    raise AssertionError("etcd took more than its quota")


class LastRoom(MemoryStore):
    """Makes a write and says that there was no room for it."""

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> TxnResult:
        await super().transact(checks, ops)
        raise MeshError(ErrorCode.NO_SPACE, "etcd: etcdserver: mvcc: database space exceeded")


def record(number: int) -> applies.ApplyRecord:
    return applies.ApplyRecord(id=applies.ulid(1.0 + number, bytes(10)), author="ann", at_ms=1000, objects=())


async def test_a_full_etcd_says_so_and_nothing_is_changed(small: EmbeddedEtcd) -> None:
    store = EtcdStore(small.client_options())
    await store.transact([], [Put("/a", b"1")])
    assert store.problem == ""
    error = await fill(store)
    assert error.code is ErrorCode.NO_SPACE
    for word in ("etcdctl compact", "defrag", "--quota-backend-bytes", "alarm disarm"):
        assert word in error.hint

    with pytest.raises(MeshError, match="nothing was changed: etcd: etcdserver: mvcc: database space exceeded") as told:
        await applies.commit(store, record(1), [], [Put("/a", b"2")])
    assert told.value.code is ErrorCode.NO_SPACE
    assert told.value.hint == error.hint
    with pytest.raises(MeshError) as told:
        await store.grant(10)
    assert told.value.code is ErrorCode.NO_SPACE

    entry = await store.get("/a")
    assert entry is not None
    assert entry.value == b"1", "reads go on"
    assert store.healthy, "it answers"
    assert "space quota is used up" in store.problem
    assert error.hint in store.problem
    await store.close()


async def test_a_control_plane_that_starts_on_a_full_etcd_says_so(small: EmbeddedEtcd) -> None:
    first = EtcdStore(small.client_options())
    await fill(first)
    await first.close()
    second = EtcdStore(small.client_options())
    await second.check()
    assert "space quota is used up" in second.problem
    await second.close()


async def test_the_named_remedy_helps(small: EmbeddedEtcd) -> None:
    store = EtcdStore(small.client_options())
    await fill(store)
    revision = (await store.list("/filler")).revision
    await asyncio.to_thread(etcdctl, small, "compact", str(revision))
    await asyncio.to_thread(etcdctl, small, "defrag")
    await asyncio.to_thread(etcdctl, small, "alarm", "disarm")
    await until(lambda: store.problem == "")
    result = await applies.commit(store, record(2), [], [Put("/a", b"3"), Delete("/filler")])
    assert result.succeeded
    await store.close()


async def test_the_write_that_filled_it_up_counts_as_made() -> None:
    """etcd may make a write and refuse it, when another one took the last room before it: the record tells."""
    store = LastRoom()
    result = await applies.commit(store, record(3), [], [Put("/a", b"1")])
    entry = await store.get("/a")
    assert entry is not None
    assert (result.succeeded, result.revision) == (True, entry.mod_revision)
