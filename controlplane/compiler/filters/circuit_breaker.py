"""CircuitBreaker as our agents' filter, configured per route, and what is nearest to it elsewhere.

Owns:   the filter's name and messages; outlier detection and thresholds that stand in for it; in words, what is lost.
Source: proto/mesh/api/v1/circuit_breaker.proto; gRFC A50, A32.
"""

from collections.abc import Iterator, Sequence

from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.route.v3.route_components_pb2 import FilterConfig
from google.protobuf.wrappers_pb2 import UInt32Value

from controlplane.compiler.resources import duration, packed
from controlplane.model.circuit_breakers import breaker_name
from controlplane.policy.circuit_breaker import CircuitBreaker, Fallback, Forced, Per
from controlplane.policy.hosts import resolve
from controlplane.policy.objects import PolicyObject
from mesh.api.v1.circuit_breaker_pb2 import CircuitBreaker as Message
from mesh.api.v1.circuit_breaker_pb2 import CircuitBreakerFilter, CircuitBreakerPerRoute
from mesh.vocabulary import Dialect
from mesh.xds.names import outbound_cluster

NAME = "gossamer.circuit_breaker"
_FORCED = {None: Message.NONE, Forced.OPEN: Message.OPEN, Forced.DISABLED: Message.DISABLED}
_ALL = 100


def filter_message() -> CircuitBreakerFilter:
    """It does nothing unless a route configures it."""
    return CircuitBreakerFilter()


def per_route(
    chosen: Sequence[tuple[PolicyObject, Sequence[str], int]], domain_suffix: str
) -> FilterConfig:  # fmt: skip
    """What a route says: (rule, clusters of the route, port that its calls go to) each. Optional to who has no such
    filter.
    """
    breakers = [_message(rule, clusters, port, domain_suffix) for rule, clusters, port in chosen]
    return FilterConfig(config=packed(CircuitBreakerPerRoute(breakers=breakers)), is_optional=True)


def _message(rule: PolicyObject, clusters: Sequence[str], port: int, domain_suffix: str) -> Message:
    spec = rule.spec_as(CircuitBreaker)
    message = Message(
        name=breaker_name(rule),
        clusters=clusters,
        per_caller=spec.per is Per.CALLER,
        failure_statuses=[Message.StatusRange(**{"from": low, "to": high}) for low, high in spec.statuses],
        failure_flags=spec.flags,
        volume=spec.volume,
        error_percent=spec.effective_error_percent,
        open_for=duration(spec.sleep_s),
        probes=spec.probes,
        judge_percentages=spec.judges_percentages,
        forced=_FORCED[spec.forced],
    )
    if spec.slow_call_s:
        message.slow_after.CopyFrom(duration(spec.slow_call_s))
        message.slow_percent = spec.slow_call_percent
    if spec.window_size:
        message.window_requests = spec.window_size
    else:
        message.window.CopyFrom(duration(spec.window_s))
        message.buckets = spec.buckets
    if spec.probe_wait_s:
        message.probe_wait.CopyFrom(duration(spec.probe_wait_s))
    if spec.fallback is not None:
        _set_fallback(message, spec.fallback, rule.metadata.namespace, port, domain_suffix)
    return message


def _set_fallback(message: Message, fallback: Fallback, namespace: str, port: int, domain_suffix: str) -> None:
    message.fallback_on_failure = fallback.on_failure
    if fallback.response is not None:
        answer, body = message.answer, fallback.response.body
        answer.status = fallback.response.effective_status
        answer.body = (body.content if body is not None else None) or b""
        for name, value in fallback.response.headers.items():
            answer.headers.add(name=name, value=value)
    elif fallback.service is not None:
        other = fallback.service
        host = resolve(other.host, namespace, domain_suffix=domain_suffix)
        message.cluster = outbound_cluster(host, other.port_number or port, other.subset)
    elif fallback.cached is not None:
        kept = message.last_good
        kept.max_age.CopyFrom(duration(fallback.cached.max_age_s))
        kept.max_entries = fallback.cached.effective_entries
        kept.max_bytes = fallback.cached.effective_bytes


# --- what has no such filter


def stand_in(rule: PolicyObject) -> OutlierDetection:
    """Each host is ejected by itself when so many of its requests fail, for the sleep window and longer each time."""
    spec = rule.spec_as(CircuitBreaker)

    def number(value: float) -> UInt32Value:
        return UInt32Value(value=round(value))

    return OutlierDetection(
        interval=duration(spec.window_s),
        base_ejection_time=duration(spec.sleep_s),
        max_ejection_percent=number(_ALL),
        enforcing_consecutive_5xx=number(0),
        enforcing_success_rate=number(0),
        failure_percentage_threshold=number(max(spec.effective_error_percent, 1)),
        failure_percentage_minimum_hosts=number(1),
        failure_percentage_request_volume=number(spec.volume),
        enforcing_failure_percentage=number(0 if spec.forced is not None else _ALL),
    )


def refuses_all(rule: PolicyObject | None) -> bool:
    """Whether a person has ordered that nothing passes: then there is no room for a single request."""
    return rule is not None and rule.spec_as(CircuitBreaker).forced is Forced.OPEN


def lost(rule: PolicyObject, dialect: Dialect, *, has_outlier_detection: bool) -> Iterator[str]:
    """What proxies of the dialect do not do, or do otherwise."""
    who = {Dialect.ENVOY: "Envoys", Dialect.GRPC: "gRPC clients"}[dialect]
    spec = rule.spec_as(CircuitBreaker)
    if spec.effective_target.route:
        yield f"{who} have no breaker for one route: they let all of its calls pass"
        return
    if has_outlier_detection and spec.forced is not Forced.OPEN:  # they refuse all then, whatever they eject
        yield f"{who} obey the outlierDetection of the DestinationRule instead"
    elif spec.forced is None:
        yield (
            f"{who} eject each host at {spec.effective_error_percent:g} % failures of {spec.volume} requests in "
            f"{spec.window_s:g} s, for {spec.sleep_s:g} s and longer each time, and let it return without a probe"
        )
    if spec.per is Per.CALLER:
        yield f"{who} know one caller, themselves"
    if spec.fallback is not None:
        yield f"{who} have no fallback and answer 503"
