"""Heads that come again are read as if they were new, whatever came before them on the connection."""

import itertools
from collections.abc import Callable
from typing import Any

from agent.codec.head import RequestHead, ResponseHead
from agent.codec.plain import plain_request, plain_response
from agent.codec.repeats import MAX_KEPT_BYTES, PlainRequests, PlainResponses

LIMITS = (8192, 100)
FIELDS = b"Host: a:80\r\nUser-Agent: curl\r\nCookie: a=b"
GET = b"GET /a?b HTTP/1.1\r\n%b\r\n\r\n" % FIELDS
POST = b"POST /a HTTP/1.1\r\n%b\r\nContent-Length: 3\r\n\r\nabc" % FIELDS
REQUESTS = [
    GET,
    GET.replace(b"/a?b", b"/other"),
    GET.replace(b"GET", b"DELETE"),
    GET.replace(b"a=b", b"a=c"),
    GET.replace(b"a:80", b"a:81"),
    GET[:-2],
    GET + b"G",
    GET.replace(b"GET", b"get"),
    GET.replace(b"/a?b", b"/\xe9"),
    GET.replace(b"GET /a?b HTTP/1.1\r\n", b""),
    GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nX-First: 1\r\n"),
    POST,
    POST[:-1],
    POST + b"d",
    POST.replace(b"abc", b"xyz"),
    POST.replace(b"3\r\n\r\nabc", b"2\r\n\r\nab"),
    b"\r\n" + GET,
    b"G",
]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
RESPONSES = [
    OK,
    OK.replace(b"hi", b"ho"),
    OK.replace(b"200 OK", b"200 Fine"),
    OK.replace(b"200", b"503"),
    OK.replace(b"200", b"204"),
    OK.replace(b"2\r\n\r\nhi", b"1\r\n\r\nh"),
    OK + b"!",
    OK[:-1],
    OK.replace(b"text/plain", b"text/html"),
]


def fields(head: RequestHead | ResponseHead) -> tuple[Any, ...]:
    return list(head.headers.lines), dict(head.headers.index), head.content_length, head.keep_alive


def request(head: RequestHead | None) -> Any:
    return head and (head.method, head.path, head.authority, head.scheme, head.upgrade, *fields(head))


def response(head: ResponseHead | None) -> Any:
    return head and (head.status, head.reason, *fields(head))


def follow(read: Callable[[bytes], Any], anew: Callable[[bytes], Any], messages: list[bytes]) -> None:
    """Every message, each twice and thrice in a row, after every other."""
    for before, after in itertools.product(messages, repeat=2):
        for raw in (before, before, after, after, before, after):
            assert read(raw) == anew(raw), raw


def test_requests_are_read_as_if_they_were_new() -> None:
    repeats = PlainRequests(*LIMITS)
    follow(
        lambda raw: request(repeats.read(raw)),
        lambda raw: request(plain_request(raw, *LIMITS)),
        REQUESTS,
    )


def test_responses_are_read_as_if_they_were_new() -> None:
    repeats = PlainResponses(*LIMITS)
    follow(
        lambda raw: response(repeats.read(raw)),
        lambda raw: response(plain_response(raw, *LIMITS)),
        RESPONSES,
    )


def test_what_is_done_to_a_head_is_not_done_to_the_next() -> None:
    repeats = PlainRequests(*LIMITS)
    for _ in range(4):
        head = repeats.read(GET)
        assert head is not None
        assert head.headers.lines == FIELDS.split(b"\r\n")
        assert head.headers.index == {b"host": b"a:80", b"user-agent": b"curl", b"cookie": b"a=b"}
        head.headers.add(b"x-request-id", b"1")
        head.headers.remove(b"cookie")


def test_limits_hold_for_what_comes_again() -> None:
    """A longer target makes a head longer whose fields are known."""
    repeats = PlainRequests(100, 3)
    for _ in range(3):
        assert repeats.read(GET) is not None
    longer = GET.replace(b"/a?b", b"/" + b"a" * 60)
    assert repeats.read(longer) is None
    assert plain_request(longer, 100, 3) is None
    assert PlainRequests(100, 2).read(GET) is None


def test_what_is_kept_is_bounded() -> None:
    repeats = PlainRequests(100_000, 100)
    large = GET.replace(b"a=b", b"a=" + b"b" * 1500)
    large = large.replace(b"curl", b"c" * 1500).replace(b"Host", b"X-A: " + b"d" * 1500 + b"\r\nHost")
    for _ in range(3):
        assert request(repeats.read(large)) == request(plain_request(large, 100_000, 100))
        assert len(repeats._kept.block) <= MAX_KEPT_BYTES
