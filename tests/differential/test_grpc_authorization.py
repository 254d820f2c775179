"""External authorization over gRPC, and with requests' bodies: what is asked, what of every sort of answer counts."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from agent.ipc.messages import CLUSTER
from agent.supervisor.authorizers import Authorizers
from tests.differential.case import Case, Do, Script, answer, get, post
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, WAIT_S, Pair, Side, World, running_pair, static_cluster
from tests.differential.test_authorization import path, policy, rbac, rules
from tests.differential.test_external_authorization import MARKED, names
from tests.support import authorizing, decoding
from tests.support.authorizing import (
    ADD,
    ADD_IF_ABSENT,
    SET,
    SET_IF_PRESENT,
    Authorizer,
    allowing,
    denying,
    erring,
    field,
)
from tests.support.decoding import ROUTER, Json, typed

HTTP2: Json = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
            "upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
        )
    }
}


def asks(cluster: str = "authz", timeout: str = "5s", service: Json | None = None, **fields: Any) -> Json:
    grpc_service = {"envoy_grpc": {"cluster_name": cluster, **(service or {})}, "timeout": timeout}
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": typed("filters.http.ext_authz.v3.ExtAuthz", grpc_service=grpc_service, **fields),
    }


def asks_http(**fields: Any) -> Json:
    http = {"server_uri": {"uri": "http://authz", "cluster": "origin", "timeout": "5s"}}
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": typed("filters.http.ext_authz.v3.ExtAuthz", http_service=http, **fields),
    }


def body(size: int, **fields: Any) -> Json:
    return {"max_request_bytes": size, **fields}


READ_BYTES = 16 * 1024
MUTATE: Json = {"validate_mutations": True}
FILTERS: dict[str, list[Json]] = {
    "plain": [asks(**MUTATE)],
    "unavailable": [asks(**MUTATE, status_on_error={"code": "ServiceUnavailable"})],
    "open": [asks(**MUTATE, failure_mode_allow=True)],
    "open-marked": [asks(**MUTATE, failure_mode_allow=True, failure_mode_allow_header_add=True)],
    "refused": [asks("refused")],
    "refused-open": [asks("refused", failure_mode_allow=True)],
    "absent": [asks("absent")],
    "empty": [asks("empty")],
    "moving": [asks("moving")],
    "slow": [asks(timeout="0.1s")],
    "slow-open": [asks(timeout="0.1s", failure_mode_allow=True)],
    "shown": [asks(allowed_headers={"patterns": [{"exact": "cookie"}, {"prefix": "x-show"}]})],
    "hidden": [asks(disallowed_headers=names("x-secret", "cookie", ":path"))],
    "marked": [
        rbac(
            shadow_rules=rules("DENY", **{"istio-ext-authz-ns[a]-policy[b]-rule[0]": policy(path(prefix="/ask"))}),
            shadow_rules_stat_prefix="istio_ext_authz_",
        ),
        asks(filter_enabled_metadata=MARKED, metadata_context_namespaces=["envoy.filters.http.rbac", "none"]),
    ],
    "then-rbac": [asks(**MUTATE), rbac(rules=rules("DENY", admin=policy(path(prefix="/admin"))))],
    "body": [asks(**MUTATE, with_request_body=body(10))],
    "partial": [asks(**MUTATE, with_request_body=body(10, allow_partial_message=True))],
    "bytes": [asks(**MUTATE, with_request_body=body(10, allow_partial_message=True, pack_as_bytes=True))],
    "large": [asks(**MUTATE, with_request_body=body(200_000))],
    "refused-body-open": [asks("refused", failure_mode_allow=True, with_request_body=body(10))],
    "http-body": [asks_http(with_request_body=body(10))],
    "http-partial": [asks_http(with_request_body=body(10, allow_partial_message=True))],
    "http-bytes": [asks_http(with_request_body=body(10, pack_as_bytes=True))],
    "http-hidden": [asks_http(with_request_body=body(10), disallowed_headers=names("x-envoy-auth-partial-body"))],
}
ROUTES = decoding.configuration(
    decoding.host(
        decoding.route({"cluster": "origin"}, {"prefix": "/off"}, typed_per_filter_config={
            "envoy.filters.http.ext_authz": typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", disabled=True)
        }),
        decoding.route({"cluster": "origin"}, {"prefix": "/told"}, typed_per_filter_config={
            "envoy.filters.http.ext_authz": typed(
                "filters.http.ext_authz.v3.ExtAuthzPerRoute",
                check_settings={"context_extensions": {"a": "route", "b": "2"}, "disable_request_body_buffering": True},
            )
        }),
        decoding.route({"cluster": "origin"}),
        domains=["*"],
        typed_per_filter_config={
            "envoy.filters.http.ext_authz": typed(
                "filters.http.ext_authz.v3.ExtAuthzPerRoute",
                check_settings={"context_extensions": {"a": "host", "c": "3"}},
            )
        },
    ),
    decoding.host(decoding.route({"cluster": "origin"}, {"prefix": "/only"}), domains=["nowhere"], name="nowhere"),
)  # fmt: skip


def denied_with(number: float) -> authorizing.CheckResponse:
    response = denying()
    response.dynamic_metadata["a"] = number
    return response


ANSWERS: dict[str, Any] = {
    "/empty": authorizing.CheckResponse(),
    "/status": denying(status={"code": 401}, body="go away", headers=[field("www-authenticate", "Basic")]),
    "/denied": denying(),
    "/denied-bare": authorizing.ParseDict({"status": {"code": 7}}, authorizing.CheckResponse()),
    "/denied-ok": authorizing.ParseDict(
        {"status": {"code": 7}, "ok_response": {"headers": [field("x-a", "1")]}}, authorizing.CheckResponse()
    ),
    "/denied-200": denying(status={"code": 200}, body="fine"),
    "/denied-302": denying(status={"code": 302}, headers=[field("location", "http://login/")]),
    "/denied-fields": denying(
        status={"code": 418},
        body="{}",
        headers=[
            field("x-one", "1"),
            field("x-one", "2"),
            field("set-cookie", "a=b"),
            field("set-cookie", "c=d"),
            field("content-type", "application/json"),
            field("X-Set", "1", SET),
            field("x-absent", "1", SET_IF_PRESENT),
            field("x-new", "1", ADD_IF_ABSENT),
            field("x-new", "2", ADD_IF_ABSENT),
            field("x-old", "1", append=True),
            field("x-set2", "1", SET),
            field("x-set2", "2", SET),
            field("server", "me"),
        ],
    ),
    "/denied-length": denying(body="four", headers=[field("content-length", "9")]),
    "/denied-bad-name": denying(headers=[field("x bad", "1")]),
    "/denied-bad-value": denying(headers=[field("x-bad", "1\r\ny: 2")]),
    "/denied-700": denying(status={"code": 700}),
    "/error": erring(),
    "/error-status": erring(status={"code": 503}, body="later", headers=[field("retry-after", "9")]),
    "/unavailable": grpc.StatusCode.UNAVAILABLE,
    "/denied-grpc": grpc.StatusCode.PERMISSION_DENIED,
    "/internal": grpc.StatusCode.INTERNAL,
    "/hang": 0.5,
    "/set": allowing(headers=[field("x-user", "me", SET), field("x-new", "1", SET)]),
    "/add": allowing(headers=[field("x-user", "me", ADD), field("x-new", "1", ADD)]),
    "/default": allowing(headers=[field("x-user", "me"), field("x-new", "1")]),
    "/absent": allowing(headers=[field("x-user", "me", ADD_IF_ABSENT), field("x-new", "1", ADD_IF_ABSENT)]),
    "/present": allowing(headers=[field("x-user", "me", SET_IF_PRESENT), field("x-new", "1", SET_IF_PRESENT)]),
    "/append": allowing(headers=[field("x-user", "me", append=True), field("x-new", "1", append=True)]),
    "/append-not": allowing(headers=[field("x-user", "me", append=False), field("x-new", "1", append=False)]),
    "/order": allowing(
        headers=[
            field("x-user", "1", ADD),
            field("x-user", "2", SET),
            field("x-user", "3", ADD),
            field("x-new", "1", SET),
            field("x-new", "2", append=True),
            field("x-new", "3", ADD_IF_ABSENT),
        ],
        headers_to_remove=["x-new"],
    ),
    "/unknown-action": allowing(headers=[field("x-user", "me", 9)]),
    "/remove": allowing(headers_to_remove=["X-User", "host", ":path", ":method", "x bad", "cookie", "x-none"]),
    "/bad-name": allowing(headers=[field("x bad", "1")]),
    "/bad-value": allowing(headers=[field("x-bad", "1\r\ny: 2")]),
    "/bad-answer": allowing(response_headers_to_add=[field("x bad", "1")]),
    "/no-name": allowing(headers=[field("", "1")]),
    "/host": allowing(headers=[field("host", "other", SET)]),
    "/authority": allowing(headers=[field(":authority", "other", SET)]),
    "/host-added": allowing(headers=[field("host", "other", ADD)]),
    "/path": allowing(headers=[field(":path", "/elsewhere?x=1", SET)]),
    "/path-admin": allowing(headers=[field(":path", "/admin", SET)]),
    "/method": allowing(headers=[field(":method", "PUT", SET)]),
    "/scheme": allowing(headers=[field(":scheme", "https", SET)]),
    "/pseudo": allowing(headers=[field(":other", "1", SET)]),
    "/connection": allowing(headers=[field("connection", "close", SET)]),
    "/answer": allowing(
        response_headers_to_add=[
            field("x-limit", "7"),
            field("x-own", "mine", SET),
            field("x-own2", "more", ADD),
            field("x-own3", "no", ADD_IF_ABSENT),
            field("x-own4", "yes", SET_IF_PRESENT),
            field("x-not", "no", SET_IF_PRESENT),
            field("x-more", "1", append=True),
            field("x-own5", "2", append=True),
            field("set-cookie", "a=b"),
        ]
    ),
    "/query": allowing(
        query_parameters_to_set=[{"key": "q", "value": "2"}, {"key": "new", "value": "x%20y"}],
        query_parameters_to_remove=["gone", "none"],
    ),
    "/query-gone": allowing(query_parameters_to_remove=["q", "gone"]),
    "/query-space": allowing(query_parameters_to_set=[{"key": "q", "value": "a b"}]),
    "/query-amp": allowing(query_parameters_to_set=[{"key": "q", "value": "a&b"}]),
    "/query-marks": allowing(query_parameters_to_set=[{"key": "q", "value": "a=b"}]),
    "/query-plus": allowing(query_parameters_to_set=[{"key": "q", "value": "a+b/c?d:e@f,g;h!i$j'k(l)m*n~o"}]),
    "/query-hash": allowing(query_parameters_to_set=[{"key": "q", "value": "a#b"}]),
    "/query-high": allowing(query_parameters_to_set=[{"key": "q", "value": "\xe4"}]),
    "/many": allowing(headers=[field(f"x-{number}", "1") for number in range(120)]),
    "/big": allowing(headers=[field("x-big", "1" * 70_000)]),
    "/metadata": authorizing.ParseDict(
        {"status": {"code": 0}, "dynamic_metadata": {"a": "b"}}, authorizing.CheckResponse()
    ),
    "/denied-infinity": denied_with(float("inf")),
}
WORLD = World(
    routes={"r": ROUTES},
    clusters=(
        ORIGIN,
        static_cluster("authz", "$AUTHZ", **HTTP2),
        static_cluster("refused", "$REFUSED", **HTTP2),
        static_cluster("moving", "$MOVING", **HTTP2),
        static_cluster("empty", **HTTP2),
    ),
    listeners={name: {"http_filters": [*filters, ROUTER]} for name, filters in FILTERS.items()}
    | {"upgrade": {"http_filters": [*FILTERS["body"], ROUTER], "upgrade_configs": [{"upgrade_type": "websocket"}]}}
    | {"tallied": {"http_filters": [asks(**MUTATE, with_request_body=body(10)), ROUTER], "stat_prefix": "tallied"}},
)

REQUEST_FIELDS = (b"Cookie: a=b", b"X-Show-One: 1", b"x-secret: s", b"X-User: spoofed", b"x-more: a", b"x-more: b")
OWN = answer(200, b"ok", b"x-own: 1", b"x-own2: 1", b"x-own3: 1", b"x-own4: 1", b"x-own5: 1")


def asked(target: str) -> bytes:
    return get(target.encode(), *REQUEST_FIELDS, host=b"h:80")


def _case(listener: str, target: str = "/p?q=1", name: str = "", send: bytes | Script = b"", **more: Any) -> Case:
    steps = send if isinstance(send, tuple) else (send or asked(target),)
    return Case(name=f"{listener}: {name or target}", listener=listener, send=steps, **{"origin": (OWN,), **more})


def chunked(*parts: bytes, target: bytes = b"/p") -> bytes:
    head = get(target, b"Transfer-Encoding: chunked", method=b"POST")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def waiting(body: bytes, target: bytes = b"/p") -> Script:
    """The client sends its body when it is told to."""
    fields = (b"Content-Length: %d" % len(body), b"Expect: 100-continue")
    return (get(target, *fields, method=b"POST"), Do.AWAIT, body)


# Not in each filter's case: what Envoy hangs on, and what has cases of its own.
APART = ("/hang", "/query")
DIFFERING = {
    "/denied-700": "authorizer-status", "/no-name": "authorizer-fields", "/pseudo": "authorizer-fields",
    "/connection": "authorizer-framing",
}  # fmt: skip
UPGRADE = get(b"/p", b"Connection: Upgrade", b"Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
_CHUNKED = get(b"/p", b"Transfer-Encoding: chunked", method=b"POST")
_BEGUN = get(b"/p", b"Content-Length: 30", method=b"POST")
SLOWLY = (_CHUNKED, 0.05, b"3\r\nabc\r\n", 0.05, b"3\r\ndef\r\n0\r\n\r\n")
TOO_LARGE = post(b"/p", b"12345678901")
REFUSING = ("body", "http-body", "refused-body-open")
NO = answer(403, b"no")
DENIED = post(b"/status", b"123")
THREE = post(b"/p", b"1234") + post(b"/status", b"5678") + get(b"/p")
FAILING = ("/unavailable", "/denied-grpc", "/internal", "/error", "/error-status")
CASES = [
    *(_case(name) for name in FILTERS if "body" not in name and name not in ("partial", "bytes", "large", "moving")),
    *(_case("plain", target, differs=DIFFERING.get(target, "")) for target in ANSWERS if not target.startswith(APART)),
    *(_case("plain", f"{target}?z=1&q=1&gone&b=2&b=1&gone=3") for target in ANSWERS if target.startswith("/query")),
    _case("plain", "/query-gone?q=1"),
    _case("plain", "/query"),
    *(_case("unavailable", target) for target in (*FAILING, "/denied", "/bad-name")),
    *(_case("open", target) for target in (*FAILING, "/denied", "/bad-name", "/denied-bad-name", "/denied-infinity")),
    _case("open", "/denied-700", differs=DIFFERING["/denied-700"]),
    _case("open-marked", "/internal"),
    _case("open-marked"),
    _case("slow", "/hang"),
    _case("slow-open", "/hang"),
    _case("marked", "/ask/x"),
    _case("marked", "/other"),
    _case("then-rbac", "/path-admin"),
    _case("then-rbac", "/admin"),
    _case("plain", "/off"),
    _case("plain", "/told"),
    _case("plain", name="no route", send=get(b"/x", host=b"nowhere")),
    *(
        _case("plain", name=f"{method.decode()} {target}", send=get(target.encode(), method=method))
        for method in (b"HEAD", b"POST", b"OPTIONS")
        for target in ("/p", "/status", "/denied-fields", "/internal", "/error-status")
    ),
    *(
        _case("plain", name=f"grpc {target}", send=get(target.encode(), b"content-type: application/grpc"))
        for target in ("/status", "/denied-fields", "/internal", "/bad-name")
    ),
    _case("plain", name="a body", send=post(b"/p", b"body")),
    _case("plain", name="a body, denied", send=post(b"/status", b"body")),
    _case("plain", name="high bytes", send=get(b"/p", b"x-high: \xe4\xff\xc3\xa4")),
    _case("plain", name="partial said by the client", send=get(b"/p", b"x-envoy-auth-partial-body: true")),
    _case("plain", name="from a cluster", send=get(b"/p", b"x-envoy-downstream-service-cluster: web")),
    *(
        _case(listener, name=f"{len(data)} bytes", send=post(b"/p", data))
        for listener in ("body", "partial", "bytes", "large", "http-body", "http-partial", "http-bytes", "http-hidden")
        for data in (b"", b"123456789", b"1234567890", b"\xff\xe4\xc3\xa4x")
    ),
    *(
        _case(listener, name=f"{len(data)} bytes", send=post(b"/p", data))
        for listener in ("partial", "bytes", "large", "http-partial")
        for data in (b"12345678901", b"x" * 70_000)
    ),
    *(_case(listener, name="get") for listener in ("body", "partial", "bytes", "http-body", "http-partial")),
    *(
        _case(listener, name=f"chunks {parts}", send=chunked(*parts))
        for listener in ("body", "partial", "bytes", "http-body")
        for parts in ((), (b"12345",), (b"12345", b"6789"))
    ),
    *(_case(one, name="chunks in steps", send=SLOWLY) for one in ("body", "partial", "http-body")),
    *(_case(one, name="too many", send=chunked(b"123456", b"7890", b"1")) for one in ("partial", "http-partial")),
    *(_case(one, name="denied", send=DENIED, origin=(NO,)) for one in ("body", "partial", "http-body")),
    *(_case(one, name="too large", send=TOO_LARGE, differs="answered-before-the-body") for one in REFUSING),
    *(_case(one, name="too large, in steps", send=(_BEGUN, 0.05, b"x" * 11)) for one in ("body", "http-body")),
    _case("body", name="too large, chunked", send=(_CHUNKED, 0.05, b"b\r\n12345678901\r\n0\r\n\r\n")),
    _case("refused-body-open", name="as it may be", send=post(b"/p", b"123")),
    _case("body", "/told", name="not asked for", send=post(b"/told", b"12345678901")),
    _case("body", name="expect", send=waiting(b"1234")),
    _case("plain", name="expect", send=waiting(b"1234")),
    _case("body", name="expect, too large", send=waiting(b"x" * 20), answers=2),
    _case("large", name="200 kB", send=post(b"/p", b"x" * 200_000)),
    _case("large", name="too much", send=post(b"/p", b"x" * 200_001)),
    _case("body", name="three", send=THREE, answers=3, logs=3, origin=(answer(keep=True),)),
    _case("upgrade", name="upgrade", send=(UPGRADE, Do.AWAIT, b"hello"), origin=((SWITCHED, Do.ECHO),), until=b"hello"),
]  # fmt: skip


class Asked:
    """What the service was asked, first by Envoy, then by the agent, without what is chance."""

    def __init__(self, service: Authorizer) -> None:
        self._service = service
        self._ports: list[int] = []

    def forget(self) -> None:
        self._service.seen.clear()

    def take(self) -> tuple[list[Json], list[Json]]:
        found = [MessageToDict(one, preserving_proto_field_name=True) for one in self._service.seen]
        self._ports = [one["attributes"]["destination"]["address"]["socket_address"]["port_value"] for one in found]
        told = [self._told(one) for one in found]
        return told[: len(told) // 2], told[len(told) // 2 :]

    def went_to(self, ports: tuple[int, int]) -> bool:
        """Whether each side has named its own listener's port."""
        half = len(self._ports) // 2
        return set(self._ports[:half]) <= {ports[0]} and set(self._ports[half:]) <= {ports[1]}

    @staticmethod
    def _told(message: Json) -> Json:
        attributes = message["attributes"]
        for end in ("source", "destination"):
            attributes[end]["address"]["socket_address"]["port_value"] = "PORT"
        request = attributes["request"]
        assert request["time"].startswith("20")
        request["time"] = "TIME"
        assert request["http"]["id"].isdigit()
        request["http"]["id"] = "ID"
        if int(request["http"].get("size", 0)) > READ_BYTES:  # what is read at once is each one's own
            request["http"]["size"] = "MANY"
        headers = request["http"].get("headers", {})
        for name in ("x-request-id", "x-forwarded-for"):
            if name in headers:
                headers[name] = name
        headers.pop("traceparent", None)  # trace-context
        return message  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def service() -> Iterator[Authorizer]:
    with Authorizer(ANSWERS).running() as made:
        yield made


