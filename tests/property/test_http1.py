"""The HTTP/1 codec: how bytes are cut changes nothing, no bytes break it, what is written is read, nothing is smuggled.

Source: RFC 9112; data-plane.md 2.1 and 2.2 ("agent must").
"""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.codec.head import CHUNKED, NO_BODY, Headers, RequestHead, ResponseHead
from agent.codec.protocol_error import ProtocolError
from agent.codec.request_parser import RequestParser
from agent.codec.response_parser import ResponseParser
from agent.codec.serialise import LAST_CHUNK, chunk_bytes, request_bytes, response_bytes
from tests.support.parsing import Record, assert_same, cut, feed, outcome, steps
from tests.support.smuggling import AMBIGUOUS, ANSWERS

TOKENS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What the codec itself reads stands in a message only where a test means it.
READ = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"})


@dataclass(frozen=True)
class Body:
    """A body as it goes on the wire, and what it says."""

    framing: tuple[tuple[bytes, bytes], ...]
    raw: bytes
    data: bytes


def _lengthy(data: bytes) -> Body:
    return Body(((b"Content-Length", b"%d" % len(data)),), data, data)


@st.composite
def chunked(draw: st.DrawFn) -> Body:
    """Chunks of any size, with extensions, sizes in either case, and trailers."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    raw = b""
    for chunk in chunks:
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b", b'%x;q="c"'])) % len(chunk)
        raw += size + b"\r\n" + chunk + b"\r\n"
    trailers = draw(st.sampled_from([b"", b"x-t: 1\r\n", b"Host: evil\r\nExpect: 100-continue\r\n"]))
    return Body(((b"Transfer-Encoding", b"chunked"),), raw + b"0\r\n" + trailers + b"\r\n", b"".join(chunks))


bodies = st.one_of(st.just(Body((), b"", b"")), st.binary(max_size=60).map(_lengthy), chunked())
names = st.text(TOKENS, min_size=1, max_size=12).map(str.encode).filter(lambda name: name.lower() not in READ)
# field-vchar, obs-text, and blanks inside.
values = st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b == 9 or (b >= 32 and b != 127)).strip(b" \t"))
fields = st.lists(st.tuples(names, values), max_size=5)
paths = st.text("abc/._~%20-+=&?", max_size=20).map(lambda text: b"/" + text.encode())
methods = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS"])
authorities = st.sampled_from([b"a", b"a.b.c:80", b"[::1]:8080", b"user-service.default.svc.cluster.local"])
blanks = st.sampled_from([b"", b" ", b"\t ", b"  "])


def _wire(line: bytes, found: tuple[tuple[bytes, bytes], ...], pad: bytes) -> bytes:
    # A tab behind a transfer coding is refused (llhttp does not see the coding then), before one it is not.
    lines = (
        b"%b:%b%b%b\r\n" % (name, pad, value, b" " if name == b"Transfer-Encoding" else pad) for name, value in found
    )
    return line + b"\r\n" + b"".join(lines) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, list[Any]]:
    """One valid request: its bytes, and the events that it means."""
    method, path, authority, body = draw(methods), draw(paths), draw(authorities), draw(bodies)
    listed = draw(fields)
    listed.insert(draw(st.integers(0, len(listed))), (b"host", authority))
    found = (*listed, *body.framing)
    raw = draw(st.sampled_from([b"", b"\r\n"])) + _wire(b"%b %b HTTP/1.1" % (method, path), found, draw(blanks))
    events: list[Any] = [(method, path, authority, found)]
    return raw + body.raw, [*events, *([body.data] if body.data else []), "end"]


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, list[Any]]:
    """One response to a GET, perhaps behind interim ones: its bytes, and the events that it means."""
    status, body = draw(st.sampled_from([200, 201, 404, 429, 503])), draw(bodies)
    body = body if body.framing else _lengthy(b"")  # without a framing it would last until the end of the stream
    found = (*draw(fields), *body.framing)
    interim = draw(
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n"])
    )
    raw = interim + _wire(b"HTTP/1.1 %d Some Reason" % status, found, draw(blanks)) + body.raw
    return raw, [(status, b"Some Reason", found), *([body.data] if body.data else []), "end"]


cuts = st.lists(st.integers(0, 10**6), max_size=12)


@given(st.lists(requests(), min_size=1, max_size=4), cuts)
def test_requests_mean_the_same_however_they_are_cut(sent: list[tuple[bytes, list[Any]]], places: list[int]) -> None:
    record = Record()
    parser = RequestParser(record)
    feed(parser, cut(b"".join(raw for raw, _ in sent), places))
    assert record.events == [event for _, events in sent for event in events]
    assert not parser.started


@given(st.lists(responses(), min_size=1, max_size=4), cuts)
def test_responses_mean_the_same_however_they_are_cut(sent: list[tuple[bytes, list[Any]]], places: list[int]) -> None:
    record = Record()
    parser = ResponseParser(record)
    for raw, _ in sent:
        parser.expect(b"GET")
        feed(parser, cut(raw, places))
    assert record.events == [event for _, events in sent for event in events]
    assert not parser.unread


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Nearly a request: bytes changed, doubled, lost or put between."""
    raw = bytearray(b"".join(raw for raw, _ in draw(st.lists(requests(), min_size=1, max_size=2))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw) - 1))
        piece = draw(st.one_of(st.binary(max_size=3), st.sampled_from(PIECES)))
        raw[place : place + draw(st.integers(0, 3))] = piece
        if not raw:
            break
    return bytes(raw)


