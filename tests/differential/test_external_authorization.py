"""External authorization over HTTP: what is asked, what of every sort of answer counts."""

import asyncio
from typing import Any

import pytest

from tests.differential.case import Case, Do, Script, answer, get, post, raw_answer
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, Pair, World, static_cluster
from tests.differential.test_authorization import path, policy, rbac, rules
from tests.support import decoding
from tests.support.decoding import ROUTER, Json, typed


def names(*patterns: str) -> Json:
    return {"patterns": [{"exact": one, "ignore_case": True} for one in patterns]}


def asks(cluster: str = "authz", timeout: str = "2s", service: Json | None = None, **fields: Any) -> Json:
    http = {"server_uri": {"uri": "http://authz", "cluster": cluster, "timeout": timeout}, **(service or {})}
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": typed("filters.http.ext_authz.v3.ExtAuthz", http_service=http, **fields),
    }


MARKED: Json = {
    "filter": "envoy.filters.http.rbac",
    "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
    "value": {"string_match": {"prefix": "istio-ext-authz"}},
}
COPIES: Json = {
    "authorization_response": {
        "allowed_upstream_headers": names("x-user", "x-two"),
        "allowed_upstream_headers_to_append": names("x-more"),
        "allowed_client_headers": names("x-why"),
        "allowed_client_headers_on_success": names("x-limit"),
    }
}
FILTERS: dict[str, list[Json]] = {
    "plain": [asks()],
    "prefix": [asks(service={"path_prefix": "/check"})],
    "shown": [asks(allowed_headers={"patterns": [{"exact": "cookie"}, {"prefix": "x-show"}]})],
    "hidden": [asks(allowed_headers={"patterns": [{"prefix": "x-"}]}, disallowed_headers=names("x-secret"))],
    "added": [asks(service={"authorization_request": {"headers_to_add": [{"key": "x-from", "value": "mesh"}]}})],
    "copies": [asks(service=COPIES)],
    "unavailable": [asks(status_on_error={"code": "ServiceUnavailable"})],
    "open": [asks(failure_mode_allow=True)],
    "refused": [asks("refused")],
    "refused-open": [asks("refused", failure_mode_allow=True)],
    "absent": [asks("absent")],
    "empty": [asks("empty")],
    "slow": [asks(timeout="0.1s")],
    "slow-open": [asks(timeout="0.1s", failure_mode_allow=True)],
    "marked": [
        rbac(
            shadow_rules=rules("DENY", **{"istio-ext-authz-ns[a]-policy[b]-rule[0]": policy(path(prefix="/ask"))}),
            shadow_rules_stat_prefix="istio_ext_authz_",
        ),
        asks(filter_enabled_metadata=MARKED),
    ],
}
WORLD = World(
    routes={"r": decoding.configuration(decoding.host(decoding.route({"cluster": "origin"}), domains=["*"]))},
    clusters=(
        ORIGIN,
        static_cluster("authz", "$ORIGIN"),
        static_cluster("refused", "$REFUSED"),
        static_cluster("empty"),
    ),
    listeners={name: {"http_filters": [*filters, ROUTER]} for name, filters in FILTERS.items()}
    | {"tallied": {"http_filters": [asks(), ROUTER], "stat_prefix": "tallied"}},
)

YES = answer(200, b"allowed")
FULL = answer(
    200, b"", b"x-user: me", b"x-two: 1", b"x-two: 2", b"x-more: b", b"x-other: no", b"x-limit: 7", b"x-why: no",
    b"set-cookie: a=b",
)  # fmt: skip
NO: dict[str, Script] = {
    "forbidden": answer(403, b"because", b"x-why: rules", b"x-other: more", b"content-type: text/html"),
    "unauthorized": answer(401, b"", b"www-authenticate: Basic", b"set-cookie: a=b", b"set-cookie: c=d"),
    "redirect": answer(302, b"", b"location: http://login/"),
    "not found": answer(404, b"nothing here"),
    "created": answer(201, b"no"),
    "error": answer(500, b"broken"),
    "unavailable": answer(503, b""),
    "garbage": (b"garbage\r\n\r\n", Do.CLOSE),
    "nothing": (Do.CLOSE,),
    "reset": (Do.RESET,),
    "cut": raw_answer(b"HTTP/1.1 200 OK", b"content-length: 10", body=b"abc"),
    "until the end": raw_answer(b"HTTP/1.1 403 Forbidden", body=b"as long as it lasts"),
    "chunked": raw_answer(b"HTTP/1.1 403 Forbidden", b"transfer-encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
}
REQUEST = get(
    b"/p?q=1", b"Authorization: Basic x", b"Cookie: a=b", b"X-Show-One: 1", b"x-secret: s", b"X-User: spoofed",
    b"x-more: a", host=b"h:80",
)  # fmt: skip


def _case(
    listener: str, name: str, send: bytes = REQUEST, origin: tuple[Script, ...] = (YES, answer()), **more: Any
) -> Case:
    return Case(name=f"{listener}: {name}", listener=listener, send=(send,), origin=origin, **more)


CASES = [
    *(_case(name, "allowed") for name in FILTERS),
    *(_case("plain", name, origin=(script, answer())) for name, script in NO.items()),
    *(_case("copies", name, origin=(NO[name], answer())) for name in ("forbidden", "unauthorized", "redirect")),
    *(_case("unavailable", name, origin=(NO[name], answer())) for name in ("forbidden", "error", "nothing")),
    *(_case("open", name, origin=(NO[name], answer())) for name in ("forbidden", "error", "nothing", "garbage")),
    _case("copies", "headers", origin=(FULL, answer(200, b"ok", b"x-own: 1"))),
    _case("plain", "headers", origin=(FULL, answer())),
    _case("marked", "asked about", get(b"/ask/x")),
    _case("marked", "asked about and denied", get(b"/ask"), origin=(NO["forbidden"], answer())),
    _case("marked", "not asked about", get(b"/other"), origin=(answer(),)),
    _case("slow", "hangs", origin=((Do.HANG,), answer())),
    _case("slow-open", "hangs", origin=((Do.HANG,), answer())),
    _case("plain", "a body", post(b"/p", b"body")),
    _case("plain", "head", get(b"/p", method=b"HEAD")),
    _case("plain", "head, denied", get(b"/p", method=b"HEAD"), origin=(NO["forbidden"],)),
    _case("plain", "grpc, denied", get(b"/p", b"content-type: application/grpc"), origin=(NO["forbidden"],)),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same(case: Case, check: Check) -> None:
    check(case)


@pytest.mark.envoy
def test_the_same_is_counted(pair: Pair, runner: asyncio.Runner) -> None:
    async def run() -> tuple[dict[str, int], dict[str, int]]:
        for script in (YES, NO["forbidden"], NO["error"]):
            await pair.run(Case(name="one", listener="tallied", send=(get(),), origin=(script, answer())))
        return await pair.counted(
            "http.tallied.ext_authz.", Case(name="last", listener="plain", send=(get(),), origin=(YES, answer()))
        )

    envoy, agent = runner.run(run())
    assert agent == {name: value for name, value in envoy.items() if value}
    assert len(agent) == 3
