"""Who may ask what, through real agents: identities of mutual TLS, tokens, a service that is asked."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest

from controlplane.cli.local_mesh import LocalMesh, LocalService, wait_until
from tests.e2e.test_survival import workers
from tests.support import meshes
from tests.support.authorizing import Authorizer, CheckRequest, CheckResponse, allowing, denying, field
from tests.support.tokens import ec_signer, jwks, secret_signer

pytestmark = pytest.mark.e2e

ISSUER = ec_signer("one")
OTHER_PORT = 15101
STRANGER = LocalService(name="stranger-service", version="v1", port=3004, outbound_port=OTHER_PORT)


class _Outside(ThreadingHTTPServer):
    """Serves keys and decides on requests; not a part of the mesh."""

    def __init__(self, host: str) -> None:
        self.keys = jwks(ISSUER)
        self.asked: list[tuple[str, dict[str, str]]] = []
        super().__init__((host, 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Outside

    def do_GET(self) -> None:
        if self.path == "/keys":
            self._say(200, self.server.keys.encode())
            return
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        allowed = self.headers.get("x-ticket") == "good"
        self._say(200 if allowed else 403, b"" if allowed else b"no ticket", ("x-decided", "outside"))

    def _say(self, status: int, body: bytes, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*fields, ("content-length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


DECIDER_PORT = 3005


def decider(port: int) -> LocalService:
    """A workload of the mesh that decides over gRPC; its agent takes mutual TLS for it."""
    return LocalService(name="decider-service", port=port, protocol="GRPC", check=False)


class Ticketed(Authorizer):
    """Lets in who has a ticket."""

    def check(self, request: CheckRequest, context: grpc.ServicerContext) -> CheckResponse:
        ticket = request.attributes.request.http.headers.get("x-ticket")
        refusal = denying(status={"code": 401}, body="no ticket", headers=[field("x-decided", "grpc")])
        known = {"good": allowing(response_headers_to_add=[field("x-decided", "yes")]), "wait": "wait"}
        self.answers["/users/3"] = known.get(ticket, refusal)
        return super().check(request, context)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """node-2 runs user-service, node-4 two callers with identities of their own."""
    with meshes.local_mesh(tmp_path_factory.mktemp("guarded")) as mesh:
        providers = [{"name": "outside", "envoyExtAuthzHttp": {
            "service": "decider.default.svc.cluster.local", "port": 80, "timeout": "2s",
            "includeRequestHeadersInCheck": ["x-ticket"], "headersToDownstreamOnDeny": ["x-decided"],
        }}, {"name": "outside-grpc", "envoyExtAuthzGrpc": {
            "service": "grpc-decider.default.svc.cluster.local", "port": 90, "timeout": "2s",
            "includeRequestBodyInCheck": {"maxRequestBytes": 64, "allowPartialMessage": True},
        }}, {"name": "inside", "envoyExtAuthzGrpc": {
            "service": "decider-service.default.svc.cluster.local", "port": 91, "timeout": "5s",
        }}]  # fmt: skip
        mesh.start_control_plane("--mesh-extension-providers", json.dumps(providers))
        mesh.start_service(meshes.USER_V1, 2)
        mesh.start_agent("node-2", 2, (meshes.USER_V1,))
        mesh.start_service(meshes.ORDERS, 4, mesh_port=meshes.CALLER_PORT)
        mesh.start_service(STRANGER, 4, mesh_port=OTHER_PORT)
        mesh.start_agent("node-4", 4, (meshes.ORDERS, STRANGER, decider(DECIDER_PORT)))
        mesh.wait_revision(mesh.apply(meshes.SERVICE))
        yield mesh


@pytest.fixture(scope="module")
def outside(mesh: LocalMesh) -> Iterator[_Outside]:
    server = _Outside(mesh.address(9))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host, port = server.server_address[:2]
    entry = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: decider}}
spec:
  hosts: [decider.default.svc.cluster.local]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{{address: {host!s}}}]
"""
    mesh.wait_revision(mesh.apply(entry))
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def grpc_decider(mesh: LocalMesh) -> Iterator[Ticketed]:
    """A gRPC service that is not a part of the mesh; it lets in who has a ticket."""
    service = Ticketed(host=mesh.address(9))
    with service.running():
        entry = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: grpc-decider}}
spec:
  hosts: [grpc-decider.default.svc.cluster.local]
  ports: [{{number: 90, name: grpc, protocol: GRPC, targetPort: {service.port}}}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{{address: {service.host}}}]
