"""Tries that fail: retries by each condition, timeouts, limits, hosts that are not there."""

from dataclasses import replace

import pytest

from tests.differential.case import OK, Case, Do, Script, answer, get, post, raw_answer
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, World, static_cluster
from tests.support import decoding
from tests.support.decoding import Json

BACK_OFF = {"base_interval": "0.005s", "max_interval": "0.01s"}
REFUSED = {"string_match": {"exact": "again"}, "name": "x-verdict"}
ONLY_GET = {"string_match": {"exact": "GET"}, "name": ":method"}
_POLICIES: dict[str, Json] = {
    **{word: {"retry_on": word} for word in ("5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx")},
    "reset-before-request": {"retry_on": "reset-before-request"},
    "refused-stream": {"retry_on": "refused-stream"},
    "envoy-ratelimited": {"retry_on": "envoy-ratelimited"},
    "5xx,envoy-ratelimited": {"retry_on": "5xx,envoy-ratelimited"},
    "status-codes": {"retry_on": "retriable-status-codes", "retriable_status_codes": [404, 418]},
    "headers": {"retry_on": "retriable-headers", "retriable_headers": [REFUSED]},
    "grpc": {"retry_on": "unavailable,cancelled,internal"},
    "none": {"retry_on": "5xx", "num_retries": 0},
    "two": {"retry_on": "5xx", "num_retries": 2},
    "only GET": {"retry_on": "5xx", "retriable_request_headers": [ONLY_GET]},
    "unknown": {"retry_on": "whatever, 5xx"},
    "per-try": {"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "0.1s"},
    "per-try, no 5xx": {"retry_on": "connect-failure", "num_retries": 2, "per_try_timeout": "0.1s"},
}


def _route(domain: str, cluster: str = "origin", **action: object) -> Json:
    return decoding.host(decoding.route({"cluster": cluster, **action}, name=domain), name=domain, domains=[domain])


def _retrying(name: str, policy: Json, cluster: str = "origin") -> Json:
    host = _route(
        name.replace(" ", "-").replace(",", "+"), cluster, retry_policy={**policy, "retry_back_off": BACK_OFF}
    )
    return {**host, "include_request_attempt_count": True, "include_attempt_count_in_response": True}


_HOSTS = [
    *(_retrying(name, policy) for name, policy in _POLICIES.items()),
    _retrying("refused-retried", {"retry_on": "connect-failure", "num_retries": 2}, "refused"),
    _retrying("refused-5xx", {"retry_on": "5xx", "num_retries": 1}, "refused"),
    _retrying("refused-reset", {"retry_on": "reset", "num_retries": 1}, "refused"),
    _retrying("refused-4xx", {"retry_on": "retriable-4xx", "num_retries": 1}, "refused"),
    _retrying("one-retry", {"retry_on": "5xx", "num_retries": 3}, "no-retries"),
    _route("plain"),
    _route("refused", "refused"),
    _route("empty", "empty"),
    _route("nowhere", "nowhere"),
    _route("no-requests", "no-requests"),
    _route("timeout", timeout="0.15s"),
    _route("no-timeout", timeout="0s"),
    _route("idle", timeout="0s", idle_timeout="0.15s"),
    _route("duration", timeout="0s", max_stream_duration={"max_stream_duration": "0.15s"}),
    _route(
        "timeout-retried",
        timeout="0.2s",
        retry_policy={"retry_on": "5xx", "num_retries": 5, "retry_back_off": BACK_OFF},
    ),
    _route("high", "no-requests", priority="HIGH"),
]


def _limits(**most: int) -> Json:
    return {"circuit_breakers": {"thresholds": [most]}}


WORLD = World(
    routes={"r": decoding.configuration(*_HOSTS)},
    clusters=(
        ORIGIN,
        static_cluster("refused", "$REFUSED"),
        static_cluster("empty"),
        static_cluster("no-requests", "$ORIGIN", **_limits(max_requests=0)),
        static_cluster("no-retries", "$ORIGIN", **_limits(max_retries=0)),
    ),
    listeners={
        "http": {},
        "idle": {"stream_idle_timeout": "0.15s"},
        "request": {"request_timeout": "0.15s"},
        "head": {"request_headers_timeout": "0.15s"},
    },
)

_GRPC_14 = raw_answer(b"HTTP/1.1 200 OK", b"content-type: application/grpc", b"grpc-status: 14", b"content-length: 0")
_FAILURES: dict[str, Script] = {
    **{str(status): answer(status, b"bad") for status in (400, 404, 409, 418, 429, 500, 501, 502, 503, 504, 599)},
    "close": (Do.CLOSE,),
    "reset": (Do.RESET,),
    "garbage": (b"garbage\r\n\r\n", Do.CLOSE),
    "rate limited": answer(503, b"slow down", b"x-envoy-ratelimited: true"),
    "429 rate limited": answer(429, b"slow down", b"x-envoy-ratelimited: true"),
    "overloaded": answer(503, b"", b"x-envoy-overloaded: true"),
    "verdict": answer(200, b"", b"x-verdict: again"),
    "grpc": _GRPC_14,
}
_CONDITIONS = [
    "5xx",
    "gateway-error",
    "reset",
    "connect-failure",
    "retriable-4xx",
    "reset-before-request",
    "refused-stream",
    "envoy-ratelimited",
    "5xx,envoy-ratelimited",
    "status-codes",
    "headers",
    "grpc",
]
_TWICE = (OK[0], Do.CLOSE)
_DIFFER = {
    **{name: "log-hosts-attempted" for name in (
        "refused-retried", "refused-5xx", "refused-reset", "refused-4xx", "refused", "no-requests", "POST refused",
        "gRPC no-requests", "POST no-requests", "HEAD refused", "HEAD no-requests", "gRPC refused")},
    "nowhere": "log-missing-cluster", "gRPC nowhere": "log-missing-cluster",
    "HEAD nowhere": "log-missing-cluster", "POST empty": "answered-before-the-body",
    "POST nowhere": "log-missing-cluster answered-before-the-body", "POST other": "answered-before-the-body",
}  # fmt: skip


def _host(name: str) -> bytes:
    return name.replace(" ", "-").replace(",", "+").encode()


def _to(name: str, path: bytes = b"/") -> bytes:
    return get(path, host=_host(name))


CASES = [
    *(
        Case(name=f"{condition}: {failure}", send=(_to(condition),), origin=(script, OK))
        for condition in _CONDITIONS
        for failure, script in _FAILURES.items()
    ),
    *(
        Case(name=f"always {failure}", send=(_to("two"),), origin=(_FAILURES[failure],))
        for failure in ("503", "close", "reset", "garbage")
    ),
    Case(name="fails once, then otherwise", send=(_to("two"),), origin=(_FAILURES["close"], _FAILURES["503"], OK)),
    Case(name="retried close, then garbage", send=(_to("5xx"),), origin=(_FAILURES["close"], _FAILURES["garbage"])),
    Case(name="no retries", send=(_to("none"),), origin=(_FAILURES["503"],)),
    Case(name="unknown word", send=(_to("unknown"),), origin=(_FAILURES["503"], OK)),
    Case(name="only GET: GET", send=(_to("only GET"),), origin=(_FAILURES["503"], OK)),
    Case(name="only GET: POST", send=(post(host=b"only-GET"),), origin=(_FAILURES["503"], OK)),
    Case(name="post again", send=(post(b"/", b"x" * 5000, host=b"5xx"),), origin=(_FAILURES["503"], OK)),
    Case(
        name="post in chunks again",
        origin=(_FAILURES["503"], OK),
        send=(get(b"/", b"Transfer-Encoding: chunked", host=b"5xx", method=b"POST") + b"2\r\nab\r\n0\r\n\r\n",),
    ),
    Case(
        name="broken in the body is not retried",
        send=(_to("5xx"),),
        origin=((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", 0.03, Do.CLOSE),),
    ),
    Case(name="retry overflow", send=(_to("one-retry"),), origin=(_FAILURES["503"], OK)),
    *(
        Case(name=name, send=(_to(name),))
        for name in (
            "refused-retried",
            "refused-5xx",
            "refused-reset",
            "refused-4xx",
            "refused",
            "empty",
            "nowhere",
            "no-requests",
            "high",
            "other",
        )
    ),
    *(
        Case(name=f"POST {name}", send=(post(host=name.encode()),))
        for name in ("refused", "empty", "nowhere", "no-requests", "other")
    ),
    *(
        Case(name=f"HEAD {name}", send=(get(host=name.encode(), method=b"HEAD"),))
        for name in ("refused", "empty", "nowhere", "no-requests", "other")
    ),
    *(
        Case(
            name=f"gRPC {name}",
            send=(get(b"/", b"Content-Type: application/grpc", host=name.encode(), method=b"POST"),),
        )
        for name in ("refused", "empty", "nowhere", "no-requests", "other")
    ),
    Case(
        name="gRPC timeout",
        send=(get(b"/", b"Content-Type: application/grpc", host=b"timeout", method=b"POST"),),
        origin=((Do.HANG,),),
    ),
    Case(
        name="gRPC closes",
        send=(get(b"/", b"Content-Type: application/grpc", host=b"plain", method=b"POST"),),
        origin=((Do.CLOSE,),),
    ),
    Case(name="route timeout", send=(_to("timeout"),), origin=((Do.HANG,),)),
    Case(
        name="route timeout in the answer",
        send=(_to("timeout"),),
        origin=((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", Do.HANG),),
    ),
    Case(name="no route timeout", send=(_to("no-timeout"),), origin=((0.2, *OK),)),
    Case(
        name="asks for a timeout",
        send=(get(b"/", b"X-Envoy-Upstream-RQ-Timeout-Ms: 50", host=b"no-timeout"),),
        origin=((0.15, *OK),),
    ),
    Case(name="idle", send=(_to("idle"),), origin=((Do.HANG,),)),
    Case(
        name="idle in the answer",
        send=(_to("idle"),),
        origin=((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", Do.HANG),),
    ),
    Case(name="idle in the request", send=(post(host=b"idle")[:-1],)),
    Case(name="duration", send=(_to("duration"),), origin=((Do.HANG,),)),
    Case(
        name="duration in the answer",
        send=(_to("duration"),),
        origin=((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", Do.HANG),),
    ),
    Case(name="timeout ends retries", send=(_to("timeout-retried"),), origin=(answer(503), answer(503), (Do.HANG,))),
    Case(name="per-try timeout, then good", send=(_to("per-try"),), origin=((Do.HANG,), OK)),
    Case(name="per-try timeout, always", send=(_to("per-try"),), origin=((Do.HANG,),)),
    Case(name="per-try timeout, not retried", send=(_to("per-try, no 5xx"),), origin=((Do.HANG,),)),
    Case(name="stream idle", send=(_to("plain"),), origin=((Do.HANG,),), listener="idle"),
    Case(name="stream idle, half a head", send=(get()[:20],), listener="idle"),
    Case(name="stream idle, half a body", send=(post(host=b"plain")[:-1],), listener="idle"),
    Case(name="head timeout, half a head", send=(get()[:20],), listener="head"),
    Case(name="request timeout, half a head", send=(get()[:20],), listener="request"),
    Case(name="request timeout, half a body", send=(post(host=b"plain")[:-1],), listener="request"),
    *(
        Case(name=f"asks: {name}", send=(get(b"/", *fields, host=b"plain"),), origin=(answer(503), OK))
        for name, fields in {
            "retry on": (b"X-Envoy-Retry-On: 5xx",),
            "max retries": (b"X-Envoy-Max-Retries: 3",),
            "attempts": (b"X-Envoy-Attempt-Count: 7",),
            "per-try": (b"X-Envoy-Upstream-RQ-Per-Try-Timeout-Ms: 1",),
        }.items()
    ),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, "")))
