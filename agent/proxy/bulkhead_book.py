"""The bulkheads of one worker: their compartments by policy and caller, and when those who wait are looked at.

Owns:   the compartments, the cells in which they count.
Not:    room and queues (agent.cluster.bulkhead), what a request does with them (bulkhead).
Invariants: who waits is looked at when room is given back in this worker, and every LOOK_S; of callers of one policy at
        most MAX_CALLERS have a compartment, the others share one.
"""

from collections.abc import Callable
from typing import Final

from agent.cluster.bulkhead import Cell, Compartment, own_cell
from agent.ipc.shared import Row
from agent.model.bulkhead import OTHERS, Bulkhead, cells_of
from agent.model.cells import REQUESTS
from agent.upstream.wheel import NEVER, Timed, TimerWheel

LOOK_S: Final = 0.01
MAX_CALLERS: Final = 1000


class BulkheadBook(Timed):
    """One per worker."""

    __slots__ = ("_cells", "_clock", "_compartments", "_policies", "_rows", "_wheel")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        super().__init__()
        self._wheel = wheel
        self._clock = clock
        self._policies: dict[str, Bulkhead] = {}
        self._compartments: dict[str, dict[str, Compartment]] = {}  # by policy, then caller
        self._cells: dict[str, Cell] = {}
        self._rows: dict[str, Row] = {}

    def use_row(self, name: str, row: Row) -> None:
        """Count `cells_of(...)` in this row of the shared memory."""
        self._rows[name] = row
        if name in self._cells:
            self._cells[name].move(*_places(row))

    def compartment(self, policy: Bulkhead, caller: str) -> Compartment:
        """The part of `caller`, made at its first request."""
        known = self._compartments.setdefault(policy.name, {})
        if self._policies.get(policy.name) is not policy:
            self._policies[policy.name] = policy
            for part in known.values():
                part.configure(policy)
        found = known.get(caller)
        if found is None:
            if len(known) >= MAX_CALLERS:
                caller = OTHERS
            found = known.get(caller)
        if found is None:
            all_callers, own = self._cell(cells_of(policy.name)), self._cell(cells_of(policy.name, caller or OTHERS))
            found = known[caller] = Compartment(policy, all_callers, own)
        return found

    def _cell(self, name: str) -> Cell:
        found = self._cells.get(name)
        if found is None:
            found = self._cells[name] = own_cell()
            if name in self._rows:
                found.move(*_places(self._rows[name]))
        return found

    def look_again(self) -> None:
        """Somebody waits."""
        if self.deadline == NEVER:
            self._wheel.arm(self, self._clock() + LOOK_S)

    def on_deadline(self, now: float) -> None:
        for name in list(self._compartments):
            self.look(name)
        if any(part.waiting for parts in self._compartments.values() for part in parts.values()):
            self.look_again()

    def look(self, name: str) -> None:
        """Let in those who wait at a bulkhead and have room now, one of each caller in turn."""
        now, parts = self._clock(), [part for part in self._compartments.get(name, {}).values() if part.waiting]
        while parts:
            called = [part.next(now) for part in parts]
            parts = [part for part, call in zip(parts, called, strict=True) if call is not None and part.waiting]
            for call in called:
                if call is not None:
                    call()


def _places(row: Row) -> tuple[memoryview, int, tuple[int, ...]]:
    return row.cells, row.own + REQUESTS, tuple(place + REQUESTS for place in row.rows)
