"""HTTP/1 messages from bytes: httptools (llhttp) with the checks that it lacks.

Owns:   what is a valid message and how long its body is, limits while feeding.
Not:    the short way of plain messages, which llhttp never sees (agent.codec.plain), the writing of messages
        (agent.codec.serialise), routes, sockets.
Source: RFC 9112; the matrix of what Envoy and llhttp do is data-plane.md 2.1 and 2.2, "agent must".
Differs: stricter than Envoy (no obs-fold, bare LF or CR, second Host, over-long chunk); serves HTTP/1.0.
Invariants: a head is delivered with what the same feed brought of its body, at most one part, and `end_stream`, so
        that a small message is one event; then `end` is not called. Trailers never reach a head. What is held for an
        unfinished head, chunk header or trailer is bounded by the limits plus one `feed`. How the bytes are cut into
        feeds changes nothing else. What follows a request that closes the connection is ignored.
"""

import re
from typing import Any, Protocol

import httptools

from agent.codec.head import CHUNKED, NO_BODY, UNTIL_EOF, Headers, RequestHead, ResponseHead
from agent.codec.plain import AUTHORITY, CANONICAL_LENGTH, plain_request, plain_response

_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
# Data that brings no part of a body: chunk headers with extensions, trailers.
MAX_IDLE_BYTES = 64 * 1024
_FRAMING = frozenset({b"transfer-encoding", b"connection", b"upgrade"})


class ProtocolError(Exception):
    """The peer's bytes are not a message that we serve. `details` as in Envoy's access log; `status` for the answer."""

    def __init__(self, status: int, details: str, head: RequestHead | None = None) -> None:
        """`head`: of the request, when that was whole."""
        super().__init__(details)
        self.status = status
        self.details = details
        self.head = head


CODEC_ERROR = "http1.codec_error"
UPSTREAM_ERROR = "protocol_error"
IGNORED_UPGRADES = (b"", b"h2c")  # served as ordinary requests, as RFC 9110 7.8 allows and Envoy does


class RequestSink(Protocol):
    """Who gets the requests of one connection, in order."""

    def on_request(self, head: RequestHead, body: bytes, end_stream: bool) -> None: ...
    def on_request_body(self, data: bytes) -> None: ...
    def on_request_end(self) -> None: ...


class ResponseSink(Protocol):
    """Who gets the responses of one connection, in order. Interim (1xx) responses are dropped, but 101 is not."""

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None: ...
    def on_response_body(self, data: bytes) -> None: ...
    def on_response_end(self) -> None: ...


def declared_length(headers: Headers) -> int:
    """The body's length as the head declares it: bytes, CHUNKED, or UNTIL_EOF when it says nothing.

    Writes Content-Length in its canonical form. Raises ProtocolError 501 for a transfer coding other than chunked.
    """
    coding = headers.index.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise ProtocolError(501, "http1.invalid_transfer_encoding")
        if b"content-length" in headers.index:
            raise ProtocolError(400, "http1.content_length_and_chunked_not_allowed")
        return CHUNKED
    length = headers.index.get(b"content-length")
    if length is None:
        return UNTIL_EOF
    if not CANONICAL_LENGTH.fullmatch(length):
        if not _DIGITS.fullmatch(length):
            raise ProtocolError(400, CODEC_ERROR)
        headers.set(b"content-length", b"%d" % int(length))
    return int(length)


