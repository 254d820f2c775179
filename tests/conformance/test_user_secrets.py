"""A real Envoy calls a TLS server outside the mesh with the user's Secrets: SIMPLE, MUTUAL, rotation, who gets none."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from controlplane.cli.local_mesh import LocalMesh, request, wait_until
from tests.support import envoys, meshes
from tests.support.identities import TestAuthority
from tests.support.secrets import encoded

pytestmark = [pytest.mark.e2e, pytest.mark.envoy]

HOST = "outside.example.com"
SERVER = "spiffe://outside.example/server"
_PER_CONNECTION = 10  # then the server closes, so that new certificates are shown


class Handler(BaseHTTPRequestHandler):
    """Answers with the client's URI name, "" without a certificate."""

    protocol_version = "HTTP/1.1"
    served = 0

    def do_GET(self) -> None:
        self.served += 1
        assert isinstance(self.connection, ssl.SSLSocket)
        shown = self.connection.getpeercert() or {}
        names = shown.get("subjectAltName", ())
        body = json.dumps({"client": names[0][1] if names else ""}).encode()  # type: ignore[index,misc]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if self.served >= _PER_CONNECTION:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Takes certificates of `authority`, and calls without one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, address: str, authority: TestAuthority) -> None:
        super().__init__((address, 0), Handler)
        own = authority.issue(SERVER)
        (folder / "server.pem").write_bytes(own.key_pem + own.chain_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        context.load_verify_locations(cadata=authority.trust_pem.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        # The handshake is for the connection's own thread: a silent client must not hold up the others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: object) -> None:
        pass  # a refused handshake is what some tests are about


@contextmanager
def tls_server(folder: Path, address: str, authority: TestAuthority) -> Iterator[int]:
    """Its port."""
    server = Server(folder, address, authority)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def service_entry(address: str, port: int) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [{HOST}]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: {address}}}]
"""


def rule(mode: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: outside}}
spec:
  host: {HOST}
  trafficPolicy: {{tls: {{mode: {mode}, credentialName: outside, subjectAltNames: ["{SERVER}"]}}}}
"""


def roots(authority: TestAuthority) -> str:
    data = encoded(authority.trust_pem.decode())
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: outside-cacert}}\ndata: {{cacert: {data}}}\n"


def client(authority: TestAuthority, name: str) -> str:
    own = authority.issue(f"spiffe://outside.example/{name}")
    chain, key = encoded(own.chain_pem.decode()), encoded(own.key_pem.decode())
    head = "apiVersion: v1\nkind: Secret\nmetadata: {name: outside}\ntype: kubernetes.io/tls\n"
    return f"{head}data: {{tls.crt: {chain}, tls.key: {key}}}\n"


class Meshed:
    """A mesh with the server beside it, an Envoy on node-6 in namespace default and one on node-7 in other."""

    def __init__(self, mesh: LocalMesh, authority: TestAuthority) -> None:
        self.mesh = mesh
        self.authority = authority

    def apply(self, *texts: str) -> None:
        self.mesh.wait_revision(self.mesh.apply(meshes.documents(*texts)))

    def ask(self, number: int = 6):  # type: ignore[no-untyped-def]
        return request(f"{self.mesh.address(number)}:15001", "GET", "/", headers={"Host": HOST})

    def seen(self) -> str:
        """Who the server says has called, or what happened instead."""
        reply = self.ask()
        return str(reply.json["client"]) if reply.status == 200 else f"status {reply.status}"

    def stat(self, name: str) -> int:
        text = request(f"{self.mesh.address(6)}:15000", "GET", f"/stats?filter=^{name}$").body.decode()
        return int(text.rpartition(": ")[2])

    def secrets(self, node: str) -> set[str]:
        found = self.mesh.rest("GET", f"/mesh/v1/proxies/{node}/client_status").json
        return {part for part in json.dumps(found).split('"') if part.startswith("kubernetes://")}


@pytest.fixture(scope="module", params=["delta", "sotw"])
def meshed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meshed]:
    folder, authority = tmp_path_factory.mktemp("secrets"), TestAuthority()
    with meshes.local_mesh(folder) as mesh, tls_server(folder, mesh.address(9), authority) as port:
        mesh.start_control_plane()
        made = Meshed(mesh, authority)
        sotw = request.param == "sotw"
        for node, number, namespace in (("node-6", 6, "default"), ("node-7", 7, "other")):
            envoys.start_envoy(
                mesh, node, number,
                f"name=edge,namespace={namespace},service-account=edge,port=3005,address={mesh.address(number)},"
                "inbound-port=20000", sotw=sotw, namespaces=(namespace,),
            )  # fmt: skip
        made.apply(service_entry(mesh.address(9), port))
        yield made


def test_simple_with_the_users_roots(meshed: Meshed) -> None:
    """The rule names roots that are not there: no answer, a condition; they come: answers, without certificate."""
    meshed.apply(rule("SIMPLE"))
    wait_until("no answer without roots", lambda: meshed.ask().status == 503, timeout_s=30)
    path = "/apis/networking.istio.io/v1/namespaces/default/destinationrules/outside"

    def missing() -> bool:
        found = meshed.mesh.rest("GET", path).json.get("status", {}).get("conditions", ())
        return any(item["type"] == "ReferencedResourceNotFound" for item in found)

    wait_until("the condition", missing, timeout_s=20)
    meshed.apply(roots(TestAuthority()))
    wait_until(
        "refused: other roots", lambda: meshed.secrets("node-6") == {"kubernetes://outside-cacert"}, timeout_s=30
    )
    assert meshed.ask().status == 503
    meshed.apply(roots(meshed.authority))
    wait_until("an answer", lambda: meshed.seen() == "", timeout_s=30)


def test_mutual_and_rotation_without_a_failed_request(meshed: Meshed) -> None:
    """A changed Secret is a new SDS resource: no cluster changes, no request fails, new connections show it."""
    meshed.apply(roots(meshed.authority), client(meshed.authority, "first"), rule("MUTUAL"))
    wait_until("the first certificate", lambda: meshed.seen().endswith("/first"), timeout_s=30)
    updates = meshed.stat("cluster_manager.cds.update_success")
    address = f"{meshed.mesh.address(6)}:15001"
    with meshes.Load(address, HOST, path="/") as load:
        load.wait(200)
        meshed.apply(client(meshed.authority, "second"))
        wait_until("the second certificate", lambda: meshed.seen().endswith("/second"), timeout_s=30)
        load.wait(200)
    assert (set(load.statuses), load.errors) == ({200}, {})
    assert meshed.stat("cluster_manager.cds.update_success") == updates
    assert {meshed.seen() for _ in range(3 * _PER_CONNECTION)} == {"spiffe://outside.example/second"}


def test_an_envoy_of_another_namespace_gets_nothing(meshed: Meshed) -> None:
    meshed.apply(roots(meshed.authority), client(meshed.authority, "own"), rule("MUTUAL"))
    wait_until("its own Envoy", lambda: meshed.seen().endswith("/own"), timeout_s=30)
    assert meshed.secrets("node-6") == {"kubernetes://outside", "kubernetes://outside-cacert"}
    assert meshed.ask(7).status == 503
    assert meshed.secrets("node-7") == set()
    dump = request(f"{meshed.mesh.address(7)}:15000", "GET", "/config_dump").body
    assert b"kubernetes://" not in dump