@pytest.fixture
def asked_of(service: Authorizer) -> Asked:
    return Asked(service)


@pytest.fixture(scope="module")
def moving() -> Authorizer:
    """Not running; it has a port."""
    with Authorizer().running() as made:
        return made


@pytest.fixture(scope="module")
def pair(
    service: Authorizer, moving: Authorizer, tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner
) -> Iterator[Pair]:
    """With what the supervisor does beside a bare worker."""
    folder = tmp_path_factory.mktemp("pair")
    text = json.dumps(WORLD.clusters)
    for mark, port in (("$AUTHZ", service.port), ("$MOVING", moving.port)):
        text = text.replace(f'"{mark}"', str(port))
    context = running_pair(folder, replace(WORLD, clusters=tuple(json.loads(text))))
    made = runner.run(context.__aenter__())
    worker = made.agent.worker
    authorizers = Authorizers(
        folder,
        lambda name: worker.tables[CLUSTER].get(name),
        lambda name: worker.tables[CLUSTER][name].static,
        clock=time.monotonic,
    )
    authorizers.follow()
    worker.on_check = lambda questions: authorizers.ask(worker.pid, questions, worker.channel.send)
    yield made
    runner.run(authorizers.close())
    runner.run(context.__aexit__(None, None, None))


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same(case: Case, pair: Pair, check: Check, asked_of: Asked) -> None:
    """Answers, what the origin sees, log lines; and what the service was asked."""
    asked_of.forget()
    check(case)
    ports = (pair.envoy.ports[case.listener], pair.agent.ports[case.listener])
    envoy, agent = asked_of.take()
    assert agent == envoy
    assert asked_of.went_to(ports)


