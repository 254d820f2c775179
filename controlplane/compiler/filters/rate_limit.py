"""RateLimits as Envoy's local_ratelimit and ratelimit filters, one filter for each object.

Owns:   filters and descriptors: an object is a filter, a limit an entry of `rate_limits`, locally one for each window.
Not:    where they hold (listeners, gateway_listeners), counting (agent, controlplane.ratelimit).
Source: envoy/extensions/filters/http/local_ratelimit/v3, ratelimit/v3; route_components.proto RateLimit. What Envoy
        1.40 does with them was tried: no token bucket beside descriptors = none but these; paths and principals are
        told by CEL, since descriptors know no formats.

    local:  (limit, namespace/name/limit/WINDOW) (match, true)? (key, value)*    its own token bucket, in the filter
    global: (limit, namespace/name/limit) (match, true)? (key, value)*           its rates, in the control plane
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.core.v3.base_pb2 import RuntimeFractionalPercent
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, RateLimit
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import (
    LocalRateLimitDescriptor,
    XRateLimitHeadersRFCVersion,
)
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.extensions.filters.http.ratelimit.v3.rate_limit_pb2 import RateLimit as GlobalRateLimit
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.rate_limit_descriptors.expr.v3.expr_pb2 import Descriptor as Expression
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from controlplane.compiler.filters import jwt_authn
from controlplane.compiler.resources import duration, packed
from controlplane.compiler.route_match import string_matcher
from controlplane.policy import rate_limit as policy
from controlplane.policy.objects import PolicyObject
from controlplane.policy.rate_limit import Attribute, FailureMode, Limit, LimitHeaders, LimitKey, Reach, RequestMatch
from controlplane.policy.string_match import StringMatch
from mesh.xds.names import CONTROL_PLANE_CLUSTER
from mesh.xds.rate_limits import DOMAIN, LIMIT_KEY, MATCH_KEY, MATCHED, PRINCIPAL_EXPRESSION, URL_PATH_EXPRESSION

LOCAL = "envoy.filters.http.local_ratelimit"
GLOBAL = "envoy.filters.http.ratelimit"
STAT_PREFIX = "http_local_rate_limiter"
# So many clients of a limit with keys are told apart by a proxy; those that have been silent longest are forgotten.
MAX_CLIENTS = 10_000
_QUERY = r"(?:\?.*)?"


def rate_limit_filters(rules: Iterable[PolicyObject]) -> list[HttpFilter]:
    """The filters of the rules in their order, the local ones first."""
    known = tuple((rule, rule.spec_as(policy.RateLimit)) for rule in rules)
    made = [_filter(LOCAL, rule, _local(rule, spec)) for rule, spec in known if spec.scope is Reach.LOCAL]
    return made + [_filter(GLOBAL, rule, _global(rule, spec)) for rule, spec in known if spec.scope is Reach.GLOBAL]


def limit_name(rule: PolicyObject, limit: Limit) -> str:
    """How a limit is called in descriptors: `namespace/name/limit`."""
    return f"{rule.metadata.namespace}/{rule.metadata.name}/{limit.name}"


def _filter(kind: str, rule: PolicyObject, config: Any) -> HttpFilter:
    return HttpFilter(
        name=f"{kind}.{rule.metadata.namespace}.{rule.metadata.name}",
        typed_config=packed(config),
    )


def _local(rule: PolicyObject, spec: policy.RateLimit) -> LocalRateLimit:
    message = LocalRateLimit(stat_prefix=STAT_PREFIX)
    message.filter_enabled.CopyFrom(_share(100))
    message.filter_enforced.CopyFrom(_share(0 if spec.shadow else 100))
    message.max_dynamic_descriptors.value = MAX_CLIENTS
    if spec.headers is not LimitHeaders.NONE:
        message.enable_x_ratelimit_headers = XRateLimitHeadersRFCVersion.DRAFT_VERSION_03
    for limit in spec.limits:
        for rate in limit.rates:
            name = f"{limit_name(rule, limit)}/{rate.window}"
            message.rate_limits.append(_descriptor_actions(name, limit))
            message.descriptors.append(_bucket(name, limit, rate))
    return message


def _share(percent: int) -> RuntimeFractionalPercent:
    message = RuntimeFractionalPercent()
    message.default_value.numerator = percent
    return message


def _bucket(name: str, limit: Limit, rate: policy.Rate) -> LocalRateLimitDescriptor:
    message = LocalRateLimitDescriptor()
    message.entries.add(key=LIMIT_KEY, value=name)
    if _is_matching(limit):
        message.entries.add(key=MATCH_KEY, value=MATCHED)
    for key in limit.keys:
        message.entries.add(key=key.name)  # of every value
    message.token_bucket.max_tokens = rate.effective_burst
    message.token_bucket.tokens_per_fill.value = rate.requests
    message.token_bucket.fill_interval.CopyFrom(duration(rate.window.seconds))
    return message


def _global(rule: PolicyObject, spec: policy.RateLimit) -> GlobalRateLimit:
    message = GlobalRateLimit(domain=DOMAIN, failure_mode_deny=spec.failure_mode is FailureMode.DENY)
    message.timeout.CopyFrom(duration(spec.timeout_s))
    service = message.rate_limit_service
    service.transport_api_version = ApiVersion.V3
    service.grpc_service.envoy_grpc.cluster_name = CONTROL_PLANE_CLUSTER
    if spec.headers is LimitHeaders.X_RATELIMIT:
        message.enable_x_ratelimit_headers = GlobalRateLimit.DRAFT_VERSION_03
    message.rate_limits.extend(_descriptor_actions(limit_name(rule, limit), limit) for limit in spec.limits)
    return message


# --- descriptors


def _descriptor_actions(name: str, limit: Limit) -> RateLimit:
    """What is told of a request; nothing of one that does not match or lacks a key."""
    message = RateLimit()
    message.actions.add().generic_key.CopyFrom(
        RateLimit.Action.GenericKey(descriptor_key=LIMIT_KEY, descriptor_value=name)
    )
    if _is_matching(limit) and limit.match is not None:
        message.actions.add().header_value_match.CopyFrom(
            RateLimit.Action.HeaderValueMatch(
                descriptor_key=MATCH_KEY, descriptor_value=MATCHED, headers=_matchers(limit.match)
            )
        )
    message.actions.extend(_action(key) for key in limit.keys)
    return message


def _is_matching(limit: Limit) -> bool:
    match = limit.match
    return match is not None and (bool(match.methods) or match.path is not None or bool(match.headers))


def _matchers(match: RequestMatch) -> Iterator[HeaderMatcher]:
    if match.methods:
        yield HeaderMatcher(name=":method", string_match=_regex("|".join(re.escape(name) for name in match.methods)))
    if match.path is not None:
        yield HeaderMatcher(name=":path", string_match=_path(match.path))
    for name, value in match.headers.items():
        if value.is_presence:
            yield HeaderMatcher(name=name.lower(), present_match=True)
        else:
            yield HeaderMatcher(name=name.lower(), string_match=string_matcher(value))


def _path(match: StringMatch) -> StringMatcher:
    """The query is no part of what is compared."""
    if match.prefix is not None:
        return StringMatcher(prefix=match.prefix)
    if match.exact is not None:
        return _regex(re.escape(match.exact) + _QUERY)
    return _regex(f"(?:{match.regex}){_QUERY}")


def _regex(pattern: str) -> StringMatcher:
    return StringMatcher(safe_regex=RegexMatcher(regex=pattern))


def _action(key: LimitKey) -> RateLimit.Action:
    action = RateLimit.Action()
    if key.header is not None:
        action.request_headers.header_name = key.header.lower()
        action.request_headers.descriptor_key = key.name
    elif key.claim is not None:
        action.metadata.descriptor_key = key.name
        action.metadata.metadata_key.key = jwt_authn.NAME
        for part in (jwt_authn.PAYLOAD, key.claim):
            action.metadata.metadata_key.path.add(key=part)
    elif key.attribute is Attribute.METHOD:
        action.request_headers.header_name = ":method"
        action.request_headers.descriptor_key = key.name
    elif key.attribute is Attribute.REMOTE_ADDRESS:
        action.remote_address.SetInParent()
    else:
        text = PRINCIPAL_EXPRESSION if key.attribute is Attribute.PRINCIPAL else URL_PATH_EXPRESSION
        action.extension.name = "envoy.rate_limit_descriptors.expr"
        action.extension.typed_config.CopyFrom(packed(Expression(descriptor_key=key.name, text=text)))
    return action
