"""The answers that we give ourselves: which one, with which flag and details; then the request ends.

Owns:   the golden matrix of data-plane.md 1.11, row by row.
Not:    how a local reply is written (agent.filters.local_replies), redirects' targets (agent.router).
Source: data-plane.md 1.11, recorded from Envoy 1.40.
Invariant: if an answer has already begun, it is cut instead.
"""

from typing import TYPE_CHECKING, Final

from agent.codec.head import ResponseHead
from agent.codec.protocol_error import ProtocolError
from agent.codec.serialise import reason_of
from agent.filters import envoy_headers
from agent.filters.local_replies import BY_STATUS
from agent.model.resets import PROTOCOL_ERROR
from agent.model.route import DirectResponse, Redirect
from agent.proxy.hedging import tries_of
from agent.stats import names

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

_RESET_TEXT = "upstream connect error or disconnect/reset before headers. "
_RETRIED_TEXT = "retried and the latest "
_RESET_FLAGS = {
    "remote_connection_failure": "UF",
    "local_connection_failure": "UF",
    "connection_timeout": "UF",
    "connection_termination": "UC",
    "protocol_error": "UPE",
    "overflow": "UO",
}
OVERLOADED: Final = ((b"x-envoy-overloaded", b"true"),)
_BAD_REQUEST = 400
# A head that did not come in time: flag and body.
_LATE = {
    "stream_idle_timeout": ("SI", b"stream timeout"),
    "request_header_timeout": ("", b"request header timeout"),
    "request_overall_timeout": ("", b"request timeout"),
}


def _reply(
    exchange: "Exchange",
    status: int,
    body: bytes,
    flag: str,
    details: str,
    fields: tuple[tuple[bytes, bytes], ...] = (),
    grpc_status: int = BY_STATUS,
) -> None:
    passage = exchange.passage
    guard = passage.guard if passage is not None else None
    if guard is not None and exchange.response is None and guard.on_local_failure(status, flag):
        return
    if flag:
        exchange.flags = joined(exchange.flags, flag)
    exchange.details = details
    if status == _BAD_REQUEST:
        exchange.connection.closing = True  # who has sent it may have meant something else, as may what follows
    exchange.abandon_upstream()
    if exchange.response is not None:
        exchange.break_off()
        return
    head, data = exchange.chain.local_reply(exchange, status, body, fields, grpc_status)
    _send(exchange, head, data)


def _send(exchange: "Exchange", head: ResponseHead, data: bytes) -> None:
    exchange.status = head.status
    exchange.response = head
    exchange.answered_here = True
    exchange.answer(head, data, True)


def joined(flags: str, flag: str) -> str:
    """The response flags of a request with one more."""
    return f"{flags},{flag}" if flags else flag


def _text(exchange: "Exchange", reason: str) -> bytes:
    retried = _RETRIED_TEXT if exchange.attempts > 1 else ""
    return f"{_RESET_TEXT}{retried}reset reason: {reason}".encode()


def refuse_head(exchange: "Exchange", details: str) -> None:
    """The connection manager refuses the head."""
    if details == "http1.connection_header_rejected":
        protocol_error(exchange, ProtocolError(400, details))
    elif details == "absolute_path_rejected":
        _reply(exchange, 404, b"", "", details)
    else:
        exchange.connection.closing = True
        _reply(exchange, 400, b"", "", details)


def protocol_error(exchange: "Exchange", error: ProtocolError) -> None:
    """What came is not HTTP as we serve it; the connection ends."""
    exchange.connection.closing = True
    status = error.status
    if error.details in _LATE:
        flag, body = _LATE[error.details]
        _reply(exchange, status, body, flag, error.details)
        return
    if error.details in ("missing_host_header", "path_normalization_failed", "connect_not_allowed"):
        _reply(exchange, status, b"", "", error.details)
        return
    _reply(exchange, status, reason_of(status), "DPE", error.details)


def no_route(exchange: "Exchange") -> None:
    exchange.chain.counts[names.NO_ROUTE] += 1
    _reply(exchange, 404, b"", "NR", "route_not_found")


def no_cluster(exchange: "Exchange") -> None:
    exchange.chain.counts[names.NO_CLUSTER] += 1
    assert exchange.choice is not None
    exchange.chain.runtime.note_unserved(exchange.choice.cluster)
    _reply(exchange, 503, b"", "NC", "cluster_not_found")


def upgrade_refused(exchange: "Exchange") -> None:
    exchange.chain.counts[names.DOWN_RQ_UPGRADE_REFUSED] += 1
    exchange.connection.closing = True
    _reply(exchange, 403, b"", "", "upgrade_failed")


