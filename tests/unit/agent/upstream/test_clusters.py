"""A worker's cluster over its life: config changes, ejections, outcomes, reports, retry slots."""

from typing import Any

import pytest

from agent.cluster.hosts import Host
from agent.cluster.retries import RetryRules
from agent.ipc.messages import EjectRequest
from agent.ipc.shared import SharedCells
from agent.model.cells import CONNECTIONS, REQUESTS, RETRIES
from agent.model.cluster import (
    Cluster,
    LbPolicy,
    LoadAssignment,
    OutlierDetection,
    SlowStart,
    Thresholds,
    TransportSocket,
)
from agent.model.route import RetryPolicy
from agent.model.tls import UpstreamTls
from agent.stats.names import LB_HEALTHY_PANIC, RQ_RETRY_OVERFLOW
from mesh.vocabulary import HealthStatus
from tests.support.clock import ManualClock
from tests.support.hosts import endpoint
from tests.support.upstream import ClusterUnderTest, Request, assignment


def named(under_test: ClusterUnderTest, number: int) -> Host:
    """The host 10.0.0.<number>:80."""
    for _ in range(100):
        found = under_test.cluster.pick_host()
        if found is not None and found.key == f"10.0.0.{number}:80":
            return found
    raise AssertionError(f"host {number} is never picked")


def picked(under_test: ClusterUnderTest, count: int = 20) -> set[str]:
    found = [under_test.cluster.pick_host() for _ in range(count)]
    return {host.key.removeprefix("10.0.0.").removesuffix(":80") if host is not None else "none" for host in found}


async def test_hosts_follow_the_assignment_and_keep_their_state() -> None:
    under_test = ClusterUnderTest([endpoint(1), endpoint(2)])
    kept = named(under_test, 2)
    kept.active = 3
    under_test.cluster.update(under_test.config, assignment(endpoint(2, weight=5), endpoint(3)))
    assert picked(under_test) == {"2", "3"}
    again = named(under_test, 2)
    assert again is kept
    assert (again.active, again.weight) == (3, 5)


async def test_without_an_assignment_nobody_is_picked() -> None:
    under_test = ClusterUnderTest()
    assert picked(under_test) == {"none"}
    under_test.cluster.update(under_test.config, assignment(endpoint(1)))
    assert picked(under_test) == {"1"}
    under_test.cluster.update(under_test.config, None)
    assert picked(under_test) == {"none"}


async def test_of_one_address_twice_the_first_counts() -> None:
    under_test = ClusterUnderTest([endpoint(1, weight=7), endpoint(1, weight=1), endpoint(2, weight=7)])
    assert named(under_test, 1).weight == 7
    assert picked(under_test) == {"1", "2"}


async def test_health_changes_take_effect() -> None:
    under_test = ClusterUnderTest([endpoint(1), endpoint(2)])
    under_test.cluster.update(under_test.config, assignment(endpoint(1, health=HealthStatus.UNHEALTHY), endpoint(2)))
    assert picked(under_test) == {"2"}


async def test_verdicts_are_kept_whether_they_come_before_or_after_the_host() -> None:
    under_test = ClusterUnderTest([endpoint(1), endpoint(2)])
    under_test.cluster.set_ejected("10.0.0.1:80", True)
    under_test.cluster.set_ejected("10.0.0.3:80", True)
    assert picked(under_test) == {"2"}
    under_test.cluster.update(under_test.config, assignment(endpoint(1), endpoint(2), endpoint(3), endpoint(4)))
    assert picked(under_test) == {"2", "4"}
    under_test.cluster.set_ejected("10.0.0.3:80", False)
    assert picked(under_test) == {"2", "3", "4"}


async def test_all_ejected_is_panic_or_nothing() -> None:
    under_test = ClusterUnderTest([endpoint(1)])
    under_test.cluster.set_ejected("10.0.0.1:80", True)
    assert picked(under_test, 7) == {"1"}
    assert under_test.counts[LB_HEALTHY_PANIC] == 7
    calm = ClusterUnderTest([endpoint(1)], healthy_panic_threshold_percent=0.0)
    calm.cluster.set_ejected("10.0.0.1:80", True)
    assert picked(calm) == {"none"}


async def test_a_new_policy_takes_effect() -> None:
    under_test = ClusterUnderTest([endpoint(1), endpoint(2)])
    config = Cluster(name="c", lb_policy=LbPolicy.RANDOM)
    under_test.cluster.update(config, assignment(endpoint(1), endpoint(2)))
    assert picked(under_test) == {"1"}, "rng gives 0: the first host, always"


