"""What proxyless gRPC clients are given instead of virtual hosts: one Listener per name by which a client may dial.

Owns:   the names, the api_listener with its inline RouteConfiguration.
Source: control-plane.md section 5, rules 28-32 (inline avoids torn configuration: gRFC A71); clients.md.

A target `xds:///user-service:80` asks for the Listener `user-service:80`, exactly. So every name of a service that
callers of the namespace may use has a Listener, with and without the port where the port needs no naming.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)

from controlplane.compiler.resources import make_resource, packed
from controlplane.compiler.types import Resource
from controlplane.compiler.virtual_hosts import VirtualHostInputs, virtual_host
from mesh.xds import type_url


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
    manager = HttpConnectionManager(
        stat_prefix=inputs.name,
        route_config=RouteConfiguration(name=inputs.routes.name, virtual_hosts=[routes]),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router()))],
    )
    listener = Listener(name=inputs.name, api_listener=ApiListener(api_listener=packed(manager)))
    return make_resource(type_url.LISTENER, inputs.name, listener, inputs.routes.sources)
