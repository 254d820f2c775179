"""A gateway serves Gateways and the VirtualServices bound to them: a real Envoy, and our agent in its place."""

import base64
import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from controlplane.cli.local_mesh import LocalGateway, LocalMesh, LocalService, Reply, request, wait_until
from tests.support import envoys, gateways, meshes
from tests.support.gateways import Client, TlsLoad, secret
from tests.support.identities import TestAuthority

pytestmark = [pytest.mark.e2e, pytest.mark.envoy]

LABELS = {"istio": "ingressgateway"}
EDGE = 6  # the gateway's address
USERS = LocalService(name="user-service", version="v1", port=3001)
GATEWAY = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: ingress}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
  - port: {number: 8081, name: http-redirect, protocol: HTTP}
    hosts: [www.example.com]
    tls: {httpsRedirect: true}
  - port: {number: 8443, name: https-www, protocol: HTTPS}
    hosts: [www.example.com]
    tls: {mode: SIMPLE, credentialName: www}
  - port: {number: 8443, name: https-api, protocol: HTTPS}
    hosts: [api.example.com, "*.api.example.com"]
    tls: {mode: SIMPLE, credentialName: api, minProtocolVersion: TLSV1_3}
  - port: {number: 8443, name: https-partners, protocol: HTTPS}
    hosts: [partners.example.com]
    tls: {mode: MUTUAL, credentialName: partners, subjectAltNames: ["spiffe://outside.example/client"]}
  - port: {number: 8443, name: https-maybe, protocol: HTTPS}
    hosts: [maybe.example.com]
    tls: {mode: OPTIONAL_MUTUAL, credentialName: partners}
  - port: {number: 8443, name: tls-through, protocol: TLS}
    hosts: [through.example.com]
    tls: {mode: PASSTHROUGH}
  - port: {number: 8443, name: https-late, protocol: HTTPS}
    hosts: [late.example.com]
    tls: {mode: SIMPLE, credentialName: late}
  - port: {number: 9000, name: tcp, protocol: TCP}
    hosts: ["*"]
"""


def rule(name: str, host: str, spec: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec: {{hosts: [{host}], gateways: [ingress/public], {spec}}}
"""


def answer(name: str, host: str) -> str:
    """A VirtualService that answers with its name at /name, and else sends to user-service."""
    direct = f'{{match: [{{uri: {{exact: /name}}}}], directResponse: {{status: 200, body: {{string: "{name}"}}}}}}'
    return rule(name, f'"{host}"', f"http: [{direct}, {{route: [{{destination: {{host: user-service}}}}]}}]")


def behind(address: str, port: int) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: behind}}
spec:
  hosts: [behind.example.com]
  resolution: STATIC
  ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {port}}}]
  endpoints: [{{address: {address}}}]
"""


THROUGH = rule(
    "through",
    "through.example.com",
    "tls: [{match: [{sniHosts: [through.example.com]}], route: [{destination: {host: behind.example.com}}]}], "
    "tcp: [{route: [{destination: {host: behind.example.com}}]}]",
)


class Meshed:
    """A mesh with user-service on an agent and a gateway of namespace ingress; `authority` is the world's."""

    def __init__(self, mesh: LocalMesh, folder: Path) -> None:
        self.mesh = mesh
        self.folder = folder
        self.authority = TestAuthority()
        self.partners = TestAuthority()

    @property
    def https(self) -> str:
        return f"{self.mesh.address(EDGE)}:8443"

    def client(self, own: TestAuthority | None = None) -> Client:
        return Client(self.folder, self.authority, own)

    def apply(self, *texts: str) -> None:
        self.mesh.wait_revision(self.mesh.apply(meshes.documents(*texts)))

    def get(self, host: str, path: str, *, port: int = 8080, **headers: str) -> Reply:
        sent = {"Host": host, **{key.replace("_", "-"): value for key, value in headers.items()}}
        return request(f"{self.mesh.address(EDGE)}:{port}", "GET", path, headers=sent)

    def conditions(self, plural: str, name: str, namespace: str) -> dict[str, str]:
        path = f"/apis/networking.istio.io/v1/namespaces/{namespace}/{plural}/{name}"
        found = self.mesh.rest("GET", path).json.get("status", {}).get("conditions", ())
        return {item["type"]: item["message"] for item in found if item["status"] == "True"}


