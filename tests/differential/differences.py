"""Every intended difference from Envoy, and the judgement of a case: all else must be equal.

Owns:   the rows of docs/differences-from-envoy.md as predicates.
Invariants: a difference covers only the places that it names; a case that names one fails when it has vanished.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.differential.case import Case
from tests.differential.outcome import Outcome

ABSENT = "(absent)"
Differing = dict[str, tuple[Any, Any]]  # place -> (Envoy's, the agent's)


def _always(envoy: Outcome, agent: Outcome) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`places`: what of an outcome it covers, a regular expression; `holds`: whether it is this difference at all.
    `everywhere`: cases need not name it."""

    places: str
    holds: Callable[[Outcome, Outcome], bool] = _always
    values: Callable[[Any, Any], bool] | None = None
    everywhere: bool = False

    def covers(self, place: str, envoy: Any, agent: Any) -> bool:
        return re.fullmatch(self.places, place) is not None and (self.values is None or self.values(envoy, agent))


def _status(found: Outcome) -> int:
    return int(found.answers[-1].line.split(" ")[1]) if found.answers else 0


def _refused(envoy_status: int, agent_status: int) -> Callable[[Outcome, Outcome], bool]:
    """The agent answers by itself and the origin sees nothing."""

    def holds(envoy: Outcome, agent: Outcome) -> bool:
        return _status(envoy) == envoy_status and _status(agent) == agent_status and not agent.requests

    return holds


DIFFERENCES: dict[str, Difference] = {
    "trace-context": Difference(
        places=r"request\d traceparent", everywhere=True, values=lambda envoy, agent: envoy == ABSENT
    ),
}


def differing(envoy: Outcome, agent: Outcome) -> Differing:
    """What is not the same."""
    left, right = envoy.flat(), agent.flat()
    pairs = {place: (left.get(place, ABSENT), right.get(place, ABSENT)) for place in {**left, **right}}
    return {place: pair for place, pair in pairs.items() if pair[0] != pair[1]}


def judge(case: Case, envoy: Outcome, agent: Outcome) -> None:
    """Fails when the two differ otherwise than intended."""
    found = differing(envoy, agent)
    named = [key for key in case.differs.split(" ") if key]
    for key in [*named, *(key for key, one in DIFFERENCES.items() if one.everywhere)]:
        one = DIFFERENCES[key]
        if not one.holds(envoy, agent):
            assert key not in named, f"{key}: not what was intended\n{_table(found.items())}"
            continue
        covered = [place for place, pair in found.items() if one.covers(place, *pair)]
        assert covered or key not in named, f"{key} has vanished"
        for place in covered:
            del found[place]
    assert not found, f"{case.name}\n{_table(found.items())}"


def _table(rows: Iterable[tuple[str, tuple[Any, Any]]]) -> str:
    return "\n".join(f"  {place}\n    envoy {pair[0]!r}\n    agent {pair[1]!r}" for place, pair in sorted(rows))
