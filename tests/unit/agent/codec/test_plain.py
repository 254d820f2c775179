"""Plain messages: what is one, and that a program cannot tell which way a message went.

tests/property/test_http1.py compares both ways on messages of every kind.
"""

from typing import Any

import pytest

from agent.codec import plain
from agent.codec.plain import FieldLines, plain_request, plain_response
from tests.unit.agent.codec.test_http1 import Requests, Responses

LIMITS = (60 * 1024, 100)
GET = b"GET /a?b=c%20d HTTP/1.1\r\nHost: a:80\r\nX-Empty: \r\nuser-agent: curl\r\nCookie: a=b; c=d\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"


def told(recorder: Any) -> Any:
    """What a recorder was given, framing included."""
    head = recorder.heads[0]
    return recorder.events, head.headers.fields, head.headers.index, head.content_length, head.keep_alive


@pytest.mark.parametrize(
    "raw", [GET, POST, GET.replace(b"GET", b"OPTIONS"), POST.replace(b"3\r\n\r\nabc", b"0\r\n\r\n")]
)
def test_a_plain_request_is_read_as_llhttp_reads_it(raw: bytes) -> None:
    for _ in range(2):  # the second time its lines are known
        assert plain_request(raw, *LIMITS) is not None
        assert told(Requests().feed(raw)) == told(Requests().feed(raw, 1))


@pytest.mark.parametrize("raw", [OK, OK.replace(b"200 OK", b"503 "), OK.replace(b"2\r\n\r\nhi", b"0\r\n\r\n")])
def test_a_plain_response_is_read_as_llhttp_reads_it(raw: bytes) -> None:
    for _ in range(2):
        assert plain_response(raw, *LIMITS) is not None
        assert told(Responses().feed(raw)) == told(Responses().feed(raw, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\r\n\r\n", b"\r\n"),
        (b"\r\n\r\n", b"\r\n\r\nGET"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"GET", b"CONNECT"),
        (b"GET", b"get"),
        (b"/a?b", b"http://a/a?b"),
        (b"/a?b", b"/a#b"),
        (b"/a?b", b"/a b"),
        (b"/a?b", b"/\x7f"),
        (b"/a?b", b"/\xe9"),
        (b"Host: a:80\r\n", b""),
        (b"Host: a:80", b"Host: "),
        (b"Host: a:80", b"Host: a b"),
        (b"Host: a:80", b"Host: u@a"),
        (b"Host: a:80", b"Host: a\r\nHost: a"),
        (b"X-Empty: ", b"X-Empty :"),
        (b"X-Empty: ", b"X-Empty"),
        (b"X-Empty: ", b"X-Empty:"),
        (b"user-agent: curl", b"user-agent:curl"),
        (b"X-Empty: ", b": a"),
        (b"X-Empty: ", b"X\x00: a"),
        (b"X-Empty: ", b"X: a\nb: c"),
        (b"X-Empty: ", b"X: a\rb"),
        (b"X-Empty: ", b"X: a\r\n b"),
        (b"X-Empty: ", b"X: a "),
        (b"X-Empty: ", b"X:  a"),
        (b"X-Empty: ", b"X:\ta"),
        (b"X-Empty: ", b"X: \xe9"),
        (b"X-Empty: ", b"Cookie: e=f"),
        (b"X-Empty: ", b"Content-Length: 1"),
        (b"X-Empty: ", b"Content-Length: +0"),
        (b"X-Empty: ", b"Content-Length: 00"),
        (b"X-Empty: ", b"Content-Length: -1"),
        (b"X-Empty: ", b"Transfer-Encoding: chunked"),
        (b"X-Empty: ", b"Transfer-Encoding: identity"),
        (b"X-Empty: ", b"Connection: close"),
        (b"X-Empty: ", b"Connection: keep-alive, x-empty"),
        (b"X-Empty: ", b"Proxy-Connection: close"),
        (b"X-Empty: ", b"Upgrade: websocket"),
        (b"X-Empty: ", b"Expect: 100-continue"),
        (b"X-Empty: ", b"X: " + b"a" * plain.MAX_LINE_BYTES),
        (b"X-Empty: ", b"\r\n".join(b"X-%d: a" % number for number in range(100))),
    ],
)
def test_every_other_request_is_left_to_llhttp(old: bytes, new: bytes) -> None:
    assert old in GET
    assert plain_request(GET.replace(old, new), *LIMITS) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"hi", b"h"),
        (b"hi", b"hi!"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"200 OK", b"200"),
        (b"200 OK", b"100 Continue"),
        (b"200 OK", b"101 Switching Protocols"),
        (b"200 OK", b"204 No Content"),
        (b"200 OK", b"304 Not Modified"),
        (b"200 OK", b"600 OK"),
        (b"200 OK", b"200 \tOK"),
        (b"Content-Length: 2\r\n", b""),
        (b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
        (b"Content-Length: 2", b"Content-Length: 2\r\nConnection: close"),
        (b"Content-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
        (b"Content-Length: 2", b"Content-Length: 2\r\nSet-Cookie: a\r\nSet-Cookie: b"),
    ],
)
def test_every_other_response_is_left_to_llhttp(old: bytes, new: bytes) -> None:
    assert old in OK
    assert plain_response(OK.replace(old, new), *LIMITS) is None


def test_limits_are_left_to_llhttp_too() -> None:
    assert plain_request(GET, len(GET) - 5, 100) is None
    assert plain_request(GET, 1000, 3) is None
    assert plain_request(GET, 1000, 4) is not None
    assert plain_response(OK, 1000, 1) is None


def test_an_answer_to_head_is_not_plain() -> None:
    responses = Responses(b"HEAD").feed(OK.removesuffix(b"hi"))
    assert (responses.events, responses.heads[0].content_length) == ([(200, True)], 0)


def test_both_ways_follow_each_other_on_one_connection() -> None:
    requests = Requests()
    for raw, step in ((GET, 0), (GET, 1), (POST, 0), (POST, 7), (GET + POST, 0), (GET, 0)):
        requests.feed(raw, step)
    assert [head.method for head in requests.heads] == [b"GET", b"GET", b"POST", b"POST", b"GET", b"POST", b"GET"]
    assert requests.events.count(b"abc") == 3


def test_nothing_is_served_after_a_request_that_closes() -> None:
    requests = Requests().feed(GET.replace(b"X-Empty: ", b"Connection: close")).feed(GET)
    assert len(requests.heads) == 1


def test_what_is_held_of_lines_is_bounded() -> None:
    book = FieldLines({})
    held = []
    for number in range(10_000):
        headers = book.headers([b"Known: yes", b"X-Id: %0100d" % number])
        assert headers is not None
        assert headers.index == {b"known": b"yes", b"x-id": b"%0100d" % number}
        held.append(len(book._entries))
    assert max(held) < 3000
    assert held[-1] < held[1000]


def test_lines_that_say_something_else_each_time_are_not_held() -> None:
    book = FieldLines({})
    for number in range(3):
        lines = [b"X-Request-Id: %d" % number, b"traceparent: 00-%d" % number, b"Known: yes"]
        headers = book.headers(lines)
        assert headers is not None
        assert headers.index == {b"x-request-id": b"%d" % number, b"traceparent": b"00-%d" % number, b"known": b"yes"}
    assert list(book._entries) == [b"Known: yes"]
    assert book.headers([b"X-Request-Id: \x7f"]) is None
    assert book.headers([b"x-request-id:  a"]) is None
