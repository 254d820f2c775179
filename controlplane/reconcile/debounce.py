"""When to publish: the first change at once, those that follow merged, none kept for long. Sans-io.

Source: design section 5 ("leading edge"): 50 ms of quiet, at most 1 s.

    IDLE --change--> due now --flushed--> COOLING (quiet_s)
    COOLING --change--> due at min(last change + quiet_s, first change + max_s) --flushed--> COOLING
    COOLING --quiet_s without a change--> IDLE
"""


class Debounce:
    """`now`: monotonic seconds, never going back."""

    def __init__(self, *, quiet_s: float = 0.05, max_s: float = 1.0) -> None:
        self._quiet_s = quiet_s
        self._max_s = max_s
        self._flushed_at = float("-inf")
        self._first: float | None = None
        self._due = 0.0

    def changed(self, now: float) -> None:
        """A change has come."""
        if self._first is None:
            self._first = now
            if now - self._flushed_at >= self._quiet_s:
                self._due = now
                return
        elif self._due <= self._first:
            return  # the leading edge is due already
        self._due = min(now + self._quiet_s, self._first + self._max_s)

    def flushed(self, now: float) -> None:
        """Everything that had come is published."""
        self._first = None
        self._flushed_at = now

    @property
    def due(self) -> float | None:
        """When to publish; None while nothing waits."""
        return None if self._first is None else self._due
