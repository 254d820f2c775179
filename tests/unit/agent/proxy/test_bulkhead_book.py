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


async def test_many_who_wait_end_at_once_when_they_are_let_in() -> None:
    """As when no host is left: each is answered before its turn is over, and gives its room to the next."""
    count = 2000
    policy = replace(POLICY, queue=count)
    book = a_book()
    part = book.compartment(policy, "spiffe://a")
    other = book.compartment(policy, "spiffe://b")
    told: list[int] = []

    def in_and_out(number: int, own: Compartment) -> None:
        told.append(number)
        own.leave()
        book.look(policy.name)

    assert part.enter()
    until_s = asyncio.get_running_loop().time() + policy.max_wait_s
    for number in range(count):
        own = other if number % 2 else part
        assert own.wait(Waiting(until_s, lambda n=number, o=own: in_and_out(n, o), lambda: told.append(-1)))  # type: ignore[misc]
    book.wait(policy.name)
    part.leave()
    book.look(policy.name)
    assert told == list(range(count)), "one of each caller in turn"
    assert (part.idle, other.idle, book._waited_at) == (True, True, set())


async def test_who_has_gone_in_the_same_turn_gets_no_room() -> None:
    """The first that goes on takes the second along."""
    policy = replace(POLICY, most=2)
    book = a_book()
    parts = [book.compartment(policy, f"spiffe://{name}") for name in "ab"]
    told: list[str] = []
    until_s = asyncio.get_running_loop().time() + policy.max_wait_s
    second = Waiting(until_s, lambda: told.append("second"), lambda: told.append("out"))

    def first() -> None:
        told.append("first")
        parts[1].cancel(second)

    for part in parts:
        assert part.enter()
    assert parts[0].wait(Waiting(until_s, first, lambda: told.append("out")))
    assert parts[1].wait(second)
    book.wait(policy.name)
    for part in parts:
        part.leave()
    book.look(policy.name)
    assert told == ["first"]
    assert (parts[0].idle, parts[1].idle) == (False, True)


async def test_policies_of_before_are_forgotten() -> None:
    """Bulkheads come and go as long as the worker lives."""
    loop = asyncio.get_running_loop()
    stats = Registry()
    book = BulkheadBook(TimerWheel(loop), loop.time, stats, max_policies=3)
    busy = book.compartment(replace(POLICY, name="default/busy"), "spiffe://a")
    assert busy.enter()
    for number in range(20):
        part = book.compartment(replace(POLICY, name=f"default/{number}"), "spiffe://a")
        assert part.enter()
        part.leave()
    assert set(book._compartments) == set(book._totals) == set(book._limits)
    assert len(book._compartments) <= 3
    assert book.compartment(replace(POLICY, name="default/busy"), "spiffe://a") is busy
    stats.report()
    assert len(stats._groups) <= 2 * 3
    assert not stats._ending
