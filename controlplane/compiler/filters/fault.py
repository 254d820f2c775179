"""Fault injection as Envoy's fault filter, configured per route.

Owns:   where the filter works: at each try, so that the route's retries and time-out apply to what it does, or before
        the router, as in Istio: for `compat: istio`, and for Envoy, which has it nowhere else.
Source: istio fault.go; control-plane.md 2.3.11: an absent percentage hits nobody.
"""

from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay as DelayMessage
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort as AbortMessage
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.type.v3.percent_pb2 import FractionalPercent

from controlplane.compiler.resources import duration
from controlplane.policy.http_route import FaultAbort, FaultDelay, HTTPFaultInjection
from mesh.vocabulary import Dialect

NAME = "envoy.filters.http.fault"
OF_TRIES = "gossamer.fault_of_tries"

# gRPC's status codes by the names that policies use.
_GRPC_STATUSES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


def http_fault(injection: HTTPFaultInjection | None) -> HTTPFault | None:
    """The filter's configuration for a route, or None when it would do nothing."""
    if injection is None:
        return None
    message = HTTPFault()
    delay, abort = injection.delay, injection.abort
    if delay is not None and delay.fixed_delay and delay.effective_percent > 0:
        message.delay.CopyFrom(_delay(delay))
    if abort is not None and abort.effective_percent > 0 and (abort.http_status or abort.grpc_status is not None):
        message.abort.CopyFrom(_abort(abort))
    return message if message.HasField("delay") or message.HasField("abort") else None


def name_for(dialect: Dialect, *, istio: bool) -> str:
    """The filter that a route's faults are for."""
    return OF_TRIES if dialect is Dialect.GOSSAMER and not istio else NAME


def fraction(percent: float) -> FractionalPercent:
    """0..100 with four digits behind the point."""
    return FractionalPercent(numerator=round(percent * 10_000), denominator=FractionalPercent.MILLION)


def _delay(delay: FaultDelay) -> DelayMessage:
    return DelayMessage(fixed_delay=duration(delay.fixed_delay or 0), percentage=fraction(delay.effective_percent))


def _abort(abort: FaultAbort) -> AbortMessage:
    message = AbortMessage(percentage=fraction(abort.effective_percent))
    if abort.grpc_status is not None:
        message.grpc_status = _GRPC_STATUSES.index(abort.grpc_status)
    else:
        message.http_status = abort.http_status or 0
    return message