"""
        mesh.wait_revision(mesh.apply(entry))
        yield service


@pytest.fixture(autouse=True)
def _no_policies_left(mesh: LocalMesh) -> Iterator[None]:
    yield
    for plural in ("authorizationpolicies", "requestauthentications"):
        for item in mesh.rest("GET", f"/apis/security.istio.io/v1/namespaces/default/{plural}").json["items"]:
            mesh.rest("DELETE", f"/apis/security.istio.io/v1/namespaces/default/{plural}/{item['metadata']['name']}")


def apply(mesh: LocalMesh, *texts: str) -> None:
    mesh.wait_revision(mesh.apply(meshes.documents(*texts)))


def policy(name: str, spec: str) -> str:
    return f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def as_orders(mesh: LocalMesh, path: str = "/users/1", **headers: str) -> Any:
    return mesh.agents["node-4"].call("user-service", path, port=meshes.CALLER_PORT, **headers)


def as_stranger(mesh: LocalMesh, path: str = "/users/1", **headers: str) -> Any:
    return mesh.agents["node-4"].call("user-service", path, port=OTHER_PORT, **headers)


_SELECTED = "selector: {matchLabels: {app: user-service}}"


def test_only_one_principal_is_let_in(mesh: LocalMesh) -> None:
    """Two workloads of one node, told apart by their certificates; what a client says of itself is not believed."""
    assert as_orders(mesh).status == 200
    assert as_stranger(mesh).status == 200
    principals = "principals: [cluster.local/ns/default/sa/order-service]"
    apply(mesh, policy("orders", f"{{{_SELECTED}, rules: [{{from: [{{source: {{{principals}}}}}]}}]}}"))
    assert as_orders(mesh).status == 200
    refused = as_stranger(mesh)
    assert (refused.status, refused.body) == (403, b"RBAC: access denied")
    spoofed = "By=x;Hash=y;URI=spiffe://cluster.local/ns/default/sa/order-service"
    assert as_stranger(mesh, x_forwarded_client_cert=spoofed).status == 403


def test_what_is_denied_is_denied_in_every_spelling(mesh: LocalMesh) -> None:
    apply(
        mesh,
        policy("admin", f"{{{_SELECTED}, action: DENY, rules: [{{to: [{{operation: {{paths: [/users/2*]}}}}]}}]}}"),
    )
    assert as_orders(mesh, "/users/1").status == 200
    for path in ("/users/2", "/users/%32", "/x/../users/2", "/users/./2", "/x/..;/users/2", "/users/2?x=/users/1"):
        assert as_orders(mesh, path).status == 403, path


def test_a_dry_run_and_an_audit_decide_nothing(mesh: LocalMesh) -> None:
    dry = policy("dry", "{action: DENY, rules: [{}]}").replace(
        "{name: dry}", '{name: dry, annotations: {istio.io/dry-run: "true"}}'
    )
    apply(mesh, dry, policy("noted", "{action: AUDIT, rules: [{}]}"))
    assert as_orders(mesh).status == 200


def test_tokens(mesh: LocalMesh, outside: _Outside) -> None:
    """Keys are fetched by the control plane, and follow when the issuer changes them."""
    url = f"http://{outside.server_address[0]!s}:{outside.server_address[1]}/keys"
    authentication = (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: tokens}\n"
        f'spec: {{{_SELECTED}, jwtRules: [{{issuer: "https://i", jwksUri: "{url}", audiences: [users]}}]}}\n'
    )
    demanded = policy(
        "demanded", f'{{{_SELECTED}, rules: [{{from: [{{source: {{requestPrincipals: ["https://i/*"]}}}}]}}]}}'
    )
    apply(mesh, authentication, demanded)
    claims = {"iss": "https://i", "aud": "users", "sub": "me", "exp": time.time() + 600}

    def status(token: bytes | None) -> int:
        headers = {} if token is None else {"authorization": f"Bearer {token.decode()}"}
        return int(as_orders(mesh, **headers).status)

    good = ISSUER.token(claims)
    wait_until("the keys are there", lambda: status(good) == 200, timeout_s=10)
    assert status(None) == 403, "no token, no principal"
    assert status(ISSUER.token({**claims, "exp": 1})) == 401
    assert status(ISSUER.token({**claims, "aud": "others"})) == 403
    assert status(ec_signer("one").token(claims)) == 401
    assert status(secret_signer("one", outside.keys.encode()).token(claims)) == 401


def test_a_service_is_asked(mesh: LocalMesh, outside: _Outside) -> None:
    rules = "rules: [{to: [{operation: {paths: [/users/3]}}]}]"
    apply(mesh, policy("asked", f"{{{_SELECTED}, action: CUSTOM, provider: {{name: outside}}, {rules}}}"))
    assert as_orders(mesh, "/users/1").status == 200
    refused = as_orders(mesh, "/users/3")
    assert (refused.status, refused.body, refused.headers["x-decided"]) == (403, b"no ticket", "outside")
    assert as_orders(mesh, "/users/3", x_ticket="good", cookie="secret").status == 200
    path, headers = outside.asked[-1]
    assert path == "/users/3"
    assert "cookie" not in headers, "the service is shown what the settings list"


def _asked_by_grpc() -> str:
    rules = "rules: [{to: [{operation: {paths: [/users/3]}}]}]"
    return policy("asked", f"{{{_SELECTED}, action: CUSTOM, provider: {{name: outside-grpc}}, {rules}}}")


def test_a_service_is_asked_over_grpc(mesh: LocalMesh, grpc_decider: Ticketed) -> None:
    """It is told who asks, by the certificate, and what; its changes reach both ends."""
    apply(mesh, _asked_by_grpc())
    assert as_orders(mesh, "/users/1").status == 200
    refused = as_orders(mesh, "/users/3")
    assert (refused.status, refused.body, refused.headers["x-decided"]) == (401, b"no ticket", "grpc")
    passed = as_orders(mesh, "/users/3", x_ticket="good")
    assert passed.status == 200
    assert passed.headers["x-decided"] == "yes"
    attributes = grpc_decider.seen[-1].attributes
    assert attributes.source.principal == "spiffe://cluster.local/ns/default/sa/order-service"
    assert attributes.destination.principal == "spiffe://cluster.local/ns/default/sa/user-service"
    assert (attributes.request.http.method, attributes.request.http.path) == ("GET", "/users/3")
    assert attributes.request.http.headers["x-ticket"] == "good"
    found = mesh.rest("GET", "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/asked").json
    conditions = {item["type"] for item in found.get("status", {}).get("conditions", ())}
    assert "NotEnforced" not in conditions


def test_a_workload_of_the_mesh_is_asked_over_grpc(mesh: LocalMesh) -> None:
    """By mutual TLS, in the name of the workload that is asked for: nobody else may."""
    service = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: decider-service}\nspec:\n"
        f"  selector: {{app: decider-service}}\n  ports: [{{name: grpc, port: 91, targetPort: {DECIDER_PORT}}}]\n"
    )
    strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict}\n"
    strict += "spec: {selector: {matchLabels: {app: decider-service}}, mtls: {mode: STRICT}}\n"
    with Ticketed(host=mesh.address(4)).running(DECIDER_PORT) as inside:
        only = "{selector: {matchLabels: {app: decider-service}}, rules: [{from: [{source: {principals: [%s]}}]}]}"
        orders, user = (f"cluster.local/ns/default/sa/{name}-service" for name in ("order", "user"))
        asked = _asked_by_grpc().replace("outside-grpc", "inside")
        apply(mesh, service, strict, policy("only", only % orders), asked)
        refused = as_orders(mesh, "/users/3", x_ticket="good")
        assert (refused.status, refused.headers.get("x-decided")) == (403, None)
        assert inside.seen == []
        apply(mesh, policy("only", only % user))
        wait_until("it is asked", lambda: as_orders(mesh, "/users/3", x_ticket="good").status == 200, timeout_s=10)
        assert (as_orders(mesh, "/users/3").status, as_orders(mesh, "/users/1").status) == (401, 200)


def test_a_worker_that_is_killed_while_it_asks(mesh: LocalMesh, grpc_decider: Ticketed) -> None:
    """Its questions end at the service too, and the next worker asks again."""
    apply(mesh, _asked_by_grpc())
    assert as_orders(mesh, "/users/3", x_ticket="good").status == 200
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(as_orders, mesh, "/users/3", x_ticket="wait")
        wait_until("it is asked", lambda: grpc_decider.waiting, timeout_s=10)
        for worker in workers(mesh.agents["node-2"]):
            worker.kill()
        wait_until("the call has ended", lambda: grpc_decider.ended, timeout_s=10)
        assert waiting.result().status != 200
    wait_until("it asks again", lambda: as_orders(mesh, "/users/3", x_ticket="good").status == 200, timeout_s=20)


def test_an_upgrade_in_place_leaves_no_question_unanswered(mesh: LocalMesh, grpc_decider: Ticketed) -> None:
    """The workers of before ask by way of the next supervisor."""
    apply(mesh, policy("asked", f"{{{_SELECTED}, action: CUSTOM, provider: {{name: outside-grpc}}, rules: [{{}}]}}"))
    agent = mesh.agents["node-2"]
    old, count = workers(agent), len(grpc_decider.seen)
    with meshes.Load(f"{mesh.agents['node-4'].address}:{meshes.CALLER_PORT}", "user-service") as running:
        running.wait(50)
        agent.process.popen.send_signal(signal.SIGHUP)
        wait_until("the old workers' end", lambda: not any(worker.is_running() for worker in old), timeout_s=60)
        running.wait(200)
    assert not running.errors, dict(running.errors)
    assert set(running.statuses) == {200}, dict(running.statuses)
    assert len(grpc_decider.seen) - count >= sum(running.statuses.values()), "each was asked about"


def test_an_unknown_provider_denies_everything(mesh: LocalMesh) -> None:
    apply(mesh, policy("nobody", f"{{{_SELECTED}, action: CUSTOM, provider: {{name: absent}}, rules: [{{}}]}}"))
    assert as_orders(mesh).status == 403

    def told() -> str:
        found = mesh.rest("GET", "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/nobody").json
        conditions = {item["type"]: item for item in found.get("status", {}).get("conditions", ())}
        return str(conditions["ReferencedResourceNotFound"]["message"])

    assert "absent" in wait_until("the condition", told, timeout_s=10)
