"""What the parsing of requests and of responses shares: httptools (llhttp) with the checks that it lacks.

Owns:   header fields and trailers, the limits of what is unfinished.
Not:    start lines, bodies, what is delivered (agent.codec.request_parser, response_parser); the short way of plain
        messages, which llhttp never sees (agent.codec.plain).
Source: RFC 9112; the matrix of what Envoy and llhttp do is data-plane.md 2.1 and 2.2, "agent must".
Differs: stricter than Envoy (no obs-fold, bare LF or CR, second Host, over-long chunk); serves HTTP/1.0.
Invariants: a head is delivered with what the same feed brought of its body, and `end_stream`, so that a small message
        is one event; then `end` is not called. Later each feed is at most one part of the body, however many chunks
        it has (so does Envoy). Trailers never reach a head. What is held for an unfinished head, chunk header or
        trailer is bounded by the limits plus one `feed`. How the bytes are cut into feeds changes nothing else.
"""

from typing import Any

from agent.codec.head import Headers
from agent.codec.protocol_error import CODEC_ERROR, ProtocolError

# Data that brings no part of a body: chunk headers with extensions, trailers.
MAX_IDLE_BYTES = 64 * 1024
_FRAMING = frozenset({b"transfer-encoding", b"connection", b"upgrade"})


class MessageParser:
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
        self._parts: list[bytes] = []  # of a body, from the present feed

    def close(self) -> None:
        """Nothing is fed any more. Parser, native parser and sink hold each other: only this lets them go at once."""
        self._http = self._sink = None

    def _body(self) -> bytes:
        """What the present feed has brought of the body and was not delivered yet."""
        parts = self._parts
        if len(parts) == 1:
            return parts.pop()
        body = b"".join(parts)
        parts.clear()
        return body

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
