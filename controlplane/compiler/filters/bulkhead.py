"""Bulkhead as our agents' filter, configured per route, and the thresholds that stand in for it elsewhere.

Source: proto/mesh/api/v1/bulkhead.proto; envoy/config/cluster/v3/circuit_breaker.proto.
"""

from collections.abc import Sequence

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from envoy.config.route.v3.route_components_pb2 import FilterConfig

from controlplane.compiler.resources import duration, packed
from controlplane.model.circuit_breakers import breaker_name
from controlplane.policy.bulkhead import Bulkhead
from controlplane.policy.objects import PolicyObject
from mesh.api.v1.bulkhead_pb2 import Bulkhead as Message
from mesh.api.v1.bulkhead_pb2 import BulkheadFilter, BulkheadPerRoute
from mesh.vocabulary import Dialect

NAME = "gossamer.bulkhead"


def filter_message() -> BulkheadFilter:
    """It does nothing unless a route configures it."""
    return BulkheadFilter()


def per_route(chosen: Sequence[tuple[PolicyObject, Sequence[str]]]) -> FilterConfig:
    """What a route says: (rule, clusters of the route) each. Optional to who has no such filter."""
    bulkheads = [_message(rule, clusters) for rule, clusters in chosen]
    return FilterConfig(config=packed(BulkheadPerRoute(bulkheads=bulkheads)), is_optional=True)


def at_instance(rule: PolicyObject, instance: str) -> FilterConfig:
    """What the route to an instance says: all of its ports share the room."""
    message = _message(rule, ())
    message.name = f"{message.name}/{instance}"
    message.by_certificate = True
    return FilterConfig(config=packed(BulkheadPerRoute(bulkheads=[message])), is_optional=True)


def _message(rule: PolicyObject, clusters: Sequence[str]) -> Message:
    spec = rule.spec_as(Bulkhead)
    message = Message(
        name=breaker_name(rule), clusters=clusters, max_concurrent=spec.concurrent, max_per_caller=spec.share
    )
    if spec.effective_queue.size:
        message.queue = spec.effective_queue.size
        message.max_wait.CopyFrom(duration(spec.effective_queue.max_wait_s))
    return message


def cap_requests(thresholds: CircuitBreakers.Thresholds, rule: PolicyObject) -> None:
    """No more requests than the bulkhead has room for, however they are shared out."""
    most = rule.spec_as(Bulkhead).concurrent
    thresholds.max_requests.value = min(thresholds.max_requests.value, most)


def lost(rule: PolicyObject, dialect: Dialect) -> str:
    """What proxies of the dialect do not do, or do otherwise."""
    who = {Dialect.ENVOY: "Envoys", Dialect.GRPC: "gRPC clients"}[dialect]
    spec = rule.spec_as(Bulkhead)
    if spec.effective_target.route:
        return f"{who} have no bulkhead for one route"
    return f"{who} allow {spec.concurrent} requests under way to each cluster, of whichever caller, and none waits"


def lost_at_instance(rule: PolicyObject) -> str:
    """What an Envoy at the callee does otherwise."""
    return f"the Envoy takes {rule.spec_as(Bulkhead).concurrent} requests at once, of whichever caller, and none waits"
