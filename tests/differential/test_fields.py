"""Header operations at every level with their formats, x-forwarded-*, request ids, weighted clusters, access logs."""

from dataclasses import replace

import pytest

from agent.filters.repeated import OF_ANSWERS, OF_REQUESTS
from tests.differential.case import Case, answer, get
from tests.differential.conftest import Check
from tests.differential.pair import ORIGIN, World, static_cluster
from tests.support import decoding
from tests.support.decoding import Json


def _add(key: str, value: str, action: str = "APPEND_IF_EXISTS_OR_ADD") -> Json:
    return {"header": {"key": key, "value": value}, "append_action": action}


def _levels(level: str) -> Json:
    """Each level appends itself, overwrites, and takes something away."""
    return {
        "request_headers_to_add": [
            _add("x-level", level),
            _add("x-last", level, "OVERWRITE_IF_EXISTS_OR_ADD"),
            _add("x-first", level, "ADD_IF_ABSENT"),
            _add("x-there", level, "OVERWRITE_IF_EXISTS"),
        ],
        "response_headers_to_add": [
            _add("x-level", level),
            _add("x-last", level, "OVERWRITE_IF_EXISTS_OR_ADD"),
            _add("x-first", level, "ADD_IF_ABSENT"),
            _add("x-there", level, "OVERWRITE_IF_EXISTS"),
        ],
        "request_headers_to_remove": [f"x-drop-{level}", "x-drop"],
        "response_headers_to_remove": [f"x-drop-{level}", "x-drop"],
    }


_FORMATS = [
    "%REQ(X-A)%",
    "%REQ(X-NONE)%",
    "%REQ(X-NONE?X-A)%",
    "%REQ(X-A):2%",
    "%REQ(:METHOD)%",
    "%REQ(:PATH)%",
    "%REQ(:AUTHORITY)%",
    "%PROTOCOL%",
    "%ROUTE_NAME%",
    "%UPSTREAM_CLUSTER%",
    "100%%",
    "a %REQ(X-A)% b",
    "%RESPONSE_FLAGS%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%HOSTNAME%",
    "%RESPONSE_CODE%",
    "%QUERY_PARAM(q)%",
    "%BYTES_RECEIVED%",
    "%RESPONSE_CODE_DETAILS%",
]
_LEVEL_HOST = decoding.host(
    decoding.route(
        {"weighted_clusters": {"clusters": [{"name": "origin", "weight": 1, **_levels("cluster")}]}},
        {"prefix": "/weighted"}, name="weighted", **_levels("route"),
    ),
    decoding.route({"cluster": "origin"}, {"prefix": "/forward"}, name="forward", **_levels("route")),
    {"match": {"prefix": "/direct"}, "name": "direct", "direct_response": {"status": 200}, **_levels("route")},
    {"match": {"prefix": "/redirect"}, "redirect": {"path_redirect": "/p"}, **_levels("route")},
    decoding.route({"cluster": "nowhere"}, {"prefix": "/nowhere"}, **_levels("route")),
    name="levels", domains=["levels"], **_levels("host"),
)  # fmt: skip
_FORMAT_HOST = decoding.host(
    decoding.route(
        {"cluster": "origin"}, name="formats",
        request_headers_to_add=[_add(f"x-f-{place}", text) for place, text in enumerate(_FORMATS)],
        response_headers_to_add=[_add(f"x-f-{place}", text) for place, text in enumerate(_FORMATS)],
    ),
    name="formats", domains=["formats"],
)  # fmt: skip
_EMPTY_HOST = decoding.host(
    decoding.route(
        {"cluster": "origin"},
        request_headers_to_add=[
            _add("x-empty", "%REQ(X-NONE)%"),
            _add("x-set", "%REQ(X-NONE)%", "OVERWRITE_IF_EXISTS_OR_ADD"),
        ],
    ),
    name="empty", domains=["empty"],
)  # fmt: skip
_KEPT_HOST = decoding.host(
    decoding.route(
        {"cluster": "origin"},
        request_headers_to_add=[
            {**_add("x-kept", "%REQ(X-NONE)%"), "keep_empty_value": True},
            {**_add("x-kept-too", ""), "keep_empty_value": True},
            {**_add("x-set", "%REQ(X-NONE)%", "OVERWRITE_IF_EXISTS_OR_ADD"), "keep_empty_value": True},
            _add("x-dropped", "%REQ(X-NONE)%"),
        ],
        response_headers_to_add=[{**_add("x-kept", "%RESP(X-NONE)%"), "keep_empty_value": True}],
    ),
    name="kept", domains=["kept"],
)  # fmt: skip
# Fields that Envoy knows, so that it joins their lines, and some that it does not.
_ASKED_TWICE = sorted(name.decode() for name in OF_REQUESTS - {b"expect", b"x-envoy-original-path"})
_TOLD_TWICE = sorted(name.decode() for name in OF_ANSWERS - {b"date", b"server"})
_OTHERS = ["accept-language", "cookie", "x-a", "x-envoy-foo", "set-cookie", "link", "x-r"]
_TWICE_HOST = decoding.host(
    decoding.route(
        {"cluster": "origin"},
        {"prefix": "/asked"},
        response_headers_to_add=[_add(f"x-shown-{name}", f"%REQ({name})%") for name in (*_ASKED_TWICE, *_OTHERS)],
    ),
    decoding.route(
        {"cluster": "origin"},
        {"prefix": "/told"},
        response_headers_to_add=[_add(f"x-shown-{name}", f"%RESP({name})%") for name in (*_TOLD_TWICE, *_OTHERS)],
    ),
    name="twice", domains=["twice"],
)  # fmt: skip
_WEIGHTS = {
    "clusters": [
        {"name": "origin", "weight": 0},
        {"name": "second", "weight": 5, "host_rewrite_literal": "second.host"},
    ]
}
_PLAIN = decoding.host(
    decoding.route({"weighted_clusters": _WEIGHTS}, {"prefix": "/weights"}),
    decoding.route({"cluster": "origin"}, name="plain"),
)
_EDGE = {"use_remote_address": True}
WORLD = World(
    routes={
        "r": decoding.configuration(_LEVEL_HOST, _FORMAT_HOST, _EMPTY_HOST, _KEPT_HOST, _PLAIN, **_levels("all")),
        "specific": decoding.configuration(
            _LEVEL_HOST, most_specific_header_mutations_wins=True, **_levels("all")
        ),
        "twice": decoding.configuration(_TWICE_HOST),
        "ports": decoding.configuration(
            decoding.host(decoding.route({"cluster": "origin"}), domains=["a"]), ignore_port_in_host_matching=True
        ),
    },
    clusters=(ORIGIN, static_cluster("second", "$ORIGIN")),
    listeners={
        "http": {},
        "twice": {"routes": "twice"},
        "specific": {"routes": "specific"},
        "ports": {"routes": "ports"},
        "edge": _EDGE,
        "edge-hops": {**_EDGE, "xff_num_trusted_hops": 1},
        "hops": {"xff_num_trusted_hops": 1},
        "kept-id": {**_EDGE, "preserve_external_request_id": True},
        "no-id": {"generate_request_id": False},
        "told-id": {"always_set_request_id_in_response": True},
        "server": {"server_name": "own"},
        "pass-server": {"server_header_transformation": "PASS_THROUGH"},
        "normal": {"normalize_path": True},
        "merged": {"normalize_path": True, "merge_slashes": True},
        "merged-only": {"merge_slashes": True},
        "small-heads": {"max_request_headers_kb": 1},
        "few-fields": {"common_http_protocol_options": {"max_headers_count": 5}},
        "one-request": {"common_http_protocol_options": {"max_requests_per_connection": 1}},
    },
)  # fmt: skip