class _Parser:
    """What requests and responses share: header fields, limits, trailers."""

    def __init__(self, max_headers_bytes: int, max_headers_count: int) -> None:
        self._http: Any = None  # the native parser
        self._sink: Any = None
        self._max_bytes = max_headers_bytes
        self._max_count = max_headers_count
        self._headers = Headers()
        self._trailers = Headers()
        self._repeated_host = False
        self._between = True  # two messages, where a plain one may come
        self._in_head = False
        self._feed_bytes = 0  # of the present feed
        self._first_bytes = 0  # of the feed in which this head began: its own part is not known
        self._head_bytes = 0  # fed for this head after that one
        self._idle_bytes = 0  # fed since the last part of a body
        self._progress = False  # the present feed brought a head's end or a part of a body
        self._new = True  # the head began within the present feed

    def close(self) -> None:
        """Nothing is fed any more. Parser, native parser and sink hold each other: only this lets them go at once."""
        self._http = self._sink = None

    def on_message_begin(self) -> None:
        self._headers = Headers()
        self._between = False
        self._in_head = True
        self._new = True
        self._first_bytes = self._feed_bytes
        self._head_bytes = 0
        self._repeated_host = False

    def on_header(self, name: bytes, raw: bytes) -> None:
        target = self._headers if self._in_head else self._trailers
        value = raw.strip(b" \t")
        lower = name.lower()
        if lower in _FRAMING:
            self._check_framing(lower, raw)
        target.lines.append(b"%b: %b" % (name, value))
        index = target.index
        if lower in index:
            if lower == b"host":
                self._repeated_host = True
            index[lower] += (b"; " if lower == b"cookie" else b", ") + value
        else:
            index[lower] = value

    def _check_framing(self, lower: bytes, raw: bytes) -> None:
        """What llhttp reads otherwise than we do: a tab behind the coding, and these fields among the trailers."""
        if not self._in_head:
            raise ProtocolError(400, CODEC_ERROR)  # RFC 9110 6.5.1: no trailer may say how a message is read
        if lower == b"transfer-encoding" and raw.rstrip(b" ")[-1:] == b"\t":
            raise ProtocolError(501, "http1.invalid_transfer_encoding")

    def _check_head(self, start_line_bytes: int) -> None:
        """The limits of a whole head. The exact size is counted only when it could be above the limit."""
        lines = self._headers.lines
        if len(lines) > self._max_count:
            raise ProtocolError(431, "http1.too_many_headers")
        if (
            self._first_bytes + self._head_bytes > self._max_bytes
            and start_line_bytes + sum(map(len, lines)) + 2 * len(lines) > self._max_bytes
        ):
            raise ProtocolError(431, "http1.headers_too_large")
        self._in_head = False
        self._progress = True

    def _check_feed(self, size: int) -> None:
        """The limits of what is unfinished after a feed of `size` bytes."""
        if self._in_head:
            if not self._new and self._head_bytes > self._max_bytes:
                raise ProtocolError(431, "http1.headers_too_large")
            self._new = False
        elif self._progress:
            self._progress = False
            self._idle_bytes = 0
        else:
            self._idle_bytes += size
            if self._idle_bytes > MAX_IDLE_BYTES:
                raise ProtocolError(400, CODEC_ERROR)

    def _end_message(self) -> None:
        self._between = self._http.should_keep_alive()
        if self._trailers.lines:
            self._trailers = Headers()


