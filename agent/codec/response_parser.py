"""HTTP/1 responses from bytes.

Owns:   status lines, interim answers, bodies that a request's method or the end of the connection decides.
Not:    fields and limits (agent.codec.message_parser), writing messages (agent.codec.serialise), sockets.
Source: RFC 9112; data-plane.md 2.2, "agent must".
Invariants: those of agent.codec.message_parser; what comes behind an answer is never the next one's.
"""

import re
from typing import Protocol

import httptools

from agent.codec.body_length import declared_length
from agent.codec.head import NO_BODY, UNTIL_EOF, ResponseHead
from agent.codec.message_parser import MessageParser
from agent.codec.protocol_error import UPSTREAM_ERROR, ProtocolError
from agent.codec.repeats import PlainResponses

_REASON = re.compile(rb"[\t -~\x80-\xff]*")


class ResponseSink(Protocol):
    """Who gets the responses of one connection, in order. Interim (1xx) responses are dropped, but 101 is not."""

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None: ...
    def on_response_body(self, data: bytes) -> None: ...
    def on_response_end(self) -> None: ...


class ResponseParser(MessageParser):
    """The responses of one upstream connection. `expect` names the request before its response is fed.

    After a 101 (`upgraded`) feed no more: what comes behind it, in `tail` and later, is no HTTP any more.
    """

    def __init__(self, sink: ResponseSink, max_headers_bytes: int = 60 * 1024, max_headers_count: int = 100) -> None:
        super().__init__(max_headers_bytes, max_headers_count)
        self._sink = sink
        self._plain = PlainResponses(max_headers_bytes, max_headers_count)
        self._reason = b""
        self._pending: ResponseHead | None = None  # complete, not yet delivered
        self._interim = False
        self._bodiless = False  # the request was HEAD
        self._until_eof = False
        self._ended_early = False  # llhttp still waits for a body that a HEAD's answer does not have
        self._http = httptools.HttpResponseParser(self)
        self.tail = b""
        self.upgraded = False
        self._answered = False  # the answer is complete: the next message is one that nobody asked for
        self.unread = False  # bytes came behind the answer: the connection cannot be used again

    def expect(self, method: bytes) -> None:
        """The next response answers a request of this method."""
        if self._ended_early:
            self._http = httptools.HttpResponseParser(self)
            self._ended_early = False
            self._in_head = False
            self._between = True
        self._bodiless = method == b"HEAD"
        self._answered = False

    def feed(self, data: bytes) -> None:
        """Parse, calling the sink. Raises ProtocolError; exceptions of the sink come through unchanged."""
        if self._between and not self._bodiless:
            head = self._plain.read(data)
            if head is not None:
                self._idle_bytes = 0
                self._sink.on_response(head, data[len(data) - head.content_length :], True)
                return
        if self._ended_early:
            self.unread = True
            return
        self._feed_bytes = len(data)
        self._head_bytes += len(data)
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._switch(data[pause.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._fail(error)
            return
        if self._pending is not None:
            self._deliver(False)
        elif self._parts:
            self._sink.on_response_body(self._body())
        try:
            self._check_feed(len(data))
        except ProtocolError as error:
            raise ProtocolError(502, UPSTREAM_ERROR) from error

    def feed_eof(self) -> bool:
        """The peer has ended its stream. True when that ends the response properly (a body without a length)."""
        if not self._until_eof:
            return False
        self._until_eof = False
        self._sink.on_response_end()
        return True

    def _fail(self, error: Exception) -> None:
        if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
            if not isinstance(error.__context__, ProtocolError):
                raise error.__context__
        elif str(error) == "Data after `Connection: close`":
            self.unread = True
            return
        raise ProtocolError(502, UPSTREAM_ERROR)

    def on_status(self, part: bytes) -> None:
        self._reason += part

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reason = b""
        if self._answered:
            self._ended_early = self.unread = True

    def on_headers_complete(self) -> None:
        if self.unread:
            return
        status = self._http.get_status_code()
        version = self._http.get_http_version()
        if status < 100 or version not in ("1.1", "1.0") or not _REASON.fullmatch(self._reason):
            raise ProtocolError(502, UPSTREAM_ERROR)
        self._check_head(0)
        self._interim = status < 200 and status != 101
        if self._interim:
            if declared_length(self._headers) not in (UNTIL_EOF, NO_BODY):
                raise ProtocolError(502, UPSTREAM_ERROR)  # llhttp would read a body that none can have
            return
        head = ResponseHead(status, self._reason, self._headers, 1 if version == "1.1" else 0)
        head.content_length = self._length(status)
        head.keep_alive = self._http.should_keep_alive() if not self._bodiless else self._keep_alive(head)
        self._pending = head
        if self._bodiless:
            self._ended_early = self._answered = True
            self._deliver(True)

    def _length(self, status: int) -> int:
        length = declared_length(self._headers)
        if self._bodiless or status == 304:
            return NO_BODY
        if status in (101, 204):
            if length not in (UNTIL_EOF, NO_BODY):
                raise ProtocolError(502, UPSTREAM_ERROR)  # neither can have a body
            self._headers.remove(b"content-length")  # RFC 9110 8.6: nor say that it has none, but many do
            return NO_BODY
        self._until_eof = length == UNTIL_EOF
        return length

    def _keep_alive(self, head: ResponseHead) -> bool:
        """llhttp says no for a HEAD's answer without a length, though its end is known."""
        said = head.headers.index.get(b"connection", b"").lower()
        return b"close" not in said if head.version_minor else b"keep-alive" in said

    def on_body(self, data: bytes) -> None:
        if self._ended_early:
            self.unread = True
            return
        self._progress = True
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._ended_early:
            return
        self._end_message()
        if self._interim:
            return
        self._answered = True
        if self._pending is None:
            if self._parts:
                self._sink.on_response_body(self._body())
            self._sink.on_response_end()
        elif self._pending.status != 101:  # that one is delivered by `_switch`
            self._deliver(True)

    def _deliver(self, end_stream: bool) -> None:
        head = self._pending
        assert head is not None
        self._pending = None
        self._sink.on_response(head, self._body(), end_stream)

    def _switch(self, tail: bytes) -> None:
        """A 101: it is delivered when `tail` is known."""
        self.upgraded = True
        self.tail = tail
        if self._pending is not None:
            self._deliver(True)
