"""The Kubernetes Gateway API from end to end: the same requests through a real Envoy and our agent as gateways."""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from controlplane.cli.local_mesh import LocalGateway, LocalMesh, LocalService, Reply, request, wait_until
from controlplane.policy.frozen import EMPTY
from tests.support import envoys, meshes
from tests.support.gateways import Client, secret
from tests.support.identities import TestAuthority

pytestmark = [pytest.mark.e2e, pytest.mark.envoy]

EDGE = 6  # the gateway's address
USERS = LocalService(name="user-service", version="v1", port=3001)
API = "gateway.networking.k8s.io"
GATEWAY = f"""\
apiVersion: {API}/v1
kind: Gateway
metadata: {{name: web, namespace: ingress}}
spec:
  gatewayClassName: gossamer
  listeners:
  - name: http
    port: 8080
    protocol: HTTP
    allowedRoutes: {{namespaces: {{from: All}}}}
  - name: alone
    port: 8080
    protocol: HTTP
    hostname: alone.example.com
  - name: calls
    port: 8082
    protocol: HTTP
    allowedRoutes: {{namespaces: {{from: All}}, kinds: [{{kind: GRPCRoute}}]}}
  - name: https
    port: 8443
    protocol: HTTPS
    hostname: www.example.com
    tls: {{certificateRefs: [{{name: www, namespace: vault}}]}}
    allowedRoutes: {{namespaces: {{from: All}}}}
"""
GRANT = f"""\
apiVersion: {API}/v1beta1
kind: ReferenceGrant
metadata: {{name: to-ingress, namespace: vault}}
spec:
  from: [{{group: {API}, kind: Gateway, namespace: ingress}}]
  to: [{{group: "", kind: Secret, name: www}}]
"""


def route(
    name: str, rules: str, hosts: str = "[www.example.com]", *, kind: str = "HTTPRoute", section: str = ""
) -> str:
    parent = f"{{name: web, namespace: ingress{section and f', sectionName: {section}'}}}"
    spec = f"{{parentRefs: [{parent}], hostnames: {hosts}, rules: [{rules}]}}"
    return f"apiVersion: {API}/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


USER = "{name: user-service, port: 3001}"
SENT = f"backendRefs: [{USER}]"


def marked(name: str, match: str) -> str:
    """A rule whose requests tell the service of it."""
    change = f"requestHeaderModifier: {{set: [{{name: x-rule, value: {name}}}]}}"
    return f"{{matches: [{match}], filters: [{{type: RequestHeaderModifier, {change}}}], {SENT}}}"


def filtered(path: str, *filters: str, kind: str = "PathPrefix") -> str:
    return f"{{matches: [{{path: {{type: {kind}, value: {path}}}}}], filters: [{', '.join(filters)}], {SENT}}}"


def redirect(path: str, settings: str) -> str:
    own = f"{{type: RequestRedirect, requestRedirect: {{{settings}}}}}"
    return f"{{matches: [{{path: {{value: {path}}}}}], filters: [{own}]}}"


def rewrite(settings: str) -> str:
    return f"{{type: URLRewrite, urlRewrite: {{{settings}}}}}"


