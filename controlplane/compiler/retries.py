"""RetrySettings as Envoy's RetryPolicy.

Source: control-plane.md 2.3.9; istio retry.go; gRFC A44 for what gRPC obeys.
"""

from envoy.config.route.v3.route_components_pb2 import RetryPolicy
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)

from controlplane.compiler.resources import duration, packed
from controlplane.policy.http_route import DEFAULT_RETRY_BACKOFF_S, RetrySettings
from mesh.vocabulary import Dialect

GRPC_RETRY_ON = frozenset({"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"})
_GRPC_MOST_RETRIES = 4  # maxAttempts is capped at 5, the first try included
_HOST_PICKS = 5
_PRIORITY_UPDATES = 2


def retry_policy(settings: RetrySettings | None, dialect: Dialect, *, sticky: bool) -> RetryPolicy | None:
    """The policy, or None for no retries. `sticky`: hosts are chosen by hash, so another pick is the same host."""
    if settings is None:
        return None
    if dialect is Dialect.GRPC:
        return _grpc(settings)
    policy = RetryPolicy(
        retry_on=",".join(settings.retry_on), retriable_status_codes=list(settings.retriable_status_codes)
    )
    policy.num_retries.value = settings.attempts
    if settings.per_try_timeout_s:
        policy.per_try_timeout.CopyFrom(duration(settings.per_try_timeout_s))
    if settings.backoff_base_s != DEFAULT_RETRY_BACKOFF_S and settings.backoff_base_s > 0:
        policy.retry_back_off.base_interval.CopyFrom(duration(settings.backoff_base_s))
    if settings.ignore_previous_hosts and not sticky:
        predicate = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
        predicate.typed_config.CopyFrom(packed(PreviousHostsPredicate()))
        policy.host_selection_retry_max_attempts = _HOST_PICKS
    if settings.retry_remote_localities:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        policy.retry_priority.typed_config.CopyFrom(
            packed(PreviousPrioritiesConfig(update_frequency=_PRIORITY_UPDATES))
        )
    return policy


def _grpc(settings: RetrySettings) -> RetryPolicy | None:
    conditions = [word for word in settings.retry_on if word in GRPC_RETRY_ON]
    if not conditions:
        return None
    policy = RetryPolicy(retry_on=",".join(conditions))
    policy.num_retries.value = min(settings.attempts, _GRPC_MOST_RETRIES)
    if settings.backoff_base_s != DEFAULT_RETRY_BACKOFF_S and settings.backoff_base_s > 0:
        policy.retry_back_off.base_interval.CopyFrom(duration(settings.backoff_base_s))
    return policy
