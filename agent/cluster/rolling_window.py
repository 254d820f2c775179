"""The outcomes of the last seconds, or of the last so many requests.

Owns:   how many there are, how many of them failed, how many were slow; when they are forgotten.
Not:    what follows from it (circuit_breaker).
Source: data-plane.md 1.4: Hystrix forgets by buckets of time, resilience4j by time or by count.
Invariant: the three sums are those of what is kept, at any time; adding and forgetting cost the same whatever is kept.
"""

from collections import deque
from typing import Protocol

from agent.model.circuit_breaker import FAILED, SLOW, Window


class RollingWindow(Protocol):
    """`total`, `failed`, `slow`: after `forget`, as of its time."""

    total: int
    failed: int
    slow: int

    def add(self, outcomes: bytes, now: float) -> None: ...
    def forget(self, now: float) -> None: ...
    def clear(self) -> None: ...


class TimeWindow:
    """Whole buckets are forgotten, each `duration_s / buckets` long, so it remembers up to a bucket less than that."""

    def __init__(self, duration_s: float, buckets: int) -> None:
        self._bucket_s = duration_s / buckets
        self._keep = buckets
        self._buckets: deque[list[int]] = deque()  # [number of the bucket since the clock's 0, total, failed, slow]
        self.total = self.failed = self.slow = 0

    def add(self, outcomes: bytes, now: float) -> None:
        self.forget(now)
        number = int(now / self._bucket_s)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0, 0])
        bucket = self._buckets[-1]
        total = len(outcomes)
        failed, slow = counted_outcomes(outcomes)
        bucket[1] += total
        bucket[2] += failed
        bucket[3] += slow
        self.total += total
        self.failed += failed
        self.slow += slow

    def forget(self, now: float) -> None:
        oldest = int(now / self._bucket_s) - self._keep + 1
        while self._buckets and self._buckets[0][0] < oldest:
            _, total, failed, slow = self._buckets.popleft()
            self.total -= total
            self.failed -= failed
            self.slow -= slow

    def clear(self) -> None:
        self._buckets.clear()
        self.total = self.failed = self.slow = 0


class CountWindow:
    """The last `size` requests."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: deque[int] = deque()
        self.total = self.failed = self.slow = 0

    def add(self, outcomes: bytes, now: float) -> None:
        outcomes = outcomes[-self._size :]
        failed, slow = counted_outcomes(outcomes)
        self._kept.extend(outcomes)
        self.failed += failed
        self.slow += slow
        while len(self._kept) > self._size:
            gone = self._kept.popleft()
            self.failed -= gone & FAILED
            self.slow -= (gone & SLOW) // SLOW
        self.total = len(self._kept)

    def forget(self, now: float) -> None:
        """Time changes nothing."""

    def clear(self) -> None:
        self._kept.clear()
        self.total = self.failed = self.slow = 0


def window_of(config: Window) -> RollingWindow:
    """An empty one."""
    return CountWindow(config.size) if config.size else TimeWindow(config.duration_s, config.buckets)


def counted_outcomes(outcomes: bytes) -> tuple[int, int]:
    """(failed, slow) among them."""
    both = outcomes.count(FAILED | SLOW)
    return outcomes.count(FAILED) + both, outcomes.count(SLOW) + both
