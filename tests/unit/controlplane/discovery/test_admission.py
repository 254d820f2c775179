"""When streams may begin: the gate and the rate, with a clock that the test holds."""

import itertools

from controlplane.discovery.admission import AdmissionRate, Gate


def test_the_gate_opens_when_known_nodes_have_registered() -> None:
    gate = Gate(wait_s=10.0, started=100.0)
    assert (gate.loaded, gate.open) == (False, False)
    assert gate.look(["b", "a", "c"], ["c"], 100.0) == ("a", "b")
    assert (gate.loaded, gate.open) == (True, False)
    gate.saw("a")  # has said hello, with no instances of its own
    assert gate.look(["b", "a", "c"], ["c"], 101.0) == ("b",)
    assert gate.look(["b", "a", "c"], ["b", "c"], 102.0) == ()
    assert gate.open
    gate.look(["new"], [], 103.0)
    assert gate.open  # never closes again


def test_the_gate_waits_only_so_long() -> None:
    gate = Gate(wait_s=10.0, started=100.0)
    assert gate.look(["gone"], [], 109.9) == ("gone",)
    assert gate.look(["gone"], [], 110.0) == ()
    assert gate.open


def test_admissions_are_spaced_after_a_burst_of_one_second() -> None:
    rate = AdmissionRate(10.0)
    at_once = [rate.wait_s(50.0) for _ in range(12)]
    assert at_once[:10] == [0.0] * 10
    waits = [wait for wait in at_once[10:] if wait is not None]
    assert len(waits) == 2
    assert all(
        abs(later - earlier - 0.1) < 1e-9 for earlier, later in itertools.pairwise([at_once[10] or 0.0, *waits[1:]])
    )
    assert rate.wait_s(60.0) == 0.0  # a quiet time fills the burst again


def test_a_line_that_is_too_long_is_turned_away() -> None:
    rate = AdmissionRate(1.0, max_wait_s=2.0)
    waits = [rate.wait_s(0.0) for _ in range(6)]
    assert waits[-1] is None
    accepted = [wait for wait in waits if wait is not None]
    assert max(accepted) <= 2.0
    assert rate.wait_s(1.5) is not None  # those who were turned away took nobody's turn
