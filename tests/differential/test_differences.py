"""The table of differences: each row has its cases and its line in the documentation."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.differential import (
    test_answers,
    test_cors,
    test_faults,
    test_fields,
    test_grpc_authorization,
    test_hedging,
    test_limits,
    test_mirrors,
    test_rate_limits,
    test_requests,
    test_resilience,
    test_rewrites,
    test_routing,
    test_tokens,
)
from tests.differential.case import Case, Do, answer, get
from tests.differential.client import run_client
from tests.differential.conftest import Check
from tests.differential.differences import DIFFERENCES
from tests.differential.pair import ORIGIN, Pair, Side, World
from tests.support import decoding

DOCUMENT = Path(__file__).parents[2] / "docs" / "differences-from-envoy.md"
WORLD = World(
    routes={"r": decoding.configuration(decoding.host(decoding.route({"cluster": "origin"})))},
    clusters=(ORIGIN,),
    listeners={"http": {}, "default": {"normalize_path": None}},
)
# What outcomes hide, so it is compared here.
SHOWN_HERE = {"header-case", "normalised-paths", "trace-context"}
SHOWN_HERE |= {"judged-once", "ejections-at-once"}  # in test_over_time
SHOWN_HERE |= {"degraded-and-hashed"}  # in test_hashing
SHOWN_HERE |= {"count-empty-panic", "count-in-the-pause"}  # in test_statistics
_MODULES = (
    test_answers,
    test_cors,
    test_faults,
    test_fields,
    test_grpc_authorization,
    test_hedging,
    test_limits,
    test_mirrors,
    test_rate_limits,
    test_requests,
    test_resilience,
    test_rewrites,
    test_routing,
    test_tokens,
)


def _named() -> Iterable[str]:
    for module in _MODULES:
        by_name = getattr(module, "_DIFFER", {})
        for case in module.CASES:
            yield from f"{case.differs} {by_name.get(case.name, '')}".split()


def test_each_row_is_documented() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted({*DIFFERENCES, *SHOWN_HERE})


def test_each_row_has_a_case() -> None:
    assert set(_named()) | SHOWN_HERE == {*DIFFERENCES, *SHOWN_HERE}


@pytest.mark.envoy
def test_a_trace_begins(check: Check) -> None:
    check(Case(name="no traceparent", send=(get(),), differs="trace-context"))


@pytest.mark.envoy
def test_the_case_of_names_is_kept(pair: Pair, runner: asyncio.Runner) -> None:
    case = Case(name="case", send=(get(b"/", b"X-CaSe: 1"),), origin=(answer(200, b"", b"X-AnSwer: 1"),))

    async def names(side: Side) -> tuple[set[str], set[str]]:
        pair.origin.prepare(case.origin)
        side.forget()
        heard = await run_client(side.ports["http"], case)
        await side.wait_lines(1)  # else it would come in the next case
        return {name for name, _ in pair.origin.seen[0].fields}, {name for name, _ in heard.answers[0].fields}

    envoy = runner.run(names(pair.envoy))
    agent = runner.run(names(pair.agent))
    assert ("x-case" in envoy[0], "x-answer" in envoy[1]) == (True, True)
    assert ("X-CaSe" in agent[0], "X-AnSwer" in agent[1]) == (True, True)


@pytest.mark.envoy
@pytest.mark.parametrize(("side", "line"), [("envoy", "GET /a/../b HTTP/1.1"), ("agent", "GET /b HTTP/1.1")])
def test_paths_are_normalised_by_default(pair: Pair, runner: asyncio.Runner, side: str, line: str) -> None:
    case = Case(name="dots", send=(get(b"/a/../b"),), listener="default")
    envoy, agent = runner.run(pair.run(case))
    assert {"envoy": envoy, "agent": agent}[side].requests[0].line == line


@pytest.mark.envoy
def test_a_difference_that_has_vanished_fails(check: Check) -> None:
    with pytest.raises(AssertionError, match="obs-fold"):
        check(Case(name="plain", send=(get(),), differs="obs-fold"))


@pytest.mark.envoy
def test_a_difference_without_a_row_fails(check: Check) -> None:
    with pytest.raises(AssertionError, match="bare LF"):
        check(Case(name="bare LF", send=(b"GET / HTTP/1.1\nHost: a\n\n",)))


@pytest.mark.envoy
def test_a_client_that_hangs_up_is_seen_by_both(check: Check) -> None:
    check(Case(name="gone", send=(get(), 0.05, Do.RESET), origin=((Do.HANG,),), answers=0))
