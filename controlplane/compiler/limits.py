"""What a dialect cannot express: the fields of an object that are left out of its resources.

Owns:   the lists. Whatever a builder leaves out for a dialect has its line here, so that nothing is dropped silently.
Source: agent/model (what the agent enforces); control-plane.md section 5, rules 28-32 (what gRPC obeys).
"""

from collections.abc import Iterator

from controlplane.compiler.load_balancing import effective_hash
from controlplane.compiler.locality import TOPOLOGY_KEYS
from controlplane.compiler.outlier_detection import GRPC_FAILURE_PERCENT, grpc_request_volume
from controlplane.compiler.retries import GRPC_RETRY_ON
from controlplane.compiler.route_match import CLAIM_PREFIX
from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.http_route import HTTPMatchRequest, HTTPRoute
from controlplane.policy.load_balancer import LoadBalancerSettings, SimpleLB
from controlplane.policy.service_entry import Resolution, ServiceEntry
from controlplane.policy.traffic_policy import (
    ClientTLSSettings,
    ConnectionPoolSettings,
    H2UpgradePolicy,
    HTTPSettings,
    OutlierDetection,
    PortTrafficPolicy,
    TCPSettings,
    TLSMode,
    TrafficPolicy,
)
from controlplane.policy.virtual_service import VirtualService
from mesh.vocabulary import Dialect


def virtual_service_limits(spec: VirtualService, dialect: Dialect) -> tuple[str, ...]:
    """Paths of the fields that have no effect."""
    return tuple(_virtual_service(spec, dialect))


def destination_rule_limits(spec: DestinationRule, dialect: Dialect) -> tuple[str, ...]:
    """Paths of the fields that have no effect."""
    found = list(_traffic_policy(spec.traffic_policy, "spec.trafficPolicy", dialect))
    for index, subset in enumerate(spec.subsets):
        found += _traffic_policy(subset.traffic_policy, f"spec.subsets[{index}].trafficPolicy", dialect)
    return tuple(found)


def resolution_problem(spec: ServiceEntry, dialect: Dialect) -> str:
    """Why hosts are not found as the ServiceEntry says; nothing when they are."""
    if spec.resolution is Resolution.NONE:
        return "NONE needs traffic capture, which there is not yet; list endpoints with STATIC"
    if spec.resolution is Resolution.STATIC or dialect is Dialect.ENVOY:
        return ""
    return f"{spec.resolution} is for Envoys; other proxies use no DNS: list addresses with STATIC for them"


def envoy_approximations(spec: VirtualService) -> tuple[str, ...]:
    """What Envoys do instead, in words."""
    return tuple(
        f"Envoys inject spec.http[{index}].fault before they route: the rule's retries and timeout do not apply to it"
        for index, rule in enumerate(spec.http)
        if rule.fault is not None
    )


def grpc_approximations(spec: DestinationRule) -> tuple[str, ...]:
    """What gRPC clients are given instead, in words with both values (decision 22)."""
    found: list[str] = []
    for path, policy in _policies(spec):
        balancer, outlier = policy.load_balancer, policy.outlier_detection
        if outlier is not None:
            found.extend(_grpc_outlier(outlier, f"{path}.outlierDetection"))
        if balancer is not None and balancer.simple not in (None, SimpleLB.UNSPECIFIED, SimpleLB.ROUND_ROBIN):
            found.append(f"{path}.loadBalancer.simple {balancer.simple} is ROUND_ROBIN for gRPC clients")
    return tuple(found)


def _policies(spec: DestinationRule) -> Iterator[tuple[str, TrafficPolicy]]:
    if spec.traffic_policy is not None:
        yield "spec.trafficPolicy", spec.traffic_policy
    for index, subset in enumerate(spec.subsets):
        if subset.traffic_policy is not None:
            yield f"spec.subsets[{index}].trafficPolicy", subset.traffic_policy


def _grpc_outlier(outlier: OutlierDetection, path: str) -> Iterator[str]:
    volume = grpc_request_volume(outlier)
    if volume:
        written = "consecutive5xxErrors" if outlier.consecutive_5xx == volume else "consecutiveGatewayErrors"
        yield (
            f"{path}.{written} {volume} is, for gRPC clients, more than {GRPC_FAILURE_PERCENT} % failures of at least "
            f"{volume} requests within {outlier.interval_s:g} s"
        )
    else:
        yield f"{path} ejects nothing for gRPC clients: they know no local-origin failures"


# --- VirtualService


def _virtual_service(spec: VirtualService, dialect: Dialect) -> Iterator[str]:
    # At gateways they are served.
    for name in ("tls", "tcp") if spec.applies_to_mesh else ():
        if getattr(spec, name):
            yield f"spec.{name}"
    for index, rule in enumerate(spec.http):
        path = f"spec.http[{index}]"
        for number, match in enumerate(rule.match):
            yield from (f"{path}.match[{number}].{field}" for field in _match(match, dialect))
        yield from (f"{path}.{field}" for field in _rule(rule, dialect))


def _match(match: HTTPMatchRequest, dialect: Dialect) -> Iterator[str]:
    for field, names in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        yield from (f'{field}["{name}"]' for name in names if name.startswith(CLAIM_PREFIX))
    if match.stat_prefix:
        yield "statPrefix"
    if dialect is Dialect.GRPC and match.query_params:
        yield "queryParams"


