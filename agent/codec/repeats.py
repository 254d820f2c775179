"""Plain heads that come again on a connection, recognised by comparing bytes instead of reading them anew.

Owns:   the last plain head of each connection.
Not:    what is plain, and how it is read the first time (agent.codec.plain).
Why:    a client mostly says the same in every request but for the target, and a host in every answer: then all fields
        are known from one comparison, a tenth of the work.
Invariants: what is kept changes only how fast a message is read, never what it means; a head that does not come again
        costs one copy of its bytes; of a connection's last head no more than MAX_KEPT_BYTES are kept.
"""

from typing import Final

from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.codec.plain import REQUEST_LINE, plain_request, plain_response

MAX_KEPT_BYTES: Final = 4096


class _Kept:
    """The bytes of a head or of its fields; once they have come twice, the fields too."""

    __slots__ = ("_headers", "_seen", "block", "body_bytes")

    def __init__(self) -> None:
        self.block = b""
        self.body_bytes = 0
        self._headers: Headers | None = None
        self._seen: set[object] = set()

    def keep(self, block: bytes, headers: Headers, body_bytes: int) -> None:
        """Keep this instead of what was kept before."""
        if block == self.block:
            self._headers = headers.copy()
            self._seen = set()
            self.body_bytes = body_bytes
        else:
            self._headers = None
            self.block = block if len(block) <= MAX_KEPT_BYTES else b""

    def fields(self) -> Headers | None:
        """The fields of `block`, for the caller to change; None when they are not kept yet."""
        if self._headers is None:
            return None
        headers = self._headers.copy()
        headers.seen = self._seen
        return headers


class PlainRequests:
    """The plain requests of one connection. The limits of a head stay the same."""

    __slots__ = ("_kept", "_max_bytes", "_max_fields")

    def __init__(self, max_bytes: int, max_fields: int) -> None:
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._kept = _Kept()

    def read(self, data: bytes) -> RequestHead | None:
        """The head of the request that `data` is, followed by its body; None when it is not exactly one plain one."""
        line_end = data.find(b"\r\n")
        kept = self._kept
        if kept.block and data.startswith(kept.block, line_end):
            headers = kept.fields()
            if headers is not None:
                return self._with_fields(data, line_end, headers)
        head = plain_request(data, self._max_bytes, self._max_fields)
        if head is None:
            return None
        size = head.content_length
        kept.keep(data[line_end : len(data) - size], head.headers, size)
        return head

    def _with_fields(self, data: bytes, line_end: int, headers: Headers) -> RequestHead | None:
        end = line_end + len(self._kept.block)
        size = self._kept.body_bytes
        if end + size != len(data) or end - 4 >= self._max_bytes:
            return None
        start = REQUEST_LINE.fullmatch(data, 0, line_end)
        if start is None:
            return None
        method, path = start.groups()
        head = RequestHead(method, path, headers.index[b"host"], headers)
        head.content_length = size
        return head


class PlainResponses:
    """The plain responses of one connection, those to HEAD excepted. The limits of a head stay the same."""

    __slots__ = ("_kept", "_max_bytes", "_max_fields", "_reason", "_status")

    def __init__(self, max_bytes: int, max_fields: int) -> None:
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._kept = _Kept()
        self._status = 0
        self._reason = b""

    def read(self, data: bytes) -> ResponseHead | None:
        """The head of the response that `data` is, followed by its body; None when it is not exactly one plain one."""
        kept = self._kept
        if kept.block and data.startswith(kept.block):
            headers = kept.fields()
            if headers is not None:
                if len(kept.block) + kept.body_bytes != len(data):
                    return None
                again = ResponseHead(self._status, self._reason, headers)
                again.content_length = kept.body_bytes
                return again
        head = plain_response(data, self._max_bytes, self._max_fields)
        if head is None:
            return None
        kept.keep(data[: len(data) - head.content_length], head.headers, head.content_length)
        self._status, self._reason = head.status, head.reason
        return head
