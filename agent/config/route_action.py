"""What a route does: forward, redirect or answer.

Source: envoy/config/route/v3/route_components.proto RouteAction, RedirectAction, DirectResponseAction.

Not refused, since it cannot make a difference here: rate_limits (a filter goes by its own alone, see rate_limits),
total_weight (it is the sum), gRPC's own time-out (the agent forwards HTTP/1.1), early data.
"""

from envoy.config.core.v3.base_pb2 import RoutingPriority
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    RedirectAction,
    Route,
    RouteAction,
)
from envoy.config.route.v3.route_components_pb2 import (
    WeightedCluster as WeightedMessage,
)

from agent.config.durations import optional_seconds, seconds_or
from agent.config.fields import Refused, beyond, item, only, refuse, value_or, within
from agent.config.hash_policy import hash_policies
from agent.config.header_operations import FIELDS as HEADER_FIELDS
from agent.config.header_operations import request_operations, response_operations
from agent.config.mirrors import mirrors
from agent.config.regexes import substitution
from agent.config.retries import hedge_policy, retry_policy
from agent.config.upgrades import upgrade_type
from agent.model.route import Action, DirectResponse, Forward, Redirect, RouteMatch, WeightedCluster
from agent.router.rewrites import path_rewrite

DEFAULT_TIMEOUT_S = 15.0
_MAX_WEIGHT = 2**32 - 1
_FORWARD = frozenset(
    {
        "cluster", "weighted_clusters", "prefix_rewrite", "regex_rewrite",
        "host_rewrite_literal", "append_x_forwarded_host", "timeout", "idle_timeout", "retry_policy", "priority",
        "upgrade_configs", "max_stream_duration", "hash_policy", "request_mirror_policies", "hedge_policy",
        # no effect here, see above
        "rate_limits", "include_vh_rate_limits", "max_grpc_timeout", "grpc_timeout_offset",
        "early_data_policy", "max_internal_redirects",
    }
)  # fmt: skip
_OFF = frozenset({"auto_host_rewrite"})
_WEIGHTED = frozenset({"clusters", "total_weight", "runtime_key_prefix"})
_ENTRY = HEADER_FIELDS | {"name", "weight", "host_rewrite_literal"}
_DURATION = frozenset({"max_stream_duration", "grpc_timeout_header_max", "grpc_timeout_header_offset"})
_REDIRECT = frozenset(
    {
        "https_redirect", "scheme_redirect", "host_redirect", "port_redirect", "path_redirect", "prefix_rewrite",
        "response_code", "strip_query",
    }
)  # fmt: skip
_STATUS = {
    RedirectAction.MOVED_PERMANENTLY: 301,
    RedirectAction.FOUND: 302,
    RedirectAction.SEE_OTHER: 303,
    RedirectAction.TEMPORARY_REDIRECT: 307,
    RedirectAction.PERMANENT_REDIRECT: 308,
}
_MAX_PORT = 65535


def action(message: Route, match: RouteMatch, path: str) -> Action:
    """The action of a route whose match is `match`."""
    made = _action(message, path)
    if not isinstance(made, DirectResponse):
        _check_rewrite(made, match, within(path, message.WhichOneof("action") or ""))
    return made


def _check_rewrite(made: Forward | Redirect, match: RouteMatch, path: str) -> None:
    """With what the worker will rewrite paths with."""
    regex = isinstance(made, Forward) and made.regex_rewrite is not None
    try:
        path_rewrite(match, made)
    except ValueError as error:
        raise Refused(within(path, "regex_rewrite.substitution" if regex else "prefix_rewrite"), str(error)) from error


def _action(message: Route, path: str) -> Action:
    which = message.WhichOneof("action") or ""
    own = within(path, which)
    match which:
        case "route":
            return _forward(message.route, own)
        case "redirect":
            return _redirect(message.redirect, own)
        case "direct_response":
            return _direct_response(message.direct_response, own)
    raise beyond(own, "a value", "route, redirect or direct_response")


