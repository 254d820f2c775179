"""Bulkhead: how many calls to a service may be under way, and how many of those from one workload.

Owns:   the shape of `gossamer.mesh/v1` Bulkhead, its defaults (resilience4j's).
Not:    counting and waiting (the agent's), DestinationRule's connectionPool, which knows no callers and no wait.
Source: docs/adr/0007-bulkhead-is-a-kind.md, 0008-bulkhead-at-the-callee.md; data-plane.md 1.4
        (resilience4j's BulkheadConfig).
"""

from enum import StrEnum
from typing import Annotated

from controlplane.policy.call_target import CallPolicy
from controlplane.policy.scalars import Double, Duration, UInt32, enum_parser
from controlplane.policy.spec import Spec

DEFAULT_CONCURRENT = 25
DEFAULT_SHARE_PERCENT = 100.0
DEFAULT_WAIT_S = 0.1


class Side(StrEnum):
    """OUTBOUND: each node of callers, for its own workloads. INBOUND: each instance of the service, for all callers."""

    INBOUND = "INBOUND"
    OUTBOUND = "OUTBOUND"


class Queue(Spec):
    """Calls that wait for room: so many of each workload in each worker, each for at most `max_wait`."""

    size: UInt32 = 0
    max_wait: Duration | None = None

    @property
    def max_wait_s(self) -> float:
        """100 ms unless given."""
        return DEFAULT_WAIT_S if self.max_wait is None else self.max_wait


class Bulkhead(CallPolicy):
    """`max_concurrent`: for all workers of an agent together; each workload that calls has `share_percent` of it. It
    counts at each place of `enforce_at` by itself.
    """

    enforce_at: tuple[Annotated[Side, enum_parser(Side)], ...] = ()
    max_concurrent: UInt32 = 0
    share_percent: Double | None = None
    queue: Queue | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """Where it is enforced: at the callers unless given."""
        return self.enforce_at or (Side.OUTBOUND,)

    @property
    def concurrent(self) -> int:
        """25 unless given."""
        return self.max_concurrent or DEFAULT_CONCURRENT

    @property
    def share(self) -> int:
        """So many calls of one workload, at least one."""
        percent = DEFAULT_SHARE_PERCENT if self.share_percent is None else self.share_percent
        return max(int(self.concurrent * percent / 100), 1)

    @property
    def effective_queue(self) -> Queue:
        """Nothing waits unless it is given a size."""
        return self.queue or Queue()
