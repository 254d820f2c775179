"""What only a real etcd can show: it is killed, compacts while nobody looks, asks for passwords, moves.

Every promise here is decision 18's: no acknowledged write lost, the watch exact, nothing doubled.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.store.embedded import EmbeddedEtcd
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.protocol import Changes, Delete, Put
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from tests.contract.conftest import alive, kill_and_wait, running, take, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.etcd]


class View:
    """A reader that keeps what a watch tells, and notices what no watch may tell."""

    def __init__(self, store: EtcdStore, prefix: str) -> None:
        self.held: dict[str, tuple[int, bytes]] = {}
        self.relistings = 0
        self.revision = 0
        self._task = spawn("view", self._follow(store, prefix))

    async def _follow(self, store: EtcdStore, prefix: str) -> None:
        async for step in store.watch(prefix):
            self._take(step)

    def _take(self, step: Changes) -> None:
        assert step.revision > self.revision or step.full, "a step was repeated or out of order"
        for key in step.deletes:
            self.held.pop(key, None)
        if step.full:
            self.relistings += 1
            listed = {entry.key for entry in step.puts}
            assert set(self.held) <= listed, "a relisting did not synthesise every delete"
        for entry in step.puts:
            old = self.held.get(entry.key, (0, b""))[0]
            assert entry.mod_revision > old or step.full, "an event was doubled"
            self.held[entry.key] = (entry.mod_revision, entry.value)
        self.revision = step.revision

    async def wait_for(self, key: str, *, timeout_s: float = 20.0) -> None:
        await until(lambda: key in self.held or self._task.done(), timeout_s=timeout_s)
        assert not self._task.done(), "the watch ended"

    async def close(self) -> None:
        await cancel_and_wait(self._task)


async def put_until_acknowledged(store: EtcdStore, key: str, value: bytes) -> int:
    """Write; when the answer was lost, write again. Returns how many tries were lost."""
    for lost in range(1000):
        try:
            await store.transact([], [Put(key, value)])
            return lost
        except MeshError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.02)
    raise AssertionError("etcd did not come back")


async def test_kill_9_during_writes_and_watches_loses_nothing(
    etcd: EmbeddedEtcd, etcd_store: EtcdStore, prefix: str
) -> None:
    view = View(etcd_store, prefix)
    killers = []
    for i in range(300):
        await put_until_acknowledged(etcd_store, f"{prefix}{i:03}", str(i).encode())
        if i in (100, 200):
            killers.append(spawn("killer", kill_and_wait(etcd)))
        await asyncio.sleep(0.002)
    await asyncio.gather(*killers)
    await put_until_acknowledged(etcd_store, prefix + "end", b"")
    await view.wait_for(prefix + "end")

    entries = (await etcd_store.list(prefix)).entries
    assert {entry.key for entry in entries} == {*(f"{prefix}{i:03}" for i in range(300)), prefix + "end"}
    assert view.held == {entry.key: (entry.mod_revision, entry.value) for entry in entries}
    assert view.relistings == 1, "the watch resumed by revision, it did not start over"
    assert etcd_store.healthy
    await view.close()


async def test_a_slow_reader_with_a_backlog_loses_nothing_over_kill_9(
    etcd: EmbeddedEtcd, etcd_store: EtcdStore, prefix: str
) -> None:
    watch = aiter(etcd_store.watch(prefix))
    await take(watch)
    await etcd_store.transact([], [Put(prefix + "first", b"")])
    await take(watch)
    for start in range(0, 1500, 50):
        await asyncio.gather(
            *(etcd_store.transact([], [Put(f"{prefix}{i}", b"x" * 500)]) for i in range(start, start + 50))
        )
    seen: set[str] = set()
    last = 0
    for _ in range(30):
        step = await take(watch)
        seen |= {entry.key for entry in step.puts}
        last = step.revision
    await kill_and_wait(etcd)
    while len(seen) < 1500:
        step = await take(watch, timeout_s=20.0)
        assert step.revision > last
        assert not step.full
        keys = {entry.key for entry in step.puts}
        assert not keys & seen, "an event was doubled"
        seen |= keys
        last = step.revision
    await watch.aclose()  # type: ignore[attr-defined]


async def test_compaction_while_etcd_is_away_lists_again_and_synthesises_deletes(
    etcd: EmbeddedEtcd, etcd_store: EtcdStore, prefix: str
) -> None:
    for name in "abc":
        await etcd_store.transact([], [Put(prefix + name, b"1")])
    # The reader stands still while the store moves on, compacts, and is killed: its stream ends in the middle.
    watch = aiter(etcd_store.watch(prefix))
    first = await take(watch)
    assert len(first.puts) == 3
    pid = await running(etcd)
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    other = EtcdStore(etcd.client_options())
    await put_until_acknowledged(other, prefix + "d", b"1")
    await other.transact([], [Delete(prefix + "a"), Put(prefix + "b", b"2")])
    revision = (await other.list(prefix)).revision
    await other.compact(revision)

    step = await take(watch, timeout_s=20.0)
    assert step.full
    assert step.deletes == (prefix + "a",)
    assert {entry.key: entry.value for entry in step.puts} == {
        prefix + "b": b"2",
        prefix + "c": b"1",
        prefix + "d": b"1",
    }
    assert step.revision >= revision

    await other.transact([], [Put(prefix + "e", b"1")])
    assert [entry.key for entry in (await take(watch)).puts] == [prefix + "e"]
    await other.close()
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_watch_is_unhealthy_while_etcd_is_away(etcd: EmbeddedEtcd, etcd_store: EtcdStore, prefix: str) -> None:
    view = View(etcd_store, prefix)
    await put_until_acknowledged(etcd_store, prefix + "a", b"")
    await view.wait_for(prefix + "a")
    restarted = spawn("killer", kill_and_wait(etcd))
    await until(lambda: not etcd_store.healthy)
    await restarted
    await put_until_acknowledged(etcd_store, prefix + "b", b"")
    await view.wait_for(prefix + "b")
    await until(lambda: etcd_store.healthy)
    await view.close()


async def test_a_lease_survives_a_restart_of_etcd(etcd: EmbeddedEtcd, etcd_store: EtcdStore, prefix: str) -> None:
    lease = await etcd_store.grant(30)
    await etcd_store.transact([], [Put(prefix + "a", b"1", lease.id)])
    await lease.keep_alive()
    await kill_and_wait(etcd)
    for _ in range(100):
        try:
            await lease.keep_alive()
            break
        except MeshError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)
    assert not lease.lost
    assert await etcd_store.get(prefix + "a") is not None
    await lease.revoke()


PARENT = """
import asyncio, pathlib, sys
from controlplane.store.embedded import EmbeddedEtcd, EmbeddedOptions
async def main():
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=pathlib.Path(sys.argv[1])))
    await etcd.start()
    print(etcd.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_embedded_etcd_dies_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 - a few milliseconds
        [sys.executable, "-c", PARENT, str(tmp_path / "etcd")],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert alive(pid)
    finally:
        parent.kill()
        parent.communicate(timeout=10)
    await until(lambda: not alive(pid), timeout_s=5.0)
