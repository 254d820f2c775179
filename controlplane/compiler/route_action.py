"""What a rule does with a request: forward, redirect or answer.

Owns:   the action of a Route.
Not:    matches (route_match), retries, header operations, per-route filters (their own modules).
Source: control-plane.md 2.3; istio route.go; gRFC A31 (max_stream_duration), A28.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    RedirectAction,
    Route,
    RouteAction,
    WeightedCluster,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher

from controlplane.compiler.filters import fault
from controlplane.compiler.filters.hash_policy import hash_policy
from controlplane.compiler.header_operations import authority, set_header_operations
from controlplane.compiler.resources import duration
from controlplane.compiler.retries import retry_policy
from controlplane.model.circuit_breakers import NO_CHOICE, BreakerChoice
from controlplane.model.services import Port
from controlplane.policy.http_route import (
    DEFAULT_PORTS,
    DEFAULT_RETRIES,
    HTTPRedirect,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    RedirectPortSelection,
)
from controlplane.policy.load_balancer import ConsistentHashLB
from mesh.vocabulary import Dialect

# Redirect codes; `Any`, because protobuf's enums are integers to the type checker.
_CODES: Mapping[int, Any] = {
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}
_NOT_IMPLEMENTED = 501

DestinationKey = tuple[str, str, int]  # host, subset, port as written; 0 = none


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDestination:
    """Where a destination leads for one dialect. `hashing`: how its hosts are chosen, if by hash. `beyond`: the port as
    `host:port` when proxies of the dialect do not speak its protocol. `breakers`, `bulkheads`: those for calls to it;
    `port`: what they go to; `missing`: there is no such service, or it has no such port."""

    cluster: str
    beyond: str = ""
    hashing: ConsistentHashLB | None = None
    breakers: BreakerChoice = NO_CHOICE
    bulkheads: BreakerChoice = NO_CHOICE
    port: int = 0
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """A rule's targets, resolved."""

    targets: tuple[tuple[HTTPRouteDestination, ResolvedDestination], ...]
    mirrors: tuple[tuple[ResolvedDestination, float], ...] = ()  # with percent


def beyond_agents(host: str, port: Port | None, dialect: Dialect) -> str:
    """`host:port` when the port is for HTTP/2, which our agents do not speak to servers; else nothing."""
    is_beyond = dialect is Dialect.GOSSAMER and port is not None and port.protocol.is_http2
    return f"{host}:{port.number}" if is_beyond and port is not None else ""


def set_action(route: Route, rule: HTTPRoute, forwarding: Forwarding, dialect: Dialect) -> None:
    """Set what the rule does."""
    if rule.redirect is not None:
        route.redirect.CopyFrom(_redirect(rule.redirect))
    elif rule.direct_response is not None:
        answer = DirectResponseAction(status=rule.direct_response.status)
        body = rule.direct_response.body
        if body is not None and body.content is not None:
            answer.body.CopyFrom(DataSource(inline_bytes=body.content))
        route.direct_response.CopyFrom(answer)
    else:
        _forward(route, rule, forwarding, dialect)


def set_default_action(route: Route, target: ResolvedDestination, dialect: Dialect) -> None:
    """What happens to a service without a VirtualService: default retries, no time-out."""
    if target.beyond:
        _refuse(route, target.beyond)
        return
    action = route.route
    action.cluster = target.cluster
    _set_times(action, None, dialect)
    _set_retries(action, HTTPRoute(), [target], dialect)
    _set_hash(action, [target])


def _refuse(route: Route, port: str) -> None:
    """Say plainly what would else end as a protocol error that counts against a healthy host."""
    body = f"{port} is for HTTP/2, which this agent does not speak to servers; call it from Envoy or a gRPC client\n"
    route.direct_response.CopyFrom(
        DirectResponseAction(status=_NOT_IMPLEMENTED, body=DataSource(inline_bytes=body.encode()))
    )


