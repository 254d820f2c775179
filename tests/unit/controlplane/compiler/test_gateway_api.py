"""What gateway proxies are given for the Gateway API, what a change builds, and what users are told of it."""

from dataclasses import replace

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from controlplane.compiler.analysis import analyse
from controlplane.compiler.compile import Compiler
from controlplane.compiler.gateway_api_status import GatewayApiStatus
from controlplane.compiler.types import Compiled, StatusDetails
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy
from controlplane.registry.instances import Instance
from mesh.vocabulary import ObjectRef
from mesh.xds.type_url import LISTENER, ROUTE_CONFIGURATION, SECRET
from tests.support.compiling import agent, fold, instance, mesh_of, proxy_of, put
from tests.support.secrets import NEXT_KEY, tls_secret

API = "gateway.networking.k8s.io"
NAME = f"{API}/gateway-name"
HEAD = "apiVersion: {api}/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
PLAIN = "name: http, port: 80, protocol: HTTP"
TLS = "name: https, port: 443, protocol: HTTPS, hostname: a.org, tls: {certificateRefs: [{name: client}]}"
A = "{name: a, port: 3001}"
TO_A = f"backendRefs: [{A}]"


def made(kind: str, name: str, spec: str, namespace: str = "edge") -> str:
    return HEAD.format(api=API, kind=kind, name=name, namespace=namespace, spec=spec)


def gateway(*listeners: str, name: str = "g", class_: str = "gossamer") -> str:
    allowed = "allowedRoutes: {namespaces: {from: All}}"
    listed = ", ".join(f"{{{own}, {allowed}}}" for own in listeners or (PLAIN,))
    return made("Gateway", name, f"{{gatewayClassName: {class_}, listeners: [{listed}]}}")


def route(
    name: str, rules: str, hosts: str = "", *, parent: str = "name: g, namespace: edge", kind: str = "HTTPRoute"
) -> str:  # fmt: skip
    spec = f"{{parentRefs: [{{{parent}}}], hostnames: [{hosts}], rules: [{rules}]}}"
    return made(kind, name, spec, "default")


def secret(namespace: str = "edge", **fields: object) -> str:
    return tls_secret(**fields).replace("metadata: {", f"metadata: {{namespace: {namespace}, ", 1)  # type: ignore[arg-type]


def proxy(kind: str = "envoy", *, namespace: str = "edge", **labels: str) -> Proxy:
    metadata = {
        "GATEWAY": True,
        "NAMESPACE": namespace,
        "LABELS": labels or {"istio": "ingressgateway"},
        "TLS_DIR": "/tls",
    }
    if kind == "agent":
        return replace(agent("e", **metadata), secrets=True)
    return replace(proxy_of({"id": "e", "userAgentName": "envoy", "metadata": metadata}), secrets=True)


def edge(name: str = "e", namespace: str = "edge", **labels: str) -> Instance:
    return instance(
        "gateway", node=name, service="", service_account="e", namespace=namespace, ports=[], gateway=True,
        labels=labels or {"istio": "ingressgateway"},
    )  # fmt: skip


def mesh(*texts: str) -> MeshState:
    return put(mesh_of("---\n".join(texts)), instance("a1", service="a"))


def compiled(state: MeshState, own: Proxy | None = None, compiler: Compiler | None = None) -> Compiled:
    return (compiler or Compiler()).compile_proxy(state, own or proxy())


def ports(found: Compiled) -> set[int]:
    own = [Listener.FromString(item.body) for name, item in found.resources[LISTENER].items() if "gateway" in name]
    return {item.address.socket_address.port_value for item in own}


def routes(found: Compiled, name: str = "http.80") -> dict[str, list[Route]]:
    message = RouteConfiguration.FromString(found.resources[ROUTE_CONFIGURATION][name].body)
    return {host.domains[0]: list(host.routes) for host in message.virtual_hosts}


def names(found: Compiled, name: str = "http.80") -> dict[str, list[str]]:
    return {host: [item.name for item in own] for host, own in routes(found, name).items()}


# --- which proxies serve it


