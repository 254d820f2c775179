"""Which rule of the Gateway API takes a request: compiled, decoded and matched by the agent, against a dumb reading of
the specification.

Source: kubernetes-sigs/gateway-api apis/v1 gateway_types.go (listeners are isolated), httproute_types.go (precedence).
"""

import json
from dataclasses import replace
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.codec.head import Headers, RequestHead
from agent.config.decode import decode
from agent.model.route import RouteConfiguration
from agent.router.table import RouteTable
from controlplane.compiler.compile import Compiler
from controlplane.compiler.gateway_api_status import GatewayApiStatus
from controlplane.compiler.types import Compiled
from controlplane.model.mesh_state import Changes
from controlplane.policy import hosts
from controlplane.policy.hosts import label_wildcards
from controlplane.policy.objects import PolicyObject
from mesh.xds.type_url import ROUTE_CONFIGURATION
from tests.support.compiling import agent, instance, mesh_of, parse, put
from tests.support.depth import examples
from tests.support.secrets import tls_secret

Json = dict[str, Any]
API = "gateway.networking.k8s.io/v1"
HOSTS = ("a.org", "b.a.org", "*.a.org", "*.b.a.org", "*.org", "c.net")
ASKED = ("a.org", "b.a.org", "x.b.a.org", "x.a.org", "x.org", "c.net", "d.net")
PREFIXES = ("/", "/a", "/a/", "/a/b", "/ab")
ASKED_PATHS = ("/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/abc", "/c")

PATHS = st.one_of(
    st.sampled_from(PREFIXES).map(lambda value: {"type": "PathPrefix", "value": value}),
    st.sampled_from(("/a", "/a/b", "/ab")).map(lambda value: {"type": "Exact", "value": value}),
)
PAIRS = st.lists(st.sampled_from(("x", "y")), unique=True, max_size=2).map(
    lambda names: [{"name": name, "value": "1"} for name in names]
)
MATCHES = st.fixed_dictionaries(
    {}, optional={"path": PATHS, "headers": PAIRS, "queryParams": PAIRS, "method": st.sampled_from(("GET", "PUT"))}
)
RULES = st.lists(st.lists(MATCHES, max_size=2), min_size=1, max_size=3)
ROUTES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(HOSTS), unique=True, max_size=2),  # hostnames
        st.sampled_from((None, 0, 1, 2)),  # the listener that it names
        st.integers(1, 3),  # its age
        RULES,
    ),
    max_size=4,
)
LISTENERS = st.lists(st.sampled_from((None, *HOSTS)), unique=True, min_size=1, max_size=3)
REQUESTS = list(product(ASKED, ASKED_PATHS, ("GET", "PUT"), ((), ("x",), ("x", "y")), ((), ("x",))))


def manifests(listeners: list[str | None], routes: list[Any]) -> list[Json]:
    own = [
        {"name": f"l{number}", "port": 80, "protocol": "HTTP", **({"hostname": host} if host else {})}
        for number, host in enumerate(listeners)
    ]
    found: list[Json] = [_object("Gateway", "g", {"gatewayClassName": "gossamer", "listeners": own}, 1)]
    for number, (hostnames, section, age, rules) in enumerate(routes):
        parent = {"name": "g"} if section is None else {"name": "g", "sectionName": f"l{section}"}
        spec = {
            "parentRefs": [parent],
            "hostnames": hostnames,
            "rules": [
                {"name": f"r{number}.{index}", "matches": matches, "backendRefs": [{"name": "a", "port": 3001}]}
                for index, matches in enumerate(rules)
            ],
        }
        found.append(_object("HTTPRoute", f"r{number}", spec, age))
    return found


def _object(kind: str, name: str, spec: Json, age: int) -> Json:
    metadata = {"name": name, "creationTimestamp": f"2026-01-0{age}T00:00:00Z"}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}


# --- the specification, read slowly


def covers(pattern: str | None, host: str) -> bool:
    return pattern is None or pattern == host or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def precision(pattern: str | None) -> tuple[int, int]:
    text = pattern or ""
    return (0 if text.startswith("*") else len(text)), len(text)


def shares(one: str | None, other: str) -> bool:
    """Whether some host falls under both."""
    return covers(one, other) or covers(other, one or "")


def expected(listeners: list[str | None], routes: list[Any], request: Any) -> str | None:
    host, path, method, headers, query = request
    fitting = [number for number, own in enumerate(listeners) if covers(own, host)]
    if not fitting:
        return None
    listener = max(fitting, key=lambda number: precision(listeners[number]))
    found: list[tuple[Any, str]] = []
    for number, (hostnames, section, age, rules) in enumerate(routes):
        if section not in (None, listener):
            continue
        own = [name for name in hostnames or [None] if name is None or shares(listeners[listener], name)]
        own = [name for name in own if covers(name, host)]
        for index, matches in enumerate(rules if own else ()):
            for place, match in enumerate(matches or [{}]):
                if takes(match, path, method, headers, query):
                    most = max(map(precision, own))
                    rank = (-most[0], -most[1], *weight(match), age, f"r{number}", index, place)
                    found.append((rank, f"r{number}.{index}"))
    return min(found)[1] if found else None


