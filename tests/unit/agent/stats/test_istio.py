"""Istio's metrics: names, labels, the bound, increases that are told once."""

from agent.admin.totals import Totals
from agent.ipc.messages import StatsDelta
from agent.stats import istio
from agent.stats.groups import Report
from agent.stats.istio import CLOSED, HTTP_LABELS, MAX_SERIES, OPENED, OTHER, SENT, SEPARATOR, TCP_LABELS
from agent.stats.registry import Registry

# As Istio's telemetry documents them; dashboards ask for these.
METRICS = {
    "istio_requests_total": "counter",
    "istio_request_duration_milliseconds": "histogram",
    "istio_request_bytes": "histogram",
    "istio_response_bytes": "histogram",
    "istio_tcp_connections_opened_total": "counter",
    "istio_tcp_connections_closed_total": "counter",
    "istio_tcp_sent_bytes_total": "counter",
    "istio_tcp_received_bytes_total": "counter",
}
LABELS = {
    "reporter", "source_workload", "source_workload_namespace", "source_principal", "source_app", "source_version",
    "source_canonical_service", "source_canonical_revision", "source_cluster", "destination_workload",
    "destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
    "destination_service", "destination_service_name", "destination_service_namespace",
    "destination_canonical_service", "destination_canonical_revision", "destination_cluster", "request_protocol",
    "response_flags", "connection_security_policy",
}  # fmt: skip


def values(*own: str, labels: tuple[str, ...] = HTTP_LABELS) -> str:
    return SEPARATOR.join((*own, *("x",) * (len(labels) - len(own))))


def rendered(registry: Registry) -> str:
    report = registry.report()
    totals = Totals()
    totals.add(1, StatsDelta(report.counters, report.gauges, report.histograms, report.sums, ()))
    return totals.as_prometheus()


def test_metrics_and_labels_are_istios() -> None:
    registry = Registry()
    registry.standard.http(values("source")).add(3.0, 10, 2000)
    tcp = registry.standard.tcp(values("destination", labels=TCP_LABELS))
    tcp.counts[:] = [1, 1, 5, 6]
    text = rendered(registry)
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    assert types == METRICS
    assert set(TCP_LABELS) == LABELS
    assert set(HTTP_LABELS) == LABELS | {"response_code", "grpc_response_status"}
    assert len(HTTP_LABELS) == len(set(HTTP_LABELS))
    for line in text.splitlines():
        if not line.startswith("#"):
            found = {pair.split("=")[0] for pair in line[line.index("{") + 1 : line.index("}")].split(",")}
            assert found - {"le"} == (set(TCP_LABELS) if "_tcp_" in line else set(HTTP_LABELS))


def test_buckets_and_sums() -> None:
    registry = Registry()
    series = registry.standard.http(values("source"))
    series.add(0.4, 0, 6)
    series.add(7.0, 1, 300)
    lines = rendered(registry).splitlines()

    def bucket(metric: str, le: str) -> int:
        (line,) = (own for own in lines if own.startswith(f"{metric}_bucket") and f'le="{le}"' in own)
        return int(line.rpartition(" ")[2])

    assert [bucket("istio_request_duration_milliseconds", le) for le in ("0.5", "5", "10", "+Inf")] == [1, 1, 2, 2]
    assert [bucket("istio_request_bytes", le) for le in ("0.5", "1", "3600000")] == [1, 2, 2]
    assert [bucket("istio_response_bytes", le) for le in ("5", "10", "500")] == [0, 1, 2]
    totals = {line.partition("{")[0]: line.rpartition(" ")[2] for line in lines if "bucket" not in line}
    assert totals["istio_request_duration_milliseconds_sum"] == "7.400"
    assert totals["istio_response_bytes_sum"] == "306.000"
    assert totals["istio_requests_total"] == totals["istio_request_bytes_count"] == "2"


def test_increases_are_told_once() -> None:
    registry = Registry()
    series = registry.standard.http(values("source"))
    connections = registry.standard.tcp(values("source", labels=TCP_LABELS))
    series.add(1.0, 1, 1)
    connections.counts[OPENED] += 1
    assert registry.report().counters
    again = registry.report()
    assert (again.counters, again.histograms) == ({}, {})
    series.add(1.0, 1, 1)
    connections.counts[CLOSED] += 1
    connections.counts[SENT] += 7
    third = Report()
    registry.standard.report(third)
    assert sorted(third.counters.values()) == [1, 1, 7]


def test_label_values_beyond_the_bound_share_a_series() -> None:
    standard = istio.StandardMetrics()
    for number in range(MAX_SERIES):
        standard.http(values("source", str(number))).add(1.0, 0, 0)
        standard.tcp(values("source", str(number), labels=TCP_LABELS)).counts[OPENED] += 1
    first = standard.http(values("source", "new"))
    assert standard.http(values("source", "newer")) is first
    assert standard.http(values("destination", "new")) is not first
    assert standard.http(values("source", "7")) is not first
    assert standard.tcp(values("source", "a", labels=TCP_LABELS)) is standard.tcp(
        values("source", "b", labels=TCP_LABELS)
    )
    first.add(1.0, 0, 0)
    report = Report()
    standard.report(report)
    name = SEPARATOR.join((istio.REQUESTS, "source", *(OTHER,) * (len(HTTP_LABELS) - 1)))
    assert report.counters[name] == 1
    assert sum(count for own, count in report.counters.items() if own.startswith(istio.REQUESTS)) == MAX_SERIES + 1


def test_workers_are_summed_and_pages_show_labels() -> None:
    totals = Totals()
    name = SEPARATOR.join((istio.REQUESTS, values('so"urce')))
    for worker in (1, 2):
        totals.add(worker, StatsDelta({name: 2}, {}, {}, {}, ()))
    assert totals.as_prometheus().splitlines()[1].endswith("} 4")
    assert totals.as_text("istio_requests").startswith('istio_requests_total{reporter="so\\"urce",source_workload="x"')