@pytest.mark.envoy
def test_the_same_is_counted(pair: Pair, runner: asyncio.Runner) -> None:
    async def run() -> tuple[dict[str, int], dict[str, int]]:
        for target in ("/p", "/status", "/internal", "/bad-name"):
            await pair.run(_case("tallied", target))
        await pair.run(_case("tallied", send=post(b"/p", b"12345678901")))
        return await pair.counted("http.tallied.", _case("plain"))

    envoy, agent = runner.run(run())
    names = ("ok", "denied", "error", "invalid", "disabled", "failure_mode_allowed")
    expected = {name: envoy[f"http.tallied.ext_authz.{name}"] for name in names}
    assert {name: agent.get(f"http.tallied.ext_authz.{name}", 0) for name in names} == expected
    assert expected == {"ok": 1, "denied": 1, "error": 1, "invalid": 1, "disabled": 0, "failure_mode_allowed": 0}
    too_large = "http.tallied.downstream_rq_too_large"
    assert agent[too_large] == envoy[too_large] == 1


@pytest.mark.envoy
def test_a_service_that_ends_and_comes_again(pair: Pair, moving: Authorizer, runner: asyncio.Runner) -> None:
    """Requests are refused without it, and served again once it is back, at the same place."""
    for up, status in ((True, 200), (False, 403), (True, 200)):
        with moving.running(moving.port) if up else nullcontext():
            for side in (pair.envoy, pair.agent):
                assert runner.run(_served(pair, side, status)), (side.name, up)


async def _served(pair: Pair, side: Side, status: int) -> bool:
    """Whether an answer comes to have this status."""
    async with asyncio.timeout(WAIT_S):  # gRPC waits a moment before it connects again
        while f" {status} " not in (await pair._run(side, _case("moving"))).answers[0].line:
            pass
    return True