async def test_slow_start_begins_when_a_host_is_healthy_for_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when it comes back."""
    clock = ManualClock()
    monkeypatch.setattr("agent.upstream.clusters.monotonic", clock.monotonic)
    sick = endpoint(2, health=HealthStatus.UNHEALTHY)
    under_test = ClusterUnderTest([endpoint(1), sick], slow_start=SlowStart(window_s=60.0))
    began = named(under_test, 1).fit_since
    assert began == clock.monotonic()
    clock.advance(30)
    under_test.cluster.update(under_test.config, assignment(endpoint(1), endpoint(2)))
    late = named(under_test, 2)
    assert (named(under_test, 1).fit_since, late.fit_since) == (began, began + 30)
    under_test.cluster.set_ejected(late.key, True)
    clock.advance(5)
    under_test.cluster.set_ejected(late.key, False)
    assert late.fit_since == began + 30


async def test_failures_ask_for_an_ejection() -> None:
    """Answers, resets, timeouts and connect failures count together; what came last is told."""
    detection = OutlierDetection(consecutive_5xx=4, consecutive_gateway_failure=0)
    under_test = ClusterUnderTest([endpoint(1)], outlier_detection=detection)
    cluster, host = under_test.cluster, named(under_test, 1)
    cluster.on_status(host, 500)
    cluster.on_status(host, 200)
    cluster.on_reset(host)
    cluster.on_connect_failure(host)
    cluster.on_status(host, 502)
    assert under_test.requests == []
    cluster.on_timeout(host)
    assert under_test.requests == [EjectRequest("c", "10.0.0.1:80", "consecutive_5xx", 4, 504)]


async def test_split_failures_are_counted_apart() -> None:
    """A connection starts their count anew; success rates do not see them, load reports do."""
    detection = OutlierDetection(split_external_local_origin_errors=True, consecutive_local_origin_failure=2)
    under_test = ClusterUnderTest([endpoint(1)], outlier_detection=detection)
    cluster, host = under_test.cluster, named(under_test, 1)
    cluster.on_connect_failure(host)
    cluster.on_connect("10.0.0.1:80", True)
    cluster.on_connect_failure(host)
    cluster.on_status(host, 200)
    cluster.on_reset(host)
    cluster.on_timeout(host)
    assert under_test.requests == []
    cluster.on_timeout(host, connected=False)
    assert under_test.requests == [EjectRequest("c", "10.0.0.1:80", "consecutive_local_origin_failure", 2, 504)]
    assert cluster.take_host_rows() == [("c", "10.0.0.1:80", 1, 1, 5, 0)]
    assert cluster.take_late_rows() == [("c", "10.0.0.1:80", 2)], "the reset and the timeout of a host that was asked"
    assert cluster.take_late_rows() == []


async def test_without_outlier_detection_nothing_is_asked() -> None:
    under_test = ClusterUnderTest([endpoint(1)])
    for _ in range(100):
        under_test.cluster.on_status(named(under_test, 1), 503)
    assert under_test.requests == []


async def test_another_outlier_detection_starts_the_counts_anew() -> None:
    detection = OutlierDetection(consecutive_5xx=2)
    under_test = ClusterUnderTest([endpoint(1)], outlier_detection=detection)
    cluster, host = under_test.cluster, named(under_test, 1)
    cluster.on_status(host, 500)
    config = Cluster(name="c", outlier_detection=OutlierDetection(consecutive_5xx=3))
    cluster.update(config, assignment(endpoint(1)))
    for _ in range(2):
        cluster.on_status(host, 500)
    assert under_test.requests == []
    cluster.on_status(host, 500)
    assert len(under_test.requests) == 1


async def test_answers_are_counted_by_status() -> None:
    """Those of a host by whether it did well; by status only those that a client gets, which the exchange knows."""
    under_test = ClusterUnderTest([endpoint(1)])
    host = named(under_test, 1)
    for status in (200, 200, 503):
        under_test.cluster.on_status(host, status)
    under_test.cluster.on_local_answer(503)
    assert (host.successes, host.errors) == (2, 1)
    assert under_test.cluster.stats.codes == {503: 1}


async def test_host_rows_are_increases_and_present_numbers() -> None:
    under_test = ClusterUnderTest([endpoint(1), endpoint(2)])
    cluster, host = under_test.cluster, named(under_test, 1)
    assert cluster.take_host_rows() == []
    host.active = 2
    cluster.on_status(host, 200)
    cluster.on_status(host, 500)
    assert cluster.take_host_rows() == [("c", "10.0.0.1:80", 2, 1, 1, 2)]
    assert cluster.take_host_rows() == []
    host.active = 0
    assert cluster.take_host_rows() == [("c", "10.0.0.1:80", 0, 0, 0, 0)]


async def test_a_host_that_left_is_reported_to_its_last_request() -> None:
    under_test = ClusterUnderTest([endpoint(1)])
    cluster, host = under_test.cluster, named(under_test, 1)
    host.active = 1
    cluster.close()
    assert picked(under_test) == {"none"}
    assert cluster.take_host_rows() == [("c", "10.0.0.1:80", 0, 0, 0, 1)]
    assert not cluster.settled
    host.active = 0
    cluster.on_status(host, 200)
    assert cluster.take_host_rows() == [("c", "10.0.0.1:80", 1, 1, 0, 0)]
    assert cluster.settled


async def test_limits_move_to_the_shared_row_and_leave_it_at_the_end() -> None:
    """What is under way goes along, so that nothing is released where it was not counted."""
    shared = SharedCells.create(2, 2)
    under_test = ClusterUnderTest([endpoint(1)], thresholds=Thresholds(max_requests=2))
    cluster = under_test.cluster
    assert cluster.limits[0].admit(REQUESTS)
    assert cluster.limits[1].admit(CONNECTIONS)
    cluster.use_row(shared.row(1, 1))
    assert shared.total(1, 0, REQUESTS) == 1
    assert shared.total(1, 1, CONNECTIONS) == 1
    assert cluster.limits[0].admit(REQUESTS)
    assert not cluster.limits[0].admit(REQUESTS)
    cluster.close()
    assert shared.total(1, 0, REQUESTS) == 0
    for _ in range(2):
        cluster.limits[0].release(REQUESTS)
    assert shared.total(1, 0, REQUESTS) == 0
    shared.close()


async def test_new_thresholds_hold_at_once() -> None:
    under_test = ClusterUnderTest([endpoint(1)], thresholds=Thresholds(max_requests=1))
    assert under_test.cluster.limits[0].admit(REQUESTS)
    config = Cluster(name="c", thresholds=Thresholds(max_requests=2))
    under_test.cluster.update(config, assignment(endpoint(1)))
    assert under_test.cluster.limits[0].admit(REQUESTS)
    assert not under_test.cluster.limits[0].admit(REQUESTS)


def sockets() -> tuple[TransportSocket, ...]:
    return (
        TransportSocket(name="tls", match=(("tlsMode", "gossamer"),), tls=UpstreamTls()),
        TransportSocket(name="plain", tls=None),
    )


@pytest.mark.parametrize(
    ("transport", "config", "encrypted"),
    [
        ((("tlsMode", "gossamer"),), {"transport_sockets": sockets()}, True),
        ((("other", "x"), ("tlsMode", "gossamer")), {"transport_sockets": sockets()}, True),
        ((), {"transport_sockets": sockets(), "tls": UpstreamTls()}, False),
        ((), {"transport_sockets": sockets()[:1], "tls": UpstreamTls()}, True),
        ((), {}, False),
    ],
)
async def test_the_first_transport_socket_that_fits(
    transport: tuple[tuple[str, str], ...], config: dict[str, Any], encrypted: bool
) -> None:
    """A match without pairs fits every host; where none fits, the cluster's own."""
    under_test = ClusterUnderTest([endpoint(1, transport=transport)], **config)
    found = under_test.cluster.tls_for(named(under_test, 1).endpoint)
    assert (found is not None) is encrypted


