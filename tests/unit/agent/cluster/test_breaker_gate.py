"""A worker's half of a breaker: it lets pass what the state allows, and tells what became of it."""

from agent.cluster.breaker_gate import REFUSED, Gate
from agent.ipc.messages import BreakerNews
from agent.model.circuit_breaker import CANCELLED, FAILED, GOOD, Phase


def test_a_new_gate_is_closed_and_lets_everything_pass() -> None:
    gate = Gate("default/reviews", "")
    assert [gate.admit() for _ in range(3)] == [0, 0, 0]
    assert gate.take() is None


def test_outcomes_are_told_once_in_their_order() -> None:
    gate = Gate("default/reviews", "spiffe://a")
    assert all(gate.record(0, outcome) for outcome in (GOOD, FAILED, CANCELLED))
    outcomes = bytes((GOOD, FAILED, CANCELLED))
    assert gate.take() == BreakerNews("default/reviews", "spiffe://a", 0, outcomes)
    assert gate.take() is None


def test_an_open_gate_refuses_and_counts_it() -> None:
    gate = Gate("default/reviews", "")
    gate.set_state(Phase.OPEN, 1)
    assert (gate.admit(), gate.admit()) == (REFUSED, REFUSED)
    news = gate.take()
    assert news is not None
    assert (news.epoch, news.refused, news.outcomes) == (1, 2, b"")


def test_a_straggler_of_an_earlier_epoch_is_dropped() -> None:
    gate = Gate("default/reviews", "")
    before = gate.admit()
    gate.set_state(Phase.OPEN, 1)
    gate.set_state(Phase.HALF_OPEN, 2, iter((True, False)).__next__)
    assert gate.admit() == 2
    assert not gate.record(before, GOOD)
    news = gate.take()
    assert news is not None
    assert (news.begun, news.outcomes) == (True, b"")


def test_half_open_takes_a_permit_for_each_probe() -> None:
    permits = [True, True]
    gate = Gate("default/reviews", "")
    gate.set_state(Phase.HALF_OPEN, 2, lambda: bool(permits) and permits.pop())
    assert [gate.admit() for _ in range(4)] == [2, 2, REFUSED, REFUSED]


def test_what_is_said_twice_changes_nothing() -> None:
    gate = Gate("default/reviews", "")
    gate.set_state(Phase.HALF_OPEN, 2, lambda: False)
    gate.set_state(Phase.HALF_OPEN, 2, lambda: True)
    assert gate.admit() == REFUSED


def test_a_forced_state_is_obeyed_and_a_disabled_one_counts_nothing() -> None:
    gate = Gate("default/reviews", "")
    gate.set_state(Phase.FORCED_OPEN, 1)
    assert gate.admit() == REFUSED
    gate.set_state(Phase.DISABLED, 2)
    assert gate.admit() == 2
    assert not gate.record(2, FAILED)
