"""Copies of requests: what the other cluster is sent, and that the client never notices."""

import asyncio
import re
from typing import Any

import pytest

from tests.differential.case import Case, Do, answer, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, World, static_cluster
from tests.support import decoding
from tests.support.decoding import Json

SHADOW = {"cluster": "shadow"}
RETRY = {"retry_on": "5xx", "num_retries": 1, "retry_back_off": {"base_interval": "0.005s"}}


def share(percent: int) -> Json:
    return {**SHADOW, "runtime_fraction": {"default_value": {"numerator": percent}}}


def _host(name: str, *mirrors: Json, cluster: str = "origin", **action: Any) -> Json:
    route = decoding.route({"cluster": cluster, "request_mirror_policies": list(mirrors), **action}, name=name)
    return decoding.host(route, name=name, domains=[name, f"{name}:*"])


_ADDS = {"request_headers_to_add": [{"header": {"key": "x-added", "value": "%REQ(:PATH)%"}}]}
WORLD = World(
    routes={
        "r": decoding.configuration(
            _host("one", SHADOW),
            _host("two", SHADOW, {**SHADOW, "host_rewrite_literal": "z"}),
            _host("never", share(0)),
            _host("always", share(100)),
            _host("no-suffix", {**SHADOW, "disable_shadow_host_suffix_append": True}),
            _host("rewritten", SHADOW, prefix_rewrite="/new", host_rewrite_literal="to"),
            {**_host("adds", SHADOW), **_ADDS},
            {**_host("counts", SHADOW), "include_request_attempt_count": True},
            _host("retried", SHADOW, retry_policy=RETRY),
            _host("timeout", SHADOW, timeout="0.1s"),
            _host("no-timeout", SHADOW, timeout="0s"),
            _host("refused", {"cluster": "refused"}),
            _host("empty", {"cluster": "empty"}),
            _host("nowhere", {"cluster": "nowhere"}),
            _host("no-room", {"cluster": "no-requests"}),
            _host("main-refused", SHADOW, cluster="refused"),
            _host("main-empty", SHADOW, cluster="empty"),
            _host("main-no-room", SHADOW, cluster="no-requests"),
            _host("tallied", {"cluster": "tallied-shadow"}),
            _host("tallied-late", {"cluster": "tallied-late"}, timeout="0.1s"),
            _host("tallied-none", {"cluster": "tallied-none"}),
            _host("tallied-full", {"cluster": "tallied-full"}),
            _host("upgrades", SHADOW, upgrade_configs=[{"upgrade_type": "websocket"}]),
        )
    },
    clusters=(
        ORIGIN,
        static_cluster("shadow", "$ORIGIN"),
        static_cluster("refused", "$REFUSED"),
        static_cluster("empty"),
        static_cluster("tallied-shadow", "$ORIGIN"),
        static_cluster("tallied-late", "$ORIGIN"),
        static_cluster("tallied-none"),
        static_cluster("tallied-full", "$ORIGIN", circuit_breakers={"thresholds": [{"max_requests": 0}]}),
        static_cluster("no-requests", "$ORIGIN", circuit_breakers={"thresholds": [{"max_requests": 0}]}),
    ),
)
SAID = "copies-say-nothing-of-us"
CHUNKED = b"Transfer-Encoding: chunked"
FIELDS = (b"X-A: 1", b"x-request-id: 6ba7b810-9dad-41d1-80b4-00c04fd430c8", b"Cookie: a=b", b"Accept: */*")


def _case(name: str, *send: Any, copies: int = 2, **fields: Any) -> Case:
    differs = fields.pop("differs", SAID if copies > 1 else "")
    return Case(name=name, send=send, copies=copies, differs=differs, **fields)


def _to(domain: str, *fields: bytes, method: bytes = b"GET", path: bytes = b"/p?q=1") -> bytes:
    return get(path, *fields, host=domain.encode(), method=method)


CASES = [
    *(_case(domain, _to(domain)) for domain in (
        "one", "always", "no-suffix", "rewritten", "adds", "counts", "retried", "timeout", "no-timeout",
    )),
    _case("two mirrors", _to("two"), copies=3),
    _case("never", _to("never"), copies=1),
    _case("fields", _to("one", *FIELDS)),
    _case("port", _to("one:8080")),
    _case("forwarded for", _to("one", b"X-Forwarded-For: 192.0.2.1")),
    *(_case(method.decode(), _to("one", method=method)) for method in (b"HEAD", b"OPTIONS", b"DELETE", b"PUT")),
    _case("POST", post(b"/p", b"body", host=b"one")),
    _case("POST of nothing", post(b"/p", b"", host=b"one")),
    _case("POST in parts", post(b"/p", b"bo", host=b"one").replace(b": 2", b": 4"), 0.05, b"dy"),
    _case("chunked", _to("one", CHUNKED, method=b"POST"), b"4\r\nbody\r\n", 0.05, b"2\r\nxx\r\n0\r\n\r\n"),
    _case("64 KiB", post(b"/p", b"x" * 65536, host=b"one")),
    _case("500 KiB", post(b"/p", b"x" * 500_000, host=b"one")),
    _case("the mirror fails", _to("one"), origin=(answer(503),)),
    _case("both close", _to("one"), origin=((Do.CLOSE,),)),
    _case("both answer late", _to("one"), origin=((0.1, *answer()),)),
    _case("nobody answers", _to("timeout"), origin=((Do.HANG,),)),
    _case(
        "two requests", _to("one") + _to("one", path=b"/2"), copies=4, answers=2, logs=2, origin=(answer(keep=True),)
    ),
    *(_case(f"the mirror is {domain}", _to(domain), copies=1) for domain in ("refused", "empty", "nowhere", "no-room")),
    _case("the main one is refused", _to("main-refused"), copies=1, differs=f"{SAID} log-hosts-attempted"),
    _case("the main one finds no room", _to("main-no-room"), copies=1, differs=f"{SAID} log-hosts-attempted"),
    _case(
        "upgrade", _to("upgrades", b"Connection: Upgrade", b"Upgrade: websocket"), copies=1, origin=(answer(400),),
        differs="upgrades-are-not-copied",
    ),
    _case("the main one has no host", _to("main-empty"), copies=0),
]  # fmt: skip


# Bytes depend on how names are spelled; how connections are made and kept is not what is asked for.
_COUNTED = re.compile(
    r"cluster\.tallied-\w+\.(upstream_rq_(\d..|total|completed|timeout|active)|upstream_cx_none_healthy)"
)


@pytest.mark.envoy
def test_the_same_is_counted(pair: Pair, runner: asyncio.Runner) -> None:
    async def run() -> tuple[dict[str, int], dict[str, int]]:
        for name, send, origin in (
            ("shadow", _to("tallied"), answer()),
            ("shadow", post(b"/p", b"body", host=b"tallied"), answer(503)),
            ("late", _to("tallied-late"), (Do.HANG,)),
            ("none", _to("tallied-none"), answer()),
            ("full", _to("tallied-full"), answer()),
        ):
            await pair.run(
                Case(name=name, send=(send,), origin=(origin,), copies=2 if name in ("shadow", "late") else 1)
            )
        return await pair.counted("cluster.tallied-", Case(name="last", send=(_to("never"),)))

    envoy, agent = (
        {name: value for name, value in found.items() if value and _COUNTED.fullmatch(name)}
        for found in runner.run(run())
    )
    assert envoy["cluster.tallied-shadow.upstream_rq_total"] == 2
    assert envoy["cluster.tallied-late.upstream_rq_timeout"] == 1
    assert agent == envoy


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same(case: Case, check: Check) -> None:
    check(case)
