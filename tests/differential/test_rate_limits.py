"""Local rate limits: descriptors, buckets, what is answered, what is counted.

Buckets fill so slowly that no token comes while a case runs.
"""

import asyncio
from typing import Any

import pytest

from tests.differential.case import OK, Case, Do, answer, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, World
from tests.support import decoding
from tests.support.decoding import ROUTER, Json, typed

NAME = "envoy.filters.http.local_ratelimit"
ALL = {"default_value": {"numerator": 100}}
NONE = {"default_value": {"numerator": 0}}
HOUR = "3600s"


def bucket(tokens: int, fill: int | None = None, interval: str = HOUR) -> Json:
    return {"max_tokens": tokens, "tokens_per_fill": fill or tokens, "fill_interval": interval}


def limited(**fields: Any) -> Json:
    config = {"stat_prefix": "limits", "filter_enabled": ALL, "filter_enforced": ALL, **fields}
    return {"name": NAME, "typed_config": typed("filters.http.local_ratelimit.v3.LocalRateLimit", **config)}


def literal(value: str, key: str = "limit") -> Json:
    return {"generic_key": {"descriptor_key": key, "descriptor_value": value}}


def header(name: str, key: str = "") -> Json:
    return {"request_headers": {"header_name": name, "descriptor_key": key or name}}


def expression(text: str, key: str) -> Json:
    config = {"@type": "type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"}
    return {"extension": {"name": "expr", "typed_config": {**config, "descriptor_key": key, "text": text}}}


def matching(*headers: Json, **fields: Any) -> Json:
    own = {"descriptor_key": "match", "descriptor_value": "true", "headers": list(headers), **fields}
    return {"header_value_match": own}


def descriptor(tokens: int, *entries: tuple[str, str], interval: str = HOUR, fill: int | None = None) -> Json:
    told = [{"key": key, "value": value} if value else {"key": key} for key, value in entries]
    return {"entries": told, "token_bucket": bucket(tokens, fill, interval)}


def rules(*actions: list[Json]) -> list[Json]:
    return [{"actions": own} for own in actions]


_PATH = {"name": ":path", "string_match": {"safe_regex": {"regex": r"/m(\?.*)?"}}}
_POST = {"name": ":method", "string_match": {"exact": "POST"}}
_USER = descriptor(2, ("limit", "user"), ("x-user", ""))
FILTERS: dict[str, Json] = {
    "default": limited(token_bucket=bucket(3), enable_x_ratelimit_headers="DRAFT_VERSION_03"),
    "silent": limited(token_bucket=bucket(1)),
    "empty": limited(token_bucket=bucket(1)),
    "status": limited(token_bucket=bucket(1), status={"code": 503}),
    "status-no-error": limited(token_bucket=bucket(1), status={"code": 201}),
    "exhausted": limited(token_bucket=bucket(1), rate_limited_as_resource_exhausted=True),
    "shadow": limited(token_bucket=bucket(1), filter_enforced=NONE, enable_x_ratelimit_headers="DRAFT_VERSION_03"),
    "off": limited(token_bucket=bucket(1), filter_enabled=NONE),
    "unsaid": {
        "name": NAME,
        "typed_config": typed(
            "filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix="limits", token_bucket=bucket(1)
        ),
    },
    "user": limited(
        rate_limits=rules([literal("user"), header("x-user")]), descriptors=[_USER],
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
    ),
    "windows": limited(
        rate_limits=rules([literal("minute")], [literal("hour")]),
        descriptors=[
            descriptor(9, ("limit", "minute"), interval="600s"), descriptor(2, ("limit", "hour"), interval=HOUR)
        ],
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
    ),
    "named": limited(
        rate_limits=rules([header("x-user")]),
        descriptors=[descriptor(1, ("x-user", "vip")), descriptor(3, ("x-user", ""))],
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
    ),
    "with-default": limited(
        token_bucket=bucket(3), rate_limits=rules([header("x-user")]), descriptors=[descriptor(2, ("x-user", ""))],
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
    ),
    "beside-default": limited(
        token_bucket=bucket(1), always_consume_default_token_bucket=False,
        rate_limits=rules([header("x-user")]), descriptors=[descriptor(2, ("x-user", ""))],
    ),
    "match": limited(
        rate_limits=rules([literal("m"), matching(_PATH, _POST)]),
        descriptors=[descriptor(1, ("limit", "m"), ("match", "true"))],
    ),
    "match-not": limited(
        rate_limits=rules([literal("m"), matching(_POST, expect_match=False)]),
        descriptors=[descriptor(1, ("limit", "m"), ("match", "true"))],
    ),
    "path": limited(
        rate_limits=rules([literal("p"), expression("request.url_path", "path")]),
        descriptors=[descriptor(1, ("limit", "p"), ("path", ""))],
    ),
    "method": limited(
        rate_limits=rules([header(":method", "method")]), descriptors=[descriptor(1, ("method", ""))],
    ),
    "address": limited(
        rate_limits=rules([{"remote_address": {}}]), descriptors=[descriptor(1, ("remote_address", ""))]
    ),
    "principal": limited(
        rate_limits=rules([literal("p"), expression("connection.uri_san_peer_certificate", "principal")]),
        descriptors=[descriptor(1, ("limit", "p"), ("principal", ""))],
    ),
    "claim": limited(
        rate_limits=rules(
            [{"metadata": {"descriptor_key": "c", "metadata_key": {"key": "jwt", "path": [{"key": "sub"}]}}}]
        ),
        descriptors=[descriptor(1, ("c", ""))],
    ),
    "other-keys": limited(
        rate_limits=rules([header("x-user"), header("x-b")]), descriptors=[descriptor(1, ("x-b", ""), ("x-user", ""))],
    ),
    "uneven": limited(token_bucket=bucket(1, 7, "100s"), enable_x_ratelimit_headers="DRAFT_VERSION_03"),
    "soon": limited(token_bucket=bucket(1, 2, "1s"), enable_x_ratelimit_headers="DRAFT_VERSION_03"),
    "slow": limited(token_bucket=bucket(1, 1, "1500s"), enable_x_ratelimit_headers="DRAFT_VERSION_03"),
}  # fmt: skip
WORLD = World(
    routes={
        "r": decoding.configuration(
            decoding.host(decoding.route({"cluster": "origin"}, name="a"), name="a", domains=["a"]),
        )
    },
    clusters=(ORIGIN,),
    listeners={
        **{name: {"http_filters": [own, ROUTER]} for name, own in FILTERS.items()},
        "two": {"http_filters": [FILTERS["user"], limited(token_bucket=bucket(1), stat_prefix="second"), ROUTER]},
        "counted": {"http_filters": [limited(token_bucket=bucket(2), stat_prefix="counted"), ROUTER]},
    },
)
GRPC = b"content-type: application/grpc"
GRPC_OK = answer(200, b"", GRPC, b"grpc-status: 0")