MATCHES = ", ".join((
    marked("prefix", "{path: {value: /m}}"),
    marked("longer", "{path: {value: /m/longer/}}"),
    marked("exact", "{path: {type: Exact, value: /m/exact}}"),
    marked("method", "{path: {value: /m}, method: DELETE}"),
    marked("header", "{path: {value: /m}, headers: [{name: X-Kind, value: a}]}"),
    marked("two-headers", "{path: {value: /m}, headers: [{name: x-kind, value: a}, {name: method, value: b}]}"),
    marked("query", "{path: {value: /m}, queryParams: [{name: q, type: RegularExpression, value: '[0-9]+'}]}"),
    marked("regex", "{path: {type: RegularExpression, value: '/m/[a-z]+[0-9]'}}"),
))  # fmt: skip
REWRITES = ", ".join((
    filtered("/full", rewrite("hostname: other.example, path: {type: ReplaceFullPath, replaceFullPath: '/new/path'}")),
    filtered("/pre", rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz/}")),
    filtered("/gone", rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /}")),
    filtered("/", rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /root}")),
))  # fmt: skip
REDIRECTS = ", ".join((
    redirect("/tls", "scheme: https, statusCode: 301"),
    redirect("/host", "hostname: other.example"),
    redirect("/port", "port: 9999, statusCode: 307"),
    redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /there}"),
    redirect("/pre", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}"),
    redirect("/gone", "path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}"),
    redirect("/default", "hostname: other.example, port: 80, scheme: http"),
))  # fmt: skip
BACKENDS = ", ".join((
    "{matches: [{path: {value: /none}}]}",
    "{matches: [{path: {value: /nobody}}], backendRefs: [{name: nobody, port: 80}]}",
    "{matches: [{path: {value: /port}}], backendRefs: [{name: user-service, port: 81}]}",
    f"{{matches: [{{path: {{value: /zero}}}}], backendRefs: [{USER.replace('}', ', weight: 0}')}]}}",
    f"{{matches: [{{path: {{value: /half}}}}], backendRefs: [{USER}, {{name: nobody, port: 80}}]}}",
    f"{{matches: [{{path: {{value: /third}}}}], backendRefs: [{USER}, {{name: nobody, port: 80, weight: 0}}]}}",
    "{matches: [{path: {value: /foreign}}], backendRefs: [{name: user-service, namespace: other, port: 3001}]}",
    "{matches: [{path: {value: /ext}}], filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}], "
    f"{SENT}}}",
    "{matches: [{path: {value: /own}}], backendRefs: [{name: user-service, port: 3001, filters: ["
    "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-own, value: '50%'}], remove: [x-away]}}, "
    "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: own}]}}]}]}",
))  # fmt: skip
MIRROR = f"{{type: RequestMirror, requestMirror: {{backendRef: {USER}, percent: 100}}}}"
REST = ", ".join((
    f"{{matches: [{{path: {{value: /retry}}}}], retry: {{codes: [503], attempts: 2, backoff: 10ms}}, {SENT}}}",
    f"{{matches: [{{path: {{value: /late}}}}], timeouts: {{request: 300ms}}, {SENT}}}",
    filtered("/mirror", MIRROR),
))  # fmt: skip
ROUTES = (
    route("rest", REST, "[rest.example.com]"),
    route("matches", MATCHES, "[match.example.com]"),
    route("rewrites", REWRITES, "[rewrite.example.com]"),
    route("redirects", REDIRECTS, "[redirect.example.com, '*.redirect.example.com']"),
    route("backends", BACKENDS, "[backend.example.com]"),
    route(
        "wild", f"{marked('wild', '{path: {value: /}}')}, {marked('wild-a', '{path: {value: /a}}')}", "['*.wild.com']"
    ),
    route("tame", marked("tame", "{path: {value: /t}}"), "[www.wild.com]"),
    route("www", marked("www", "{path: {value: /}}")),
    route("everywhere", marked("everywhere", "{path: {value: /}}"), "[]"),
)


CALLS = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: calls}}
spec:
  hosts: [calls.default.svc.cluster.local]
  resolution: STATIC
  ports: [{{number: 50, name: grpc, protocol: GRPC, targetPort: {port}}}]
  endpoints: [{{address: {address}}}]
