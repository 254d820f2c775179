"""The local and the global rate limit filter, and the descriptors of both.

Source: envoy/extensions/filters/http/local_ratelimit/v3, ratelimit/v3; route_components.proto RateLimit; Envoy on
        token buckets: at least 50 ms per fill, no two buckets of the same descriptor.
Not:    rate limits of routes (`rate_limits` of the filters themselves are what counts), other expressions than the two
        that the control plane writes, services other than the control plane.
"""

from collections.abc import Sequence

from envoy.config.route.v3.route_components_pb2 import RateLimit as RateLimitMessage
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import LocalRateLimitDescriptor as DescriptorMessage
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit as LocalMessage
from envoy.extensions.filters.http.ratelimit.v3.rate_limit_pb2 import RateLimit as GlobalMessage
from envoy.extensions.rate_limit_descriptors.expr.v3.expr_pb2 import Descriptor as ExpressionMessage
from envoy.type.v3.http_status_pb2 import HttpStatus
from envoy.type.v3.token_bucket_pb2 import TokenBucket as BucketMessage

from agent.config import rules
from agent.config.durations import seconds, seconds_or
from agent.config.fields import Refused, beyond, item, only, refuse, shown, unpacked, value_or, within
from agent.config.fractions import runtime_share
from agent.config.matchers import header_matcher
from agent.model.fault import NO_GRPC
from agent.model.rate_limit import (
    TOO_MANY,
    Action,
    ActionKind,
    DescriptorBucket,
    DescriptorRule,
    GlobalRateLimit,
    LocalRateLimit,
    TokenBucket,
)
from mesh.xds.names import CONTROL_PLANE_CLUSTER
from mesh.xds.rate_limits import PRINCIPAL_EXPRESSION, URL_PATH_EXPRESSION

Action_ = RateLimitMessage.Action
LEAST_FILL_S = 0.05
_RESOURCE_EXHAUSTED = 8
_ERROR = 500
# max_dynamic_descriptors: what the agent keeps of clients is bounded for all limits together (agent.model.token_cells).
_LOCAL = frozenset(
    {
        "stat_prefix", "status", "token_bucket", "filter_enabled", "filter_enforced", "descriptors",
        "enable_x_ratelimit_headers", "always_consume_default_token_bucket", "rate_limited_as_resource_exhausted",
        "rate_limits", "max_dynamic_descriptors",
    }
)  # fmt: skip
_GLOBAL = frozenset(
    {
        "domain", "timeout", "failure_mode_deny", "rate_limited_as_resource_exhausted", "rate_limit_service",
        "enable_x_ratelimit_headers", "disable_x_envoy_ratelimited_header", "rate_limited_status", "status_on_error",
        "rate_limits",
    }
)  # fmt: skip
_EXPRESSIONS = {URL_PATH_EXPRESSION: ActionKind.URL_PATH, PRINCIPAL_EXPRESSION: ActionKind.PRINCIPAL}


def local_rate_limit(message: LocalMessage, path: str) -> LocalRateLimit:
    """The filter that counts for itself."""
    only(message, path, _LOCAL)
    buckets = tuple(
        _descriptor_bucket(one, item(path, "descriptors", index)) for index, one in enumerate(message.descriptors)
    )
    if len({one.entries for one in buckets}) < len(buckets):
        raise Refused(within(path, "descriptors"), "found a descriptor twice, expected each once")
    if buckets and not message.rate_limits:
        raise Refused(within(path, "rate_limits"), "found none beside descriptors, expected those of the filter itself")
    return LocalRateLimit(
        stat_prefix=message.stat_prefix,
        status=_status(message.status, TOO_MANY),
        grpc_status=_RESOURCE_EXHAUSTED if message.rate_limited_as_resource_exhausted else NO_GRPC,
        bucket=_bucket(message.token_bucket, within(path, "token_bucket"))
        if message.HasField("token_bucket")
        else None,
        enabled_per_million=_share(message, path, enforced=False),
        enforced_per_million=_share(message, path, enforced=True),
        rules=descriptor_rules(message.rate_limits, path),
        buckets=buckets,
        always_default=value_or(message, "always_consume_default_token_bucket", True),
        shown=message.enable_x_ratelimit_headers != 0,
    )


