"""Which origins may ask, and what they are told."""

import pytest

from agent.codec.head import Headers, RequestHead
from agent.filters.cors import Cors, is_preflight
from agent.model.cors import CorsPolicy
from agent.model.matchers import MatchKind, StringMatcher

EXACT = StringMatcher(kind=MatchKind.EXACT, value="http://a")
FULL = CorsPolicy(
    allow_origins=(EXACT,),
    allow_methods="GET,PUT",
    allow_headers="x-one,x-two",
    expose_headers="x-told",
    max_age="60",
    allow_credentials=True,
    allow_private_network=True,
)


def request(verb: str = "OPTIONS", **fields: str) -> RequestHead:
    headers = Headers()
    for name, value in fields.items():
        headers.append(f"access-control-request-{name.replace('_', '-')}".encode(), value.encode())
    return RequestHead(verb.encode(), b"/", b"a", headers)


def never() -> float:
    raise AssertionError("no random number is needed")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (request(), False),
        (request("OPTIONS", method="PUT"), True),
        (request("OPTIONS", method=""), False),
        (request("GET", method="PUT"), False),
    ],
)
def test_what_a_preflight_is(head: RequestHead, expected: bool) -> None:
    assert is_preflight(head) is expected


@pytest.mark.parametrize(
    ("matcher", "origin", "expected"),
    [
        (EXACT, b"http://a", True),
        (EXACT, b"http://ab", False),
        (StringMatcher(kind=MatchKind.PREFIX, value="http://"), b"http://x", True),
        (StringMatcher(kind=MatchKind.REGEX, value="https?://a"), b"https://a", True),
        (StringMatcher(kind=MatchKind.REGEX, value="https?://a"), b"https://a.evil", False),
        # whatever takes a star takes all
        (StringMatcher(kind=MatchKind.EXACT, value="*"), b"http://b", True),
        (StringMatcher(kind=MatchKind.REGEX, value=".*"), b"http://b", True),
        (StringMatcher(kind=MatchKind.PREFIX, value=""), b"http://b", True),
    ],
)
def test_origins(matcher: StringMatcher, origin: bytes, expected: bool) -> None:
    assert Cors((CorsPolicy(allow_origins=(matcher,)),)).allows(origin) is expected


def test_no_origins_is_nobody() -> None:
    assert not Cors((CorsPolicy(),)).allows(b"*")


def test_a_preflight_is_told_all() -> None:
    told = Cors((FULL,)).preflight_fields(request(method="PUT", private_network="true"), b"http://a")
    assert dict(told) == {
        b"access-control-allow-origin": b"http://a",
        b"access-control-allow-credentials": b"true",
        b"access-control-allow-methods": b"GET,PUT",
        b"access-control-allow-headers": b"x-one,x-two",
        b"access-control-max-age": b"60",
        b"access-control-allow-private-network": b"true",
    }


def test_a_preflight_is_told_only_what_is_configured() -> None:
    assert Cors((CorsPolicy(allow_origins=(EXACT,)),)).preflight_fields(request(method="PUT"), b"") == ()


def test_a_star_says_what_was_asked_for() -> None:
    cors = Cors((CorsPolicy(allow_methods="*", allow_headers="*"),))
    assert dict(cors.preflight_fields(request(method="PUT", headers="x-a, x-b"), b"")) == {
        b"access-control-allow-methods": b"PUT",
        b"access-control-allow-headers": b"x-a, x-b",
    }
    assert dict(cors.preflight_fields(request(method="PUT"), b""))[b"access-control-allow-headers"] == b""


def test_an_answer_is_marked() -> None:
    headers = Headers()
    headers.append(b"Access-Control-Allow-Origin", b"http://stale")
    Cors((FULL,)).mark_answer(headers, b"http://a")
    assert headers.index == {
        b"access-control-allow-origin": b"http://a",
        b"access-control-allow-credentials": b"true",
        b"access-control-expose-headers": b"x-told",
    }


def test_levels_are_joined_field_by_field() -> None:
    route = CorsPolicy(allow_methods="DELETE", allow_credentials=False, forward_unmatched=None)
    host = CorsPolicy(allow_origins=(EXACT,), allow_methods="GET", allow_credentials=True, forward_unmatched=False)
    cors = Cors((route, host))
    assert cors.allows(b"http://a")
    assert dict(cors.preflight_fields(request(method="PUT"), b"o")) == {
        b"access-control-allow-origin": b"o",
        b"access-control-allow-methods": b"DELETE",
    }
    assert not cors.forwards_unmatched
    assert Cors((route,)).forwards_unmatched


def test_shares() -> None:
    assert Cors((CorsPolicy(),)).enabled(never)
    assert not Cors((CorsPolicy(),)).counted(never)
    half = Cors((CorsPolicy(enabled_per_million=500_000, counted_per_million=250_000), CorsPolicy()))
    assert half.enabled(lambda: 0.49)
    assert not half.enabled(lambda: 0.5)
    assert half.counted(lambda: 0.24)
    assert not half.counted(lambda: 0.25)
