"""The HTTP connection manager that listeners share, and the TCP proxy.

Source: istio listener_builder.go buildHTTPConnectionManager; data-plane.md.
"""

from collections.abc import Iterable

from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2 import UpstreamCodec
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from controlplane.compiler.access_log import access_log
from controlplane.compiler.filters import bulkhead, circuit_breaker, cors, fault
from controlplane.compiler.filters.rate_limit import rate_limit_filters
from controlplane.compiler.resources import duration, packed
from controlplane.policy.objects import PolicyObject
from mesh.vocabulary import Dialect

SERVER_NAME = "gossamer"
_STREAM_IDLE_S = 300.0
_MANAGER = "envoy.filters.network.http_connection_manager"
_CODEC = "envoy.filters.http.upstream_codec"
TCP_PROXY = "envoy.filters.network.tcp_proxy"


def http_manager(
    stat_prefix: str,
    dialect: Dialect,
    limits: Iterable[PolicyObject] = (),
    guards: Iterable[HttpFilter] = (),
) -> HttpConnectionManager:
    """What inbound and outbound have in common. `limits`: the RateLimits that hold here; `guards`: the filters of
    authentication and authorization.
    """
    manager = HttpConnectionManager(
        stat_prefix=stat_prefix,
        server_name=SERVER_NAME,
        stream_idle_timeout=duration(_STREAM_IDLE_S),
        access_log=[access_log()],
        http_filters=_filters(dialect, limits, guards),
        upgrade_configs=[HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        http_protocol_options=Http1ProtocolOptions(),
    )
    manager.use_remote_address.value = False
    manager.normalize_path.value = True
    manager.generate_request_id.value = True
    return manager


def manager_filter(manager: HttpConnectionManager) -> Filter:
    """As the network filter of a chain."""
    return Filter(name=_MANAGER, typed_config=packed(manager))


def tcp_filter(stat_prefix: str, cluster: str) -> Filter:
    """A TCP proxy as the network filter of a chain."""
    proxy = TcpProxy(stat_prefix=stat_prefix, cluster=cluster, access_log=[access_log()])
    return Filter(name=TCP_PROXY, typed_config=packed(proxy))


def _filters(
    dialect: Dialect, limits: Iterable[PolicyObject], guards: Iterable[HttpFilter]
) -> list[HttpFilter]:  # fmt: skip
    router = Router()
    if dialect is Dialect.GOSSAMER:
        router.upstream_http_filters.add(name=fault.OF_TRIES, typed_config=packed(HTTPFault()))
        router.upstream_http_filters.add(name=_CODEC, typed_config=packed(UpstreamCodec()))
    last = HttpFilter(name="envoy.filters.http.router", typed_config=packed(router))
    if dialect is Dialect.GRPC:
        return [*guards, last]
    # But for guards and rate limits, they do nothing unless a route configures them.
    return [
        HttpFilter(name=cors.NAME, typed_config=packed(Cors())),
        *guards,
        *rate_limit_filters(limits),
        HttpFilter(name=fault.NAME, typed_config=packed(HTTPFault())),
        *_own_filters(dialect),
        last,
    ]


def _own_filters(dialect: Dialect) -> list[HttpFilter]:
    """What Envoy has not: it would pass over them."""
    if dialect is not Dialect.GOSSAMER:
        return []
    found = ((circuit_breaker.NAME, circuit_breaker.filter_message()), (bulkhead.NAME, bulkhead.filter_message()))
    return [HttpFilter(name=name, typed_config=packed(message), is_optional=True) for name, message in found]
