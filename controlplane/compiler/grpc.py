"""What proxyless gRPC is given: clients one Listener per name by which they may dial, servers one per port.

Owns:   the names, the api_listener with its inline RouteConfiguration, the server's Listener.
Source: control-plane.md section 5, rules 28-32 (inline avoids torn configuration: gRFC A71); gRFC A36 (servers: the
        address must be theirs, no listener filters, one HTTP connection manager, non_forwarding_action); clients.md.

A target `xds:///user-service:80` asks for the Listener `user-service:80`, exactly. So every name of a service that
callers of the namespace may use has a Listener, with and without the port where the port needs no naming.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import TrafficDirection
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import NonForwardingAction, Route, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)

from controlplane.compiler.guards import http_filters
from controlplane.compiler.listeners import InboundInputs
from controlplane.compiler.resources import make_resource, packed, socket_address
from controlplane.compiler.transport_sockets import mesh_downstream
from controlplane.compiler.types import Resource
from controlplane.compiler.virtual_hosts import VirtualHostInputs, virtual_host
from controlplane.policy.peer_authentication import MutualTLSMode
from mesh.vocabulary import Dialect
from mesh.xds import type_url
from mesh.xds.names import grpc_server_listener

_HTTP_MANAGER = "envoy.filters.network.http_connection_manager"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcListenerInputs:
    """`name`: the target as a client writes it."""

    name: str
    routes: VirtualHostInputs


def grpc_listeners(routes: VirtualHostInputs) -> Iterator[GrpcListenerInputs]:
    """One per domain of a virtual host that has routes."""
    if routes.rules or routes.default is not None:
        yield from (GrpcListenerInputs(name=domain, routes=routes) for domain in routes.domains)


def build_grpc_listener(inputs: GrpcListenerInputs) -> Resource:
    """The resource."""
    routes = virtual_host(inputs.routes)
    del routes.domains[:]
    routes.domains.append("*")  # the Listener's name has chosen the service already
    manager = _manager(inputs.name, RouteConfiguration(name=inputs.routes.name, virtual_hosts=[routes]))
    listener = Listener(name=inputs.name, api_listener=ApiListener(api_listener=packed(manager)))
    return make_resource(type_url.LISTENER, inputs.name, listener, inputs.routes.sources)


def build_grpc_server_listener(inputs: InboundInputs) -> Resource:
    """Where a gRPC server takes calls, by the address that it listens on. Its mode is STRICT or DISABLE."""
    name = grpc_server_listener(inputs.app_address, inputs.app_port)
    route = Route(match=RouteMatch(prefix="/"), non_forwarding_action=NonForwardingAction())
    host = VirtualHost(name=name, domains=["*"], routes=[route])
    manager = _manager(name, RouteConfiguration(name=name, virtual_hosts=[host]))
    router = manager.http_filters.pop()
    manager.http_filters.extend([*http_filters(inputs.guard, inputs.site), router])
    chain = FilterChain(name=name, filters=[Filter(name=_HTTP_MANAGER, typed_config=packed(manager))])
    if inputs.mode is MutualTLSMode.STRICT:
        chain.transport_socket.CopyFrom(mesh_downstream(Dialect.GRPC, inputs.tls_dir, inputs.identity, ()))
    listener = Listener(
        name=name,
        address=socket_address(inputs.app_address, inputs.app_port),
        filter_chains=[chain],
        traffic_direction=TrafficDirection.INBOUND,
    )
    return make_resource(type_url.LISTENER, name, listener, inputs.sources)


def _manager(name: str, routes: RouteConfiguration) -> HttpConnectionManager:
    router = HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router()))
    return HttpConnectionManager(stat_prefix=name, route_config=routes, http_filters=[router])
