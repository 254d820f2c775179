"""After `101 Switching Protocols`: bytes both ways, unread.

Owns:   whether an upgrade is passed on, the transparent phase, its end.
Source: RFC 9110 7.8; data-plane.md 2.2. Only protocols that the route or the connection manager lists are passed on;
        an answer other than 101 ends the attempt, and without an error status its body is dropped, as Envoy does.
Invariants: bytes are passed in order; each side is read only as fast as the other takes it; either side's end ends
        both, after what it sent before was written; the stream idle timeout goes on to apply, the route timeout not.
"""

from typing import TYPE_CHECKING

from agent.codec.head import NO_BODY, ResponseHead
from agent.model.route import Forward
from agent.stats import names
from agent.upstream.wheel import NEVER

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange

_REFUSED = 400  # and above


def allowed(exchange: "Exchange", action: Forward) -> bool:
    """Whether the route or the connection manager lists the protocol."""
    protocol = exchange.head.upgrade.decode("ascii", "replace")
    return protocol in action.upgrades or protocol in exchange.chain.hcm.upgrades


def decided(exchange: "Exchange", head: ResponseHead, body: bytes, end_stream: bool) -> tuple[bytes, bool]:
    """What goes on of the answer to a request to switch: (the first part of its body, whether that is all).

    The host switches, or says with an error why not; any other answer is passed on without its body. Both connections
    end after an answer other than 101.
    """
    if head.status == 101:
        exchange.chain.counts[names.DOWN_CX_UPGRADES] += 1
        exchange.route_deadline = NEVER
        exchange.connection.closing = True  # no request follows
        return b"", False
    upstream = exchange.upstream
    if upstream is not None:
        upstream.retired = True
    exchange.connection.closing = True
    if head.status >= _REFUSED:
        return body, end_stream
    exchange.details = "websocket_handshake_unsuccessful"
    head.content_length = NO_BODY
    head.headers.remove(b"content-length")
    head.headers.set(b"content-length", b"0")
    return b"", True


def begin(exchange: "Exchange") -> None:
    """The head of the 101 is written: what the client said early goes up."""
    body, upstream = exchange.body, exchange.upstream
    early = body.take() if body is not None else b""
    if early and upstream is not None:
        upstream.write(early)
    exchange.balance()


def is_open(exchange: "Exchange") -> bool:
    """The transparent phase has begun."""
    return exchange.response is not None and exchange.response.status == 101


def from_downstream(exchange: "Exchange", data: bytes) -> None:
    """Bytes of the client. Before the host has switched they are kept like a request's body."""
    exchange.active_at = exchange.connection.last_active
    exchange.received_bytes += len(data)
    upstream = exchange.upstream
    if upstream is not None and is_open(exchange):
        upstream.write(data)
    elif exchange.body is not None:
        exchange.body.queue(data)
        exchange.balance()


def from_upstream(exchange: "Exchange", data: bytes) -> None:
    """Bytes of the host."""
    exchange.active_at = exchange.chain.clock()
    exchange.sent_bytes += len(data)
    exchange.connection.write(data)


def downstream_eof(exchange: "Exchange") -> bool:
    """The client's end of stream; True keeps its connection open for what the host still has to say."""
    upstream = exchange.upstream
    if upstream is None or not is_open(exchange) or not upstream.transport.can_write_eof():
        return False
    exchange.flags = "DC"
    exchange.details = "downstream_remote_disconnect"
    upstream.transport.write_eof()
    return True
