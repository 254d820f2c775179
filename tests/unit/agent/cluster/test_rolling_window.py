"""What a breaker remembers: whole buckets of time, or the last so many requests."""

from agent.cluster.rolling_window import CountWindow, TimeWindow, window_of
from agent.model.circuit_breaker import FAILED, GOOD, SLOW, Window

BOTH = FAILED | SLOW


def counted(window: TimeWindow | CountWindow) -> tuple[int, int, int]:
    return window.total, window.failed, window.slow


def test_a_time_window_forgets_bucket_by_bucket() -> None:
    window = TimeWindow(10.0, 10)
    window.add(bytes((GOOD, FAILED)), 100.0)
    window.add(bytes((SLOW, BOTH)), 100.9)
    window.add(bytes((FAILED,)), 101.0)
    assert counted(window) == (5, 3, 2)
    window.forget(109.9)
    assert counted(window) == (5, 3, 2)
    window.forget(110.0)
    assert counted(window) == (1, 1, 0)
    window.forget(111.0)
    assert counted(window) == (0, 0, 0)


def test_adding_forgets_what_is_too_old() -> None:
    window = TimeWindow(1.0, 2)
    window.add(bytes((FAILED,) * 3), 7.0)
    window.add(bytes((GOOD,)), 8.0)
    assert counted(window) == (1, 0, 0)


def test_a_count_window_keeps_the_last_requests_in_their_order() -> None:
    window = CountWindow(3)
    window.add(bytes((FAILED, BOTH)), 0.0)
    window.add(bytes((GOOD, SLOW)), 0.0)
    assert counted(window) == (3, 1, 2)
    window.forget(1e9)
    assert counted(window) == (3, 1, 2)
    window.add(bytes((FAILED,) * 100), 0.0)
    assert counted(window) == (3, 3, 0)


def test_a_size_asks_for_a_count_window_and_clear_forgets_all() -> None:
    for window in (window_of(Window(size=5)), window_of(Window())):
        window.add(bytes((BOTH, GOOD)), 5.0)
        assert (window.total, window.failed, window.slow) == (2, 1, 1)
        window.clear()
        assert (window.total, window.failed, window.slow) == (0, 0, 0)
    assert isinstance(window_of(Window(size=5)), CountWindow)
    assert isinstance(window_of(Window()), TimeWindow)