def test_the_proxies_of_a_gateway() -> None:
    """Of its namespace: those that carry its name; while there are none, those that serve all others."""
    state = put(mesh(gateway()), edge())
    assert ports(compiled(state)) == {80}
    assert ports(compiled(state, proxy(namespace="other"))) == set()
    assert ports(compiled(state, proxy(istio="egressgateway"))) == set()
    assert ports(compiled(state, proxy(**{NAME: "g"}))) == {80}
    assert ports(compiled(state, proxy(**{NAME: "h", "istio": "ingressgateway"}))) == set()


def test_a_proxy_of_its_own_takes_it_from_the_others() -> None:
    compiler, shared, own = Compiler(), proxy(), proxy(**{NAME: "g"})
    state = put(mesh(gateway(), gateway(PLAIN.replace("80", "81"), name="h")), edge())
    assert ports(compiled(state, shared, compiler)) == {80, 81}
    state = put(state, edge("own", **{NAME: "g"}))
    assert ports(compiled(state, shared, compiler)) == {81}
    assert ports(compiled(state, own, compiler)) == {80}


# --- routes


def test_routes_of_all_routes_in_order_of_precedence() -> None:
    state = mesh(
        gateway(),
        route("one", f"{{name: all, {TO_A}}}, {{name: a, matches: [{{path: {{value: /a}}}}], {TO_A}}}"),
        route("two", f"{{name: ab, matches: [{{path: {{value: /a/b}}}}], {TO_A}}}, {{name: never, {TO_A}}}"),
        route("host", f"{{name: host, matches: [{{path: {{type: Exact, value: /h}}}}], {TO_A}}}", "a.org"),
    )
    found = compiled(state)
    assert names(found) == {"*": ["ab", "a", "all"], "a.org": ["host", "ab", "a", "all"]}
    first = routes(found)["*"][0]
    assert first.match.path_separated_prefix == "/a/b"
    assert first.route.cluster == "outbound|3001||a.default.svc.cluster.local"


def test_routes_of_two_gateways_on_one_port_stand_one_after_the_other() -> None:
    both = (
        gateway(), gateway(name="h"), route("one", f"{{name: one, matches: [{{path: {{value: /a}}}}], {TO_A}}}"),
        route("two", f"{{name: two, {TO_A}}}", parent="name: h, namespace: edge"),
    )  # fmt: skip
    assert names(compiled(mesh(*both))) == {"*": ["one", "two"]}


def shares(found: Compiled) -> list[tuple[int, int, str]]:
    """(per million, status of the answer, cluster) of each route."""
    return [
        (
            own.match.runtime_fraction.default_value.numerator,
            own.direct_response.status,
            own.route.cluster
            or ",".join(f"{item.name}={item.weight.value}" for item in own.route.weighted_clusters.clusters),
        )
        for own in routes(found)["*"]
    ]


CLUSTER = "outbound|3001||a.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ("", [(0, 500, "")]),
        ("{name: nobody, port: 80}", [(0, 500, "")]),
        ("{name: a, port: 80}", [(0, 500, "")]),
        ("{name: a, port: 3001, weight: 0}", [(0, 500, "")]),
        (A, [(0, 0, CLUSTER)]),
        ("{name: a, port: 3001}, {name: nobody, port: 80, weight: 0}", [(0, 0, CLUSTER)]),
        ("{name: a, port: 3001, weight: 3}, {name: nobody, port: 80}", [(250_000, 500, ""), (0, 0, CLUSTER)]),
        (
            "{name: a, port: 3001, weight: 1}, {name: b, port: 3001, weight: 1}, {name: a, namespace: x, port: 80}",
            [(333_333, 500, ""), (0, 0, f"{CLUSTER}=1,outbound|3001||b.default.svc.cluster.local=1")],
        ),
    ],
)
def test_the_share_of_backends_that_are_not_there(backends: str, expected: list[tuple[int, int, str]]) -> None:
    state = put(mesh(gateway(), route("r", f"{{backendRefs: [{backends}]}}")), instance("b1", service="b"))
    assert shares(compiled(state)) == expected


