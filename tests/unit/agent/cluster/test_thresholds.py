"""Limits over shared cells. Source: data-plane.md 1.4."""

from agent.cluster.thresholds import Limits
from agent.model.cells import CONNECTIONS, FIELDS, PENDING, REQUESTS, RETRIES, WIDTH
from agent.model.cluster import Thresholds


def memory(workers: int = 1) -> memoryview:
    return memoryview(bytearray(8 * WIDTH * workers)).cast("q")


def limits(thresholds: Thresholds, cells: memoryview, slot: int = 0, slots: int = 1, priority: int = 0) -> Limits:
    first = priority * FIELDS
    rows = tuple(other * WIDTH + first for other in range(slots))
    return Limits(thresholds, cells, rows[slot], rows)


def test_exact_with_one_worker() -> None:
    own = limits(Thresholds(max_requests=2), memory())
    assert [own.admit(REQUESTS) for _ in range(3)] == [True, True, False]
    own.release(REQUESTS)
    assert [own.admit(REQUESTS), own.admit(REQUESTS)] == [True, False]


def test_every_field_has_its_own_limit() -> None:
    own = limits(
        Thresholds(max_connections=1, max_pending_requests=2, max_requests=3, max_retries=0), memory()
    )  # fmt: skip
    admitted = [sum(own.admit(field) for _ in range(5)) for field in (CONNECTIONS, PENDING, REQUESTS, RETRIES)]
    assert admitted == [1, 2, 3, 0]


def test_workers_share_a_limit_and_write_only_their_own_row() -> None:
    cells = memory(2)
    first, second = (limits(Thresholds(max_requests=3), cells, slot, 2) for slot in (0, 1))
    assert [first.admit(REQUESTS), second.admit(REQUESTS), first.admit(REQUESTS)] == [True, True, True]
    assert not second.admit(REQUESTS)
    assert (cells[REQUESTS], cells[WIDTH + REQUESTS]) == (2, 1)
    first.release(REQUESTS)
    assert second.admit(REQUESTS)


def test_priorities_do_not_share() -> None:
    cells = memory()
    default, high = (limits(Thresholds(max_requests=1), cells, priority=priority) for priority in (0, 1))
    assert default.admit(REQUESTS)
    assert high.admit(REQUESTS)


def test_force_goes_over_the_limit() -> None:
    own = limits(Thresholds(max_connections=0), memory())
    assert not own.admit(CONNECTIONS)
    own.force(CONNECTIONS)
    assert own.under_way(CONNECTIONS) == 1


def test_retries_are_limited_by_number() -> None:
    own = limits(Thresholds(max_retries=1), memory())
    assert [own.admit_retry(), own.admit_retry()] == [True, False]


def test_a_retry_budget_takes_the_place_of_the_number() -> None:
    """20 % of active and pending requests, but at least the minimum."""
    own = limits(
        Thresholds(max_retries=0, retry_budget_percent=20.0, retry_budget_min_concurrency=1), memory()
    )  # fmt: skip
    assert [own.admit_retry(), own.admit_retry()] == [True, False]
    for _ in range(8):
        own.force(REQUESTS)
    own.force(PENDING)
    assert not own.admit_retry(), "20 % of 9 are less than 2"
    own.force(PENDING)
    assert [own.admit_retry(), own.admit_retry()] == [True, False]


def test_workers_share_a_retry_budget() -> None:
    """What all of them have under way counts, in the budget and against it; each gives back what it took."""
    cells = memory(2)
    budget = Thresholds(max_retries=0, retry_budget_percent=50.0, retry_budget_min_concurrency=0)
    first, second = (limits(budget, cells, slot, 2) for slot in (0, 1))
    assert not first.admit_retry(), "half of nothing"
    for own in (first, first, second, second):
        own.force(REQUESTS)
    assert [second.admit_retry(), first.admit_retry()] == [True, True]
    assert [first.admit_retry(), second.admit_retry()] == [False, False]
    assert (cells[RETRIES], cells[WIDTH + RETRIES]) == (1, 1)
    second.release(RETRIES)
    assert first.admit_retry()
    first.release(REQUESTS)
    assert [first.admit_retry(), second.admit_retry()] == [False, False]


def test_new_thresholds_hold_at_once() -> None:
    own = limits(Thresholds(max_requests=2), memory())
    assert own.admit(REQUESTS)
    assert own.admit(REQUESTS)
    own.configure(Thresholds(max_requests=1))
    assert not own.admit(REQUESTS)
    own.release(REQUESTS)
    assert not own.admit(REQUESTS)
    own.release(REQUESTS)
    assert own.admit(REQUESTS)


def test_moving_to_another_row_takes_along_what_is_under_way() -> None:
    before, after = memory(), memory(2)
    own = limits(Thresholds(max_requests=2), before)
    assert own.admit(REQUESTS)
    own.move(after, WIDTH, (0, WIDTH))
    assert (before[REQUESTS], after[WIDTH + REQUESTS]) == (0, 1)
    after[REQUESTS] = 1  # the other worker
    assert not own.admit(REQUESTS)
    own.release(REQUESTS)
    assert after[WIDTH + REQUESTS] == 0
