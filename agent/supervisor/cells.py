"""Which block of the shared memory counts which cluster.

Owns:   the assignment cluster -> block, and the memory itself on the supervisor's side.
Not:    the layout (agent.ipc.shared), counting (workers).
Invariants: two clusters never share a block; a freed block is used again last, and zeroed then, so that a worker that
        still ends requests of the old cluster does not count in the new one's block.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from agent.ipc.shared import SharedCells

BLOCKS = 16384  # untouched pages cost nothing: 64 bytes per block and slot


class CellBook:
    """Blocks by cluster."""

    def __init__(self, slots: int, blocks: int = BLOCKS) -> None:
        self.shared = SharedCells.create(blocks, slots)
        self._of: dict[str, int] = {}
        self._free: deque[int] = deque(range(blocks))
        self._used = 0  # blocks below this number have been given away at some time

    @property
    def blocks(self) -> Mapping[str, int]:
        return self._of

    def follow(self, clusters: Iterable[str]) -> tuple[str, ...]:
        """Assign blocks to exactly these clusters; those for which there was no room."""
        wanted = set(clusters)
        for name in [name for name in self._of if name not in wanted]:
            self._free.append(self._of.pop(name))
        missed = []
        for name in sorted(wanted - self._of.keys()):
            if not self._free:
                missed.append(name)
                continue
            block = self._free.popleft()
            self.shared.clear_block(block)
            self._of[name] = block
            self._used = max(self._used, block + 1)
        return tuple(missed)

    def clear_slot(self, slot: int) -> None:
        """A worker is dead: what it had counted is no more."""
        self.shared.clear_slot(slot, self._used)

    def total(self, cluster: str, priority: int, field: int) -> int:
        """The sum over all workers, 0 for an unknown cluster."""
        block = self._of.get(cluster)
        return self.shared.total(block, priority, field) if block is not None else 0

    def close(self) -> None:
        self.shared.close()
