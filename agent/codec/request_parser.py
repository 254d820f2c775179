"""HTTP/1 requests from bytes.

Owns:   request lines and targets, what follows a request to switch protocols.
Not:    fields and limits (agent.codec.message_parser), writing messages (agent.codec.serialise), routes, sockets.
Source: RFC 9112; data-plane.md 2.1, "agent must".
Invariants: those of agent.codec.message_parser; what follows a request that closes the connection is ignored.
"""

import re
from typing import Protocol

import httptools

from agent.codec.body_length import declared_length
from agent.codec.head import CHUNKED, NO_BODY, UNTIL_EOF, RequestHead
from agent.codec.message_parser import MessageParser
from agent.codec.plain import AUTHORITY
from agent.codec.protocol_error import CODEC_ERROR, ProtocolError
from agent.codec.repeats import PlainRequests

_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?")
IGNORED_UPGRADES = (b"", b"h2c")  # served as ordinary requests, as RFC 9110 7.8 allows and Envoy does


class RequestSink(Protocol):
    """Who gets the requests of one connection, in order."""

    def on_request(self, head: RequestHead, body: bytes, end_stream: bool) -> None: ...
    def on_request_body(self, data: bytes) -> None: ...
    def on_request_end(self) -> None: ...


class RequestParser(MessageParser):
    """The requests of one downstream connection. After a ProtocolError or an upgrade (`upgraded`), feed no more.

    A request to upgrade has `head.upgrade`, and what comes behind it, in `tail` and later, is no HTTP any more.
    """

    def __init__(self, sink: RequestSink, max_headers_bytes: int = 60 * 1024, max_headers_count: int = 100) -> None:
        super().__init__(max_headers_bytes, max_headers_count)
        self._sink = sink
        self._plain = PlainRequests(max_headers_bytes, max_headers_count)
        self._url = b""
        self._pending: RequestHead | None = None  # complete, not yet delivered
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
            head = self._plain.read(data)
            if head is not None:
                self._idle_bytes = 0
                self._sink.on_request(head, data[len(data) - head.content_length :], True)
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
        elif self._parts:
            self._sink.on_request_body(self._body())
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
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._muted or self._http.should_upgrade():
            return  # the head is delivered by `_switch`
        self._end_message()
        if self._pending is not None:
            self._deliver(True)
            return
        if self._parts:
            self._sink.on_request_body(self._body())
        self._sink.on_request_end()

    def _deliver(self, end_stream: bool) -> None:
        head = self._pending
        assert head is not None
        self._pending = None
        self._sink.on_request(head, self._body(), end_stream)

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
