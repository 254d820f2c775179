"""Counting requests in fixed windows of the wall clock, in a bounded book. Pure.

Owns:   the windows, what of each may still be given away here, which counters are forgotten.
Not:    how replicas share a limit (shares), which limit a request is counted for (limits).
Source: the windows of Envoy's reference rate limit service, which begin with each full second, minute, hour, day (UTC).

    a counter's window:  `reserved` of the limit is this replica's to give; of that `left` is not given yet
                         `exhausted`: nothing more can be reserved before the next window

Invariants: what is given in a window is never more than what was reserved for it; 0 <= left <= reserved <= limit.
        Beyond `size` the counter that was not asked for for the longest time is forgotten, and with it what it had
        reserved.
"""

from collections import OrderedDict
from collections.abc import Hashable

from controlplane.policy.rate_limit import Rate


class Counter:
    """One rate of one client."""

    __slots__ = ("_index", "exhausted", "left", "rate", "reserved", "taken", "waiting")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._index = -2
        self.left = 0
        self.reserved = 0
        self.taken = 0  # by all replicas, as far as is known here
        self.exhausted = False
        self.waiting = 0  # requests that wait until more is reserved

    def turn(self, rate: Rate, now: float) -> int:
        """Go on to the window of `now`, in seconds since the epoch; the number of the one that it is in then.

        A changed rate begins anew. Who is late by a window does not turn it back; a clock that is set back does.
        """
        index = int(now // rate.window.seconds)
        if not self._index - 1 <= index <= self._index or rate != self.rate:
            self._index, self.rate = index, rate
            self.left = self.reserved = self.taken = 0
            self.exhausted = False
        return self._index

    def reserve(self, count: int, taken: int) -> None:
        """`count` more are this replica's to give, 0 = there are no more; `taken`: by all, these included."""
        self.left += count
        self.reserved += count
        self.taken = taken
        self.exhausted = self.exhausted or count <= 0

    def reserve_in(self, index: int, rate: Rate, count: int, taken: int) -> None:
        """The same, if it is still in the window `index` of that rate: else it is too late."""
        if index == self._index and rate == self.rate:
            self.reserve(count, taken)

    def can_give(self, hits: int) -> bool:
        """Whether so many requests may pass."""
        return self.left >= hits

    def give(self, hits: int) -> None:
        """They pass."""
        self.left -= hits

    @property
    def remaining(self) -> int:
        """How many requests may still pass here or elsewhere, at most."""
        return max(self.rate.requests - self.taken, 0) + self.left

    def reset_s(self, now: float) -> float:
        """Until the next window."""
        length = self.rate.window.seconds
        return length - now % length


class Book:
    """All counters, at most `size`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counters: OrderedDict[Hashable, Counter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counters)

    def counter(self, key: Hashable, rate: Rate, now: float) -> Counter:
        """The counter of a key, in the window of `now`."""
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = Counter(rate)
            if len(self._counters) > self._size:
                self._counters.popitem(last=False)
        else:
            self._counters.move_to_end(key)
        found.turn(rate, now)
        return found
