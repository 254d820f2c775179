"""Fuzz targets of the HTTP/1 codec.

Invariants: any bytes are messages or a ProtocolError; how they are cut changes nothing; what goes on of them, after the
fields for one connection were taken out, is one message to a reader that forgives nothing (tests.support.strict).
"""

import re
from typing import Any

from agent.codec.head import CHUNKED, NO_BODY, RequestHead, ResponseHead
from agent.codec.protocol_error import ProtocolError
from agent.codec.request_parser import RequestParser
from agent.codec.response_parser import ResponseParser
from agent.codec.serialise import LAST_CHUNK, chunk_bytes, request_bytes, response_bytes
from agent.filters import response_headers
from agent.filters.request_headers import RequestHeaders
from agent.model.listener import HttpConnectionManager
from tests.fuzz.target import Target, places_of
from tests.support import strict
from tests.support.parsing import Record, assert_same, cut, feed, outcome
from tests.support.smuggling import AMBIGUOUS, ANSWERS, BAD_SIZES
from tests.support.wire import SERVED

_PIECES = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\x00", b"\t", b": ", b"0\r\n\r\n", b"2\r\nab\r\n",
    b"GET /ok HTTP/1.1\r\n", b"POST /ok HTTP/1.0\r\n", b"HEAD", b"OPTIONS *", b"http://b/", b"%2e%2e/", b"Host: a\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 Switching Protocols\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n", b"keep-alive", b"content-length", b"te", b"trailers",
)  # fmt: skip
_CUT_FINE = 1500  # bytes: longer inputs are not fed byte by byte
_DATE = b"Thu, 01 Jan 2026 00:00:00 GMT"


class _Client:
    peer_address = "10.9.9.9:4000"
    local_address = "10.0.0.1:15001"
    secure = False
    certificate = b""


_PREPARE = RequestHeaders(HttpConnectionManager(stat_prefix="s", route_config="r"), lambda count: 7)


def _bodies(events: list[Any], heads: int) -> list[bytes | None]:
    """Of each message its body, None when it has not ended."""
    found: list[bytes | None] = []
    body = b""
    for event in events:
        if isinstance(event, bytes):
            body = event
        elif event == "end":
            found[-1] = body
        else:
            found.append(None)
            body = b""
    assert len(found) == heads
    return found


def _requests(data: bytes) -> None:
    whole = outcome(data, [])
    assert_same(outcome(data, places_of(data)), whole)
    if len(data) <= _CUT_FINE:
        assert_same(outcome(data, list(range(len(data)))), whole)
    record = Record()
    try:
        feed(RequestParser(record), [data])
    except ProtocolError:
        pass
    for head, body in zip(record.heads, _bodies(record.events, len(record.heads)), strict=True):
        _goes_on(head, body)


def _goes_on(head: RequestHead, body: bytes | None) -> None:
    """As an origin reads what is made of a request."""
    if head.upgrade or body is None or _PREPARE.prepare(head, _Client()):
        return
    assert head.content_length == CHUNKED or head.content_length == len(body)
    chunked = head.content_length == CHUNKED
    raw = request_bytes(head) + ((chunk_bytes(body) if body else b"") + LAST_CHUNK if chunked else body)
    (message,) = strict.requests(raw)
    assert message.whole
    assert (message.start, message.body) == ((head.method, head.path), body)
    assert message.fields[b"host"] == head.authority


def _heard(data: bytes, places: list[int], method: bytes) -> tuple[Record, bool]:
    """One answer as an upstream connection takes it: nothing is fed behind its end. And whether it was refused."""
    record = Record()
    parser = ResponseParser(record)
    parser.expect(method)
    try:
        for part in cut(data, places):
            if not parser.upgraded and "end" not in record.events:
                parser.feed(part)
        parser.feed_eof()
    except ProtocolError as error:
        if (error.status, error.details) != (502, "protocol_error"):
            raise
        return record, "end" not in record.events
    return record, False


