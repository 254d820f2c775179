"""The compartments of a worker: which there are, what they obey, when those who wait are looked at."""

import asyncio
from dataclasses import replace

import pytest

from agent.cluster.bulkhead import Compartment, Waiting
from agent.model.bulkhead import Bulkhead
from agent.proxy import bulkhead_book
from agent.proxy.bulkhead_book import BulkheadBook
from agent.upstream.wheel import NEVER, TimerWheel
from tests.support.proxying import until

POLICY = Bulkhead(name="default/web", most=1, most_per_caller=1, queue=1, max_wait_s=10.0)
SHORT = replace(POLICY, max_wait_s=0.05)


def a_book() -> BulkheadBook:
    loop = asyncio.get_running_loop()
    return BulkheadBook(TimerWheel(loop), loop.time)


def queue(book: BulkheadBook, policy: Bulkhead, told: list[str]) -> Compartment:
    """A compartment that is full, and somebody who waits for it."""
    part = book.compartment(policy, "spiffe://a")
    assert part.enter()
    until_s = asyncio.get_running_loop().time() + policy.max_wait_s
    assert part.wait(Waiting(until_s, lambda: told.append("in"), lambda: told.append("out")))
    book.wait(policy.name)
    return part


async def test_a_policy_of_two_routes_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has come as two objects, which differ in what compartments do not obey."""
    configured: list[Bulkhead] = []
    monkeypatch.setattr(Compartment, "configure", lambda part, policy: configured.append(policy))
    book = a_book()
    other = Bulkhead(name="default/web", clusters=frozenset({"c"}), most=1, most_per_caller=1, queue=1)
    part = book.compartment(POLICY, "spiffe://a")
    for policy in (other, POLICY, other):
        assert book.compartment(policy, "spiffe://a") is part
    assert configured == []
    more = Bulkhead(name="default/web", most=2, most_per_caller=2, queue=1)
    assert book.compartment(more, "spiffe://a") is part
    assert configured == [more]


async def test_room_of_before_is_found_by_those_who_wait() -> None:
    told: list[str] = []
    book = a_book()
    part = queue(book, POLICY, told)
    idle = book.compartment(Bulkhead(name="default/other"), "spiffe://a")
    part.leave()
    await until(lambda: told == ["in"])
    await until(lambda: book.deadline == NEVER)
    assert not idle.waiting


async def test_nobody_waits_too_long() -> None:
    told: list[str] = []
    book = a_book()
    queue(book, SHORT, told)
    assert book.deadline != NEVER
    await until(lambda: told == ["out"])
    await until(lambda: book.deadline == NEVER)


async def test_only_bulkheads_at_which_somebody_waits_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = BulkheadBook.look

    def look(book: BulkheadBook, name: str) -> None:
        looked.append(name)
        real(book, name)

    monkeypatch.setattr(BulkheadBook, "look", look)
    told: list[str] = []
    book = a_book()
    book.compartment(Bulkhead(name="default/other"), "spiffe://a")
    queue(book, SHORT, told)
    await until(lambda: len(looked) > 1)
    assert set(looked) == {POLICY.name}
    await until(lambda: told == ["out"])


async def test_callers_without_end_share_one_compartment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead_book, "MAX_CALLERS", 1)
    book = a_book()
    own = book.compartment(POLICY, "spiffe://a")
    shared = book.compartment(POLICY, "spiffe://b")
    assert shared is not own
    assert shared is book.compartment(POLICY, "spiffe://c")