PIECES = [
    b"\r\nContent-Length: 3\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n",
    b"\r\nConnection: close\r\n",
    b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    b"\r\nExpect: 100-continue\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"HTTP/1.0",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@given(st.one_of(st.binary(max_size=200), damaged()), cuts)
def test_any_bytes_are_requests_or_a_protocol_error_and_cuts_do_not_matter(raw: bytes, places: list[int]) -> None:
    assert_same(outcome(raw, places), outcome(raw, []))


@given(st.one_of(st.binary(max_size=200), damaged(), responses().map(lambda sent: sent[0] + b"junk")), cuts)
def test_any_bytes_of_an_upstream_are_a_response_or_502(raw: bytes, places: list[int]) -> None:
    parser = ResponseParser(Record())
    parser.expect(b"GET")
    refused = (502, "protocol_error")
    try:
        feed(parser, cut(raw, places))
        parser.feed_eof()
    except ProtocolError as error:
        refused = (error.status, error.details)
    assert refused == (502, "protocol_error")


def _headers(found: list[tuple[bytes, bytes]]) -> Headers:
    headers = Headers()
    for name, value in found:
        headers.append(name, value)
    return headers


@given(methods, paths, authorities, fields, st.lists(st.binary(min_size=1, max_size=30), max_size=3), cuts)
def test_a_request_that_is_written_is_read_back(
    method: bytes,
    path: bytes,
    authority: bytes,
    found: list[tuple[bytes, bytes]],
    chunks: list[bytes],
    places: list[int],
) -> None:
    head = RequestHead(method, path, authority, _headers([(b"host", authority), *found]))
    head.content_length = CHUNKED if chunks else NO_BODY
    raw = request_bytes(head) + b"".join(map(chunk_bytes, chunks)) + (LAST_CHUNK if chunks else b"")
    record = Record()
    parser = RequestParser(record)
    feed(parser, cut(raw, places))
    (back,) = record.heads
    framing = [(b"transfer-encoding", b"chunked")] if chunks else []
    assert back.headers.fields == [*head.headers.fields, *framing]
    assert (back.method, back.path, back.authority) == (method, path, authority)
    assert back.content_length == head.content_length
    assert record.events[1:] == [*([b"".join(chunks)] if chunks else []), "end"]


@given(st.integers(200, 599).filter(lambda code: code not in (204, 304)), fields, st.binary(max_size=50), cuts)
def test_a_response_that_is_written_is_read_back(
    status: int, found: list[tuple[bytes, bytes]], body: bytes, places: list[int]
) -> None:
    head = ResponseHead(status, b"Any", _headers(found))
    raw = response_bytes(head, chunked=True) + (chunk_bytes(body) if body else b"") + LAST_CHUNK
    record = Record()
    parser = ResponseParser(record)
    parser.expect(b"GET")
    feed(parser, cut(raw, places))
    assert record.events == [
        (status, b"Any", (*head.headers.fields, (b"transfer-encoding", b"chunked"))),
        *([body] if body else []),
        "end",
    ]


# --- smuggling ------------------------------------------------------------------------------------------------
# Each of these could be read as two messages by one hop and as one by the next. All are refused, and nothing of what
# stands behind the ambiguous head reaches anybody.


def test_the_corpus_is_large_enough() -> None:
    assert len(AMBIGUOUS) >= 150


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_of_it_passes(name: str) -> None:
    raw, status = AMBIGUOUS[name]
    for step in (len(raw), 1, 3):
        record = Record()
        with pytest.raises(ProtocolError) as caught:
            feed(RequestParser(record), steps(raw, step))
        assert (caught.value.status, step) == (status, step), caught.value.details
        assert "end" not in record.events
        assert all(head.path == b"/ok" for head in record.heads)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_ambiguous_response_is_refused(name: str) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + ANSWERS[name] + b"\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    for step in (len(raw), 1):
        record = Record()
        parser = ResponseParser(record)
        parser.expect(b"GET")
        with pytest.raises(ProtocolError) as caught:
            feed(parser, steps(raw, step))
        assert (caught.value.status, caught.value.details) == (502, "protocol_error")
        assert record.events == []
