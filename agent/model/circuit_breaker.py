"""Circuit breakers as the agent enforces them. Source: proto/mesh/api/v1/circuit_breaker.proto.

Two more things are called so elsewhere: `thresholds` cap concurrency, `outlier_detection` ejects hosts.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Phase(IntEnum):
    """CLOSED lets traffic flow, OPEN refuses it, HALF_OPEN probes; the other two are a person's order."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2
    FORCED_OPEN = 3
    DISABLED = 4


class Forced(IntEnum):
    NONE = 0
    OPEN = 1
    DISABLED = 2


# Outcomes of admitted requests; FAILED and SLOW may come together.
GOOD: Final = 0
FAILED: Final = 1
SLOW: Final = 2
CANCELLED: Final = 4  # nobody waited for the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What counts: the requests of the last `duration_s`, forgotten in `buckets` parts; with a `size`, the last so many
    requests instead."""

    duration_s: float = 10.0
    buckets: int = 10
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedAnswer:
    """`headers`: (lower-case name, value)."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherService:
    """Requests go to another cluster instead."""

    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """Answers of before, at most so old; each worker keeps so many, in so many bytes."""

    max_age_s: float
    max_entries: int
    max_bytes: int


Fallback = FixedAnswer | OtherService | LastGood


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreaker:
    """One breaker, `name` = namespace/name of its policy. It is for the requests of a route that go to one of
    `clusters`; none = all of them. Percentages 0-100.

    `statuses`: (from, to) of answers that are failures; `flags`: so are requests with one of these response flags.
    `slow_s` 0 = no answer is slow. `probe_wait_s` 0 = a probe may take for ever. `any_failure`: one failed probe opens
    it again; else their percentages decide once all are over. `on_failure`: a failed request gets the fallback too.
    """

    name: str
    clusters: frozenset[str] = frozenset()
    per_caller: bool = False
    statuses: tuple[tuple[int, int], ...] = ((500, 599),)
    flags: frozenset[str] = frozenset()
    slow_s: float = 0.0
    slow_percent: float = 100.0
    window: Window = Window()
    volume: int = 20
    error_percent: float = 50.0
    open_s: float = 5.0
    probes: int = 1
    probe_wait_s: float = 0.0
    any_failure: bool = True
    forced: Forced = Forced.NONE
    fallback: Fallback | None = None
    on_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakers:
    """Those of a route; a request obeys the first that is for its cluster."""

    breakers: tuple[CircuitBreaker, ...] = ()


NO_BREAKERS = CircuitBreakers()