def global_rate_limit(message: GlobalMessage, path: str) -> GlobalRateLimit:
    """The filter that asks the control plane."""
    only(message, path, _GLOBAL)
    own = within(path, "rate_limit_service.grpc_service.envoy_grpc.cluster_name")
    cluster = message.rate_limit_service.grpc_service.envoy_grpc.cluster_name
    if cluster != CONTROL_PLANE_CLUSTER:
        raise beyond(own, shown(cluster), CONTROL_PLANE_CLUSTER)
    if not message.rate_limits:
        raise Refused(within(path, "rate_limits"), "found none, expected those of the filter itself")
    return GlobalRateLimit(
        domain=message.domain,
        timeout_s=seconds_or(message, "timeout", path, 0.02),
        deny=message.failure_mode_deny,
        status=_status(message.rate_limited_status, TOO_MANY),
        error_status=_status(message.status_on_error, _ERROR),
        grpc_status=_RESOURCE_EXHAUSTED if message.rate_limited_as_resource_exhausted else NO_GRPC,
        rules=descriptor_rules(message.rate_limits, path),
        shown=message.enable_x_ratelimit_headers != 0,
        marked=not message.disable_x_envoy_ratelimited_header,
    )


def _status(message: HttpStatus, default: int) -> int:
    """What is no error is not believed, as in Envoy."""
    return message.code if message.code >= 400 else default


def _share(message: LocalMessage, path: str, *, enforced: bool) -> int:
    if enforced:
        return runtime_share(message.filter_enforced, within(path, "filter_enforced"))
    return runtime_share(message.filter_enabled, within(path, "filter_enabled"))


# --- buckets


def _descriptor_bucket(message: DescriptorMessage, path: str) -> DescriptorBucket:
    entries = []
    for index, entry in enumerate(message.entries):
        only(entry, item(path, "entries", index), frozenset({"key", "value"}))
        entries.append((entry.key, entry.value))
    return DescriptorBucket(
        entries=tuple(entries), bucket=_bucket(message.token_bucket, within(path, "token_bucket"))
    )  # fmt: skip


def _bucket(message: BucketMessage, path: str) -> TokenBucket:
    interval_s = seconds(message.fill_interval, within(path, "fill_interval"))
    if interval_s < LEAST_FILL_S:
        raise refuse(within(path, "fill_interval"), f"{interval_s:g}s", f"at least {LEAST_FILL_S:g}s")
    return TokenBucket(
        max_tokens=message.max_tokens,
        tokens_per_fill=value_or(message, "tokens_per_fill", 1),
        fill_interval_s=interval_s,
    )


# --- descriptors


def descriptor_rules(messages: Sequence[RateLimitMessage], path: str) -> tuple[DescriptorRule, ...]:
    """The `rate_limits` of the message at `path`."""
    return tuple(_rule(one, item(path, "rate_limits", index)) for index, one in enumerate(messages))


def _rule(message: RateLimitMessage, path: str) -> DescriptorRule:
    only(message, path, frozenset({"actions"}))
    return DescriptorRule(
        tuple(_action(one, item(path, "actions", index)) for index, one in enumerate(message.actions))
    )  # fmt: skip


def _action(message: Action_, path: str) -> Action:
    which = message.WhichOneof("action_specifier") or ""
    own = within(path, which)
    match which:
        case "generic_key":
            only(message.generic_key, own, frozenset({"descriptor_key", "descriptor_value"}))
            key = message.generic_key.descriptor_key or "generic_key"
            return Action(kind=ActionKind.LITERAL, key=key, value=message.generic_key.descriptor_value)
        case "request_headers":
            only(message.request_headers, own, frozenset({"header_name", "descriptor_key"}))
            header = message.request_headers
            return Action(kind=ActionKind.HEADER, key=header.descriptor_key, name=header.header_name.lower())
        case "remote_address":
            return Action(kind=ActionKind.REMOTE_ADDRESS, key="remote_address")
        case "header_value_match":
            return _header_match(message.header_value_match, own)
        case "metadata":
            return _metadata(message.metadata, own)
        case "extension":
            typed = within(own, "typed_config")
            return _expression(unpacked(message.extension.typed_config, ExpressionMessage, typed), typed)
    raise beyond(own, "a value", "generic_key, request_headers, remote_address, header_value_match or metadata")


def _header_match(message: Action_.HeaderValueMatch, path: str) -> Action:
    return Action(
        kind=ActionKind.HEADER_MATCH,
        key=message.descriptor_key or "header_match",
        value=message.descriptor_value,
        headers=tuple(header_matcher(one, item(path, "headers", index)) for index, one in enumerate(message.headers)),
        expected=value_or(message, "expect_match", True),
    )


def _metadata(message: Action_.MetaData, path: str) -> Action:
    only(message, path, frozenset({"descriptor_key", "metadata_key"}))
    wanted = message.metadata_key
    return Action(
        kind=ActionKind.METADATA,
        key=message.descriptor_key,
        name=wanted.key,
        path=tuple(part.key for part in wanted.path),
    )


def _expression(message: ExpressionMessage, path: str) -> Action:
    rules.check(message, path)
    only(message, path, frozenset({"descriptor_key", "text"}))
    if message.text not in _EXPRESSIONS:
        raise beyond(within(path, "text"), shown(message.text), " or ".join(_EXPRESSIONS))
    return Action(kind=_EXPRESSIONS[message.text], key=message.descriptor_key)
