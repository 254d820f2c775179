"""The fault filter's configuration. Source: envoy/extensions/filters/http/fault/v3/fault.proto."""

from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault

from agent.config.durations import seconds_or
from agent.config.fields import item, only, value_or, within
from agent.config.fractions import per_million, unit_of
from agent.config.matchers import header_matcher
from agent.model.fault import NO_GRPC, NO_LIMIT, Abort, Delay, Fault

# disable_downstream_cluster_stats: the agent has none.
_KNOWN = frozenset(
    {
        "delay", "abort", "upstream_cluster", "headers", "downstream_nodes", "max_active_faults",
        "disable_downstream_cluster_stats",
    }
)  # fmt: skip


def fault(message: HTTPFault, path: str) -> Fault:
    """The faults of a connection manager or a route."""
    only(message, path, _KNOWN)
    return Fault(
        delay=_delay(message.delay, within(path, "delay")) if message.HasField("delay") else None,
        abort=_abort(message.abort, within(path, "abort")) if message.HasField("abort") else None,
        headers=tuple(header_matcher(one, item(path, "headers", index)) for index, one in enumerate(message.headers)),
        cluster=message.upstream_cluster,
        nodes=frozenset(message.downstream_nodes),
        max_active=value_or(message, "max_active_faults", NO_LIMIT),
    )


def _delay(message: FaultDelay, path: str) -> Delay:
    only(message, path, frozenset({"fixed_delay", "header_delay", "percentage"}))
    share = within(path, "percentage")
    return Delay(
        seconds=seconds_or(message, "fixed_delay", path, 0.0),
        by_header=message.WhichOneof("fault_delay_secifier") == "header_delay",
        per_million=per_million(message.percentage, share),
        unit=unit_of(message.percentage, share),
    )


def _abort(message: FaultAbort, path: str) -> Abort:
    only(message, path, frozenset({"http_status", "grpc_status", "header_abort", "percentage"}))
    share, which = within(path, "percentage"), message.WhichOneof("error_type")
    return Abort(
        status=message.http_status,
        grpc_status=message.grpc_status if which == "grpc_status" else NO_GRPC,
        by_header=which == "header_abort",
        per_million=per_million(message.percentage, share),
        unit=unit_of(message.percentage, share),
    )
