"""Listeners, filter chains and the HTTP connection manager.

Source: envoy/config/listener/v3, envoy/extensions/filters/network/{http_connection_manager,tcp_proxy}/v3.
"""

from dataclasses import dataclass
from enum import IntEnum

from agent.model.http_filters import HttpFilter
from agent.model.rbac import NetworkRbac
from agent.model.tls import DownstreamTls


class Direction(IntEnum):
    """envoy.config.core.v3.TrafficDirection."""

    UNSPECIFIED = 0
    INBOUND = 1
    OUTBOUND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLog:
    """`json_fields`: (key, format string with %OPERATORS%) in order; else `text_format` is one line's format."""

    path: str
    json_fields: tuple[tuple[str, str], ...] = ()
    text_format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConnectionManager:
    """Times in seconds, 0 = none. `forward_client_cert`: a ForwardClientCertDetails by name.

    `filters` work before the router, in order; `upstream_filters` at each try.
    """

    stat_prefix: str
    route_config: str  # the RouteConfiguration's name; an inline one is stored under this name too
    server_name: str = "envoy"
    server_header_pass_through: bool = False
    use_remote_address: bool = False
    xff_num_trusted_hops: int = 0
    generate_request_id: bool = True
    preserve_external_request_id: bool = False
    always_set_request_id_in_response: bool = False
    normalize_path: bool = True
    merge_slashes: bool = False
    stream_idle_timeout_s: float = 300.0
    request_timeout_s: float = 0.0
    request_headers_timeout_s: float = 0.0
    idle_timeout_s: float = 3600.0
    max_requests_per_connection: int = 0
    drain_timeout_s: float = 5.0
    delayed_close_timeout_s: float = 1.0
    max_request_headers_bytes: int = 60 * 1024
    max_headers_count: int = 100
    forward_client_cert: str = "SANITIZE"
    access_logs: tuple[AccessLog, ...] = ()
    tracing: bool = False
    upgrades: frozenset[str] = frozenset()
    filters: tuple[HttpFilter, ...] = ()
    upstream_filters: tuple[HttpFilter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpProxy:
    """`weighted`: (cluster, weight) of several among which each connection chooses; then `cluster` is empty."""

    stat_prefix: str
    cluster: str = ""
    weighted: tuple[tuple[str, int], ...] = ()
    idle_timeout_s: float = 3600.0
    access_logs: tuple[AccessLog, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterChain:
    """`transport`: "tls" or "raw_buffer" as the first byte says, "" = whatever arrives (decision 11).

    `server_names`: by which clients choose it in TLS, exact or `*.suffix`, lower-case; none = whatever name.
    `guards`: which connections may be, before a TCP proxy.
    """

    name: str
    transport: str = ""
    server_names: tuple[str, ...] = ()
    tls: DownstreamTls | None = None
    guards: tuple[NetworkRbac, ...] = ()
    network: HttpConnectionManager | TcpProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """`identity`: the SPIFFE id of the caller that enters here (outbound), "" on inbound listeners.

    `workload`: whose traffic it is (mesh.xds.workload_name), "" = unknown; None = Istio's metrics are not wanted.
    """

    name: str
    address: str
    port: int
    direction: Direction
    filter_chains: tuple[FilterChain, ...]
    identity: str = ""
    workload: str | None = None
    per_connection_buffer_limit_bytes: int = 1024 * 1024
