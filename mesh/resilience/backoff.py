"""Exponential back-off with full jitter, as Envoy's retries and our own reconnects use it.

Source: Envoy source/common/common/backoff_strategy.cc: delay = random below the interval; the interval is
B, 2B, 4B, ... and stops growing at the cap. `rng` is an argument: a test passes a seeded one.
"""

from collections.abc import Callable
from dataclasses import dataclass

Rng = Callable[[], float]  # uniform in [0, 1), as random.random


def interval_s(attempt: int, *, base_s: float, max_s: float) -> float:
    """The upper bound of the delay before retry number `attempt` (1, 2, ...)."""
    # The exponent is capped so that a long outage never computes a huge power.
    return min(base_s * float(1 << min(max(attempt - 1, 0), 30)), max_s)


def delay_s(attempt: int, *, base_s: float, max_s: float, rng: Rng) -> float:
    """A delay in [0, interval): full jitter."""
    return rng() * interval_s(attempt, base_s=base_s, max_s=max_s)


@dataclass(slots=True)
class Backoff:
    """Back-off of one reconnecting client. `reset` after a success; never gives up by itself."""

    base_s: float
    max_s: float
    attempt: int = 0

    def next_delay_s(self, rng: Rng) -> float:
        """The delay before the next try, at least a tenth of its interval so that a client never spins."""
        self.attempt += 1
        bound = interval_s(self.attempt, base_s=self.base_s, max_s=self.max_s)
        return bound * (0.1 + 0.9 * rng())

    def reset(self) -> None:
        """Forget the failures: the next delay is the first one again."""
        self.attempt = 0