_CLAIMS = (
    b"X-Envoy-Foo: 1", b"X-Envoy-Internal: true", b"X-Envoy-External-Address: 9.9.9.9", b"X-Envoy-Retry-On: 5xx",
    b"X-Envoy-Decorator-Operation: o", b"X-Envoy-Downstream-Service-Cluster: c", b"X-Envoy-Expected-RQ-Timeout-Ms: 7",
    b"X-Envoy-Original-Dst-Host: 1.1.1.1:1", b"X-Forwarded-Host: z", b"X-Client-Trace-Id: q",
    b"X-Envoy-IP-Tags: t", b"X-Envoy-Force-Trace: true", b"X-Envoy-Max-Retries: 2", b"X-Envoy-Original-Url: u",
    b"X-Envoy-Downstream-Service-Node: n",
)  # fmt: skip
_UUID = b"X-Request-Id: 11111111-2222-4333-8444-555555555555"
_FORWARDED = {
    "nothing": (),
    "one": (b"X-Forwarded-For: 10.0.0.1",),
    "three": (b"X-Forwarded-For: 10.0.0.1, 10.0.0.2,10.0.0.3",),
    "two lines": (b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-For: 10.0.0.2"),
    "nonsense": (b"X-Forwarded-For: nonsense",),
    "IPv6": (b"X-Forwarded-For: fd00::1",),
    "empty": (b"X-Forwarded-For:",),
    "https": (b"X-Forwarded-Proto: https",),
    "ws": (b"X-Forwarded-Proto: ws",),
    "id": (b"X-Request-Id: own",),
    "uuid": (_UUID,),
    "claims": _CLAIMS,
    "certificate": (b"X-Forwarded-Client-Cert: By=x;Hash=y",),
}
_LISTENERS = ("http", "edge", "edge-hops", "hops", "kept-id", "no-id", "told-id")
_ASKED = (b"X-Level: own", b"X-There: own", b"X-Drop: 1", b"X-Drop-route: 1", b"X-Drop-all: 1", b"X-First: own")
_ANSWERED = answer(200, b"ok", b"x-level: own", b"x-there: own", b"x-drop: 1", b"x-drop-host: 1", b"x-r: r")
_PATHS = [
    "/a/../b",
    "/a/./b",
    "/a/..",
    "/..",
    "/../..",
    "/a/%2e%2e/b",
    "/a/%2E/b",
    "/%41",
    "/%7e",
    "/a%2Fb",
    "/a%2fb",
    "/a%5Cb",
    "//a///b",
    "/a//..//b",
    "/a?b=../c",
    "/a/b/../../c?x=%2e",
    "/%",
    "/%zz",
    "/a%00b",
    "/a\\b",
    "/a;b/../c",
    "/a/.../b",
    "/.a/b.",
    "/%c3%a9",
    "/a%20b",
    "/.",
    "/a/",
    "/a/.",
    "/*",
    "/a//",
    "/%25",
    "/a/%2e",
]
_DIFFER = {
    **{f"{listener} /nowhere{asked}": "log-missing-cluster"
       for listener in ("http", "specific") for asked in ("", " asked")},
    **{f"{listener} forwarded two lines": "repeated-lines-kept"
       for listener in ("http", "hops", "no-id", "told-id")},
    **{f"{listener} forwarded {name}": "loopback-peer"
       for listener in ("edge", "edge-hops", "kept-id") for name in _FORWARDED},
    **{f"{listener} /a\\b": "backslash" for listener in ("normal", "merged")},
    "asked twice": "repeated-lines-kept", "told twice": "repeated-lines-kept", "formats of bytes": "hostname",
    "formats of UTF-8": "hostname", "formats": "hostname", "formats of nothing": "hostname",
}  # fmt: skip

CASES = [
    *(
        Case(
            name=f"{listener} {path}{which}",
            send=(get(path.encode(), *fields, host=b"levels"),),
            origin=(_ANSWERED,),
            listener=listener,
        )
        for listener in ("http", "specific")
        for path in ("/weighted", "/forward", "/direct", "/redirect", "/nowhere")
        for which, fields in {"": (), " asked": _ASKED}.items()
    ),
    Case(name="formats", send=(get(b"/x?q=1&r=2", b"X-A: value", host=b"formats"),)),
    Case(name="formats of nothing", send=(get(b"/x", host=b"formats"),)),
    Case(name="format of nothing", send=(get(b"/x", host=b"empty"),)),
    Case(name="format of nothing, there", send=(get(b"/x", b"X-Empty: own", b"X-Set: own", host=b"empty"),)),
    Case(name="formats of bytes", send=(get(b"/x?q=1", b"X-A: \xc3\xa9caf\xe9", host=b"formats"),)),
    Case(name="formats of UTF-8", send=(get(b"/x?q=1", b"X-A: \xc3\xa9\xc3\xa8", host=b"formats"),)),
    Case(name="empty values that stay", send=(get(b"/x", host=b"kept"),)),
    Case(name="empty values that stay, there", send=(get(b"/x", b"X-Kept: own", b"X-Set: own", host=b"kept"),)),
    Case(
        name="asked twice",
        send=(
            get(
                b"/asked", *(f"{name}: {n}".encode() for name in (*_ASKED_TWICE, *_OTHERS) for n in "12"), host=b"twice"
            ),
        ),
        listener="twice",
    ),
    Case(
        name="told twice",
        send=(get(b"/told", host=b"twice"),),
        origin=(answer(200, b"", *(f"{name}: {n}".encode() for name in (*_TOLD_TWICE, *_OTHERS) for n in "12")),),
        listener="twice",
    ),
    Case(name="weights", send=(get(b"/weights"),)),
    *(
        Case(name=f"{listener} forwarded {name}", send=(get(b"/", *fields),), listener=listener)
        for listener in _LISTENERS
        for name, fields in _FORWARDED.items()
    ),
    *(
        Case(name=f"{listener} {path}", send=(get(path.encode()),), listener=listener)
        for listener in ("normal", "merged")
        for path in _PATHS
    ),
    *(Case(name=f"merged-only {path}", send=(get(path.encode()),), listener="merged-only") for path in _PATHS[:16]),
    Case(name="server name", send=(get(),), listener="server", origin=(answer(200, b"", b"server: x"),)),
    Case(name="server passes", send=(get(),), listener="pass-server", origin=(answer(200, b"", b"server: x"),)),
    Case(name="server passes, none", send=(get(),), listener="pass-server"),
    Case(name="server passes, local", send=(get(b"/direct", host=b"levels"),), listener="pass-server"),
    Case(name="port ignored", send=(get(host=b"a:99"),), listener="ports"),
    Case(name="port ignored, other", send=(get(host=b"b:99"),), listener="ports"),
    Case(name="head of 900 bytes", send=(get(b"/", b"x: " + b"y" * 900),), listener="small-heads"),
    Case(name="head of 1100 bytes", send=(get(b"/", b"x: " + b"y" * 1100),), listener="small-heads"),
    Case(name="five fields", send=(get(b"/", b"a: 1", b"b: 1", b"c: 1", b"d: 1"),), listener="few-fields"),
    Case(name="six fields", send=(get(b"/", b"a: 1", b"b: 1", b"c: 1", b"d: 1", b"e: 1"),), listener="few-fields"),
    Case(name="only one request", send=(get(),), listener="one-request"),
]


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same(case: Case, check: Check) -> None:
    check(replace(case, differs=_DIFFER.get(case.name, "")))