class RequestParser(_Parser):
    """The requests of one downstream connection. After a ProtocolError or an upgrade (`upgraded`), feed no more.

    A request to upgrade has `head.upgrade`, and what comes behind it, in `tail` and later, is no HTTP any more.
    """

    def __init__(self, sink: RequestSink, max_headers_bytes: int = 60 * 1024, max_headers_count: int = 100) -> None:
        super().__init__(max_headers_bytes, max_headers_count)
        self._sink = sink
        self._url = b""
        self._pending: RequestHead | None = None  # complete, not yet delivered
        self._first = b""  # the first part of its body
        self._muted = False
        self._http = httptools.HttpRequestParser(self)
        self.tail = b""
        self.upgraded = False

    @property
    def started(self) -> bool:
        """Some bytes of a head have come, but not all."""
        return self._in_head

    def feed(self, data: bytes) -> None:
        """Parse, calling the sink. Raises ProtocolError; exceptions of the sink come through unchanged."""
        if self._between:
            plain = plain_request(data, self._max_bytes, self._max_count)
            if plain is not None:
                self._idle_bytes = 0
                self._sink.on_request(plain[0], plain[1], True)
                return
        while data:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Parse up to the end, or up to a head that asks for an upgrade; what is left of `data`."""
        self._feed_bytes = len(data)
        self._head_bytes += len(data)
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            return self._switch(data[pause.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(error)
            return b""
        if self._pending is not None:
            self._deliver(False)
        self._check_feed(len(data))
        return b""

    def _fail(self, error: Exception) -> None:
        if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
            raise error.__context__
        text, head = str(error), self._pending
        if text == "Data after `Connection: close`":
            return  # what follows the last request is nobody's
        if "Transfer-Encoding" in text and "Content-Length" not in text:
            raise ProtocolError(501, "http1.invalid_transfer_encoding")
        if "Content-Length" in text and "Transfer-Encoding" in text:
            raise ProtocolError(400, "http1.content_length_and_chunked_not_allowed")
        if "HTTP version" in text:
            raise ProtocolError(505, "low_version")
        if "Invalid header value char" in text:
            raise ProtocolError(400, "http1.invalid_characters", head)
        raise ProtocolError(400, CODEC_ERROR, head)

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._url = b""

    def on_headers_complete(self) -> None:
        if self._muted:
            self._in_head = False
            return
        headers = self._headers
        head = RequestHead(self._http.get_method(), self._url, headers.index.get(b"host", b""), headers)
        version = self._http.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise ProtocolError(505, "low_version")
            head.version_minor = 0
        self._check_head(len(self._url))
        self._check_target(head)
        length = declared_length(headers)
        if length == CHUNKED and head.version_minor == 0:
            raise ProtocolError(400, CODEC_ERROR)
        head.content_length = NO_BODY if length == UNTIL_EOF else length
        head.keep_alive = self._http.should_keep_alive()
        if b"expect" in headers.index:
            head.expect_continue = headers.index[b"expect"].lower() == b"100-continue" and head.version_minor == 1
        self._pending = head

    def _check_target(self, head: RequestHead) -> None:
        url = head.path
        if head.method == b"CONNECT":
            head.authority, head.path = url, b""
            raise ProtocolError(405, "connect_not_allowed", head)
        if self._repeated_host:
            raise ProtocolError(400, "http.invalid_authority")
        if not head.authority and head.version_minor == 1:
            raise ProtocolError(400, "missing_host_header", head)
        if head.authority and not AUTHORITY.fullmatch(head.authority):
            raise ProtocolError(400, "http.invalid_authority")
        if b"#" in url:
            raise ProtocolError(400, "path_normalization_failed", head)
        if url[:1] != b"/":
            self._take_absolute_form(head)

    def _take_absolute_form(self, head: RequestHead) -> None:
        """RFC 9112 3.2.2: the authority of the target replaces the Host field. `OPTIONS *` is served as `*`."""
        if head.path == b"*" and head.method == b"OPTIONS":
            return
        found = _ABSOLUTE.fullmatch(head.path)
        if found is None:
            if b"://" in head.path:
                raise ProtocolError(400, "http1.invalid_scheme")
            raise ProtocolError(400, "http1.invalid_url" if head.path == b"*" else CODEC_ERROR)
        if not AUTHORITY.fullmatch(found[1]):
            raise ProtocolError(400, CODEC_ERROR)
        path = found[2] or b"/"
        head.scheme = head.path[: head.path.index(b":")].lower()
        head.path = path if path[:1] == b"/" else b"/" + path
        head.authority = found[1]
        head.headers.set(b"host", found[1])

    def on_body(self, data: bytes) -> None:
        self._progress = True
        if self._pending is not None:
            if not self._first:
                self._first = data
                return
            self._deliver(False)
        self._sink.on_request_body(data)

    def on_message_complete(self) -> None:
        if self._muted or self._http.should_upgrade():
            return  # the head is delivered by `_switch`
        self._end_message()
        if self._pending is not None:
            self._deliver(True)
        else:
            self._sink.on_request_end()

    def _deliver(self, end_stream: bool) -> None:
        head = self._pending
        assert head is not None
        self._pending = None
        body, self._first = self._first, b""
        self._sink.on_request(head, body, end_stream)

    def _switch(self, rest: bytes) -> bytes:
        """The head asks for an upgrade, and llhttp stops there, before a body that may follow. What is to be fed."""
        head = self._pending
        assert head is not None
        protocol = head.headers.index.get(b"upgrade", b"").lower()
        self._end_message()
        if head.content_length == NO_BODY and head.version_minor == 1 and protocol not in IGNORED_UPGRADES:
            head.upgrade = protocol
            self.upgraded = True
            self.tail = rest
            self._deliver(True)
            return b""
        self._restart(head)
        if head.content_length == NO_BODY:
            self._deliver(True)
        elif not rest:
            self._deliver(False)
        return rest

    def _restart(self, head: RequestHead) -> None:
        """A fresh parser that stands behind the head of `head`: at its body, or at its end."""
        framing = {NO_BODY: b"", CHUNKED: b"Transfer-Encoding: chunked\r\n"}.get(
            head.content_length, b"Content-Length: %d\r\n" % head.content_length
        )
        self._http = httptools.HttpRequestParser(self)
        self._muted = True
        self._http.feed_data(
            b"POST / HTTP/1.1\r\n" + framing + (b"" if head.keep_alive else b"Connection: close\r\n") + b"\r\n"
        )
        self._muted = False


class ResponseParser(_Parser):
    """The responses of one upstream connection. `expect` names the request before its response is fed.

    After a 101 (`upgraded`) feed no more: what comes behind it, in `tail` and later, is no HTTP any more.
    """

    def __init__(self, sink: ResponseSink, max_headers_bytes: int = 60 * 1024, max_headers_count: int = 100) -> None:
        super().__init__(max_headers_bytes, max_headers_count)
        self._sink = sink
        self._reason = b""
        self._pending: ResponseHead | None = None  # complete, not yet delivered
        self._first = b""  # the first part of its body
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
            plain = plain_response(data, self._max_bytes, self._max_count)
            if plain is not None:
                self._idle_bytes = 0
                self._sink.on_response(plain[0], plain[1], True)
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
        if version not in ("1.1", "1.0"):
            raise ProtocolError(502, UPSTREAM_ERROR)
        self._check_head(0)
        self._interim = status < 200 and status != 101
        if self._interim:
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
        if self._pending is not None:
            if not self._first:
                self._first = data
                return
            self._deliver(False)
        self._sink.on_response_body(data)

    def on_message_complete(self) -> None:
        if self._ended_early:
            return
        self._end_message()
        if self._interim:
            return
        self._answered = True
        if self._pending is None:
            self._sink.on_response_end()
        elif self._pending.status != 101:  # that one is delivered by `_switch`
            self._deliver(True)

    def _deliver(self, end_stream: bool) -> None:
        head = self._pending
        assert head is not None
        self._pending = None
        body, self._first = self._first, b""
        self._sink.on_response(head, body, end_stream)

    def _switch(self, tail: bytes) -> None:
        """A 101: it is delivered when `tail` is known."""
        self.upgraded = True
        self.tail = tail
        if self._pending is not None:
            self._deliver(True)
