"""What is tried again. Source: data-plane.md 1.5."""

import gc
from dataclasses import replace
from typing import Any

import pytest

from agent.cluster.retries import AT_ONCE, RetryBook, RetryRules
from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.model import resets
from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.route import RetryPolicy

RESETS = (
    resets.CONNECT_FAILURE,
    resets.LOCAL_CONNECT_FAILURE,
    resets.CONNECT_TIMEOUT,
    resets.CONNECTION_TERMINATION,
    resets.PROTOCOL_ERROR,
    resets.REMOTE_RESET,
    resets.REFUSED_STREAM,
    resets.PER_TRY_TIMEOUT,
    resets.OVERFLOW,
)
NEVER_CONNECTED = set(RESETS[:3])


def rules(*retry_on: str, **settings: Any) -> RetryRules:
    return RetryRules(RetryPolicy(retry_on=frozenset(retry_on), **settings))


def headers(**fields: str) -> Headers:
    made = Headers()
    for name, value in fields.items():
        made.append(name.replace("_", "-").encode(), value.encode())
    return made


def answer(status: int, **fields: str) -> ResponseHead:
    return ResponseHead(status, b"", headers(**fields))


def request(**fields: str) -> RequestHead:
    return RequestHead(b"GET", b"/", b"x", headers(**fields))


@pytest.mark.parametrize(
    ("condition", "statuses"),
    [
        ("5xx", {500, 501, 502, 503, 504, 505, 599}),
        ("gateway-error", {502, 503, 504}),
        ("retriable-4xx", {409}),
        ("retriable-status-codes", {418, 500}),
        ("connect-failure", set()),
        ("reset", set()),
        ("no-such-token", set()),
    ],
)
def test_conditions_on_statuses(condition: str, statuses: set[int]) -> None:
    own = rules(condition, retriable_status_codes=frozenset({418, 500}))
    tested = (200, 204, 301, 400, 404, 409, 418, 429, 500, 501, 502, 503, 504, 505, 599)
    assert {status for status in tested if own.wants_answer(answer(status), request())} == statuses
    assert {status for status in tested if status in own.statuses} == statuses


@pytest.mark.parametrize(
    ("condition", "reasons"),
    [
        ("5xx", set(RESETS) - {resets.OVERFLOW}),
        ("gateway-error", set(RESETS) - {resets.OVERFLOW}),
        ("reset", set(RESETS) - {resets.OVERFLOW}),
        ("connect-failure", NEVER_CONNECTED),
        ("reset-before-request", NEVER_CONNECTED),
        ("refused-stream", {resets.REFUSED_STREAM}),
        ("retriable-4xx", set()),
        ("envoy-ratelimited", set()),
    ],
)
def test_conditions_on_resets(condition: str, reasons: set[str]) -> None:
    """An overflow is never tried again."""
    own = rules(condition)
    assert {reason for reason in RESETS if own.wants_reset(reason)} == reasons


def test_conditions_add_up() -> None:
    own = rules("connect-failure", "retriable-4xx")
    assert own.wants_reset(resets.CONNECT_TIMEOUT)
    assert own.wants_answer(answer(409), request())


def test_a_rate_limited_answer_has_its_own_condition() -> None:
    assert not rules("5xx").wants_answer(answer(503, x_envoy_ratelimited="true"), request())
    own = rules("envoy-ratelimited")
    assert own.looks_further
    assert own.wants_answer(answer(429, x_envoy_ratelimited="true"), request())
    assert not own.wants_answer(answer(429), request())


