"""What a chain reports as Istio's metrics: who called whom, and how it ended."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.model.listener import Direction, Listener
from agent.model.route import DirectResponse
from agent.proxy import standard_metrics
from agent.proxy.standard_metrics import STRANGER, Reporter
from agent.stats import istio
from agent.stats.groups import Report
from tests.support import proxying
from tests.support.proxying import Proxy, a_runtime, forward, http_proxy, raw_origin, route, tcp_proxy, virtual_host

CALLER = "orders;default;orders-sa;orders;v3;orders;v3"
SERVER = "reviews;shop;reviews-sa;reviews;v1;reviews;v1"
HOST = "reviews.shop.svc.cluster.local"
Series = dict[str, str | int]


def cluster(name: str, *ports: int) -> tuple[Cluster, LoadAssignment]:
    config, assignment = proxying.cluster(name, *ports)
    endpoints = tuple(replace(endpoint, workload=SERVER) for endpoint in assignment.endpoints)
    return replace(config, service=(HOST, "reviews", "shop")), replace(assignment, endpoints=endpoints)


def reported(proxy: Proxy, metric: str) -> list[Series]:
    """The series of a metric: labels, and its count as `value`."""
    report = Report()
    proxy.runtime.stats.standard.report(report)

    def found() -> Iterator[Series]:
        for name, value in report.counters.items():
            own, labels = istio.labels_of(name)
            if own == metric:
                yield {**dict(labels), "value": value}

    return list(found())


async def test_a_source_knows_both_sides(tmp_path: Path) -> None:
    async with raw_origin() as origin:
        routes = virtual_host(route("/", forward("c")))
        async with http_proxy(tmp_path, routes, [cluster("c", origin.port)], workload=CALLER) as proxy:
            await proxy.get("/")
            await proxy.get("/")
            await proxy.logged(2)
            (series,) = reported(proxy, istio.REQUESTS)
    assert series == {
        "reporter": "source",
        "source_workload": "orders",
        "source_canonical_service": "orders",
        "source_canonical_revision": "v3",
        "source_workload_namespace": "default",
        "source_principal": "unknown",  # nobody has shown a certificate
        "source_app": "orders",
        "source_version": "v3",
        "source_cluster": "default",
        "destination_workload": "reviews",
        "destination_canonical_service": "reviews",
        "destination_canonical_revision": "v1",
        "destination_workload_namespace": "shop",
        "destination_principal": "unknown",
        "destination_app": "reviews",
        "destination_version": "v1",
        "destination_cluster": "default",
        "destination_service": HOST,
        "destination_service_name": "reviews",
        "destination_service_namespace": "shop",
        "request_protocol": "http",
        "response_code": "200",
        "response_flags": "-",
        "grpc_response_status": "",
        "connection_security_policy": "unknown",
        "value": 2,
    }


async def test_answers_of_our_own_count_too(tmp_path: Path) -> None:
    """Each with what is known: no route, no host, an answer of the route."""
    routes = virtual_host(
        route("/none", forward("empty")),
        route("/direct", DirectResponse(status=418)),
        domains=("a",),
    )
    async with http_proxy(tmp_path, routes, [cluster("empty")], workload="") as proxy:
        await proxy.get("/none")
        await proxy.get("/direct")
        await proxy.get("/", host=b"nowhere")
        await proxy.logged(3)
        found = reported(proxy, istio.REQUESTS)
    names = ("response_code", "response_flags", "destination_service_name", "destination_workload", "source_workload")
    assert sorted(tuple(series[name] for name in names) for series in found) == [
        ("404", "NR", "unknown", "unknown", "unknown"),
        ("418", "-", "unknown", "unknown", "unknown"),
        ("503", "UH", "reviews", "unknown", "unknown"),
    ]


async def test_grpc_has_its_own_status(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: %b\r\ncontent-length: 0\r\n\r\n"
    async with raw_origin(five=(answer % b"5", "keep"), odd=(answer % b"77", "keep")) as origin:
        routes = virtual_host(route("/", forward("c")))
        async with http_proxy(tmp_path, routes, [cluster("c", origin.port)], workload=CALLER) as proxy:
            for path in ("/five", "/odd"):
                await proxy.get(path, b"content-type: application/grpc\r\n")
            await proxy.logged(2)
            found = reported(proxy, istio.REQUESTS)
    assert {(series["request_protocol"], series["grpc_response_status"]) for series in found} == {
        ("grpc", "5"),
        ("grpc", ""),
    }


async def test_nothing_is_counted_where_nobody_says_whose_traffic_it_is(tmp_path: Path) -> None:
    async with raw_origin() as origin:
        routes = virtual_host(route("/", forward("c")))
        async with http_proxy(tmp_path, routes, [cluster("c", origin.port)]) as proxy:
            await proxy.get("/")
            await proxy.logged(1)
            assert not reported(proxy, istio.REQUESTS)


async def test_combinations_beyond_the_bound_are_still_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_metrics, "MAX_SERIES", 1)
    routes = virtual_host(route("/a", DirectResponse(status=201)), route("/b", DirectResponse(status=202)))
    async with http_proxy(tmp_path, routes, [], workload=CALLER) as proxy:
        for path in ("/a", "/b", "/b"):
            await proxy.get(path)
        await proxy.logged(3)
        found = reported(proxy, istio.REQUESTS)
    assert {series["response_code"]: series["value"] for series in found} == {"201": 1, "202": 2}


async def test_connections_and_their_bytes(tmp_path: Path) -> None:
    """Bytes count while the connection is open; one without a host is opened and closed at once."""
    async with raw_origin() as origin, tcp_proxy(tmp_path, "c", [cluster("c", origin.port)], workload=CALLER) as proxy:
        client = await proxy.client()
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await client.until(b"\r\n\r\n")
        opened, received = reported(proxy, istio.TCP[istio.OPENED]), origin.seen[0]
        assert [(series["value"], series["request_protocol"], series["response_flags"]) for series in opened] == [
            (1, "tcp", "-")
        ]
        assert opened[0]["destination_service"] == HOST
        assert "response_code" not in opened[0]
        client.writer.close()
        (line,) = await proxy.logged(1)
        report = Report()
        proxy.runtime.stats.standard.report(report)
        assert line["received"] == len(received)
        assert {istio.labels_of(name)[0]: value for name, value in report.counters.items()} == {
            istio.TCP[istio.CLOSED]: 1
        }
    (tmp_path / "second").mkdir()
    async with tcp_proxy(tmp_path / "second", "none", [], workload=CALLER) as proxy:
        client = await proxy.client()
        await client.rest()
        await proxy.logged(1)
        (lost,) = reported(proxy, istio.TCP[istio.OPENED])
        assert (lost["response_flags"], lost["destination_service"]) == ("NC", "unknown")


async def test_bytes_of_a_connection(tmp_path: Path) -> None:
    async with raw_origin() as origin, tcp_proxy(tmp_path, "c", [cluster("c", origin.port)], workload=CALLER) as proxy:
        client = await proxy.client()
        client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await client.until(b"\r\n\r\n")
        client.writer.close()
        (line,) = await proxy.logged(1)
        report = Report()
        proxy.runtime.stats.standard.report(report)
        sums = {istio.labels_of(name)[0]: value for name, value in report.counters.items()}
    assert sums[istio.TCP[istio.RECEIVED]] == line["received"] == 18
    assert sums[istio.TCP[istio.SENT]] == line["sent"]


# --- the destination's side -----------------------------------------------------------------------------------------


async def inbound(tmp_path: Path) -> Reporter:
    runtime = a_runtime(tmp_path / "log", [])
    runtime.callers.add("10.0.0.7", CALLER)
    asyncio.get_running_loop().call_soon(runtime.wheel.close)
    listener = Listener(
        name="l", address="127.0.0.1", port=0, direction=Direction.INBOUND, filter_chains=(), workload=SERVER
    )
    return Reporter(runtime, listener)


async def test_a_destination_learns_its_caller_from_the_certificate(tmp_path: Path) -> None:
    reporter = await inbound(tmp_path)
    principal = "spiffe://cluster.local/ns/default/sa/orders-sa"
    caller = reporter.caller_of(frozenset({principal}), "10.0.0.7:41000")
    assert caller.split(istio.SEPARATOR) == [
        "orders", "orders", "v3", "default", principal, "orders", "v3", "default",
    ]  # fmt: skip


async def test_callers_that_are_no_workload(tmp_path: Path) -> None:
    reporter = await inbound(tmp_path)
    node = reporter.caller_of(frozenset({"spiffe://cluster.local/node/n1"}), "10.0.0.7:1").split(istio.SEPARATOR)
    assert (node[0], node[4]) == ("unknown", "spiffe://cluster.local/node/n1")
    assert reporter.caller_of(frozenset({"https://example.com"}), "10.0.0.7:1") is STRANGER
    assert reporter.caller_of(frozenset(), "10.0.0.7:1") is STRANGER
    assert len(STRANGER.split(istio.SEPARATOR)) == 8


def test_endpoints_make_callers_known(tmp_path: Path) -> None:
    """As clusters come, change and go."""

    async def run() -> list[str]:
        runtime = a_runtime(tmp_path / "log", [cluster("c", 1)])
        live = runtime.snapshot.clusters["c"]
        callers = live._parts.callers
        seen = [callers.find("shop", "reviews-sa", "x").version]
        moved = Endpoint(address="127.0.0.1", port=1, workload=SERVER.replace("v1", "v2"))
        live.update(live.config, LoadAssignment(cluster="c", endpoints=(moved,)))
        seen.append(callers.find("shop", "reviews-sa", "x").version)
        live.close()
        seen.append(callers.find("shop", "reviews-sa", "x").version)
        runtime.wheel.close()
        return seen

    assert asyncio.run(run()) == ["v1", "v2", ""]
