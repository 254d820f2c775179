"""Deadlines of many for the price of a comparison each; the loop and the clock are moved by hand."""

from typing import Any

import pytest

from agent.upstream import wheel
from agent.upstream.connection import UpstreamConnection
from agent.upstream.wheel import NEVER, TimerWheel


class Loop:
    """`call_later` on a clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[float, Any]] = []

    def call_later(self, delay_s: float, callback: Any) -> "Handle":
        entry = (self.now + delay_s, callback)
        self.calls.append(entry)
        return Handle(self, entry)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [entry for entry in self.calls if entry[0] <= until]:
            entry = min(due, key=lambda call: call[0])
            self.calls.remove(entry)
            self.now = max(self.now, entry[0])
            entry[1]()
        self.now = until


class Handle:
    def __init__(self, loop: Loop, entry: tuple[float, Any]) -> None:
        self._loop, self._entry = loop, entry

    def cancel(self) -> None:
        if self._entry in self._loop.calls:
            self._loop.calls.remove(self._entry)


class Item:
    """`timed` is a connection that tells its owner, this object: a compiled Timed has no subclass in a test."""

    def __init__(self, loop: Loop) -> None:
        self.timed = UpstreamConnection(self, [], 0)
        self.called: list[float] = []
        self._loop = loop

    def on_idle_timeout(self, connection: UpstreamConnection) -> None:
        self.called.append(self._loop.now)

    def on_released(self, connection: UpstreamConnection) -> None:
        raise AssertionError("nothing has used it")

    def on_lost(self, connection: UpstreamConnection) -> None:
        raise AssertionError("nothing has connected it")


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(wheel, "monotonic", lambda: made.now)
    return made


def test_never_early_and_late_by_at_most_the_resolution(loop: Loop) -> None:
    timers, item = TimerWheel(loop), Item(loop)  # type: ignore[arg-type]
    timers.arm(item.timed, 1000.1234)
    loop.advance(0.1233)
    assert item.called == []
    loop.advance(0.02)
    (at,) = item.called
    assert 1000.1234 <= at <= 1000.1334 + 1e-6
    assert item.timed.deadline == NEVER


def test_far_deadlines_are_coarser(loop: Loop) -> None:
    timers, item = TimerWheel(loop), Item(loop)  # type: ignore[arg-type]
    timers.arm(item.timed, 1020.01)
    loop.advance(20.4)
    assert item.called == []
    loop.advance(0.2)
    assert len(item.called) == 1


def test_a_later_deadline_costs_an_assignment(loop: Loop) -> None:
    timers, item = TimerWheel(loop), Item(loop)  # type: ignore[arg-type]
    timers.arm(item.timed, 1001.0)
    item.timed.deadline = 1003.0
    loop.advance(2.9)
    assert item.called == []
    loop.advance(0.2)
    assert len(item.called) == 1


def test_an_earlier_deadline_is_kept_too(loop: Loop) -> None:
    timers, item = TimerWheel(loop), Item(loop)  # type: ignore[arg-type]
    timers.arm(item.timed, 1009.0)
    timers.arm(item.timed, 1001.0)
    loop.advance(1.1)
    assert len(item.called) == 1
    loop.advance(20)
    assert len(item.called) == 1


def test_who_is_disarmed_is_forgotten(loop: Loop) -> None:
    timers, item, other = TimerWheel(loop), Item(loop), Item(loop)  # type: ignore[arg-type]
    timers.arm(item.timed, 1001.0)
    timers.arm(other.timed, 1001.0)
    timers.disarm(item.timed)
    loop.advance(5)
    assert (item.called, len(other.called)) == ([], 1)


def test_an_idle_wheel_does_not_wake_the_process(loop: Loop) -> None:
    timers, item = TimerWheel(loop), Item(loop)  # type: ignore[arg-type]
    timers.arm(item.timed, 1001.0)
    loop.advance(2)
    assert loop.calls == []
    timers.arm(item.timed, 1005.0)
    timers.close()
    loop.advance(10)
    assert len(item.called) == 1


def test_the_wheel_keeps_nobody_alive(loop: Loop) -> None:
    """An item that moves to earlier slots, or ends, leaves no trace in the later ones, and no call remains for it."""
    timers, item = TimerWheel(loop), Item(loop)  # type: ignore[arg-type]
    for deadline in (4600.0, 1015.0, 1001.0):
        timers.arm(item.timed, deadline)
    assert sum(len(slot) for slot in timers._slots.values()) == 1
    timers.disarm(item.timed)
    assert sum(len(slot) for slot in timers._slots.values()) == 0
    loop.advance(2)
    assert item.called == []
    assert loop.calls == [], "an idle wheel does not wake the process"