def test_a_backend_that_comes_and_goes() -> None:
    compiler, own = Compiler(), proxy()
    state = mesh(gateway(), route("r", "{backendRefs: [{name: late, port: 80}]}"))
    assert shares(compiled(state, own, compiler)) == [(0, 500, "")]
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: late}\nspec: {ports: [{name: http, port: 80}]}\n"
    assert shares(compiled(fold(state, service), own, compiler)) == [
        (0, 0, "outbound|80||late.default.svc.cluster.local")
    ]


def test_a_mirror_that_is_not_there_gets_no_copies() -> None:
    def mirrors(name: str) -> list[str]:
        own = f"{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 3001}}, percent: 10}}}}"
        (found,) = routes(compiled(mesh(gateway(), route("r", f"{{filters: [{own}], {TO_A}}}"))))["*"]
        return [item.cluster for item in found.route.request_mirror_policies]

    assert mirrors("a") == [CLUSTER]
    assert mirrors("nobody") == []


def test_headers_of_every_name_are_matched() -> None:
    """Istio's `method` among the headers means the method; here it is a header."""
    matches = "matches: [{headers: [{name: method, value: a}, {name: Host, value: b}]}]"
    (first,) = routes(compiled(mesh(gateway(), route("r", f"{{{matches}, {TO_A}}}"))))["*"]
    assert [item.name for item in first.match.headers] == [":authority", "method"]


# --- Secrets


def test_secrets_of_the_gateways_namespace_and_granted_ones() -> None:
    foreign = TLS.replace("{name: client}", "{name: client, namespace: vault}")
    grant = f"{{from: [{{group: {API}, kind: Gateway, namespace: edge}}], to: [{{group: '', kind: Secret}}]}}"
    found = compiled(mesh(gateway(TLS), secret()))
    assert set(found.resources[SECRET]) == {"kubernetes://client"}
    assert ports(found) == {443}
    state = mesh(gateway(foreign), secret("vault"))
    assert (SECRET in compiled(state).resources, ports(compiled(state))) == (False, set())
    granted = compiled(fold(state, made("ReferenceGrant", "g", grant, "vault")))
    assert set(granted.resources[SECRET]) == {"kubernetes://vault/client"}
    assert ports(granted) == {443}
    assert SECRET not in compiled(fold(state, made("ReferenceGrant", "g", grant, "edge"))).resources


# --- what a change builds


def test_a_change_of_one_route_builds_its_routes_alone() -> None:
    compiler, own = Compiler(), proxy()
    at = "name: g, namespace: edge, sectionName: "
    state = mesh(
        gateway(PLAIN, PLAIN.replace("http", "more").replace("80", "81"), TLS), secret(),
        route("one", f"{{name: one, {TO_A}}}", parent=f"{at}http"),
        route("two", f"{{name: two, {TO_A}}}", parent=f"{at}more"),
        route("host", f"{{name: host, {TO_A}}}", "b.org", parent=f"{at}http"),
    )  # fmt: skip
    first = compiled(state, own, compiler)
    before = compiler.builds.copy()
    state = fold(state, route("host", f"{{name: new, {TO_A}}}", "b.org", parent=f"{at}http"))
    second = compiled(state, own, compiler)
    assert dict(compiler.builds - before) == {"VirtualHost": 1, "RouteConfiguration": 1}
    assert second.resources[LISTENER] is first.resources[LISTENER]
    assert names(second) == {"*": ["one"], "b.org": ["new"]}
    before = compiler.builds.copy()
    state = fold(state, route("one", f"{{name: wide, matches: [{{path: {{value: /w}}}}], {TO_A}}}", parent=f"{at}http"))
    assert names(compiled(state, own, compiler)) == {"*": ["wide"], "b.org": ["new"]}
    assert dict(compiler.builds - before) == {"VirtualHost": 2, "RouteConfiguration": 1}, "b.org has it, behind its own"
    before = compiler.builds.copy()
    state = fold(state, secret(generation=2, key=NEXT_KEY))
    compiled(state, own, compiler)
    assert dict(compiler.builds - before) == {"Secret": 1}
    before, kept = compiler.builds.copy(), compiled(state, own, compiler)
    state = put(state, instance("a1", service="a", health="UNHEALTHY"))
    assert compiled(state, own, compiler) is kept
    assert not compiler.builds - before


