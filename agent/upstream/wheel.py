"""Deadlines of many connections for the price of a comparison each.

Owns:   when `on_deadline` is called. An item has one deadline; moving it later costs one assignment, since the item
        is looked at again when its old slot comes; only moving it before its slot inserts it anew.
Not:    what a deadline means (the connection knows).
Invariants: never early; late by at most RESOLUTION_S, or COARSE_S for those further away than COARSE_FROM_S, plus the
        loop's lag. An item is in one slot at most, and in none after `disarm`: whoever ends calls it, else the wheel
        would keep it until its slot comes. An idle wheel does not wake the process.
"""

import asyncio
import heapq
import math
from time import monotonic
from typing import Final

RESOLUTION_S: Final = 0.01
COARSE_S: Final = 0.5
COARSE_FROM_S: Final = 10.0
NEVER: Final = math.inf


class Timed:
    """Something with a deadline in seconds of time.monotonic, NEVER for none."""

    __slots__ = ("deadline", "slot_at")

    def __init__(self) -> None:
        self.deadline = NEVER
        self.slot_at = NEVER  # when the wheel looks at it next

    def on_deadline(self, now: float) -> None:
        """The deadline has passed; it is NEVER now. Set a new one with `TimerWheel.arm`."""
        raise NotImplementedError


class TimerWheel:
    """One per worker."""

    __slots__ = ("_handle", "_handle_at", "_heap", "_loop", "_slots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[float, dict[Timed, None]] = {}
        self._heap: list[float] = []
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = NEVER

    def arm(self, item: Timed, deadline: float) -> None:
        """Set the item's deadline, replacing the one before."""
        item.deadline = deadline
        if deadline < item.slot_at:
            self.insert(item, deadline)

    def insert(self, item: Timed, deadline: float) -> None:
        """Look at `item` at `deadline`. Hot callers test `deadline < item.slot_at` themselves and then call this."""
        now = monotonic()
        step = RESOLUTION_S if deadline - now < COARSE_FROM_S else COARSE_S
        at = math.ceil(deadline / step) * step
        if at == item.slot_at:
            return
        self._leave_slot(item)
        item.slot_at = at
        slot = self._slots.get(at)
        if slot is not None:
            slot[item] = None
            return
        self._slots[at] = {item: None}
        heapq.heappush(self._heap, at)
        if at < self._handle_at:
            self._schedule(at, now)

    def disarm(self, item: Timed) -> None:
        """The item has no deadline any more; its slot forgets it."""
        item.deadline = NEVER
        self._leave_slot(item)
        item.slot_at = NEVER

    def _leave_slot(self, item: Timed) -> None:
        if item.slot_at != NEVER:
            slot = self._slots.get(item.slot_at)
            if slot is not None:
                slot.pop(item, None)

    def now(self) -> float:
        """The clock of deadlines."""
        return monotonic()

    def close(self) -> None:
        """Call nobody any more."""
        if self._handle is not None:
            self._handle.cancel()
        self._slots.clear()
        self._heap.clear()

    def _schedule(self, at: float, now: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle_at = at
        self._handle = self._loop.call_later(max(at - now, 0.0), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._handle_at = NEVER
        now = monotonic()
        while self._heap and self._heap[0] <= now:
            at = heapq.heappop(self._heap)
            for item in self._slots.pop(at):
                if item.slot_at == at:
                    self._look_at(item, now)
        while self._heap and not self._slots[self._heap[0]]:
            del self._slots[heapq.heappop(self._heap)]
        if self._heap and self._heap[0] < self._handle_at:
            self._schedule(self._heap[0], now)

    def _look_at(self, item: Timed, now: float) -> None:
        item.slot_at = NEVER
        if item.deadline <= now:
            item.deadline = NEVER
            item.on_deadline(now)
        elif item.deadline != NEVER:
            self.insert(item, item.deadline)
