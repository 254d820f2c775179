"""A proxy's own listeners and inbound clusters.

Owns:   outbound listeners (one per local workload, one for the node), inbound listeners, their clusters.
Not:    routes (they belong to the scope), the connection manager's common part (http_manager).
Source: decisions 9-11; control-plane.md 2.4.5, 2.5.

    mode        filter chains of an inbound listener
    STRICT      mTLS
    PERMISSIVE  mTLS for TLS, plaintext for the rest
    DISABLE     plaintext
A proxy without certificates takes plaintext under PERMISSIVE, and under STRICT does not listen at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)

from controlplane.compiler.clusters import circuit_breakers, set_http_options, tell_service
from controlplane.compiler.endpoints import AssignmentInputs, LbHost, assignment_message
from controlplane.compiler.filters import bulkhead
from controlplane.compiler.filters.rbac_rules import Site
from controlplane.compiler.guards import UNGUARDED, GuardInputs, http_filters, network_filters
from controlplane.compiler.http_manager import http_manager, manager_filter, tcp_filter
from controlplane.compiler.locality import NO_LOCALITY
from controlplane.compiler.resources import ADS, duration, make_resource, packed, socket_address, sources_of
from controlplane.compiler.transport_sockets import mesh_downstream
from controlplane.compiler.types import Resource, Source
from controlplane.model.services import ServiceLabel
from controlplane.model.traffic_policies import EffectivePolicy
from controlplane.policy.objects import PolicyObject
from controlplane.policy.peer_authentication import MutualTLSMode
from controlplane.policy.protocols import Protocol, declared_protocol
from controlplane.policy.traffic_policy import ConnectionPoolSettings
from mesh.vocabulary import Dialect, HealthStatus, Locality
from mesh.xds import type_url
from mesh.xds.names import inbound_cluster, inbound_listener, outbound_listener
from mesh.xds.workload_name import KEY, METADATA


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundInputs:
    """`identity`: whose certificate carries what enters here (decision 10); `workload`: its WorkloadName, "" where
    several share the port; `limits`: the RateLimits that hold here.
    """

    dialect: Dialect
    address: str
    port: int
    identity: str
    route_configuration: str
    workload: str = ""
    limits: tuple[PolicyObject, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundInputs:
    """`mode` with what the proxy can do taken into account; `limits`: the RateLimits that hold here; `guard`: who may
    ask what; `bulkhead`: how much of it at once, for all ports of `instance` together.
    """

    dialect: Dialect
    address: str
    inbound_port: int
    app_address: str
    app_port: int
    protocol: Protocol
    mode: MutualTLSMode
    identity: str
    tls_dir: str
    pool: ConnectionPoolSettings
    workload: str = ""
    service: ServiceLabel | None = None
    limits: tuple[PolicyObject, ...] = ()
    guard: GuardInputs = UNGUARDED
    bulkhead: PolicyObject | None = None
    instance: str = ""
    sources: tuple[Source, ...]

    @property
    def site(self) -> Site:
        """Where its guard stands. A gRPC server's port carries calls, whatever its instance says of it."""
        return Site(dialect=self.dialect, port=self.app_port, http=self.dialect is Dialect.GRPC or _is_http(self))


def build_outbound_listener(inputs: OutboundInputs) -> Resource:
    """The explicit HTTP proxy port."""
    name = outbound_listener(inputs.address, inputs.port)
    manager = http_manager(name, inputs.dialect, inputs.limits)
    manager.rds.CopyFrom(Rds(route_config_name=inputs.route_configuration, config_source=ADS))
    listener = Listener(
        name=name,
        address=socket_address(inputs.address, inputs.port),
        filter_chains=[FilterChain(name=name, filters=[manager_filter(manager)])],
        traffic_direction=TrafficDirection.OUTBOUND,
    )
    listener.metadata.filter_metadata[METADATA].update({"identity": inputs.identity})
    _tell_workload(listener, inputs)
    return make_resource(type_url.LISTENER, name, listener, sources_of(inputs.limits))


def build_inbound_listener(inputs: InboundInputs) -> Resource:
    """Where the mesh reaches one port of one instance."""
    name = inbound_listener(inputs.address, inputs.inbound_port)
    listener = Listener(
        name=name,
        address=socket_address(inputs.address, inputs.inbound_port),
        filter_chains=list(_chains(inputs, name)),
        traffic_direction=TrafficDirection.INBOUND,
    )
    if inputs.dialect is Dialect.ENVOY and inputs.mode is MutualTLSMode.PERMISSIVE:
        inspector = ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=packed(TlsInspector()))
        listener.listener_filters.append(inspector)
    _tell_workload(listener, inputs)
    return make_resource(type_url.LISTENER, name, listener, inputs.sources)


