"""Which listeners a RateLimit is at, and what of it a change makes anew."""

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from controlplane.compiler.compile import Compiler
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy
from mesh.xds import type_url
from tests.support.compiling import agent, fold, mesh_of, proxy_of

INSTANCES = """
---
kind: Instance
id: a-1
node: node-1
namespace: default
service: a
service_account: a
labels: {app: a}
address: 10.0.0.1
outbound_port: 15100
ports: [{name: http, port: 3001, protocol: HTTP, inbound_port: 20000}]
---
kind: Instance
id: b-1
node: node-1
namespace: shop
service: b
service_account: b
labels: {app: b}
address: 10.0.0.1
outbound_port: 15101
ports: [{name: http, port: 3002, protocol: HTTP, inbound_port: 20001}]
---
kind: Instance
id: a-2
node: node-2
namespace: default
service: a
service_account: a
labels: {app: a}
address: 10.0.0.2
outbound_port: 15100
ports: [{name: http, port: 3001, protocol: HTTP, inbound_port: 20000}]
"""
NODE, SHARED = "node-1", "outbound_127.0.0.1_15001"


def limit(name: str, where: str = "INBOUND", namespace: str = "default", selector: str = "") -> str:
    chosen = f"selector: {{matchLabels: {{{selector}}}}}, " if selector else ""
    return (
        f"---\napiVersion: gossamer.mesh/v1\nkind: RateLimit\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{{chosen}enforceAt: [{where}], limits: [{{name: l, rates: [{{requests: 1, per: SECOND}}]}}]}}\n"
    )


def limits(mesh: MeshState, proxy: Proxy, compiler: Compiler | None = None) -> dict[str, list[str]]:
    """Listener -> names of its RateLimits, in order."""
    compiled = (compiler or Compiler()).compile_proxy(mesh, proxy)
    found: dict[str, list[str]] = {}
    for name, resource in compiled.resources[type_url.LISTENER].items():
        chain = Listener.FromString(resource.body).filter_chains[0]
        manager = HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
        own = [one.name.rpartition("ratelimit.")[2] for one in manager.http_filters if "ratelimit" in one.name]
        if own:
            found[name] = own
            assert {source.ref.name for source in resource.sources} >= {item.rpartition(".")[2] for item in own}
    return found


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (limit("x"), {"inbound_10.0.0.1_20000": ["default.x"]}),
        (limit("x", selector="app: a"), {"inbound_10.0.0.1_20000": ["default.x"]}),
        (limit("x", selector="app: b"), {}),
        (limit("x", namespace="shop"), {"inbound_10.0.0.1_20001": ["shop.x"]}),
        (
            limit("x", namespace="istio-system"),
            {"inbound_10.0.0.1_20000": ["istio-system.x"], "inbound_10.0.0.1_20001": ["istio-system.x"]},
        ),
        (
            limit("x", namespace="istio-system", selector="app: b"),
            {"inbound_10.0.0.1_20001": ["istio-system.x"]},
        ),
        (
            limit("x", "OUTBOUND"),
            {"outbound_127.0.0.1_15100": ["default.x"], SHARED: ["default.x"]},
        ),
        (
            limit("x", "OUTBOUND") + limit("y", "OUTBOUND", namespace="shop"),
            {
                "outbound_127.0.0.1_15100": ["default.x"],
                "outbound_127.0.0.1_15101": ["shop.y"],
                SHARED: ["default.x", "shop.y"],
            },
        ),
        (limit("x", "GATEWAY"), {}),
        (limit("y") + limit("x"), {"inbound_10.0.0.1_20000": ["default.y", "default.x"]}),
    ],
)
def test_where_a_limit_holds(rule: str, expected: dict[str, list[str]]) -> None:
    """By place, namespace and selector; the oldest first; a port that workloads share has the limits of all."""
    assert limits(mesh_of(INSTANCES, rule), agent(NODE)) == expected


def test_a_change_makes_only_its_listeners_anew() -> None:
    compiler, mesh = Compiler(), mesh_of(INSTANCES)
    proxies = [agent("node-1"), agent("node-2")]
    before = [compiler.compile_proxy(mesh, proxy) for proxy in proxies]
    built = compiler.builds["Listener"]
    mesh = fold(mesh, limit("x", namespace="shop"))
    after = [compiler.compile_proxy(mesh, proxy) for proxy in proxies]
    assert compiler.builds["Listener"] == built + 1
    assert after[1] is before[1], "no workload of that namespace"
    assert after[0].resources[type_url.CLUSTER] is not None
    changed = {
        name
        for name, resource in after[0].resources[type_url.LISTENER].items()
        if resource is not before[0].resources[type_url.LISTENER][name]
    }
    assert changed == {"inbound_10.0.0.1_20001"}


def test_a_root_namespace_selector_selects_in_all_namespaces() -> None:
    """Only one that selects nobody anywhere is told of."""
    there = mesh_of(INSTANCES, limit("x", namespace="istio-system", selector="app: b"))
    nowhere = mesh_of(INSTANCES, limit("x", namespace="istio-system", selector="app: c"))
    assert [item.type for item in Compiler().conditions(there)] == []
    assert [item.type for item in Compiler().conditions(nowhere)] == ["SelectsNothing"]


def test_gateways_of_both_dialects() -> None:
    gateway = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: ingress}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]
"""
    mesh = mesh_of(gateway + limit("edge", "GATEWAY", "ingress") + limit("other", "GATEWAY", "ingress", "istio: other"))
    for agent_name in ("envoy", "gossamer-agent"):
        metadata = {"NAMESPACE": "ingress", "GATEWAY": True, "LABELS": {"istio": "ingressgateway"}}
        proxy = proxy_of({"id": "edge", "user_agent_name": agent_name, "metadata": metadata})
        assert limits(mesh, proxy) == {"gateway_127.0.0.1_8080": ["ingress.edge"]}
