"""The anonymous memory that counts what all workers share: connections, pending, requests, retries per cluster.

Owns:   the layout. One block per cluster (the supervisor assigns it: `Cells`), in it one row per worker slot, in it
        FIELDS per routing priority. Cell = int64 at block * slots * WIDTH + slot * WIDTH + priority * FIELDS + field.
Not:    who may admit what (agent.cluster.thresholds sums the rows and compares).
Invariants: a cell has one writer, the worker of its slot; others only read. An int64 is written in one store, so
        readers never see half of one. A slot's cells are zeroed by the supervisor between two workers of the slot,
        a block's when it goes to another cluster.
"""

import mmap
import os
from dataclasses import dataclass

from agent.model.cells import CONNECTIONS as CONNECTIONS  # named here too, for whoever reads the memory
from agent.model.cells import FIELDS as FIELDS
from agent.model.cells import PENDING as PENDING
from agent.model.cells import PRIORITIES as PRIORITIES
from agent.model.cells import REQUESTS as REQUESTS
from agent.model.cells import RETRIES as RETRIES
from agent.model.cells import WIDTH as WIDTH

_CELL_BYTES = 8


def size_bytes(blocks: int, slots: int) -> int:
    """The size of the memory for `blocks` clusters and `slots` workers. Untouched pages cost nothing."""
    return max(blocks * slots * WIDTH * _CELL_BYTES, mmap.PAGESIZE)


@dataclass(frozen=True, slots=True)
class Row:
    """Where one worker counts one cluster: `cells[own + priority * FIELDS + field]`; `rows` = all workers' offsets."""

    cells: memoryview
    own: int
    rows: tuple[int, ...]


class SharedCells:
    """The memory as seen by one process. `create` in the supervisor, `attach` in a worker."""

    def __init__(self, descriptor: int, length: int, slots: int) -> None:
        self.descriptor = descriptor
        self.slots = slots
        self.length = length
        self._map = mmap.mmap(descriptor, length)
        self.cells: memoryview = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, blocks: int, slots: int) -> "SharedCells":
        """New memory, all zero. Its `descriptor` goes to workers with Welcome."""
        length = size_bytes(blocks, slots)
        descriptor = os.memfd_create("gossamer-cells", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, length)
        return cls(descriptor, length, slots)

    @classmethod
    def attach(cls, descriptor: int, length: int, slots: int) -> "SharedCells":
        """Map what the supervisor made. Takes the descriptor over."""
        return cls(descriptor, length, slots)

    @property
    def blocks(self) -> int:
        """How many clusters have room."""
        return len(self.cells) // (self.slots * WIDTH)

    def row(self, block: int, slot: int) -> Row:
        """Where the worker of `slot` counts the cluster of `block`. Raises IndexError outside the memory."""
        if not (0 <= block < self.blocks and 0 <= slot < self.slots):
            raise IndexError(f"block {block} of {self.blocks}, slot {slot} of {self.slots}")
        base = block * self.slots * WIDTH
        return Row(self.cells, base + slot * WIDTH, tuple(base + other * WIDTH for other in range(self.slots)))

    def total(self, block: int, priority: int, field: int) -> int:
        """The sum over all workers."""
        cells = self.cells
        return sum(cells[row + priority * FIELDS + field] for row in self.row(block, 0).rows)

    def clear_slot(self, slot: int, blocks: int) -> None:
        """Forget what a dead worker had counted in the first `blocks` blocks (those in use)."""
        for block in range(min(blocks, self.blocks)):
            self._zero(block * self.slots * WIDTH + slot * WIDTH, WIDTH)

    def clear_block(self, block: int) -> None:
        """Make a block ready for another cluster."""
        self._zero(block * self.slots * WIDTH, self.slots * WIDTH)

    def close(self) -> None:
        self.cells.release()
        self._map.close()
        os.close(self.descriptor)

    def _zero(self, start: int, count: int) -> None:
        for cell in range(start, start + count):
            self.cells[cell] = 0
