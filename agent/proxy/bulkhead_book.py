"""The bulkheads of one worker: their compartments by policy and caller, and when those who wait are looked at.

Owns:   the compartments, what they are counted as.
Not:    room and queues (agent.cluster.bulkhead), what a request does with them (bulkhead).
Invariants: who waits is looked at when room is given back in this worker, and every LOOK_S; of callers of one policy at
        most MAX_CALLERS have a compartment: a new one takes the place of one that is idle, else it shares one. Of more
        than MAX_POLICIES those at which nobody is are forgotten. Who is let in may leave at once: nobody is let in
        meanwhile, so that many of them are a loop and no recursion.
"""

from collections.abc import Callable
from typing import Final

from agent.cluster.bulkhead import Compartment
from agent.cluster.shared_counts import Count, SharedCounts
from agent.ipc import table_memory
from agent.model.bulkhead import OTHERS, Bulkhead
from agent.model.count_cells import TABLE
from agent.stats.gossamer import bulkhead_group
from agent.stats.registry import Registry
from agent.upstream.wheel import NEVER, Timed, TimerWheel

LOOK_S: Final = 0.01
MAX_CALLERS: Final = 1000
MAX_POLICIES: Final = 1000
ALL: Final = ""  # the caller that stands for all of them


class BulkheadBook(Timed):
    """One per worker. `counts`: until the supervisor gives those that all share, it has some of its own."""

    __slots__ = (
        "_clock",
        "_compartments",
        "_limits",
        "_looking",
        "_max_callers",
        "_max_policies",
        "_stats",
        "_totals",
        "_waited_at",
        "_wheel",
        "counts",
    )

    def __init__(
        self,
        wheel: TimerWheel,
        clock: Callable[[], float],
        stats: Registry,
        max_callers: int = MAX_CALLERS,
        max_policies: int = MAX_POLICIES,
    ) -> None:
        super().__init__()
        self._wheel = wheel
        self._clock = clock
        self._stats = stats
        self._max_callers = max_callers
        self._max_policies = max_policies
        self._limits: dict[str, tuple[int, int, int]] = {}  # by policy, which may have come with several routes
        self._compartments: dict[str, dict[str, Compartment]] = {}  # by policy, then caller
        self._totals: dict[str, Count] = {}  # by policy
        self._waited_at: set[str] = set()  # policies
        self._looking = False
        self.counts = SharedCounts(table_memory.private(TABLE), 1, 0)

    def compartment(self, policy: Bulkhead, caller: str) -> Compartment:
        """The part of `caller`, made at its first request."""
        known = self._compartments.get(policy.name)
        if known is None:
            if len(self._compartments) >= self._max_policies:
                self._forget_unused()
            known = self._compartments[policy.name] = {}
        limits = policy.most, policy.most_per_caller, policy.queue
        if self._limits.get(policy.name) != limits:
            self._limits[policy.name] = limits
            for part in known.values():
                part.configure(policy)
        found = known.get(caller or OTHERS)
        return found if found is not None else self._make(policy, caller or OTHERS, known)

    def _make(self, policy: Bulkhead, caller: str, known: dict[str, Compartment]) -> Compartment:
        if len(known) >= self._max_callers:
            self._forget_idle(policy.name, known)
        if len(known) >= self._max_callers:
            caller = OTHERS
        found = known.get(caller)
        if found is None:
            total = self._totals.get(policy.name)
            if total is None:
                total = self._totals[policy.name] = self._count(policy.name, ALL)
            found = known[caller] = Compartment(policy, total, self._count(policy.name, caller))
        return found

    def _count(self, name: str, caller: str) -> Count:
        group = self._stats.get(_stats_key(name, caller), lambda: bulkhead_group(name, caller))
        return Count(self.counts, (name, caller), group.counts)

    def _forget_idle(self, name: str, known: dict[str, Compartment]) -> None:
        idle = next((caller for caller, part in known.items() if part.idle and caller != OTHERS), None)
        if idle is not None:
            del known[idle]
            self._stats.drop(_stats_key(name, idle))

    def _forget_unused(self) -> None:
        """The policies at which nobody is: they may be gone from the configuration."""
        for name, known in list(self._compartments.items()):
            if name not in self._waited_at and all(part.idle for part in known.values()):
                del self._compartments[name], self._limits[name]
                self._totals.pop(name, None)
                for caller in (ALL, *known):
                    self._stats.drop(_stats_key(name, caller))

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
        if name not in self._waited_at or self._looking:
            return
        parts, now = self._compartments[name], self._clock()
        self._looking = True
        try:
            going = True
            while going:
                waiting = [part for part in parts.values() if part.waiting]
                going = any([_let_next(part, now) for part in waiting])  # a list: each has its turn
        finally:
            self._looking = False
        if not any(part.waiting for part in parts.values()):
            self._waited_at.discard(name)


def _let_next(part: Compartment, now: float) -> bool:
    """Whether its first had something to be told."""
    call = part.next(now)
    if call is not None:
        call()
    return call is not None


def _stats_key(name: str, caller: str) -> str:
    return f"bulkhead.{name}|{caller}"