def _tell_workload(listener: Listener, inputs: OutboundInputs | InboundInputs) -> None:
    """Whose traffic it is, for an agent's metrics; also when that is unknown, since then it is counted too."""
    if inputs.dialect is Dialect.GOSSAMER:
        listener.metadata.filter_metadata[METADATA].update({KEY: inputs.workload})


def build_inbound_cluster(inputs: InboundInputs) -> Resource:
    """The application itself."""
    name = inbound_cluster(inputs.inbound_port)
    cluster = Cluster(
        name=name,
        type=Cluster.STATIC,
        connect_timeout=duration(inputs.pool.connect_timeout_s),
        circuit_breakers=circuit_breakers(EffectivePolicy(connection_pool=inputs.pool), inputs.dialect),
    )
    if inputs.bulkhead is not None and inputs.dialect is not Dialect.GOSSAMER:
        bulkhead.cap_requests(cluster.circuit_breakers.thresholds[0], inputs.bulkhead)
    host = LbHost(
        address=inputs.app_address,
        port=inputs.app_port,
        health=HealthStatus.UNKNOWN,
        weight=1,
        locality=Locality(),
        tls=False,
    )
    inline = AssignmentInputs(name=name, dialect=inputs.dialect, hosts=(host,), policy=NO_LOCALITY, sources=())
    cluster.load_assignment.CopyFrom(assignment_message(inline))
    cluster.common_lb_config.healthy_panic_threshold.SetInParent()
    if _is_http(inputs):
        set_http_options(cluster, inputs.pool, http2=inputs.protocol.is_http2)
    tell_service(cluster, inputs.service, inputs.dialect)
    return make_resource(type_url.CLUSTER, name, cluster, inputs.sources)


def _chains(inputs: InboundInputs, name: str) -> Iterator[FilterChain]:
    permissive = inputs.mode is MutualTLSMode.PERMISSIVE
    if permissive or inputs.mode is MutualTLSMode.STRICT:
        chain = FilterChain(name=f"{name}_tls", filters=_network_filters(inputs, name))
        chain.transport_socket.CopyFrom(mesh_downstream(inputs.dialect, inputs.tls_dir, inputs.identity, _alpn(inputs)))
        if permissive:
            chain.filter_chain_match.CopyFrom(FilterChainMatch(transport_protocol="tls"))
        yield chain
    if permissive or inputs.mode is MutualTLSMode.DISABLE:
        chain = FilterChain(name=f"{name}_plaintext", filters=_network_filters(inputs, name))
        if permissive:
            chain.filter_chain_match.CopyFrom(FilterChainMatch(transport_protocol="raw_buffer"))
        yield chain


def sees_requests(protocol: Protocol, dialect: Dialect) -> bool:
    """Whether requests are looked at; the agent speaks HTTP/1 only and passes the rest through as bytes."""
    if dialect is Dialect.GOSSAMER and protocol.is_http2:
        return False
    return protocol.is_http or protocol is Protocol.UNSUPPORTED


def _is_http(inputs: InboundInputs) -> bool:
    return sees_requests(inputs.protocol, inputs.dialect)


def _alpn(inputs: InboundInputs) -> tuple[str, ...]:
    if inputs.protocol.is_http2:
        return ("h2",)
    return ("http/1.1",) if _is_http(inputs) else ()


def _network_filters(inputs: InboundInputs, name: str) -> list[Filter]:
    cluster = inbound_cluster(inputs.inbound_port)
    if not _is_http(inputs):
        return [*network_filters(inputs.guard, inputs.site), tcp_filter(name, cluster)]
    manager = http_manager(name, inputs.dialect, inputs.limits, http_filters(inputs.guard, inputs.site))
    manager.forward_client_cert_details = HttpConnectionManager.APPEND_FORWARD
    details = manager.set_current_client_cert_details
    details.subject.value = True
    details.dns = True
    details.uri = True
    action = RouteAction(cluster=cluster, timeout=duration(0))
    routes = [Route(name="default", match=RouteMatch(prefix="/"), route=action)]
    if inputs.bulkhead is not None and inputs.dialect is Dialect.GOSSAMER:
        said = bulkhead.at_instance(inputs.bulkhead, inputs.instance)
        routes[0].typed_per_filter_config[bulkhead.NAME].CopyFrom(packed(said))
    host = VirtualHost(name=f"inbound|http|{inputs.app_port}", domains=["*"], routes=routes)
    manager.route_config.CopyFrom(RouteConfiguration(name=cluster, virtual_hosts=[host]))
    return [manager_filter(manager)]


def protocol_of(written: str) -> Protocol:
    """The protocol of an instance's port; HTTP when it does not say."""
    return declared_protocol(written) if written else Protocol.HTTP