@pytest.mark.parametrize("change", ["transport", "cluster"])
async def test_a_change_of_transport_makes_new_pools(change: str) -> None:
    under_test = ClusterUnderTest([endpoint(1)], transport_sockets=sockets())
    before = under_test.cluster.pool(named(under_test, 1), "")
    under_test.cluster.update(under_test.config, assignment(endpoint(1, weight=3)))
    assert under_test.cluster.pool(named(under_test, 1), "") is before
    if change == "transport":
        marked = endpoint(1, transport=(("tlsMode", "gossamer"),))
        under_test.cluster.update(under_test.config, assignment(marked))
    else:
        under_test.cluster.update(Cluster(name="c", tls=UpstreamTls()), assignment(endpoint(1)))
    assert under_test.cluster.pool(named(under_test, 1), "") is not before


async def test_the_overprovisioning_factor_is_the_assignments() -> None:
    endpoints = (
        endpoint(1), endpoint(2, health=HealthStatus.UNHEALTHY), endpoint(3, priority=1),
    )  # fmt: skip
    under_test = ClusterUnderTest(endpoints, rng=lambda: 0.9, healthy_panic_threshold_percent=0.0)
    assert picked(under_test) == {"3"}, "50 % of level 0 carry 70 %"
    generous = LoadAssignment(cluster="c", endpoints=endpoints, overprovisioning_factor=200)
    under_test.cluster.update(under_test.config, generous)
    assert picked(under_test) == {"1"}


async def test_a_retry_that_no_limit_admits_keeps_its_flag() -> None:
    rules = RetryRules(RetryPolicy(retry_on=frozenset({"connect-failure"})))
    under_test = ClusterUnderTest([endpoint(1)], thresholds=Thresholds(max_retries=0))
    request = Request(rules)
    request.attempts = 1
    request.flags = "X"
    assert not under_test.cluster.retry_after_reset(request, "remote_connection_failure")
    assert request.flags == "X,UO"
    assert under_test.counts[RQ_RETRY_OVERFLOW] == 1


async def test_retries_of_high_priority_have_their_own_limit() -> None:
    rules = RetryRules(RetryPolicy(retry_on=frozenset({"connect-failure"})))
    under_test = ClusterUnderTest([endpoint(1)], thresholds=Thresholds(max_retries=0))
    request = Request(rules)
    request.attempts = 1
    request.action.priority_high = True
    assert under_test.cluster.retry_after_reset(request, "remote_connection_failure")
    assert under_test.cluster.limits[1].under_way(RETRIES) == 1
    under_test.cluster.end_retry(request)
    assert under_test.cluster.limits[1].under_way(RETRIES) == 0