"""
GRPC = ", ".join((
    "{matches: [{method: {service: shop.Orders, method: Get}}], backendRefs: [{name: calls, port: 50}]}",
    "{matches: [{method: {service: shop.Orders}, headers: [{name: x-lost, value: '1'}]}]}",
    "{matches: [{method: {type: RegularExpression, service: 'shop[.].*', method: 'Li.*'}}], "
    "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: regex}]}}], "
    "backendRefs: [{name: calls, port: 50}]}",
))  # fmt: skip


class Meshed:
    """A mesh with user-service on an agent and a gateway of namespace ingress; `kind`: what that is."""

    def __init__(self, mesh: LocalMesh, folder: Path, kind: str) -> None:
        self.mesh = mesh
        self.kind = kind
        self.folder = folder
        self.authority = TestAuthority()

    def apply(self, *texts: str) -> None:
        self.mesh.wait_revision(self.mesh.apply(meshes.documents(*texts)))

    def ask(self, host: str, path: str, method: str = "GET", headers: Mapping[str, str] = EMPTY) -> Reply:
        return request(f"{self.mesh.address(EDGE)}:8080", method, path, headers={"Host": host, **headers})

    def rule(self, host: str, path: str, method: str = "GET", headers: Mapping[str, str] = EMPTY) -> str:
        """The rule that took a request, or the status of the answer."""
        reply = self.ask(host, path, method, headers)
        return str(reply.json["headers"]["x-rule"]) if reply.status == 200 else str(reply.status)

    def status(self, plural: str, name: str, namespace: str = "default") -> Any:
        path = f"/apis/{API}/v1/namespaces/{namespace}/{plural}/{name}"
        return self.mesh.rest("GET", path).json.get("status", {})


@pytest.fixture(scope="module", params=["delta", "sotw", "agent"])
def meshed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meshed]:
    folder = tmp_path_factory.mktemp("gateway-api")
    with meshes.local_mesh(folder) as mesh:
        mesh.start_control_plane()
        made = Meshed(mesh, folder, request.param)
        mesh.start_agent("node-2", 2, [USERS])
        mesh.start_service(USERS, 2)
        if request.param == "agent":
            labels = {"istio": "ingressgateway"}
            mesh.start_agent(
                "edge", EDGE, gateway=LocalGateway(namespace="ingress", service_account="e", labels=labels)
            )
        else:
            envoys.start_envoy(
                mesh, "edge", EDGE, sotw=request.param == "sotw", namespaces=("ingress",),
                gateway="namespace=ingress,service-account=e,labels.istio=ingressgateway",
            )  # fmt: skip
        made.apply(
            GATEWAY, GRANT, secret("www", made.authority, "www.example.com", namespace="vault"), *ROUTES
        )  # fmt: skip
        wait_until("the gateway serves", lambda: made.rule("www.example.com", "/") == "www", timeout_s=40)
        yield made


@pytest.mark.parametrize(
    ("path", "method", "headers", "rule"),
    [
        ("/m", "GET", {}, "prefix"),
        ("/m/", "GET", {}, "prefix"),
        ("/m/a/b", "GET", {}, "prefix"),
        ("/ma", "GET", {}, "everywhere"),
        ("/m/longer", "GET", {}, "longer"),
        ("/m/longerer", "GET", {}, "prefix"),
        ("/m/exact", "GET", {"x-kind": "a"}, "exact"),
        ("/m/exact/more", "GET", {}, "prefix"),
        ("/m", "DELETE", {"x-kind": "a"}, "method"),
        ("/m", "GET", {"x-kind": "a"}, "header"),
        ("/m", "GET", {"x-kind": "a", "method": "b"}, "two-headers"),
        ("/m?q=1", "GET", {"x-kind": "a"}, "header"),
        ("/m?q=1", "GET", {}, "query"),
        ("/m?q=x1", "GET", {}, "prefix"),
        ("/m/abc1", "GET", {}, "regex"),
        ("/m/abc1/d", "GET", {}, "prefix"),
        ("/", "GET", {}, "everywhere"),
    ],
)
def test_matches_by_their_precedence(
    meshed: Meshed, path: str, method: str, headers: dict[str, str], rule: str
) -> None:
    assert meshed.rule("match.example.com", path, method, headers) == rule


def test_hosts(meshed: Meshed) -> None:
    """A narrower hostname first, then the wider ones for what it leaves; a listener's own host is nobody else's."""
    assert meshed.rule("www.wild.com", "/t") == "tame"
    assert meshed.rule("www.wild.com", "/a") == "wild-a"
    assert meshed.rule("a.b.wild.com:8080", "/") == "wild"
    assert meshed.rule("wild.com", "/") == "everywhere"
    assert meshed.rule("alone.example.com", "/") == "404", "the listener of that name has no route"
    own = route("own", marked("own", "{path: {value: /}}"), "[]", section="alone")
    own = own.replace("metadata: {", "metadata: {namespace: ingress, ")
    meshed.apply(own.replace("name: user-service", "name: user-service, namespace: default"))
    wait_until("no grant: an error", lambda: meshed.rule("alone.example.com", "/") == "500")
    grant = GRANT.replace("vault", "default").replace("Gateway", "HTTPRoute").replace("Secret, name: www", "Service")
    meshed.apply(grant)
    wait_until("with a grant it is sent", lambda: meshed.rule("alone.example.com", "/") == "own")


def test_rewrites(meshed: Meshed) -> None:
    def seen(path: str) -> str:
        return str(meshed.ask("rewrite.example.com", path).json["path"])

    assert seen("/full/a?b=c") == "/new/path?b=c"
    assert meshed.ask("rewrite.example.com", "/full").json["headers"]["host"] == "other.example"
    assert [seen(path) for path in ("/pre", "/pre/", "/pre/a?b")] == ["/xyz", "/xyz/", "/xyz/a?b"]
    assert [seen(path) for path in ("/gone", "/gone/", "/gone/a")] == ["/", "/", "/a"]
    assert [seen(path) for path in ("/", "/preb", "/a/b")] == ["/root/", "/root/preb", "/root/a/b"]


@pytest.mark.parametrize(
    ("host", "path", "status", "location"),
    [
        ("redirect.example.com", "/tls/a?b", 301, "https://redirect.example.com/tls/a?b"),
        ("redirect.example.com:8080", "/tls", 301, "https://redirect.example.com/tls"),
        ("a.redirect.example.com:8080", "/tls", 301, "https://a.redirect.example.com:443/tls"),
        ("redirect.example.com", "/host", 302, "http://other.example:8080/host"),
        ("redirect.example.com", "/port", 307, "http://redirect.example.com:9999/port"),
        ("redirect.example.com:8080", "/full/a?b", 302, "http://redirect.example.com:8080/there?b"),
        ("redirect.example.com", "/pre/a", 302, "http://redirect.example.com:8080/x/a"),
        ("redirect.example.com", "/gone", 302, "http://redirect.example.com:8080/"),
        ("redirect.example.com", "/gone/a", 302, "http://redirect.example.com:8080/a"),
        ("redirect.example.com", "/default", 302, "http://other.example/default"),
    ],
)
def test_redirects(meshed: Meshed, host: str, path: str, status: int, location: str) -> None:
    reply = meshed.ask(host, path)
    assert (reply.status, reply.headers["location"]) == (status, location)


def test_backends_that_are_not_there(meshed: Meshed) -> None:
    def status(path: str) -> int:
        return meshed.ask("backend.example.com", path).status

    for path in ("/none", "/nobody", "/port", "/zero", "/foreign", "/ext"):
        assert status(path) == 500, path
    assert {status("/third") for _ in range(20)} == {200}, "a weight of 0 has no share"
    shares = Counter(status("/half") for _ in range(300))
    assert shares.keys() == {200, 500}
    assert 90 <= shares[500] <= 210, "half of them, by chance: 150 +- 7 standard deviations"


def test_filters_of_one_backend(meshed: Meshed) -> None:
    reply = meshed.ask("backend.example.com", "/own", headers={"x-away": "1"})
    assert (reply.status, reply.headers["x-back"], reply.json["headers"]["x-own"]) == (200, "own", "50%")
    assert "x-away" not in reply.json["headers"]


def test_retries_timeouts_and_mirrors(meshed: Meshed) -> None:
    mesh, host = meshed.mesh, "rest.example.com"
    mesh.behave(2, USERS.port, status=503)
    try:
        reply = meshed.ask(host, "/retry")
        assert (reply.status, reply.json["headers"]["x-envoy-attempt-count"]) == (503, "3")
        reply = meshed.ask(host, "/late")
        assert (reply.status, reply.json["headers"]["x-envoy-attempt-count"]) == (503, "1")
        mesh.behave(2, USERS.port, delay_s=3)
        assert meshed.ask(host, "/late").status == 504
    finally:
        mesh.behave(2, USERS.port)
    before = mesh.answered(2, USERS.port)
    assert meshed.ask(host, "/mirror").status == 200
    wait_until("the copy", lambda: mesh.answered(2, USERS.port) == before + 2)


def test_calls(meshed: Meshed) -> None:
    """By service and method; a share without backend is UNAVAILABLE. Agents speak no HTTP/2, and it is said."""
    with grpc_server(meshed.mesh.address(9)) as port:
        calls = CALLS.format(address=meshed.mesh.address(9), port=port)
        meshed.apply(calls, route("calls", GRPC, "[calls.example.com]", kind="GRPCRoute"))

        def told() -> set[str]:
            return {item["reason"] for item in meshed.status("grpcroutes", "calls")["conditions"]}

        wait_until("the limit of agents", lambda: "UnsupportedProtocol" in told())
        (parent,) = meshed.status("grpcroutes", "calls")["parents"]
        assert {item["type"]: item["status"] for item in parent["conditions"]} == {
            "Accepted": "True", "ResolvedRefs": "True"
        }  # fmt: skip
        if meshed.kind == "agent":
            return
        options = (("grpc.default_authority", "calls.example.com"),)
        with grpc.insecure_channel(f"{meshed.mesh.address(EDGE)}:8082", options=options) as channel:

            def call(method: str, **headers: str) -> str:
                try:
                    answer, done = channel.unary_unary(method).with_call(
                        b"",
                        metadata=tuple((key.replace("_", "-"), value) for key, value in headers.items()),
                        timeout=15,
                    )
                except grpc.RpcError as error:
                    return str(error.code().name)
                own = dict(done.initial_metadata())
                return f"{answer.decode()} {own.get('x-by', '')}".strip()

            wait_until("an answer", lambda: call("/shop.Orders/Get") == "/shop.Orders/Get")
            assert call("/shop.Orders/List") == "/shop.Orders/List regex"
            assert call("/shop.Orders/Put", x_lost="1") == "UNAVAILABLE"
            assert call("/shop.Orders/Put") == "UNIMPLEMENTED", "no rule is for it"


class _Echo(grpc.GenericRpcHandler):
    """Answers every unary call with its method's name."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        name = handler_call_details.method.encode()
        return grpc.unary_unary_rpc_method_handler(lambda request, context: name)


