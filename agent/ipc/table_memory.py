"""The anonymous memory of tables that all workers share, one table for each worker, in which they
find names by tag.

Owns:   making, mapping and clearing it. Layouts: agent.model.token_cells, agent.model.count_cells.
Invariant: it lives as long as the supervisor; a worker's table is taken over by its successor in the slot. Untouched
        pages cost nothing.
"""

import mmap
import os

_CELL_BYTES = 8


def size_bytes(table: int, slots: int) -> int:
    """The size of the memory for so many workers with tables of so many cells."""
    return slots * table * _CELL_BYTES


def create(name: str, table: int, slots: int) -> int:
    """New memory, all zero; its descriptor."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size_bytes(table, slots))
    return descriptor


def attach(descriptor: int, table: int, slots: int) -> memoryview:
    """The cells of memory that somebody has made. Takes the descriptor over. Raises OSError or ValueError."""
    try:
        return memoryview(mmap.mmap(descriptor, size_bytes(table, slots))).cast("q")
    finally:
        os.close(descriptor)


def private(table: int) -> memoryview:
    """Cells for one worker that shares with nobody."""
    return memoryview(mmap.mmap(-1, size_bytes(table, 1))).cast("q")


def clear(descriptor: int, table: int, slot: int) -> None:
    """Forget what the worker of a slot had counted; it is dead. The descriptor stays the caller's."""
    size = table * _CELL_BYTES
    for place in range(slot * size, (slot + 1) * size, mmap.PAGESIZE):
        length = min(mmap.PAGESIZE, (slot + 1) * size - place)
        if any(os.pread(descriptor, length, place)):
            os.pwrite(descriptor, bytes(length), place)
