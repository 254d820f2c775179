"""%OPERATORS%: what a name in a format string stands for, as a function of the request.

Owns:   the operators' names, what happened to the request. None = there is no value; integers stay integers (typed
        JSON).
Not:    fields, addresses and times (field_operators, address_operators, time_operators), format strings around them
        (formats), what they are used for (access_log, header_operations).
Source: Envoy access_log/usage; data-plane.md 1.11.
Invariant: called at the end of a request, or while its header operations run: what is not known yet is None or 0.
"""

from collections.abc import Callable

from agent.filters import address_operators, field_operators, time_operators, trace_context
from agent.filters.repeated import shown
from agent.filters.subject import FormatError, Operator, Subject, Value, text_of

# Envoy's ResponseFlag, short and long.
_LONG = {
    "DC": "DownstreamConnectionTermination", "DF": "DnsResolutionFailed", "DI": "DelayInjected",
    "DPE": "DownstreamProtocolError", "DT": "DurationTimeout", "FI": "FaultInjected", "LH": "FailedLocalHealthCheck",
    "LR": "LocalReset", "NC": "NoClusterFound", "NR": "NoRouteFound", "OM": "OverloadManagerTerminated",
    "RL": "RateLimited", "SI": "StreamIdleTimeout", "UAEX": "UnauthorizedExternalService",
    "UC": "UpstreamConnectionTermination", "UF": "UpstreamConnectionFailure", "UH": "NoHealthyUpstream",
    "UMSDR": "UpstreamMaxStreamDurationReached", "UO": "UpstreamOverflow", "UPE": "UpstreamProtocolError",
    "UR": "UpstreamRemoteReset", "URX": "UpstreamRetryLimitExceeded", "UT": "UpstreamRequestTimeout",
}  # fmt: skip


def operator(name: str, argument: str) -> Operator:
    """What `%NAME%` or `%NAME(ARGUMENT)%` stands for. Raises FormatError."""
    if name in _WITH_ARGUMENT:
        return _WITH_ARGUMENT[name](argument)
    if argument or name not in _PLAIN:
        known = ", ".join(sorted({*_PLAIN, *_WITH_ARGUMENT}))
        raise FormatError(f"found %{name}{f'({argument})' if argument else ''}%, expected one of {known}")
    return _PLAIN[name]


def _nothing(subject: Subject) -> Value:
    return None


def _never(argument: str) -> Operator:
    """What no filter of ours ever sets."""
    return _nothing


# --- how it ended -----------------------------------------------------------------------------------------------------


def _protocol(subject: Subject) -> Value:
    minor = subject.head.version_minor
    return "HTTP/1.1" if minor == 1 else "HTTP/1.0" if minor == 0 else None


def _flags(subject: Subject) -> Value:
    return subject.flags or "-"


def _long_flags(subject: Subject) -> Value:
    return ",".join(_LONG.get(flag, flag) for flag in subject.flags.split(",")) if subject.flags else "-"


def _details(subject: Subject) -> Value:
    return subject.details or None


def _stream_id(subject: Subject) -> Value:
    return text_of(shown(subject.head.headers, b"x-request-id"))


def _trace_id(subject: Subject) -> Value:
    return text_of(trace_context.trace_id(subject.head))


# --- where it went ----------------------------------------------------------------------------------------------------


def _route_name(subject: Subject) -> Value:
    match = subject.match
    return match.route.name or None if match is not None else None


def _virtual_host_name(subject: Subject) -> Value:
    match = subject.match
    return match.virtual_host.name if match is not None else None


def _upstream_cluster(subject: Subject) -> Value:
    choice = subject.choice
    return choice.cluster if choice is not None else None


def _hosts_attempted(subject: Subject) -> Value:
    hosts = [host.key for host in subject.tried]
    if subject.host is not None:
        hosts.append(subject.host.key)
    return ",".join(dict.fromkeys(hosts)) or None


def _upstream_protocol(subject: Subject) -> Value:
    carrier = subject.carrier
    return "HTTP/1.1" if carrier is not None and subject.head.version_minor >= 0 else None


# --- who --------------------------------------------------------------------------------------------------------------


def _upstream_peer(subject: Subject) -> Value:
    carrier = subject.carrier
    return carrier.peer or None if carrier is not None else None


def _peer_uri_san(subject: Subject) -> Value:
    uris = subject.connection.peer_uris
    return ",".join(sorted(uris)) if uris else None


_PLAIN: dict[str, Operator] = {
    **address_operators.PLAIN,
    **field_operators.PLAIN,
    **time_operators.PLAIN,
    "ACCESS_LOG_TYPE": lambda subject: "DownstreamEnd",
    "BYTES_RECEIVED": lambda subject: subject.received_bytes,
    "BYTES_SENT": lambda subject: subject.sent_bytes,
    "CONNECTION_TERMINATION_DETAILS": _nothing,
    "DOWNSTREAM_LOCAL_URI_SAN": lambda subject: subject.chain.own_id or None,
    "DOWNSTREAM_PEER_URI_SAN": _peer_uri_san,
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON": _nothing,  # such a connection has no request
    "HOSTNAME": lambda subject: subject.chain.node or None,
    "PROTOCOL": _protocol,
    "REQUESTED_SERVER_NAME": _nothing,  # ssl does not tell a server which name was asked for
    "RESPONSE_CODE": lambda subject: subject.status,
    "RESPONSE_CODE_DETAILS": _details,
    "RESPONSE_FLAGS": _flags,
    "RESPONSE_FLAGS_LONG": _long_flags,
    "ROUTE_NAME": _route_name,
    "SPAN_ID": _nothing,  # the agent makes no spans
    "STREAM_ID": _stream_id,
    "TRACE_ID": _trace_id,
    "UPSTREAM_CLUSTER": _upstream_cluster,
    "UPSTREAM_CLUSTER_RAW": _upstream_cluster,
    "UPSTREAM_HOSTS_ATTEMPTED": _hosts_attempted,
    "UPSTREAM_PEER_URI_SAN": _upstream_peer,
    "UPSTREAM_PROTOCOL": _upstream_protocol,
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda subject: subject.attempts,
    "UPSTREAM_TRANSPORT_FAILURE_REASON": lambda subject: subject.transport_failure or None,
    "VIRTUAL_CLUSTER_NAME": _nothing,  # virtual clusters are for statistics that the agent does not keep
    "VIRTUAL_HOST_NAME": _virtual_host_name,
}
_WITH_ARGUMENT: dict[str, Callable[[str], Operator]] = {
    **field_operators.WITH_ARGUMENT,
    **time_operators.WITH_ARGUMENT,
    "DYNAMIC_METADATA": _never,
    "FILTER_STATE": _never,
}
