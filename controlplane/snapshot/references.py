"""What a resource refers to: the clusters that routes and listeners name, EDS name and secrets of a cluster, the routes
of a listener. Pure.

Owns:   reading references out of serialised resources, each resource once (they are shared by all streams).
Source: envoy.config.route.v3.RouteAction (cluster, weighted_clusters, request_mirror_policies), TcpProxy (cluster,
        weighted_clusters), Cluster.EdsClusterConfig.service_name (empty = the cluster's name).
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import RouteAction, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from google.protobuf.any_pb2 import Any as AnyMessage

from controlplane.compiler.types import Resource
from mesh.xds import type_url
from mesh.xds.codec import pack_any, serialize, version_of
from mesh.xds.names import ClusterKey

# Resources are compared by identity, so this remembers each compiled resource once.
_REMEMBERED = 65536

REFERRERS = frozenset({type_url.LISTENER, type_url.ROUTE_CONFIGURATION, type_url.VIRTUAL_HOST})


@lru_cache(maxsize=_REMEMBERED)
def clusters_named(resource: Resource) -> frozenset[str]:
    """The clusters that a Listener, RouteConfiguration or VirtualHost sends traffic to. Other types name none."""
    match resource.type_url:
        case type_url.VIRTUAL_HOST:
            return frozenset(_of_virtual_hosts([VirtualHost.FromString(resource.body)]))
        case type_url.ROUTE_CONFIGURATION:
            return frozenset(_of_virtual_hosts(RouteConfiguration.FromString(resource.body).virtual_hosts))
        case type_url.LISTENER:
            return frozenset(_of_listener(Listener.FromString(resource.body)))
        case _:
            return frozenset()


def clusters_between(before: Resource | None, after: Resource | None) -> frozenset[str]:
    """The clusters whose requests may go otherwise when a resource changes so; None = it is not there.

    Of a RouteConfiguration those that the virtual hosts name which differ: one holds the routes of the whole mesh.
    """
    known = next(item for item in (before, after) if item is not None)
    match known.type_url:
        case type_url.CLUSTER | type_url.CLUSTER_LOAD_ASSIGNMENT:
            return frozenset({known.name})
        case type_url.ROUTE_CONFIGURATION:
            old, new = _virtual_hosts(before), _virtual_hosts(after)
            return frozenset(_of_virtual_hosts(VirtualHost.FromString(body) for body in old ^ new))
        case _:
            return frozenset().union(*(clusters_named(item) for item in (before, after) if item is not None))


def _virtual_hosts(configuration: Resource | None) -> frozenset[bytes]:
    found = RouteConfiguration.FromString(configuration.body).virtual_hosts if configuration is not None else ()
    return frozenset(serialize(item) for item in found)


@lru_cache(maxsize=_REMEMBERED)
def eds_name(cluster: Resource) -> str | None:
    """The ClusterLoadAssignment that the cluster waits for, or None when it needs none."""
    message = Cluster.FromString(cluster.body)
    if message.type != Cluster.EDS:
        return None
    return message.eds_cluster_config.service_name or message.name


@lru_cache(maxsize=_REMEMBERED)
def secrets_named(cluster: Resource) -> frozenset[str]:
    """The secrets of this stream that the cluster waits for."""
    message = Cluster.FromString(cluster.body)
    sockets = (message.transport_socket, *(match.transport_socket for match in message.transport_socket_matches))
    return frozenset(name for socket in sockets for name in _of_socket(socket.typed_config))


@lru_cache(maxsize=_REMEMBERED)
def secrets_shown(listener: Resource) -> frozenset[str]:
    """The secrets of this stream that the listener waits for."""
    message = Listener.FromString(listener.body)
    chains = (*message.filter_chains, message.default_filter_chain)
    return frozenset(name for chain in chains for name in _of_socket(chain.transport_socket.typed_config))


@lru_cache(maxsize=_REMEMBERED)
def routes_named(listener: Resource) -> frozenset[str]:
    """The RouteConfigurations of this stream that the listener asks for."""
    managers = (HttpConnectionManager.FromString(config.value) for config in _managers(listener))
    return frozenset(manager.rds.route_config_name for manager in managers if manager.rds.config_source.HasField("ads"))


@lru_cache(maxsize=_REMEMBERED)
def has_vhds(configuration: Resource) -> bool:
    """Do the virtual hosts of the RouteConfiguration come by themselves?"""
    return RouteConfiguration.FromString(configuration.body).HasField("vhds")


def _managers(listener: Resource) -> Iterator[AnyMessage]:
    return (item for item in _filters(Listener.FromString(listener.body)) if item.Is(HttpConnectionManager.DESCRIPTOR))


def _of_socket(config: AnyMessage) -> Iterator[str]:
    if config.Is(UpstreamTlsContext.DESCRIPTOR):
        common = UpstreamTlsContext.FromString(config.value).common_tls_context
    elif config.Is(DownstreamTlsContext.DESCRIPTOR):
        common = DownstreamTlsContext.FromString(config.value).common_tls_context
    else:
        return
    combined = common.combined_validation_context.validation_context_sds_secret_config
    for one in (*common.tls_certificate_sds_secret_configs, common.validation_context_sds_secret_config, combined):
        if one.name and one.sds_config.HasField("ads"):
            yield one.name


@lru_cache(maxsize=4096)
def empty_load_assignment(name: str) -> Resource:
    """What is sent for an EDS name that has no cluster: no endpoints (rule 11), so that the client does not wait."""
    body = serialize(ClusterLoadAssignment(cluster_name=name))
    url = type_url.CLUSTER_LOAD_ASSIGNMENT
    return Resource(url, name, version_of(body), body, pack_any(url, body))


def whole_service(cluster: str) -> str:
    """The name of the service's own cluster when `cluster` is that of a subset, else nothing."""
    key = ClusterKey.parse(cluster)
    return str(ClusterKey(key.direction, key.port, "", key.host)) if key is not None and key.subset else ""


