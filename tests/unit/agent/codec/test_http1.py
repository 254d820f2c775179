"""The parsers against the matrix of data-plane.md 2.1 and 2.2: raw bytes in; head, body, end or refusal out."""

from typing import Any

import pytest

from agent.codec.head import CHUNKED, UNTIL_EOF, RequestHead, ResponseHead
from agent.codec.message_parser import MAX_IDLE_BYTES
from agent.codec.protocol_error import ProtocolError
from agent.codec.request_parser import RequestParser
from agent.codec.response_parser import ResponseParser
from agent.codec.serialise import request_bytes, response_bytes
from tests.support.malformed import REFUSED, get, post


class Requests:
    """Records what the parser delivers; the body's parts are joined."""

    def __init__(self, **limits: int) -> None:
        self.heads: list[RequestHead] = []
        self.events: list[Any] = []
        self.parser = RequestParser(self, **limits)

    def on_request(self, head: RequestHead, body: bytes, end_stream: bool) -> None:
        self.heads.append(head)
        self.events.append((head.method, head.path, head.authority, end_stream and not body))
        if body:
            self.on_request_body(body)
            if end_stream:
                self.on_request_end()

    def on_request_body(self, data: bytes) -> None:
        if self.events and isinstance(self.events[-1], bytes):
            self.events[-1] += data
        else:
            self.events.append(data)

    def on_request_end(self) -> None:
        self.events.append("end")

    def feed(self, raw: bytes, step: int = 0) -> "Requests":
        for start in range(0, len(raw), step or len(raw)):
            self.parser.feed(raw[start : start + (step or len(raw))])
        return self


class Responses:
    def __init__(self, method: bytes = b"GET") -> None:
        self.heads: list[ResponseHead] = []
        self.events: list[Any] = []
        self.parser = ResponseParser(self)
        self.parser.expect(method)

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self.heads.append(head)
        self.events.append((head.status, end_stream and not body))
        if body:
            self.on_response_body(body)
            if end_stream:
                self.on_response_end()

    def on_response_body(self, data: bytes) -> None:
        if self.events and isinstance(self.events[-1], bytes):
            self.events[-1] += data
        else:
            self.events.append(data)

    def on_response_end(self) -> None:
        self.events.append("end")

    def feed(self, raw: bytes, step: int = 0) -> "Responses":
        for start in range(0, len(raw), step or len(raw)):
            self.parser.feed(raw[start : start + (step or len(raw))])
        return self