def redirect(exchange: "Exchange", action: Redirect) -> None:
    exchange.chain.counts[names.RQ_REDIRECT] += 1
    location = exchange.chain.location(exchange, action)
    rewrite = exchange.match.rewrite if exchange.match is not None else None
    if rewrite is not None:  # what logs and header operations show is the rewritten one, as in Envoy
        head = exchange.head
        head.headers.set(envoy_headers.ORIGINAL_PATH, head.path)
        head.path = rewrite.apply(head.path)
    _reply(exchange, action.status, b"", "", "direct_response", ((b"location", location),))


def direct(exchange: "Exchange", action: DirectResponse) -> None:
    exchange.chain.counts[names.RQ_DIRECT_RESPONSE] += 1
    _reply(exchange, action.status, action.body, "", "direct_response")


def fault(exchange: "Exchange", status: int, body: bytes, details: str, grpc_status: int) -> None:
    """Injected; `grpc_status` BY_STATUS unless it is given."""
    _reply(exchange, status, body, "FI", details, (), grpc_status)


def own(
    exchange: "Exchange",
    status: int,
    body: bytes,
    flag: str,
    details: str,
    fields: tuple[tuple[bytes, bytes], ...],
) -> None:
    """What a filter says."""
    _reply(exchange, status, body, flag, details, fields)


def stored(exchange: "Exchange", head: ResponseHead, body: bytes, flag: str, details: str) -> None:
    """An answer of before."""
    if flag:
        exchange.flags = joined(exchange.flags, flag)
    exchange.details = details
    exchange.abandon_upstream()
    exchange.chain.finish_own(exchange, head)
    _send(exchange, head, body)


def too_large(exchange: "Exchange") -> None:
    """A filter waits for more of the body than it may have."""
    _reply(exchange, 413, b"Payload Too Large", "", "request_payload_too_large")


def rate_limited(
    exchange: "Exchange",
    status: int,
    body: bytes,
    details: str,
    fields: tuple[tuple[bytes, bytes], ...],
    grpc_status: int,
) -> None:
    """Too many requests."""
    _reply(exchange, status, body, "RL", details, fields, grpc_status)


def limit_failed(exchange: "Exchange", status: int, details: str) -> None:
    """Nobody says whether the request may pass."""
    _reply(exchange, status, b"", "RLSE", details)


def preflight(exchange: "Exchange", fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """What a cross-origin request may be, said to the browser that asks before it."""
    exchange.details = "cors_response"
    _send(exchange, exchange.chain.filter_answer(exchange, 200, fields), b"")


def no_healthy_upstream(exchange: "Exchange") -> None:
    exchange.cluster.stats.counts[names.CX_NONE_HEALTHY] += 1
    _note_unserved(exchange)
    _reply(exchange, 503, b"no healthy upstream", "UH", "no_healthy_upstream")


def _note_unserved(exchange: "Exchange") -> None:
    if not exchange.tried:  # else the host that was tried has counted it
        exchange.chain.runtime.note_unserved(exchange.cluster.config.name)


def overflow(exchange: "Exchange") -> None:
    _note_unserved(exchange)
    _reply(
        exchange,
        503,
        _text(exchange, "overflow"),
        "UO",
        "upstream_reset_before_response_started{overflow}",
        OVERLOADED,
    )


def status_of(reason: str) -> int:
    """What a try that ended so (agent.model.resets) is answered with."""
    return 502 if reason == PROTOCOL_ERROR else 503


def upstream_reset(exchange: "Exchange", reason: str, cause: str) -> None:
    """The last try ended before an answer began."""
    details = f"{reason}|{cause}" if cause else reason
    _reply(
        exchange,
        status_of(reason),
        _text(exchange, reason.replace("_", " ")),
        _RESET_FLAGS.get(reason, "UR"),
        f"upstream_reset_before_response_started{{{details}}}",
    )


def route_timeout(exchange: "Exchange") -> None:
    cluster, tries = exchange.cluster, tries_of(exchange)
    cluster.stats.counts[names.RQ_TIMEOUT] += len(tries)
    if exchange.response is None:
        for attempt in tries:
            if attempt.upstream is not None and not attempt.late:
                cluster.on_timeout(attempt.host)
        for _ in tries[1:]:
            cluster.on_local_answer(504)  # Envoy counts one for each
    _reply(exchange, 504, b"upstream request timeout", "UT", "response_timeout")


def try_timeout(exchange: "Exchange", reason: str) -> None:
    """PER_TRY_TIMEOUT or PER_TRY_IDLE_TIMEOUT, and no other try follows."""
    _reply(exchange, 504, b"upstream request timeout", "UT", f"upstream_{reason}")


def max_duration(exchange: "Exchange") -> None:
    _reply(exchange, 504, b"downstream duration timeout", "", "max_duration_timeout")


def request_timeout(exchange: "Exchange") -> None:
    exchange.connection.closing = True
    _reply(exchange, 408, b"request timeout", "", "request_overall_timeout")


def stream_idle(exchange: "Exchange") -> None:
    status = 504 if exchange.request_complete else 408
    _reply(exchange, status, b"stream timeout", "SI", "stream_idle_timeout")
