"""A real Envoy on the real ADS service: nothing stays warming, and what it refuses is found on the object (5.1)."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.ads import Ads, served
from tests.support.compiling import fold, instance, mesh_of, put
from tests.support.envoys import envoy_binary
from tests.support.meshes import worker_number

pytestmark = pytest.mark.envoy

FEATURES = ("xds.config.supports-resource-ttl", "xds.config.resource-in-sotw")  # as our bootstrap has them
CLUSTER = "outbound|80||user-service.default.svc.cluster.local"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec: {selector: {app: user-service}, ports: [{port: 80, targetPort: 3001}]}
"""


def rule(settings: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: user-service}}
spec: {{host: user-service, trafficPolicy: {{{settings}}}}}
"""


def routes(match: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: user-service}}
spec: {{hosts: [user-service], http: [{{match: [{match}], route: [{{destination: {{host: user-service}}}}]}}]}}
"""


def bootstrap(ads: Ads, folder: Path, address: str, *, delta: bool) -> dict[str, Any]:
    host, _, port = ads.address.rpartition(":")
    target = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    ads_source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {
            "id": "envoy-1",
            "cluster": "test",
            "client_features": list(FEATURES),
            "metadata": {"NAMESPACE": "default", "OUTBOUND_ADDRESS": address, "OUTBOUND_PORT": 15001},
        },
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
            },
            "cds_config": ads_source,
            "lds_config": ads_source,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "ads",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "ads",
                        "endpoints": [{"lb_endpoints": [{"endpoint": target}]}],
                    },
                }
            ]
        },
    }


class Attached:
    """The service and the Envoy on it."""

    def __init__(self, ads: Ads, folder: Path) -> None:
        self.ads = ads
        self._folder = folder

    async def dump(self) -> list[dict[str, Any]]:
        connector = aiohttp.UnixConnector(path=str(self._folder / "admin.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://envoy/config_dump") as got,
        ):
            return list(json.loads(await got.text())["configs"])

    async def clusters(self, state: str) -> dict[str, Any]:
        """Those in a state, active or warming, by name."""
        (found,) = [part for part in await self.dump() if part["@type"].endswith("ClustersConfigDump")]
        return {item["cluster"]["name"]: item["cluster"] for item in found.get(f"dynamic_{state}_clusters", [])}

    async def until(self, what: str, test: Callable[[], bool]) -> None:
        for _ in range(1500):
            if test():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"not reached: {what}; {self.ads.ledger.proxies()}")

    async def in_sync(self) -> None:
        revision = self.ads.cache.mesh.revision
        await self.until(
            f"revision {revision}", lambda: self.ads.ledger.revision_status(revision).acked == ("envoy-1",)
        )

    def apply(self, text: str) -> None:
        self.ads.publish(fold(self.ads.cache.mesh, text))


