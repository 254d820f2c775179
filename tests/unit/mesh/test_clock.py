"""The machine's clocks and the one that tests move."""

import time

from mesh.clock import Clock, SystemClock
from tests.support.clock import ManualClock


def test_the_system_clock_is_the_machines() -> None:
    clock: Clock = SystemClock()
    before = (time.monotonic(), time.time())
    found = (clock.monotonic(), clock.wall())
    after = (time.monotonic(), time.time())
    assert before[0] <= found[0] <= after[0]
    assert before[1] <= found[1] <= after[1]


def test_a_manual_clock_moves_both_only_when_told() -> None:
    manual = ManualClock()
    clock: Clock = manual
    start = (clock.monotonic(), clock.wall())
    assert (clock.monotonic(), clock.wall()) == start
    manual.advance(2.5)
    assert (clock.monotonic(), clock.wall()) == (start[0] + 2.5, start[1] + 2.5)
