"""The anonymous memory of the token buckets that all workers share, one table for each worker.

Owns:   making and mapping it. Layout: agent.model.token_cells.
Invariant: it lives as long as the supervisor; a worker's table is taken over by its successor in the slot, with what
        was taken from the buckets. Untouched pages cost nothing.
"""

import mmap
import os

from agent.model.token_cells import TABLE

_CELL_BYTES = 8


def size_bytes(slots: int) -> int:
    """The size of the memory for so many workers."""
    return slots * TABLE * _CELL_BYTES


def create(slots: int) -> int:
    """New memory, all zero; its descriptor."""
    descriptor = os.memfd_create("gossamer-tokens", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size_bytes(slots))
    return descriptor


def attach(descriptor: int, slots: int) -> memoryview:
    """The cells of memory that somebody has made. Takes the descriptor over. Raises OSError or ValueError."""
    try:
        return memoryview(mmap.mmap(descriptor, size_bytes(slots))).cast("q")
    finally:
        os.close(descriptor)


def private() -> memoryview:
    """Cells for one worker that shares with nobody."""
    return memoryview(mmap.mmap(-1, size_bytes(1))).cast("q")
