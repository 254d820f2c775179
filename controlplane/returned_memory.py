"""Memory that a burst leaves free goes back to the system.

Owns:   when the allocator is asked, and how.
Source: malloc_trim(3). A change of every cluster of a thousand proxies is a gigabyte of messages in buffers of grpc,
        freed seconds later; glibc keeps it, since smaller blocks that live on lie above it.
"""

import asyncio
import ctypes
import resource
from collections.abc import Callable
from pathlib import Path

LOOK_S = 5.0
_ROOM = 16 << 20  # growth that is left alone, bytes
_SHARE = 1.1


class MemoryReturner:
    """Asks `trim` when the process has grown since it was last asked, and has come to rest."""

    def __init__(self, resident: Callable[[], int], trim: Callable[[], object]) -> None:
        """`resident`: bytes of memory that the process has now."""
        self._resident = resident
        self._trim = trim
        self._kept = self._before = resident()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.is_due():
                await asyncio.to_thread(self._trim)  # takes some 10 ms of a burst's memory
                self.returned()

    def is_due(self) -> bool:
        """To be asked once in `LOOK_S`: a process that still grows by more than `_ROOM` is not at rest."""
        now = self._resident()
        grows, self._before = now > self._before + _ROOM, now
        return now > self._kept * _SHARE + _ROOM and not grows

    def returned(self) -> None:
        """What is there now is in use."""
        self._kept = self._before = self._resident()


def returner() -> MemoryReturner | None:
    """That of this process; None where the C library cannot do it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else MemoryReturner(_resident, lambda: trim(0))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
