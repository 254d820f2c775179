"""%OPERATORS%: what a name in a format string stands for, as a function of the request.

Owns:   the operators' names and values. None = there is no value; integers stay integers (typed JSON).
Not:    format strings around them (formats), what they are used for (access_log, header_operations).
Source: Envoy access_log/usage; data-plane.md 1.11.
Invariant: called at the end of a request, or while its header operations run: what is not known yet is None or 0.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from agent.filters import forwarded, trace_context
from agent.filters.local_replies import is_grpc
from agent.router.matchers import header_value, query_parameters

# Who is asked: an Exchange or a TcpConnection of agent.proxy. Untyped, since the data path is above the filters. Both
# have a head; that of a TCP connection is empty, with version_minor -1.
Subject = Any
Value = str | int | None
Operator = Callable[[Subject], Value]

_GRPC_CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
    "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
    "Internal", "Unavailable", "DataLoss", "Unauthenticated",
)  # fmt: skip
_FRACTIONS = re.compile(r"%([1-9])f")


class FormatError(ValueError):
    """A format string cannot be used; the text says what was found and expected."""


def operator(name: str, argument: str) -> Operator:
    """What `%NAME%` or `%NAME(ARGUMENT)%` stands for. Raises FormatError."""
    if name in _WITH_ARGUMENT:
        return _WITH_ARGUMENT[name](argument)
    if argument or name not in _PLAIN:
        known = ", ".join(sorted({*_PLAIN, *_WITH_ARGUMENT}))
        raise FormatError(f"found %{name}{f'({argument})' if argument else ''}%, expected one of {known}")
    return _PLAIN[name]


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()  # without arguments it takes half the time
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace")


# --- header fields ----------------------------------------------------------------------------------------------------


def _names(argument: str, operator_name: str) -> tuple[bytes, bytes]:
    first, mark, other = argument.lower().partition("?")
    if not first or (mark and not other):
        raise FormatError(f"found %{operator_name}({argument})%, expected a field's name, or two with ? between them")
    return first.encode(), other.encode()


def _request_field(argument: str) -> Operator:
    first, other = _names(argument, "REQ")
    if not other and first not in (b":method", b":path", b":authority", b":scheme", b"host"):

        def plain(subject: Subject) -> Value:
            return _text(subject.head.headers.index.get(first))

        return plain

    def either(subject: Subject) -> Value:
        value = header_value(subject.head, first)
        if value is None and other:
            value = header_value(subject.head, other)
        # A request that could not be read has no method, path or authority.
        return _text(value or None)

    return either


def _response_field(argument: str) -> Operator:
    first, other = _names(argument, "RESP")

    def field(subject: Subject) -> Value:
        response = subject.response
        if response is None:
            return None
        value = response.headers.index.get(first)
        if value is None and other:
            value = response.headers.index.get(other)
        return _text(value)

    return field


def _trailer(argument: str) -> Operator:
    _names(argument, "TRAILER")
    return _nothing  # trailers of HTTP/1 end at the agent


def _query_parameter(argument: str) -> Operator:
    name = argument.encode()
    return lambda subject: _text(query_parameters(subject.head.path).get(name))


def _grpc_status(argument: str) -> Operator:
    if argument not in ("", "CAMEL_STRING", "SNAKE_STRING", "NUMBER"):
        raise FormatError(f"found %GRPC_STATUS({argument})%, expected CAMEL_STRING, SNAKE_STRING or NUMBER")

    def status(subject: Subject) -> Value:
        response = subject.response if is_grpc(subject.head) else None
        value = response.headers.index.get(b"grpc-status") if response is not None else None
        if value is None or not value.isdigit():
            return None
        code = int(value[:9])
        if argument == "NUMBER" or code >= len(_GRPC_CODES):
            return code
        name = _GRPC_CODES[code]
        return name if argument != "SNAKE_STRING" else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()

    return status


# --- time -------------------------------------------------------------------------------------------------------------


def _start_time(argument: str) -> Operator:
    if not argument:
        return _StartTime()

    def formatted(subject: Subject) -> Value:
        at = subject.started + subject.chain.wall_offset_s
        return _formatted(at, argument)

    return formatted


def _formatted(at: float, form: str) -> str:
    fraction = f"{int(at % 1 * 10**9):09d}"
    form = form.replace("%s", str(int(at)))
    form = _FRACTIONS.sub(lambda found: fraction[: int(found[1])], form)
    return datetime.fromtimestamp(at, UTC).strftime(form.replace("%f", fraction))


class _StartTime:
    """ISO 8601 with milliseconds: made once a millisecond, and what is before them once a second."""

    __slots__ = ("_millisecond", "_prefix", "_second", "_text")

    def __init__(self) -> None:
        self._millisecond = self._second = -1
        self._prefix = self._text = ""

    def __call__(self, subject: Subject) -> Value:
        millisecond = int((subject.started + subject.chain.wall_offset_s) * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._text = f"{self._prefix}.{rest:03d}Z"
        return self._text


def _duration(subject: Subject) -> Value:
    return _between(subject.started, subject.ended)


def _request_duration(subject: Subject) -> Value:
    return _between(subject.started, subject.request_done_at)


def _response_duration(subject: Subject) -> Value:
    return _between(subject.started, subject.response_at)


def _response_tx_duration(subject: Subject) -> Value:
    return _between(subject.response_at, subject.ended)


def _between(begun: float, ended: float) -> int | None:
    return int((ended - begun) * 1000) if begun and ended else None


# --- what happened ----------------------------------------------------------------------------------------------------


def _nothing(subject: Subject) -> Value:
    return None


def _protocol(subject: Subject) -> Value:
    minor = subject.head.version_minor
    return "HTTP/1.1" if minor == 1 else "HTTP/1.0" if minor == 0 else None


def _flags(subject: Subject) -> Value:
    return subject.flags or "-"


def _details(subject: Subject) -> Value:
    return subject.details or None


def _route_name(subject: Subject) -> Value:
    match = subject.match
    return match.route.name or None if match is not None else None


def _virtual_host_name(subject: Subject) -> Value:
    match = subject.match
    return match.virtual_host.name if match is not None else None


def _upstream_cluster(subject: Subject) -> Value:
    choice = subject.choice
    return choice.cluster if choice is not None else None


def _upstream_host(subject: Subject) -> Value:
    host = subject.host
    return host.key if host is not None else None


def _hosts_attempted(subject: Subject) -> Value:
    hosts = [host.key for host in subject.tried]
    if subject.host is not None:
        hosts.append(subject.host.key)
    return ",".join(dict.fromkeys(hosts)) or None


def _upstream_local_address(subject: Subject) -> Value:
    carrier = subject.carrier
    return carrier.local_address or None if carrier is not None else None


def _upstream_peer(subject: Subject) -> Value:
    carrier = subject.carrier
    return carrier.peer or None if carrier is not None else None


def _downstream_address(subject: Subject) -> Value:
    """The believed address: an entry of x-forwarded-for has no port, which is written as 0."""
    connection = subject.connection
    hops = subject.chain.trusted_hops
    if hops != forwarded.PEER:
        value = subject.head.headers.index.get(forwarded.FOR)
        if value is not None:
            address = forwarded.client_address(value, hops)
            if address:
                return f"[{address}]:0" if ":" in address else f"{address}:0"
    return connection.peer_address or None


def _without_port(address: Operator) -> Operator:
    def host(subject: Subject) -> Value:
        text = address(subject)
        return forwarded.host_of(str(text)) if text is not None else None

    return host


def _direct_address(subject: Subject) -> Value:
    return subject.connection.peer_address or None


def _local_address(subject: Subject) -> Value:
    return subject.connection.local_address or None


def _local_port(subject: Subject) -> Value:
    port = subject.connection.local_address.rpartition(":")[2]
    return int(port) if port.isdigit() else None


def _peer_uri_san(subject: Subject) -> Value:
    uris = subject.connection.peer_uris
    return ",".join(sorted(uris)) if uris else None


def _trace_id(subject: Subject) -> Value:
    return _text(trace_context.trace_id(subject.head))


_PLAIN: dict[str, Operator] = {
    "ACCESS_LOG_TYPE": lambda subject: "DownstreamEnd",
    "BYTES_RECEIVED": lambda subject: subject.received_bytes,
    "BYTES_SENT": lambda subject: subject.sent_bytes,
    "CONNECTION_TERMINATION_DETAILS": _nothing,
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": _direct_address,
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": _without_port(_direct_address),
    "DOWNSTREAM_LOCAL_ADDRESS": _local_address,
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": _without_port(_local_address),
    "DOWNSTREAM_LOCAL_PORT": _local_port,
    "DOWNSTREAM_LOCAL_URI_SAN": lambda subject: subject.chain.own_id or None,
    "DOWNSTREAM_PEER_URI_SAN": _peer_uri_san,
    "DOWNSTREAM_REMOTE_ADDRESS": _downstream_address,
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": _without_port(_downstream_address),
    "DURATION": _duration,
    "HOSTNAME": lambda subject: subject.chain.node or None,
    "PROTOCOL": _protocol,
    "REQUESTED_SERVER_NAME": _nothing,  # ssl does not tell a server which name was asked for
    "REQUEST_DURATION": _request_duration,
    "RESPONSE_CODE": lambda subject: subject.status,
    "RESPONSE_CODE_DETAILS": _details,
    "RESPONSE_DURATION": _response_duration,
    "RESPONSE_FLAGS": _flags,
    "RESPONSE_TX_DURATION": _response_tx_duration,
    "ROUTE_NAME": _route_name,
    "STREAM_ID": lambda subject: _text(subject.head.headers.index.get(b"x-request-id")),
    "TRACE_ID": _trace_id,
    "UPSTREAM_CLUSTER": _upstream_cluster,
    "UPSTREAM_CLUSTER_RAW": _upstream_cluster,
    "UPSTREAM_HOST": _upstream_host,
    "UPSTREAM_HOSTS_ATTEMPTED": _hosts_attempted,
    "UPSTREAM_LOCAL_ADDRESS": _upstream_local_address,
    "UPSTREAM_PEER_URI_SAN": _upstream_peer,
    "UPSTREAM_REMOTE_ADDRESS": _upstream_host,
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": _without_port(_upstream_host),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda subject: subject.attempts,
    "UPSTREAM_TRANSPORT_FAILURE_REASON": lambda subject: subject.transport_failure or None,
    "VIRTUAL_HOST_NAME": _virtual_host_name,
}
_WITH_ARGUMENT: dict[str, Callable[[str], Operator]] = {
    "GRPC_STATUS": _grpc_status,
    "QUERY_PARAM": _query_parameter,
    "REQ": _request_field,
    "RESP": _response_field,
    "START_TIME": _start_time,
    "TRAILER": _trailer,
}
