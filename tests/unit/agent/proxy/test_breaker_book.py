"""What a worker's breakers tell the supervisor, and when; whose permits they hold; what they forget."""

import asyncio
import os

import pytest

from agent.cluster.breaker_gate import REFUSED
from agent.ipc import permits
from agent.ipc.messages import BreakerNews, BreakerState
from agent.model.circuit_breaker import FAILED, GOOD, CircuitBreaker, LastGood, Phase
from agent.proxy import breaker_book
from agent.proxy.breaker_book import BreakerBook
from agent.upstream.wheel import TimerWheel

POLICY = CircuitBreaker(name="default/web")
PER_CALLER = CircuitBreaker(name="default/web", per_caller=True)


class Told:
    """A book, and what it has said."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.news: list[BreakerNews] = []
        self.book = BreakerBook(TimerWheel(loop), loop.time, self.news.append)

    async def told(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.news) < count:  # noqa: ASYNC110 - the wheel calls back
                await asyncio.sleep(0.005)


async def test_outcomes_are_told_together_soon() -> None:
    told = Told()
    gate = told.book.gate(POLICY, "spiffe://a")
    assert gate is not None
    assert gate is told.book.gate(POLICY, "spiffe://b"), "one for all"
    for outcome in (GOOD, FAILED):
        gate.record(gate.admit(), outcome)
        told.book.note(gate)
    assert told.news == []
    await told.told(1)
    assert told.news == [BreakerNews("default/web", "", 0, bytes((GOOD, FAILED)))]


async def test_a_probe_is_told_at_once() -> None:
    told = Told()
    told.book.set_state(BreakerState("default/web", "", Phase.HALF_OPEN, 2), permits.create(1))
    gate = told.book.gate(POLICY, "")
    assert gate is not None
    assert (gate.admit(), gate.admit()) == (2, REFUSED)
    told.book.note(gate, at_once=True)
    assert told.news == [BreakerNews("default/web", "", 2, b"", begun=True, refused=1)]


async def test_what_was_before_a_new_state_is_told_before_it_holds() -> None:
    told = Told()
    gate = told.book.gate(POLICY, "")
    assert gate is not None
    gate.record(0, FAILED)
    told.book.note(gate)
    told.book.set_state(BreakerState("default/web", "", Phase.OPEN, 1), -1)
    assert told.news == [BreakerNews("default/web", "", 0, bytes((FAILED,)))]
    assert gate.admit() == REFUSED


async def test_permits_are_closed_with_their_state() -> None:
    told = Told()
    descriptor = permits.create(1)
    told.book.set_state(BreakerState("default/web", "", Phase.HALF_OPEN, 2), descriptor)
    told.book.set_state(BreakerState("default/web", "", Phase.CLOSED, 3), -1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_a_policy_that_is_gone_is_forgotten() -> None:
    told = Told()
    descriptor = permits.create(1)
    told.book.set_state(BreakerState("default/web", "", Phase.HALF_OPEN, 2), descriptor)
    kept = told.book.last_good("default/web", LastGood(max_age_s=1.0, max_entries=1, max_bytes=1))
    told.book.forget("default/web")
    gate = told.book.gate(POLICY, "")
    assert gate is not None
    assert (gate.phase, gate.epoch) == (Phase.CLOSED, 0)
    assert told.book.last_good("default/web", kept.limits) is not kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_callers_are_apart_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(breaker_book, "MAX_CALLERS", 2)
    a, b = told.book.gate(PER_CALLER, "spiffe://a"), told.book.gate(PER_CALLER, "spiffe://b")
    assert a is not None
    assert b is not None
    assert a is not b
    assert told.book.gate(PER_CALLER, "spiffe://c") is None
    assert told.book.gate(PER_CALLER, "spiffe://a") is a