def _rule(rule: HTTPRoute, dialect: Dialect) -> Iterator[str]:
    if dialect is Dialect.GRPC:
        yield from _beyond_grpc(rule)


_NOT_GRPC = {
    "mirror": "mirror",
    "mirrors": "mirrors",
    "fault": "fault",
    "cors_policy": "corsPolicy",
    "redirect": "redirect",
    "direct_response": "directResponse",
    "rewrite": "rewrite",
    "headers": "headers",
}


def _beyond_grpc(rule: HTTPRoute) -> Iterator[str]:
    yield from (shown for field, shown in _NOT_GRPC.items() if getattr(rule, field) not in (None, ()))
    yield from (f"route[{index}].headers" for index, item in enumerate(rule.route) if item.headers is not None)
    retries = rule.retries
    if retries is None or retries.attempts <= 0:
        return
    if retries.per_try_timeout is not None:
        yield "retries.perTryTimeout"
    if retries.retry_remote_localities:
        yield "retries.retryRemoteLocalities"
    if retries.retry_on and not set(retries.conditions) <= GRPC_RETRY_ON:
        yield "retries.retryOn"


# --- DestinationRule


def _traffic_policy(policy: TrafficPolicy | None, path: str, dialect: Dialect) -> Iterator[str]:
    if policy is None:
        return
    if policy.tunnel is not None:
        yield f"{path}.tunnel"
    if policy.proxy_protocol is not None:
        yield f"{path}.proxyProtocol"
    if policy.retry_budget is not None:
        if dialect is Dialect.GRPC:
            yield f"{path}.retryBudget"
        elif policy.retry_budget.budget_interval:
            yield f"{path}.retryBudget.budgetInterval"
    yield from _blocks(policy, path, dialect)
    for index, level in enumerate(policy.port_level_settings):
        yield from _blocks(level, f"{path}.portLevelSettings[{index}]", dialect)


def _blocks(policy: TrafficPolicy | PortTrafficPolicy, path: str, dialect: Dialect) -> Iterator[str]:
    if policy.load_balancer is not None:
        yield from (f"{path}.loadBalancer.{field}" for field in _load_balancer(policy.load_balancer, dialect))
    if policy.connection_pool is not None:
        yield from (f"{path}.connectionPool.{field}" for field in _pool(policy.connection_pool, dialect))
    if policy.outlier_detection is not None and policy.outlier_detection.outlier_detection_http_error_codes:
        yield f"{path}.outlierDetection.outlierDetectionHttpErrorCodes"
    if policy.tls is not None:
        yield from (f"{path}.tls.{field}" for field in _tls(policy.tls, dialect))


def _load_balancer(settings: LoadBalancerSettings, dialect: Dialect) -> Iterator[str]:
    hashing = settings.consistent_hash
    if hashing is not None and effective_hash(settings, dialect) is None:
        yield "consistentHash"
    if settings.simple is SimpleLB.PASSTHROUGH:
        yield "simple"
    if settings.zone_aware_lb_setting is not None:
        yield "zoneAwareLbSetting"
    if settings.warmup_settings is not None and (
        dialect is Dialect.GRPC
        or hashing is not None
        or settings.algorithm not in (SimpleLB.ROUND_ROBIN, SimpleLB.LEAST_REQUEST)
    ):
        yield "warmup"
    locality = settings.locality_lb_setting
    if locality is not None and any(key not in TOPOLOGY_KEYS for key in locality.failover_priority):
        yield "localityLbSetting.failoverPriority"


def _pool(pool: ConnectionPoolSettings, dialect: Dialect) -> Iterator[str]:
    tcp, http = pool.tcp or TCPSettings(), pool.http or HTTPSettings()
    if http.use_client_protocol:
        yield "http.useClientProtocol"
    if http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE:
        yield "http.h2UpgradePolicy"
    if tcp.idle_timeout is not None:
        yield "tcp.idleTimeout"
    if dialect is not Dialect.ENVOY:
        for name, value in (
            ("tcpKeepalive", tcp.tcp_keepalive),
            ("maxConnectionDuration", tcp.max_connection_duration),
        ):
            if value is not None:
                yield f"tcp.{name}"
        if http.max_concurrent_streams:
            yield "http.maxConcurrentStreams"
        if http.http2_keep_alive is not None:
            yield "http.http2KeepAlive"
    if dialect is Dialect.GRPC:
        limits = {
            "tcp.maxConnections": tcp.max_connections,
            "http.http1MaxPendingRequests": http.http1_max_pending_requests,
            "http.maxRequestsPerConnection": http.max_requests_per_connection,
            "http.maxRetries": http.max_retries,
            "http.idleTimeout": http.idle_timeout,
        }
        yield from (path for path, value in limits.items() if value)


def _tls(settings: ClientTLSSettings, dialect: Dialect) -> Iterator[str]:
    if settings.mode not in (TLSMode.SIMPLE, TLSMode.MUTUAL):
        return
    if settings.credential_name:
        if dialect is not Dialect.ENVOY:
            yield "credentialName"
    elif dialect is Dialect.GRPC or (dialect is Dialect.GOSSAMER and settings.mode is TLSMode.MUTUAL):
        yield "mode"
    elif dialect is Dialect.GOSSAMER:
        yield from (
            name for name, value in (("caCertificates", settings.ca_certificates), ("caCrl", settings.ca_crl)) if value
        )
