"""HTTP/1 messages to bytes. Every head is written anew, never forwarded as it came.

Owns:   start lines, header fields, chunks. Exactly one framing: Content-Length, or chunked, or none.
Not:    which fields are sent (agent.filters).
Source: RFC 9112. Field names keep the case in which they came.
"""

from http import HTTPStatus
from typing import Final

from agent.codec.head import CHUNKED, RequestHead, ResponseHead

LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED_FIELD: Final = b"\r\ntransfer-encoding: chunked\r\n\r\n"
REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in HTTPStatus}
# As Envoy has them, whatever Python calls them.
REASONS.update(
    {414: b"URI Too Long", 413: b"Payload Too Large", 416: b"Range Not Satisfiable", 422: b"Unprocessable Entity"}
)
REASONS.update({418: b"Unknown", 451: b"Unknown", 599: b"Last Unassigned Server Error Code"})


def reason_of(status: int) -> bytes:
    """The reason phrase of a status that we answer ourselves."""
    return REASONS.get(status, b"Unknown")


def request_bytes(head: RequestHead) -> bytes:
    """The head as it goes upstream, always as HTTP/1.1."""
    end = _CHUNKED_FIELD if head.content_length == CHUNKED else b"\r\n\r\n"
    return b"%b %b HTTP/1.1\r\n%b%b" % (head.method, head.path, b"\r\n".join(head.headers.lines), end)


def response_bytes(head: ResponseHead, chunked: bool) -> bytes:
    """The head as it goes downstream, always as HTTP/1.1; `chunked` adds that framing."""
    end = _CHUNKED_FIELD if chunked else b"\r\n\r\n"
    fields = b"\r\n".join(head.headers.lines)
    if not fields:
        end = end[2:]
    return b"HTTP/1.1 %d %b\r\n%b%b" % (head.status, head.reason, fields, end)


def chunk_bytes(data: bytes) -> bytes:
    """One chunk; `data` is not empty, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
