"""One downstream HTTP/1.1 connection, as a uvloop protocol: requests in, served one after the other.

Owns:   parsing, order (pipelined requests wait), writing, keep-alive and close, back-pressure on the client,
        the connection's timers, the answer to bytes that are no request.
Not:    what happens to a request (agent.proxy.exchange), accepting and TLS (agent.listener).
Source: RFC 9112 section 9; data-plane.md 1.6, 2.1 and 2.5.
Invariants: one exchange at a time; while an answer is under way at most one read's worth of further requests is held,
        and reading is paused then; after `connection: close` no further request is started.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from agent.codec.head import Headers, RequestHead
from agent.codec.protocol_error import ProtocolError
from agent.codec.request_parser import RequestParser
from agent.model.listener import HttpConnectionManager
from agent.proxy.exchange import Exchange
from agent.proxy.standard_metrics import STRANGER
from agent.stats import names
from agent.upstream.wheel import NEVER, Timed

if TYPE_CHECKING:
    from agent.proxy.chain import HttpChain

_END: Final = b""


class HttpConnection(Timed):
    """Made per accepted connection. `chain` is the filter chain that it matched; it stays with it for life."""

    __slots__ = (
        "_advancing",
        "_backlog",
        "_broken",
        "_head_since",
        "_holds",
        "_late",
        "_lingering",
        "_parser",
        "_requests",
        "caller",
        "certificate",
        "chain",
        "closing",
        "draining",
        "exchange",
        "last_active",
        "local_address",
        "names",
        "peer_address",
        "peer_uris",
        "secure",
        "transport",
        "writable",
    )

    def __init__(self, chain: "HttpChain", peer_address: str, local_address: str) -> None:
        super().__init__()
        self.chain = chain
        self.peer_address = peer_address
        self.local_address = local_address
        self.peer_uris: frozenset[str] = frozenset()  # URI SANs of the client's certificate
        self.secure = False
        self.names: tuple[bytes, ...] | None = None  # of that certificate, for authorization; found when it is asked
        self.certificate = b""  # its element of x-forwarded-client-cert, b"" when the client has shown none
        self.caller = STRANGER  # who the client is, as metrics name it
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.closing = False  # no further request is started
        self.draining = False
        self.writable = True
        self.last_active = 0.0
        self._lingering = False  # what comes is read and dropped
        self._broken: ProtocolError | None = None  # how the requests before it ended; told after their answers
        self._requests = 0
        self._head_since = 0.0  # when the first byte of an unfinished head came
        self._late = ""  # which of its time limits ends first
        self._backlog: deque[tuple[RequestHead | None, bytes, bool]] = deque()
        self._advancing = False
        self._holds = 0  # reasons why reading is paused
        hcm = chain.hcm
        self._parser = RequestParser(self, hcm.max_request_headers_bytes, hcm.max_headers_count)

    @property
    def hcm(self) -> HttpConnectionManager:
        return self.chain.hcm

    # --- called by the loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.chain.on_opened(self)
        self.last_active = self.chain.clock()
        self._arm_idle()

    def data_received(self, data: bytes) -> None:
        chain = self.chain
        chain.counts[names.DOWN_CX_RX_BYTES] += len(data)
        if self._lingering:
            return
        now = self.last_active = chain.clock()
        parser = self._parser
        if parser.upgraded:
            self._take_raw(data)
            return
        try:
            parser.feed(data)
        except ProtocolError as error:
            self._break(error)
            return
        if parser.upgraded and parser.tail:
            self._take_raw(parser.tail)
        if self.exchange is None and parser.started:
            self._head_started(now)

    def eof_received(self) -> bool:
        """The client's end of stream. As Envoy: it ends the connection, whatever is under way, except after a 101."""
        exchange = self.exchange
        return exchange is not None and exchange.on_downstream_eof()

    def connection_lost(self, error: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        self._backlog.clear()
        self.closing = True
        if exchange is not None:
            self.chain.counts[names.DOWN_CX_DESTROY_REMOTE_ACTIVE_RQ] += 1
            exchange.on_downstream_gone()
        self._parser.close()
        self.chain.wheel.disarm(self)
        self.chain.on_closed(self)

    def pause_writing(self) -> None:
        self.writable = False
        if self.exchange is not None:
            self.exchange.on_downstream_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        if self.exchange is not None:
            self.exchange.on_downstream_writable(True)

    # --- called by the parser ---------------------------------------------------------------------------------

    def on_request(self, head: RequestHead, body: bytes, end_stream: bool) -> None:
        if self.exchange is not None or self._backlog:
            self._keep(head, body, end_stream)
        elif not self.closing:
            self._start(head, body, end_stream)

    def on_request_body(self, data: bytes) -> None:
        if self._backlog:
            self._keep(None, data, False)
        elif self.exchange is not None:
            self.exchange.on_request_body(data)

    def on_request_end(self) -> None:
        if self._backlog:
            self._keep(None, _END, True)
        elif self.exchange is not None:
            self.exchange.on_request_end()

    def _take_raw(self, data: bytes) -> None:
        """Bytes behind a request to switch: of no request, and least of all of one that is still served before it."""
        exchange = self.exchange
        if self._backlog:
            self._keep(None, data, False)
        elif exchange is not None and exchange.head.upgrade:
            exchange.on_downstream_raw(data)

    def _start(self, head: RequestHead, body: bytes, end_stream: bool) -> None:
        self._requests += 1
        self._head_since = 0.0
        limit = self.hcm.max_requests_per_connection
        if self.draining or not head.keep_alive or (limit and self._requests >= limit):
            self.closing = True
        self.exchange = exchange = Exchange(self, head, self.last_active)
        exchange.start(body, end_stream)

    def _keep(self, head: RequestHead | None, data: bytes, end_stream: bool) -> None:
        """A part of a request that has to wait for the answer to the one before it."""
        if not self._backlog:
            self.hold_reading()
        self._backlog.append((head, data, end_stream))

    # --- used by the exchange ---------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self.chain.counts[names.DOWN_CX_TX_BYTES] += len(data)
        self.transport.write(data)

    def hold_reading(self) -> None:
        """Stop reading from the client until as many `release_reading` have followed."""
        self._holds += 1
        if self._holds == 1 and not self.transport.is_closing():
            self.chain.counts[names.DOWN_PAUSED_READING] += 1
            self.transport.pause_reading()

    def release_reading(self) -> None:
        self._holds -= 1
        if self._holds == 0 and not self.transport.is_closing():
            self.transport.resume_reading()

    def exchange_done(self, request_complete: bool) -> None:
        """The answer is written. Close, or go on with the next request."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.last_active = exchange.ended  # the connection is idle from now on, or its next request begins now
        if not request_complete:
            self._linger()
        elif self.closing:
            self._close()
        elif self._backlog:
            self._advance()
        elif self._broken is not None:
            self._refuse(self._broken)
        else:
            self._arm_idle()

    def abort(self) -> None:
        """End the connection so that the client cannot take what it has for the whole answer."""
        self.closing = True
        self.transport.abort()

    def close(self) -> None:
        """End the connection after what is written."""
        self._close()

    # --- inside -----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Serve what waits. A loop, not a recursion: an answer can be complete before `start` returns."""
        if self._advancing:
            return
        self._advancing = True
        backlog = self._backlog
        while backlog:
            head, data, end_stream = backlog[0]
            if head is not None and (self.closing or self.exchange is not None):
                break
            backlog.popleft()
            if head is not None:
                self._start(head, data, end_stream)
            elif self.exchange is not None:
                self._pass_on(self.exchange, data)
        self._advancing = False
        if self.closing:
            backlog.clear()
        if not backlog:
            self.release_reading()
            if self._broken is not None and (self.exchange is None or not self.exchange.request_complete):
                self._refuse(self._broken)

    def _pass_on(self, exchange: Exchange, data: bytes) -> None:
        """What came behind the head of a request that had to wait."""
        if exchange.head.upgrade:
            exchange.on_downstream_raw(data)
        elif data:
            exchange.on_request_body(data)
        else:
            exchange.on_request_end()

    def _break(self, error: ProtocolError) -> None:
        """Bytes that are no request. The whole requests before them are answered first."""
        if self._lingering or self.transport.is_closing():
            return  # in the same bytes as a request that was answered before its end
        self.chain.counts[names.DOWN_CX_PROTOCOL_ERROR] += 1
        if self.exchange is not None and (self.exchange.request_complete or self._backlog):
            self._broken = error
            self._lingering = True
        else:
            self._refuse(error)

    def _refuse(self, error: ProtocolError) -> None:
        self.closing = True
        self._broken = None
        if self.exchange is not None:
            self.exchange.on_request_broken(error)
            return
        head = error.head or RequestHead(b"", b"", b"", Headers())
        head.keep_alive = False
        self.exchange = exchange = Exchange(self, head, self.last_active)
        exchange.refuse(error)

    def _head_started(self, now: float) -> None:
        """A head has begun: it must be complete within request_headers_timeout, or the stream's idle time."""
        if not self._head_since:
            self._head_since = now
        hcm = self.hcm
        limits = (
            (self._head_since, hcm.request_headers_timeout_s, "request_header_timeout"),
            (self._head_since, hcm.request_timeout_s, "request_overall_timeout"),
            (now, hcm.stream_idle_timeout_s, "stream_idle_timeout"),
        )
        known = [(since + limit_s, details) for since, limit_s, details in limits if limit_s]
        limit, self._late = min(known, default=(NEVER, ""))
        self.chain.wheel.arm(self, limit)

    def _arm_idle(self) -> None:
        timeout_s = self.chain.hcm.idle_timeout_s
        deadline = self.last_active + timeout_s if timeout_s else NEVER
        self.deadline = deadline
        if deadline < self.slot_at:
            self.chain.wheel.insert(self, deadline)

    def on_deadline(self, now: float) -> None:
        if self.exchange is not None:
            self.exchange.on_deadline(now)
        elif self._lingering:
            self.transport.abort()
        elif self._parser.started:
            self.chain.counts[names.DOWN_RQ_HEADER_TIMEOUT] += 1
            self._break(ProtocolError(408, self._late))
        else:
            self.chain.counts[names.DOWN_CX_IDLE_TIMEOUT] += 1
            self._close()

    def drain(self) -> None:
        """End with the next answer that can still say `connection: close`: closed at once, a request could be lost."""
        if not self.draining:
            self.draining = True
            if self.exchange is not None and self.exchange.response is None:
                self.closing = True

    def close_idle(self) -> None:
        """No request has come for the answer that would have ended it: it is closed without one."""
        if self.exchange is None and not self._lingering and not self._parser.started:
            self.chain.counts[names.DOWN_CX_DRAIN_CLOSE] += 1
            self._close()

    def _linger(self) -> None:
        """The client is still sending a request that is already answered.

        Closing now would make the kernel reset the connection and the client could lose the answer; so what comes is
        read and dropped for delayed_close_timeout.
        """
        self.closing = True
        self._backlog.clear()
        if self.transport.is_closing():
            return
        if self.secure or not self.hcm.delayed_close_timeout_s:
            self._close()
            return
        self._lingering = True
        self.transport.write_eof()
        if self._holds:
            self._holds = 0
            self.transport.resume_reading()
        self.chain.wheel.arm(self, self.chain.clock() + self.hcm.delayed_close_timeout_s)

    def _close(self) -> None:
        self.closing = True
        if not self.transport.is_closing():
            self.transport.close()
