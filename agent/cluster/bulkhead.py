"""A bulkhead: room for requests under way, a share of it for each caller, and a bounded wait for either.

Owns:   who goes on, who waits and for how long, who is refused; giving room back.
Not:    counting with the other workers (shared_counts), when waits are looked at (agent.proxy.bulkhead_book).
Source: data-plane.md 1.4: resilience4j's semaphore bulkhead with its wait.
Invariants: what is entered is left once; at most `queue` requests of a caller wait here, in their order, and none of
        them longer than `max_wait_s`; who waits does not keep other callers out.
Differs: several workers may each let one more pass at the same instant: at most workers - 1 above a limit; exact with
        one. A wait sees room that another worker has given back when it is looked at next.
"""

from collections import deque
from collections.abc import Callable

from agent.cluster.shared_counts import Count
from agent.model.bulkhead import Bulkhead


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

    @property
    def idle(self) -> bool:
        """Nobody is in, nobody waits."""
        return not self._queue and not self._own.here

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
        self._own.leave()
        self._all_callers.leave()

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
        if not self._all_callers.enter():
            return False
        if not self._own.enter():
            self._all_callers.leave()
            return False
        return True
