"""When memory is given back, and that the C library does give it back."""

import asyncio
import ctypes
import threading

import pytest

from controlplane import returned_memory
from controlplane.returned_memory import MemoryReturner, returner
from mesh.tasks import cancel_and_wait

MIB = 1 << 20


class Process:
    def __init__(self) -> None:
        self.resident = 100 * MIB


def test_due_after_a_burst_that_has_ended() -> None:
    process = Process()
    keeper = MemoryReturner(lambda: process.resident, lambda: None)
    assert not keeper.is_due()
    process.resident = 120 * MIB  # 16 MiB and a tenth are left alone
    assert not keeper.is_due()
    process.resident = 300 * MIB
    assert not keeper.is_due()  # still growing
    assert keeper.is_due()
    process.resident = 200 * MIB  # that much is in use
    keeper.returned()
    assert not keeper.is_due()
    process.resident = 240 * MIB
    assert not keeper.is_due()
    assert keeper.is_due()


async def test_it_asks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returned_memory, "LOOK_S", 0.01)
    process, asked = Process(), threading.Event()
    keeper = MemoryReturner(lambda: process.resident, asked.set)
    process.resident = 300 * MIB
    task = asyncio.ensure_future(keeper.run())
    assert await asyncio.to_thread(asked.wait, 10)
    await cancel_and_wait(task)


def test_the_c_library_gives_memory_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(64 * 1024) for _ in range(1024)]
    for block in blocks:
        ctypes.memset(block, 1, 64 * 1024)
    for block in blocks[:-1]:  # the last one holds the heap's end
        libc.free(block)
    before = returned_memory._resident()
    own = returner()
    assert own is not None
    own._trim()
    libc.free(blocks[-1])
    assert returned_memory._resident() < before - 32 * MIB