@lru_cache(maxsize=4096)
def renamed_cluster(cluster: Resource, name: str) -> Resource:
    """The same cluster under another name."""
    message = Cluster.FromString(cluster.body)
    message.name = name
    return _renamed(cluster, name, serialize(message))


@lru_cache(maxsize=4096)
def renamed_assignment(assignment: Resource, name: str) -> Resource:
    """The same endpoints for a cluster of another name."""
    message = ClusterLoadAssignment.FromString(assignment.body)
    message.cluster_name = name
    return _renamed(assignment, name, serialize(message))


def _renamed(resource: Resource, name: str, body: bytes) -> Resource:
    return Resource(resource.type_url, name, version_of(body), body, pack_any(resource.type_url, body))


def _of_virtual_hosts(virtual_hosts: Iterable[VirtualHost]) -> Iterator[str]:
    for virtual_host in virtual_hosts:
        for mirror in virtual_host.request_mirror_policies:
            yield mirror.cluster
        for route in virtual_host.routes:
            if route.HasField("route"):
                yield from _of_action(route.route)


def _of_action(action: RouteAction) -> Iterator[str]:
    if action.cluster:
        yield action.cluster
    for weighted in action.weighted_clusters.clusters:
        yield weighted.name
    for mirror in action.request_mirror_policies:
        yield mirror.cluster


def _of_listener(listener: Listener) -> Iterator[str]:
    for config in _filters(listener):
        yield from _of_filter(config)


def _filters(listener: Listener) -> Iterator[AnyMessage]:
    if listener.api_listener.api_listener.type_url:
        yield listener.api_listener.api_listener
    for chain in (*listener.filter_chains, listener.default_filter_chain):
        for network_filter in chain.filters:
            yield network_filter.typed_config


def _of_filter(config: AnyMessage) -> Iterator[str]:
    if config.Is(HttpConnectionManager.DESCRIPTOR):
        manager = HttpConnectionManager.FromString(config.value)
        yield from _of_virtual_hosts(manager.route_config.virtual_hosts)
    elif config.Is(TcpProxy.DESCRIPTOR):
        proxy = TcpProxy.FromString(config.value)
        if proxy.cluster:
            yield proxy.cluster
        for weighted in proxy.weighted_clusters.clusters:
            yield weighted.name
