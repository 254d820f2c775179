"""Faults before the router: delays, aborts, for whom, what requests may ask for."""

import asyncio
from typing import Any

import pytest

from tests.differential.case import OK, Case, Do, answer, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, World
from tests.support import decoding
from tests.support.decoding import ROUTER, Json, typed

NAME = "envoy.filters.http.fault"
ALL = {"numerator": 100}


def fault(**fields: Any) -> Json:
    return typed("filters.http.fault.v3.HTTPFault", **fields)


def filtered(config: Json | None = None, **fields: Any) -> Json:
    return {"name": NAME, "typed_config": config or fault(), **fields}


def abort(status: int = 418, **fields: Any) -> Json:
    return {"abort": {"http_status": status, "percentage": ALL, **fields}}


def delay(duration: str = "0.05s", **fields: Any) -> Json:
    return {"delay": {"fixed_delay": duration, "percentage": ALL, **fields}}


_EXACT = {"name": "x-user", "string_match": {"exact": "tester"}}
FAULTS: dict[str, Json] = {
    **{f"abort-{status}": fault(**abort(status)) for status in (200, 204, 304, 400, 418, 429, 500, 503, 504, 599)},
    "grpc-14": fault(abort={"grpc_status": 14, "percentage": ALL}),
    "grpc-0": fault(abort={"grpc_status": 0, "percentage": ALL}),
    "delay": fault(**delay()),
    "both": fault(**delay(), **abort(503)),
    "never": fault(**delay(percentage={}), **abort(percentage={})),
    "short-delay": fault(**delay("0.001s")),
    "million": fault(**abort(percentage={"numerator": 1_000_000, "denominator": "MILLION"})),
    "header": fault(**abort(), headers=[_EXACT]),
    "without-header": fault(**abort(), headers=[{**_EXACT, "invert_match": True}]),
    "method": fault(**abort(), headers=[{"name": ":method", "string_match": {"exact": "POST"}}]),
    "cluster": fault(**abort(), upstream_cluster="origin"),
    "other-cluster": fault(**abort(), upstream_cluster="other"),
    "nodes": fault(**abort(), downstream_nodes=["n1", "n2"]),
    "full": fault(**abort(), max_active_faults=0),
    "by-header": fault(abort={"header_abort": {}, "percentage": ALL}, delay={"header_delay": {}, "percentage": ALL}),
    "by-header-never": fault(
        abort={"header_abort": {}, "percentage": {}}, delay={"header_delay": {}, "percentage": {}}
    ),
}
_ADDS = {"response_headers_to_add": [{"header": {"key": "x-route", "value": "%RESPONSE_FLAGS%"}}]}
_RETRY = {"retry_on": "5xx,retriable-status-codes", "num_retries": 3, "retriable_status_codes": [418]}


def _host(name: str, config: Json | None, action: Json | None = None, level: Json | None = None, **fields: Any) -> Json:
    def own(wanted: Json | None) -> Json:
        return {"typed_per_filter_config": {NAME: wanted}} if wanted is not None else {}

    route = decoding.route({"cluster": "origin", **(action or {})}, name=name, **own(config), **_ADDS)
    return decoding.host(route, name=name, domains=[name], **own(level), **fields)


def _answering(name: str, config: Json, **action: Any) -> Json:
    made = {"match": {"prefix": "/"}, "typed_per_filter_config": {NAME: config}, **action}
    return decoding.host(made, name=name, domains=[name])


_OFF = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
CORS = {"name": "envoy.filters.http.cors", "typed_config": typed("filters.http.cors.v3.Cors")}
_WITH_CORS = {
    NAME: fault(**abort(503)),
    CORS["name"]: typed("filters.http.cors.v3.CorsPolicy", allow_origin_string_match=[{"exact": "http://a"}]),
}
WORLD = World(
    routes={
        "r": decoding.configuration(
            *(_host(name, config) for name, config in FAULTS.items()),
            _host("plain", None),
            _host("retried", fault(**abort(503)), {"retry_policy": _RETRY}, include_request_attempt_count=True),
            _host("timeout", fault(**delay("0.15s")), {"timeout": "0.1s"}),
            _host("late-timeout", fault(**delay()), {"timeout": "0.1s"}),
            _host("idle", fault(**delay("0.2s")), {"timeout": "0s", "idle_timeout": "0.1s"}),
            _host("duration", fault(**delay("0.2s")),
                  {"timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.1s"}}),
            _host("of-host", None, level=fault(**abort(500))),
            _host("route-wins", fault(**abort(503)), level=fault(**abort(500))),
            _host("off", _OFF, level=fault(**abort(500))),
            _host("rewritten", fault(**abort(503)), {"prefix_rewrite": "/new", "host_rewrite_literal": "z"}),
            _answering("direct", fault(**abort(503)), direct_response={"status": 200, "body": {"inline_string": "hi"}}),
            _answering("redirect", fault(**delay()), redirect={"host_redirect": "b"}),
            _answering("nowhere", fault(**abort(503)), route={"cluster": "nowhere"}),
            decoding.host(
                {**decoding.route({"cluster": "origin"}, name="cors"), "typed_per_filter_config": _WITH_CORS},
                name="cors", domains=["cors"],
            ),
        )
    },
    clusters=(ORIGIN,),
    listeners={
        "http": {"http_filters": [CORS, filtered(), ROUTER]},
        "fault-first": {"http_filters": [filtered(), CORS, ROUTER]},
        "counted": {"http_filters": [CORS, filtered(), ROUTER]},
        "own": {"http_filters": [filtered(fault(**abort(500))), ROUTER]},
        "disabled": {"http_filters": [filtered(fault(**abort(500)), disabled=True), ROUTER]},
        "none": {"http_filters": [ROUTER]},
        "twice": {"http_filters": [filtered(), filtered(fault(**abort(599)), name="second"), ROUTER]},
    },
)  # fmt: skip
GRPC = b"content-type: application/grpc"
GRPC_OK = answer(200, b"", GRPC, b"grpc-status: 0")
_ASKED = {
    "abort": (b"x-envoy-fault-abort-request: 503",),
    "abort, out of range": (b"x-envoy-fault-abort-request: 199",),
    "abort, no number": (b"x-envoy-fault-abort-request: x",),
    "abort, none of the requests": (
        b"x-envoy-fault-abort-request: 503", b"x-envoy-fault-abort-request-percentage: 0",
    ),
    "grpc abort": (b"x-envoy-fault-abort-grpc-request: 7", GRPC),
    "both aborts": (b"x-envoy-fault-abort-grpc-request: 7", b"x-envoy-fault-abort-request: 500"),
    "delay": (b"x-envoy-fault-delay-request: 20",),
    "delay of nothing": (b"x-envoy-fault-delay-request: 0",),
    "nothing": (),
}  # fmt: skip