@pytest.fixture(scope="module", params=["delta", "sotw", "agent"])
def meshed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meshed]:
    folder = tmp_path_factory.mktemp("gateways")
    with meshes.local_mesh(folder) as mesh:
        mesh.start_control_plane()
        made = Meshed(mesh, folder)
        mesh.start_agent("node-2", 2, [USERS])
        mesh.start_service(USERS, 2)
        if request.param == "agent":
            own = LocalGateway(namespace="ingress", service_account="edge", labels=LABELS)
            mesh.start_agent("edge", EDGE, gateway=own)
        else:
            envoys.start_envoy(
                mesh, "edge", EDGE, sotw=request.param == "sotw", namespaces=("ingress",),
                gateway="namespace=ingress,service-account=edge,labels.istio=ingressgateway",
            )  # fmt: skip
        with gateways.server(folder, mesh.address(9), made.authority, "through.example.com") as port:
            made.apply(
                GATEWAY, behind(mesh.address(9), port), THROUGH,
                secret("www", made.authority, "www.example.com"),
                secret("api", made.authority, "api.example.com", "*.api.example.com"),
                secret("partners", made.authority, "partners.example.com", "maybe.example.com",
                       roots=made.partners.trust_pem.decode()),
                *(answer(host.partition(".")[0], host) for host in
                  ("www.example.com", "api.example.com", "partners.example.com", "maybe.example.com",
                   "late.example.com")),
                answer("more", "*.api.example.com"),
            )  # fmt: skip
            wait_until("the gateway serves", lambda: made.get("www.example.com", "/").status == 200, timeout_s=40)
            yield made


def test_plain_http_by_host(meshed: Meshed) -> None:
    """Each host has the routes of its VirtualService, whatever port stands behind it; others have none."""
    for host in ("www.example.com", "api.example.com:8080", "API.example.com"):
        reply = meshed.get(host, "/name")
        assert (reply.status, reply.body.decode()) == (200, host.lower().partition(".")[0])
    assert meshed.get("unknown.example.com", "/").status == 404
    reply = meshed.get(
        "www.example.com", "/a?b=c", x_forwarded_client_cert="By=spiffe://forged", x_forwarded_for="9.9.9.9"
    )
    assert (reply.status, reply.json["service"], reply.json["path"]) == (200, "user-service", "/a?b=c")
    headers = reply.json["headers"]
    assert "forged" not in headers["x-forwarded-client-cert"]
    assert "URI=spiffe://cluster.local/ns/ingress/sa/edge" in headers["x-forwarded-client-cert"]
    # The last entry is the client as the gateway has seen it; Envoy writes an address of its own for loopback.
    claimed, seen = headers["x-forwarded-for"].split(",")
    assert (claimed, seen != claimed) == ("9.9.9.9", True)
    assert headers["x-forwarded-proto"] == "http"


def test_a_timeout(meshed: Meshed) -> None:
    """Envoys pass over it when the route also bounds gRPC clients' deadlines."""
    host = "slow.example.com"
    meshed.apply(rule("slow", host, "http: [{timeout: 300ms, route: [{destination: {host: user-service}}]}]"))
    wait_until("an answer", lambda: meshed.get(host, "/").status == 200)
    meshed.mesh.behave(2, USERS.port, delay_s=3)
    try:
        reply = meshed.get(host, "/")
        assert (reply.status, reply.body) == (504, b"upstream request timeout")
    finally:
        meshed.mesh.behave(2, USERS.port)


def test_https_redirect(meshed: Meshed) -> None:
    reply = meshed.get("www.example.com", "/a?b=c", port=8081)
    assert (reply.status, reply.headers["location"]) == (301, "https://www.example.com/a?b=c")
    assert meshed.get("other.example.com", "/", port=8081).status == 404