def ask(listener: str, *requests: bytes, name: str = "", differs: str = "retry-after") -> Case:
    """One after another on one connection; of the answers one at least refuses, unless `differs` is empty."""
    steps: list[Any] = []
    for request in requests:
        steps += [request, Do.AWAIT]
    count = len(requests)
    return Case(
        name=name or listener, send=tuple(steps[:-1]), listener=listener, answers=count, logs=count, differs=differs
    )  # fmt: skip


def user(value: bytes) -> bytes:
    return get(b"/", b"x-user: " + value)


CASES = [
    ask("default", *[get()] * 5),
    ask("silent", get(), get()),
    ask("empty", get(), get()),
    ask("empty", get(b"/", GRPC), name="gRPC"),
    ask("empty", get(method=b"HEAD"), name="HEAD"),
    ask("empty", get(host=b"nowhere"), name="without a route"),
    Case(name="POST", send=(post(b"/", b"body"),), listener="empty", differs="answered-before-the-body retry-after"),
    ask("status", get(), get()),
    ask("status-no-error", get(), get()),
    ask("exhausted", get(), get(b"/", GRPC)),
    ask("exhausted", get(), name="exhausted, plain"),
    ask("shadow", get(), get(), differs=""),
    ask("off", get(), get(), differs=""),
    ask("unsaid", get(), get(), differs=""),
    ask("user", user(b"a"), user(b"a"), user(b"b"), user(b"a"), user(b"b"), user(b"b")),
    ask("user", get(), get(), get(), name="without the key", differs=""),
    ask("user", user(b""), user(b""), user(b""), name="an empty key"),
    ask("user", get(b"/", b"x-user: c", b"x-user: d"), user(b"c"), user(b"c"), user(b"d"), name="a repeated key"),
    ask("user", user("ü".encode()), user("ü".encode()), user("ü".encode()), name="a key beyond ASCII"),
    ask("windows", *[get()] * 4),
    ask("named", *[user(b"vip"), user(b"vip"), user(b"x"), user(b"x"), user(b"x"), user(b"x")]),
    ask("with-default", user(b"a"), user(b"a"), user(b"a"), user(b"b"), get()),
    ask("beside-default", user(b"a"), user(b"a"), user(b"a"), get(), get()),
    ask("match", get(b"/m"), get(b"/m?x", method=b"POST"), get(b"/n", method=b"POST"), get(b"/m", method=b"POST")),
    ask("match-not", get(method=b"POST"), get(), get(), get(method=b"POST")),
    ask("path", get(b"/a?x"), get(b"/b"), get(b"/a"), get(b"/a?y")),
    ask("method", get(), get(method=b"PUT"), get(), get(method=b"PUT")),
    ask("address", get(), get(b"/", b"x-forwarded-for: 192.0.2.1"), get(), get(b"/", b"x-forwarded-for: 192.0.2.1")),
    ask("principal", get(), get(), differs=""),
    ask("claim", get(), get(), differs=""),
    ask("other-keys", *[get(b"/", b"x-user: a", b"x-b: b")] * 2, differs=""),
    ask("uneven", get(), get()),
    ask("slow", get(), get()),
    ask("soon", get(), differs=""),
    ask("two", user(b"z"), user(b"z"), user(b"z"), user(b"z")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agree(check: Check, case: Case) -> None:
    check(case)


def test_counts(pair: Pair, runner: asyncio.Runner) -> None:
    """Both count the same."""
    runner.run(pair.run(ask("counted", *[get()] * 4)))
    last = Case(name="counted", send=(get(),), listener="off", origin=(OK,))
    envoy, agent = runner.run(pair.counted("counted", last))
    shown = {name: value for name, value in envoy.items() if value and not name.endswith("shadow_mode")}
    assert shown == {name: value for name, value in agent.items() if value}
    assert shown["counted.http_local_rate_limit.enforced"] > 0
