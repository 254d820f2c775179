"""The compartments of a worker: which there are, what they obey, when those who wait are looked at."""

import asyncio
from dataclasses import replace

from agent.cluster.bulkhead import Compartment, Waiting
from agent.model.bulkhead import Bulkhead
from agent.proxy.bulkhead_book import BulkheadBook
from agent.stats.gossamer import BULKHEAD_REQUESTS, series
from agent.stats.registry import Registry
from agent.upstream.wheel import NEVER, TimerWheel
from tests.support.proxying import until

POLICY = Bulkhead(name="default/web", most=1, most_per_caller=1, queue=1, max_wait_s=10.0)
SHORT = replace(POLICY, max_wait_s=0.05)


def a_book(max_callers: int = 1000) -> BulkheadBook:
    loop = asyncio.get_running_loop()
    return BulkheadBook(TimerWheel(loop), loop.time, Registry(), max_callers)


def queue(book: BulkheadBook, policy: Bulkhead, told: list[str]) -> Compartment:
    """A compartment that is full, and somebody who waits for it."""
    part = book.compartment(policy, "spiffe://a")
    assert part.enter()
    until_s = asyncio.get_running_loop().time() + policy.max_wait_s
    assert part.wait(Waiting(until_s, lambda: told.append("in"), lambda: told.append("out")))
    book.wait(policy.name)
    return part


async def test_a_policy_of_two_routes_is_one() -> None:
    """It has come as two objects, which differ in what compartments do not obey."""
    book = a_book()
    other = Bulkhead(name="default/web", clusters=frozenset({"c"}), most=1, most_per_caller=1, queue=1)
    part = book.compartment(POLICY, "spiffe://a")
    for policy in (other, POLICY, other):
        assert book.compartment(policy, "spiffe://a") is part
        assert part._policy is POLICY
    more = Bulkhead(name="default/web", most=2, most_per_caller=2, queue=1)
    assert book.compartment(more, "spiffe://a") is part
    assert part._policy is more


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


async def test_only_bulkheads_at_which_somebody_waits_are_looked_at() -> None:
    told: list[str] = []
    book = a_book()
    book.compartment(Bulkhead(name="default/other"), "spiffe://a")
    queue(book, SHORT, told)
    assert book._waited_at == {POLICY.name}
    await until(lambda: told == ["out"])
    assert book._waited_at == set()


async def test_callers_without_end_share_one_compartment() -> None:
    book = a_book(max_callers=1)
    own = book.compartment(POLICY, "spiffe://a")
    assert own.enter()
    shared = book.compartment(POLICY, "spiffe://b")
    assert shared is not own
    assert shared is book.compartment(POLICY, "spiffe://c")


async def test_a_caller_of_before_gives_its_place_to_a_new_one() -> None:
    book = a_book(max_callers=2)
    busy, idle = (book.compartment(POLICY, f"spiffe://{name}") for name in "ab")
    assert busy.enter()
    new = book.compartment(POLICY, "spiffe://c")
    assert book.compartment(POLICY, "spiffe://c") is new
    assert book.compartment(POLICY, "spiffe://a") is busy
    assert book.compartment(POLICY, "spiffe://b") is not idle


async def test_those_without_a_name_share_one() -> None:
    book = a_book()
    assert book.compartment(POLICY, "") is book.compartment(POLICY, "others")


async def test_what_is_under_way_is_shown_for_each_caller_and_for_all() -> None:
    loop = asyncio.get_running_loop()
    stats = Registry()
    book = BulkheadBook(TimerWheel(loop), loop.time, stats)
    policy = replace(POLICY, most=3, most_per_caller=2)
    a, others = book.compartment(policy, "spiffe://a"), book.compartment(policy, "")
    assert [a.enter(), a.enter(), others.enter()] == [True] * 3
    wanted = {"": 3, "spiffe://a": 2, "others": 1}
    assert stats.report().gauges == {
        series(BULKHEAD_REQUESTS, (policy.name, caller)): count for caller, count in wanted.items()
    }
    a.leave()
    assert stats.report().gauges == {
        series(BULKHEAD_REQUESTS, (policy.name, caller)): count for caller, count in {"": 2, "spiffe://a": 1}.items()
    }