def takes(match: Json, path: str, method: str, headers: Any, query: Any) -> bool:
    own = match.get("path", {"type": "PathPrefix", "value": "/"})
    if own["type"] == "Exact":
        fits = path == own["value"]
    else:
        segments = [part for part in own["value"].split("/") if part]
        fits = path.split("/")[1 : len(segments) + 1] == segments
    return (
        fits
        and match.get("method") in (None, method)
        and {item["name"] for item in match.get("headers", ())} <= set(headers)
        and {item["name"] for item in match.get("queryParams", ())} <= set(query)
    )


def weight(match: Json) -> tuple[int, int, int, int, int]:
    own = match.get("path", {"type": "PathPrefix", "value": "/"})
    exact = own["type"] == "Exact"
    length = 0 if exact else len(own["value"].rstrip("/") or "/")
    return (
        int(not exact), -length, int("method" not in match), -len(match.get("headers", ())),
        -len(match.get("queryParams", ())),
    )  # fmt: skip


@given(pattern=st.sampled_from(("*", "org", *HOSTS)), host=st.sampled_from(("*", "org", *HOSTS, *ASKED)))
def test_the_wildcards_above_a_host_are_those_that_cover_it(pattern: str, host: str) -> None:
    found = [*label_wildcards(host)]
    assert (pattern == host or pattern in found) == hosts.covers(pattern, host)
    assert found == sorted(found, key=len, reverse=True)


# --- what is made of it


def table(listeners: list[str | None], routes: list[Any]) -> RouteTable:
    text = "---\n".join(json.dumps(item) + "\n" for item in manifests(listeners, routes))
    mesh = put(mesh_of(text), instance("a1", service="a"))
    proxy = agent("e", GATEWAY=True, LABELS={"istio": "ingressgateway"})
    item = Compiler().compile_proxy(mesh, proxy).resources[ROUTE_CONFIGURATION]["http.80"]
    config = decode(item.type_url, item.name, item.body)
    assert isinstance(config, RouteConfiguration), config
    return RouteTable(config)


def answer(table_: RouteTable, request: Any) -> str | None:
    host, path, method, headers, query = request
    fields = Headers()
    fields.append(b"Host", host.encode())
    for name in headers:
        fields.append(name.encode(), b"1")
    target = path + ("?" + "&".join(f"{name}=1" for name in query) if query else "")
    found = table_.match(RequestHead(method.encode(), target.encode(), host.encode(), fields), lambda: 0.0)
    return found.route.name if found is not None else None


@settings(max_examples=examples(150))
@given(listeners=LISTENERS, routes=ROUTES)
def test_the_rule_that_the_specification_names_takes_the_request(
    listeners: list[str | None], routes: list[Any]
) -> None:
    own = table(listeners, routes)
    for request in REQUESTS:
        assert answer(own, request) == expected(listeners, routes, request), request


NARROW = st.fixed_dictionaries({}, optional={"headers": PAIRS, "queryParams": PAIRS, "method": st.just("GET")})


@settings(max_examples=examples(150))
@given(rules=st.lists(st.tuples(st.integers(1, 2), st.lists(NARROW, min_size=1, max_size=2)), min_size=2, max_size=5))
def test_matches_of_one_path(rules: list[Any]) -> None:
    """Routes of one rule each, on one listener: method, headers, query parameters, age, name."""
    routes = [([], None, age, [matches]) for age, matches in rules]
    own = table([None], routes)
    for request in REQUESTS:
        assert answer(own, request) == expected([None], routes, request), request


# --- what changes leave