@asynccontextmanager
async def attached(folder: Path, address: str, *, delta: bool) -> AsyncIterator[Attached]:
    ads = Ads(put(mesh_of(SERVICE), instance("u1", node="elsewhere", address="127.0.0.1")))
    async with served(ads):
        config = folder / "bootstrap.json"
        config.write_text(json.dumps(bootstrap(ads, folder, address, delta=delta)))
        with (folder / "envoy.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(envoy_binary(), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            envoy = Attached(ads, folder)
            await envoy.until("the Envoy has its routes", lambda: any(len(p.types) >= 4 for p in ads.ledger.proxies()))
            await envoy.in_sync()
            yield envoy
        finally:
            process.terminate()
            async with asyncio.timeout(20):
                await process.wait()


@pytest.fixture(params=["delta", "sotw"])
async def envoy(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Attached]:
    address = f"127.89.{worker_number()}.{1 if request.param == 'delta' else 2}"
    async with attached(tmp_path, address, delta=request.param == "delta") as envoy:
        yield envoy


async def test_nothing_stays_warming(envoy: Attached) -> None:
    """Rule 18: a cluster that changes without its endpoints warms again, also over a reconnect in between."""
    for number in range(1, 6):
        envoy.apply(rule(f"connectionPool: {{tcp: {{maxConnections: {number}}}}}"))
        if number == 3:
            envoy.ads.service.end_streams()
    await envoy.until("connected again", lambda: len(envoy.ads.ledger.proxies()) == 1)
    await envoy.in_sync()
    for _ in range(200):
        if not await envoy.clusters("warming"):
            break
        await asyncio.sleep(0.02)
    assert await envoy.clusters("warming") == {}
    (threshold,) = (await envoy.clusters("active"))[CLUSTER]["circuit_breakers"]["thresholds"]
    assert threshold["max_connections"] == 5


async def test_a_refused_cluster_is_found_on_its_rule_and_recovers(envoy: Attached) -> None:
    """Decision 21 with Envoy's own words; the next good version goes through."""
    envoy.apply(rule("tls: {mode: SIMPLE, caCertificates: /nonexistent/ca.pem}"))
    await envoy.until("refused", lambda: envoy.ads.ledger.rejections() != ())
    ((who, rejection),) = envoy.ads.ledger.rejections()
    assert (who, rejection.name, rejection.certain) == ("envoy-1", CLUSTER, True)
    assert "DestinationRule default/user-service" in {str(source.ref) for source in rejection.sources}
    assert "/nonexistent/ca.pem" in rejection.reason
    status = envoy.ads.ledger.revision_status(envoy.ads.cache.mesh.revision)
    assert [refused.node for refused in status.rejected] == ["envoy-1"]
    assert CLUSTER in await envoy.clusters("active")  # the last good one serves on
    envoy.apply(rule("tls: {mode: DISABLE}"))
    await envoy.in_sync()
    assert {proxy.sync for proxy in envoy.ads.ledger.proxies()} == {"synced"}


async def test_a_refused_route_is_at_least_suspected(envoy: Attached) -> None:
    """This bootstrap has Envoy's own limit for regular expressions (decision 37)."""
    envoy.apply(routes('{uri: {regex: "/[a-z]{50}/[0-9]{50}/x"}}'))
    await envoy.until("refused", lambda: envoy.ads.ledger.rejections() != ())
    sources = {str(source.ref) for _, rejection in envoy.ads.ledger.rejections() for source in rejection.sources}
    assert "VirtualService default/user-service" in sources
    assert all("size" in rejection.reason for _, rejection in envoy.ads.ledger.rejections())
    envoy.apply(routes("{uri: {prefix: /x}}"))
    await envoy.in_sync()
    assert {proxy.sync for proxy in envoy.ads.ledger.proxies()} == {"synced"}


async def test_a_ttl_is_renewed_and_ends_without_a_server(envoy: Attached) -> None:
    """Rule 24 with a real Envoy: heartbeats keep the cluster, by either protocol; without a server it goes."""
    kept = rule("connectionPool: {tcp: {maxConnections: 7}}")
    envoy.apply(kept.replace("{name: user-service}", "{name: user-service, annotations: {gossamer.mesh/ttl: 3s}}", 1))
    await envoy.in_sync()
    sent = envoy.ads.metrics.pushes.labels("cds")._value.get()
    await envoy.until(
        "four heartbeats, more than a TTL", lambda: envoy.ads.metrics.pushes.labels("cds")._value.get() >= sent + 4
    )
    assert CLUSTER in await envoy.clusters("active")
    assert await envoy.clusters("warming") == {}  # a renewal is no configuration change
    envoy.ads.gate.loaded = False  # no stream is answered any more
    envoy.ads.service.end_streams()
    for _ in range(1000):
        if CLUSTER not in await envoy.clusters("active"):
            break
        await asyncio.sleep(0.02)
    assert CLUSTER not in await envoy.clusters("active")
    envoy.ads.gate.loaded = True
    await envoy.in_sync()
    assert CLUSTER in await envoy.clusters("active")


async def test_a_reconnect_in_the_middle_of_a_switch_breaks_nothing(envoy: Attached) -> None:
    """Decision 20 across streams: the route is switched with its clusters while the stream is away; what the Envoy has
    serves until the new is there, and nothing is left over."""
    for number in range(1, 4):
        envoy.apply(subset(number) + "---\n" + to_subset(number))
        await envoy.in_sync()
        (before,) = [proxy.stream for proxy in envoy.ads.ledger.proxies()]
        envoy.ads.service.end_streams()
        envoy.apply(subset(100 + number) + "---\n" + to_subset(100 + number))
        await envoy.until(
            "connected again",
            lambda old=before: [proxy.stream != old for proxy in envoy.ads.ledger.proxies()] == [True],
        )
        await envoy.in_sync()
        wanted = {CLUSTER, CLUSTER.replace("80||", f"80|s{100 + number}|")}
        assert {name for name in await envoy.clusters("active") if name.startswith("outbound")} == wanted
        assert await envoy.clusters("warming") == {}


def subset(number: int) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: user-service}}
spec: {{host: user-service, subsets: [{{name: s{number}, labels: {{app: user-service}}}}]}}
"""


def to_subset(number: int) -> str:
    where = f"destination: {{host: user-service, subset: s{number}}}"
    return routes("{uri: {prefix: /}}").replace("destination: {host: user-service}", where)
