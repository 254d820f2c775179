"""The circuit breakers of the nodes that report to this replica: their states, since when and why. Pure, bounded.

Owns:   the latest set of each node; what is news in it.
Not:    the store, which breakers never reach: a state is worth what its node is, and comes again with its next stream.
Invariants: a node's states are there exactly while its report stream is; at most MAX_BREAKERS of a node.
"""

from collections.abc import Iterable
from dataclasses import dataclass

MAX_BREAKERS = 5000  # reported by one node
# What each state that a breaker may have comes to in the mesh's events.
EVENTS = {
    "CLOSED": "CircuitBreakerClosed",
    "OPEN": "CircuitBreakerOpened",
    "HALF_OPEN": "CircuitBreakerProbing",
    "FORCED_OPEN": "CircuitBreakerForcedOpen",
    "DISABLED": "CircuitBreakerDisabled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRow:
    """One breaker on one node. `breaker`: namespace/name; `caller`: a SPIFFE id, empty = for all; `opened`: how often
    since the agent began.
    """

    node: str
    breaker: str
    caller: str
    state: str
    since_ms: int
    why: str
    opened: int

    @property
    def key(self) -> tuple[str, str]:
        return self.breaker, self.caller


class BreakerTable:
    """By node."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[tuple[str, str], BreakerRow]] = {}

    def report(self, node: str, rows: Iterable[BreakerRow]) -> tuple[BreakerRow, ...]:
        """The node's full set. Gives those whose state is another than before; a new one was CLOSED before."""
        before = self._rows.get(node, {})
        now = self._rows[node] = {row.key: row for row in rows}
        return tuple(row for key, row in now.items() if row.state != _state(before.get(key)))

    def forget(self, node: str) -> None:
        """The node's stream ended."""
        self._rows.pop(node, None)

    def rows(self) -> tuple[BreakerRow, ...]:
        """All, by breaker, caller and node."""
        found = (row for own in self._rows.values() for row in own.values())
        return tuple(sorted(found, key=lambda row: (row.breaker, row.caller, row.node)))


def _state(row: BreakerRow | None) -> str:
    return row.state if row is not None else "CLOSED"
