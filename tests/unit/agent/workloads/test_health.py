"""From results of checks to health. Source: data-plane.md 1.7; Consul for time-to-live checks."""

from hypothesis import given
from hypothesis import strategies as st

from agent.workloads.health import (
    NOT_CHECKED,
    PENDING,
    UNCHECKED,
    Health,
    Outcome,
    Result,
    Thresholds,
    TtlHealth,
    next_delay_s,
    step,
)
from mesh.vocabulary import HealthStatus

OK = Result(Outcome.PASSED)
DOWN = Result(Outcome.FAILED, "connection refused")
WRONG = Result(Outcome.REFUSED, "answered 503")
THREE = Thresholds(unhealthy=3, healthy=2)


def run(*results: Result, start: Health = PENDING, thresholds: Thresholds = THREE) -> list[bool]:
    """Healthy after each result?"""
    found = []
    for result in results:
        start = step(start, result, thresholds)
        found.append(start.healthy)
    return found


def test_a_new_service_is_not_healthy_until_it_was_checked() -> None:
    assert (PENDING.status, PENDING.decided, PENDING.reason) == (HealthStatus.UNHEALTHY, False, NOT_CHECKED)
    assert (UNCHECKED.status, UNCHECKED.decided) == (HealthStatus.HEALTHY, True)


def test_the_first_result_decides_whatever_the_thresholds() -> None:
    assert run(OK) == [True]
    assert run(DOWN, OK, OK) == [False, False, True]
    assert run(WRONG) == [False]


def test_no_answer_counts_up_to_the_threshold() -> None:
    assert run(OK, DOWN, DOWN, DOWN) == [True, True, True, False]


def test_a_wrong_answer_is_enough() -> None:
    assert run(OK, WRONG) == [True, False]
    assert run(OK, DOWN, WRONG) == [True, True, False]


def test_a_success_zeroes_the_failures_and_the_other_way_round() -> None:
    assert run(OK, DOWN, DOWN, OK, DOWN, DOWN, DOWN) == [True, True, True, True, True, True, False]
    assert run(DOWN, OK, DOWN, OK, OK) == [False, False, False, False, True]


def test_the_reason_is_the_newest_of_the_present_health() -> None:
    down = step(PENDING, DOWN, THREE)
    assert down.reason == "connection refused"
    assert step(down, WRONG, THREE).reason == "answered 503"
    assert step(step(down, OK, THREE), OK, THREE) == Health(healthy=True, decided=True, reason="")


@given(
    st.lists(st.sampled_from([OK, DOWN, WRONG]), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_it_is_what_a_simple_reading_of_the_rules_gives(results: list[Result], unhealthy: int, healthy: int) -> None:
    """A second implementation, from the whole history instead of a state."""
    found = run(*results, thresholds=Thresholds(unhealthy=unhealthy, healthy=healthy))
    state = results[0] is OK
    expected = [state]
    since = 1  # a run begins after the last change
    for index in range(1, len(results)):
        recent = results[since : index + 1]
        if state:
            failed = all(result is not OK for result in recent[-unhealthy:]) and len(recent) >= unhealthy
            state = not (results[index] is WRONG or failed)
        else:
            state = all(result is OK for result in recent[-healthy:]) and len(recent) >= healthy
        if state != expected[-1]:
            since = index + 1
        expected.append(state)
    assert found == expected


def test_intervals_are_spread_by_up_to_a_tenth() -> None:
    assert next_delay_s(10.0, lambda: 0.0) == 10.0
    assert next_delay_s(10.0, lambda: 0.5) == 10.5


def test_a_time_to_live_check_is_what_was_said_until_it_runs_out() -> None:
    said = TtlHealth().said("passing", "fine", 100.0, 30.0)
    assert said.at(129.9) == Health(healthy=True, decided=True, reason="")
    late = said.at(130.0)
    assert (late.healthy, late.reason) == (False, "nothing was heard within the time to live")


def test_a_time_to_live_check_begins_critical_and_a_warning_serves_on() -> None:
    assert TtlHealth().at(0.0) is PENDING
    warning = TtlHealth().said("warning", "disk at 91 %", 0.0, 10.0).at(1.0)
    assert (warning.healthy, warning.reason) == (True, "warning: disk at 91 %")
    critical = TtlHealth().said("critical", "", 0.0, 10.0).at(1.0)
    assert (critical.healthy, critical.reason) == (False, "the application says critical")