def _forward(route: Route, rule: HTTPRoute, forwarding: Forwarding, dialect: Dialect) -> None:
    targets = forwarding.targets
    beyond = next((target.beyond for _, target in targets if target.beyond), "")
    if beyond:
        _refuse(route, beyond)
        return
    action = route.route
    _set_times(action, rule.timeout_s, dialect)
    _set_retries(action, rule, [target for _, target in targets], dialect)
    _set_rewrite(action, rule)
    for mirror, percent in forwarding.mirrors if dialect is not Dialect.GRPC else ():
        if not mirror.beyond:
            policy = action.request_mirror_policies.add(cluster=mirror.cluster)
            policy.runtime_fraction.default_value.CopyFrom(fault.fraction(percent))
    _set_hash(action, [target for _, target in targets])
    if len(targets) == 1 and targets[0][0].headers is None:
        action.cluster = targets[0][1].cluster
    else:
        action.weighted_clusters.CopyFrom(_weighted(targets, dialect))


def _weighted(targets: Sequence[tuple[HTTPRouteDestination, ResolvedDestination]], dialect: Dialect) -> WeightedCluster:
    clusters = WeightedCluster()
    for written, target in targets:
        entry = clusters.clusters.add(name=target.cluster)
        # A single destination ignores its weight.
        entry.weight.value = written.weight if len(targets) > 1 else 1
        if dialect is not Dialect.GRPC:
            set_header_operations(entry, written.headers)
            if host := authority(written.headers):
                entry.host_rewrite_literal = host
    return clusters


def _set_times(action: RouteAction, timeout_s: float | None, dialect: Dialect) -> None:
    """Envoy's own default of 15 s must be overridden, also by none.

    Envoys obey a gRPC client's deadline where the rule has none of its own: beside `max_stream_duration` they pass over
    `timeout` altogether (envoy#15530). Elsewhere the rule's holds for calls too, and the client watches over its own.
    """
    limit = duration(timeout_s or 0)
    if dialect is Dialect.GRPC:
        if timeout_s:
            action.max_stream_duration.max_stream_duration.CopyFrom(limit)
        return
    action.timeout.CopyFrom(limit)
    if dialect is Dialect.ENVOY and not timeout_s:
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(limit)


def _set_retries(
    action: RouteAction, rule: HTTPRoute, targets: Sequence[ResolvedDestination], dialect: Dialect
) -> None:
    settings = rule.retry_settings if rule.retries is not None else DEFAULT_RETRIES
    policy = retry_policy(settings, dialect, sticky=any(target.hashing is not None for target in targets))
    if policy is not None:
        action.retry_policy.CopyFrom(policy)


def _set_rewrite(action: RouteAction, rule: HTTPRoute) -> None:
    rewrite = rule.rewrite or HTTPRewrite()
    if rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.CopyFrom(
            RegexMatchAndSubstitute(
                pattern=RegexMatcher(regex=rewrite.uri_regex_rewrite.match),
                substitution=rewrite.uri_regex_rewrite.rewrite,
            )
        )
    elif rewrite.uri:
        action.prefix_rewrite = rewrite.uri
    if host := rewrite.authority or authority(rule.headers):
        action.host_rewrite_literal = host


def _set_hash(action: RouteAction, targets: Sequence[ResolvedDestination]) -> None:
    policies = {target.hashing: None for target in targets if target.hashing is not None}
    action.hash_policy.extend(hash_policy(hashing) for hashing in policies)


def _redirect(redirect: HTTPRedirect) -> RedirectAction:
    action = RedirectAction(host_redirect=redirect.authority, response_code=_CODES[redirect.code])
    if redirect.prefix_rewrite:
        action.prefix_rewrite = redirect.prefix_rewrite
    elif redirect.uri:
        action.path_redirect = redirect.uri
    if redirect.scheme:
        action.scheme_redirect = redirect.scheme
    if redirect.port:
        action.port_redirect = redirect.port
    elif redirect.derive_port is RedirectPortSelection.FROM_PROTOCOL_DEFAULT and redirect.authority:
        action.port_redirect = DEFAULT_PORTS.get(redirect.scheme, 80)
    return action
