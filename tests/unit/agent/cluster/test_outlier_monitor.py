"""When a worker asks for an ejection. Source: data-plane.md 1.1."""

from agent.cluster.hosts import Host
from agent.cluster.outlier_monitor import OutlierMonitor
from agent.model.cluster import OutlierDetection
from tests.support.hosts import host


def answers(monitor: OutlierMonitor, member: Host, *statuses: int) -> list[list[tuple[str, int]]]:
    fired = []
    for status in statuses:
        if status < 500:
            monitor.answer_succeeded(member)
            fired.append([])
        else:
            fired.append(list(monitor.answer_failed(member, status)))
    return fired


def test_fires_at_the_threshold_and_counts_anew() -> None:
    """The count that fired starts again, whatever the supervisor decides: the next N detect again."""
    monitor = OutlierMonitor(OutlierDetection(consecutive_5xx=3))
    found = answers(monitor, host(1), 500, 500, 500, 500, 500, 500)
    assert found == [[], [], [("consecutive_5xx", 3)], [], [], [("consecutive_5xx", 3)]]


def test_a_success_starts_the_counts_anew() -> None:
    monitor = OutlierMonitor(OutlierDetection(consecutive_5xx=3, consecutive_gateway_failure=3))
    member = host(1)
    assert answers(monitor, member, 503, 503, 200, 503, 503) == [[], [], [], [], []]
    assert member.failing
    monitor.answer_succeeded(member)
    assert not member.failing


def test_only_gateway_errors_count_as_gateway_failures() -> None:
    """A 500 starts the gateway count anew and raises the other."""
    monitor = OutlierMonitor(OutlierDetection(consecutive_5xx=0, consecutive_gateway_failure=2))
    member = host(1)
    assert answers(monitor, member, 502, 500, 504) == [[], [], []]
    assert answers(monitor, member, 503) == [[("consecutive_gateway_failure", 2)]]
    assert (member.consecutive_5xx, member.consecutive_gateway) == (4, 0)


def test_both_can_fire_at_once_gateway_first() -> None:
    monitor = OutlierMonitor(OutlierDetection(consecutive_5xx=2, consecutive_gateway_failure=2))
    assert answers(monitor, host(1), 502, 502)[1] == [("consecutive_gateway_failure", 2), ("consecutive_5xx", 2)]


def test_zero_never_fires() -> None:
    monitor = OutlierMonitor(OutlierDetection(consecutive_5xx=0, consecutive_gateway_failure=0))
    assert answers(monitor, host(1), *[503] * 50) == [[]] * 50


def test_a_host_that_is_ejected_already_asks_for_nothing() -> None:
    monitor = OutlierMonitor(OutlierDetection(consecutive_5xx=2))
    member = host(1)
    member.ejected = True
    assert answers(monitor, member, *[500] * 9) == [[]] * 9
    member.ejected = False
    member.forget_failures()
    assert answers(monitor, member, 500, 500) == [[], [("consecutive_5xx", 2)]]


def test_a_failure_without_an_answer_counts_as_an_answer() -> None:
    """Not split: connect failures as 503, timeouts as 504; a connection that is established means nothing."""
    monitor = OutlierMonitor(OutlierDetection(consecutive_5xx=3, consecutive_gateway_failure=0))
    member = host(1)
    assert monitor.local_failed(member, 503) == ()
    monitor.connected(member)
    assert monitor.local_failed(member, 504) == ()
    assert answers(monitor, member, 500) == [[("consecutive_5xx", 3)]]


def test_split_keeps_local_failures_apart() -> None:
    """They raise only their own count, which every try that gets a connection starts anew: an answer, or a reset."""
    config = OutlierDetection(
        split_external_local_origin_errors=True, consecutive_local_origin_failure=2, consecutive_5xx=2
    )  # fmt: skip
    monitor = OutlierMonitor(config)
    member = host(1)
    assert monitor.local_failed(member, 503) == ()
    assert monitor.local_failed(member, 503) == (("consecutive_local_origin_failure", 2),)
    for status in (200, 500):
        assert monitor.local_failed(member, 503) == ()
        assert answers(monitor, member, status) == [[]]
    for _ in range(5):
        monitor.connected(member)
        assert monitor.local_failed(member, 503) == ()
    assert (member.consecutive_5xx, member.consecutive_local) == (1, 1)
