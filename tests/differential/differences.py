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


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _entries(value: Any) -> list[str]:
    return [entry.strip() for entry in _text(value).split(",")]


def _status(found: Outcome) -> int:
    return int(found.answers[-1].line.split(" ")[1]) if found.answers else 0


def _refused(envoy_status: int, agent_status: int) -> Callable[[Outcome, Outcome], bool]:
    """The agent answers by itself and the origin sees nothing."""

    def holds(envoy: Outcome, agent: Outcome) -> bool:
        return _status(envoy) == envoy_status and _status(agent) == agent_status and not agent.requests

    return holds


def _served(envoy_status: int, agent_status: int = 200) -> Callable[[Outcome, Outcome], bool]:
    """The agent serves what Envoy refuses."""

    def holds(envoy: Outcome, agent: Outcome) -> bool:
        return _status(envoy) == envoy_status and _status(agent) == agent_status and not envoy.requests

    return holds


def _absent_from_envoy(envoy: Any, agent: Any) -> bool:
    return bool(envoy == ABSENT)


WHOLE = r".*"
_LOGGED_REQUEST = (
    r"log\d (authority|method|path|path_now|plain_path|whole_query|scheme|forwarded|user_agent|remote|other|a_short)"
)
DIFFERENCES: dict[str, Difference] = {
    "trace-context": Difference(places=r"request\d traceparent", everywhere=True, values=_absent_from_envoy),
    # --- stricter: nothing that two programs could read in two ways
    "obs-fold": Difference(places=WHOLE, holds=_refused(200, 400)),
    "bare-lf": Difference(places=WHOLE, holds=_refused(200, 400)),
    "bare-cr": Difference(places=WHOLE, holds=_refused(200, 400)),
    "two-hosts": Difference(places=WHOLE, holds=_refused(200, 400)),
    "empty-host": Difference(places=WHOLE, holds=_refused(200, 400)),
    "authority-form": Difference(places=WHOLE, holds=_refused(200, 400)),
    "chunk-overrun": Difference(places=WHOLE, holds=_refused(200, 400)),
    "chunk-before-forwarding": Difference(
        places=r"log0 (attempts|cluster|host|route|scheme|upstream_(name|port))", holds=_refused(400, 400)
    ),
    "content-length-form": Difference(places=r"request0 content-length"),
    "backslash": Difference(places=WHOLE, holds=_refused(200, 400)),
    "connect": Difference(places=r"answer0 line|log0 (code|details|flags(_long)?|scheme)", holds=_refused(404, 405)),
    "http-versions": Difference(
        places=r"answer0 (body|content-length|line)|log0 (code|sent)", holds=_refused(426, 505)
    ),
    "http-10-chunked": Difference(
        places=WHOLE, holds=lambda envoy, agent: _status(agent) == 400 and not agent.requests
    ),
    "exp-zero": Difference(
        places=WHOLE, holds=lambda envoy, agent: agent.answers[-1].body == b"Jwt is expired" != envoy.answers[-1].body
    ),
    "authorizer-status": Difference(
        places=r"answer0 .*|log0 .*", holds=lambda envoy, agent: (_status(envoy), _status(agent)) == (700, 403)
    ),
    "authorizer-fields": Difference(places=WHOLE, holds=_refused(200, 500)),
    "authorizer-framing": Difference(
        places=r"request0 connection", values=lambda envoy, agent: envoy == ("close",) and agent == ABSENT
    ),
    # --- kinder, or more exact
    "claim-unfit-for-a-field": Difference(places=WHOLE, holds=_served(503)),
    "retry-after": Difference(places=r"answer\d+ retry-after", values=_absent_from_envoy),
    "http-10": Difference(places=WHOLE, holds=_served(426)),
    "http-10-answers": Difference(
        places=r"answer\d line", values=lambda envoy, agent: envoy.replace("HTTP/1.0", "HTTP/1.1") == agent
    ),
    "http-10-host": Difference(places=WHOLE, holds=_served(400)),
    "http-10-expect": Difference(
        places=r"answers|answer\d .*|request0 expect",
        holds=lambda envoy, agent: envoy.answers[0].line.endswith("Continue") and len(agent.answers) == 1,
    ),
    "absolute-form-query": Difference(places=WHOLE, holds=_served(404)),
    "host-nominated": Difference(places=WHOLE, holds=_served(400)),
    "reason-phrase": Difference(
        places=r"answer\d line", values=lambda envoy, agent: envoy.split(" ")[:2] == agent.split(" ")[:2]
    ),
    "no-body-with-204": Difference(
        places=r"answer0 content-(length|type)|raw|log0 (content_type|sent)",
        holds=lambda envoy, agent: _status(agent) in (204, 304) and envoy.raw != b"" and agent.raw == b"",
    ),
    "answered-before-the-body": Difference(
        places=r"answer0 connection|ended|log0 received", holds=lambda envoy, agent: envoy.ended and not agent.ended
    ),
    "answer-broken-at-once": Difference(
        places=r"answer0 .*|ended|log0 (code|content_type|details|sent)",
        holds=lambda envoy, agent: not envoy.answers[0].complete and _status(agent) == 502,
    ),
    "reset-is-no-end": Difference(
        places=r"answer0 complete|ended|log0 (details|flags(_long)?)",
        holds=lambda envoy, agent: envoy.answers[0].complete and not agent.answers[0].complete,
    ),
    "repeated-lines-kept": Difference(
        places=r"(log0|request0|answer0) .*", values=lambda envoy, agent: _entries(envoy) == _entries(agent)
    ),
    "loopback-peer": Difference(
        places=r"(log0|request0) (x-)?forwarded(-for)?",
        values=lambda envoy, agent: _entries(envoy)[:-1] == _entries(agent)[:-1] and _entries(agent)[-1] == "127.0.0.1",
    ),
    "hostname": Difference(places=r"(answer|request)0 x-f-14"),
    "log-hosts-attempted": Difference(
        places=r"log0 hosts", values=lambda envoy, agent: envoy is None or str(agent).endswith(f",{envoy}")
    ),
    "log-missing-cluster": Difference(places=r"log0 cluster", values=lambda envoy, agent: envoy is None),
    # --- stricter with origins
    "answer-form": Difference(places=r"answer0 .*|log0 .*", holds=lambda envoy, agent: _status(agent) == 502),
    "unasked-101": Difference(places=WHOLE, holds=lambda envoy, agent: _status(envoy) == 101 and _status(agent) == 502),
    "nominated-in-answers": Difference(places=r"answer0 .*", values=lambda envoy, agent: agent == ABSENT),
    "keep-alive-race": Difference(
        places=r"(answer1|request2|log1|log0) .*|requests",
        holds=lambda envoy, agent: (
            (_status(envoy), _status(agent)) == (503, 200) and len(agent.requests) == len(envoy.requests) + 1
        ),
    ),
    "hedge-as-conditioned": Difference(
        places=r"request1 .*|requests|answer0 x-envoy-attempt-count|log0 attempts",
        holds=lambda envoy, agent: (len(envoy.requests), len(agent.requests)) == (2, 1) and not envoy.requests[1].body,
    ),
    "copies-say-nothing-of-us": Difference(
        places=r"request\d x-(envoy-internal|forwarded-for)",
        values=lambda envoy, agent: agent == ABSENT or _entries(envoy)[:-1] == _entries(agent),
    ),
    "upgrades-are-not-copied": Difference(
        places=r"request1 .*|requests", holds=lambda envoy, agent: (len(envoy.requests), len(agent.requests)) == (2, 1)
    ),
    "referer": Difference(places=r"request0 referer", values=_absent_from_envoy),
    "continue-when-needed": Difference(
        places=r"answers|answer\d .*", holds=lambda envoy, agent: envoy.answers[1:] == agent.answers
    ),
    "refusals-name-the-request": Difference(
        places=_LOGGED_REQUEST, values=lambda envoy, agent: envoy in (None, "127.0.0.1")
    ),
}


def differing(envoy: Outcome, agent: Outcome) -> Differing:
    """What is not the same."""
    left, right = envoy.flat(), agent.flat()
    pairs = {place: (left.get(place, ABSENT), right.get(place, ABSENT)) for place in {**left, **right}}
    return {place: pair for place, pair in pairs.items() if pair[0] != pair[1]}


def showing(keys: Iterable[str], envoy: Outcome, agent: Outcome) -> str:
    """Those of the differences that show here: what a generated case names."""
    found = differing(envoy, agent)
    shown = (
        key
        for key in keys
        if any(DIFFERENCES[key].covers(place, *pair) for place, pair in found.items())
        and DIFFERENCES[key].holds(envoy, agent)
    )
    return " ".join(shown)


def judge(case: Case, envoy: Outcome, agent: Outcome) -> None:
    """Fails when the two differ otherwise than intended."""
    found = differing(envoy, agent)
    named = [key for key in case.differs.split(" ") if key]
    for key in dict.fromkeys([*named, *(key for key, one in DIFFERENCES.items() if one.everywhere)]):
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
