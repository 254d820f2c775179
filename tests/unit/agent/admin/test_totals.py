"""Sums over workers, and their text forms."""

from bisect import bisect_left

import pytest

from agent.admin import totals as module
from agent.admin.totals import Totals
from agent.ipc.messages import StatsDelta
from agent.stats.histograms import BUCKETS_MS

CLUSTER = "cluster.outbound|80|v1|a.default.svc.cluster.local"


def delta(
    counters: dict[str, int] | None = None,
    gauges: dict[str, int] | None = None,
    times: dict[str, tuple[float, ...]] | None = None,
) -> StatsDelta:
    histograms: dict[str, tuple[int, ...]] = {}
    sums: dict[str, float] = {}
    for name, values in (times or {}).items():
        counts = [0] * (len(BUCKETS_MS) + 1)
        for value in values:
            counts[bisect_left(BUCKETS_MS, value)] += 1
        histograms[name], sums[name] = tuple(counts), sum(values)
    return StatsDelta(counters or {}, gauges or {}, histograms, sums, ())


def test_counters_add_up_and_gauges_follow_their_worker() -> None:
    totals = Totals()
    totals.add(1, delta({"a": 2}, {"open": 3}))
    totals.add(2, delta({"a": 5, "b": 1}, {"open": 4}))
    totals.add(1, delta({"a": 1}, {"open": 1}))
    assert totals.counters == {"a": 8, "b": 1}
    assert totals.gauges() == {"open": 5}
    totals.forget_worker(2)
    assert totals.gauges() == {"open": 1}
    assert totals.counters["a"] == 8, "a counter never falls"


def test_the_supervisor_counts_too() -> None:
    totals = Totals()
    totals.count("x")
    totals.count("x", 2)
    totals.set_gauge("server.live", 1)
    totals.set_gauge("gone", 1)
    totals.drop_gauge("gone")
    assert totals.as_text() == "server.live: 1\nx: 3\n"


def test_text_is_sorted_and_filtered() -> None:
    totals = Totals()
    totals.add(1, delta({"b.x": 1, "a.y": 2}, {"c.x": 3}, {"d.x": (1.0, 3.0)}))
    assert totals.as_text() == "a.y: 2\nb.x: 1\nc.x: 3\nd.x: count=2 sum=4.000\n"
    assert totals.as_text("x") == "b.x: 1\nc.x: 3\nd.x: count=2 sum=4.000\n"


def test_prometheus_has_envoys_tags() -> None:
    totals = Totals()
    totals.add(
        1,
        delta(
            {
                f"{CLUSTER}.upstream_rq_200": 7,
                f"{CLUSTER}.upstream_rq_2xx": 7,
                f"{CLUSTER}.ssl.handshake": 2,
                "listener.127.0.0.1_15001.downstream_cx_total": 1,
                "http.outbound_15001.downstream_rq_5xx": 3,
            }
        ),
    )
    lines = totals.as_prometheus().splitlines()
    name = CLUSTER.removeprefix("cluster.")
    assert f'envoy_cluster_upstream_rq{{envoy_cluster_name="{name}",envoy_response_code="200"}} 7' in lines
    assert f'envoy_cluster_upstream_rq_xx{{envoy_cluster_name="{name}",envoy_response_code_class="2"}} 7' in lines
    assert f'envoy_cluster_ssl_handshake{{envoy_cluster_name="{name}"}} 2' in lines
    assert 'envoy_listener_downstream_cx_total{envoy_listener_address="127.0.0.1_15001"} 1' in lines
    prefix = 'envoy_http_conn_manager_prefix="outbound_15001"'
    assert f'envoy_http_downstream_rq_xx{{{prefix},envoy_response_code_class="5"}} 3' in lines
    assert lines.count("# TYPE envoy_cluster_upstream_rq counter") == 1


def test_prometheus_histograms_are_cumulative() -> None:
    totals = Totals()
    totals.add(1, delta(times={f"{CLUSTER}.upstream_rq_time": (0.2, 7.0, 1e9)}))
    name = CLUSTER.removeprefix("cluster.")
    lines = totals.as_prometheus().splitlines()

    def bucket(le: str) -> str:
        return f'envoy_cluster_upstream_rq_time_bucket{{envoy_cluster_name="{name}",le="{le}"}}'

    assert f"{bucket('0.5')} 1" in lines
    assert f"{bucket('5')} 1" in lines
    assert f"{bucket('10')} 2" in lines
    assert f"{bucket('+Inf')} 3" in lines
    assert f'envoy_cluster_upstream_rq_time_count{{envoy_cluster_name="{name}"}} 3' in lines


def test_labels_are_escaped() -> None:
    totals = Totals()
    totals.add(1, delta({'cluster.a"b\\c.upstream_rq_total': 1}))
    assert 'envoy_cluster_name="a\\"b\\\\c"' in totals.as_prometheus()


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 2)
    totals = Totals()
    totals.add(1, delta({"a": 1, "b": 1, "c": 1}))
    totals.add(1, delta({"a": 1, "d": 1}))
    assert totals.counters == {"a": 2, "b": 1}
    assert totals.dropped == 2


def test_names_of_gauges_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of callers that were here once make room first."""
    monkeypatch.setattr(module, "MAX_NAMES", 2)
    totals = Totals()
    totals.add(1, delta(gauges={"a": 1, "b": 1, "c": 1}))
    totals.add(2, delta(gauges={"d": 4}))
    assert totals.gauges() == {"a": 1, "b": 1, "d": 4}
    totals.add(1, delta(gauges={"a": 0, "e": 5}))
    assert totals.gauges() == {"b": 1, "d": 4, "e": 5}
    assert totals.dropped == 1
