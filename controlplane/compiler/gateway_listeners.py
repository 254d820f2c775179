"""The listener of a gateway's port.

Owns:   its filter chains, chosen by server name; the connection manager of an edge.
Not:    which servers a port has (gateways), their TLS (gateway_tls), routes (gateway_routes).
Source: istio gateway.go buildGatewayListeners, buildGatewayConnectionManager, createGatewayHTTPFilterChainOpts.
"""

from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, FilterChainMatch, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from controlplane.compiler.access_log import access_log
from controlplane.compiler.filters.rbac_rules import Site
from controlplane.compiler.gateway_tls import server_socket
from controlplane.compiler.guards import UNGUARDED, GuardInputs, http_filters, network_filters
from controlplane.compiler.http_manager import TCP_PROXY, http_manager, manager_filter
from controlplane.compiler.resources import ADS, make_resource, packed, socket_address
from controlplane.compiler.types import Resource, Source
from controlplane.policy.gateway import ServerTLSSettings
from controlplane.policy.objects import PolicyObject
from mesh.vocabulary import Dialect
from mesh.xds import type_url
from mesh.xds.names import gateway_listener
from mesh.xds.workload_name import KEY, METADATA

WeightedNames = tuple[tuple[str, int], ...]  # (cluster, weight), one or more


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainInputs:
    """`server_names`: those whose connections it takes, none = whatever no other chain takes.

    `tls`: None = as it comes. `routes`: the RouteConfiguration, empty where bytes go to `clusters`.
    """

    name: str
    server_names: tuple[str, ...] = ()
    tls: ServerTLSSettings | None = None
    routes: str = ""
    clusters: WeightedNames = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayListenerInputs:
    """`identity`: in whose name hosts are called; `workload`: its WorkloadName; `limits`: RateLimits of its routes;
    `guard`: who may ask what.
    """

    dialect: Dialect
    address: str
    port: int
    identity: str
    workload: str
    tls_dir: str
    chains: tuple[ChainInputs, ...]
    limits: tuple[PolicyObject, ...] = ()
    guard: GuardInputs = UNGUARDED
    sources: tuple[Source, ...]


def build_gateway_listener(inputs: GatewayListenerInputs) -> Resource:
    """The resource."""
    name = gateway_listener(inputs.address, inputs.port)
    listener = Listener(
        name=name,
        address=socket_address(inputs.address, inputs.port),
        filter_chains=[_chain(inputs, own, name) for own in inputs.chains],
        traffic_direction=TrafficDirection.OUTBOUND,
    )
    if any(own.server_names for own in inputs.chains):
        inspector = ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=packed(TlsInspector()))
        listener.listener_filters.append(inspector)
    told = {"identity": inputs.identity}
    if inputs.dialect is Dialect.GOSSAMER:
        told[KEY] = inputs.workload
    listener.metadata.filter_metadata[METADATA].update(told)
    return make_resource(type_url.LISTENER, name, listener, inputs.sources)


def _chain(inputs: GatewayListenerInputs, own: ChainInputs, name: str) -> FilterChain:
    chain = FilterChain(name=own.name, filters=_network(inputs, own, name))
    if own.server_names:
        chain.filter_chain_match.CopyFrom(FilterChainMatch(server_names=own.server_names))
    if own.tls is not None:
        chain.transport_socket.CopyFrom(
            server_socket(
                own.tls, inputs.dialect, tls_dir=inputs.tls_dir, identity=inputs.identity, alpn=_alpn(inputs, own)
            )
        )
    return chain


def _network(inputs: GatewayListenerInputs, own: ChainInputs, name: str) -> list[Filter]:
    if own.routes:
        return [_manager(inputs, own, name)]
    return [*network_filters(inputs.guard, _site(inputs, own)), _tcp(own, name)]


def _site(inputs: GatewayListenerInputs, own: ChainInputs) -> Site:
    return Site(dialect=inputs.dialect, port=inputs.port, http=bool(own.routes))


def _alpn(inputs: GatewayListenerInputs, own: ChainInputs) -> tuple[str, ...]:
    if not own.routes:
        return ()
    return ("h2", "http/1.1") if inputs.dialect is Dialect.ENVOY else ("http/1.1",)


def _manager(inputs: GatewayListenerInputs, own: ChainInputs, name: str) -> Filter:
    """At the edge nothing that a client says of itself is believed: its address is the connection's, its certificate
    the one that it has shown.
    """
    guards = http_filters(inputs.guard, _site(inputs, own))
    manager = http_manager(name, inputs.dialect, inputs.limits, guards)
    manager.rds.CopyFrom(Rds(route_config_name=own.routes, config_source=ADS))
    manager.use_remote_address.value = True
    manager.forward_client_cert_details = HttpConnectionManager.SANITIZE_SET
    details = manager.set_current_client_cert_details
    details.subject.value = True
    details.dns = True
    details.uri = True
    details.cert = inputs.dialect is Dialect.ENVOY
    return manager_filter(manager)


def _tcp(own: ChainInputs, name: str) -> Filter:
    proxy = TcpProxy(stat_prefix=name, access_log=[access_log()])
    if len(own.clusters) == 1:
        proxy.cluster = own.clusters[0][0]
    else:
        for cluster, weight in own.clusters:
            proxy.weighted_clusters.clusters.add(name=cluster, weight=weight)
    return Filter(name=TCP_PROXY, typed_config=packed(proxy))
