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

    __slots__ = ("_cells", "_clock", "_compartments", "_limits", "_rows", "_waited_at", "_wheel")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        super().__init__()
        self._wheel = wheel
        self._clock = clock
        self._limits: dict[str, tuple[int, int, int]] = {}  # by policy, which may have come with several routes
        self._compartments: dict[str, dict[str, Compartment]] = {}  # by policy, then caller
        self._cells: dict[str, Cell] = {}
        self._rows: dict[str, Row] = {}
        self._waited_at: set[str] = set()  # policies

    def use_row(self, name: str, row: Row) -> None:
        """Count `cells_of(...)` in this row of the shared memory."""
        self._rows[name] = row
        if name in self._cells:
            self._cells[name].move(*_places(row))

    def compartment(self, policy: Bulkhead, caller: str) -> Compartment:
        """The part of `caller`, made at its first request."""
        known = self._compartments.setdefault(policy.name, {})
        limits = policy.most, policy.most_per_caller, policy.queue
        if self._limits.get(policy.name) != limits:
            self._limits[policy.name] = limits
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

    def wait(self, name: str) -> None:
        """Somebody waits at a bulkhead."""
        self._waited_at.add(name)
        if self.deadline == NEVER:
            self._wheel.arm(self, self._clock() + LOOK_S)

    def on_deadline(self, now: float) -> None:
        for name in list(self._waited_at):
            self.look(name)
        if self._waited_at and self.deadline == NEVER:
            self._wheel.arm(self, self._clock() + LOOK_S)

    def look(self, name: str) -> None:
        """Let in those who wait at a bulkhead and have room now, one of each caller in turn."""
        if name not in self._waited_at:
            return
        now, parts = self._clock(), [part for part in self._compartments[name].values() if part.waiting]
        while parts:
            called = [part.next(now) for part in parts]
            parts = [part for part, call in zip(parts, called, strict=True) if call is not None and part.waiting]
            for call in called:
                if call is not None:
                    call()
        if not any(part.waiting for part in self._compartments[name].values()):
            self._waited_at.discard(name)


def _places(row: Row) -> tuple[memoryview, int, tuple[int, ...]]:
    return row.cells, row.own + REQUESTS, tuple(place + REQUESTS for place in row.rows)
