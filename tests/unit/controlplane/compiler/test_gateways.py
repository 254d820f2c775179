"""What gateway proxies are given: order of routes, server names, who gets Secrets, what a change builds."""

from dataclasses import replace

import pytest
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Compiled, Condition
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.proxy import Proxy
from mesh.xds.type_url import LISTENER, ROUTE_CONFIGURATION, SECRET
from tests.support.compiling import agent, fold, instance, mesh_of, parse, proxy_of, put
from tests.support.secrets import NEXT_KEY, tls_secret

HEAD = "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: edge}}\nspec: {spec}\n"
SERVERS = {
    "http": "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}",
    "https": "{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.org, '*.a.org'], "
    "tls: {mode: SIMPLE, credentialName: client}}",
    "rest": "{port: {number: 443, name: rest, protocol: HTTPS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}",
    "through": "{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.b.org'], tls: {mode: PASSTHROUGH}}",
    "tcp": "{port: {number: 90, name: tcp, protocol: TCP}, hosts: ['*']}",
}
TO_A = "route: [{destination: {host: a.default.svc.cluster.local}}]"


def gateway(*servers: str, name: str = "g") -> str:
    listed = ", ".join(SERVERS[item] for item in servers)
    return HEAD.format(kind="Gateway", name=name, spec=f"{{selector: {{istio: edge}}, servers: [{listed}]}}")


def rule(name: str, spec: str, hosts: str = "['*']") -> str:
    return HEAD.format(kind="VirtualService", name=name, spec=f"{{hosts: {hosts}, gateways: [g], {spec}}}")


def secret(**fields: object) -> str:
    return tls_secret(**fields).replace("metadata: {", "metadata: {namespace: edge, ", 1)  # type: ignore[arg-type]


def proxy(kind: str = "envoy", *, secrets: bool = True, namespace: str = "edge", labels: str = "edge") -> Proxy:
    metadata = {"GATEWAY": True, "NAMESPACE": namespace, "LABELS": {"istio": labels}, "TLS_DIR": "/tls"}
    if kind == "agent":
        return replace(agent("e", **metadata), secrets=secrets)
    return replace(proxy_of({"id": "e", "userAgentName": "envoy", "metadata": metadata}), secrets=secrets)


def mesh(*texts: str) -> MeshState:
    return put(mesh_of("---\n".join(texts)), instance("a1", service="a"))


def compiled(state: MeshState, own: Proxy | None = None, compiler: Compiler | None = None) -> Compiled:
    return (compiler or Compiler()).compile_proxy(state, own or proxy())


def listeners(found: Compiled) -> dict[int, Listener]:
    made = [Listener.FromString(item.body) for name, item in found.resources[LISTENER].items() if "gateway" in name]
    return {item.address.socket_address.port_value: item for item in made}


def chains(found: Compiled, port: int = 443) -> dict[str, tuple[str, ...]]:
    listener = listeners(found).get(port)
    return (
        {item.name: tuple(item.filter_chain_match.server_names) for item in listener.filter_chains} if listener else {}
    )


def routes(found: Compiled, name: str = "http.80") -> dict[str, list[str]]:
    message = RouteConfiguration.FromString(found.resources[ROUTE_CONFIGURATION][name].body)
    return {host.domains[0]: [route.name for route in host.routes] for host in message.virtual_hosts}


def reasons(found: Compiled) -> dict[str, str]:
    return {item.reason: item.message for item in found.conditions}


def test_only_gateways_with_the_labels_serve_it() -> None:
    state = mesh(gateway("http"), rule("r", f"http: [{{{TO_A}}}]"))
    assert set(listeners(compiled(state))) == {80}
    assert listeners(compiled(state, proxy(labels="other"))) == {}
    plain = proxy_of(
        {"id": "e", "userAgentName": "envoy", "metadata": {"NAMESPACE": "edge", "LABELS": {"istio": "edge"}}}
    )
    assert listeners(compiled(state, plain)) == {}
    assert listeners(compiled(mesh())) == {}


def test_rules_one_after_the_other_and_what_takes_everything_last() -> None:
    """2.3.2; a rule without match of the elder must not hide those of the younger."""
    found = compiled(
        mesh(
            gateway("http"),
            rule("elder", f"http: [{{name: e1, match: [{{uri: {{exact: /x}}}}], {TO_A}}}, {{name: e2, {TO_A}}}]"),
            rule("younger", f"http: [{{name: y1, match: [{{uri: {{prefix: /y}}}}], {TO_A}}}, {{name: y2, {TO_A}}}]"),
            rule("narrow", f"http: [{{name: n, {TO_A}}}]", hosts="[n.org]"),
        )
    )
    assert routes(found) == {"*": ["e1", "y1", "e2", "y2"], "n.org": ["n"]}


