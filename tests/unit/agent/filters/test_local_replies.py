"""How our own answers are written, to clients of HTTP and of gRPC."""

import pytest

from agent.codec.head import Headers, RequestHead
from agent.filters.local_replies import is_grpc, local_reply


def request(kind: bytes = b"", method: bytes = b"GET") -> RequestHead:
    headers = Headers()
    if kind:
        headers.append(b"Content-Type", kind)
    return RequestHead(method, b"/", b"a", headers)


def test_text() -> None:
    head, data = local_reply(request(), 503, b"no healthy upstream", ((b"x-a", b"1"),))
    assert (head.status, head.reason, data) == (503, b"Service Unavailable", b"no healthy upstream")
    assert head.headers.fields == [(b"x-a", b"1"), (b"content-length", b"19"), (b"content-type", b"text/plain")]


def test_an_empty_answer_has_no_type() -> None:
    head, data = local_reply(request(), 404, b"", ())
    assert (head.headers.fields, data) == ([(b"content-length", b"0")], b"")


def test_head_gets_the_length_and_no_body() -> None:
    head, data = local_reply(request(method=b"HEAD"), 503, b"text", ())
    assert head.headers.get(b"content-length") == b"4"
    assert data == b""


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_content_has_no_length(status: int) -> None:
    head, data = local_reply(request(), status, b"ignored", ())
    assert (head.headers.fields, data) == ([], b"")


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14), (418, 2), (500, 2)],
)
def test_grpc(status: int, code: int) -> None:
    """data-plane.md 2.4: HTTP 200, the status in a field, the text percent-encoded."""
    head, data = local_reply(request(b"application/grpc"), status, b"50% of \xc3\xa9\n", ())
    assert (head.status, data) == (200, b"")
    assert head.headers.get(b"grpc-status") == b"%d" % code
    assert head.headers.get(b"grpc-message") == b"50%25 of %C3%A9%0A"
    assert head.headers.get(b"content-type") == b"application/grpc"


@pytest.mark.parametrize(
    ("kind", "grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;x=y", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_who_speaks_grpc(kind: bytes, grpc: bool) -> None:
    assert is_grpc(request(kind)) is grpc