def test_grpc_status_of_the_head() -> None:
    own = rules("unavailable", "cancelled")
    assert [own.wants_answer(answer(200, grpc_status=status), request()) for status in ("14", "1", "4", "0")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert not own.wants_answer(answer(200), request())


def test_retriable_headers_need_their_condition() -> None:
    matcher = HeaderMatcher(name="x-again", matcher=StringMatcher(kind=MatchKind.EXACT, value="yes"))
    own = rules("retriable-headers", retriable_headers=(matcher,))
    assert own.wants_answer(answer(200, x_again="yes"), request())
    assert not own.wants_answer(answer(200, x_again="no"), request())
    assert not rules("5xx", retriable_headers=(matcher,)).wants_answer(answer(200, x_again="yes"), request())


def test_policies_are_compiled_once() -> None:
    book = RetryBook()
    policy = RetryPolicy(retry_on=frozenset({"5xx"}))
    assert book.rules_for(policy, request()) is book.rules_for(policy, request())
    assert book.rules_for(None, request()) is None


def test_retriable_request_headers_choose_the_requests() -> None:
    matcher = HeaderMatcher(name=":method", matcher=StringMatcher(kind=MatchKind.EXACT, value="POST"))
    policy = RetryPolicy(retry_on=frozenset({"5xx"}), retriable_request_headers=(matcher,))
    book = RetryBook()
    post = request()
    post.method = b"POST"
    own, others = book.rules_for(policy, post), book.rules_for(policy, request())
    assert own is not None
    assert others is not None
    assert own.wants_answer(answer(500), post)
    assert not others.wants_answer(answer(500), request())
    assert not others.resets


def test_the_rules_of_one_request_go_with_it() -> None:
    """They do not hold themselves, so that they do not wait for the garbage collector."""
    own = RetryBook().rules_for(None, request(x_envoy_retry_on="5xx"))
    assert own is not None
    assert own not in gc.get_referents(own)


def test_a_request_asks_for_retries_itself() -> None:
    """Its fields join the route's policy, x-envoy-max-retries wins, and all of them are taken out."""
    policy = RetryPolicy(retry_on=frozenset({"connect-failure"}), num_retries=2, per_try_timeout_s=1.0)
    head = request(
        x_envoy_retry_on="5xx, retriable-status-codes",
        x_envoy_max_retries="7",
        x_envoy_retriable_status_codes="404,x",
        x_envoy_upstream_rq_per_try_timeout_ms="250",
        x_envoy_hedge_on_per_try_timeout="true",
        x_envoy_other="stays",
    )
    own = RetryBook().rules_for(policy, head)
    assert own is not None
    assert (own.num_retries, own.per_try_timeout_s) == (7, 0.25)
    assert own.wants_answer(answer(404), request())
    assert own.wants_answer(answer(500), request())
    assert own.wants_reset(resets.CONNECT_FAILURE)
    assert list(head.headers.index) == [b"x-envoy-other"]
    assert [name for name, _ in head.headers.fields] == [b"x-envoy-other"]


def test_a_request_may_ask_without_a_policy() -> None:
    own = RetryBook().rules_for(None, request(x_envoy_retry_on="gateway-error"))
    assert own is not None
    assert own.num_retries == 1
    head = request(x_envoy_retriable_header_names="X-Again", x_envoy_retry_on="retriable-headers")
    named = RetryBook().rules_for(None, head)
    assert named is not None
    assert named.wants_answer(answer(200, x_again="1"), request())
    grpc = RetryBook().rules_for(None, request(x_envoy_retry_grpc_on="internal"))
    assert grpc is not None
    assert grpc.wants_answer(answer(200, grpc_status="13"), request())


def test_nonsense_in_those_fields_is_ignored() -> None:
    policy = RetryPolicy(retry_on=frozenset({"5xx"}), num_retries=3)
    head = request(x_envoy_max_retries="many", x_envoy_upstream_rq_per_try_timeout_ms="-1")
    own = RetryBook().rules_for(policy, head)
    assert own is not None
    assert (own.num_retries, own.per_try_timeout_s) == (3, 0.0)
    assert RetryBook().rules_for(None, request(x_envoy_max_retries="3")) is None, "no condition, no retries"


def test_times_of_a_try_count_without_conditions() -> None:
    """As in Envoy, a per-try timeout is also for a request that is not tried again."""
    own = RetryBook().rules_for(None, request(x_envoy_upstream_rq_per_try_timeout_ms="250"))
    assert own is not None
    assert (own.per_try_timeout_s, own.resets) == (0.25, frozenset())
    policy = RetryPolicy(retry_on=frozenset({"5xx"}), per_try_timeout_s=1.0)
    none = RetryBook().rules_for(policy, request(x_envoy_upstream_rq_per_try_timeout_ms="0"))
    assert none is not None
    assert none.per_try_timeout_s == 0.0
    get = HeaderMatcher(name=":method", matcher=StringMatcher(kind=MatchKind.EXACT, value="POST"))
    limited = RetryBook().rules_for(replace(policy, retriable_request_headers=(get,), hedge=True), request())
    assert limited is not None
    assert (limited.per_try_timeout_s, limited.hedges) == (1.0, True)


@pytest.mark.parametrize(("value", "hedges"), [("true", True), ("false", False), ("yes", None)])
@pytest.mark.parametrize("configured", [False, True])
def test_a_request_says_whether_to_hedge(value: str, hedges: bool | None, configured: bool) -> None:
    policy = RetryPolicy(retry_on=frozenset({"5xx"}), per_try_timeout_s=1.0, hedge=configured)
    own = RetryBook().rules_for(policy, request(x_envoy_hedge_on_per_try_timeout=value))
    assert own is not None
    assert own.hedges == (configured if hedges is None else hedges)
    assert own.expected_try_s == (0.0 if own.hedges else 1.0), "a try that goes on has the route's time"


def test_too_early_is_tried_again_at_once_but_not_early_data() -> None:
    own = rules("retriable-status-codes", retriable_status_codes=frozenset({425, 503}))
    assert own.wants_answer(answer(425), request())
    assert not own.wants_answer(answer(425), request(early_data="1"))
    assert own.wants_answer(answer(503), request(early_data="1"))
    assert own.tells_when
    assert own.asked_delay_s(answer(425), 0.0) == AT_ONCE
    assert own.asked_delay_s(answer(503), 0.0) == 0.0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"retry_after": "3"}, 3.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "60"}, 60.0),
        ({"retry_after": "61"}, 0.0),
        ({"retry_after": "61", "x_reset": "1007"}, 7.0),
        ({"retry_after": "soon", "x_reset": "1007"}, 7.0),
        ({"retry_after": "2", "x_reset": "1007"}, 2.0),
        ({"x_reset": "999"}, 0.0),
        ({"x_reset": "1061"}, 0.0),
        ({"retry_after": "9" * 30}, 0.0),
        ({"retry_after": "-1"}, 0.0),
        ({}, 0.0),
    ],
    ids=str,
)
def test_the_host_says_when_to_come_back(fields: dict[str, str], expected: float) -> None:
    """The first field that says something usable counts."""
    own = rules("5xx", reset_headers=(("retry-after", False), ("x-reset", True)), reset_max_s=60.0)
    assert own.asked_delay_s(answer(503, **fields), 1000.9) == expected


def test_previous_hosts_says_how_often_to_pick_again() -> None:
    assert rules("5xx", host_selection_max_attempts=5).attempts_to_pick == 0
    assert rules("5xx", previous_hosts=True, host_selection_max_attempts=5).attempts_to_pick == 5