def test_a_refused_resource_finds_the_route_and_the_gateway() -> None:
    found = compiled(mesh(gateway(), route("one", f"{{{TO_A}}}"), route("two", f"{{{TO_A}}}", "a.org")))
    sources = {str(item.ref) for item in found.resources[ROUTE_CONFIGURATION]["http.80"].sources}
    assert sources == {"Gateway.gateway.networking.k8s.io edge/g", "HTTPRoute default/one", "HTTPRoute default/two"}
    assert {item.ref.group for item in found.resources[ROUTE_CONFIGURATION]["http.80"].sources} == {API}


# --- policies for gateways


def test_authorization_policies_mean_it_by_name() -> None:
    policy = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: edge}\n"
        f"spec: {{targetRefs: [{{group: {API}, kind: Gateway, name: g}}], action: DENY, rules: [{{}}]}}\n"
    )
    found = compiled(mesh(gateway(), policy))
    own = next(item for name, item in found.resources[LISTENER].items() if "gateway" in name)
    assert "AuthorizationPolicy edge/p" in {str(item.ref) for item in own.sources}


def test_circuit_breakers_mean_rules_by_name() -> None:
    breaker = (
        "apiVersion: gossamer.mesh/v1\nkind: CircuitBreaker\nmetadata: {name: b}\n"
        "spec: {target: {host: a, route: api}}\n"
    )
    named = route("r", f"{{name: api, matches: [{{path: {{value: /a}}}}], {TO_A}}}, {{{TO_A}}}")
    state = mesh(gateway(), named, breaker)
    first, rest = routes(compiled(state, proxy("agent")))["*"]
    assert "gossamer.circuit_breaker" in first.typed_per_filter_config
    assert "gossamer.circuit_breaker" not in rest.typed_per_filter_config
    told = [item.path for item in Compiler().conditions(state) if item.ref.kind == "CircuitBreaker"]
    assert told == []
    (lost,) = [
        item.path
        for item in Compiler().conditions(mesh(gateway(), named.replace("name: api", "name: other"), breaker))
        if item.ref.kind == "CircuitBreaker"
    ]
    assert lost == "spec.target.route"


# --- what users read


def details(state: MeshState, kind: str, name: str, namespace: str = "edge") -> StatusDetails:
    return GatewayApiStatus().of(state)[ObjectRef(API, kind, namespace, name)]


def told(item: object) -> dict[str, tuple[str, str]]:
    return {own.type: (own.status, own.reason) for own in item.conditions}  # type: ignore[attr-defined]


GOOD = {
    "Accepted": ("True", "Accepted"),
    "Conflicted": ("False", "NoConflicts"),
    "ResolvedRefs": ("True", "ResolvedRefs"),
    "Programmed": ("True", "Programmed"),
}


NO_CERTIFICATE = {"ResolvedRefs": ("False", "InvalidCertificateRef")}


def test_the_status_of_a_gateway() -> None:
    state = put(
        mesh(gateway(PLAIN, TLS), secret(), route("one", f"{{{TO_A}}}"), route("two", f"{{{TO_A}}}", "b.org")), edge()
    )
    found = details(state, "Gateway", "g")
    assert told(found) == {"Accepted": ("True", "Accepted")}
    assert found.facts["addresses"] == [{"type": "IPAddress", "value": "10.0.0.1"}]
    plain, tls = found.parts["listeners"]
    assert (told(plain), told(tls)) == (GOOD, GOOD)
    assert (plain.facts["attachedRoutes"], tls.facts["attachedRoutes"]) == (2, 1)
    assert plain.facts["supportedKinds"] == [{"group": API, "kind": "HTTPRoute"}, {"group": API, "kind": "GRPCRoute"}]
    assert not [item for item in Compiler().conditions(state) if item.ref.group == API]


