"""Gateways by selector, VirtualServices by Gateway, servers merged by port, hosts that both sides have."""

import pytest

from controlplane.model.gateway_ports import merged_ports, served_hosts
from controlplane.model.gateways import Gateways, gateway_name
from controlplane.policy.objects import PolicyObject
from tests.support.compiling import fold, mesh_of, parse

HEAD = "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n"


def gateway(name: str, *servers: str, selector: str = "{istio: edge}", namespace: str = "ingress") -> str:
    head = HEAD.format(kind="Gateway", name=name, namespace=namespace)
    return f"{head}spec: {{selector: {selector}, servers: [{', '.join(servers)}]}}\n"


def server(
    protocol: str, number: int = 80, hosts: str = '["*"]', *, tls: str = "", name: str = "", bind: str = ""
) -> str:
    own = f", tls: {{{tls}}}" if tls else ""
    own += f", bind: {bind}" if bind else ""
    return (
        f"{{port: {{number: {number}, name: {name or protocol.lower()}, protocol: {protocol}}}, hosts: {hosts}{own}}}"
    )


def service(
    name: str, gateways: str, *, namespace: str = "default", export: str = '["*"]', hosts: str = "[a.org]"
) -> str:
    head = HEAD.format(kind="VirtualService", name=name, namespace=namespace)
    route = "http: [{route: [{destination: {host: a}}]}]"
    return f"{head}spec: {{hosts: {hosts}, gateways: {gateways}, exportTo: {export}, {route}}}\n"


SIMPLE = "mode: SIMPLE, credentialName: c"


def objects(*texts: str) -> list[PolicyObject]:
    return parse("---\n".join(texts))[0]


def names(found: tuple[PolicyObject, ...]) -> list[str]:
    return [item.metadata.name for item in found]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a", "ns/a"),
        ("other/a", "other/a"),
        ("./a", "ns/a"),
        ("a.other", "other/a"),
        ("a.other.svc.cluster.local", "other/a"),
    ],
)
def test_which_gateway_a_name_means(written: str, expected: str) -> None:
    assert gateway_name(written, "ns") == expected


def test_selectors_are_of_all_namespaces() -> None:
    mesh = mesh_of(
        "---\n".join(
            (
                gateway("old", server("HTTP")),
                gateway("all", server("HTTP"), selector="{}", namespace="other"),
                gateway("strict", server("HTTP"), selector="{istio: edge, zone: a}"),
            )
        )
    )
    assert names(mesh.gateways.selecting({"istio": "edge", "x": "y"})) == ["old", "all"]
    assert names(mesh.gateways.selecting({"istio": "edge", "zone": "a"})) == ["old", "all", "strict"]
    assert names(mesh.gateways.selecting({})) == ["all"]


def test_virtual_services_of_a_gateway_in_their_order() -> None:
    """Private ones of the proxy's namespace first, then those exported to it, then public ones; each by age."""
    mesh = mesh_of(
        "---\n".join(
            (
                service("public", "[ingress/g, mesh]"),
                service("named", "[ingress/g]", export="[ingress]"),
                service("private", "[g]", namespace="ingress", export="[.]"),
                service("hidden", "[ingress/g]", export="[.]"),
                service("elsewhere", "[g]"),
                service("younger", "[./g]", namespace="ingress"),
            )
        )
    )
    assert names(mesh.gateways.virtual_services("ingress/g", "ingress")) == ["private", "named", "public", "younger"]
    assert names(mesh.gateways.virtual_services("ingress/g", "default")) == ["hidden", "public", "younger"]
    assert names(mesh.gateways.virtual_services("default/g", "default")) == ["elsewhere"]


