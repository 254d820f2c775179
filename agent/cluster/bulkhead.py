"""A bulkhead: room for requests under way, a share of it for each caller, and a bounded wait for either.

Owns:   who goes on, who waits and for how long, who is refused; giving room back.
Not:    the memory in which all workers count (agent.ipc.shared), when waits are looked at (agent.proxy.bulkhead).
Source: data-plane.md 1.4: resilience4j's semaphore bulkhead with its wait.
Invariants: this worker writes only its own cells; what is entered is left once; at most `queue` requests of a caller
        wait here, in their order, and none of them longer than `max_wait_s`; who waits does not keep other callers out.
Differs: several workers may each let one more pass at the same instant: at most workers - 1 above a limit; exact with
        one. A wait sees room that another worker has given back when it is looked at next.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from agent.model.bulkhead import Bulkhead


class Count(Protocol):
    """How many are under way: `total` in all workers, `add` here."""

    def total(self) -> int: ...
    def add(self, change: int) -> None: ...


class Cell:
    """A count in shared cells: `own` is this worker's, `all_of` are those of all workers, this one's included."""

    __slots__ = ("_all_of", "_cells", "_own")

    def __init__(self, cells: memoryview, own: int, all_of: tuple[int, ...]) -> None:
        self._cells = cells
        self._own = own
        self._all_of = all_of

    def total(self) -> int:
        cells = self._cells
        return sum([cells[place] for place in self._all_of])

    def add(self, change: int) -> None:
        self._cells[self._own] += change

    def move(self, cells: memoryview, own: int, all_of: tuple[int, ...]) -> None:
        """Count elsewhere from now on; what is under way here moves along."""
        under_way = self._cells[self._own]
        self._cells[self._own] = 0
        cells[own] += under_way
        self._cells, self._own, self._all_of = cells, own, all_of


def own_cell() -> Cell:
    """One that counts this worker alone."""
    return Cell(memoryview(bytearray(8)).cast("q"), 0, (0,))


class Waiting:
    """A request that waits; `resume` when it may go on, `refuse` when it has waited long enough."""

    __slots__ = ("refuse", "resume", "until")

    def __init__(self, until: float, resume: Callable[[], None], refuse: Callable[[], None]) -> None:
        self.until = until
        self.resume = resume
        self.refuse = refuse


class Compartment:
    """One caller's part of a bulkhead in one worker. `all_callers` is shared with the other parts of the bulkhead."""

    __slots__ = ("_all_callers", "_own", "_policy", "_queue")

    def __init__(self, policy: Bulkhead, all_callers: Count, own: Count) -> None:
        self._policy = policy
        self._all_callers = all_callers
        self._own = own
        self._queue: deque[Waiting] = deque()

    def configure(self, policy: Bulkhead) -> None:
        """Obey this from now on; nobody who is in or waits is put out."""
        self._policy = policy

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def enter(self) -> bool:
        """Whether there is room, and nobody who came before; then it is taken."""
        return not self._queue and self._take()

    def wait(self, waiting: Waiting) -> bool:
        """Whether there is room to wait."""
        if len(self._queue) >= self._policy.queue:
            return False
        self._queue.append(waiting)
        return True

    def cancel(self, waiting: Waiting) -> None:
        """Who waits has gone."""
        if waiting in self._queue:
            self._queue.remove(waiting)

    def leave(self) -> None:
        """One that was let in is over."""
        self._own.add(-1)
        self._all_callers.add(-1)

    def next(self, now: float) -> Callable[[], None] | None:
        """What to call for the first that waits: it has waited long enough, or there is room now. None: neither."""
        if not self._queue:
            return None
        first = self._queue[0]
        if now >= first.until:
            self._queue.popleft()
            return first.refuse
        if self._take():
            self._queue.popleft()
            return first.resume
        return None

    def _take(self) -> bool:
        policy = self._policy
        if self._own.total() >= policy.most_per_caller or self._all_callers.total() >= policy.most:
            return False
        self._own.add(1)
        self._all_callers.add(1)
        return True
