"""When a new stream may begin: not before the mesh is known, and not all at once. Sans-io.

Owns:   the rate of admissions; the wait for known nodes to register again after a start.
Source: control-plane.md 5, rules 22 and 23.

    LOADING --first snapshot--> WAITING --known nodes have registered, or `wait_s` after the start--> OPEN

Node records are persistent and instances live on leases of 15 s: a control plane that comes back after a longer
outage would else tell the first agent that every other node's endpoints are gone.
"""

from collections.abc import Iterable


class Gate:
    """Open once the first streams may be answered; never closes again."""

    def __init__(self, *, wait_s: float, started: float) -> None:
        self._until = started + wait_s
        self._seen: set[str] = set()
        self.loaded = False
        self.open = False

    def saw(self, node: str) -> None:
        """The node's agent has said hello to this replica."""
        self._seen.add(node)

    def look(self, known: Iterable[str], registered: Iterable[str], now: float) -> tuple[str, ...]:
        """The snapshot is loaded: `known` nodes, of which `registered` have instances. Gives who is waited for."""
        self.loaded = True
        missing = tuple(sorted(set(known) - set(registered) - self._seen))
        self.open = self.open or not missing or now >= self._until
        return () if self.open else missing


class AdmissionRate:
    """At most `per_s` admissions a second, evenly spaced, with a burst of one second's worth."""

    def __init__(self, per_s: float, *, max_wait_s: float = 10.0) -> None:
        self._interval_s = 1.0 / per_s
        self._burst_s = 1.0
        self._max_wait_s = max_wait_s
        self._next = float("-inf")

    def wait_s(self, now: float) -> float | None:
        """How long this stream has to wait for its turn; None when the line is too long: it must come back later."""
        turn = max(self._next, now - self._burst_s)
        if turn - now > self._max_wait_s:
            return None
        self._next = turn + self._interval_s
        return max(0.0, turn - now)