def test_the_index_follows_changes_and_else_stays_the_same_object() -> None:
    mesh = mesh_of(service("a", "[g]"))
    assert fold(
        mesh, HEAD.format(kind="DestinationRule", name="d", namespace="default") + "spec: {host: a}\n"
    ).gateways is (mesh.gateways)
    moved = fold(mesh, service("a", "[other/g]"))
    assert names(moved.gateways.virtual_services("default/g", "default")) == []
    assert names(moved.gateways.virtual_services("other/g", "other")) == ["a"]
    assert Gateways().updated([], []).all() == ()


def ports(*texts: str) -> dict[tuple[int, str], list[str]]:
    merged, _ = merged_ports(objects(*texts))
    return {
        (port.number, port.bind): [item.route_name or item.server.protocol for item in port.servers] for port in merged
    }


def lost(*texts: str) -> list[tuple[str, str]]:
    _, conflicts = merged_ports(objects(*texts))
    return [(f"{item.loser.gateway.metadata.name}{item.loser.path[12:]}", item.reason) for item in conflicts]


def test_plain_http_servers_share_a_port() -> None:
    texts = gateway("a", server("HTTP")), gateway("b", server("HTTP2", name="more"), server("GRPC", 81))
    assert ports(*texts) == {(80, ""): ["http.80", "http.80"], (81, ""): ["http.81"]}
    assert lost(*texts) == []


def test_tls_servers_share_a_port_by_name() -> None:
    texts = (
        gateway(
            "a", server("HTTPS", 443, "[a.org]", tls=SIMPLE), server("TLS", 443, "[b.org]", tls="mode: PASSTHROUGH")
        ),
        gateway("b", server("HTTPS", 443, '["x/A.org", c.org]', tls=SIMPLE, name="twice")),
    )
    assert ports(*texts) == {(443, ""): ["https.443.https.a.ingress", "TLS"]}
    assert lost(*texts) == [("b[0]", "the host a.org is served there")]


def test_what_cannot_share_a_port() -> None:
    texts = (
        gateway("a", server("HTTP", 80), server("TCP", 90), server("HTTPS", 443, "[a.org]", tls=SIMPLE)),
        gateway("b", server("TCP", 80), server("TCP", 90, name="again"), server("HTTP", 443)),
        gateway("c", server("HTTPS", 80, "[c.org]", tls=SIMPLE), server("HTTP", 90, bind="10.0.0.9")),
    )
    assert ports(*texts) == {
        (80, ""): ["http.80"], (90, ""): ["TCP"], (90, "10.0.0.9"): ["http.90.10.0.0.9"],
        (443, ""): ["https.443.https.a.ingress"],
    }  # fmt: skip
    assert lost(*texts) == [
        ("b[0]", "the port is HTTP there"),
        ("b[1]", "the port is TCP there"),
        ("b[2]", "the port is HTTPS there"),
        ("c[0]", "the port is HTTP there"),
    ]


@pytest.mark.parametrize(
    ("server_hosts", "rule_hosts", "expected"),
    [
        ('["*"]', "[a.org, b.org]", ("a.org", "b.org")),
        ('["*.org"]', "[a.org, b.net]", ("a.org",)),
        ("[a.org]", '["*.org"]', ("a.org",)),
        ('["*.org"]', '["*.eu.org"]', ("*.eu.org",)),
        ("[default/a.org, other/b.org]", "[a.org, b.org]", ("a.org",)),
        ('["*/a.org", ./b.org]', "[a.org, b.org]", ("a.org",)),
        ("[A.org]", "[a.org]", ("a.org",)),
        ("[a.default.svc.cluster.local]", "[a]", ("a.default.svc.cluster.local",)),
        ("[b.org]", "[a.org]", ()),
    ],
)
def test_hosts_that_both_have(server_hosts: str, rule_hosts: str, expected: tuple[str, ...]) -> None:
    edge, rule = objects(
        gateway("g", server("HTTP", hosts=server_hosts)), service("s", "[ingress/g]", hosts=rule_hosts)
    )
    (port,), _ = merged_ports([edge])
    assert served_hosts(port.servers[0], rule, "svc.cluster.local") == expected
