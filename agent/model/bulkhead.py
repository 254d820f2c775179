"""Bulkheads as the agent enforces them. Source: proto/mesh/api/v1/bulkhead.proto."""

from dataclasses import dataclass
from typing import Final

OTHERS: Final = "others"  # callers without an identity, and those for whom there is no room


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulkhead:
    """One bulkhead, `name` = namespace/name of its policy, on the callee's side with the instance behind it. It is for
    the requests of a route that go to one of `clusters`; none = all of them.

    `most`: requests under way at once in all workers; `most_per_caller`: of one caller. `queue`: requests of one caller
    that may wait in one worker, each for at most `max_wait_s`. `by_certificate`: who calls is known by the certificate
    of its connection, not by the port that it uses.
    """

    name: str
    clusters: frozenset[str] = frozenset()
    most: int = 25
    most_per_caller: int = 25
    queue: int = 0
    max_wait_s: float = 0.0
    by_certificate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulkheads:
    """Those of a route; a request obeys the first that is for its cluster."""

    bulkheads: tuple[Bulkhead, ...] = ()


NO_BULKHEADS = Bulkheads()