def _answers(data: bytes) -> None:
    method = data[:4] if data[:4] == b"HEAD" else b"GET"
    data = data.removeprefix(b"HEAD")
    whole, refused = _heard(data, [], method)
    for places in (places_of(data), list(range(len(data))) if len(data) <= _CUT_FINE else []):
        pieces, cut_refused = _heard(data, places, method)
        assert cut_refused == refused
        assert refused or pieces.events == whole.events
        assert pieces.events[: len(whole.events)] == whole.events or refused
    for head, body in zip(whole.heads, _bodies(whole.events, len(whole.heads)), strict=True):
        _goes_down(head, body, method)


def _goes_down(head: ResponseHead, body: bytes | None, method: bytes) -> None:
    """As a client reads what is made of an answer."""
    if body is None or head.status == 101:
        return
    response_headers.take_over(head, False, 1)
    response_headers.finish(head, b"envoy", _DATE)
    chunked = head.content_length < NO_BODY
    raw = response_bytes(head, chunked) + ((chunk_bytes(body) if body else b"") + LAST_CHUNK if chunked else body)
    (message,) = strict.answers(raw, [method])
    assert message.whole
    assert (int(message.start[0]), message.body) == (head.status, body)


_CHUNK = re.compile(rb"([0-9A-Fa-f]+)(?:;[^\r\n]*)?\r\n")
_TRAILERS = re.compile(rb"(?:[^\r\n:]+:[^\r\n]*\r\n)*\r\n")


def _dechunked(data: bytes) -> bytes | None:
    """The body that ends in `data`, by the letter of RFC 9112 7.1 but for any bytes in extensions and trailers."""
    body, at = b"", 0
    while (size := _CHUNK.match(data, at)) is not None:
        at = size.end()
        if not int(size[1], 16):
            return body if _TRAILERS.match(data, at) else None
        body += data[at : at + int(size[1], 16)]
        at += int(size[1], 16)
        if data[at : at + 2] != b"\r\n":
            return None
        at += 2
    return None


def _chunks(data: bytes) -> None:
    """A chunked body and its trailers: what is taken is what the grammar says."""
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data
    record = Record()
    try:
        feed(RequestParser(record), [raw])
    except ProtocolError:
        pass
    if "end" in record.events:
        assert _bodies(record.events, len(record.heads))[0] == _dechunked(data)
    _requests(raw)


def _chunk_seeds() -> list[bytes]:
    good = [
        b"2\r\nab\r\n0\r\n\r\n",
        b"2;a=b\r\nab\r\n00\r\nX-T: 1\r\n\r\n",
        b"A\r\n0123456789\r\n0;x\r\n\r\nGET / HTTP/1.1\r\n",
        b"0000000000000000A\r\n0123456789\r\n0\r\n\r\n",  # a size is as large as its value, whatever its digits
        b"1000000000000000A\r\n0123456789\r\n0\r\n\r\n",
    ]
    return good + [size + b"\r\nab\r\n0\r\n\r\n" for size in BAD_SIZES]


def _request_seeds() -> list[bytes]:
    return [case.raw for case in SERVED.values()] + [raw for raw, _ in AMBIGUOUS.values()]


def _answer_seeds() -> list[bytes]:
    fields = [*ANSWERS.values(), b"content-length: 2", b"transfer-encoding: chunked", b"connection: close", b"x: y"]
    starts = [b"", b"HEAD", b"HTTP/1.1 103 Early Hints\r\n\r\n"]
    lines = [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 X", b"HTTP/1.1 101 X"]
    whole = [
        start + lines[0] + b"\r\n" + field + b"\r\n\r\n2\r\nab\r\n0\r\n\r\n" for start in starts for field in fields
    ]
    return whole + [line + b"\r\ncontent-length: 0\r\n\r\n" for line in lines]


TARGETS = (
    Target(name="requests", check=_requests, seeds=_request_seeds, pieces=_PIECES),
    Target(name="answers", check=_answers, seeds=_answer_seeds, pieces=_PIECES),
    Target(name="chunks", check=_chunks, seeds=_chunk_seeds, pieces=_PIECES),
)
