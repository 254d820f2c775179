"""The one gate of circuit breakers: every worker is told the same, and what is shown says why."""

from dataclasses import replace

import pytest

from agent.ipc.messages import KINDS, ROUTE_CONFIGURATION, VIRTUAL_HOST, BreakerNews, BreakerState, Config
from agent.model.circuit_breaker import FAILED, GOOD, CircuitBreaker, CircuitBreakers, Forced, Phase
from agent.model.http_filters import RouteFilter
from agent.model.route import DirectResponse, PathKind, Route, RouteConfiguration, RouteMatch, VirtualHost
from agent.stats.gossamer import CIRCUIT_BREAKER_OPENED, CIRCUIT_BREAKER_REQUESTS, CIRCUIT_BREAKER_STATE, series
from agent.supervisor import breakers as breakers_module
from agent.supervisor.breakers import Breakers
from tests.support.clock import ManualClock

NAME = "default/reviews"
POLICY = CircuitBreaker(name=NAME, volume=4)
FAILURES = bytes((FAILED,) * 4)


def host(*policies: CircuitBreaker, name: str = "r/h") -> VirtualHost:
    """A virtual host with one route that names the policies."""
    said = RouteFilter(name="gossamer.circuit_breaker", config=CircuitBreakers(breakers=policies))
    match = RouteMatch(path_kind=PathKind.PREFIX, path="/")
    route = Route(name="all", match=match, action=DirectResponse(status=200), filters=(said,))
    return VirtualHost(name=name, domains=("*",), routes=(route,))


class Gate:
    """The gate, with what it said."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.told: list[tuple[BreakerState, int]] = []
        self.forgotten: list[str] = []
        self.changes = 0
        self.counts: dict[str, int] = {}
        self.gauges: dict[str, int | None] = {}
        self.gate = Breakers(
            tell=lambda state, probes: self.told.append((state, probes)),
            forget=self.forgotten.append,
            changed=self._changed,
            count=self._count,
            gauge=self.gauges.__setitem__,
            clock=self.clock,
        )

    def _changed(self) -> None:
        self.changes += 1

    def _count(self, name: str, increase: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + increase

    def follow(self, *policies: CircuitBreaker) -> None:
        hosts: dict[str, Config] = {"r/h": host(*policies)} if policies else {}
        self.gate.follow({**{kind: {} for kind in KINDS}, VIRTUAL_HOST: hosts})

    def news(self, outcomes: bytes, epoch: int = 0, caller: str = "", **more: int) -> None:
        self.gate.news(BreakerNews(NAME, caller, epoch, outcomes, **more))

    @property
    def phases(self) -> dict[str, Phase]:
        return {item.caller: item.phase for item in self.gate.shown()}


def test_a_breaker_opens_and_everybody_is_told() -> None:
    gate = Gate()
    gate.follow(POLICY)
    assert gate.told == []  # what workers believe of one that they do not know
    gate.news(FAILURES)
    assert gate.told == [(BreakerState(NAME, "", Phase.OPEN, 1), 0)]
    (shown,) = gate.gate.shown()
    assert (shown.phase, shown.why, shown.opened) == (Phase.OPEN, "4 of 4 requests failed, 50 % open it", 1)
    assert shown.since_ms == int(gate.clock.wall() * 1000)
    assert gate.gauges == {series(CIRCUIT_BREAKER_STATE, (NAME, "")): 1}
    assert gate.counts[series(CIRCUIT_BREAKER_OPENED, (NAME, ""))] == 1


def test_half_open_comes_with_its_probes_and_a_good_one_closes_it() -> None:
    gate = Gate()
    gate.follow(replace(POLICY, probes=2))
    gate.news(FAILURES)
    gate.clock.advance(5.0)
    gate.gate.tick()
    assert gate.told[-1] == (BreakerState(NAME, "", Phase.HALF_OPEN, 2), 2)
    gate.news(bytes((GOOD,)), epoch=2)
    gate.news(bytes((GOOD,)), epoch=2)
    assert gate.told[-1] == (BreakerState(NAME, "", Phase.CLOSED, 3), 0)


def test_a_lost_worker_is_told_to_the_breakers() -> None:
    gate = Gate()
    gate.follow(POLICY)
    gate.news(FAILURES)
    gate.clock.advance(5.0)
    gate.gate.tick()
    gate.gate.worker_gone()
    assert gate.phases == {"": Phase.OPEN}


def test_each_caller_has_its_own() -> None:
    gate = Gate()
    gate.follow(replace(POLICY, per_caller=True))
    assert gate.phases == {}
    gate.news(FAILURES, caller="spiffe://a")
    gate.news(bytes((GOOD,)), caller="spiffe://b")
    gate.news(FAILURES)  # of a worker that has the policy of before
    assert gate.phases == {"spiffe://a": Phase.OPEN, "spiffe://b": Phase.CLOSED}


def test_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    gate.follow(replace(POLICY, per_caller=True))
    monkeypatch.setattr(breakers_module, "MAX_CALLERS", 2)
    for number in range(5):
        gate.news(FAILURES, caller=f"spiffe://{number}")
    assert len(gate.phases) == 2


def test_one_that_goes_and_comes_again_is_no_heir_of_what_was() -> None:
    gate = Gate()
    gate.follow(POLICY)
    gate.news(FAILURES)
    gate.follow()
    assert (gate.forgotten, gate.phases) == ([NAME], {})
    gate.news(FAILURES, epoch=1)  # nobody's any more
    gate.follow(POLICY)
    assert gate.told[-1] == (BreakerState(NAME, "", Phase.CLOSED, 2), 0)
    gate.news(FAILURES, epoch=1)
    assert gate.phases == {"": Phase.CLOSED}


def test_an_order_is_told_at_once() -> None:
    gate = Gate()
    gate.follow(POLICY)
    gate.follow(replace(POLICY, forced=Forced.OPEN))
    assert gate.told == [(BreakerState(NAME, "", Phase.FORCED_OPEN, 1), 0)]
    gate.follow(POLICY)
    assert gate.told[-1] == (BreakerState(NAME, "", Phase.CLOSED, 2), 0)


def test_routes_inline_count_as_well_and_unchanged_ones_change_nothing() -> None:
    gate = Gate()
    inline = RouteConfiguration(name="r", virtual_hosts=(host(POLICY),))
    tables: dict[str, dict[str, Config]] = {**{kind: {} for kind in KINDS}, ROUTE_CONFIGURATION: {"r": inline}}
    gate.gate.follow(tables)
    assert gate.phases == {"": Phase.CLOSED}
    changes = gate.changes
    gate.gate.follow(tables)
    assert gate.changes == changes


def test_requests_are_counted_by_what_became_of_them() -> None:
    gate = Gate()
    gate.follow(POLICY)
    gate.news(bytes((GOOD, GOOD)), refused=3, fallbacks=1)
    assert gate.counts == {
        series(CIRCUIT_BREAKER_REQUESTS, (NAME, "", "admitted")): 2,
        series(CIRCUIT_BREAKER_REQUESTS, (NAME, "", "refused")): 3,
        series(CIRCUIT_BREAKER_REQUESTS, (NAME, "", "fallback")): 1,
    }
    assert gate.gate.windows() == {(NAME, ""): (2, 0, 0)}