def test_matches_of_other_gateways_and_ports_are_left_out() -> None:
    matches = (
        "{name: here, gateways: [g]}, {name: full, gateways: [edge/g], port: 80}, {name: port, port: 81}, "
        "{name: mesh, gateways: [mesh]}, {name: other, gateways: [other/g]}, "
        "{name: labels, sourceLabels: {istio: edge}}, {name: stranger, sourceLabels: {istio: other}}, "
        "{name: space, sourceNamespace: edge}"
    )
    state = mesh(gateway("http"), rule("r", f"http: [{{match: [{matches}], {TO_A}}}]"))
    assert routes(compiled(state)) == {"*": ["here", "full", "labels", "space"]}


def test_rules_of_delegates_stand_at_the_gateway_too() -> None:
    delegate = HEAD.format(kind="VirtualService", name="team", spec=f"{{http: [{{name: t, {TO_A}}}]}}")
    root = rule("r", "http: [{name: r, match: [{uri: {prefix: /t}}], delegate: {name: team}}]")
    compiler, own = Compiler(), proxy()
    state = mesh(gateway("http"), root)
    assert routes(compiled(state, own, compiler)) == {"*": []}
    assert routes(compiled(fold(state, delegate), own, compiler)) == {"*": ["r-t"]}


def test_without_rules_a_port_answers_not_found() -> None:
    found = compiled(mesh(gateway("http")))
    assert routes(found) == {"*": []}


def test_server_names() -> None:
    """A server of every host takes whatever is left; a rule's names lead to a server once, narrowed to its hosts."""
    through = "tls: [{match: [{sniHosts: [x.b.org, y.org]}, {sniHosts: ['*.b.org', x.b.org]}], " + TO_A + "}]"
    found = compiled(
        mesh(gateway("https", "through", "rest"), secret(), rule("r", through, hosts="['*.b.org', y.org]"))
    )
    assert chains(found) == {
        "https.443.https.g.edge": ("a.org", "*.a.org"),
        "tls.443.tls.g.edge.edge.r.0.0": ("x.b.org",),
        "tls.443.tls.g.edge.edge.r.0.1": ("*.b.org",),
        "https.443.rest.g.edge": (),
    }


def test_connections_by_weight() -> None:
    to = (
        "{destination: {host: a.default.svc.cluster.local, subset: v1}, weight: 1}, {destination: {host: b}, weight: 3}"
    )
    unused = "{destination: {host: c}, weight: 0}"
    state = mesh(gateway("tcp"), rule("r", f"tcp: [{{match: [{{port: 91}}], {TO_A}}}, {{route: [{to}, {unused}]}}]"))
    (chain,) = listeners(compiled(state))[90].filter_chains
    proxied = TcpProxy.FromString(chain.filters[0].typed_config.value)
    assert [(item.name, item.weight) for item in proxied.weighted_clusters.clusters] == [
        ("outbound|3001|v1|a.default.svc.cluster.local", 1), ("outbound|90||b.edge.svc.cluster.local", 3)
    ]  # fmt: skip


def test_a_port_without_rules_of_its_kind_stays_closed() -> None:
    found = compiled(mesh(gateway("tcp", "through"), rule("r", f"http: [{{{TO_A}}}]")))
    assert listeners(found) == {}
    assert reasons(found) == {"NoRoute": "spec.servers[1]: no VirtualService of it has a tls rule: nothing is served"}


# --- Secrets


@pytest.mark.parametrize("kind", ["envoy", "agent"])
def test_a_gateway_gets_the_secrets_of_its_namespace(kind: str) -> None:
    state = mesh(gateway("https"), secret())
    found = compiled(state, proxy(kind))
    assert set(found.resources[SECRET]) == {"kubernetes://client"}
    assert chains(found)
    assert reasons(found) == {}


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (proxy(secrets=False), "SecretNotGiven"),
        (proxy(namespace="other", secrets=False), "SecretNotGiven"),
        (proxy(namespace="other"), ""),
    ],
    ids=["no grant", "another's namespace without grant", "its own namespace has none"],
)
def test_others_get_neither_secret_nor_server(own: Proxy, reason: str) -> None:
    """What is missing costs its server alone."""
    found = compiled(mesh(gateway("https", "rest"), secret()), own)
    assert SECRET not in found.resources
    assert chains(found) == {"https.443.rest.g.edge": ()}
    assert set(reasons(found)) == ({reason} if reason else set())


def test_a_secret_comes_and_goes_with_its_server() -> None:
    compiler, own = Compiler(), proxy()
    state = mesh(gateway("https"))
    assert chains(compiled(state, own, compiler)) == {}
    state = fold(state, secret())
    assert chains(compiled(state, own, compiler))
    gone = Changes(revision=state.revision + 1, deleted_objects=(parse(secret())[0][0].ref,))
    found = compiled(state.with_changes(gone), own, compiler)
    assert (chains(found), found.resources.get(SECRET)) == ({}, None)


