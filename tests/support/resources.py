"""Small xDS resources for tests of what carries them."""

from dataclasses import replace

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ConfigSource
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, Route, RouteAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.message import Message

from controlplane.compiler.types import Compiled, Resource, Source
from mesh.xds import type_url
from mesh.xds.codec import pack_any, serialize, version_of

ADS = ConfigSource(ads=AggregatedConfigSource())


def resource(url: str, name: str, message: Message, sources: tuple[Source, ...] = ()) -> Resource:
    body = serialize(message)
    return Resource(url, name, version_of(body), body, pack_any(url, body), sources)


def cluster(
    name: str, tag: str = "", *, eds: bool = True, sources: tuple[Source, ...] = (), ttl_s: float = 0.0
) -> Resource:
    """`tag` changes the content."""
    message = Cluster(name=name, alt_stat_name=tag, type=Cluster.EDS if eds else Cluster.STATIC)
    if eds:
        message.eds_cluster_config.eds_config.CopyFrom(ADS)
    return replace(resource(type_url.CLUSTER, name, message, sources), ttl_s=ttl_s)


def assignment(name: str, tag: str = "1") -> Resource:
    message = ClusterLoadAssignment(cluster_name=name)
    message.endpoints.add().lb_endpoints.add().endpoint.hostname = tag
    return resource(type_url.CLUSTER_LOAD_ASSIGNMENT, name, message)


def virtual_host(name: str, *clusters: str, tag: str = "") -> VirtualHost:
    routes = [
        Route(name=tag, match=RouteMatch(prefix="/"), route=RouteAction(cluster=cluster_name))
        for cluster_name in clusters
    ] or [Route(name=tag, match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=200))]
    return VirtualHost(name=name, domains=[name], routes=routes)


def vhds(name: str, *clusters: str, tag: str = "") -> Resource:
    """`name` = <route configuration>/<virtual host>."""
    return resource(type_url.VIRTUAL_HOST, name, virtual_host(name, *clusters, tag=tag))


def route_configuration(name: str, *clusters: str, tag: str = "", by_vhds: bool = False) -> Resource:
    message = RouteConfiguration(name=name, virtual_hosts=[virtual_host("any", *clusters, tag=tag)])
    if by_vhds:
        message.vhds.config_source.CopyFrom(ADS)
    return resource(type_url.ROUTE_CONFIGURATION, name, message)


def listener(name: str, *clusters: str, tag: str = "", routes: str = "") -> Resource:
    """One TCP filter chain per cluster, and one of HTTP by a RouteConfiguration."""
    message = Listener(name=name, stat_prefix=tag)
    for cluster_name in clusters:
        network_filter = Filter(name="tcp")
        network_filter.typed_config.Pack(TcpProxy(stat_prefix="t", cluster=cluster_name))
        message.filter_chains.append(FilterChain(filters=[network_filter]))
    if routes:
        network_filter = Filter(name="http")
        network_filter.typed_config.Pack(HttpConnectionManager(rds=Rds(route_config_name=routes, config_source=ADS)))
        message.filter_chains.append(FilterChain(filters=[network_filter]))
    return resource(type_url.LISTENER, name, message)


def compiled(*resources: Resource) -> Compiled:
    by_type: dict[str, dict[str, Resource]] = {}
    for item in resources:
        by_type.setdefault(item.type_url, {})[item.name] = item
    return Compiled(resources=by_type)