@pytest.mark.parametrize("step", [0, 1, 7], ids=["whole", "by 1", "by 7"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_requests(name: str, step: int) -> None:
    raw, status = REFUSED[name]
    if step == 1 and len(raw) > 60_000:
        step = 1000
    requests = Requests()
    with pytest.raises(ProtocolError) as caught:
        requests.feed(raw, step)
    assert caught.value.status == status, caught.value.details
    assert "end" not in requests.events
    assert not any(isinstance(event, tuple) and event[3] for event in requests.events)


ACCEPTED = {
    "get": (get(), [(b"GET", b"/ok", b"a", True)]),
    "leading CRLF": (b"\r\n" + get(), [(b"GET", b"/ok", b"a", True)]),
    "post": (post(b"Content-Length: 2\r\n", b"ab"), [(b"POST", b"/ok", b"a", False), b"ab", "end"]),
    "get with a body": (
        get(b"Host: a\r\nContent-Length: 2\r\n") + b"ab",
        [(b"GET", b"/ok", b"a", False), b"ab", "end"],
    ),
    "CL 02": (post(b"Content-Length: 02\r\n", b"ab"), [(b"POST", b"/ok", b"a", False), b"ab", "end"]),
    "CL 0": (post(b"Content-Length: 0\r\n"), [(b"POST", b"/ok", b"a", True)]),
    "chunked": (
        post(b"Transfer-Encoding: cHuNkEd\r\n", b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\n\r\n"),
        [(b"POST", b"/ok", b"a", False), b"abc", "end"],
    ),
    "latin-1 value": (get(b"Host: a\r\nX-A: caf\xe9\r\n"), [(b"GET", b"/ok", b"a", True)]),
    "underscore": (get(b"Host: a\r\nx_a: b\r\n"), [(b"GET", b"/ok", b"a", True)]),
    "host with port": (get(b"Host: a.b-c:8080\r\n"), [(b"GET", b"/ok", b"a.b-c:8080", True)]),
    "IPv6 host": (get(b"Host: [::1]:80\r\n"), [(b"GET", b"/ok", b"[::1]:80", True)]),
    "HTTP/1.0 without host": (b"GET /ok HTTP/1.0\r\n\r\n", [(b"GET", b"/ok", b"", True)]),
    "absolute form": (get(line=b"GET http://b.com/ok?x HTTP/1.1\r\n"), [(b"GET", b"/ok?x", b"b.com", True)]),
    "absolute form without path": (get(line=b"GET HTTPS://b.com?x HTTP/1.1\r\n"), [(b"GET", b"/?x", b"b.com", True)]),
    "OPTIONS *": (get(line=b"OPTIONS * HTTP/1.1\r\n"), [(b"OPTIONS", b"*", b"a", True)]),
    "dot segments are the router's": (get(line=b"GET /a/../b HTTP/1.1\r\n"), [(b"GET", b"/a/../b", b"a", True)]),
    "pipelined": (
        post(b"Content-Length: 1\r\n", b"x") + get() + get(),
        [(b"POST", b"/ok", b"a", False), b"x", "end", (b"GET", b"/ok", b"a", True), (b"GET", b"/ok", b"a", True)],
    ),
    "behind Connection: close": (get(b"Host: a\r\nConnection: close\r\n") + get(), [(b"GET", b"/ok", b"a", True)]),
    "h2c upgrade is ignored": (
        get(b"Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n") + get(),
        [(b"GET", b"/ok", b"a", True), (b"GET", b"/ok", b"a", True)],
    ),
    "h2c upgrade that closes": (
        get(b"Host: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n") + get(),
        [(b"GET", b"/ok", b"a", True)],
    ),
    "websocket on HTTP/1.0 is ignored and closes": (
        b"GET /ok HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + get(),
        [(b"GET", b"/ok", b"", True)],
    ),
    "h2c upgrade with a body": (
        post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n", b"ab") + get(),
        [(b"POST", b"/ok", b"a", False), b"ab", "end", (b"GET", b"/ok", b"a", True)],
    ),
    "h2c upgrade with chunks": (
        post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", b"2\r\nab\r\n0\r\n\r\n") + get(),
        [(b"POST", b"/ok", b"a", False), b"ab", "end", (b"GET", b"/ok", b"a", True)],
    ),
}


@pytest.mark.parametrize("step", [0, 1, 7], ids=["whole", "by 1", "by 7"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_requests(name: str, step: int) -> None:
    raw, events = ACCEPTED[name]
    assert Requests().feed(raw, step).events == events


def test_a_length_is_written_in_its_canonical_form() -> None:
    head = Requests().feed(post(b"Content-Length: 002\r\n", b"ab")).heads[0]
    assert head.content_length == 2
    assert b"content-length: 2\r\n" in request_bytes(head)


def test_trailers_reach_no_head() -> None:
    requests = Requests().feed(post(b"Transfer-Encoding: chunked\r\n", b"0\r\nX-T: 1\r\nHost: b\r\n\r\n") + get())
    assert all(head.headers.get(b"x-t") is None for head in requests.heads)
    assert [head.headers.get(b"host") for head in requests.heads] == [b"a", b"a"]
    assert requests.heads[0].content_length == CHUNKED


@pytest.mark.parametrize("tail", [b"1;" + b"x" * MAX_IDLE_BYTES * 2, b"0\r\nX: " + b"y" * MAX_IDLE_BYTES * 2])
def test_endless_chunk_extensions_and_trailers_are_refused(tail: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Requests().feed(post(b"Transfer-Encoding: chunked\r\n"), 0).feed(tail, 4096)
    assert caught.value.status == 400


def test_an_endless_head_is_refused_before_it_ends() -> None:
    requests = Requests()
    with pytest.raises(ProtocolError) as caught:
        requests.feed(b"GET /ok HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 10**6, 4096)
    assert caught.value.status == 431


def test_many_small_pipelined_heads_are_not_one_large_head() -> None:
    requests = Requests(max_headers_bytes=1024)
    requests.feed(get() * 200, 999)
    assert len(requests.heads) == 200


def test_a_large_head_behind_another_request_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        Requests().feed(get() + get(b"Host: a\r\nx: " + b"y" * 61 * 1024 + b"\r\n"))
    assert caught.value.status == 431


def test_a_head_within_the_limit_is_served_however_much_stands_before_it() -> None:
    large = get(b"Host: a\r\nx: " + b"y" * 40 * 1024 + b"\r\n")
    for before in (0, 1, 900, 1500):
        raw = get() * before + large
        requests = Requests()
        requests.parser.feed(raw[:-1000])
        requests.parser.feed(raw[-1000:])
        assert len(requests.heads) == before + 1


def test_thousands_of_ignored_upgrades_in_one_feed_are_served() -> None:
    requests = Requests().feed(get(b"Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n") * 3000)
    assert len(requests.heads) == 3000


@pytest.mark.parametrize(
    ("fields", "version", "keep"),
    [
        (b"", b"1.1", True),
        (b"Connection: close\r\n", b"1.1", False),
        (b"Connection: x, Close\r\n", b"1.1", False),
        (b"", b"1.0", False),
        (b"Connection: keep-alive\r\n", b"1.0", True),
    ],
)
def test_keep_alive(fields: bytes, version: bytes, keep: bool) -> None:
    head = Requests().feed(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + fields + b"\r\n").heads[0]
    assert head.keep_alive is keep


def test_expect_continue() -> None:
    assert Requests().feed(post(b"Expect: 100-Continue\r\nContent-Length: 2\r\n")).heads[0].expect_continue
    assert not Requests().feed(post(b"Expect: 200-ok\r\nContent-Length: 2\r\n")).heads[0].expect_continue


def test_websocket_upgrade_hands_over_what_follows() -> None:
    requests = Requests().feed(get(b"Host: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n") + b"frames")
    assert requests.heads[0].upgrade == b"websocket"
    assert requests.parser.upgraded
    assert requests.parser.tail == b"frames"


def test_repeated_fields_are_joined_for_lookup_and_kept_apart_on_the_wire() -> None:
    head = Requests().feed(get(b"Host: a\r\nX-A: 1\r\nCookie: a=1\r\nx-a:  2 \t\r\ncookie: b=2\r\n")).heads[0]
    assert head.headers.get(b"x-a") == b"1, 2"
    assert head.headers.get(b"cookie") == b"a=1; b=2"
    assert request_bytes(head) == (
        b"GET /ok HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: a=1\r\nx-a: 2\r\ncookie: b=2\r\n\r\n"
    )


def test_an_exception_of_the_sink_is_not_disguised() -> None:
    class Broken(Requests):
        def on_request(self, head: RequestHead, body: bytes, end_stream: bool) -> None:
            raise KeyError("sink")

    with pytest.raises(KeyError, match="sink"):
        Broken().feed(get())


# --- responses ------------------------------------------------------------------------------------------------

RESPONSES = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", [(200, False), b"ok", "end"]),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
        [(200, False), b"ok", "end"],
    ),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", [(200, True)]),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", [(204, True)]),
    "304 with length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", [(304, True)]),
    "100 is dropped": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", [(204, True)]),
    "103 is dropped": (b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", [(204, True)]),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", [(200, True)]),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", [(200, False), b"ok", "end"]),
}


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "by 1"])
@pytest.mark.parametrize("name", RESPONSES)
def test_accepted_responses(name: str, step: int) -> None:
    raw, events = RESPONSES[name]
    assert Responses().feed(raw, step).events == events


@pytest.mark.parametrize(
    "raw",
    [
        b"junk\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 80 * 1024 + b"\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nraw",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 199 X\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 000 X\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\x1b[31mK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_refused_responses(raw: bytes) -> None:
    responses = Responses()
    with pytest.raises(ProtocolError) as caught:
        responses.feed(raw)
    assert (caught.value.status, caught.value.details) == (502, "protocol_error")
    assert responses.events == []


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 80 * 1024,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * MAX_IDLE_BYTES * 2,
    ],
    ids=["head", "chunk extension"],
)
def test_an_endless_response_is_refused_before_it_ends(raw: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Responses().feed(raw, 4096)
    assert (caught.value.status, caught.value.details) == (502, "protocol_error")


def test_many_answers_to_head_do_not_add_up() -> None:
    responses = Responses(b"HEAD")
    answer = b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2000 + b"\r\n\r\n"
    for _ in range(50):
        responses.parser.expect(b"HEAD")
        responses.feed(answer, 700)
    assert [head.status for head in responses.heads] == [200] * 50


def test_a_body_without_length_ends_with_the_stream() -> None:
    responses = Responses().feed(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert responses.heads[0].content_length == UNTIL_EOF
    assert not responses.heads[0].keep_alive
    assert responses.events == [(200, False), b"abc"]
    assert responses.parser.feed_eof()
    assert responses.events[-1] == "end"


def test_the_end_of_the_stream_before_the_end_of_the_body_is_no_end() -> None:
    responses = Responses().feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
    assert not responses.parser.feed_eof()
    assert "end" not in responses.events


def test_an_answer_to_head_has_no_body_and_the_next_answer_is_read() -> None:
    responses = Responses(b"HEAD").feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
    assert responses.events == [(200, True)]
    assert responses.heads[0].keep_alive
    assert responses.heads[0].headers.get(b"content-length") == b"1234"
    responses.parser.expect(b"GET")
    assert responses.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").events[1:] == [(200, False), b"ok", "end"]


def test_a_body_behind_an_answer_to_head_is_noticed() -> None:
    responses = Responses(b"HEAD").feed(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
    assert responses.events == [(200, True)]
    assert responses.parser.unread
    late = Responses(b"HEAD").feed(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").feed(b"abc")
    assert late.parser.unread


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("behind", [20, 45, 60], ids=["a part of a head", "more of it", "whole"])
def test_an_answer_that_nobody_asked_for_is_noticed_and_not_delivered(method: bytes, behind: int) -> None:
    second = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\nX: y\r\n\r\nevil"[:behind]
    responses = Responses(method).feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + second)
    assert responses.events == [(200, True)]
    assert responses.parser.unread
    assert responses.feed(b"more").events == [(200, True)]


def test_switching_protocols() -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nHELLO"
    responses = Responses().feed(raw)
    assert responses.events == [(101, True)]
    assert responses.parser.upgraded
    assert responses.parser.tail == b"HELLO"


def test_a_response_is_written_with_one_framing() -> None:
    head = Responses().feed(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n").heads[0]
    assert response_bytes(head, True) == b"HTTP/1.1 200 OK\r\nX-A: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    head.headers.remove(b"x-a")
    assert response_bytes(head, False) == b"HTTP/1.1 200 OK\r\n\r\n"


class _Parts:
    """What a parser delivers, event by event."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_request(self, head: RequestHead | ResponseHead, body: bytes, end_stream: bool) -> None:
        self.events.append((body, end_stream))

    def on_request_body(self, data: bytes) -> None:
        self.events.append(data)

    def on_request_end(self) -> None:
        self.events.append("end")

    on_response, on_response_body, on_response_end = on_request, on_request_body, on_request_end


_CHUNKS = b"2\r\nab\r\n1\r\nc\r\n"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (post(b"Transfer-Encoding: chunked\r\n", b""), RequestParser),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseParser),
    ],
    ids=["request", "response"],
)
def test_the_chunks_of_a_feed_are_one_part(head: bytes, kind: type[RequestParser] | type[ResponseParser]) -> None:
    def events(*feeds: bytes) -> list[Any]:
        sink = _Parts()
        parser = kind(sink)
        for data in feeds:
            parser.feed(data)
        return sink.events

    assert events(head + _CHUNKS + b"0\r\n\r\n") == [(b"abc", True)]
    assert events(head + _CHUNKS, _CHUNKS, _CHUNKS + b"0\r\n\r\n") == [(b"abc", False), b"abc", b"abc", "end"]
