"""Clusters: discovery, limits, time-outs, protocol.

Owns:   the Cluster message.
Not:    load balancing, thresholds, outlier detection, transport sockets, endpoints (their own modules).
Source: envoy/config/cluster/v3/cluster.proto, envoy/extensions/upstreams/http/v3; data-plane.md 1.6.

Not refused, since it cannot make a difference here: everything about DNS (clusters that need it are refused), HTTP/2
options, load reports and statistics, preconnecting.
Not refused, though it is not enforced: TCP keepalive and max_connection_duration. Both are about how long a connection
is kept, never about a request's fate; our control plane tells the user (controlplane/compiler/limits.py).
"""

from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions as CommonOptions
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from agent.config import rules
from agent.config.config_sources import check_ads
from agent.config.durations import seconds_or
from agent.config.endpoints import load_assignment
from agent.config.fields import Refused, beyond, enum_name, item, only, unpacked, value_or, within
from agent.config.http_protocol import check_http1
from agent.config.load_balancing import FIELDS as BALANCING_FIELDS
from agent.config.load_balancing import choice_count, hashing, lb_policy, locality_weighted, panic_threshold, slow_start
from agent.config.metadata import service_label
from agent.config.outlier_detection import outlier_detection
from agent.config.thresholds import thresholds
from agent.config.transport_sockets import transport_socket_match, upstream_tls
from agent.model.cluster import Cluster, LoadAssignment

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_KNOWN = BALANCING_FIELDS | {
    "name", "alt_stat_name", "type", "eds_cluster_config", "load_assignment", "connect_timeout", "circuit_breakers",
    "typed_extension_protocol_options", "outlier_detection", "transport_socket", "transport_socket_matches",
    # no effect here, see above
    "dns_refresh_rate", "dns_jitter", "dns_failure_refresh_rate", "respect_dns_ttl", "dns_lookup_family",
    "dns_resolvers", "use_tcp_for_dns_lookups", "dns_resolution_config", "typed_dns_resolver_config",
    "wait_for_warm_on_init", "cleanup_interval", "metadata", "per_connection_buffer_limit_bytes", "lrs_server",
    "lrs_report_endpoint_metrics", "track_timeout_budgets", "track_cluster_stats", "preconnect_policy",
    "ignore_health_on_host_removal", "upstream_connection_options",
}  # fmt: skip
_OPTIONS = frozenset(
    {
        "common_http_protocol_options", "upstream_http_protocol_options", "explicit_http_config",
        "use_downstream_protocol_config",
    }
)  # fmt: skip
_COMMON = frozenset(
    {"idle_timeout", "max_requests_per_connection", "max_connection_duration", "headers_with_underscores_action"}
)


def cluster(message: ClusterMessage) -> Cluster:
    """The cluster."""
    only(message, "", _KNOWN)
    eds_name, static = _discovery(message)
    options = _options(message)
    common, own = options.common_http_protocol_options, within(_options_path(), "common_http_protocol_options")
    default, high = thresholds(message.circuit_breakers, "circuit_breakers")
    return Cluster(
        name=message.name,
        alt_stat_name=message.alt_stat_name,
        eds_name=eds_name,
        static=static,
        lb_policy=lb_policy(message, ""),
        choice_count=choice_count(message, ""),
        hashing=hashing(message, ""),
        slow_start=slow_start(message, ""),
        locality_weighted=locality_weighted(message),
        connect_timeout_s=seconds_or(message, "connect_timeout", "", 5.0),
        idle_timeout_s=seconds_or(common, "idle_timeout", own, 3600.0),
        max_requests_per_connection=value_or(common, "max_requests_per_connection", 0),
        healthy_panic_threshold_percent=panic_threshold(message, ""),
        thresholds=default,
        thresholds_high=high,
        outlier_detection=outlier_detection(message.outlier_detection, "outlier_detection")
        if message.HasField("outlier_detection")
        else None,
        transport_sockets=tuple(
            transport_socket_match(one, item("", "transport_socket_matches", index))
            for index, one in enumerate(message.transport_socket_matches)
        ),
        tls=upstream_tls(message.transport_socket, "transport_socket"),
        http2=options.explicit_http_config.HasField("http2_protocol_options"),
        service=service_label(message.metadata),
    )


# --- discovery


def _discovery(message: ClusterMessage) -> tuple[str, LoadAssignment | None]:
    """(name of the endpoints' resource, or the endpoints themselves)."""
    if message.type == ClusterMessage.EDS:
        return _eds_name(message), None
    if message.type != ClusterMessage.STATIC:
        raise beyond("type", enum_name(message, "type", ""), "EDS or STATIC")
    if message.HasField("eds_cluster_config"):
        raise Refused("eds_cluster_config", "found it set, expected it for type EDS only")
    return "", load_assignment(message.load_assignment, "load_assignment", message.name)


def _eds_name(message: ClusterMessage) -> str:
    if not message.HasField("eds_cluster_config"):
        raise Refused("eds_cluster_config", "found unset, expected a value for type EDS")
    if message.HasField("load_assignment"):
        raise Refused("load_assignment", "found it set, expected it for type STATIC only")
    check_ads(message.eds_cluster_config.eds_config, "eds_cluster_config.eds_config")
    return message.eds_cluster_config.service_name or message.name


# --- protocol


def _options_path() -> str:
    return f'typed_extension_protocol_options["{HTTP_OPTIONS}"]'


def _options(message: ClusterMessage) -> HttpProtocolOptions:
    """The options of HTTP, those of HTTP/1.1 when nothing is said."""
    written = message.typed_extension_protocol_options
    for key in written:
        if key != HTTP_OPTIONS:
            raise beyond(f'typed_extension_protocol_options["{key}"]', "a value")
    if HTTP_OPTIONS not in written:
        return HttpProtocolOptions()
    path = _options_path()
    found = unpacked(written[HTTP_OPTIONS], HttpProtocolOptions, path)
    rules.check(found, path)
    only(found, path, _OPTIONS)
    only(found.upstream_http_protocol_options, within(path, "upstream_http_protocol_options"), frozenset())
    _check_common(found.common_http_protocol_options, within(path, "common_http_protocol_options"))
    _check_protocol(found, path)
    return found


def _check_common(message: CommonOptions, path: str) -> None:
    only(message, path, _COMMON)


def _check_protocol(message: HttpProtocolOptions, path: str) -> None:
    which = message.WhichOneof("upstream_protocol_options")
    own = within(path, str(which))
    config: Any = getattr(message, str(which))
    if which == "use_downstream_protocol_config":  # what comes from downstream is HTTP/1.1
        only(config, own, frozenset({"http_protocol_options", "http2_protocol_options"}))
    else:
        only(config, own, frozenset({"http_protocol_options", "http2_protocol_options"}))
    check_http1(config.http_protocol_options, within(own, "http_protocol_options"))
