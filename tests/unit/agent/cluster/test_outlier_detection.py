"""Verdicts, times and rates of outlier detection. Source: data-plane.md 1.1."""

from collections.abc import Iterable

import pytest

from agent.cluster.outlier_detection import OutlierDetector, Verdict
from agent.cluster.outlier_monitor import CONSECUTIVE_5XX, CONSECUTIVE_GATEWAY_FAILURE
from agent.model.cluster import OutlierDetection

NEVER_LUCKY = lambda: 0.999999  # noqa: E731


def detector(hosts: Iterable[str] = "abcdefghij", **settings: object) -> OutlierDetector:
    made = OutlierDetector(OutlierDetection(**settings))  # type: ignore[arg-type]
    made.set_hosts(hosts)
    return made


def eject(made: OutlierDetector, host: str, now: float = 0.0, reason: str = CONSECUTIVE_5XX) -> Verdict | None:
    return made.detected(host, reason, "", now, NEVER_LUCKY)


def blocked_by(verdict: Verdict | None) -> str:
    assert verdict is not None
    return verdict.blocked_by


@pytest.mark.parametrize(
    ("hosts", "settings", "ejected"),
    [
        (2, {}, 0),  # the trap of the default 10 %
        (9, {}, 0),
        (10, {}, 1),
        (2, {"always_eject_one_host": True}, 1),
        (2, {"max_ejection_percent": 50}, 1),
        (2, {"max_ejection_percent": 49}, 0),
        (3, {"max_ejection_percent": 70}, 2),
        (1, {"max_ejection_percent": 100}, 1),
        (3, {"max_ejection_percent": 0}, 0),
        (3, {"max_ejection_percent": 0, "always_eject_one_host": True}, 1),
    ],
)
def test_how_many_may_be_ejected(hosts: int, settings: dict[str, object], ejected: int) -> None:
    names = [str(number) for number in range(hosts)]
    made = detector(names, **settings)
    verdicts = [eject(made, name) for name in names]
    assert [blocked_by(verdict) for verdict in verdicts] == [""] * ejected + ["max_ejection_percent"] * (
        hosts - ejected
    )
    assert made.active == ejected


def test_enforcing_percent_is_rolled_after_the_ejection_percent() -> None:
    made = detector("a", max_ejection_percent=100, enforcing_consecutive_5xx=30)
    assert blocked_by(made.detected("a", CONSECUTIVE_5XX, "", 0.0, lambda: 0.30)) == "enforcing_percent"
    assert blocked_by(made.detected("a", CONSECUTIVE_5XX, "", 0.0, lambda: 0.29)) == ""
    made = detector("ab", max_ejection_percent=10, enforcing_consecutive_5xx=0)
    assert blocked_by(eject(made, "a")) == "max_ejection_percent"


def test_gateway_failures_are_detected_but_not_enforced_by_default() -> None:
    made = detector("a", max_ejection_percent=100)
    assert blocked_by(eject(made, "a", reason=CONSECUTIVE_GATEWAY_FAILURE)) == "enforcing_percent"


def test_an_ejected_or_unknown_host_changes_nothing() -> None:
    made = detector("ab", max_ejection_percent=100)
    assert eject(made, "a") is not None
    assert eject(made, "a", 1.0) is None
    assert eject(made, "z") is None
    assert made.active == 1


def test_comes_back_at_the_first_sweep_after_its_time() -> None:
    made = detector("ab", max_ejection_percent=50, base_ejection_time_s=3.0)
    verdict = eject(made, "a", 100.0)
    assert verdict is not None
    assert (verdict.ejected, verdict.until, verdict.times) == (True, 103.0, 1)
    assert made.sweep(102.9, NEVER_LUCKY) == ()
    assert made.sweep(103.0, NEVER_LUCKY) == (Verdict(host="a", ejected=False),)
    assert made.sweep(104.0, NEVER_LUCKY) == ()


def test_times_grow_by_the_base_up_to_the_maximum() -> None:
    """Ejected again at once after each return: 1, 2, 3 times the base, then the maximum for good."""
    made = detector("a", max_ejection_percent=100, base_ejection_time_s=30.0, max_ejection_time_s=75.0)
    lengths, now = [], 0.0
    for _ in range(5):
        verdict = eject(made, "a", now)
        assert verdict is not None
        lengths.append(verdict.until - now)
        now = verdict.until
        assert made.sweep(now, NEVER_LUCKY)
    assert lengths == [30.0, 60.0, 75.0, 75.0, 75.0]


def test_back_off_sinks_by_one_per_sweep_of_a_host_in_use() -> None:
    """Only when it has been in use for an interval; `times` begins at 1 again when none is left."""
    made = detector("a", max_ejection_percent=100, base_ejection_time_s=10.0, interval_s=10.0)
    assert eject(made, "a", 0.0)
    assert made.sweep(10.0, NEVER_LUCKY)
    second = eject(made, "a", 11.0)
    assert second is not None
    assert (second.times, second.until) == (2, 31.0)
    assert made.sweep(31.0, NEVER_LUCKY)
    assert made.sweep(40.0, NEVER_LUCKY) == ()  # 9 s in use: no change
    assert made.sweep(50.0, NEVER_LUCKY) == ()  # 2 -> 1
    third = eject(made, "a", 51.0)
    assert third is not None
    assert (third.times, third.until) == (3, 71.0)
    assert made.sweep(71.0, NEVER_LUCKY)
    for now in (81.0, 91.0, 101.0):
        made.sweep(now, NEVER_LUCKY)
    fresh = eject(made, "a", 102.0)
    assert fresh is not None
    assert (fresh.times, fresh.until) == (1, 112.0)