@contextmanager
def grpc_server(address: str) -> Iterator[int]:
    """A gRPC server in plaintext; its port."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=(_Echo(),))
    port = server.add_insecure_port(f"{address}:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(10)


def test_tls_by_a_secret_of_another_namespace(meshed: Meshed) -> None:
    """While a ReferenceGrant permits it."""
    client, address = Client(meshed.folder, meshed.authority), f"{meshed.mesh.address(EDGE)}:8443"
    wait_until("an answer", lambda: client.outcome(address, "www.example.com") == "200", timeout_s=30)
    assert client.get(address, "www.example.com").json["headers"]["x-rule"] == "www"
    assert client.outcome(address, "other.example.com") == "refused"
    path = f"/apis/{API}/v1/namespaces/vault/referencegrants/to-ingress"
    assert meshed.mesh.rest("DELETE", path).status == 200
    wait_until("no server", lambda: client.outcome(address, "www.example.com") == "refused", timeout_s=30)

    def listener() -> dict[str, str]:
        found = next(own for own in meshed.status("gateways", "web", "ingress")["listeners"] if own["name"] == "https")
        return {item["type"]: item["reason"] for item in found["conditions"]}

    wait_until("the listener says so", lambda: listener()["ResolvedRefs"] == "RefNotPermitted")
    assert listener()["Programmed"] == "Invalid"
    meshed.apply(GRANT)
    wait_until("an answer", lambda: client.outcome(address, "www.example.com") == "200", timeout_s=30)


def test_what_is_said_of_it(meshed: Meshed) -> None:
    def gateway() -> Any:
        return meshed.status("gateways", "web", "ingress")

    def told(item: Any) -> dict[str, str]:
        return {own["type"]: own["status"] for own in item.get("conditions", ())}

    wait_until("it is programmed", lambda: told(gateway()).get("Programmed") == "True")
    wait_until("it is accepted", lambda: told(gateway()).get("Accepted") == "True")
    assert gateway()["addresses"] == [{"type": "IPAddress", "value": meshed.mesh.address(EDGE)}]
    http = gateway()["listeners"][0]
    assert (http["name"], http["attachedRoutes"]) == ("http", len(ROUTES))
    assert told(http) == {"Accepted": "True", "Conflicted": "False", "Programmed": "True", "ResolvedRefs": "True"}
    (parent,) = meshed.status("httproutes", "backends")["parents"]
    assert parent["controllerName"] == "gossamer.mesh/gateway-controller"
    assert parent["parentRef"] == {"group": API, "kind": "Gateway", "namespace": "ingress", "name": "web"}
    assert {item["type"]: item["reason"] for item in parent["conditions"]} == {
        "Accepted": "Accepted", "ResolvedRefs": "InvalidKind"
    }  # fmt: skip