def _to(domain: str, *fields: bytes, method: bytes = b"GET") -> bytes:
    return get(b"/p", *fields, host=domain.encode(), method=method)


_PLACES = ("plain", "timeout", "late-timeout", "idle", "duration", "of-host", "route-wins", "off", "rewritten",
           "direct", "redirect", "nowhere", "retried")  # fmt: skip
_DIFFER = {
    "abort-204": "no-body-with-204",
    "abort-304": "no-body-with-204",
    "nowhere": "log-missing-cluster",
    "POST method": "answered-before-the-body",
}
CASES = [
    *(Case(name=domain, send=(_to(domain),), differs=_DIFFER.get(domain, "")) for domain in (*FAULTS, *_PLACES)),
    *(Case(name=f"gRPC {domain}", send=(_to(domain, GRPC),), origin=(GRPC_OK,)) for domain in FAULTS),
    *(Case(name=f"HEAD {domain}", send=(_to(domain, method=b"HEAD"),)) for domain in ("abort-418", "delay", "grpc-14")),
    *(
        Case(name=name, send=(post(b"/p", b"body", host=domain.encode()),), differs=_DIFFER.get(name, ""))
        for domain in ("delay", "never", "method", "header", "timeout", "late-timeout")
        for name in (f"POST {domain}",)
    ),
    *(
        Case(name=f"slow POST {domain}", send=(post(b"/p", b"body", host=domain.encode())[:-2], 0.1, b"dy"))
        for domain in ("delay", "never", "late-timeout")
    ),
    Case(name="header matches", send=(_to("header", b"X-User: tester"),)),
    Case(name="header does not", send=(_to("header", b"X-User: other"),)),
    Case(name="without header: there", send=(_to("without-header", b"X-User: tester"),)),
    Case(name="without header: another", send=(_to("without-header", b"X-User: other"),)),
    Case(name="node", send=(_to("nodes", b"x-envoy-downstream-service-node: n2"),)),
    Case(name="another node", send=(_to("nodes", b"x-envoy-downstream-service-node: n3"),)),
    *(
        Case(name=f"{domain}: {name}", send=(_to(domain, *fields),), origin=(GRPC_OK,) if GRPC in fields else ())
        for domain in ("by-header", "by-header-never", "delay", "never")
        for name, fields in _ASKED.items()
    ),
    *(
        Case(name=f"{listener}: {domain}", send=(_to(domain),), listener=listener)
        for listener in ("own", "disabled", "none", "twice")
        for domain in ("plain", "abort-418", "delay", "off")
    ),
    *(
        Case(name=f"{listener}: answers to other origins", send=(_to("cors", b"Origin: http://a"),), listener=listener)
        for listener in ("http", "fault-first")
    ),
    Case(name="after a delay the origin fails", send=(_to("delay"),), origin=(answer(503),)),
    Case(name="after a delay the origin closes", send=(_to("delay"),), origin=((Do.CLOSE,),)),
    Case(name="the next request is another", send=(_to("abort-418"), Do.AWAIT, _to("plain")), answers=2, logs=2),
    Case(name="pipelined", send=(_to("abort-503") + _to("plain"),), answers=2, logs=2),
    Case(name="the client leaves", send=(_to("delay"), 0.01, Do.CLOSE), answers=0, origin=(OK,)),
]


COUNTED = ("abort-503", "delay", "both", "full", "never", "abort-418", "header", "plain")


@pytest.mark.envoy
def test_the_same_is_counted(pair: Pair, runner: asyncio.Runner) -> None:
    async def run() -> tuple[dict[str, int], dict[str, int]]:
        for domain in COUNTED:
            await pair.run(Case(name=domain, send=(_to(domain),), listener="counted"))
        return await pair.counted("http.counted.fault.", Case(name="last", send=(_to("plain"),)))

    envoy, agent = runner.run(run())
    assert {name: value for name, value in envoy.items() if value} == {
        "http.counted.fault.aborts_injected": 3,
        "http.counted.fault.delays_injected": 2,
        "http.counted.fault.faults_overflow": 1,
    }
    assert {name: value for name, value in agent.items() if value} == {
        name: value for name, value in envoy.items() if value
    }


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same(case: Case, check: Check) -> None:
    check(case)
