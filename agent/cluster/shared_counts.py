"""What is under way in all workers together, under names that come and go, without a lock.

Owns:   counting under a name, the table in which names are found by tag.
Not:    the memory (agent.ipc.table_memory), who may come in (bulkhead).
Source: design section 1: one single-writer cell per worker, summed at the check.
Invariants: an entry has one writer, the worker of its table; others only read. A name keeps its entry while something
        of it is under way there; an entry of which nothing is may be taken for another name, with one store.
Differs: who reads while an entry changes hands may see one more under its old name, for that moment.
"""

from typing import Final

from agent.model.count_cells import FIELDS, SETS, TABLE, TAG, UNDER_WAY, WAYS
from agent.model.tags import tag_of

_NONE: Final = -1


class SharedCounts:
    """The tables of all workers, as the worker of `slot` sees them."""

    __slots__ = ("_others", "_own", "cells")

    def __init__(self, cells: memoryview, slots: int, slot: int) -> None:
        self.cells = cells
        self._own = slot * TABLE
        self._others = tuple(other * TABLE for other in range(slots) if other != slot)

    def elsewhere(self, tag: int) -> int:
        """So many are under way in the other workers."""
        cells, at, found = self.cells, tag % SETS * WAYS * FIELDS, 0
        for table in self._others:
            for place in range(table + at, table + at + WAYS * FIELDS, FIELDS):
                known = cells[place + TAG]
                if known == tag:
                    found += cells[place + UNDER_WAY]
                    break
                if not known:
                    break
        return found

    def entry(self, tag: int) -> int:
        """An entry of this worker for a name of which nothing is under way here; -1 = all are in use."""
        cells, free = self.cells, _NONE
        at = self._own + tag % SETS * WAYS * FIELDS
        for place in range(at, at + WAYS * FIELDS, FIELDS):
            if cells[place + TAG] == tag:
                return place
            if free < 0 and not cells[place + UNDER_WAY]:
                free = place
        if free >= 0:
            cells[free + TAG] = tag
        return free


class Count:
    """How many are under way under one name. Of each name a worker has one at most."""

    __slots__ = ("_counts", "_entry", "_here", "_tag")

    def __init__(self, counts: SharedCounts, name: tuple[str, ...], here: list[int]) -> None:
        """`here`: its first number is kept at how many are under way in this worker, for statistics."""
        self._counts = counts
        self._tag = tag_of(name)
        self._here = here
        self._entry = _NONE

    @property
    def here(self) -> int:
        """So many in this worker."""
        return self._here[0]

    def total(self) -> int:
        """So many in all workers."""
        return self._here[0] + self._counts.elsewhere(self._tag)

    def enter(self) -> bool:
        """One more. False: too many names are in use."""
        if self._entry < 0:
            self._entry = self._counts.entry(self._tag)
            if self._entry < 0:
                return False
        self._add(1)
        return True

    def leave(self) -> None:
        """One less."""
        self._add(-1)
        if not self._here[0]:
            self._entry = _NONE  # another name may have it

    def _add(self, change: int) -> None:
        self._here[0] += change
        self._counts.cells[self._entry + UNDER_WAY] = self._here[0]