@pytest.mark.parametrize(
    ("listener", "changed", "code"),
    [
        ("name: t, port: 5, protocol: TCP", {"Accepted": ("False", "UnsupportedProtocol")}, "GSM0120"),
        (
            "name: t, port: 5, protocol: TLS, tls: {mode: Passthrough}",
            {"Accepted": ("False", "UnsupportedProtocol")},
            "GSM0120",
        ),
        (TLS.replace("client", "x"), NO_CERTIFICATE, "IST0101"),
        (TLS.replace("name: client", "kind: Y, name: client"), NO_CERTIFICATE, "GSM0121"),
        (TLS.replace("client", "client, namespace: x"), {"ResolvedRefs": ("False", "RefNotPermitted")}, "GSM0121"),
        (TLS.replace("certificateRefs: [{name: client}]", "options: {a: b}"), NO_CERTIFICATE, "GSM0121"),
        ("name: a, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: client}]}",
         {"Conflicted": ("True", "ProtocolConflict")}, "IST0145"),
    ],
)  # fmt: skip
def test_listeners_that_are_not_served(listener: str, changed: dict[str, tuple[str, str]], code: str) -> None:
    state = put(mesh(gateway(PLAIN, listener), secret()), edge())
    found = details(state, "Gateway", "g")
    plain, other = found.parts["listeners"]
    assert told(plain) == GOOD
    assert told(other) == {**GOOD, **changed, "Programmed": ("False", "Invalid")}
    assert told(found) == {"Accepted": ("True", "ListenersNotValid")}
    assert [item.code for item in Compiler().conditions(state) if item.ref.group == API] == [code]
    alone = told(details(put(mesh(gateway(listener), secret()), edge()), "Gateway", "g"))
    if code == "IST0145":
        assert alone == {"Accepted": ("True", "Accepted")}
    else:
        assert alone == {"Accepted": ("False", "ListenersNotValid"), "Programmed": ("False", "Invalid")}


def test_kinds_that_no_listener_has() -> None:
    made_gateway = gateway(PLAIN).replace("{namespaces: {from: All}}", "{kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}")
    (own,) = details(put(mesh(made_gateway), edge()), "Gateway", "g").parts["listeners"]
    assert told(own) == {**GOOD, "ResolvedRefs": ("False", "InvalidRouteKinds")}
    assert own.facts["supportedKinds"] == [{"group": API, "kind": "HTTPRoute"}]


def test_a_gateway_that_nobody_serves() -> None:
    found = details(mesh(gateway()), "Gateway", "g")
    assert told(found) == {"Accepted": ("True", "Accepted"), "Programmed": ("False", "Pending")}
    assert told(found.parts["listeners"][0])["Programmed"] == ("False", "Pending")
    assert found.facts["addresses"] == []
    other = details(put(mesh(gateway(class_="nginx")), edge()), "Gateway", "g")
    assert told(other) == {"Accepted": ("Unknown", "Pending"), "Programmed": ("Unknown", "Pending")}
    assert other.parts["listeners"] == ()


def parent(state: MeshState, name: str = "r", kind: str = "HTTPRoute") -> dict[str, tuple[str, str]]:
    (own,) = details(state, kind, name, "default").parts["parents"]
    assert own.facts["controllerName"] == "gossamer.mesh/gateway-controller"
    return told(own)


TAKEN = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}


@pytest.mark.parametrize(
    ("rule", "parent_ref", "changed", "codes"),
    [
        (TO_A, "name: g, namespace: edge", {}, []),
        (TO_A, "name: x", {"Accepted": ("False", "NoMatchingParent")}, ["GSM0120"]),
        (TO_A, "group: '', kind: Service, name: a", {"Accepted": ("False", "UnsupportedValue")}, ["GSM0120"]),
        ("backendRefs: [{name: x, port: 1}]", "name: g, namespace: edge",
         {"ResolvedRefs": ("False", "BackendNotFound")}, ["IST0101"]),
        ("backendRefs: [{name: a, port: 1}]", "name: g, namespace: edge",
         {"ResolvedRefs": ("False", "BackendNotFound")}, ["IST0101"]),
        ("backendRefs: [{kind: Pod, name: a, port: 1}]", "name: g, namespace: edge",
         {"ResolvedRefs": ("False", "InvalidKind")}, ["GSM0121"]),
        ("backendRefs: [{name: a, namespace: x, port: 1}]", "name: g, namespace: edge",
         {"ResolvedRefs": ("False", "RefNotPermitted")}, ["GSM0121"]),
        (f"filters: [{{type: ExtensionRef, extensionRef: {{group: a, kind: B, name: c}}}}], {TO_A}",
         "name: g, namespace: edge", {"ResolvedRefs": ("False", "InvalidKind")}, ["GSM0121"]),
        (f"filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: x, port: 1}}}}}}], {TO_A}",
         "name: g, namespace: edge", {"ResolvedRefs": ("False", "BackendNotFound")}, ["IST0101"]),
    ],
)  # fmt: skip
def test_the_status_of_a_route(
    rule: str, parent_ref: str, changed: dict[str, tuple[str, str]], codes: list[str]
) -> None:  # fmt: skip
    state = put(mesh(gateway(), route("r", f"{{{rule}}}", parent=parent_ref)), edge())
    assert parent(state) == {**TAKEN, **changed}
    assert [item.code for item in Compiler().conditions(state) if item.ref.kind == "HTTPRoute"] == codes


