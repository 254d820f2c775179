"""One HTTP/1.1 connection to a host, as a uvloop protocol.

Owns:   writing a request, parsing what comes back, whether the connection may carry another request.
Not:    who uses it (agent.upstream.pool), what the answer means (the receiver).
Invariants: one request at a time; bytes that nobody asked for close the connection; it goes back to the pool only
        after the parser's `feed` has returned, and only when request and response are complete, the peer keeps it
        alive and nothing came behind the answer; `on_upstream_reset` is the last thing that a receiver hears.
"""

import socket
from typing import Any, Protocol

from agent.codec.head import ResponseHead
from agent.codec.protocol_error import ProtocolError
from agent.codec.response_parser import ResponseParser
from agent.model.resets import CONNECTION_TERMINATION, PROTOCOL_ERROR
from agent.stats.names import CX_PROTOCOL_ERROR, CX_RX_BYTES, CX_TX_BYTES
from agent.upstream.addresses import address_text
from agent.upstream.wheel import NEVER, Timed


class Receiver(Protocol):
    """The exchange that uses a connection."""

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None: ...
    def on_response_body(self, data: bytes) -> None: ...
    def on_response_end(self) -> None: ...
    def on_upstream_raw(self, data: bytes) -> None: ...
    def on_upstream_reset(self, reason: str) -> None: ...
    def on_upstream_writable(self, writable: bool) -> None: ...


class Owner(Protocol):
    """The pool."""

    def on_released(self, connection: "UpstreamConnection") -> None: ...
    def on_lost(self, connection: "UpstreamConnection") -> None: ...
    def on_idle_timeout(self, connection: "UpstreamConnection") -> None: ...


class UpstreamConnection(Timed):
    """Made by the pool; `transport` is set when connected (and, with TLS, after the handshake)."""

    __slots__ = (
        "_counts",
        "_eof",
        "_feeding",
        "_parser",
        "_released",
        "answered",
        "keep_alive",
        "local_address",
        "owner",
        "peer",
        "priority",
        "raw",
        "receiver",
        "requests",
        "retired",
        "transport",
        "writable",
    )

    def __init__(self, owner: Owner, counts: list[int], priority: int) -> None:
        super().__init__()
        self.owner = owner
        self.priority = priority  # whose connection cell counts it
        self.transport: Any = None
        self.receiver: Receiver | None = None
        self.requests = 0
        self.answered = False  # bytes of the present answer have come
        self.keep_alive = True
        self.retired = False  # takes no further request: its host is ejected or gone
        self.raw = False  # after a 101: no HTTP any more
        self.writable = True
        self.peer = ""  # the peer's SPIFFE id
        self.local_address = ""  # `address:port`
        self._counts = counts
        self._parser = ResponseParser(self)
        self._feeding = False
        self._released = False
        self._eof = False

    # --- used by the exchange ---------------------------------------------------------------------------------

    def start(self, receiver: Receiver, method: bytes, data: bytes) -> None:
        """Send the head of a request, with as much of its body as there is."""
        self.receiver = receiver
        self.requests += 1
        self.answered = False
        self.deadline = NEVER
        self._parser.expect(method)
        self._counts[CX_TX_BYTES] += len(data)
        self.transport.write(data)

    def write(self, data: bytes) -> None:
        self._counts[CX_TX_BYTES] += len(data)
        self.transport.write(data)

    def release(self, reusable: bool) -> None:
        """The exchange is done with it. `reusable`: the whole request was sent and the whole response came."""
        self.receiver = None
        if not reusable or not self.keep_alive or self.retired or self.raw:
            self.close()
        elif self._feeding:
            self._released = True
        else:
            self.owner.on_released(self)

    def abort(self) -> None:
        """Give up the request that is under way; the receiver is not told."""
        self.receiver = None
        self.keep_alive = False
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        self.keep_alive = False
        if self.transport is not None:
            self.transport.close()

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # --- called by the parser ---------------------------------------------------------------------------------

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self.keep_alive = head.keep_alive
        if self.receiver is not None:
            self.receiver.on_response(head, body, end_stream)

    def on_response_body(self, data: bytes) -> None:
        if self.receiver is not None:
            self.receiver.on_response_body(data)

    def on_response_end(self) -> None:
        if self.receiver is not None:
            self.receiver.on_response_end()

    # --- called by the loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.local_address = address_text(transport.get_extra_info("sockname"))
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self._counts[CX_RX_BYTES] += len(data)
        receiver = self.receiver
        if receiver is None:
            self.close()  # an idle connection has nothing to say; and what an aborted request still gets is lost
            return
        if self.raw:
            receiver.on_upstream_raw(data)
            return
        self.answered = True
        self._feeding = True
        try:
            self._parser.feed(data)
        except ProtocolError:
            self._counts[CX_PROTOCOL_ERROR] += 1
            self._feeding = False
            self._reset(PROTOCOL_ERROR)
            return
        self._feeding = False
        if self._released:
            self._give_back()
        elif self._parser.upgraded and not self.raw:
            self._go_raw()

    def _give_back(self) -> None:
        self._released = False
        if self._parser.unread:
            self.close()
        else:
            self.owner.on_released(self)

    def _go_raw(self) -> None:
        self.raw = True
        if self._parser.tail and self.receiver is not None:
            self.receiver.on_upstream_raw(self._parser.tail)

    def _reset(self, reason: str) -> None:
        receiver, self.receiver = self.receiver, None
        self.keep_alive = False
        self.transport.abort()
        if receiver is not None:
            receiver.on_upstream_reset(reason)

    def eof_received(self) -> bool:
        """The peer's end of stream. Half-closed connections are not kept; after it comes connection_lost."""
        self._eof = True
        if self.receiver is not None and not self.raw:
            self._parser.feed_eof()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        receiver, self.receiver = self.receiver, None
        self.keep_alive = False
        self.deadline = NEVER
        self.owner.on_lost(self)
        if receiver is not None:
            # An end in the middle of an answer breaks the protocol; one before it is the peer's right.
            receiver.on_upstream_reset(PROTOCOL_ERROR if self.answered else CONNECTION_TERMINATION)
        self._parser.close()

    def pause_writing(self) -> None:
        self.writable = False
        if self.receiver is not None:
            self.receiver.on_upstream_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        if self.receiver is not None:
            self.receiver.on_upstream_writable(True)

    def on_deadline(self, now: float) -> None:
        """Idle for too long."""
        if self.receiver is None:
            self.owner.on_idle_timeout(self)
