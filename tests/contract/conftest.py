"""The two stores that the contract suite runs on, and ways to disturb the real one."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from controlplane.store.embedded import EmbeddedEtcd, EmbeddedOptions
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Changes, ConfigStore

_prefixes = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedEtcd]:
    """One embedded etcd for a module's tests."""
    running = EmbeddedEtcd(EmbeddedOptions(directory=tmp_path_factory.mktemp("etcd")))
    await running.start()
    yield running
    await running.stop()


@pytest_asyncio.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.etcd)], loop_scope="module")
async def store(request: pytest.FixtureRequest, etcd: EmbeddedEtcd) -> AsyncIterator[ConfigStore]:
    """A store of each kind."""
    made: ConfigStore = MemoryStore() if request.param == "memory" else EtcdStore(etcd.client_options())
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def etcd_store(etcd: EmbeddedEtcd) -> AsyncIterator[EtcdStore]:
    made = EtcdStore(etcd.client_options())
    yield made
    await made.close()


@pytest.fixture
def prefix() -> str:
    """A part of the key space that no other test uses: the etcd is shared."""
    return f"/contract/{next(_prefixes)}/"


async def compact(store: ConfigStore) -> None:
    """Forget every revision before the present one."""
    revision = (await store.list("/nothing/")).revision
    if isinstance(store, MemoryStore):
        store.compact(revision)
    elif isinstance(store, EtcdStore):
        await store.compact(revision)


async def take(watch: AsyncIterator[Changes], *, timeout_s: float = 10.0) -> Changes:
    """The next step of a watch."""
    async with asyncio.timeout(timeout_s):
        return await anext(watch)


async def kill_and_wait(etcd: EmbeddedEtcd, *, timeout_s: float = 40.0) -> None:
    """kill -9, then wait until the embedded etcd has started another process."""
    old = await running(etcd, timeout_s=timeout_s)
    os.kill(old, signal.SIGKILL)
    await until(lambda: etcd.pid not in (0, old), timeout_s=timeout_s)


async def running(etcd: EmbeddedEtcd, *, timeout_s: float = 20.0) -> int:
    """Its present process: a signal to process 0 would go to these tests themselves."""
    await until(lambda: etcd.pid != 0, timeout_s=timeout_s)
    return etcd.pid


async def until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Wait for something that another process brings about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Is there such a process, not counting a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
