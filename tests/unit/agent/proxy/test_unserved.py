"""Requests that no host got are counted for their cluster, so that a load report has them."""

from pathlib import Path

from agent.model.cluster import Thresholds
from agent.proxy import runtime
from agent.report.load import LoadSums
from mesh.vocabulary import Locality
from tests.support.proxying import a_runtime, cluster, forward, http_proxy, raw_origin, route, virtual_host

ROUTES = virtual_host(
    route("/nocluster", forward("nobody")),
    route("/empty", forward("empty")),
    route("/full", forward("full")),
    route("/refused", forward("refused")),
    route("/ok", forward("ok")),
)


async def test_each_way_not_to_be_served(tmp_path: Path) -> None:
    """No such cluster, no host, no room; a host that was tried counts by itself."""
    full = Thresholds(max_connections=0, max_pending_requests=0)
    async with raw_origin(fine=(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "keep")) as origin:
        clusters = [
            cluster("empty"),
            cluster("full", 1, thresholds=full),
            cluster("refused", 1),
            cluster("ok", origin.port),
        ]
        async with http_proxy(tmp_path, ROUTES, clusters) as proxy:
            for path in ("/nocluster", "/nocluster", "/empty", "/full", "/refused", "/ok/fine"):
                await proxy.get(path)
            assert sorted(proxy.runtime.take_unserved()) == [
                ("empty", "", 1, 0, 1, 0),
                ("full", "", 1, 0, 1, 0),
                ("nobody", "", 2, 0, 2, 0),
            ]
            assert proxy.runtime.take_unserved() == ()


async def test_clusters_are_bounded(tmp_path: Path) -> None:
    made = a_runtime(tmp_path / "log", [])
    for number in range(runtime.MAX_UNSERVED + 5):
        made.note_unserved(f"c{number}")
    made.note_unserved("c0")
    rows = made.take_unserved()
    assert len(rows) == runtime.MAX_UNSERVED
    assert rows[0] == ("c0", "", 2, 0, 2, 0)
    made.wheel.close()


def test_they_are_errors_in_no_locality_and_no_endpoint() -> None:
    sums = LoadSums()
    sums.add(0, [("c", "10.0.0.1:80", 3, 3, 0, 0), ("c", "", 2, 0, 2, 0)])
    (stats,) = sums.take(lambda _, host: (Locality("eu") if host else Locality(), 0), 5.0, per_endpoint=True)
    nowhere, eu = stats.upstream_locality_stats
    assert (nowhere.total_error_requests, len(nowhere.upstream_endpoint_stats)) == (2, 0)
    assert (eu.total_successful_requests, len(eu.upstream_endpoint_stats)) == (3, 1)
