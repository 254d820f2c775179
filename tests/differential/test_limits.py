"""Requests at the same time against a cluster's thresholds, and connections that are used again."""

import asyncio
from dataclasses import replace

import pytest

from tests.differential.case import Case, Do, Script, answer, get, post
from tests.differential.client import run_client
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, Side, World, static_cluster
from tests.support import decoding
from tests.support.decoding import Json

LIMITS: dict[str, Json] = {
    "one-connection": {"max_connections": 1, "max_pending_requests": 1},
    "nobody-waits": {"max_connections": 1, "max_pending_requests": 0},
    "two-requests": {"max_requests": 2},
    "enough": {"max_connections": 4, "max_pending_requests": 4},
}
_HOSTS = [
    decoding.host(decoding.route({"cluster": name}, name=name), name=name, domains=[name])
    for name in ("origin", *LIMITS)
]
WORLD = World(
    routes={"r": decoding.configuration(*_HOSTS)},
    clusters=(
        ORIGIN,
        *(static_cluster(name, "$ORIGIN", circuit_breakers={"thresholds": [most]}) for name, most in LIMITS.items()),
    ),
)
SLOW: Script = (0.4, *answer(keep=True))
KEPT = answer(keep=True)
_TWO = (get(b"/1", host=b"origin"), Do.AWAIT, get(b"/2", host=b"origin"))
_POST = (get(b"/1", host=b"origin"), Do.AWAIT, post(b"/2", host=b"origin"))
CASES = [
    Case(name="used again", send=_TWO, origin=(KEPT,), answers=2, logs=2),
    Case(name="closed while idle", send=(_TWO[0], 0.1, _TWO[2]), origin=((*KEPT, Do.CLOSE), KEPT), answers=2, logs=2),
    Case(name="closed under a GET", send=_TWO, origin=(KEPT, (Do.CLOSE,), KEPT), answers=2, logs=2),
    Case(name="closed under a POST", send=_POST, origin=(KEPT, (Do.CLOSE,), KEPT), answers=2, logs=2),
    Case(name="reset under a POST", send=_POST, origin=(KEPT, (Do.RESET,), KEPT), answers=2, logs=2),
    Case(name="broken under a GET", send=_TWO, origin=(KEPT, (b"HTTP/1.1 2", 0.03, Do.CLOSE)), answers=2, logs=2),
]
_DIFFER = {"closed under a GET": "keep-alive-race"}


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_connections_are_used_the_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, "")))


async def _at_once(pair: Pair, side: Side, name: str) -> list[tuple[int, bytes, str, str]]:
    """(status, body, flags, details) of four requests at the same time, in an order that is no matter of chance."""
    pair.origin.prepare((SLOW,))
    side.flush()
    side.forget()
    # One after the other, so that the first has its connection when the second comes; all while the origin is slow.
    cases = [Case(name=name, send=(0.04 * place, get(host=name.encode()))) for place in range(4)]
    heard = await asyncio.gather(*(run_client(side.ports["http"], case) for case in cases))
    lines = await side.wait_lines(4)
    logged = sorted((line["code"], line["flags"], line["details"]) for line in lines)
    answered = sorted((one.answers[0].status, one.answers[0].body) for one in heard)
    return [(*told, flags, details) for told, (_, flags, details) in zip(answered, logged, strict=True)]


@pytest.mark.envoy
@pytest.mark.parametrize("name", LIMITS)
def test_as_many_are_served(pair: Pair, runner: asyncio.Runner, name: str) -> None:
    envoy = runner.run(_at_once(pair, pair.envoy, name))
    assert runner.run(_at_once(pair, pair.agent, name)) == envoy