def _forward(message: RouteAction, path: str) -> Forward:
    only(message, path, _FORWARD, _OFF)
    if message.prefix_rewrite and message.HasField("regex_rewrite"):
        raise Refused(within(path, "regex_rewrite"), "found it beside prefix_rewrite, expected one of them")
    clusters = _clusters(message, path)
    return Forward(
        clusters=clusters,
        total_weight=sum(one.weight for one in clusters),
        timeout_s=seconds_or(message, "timeout", path, DEFAULT_TIMEOUT_S),
        idle_timeout_s=optional_seconds(message, "idle_timeout", path),
        max_stream_duration_s=_max_stream_duration(message, path),
        retry=retry_policy(message.retry_policy, within(path, "retry_policy"))
        if message.HasField("retry_policy")
        else None,
        hedge=hedge_policy(message.hedge_policy, within(path, "hedge_policy"))
        if message.HasField("hedge_policy")
        else None,
        prefix_rewrite=message.prefix_rewrite,
        regex_rewrite=substitution(message.regex_rewrite, within(path, "regex_rewrite"))
        if message.HasField("regex_rewrite")
        else None,
        host_rewrite=message.host_rewrite_literal,
        append_x_forwarded_host=message.append_x_forwarded_host,
        priority_high=message.priority == RoutingPriority.HIGH,
        upgrades=_upgrades(message, path),
        hash_policies=hash_policies(message.hash_policy, path),
        mirrors=mirrors(message.request_mirror_policies, path),
    )


def _clusters(message: RouteAction, path: str) -> tuple[WeightedCluster, ...]:
    which = message.WhichOneof("cluster_specifier")
    if which == "cluster":
        return (WeightedCluster(cluster=message.cluster, weight=1),)
    return _weighted(message.weighted_clusters, within(path, "weighted_clusters"))


def _weighted(message: WeightedMessage, path: str) -> tuple[WeightedCluster, ...]:
    only(message, path, _WEIGHTED)
    found = tuple(_entry(one, item(path, "clusters", index)) for index, one in enumerate(message.clusters))
    total = sum(one.weight for one in found)
    if not 0 < total <= _MAX_WEIGHT:
        raise Refused(within(path, "clusters"), f"found a sum of weights of {total}, expected 1 to {_MAX_WEIGHT}")
    return found


def _entry(message: WeightedMessage.ClusterWeight, path: str) -> WeightedCluster:
    only(message, path, _ENTRY)
    if not message.name:
        raise refuse(within(path, "name"), "", "the name of a cluster")
    if not message.HasField("weight"):
        raise Refused(within(path, "weight"), "found unset, expected a value")
    return WeightedCluster(
        cluster=message.name,
        weight=message.weight.value,
        request_headers=request_operations(message, path),
        response_headers=response_operations(message, path),
        host_rewrite=message.host_rewrite_literal,
    )


def _max_stream_duration(message: RouteAction, path: str) -> float:
    if not message.HasField("max_stream_duration"):
        return 0.0
    own = within(path, "max_stream_duration")
    only(message.max_stream_duration, own, _DURATION)
    return seconds_or(message.max_stream_duration, "max_stream_duration", own, 0.0)


def _upgrades(message: RouteAction, path: str) -> frozenset[str]:
    found = set()
    for index, config in enumerate(message.upgrade_configs):
        own = item(path, "upgrade_configs", index)
        only(config, own, frozenset({"upgrade_type", "enabled"}))
        if not value_or(config, "enabled", True):
            # The worker allows what the route or the connection manager allows.
            raise beyond(within(own, "enabled"), "False", "True")
        found.add(upgrade_type(config.upgrade_type, within(own, "upgrade_type")))
    return frozenset(found)


def _redirect(message: RedirectAction, path: str) -> Redirect:
    only(message, path, _REDIRECT)
    if message.port_redirect > _MAX_PORT:
        raise refuse(within(path, "port_redirect"), message.port_redirect, f"at most {_MAX_PORT}")
    return Redirect(
        status=_STATUS[message.response_code],
        scheme=message.scheme_redirect,
        host=message.host_redirect,
        port=message.port_redirect,
        path=message.path_redirect,
        prefix_rewrite=message.prefix_rewrite,
        strip_query=message.strip_query,
        https=message.https_redirect,
    )


def _direct_response(message: DirectResponseAction, path: str) -> DirectResponse:
    only(message, path, frozenset({"status", "body"}))
    body = message.body
    match body.WhichOneof("specifier"):
        case None:
            return DirectResponse(status=message.status)
        case "inline_bytes":
            return DirectResponse(status=message.status, body=body.inline_bytes)
        case "inline_string":
            return DirectResponse(status=message.status, body=body.inline_string.encode())
        case other:
            raise beyond(within(path, f"body.{other}"), "a value", "inline_string or inline_bytes")
