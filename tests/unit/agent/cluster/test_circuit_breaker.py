"""The state of a breaker. The transcripts (tests/transcripts/circuit_breaker) play its life; here are its edges.

Source: data-plane.md 1.4.
"""

from dataclasses import replace

import pytest

from agent.cluster.circuit_breaker import Breaker
from agent.model.circuit_breaker import CANCELLED, FAILED, GOOD, SLOW, CircuitBreaker, Forced, Phase, Window

POLICY = CircuitBreaker(name="default/reviews")


def opened(policy: CircuitBreaker = POLICY, now: float = 100.0) -> Breaker:
    breaker = Breaker(policy, now)
    assert breaker.record(0, bytes((FAILED,) * policy.volume), now)
    assert breaker.phase is Phase.OPEN
    return breaker


def half_open(policy: CircuitBreaker = POLICY) -> Breaker:
    breaker = opened(policy)
    assert breaker.tick(100.0 + policy.open_s)
    assert breaker.phase is Phase.HALF_OPEN
    return breaker


def test_hystrix_defaults() -> None:
    assert (POLICY.volume, POLICY.error_percent, POLICY.open_s, POLICY.probes) == (20, 50.0, 5.0, 1)
    assert POLICY.window == Window(duration_s=10.0, buckets=10)


@pytest.mark.parametrize(("failed", "good", "opens"), [(19, 0, False), (10, 10, True), (9, 11, False), (20, 0, True)])
def test_it_opens_at_volume_and_percentage(failed: int, good: int, opens: bool) -> None:
    breaker = Breaker(POLICY, 0.0)
    assert breaker.record(0, bytes((FAILED,) * failed + (GOOD,) * good), 1.0) is opens
    assert (breaker.phase is Phase.OPEN) is opens


def test_given_up_requests_are_no_outcome_while_it_is_closed() -> None:
    breaker = Breaker(POLICY, 0.0)
    assert not breaker.record(0, bytes((CANCELLED,) * 100 + (FAILED,) * 19), 1.0)
    assert breaker.counted(1.0) == (19, 19, 0)


def test_it_stays_open_until_its_time_is_over() -> None:
    breaker = opened()
    assert not breaker.tick(104.99)
    assert breaker.tick(105.0)
    assert (breaker.phase, breaker.epoch) == (Phase.HALF_OPEN, 2)


@pytest.mark.parametrize(
    ("outcome", "phase"),
    [(GOOD, Phase.CLOSED), (FAILED, Phase.OPEN), (CANCELLED, Phase.OPEN), (SLOW, Phase.OPEN)],
)
def test_one_probe_decides(outcome: int, phase: Phase) -> None:
    breaker = half_open(replace(POLICY, slow_s=1.0))
    assert breaker.record(2, bytes((outcome,)), 106.0)
    assert (breaker.phase, breaker.since, breaker.epoch) == (phase, 106.0, 3)


def test_a_straggler_neither_closes_nor_opens() -> None:
    breaker = half_open()
    assert not breaker.record(0, bytes((GOOD,) * 50), 105.5)
    assert not breaker.record(1, bytes((FAILED,) * 50), 105.5)
    assert breaker.phase is Phase.HALF_OPEN


def test_closing_begins_with_nothing_counted() -> None:
    breaker = half_open()
    breaker.record(2, bytes((GOOD,)), 106.0)
    assert breaker.counted(106.0) == (0, 0, 0)
    assert not breaker.record(3, bytes((FAILED,) * 19), 106.0)


def test_several_probes_close_it_together() -> None:
    breaker = half_open(replace(POLICY, probes=3))
    assert not breaker.record(2, bytes((GOOD, GOOD)), 106.0)
    assert breaker.record(2, bytes((GOOD,)), 106.0)
    assert breaker.phase is Phase.CLOSED


def test_the_first_of_several_probes_that_fails_opens_it() -> None:
    breaker = half_open(replace(POLICY, probes=3))
    assert breaker.record(2, bytes((GOOD, FAILED)), 106.0)
    assert breaker.phase is Phase.OPEN


@pytest.mark.parametrize(("failed", "phase"), [(4, Phase.CLOSED), (5, Phase.OPEN)])
def test_percentages_of_the_probes_decide_when_asked(failed: int, phase: Phase) -> None:
    breaker = half_open(replace(POLICY, probes=10, any_failure=False))
    assert not breaker.record(2, bytes((FAILED,) * failed), 106.0)
    assert breaker.record(2, bytes((GOOD,) * (10 - failed)), 106.0)
    assert breaker.phase is phase


def test_the_wait_for_a_probe_counts_from_its_beginning() -> None:
    breaker = half_open(replace(POLICY, probe_wait_s=2.0))
    assert not breaker.tick(1000.0)  # nobody has probed yet
    breaker.begun(1, 1000.0)  # of another epoch
    assert not breaker.tick(1010.0)
    breaker.begun(2, 1010.0)
    assert not breaker.tick(1011.9)
    assert breaker.tick(1012.0)
    assert (breaker.phase, breaker.why) == (Phase.OPEN, "no answer to a probe within 2 s")


def test_a_lost_worker_takes_the_probe_with_it() -> None:
    breaker = half_open()
    assert breaker.lost(106.0)
    assert breaker.phase is Phase.OPEN
    assert not breaker.lost(107.0)


def test_slow_answers_open_it() -> None:
    policy = replace(POLICY, slow_s=0.5, slow_percent=80, error_percent=100, volume=10)
    breaker = Breaker(policy, 0.0)
    assert not breaker.record(0, bytes((GOOD,) * 3 + (SLOW,) * 7), 1.0)
    assert breaker.record(0, bytes((SLOW,) * 6), 1.0)
    assert breaker.why == "13 of 16 requests took 0.5 s or more, 80 % open it"


def test_orders_come_and_go_with_the_configuration() -> None:
    breaker = opened()
    assert breaker.configure(replace(POLICY, forced=Forced.DISABLED), 101.0)
    assert (breaker.phase, breaker.why) == (Phase.DISABLED, "forced: DISABLED")
    assert not breaker.record(breaker.epoch, bytes((FAILED,) * 100), 102.0)
    assert breaker.configure(replace(POLICY, forced=Forced.OPEN), 103.0)
    assert not breaker.tick(1000.0)
    assert breaker.phase is Phase.FORCED_OPEN
    assert breaker.configure(POLICY, 104.0)
    assert (breaker.phase, breaker.epoch) == (Phase.CLOSED, 4)
    assert Breaker(replace(POLICY, forced=Forced.OPEN), 0.0).phase is Phase.FORCED_OPEN


def test_other_numbers_hold_at_once_and_change_no_state() -> None:
    breaker = half_open(replace(POLICY, probes=2))
    assert not breaker.configure(replace(POLICY, probes=5, window=Window(size=7)), 106.0)
    assert breaker.probes == 2  # so many may have been let pass
    assert not breaker.record(2, bytes((GOOD,)), 106.0)
    assert breaker.record(2, bytes((GOOD,)), 106.0)
    assert breaker.phase is Phase.CLOSED
