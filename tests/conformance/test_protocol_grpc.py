"""The protocol suite of control-plane.md 5.1: what gRPC clients and servers are given, over real streams."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext

from tests.conformance.protocol import CDS, EDS, LDS, Client, Plane, mesh, route
from tests.support.ads import node, served, until
from tests.support.compiling import instance, put

CLUSTER = "outbound|80||a.default.svc.cluster.local"
SERVER = {
    "service": "a", "labels": {"app": "a"}, "service_account": "a", "ports": [{"port": 3001, "name": "grpc"}],
    "app_address": "0.0.0.0",
}  # fmt: skip


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with served(Plane(mesh("a", "b"))) as plane:
        yield plane


def grpc(plane: Plane, **metadata: Any) -> Client:
    return Client(plane.stream(node("client", "gRPC C-core linux Python", **metadata), delta=False))


def policy(settings: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: a}}
spec: {{host: a, trafficPolicy: {settings}}}
"""


def manager_of(listener: Any) -> HttpConnectionManager:
    found = HttpConnectionManager()
    (listener.api_listener.api_listener or listener.filter_chains[0].filters[0].typed_config).Unpack(found)
    return found


@pytest.mark.parametrize("name", ["a", "a.default", "a.default.svc.cluster.local", "a:80", "a.default:80"])
async def test_rule_12_28_a_listener_is_named_as_the_target(plane: Plane, name: str) -> None:
    """Rules 12 and 28: exactly the name that is dialled, an api_listener, and no other."""
    answer = await grpc(plane).get(LDS, name)
    assert answer.names == {name}
    assert answer.resources[name].api_listener.api_listener.type_url.endswith("HttpConnectionManager")


async def test_rule_32_routes_are_inline(plane: Plane) -> None:
    """Rule 32: no RDS, so that a listener and its routes are of one version."""
    plane.apply(route("a", "b"))
    answer = await grpc(plane).get(LDS, "a")
    manager = manager_of(answer.resources["a"])
    assert manager.WhichOneof("route_specifier") == "route_config"
    (host,) = manager.route_config.virtual_hosts
    assert list(host.domains) == ["*"]
    assert host.routes[0].route.cluster == CLUSTER.replace("||a.", "||b.")


async def test_rule_29_the_load_balancing_policy_is_one_that_grpc_knows(plane: Plane) -> None:
    """Rule 29: LEAST_REQUEST, asked for or by default, would be refused: round robin, and a condition says so."""
    one = grpc(plane)
    answer = await one.get(CDS, CLUSTER)
    assert answer.resources[CLUSTER].lb_policy == Cluster.ROUND_ROBIN
    assert answer.resources[CLUSTER].eds_cluster_config.eds_config.HasField("ads")
    plane.apply(policy("{loadBalancer: {simple: LEAST_REQUEST}}"))
    conditions = plane.compiler.conditions(plane.cache.mesh)
    assert [item.type for item in conditions if "LEAST_REQUEST is ROUND_ROBIN" in item.message] == ["Approximated"]
    await one.assert_quiet()  # the cluster itself is the same


async def test_rule_30_localities_have_weights_and_no_gaps(plane: Plane) -> None:
    """Rule 30: a locality without a weight is skipped; priorities start at 0 and miss none; addresses are unique."""
    places = ("r1/z1", "r1/z2", "r2/z1", "r3/z1")
    more = [
        instance(f"m{i}", node="far", service="a", address=f"10.3.0.{i // 2}", locality=places[i % 4]) for i in range(8)
    ]
    plane.publish(put(plane.cache.mesh, *more))
    plane.apply(policy("{outlierDetection: {}}"))
    stream = plane.stream(node("client", "gRPC C-core", LOCALITY="r1/z1"), delta=False)
    stream._node.locality.region, stream._node.locality.zone = "r1", "z1"  # type: ignore[union-attr]
    answer = await Client(stream).get(EDS, CLUSTER)
    groups = answer.resources[CLUSTER].endpoints
    assert all(group.load_balancing_weight.value > 0 for group in groups)
    priorities = {group.priority for group in groups}
    assert priorities == set(range(len(priorities)))
    assert len(priorities) > 1
    addresses = [str(item.endpoint.address) for group in groups for item in group.lb_endpoints]
    assert len(addresses) == len(set(addresses))


async def test_rule_31_what_grpc_does_not_enforce_is_approximated_or_told(plane: Plane) -> None:
    """Rule 31, decision 22: consecutive errors as failure percentage; caps, retries and times as far as gRPC goes."""
    plane.apply(
        policy("{outlierDetection: {consecutive5xxErrors: 4}, connectionPool: {http: {http2MaxRequests: 9}}}"),
        route("a", "a").replace(
            "route: [", 'timeout: 3s, retries: {attempts: 9, retryOn: "unavailable,5xx", perTryTimeout: 1s}, route: ['
        ),
    )
    one = grpc(plane)
    cluster = (await one.get(CDS, CLUSTER)).resources[CLUSTER]
    assert cluster.outlier_detection.failure_percentage_request_volume.value == 4
    assert cluster.outlier_detection.enforcing_failure_percentage.value == 100
    assert not cluster.outlier_detection.HasField("consecutive_5xx")
    assert [item.max_requests.value for item in cluster.circuit_breakers.thresholds] == [9]
    assert not cluster.circuit_breakers.thresholds[0].HasField("max_connections")
    action = manager_of((await one.get(LDS, "a")).resources["a"]).route_config.virtual_hosts[0].routes[0].route
    assert (action.retry_policy.retry_on, action.retry_policy.num_retries.value) == ("unavailable", 4)
    assert action.max_stream_duration.max_stream_duration.seconds == 3
    assert not action.HasField("timeout")
    told = {item.type for item in plane.compiler.conditions(plane.cache.mesh)}
    assert {"Approximated", "NotEnforced"} <= told


