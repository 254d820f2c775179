"""How an answer of our own is written: plain text, or what a gRPC client understands.

Not:    which answer it is (agent.proxy.answers).
Source: data-plane.md 1.11 (golden matrix) and 2.4; RFC 9110 6.4.1 and 8.6; gRPC over HTTP/2, "Responses".
"""

from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.codec.serialise import reason_of

_GRPC = b"application/grpc"
_NO_CONTENT = frozenset({204, 304})
_GRPC_OF_HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_UNKNOWN = 2
BY_STATUS = -1
_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}


def is_grpc(head: RequestHead) -> bool:
    """Whether the client speaks gRPC."""
    kind = head.headers.index.get(b"content-type", b"")
    return kind.startswith(_GRPC) and kind[len(_GRPC) : len(_GRPC) + 1] in (b"", b"+", b";")


def local_reply(
    request: RequestHead,
    status: int,
    body: bytes,
    fields: tuple[tuple[bytes, bytes], ...],
    grpc_status: int = BY_STATUS,
) -> tuple[ResponseHead, bytes]:
    """(head, body to send) of an answer; `fields` are added to it. A gRPC client is told `grpc_status`."""
    headers = Headers()
    for name, value in fields:
        headers.append(name, value)
    if is_grpc(request):
        told = grpc_status if grpc_status != BY_STATUS else _GRPC_OF_HTTP.get(status, _UNKNOWN)
        return _grpc_reply(headers, told, body)
    head = ResponseHead(status, reason_of(status), headers)
    if status in _NO_CONTENT:
        return head, b""
    if body or request.method != b"HEAD":
        headers.append(b"content-length", b"%d" % len(body))
    if body and b"content-type" not in headers.index:
        headers.append(b"content-type", b"text/plain")
    return head, b"" if request.method == b"HEAD" else body


def _grpc_reply(headers: Headers, grpc_status: int, body: bytes) -> tuple[ResponseHead, bytes]:
    headers.append(b"content-type", _GRPC)
    headers.append(b"grpc-status", b"%d" % grpc_status)
    if body:
        headers.append(b"grpc-message", _percent_encoded(body))
    headers.append(b"content-length", b"0")
    return ResponseHead(200, reason_of(200), headers), b""


def _percent_encoded(text: bytes) -> bytes:
    return b"".join(bytes((code,)) if code in _PLAIN else b"%%%02X" % code for code in text)
