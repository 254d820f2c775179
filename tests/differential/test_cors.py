"""Cross-origin requests: preflights and others, for policies of every shape at every level."""

import asyncio
from typing import Any

import pytest

from tests.differential.case import Case, answer, get
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, World
from tests.support import decoding
from tests.support.decoding import ROUTER, Json, typed

CORS = {"name": "envoy.filters.http.cors", "typed_config": typed("filters.http.cors.v3.Cors")}


def policy(*origins: Json, **fields: Any) -> Json:
    return typed("filters.http.cors.v3.CorsPolicy", allow_origin_string_match=list(origins), **fields)


def share(percent: int) -> Json:
    return {"default_value": {"numerator": percent}}


A = {"exact": "http://a"}
POLICIES: dict[str, Json] = {
    "origin": policy(A),
    "nothing": policy(),
    "full": policy(
        A, {"suffix": ".b"}, allow_methods="GET,PUT", allow_headers="x-one,x-two", expose_headers="x-told",
        allow_credentials=True, max_age="60",
    ),
    "star": policy({"exact": "*"}, allow_methods="*", allow_headers="*", expose_headers="*"),
    "anybody": policy({"prefix": "*"}, allow_methods="GET"),
    "regex": policy({"safe_regex": {"regex": "https?://[a-z]+"}}, allow_methods="GET"),
    "case": policy({"exact": "HTTP://A", "ignore_case": True}),
    "contains": policy({"contains": "middle"}),
    "no-credentials": policy(A, allow_credentials=False),
    "ignore": policy(A, allow_methods="GET", allow_credentials=True, forward_not_matching_preflights=False),
    "forward": policy(A, forward_not_matching_preflights=True),
    "private": policy(A, allow_private_network_access=True),
    "off": policy(A, filter_enabled=share(0)),
    "on": policy(A, filter_enabled=share(100)),
    "counted": policy(A, filter_enabled=share(0), shadow_enabled=share(100)),
}  # fmt: skip


def _host(name: str, route: Json | None, host: Json | None = None, **fields: Any) -> Json:
    def own(config: Json | None) -> Json:
        return {"typed_per_filter_config": {CORS["name"]: config}} if config is not None else {}

    adds = {"response_headers_to_add": [{"header": {"key": "x-route", "value": "r"}}]}
    return decoding.host(
        decoding.route({"cluster": "origin"}, name=name, **own(route), **adds), name=name, domains=[name], **own(host),
        **fields,
    )  # fmt: skip


def _answering(name: str, **action: Any) -> Json:
    made = {"match": {"prefix": "/"}, "typed_per_filter_config": {CORS["name"]: POLICIES["full"]}, **action}
    return decoding.host(made, name=name, domains=[name])


_OFF = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
WORLD = World(
    routes={
        "r": decoding.configuration(
            *(_host(name, config) for name, config in POLICIES.items()),
            _host("plain", None),
            _host("of-host", None, POLICIES["full"]),
            _host("both", policy(allow_methods="DELETE", allow_credentials=False), POLICIES["full"]),
            _host("route-origins", policy({"exact": "http://other"}), POLICIES["full"]),
            _host("disabled", _OFF, POLICIES["full"]),
            _host("adds", POLICIES["origin"], response_headers_to_add=[
                {"header": {"key": "access-control-allow-origin", "value": "http://configured"}}
            ]),
            _answering("direct", direct_response={"status": 200, "body": {"inline_string": "hi"}}),
            _answering("redirect", redirect={"host_redirect": "b"}),
            _answering("nowhere", route={"cluster": "nowhere"}),
        ),
    },
    clusters=(ORIGIN,),
    listeners={
        "http": {"http_filters": [CORS, ROUTER]},
        "tallied": {"http_filters": [CORS, ROUTER]},
        "none": {"http_filters": [ROUTER]},
        "off": {"http_filters": [{**CORS, "disabled": True}, ROUTER]},
        "other": {"http_filters": [{**CORS, "name": "other"}, ROUTER]},
    },
)  # fmt: skip

REQUESTS: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "simple": (b"GET", (b"Origin: http://a",)),
    "simple, stranger": (b"GET", (b"Origin: http://stranger",)),
    "no origin": (b"GET", ()),
    "empty origin": (b"GET", (b"Origin:",)),
    "null origin": (b"GET", (b"Origin: null",)),
    "preflight": (b"OPTIONS", (b"Origin: http://a", b"Access-Control-Request-Method: PUT")),
    "preflight, stranger": (b"OPTIONS", (b"Origin: http://stranger", b"Access-Control-Request-Method: PUT")),
    "preflight with headers": (
        b"OPTIONS",
        (b"Origin: http://x.b", b"Access-Control-Request-Method: GET", b"Access-Control-Request-Headers: x-one, x-y"),
    ),
    "preflight of a private network": (
        b"OPTIONS",
        (b"Origin: http://a", b"Access-Control-Request-Method: GET", b"Access-Control-Request-Private-Network: true"),
    ),
    "options": (b"OPTIONS", (b"Origin: http://a",)),
    "options, empty method": (b"OPTIONS", (b"Origin: http://a", b"Access-Control-Request-Method:")),
    "no origin, method": (b"OPTIONS", (b"Access-Control-Request-Method: PUT",)),
    "get with a method": (b"GET", (b"Origin: http://a", b"Access-Control-Request-Method: PUT")),
}
TOLD = answer(200, b"ok", b"access-control-allow-origin: http://of-the-origin", b"access-control-expose-headers: x-own")


def _case(domain: str, request: str, **fields: Any) -> Case:
    method, lines = REQUESTS[request]
    listener = fields.get("listener", "")
    name = f"{domain}: {request}{', ' if listener else ''}{listener}"
    return Case(name=name, send=(get(b"/", *lines, host=domain.encode(), method=method),), **fields)


CASES = [
    *(_case(domain, request) for domain in POLICIES for request in REQUESTS),
    *(
        _case(domain, request)
        for domain in ("plain", "of-host", "both", "route-origins", "disabled", "adds", "direct", "redirect")
        for request in ("simple", "simple, stranger", "preflight", "preflight, stranger")
    ),
    *(_case(domain, "simple", origin=(TOLD,)) for domain in ("full", "star", "nothing", "off", "adds")),
    _case("full", "simple, stranger", origin=(TOLD,)),
    _case("nowhere", "preflight", differs="log-missing-cluster"),
    _case("nowhere", "simple", differs="log-missing-cluster"),
    _case("unknown", "preflight"),
    *(
        _case("full", request, listener=name)
        for name in ("none", "off", "other")
        for request in ("simple", "preflight")
    ),
]


@pytest.mark.envoy
def test_the_same_is_counted(pair: Pair, runner: asyncio.Runner) -> None:
    async def run() -> tuple[dict[str, int], dict[str, int]]:
        for domain in ("full", "off", "counted", "plain", "direct"):
            for request in ("simple", "simple, stranger", "preflight", "preflight, stranger", "no origin"):
                await pair.run(_case(domain, request, listener="tallied"))
        return await pair.counted("http.tallied.cors.", Case(name="last", send=(get(host=b"plain"),)))

    envoy, agent = runner.run(run())
    assert envoy == {"http.tallied.cors.origin_valid": 4, "http.tallied.cors.origin_invalid": 4}
    assert agent == envoy


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same(case: Case, check: Check) -> None:
    check(case)
