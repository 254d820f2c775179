"""Load reports: sums by host, told per cluster and locality over a real LRS stream, summed for the fleet."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats, UpstreamLocalityStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from agent.identity import authority, channels
from agent.identity.keys import make_keys
from agent.report import load
from agent.report.load import LoadReporter, LoadSums, Place
from agent.settings import ControlPlaneSettings
from controlplane.discovery import lrs
from controlplane.discovery.lrs import LoadReportingService
from controlplane.distribution.traffic import Traffic, TrafficTable
from mesh.identity import join_token
from mesh.tasks import cancel_and_wait, spawn
from mesh.vocabulary import Locality
from tests.support.authorities import TRUST_DOMAIN, ServedAuthority
from tests.support.clock import ManualClock

V1 = "outbound|80|v1|users.default.svc.cluster.local"
V2 = "outbound|80|v2|users.default.svc.cluster.local"
EU, US = Locality("eu", "a"), Locality("us", "b")


def place_of(_: str, host: str) -> Place:
    return (EU, 0) if host.startswith("10.1.") else (US, 1)


def told(stats: list[ClusterStats]) -> dict[tuple[str, str, int], tuple[int, int, int, int]]:
    return {
        (cluster.cluster_name, row.locality.region, row.priority): (
            row.total_issued_requests,
            row.total_successful_requests,
            row.total_error_requests,
            row.total_requests_in_progress,
        )
        for cluster in stats
        for row in cluster.upstream_locality_stats
    }


def test_sums_are_per_cluster_locality_and_priority() -> None:
    sums = LoadSums()
    sums.add(0, [(V1, "10.1.0.1:1", 10, 9, 1, 2), (V1, "10.1.0.2:1", 5, 5, 0, 0), (V2, "10.2.0.1:1", 1, 0, 1, 1)])
    sums.add(1, [(V1, "10.1.0.1:1", 3, 3, 0, 4), (V1, "10.2.0.9:1", 7, 7, 0, 0)])
    stats = sums.take(place_of, 5.0)
    assert told(stats) == {(V1, "eu", 0): (18, 17, 1, 6), (V1, "us", 1): (7, 7, 0, 0), (V2, "us", 1): (1, 0, 1, 1)}
    assert [cluster.load_report_interval.seconds for cluster in stats] == [5, 5]


def test_a_report_covers_the_time_since_the_one_before_and_keeps_what_is_under_way() -> None:
    sums = LoadSums()
    sums.add(0, [(V1, "10.1.0.1:1", 10, 10, 0, 2)])
    sums.take(place_of, 5.0)
    assert told(sums.take(place_of, 5.0)) == {(V1, "eu", 0): (0, 0, 0, 2)}
    sums.add(0, [(V1, "10.1.0.1:1", 2, 2, 0, 0)])
    assert told(sums.take(place_of, 5.0)) == {(V1, "eu", 0): (2, 2, 0, 0)}
    assert sums.take(place_of, 5.0) == []


def test_a_dead_worker_has_nothing_under_way() -> None:
    sums = LoadSums()
    sums.add(0, [(V1, "10.1.0.1:1", 1, 0, 0, 1)])
    sums.add(1, [(V1, "10.1.0.1:1", 1, 0, 0, 1)])
    sums.forget_worker(0)
    assert told(sums.take(place_of, 5.0)) == {(V1, "eu", 0): (2, 0, 0, 1)}


def test_hosts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_HOSTS", 2)
    sums = LoadSums()
    sums.add(0, [(V1, f"10.1.0.{number}:1", 1, 1, 0, 1) for number in range(5)])
    assert sums.dropped == 3
    assert told(sums.take(place_of, 5.0)) == {(V1, "eu", 0): (2, 2, 0, 2)}


class Mesh:
    """The real LRS service on mTLS, and the reporter of node-1."""

    def __init__(self, served: ServedAuthority) -> None:
        self.served = served
        self.clock = ManualClock()
        self.table = TrafficTable()
        self.sums = LoadSums()
        service = LoadReportingService(self.table, trust_domain=TRUST_DOMAIN, clock=self.clock)
        served.services.append(lambda server: server.add_generic_rpc_handlers((service.handler(authenticated=True),)))

    async def join(self) -> None:
        settings = ControlPlaneSettings(address=self.served.mtls, join_address=self.served.tls)
        held = join_token.parse(await self.served.token(), "token")
        keys = await make_keys([f"spiffe://{TRUST_DOMAIN}/node/node-1"])
        signed = await authority.join(settings, "node-1", held, keys)
        self.connect = lambda: channels.mtls(
            self.served.mtls, settings.server_name, signed.identities[0], signed.trust_pem
        )
        self.reporter = LoadReporter(
            Node(id="node-1"), self.sums, place_of, self.connect, clock=self.clock, rng=lambda: 0.0
        )

    def traffic(self) -> dict[tuple[str, Locality], Traffic]:
        return {(row.cluster, row.locality): row for row in self.table.snapshot(self.clock.monotonic())}

    async def call(self, *requests: LoadStatsRequest) -> tuple[list[LoadStatsResponse], grpc.StatusCode]:
        """One stream that says `requests` and ends."""
        async with self.connect() as channel:
            stream = channel.stream_stream(
                load.METHOD,
                request_serializer=LoadStatsRequest.SerializeToString,
                response_deserializer=LoadStatsResponse.FromString,
            )(iter(requests), timeout=10)
            try:
                answers = [answer async for answer in stream]
            except grpc.aio.AioRpcError:
                answers = []
            return answers, await stream.code()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another task brings it about
            await asyncio.sleep(0.01)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    served = await ServedAuthority.open(tmp_path / "ca")
    made = Mesh(served)
    await served.start()
    await made.join()
    yield made
    await served.stop()


async def test_the_fleet_s_load_is_known_per_subset_and_locality_while_the_stream_lives(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lrs, "REPORT_EVERY_S", 1)
    mesh.sums.add(0, [(V1, "10.1.0.1:1", 90, 80, 10, 3), (V2, "10.2.0.1:1", 10, 10, 0, 0)])
    mesh.clock.advance(10)
    task = spawn("load", mesh.reporter.run())
    await until(lambda: len(mesh.traffic()) == 2)
    found = mesh.traffic()
    one = found[V1, EU]
    assert (one.reporters, one.requests_per_s, one.errors_per_s, one.in_progress) == (1, 9.0, 1.0, 3)
    assert one.success_ratio == pytest.approx(80 / 90)
    assert found[V2, US].requests_per_s == 1.0
    await cancel_and_wait(task)
    assert task.done()
    await until(lambda: mesh.traffic() == {})


async def test_the_reporter_comes_back_after_an_outage(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lrs, "REPORT_EVERY_S", 1)
    await mesh.served.stop()
    task = spawn("load", mesh.reporter.run())
    await until(lambda: mesh.reporter.error != "")
    mesh.sums.add(0, [(V1, "10.1.0.1:1", 5, 5, 0, 0)])
    mesh.clock.advance(1)
    await mesh.served.start()
    await until(lambda: (V1, EU) in mesh.traffic())
    await cancel_and_wait(task)


def stats(cluster: str, *rows: UpstreamLocalityStats, interval_s: int = 10) -> ClusterStats:
    made = ClusterStats(cluster_name=cluster, upstream_locality_stats=rows)
    made.load_report_interval.FromSeconds(interval_s)
    return made


async def test_every_cluster_is_asked_for(mesh: Mesh) -> None:
    (answer,), code = await mesh.call(LoadStatsRequest(node=Node(id="node-1")))
    assert code is grpc.StatusCode.OK
    assert answer.send_all_clusters
    assert answer.load_reporting_interval.seconds == lrs.REPORT_EVERY_S


async def test_another_nodes_name_is_refused(mesh: Mesh) -> None:
    answers, code = await mesh.call(LoadStatsRequest(node=Node(id="node-2")))
    assert (answers, code) == ([], grpc.StatusCode.PERMISSION_DENIED)


async def test_what_nobody_expects_does_no_harm(mesh: Mesh) -> None:
    row = UpstreamLocalityStats(total_issued_requests=2**63, total_error_requests=2**63)
    row.locality.region = "r" * 100_000
    odd = LoadStatsRequest(
        node=Node(id="node-1"),
        cluster_stats=[
            stats("c" * 100_000, row, interval_s=-5),
            ClusterStats(),
            stats("", UpstreamLocalityStats()),
            ClusterStats(cluster_name="no interval", upstream_locality_stats=[row]),
        ],
    )
    seen: list[tuple[Traffic, ...]] = []
    forget = mesh.table.forget
    mesh.table.forget = lambda node: (seen.append(mesh.table.snapshot(mesh.clock.monotonic())), forget(node))  # type: ignore[method-assign,func-returns-value,assignment]
    answers, code = await mesh.call(odd, LoadStatsRequest())
    assert (len(answers), code) == (1, grpc.StatusCode.OK)
    await until(lambda: bool(seen))
    assert all(len(found.cluster) <= 512 and len(found.locality.region) <= 128 for found in seen[0])
    assert all(found.requests_per_s == 0.0 for found in seen[0]), "no interval, no rate"
    assert mesh.traffic() == {}


async def test_priorities_of_one_locality_are_summed(mesh: Mesh) -> None:
    rows = [UpstreamLocalityStats(total_issued_requests=10, total_successful_requests=10, priority=p) for p in (0, 1)]
    for row in rows:
        row.locality.region = "eu"
    seen: list[tuple[Traffic, ...]] = []
    forget = mesh.table.forget
    mesh.table.forget = lambda node: (seen.append(mesh.table.snapshot(mesh.clock.monotonic())), forget(node))  # type: ignore[method-assign,func-returns-value,assignment]
    await mesh.call(LoadStatsRequest(node=Node(id="node-1"), cluster_stats=[stats(V1, *rows)]))
    await until(lambda: bool(seen))
    ((found,),) = seen
    assert (found.requests_per_s, found.reporters) == (2.0, 1)
