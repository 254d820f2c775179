"""Which Bulkhead an instance enforces, and what of it a change makes anew."""

import pytest
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import FilterConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from controlplane.compiler.compile import Compiler
from controlplane.compiler.filters.bulkhead import NAME
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.policy.kinds import BULKHEAD
from mesh.api.v1.bulkhead_pb2 import BulkheadPerRoute
from mesh.xds import type_url
from tests.support.compiling import agent, fold, mesh_of

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{name: http, port: 80}, {name: http-admin, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
kind: Instance
id: a-1
node: node-1
namespace: default
service: a
service_account: a
labels: {app: a, version: v1}
address: 10.0.0.1
ports:
- {name: http, port: 3001, protocol: HTTP, inbound_port: 20000}
- {name: http-admin, port: 3002, protocol: HTTP, inbound_port: 20001}
"""
FIRST, SECOND = "inbound_10.0.0.1_20000", "inbound_10.0.0.1_20001"


def bulkhead(
    name: str, host: str = "a", target: str = "", *, namespace: str = "default", side: str = "INBOUND", more: str = ""
) -> str:
    full = f"{host}.default.svc.cluster.local"
    return (
        f"---\napiVersion: gossamer.mesh/v1\nkind: Bulkhead\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{target: {{host: {full}{target}}}, enforceAt: [{side}]{more}}}\n"
    )


def found(mesh: MeshState, compiler: Compiler | None = None) -> dict[str, tuple[str, int]]:
    """Inbound listener -> (name, room) of its bulkhead, the same on all of its chains."""
    compiled = (compiler or Compiler()).compile_proxy(mesh, agent("node-1"))
    listeners = compiled.resources[type_url.LISTENER]
    said = {name: {_of_chain(chain) for chain in Listener.FromString(listeners[name].body).filter_chains}
            for name in (FIRST, SECOND)}  # fmt: skip
    assert all(len(chains) == 1 for chains in said.values())
    return {name: one for name, chains in said.items() for one in chains if one is not None}


def _of_chain(chain: FilterChain) -> tuple[str, int] | None:
    manager = HttpConnectionManager.FromString(chain.filters[-1].typed_config.value)
    [route] = manager.route_config.virtual_hosts[0].routes
    if NAME not in route.typed_per_filter_config:
        return None
    wrapper = FilterConfig.FromString(route.typed_per_filter_config[NAME].value)
    [one] = BulkheadPerRoute.FromString(wrapper.config.value).bulkheads
    assert (one.by_certificate, list(one.clusters), wrapper.is_optional) == (True, [], True)
    return one.name, one.max_concurrent


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (bulkhead("x"), ("default/x/a-1", "default/x/a-1")),
        (bulkhead("x", side="OUTBOUND"), ("", "")),
        (bulkhead("x", side="OUTBOUND, INBOUND"), ("default/x/a-1", "default/x/a-1")),
        (bulkhead("x", target=", port: {number: 81}"), ("", "default/x/a-1")),
        (bulkhead("x", target=", subset: v1"), ("default/x/a-1", "default/x/a-1")),
        (bulkhead("x", target=", subset: v2"), ("", "")),
        (bulkhead("x", target=", subset: v9"), ("", "")),
        (bulkhead("x", namespace="istio-system"), ("istio-system/x/a-1", "istio-system/x/a-1")),
        (bulkhead("x", namespace="other"), ("", "")),
        (bulkhead("x", namespace="istio-system") + bulkhead("y"), ("default/y/a-1", "default/y/a-1")),
        (bulkhead("x") + bulkhead("y", target=", port: {number: 80}"), ("default/y/a-1", "default/x/a-1")),
        (bulkhead("x") + bulkhead("y"), ("default/x/a-1", "default/x/a-1")),
        (bulkhead("x", more=", exportTo: [other]"), ("", "")),
        (bulkhead("x", host="b"), ("default/x/a-1", "")),
        (bulkhead("x", host="b") + bulkhead("y", target=", port: {number: 81}"), ("default/x/a-1", "default/y/a-1")),
        (bulkhead("x", host="b") + bulkhead("y"), ("default/y/a-1", "default/y/a-1")),
    ],
)
def test_which_one_an_instance_enforces(rules: str, names: tuple[str, str]) -> None:
    """That of the service's namespace, else of the root's; the most specific, then the oldest; of two services that
    have the instance the first by name."""
    said = found(mesh_of(SERVICES, rules))
    assert tuple(said.get(name, ("", 0))[0] for name in (FIRST, SECOND)) == names


def test_changes_reach_the_listeners_and_nothing_else() -> None:
    compiler, mesh = Compiler(), mesh_of(SERVICES)
    assert found(mesh, compiler) == {}
    built = compiler.builds["Listener"]
    mesh = fold(mesh, bulkhead("x", target=", port: {number: 81}"))
    assert found(mesh, compiler) == {SECOND: ("default/x/a-1", 25)}
    assert compiler.builds["Listener"] == built + 1
    mesh = fold(mesh, bulkhead("x", more=", maxConcurrent: 7"))
    assert found(mesh, compiler) == {FIRST: ("default/x/a-1", 7), SECOND: ("default/x/a-1", 7)}
    [rule] = [item for item in mesh.objects.values() if item.kind is BULKHEAD]
    source = compiler.compile_proxy(mesh, agent("node-1")).resources[type_url.LISTENER][FIRST].sources
    assert rule.ref in {item.ref for item in source}, "a refusal is told of it"
    mesh = mesh.with_changes(Changes(revision=mesh.revision + 1, deleted_objects=(rule.ref,)))
    assert found(mesh, compiler) == {}


def test_a_stranger_is_told() -> None:
    mesh = mesh_of(SERVICES, bulkhead("x", namespace="other", side="INBOUND, OUTBOUND"))
    [condition] = [item for item in Compiler().conditions(mesh) if item.ref.kind == "Bulkhead"]
    assert (condition.type, condition.reason) == ("NotEnforced", "OtherNamespace")
    assert condition.message == (
        "instances of a.default.svc.cluster.local enforce what default and the root namespace say, not other"
    )
