"""The RouteConfiguration of a gateway's servers.

Owns:   which virtual hosts it has, in which order the routes of several VirtualServices stand, redirects to https.
        A host is built by itself, so that a change of one leaves the others.
Not:    one route (virtual_hosts), which servers share a configuration (controlplane.model.gateway_ports).
Source: istio gateway.go buildGatewayHTTPRouteConfig, route.go SortVHostRoutes; control-plane.md 2.3.2.
Differs: a host that only redirects is named without its namespace (Istio keeps `ns/host`, which nobody sends).

One whole configuration by RDS, on delta streams too: a gateway's hosts are few beside a mesh's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from controlplane.compiler.memo import Memo
from controlplane.compiler.resources import make_resource
from controlplane.compiler.types import Resource, Source
from controlplane.compiler.virtual_hosts import VirtualHostInputs, is_catch_all, translated
from mesh.xds import type_url
from mesh.xds.codec import serialize

_MAX_DIRECT_BODY = 1024 * 1024
_BLACKHOLE = "blackhole"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayHost:
    """One virtual host: the inputs of each VirtualService in turn, and whether plain requests are redirected."""

    host: str
    parts: tuple[VirtualHostInputs, ...]
    redirects: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRoutesInputs:
    """All that the configuration is made of; `hosts` sorted."""

    name: str
    port: int
    hosts: tuple[GatewayHost, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedInputs:
    """The configuration with its hosts built: `hosts`: (name, version) of each."""

    name: str
    port: int
    hosts: tuple[tuple[str, str], ...]
    sources: tuple[Source, ...]


def gateway_routes(inputs: GatewayRoutesInputs, memo: Memo) -> Resource:
    """The resource, and by the way its hosts."""
    hosts = [memo.build("VirtualHost", (own, inputs.port), _build_host) for own in inputs.hosts]
    joined = JoinedInputs(
        name=inputs.name,
        port=inputs.port,
        hosts=tuple((item.name, item.version) for item in hosts),
        sources=inputs.sources,
    )
    return memo.build("RouteConfiguration", joined, partial(_build_joined, hosts))


def _build_joined(hosts: Iterable[Resource], inputs: JoinedInputs) -> Resource:
    """Without hosts it answers 404 NR."""
    virtual_hosts = [VirtualHost.FromString(item.body) for item in hosts]
    message = RouteConfiguration(
        name=inputs.name,
        virtual_hosts=virtual_hosts or [VirtualHost(name=f"{_BLACKHOLE}:{inputs.port}", domains=["*"])],
        ignore_port_in_host_matching=True,
    )
    message.validate_clusters.value = False  # as everywhere: a missing one answers 503 NC
    message.max_direct_response_body_size_bytes.value = _MAX_DIRECT_BODY
    return make_resource(type_url.ROUTE_CONFIGURATION, inputs.name, message, inputs.sources)


def _build_host(inputs: tuple[GatewayHost, int]) -> Resource:
    own, port = inputs
    message = VirtualHost(
        name=f"{own.host}:{port}",
        domains=[own.host],
        routes=_routes(own),
        include_request_attempt_count=True,
        require_tls=VirtualHost.ALL if own.redirects else VirtualHost.NONE,
    )
    return make_resource(type_url.VIRTUAL_HOST, message.name, message)


def _routes(own: GatewayHost) -> list[Route]:
    """Of all VirtualServices one after the other; what takes everything goes behind the rest.

    Two Gateways with one VirtualService make the same routes twice, of which the second could never be reached.
    """
    found = [item for part in own.parts for item in translated(part)]
    ordered = (route for _, route in sorted(found, key=lambda item: is_catch_all(item[0])))
    return list({serialize(route): route for route in ordered}.values())
