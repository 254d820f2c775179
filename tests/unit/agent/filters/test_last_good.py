"""Good answers of before: what is kept, for whom, how long, and never too much.

Source: RFC 9111 3, 4.1, 5.1; RFC 7234 5.5.
"""

import pytest

from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.filters.last_good import Asked, LastGoodAnswers, copy_of
from agent.model.circuit_breaker import LastGood

LIMITS = LastGood(max_age_s=60.0, max_entries=3, max_bytes=10_000)


def asked(path: str = "/a", method: str = "GET", scope: bytes = b"me", **fields: str) -> Asked:
    headers = Headers()
    for name, value in fields.items():
        headers.append(name.replace("_", "-").encode(), value.encode())
    return Asked(scope, RequestHead(method.encode(), path.encode(), b"Web", headers))


def head(status: int = 200, **fields: str) -> ResponseHead:
    headers = Headers()
    for name, value in fields.items():
        headers.append(name.replace("_", "-").encode(), value.encode())
    return ResponseHead(status, b"OK", headers)


def kept(cache: LastGoodAnswers, request: Asked, answer: ResponseHead, body: bytes = b"body", now: float = 0.0) -> bool:
    """As the data path does it."""
    if not cache.may_keep(request, answer):
        return False
    cache.keep(request, copy_of(answer), body, now)
    return True


def test_it_gives_back_what_was_kept_with_its_age_and_a_warning() -> None:
    cache = LastGoodAnswers(LIMITS)
    assert kept(cache, asked(), head(content_type="text/plain", connection="keep-alive", age="5"))
    found = cache.find(asked(), 10.9, failed=False)
    assert found is not None
    answer, body = found
    assert (answer.status, body, answer.content_length) == (200, b"body", 4)
    assert answer.headers.index == {
        b"content-type": b"text/plain",
        b"content-length": b"4",
        b"age": b"15",
        b"warning": b'110 gossamer "Response is Stale"',
    }
    again = cache.find(asked(), 11.0, failed=True)
    assert again is not None
    assert again[0].headers.index[b"warning"] == b'111 gossamer "Revalidation Failed"'


def test_head_is_answered_from_get_without_a_body() -> None:
    cache = LastGoodAnswers(LIMITS)
    assert kept(cache, asked(), head())
    found = cache.find(asked(method="HEAD"), 0.0, failed=False)
    assert found is not None
    assert (found[0].headers.index[b"content-length"], found[1]) == (b"4", b"")
    assert cache.find(asked(method="POST"), 0.0, failed=False) is None
    assert not cache.may_keep(asked(method="HEAD"), head())


@pytest.mark.parametrize("status", [199, 204, 206, 301, 404, 500])
def test_only_200_is_good(status: int) -> None:
    assert not LastGoodAnswers(LIMITS).may_keep(asked(), head(status))


@pytest.mark.parametrize(
    "fields",
    [
        {"set_cookie": "a=b"},
        {"vary": "*"},
        {"vary": "accept, *"},
        {"cache_control": "no-store"},
        {"cache_control": "max-age=5, PRIVATE"},
        {"cache_control": 'private="set-cookie"'},
        {"content_range": "bytes 0-1/5"},
    ],
)
def test_answers_that_are_not_for_everybody_are_not_kept(fields: dict[str, str]) -> None:
    assert not LastGoodAnswers(LIMITS).may_keep(asked(), head(**fields))


@pytest.mark.parametrize("name", ["authorization", "cookie", "range", "proxy_authorization"])
def test_personal_requests_are_neither_kept_nor_served(name: str) -> None:
    cache = LastGoodAnswers(LIMITS)
    assert not cache.may_keep(asked(**{name: "x"}), head())
    assert kept(cache, asked(), head())
    assert cache.find(asked(**{name: "x"}), 0.0, failed=False) is None


def test_a_request_may_forbid_to_keep() -> None:
    assert not LastGoodAnswers(LIMITS).may_keep(asked(cache_control="no-store"), head())


def test_freshness_does_not_count_but_the_policys_age_does() -> None:
    cache = LastGoodAnswers(LIMITS)
    assert kept(cache, asked(), head(cache_control="max-age=1, no-cache, must-revalidate"))
    assert cache.find(asked(), 60.0, failed=False) is not None
    assert cache.find(asked(), 60.1, failed=False) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_the_answer_varies_by_must_agree() -> None:
    cache = LastGoodAnswers(LIMITS)
    assert kept(cache, asked(accept="a"), head(vary="Accept"), b"A")
    assert kept(cache, asked(accept="b"), head(vary="accept"), b"B")
    for accept, body in (("a", b"A"), ("b", b"B")):
        found = cache.find(asked(accept=accept), 0.0, failed=False)
        assert found is not None
        assert found[1] == body
    assert cache.find(asked(accept="c"), 0.0, failed=False) is None
    assert cache.find(asked(), 0.0, failed=False) is None


def test_callers_routes_hosts_and_queries_are_apart() -> None:
    cache = LastGoodAnswers(LIMITS)
    assert kept(cache, asked("/a?x=1"), head())
    assert cache.find(asked("/a?x=2"), 0.0, failed=False) is None
    assert cache.find(asked("/a?x=1", scope=b"other"), 0.0, failed=False) is None
    assert cache.find(asked("/a?x=1"), 0.0, failed=False) is not None


def test_a_newer_answer_takes_the_place_of_the_older() -> None:
    cache = LastGoodAnswers(LIMITS)
    assert kept(cache, asked(), head(), b"old")
    assert kept(cache, asked(), head(), b"new", 5.0)
    found = cache.find(asked(), 5.0, failed=False)
    assert found is not None
    assert (found[1], len(cache)) == (b"new", 1)


def test_the_least_recently_used_goes_first() -> None:
    cache = LastGoodAnswers(LIMITS)
    for path in ("/1", "/2", "/3"):
        assert kept(cache, asked(path), head())
    assert cache.find(asked("/1"), 0.0, failed=False) is not None
    assert kept(cache, asked("/4"), head())
    left = [path for path in ("/1", "/2", "/3", "/4") if cache.find(asked(path), 0.0, failed=False)]
    assert left == ["/1", "/3", "/4"]


def test_never_more_bytes_than_allowed() -> None:
    cache = LastGoodAnswers(LastGood(max_age_s=60.0, max_entries=100, max_bytes=3000))
    for number in range(20):
        assert kept(cache, asked(f"/{number}"), head(), b"x" * 700)
        assert cache.bytes <= 3000
    assert len(cache) == 3
    assert kept(cache, asked("/large"), head(), b"x" * 3000)  # too large with its head
    assert cache.find(asked("/large"), 0.0, failed=False) is None
    large = head()
    large.content_length = 3001
    assert not cache.may_keep(asked(), large)


def test_many_variants_of_one_url_are_bounded() -> None:
    cache = LastGoodAnswers(LastGood(max_age_s=60.0, max_entries=100, max_bytes=1_000_000))
    for number in range(50):
        assert kept(cache, asked(accept=str(number)), head(vary="accept"))
    assert len(cache) == 8
    assert cache.find(asked(accept="49"), 0.0, failed=False) is not None
    few = LastGoodAnswers(LastGood(max_age_s=60.0, max_entries=2, max_bytes=1_000_000))
    for number in range(5):
        assert kept(few, asked(accept=str(number)), head(vary="accept"))
    assert len(few) == 2