PARENTS: list[Json] = [
    {"name": "g", "namespace": "edge"},
    {"name": "h", "namespace": "edge", "sectionName": "http"},
]
LISTENER: Json = {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
CHOSEN = {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}
TO_A: Json = {"name": "a", "port": 3001}
TO_OTHER: Json = {"name": "s", "namespace": "other", "port": 80}


def _tls(**reference: str) -> Json:
    return {
        **LISTENER, "name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.a.org",
        "tls": {"certificateRefs": [{"name": "client", **reference}]},
    }  # fmt: skip


def _gateway(*listeners: Json, class_: str = "gossamer") -> Json:
    return {"gatewayClassName": class_, "listeners": [*listeners]}


def _route(*backends: Json, parents: list[Json] = PARENTS, hosts: tuple[str, ...] = ()) -> Json:
    return {"parentRefs": parents, "hostnames": [*hosts], "rules": [{"backendRefs": [*backends]}]}


def _grant(from_kind: str, namespace: str, kind: str) -> Json:
    return {
        "from": [{"group": API[:-3], "kind": from_kind, "namespace": namespace}],
        "to": [{"group": "", "kind": kind}],
    }


# (kind, namespace, name) -> the specs that it may have; None: it is not there.
SLOTS: dict[tuple[str, str, str], list[Json | None]] = {
    ("Gateway", "edge", "g"): [
        _gateway(LISTENER), _gateway(LISTENER, _tls()),
        _gateway(_tls(namespace="other"), {**LISTENER, "hostname": "a.org"}),
        _gateway(LISTENER, class_="mine"), _gateway({**LISTENER, "allowedRoutes": {"namespaces": CHOSEN}}),
    ],
    ("Gateway", "edge", "h"): [_gateway(LISTENER), _gateway(_tls(), {**LISTENER, "port": 81}), None],
    ("HTTPRoute", "default", "one"): [
        _route(TO_A), _route(TO_OTHER, TO_A, hosts=("a.org",)),
        _route(TO_A, parents=PARENTS[:1], hosts=("*.a.org",)), None,
    ],
    ("GRPCRoute", "default", "two"): [_route(TO_A, hosts=("b.a.org",)), _route(TO_OTHER), None],
    ("HTTPRoute", "edge", "three"): [_route({**TO_A, "namespace": "default"}, hosts=("*.org", "c.net")), None],
    ("ReferenceGrant", "other", "x"): [
        _grant("HTTPRoute", "default", "Service"), _grant("Gateway", "edge", "Secret"), None
    ],
    ("ReferenceGrant", "default", "y"): [_grant("HTTPRoute", "edge", "Service"), None],
    ("GatewayClass", "", "mine"): [
        {"controllerName": "gossamer.mesh/gateway-controller"}, {"controllerName": "example.com/other"}, None
    ],
    ("Namespace", "", "default"): [{"team": "a"}, {"team": "b"}, None],
    ("Service", "other", "s"): [{"ports": [{"port": 80}]}, {"ports": [{"port": 81}]}, None],
    ("Secret", "edge", "client"): [{}, None],
    ("Secret", "other", "client"): [{}, None],
}  # fmt: skip
STEPS = st.lists(
    st.lists(
        st.sampled_from(sorted(SLOTS)).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(SLOTS[key]))),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)


def _made(key: tuple[str, str, str], spec: Json) -> PolicyObject:
    """Older by its place among the names."""
    kind, namespace, name = key
    if kind == "Secret":
        (made,), _, _ = parse(tls_secret().replace("metadata: {", f"metadata: {{namespace: {namespace}, ", 1))
        return made
    age = sorted(SLOTS).index(key) + 1
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": f"2026-01-{age:02}T00:00:00Z"}
    if kind == "Namespace":
        value = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": spec}}
    else:
        value = {"apiVersion": "v1" if kind == "Service" else API, "kind": kind, "metadata": metadata, "spec": spec}
    (made,), _, _ = parse(json.dumps(value))
    return made


def _versions(found: Compiled) -> dict[tuple[str, str], tuple[str, object]]:
    return {
        (url, name): (item.version, item.sources) for url, own in found.resources.items() for name, item in own.items()
    }


@settings(max_examples=examples(60))
@given(steps=STEPS)
def test_what_changes_leave_is_what_a_new_mesh_has(steps: list[list[Any]]) -> None:
    """Resources, conditions and status: after every step the same as when all of it came at once."""
    members = (
        instance("a1", service="a"),
        instance("g", node="e", service="", service_account="e", namespace="edge", ports=[], gateway=True,
                 labels={"istio": "ingressgateway"}),
    )  # fmt: skip
    empty = put(mesh_of(""), *members)
    proxy = replace(
        agent("e", GATEWAY=True, NAMESPACE="edge", TLS_DIR="/tls", LABELS={"istio": "ingressgateway"}), secrets=True
    )  # fmt: skip
    mesh, compiler, status = empty, Compiler(), GatewayApiStatus()
    present: dict[tuple[str, str, str], PolicyObject] = {}
    for step in steps:
        puts = {key: _made(key, spec) for key, spec in dict(step).items() if spec is not None}
        gone = [present.pop(key).ref for key, spec in dict(step).items() if spec is None and key in present]
        present |= puts
        mesh = mesh.with_changes(
            Changes(revision=mesh.revision + 1, objects=tuple(puts.values()), deleted_objects=tuple(gone))
        )
        new = empty.with_changes(Changes(revision=mesh.revision, objects=tuple(present.values())))
        found, wanted = compiler.compile_proxy(mesh, proxy), Compiler().compile_proxy(new, proxy)
        assert _versions(found) == _versions(wanted)
        assert found.conditions == wanted.conditions
        assert compiler.conditions(mesh) == Compiler().conditions(new)
        assert status.of(mesh) == GatewayApiStatus().of(new)