def test_certificate_and_routes_by_server_name(meshed: Meshed) -> None:
    """Each name leads to its own certificate and routes; one that no server has leads nowhere."""
    client = meshed.client()
    for host, name in (("www.example.com", "www"), ("api.example.com", "api"), ("b.api.example.com", "more")):
        wait_until(host, lambda host=host: client.outcome(meshed.https, host) == "200", timeout_s=30)
        assert client.get(meshed.https, host, "/name").body.decode() == name
    assert client.get(meshed.https, "www.example.com").json["headers"]["x-forwarded-proto"] == "https"
    # The routes are the server's: another host is not found over this name's connection.
    assert client.get(meshed.https, "www.example.com", "/name", Host="api.example.com").status == 404
    assert client.outcome(meshed.https, "nobody.example.com") == "refused"


def test_mutual_tls(meshed: Meshed) -> None:
    """Only a certificate of the partners' that bears the name comes in; who it is goes on, and nothing else."""
    host = "partners.example.com"
    known, stranger = meshed.client(meshed.partners), meshed.client(meshed.authority)
    wait_until("a partner comes in", lambda: known.outcome(meshed.https, host) == "200", timeout_s=30)
    forged = {"x-forwarded-client-cert": "By=spiffe://forged;Hash=1"}
    shown = known.get(meshed.https, host, "/", **forged).json["headers"]["x-forwarded-client-cert"]
    assert "URI=spiffe://outside.example/client" in shown
    assert "forged" not in shown
    assert stranger.outcome(meshed.https, host) == "refused"
    assert meshed.client().outcome(meshed.https, host) == "refused"


def test_optional_mutual_tls(meshed: Meshed) -> None:
    host = "maybe.example.com"
    known, stranger, nobody = meshed.client(meshed.partners), meshed.client(meshed.authority), meshed.client()
    wait_until("without a certificate", lambda: nobody.outcome(meshed.https, host) == "200", timeout_s=30)
    assert "client" not in nobody.get(meshed.https, host).json["headers"]["x-forwarded-client-cert"]
    shown = known.get(meshed.https, host).json["headers"]["x-forwarded-client-cert"]
    assert "URI=spiffe://outside.example/client" in shown
    assert stranger.outcome(meshed.https, host) == "refused"


def test_passthrough(meshed: Meshed) -> None:
    """TLS goes on unopened, by server name; a plain TCP port takes whatever comes."""
    client = meshed.client()
    host = "through.example.com"
    wait_until("an answer", lambda: client.outcome(meshed.https, host) == "200", timeout_s=30)
    assert client.get(meshed.https, host).json == {"service": "behind", "host": host}
    assert client.get(f"{meshed.mesh.address(EDGE)}:9000", host).json["service"] == "behind"


def test_a_secret_that_is_not_there(meshed: Meshed) -> None:
    """It costs its server alone, says so on the Gateway, and the server is there once the Secret is."""
    client, host = meshed.client(), "late.example.com"
    assert client.outcome(meshed.https, host) == "refused"
    assert client.outcome(meshed.https, "www.example.com") == "200"
    wait_until(
        "the condition",
        lambda: "late" in meshed.conditions("gateways", "public", "ingress").get("ReferencedResourceNotFound", ""),
        timeout_s=20,
    )
    meshed.apply(secret("late", meshed.authority, host))
    wait_until("an answer", lambda: client.outcome(meshed.https, host) == "200", timeout_s=30)
    wait_until(
        "no condition",
        lambda: "ReferencedResourceNotFound" not in meshed.conditions("gateways", "public", "ingress"),
        timeout_s=20,
    )


def test_no_key_is_shown_or_stored(meshed: Meshed) -> None:
    """Neither by the gateway's own pages, nor by the control plane, nor in the agent's files."""
    text = secret("www", meshed.authority, "www.example.com")
    meshed.apply(text)
    (encoded_key,) = re.findall(r"tls.key: ([A-Za-z0-9+/=]+)", text)
    lines = base64.b64decode(encoded_key).splitlines()[1:-1]
    own = request(f"{meshed.mesh.address(EDGE)}:15000", "GET", "/config_dump").body
    views = [meshed.mesh.rest("GET", f"/mesh/v1/proxies/edge/{view}").body for view in ("config_dump", "client_status")]
    assert b"kubernetes://www" in own
    assert b"kubernetes://www" in views[0]
    files = [path.read_bytes() for path in (meshed.folder / "edge").rglob("*") if path.is_file()]
    log = (meshed.folder / "edge.log").read_bytes()
    for line in lines:
        assert not [found for found in (own, *views, *files, log) if line in found]


