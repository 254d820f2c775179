"""RetryPolicy and HedgePolicy as the agent enforces them.

Source: envoy/config/route/v3/route_components.proto RetryPolicy; data-plane.md 1.5. Unknown words of `retry_on` are
        passed over, as Envoy does.
"""

from collections.abc import Iterable

from envoy.config.route.v3.route_components_pb2 import HeaderMatcher as HeaderMessage
from envoy.config.route.v3.route_components_pb2 import HedgePolicy
from envoy.config.route.v3.route_components_pb2 import RetryPolicy as RetryMessage
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)

from agent.config.durations import seconds_or
from agent.config.fields import beyond, item, only, refuse, type_of, unpacked, value_or, within
from agent.config.matchers import header_matcher
from agent.model.matchers import HeaderMatcher
from agent.model.route import RetryPolicy

RETRY_ON = frozenset(
    {
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
        "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
        "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    }
)  # fmt: skip
MAX_HOST_SELECTION = 1000  # each is one more look at the hosts within a request
_BASE_S = 0.025
_LEAST_S = 0.001
_FACTOR = 10  # how many bases the longest pause is, unless it is given
_KNOWN = frozenset(
    {
        "retry_on", "num_retries", "per_try_timeout", "per_try_idle_timeout", "retry_host_predicate",
        "host_selection_retry_max_attempts", "retriable_status_codes", "retry_back_off", "retriable_headers",
        "retriable_request_headers", "rate_limited_retry_back_off", "retry_priority",
    }
)  # fmt: skip
_PREVIOUS_HOSTS = "envoy.retry_host_predicates.previous_hosts"
_PREVIOUS_PRIORITIES = "envoy.retry_priorities.previous_priorities"
_RESET_MAX_S = 300.0


def retry_policy(message: RetryMessage, path: str) -> RetryPolicy:
    """The policy."""
    only(message, path, _KNOWN)
    base_s, max_s = _back_off(message, path)
    limited = message.rate_limited_retry_back_off
    return RetryPolicy(
        retry_on=frozenset(word.strip() for word in message.retry_on.split(",")) & RETRY_ON,
        num_retries=value_or(message, "num_retries", 1),
        per_try_timeout_s=seconds_or(message, "per_try_timeout", path, 0.0),
        per_try_idle_timeout_s=seconds_or(message, "per_try_idle_timeout", path, 0.0),
        back_off_base_s=base_s,
        back_off_max_s=max_s,
        retriable_status_codes=frozenset(message.retriable_status_codes),
        retriable_headers=_headers(message.retriable_headers, path, "retriable_headers"),
        retriable_request_headers=_headers(message.retriable_request_headers, path, "retriable_request_headers"),
        previous_hosts=_previous_hosts(message, path),
        host_selection_max_attempts=_host_selection(message, path),
        reset_headers=tuple(
            (header.name.lower(), header.format == RetryMessage.UNIX_TIMESTAMP) for header in limited.reset_headers
        ),
        reset_max_s=seconds_or(limited, "max_interval", within(path, "rate_limited_retry_back_off"), _RESET_MAX_S),
        priority_updates=_priority_updates(message, path),
    )


def hedge_policy(message: HedgePolicy, path: str) -> bool:
    """Whether a try that takes too long goes on beside the next one."""
    only(message, path, frozenset({"hedge_on_per_try_timeout"}))
    return message.hedge_on_per_try_timeout


def _headers(messages: Iterable[HeaderMessage], path: str, name: str) -> tuple[HeaderMatcher, ...]:
    return tuple(header_matcher(message, item(path, name, index)) for index, message in enumerate(messages))


def _back_off(message: RetryMessage, path: str) -> tuple[float, float]:
    if not message.HasField("retry_back_off"):
        return _BASE_S, _FACTOR * _BASE_S
    own = within(path, "retry_back_off")
    base_s = max(seconds_or(message.retry_back_off, "base_interval", own, _BASE_S), _LEAST_S)
    max_s = seconds_or(message.retry_back_off, "max_interval", own, _FACTOR * base_s)
    if max_s < base_s:
        raise refuse(within(own, "max_interval"), max_s, f"at least base_interval, {base_s:g} s")
    return base_s, max_s


def _previous_hosts(message: RetryMessage, path: str) -> bool:
    for index, predicate in enumerate(message.retry_host_predicate):
        typed = type_of(predicate.typed_config)
        known = typed == PreviousHostsPredicate.DESCRIPTOR.full_name or (
            not typed and predicate.name == _PREVIOUS_HOSTS
        )
        if not known:
            raise beyond(item(path, "retry_host_predicate", index), typed or predicate.name, _PREVIOUS_HOSTS)
    return bool(message.retry_host_predicate)


def _priority_updates(message: RetryMessage, path: str) -> int:
    if not message.HasField("retry_priority"):
        return 0
    own = within(path, "retry_priority")
    typed = message.retry_priority.typed_config
    if type_of(typed) != PreviousPrioritiesConfig.DESCRIPTOR.full_name:
        raise beyond(own, type_of(typed) or message.retry_priority.name or "no name", _PREVIOUS_PRIORITIES)
    found = unpacked(typed, PreviousPrioritiesConfig, within(own, "typed_config")).update_frequency
    if found <= 0:
        raise refuse(within(own, "typed_config.update_frequency"), found, "at least 1")
    return found


def _host_selection(message: RetryMessage, path: str) -> int:
    found = message.host_selection_retry_max_attempts
    if not 0 <= found <= MAX_HOST_SELECTION:
        raise refuse(within(path, "host_selection_retry_max_attempts"), found, f"0 to {MAX_HOST_SELECTION}")
    return found or 1