def test_the_maximum_is_at_least_the_base() -> None:
    made = detector("a", max_ejection_percent=100, base_ejection_time_s=400.0)
    verdict = eject(made, "a")
    assert verdict is not None
    assert verdict.until == 400.0


def test_jitter_is_drawn_once_in_whole_milliseconds() -> None:
    made = detector("a", max_ejection_percent=100, base_ejection_time_s=1.0, max_ejection_time_jitter_s=2.0)
    verdict = made.detected("a", CONSECUTIVE_5XX, "", 0.0, lambda: 0.9999999)
    assert verdict is not None
    assert verdict.until == 3.0
    assert made.sweep(2.999, lambda: 0.0) == ()
    assert made.sweep(3.0, lambda: 0.0) != ()


def test_a_healthy_check_brings_it_back_unless_told_otherwise() -> None:
    made = detector("ab", max_ejection_percent=100)
    eject(made, "a")
    assert made.healthy("b", 1.0) is None
    assert made.healthy("z", 1.0) is None
    assert made.healthy("a", 1.0) == Verdict(host="a", ejected=False)
    assert made.active == 0
    stubborn = detector("a", max_ejection_percent=100, successful_active_health_check_uneject_host=False)
    eject(stubborn, "a")
    assert stubborn.healthy("a", 1.0) is None
    assert stubborn.active == 1


def test_a_host_that_leaves_frees_its_place_and_returns_as_new() -> None:
    made = detector("ab", max_ejection_percent=50)
    eject(made, "a")
    assert blocked_by(eject(made, "b")) == "max_ejection_percent"
    made.set_hosts("bc")
    assert made.active == 0
    assert blocked_by(eject(made, "b")) == ""
    made.set_hosts("abc")
    assert blocked_by(eject(made, "a")) == "max_ejection_percent", "two of three are more than 50 %"
    assert made.active == 1


def rates(made: OutlierDetector, **percents: int) -> list[str]:
    """100 requests to each host; who is ejected at the sweep."""
    for host, percent in percents.items():
        made.count(host, 100, percent)
    return [verdict.host for verdict in made.sweep(10.0, NEVER_LUCKY)]


def test_success_rate() -> None:
    """Source: {50, 100, 100, 100, 100}: average 90, deviation 20, threshold 52."""
    made = detector("abcde", max_ejection_percent=100)
    assert rates(made, a=50, b=100, c=100, d=100, e=100) == ["a"]
    made = detector("abcde", max_ejection_percent=100)
    assert rates(made, a=100, b=100, c=100, d=100, e=100) == []


def test_success_rate_says_why() -> None:
    made = detector("abcde", max_ejection_percent=100)
    for host in "abcde":
        made.count(host, 100, 50 if host == "a" else 100)
    (verdict,) = made.sweep(10.0, NEVER_LUCKY)
    assert verdict.reason == "success_rate"
    assert verdict.detail == "success rate 50.0 % of 100 requests, average 90.0 %, threshold 52.0 %"


def test_success_rate_needs_hosts_and_requests() -> None:
    assert (
        rates(detector("abcd", max_ejection_percent=100, failure_percentage_minimum_hosts=9), a=0, b=100, c=100, d=100)
        == []
    )
    made = detector("abcde", max_ejection_percent=100, failure_percentage_minimum_hosts=9)
    made.count("a", 99, 0)
    assert rates(made, b=100, c=100, d=100, e=100) == [], "99 requests are too few to judge, four hosts too"


def test_counts_are_those_of_one_interval() -> None:
    made = detector("abcde", max_ejection_percent=100, failure_percentage_minimum_hosts=9)
    for host in "abcde":
        made.count(host, 60, 0 if host == "a" else 60)
    assert made.sweep(10.0, NEVER_LUCKY) == ()
    for host in "abcde":
        made.count(host, 60, 0 if host == "a" else 60)
    assert made.sweep(20.0, NEVER_LUCKY) == ()


def test_failure_percentage_is_enforced_only_on_request() -> None:
    settings = {"max_ejection_percent": 100, "enforcing_success_rate": 0, "failure_percentage_threshold": 40}
    made = detector("abcde", **settings)
    made.count("a", 50, 30)
    for host in "bcde":
        made.count(host, 50, 31)
    (verdict,) = made.sweep(10.0, NEVER_LUCKY)
    assert (verdict.host, verdict.reason, verdict.blocked_by) == ("a", "failure_percentage", "enforcing_percent")
    made = detector("abcde", **settings, enforcing_failure_percentage=100)
    for host in "abcde":
        made.count(host, 50, 0)
    assert [verdict.ejected for verdict in made.sweep(10.0, NEVER_LUCKY)] == [True] * 5


def test_a_host_is_judged_once_per_sweep() -> None:
    """What the success rate has ejected is not ejected again for its failure percentage."""
    made = detector("abcdef", max_ejection_percent=100, enforcing_failure_percentage=100)
    for host in "abcdef":
        made.count(host, 100, 0 if host == "a" else 100)
    (verdict,) = made.sweep(10.0, NEVER_LUCKY)
    assert verdict.reason == "success_rate"