def test_rotation_without_a_failed_request(meshed: Meshed) -> None:
    """A new certificate is shown by new connections; kept ones go on; no request fails."""
    client, host = meshed.client(), "www.example.com"
    wait_until("an answer", lambda: client.outcome(meshed.https, host) == "200", timeout_s=30)
    before = client.certificate(meshed.https, host)
    kept = gateways._Connection(meshed.https, client.context, host)
    kept.request("GET", "/", headers={"Host": host})
    assert json.loads(kept.getresponse().read())["service"] == "user-service"
    local = kept.sock.getsockname()
    with TlsLoad(client, meshed.https, host) as load:
        load.wait(100)
        meshed.apply(secret("www", meshed.authority, host))
        wait_until("the new certificate", lambda: client.certificate(meshed.https, host) != before, timeout_s=30)
        load.wait(100)
    assert (set(load.statuses), dict(load.errors)) == ({200}, {})
    assert {client.certificate(meshed.https, host) for _ in range(10)} == {client.certificate(meshed.https, host)}
    kept.request("GET", "/", headers={"Host": host})
    assert kept.getresponse().read()
    assert kept.sock.getsockname() == local, "the connection of before goes on"
    kept.close()


def test_egress(meshed: Meshed) -> None:
    """A workload's request leaves by the gateway: two rules of one VirtualService, for the mesh and for the gateway."""
    with gateways.server(meshed.folder, meshed.mesh.address(9), None) as port:
        meshed.apply(EGRESS.format(address=meshed.mesh.address(9), port=port))
        inside = f"{meshed.mesh.address(2)}:15001"

        def ask() -> Reply:
            return request(inside, "GET", "/", headers={"Host": "outside.example.com"})

        wait_until("an answer", lambda: ask().status == 200, timeout_s=30)
        assert ask().json == {"service": "behind", "host": "outside.example.com"}
        assert ask().headers["x-left-by"] == "the gateway"
        connection = HTTPConnection(f"{meshed.mesh.address(EDGE)}:8080", timeout=15)
        connection.request("GET", "/", headers={"Host": "outside.example.com"})
        assert connection.getresponse().status == 200
        connection.close()


EGRESS = """\
apiVersion: v1
kind: Service
metadata: {{name: egress, namespace: ingress}}
spec: {{selector: {{istio: ingressgateway}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [outside.example.com]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: {address}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: outside}}
spec:
  hosts: [outside.example.com]
  gateways: [mesh, ingress/public]
  http:
  - match: [{{gateways: [mesh]}}]
    route: [{{destination: {{host: egress.ingress.svc.cluster.local, port: {{number: 80}}}}}}]
  - match: [{{gateways: [ingress/public]}}]
    route: [{{destination: {{host: outside.example.com}}}}]
    headers: {{response: {{set: {{x-left-by: the gateway}}}}}}
"""


def test_what_is_said_of_it(meshed: Meshed) -> None:
    """The gateway is a workload of the mesh; a Gateway that selects nobody and a name that leads nowhere are told."""
    meshed.apply(
        GATEWAY.replace("name: public", "name: lonely").replace("istio: ingressgateway", "istio: nobody"),
        rule("lost", "lost.example.com", "http: [{route: [{destination: {host: user-service}}]}]").replace(
            "ingress/public", "ingress/nowhere"
        ),
    )
    wait_until(
        "both conditions",
        lambda: (
            "istio=nobody" in meshed.conditions("gateways", "lonely", "ingress").get("SelectsNothing", "")
            and "ingress/nowhere"
            in meshed.conditions("virtualservices", "lost", "default").get("ReferencedResourceNotFound", "")
        ),
        timeout_s=20,
    )
    assert "SelectsNothing" not in meshed.conditions("gateways", "public", "ingress")