async def test_rule_32_certificates_come_from_a_provider(plane: Plane) -> None:
    """Rule 32: SDS would be refused; the bootstrap's provider is named, with the peers that are expected."""
    plain = (await grpc(plane).get(CDS, CLUSTER)).resources[CLUSTER]
    assert not plain.HasField("transport_socket")
    secure = (await grpc(plane, TLS=True).get(CDS, CLUSTER)).resources[CLUSTER]
    context = UpstreamTlsContext()
    secure.transport_socket.typed_config.Unpack(context)
    common = context.common_tls_context
    assert common.tls_certificate_provider_instance.instance_name == "default"
    assert not common.tls_certificate_sds_secret_configs
    validation = common.combined_validation_context.default_validation_context
    assert [item.exact for item in validation.match_subject_alt_names] == ["spiffe://cluster.local/ns/default/sa/a"]


STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@pytest.mark.parametrize(
    ("tls", "mode"), [(True, "STRICT"), (True, "PERMISSIVE"), (False, "PERMISSIVE"), (True, "DISABLE")]
)
async def test_rule_28_a_server_gets_its_listener(plane: Plane, tls: bool, mode: str) -> None:
    """Rule 28: named by the template, its address, no listener filters, one HTTP connection manager, no forwarding."""
    plane.apply(STRICT.replace("STRICT", mode))
    server = grpc(plane, WORKLOADS=[SERVER], **({"TLS": True} if tls else {}))
    plane.publish(put(plane.cache.mesh, server_instance(agent=tls)))
    name = "server/0.0.0.0:3001"
    listener = (await server.get(LDS, name)).resources[name]
    assert (listener.address.socket_address.address, listener.address.socket_address.port_value) == ("0.0.0.0", 3001)
    assert not listener.listener_filters
    (chain,) = listener.filter_chains
    (only,) = chain.filters
    assert only.typed_config.type_url.endswith("HttpConnectionManager")
    manager = HttpConnectionManager()
    only.typed_config.Unpack(manager)
    assert manager.route_config.virtual_hosts[0].routes[0].HasField("non_forwarding_action")
    assert [item.name for item in manager.http_filters][-1] == "envoy.filters.http.router"
    assert chain.HasField("transport_socket") is (tls and mode != "DISABLE")
    if chain.HasField("transport_socket"):
        context = DownstreamTlsContext()
        chain.transport_socket.typed_config.Unpack(context)
        assert context.require_client_certificate.value
    told = [item.reason for item in plane.compiler.conditions(plane.cache.mesh) if item.type == "Approximated"]
    assert told == (["GrpcServer"] if tls and mode == "PERMISSIVE" else [])


async def test_rule_28_a_strict_server_without_certificates_stays_closed(plane: Plane) -> None:
    """Plaintext where mTLS is demanded is no service; the policy is told."""
    plane.apply(STRICT)
    server = grpc(plane, WORKLOADS=[SERVER])
    plane.publish(put(plane.cache.mesh, server_instance(agent=False)))
    assert (await server.get(LDS, "server/0.0.0.0:3001")).names == set()
    assert "NoCertificates" in {item.reason for item in plane.compiler.conditions(plane.cache.mesh)}


def server_instance(*, agent: bool) -> Any:
    """What the server's presence writes to the store (test_presence.py)."""
    return instance(
        "a-3001", node="client", service="a", address="10.0.0.1", app_address="0.0.0.0", inbound_port=3001, agent=agent
    )


async def test_rule_12_a_client_is_pending_until_it_has_what_its_target_leads_to(plane: Plane) -> None:
    """It asks for its listener, then for the clusters there and for their endpoints, and for nothing else."""
    one, revision = grpc(plane), plane.cache.mesh.revision
    await one.get(LDS, "a")
    await until("it lacks clusters", lambda: [item.unasked for item in plane.ledger.proxies()] == [f"CDS {CLUSTER}"])
    assert plane.ledger.revision_status(revision).pending == ("client",)
    await one.get(CDS, CLUSTER)
    await until("it lacks endpoints", lambda: [item.unasked for item in plane.ledger.proxies()] == [f"EDS {CLUSTER}"])
    assert plane.ledger.revision_status(revision).pending == ("client",)
    await one.get(EDS, CLUSTER)
    await until("it has all", lambda: plane.ledger.revision_status(revision).acked == ("client",))
