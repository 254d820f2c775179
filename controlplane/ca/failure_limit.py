"""How many joins one address may get wrong. Pure: `now` is an argument.

Owns:   one bucket per address: BURST failures at once, then one per REFILL_S.
Invariant: at most MAX_ADDRESSES buckets; the one that failed longest ago makes way.
"""

from dataclasses import dataclass, field

BURST = 10
REFILL_S = 2.0
MAX_ADDRESSES = 10_000


@dataclass(slots=True)
class FailureLimit:
    """Failures by address, as the time at which the bucket is full again."""

    _full_at: dict[str, float] = field(default_factory=dict)

    def wait_s(self, address: str, now: float) -> float:
        """0 when the address may try now, else how long it must wait."""
        debt_s = self._full_at.get(address, 0.0) - now
        return max(debt_s - (BURST - 1) * REFILL_S, 0.0)

    def failed(self, address: str, now: float) -> None:
        """Count a failure."""
        full_at = max(self._full_at.pop(address, 0.0), now) + REFILL_S
        self._full_at[address] = full_at
        if len(self._full_at) > MAX_ADDRESSES:
            # Insertion order is the order of the last failure.
            self._full_at.pop(next(iter(self._full_at)))
