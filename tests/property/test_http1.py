"""The HTTP/1 codec: how bytes are cut changes nothing, no bytes break it, what is written is read, nothing is smuggled.

Source: RFC 9112; data-plane.md 2.1 and 2.2 ("agent must").
"""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.codec.head import CHUNKED, NO_BODY, Headers, RequestHead, ResponseHead
from agent.codec.http1 import ProtocolError, RequestParser, ResponseParser
from agent.codec.serialise import LAST_CHUNK, chunk_bytes, request_bytes, response_bytes

TOKENS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What the codec itself reads stands in a message only where a test means it.
READ = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"})


class Record:
    """What a parser delivers; the parts of one body are joined, an end that comes with a part stands behind it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.heads: list[Any] = []

    def on_request(self, head: RequestHead, body: bytes, end_stream: bool) -> None:
        self._begin(head, (head.method, head.path, head.authority, tuple(head.headers.fields)), body, end_stream)

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self._begin(head, (head.status, head.reason, tuple(head.headers.fields)), body, end_stream)

    def on_request_body(self, data: bytes) -> None:
        assert data
        if isinstance(self.events[-1], bytes):
            self.events[-1] += data
        else:
            self.events.append(data)

    def on_request_end(self) -> None:
        self.events.append("end")

    on_response_body = on_request_body
    on_response_end = on_request_end

    def _begin(self, head: Any, told: Any, body: bytes, end_stream: bool) -> None:
        self.heads.append(head)
        self.events.append(told)
        if body:
            self.on_request_body(body)
        if end_stream:
            self.on_request_end()


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


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [part for part in (data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)) if part]


def feed(parser: RequestParser | ResponseParser, parts: list[bytes]) -> None:
    """As a connection does: nothing more after an upgrade."""
    for part in parts:
        if not parser.upgraded:
            parser.feed(part)


def steps(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]


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


def _outcome(raw: bytes, places: list[int]) -> tuple[list[Any], tuple[int, str] | None]:
    record = Record()
    parser = RequestParser(record)
    try:
        feed(parser, cut(raw, places))
    except ProtocolError as error:
        return record.events, (error.status, error.details)
    return record.events, None


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
    events, refused = _outcome(raw, places)
    whole, whole_refused = _outcome(raw, [])
    assert refused == whole_refused
    if refused is None:
        assert events == whole
    else:
        # What is refused within the feed that brought its head is told less of: never more, and nothing else.
        messages = [event for event in events if event != "end" and not isinstance(event, bytes)]
        told = [event for event in whole if event != "end" and not isinstance(event, bytes)]
        assert told == messages[: len(told)]
        assert whole.count("end") == events.count("end")


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

SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

BAD_LENGTHS = [
    *(
        b"+2",
        b"-2",
        b"-0",
        b"+0",
        b"0x2",
        b"0X2",
        b"0b1",
        b"0o2",
        b"2h",
        b"2;",
        b"2,",
        b",2",
        b"2,2",
        b"2, 2",
        b"2 , 2",
    ),
    *(b"2, 3", b"2 2", b"2 3", b"1_0", b"2.0", b"2e0", b"1e1", b"two", b'"2"', b"'2'", b"", b",", b";", b"2\t2", b"\t"),
    *(b"\xb2", b"\xd9\xa2", b"2\xa0", b"\xa02", b"2\x85", b"\xef\xbc\x92", b"2\x0b", b"\x0b2", b"2\x0c", b"\x0c2"),
    *(b"2\x00", b"\x002", b"2\x01", b"2\x7f", b"2\r3", b"9" * 20, b"9" * 30, b"1" + b"0" * 400),
    *(b"18446744073709551617", b"18446744073709551616", b"9223372036854775808", b"4294967296, 2", b"chunked"),
]
BAD_CODINGS = {
    400: [
        *(b"\x0bchunked", b"\x0cchunked", b"chunked\x00", b"\x00chunked", b"chunked\x01", b"chunked\x7f"),
        *(b"chu\rnked", b"chunked\rx", b"\rchunked"),
    ],
    501: [
        *(b"gzip", b"gzip, chunked", b"gzip,chunked", b"chunked, gzip", b"deflate, chunked", b"compress"),
        *(b"identity", b"identity, chunked", b"chunked, identity", b"xchunked", b"chunkedx", b"chunked, chunked"),
        *(b"chunked,chunked", b"chunked,", b",chunked", b", chunked", b"chunked;q=1", b"chunked;foo=bar", b"chunked x"),
        *(b"x chunked", b'"chunked"', b"'chunked'", b"chunk", b"chunke", b"hunked", b"cow", b"trailers", b"", b","),
        *(b"chunked\xa0", b"\xa0chunked", b"\x85chunked", b"chun\xe9ked", b"chunked chunked", b"chunked\tx", b"0"),
        *(b"br, chunked", b"chunked\t", b"chunked \t", b"chunked\t "),
    ],
}  # fmt: skip
BAD_SIZES = [
    *(b"0x2", b"-2", b"+2", b" 2", b"\t2", b"2 ", b"2\t", b"2 x", b"g", b"", b"2_0", b"2.0", b"\xb2", b"\xd9\xa2"),
    *(b"2\x00", b"f" * 17, b"1" + b"0" * 16, b"0x", b"2,2", b"2\r", b"\r2", b"2\xa0", b"two", b";a=b"),
]  # fmt: skip


def _post(found: bytes, body: bytes = SMUGGLED, version: bytes = b"1.1") -> bytes:
    return b"POST /ok HTTP/" + version + b"\r\nHost: a\r\n" + found + b"\r\n" + body


def _corpus() -> dict[str, tuple[bytes, int]]:
    both = {"CL, TE": b"Content-Length: 2\r\n%b", "TE, CL": b"%bContent-Length: 2\r\n"}
    found: dict[str, tuple[bytes, int]] = {}
    for value in BAD_LENGTHS:
        found[f"CL {value[:40]!r}"] = (_post(b"Content-Length: " + value + b"\r\n"), 400)
    for one, other in ((b"2", b"2"), (b"2", b"3"), (b"0", b"2"), (b"02", b"2"), (b"2", b"+2"), (b"2", b"")):
        found[f"two CL {one!r} {other!r}"] = (
            _post(b"Content-Length: %b\r\ncontent-length: %b\r\n" % (one, other)),
            400,
        )
    for status, codings in BAD_CODINGS.items():
        for value in codings:
            found[f"TE {value!r}"] = (_post(b"Transfer-Encoding: " + value + b"\r\n"), status)
    for name, form in both.items():
        for coding in (b"chunked", b"CHUNKED", b" chunked ", b"\tchunked", b"cHuNkEd"):
            found[f"{name} {coding!r}"] = (_post(form % (b"Transfer-Encoding:" + coding + b"\r\n")), 400)
        found[f"{name} lower case"] = (_post(form.lower() % b"transfer-encoding: chunked\r\n"), 400)
    for one, other in (
        (b"chunked", b"chunked"),
        (b"chunked", b"gzip"),
        (b"gzip", b"chunked"),
        (b"identity", b"chunked"),
    ):
        found[f"two TE {one!r} {other!r}"] = (
            _post(b"Transfer-Encoding: %b\r\ntransfer-encoding: %b\r\n" % (one, other)),
            501,
        )
    for version in (b"1.0",):
        found[f"TE on HTTP/{version.decode()}"] = (_post(b"Transfer-Encoding: chunked\r\n", version=version), 400)
    for name, line in {
        "TE space before colon": b"Transfer-Encoding : chunked\r\n",
        "TE tab before colon": b"Transfer-Encoding\t: chunked\r\n",
        "TE without colon": b"Transfer-Encoding chunked\r\n",
        "TE folded": b"Transfer-Encoding:\r\n chunked\r\n",
        "TE folded by tab": b"Transfer-Encoding:\r\n\tchunked\r\n",
        "TE in a folded field": b"X: y\r\n Transfer-Encoding: chunked\r\n",
        "TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
        "TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
        "TE behind NUL": b"X: y\x00Transfer-Encoding: chunked\r\n",
        "TE after a blank": b" Transfer-Encoding: chunked\r\n",
        "TE with a control in its name": b"Transfer-Encoding\x0b: chunked\r\n",
        "TE with NUL in its name": b"Transfer\x00-Encoding: chunked\r\n",
        "TE quoted name": b'"Transfer-Encoding": chunked\r\n',
        "TE ended by LF": b"Transfer-Encoding: chunked\n",
        "TE ended by CR": b"Transfer-Encoding: chunked\r",
        "CL space before colon": b"Content-Length : 2\r\n",
        "CL tab before colon": b"Content-Length\t: 2\r\n",
        "CL without colon": b"Content-Length 2\r\n",
        "CL folded": b"Content-Length:\r\n 2\r\n",
        "CL folded after its value": b"Content-Length: 2\r\n 3\r\n",
        "CL behind a bare LF": b"X: y\nContent-Length: 2\r\n",
        "CL behind a bare CR": b"X: y\rContent-Length: 2\r\n",
        "CL ended by LF": b"Content-Length: 2\n",
        "CL with NUL in its name": b"Content-\x00Length: 2\r\n",
        "second host": b"Host: b\r\n",
        "second host, equal": b"Host: a\r\n",
        "second host, other case": b"HOST: b\r\n",
    }.items():
        found[name] = (_post(line), 400)
    for size in BAD_SIZES:
        found[f"chunk {size!r}"] = (_post(b"Transfer-Encoding: chunked\r\n", size + b"\r\nab\r\n" + SMUGGLED), 400)
    for name, body in {
        "chunk sizes ended by LF": b"2\nab\n0\n\n",
        "chunk size ended by LF": b"2\nab\r\n" + SMUGGLED,
        "chunk size ended by CR": b"2\rab\r\n" + SMUGGLED,
        "chunk ended by LF": b"2\r\nab\n" + SMUGGLED,
        "chunk ended by CR": b"2\r\nab\r" + SMUGGLED,
        "chunk without an end": b"2\r\nab" + SMUGGLED,
        "chunk longer than its size": b"2\r\nabc\r\n" + SMUGGLED,
        "chunk shorter than its size": b"5\r\nab\r\n0\r\n\r\n",
        "extension with a bare LF": b"2;a\nb\r\nab\r\n" + SMUGGLED,
        "extension with a bare CR": b"2;a\rb\r\nab\r\n" + SMUGGLED,
        "extension with NUL": b"2;a\x00b\r\nab\r\n" + SMUGGLED,
        "last chunk ended by LF": b"0\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer with a bare LF": b"0\r\nX: y\nZ: a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer folded": b"0\r\nX: y\r\n z\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer that closes": b"0\r\nConnection: close\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer that upgrades": b"0\r\nUpgrade: h2c\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer with a length": b"0\r\nContent-Length: 3\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        "trailer space before colon": b"0\r\nX : y\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    }.items():
        found[name] = (_post(b"Transfer-Encoding: chunked\r\n", body), 400)
    return found


CORPUS = _corpus()


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 150


@pytest.mark.parametrize("name", CORPUS)
def test_an_ambiguous_request_is_refused_and_nothing_of_it_passes(name: str) -> None:
    raw, status = CORPUS[name]
    for step in (len(raw), 1, 3):
        record = Record()
        with pytest.raises(ProtocolError) as caught:
            feed(RequestParser(record), steps(raw, step))
        assert (caught.value.status, step) == (status, step), caught.value.details
        assert "end" not in record.events
        assert all(head.path == b"/ok" for head in record.heads)


AMBIGUOUS_RESPONSES = {
    **{f"CL {value[:40]!r}": b"Content-Length: " + value for value in BAD_LENGTHS},
    **{f"TE {value!r}": b"Transfer-Encoding: " + value for values in BAD_CODINGS.values() for value in values},
    "CL, TE": b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    "TE, CL": b"Transfer-Encoding: chunked\r\nContent-Length: 2",
    "two CL": b"Content-Length: 2\r\nContent-Length: 2",
    "two TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "TE space before colon": b"Transfer-Encoding : chunked",
    "TE folded": b"Transfer-Encoding:\r\n chunked",
}


@pytest.mark.parametrize("name", AMBIGUOUS_RESPONSES)
def test_an_ambiguous_response_is_refused(name: str) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + AMBIGUOUS_RESPONSES[name] + b"\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    for step in (len(raw), 1):
        record = Record()
        parser = ResponseParser(record)
        parser.expect(b"GET")
        with pytest.raises(ProtocolError) as caught:
            feed(parser, steps(raw, step))
        assert (caught.value.status, caught.value.details) == (502, "protocol_error")
        assert record.events == []