def test_a_rotation_builds_the_secret_and_nothing_else() -> None:
    """The listener stays the object that it was: no connection is touched."""
    compiler, own = Compiler(), proxy()
    state = mesh(gateway("https", "http"), secret(), rule("r", f"http: [{{{TO_A}}}]"))
    first = compiled(state, own, compiler)
    before = compiler.builds.copy()
    second = compiled(fold(state, secret(generation=2, key=NEXT_KEY)), own, compiler)
    assert second.resources[LISTENER] is first.resources[LISTENER]
    assert second.resources[ROUTE_CONFIGURATION] is first.resources[ROUTE_CONFIGURATION]
    assert dict(compiler.builds - before) == {"Secret": 1}


def test_endpoints_and_other_rules_plan_nothing_anew() -> None:
    compiler, own = Compiler(), proxy()
    state = mesh(gateway("http"), rule("r", f"http: [{{{TO_A}}}]"))
    first = compiled(state, own, compiler)
    state = put(
        state, instance("a1", service="a", health="UNHEALTHY"), instance("z", service="z", node="n", inbound_port=1)
    )
    state = fold(state, HEAD.format(kind="VirtualService", name="m", spec=f"{{hosts: [z], http: [{{{TO_A}}}]}}"))
    assert compiled(state, own, compiler) is first
    two = "{{ports: [{{name: http, port: 80}}, {{name: more, port: 81}}], selector: {{app: a}}}}".replace(
        "{{", "{"
    ).replace("}}", "}")
    more = fold(state, f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {two}\n")
    assert compiled(more, own, compiler) is not first, "the destination has other ports now"


def test_what_an_agent_cannot_keep_it_does_not_serve() -> None:
    files = SERVERS["https"].replace("credentialName: client", "serverCertificate: /a.pem, privateKey: /b.pem")
    state = mesh(HEAD.format(kind="Gateway", name="g", spec=f"{{selector: {{}}, servers: [{files}]}}"))
    assert chains(compiled(state)) == {"https.443.https.g.edge": ("a.org", "*.a.org")}
    assert chains(compiled(state, proxy("agent"))) == {}
    (told,) = [item for item in Compiler().conditions(state) if item.type == "NotEnforced"]
    assert "serverCertificate" in told.message


# --- what is said


def said(*texts: str) -> list[tuple[str, str, str]]:
    edge = instance("gateway", service="", service_account="e", namespace="edge", labels={"istio": "edge"}, ports=[],
                    gateway=True)  # fmt: skip
    found: tuple[Condition, ...] = Compiler().conditions(put(mesh(*texts), edge))
    return [(item.code, str(item.ref), item.path) for item in found]


def test_secrets_that_are_not_there_or_hold_nothing() -> None:
    good = rule("r", f"http: [{{{TO_A}}}]")
    assert said(gateway("https"), good, secret()) == []
    assert said(gateway("https"), good) == [("IST0101", "Gateway edge/g", "spec.servers[0].tls.credentialName")]
    hollow = "apiVersion: v1\nkind: Secret\nmetadata: {name: client, namespace: edge}\nstringData: {a: b}\n"
    assert said(gateway("https"), good, hollow) == [("IST0161", "Gateway edge/g", "spec.servers[0].tls.credentialName")]


def test_servers_that_others_displace() -> None:
    found = said(gateway("http", "tcp"), gateway("tcp", name="younger"), rule("r", f"tcp: [{{{TO_A}}}]"))
    assert found == [("IST0145", "Gateway edge/younger", "spec.servers[0]")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD.format(kind="VirtualService", name="r", spec=f"{{hosts: [a], gateways: [x], http: [{{{TO_A}}}]}}"),
         ("IST0101", "VirtualService edge/r", "spec.gateways[0]")),
        (rule("r", f"http: [{{{TO_A}}}]", hosts="[other.net]").replace("gateways: [g]", "gateways: [narrow]"),
         ("IST0132", "VirtualService edge/r", "spec.hosts")),
        (rule("r", "http: [{route: [{destination: {host: nobody}}]}]"),
         ("IST0101", "VirtualService edge/r", "spec.http[0].route[0].destination.host")),
        (rule("r", "tcp: [{route: [{destination: {host: nobody}}]}]"),
         ("IST0101", "VirtualService edge/r", "spec.tcp[0].route[0].destination.host")),
        (rule("r", "tls: [{match: [{sniHosts: [a.org]}], route: [{destination: {host: nobody}}]}]", hosts="[a.org]"),
         ("IST0101", "VirtualService edge/r", "spec.tls[0].route[0].destination.host")),
    ],
    ids=["gateway", "host", "destination", "tcp", "tls"],
)  # fmt: skip
def test_names_that_lead_nowhere(text: str, expected: tuple[str, str, str]) -> None:
    narrow = (
        gateway("http", name="narrow").replace("hosts: ['*']", "hosts: [a.org]").replace("number: 80", "number: 82")
    )
    assert said(gateway("http"), narrow, text) == [expected]


def test_a_selector_that_selects_no_gateway() -> None:
    """A workload that is none does not count, whatever its labels."""
    state = mesh(gateway("http").replace("{istio: edge}", "{app: a}"))
    (found,) = Compiler().conditions(state)
    assert (found.code, found.path) == ("IST0127", "spec.selector")
