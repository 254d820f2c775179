"""Room, shares and bounded waits.

Source: data-plane.md 1.4 (resilience4j's bulkhead).
"""

from dataclasses import replace

from agent.cluster.bulkhead import Compartment, Waiting
from agent.cluster.shared_counts import Count, SharedCounts
from agent.model.bulkhead import Bulkhead
from agent.model.count_cells import TABLE

POLICY = Bulkhead(name="default/web", most=3, most_per_caller=2, queue=2, max_wait_s=1.0)


class Asker:
    """Requests of one caller, with what they were told."""

    def __init__(self, compartment: Compartment) -> None:
        self.compartment = compartment
        self.told: list[str] = []

    def wait(self, name: str, until: float = 1.0) -> Waiting | None:
        waiting = Waiting(until, lambda: self.told.append(f"{name} in"), lambda: self.told.append(f"{name} out"))
        return waiting if self.compartment.wait(waiting) else None

    def look(self, now: float) -> None:
        while (call := self.compartment.next(now)) is not None:
            call()


def pair() -> tuple[Asker, Asker]:
    """Two callers at one bulkhead."""
    (counts,) = workers(1)
    total = Count(counts, ("default/web", ""), [0])
    a, b = (Compartment(POLICY, total, Count(counts, ("default/web", name), [0])) for name in "ab")
    return Asker(a), Asker(b)


def workers(slots: int) -> list[SharedCounts]:
    """What each of them counts in."""
    memory = memoryview(bytearray(8 * TABLE * slots)).cast("q")
    return [SharedCounts(memory, slots, slot) for slot in range(slots)]


def test_a_caller_has_its_share_and_all_have_the_whole() -> None:
    a, b = pair()
    assert [a.compartment.enter() for _ in range(3)] == [True, True, False]
    assert [b.compartment.enter() for _ in range(2)] == [True, False]
    a.compartment.leave()
    assert not a.compartment._queue
    assert b.compartment.enter()


def test_those_who_wait_go_on_in_their_order() -> None:
    a, _ = pair()
    assert a.compartment.enter()
    assert a.compartment.enter()
    assert a.wait("first") is not None
    assert a.wait("second") is not None
    assert a.wait("third") is None
    assert not a.compartment.enter()
    a.compartment.leave()
    assert not a.compartment.enter(), "nobody comes before who waits"
    a.look(0.5)
    assert a.told == ["first in"]
    a.look(0.9)
    assert a.told == ["first in"]


def test_nobody_waits_longer_than_allowed() -> None:
    a, _ = pair()
    assert a.compartment.enter()
    assert a.compartment.enter()
    assert a.wait("first", 1.0) is not None
    assert a.wait("second", 1.5) is not None
    a.look(1.0)
    assert a.told == ["first out"]
    a.compartment.leave()
    a.look(1.2)
    assert a.told == ["first out", "second in"]


def test_who_waits_keeps_no_other_caller_out() -> None:
    a, b = pair()
    assert a.compartment.enter()
    assert a.compartment.enter()
    assert a.wait("first") is not None
    assert b.compartment.enter()


def test_who_has_gone_waits_no_more() -> None:
    a, _ = pair()
    assert a.compartment.enter()
    assert a.compartment.enter()
    first = a.wait("first")
    assert first is not None
    assert a.wait("second") is not None
    a.compartment.cancel(first)
    a.compartment.cancel(first)
    a.compartment.leave()
    a.look(0.0)
    assert a.told == ["second in"]


def test_another_policy_holds_at_once() -> None:
    a, _ = pair()
    assert a.compartment.enter()
    a.compartment.configure(replace(POLICY, most_per_caller=1, queue=0))
    assert not a.compartment.enter()
    assert a.wait("nobody") is None


def test_workers_count_together() -> None:
    here, there = (
        Compartment(POLICY, Count(counts, ("default/web", ""), [0]), Count(counts, ("default/web", name), [0]))
        for counts, name in zip(workers(2), "ab", strict=True)
    )
    assert here.enter()
    assert there.enter()
    assert there.enter()
    assert not here.enter()
    there.leave()
    assert here.enter()
    assert not here.idle
    here.leave()
    here.leave()
    assert here.idle


def test_where_no_name_is_free_it_is_full() -> None:
    """And nothing stays counted."""
    (counts,) = workers(1)
    total = Count(counts, ("default/web", ""), [0])
    for place in range(0, TABLE, 2):
        counts.cells[place], counts.cells[place + 1] = 1, 1
    part = Compartment(POLICY, total, Count(counts, ("default/web", "a"), [0]))
    assert not part.enter()
    assert (total.here, part.idle) == (0, True)