def test_parents_are_shown_as_they_are_meant() -> None:
    state = mesh(gateway(), route("r", f"{{{TO_A}}}", parent="name: g, namespace: edge, sectionName: http, port: 80"))
    (own,) = details(state, "HTTPRoute", "r", "default").parts["parents"]
    assert own.facts["parentRef"] == {
        "group": API, "kind": "Gateway", "namespace": "edge", "name": "g", "sectionName": "http", "port": 80
    }  # fmt: skip


def test_a_virtual_service_that_names_a_gateway_of_the_api() -> None:
    """Only Istio's are for it: the listener would not be asked which routes it admits."""
    spec = "{hosts: [a.org], gateways: [edge/g, edge/h], http: [{route: [{destination: {host: a}}]}]}"
    rule = made("VirtualService", "v", spec, "default").replace(API, "networking.istio.io")
    state = put(mesh(gateway(), rule), edge())
    (told_of,) = [item.message for item in Compiler().conditions(state) if item.ref.kind == "VirtualService"]
    assert told_of == (
        "spec.gateways[0]: there is no Gateway edge/g, only one of gateway.networking.k8s.io, which has HTTPRoutes; "
        "spec.gateways[1]: there is no Gateway edge/h"
    )
    assert names(compiled(state)) == {"*": []}


def test_a_class_is_accepted_when_it_is_ours() -> None:
    controllers = {"ours": "gossamer.mesh/gateway-controller", "theirs": "example.com/other"}
    classes = [made("GatewayClass", name, f"{{controllerName: {own}}}") for name, own in controllers.items()]
    classes = [own.replace(", namespace: edge", "") for own in classes]
    state = mesh(*classes)
    assert told(details(state, "GatewayClass", "ours", "")) == {"Accepted": ("True", "Accepted")}
    assert ObjectRef(API, "GatewayClass", "", "theirs") not in GatewayApiStatus().of(state)


def test_the_same_status_while_nothing_changes() -> None:
    status, state = GatewayApiStatus(), put(mesh(gateway(), route("r", f"{{{TO_A}}}")), edge())
    first = status.of(state)
    assert status.of(state) is first
    assert status.of(fold(state, secret())) is not first


def test_grpc_routes_are_for_envoys() -> None:
    calls = f"{{matches: [{{method: {{service: s.S}}}}], {TO_A}}}"
    state = put(mesh(gateway(), route("g", calls, kind="GRPCRoute")), edge())
    assert parent(state, "g", "GRPCRoute") == TAKEN
    (own,) = [item for item in Compiler().conditions(state) if item.ref.kind == "GRPCRoute"]
    assert (own.type, own.reason) == ("NotEnforced", "UnsupportedProtocol")
    assert routes(compiled(state))["*"][0].match.prefix == "/s.S/"


def test_analysis_of_files_alone() -> None:
    """A backend may be registered, and gateways too; a Gateway that is not there stays an error."""
    texts = (gateway(), route("r", "{backendRefs: [{name: x, port: 80}]}"), route("s", f"{{{TO_A}}}", parent="name: y"))
    found = {
        (item.code, item.severity.value, item.path) for item in analyse(mesh_of("---\n".join(texts)), only_files=True)
    }
    assert found == {
        ("IST0101", "Warning", "spec.rules[0].backendRefs[0].name"),
        ("GSM0120", "Error", "spec.parentRefs[0]"),
    }
