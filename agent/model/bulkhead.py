"""Bulkheads as the agent enforces them. Source: proto/mesh/api/v1/bulkhead.proto."""

from dataclasses import dataclass
from typing import Final

OTHERS: Final = "others"  # callers without an identity, and those for whom there is no room
CELLS: Final = "bulkhead|"  # what their names begin with among those of shared cells, where clusters stand too


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulkhead:
    """One bulkhead, `name` = namespace/name of its policy. It is for the requests of a route that go to one of
    `clusters`; none = all of them.

    `most`: requests under way at once in all workers; `most_per_caller`: of one caller. `queue`: requests of one caller
    that may wait in one worker, each for at most `max_wait_s`.
    """

    name: str
    clusters: frozenset[str] = frozenset()
    most: int = 25
    most_per_caller: int = 25
    queue: int = 0
    max_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulkheads:
    """Those of a route; a request obeys the first that is for its cluster."""

    bulkheads: tuple[Bulkhead, ...] = ()


NO_BULKHEADS = Bulkheads()


def cells_of(name: str, caller: str = "") -> str:
    """Under what name the shared cells of a bulkhead, or of one of its callers, are known."""
    return f"{CELLS}{name}|{caller}" if caller else f"{CELLS}{name}"
